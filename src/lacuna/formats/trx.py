""".trx: a zip archive or a folder of plain arrays; points in mm RAS+ of any float type."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import FormatError
from lacuna.formats.replace import replacing
from lacuna.formats.tractogram_file import (
    ByteArray,
    Spans,
    TractogramFile,
    check_finite,
    map_file,
)
from lacuna.geometry.grid import FloatArray, Grid, IntArray
from lacuna.geometry.streamlines import Streamlines

DTYPES = {np.dtype(code).name for code in np.typecodes["AllInteger"] + "efd"}
LOCAL_HEADER_BYTES = 30
"""Of a zip member, before its name and extra field (APPNOTE.TXT 4.3.7)."""


def open_trx(path: Path, spans: Spans | None = None) -> TractogramFile:
    """Open a .trx archive or folder.

    Parameters
    ----------
    path
        Archive or folder; arrays are mapped where they are not compressed.
    spans
        From an earlier opening of the same file: saves the search for points that are not finite.

    Raises
    ------
    FormatError
        If the file is broken; says which array is.
    """
    members = dict(_folder_members(path) if path.is_dir() else _zip_members(path))
    header = _read_header(path, members)
    points = _one_array(path, members, "positions")
    if points.dtype.kind != "f" or points.ndim != 2 or points.shape[1] != 3:
        raise FormatError(f"{path}: positions are {points.dtype} of shape {points.shape}, not n×3.")
    offsets = _read_offsets(path, members, header, len(points))
    streamlines = Streamlines(points.reshape(-1), offsets[:-1] * 3, np.diff(offsets))
    if spans is None:
        check_finite(path, streamlines)
    return TractogramFile(
        path,
        "trx",
        streamlines,
        groups=_read_groups(path, members, len(streamlines)),
        per_streamline=_read_per_streamline(path, members, len(streamlines)),
    )


def is_deflated(path: Path) -> bool:
    """Tell whether any array of an archive is compressed, so that it cannot be mapped."""
    with _open_zip(path) as archive:
        return any(member.compress_type != zipfile.ZIP_STORED for member in _list(path, archive))


def read_count(path: Path) -> int | None:
    """Return how many streamlines the header of an archive counts; None where it does not say."""
    with _open_zip(path) as archive:
        members = {
            member.filename: np.frombuffer(b"".join(_inflate(path, archive, member)), np.uint8)
            for member in _list(path, archive)
            if member.filename == "header.json"
        }
    count = _read_header(path, members).get("NB_STREAMLINES")
    return count if isinstance(count, int) else None


def list_per_streamline(path: Path) -> list[str]:
    """Return the names of what a folder, or an archive that is not compressed, keeps so."""
    members = _folder_members(path) if path.is_dir() else _zip_members(path)
    return [name for name, _ in _arrays(path, dict(members), "dps")]


def store_plain(path: Path, target: Path) -> None:
    """Copy an archive to one whose arrays can be mapped.

    Raises
    ------
    FormatError
        If the archive is damaged.
    """
    with (
        _open_zip(path) as archive,
        replacing(target) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as plain,
    ):
        for member in _list(path, archive):
            info = _plain_info(member.filename)
            info.file_size = member.file_size
            with plain.open(info, "w") as sink:
                for block in _inflate(path, archive, member):
                    sink.write(block)


def save_trx(
    path: Path,
    points: FloatArray,
    offsets: IntArray,
    grid: Grid,
    *,
    groups: Mapping[str, IntArray] | None = None,
) -> None:
    """Write streamlines as a .trx archive; an existing file is replaced in one step.

    Parameters
    ----------
    path
        Where to.
    points : (m, 3)
        Points of all streamlines, mm RAS+; float16 is kept, all else becomes float32.
    offsets : (n + 1,)
        Points of the i-th are ``points[offsets[i]:offsets[i + 1]]``.
    grid
        Of the image that goes with the streamlines; only noted in the header.
    groups
        Streamline numbers of each tract.
    """
    kind = "float16" if points.dtype == np.float16 else "float32"
    header = {
        "DIMENSIONS": list(grid.shape),
        "VOXEL_TO_RASMM": grid.affine.tolist(),
        "NB_VERTICES": len(points),
        "NB_STREAMLINES": len(offsets) - 1,
    }
    contents = {
        "header.json": json.dumps(header).encode(),
        f"positions.3.{kind}": points.astype(np.dtype(kind).newbyteorder("<")).tobytes(),
        "offsets.uint64": offsets.astype("<u8").tobytes(),
    }
    for name, ids in (groups or {}).items():
        contents[f"groups/{name.replace('/', '_')}.uint32"] = np.asarray(ids, "<u4").tobytes()
    with replacing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, content in contents.items():
            archive.writestr(_plain_info(name), content, zipfile.ZIP_STORED)


def _plain_info(name: str) -> zipfile.ZipInfo:
    # A fixed date: the same streamlines make the same bytes.
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    return info


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise FormatError(
            f"{path} is no readable zip archive ({error}): it is truncated, or no .trx file. "
            "Copy or download it again."
        ) from error


def _list(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = [info for info in archive.infolist() if not info.filename.endswith("/")]
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FormatError(
                f"{path}: {member.filename} is compressed by method {member.compress_type}; "
                "only stored and deflated arrays can be read. Pack the file again."
            )
    return members


def _inflate(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the content of a member; errors here are never those of whoever writes it."""
    try:
        with archive.open(member) as source:
            while block := source.read(1 << 22):
                yield block
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise _damaged(path, member.filename, error) from error


def _damaged(path: Path, name: str, error: object) -> FormatError:
    return FormatError(
        f"{path}: {name} is damaged ({error}), or was not finished. Copy or write it again."
    )


def _folder_members(path: Path) -> Iterator[tuple[str, ByteArray]]:
    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield file.relative_to(path).as_posix(), map_file(file)


def _zip_members(path: Path) -> Iterator[tuple[str, ByteArray]]:
    with _open_zip(path) as archive:
        mapped = map_file(path)
        for member in _list(path, archive):
            if member.filename.startswith(("dpv/", "dpg/")):
                continue
            if member.compress_type == zipfile.ZIP_STORED:
                yield member.filename, _stored_bytes(path, mapped, member)
            else:
                content = b"".join(_inflate(path, archive, member))
                yield member.filename, np.frombuffer(content, np.uint8)


def _stored_bytes(path: Path, mapped: ByteArray, member: zipfile.ZipInfo) -> ByteArray:
    at = member.header_offset
    local = mapped[at : at + LOCAL_HEADER_BYTES].tobytes()
    if local[:4] != b"PK\3\4":
        raise _damaged(path, member.filename, "its local header is not where the directory says")
    # The local extra field may be longer than the one in the directory (zip64, alignment).
    lengths = np.frombuffer(local[26:], "<u2")  # of name and extra field
    start = at + LOCAL_HEADER_BYTES + int(lengths.sum())
    data = mapped[start : start + member.file_size]
    if len(data) < member.file_size:
        raise _damaged(path, member.filename, "it ends beyond the end of the file")
    return data


def _read_header(path: Path, members: Mapping[str, ByteArray]) -> dict[str, Any]:
    if "header.json" not in members:
        raise FormatError(f"{path} has no header.json: it is no .trx file ({sorted(members)[:5]}).")
    try:
        header = json.loads(members["header.json"].tobytes())
    except ValueError as error:
        raise _damaged(path, "header.json", error) from error
    if not isinstance(header, dict):
        raise _damaged(path, "header.json", "it is no JSON object")
    return header


def _arrays(
    path: Path, members: Mapping[str, ByteArray], folder: str
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield names and arrays; ``NAME.3.float32`` is an array of three columns."""
    for file, data in members.items():
        place = PurePosixPath(file)
        if place.parent.as_posix() != folder:
            continue
        name, _, kind = place.name.rpartition(".")
        if kind not in DTYPES:
            continue
        dtype = np.dtype(kind).newbyteorder("<")
        stem, _, digits = name.rpartition(".")
        name, width = (stem, int(digits)) if stem and digits.isdecimal() else (name, 1)
        if not width or len(data) % (dtype.itemsize * width):
            raise _damaged(path, file, f"{len(data)} bytes are no whole rows of {width} {kind}")
        array = data.view(dtype)
        yield name, array.reshape(-1, width) if width > 1 else array


def _one_array(path: Path, members: Mapping[str, ByteArray], name: str) -> NDArray[Any]:
    arrays = dict(_arrays(path, members, "."))
    if name not in arrays:
        raise FormatError(f"{path} has no {name} array: it is truncated, or no .trx file.")
    return arrays[name]


def _read_offsets(
    path: Path, members: Mapping[str, ByteArray], header: Mapping[str, Any], n_points: int
) -> NDArray[np.int64]:
    offsets = _one_array(path, members, "offsets").reshape(-1).astype(np.int64)
    n = header.get("NB_STREAMLINES", len(offsets) - 1)
    counted = header.get("NB_VERTICES", n_points)
    if counted != n_points:
        problem = f"header.json counts {counted} points and positions holds {n_points}"
        raise _damaged(path, "positions", problem)
    if len(offsets) == n:  # the last one, the number of points, is optional
        offsets = np.append(offsets, n_points)
    if len(offsets) - 1 != n:
        problem = f"header.json counts {n} streamlines and there are {len(offsets)} offsets"
        raise _damaged(path, "offsets", problem)
    steps = np.diff(offsets)
    if len(steps) and (offsets[0] != 0 or steps.min() < 0 or offsets[-1] != n_points):
        i = int(np.argmax(steps < 0)) + 1 if steps.min() < 0 else (0 if offsets[0] else len(steps))
        problem = f"offset {i} is {offsets[i]}, with {n_points} points in the file"
        raise _damaged(path, "offsets", problem)
    return offsets


def _read_groups(
    path: Path, members: Mapping[str, ByteArray], n_streamlines: int
) -> dict[str, IntArray]:
    groups: dict[str, IntArray] = {}
    for name, ids in _arrays(path, members, "groups"):
        ids = ids.reshape(-1)
        if ids.dtype.kind not in "iu" or (
            len(ids) and not 0 <= ids.min() <= ids.max() < n_streamlines
        ):
            raise FormatError(
                f"{path}: group {name} names streamlines beyond the {n_streamlines} of the file. "
                "Write the file again, or remove that group."
            )
        groups[name] = ids
    return groups


def _read_per_streamline(
    path: Path, members: Mapping[str, ByteArray], n_streamlines: int
) -> dict[str, FloatArray]:
    found = dict(_arrays(path, members, "dps"))
    for name, values in found.items():
        if len(values) != n_streamlines:
            raise FormatError(
                f"{path}: dps/{name} has {len(values)} rows for {n_streamlines} streamlines. "
                "Write the file again, or remove that array."
            )
    return found
