"""From lattice cells to cut streamlines, and from cut streamlines to counts per voxel.

Sets of streamlines are bit sets: one bit per streamline, 64 to a word.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lacuna.tractogram._kernels.build import (
    KIND_BITS,
    MRTRIX,
    NEAR_VERTEX,
    PASSES,
    SEGMENT,
    SURE_VERTEX,
    Block,
    Frame,
    load_points,
)
from lacuna.tractogram._kernels.mrtrix import voxel_mrtrix
from lacuna.tractogram._kernels.segment import (
    FRACTION_BITS,
    _walk,
    to_units,
    voxel_of_point,
)

OUTSIDE, COVER, CORE = 0, 1, 2
"""How a lattice cell lies to a lesion: apart from it; touching it; wholly inside it."""


@njit(nogil=True)
def find_voxels(
    mask: NDArray[np.uint8], words: NDArray[np.uint64], found: NDArray[np.int64]
) -> int:
    """Write the places of the nonzero bytes, as far as there is room; return how many there are.

    `words` is the front of the mask eight bytes at a time: most of a brain is not lesion.
    """
    n = 0
    for w in range(len(words)):
        if words[w]:
            for at in range(8 * w, 8 * w + 8):
                if mask[at]:
                    if n < len(found):
                        found[n] = at
                    n += 1
    for at in range(8 * len(words), len(mask)):
        if mask[at]:
            if n < len(found):
                found[n] = at
            n += 1
    return n


@njit(nogil=True)
def sum_table(mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the summed-volume table of a mask: the voxels before each corner."""
    ni, nj, nk = mask.shape
    table = np.zeros((ni + 1, nj + 1, nk + 1), np.int32)
    for i in range(ni):
        for j in range(nj):
            row = 0
            for k in range(nk):
                row += mask[i, j, k]
                table[i + 1, j + 1, k + 1] = (
                    row + table[i, j + 1, k + 1] + table[i + 1, j, k + 1] - table[i, j, k + 1]
                )
    return table


@njit(nogil=True)
def _clamp(value: int, high: int) -> int:
    return min(max(value, 0), high)


@njit(nogil=True)
def classify_cells(
    table: NDArray[np.int32],
    matrix: NDArray[np.float64],
    low_cell: NDArray[np.int64],
    margin_mm: float,
    state: NDArray[np.uint8],
) -> None:
    """Tell core, cover and outside cells apart.

    Parameters
    ----------
    table
        Summed-volume table of the lesion's box.
    matrix : (3, 4)
        mm RAS+ to voxels of that box.
    low_cell : (3,)
        World position, mm, of the centre of ``state[0, 0, 0]``.
    margin_mm
        A cell is widened by it on each side: on oblique grids its box in voxel space is larger
        than the cell, which only moves cells from core and outside to cover.
    state : (ni, nj, nk)
        Filled.
    """
    ni, nj, nk = table.shape[0] - 1, table.shape[1] - 1, table.shape[2] - 1
    half = np.empty(3)
    for axis in range(3):
        reach = abs(matrix[axis, 0]) + abs(matrix[axis, 1]) + abs(matrix[axis, 2])
        half[axis] = reach * (0.5 + margin_mm) - 0.5
    for a in range(state.shape[0]):
        for b in range(state.shape[1]):
            for c in range(state.shape[2]):
                x, y, z = low_cell[0] + a, low_cell[1] + b, low_cell[2] + c
                u = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]
                v = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]
                w = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
                i0, i1 = int(np.ceil(u - half[0])) - 1, int(np.floor(u + half[0])) + 1
                j0, j1 = int(np.ceil(v - half[1])) - 1, int(np.floor(v + half[1])) + 1
                k0, k1 = int(np.ceil(w - half[2])) - 1, int(np.floor(w + half[2])) + 1
                n_all = (i1 - i0 + 1) * (j1 - j0 + 1) * (k1 - k0 + 1)
                i0, i1 = _clamp(i0, ni), _clamp(i1 + 1, ni)
                j0, j1 = _clamp(j0, nj), _clamp(j1 + 1, nj)
                k0, k1 = _clamp(k0, nk), _clamp(k1 + 1, nk)
                n = (
                    table[i1, j1, k1]
                    - table[i0, j1, k1]
                    - table[i1, j0, k1]
                    - table[i1, j1, k0]
                    + table[i0, j0, k1]
                    + table[i0, j1, k0]
                    + table[i1, j0, k0]
                    - table[i0, j0, k0]
                )
                state[a, b, c] = OUTSIDE if n == 0 else (CORE if n == n_all else COVER)


@njit(nogil=True)
def _is_inner(state: NDArray[np.uint8], i: int, j: int, k: int, level: int) -> bool:
    """Tell whether all 26 neighbours of a cell, none at the edge, reach the level too."""
    if i == 0 or j == 0 or k == 0:
        return False
    if i + 1 == state.shape[0] or j + 1 == state.shape[1] or k + 1 == state.shape[2]:
        return False
    for a in range(i - 1, i + 2):
        for b in range(j - 1, j + 2):
            for c in range(k - 1, k + 2):
                if state[a, b, c] < level:
                    return False
    return True


@njit(nogil=True)
def mark_passing(
    state: NDArray[np.uint8],
    level: int,
    low: NDArray[np.int64],
    shape: NDArray[np.int64],
    hit_offsets: NDArray[np.int64],
    hits: NDArray[np.uint32],
    start_offsets: NDArray[np.int64],
    starts: NDArray[np.uint32],
    bits: NDArray[np.uint64],
) -> None:
    """Mark the streamlines that pass through cells of a level.

    One that does either comes in from outside, through a cell with a neighbour outside, or starts
    inside: the lists of all other cells need not be read.

    Parameters
    ----------
    state : (ni, nj, nk)
        Levels of a box of cells.
    low, shape : (3,)
        Lattice cell of ``state[0, 0, 0]``, and shape of the lattice. The box lies inside it.
    """
    for i in range(state.shape[0]):
        for j in range(state.shape[1]):
            row = ((low[0] + i) * shape[1] + low[1] + j) * shape[2] + low[2]
            for k in range(state.shape[2]):
                if state[i, j, k] < level:
                    continue
                cell = row + k
                if _is_inner(state, i, j, k, level):
                    for at in range(start_offsets[cell], start_offsets[cell + 1]):
                        rank = starts[at]
                        bits[rank >> 6] |= np.uint64(1) << np.uint64(rank & 63)
                else:
                    for at in range(hit_offsets[cell], hit_offsets[cell + 1]):
                        if hits[at] & np.uint32(3) != NEAR_VERTEX:
                            rank = hits[at] >> np.uint32(KIND_BITS)
                            bits[rank >> 6] |= np.uint64(1) << np.uint64(rank & 63)


@njit(nogil=True)
def mark_vertices(
    state: NDArray[np.uint8],
    low: NDArray[np.int64],
    shape: NDArray[np.int64],
    hit_offsets: NDArray[np.int64],
    hits: NDArray[np.uint32],
    bits: NDArray[np.uint64],
    maybe: NDArray[np.uint64],
) -> None:
    """Mark the streamlines with a vertex surely in a core cell, and those that may have one."""
    for i in range(state.shape[0]):
        for j in range(state.shape[1]):
            row = ((low[0] + i) * shape[1] + low[1] + j) * shape[2] + low[2]
            for k in range(state.shape[2]):
                if state[i, j, k] == OUTSIDE:
                    continue
                for at in range(hit_offsets[row + k], hit_offsets[row + k + 1]):
                    kind = hits[at] & np.uint32(3)
                    if kind == PASSES:
                        continue
                    rank = hits[at] >> np.uint32(KIND_BITS)
                    bit = np.uint64(1) << np.uint64(rank & 63)
                    if kind == SURE_VERTEX and state[i, j, k] == CORE:
                        bits[rank >> 6] |= bit
                    else:
                        maybe[rank >> 6] |= bit


@njit(nogil=True)
def count_bits(bits: NDArray[np.uint64]) -> int:
    """Return how many bits are set."""
    n = 0
    for word in bits:
        rest = word
        while rest:
            rest &= rest - np.uint64(1)
            n += 1
    return n


@njit(nogil=True)
def list_bits(bits: NDArray[np.uint64], members: NDArray[np.int64]) -> None:
    """Write the numbers of the set bits, ascending."""
    n = 0
    for w in range(len(bits)):
        rest = bits[w]
        at = w * 64
        while rest:
            while not rest & np.uint64(0xFF):
                rest >>= np.uint64(8)
                at += 8
            if rest & np.uint64(1):
                members[n] = at
                n += 1
            rest >>= np.uint64(1)
            at += 1


@njit(nogil=True)
def _crosses(
    points: NDArray[np.float32],
    n_points: int,
    matrix: NDArray[np.float64],
    low: NDArray[np.int64],
    lesion: NDArray[np.uint8],
    shape: NDArray[np.int64],
    out: NDArray[np.int64],
) -> bool:
    """Tell whether a polyline passes through a lesioned voxel; `out` holds the longest walk."""
    flat = lesion.reshape(-1)
    last = (np.int64(0), np.int64(0), np.int64(0))
    for p in range(n_points):
        i, j, k = to_units(points[p, 0], points[p, 1], points[p, 2], matrix)
        here = (
            i - (low[0] << FRACTION_BITS),
            j - (low[1] << FRACTION_BITS),
            k - (low[2] << FRACTION_BITS),
        )
        if p == 0:
            last = here
        apart = False
        for axis in range(3):
            end = shape[axis] << FRACTION_BITS
            below = here[axis] < 0 and last[axis] < 0
            if below or (here[axis] >= end and last[axis] >= end):
                apart = True
        if not apart:
            a, b, c = (
                here[0] >> FRACTION_BITS,
                here[1] >> FRACTION_BITS,
                here[2] >> FRACTION_BITS,
            )
            inside = 0 <= a < shape[0] and 0 <= b < shape[1] and 0 <= c < shape[2]
            if inside and lesion[a, b, c]:
                return True
            n = _walk(last, here, shape, out, 0)
            for v in range(n):
                if flat[out[v]]:
                    return True
        last = here
    return False


@njit(nogil=True)
def _holds_vertex(
    points: NDArray[np.float32],
    n_points: int,
    frame: Frame,
    low: NDArray[np.int64],
    lesion: NDArray[np.uint8],
) -> bool:
    """Tell whether a vertex lies in a lesioned voxel, by the rule of the frame."""
    for p in range(n_points):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        if frame.rule == MRTRIX:
            voxel = voxel_mrtrix(x, y, z, frame.matrix_single, frame.shape)
        else:
            voxel = voxel_of_point(x, y, z, frame.matrix, frame.shape)
        if voxel < 0:
            continue
        k = voxel % frame.shape[2] - low[2]
        j = voxel // frame.shape[2] % frame.shape[1] - low[1]
        i = voxel // frame.shape[2] // frame.shape[1] - low[0]
        if i < 0 or j < 0 or k < 0:
            continue
        if i < lesion.shape[0] and j < lesion.shape[1] and k < lesion.shape[2] and lesion[i, j, k]:
            return True
    return False


@njit(nogil=True)
def refine(
    block: Block,
    ranks: NDArray[np.int64],
    frame: Frame,
    low: NDArray[np.int64],
    lesion: NDArray[np.uint8],
    longest_walk: int,
    bits: NDArray[np.uint64],
) -> None:
    """Mark those of a block's streamlines that the lesion cuts, by their points.

    Parameters
    ----------
    ranks : (n,)
        Bit of each streamline of the block.
    low : (3,)
        Voxel, in the canonical lesion grid, of ``lesion[0, 0, 0]``.
    longest_walk
        Voxels that one step between two points can pass through.
    """
    points = np.empty((256, 3), np.float32)
    out = np.empty(longest_walk, np.int64)
    shape = np.array(lesion.shape, np.int64)
    for s in range(len(ranks)):
        points = load_points(block, s, points)
        n = block.counts[s]
        if frame.rule == SEGMENT:
            cut = _crosses(points, n, frame.matrix, low, lesion, shape, out)
        else:
            cut = _holds_vertex(points, n, frame, low, lesion)
        if cut:
            rank = ranks[s]
            bits[rank >> 6] |= np.uint64(1) << np.uint64(rank & 63)


@njit(nogil=True)
def add_visits(
    ranks: NDArray[np.int64],
    offsets: NDArray[np.int64],
    visits: NDArray[np.uint32],
    counts: NDArray[np.int32],
) -> None:
    """Count the visits of some streamlines per visited voxel."""
    for r in range(len(ranks)):
        for at in range(offsets[ranks[r]], offsets[ranks[r] + 1]):
            counts[visits[at]] += 1


@njit(nogil=True)
def add_weighted_visits(
    ranks: NDArray[np.int64],
    offsets: NDArray[np.int64],
    visits: NDArray[np.uint32],
    weights: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> None:
    """Sum the weights, one per streamline of `ranks`, per visited voxel, in this order."""
    for r in range(len(ranks)):
        for at in range(offsets[ranks[r]], offsets[ranks[r] + 1]):
            sums[visits[at]] += weights[r]
