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
    find_impossible,
    map_bytes,
)
from lacuna.geometry.grid import FloatArray, IntArray
from lacuna.geometry.streamlines import Streamlines

MAGIC = b"mrtrix tracks"
MAX_HEADER_BYTES = 1 << 22
DTYPES = {"Float32LE": "<f4", "Float32BE": ">f4", "Float64LE": "<f8", "Float64BE": ">f8"}


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
    header, header_end = read_header(path, data)
    warnings: list[str] = []
    start = _data_start(path, header, header_end, len(data))
    dtype = _dtype(path, header)
    n_words = (len(data) - start) // dtype.itemsize // 3 * 3
    words = data[start : start + n_words * dtype.itemsize].view(dtype)
    if spans is None:
        spans = _find_streamlines(path, words, start, header, warnings)
    streamlines = Streamlines(words, *spans)
    _check_count(header, len(streamlines), warnings)
    step_size_mm = _step_size(header, warnings)
    return TractogramFile(path, "tck", streamlines, step_size_mm, warnings=tuple(warnings))


def save_tck(
    path: Path, points: FloatArray, offsets: IntArray, step_size_mm: float | None = None
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
    step_size_mm
        That of the file they come from, if it states one: MRtrix3's mapping depends on it.
    """
    n = len(offsets) - 1
    lines = [MAGIC.decode(), f"count: {n}", f"total_count: {n}", "datatype: Float32LE"]
    lines += [f"step_size: {step_size_mm}"] if step_size_mm is not None else []
    text = "\n".join([*lines, ""])
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


def read_header(path: Path, data: ByteArray) -> tuple[dict[str, str], int]:
    """Return the lines of the header, and where it ends, or raise `FormatError`."""
    head = data[:MAX_HEADER_BYTES].tobytes()
    if not head.startswith(MAGIC):
        raise FormatError(
            f"{path} does not begin with “{MAGIC.decode()}” but with {head[:16]!r}: "
            "it is no .tck file, whatever its name says."
        )
    end = head.find(b"\nEND")
    if end < 0:
        raise FormatError(f"The header of {path} has no END line: the file is truncated.")
    header: dict[str, str] = {}
    for line in head[:end].decode("utf-8", "replace").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon:
            header[key.strip()] = value.strip()
    return header, min(head.find(b"\n", end + 1) + 1 or len(head), len(data))


def _data_start(path: Path, header: Mapping[str, str], header_end: int, size: int) -> int:
    name, _, number = header.get("file", "").partition(" ")
    if name != "." or not number.strip().isdecimal():
        raise FormatError(
            f"{path}: “file: {header.get('file', '')}” does not say at which byte of the file its "
            "points begin, as “file: . 123” would. Write it again: tckedit IN.tck OUT.tck"
        )
    start = int(number)
    if not header_end - 1 <= start <= size:
        raise FormatError(
            f"{path}: points should start at byte {start} (“file: {header['file']}”), but the "
            f"header ends at byte {header_end} and the file at {size}. It was edited or truncated."
        )
    return start


def _dtype(path: Path, header: Mapping[str, str]) -> np.dtype[np.floating]:
    name = header.get("datatype", "missing")
    if name not in DTYPES:
        raise FormatError(f"{path}: its datatype is {name}, not one of {', '.join(DTYPES)}.")
    return np.dtype(DTYPES[name])


def _find_streamlines(
    path: Path,
    words: NDArray[np.floating],
    start: int,
    header: Mapping[str, str],
    warnings: list[str],
) -> Spans:
    at = find_impossible(words) // 3
    odd = at[np.diff(at, prepend=-1) > 0]
    points = words.reshape(-1, 3)[odd]
    is_end = np.isinf(points).all(axis=1)
    # What follows the end marker is not looked at, as in MRtrix3.
    n_delimiters = int(np.argmax(is_end)) if is_end.any() else len(odd)
    ends = odd[:n_delimiters]
    good = np.isnan(points[:n_delimiters]).all(axis=1)
    if not good.all():
        i = int(np.argmin(good))
        raise FormatError(
            f"{path}: point {odd[i]} (byte {start + 3 * odd[i] * words.dtype.itemsize}) is "
            f"{points[i].tolist()}, which is neither a place nor a delimiter: the file is damaged, "
            "or its “datatype” or “file” line is wrong."
        )
    if not is_end.any():
        raise FormatError(
            f"{path} is truncated: it stops after {len(words) // 3} points without the Inf triplet "
            f"that ends a .tck file ({len(ends)} whole streamlines, the header counts "
            f"{header.get('count', 'none')}). Copy it again; MRtrix3's “tckedit IN.tck OUT.tck” "
            "saves what is there."
        )
    end = int(odd[n_delimiters])
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
    count = header.get("count", "")
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
