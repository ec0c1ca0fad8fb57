"""Questions to an index: which streamlines a lesion cuts, and where they run.

A cut is filter and refine. Lattice cells wholly inside the lesion prove a cut, cells that only
touch it name candidates, and the candidates' own points decide, on the lesion's own grid. On 1 mm
grids with centres on whole mm the cells *are* the voxels, and the line rule needs no points.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

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
        stored = _lesioned_voxels(mask)
        if not len(stored[0]):
            raise LesionError("The lesion is empty: no voxel of the mask is set.")
        turn = grid.orientation
        at = [
            grid.shape[axis] - 1 - stored[axis] if flip else stored[axis]
            for axis, flip in zip(turn.axes, turn.flips, strict=True)
        ]
        low = np.array([axis.min() for axis in at], np.int64)
        box = np.zeros([int(axis.max() - axis.min() + 1) for axis in at], np.uint8)
        box[tuple(axis - first for axis, first in zip(at, low, strict=True))] = 1
        return cls(grid, low, box, len(at[0]))

    @cached_property
    def lattice_low(self) -> NDArray[np.int64] | None:
        """World position of the box's first voxel, if its voxels are lattice cells, else none."""
        affine = self.grid.canonical.affine
        aligned = np.array_equal(affine[:3, :3], np.eye(3))
        if not aligned or not np.array_equal(affine[:3, 3], np.rint(affine[:3, 3])):
            return None
        return affine[:3, 3].astype(np.int64) + self.low


def _lesioned_voxels(mask: BoolArray) -> tuple[NDArray[np.intp], ...]:
    """Return the stored indices of the set voxels, (n,) for each axis, in memory order."""
    order: Literal["F", "C"] = "F" if mask.flags.f_contiguous else "C"
    flat = mask.ravel(order=order).view(np.uint8)
    words = flat[: len(flat) // 8 * 8].view(np.uint64)
    found = np.empty(1 << 16, np.int64)
    n = query.find_voxels(flat, words, found)
    if n > len(found):
        found = np.empty(n, np.int64)
        query.find_voxels(flat, words, found)
    voxels: tuple[NDArray[np.intp], ...] = np.unravel_index(found[:n], mask.shape, order)
    return voxels


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

    def cut(self, lesion: LesionBox) -> NDArray[np.int64]:
        """Return the ranks of the streamlines that a lesion cuts, ascending.

        Parameters
        ----------
        lesion
            Its voxels, on its own grid, which may be any.

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
            query.mark_passing(state, query.CORE, *marking, bits)
            if lesion.lattice_low is None:
                query.mark_passing(state, query.COVER, *marking, maybe)
        else:
            query.mark_vertices(state, low, shape, *lists, bits, maybe)
        maybe &= ~bits
        self._refine(members(maybe), lesion, frame, box_low, bits)
        return members(bits)

    def count(self, ranks: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return how many of some streamlines visit each voxel of ``map.voxels``, (n_visited,)."""
        counts = np.zeros(len(self.map.voxels), np.int32)
        query.add_visits(ranks, self.map.offsets, self.map.visits, counts)
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

    def _refine(
        self,
        candidates: NDArray[np.int64],
        lesion: LesionBox,
        frame: Frame,
        box_low: NDArray[np.int64],
        bits: NDArray[np.uint64],
    ) -> None:
        """Set the bits of those candidates that the lesion cuts, by their points."""
        if not len(candidates):
            return
        ids = self.parts.order[candidates]
        some = Streamlines(
            self.streamlines.words,
            self.parts.firsts[ids],
            self.parts.counts[ids],
            self.streamlines.stride,
            self.streamlines.world_from_stored,
        )
        walk = longest_walk(self.parts, lesion.grid)
        for block in blocks(some, np.arange(len(some))):
            ranks = candidates[block.numbers]
            query.refine(block, ranks, frame, box_low, lesion.mask, walk, bits)


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


def _classify(lesion: LesionBox) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return core, cover and outside for the 1 mm cells around a lesion on any grid."""
    canonical = lesion.grid.canonical
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in lesion.mask.shape])).reshape(3, -1).T
    world = canonical.to_world(corners + lesion.low)
    around = Grid.over_box(world.min(axis=0) - 0.1, world.max(axis=0) + 0.1, 1.0)
    low = around.affine[:3, 3].astype(np.int64)
    matrix = canonical.voxel_from_world[:3].copy()
    matrix[:, 3] -= lesion.low
    state = np.empty(around.shape, np.uint8)
    query.classify_cells(query.sum_table(lesion.mask), matrix, low, CELL_MARGIN_MM, state)
    return state, low
