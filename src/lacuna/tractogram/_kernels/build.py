"""One pass over streamlines each: measure them, count what they visit, write it down."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lacuna.tractogram._kernels.mrtrix import visit_mrtrix
from lacuna.tractogram._kernels.segment import (
    FRACTION_BITS,
    UNITS,
    Units,
    flat_voxel,
    to_units,
    visit_segment,
    voxel_of_point,
)

SEGMENT, VERTEX, MRTRIX = 0, 1, 2


class Block(NamedTuple):
    """Some streamlines, as `lacuna.geometry.streamlines.Streamlines` describes them.

    `numbers` are their numbers in the file; results go there.
    """

    words: NDArray[np.float32]
    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]
    numbers: NDArray[np.int64]
    stride: int
    world: NDArray[np.float64]
    moved: bool


class Lists(NamedTuple):
    """Lists of ranks, one per cell, while a thread fills them.

    List c begins at ``offsets[c]``; the thread writes next at ``filled[c]`` in it.
    """

    offsets: NDArray[np.int64]
    filled: NDArray[np.uint32]
    values: NDArray[np.uint32]


class Frame(NamedTuple):
    """A canonical voxel grid and the rule by which streamlines visit it.

    `matrix` takes mm RAS+ to voxels, (3, 4); `matrix_single` is MRtrix3's own version of it.
    """

    rule: int
    matrix: NDArray[np.float64]
    matrix_single: NDArray[np.float32]
    shape: NDArray[np.int64]
    hermite: NDArray[np.float32]


PASSES, MAYBE_VERTEX, SURE_VERTEX, NEAR_VERTEX = 0, 1, 2, 3
"""How a streamline meets a lattice cell: its line passes, without a vertex there; with one within
`NEAR_FACE` of a face only; with one well inside; or its line does not pass but a vertex of it lies
within `NEAR_FACE` of the cell."""

KIND_BITS = 2
NEAR_FACE = UNITS // 1000 + 1
"""1e-3 mm on the 1 mm lattice: beyond any rounding of single-precision coordinates."""


@njit(nogil=True)
def load_point(block: Block, s: int, p: int) -> tuple[np.float32, np.float32, np.float32]:
    """Return one point of one streamline, mm RAS+."""
    words, m = block.words, block.world
    at = block.firsts[s] + p * block.stride
    x, y, z = words[at], words[at + 1], words[at + 2]
    if not block.moved:
        return x, y, z
    return (
        np.float32(m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]),
        np.float32(m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]),
        np.float32(m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]),
    )


@njit(nogil=True)
def load_points(
    block: Block,
    s: int,
    points: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Copy one streamline's points, mm RAS+, into a buffer; return it, or a larger one."""
    count = block.counts[s]
    if count > len(points):
        points = np.empty((2 * count, 3), np.float32)
    for p in range(count):
        points[p, 0], points[p, 1], points[p, 2] = load_point(block, s, p)
    return points


@njit(nogil=True)
def measure(
    block: Block,
    ends: NDArray[np.float32],
    middles: NDArray[np.float32],
    lengths_mm: NDArray[np.float32],
    box: NDArray[np.float64],
    largest_step: NDArray[np.float64],
) -> int:
    """Fill ends, middles, lengths; widen the box (2, 3); return the first broken streamline or −1.

    The longest distance between two neighbouring points goes to ``largest_step[0]``, mm.
    """
    points = np.empty((256, 3), np.float32)
    for s in range(len(block.firsts)):
        n, number = block.counts[s], block.numbers[s]
        points = load_points(block, s, points)
        length = 0.0
        for p in range(n):
            for axis in range(3):
                value = np.float64(points[p, axis])
                if not np.isfinite(value):
                    return int(number)
                box[0, axis] = min(box[0, axis], value)
                box[1, axis] = max(box[1, axis], value)
            if p > 0:
                dx = np.float64(points[p, 0]) - points[p - 1, 0]
                dy = np.float64(points[p, 1]) - points[p - 1, 1]
                dz = np.float64(points[p, 2]) - points[p - 1, 2]
                step = np.sqrt(dx * dx + dy * dy + dz * dz)
                largest_step[0] = max(largest_step[0], step)
                length += step
        lengths_mm[number] = length
        for axis in range(3):
            ends[number, 0, axis] = points[0, axis] if n else np.nan
            ends[number, 1, axis] = points[n - 1, axis] if n else np.nan
            middles[number, axis] = points[n // 2, axis] if n else np.nan
    return -1


@njit(nogil=True)
def spread_bits(value: int) -> int:
    """Put two zero bits after each of the lowest 10 bits of a number."""
    value &= 0x3FF
    value = (value | (value << 16)) & 0x30000FF
    value = (value | (value << 8)) & 0x300F00F
    value = (value | (value << 4)) & 0x30C30C3
    return (value | (value << 2)) & 0x9249249


@njit(nogil=True)
def morton_codes(
    points: NDArray[np.float32],
    low: NDArray[np.float64],
    cell_mm: float,
    codes: NDArray[np.uint64],
) -> None:
    """Give each point its number along a Z-order curve of cells; not-a-number comes last."""
    for s in range(len(points)):
        if np.isnan(points[s, 0]):
            codes[s] = np.uint64(0x1FFFFF)
            continue
        i = spread_bits(int((points[s, 0] - low[0]) / cell_mm))
        j = spread_bits(int((points[s, 1] - low[1]) / cell_mm))
        k = spread_bits(int((points[s, 2] - low[2]) / cell_mm))
        codes[s] = np.uint64((i << 2) | (j << 1) | k)


@njit(nogil=True)
def visit(
    frame: Frame,
    points: NDArray[np.float32],
    n_points: int,
    out: NDArray[np.int64],
) -> tuple[int, NDArray[np.int64]]:
    """Return the voxels that one streamline visits under a rule, with repeats."""
    if frame.rule == SEGMENT:
        n_out, out = visit_segment(points, n_points, frame.matrix, frame.shape, out)
        return n_out, out
    need = n_points * (len(frame.hermite) + 1) + 1
    if need > len(out):
        out = np.empty(2 * need, np.int64)
    if frame.rule == MRTRIX:
        n_out = visit_mrtrix(
            points, 0, n_points, frame.matrix_single, frame.shape, frame.hermite, out
        )
        return n_out, out
    n_out = 0
    for p in range(n_points):
        voxel = voxel_of_point(points[p, 0], points[p, 1], points[p, 2], frame.matrix, frame.shape)
        if voxel >= 0:
            out[n_out] = voxel
            n_out += 1
    return n_out, out


@njit(nogil=True)
def drop_repeats(voxels: NDArray[np.int64], n_voxels: int, places: NDArray[np.uint32]) -> int:
    """Move the distinct voxels to the front and return how many there are.

    `places`, one per voxel of the grid, needs no clearing: an entry counts only if the list has
    that voxel in that place.
    """
    n_kept = 0
    for v in range(n_voxels):
        voxel = voxels[v]
        place = places[voxel]
        if place < n_kept and voxels[place] == voxel:
            continue
        places[voxel] = n_kept
        voxels[n_kept] = voxel
        n_kept += 1
    return n_kept


@njit(nogil=True)
def count_visits(
    block: Block,
    frame: Frame,
    places: NDArray[np.uint32],
    n_visits: NDArray[np.int64],
    tdi: NDArray[np.uint32],
) -> None:
    """Count the distinct voxels of each streamline and the streamlines of each voxel."""
    points = np.empty((256, 3), np.float32)
    out = np.empty(4096, np.int64)
    for s in range(len(block.firsts)):
        points = load_points(block, s, points)
        n, out = visit(frame, points, block.counts[s], out)
        n = drop_repeats(out, n, places)
        n_visits[block.numbers[s]] = n
        for v in range(n):
            tdi[out[v]] += 1


@njit(nogil=True)
def fill_visits(
    block: Block,
    frame: Frame,
    places: NDArray[np.uint32],
    starts: NDArray[np.int64],
    numbers: NDArray[np.uint32],
    visits: NDArray[np.uint32],
) -> None:
    """Write the distinct voxels of each streamline, renumbered, from its place on."""
    points = np.empty((256, 3), np.float32)
    out = np.empty(4096, np.int64)
    for s in range(len(block.firsts)):
        points = load_points(block, s, points)
        n, out = visit(frame, points, block.counts[s], out)
        n = drop_repeats(out, n, places)
        start = starts[block.numbers[s]]
        for v in range(n):
            visits[start + v] = numbers[out[v]]


@njit(nogil=True)
def _near_faces(unit: int) -> tuple[int, int]:
    """Return steps to the neighbour cells nearly touched: (0 or −1, 0 or 1)."""
    inside = unit & (UNITS - 1)
    return (-1 if inside <= NEAR_FACE else 0), (1 if inside >= UNITS - NEAR_FACE else 0)


@njit(nogil=True)
def _add_vertex(
    here: Units,
    shape: NDArray[np.int64],
    places: NDArray[np.uint32],
    cells: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    n_cells: int,
) -> int:
    """Record a vertex in its cell and in those whose face it nearly touches; return the new n."""
    i, j, k = (
        here[0] >> FRACTION_BITS,
        here[1] >> FRACTION_BITS,
        here[2] >> FRACTION_BITS,
    )
    low_i, high_i = _near_faces(here[0])
    low_j, high_j = _near_faces(here[1])
    low_k, high_k = _near_faces(here[2])
    sure = low_i == high_i and low_j == high_j and low_k == high_k
    for a in range(i + low_i, i + high_i + 1):
        for b in range(j + low_j, j + high_j + 1):
            for c in range(k + low_k, k + high_k + 1):
                cell = flat_voxel(a, b, c, shape)
                place = places[cell]
                if place < n_cells and cells[place] == cell:
                    if sure:
                        kinds[place] = SURE_VERTEX
                    elif kinds[place] == PASSES:
                        kinds[place] = MAYBE_VERTEX
                else:
                    places[cell] = n_cells
                    cells[n_cells] = cell
                    kinds[n_cells] = NEAR_VERTEX
                    n_cells += 1
    return n_cells


@njit(nogil=True)
def meet_cells(
    points: NDArray[np.float32],
    n_points: int,
    matrix: NDArray[np.float64],
    shape: NDArray[np.int64],
    places: NDArray[np.uint32],
    cells: NDArray[np.int64],
    kinds: NDArray[np.uint8],
) -> tuple[int, NDArray[np.int64], NDArray[np.uint8]]:
    """Return the lattice cells that one streamline meets, and how; the first is its start."""
    n, cells = visit_segment(points, n_points, matrix, shape, cells)
    n = drop_repeats(cells, n, places)
    need = n + 7 * n_points
    if need > len(cells):
        larger = np.empty(2 * need, np.int64)
        larger[:n] = cells[:n]
        cells = larger
    if len(cells) > len(kinds):
        kinds = np.empty(len(cells), np.uint8)
    kinds[:n] = PASSES
    for p in range(n_points):
        here = to_units(points[p, 0], points[p, 1], points[p, 2], matrix)
        n = _add_vertex(here, shape, places, cells, kinds, n)
    return n, cells, kinds


@njit(nogil=True)
def count_hits(
    block: Block,
    lattice: Frame,
    places: NDArray[np.uint32],
    n_hits: NDArray[np.uint32],
    n_starts: NDArray[np.uint32],
) -> None:
    """Count for each lattice cell the streamlines that meet it and those that start in it."""
    points = np.empty((256, 3), np.float32)
    cells = np.empty(4096, np.int64)
    kinds = np.empty(4096, np.uint8)
    for s in range(len(block.firsts)):
        points = load_points(block, s, points)
        n, cells, kinds = meet_cells(
            points, block.counts[s], lattice.matrix, lattice.shape, places, cells, kinds
        )
        for c in range(n):
            n_hits[cells[c]] += 1
        if n:
            n_starts[cells[0]] += 1


@njit(nogil=True)
def fill_hits(
    block: Block,
    lattice: Frame,
    places: NDArray[np.uint32],
    ranks: NDArray[np.uint32],
    hits: Lists,
    starts: Lists,
) -> None:
    """Append each streamline, with how it meets the cell, to the lists of its cells."""
    points = np.empty((256, 3), np.float32)
    cells = np.empty(4096, np.int64)
    kinds = np.empty(4096, np.uint8)
    for s in range(len(block.firsts)):
        points = load_points(block, s, points)
        n, cells, kinds = meet_cells(
            points, block.counts[s], lattice.matrix, lattice.shape, places, cells, kinds
        )
        rank = np.uint32(ranks[block.numbers[s]])
        for c in range(n):
            cell = cells[c]
            at = hits.offsets[cell] + hits.filled[cell]
            hits.values[at] = (rank << np.uint32(KIND_BITS)) | kinds[c]
            hits.filled[cell] += 1
        if n:
            cell = cells[0]
            starts.values[starts.offsets[cell] + starts.filled[cell]] = rank
            starts.filled[cell] += 1


@njit(nogil=True)
def lay_out(counts: NDArray[np.uint32], offsets: NDArray[np.int64]) -> None:
    """Turn counts (threads, cells) into list offsets (cells + 1,).

    The counts become the place in each list where each thread's share begins.
    """
    total = np.int64(0)
    for cell in range(counts.shape[1]):
        offsets[cell] = total
        before = np.int64(0)
        for thread in range(counts.shape[0]):
            n = np.int64(counts[thread, cell])
            counts[thread, cell] = before
            before += n
        total += before
    offsets[counts.shape[1]] = total


@njit(nogil=True)
def sort_lists(
    values: NDArray[np.uint32], offsets: NDArray[np.int64], first: int, stop: int
) -> None:
    """Sort the lists first to stop, each in place."""
    for i in range(first, stop):
        if offsets[i + 1] - offsets[i] > 1:
            values[offsets[i] : offsets[i + 1]].sort()
