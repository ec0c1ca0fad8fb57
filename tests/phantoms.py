"""Inputs whose answer is known by construction, and files of them written without our own code."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from lacuna.geometry.grid import FloatArray, Grid
from lacuna.geometry.streamlines import Streamlines
from lacuna.tractogram.index import (
    build_hits,
    build_map,
    build_streamlines,
    open_hits,
    open_map,
    open_streamlines,
)
from lacuna.tractogram.query import Index

Voxel = tuple[int, int, int]


def pack(polylines: Sequence[FloatArray | Sequence[Sequence[float]]]) -> Streamlines:
    """Return polylines (n_i, 3), mm RAS+, as streamlines."""
    parts = [np.asarray(line, np.float32).reshape(-1, 3) for line in polylines]
    counts = np.array([len(part) for part in parts], np.int64)
    words = np.concatenate([*parts, np.empty((0, 3), np.float32)]).reshape(-1)
    return Streamlines(words, (np.cumsum(counts) - counts) * 3, counts)


@dataclass(frozen=True)
class Phantom:
    """One polyline on an 8 × 8 × 8 grid with voxel centres on whole mm from 0 to 7.

    Parameters
    ----------
    points : (n, 3)
    segment_voxels, vertex_voxels
        Voxels visited under these rules.
    """

    points: tuple[tuple[float, float, float], ...]
    segment_voxels: frozenset[Voxel]
    vertex_voxels: frozenset[Voxel]


UNIT_GRID = Grid((8, 8, 8), np.eye(4))


def _phantom(points: Sequence[Sequence[float]], segment: str, vertex: str) -> Phantom:
    def voxels(text: str) -> frozenset[Voxel]:
        return frozenset((int(word[0]), int(word[1]), int(word[2])) for word in text.split())

    line = tuple((float(x), float(y), float(z)) for x, y, z in points)
    return Phantom(line, voxels(segment), voxels(vertex))


PHANTOMS = {
    "along an axis": _phantom([(1, 2, 3), (4, 2, 3)], "123 223 323 423", "123 423"),
    "backwards": _phantom([(4, 2, 3), (1, 2, 3)], "123 223 323 423", "123 423"),
    "in a face: the upper voxels": _phantom([(1, 2.5, 3), (3, 2.5, 3)], "133 233 333", "133 333"),
    "in an edge: the upper voxels": _phantom([(1, 2.5, 3.5), (2, 2.5, 3.5)], "134 234", "134 234"),
    "through corners, all axes up": _phantom([(1, 1, 1), (3, 3, 3)], "111 222 333", "111 333"),
    "through corners, all axes down": _phantom([(3, 3, 3), (1, 1, 1)], "111 222 333", "111 333"),
    "through edges, one axis up and one down": _phantom(
        [(1, 3, 0), (3, 1, 0)], "130 230 220 320 310", "130 310"
    ),
    "through corners, two axes up and one down": _phantom(
        [(1, 1, 3), (2, 2, 2)], "113 223 222", "113 222"
    ),
    "ends on a face from below": _phantom([(1, 1, 1), (1.5, 1, 1)], "111 211", "111 211"),
    "ends on a face from above": _phantom([(2, 1, 1), (1.5, 1, 1)], "211", "211"),
    "starts on a corner, goes up": _phantom([(1.5, 1.5, 1.5), (2, 2, 2)], "222", "222"),
    "touches a face and turns back": _phantom(
        [(1, 1, 1), (1.5, 1, 1), (1, 1.25, 1)], "111 211", "111 211"
    ),
    "a knee": _phantom([(1, 1, 1), (3, 1, 1), (3, 2, 1)], "111 211 311 321", "111 311 321"),
    "outside, through, outside": _phantom(
        [(-3, 7, 7), (11, 7, 7)], "077 177 277 377 477 577 677 777", ""
    ),
    "in the grid's upper face: outside": _phantom([(1, 7.5, 1), (3, 7.5, 1)], "", ""),
    "in the grid's lower face: inside": _phantom(
        [(1, -0.5, 1), (2, -0.5, 1)], "101 201", "101 201"
    ),
    "past a corner of the grid": _phantom([(-2, 0, 0), (0, -2, 0)], "", ""),
    "twice the same point": _phantom([(4, 4, 4), (4, 4, 4)], "444", "444"),
    "a single point": _phantom([(2.5, 3, 4)], "334", "334"),
    "empty": _phantom([], "", ""),
}


def parallel_tract(n: int, n_voxels: int = 20) -> tuple[Streamlines, Grid]:
    """Return straight streamlines along x, the i-th at y = i, z = 0, and a grid that holds them.

    A lesion of the voxels ``y < k`` cuts exactly k of them, and then disconnects all their voxels.
    """
    x = np.arange(n_voxels, dtype=np.float32)
    lines = [np.column_stack([x, np.full_like(x, i), np.zeros_like(x)]) for i in range(n)]
    return pack(lines), Grid((n_voxels, n, 1), np.eye(4))


def coherent_tractogram(
    n_streamlines: int, *, step_mm: float = 1.0, n_bundles: int = 60, seed: int = 0
) -> Streamlines:
    """Return bundles of smooth curves, 30 to 140 mm long, over the volume of a brain.

    Parameters
    ----------
    n_streamlines, n_bundles
        Each streamline follows the curve of its bundle, a little beside it.
    step_mm
        Distance of neighbouring points along each curve.
    seed
        Other seeds give other bundles.
    """
    random = np.random.default_rng(seed)
    middles = random.normal(0, 1, (n_bundles, 3)) * (22, 32, 20) + (0, -18, 15)
    headings = random.uniform(0, [2 * np.pi, np.pi], (n_bundles, 2))
    bends = random.normal(0, 0.02, (n_bundles, 2))
    waves = random.normal(0, 0.35, (n_bundles, 2))
    lengths = random.uniform(35, 130, n_bundles)
    bundle = np.sort(random.integers(0, n_bundles, n_streamlines))
    own_lengths = np.clip(lengths[bundle] * random.normal(1, 0.08, n_streamlines), 30, 140)
    counts = (own_lengths / step_mm).astype(np.int64) + 1
    ends = np.cumsum(counts)
    s = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    of = np.repeat(np.arange(n_streamlines), counts)
    along_mm = (s - counts[of] / 2) * step_mm
    jitter = random.normal(0, 0.03, (n_streamlines, 2))
    angles = [
        headings[bundle, i][of]
        + jitter[of, i]
        + bends[bundle, i][of] * along_mm
        + waves[bundle, i][of] * np.sin(along_mm / 17)
        for i in range(2)
    ]
    steps = np.column_stack(
        [
            np.sin(angles[1]) * np.cos(angles[0]),
            np.sin(angles[1]) * np.sin(angles[0]),
            np.cos(angles[1]),
        ]
    )
    points = np.cumsum(steps * step_mm, axis=0)
    own_middles = middles[bundle] + random.normal(0, 3, (n_streamlines, 3))
    points += (own_middles - points[ends - counts + counts // 2])[of]
    return Streamlines(points.astype(np.float32).reshape(-1), (ends - counts) * 3, counts)


def write_tck(
    path: Path,
    streamlines: Streamlines,
    *,
    step_size_mm: float | None = None,
    datatype: str = "Float32LE",
    header: str = "",
) -> None:
    """Write a .tck file.

    Parameters
    ----------
    path
    streamlines
        Empty ones and single points are kept.
    step_size_mm
        Header line ``step_size``; none: no such line.
    datatype
        ``Float`` with ``32`` or ``64`` and ``LE`` or ``BE``.
    header
        Further lines.
    """
    points, offsets = streamlines.gather(np.arange(len(streamlines)))
    dtype = np.dtype(f"{'<' if datatype.endswith('LE') else '>'}f{int(datatype[5:7]) // 8}")
    n = len(streamlines)
    body = np.full((len(points) + n + 1, 3), np.nan, dtype)
    body[np.arange(len(points)) + np.repeat(np.arange(n), np.diff(offsets))] = points
    body[-1] = np.inf
    step = "" if step_size_mm is None else f"step_size: {step_size_mm!r}\n"
    lines = f"mrtrix tracks\ncount: {n}\ndatatype: {datatype}\n{step}{header}file: . "
    start = len(lines) + 16
    text = f"{lines}{start}\nEND\n".encode().ljust(start, b"\0")
    path.write_bytes(text + body.tobytes())


def write_nifti(path: Path, array: NDArray[np.generic], grid: Grid) -> Grid:
    """Write an array with both transforms set, and return the grid as the header holds it."""
    image = nib.Nifti1Image(array, grid.affine)
    image.set_sform(grid.affine, 1)
    image.set_qform(grid.affine, 1)
    nib.save(image, path)
    return Grid(grid.shape, nib.load(path).affine)


def turned_copies(
    array: NDArray[np.generic], grid: Grid
) -> Iterator[tuple[NDArray[np.generic], Grid]]:
    """Yield LAS, LIA and PSR copies of an image that is stored RAS."""
    image = nib.Nifti1Image(array.astype(np.int32), grid.affine)
    start = nib.io_orientation(grid.affine)
    for codes in ("LAS", "LIA", "PSR"):
        turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(codes))
        copy = image.as_reoriented(turn)
        yield np.asarray(copy.dataobj).astype(array.dtype), Grid(copy.shape, copy.affine)


def points_on_faces(grid: Grid, n: int, seed: int = 0) -> Streamlines:
    """Return streamlines of one point, each on a voxel face as nearly as coordinates can be.

    Whoever rounds them differently in the last bit puts some into other voxels.
    """
    random = np.random.default_rng(seed)
    voxels = random.uniform(-0.5, np.array(grid.shape) - 0.5, (n, 3))
    axis = random.integers(0, 3, n)
    voxels[np.arange(n), axis] = np.round(voxels[np.arange(n), axis]) + 0.5
    points = grid.to_world(voxels).astype(np.float32)
    return Streamlines(points.reshape(-1), np.arange(n) * 3, np.ones(n, np.int64))


def spheres(grid: Grid, centres_mm: FloatArray, radius_mm: float) -> NDArray[np.bool_]:
    """Return a mask of the voxels whose centres lie in spheres around centres (n, 3)."""
    mask = np.zeros(grid.shape, np.bool_)
    reach = radius_mm / np.array(grid.voxel_sizes_mm) + 1
    for centre in np.asarray(centres_mm, np.float64):
        middle = grid.to_voxels(centre[np.newaxis])[0]
        low = np.clip(np.floor(middle - reach), 0, grid.shape).astype(int)
        high = np.clip(np.ceil(middle + reach) + 1, 0, grid.shape).astype(int)
        at = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1)
        distances = np.linalg.norm(grid.to_world(at.reshape(-1, 3)) - centre, axis=1)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        mask[box] |= (distances <= radius_mm).reshape(at.shape[:3])
    return mask


def build_index(
    streamlines: Streamlines,
    grid: Grid,
    directory: Path,
    *,
    rule: str = "segment",
    upsample: int = 1,
    threads: int = 1,
) -> Index:
    """Build the three parts of an index below a directory, and open them."""
    places = [directory / name for name in ("streamlines", "hits", "map")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    build_streamlines(streamlines, places[0], threads=threads)
    parts = open_streamlines(places[0])
    build_hits(streamlines, parts, places[1], threads=threads)
    build_map(streamlines, parts, grid, places[2], rule=rule, upsample=upsample, threads=threads)
    mapped = open_map(places[2], grid, rule, upsample)
    return Index(streamlines, parts, open_hits(places[1], parts), mapped)
