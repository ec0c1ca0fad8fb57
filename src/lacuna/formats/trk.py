"""TrackVis' .trk: a header of 1000 bytes, then one record per streamline.

A record is an integer n, n points of three coordinates and some scalars each, and some properties
of the streamline. Coordinates are in voxel-mm: voxel indices times voxel sizes, with the origin at
the *corner* of the first voxel.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import FormatError
from lacuna.formats.tractogram_file import (
    ByteArray,
    Spans,
    TractogramFile,
    check_placement,
    check_spans,
    describe_box,
    find_impossible,
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
        ("origin", "<f4", 3),
        ("n_scalars", "<i2"),
        ("scalar_names", "S20", 10),
        ("n_properties", "<i2"),
        ("property_names", "V20", 10),
        ("vox_to_ras", "<f4", (4, 4)),
        ("reserved", "S444"),
        ("voxel_order", "S4"),
        ("pad2", "S4"),
        ("image_orientation", "<f4", 6),
        ("pad1", "S2"),
        ("flips", "u1", 6),
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
    fields = _read_header(path, data)
    swapped = fields.dtype["hdr_size"].byteorder == ">"
    n_scalars, n_properties = int(fields["n_scalars"]), int(fields["n_properties"])
    n_words = (len(data) - HEADER_BYTES) // 4
    words = data[HEADER_BYTES : HEADER_BYTES + 4 * n_words].view(">f4" if swapped else "<f4")
    warnings: list[str] = []
    affine = _world_from_stored(path, fields, warnings)
    stride = 3 + n_scalars
    is_new = spans is None
    if spans is None:
        spans = _walk_records(path, words, stride, n_properties, int(fields["n_count"]))
    streamlines = Streamlines(words, *spans, stride, affine)
    check_spans(path, streamlines)
    if is_new:
        _check_finite(path, streamlines)
    counted, found = int(fields["n_count"]), len(streamlines)
    if 0 < counted < found:
        warnings.append(f"The header counts {counted} streamlines; the {found} found are used.")
    warnings += _check_translation(fields, streamlines)
    return TractogramFile(
        path,
        "trk",
        streamlines,
        per_streamline=_read_properties(fields, streamlines, n_properties),
        warnings=tuple(warnings),
        header=_describe(fields),
    )


def _read_header(path: Path, data: ByteArray) -> np.void:
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
    for dtype in (HEADER, HEADER.newbyteorder(">")):
        fields: np.void = data[:HEADER_BYTES].view(dtype)[0]
        if fields["hdr_size"] == HEADER_BYTES:
            break
    else:
        raise FormatError(
            f"{path}: the header gives its own size as {data[996:1000].tobytes()!r}, which is "
            f"{HEADER_BYTES} in neither byte order: the file is damaged."
        )
    for name in ("n_scalars", "n_properties"):
        if not 0 <= fields[name] <= 10_000:
            raise FormatError(f"{path}: the header says {name} = {fields[name]}: it is damaged.")
    return fields


def _world_from_stored(path: Path, fields: np.void, warnings: list[str]) -> FloatArray:
    sizes = fields["voxel_sizes"].astype(np.float64)
    if not ((sizes > 1e-3) & (sizes < 1e3)).all():
        raise FormatError(
            f"{path}: the header gives voxel sizes of {sizes.tolist()} mm, so the points have no "
            "place in the world. Write it again with its reference image."
        )
    affine = fields["vox_to_ras"].astype(np.float64)
    if fields["version"] < 2 or affine[3, 3] == 0:
        warnings.append(
            "The header has no vox_to_ras matrix: coordinates are taken as mm of an image without "
            "orientation. Write the file again with its reference image, for example with nibabel."
        )
        affine = np.diag([*sizes, 1.0])
    elif (
        not (np.abs(affine) < 1e6).all()
        or np.abs(affine[3] - [0, 0, 0, 1]).max() > 1e-3
        or not 1e-9 < abs(np.linalg.det(affine[:3, :3])) < 1e9
    ):
        raise FormatError(f"{path}: the header's vox_to_ras is no affine: {affine.tolist()}.")
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


def _check_translation(fields: np.void, streamlines: Streamlines) -> list[str]:
    stored = sample_points(replace(streamlines, world_from_stored=None))
    if fields["vox_to_ras"][:3, 3].any() or not len(stored) or stored.min() < 0:
        return check_placement(streamlines)
    # Points that all lie inside an image whose corner is the origin: its place was lost. Around
    # the origin they are in mm already, as nibabel writes them without a reference image.
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
    point_count_at = _reader(words)
    counts: list[int] = []
    blocks: list[NDArray[np.int64]] = []
    at = 0
    # The one loop over streamlines in Python: each record says where the next one is, and a
    # compiled loop is faster only from some five million on, once its compilation is counted.
    while at < n_words:
        n = point_count_at(at)
        counts.append(n)
        at += 1 + n * stride + n_properties
        if n < 0 or at > n_words:
            raise _record_error(path, at, n, sum(map(len, blocks)) + len(counts) - 1, n_words)
        if len(counts) == 1 << 20:
            blocks.append(np.array(counts, np.int64))
            counts.clear()
    blocks.append(np.array(counts, np.int64))
    found = np.concatenate(blocks)
    if 0 < len(found) < n_count:
        raise FormatError(
            f"{path} holds {len(found)} of the {n_count} streamlines that its header counts: "
            "it is truncated. Copy or download it again."
        )
    sizes = 1 + found * stride + n_properties
    firsts: NDArray[np.int64] = np.cumsum(sizes) - sizes + 1
    return firsts, found


def _reader(words: NDArray[np.floating]) -> Callable[[int], int]:
    if words.dtype.isnative:
        return words.view(np.uint8).data.cast("i").__getitem__
    data, unpack = words.view(np.uint8).data, Struct(words.dtype.byteorder + "i").unpack_from
    return lambda at: int(unpack(data, 4 * at)[0])


def _record_error(path: Path, end: int, n: int, i: int, n_words: int) -> FormatError:
    if n < 0:
        return FormatError(
            f"{path}: streamline {i} claims {n} points: the file is damaged from there, or its "
            "header gives the wrong number of scalars or properties."
        )
    return FormatError(
        f"{path}: streamline {i} claims {n} points, which would end at byte "
        f"{HEADER_BYTES + 4 * end}, but the file ends at byte {HEADER_BYTES + 4 * n_words}: it is "
        "truncated or damaged. Copy or download it again."
    )


def _check_finite(path: Path, streamlines: Streamlines) -> None:
    # Counts of points and properties are among the words: a small integer read as float is
    # finite, and what is not is looked at more closely.
    at = find_impossible(streamlines.words)
    if not len(at):
        return
    i = np.searchsorted(streamlines.firsts, at, side="right") - 1
    inside = (at - streamlines.firsts[i]) // streamlines.stride < streamlines.counts[i]
    coordinate = (at - streamlines.firsts[i]) % streamlines.stride < 3
    bad = np.flatnonzero(inside & coordinate & (i >= 0))
    if len(bad):
        point = int((at[bad[0]] - streamlines.firsts[i[bad[0]]]) // streamlines.stride)
        raise FormatError(
            f"{path}: point {point} of streamline {i[bad[0]]} has a coordinate that is NaN, "
            "infinite or beyond a kilometre. Remove such streamlines, or write the file again."
        )


def _read_properties(
    fields: np.void, streamlines: Streamlines, n_properties: int
) -> dict[str, FloatArray]:
    names: list[tuple[str, int]] = []
    for raw in fields["property_names"]:
        # nibabel keeps the number of columns behind the name and a NUL.
        text, _, digits = bytes(raw).rstrip(b"\0").partition(b"\0")
        if text:
            names.append((text.decode("latin-1"), int(digits) if digits.isdigit() else 1))
    first = streamlines.firsts + streamlines.counts * streamlines.stride
    properties: dict[str, FloatArray] = {}
    column = 0
    while column < n_properties:
        name, width = names.pop(0) if names else (f"property{column}", 1)
        width = min(width, n_properties - column)
        values = streamlines.words[first[:, None] + np.arange(column, column + width)]
        properties[name] = values[:, 0] if width == 1 else values
        column += width
    return properties


def _describe(fields: np.void) -> dict[str, object]:
    return {
        "dimensions": fields["dimensions"].tolist(),
        "voxel_sizes": fields["voxel_sizes"].tolist(),
        "vox_to_ras": fields["vox_to_ras"].tolist(),
        "voxel_order": fields["voxel_order"].decode("latin-1"),
        "n_scalars": int(fields["n_scalars"]),
        "n_properties": int(fields["n_properties"]),
        "n_count": int(fields["n_count"]),
        "version": int(fields["version"]),
    }
