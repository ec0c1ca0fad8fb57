"""Questions to an index: which streamlines a lesion cuts, and where they run.

A cut is filter and refine. Lattice cells wholly inside the lesion prove a cut, cells that only
touch it name candidates, and the candidates' own points decide, on the lesion's own grid. On 1 mm
grids with centres on whole mm the cells *are* the voxels, and the line rule needs no points.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import GridError, LesionError, OptionError
from lacuna.geometry.grid import MAX_VOXELS_PER_AXIS, BoolArray, FloatArray, Grid, Scalar
from lacuna.geometry.streamlines import Streamlines
from lacuna.tractogram._kernels import query
from lacuna.tractogram._kernels.build import Frame
from lacuna.tractogram.index import Hits, Map, Parts, blocks, longest_walk
from lacuna.tractogram.mrtrix import first_of_region, mrtrix_frame
from lacuna.tractogram.rules import frame_of

CELL_MARGIN_MM = 1e-3
"""Cells are widened by it before they count as inside or apart: more than rounding can move."""
LEAST_SHARE = 1000
"""Starting a thread costs as much as some hundred streamlines."""
MOST_CELLS_CLEAR = 3
"""Looking further around each cell costs more than it saves: steps over 6 mm are rare."""

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class LesionBox:
    """The part of a lesion's canonical grid that holds all of it.

    Parameters
    ----------
    grid
        The whole grid, in any orientation.
    low : (3,)
        Canonical voxel of ``mask[0, 0, 0]``.
    mask : (ni, nj, nk), uint8
        1 in lesioned voxels.
    n_voxels
        Lesioned voxels.
    """

    grid: Grid
    low: NDArray[np.int64]
    mask: NDArray[np.uint8]
    n_voxels: int

    @classmethod
    def of(cls, mask: BoolArray, grid: Grid) -> "LesionBox":
        """Cut the box out of a mask.

        Parameters
        ----------
        mask : grid.shape
            Lesioned voxels, as stored.
        grid
            Where they are.

        Raises
        ------
        LesionError
            If the mask is empty, or is not of the grid's shape.
        """
        if mask.shape != grid.shape:
            raise LesionError(f"A mask of shape {mask.shape} does not fit a grid of {grid.shape}.")
        spans = _spans(mask)
        turn = grid.orientation
        box = np.ascontiguousarray(turn.to_canonical(mask[spans]), np.uint8)
        low = [
            grid.shape[axis] - spans[axis].stop if flip else spans[axis].start
            for axis, flip in zip(turn.axes, turn.flips, strict=True)
        ]
        return cls(grid, np.array(low, np.int64), box, int(np.count_nonzero(box)))

    @cached_property
    def lattice_low(self) -> NDArray[np.int64] | None:
        """World position of the box's first voxel, if its voxels are lattice cells, else none."""
        affine = self.grid.canonical.affine
        aligned = np.array_equal(affine[:3, :3], np.eye(3))
        if not aligned or not np.array_equal(affine[:3, 3], np.rint(affine[:3, 3])):
            return None
        return affine[:3, 3].astype(np.int64) + self.low

    def world_box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the corners of an axis-aligned box around the lesion, mm RAS+."""
        ends = [(-0.5, n - 0.5) for n in self.mask.shape]
        corners = np.array(np.meshgrid(*ends)).reshape(3, -1).T
        world = self.grid.canonical.to_world(corners + self.low).astype(np.float64)
        return world.min(axis=0), world.max(axis=0)


def _spans(mask: BoolArray) -> tuple[slice, ...]:
    """Return along each stored axis from where to where there are lesioned voxels."""
    # Most of a mask is empty: planes are searched in memory order, as fast as memory is read.
    is_fortran = mask.flags.f_contiguous
    straight = mask.T if is_fortran else np.ascontiguousarray(mask)
    planes = np.flatnonzero(np.any(straight.reshape(len(straight), -1), axis=1))
    if not len(planes):
        raise LesionError("The lesion is empty: no voxel of the mask is set.")
    merged = np.any(straight[planes[0] : planes[-1] + 1], axis=0)
    rows, columns = np.any(merged, axis=1), np.any(merged, axis=0)
    found = planes, np.flatnonzero(rows), np.flatnonzero(columns)
    spans = [slice(int(at[0]), int(at[-1]) + 1) for at in found]
    return tuple(spans[::-1] if is_fortran else spans)


@dataclass(frozen=True, eq=False)
class Index:
    """An index, opened: the tractogram, its three parts, and what may be asked of them.

    Parameters
    ----------
    streamlines
        The tractogram; only points of doubtful candidates and of saved streamlines are read.
    parts, hits, map
        As `lacuna.tractogram.index` opens them.
    """

    streamlines: Streamlines
    parts: Parts
    hits: Hits
    map: Map

    @property
    def n_streamlines(self) -> int:
        """Streamlines of the tractogram."""
        return len(self.parts.order)

    def cut(self, lesion: LesionBox, *, threads: int = 1) -> NDArray[np.int64]:
        """Return the ranks of the streamlines that a lesion cuts, ascending.

        Parameters
        ----------
        lesion
            Its voxels, on its own grid, which may be any.
        threads
            Used where many candidates need a look at their points.

        Returns
        -------
        (n_cut,)
            Ranks; ``parts.order`` takes them to numbers in the file.

        Raises
        ------
        GridError
            If voxels are too small for the longest step between two points.
        """
        if longest_walk(self.parts, lesion.grid) > MAX_VOXELS_PER_AXIS:
            raise GridError(
                f"One step of a streamline, {self.parts.largest_step_mm[0]:.1f} mm, crosses more "
                f"than {MAX_VOXELS_PER_AXIS} voxels of the lesion's grid: use larger voxels."
            )
        state, low = self._cells_of(lesion)
        bits = np.zeros(self.n_streamlines // 64 + 1, np.uint64)
        maybe = np.zeros_like(bits)
        frame, box_low = self._lesion_frame(lesion)
        shape = np.array(self.hits.lattice.shape, np.int64)
        lists = self.hits.offsets, self.hits.hits
        if self.map.rule == "segment":
            marking = low, shape, *lists, self.hits.start_offsets, self.hits.starts
            eroded = _erode(state, 1)
            query.mark_passing(state, eroded, query.CORE, *marking, bits)
            if lesion.lattice_low is None:
                query.mark_passing(state, eroded, query.COVER, *marking, maybe)
        else:
            query.mark_vertices(state, low, shape, *lists, bits, maybe)
        maybe &= ~bits
        candidates = members(maybe)
        if len(candidates):
            look = frame, self._near(state, low), box_low, lesion.mask
            walk = longest_walk(self.parts, lesion.grid)
            is_cut = self._refine(candidates, (*look, walk), threads)
            query.set_bits(candidates[is_cut], bits)
        return members(bits)

    def count(self, ranks: NDArray[np.int64], *, threads: int = 1) -> NDArray[np.int32]:
        """Return how many of some streamlines visit each voxel of ``map.voxels``, (n_visited,)."""

        def add(share: NDArray[np.int64]) -> NDArray[np.int32]:
            counts = np.zeros(len(self.map.voxels), np.int32)
            query.add_visits(share, self.map.offsets, self.map.visits, counts)
            return counts

        counts, *others = _on_threads(add, ranks, threads)
        for other in others:
            counts += other
        return counts

    def weigh(self, ranks: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the summed weights of some streamlines in each voxel of ``map.voxels``.

        Parameters
        ----------
        ranks : (n,)
            Streamlines, ascending: sums are taken in this order, whatever else runs.
        weights : (n_streamlines,)
            Weight of each streamline, by number in the file.

        Returns
        -------
        (n_visited,)
            Sums.
        """
        return sum_weights(self.map, ranks, weights[self.parts.order[ranks]])

    def to_grid(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Spread values (n_visited,) over the report grid as stored, zero elsewhere."""
        return spread(self.map, values)

    def ratio_volume(self, counts: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return counts (n_visited,) over those of all streamlines, on the report grid as stored.

        0 where no streamline runs.
        """
        turned = self.map.grid.canonical
        volume = np.zeros(turned.n_voxels, np.float32)
        query.spread_ratios(counts, self.map.tdi, self.map.voxels, volume)
        return self.map.grid.orientation.from_canonical(volume.reshape(turned.shape))

    def _cells_of(self, lesion: LesionBox) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the states of the lattice cells around a lesion, and the first of these cells."""
        lattice_low = self.hits.lattice.affine[:3, 3].astype(np.int64)
        if lesion.lattice_low is not None:
            state, low = lesion.mask * np.uint8(query.CORE), lesion.lattice_low
        else:
            state, low = _classify(lesion)
        low = low - lattice_low
        high = low + state.shape
        first = np.maximum(low, 0)
        last = np.minimum(high, self.hits.lattice.shape)
        inside = tuple(
            slice(max(a, 0), max(b, 0)) for a, b in zip(first - low, last - low, strict=True)
        )
        return np.ascontiguousarray(state[inside]), first

    def _lesion_frame(self, lesion: LesionBox) -> tuple[Frame, NDArray[np.int64]]:
        """Return how points are looked up in a lesion, and where its box lies in that frame."""
        frame = frame_of(lesion.grid, self.map.rule)
        if self.map.rule != "mrtrix":
            return frame, lesion.low
        first = first_of_region(lesion.low)
        single, cropped = mrtrix_frame(lesion.grid, first)
        shape = np.array(cropped.shape, np.int64)
        return frame._replace(matrix_single=single, shape=shape), lesion.low - first

    def _near(self, state: NDArray[np.uint8], low: NDArray[np.int64]) -> query.Near:
        """Return where points of streamlines need an exact look.

        Parameters
        ----------
        state, low
            As `_cells_of` returns them.
        """
        reach = min(int(self.parts.largest_step_mm[0] / 2) + 1, MOST_CELLS_CLEAR)
        clear = np.full(np.add(state.shape, 2 * reach), query.CORE, np.uint8)
        clear[(slice(reach, -reach),) * 3] -= state
        first = low + self.hits.lattice.affine[:3, 3] - reach
        longest = 2 * (reach - CELL_MARGIN_MM)
        return query.Near(
            (float(first[0]), float(first[1]), float(first[2])), _erode(clear, reach), longest
        )

    def _refine(
        self, candidates: NDArray[np.int64], look: tuple[Any, ...], threads: int
    ) -> NDArray[np.bool_]:
        """Return which candidates the lesion cuts, by their points.

        Parameters
        ----------
        look
            What the kernel needs to know of the lesion.
        """
        ids = self.parts.order[candidates]
        some = Streamlines(
            self.streamlines.words,
            self.parts.firsts[ids],
            self.parts.counts[ids],
            self.streamlines.stride,
            self.streamlines.world_from_stored,
        )
        is_cut = np.empty(len(some), np.bool_)

        def refine(share: NDArray[np.int64]) -> None:
            for block in blocks(some, share):
                query.refine(block, *look, is_cut)

        _on_threads(refine, np.arange(len(some)), threads)
        return is_cut


def _on_threads(
    work: Callable[[NDArray[np.int64]], Found], items: NDArray[np.int64], threads: int
) -> list[Found]:
    """Share items out over threads, where there are enough of them to be worth it."""
    n_shares = max(1, min(threads, len(items) // LEAST_SHARE))
    if n_shares == 1:
        return [work(items)]
    with ThreadPoolExecutor(n_shares) as pool:
        return list(pool.map(work, np.array_split(items, n_shares)))


def check_weights(weights: FloatArray, n_streamlines: int) -> NDArray[np.float64]:
    """Return weights in double precision, if they are weights.

    Raises
    ------
    OptionError
        If there is not one for each streamline, or one is negative or not finite.
    """
    checked = np.asarray(weights, np.float64)
    if checked.shape != (n_streamlines,):
        raise OptionError(
            f"{checked.size} weights do not fit {n_streamlines} streamlines: give one for each, "
            "in the order of the file."
        )
    bad = np.flatnonzero(~(np.isfinite(checked) & (checked >= 0)))
    if len(bad):
        raise OptionError(
            f"Weight {bad[0] + 1} is {checked[bad[0]]}: weights are finite and not negative."
        )
    return checked


def sum_weights(
    map_: Map, ranks: NDArray[np.int64], weights: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the summed weights per voxel of ``map_.voxels``, (n_visited,).

    Parameters
    ----------
    map_
        What each streamline visits.
    ranks, weights : (n,)
        Streamlines in the order of the sums, and the weight of each.
    """
    sums = np.zeros(len(map_.voxels), np.float64)
    query.add_weighted_visits(ranks, map_.offsets, map_.visits, weights.astype(np.float64), sums)
    return sums


def spread(map_: Map, values: NDArray[Scalar]) -> NDArray[Scalar]:
    """Spread values (n_visited,) over the report grid as stored, zero elsewhere."""
    volume = np.zeros(map_.grid.n_voxels, values.dtype)
    volume[map_.voxels] = values
    return map_.grid.orientation.from_canonical(volume.reshape(map_.grid.canonical.shape))


def members(bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the numbers of the set bits, ascending."""
    found = np.empty(query.count_bits(bits), np.int64)
    query.list_bits(bits, found)
    return found


def _erode(state: NDArray[np.uint8], reach: int) -> NDArray[np.uint8]:
    """Return the lowest level within so many cells of each; `OUTSIDE` at the edge of the box."""
    for axis in range(3):
        n = state.shape[axis] - 2 * reach
        eroded = np.zeros_like(state)
        if n > 0:
            shifted = [
                state[(slice(None),) * axis + (slice(shift, shift + n),)]
                for shift in range(2 * reach + 1)
            ]
            inner = eroded[(slice(None),) * axis + (slice(reach, reach + n),)]
            np.minimum(shifted[0], shifted[1], out=inner)
            for other in shifted[2:]:
                np.minimum(inner, other, out=inner)
        state = eroded
    return state


def _classify(lesion: LesionBox) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return core, cover and outside for the 1 mm cells around a lesion on any grid."""
    canonical = lesion.grid.canonical
    world_low, world_high = lesion.world_box()
    around = Grid.over_box(world_low - 0.1, world_high + 0.1, 1.0)
    low = around.affine[:3, 3].astype(np.int64)
    matrix = canonical.voxel_from_world[:3].copy()
    matrix[:, 3] -= lesion.low
    state = np.empty(around.shape, np.uint8)
    if np.count_nonzero(matrix[:, :3]) == 3:
        query.classify_aligned_cells(lesion.mask, matrix, low, CELL_MARGIN_MM, state)
    else:
        table = query.sum_table(lesion.mask)
        query.classify_cells(table, matrix, low, CELL_MARGIN_MM, state)
    return state, low
