"""Foreign file formats and our arrays: one module per format.

Tractograms (.tck, .trk, .trx) open without being copied; images are in `lacuna.formats.nifti`.
"""

import dataclasses
import gzip
import shutil
import zlib
from os import PathLike
from pathlib import Path

from lacuna.errors import FormatError
from lacuna.formats import tck, trk, trx
from lacuna.formats.replace import replacing
from lacuna.formats.tck import open_tck, save_tck
from lacuna.formats.tractogram_file import (
    Spans,
    TractogramFile,
    broken_gzip,
    check_placement,
    check_spans,
    map_bytes,
)
from lacuna.formats.trk import open_trk
from lacuna.formats.trx import is_deflated, open_trx, read_count, save_trx, store_plain

__all__ = [
    "Spans",
    "TractogramFile",
    "check_header",
    "is_tractogram",
    "list_per_streamline",
    "needs_unpacking",
    "open_tractogram",
    "save_tck",
    "save_trx",
    "unpack",
]

_OPENERS = {
    ".tck": open_tck,
    ".tck.gz": open_tck,
    ".trk": open_trk,
    ".trk.gz": open_trk,
    ".trx": open_trx,
}


def open_tractogram(path: str | PathLike[str], spans: Spans | None = None) -> TractogramFile:
    """Open a tractogram.

    Parameters
    ----------
    path
        A .tck, .trk, .tck.gz, .trk.gz or .trx file, or a .trx folder. Compressed ones are read
        into memory: see `unpack`.
    spans
        From the `Streamlines` of an earlier opening of the same content. The file is then not
        searched, and opens at once whatever its size.

    Raises
    ------
    FormatError
        If it is missing, of another format, or broken; says what is wrong and where.
    """
    path = Path(path)
    opened = _OPENERS[_check_suffix(path)](path, spans)
    check_spans(path, opened.streamlines)
    # What a format knows to be wrong explains more than where the points are.
    warnings = opened.warnings + check_placement(opened.streamlines)
    return dataclasses.replace(opened, warnings=warnings)


def check_header(path: str | PathLike[str]) -> int | None:
    """Look whether a file begins as its name says, and no further, if its format is one of ours.

    Returns
    -------
    int or None
        How many streamlines the header counts; None where it does not say.

    Raises
    ------
    FormatError
        If it does not, or is cut short before its points begin.
    """
    path = Path(path)
    if path.suffix.lower() == ".trk":
        return int(trk.read_header(path, map_bytes(path))["n_count"]) or None
    if path.suffix.lower() == ".tck":
        count = tck.read_header(path, map_bytes(path))[0].get("count", "")
        return int(count) if count.isdecimal() else None
    return read_count(path) if path.suffix.lower() == ".trx" else None


def list_per_streamline(path: str | PathLike[str]) -> tuple[str, ...] | None:
    """Return the names of the numbers that a file keeps with each streamline.

    Only its header is read; none where it is compressed, and nobody knows before it is unpacked.

    Raises
    ------
    FormatError
        If the file is missing or broken.
    """
    path = Path(path)
    if needs_unpacking(path):
        return None
    if path.suffix.lower() == ".trk":
        return tuple(trk.list_properties(trk.read_header(path, map_bytes(path))))
    return tuple(trx.list_per_streamline(path)) if path.suffix.lower() == ".trx" else ()


def needs_unpacking(path: str | PathLike[str]) -> bool:
    """Tell whether a tractogram is compressed, so that its points cannot be mapped."""
    path = Path(path)
    suffix = _check_suffix(path)
    return suffix.endswith(".gz") or (suffix == ".trx" and path.is_file() and is_deflated(path))


def unpack(path: str | PathLike[str], directory: str | PathLike[str]) -> Path:
    """Write a compressed tractogram uncompressed, a piece at a time.

    Parameters
    ----------
    path
        A tractogram that `needs_unpacking`.
    directory
        Where to, under its own name without ``.gz``.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    FormatError
        If it is truncated or damaged; nothing is left behind.
    """
    path, directory = Path(path), Path(directory)
    if path.suffix.lower() != ".gz":
        target = directory / path.name
        store_plain(path, target)
        return target
    target = directory / path.stem
    try:
        with gzip.open(path) as source, replacing(target) as sink:
            shutil.copyfileobj(source, sink, 1 << 22)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise broken_gzip(path, error) from error
    return target


def is_tractogram(path: Path) -> bool:
    """Tell whether a file is a tractogram by its name, and no hidden one."""
    return path.name.lower().endswith(tuple(_OPENERS)) and not path.name.startswith(".")


def _check_suffix(path: Path) -> str:
    suffix = "".join(known for known in _OPENERS if path.name.lower().endswith(known))
    if not suffix:
        raise FormatError(
            f"{path} is no tractogram that can be read: its name should end in "
            f"{', '.join(_OPENERS)}. Write it as one of these with the program that made it "
            "(.tt.gz: DSI Studio), or convert it (.vtk: MRtrix3's tckconvert)."
        )
    if not path.exists():
        raise FormatError(f"There is no file {path}. Check the path, and that its disk is mounted.")
    if path.is_dir() and suffix != ".trx":
        raise FormatError(f"{path} is a folder; only a .trx may be one.")
    return suffix
