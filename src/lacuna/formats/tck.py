"""MRtrix3's .tck: a text header, then points in mm RAS+, NaN between them, Inf at the end."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import FormatError
from lacuna.formats.replace import replacing
from lacuna.formats.tractogram_file import (
    ByteArray,
    Spans,
    TractogramFile,
    check_placement,
    check_spans,
    find_impossible,
    map_bytes,
)
from lacuna.geometry.grid import FloatArray, IntArray
from lacuna.geometry.streamlines import Streamlines

MAGIC = b"mrtrix tracks"
MAX_HEADER_BYTES = 1 << 24
DTYPES = {
    "float32le": "<f4",
    "float32be": ">f4",
    "float64le": "<f8",
    "float64be": ">f8",
    "float32": "<f4",
    "float64": "<f8",
}


def open_tck(path: Path, spans: Spans | None = None) -> TractogramFile:
    """Open a .tck or .tck.gz file.

    Parameters
    ----------
    path
        The file; mapped unless compressed.
    spans
        From an earlier opening of the same file: saves the search for delimiters.

    Raises
    ------
    FormatError
        If the file is broken; says where.
    """
    data = map_bytes(path)
    header, header_end = _read_header(path, data)
    warnings: list[str] = []
    start = _data_start(path, header, header_end, len(data), warnings)
    dtype = _dtype(path, header, warnings)
    n_words = (len(data) - start) // dtype.itemsize // 3 * 3
    words = data[start : start + n_words * dtype.itemsize].view(dtype)
    if spans is None:
        spans = _find_streamlines(path, words, start, header, warnings)
    streamlines = Streamlines(words, *spans)
    check_spans(path, streamlines)
    _check_count(header, len(streamlines), warnings)
    warnings += check_placement(streamlines)
    step_size_mm = _step_size(header, warnings)
    return TractogramFile(
        path, "tck", streamlines, step_size_mm, warnings=tuple(warnings), header=header
    )


def save_tck(
    path: Path, points: FloatArray, offsets: IntArray, header: Mapping[str, str] | None = None
) -> None:
    """Write streamlines as .tck, float32; an existing file is replaced in one step.

    Parameters
    ----------
    path
        Where to.
    points : (m, 3)
        Points of all streamlines, mm RAS+.
    offsets : (n + 1,)
        Points of the i-th are ``points[offsets[i]:offsets[i + 1]]``.
    header
        Further header lines, such as ``step_size``.
    """
    n = len(offsets) - 1
    lines = [f"{key}: {part}" for key, text in (header or {}).items() for part in text.split("\n")]
    lines += [f"count: {n}", f"total_count: {n}", "datatype: Float32LE"]
    text = "\n".join([MAGIC.decode(), *lines, ""])
    # The offset stands inside the header that it measures; 16 spare bytes hold its digits, and
    # a multiple of 4 keeps the points aligned for whoever maps the file.
    start = (len(text.encode()) + len("file: . \nEND\n") + 16) // 4 * 4
    head = f"{text}file: . {start}\nEND\n".encode().ljust(start, b"\0")
    spaced = np.full((len(points) + n + 1, 3), np.nan, "<f4")
    spaced[-1] = np.inf
    streamline_of_point = np.repeat(np.arange(n), np.diff(offsets))
    spaced[np.arange(len(points)) + streamline_of_point] = points
    with replacing(path) as stream:
        stream.write(head)
        stream.write(spaced.data)


def _read_header(path: Path, data: ByteArray) -> tuple[dict[str, str], int]:
    head = data[: 1 << 16].tobytes()
    if not head.startswith(MAGIC):
        raise FormatError(
            f"{path} does not begin with “{MAGIC.decode()}” but with {head[:16]!r}: "
            "it is no .tck file, whatever its name says."
        )
    end = head.find(b"\nEND")
    if end < 0:
        head = data[:MAX_HEADER_BYTES].tobytes()
        end = head.find(b"\nEND")
    if end < 0:
        raise FormatError(f"The header of {path} has no END line: the file is truncated.")
    header: dict[str, str] = {}
    for line in head[:end].decode("utf-8", "replace").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon:
            key, value = key.strip(), value.strip()
            header[key] = f"{header[key]}\n{value}" if key in header else value
    return header, min(head.find(b"\n", end + 1) + 1 or len(head), len(data))


def _data_start(
    path: Path, header: Mapping[str, str], header_end: int, size: int, warnings: list[str]
) -> int:
    if "file" not in header:
        warnings.append("The header has no “file” line: points are taken to follow the END line.")
        return header_end
    name, _, number = header["file"].partition(" ")
    if name != ".":
        raise FormatError(
            f"{path} keeps its points in another file ({header['file']}). "
            "Merge them with MRtrix3: tckedit IN.tck OUT.tck"
        )
    try:
        start = int(number)
    except ValueError:
        raise FormatError(f"{path}: “file: {header['file']}” gives no byte offset.") from None
    if not header_end - 1 <= start <= size:
        raise FormatError(
            f"{path}: points should start at byte {start} (“file: {header['file']}”), but the "
            f"header ends at byte {header_end} and the file at {size}. It was edited or truncated."
        )
    return start


def _dtype(path: Path, header: Mapping[str, str], warnings: list[str]) -> np.dtype[np.floating]:
    name = header.get("datatype")
    if name is None:
        warnings.append("The header has no “datatype” line: Float32LE is assumed.")
        name = "Float32LE"
    if name.lower() not in DTYPES:
        raise FormatError(
            f"{path}: datatype {name} is not one of Float32LE, Float32BE, Float64LE, Float64BE."
        )
    return np.dtype(DTYPES[name.lower()])


def _find_streamlines(
    path: Path,
    words: NDArray[np.floating],
    start: int,
    header: Mapping[str, str],
    warnings: list[str],
) -> Spans:
    at = find_impossible(words)
    values = words[at]
    infinite = np.flatnonzero(np.isinf(values) & (at % 3 == 0))
    # What follows the end marker is not looked at, as in MRtrix3.
    last = int(infinite[0]) + 3 if len(infinite) else len(at)
    at, values = at[:last], values[:last]
    n_triples = len(at) // 3
    triples = at[: 3 * n_triples].reshape(-1, 3)
    good = (triples[:, 0] % 3 == 0) & (triples[:, 2] - triples[:, 0] == 2)
    kinds = np.isnan(values) + 2 * np.isinf(values)
    kinds = kinds[: 3 * n_triples].reshape(-1, 3)
    good &= (kinds[:, 0] > 0) & (kinds == kinds[:, :1]).all(axis=1)
    if len(at) % 3 or not good.all():
        wrong = int(at[3 * int(np.argmin(good))]) if not good.all() else int(at[-1])
        raise FormatError(
            f"{path}: a coordinate of point {wrong // 3} (byte "
            f"{start + wrong * words.dtype.itemsize}) is {words[wrong]:g}, the others of that "
            "point are not like it: the file is damaged, or its “datatype” or “file” line is wrong."
        )
    ends = triples[:, 0] // 3
    if not len(infinite):
        raise FormatError(
            f"{path} is truncated: it stops after {len(words) // 3} points without the Inf triplet "
            f"that ends a .tck file ({len(ends)} whole streamlines, the header counts "
            f"{header.get('count', 'none')}). Copy it again; MRtrix3's “tckedit IN.tck OUT.tck” "
            "saves what is there."
        )
    end, ends = int(ends[-1]), ends[:-1]
    rest = len(words) // 3 - end - 1
    if rest:
        warnings.append(f"{rest} points after the end marker are ignored.")
    firsts = np.concatenate([[0], ends + 1]).astype(np.int64)
    if firsts[-1] != end:
        warnings.append(
            f"{end - firsts[-1]} points before the end marker are not closed by a NaN triplet: "
            "they are ignored, as MRtrix3 does."
        )
    return firsts[:-1] * 3, ends - firsts[:-1]


def _check_count(header: Mapping[str, str], n_streamlines: int, warnings: list[str]) -> None:
    count = header.get("count", "").split("\n")[-1]
    if not count:
        warnings.append(f"The header has no “count” line; {n_streamlines} streamlines were found.")
    elif not count.isdecimal() or int(count) != n_streamlines:
        warnings.append(
            f"The header counts {count} streamlines; the {n_streamlines} that are there are used."
        )


def _step_size(header: Mapping[str, str], warnings: list[str]) -> float | None:
    text = header.get("step_size")
    if text is None:
        return None
    try:
        step_size_mm = float(text)
    except ValueError:
        step_size_mm = np.nan
    if not 0 < step_size_mm < np.inf:
        warnings.append(f"The header's step_size, “{text}”, is no positive number: ignored.")
        return None
    return step_size_mm
