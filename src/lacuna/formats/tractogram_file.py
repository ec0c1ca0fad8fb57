"""What an opened tractogram is, whatever its format, and how its bytes are reached."""

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import FormatError
from lacuna.geometry.grid import FloatArray, IntArray
from lacuna.geometry.streamlines import Streamlines

ByteArray = NDArray[np.uint8]
Spans = tuple[NDArray[np.int64], NDArray[np.int64]]
"""First words and point counts of all streamlines, as `Streamlines` has them."""

MAX_COORDINATE_MM = 1e6
"""What is larger is no length but damage, and would make a grid without end."""

BRAIN_BOX_MM = np.array([[-105.0, -145.0, -95.0], [105.0, 110.0, 125.0]])
"""Low and high corner of a box that holds every adult brain with its origin near the anterior
commissure, as in all template spaces."""


@dataclass(frozen=True, eq=False)
class TractogramFile:
    """An opened tractogram.

    Parameters
    ----------
    path
        Where it was read from.
    format
        How it is encoded.
    streamlines
        Its polylines, over the mapped file where nothing is compressed.
    step_size_mm
        The header line ``step_size`` of a .tck: the only thing that MRtrix3 takes the length of a
        step from.
    groups
        Streamline numbers of each tract that the file names.
    per_streamline : (n,) or (n, k)
        Numbers that the file keeps with each streamline, by name.
    warnings
        What is odd about the file, one sentence each.
    """

    path: Path
    format: Literal["tck", "trk", "trx"]
    streamlines: Streamlines
    step_size_mm: float | None = None
    groups: Mapping[str, IntArray] = field(default_factory=dict)
    per_streamline: Mapping[str, FloatArray] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def map_file(path: Path) -> ByteArray:
    """Return the bytes of a file, mapped; an empty one cannot be."""
    if not path.stat().st_size:
        return np.empty(0, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, mode="r"))


def map_bytes(path: Path) -> ByteArray:
    """Return the bytes of a file, mapped; those of a .gz file, decompressed, in memory.

    Raises
    ------
    FormatError
        If it is empty, or its compression is damaged.
    """
    if path.suffix.lower() == ".gz":
        try:
            with gzip.open(path) as stream:
                data = np.frombuffer(stream.read(), np.uint8)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise broken_gzip(path, error) from error
    else:
        data = map_file(path)
    if not len(data):
        raise FormatError(f"{path} is empty: it was probably never written to its end.")
    return data


def broken_gzip(path: Path, error: Exception) -> FormatError:
    """Return the error for a .gz file that cannot be decompressed to its end."""
    return FormatError(
        f"{path} cannot be decompressed ({error}): it is truncated or no gzip file. "
        "Copy or download it again."
    )


def find_impossible(words: NDArray[np.floating], words_at_once: int = 3 << 16) -> NDArray[np.int64]:
    """Return where numbers are NaN, infinite or beyond a kilometre, as no coordinate is.

    Parameters
    ----------
    words : (n,)
        Numbers of any float type and byte order.
    words_at_once
        Looked at in one go: few enough to stay in the processor's cache.
    """
    found = [np.empty(0, np.int64)]
    limit = np.float32(MAX_COORDINATE_MM)  # a Python float would overflow beside float16
    for start in range(0, len(words), words_at_once):
        possible = np.abs(words[start : start + words_at_once]) < limit
        if not possible.all():
            found.append(np.flatnonzero(~possible) + start)
    return np.concatenate(found)


def check_finite(path: Path, streamlines: Streamlines) -> None:
    """Raise if a coordinate is NaN, infinite or beyond a kilometre; other words may be.

    Raises
    ------
    FormatError
        If one is; says which point.
    """
    at = find_impossible(streamlines.words)
    # Between coordinates there may be counts, which read as floats can be anything, and values
    # of points and streamlines, which may be NaN.
    i = np.searchsorted(streamlines.firsts, at, side="right") - 1
    point, axis = np.divmod(at - streamlines.firsts[i], streamlines.stride)
    bad = np.flatnonzero((i >= 0) & (point < streamlines.counts[i]) & (axis < 3))
    if len(bad):
        raise FormatError(
            f"{path}: point {point[bad[0]]} of streamline {i[bad[0]]} has a coordinate that is "
            "NaN, infinite or beyond a kilometre. Remove such streamlines, or write the file again."
        )


def check_spans(path: Path, streamlines: Streamlines) -> None:
    """Raise unless a file has streamlines and its words hold all of them.

    Raises
    ------
    FormatError
        If there is no streamline, or spans from an earlier opening point beyond the end.
    """
    if not len(streamlines):
        raise FormatError(
            f"{path} holds no streamlines. Was the program that wrote it interrupted, "
            "or everything filtered out?"
        )
    ends = streamlines.firsts + streamlines.counts * streamlines.stride
    if streamlines.counts.min() < 0 or ends.max() > len(streamlines.words):
        raise FormatError(
            f"{path} holds {len(streamlines.words)} numbers, and a streamline would end at "
            f"{ends.max()}: it has changed since its streamlines were listed."
        )


def sample_points(streamlines: Streamlines) -> NDArray[np.float32]:
    """Return the points, (n, 3), of a thousand streamlines spread evenly over a file."""
    ids = np.unique(np.linspace(0, len(streamlines) - 1, 1000).astype(np.int64))
    return streamlines.gather(ids)[0]


def check_placement(streamlines: Streamlines) -> tuple[str, ...]:
    """Return warnings about points that are not where a brain in mm would be."""
    points = sample_points(streamlines).astype(np.float64)
    if not len(points):
        return ("None of the streamlines looked at has any points.",)
    extent = float(np.ptp(points, axis=0).max())
    if len(points) > 100 and (extent < 1 or extent > 500):
        text = f"The points reach {describe_box(points)}: that is not a brain in mm. "
        return (text + "Convert the coordinates to mm in scanner or template space.",)
    inside = ((points >= BRAIN_BOX_MM[0]) & (points <= BRAIN_BOX_MM[1])).all(axis=1).mean()
    if inside >= 0.5:
        return ()
    text = (
        f"{100 * (1 - inside):.0f} % of the points lie where no brain in template space is "
        f"({describe_box(points)}): a translation is probably missing or wrong. "
    )
    return (text + "Compare the tractogram with its template in a viewer first.",)


def describe_box(points: FloatArray) -> str:
    """Return the box of points, (n, 3), in words."""
    low, high = ((f"{x:.4g}" for x in corner) for corner in (points.min(0), points.max(0)))
    return f"from ({', '.join(low)}) to ({', '.join(high)}) mm"
