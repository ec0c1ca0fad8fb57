"""From lattice cells to cut streamlines, and from cut streamlines to counts per voxel.

Sets of streamlines are bit sets: one bit per streamline, 64 to a word.
"""

from typing import NamedTuple

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
    load_point,
)
from lacuna.tractogram._kernels.mrtrix import voxel_mrtrix
from lacuna.tractogram._kernels.segment import (
    FRACTION_BITS,
    Units,
    _walk,
    flat_voxel,
    to_units,
    voxel_of_point,
)

OUTSIDE, COVER, CORE = 0, 1, 2
"""How a lattice cell lies to a lesion: apart from it; touching it; wholly inside it."""


ZERO = np.float32(0)


class Near(NamedTuple):
    """What is near a lesion: most points of a streamline are not, and need no exact look.

    `clear` is `CORE` in 1 mm cells from which the lesion is at least half of `longest_mm` away,
    further than rounding can move a point; it begins at the cell centred at `first`, mm. So is
    all that lies beyond these cells.
    """

    first: tuple[float, float, float]
    clear: NDArray[np.uint8]
    longest_mm: float


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
def classify_aligned_cells(
    mask: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    low_cell: NDArray[np.int64],
    margin_mm: float,
    state: NDArray[np.uint8],
) -> None:
    """Do what `classify_cells` does for a grid whose axes are those of the world.

    The voxels that a cell touches are then a span along each axis, the same for all cells of a
    plane: a cell touches lesion, or healthy voxels, if one of its planes does, and so on.

    Parameters
    ----------
    mask : (ni, nj, nk)
        The lesion's box.
    """
    spans = np.empty((3, max(state.shape), 2), np.int64)
    for axis in range(3):
        half = abs(matrix[axis, axis]) * (0.5 + margin_mm) - 0.5
        for c in range(state.shape[axis]):
            middle = matrix[axis, axis] * (low_cell[axis] + c) + matrix[axis, 3]
            spans[axis, c, 0] = int(np.ceil(middle - half)) - 1
            spans[axis, c, 1] = int(np.floor(middle + half)) + 1
    # Bit 0: touches lesion, bit 1: touches what is not.
    touched = np.where(mask > 0, np.uint8(1), np.uint8(2))
    planes = np.empty((state.shape[0], mask.shape[1], mask.shape[2]), np.uint8)
    for a in range(len(planes)):
        _merge(touched, spans[0, a], planes[a])
    lines = np.empty((state.shape[1], mask.shape[2]), np.uint8)
    for a in range(len(planes)):
        for b in range(len(lines)):
            _merge(planes[a], spans[1, b], lines[b])
        for b in range(len(lines)):
            for c in range(state.shape[2]):
                first, last = spans[2, c, 0], spans[2, c, 1]
                found = np.uint8(2 if first < 0 or last >= mask.shape[2] else 0)
                for k in range(max(first, 0), min(last + 1, mask.shape[2])):
                    found |= lines[b, k]
                state[a, b, c] = CORE if found == 1 else (OUTSIDE if found == 2 else COVER)


@njit(nogil=True)
def _merge(layers: NDArray[np.uint8], span: NDArray[np.int64], merged: NDArray[np.uint8]) -> None:
    """Join what the layers of a span touch; beyond the first and last layer is no lesion."""
    merged[:] = 2 if span[0] < 0 or span[1] >= len(layers) else 0
    for layer in range(max(span[0], 0), min(span[1] + 1, len(layers))):
        merged |= layers[layer]


@njit(nogil=True)
def mark_passing(
    state: NDArray[np.uint8],
    eroded: NDArray[np.uint8],
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
    state, eroded : (ni, nj, nk)
        Levels of a box of cells, and what `erode` makes of them.
    low, shape : (3,)
        Lattice cell of ``state[0, 0, 0]``, and shape of the lattice. The box lies inside it.
    """
    for i in range(state.shape[0]):
        for j in range(state.shape[1]):
            row = ((low[0] + i) * shape[1] + low[1] + j) * shape[2] + low[2]
            k = 0
            while k < state.shape[2]:
                first = k
                k += 1
                if state[i, j, first] < level:
                    continue
                inner = eroded[i, j, first] >= level
                # Lists of neighbours along k follow each other.
                while (
                    k < state.shape[2]
                    and state[i, j, k] >= level
                    and (eroded[i, j, k] >= level) == inner
                ):
                    k += 1
                if inner:
                    for rank in starts[start_offsets[row + first] : start_offsets[row + k]]:
                        bits[rank >> 6] |= np.uint64(1) << np.uint64(rank & 63)
                else:
                    for hit in hits[hit_offsets[row + first] : hit_offsets[row + k]]:
                        if hit & np.uint32(3) != NEAR_VERTEX:
                            rank = hit >> np.uint32(KIND_BITS)
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
def _is_clear(
    x: float, y: float, z: float, first: tuple[float, float, float], clear: NDArray[np.uint8]
) -> bool:
    """Tell whether a point is clear of the lesion, as `Near` has it."""
    i = int(np.floor(x - first[0] + 0.5))
    j = int(np.floor(y - first[1] + 0.5))
    k = int(np.floor(z - first[2] + 0.5))
    ni, nj, nk = clear.shape
    if i < 0 or j < 0 or k < 0 or i >= ni or j >= nj or k >= nk:
        return True
    return bool(clear[i, j, k] == CORE)


@njit(nogil=True)
def _units_from(
    x: float, y: float, z: float, matrix: NDArray[np.float64], low: NDArray[np.int64]
) -> Units:
    """Return a point in voxel steps from the first corner of voxel `low`."""
    # Shifted as integers: shifting the matrix would round otherwise than the walk through the grid.
    i, j, k = to_units(x, y, z, matrix)
    return (
        i - (low[0] << FRACTION_BITS),
        j - (low[1] << FRACTION_BITS),
        k - (low[2] << FRACTION_BITS),
    )


@njit(nogil=True)
def _crosses(
    block: Block,
    s: int,
    near: Near,
    matrix: NDArray[np.float64],
    low: NDArray[np.int64],
    lesion: NDArray[np.uint8],
    shape: NDArray[np.int64],
    out: NDArray[np.int64],
) -> bool:
    """Tell whether a polyline passes through a lesioned voxel; `out` holds the longest walk."""
    first, clear, flat = near.first, near.clear, lesion.reshape(-1)
    longest = near.longest_mm**2
    was_clear, looked = True, -1
    last = (np.int64(0), np.int64(0), np.int64(0))
    before = load_point(block, s, 0) if block.counts[s] else (ZERO, ZERO, ZERO)
    for p in range(block.counts[s]):
        x, y, z = load_point(block, s, p)
        is_clear = _is_clear(x, y, z, first, clear)
        dx, dy, dz = x - before[0], y - before[1], z - before[2]
        # Between two clear points the lesion is too far from both for a step of that length.
        if is_clear and was_clear and dx * dx + dy * dy + dz * dz < longest:
            before = (x, y, z)
            continue
        if p > 0 and looked < p - 1:
            last = _units_from(before[0], before[1], before[2], matrix, low)
        before = (x, y, z)
        here = _units_from(x, y, z, matrix, low)
        voxel = flat_voxel(
            here[0] >> FRACTION_BITS, here[1] >> FRACTION_BITS, here[2] >> FRACTION_BITS, shape
        )
        if voxel >= 0 and flat[voxel]:
            return True
        if p > 0:
            n = _walk(last, here, shape, out, 0)
            for v in range(n):
                if flat[out[v]]:
                    return True
        last, looked, was_clear = here, p, is_clear
    return False


@njit(nogil=True)
def _holds_vertex(
    block: Block,
    s: int,
    near: Near,
    frame: Frame,
    low: NDArray[np.int64],
    lesion: NDArray[np.uint8],
) -> bool:
    """Tell whether a vertex lies in a lesioned voxel, by the rule of the frame."""
    first, clear = near.first, near.clear
    for p in range(block.counts[s]):
        x, y, z = load_point(block, s, p)
        if _is_clear(x, y, z, first, clear):
            continue
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
    frame: Frame,
    near: Near,
    low: NDArray[np.int64],
    lesion: NDArray[np.uint8],
    longest_walk: int,
    is_cut: NDArray[np.bool_],
) -> None:
    """Tell which of a block's streamlines the lesion cuts, by their points.

    Parameters
    ----------
    low : (3,)
        Voxel, in the canonical lesion grid, of ``lesion[0, 0, 0]``.
    longest_walk
        Voxels that one step between two points can pass through.
    is_cut
        Filled, by the block's numbers.
    """
    out = np.empty(longest_walk, np.int64)
    shape = np.array(lesion.shape, np.int64)
    for s in range(len(block.numbers)):
        if frame.rule == SEGMENT:
            cut = _crosses(block, s, near, frame.matrix, low, lesion, shape, out)
        else:
            cut = _holds_vertex(block, s, near, frame, low, lesion)
        is_cut[block.numbers[s]] = cut


@njit(nogil=True)
def set_bits(numbers: NDArray[np.int64], bits: NDArray[np.uint64]) -> None:
    """Add numbers to a set."""
    for number in numbers:
        bits[number >> 6] |= np.uint64(1) << np.uint64(number & 63)


@njit(nogil=True)
def add_visits(
    ranks: NDArray[np.int64],
    offsets: NDArray[np.int64],
    visits: NDArray[np.uint32],
    counts: NDArray[np.int32],
) -> None:
    """Count the visits of some streamlines, ascending, per visited voxel."""
    r = 0
    while r < len(ranks):
        first = ranks[r]
        # Streamlines that are cut together lie together: one long list.
        while r + 1 < len(ranks) and ranks[r + 1] == ranks[r] + 1:
            r += 1
        # A slice spares the loop a check for negative indices: a quarter of its time.
        for voxel in visits[offsets[first] : offsets[ranks[r] + 1]]:
            counts[voxel] += 1
        r += 1


@njit(nogil=True)
def spread_ratios(
    counts: NDArray[np.int32],
    totals: NDArray[np.int64],
    voxels: NDArray[np.int64],
    volume: NDArray[np.float32],
) -> None:
    """Write ``counts / totals`` into a volume of zeros."""
    for v in range(len(counts)):
        if counts[v]:
            volume[voxels[v]] = counts[v] / totals[v]


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
