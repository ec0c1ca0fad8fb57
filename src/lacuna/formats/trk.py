"""TrackVis' .trk: a header of 1000 bytes, then one record per streamline.

A record is an integer n, n points of three coordinates and some scalars each, and some properties
of the streamline. Coordinates are in voxel-mm: voxel indices times voxel sizes, with the origin at
the *corner* of the first voxel.
"""

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import FormatError
from lacuna.formats.tractogram_file import (
    ByteArray,
    Spans,
    TractogramFile,
    check_finite,
    describe_box,
    map_bytes,
    sample_points,
)
from lacuna.geometry.grid import FloatArray, Grid
from lacuna.geometry.streamlines import Streamlines

HEADER_BYTES = 1000
HEADER = np.dtype(
    [
        ("magic", "S6"),
        ("dimensions", "<i2", 3),
        ("voxel_sizes", "<f4", 3),
        ("origin", "V12"),
        ("n_scalars", "<i2"),
        ("scalar_names", "V200"),
        ("n_properties", "<i2"),
        ("property_names", "S20", 10),
        ("vox_to_ras", "<f4", (4, 4)),
        ("reserved", "V444"),
        ("voxel_order", "S4"),
        ("display", "V36"),
        ("n_count", "<i4"),
        ("version", "<i4"),
        ("hdr_size", "<i4"),
    ]
)
CORNER_TO_CENTRE = -0.5
"""From voxel coordinates that count from corners to ones that count from centres, voxels."""


def open_trk(path: Path, spans: Spans | None = None) -> TractogramFile:
    """Open a .trk or .trk.gz file.

    Parameters
    ----------
    path
        The file; mapped unless compressed.
    spans
        From an earlier opening of the same file: saves the walk along the records.

    Raises
    ------
    FormatError
        If the file is broken; says where.
    """
    data = map_bytes(path)
    fields = read_header(path, data)
    n_words = (len(data) - HEADER_BYTES) // 4
    words = data[HEADER_BYTES : HEADER_BYTES + 4 * n_words].view("<f4")
    warnings: list[str] = []
    affine = _world_from_stored(path, fields, warnings)
    stride, counted = 3 + int(fields["n_scalars"]), int(fields["n_count"])
    if spans is None:
        spans = _walk_records(path, words, stride, int(fields["n_properties"]), counted)
        streamlines = Streamlines(words, *spans, stride, affine)
        check_finite(path, streamlines)
        if not fields["vox_to_ras"][:3, 3].any():
            warnings += _suspect_corner(streamlines)
    else:
        streamlines = Streamlines(words, *spans, stride, affine)
    if 0 < counted < len(streamlines):
        warnings.append(
            f"The header counts {counted} streamlines; the {len(streamlines)} found are used."
        )
    kept = _Properties(streamlines, list_properties(fields))
    return TractogramFile(path, "trk", streamlines, per_streamline=kept, warnings=tuple(warnings))


def read_header(path: Path, data: ByteArray) -> np.void:
    """Return the fields of the header, or raise `FormatError`."""
    magic = data[:6].tobytes()
    if not magic.startswith(b"TRACK"):
        raise FormatError(
            f"{path} does not begin with “TRACK” but with {magic!r}: it is no .trk file, "
            "whatever its name says."
        )
    if len(data) < HEADER_BYTES:
        raise FormatError(
            f"{path} has {len(data)} bytes, less than the {HEADER_BYTES} of a .trk header: "
            "it is truncated. Copy or download it again."
        )
    fields: np.void = data[:HEADER_BYTES].view(HEADER)[0]
    if fields["hdr_size"] != HEADER_BYTES:
        raise FormatError(
            f"{path}: the header gives its own size as {fields['hdr_size']}, not {HEADER_BYTES}: "
            "the file is damaged, or was written on a big-endian machine."
        )
    for name in ("n_scalars", "n_properties"):
        if not 0 <= fields[name] <= 10_000:
            raise FormatError(f"{path}: the header says {name} = {fields[name]}: it is damaged.")
    return fields


def list_properties(fields: np.void) -> dict[str, range]:
    """Return which properties of a streamline have which name.

    A name may be followed by a zero and how many properties it stands for, as nibabel writes it.
    """
    named: dict[str, range] = {}
    at, n = 0, int(fields["n_properties"])
    for text in fields["property_names"]:
        name, _, digits = text.partition(b"\0")
        width = int(digits) if digits.isdigit() else 1
        if name and at + width <= n:
            named[name.decode("latin-1")] = range(at, at + width)
            at += width
    return named | ({"properties": range(at, n)} if at < n else {})


@dataclass(frozen=True, eq=False)
class _Properties(Mapping[str, FloatArray]):
    """What records keep after their points; read when asked for, which touches the whole file."""

    streamlines: Streamlines
    columns: Mapping[str, range]

    def __getitem__(self, name: str) -> FloatArray:
        some = self.streamlines
        at = some.firsts + some.counts * some.stride
        values = np.stack([some.words[at + column] for column in self.columns[name]], axis=1)
        return values[:, 0] if values.shape[1] == 1 else values

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


def _world_from_stored(path: Path, fields: np.void, warnings: list[str]) -> FloatArray:
    sizes = fields["voxel_sizes"].astype(np.float64)
    affine = fields["vox_to_ras"].astype(np.float64)
    # Before version 2, and where its last element is 0, the matrix was not recorded.
    if not (
        ((sizes > 1e-3) & (sizes < 1e3)).all()
        and fields["version"] >= 2
        and (np.abs(affine) < 1e6).all()
        and np.abs(affine[3] - [0, 0, 0, 1]).max() <= 1e-3
        and 1e-9 < abs(np.linalg.det(affine[:3, :3])) < 1e9
    ):
        raise FormatError(
            f"{path}: the points have no place in the world, as the header (version "
            f"{fields['version']}) gives voxels of {sizes.tolist()} mm and vox_to_ras "
            f"{affine.tolist()}. Write it again with its reference image, for example with nibabel."
        )
    affine[3] = 0, 0, 0, 1
    corner = np.diag([*(1 / sizes), 1.0])
    corner[:3, 3] = CORNER_TO_CENTRE
    order = fields["voxel_order"].decode("latin-1").strip("\0 ").upper()
    if not order:
        warnings.append("The header has no voxel_order: LPS is assumed, as TrackVis does.")
        order = "LPS"
    turn = _turn(path, order, affine, fields["dimensions"])
    if not turn[:3, :3].diagonal().all():
        warnings.append(
            f"The header's voxel_order is {order}, and its vox_to_ras has the axes in another "
            "order: programs differ about such files. Look at the result beside a template."
        )
    return np.asarray(affine @ turn @ corner)


def _suspect_corner(streamlines: Streamlines) -> list[str]:
    stored = sample_points(replace(streamlines, world_from_stored=None))
    # Points that all lie inside an image whose corner is the origin: its place was lost. Around
    # the origin they are in mm already, as nibabel writes them without a reference image.
    if not len(stored) or stored.min() < 0:
        return []
    text = (
        "The header's vox_to_ras has no translation, so that the origin is a corner of the image "
        f"and the streamlines lie outside the brain, {describe_box(sample_points(streamlines))}. "
        "Put the affine of the image that they were tracked in into the header (DSI Studio and "
        "others left it out), and save the file again."
    )
    return [text]


def _turn(path: Path, order: str, affine: FloatArray, dimensions: NDArray[np.int16]) -> FloatArray:
    """Take voxels in the order of the points to voxels in the order of the affine."""
    axes = [next((i for i, pair in enumerate(("LR", "PA", "IS")) if c in pair), -1) for c in order]
    if sorted(axes) != [0, 1, 2]:
        raise FormatError(
            f"{path}: voxel_order “{order}” is not three letters, one each of L/R, P/A and I/S."
        )
    orientation = Grid((1, 1, 1), affine).orientation
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for stored, (world, letter) in enumerate(zip(axes, order, strict=True)):
        axis = orientation.axes[world]
        same = (letter in "RAS") != orientation.flips[world]
        turn[axis, stored] = 1 if same else -1
        if not same:
            turn[axis, 3] = int(dimensions[stored]) - 1
    return turn


def _walk_records(
    path: Path, words: NDArray[np.floating], stride: int, n_properties: int, n_count: int
) -> Spans:
    n_words = len(words)
    point_counts = words.view(np.uint8).data.cast("i")
    counts = array("q")
    at = 0
    # The one loop over streamlines in Python: each record says where the next one is, and a
    # compiled loop is faster only from some five million on, once its compilation is counted.
    while at < n_words:
        n = point_counts[at]
        counts.append(n)
        at += 1 + n * stride + n_properties
        if n < 0 or at > n_words:
            raise FormatError(
                f"{path}: streamline {len(counts) - 1} claims {n} points, to byte "
                f"{HEADER_BYTES + 4 * at}, but the file ends at byte {HEADER_BYTES + 4 * n_words}: "
                "it is truncated or damaged. Copy or download it again."
            )
    found = np.frombuffer(counts, np.int64)
    if 0 < len(found) < n_count:
        raise FormatError(
            f"{path} holds {len(found)} of the {n_count} streamlines that its header counts: "
            "it is truncated. Copy or download it again."
        )
    sizes = 1 + found * stride + n_properties
    firsts: NDArray[np.int64] = np.cumsum(sizes) - sizes + 1
    return firsts, found
