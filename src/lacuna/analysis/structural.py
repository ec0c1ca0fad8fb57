"""Structural disconnection: what the streamlines that a lesion cuts leave unserved.

Of the streamlines S of a tractogram a lesion cuts C. With TDI_X(v) the streamlines of X that visit
voxel v, the disconnection of v is TDI_C(v) / TDI_S(v), as in the Lesion Quantification Toolkit
(doi:10.1016/j.nicl.2021.102639).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import OptionError
from lacuna.geometry.grid import BoolArray, FloatArray, Grid
from lacuna.tractogram.query import Index, LesionBox, check_weights

DEFAULT_MIN_TDI = 10
"""Fewer streamlines than that say nothing about a voxel: their ratio is 0 or 1 by chance."""

THRESHOLDS = (0.01, 0.1, 0.5)
"""Disconnection from which on a voxel counts towards a thresholded volume."""

_ROUNDING = 1e-9
"""By how much sums of weights may miss a threshold that they meet."""


@dataclass(frozen=True, eq=False)
class Weighting:
    """A weight for each streamline, and their sums per visited voxel.

    Parameters
    ----------
    weights : (n_streamlines,)
        By number in the file; not negative.
    sums : (n_visited,)
        Summed over all streamlines that visit each voxel.
    """

    weights: NDArray[np.float64]
    sums: NDArray[np.float64]

    @classmethod
    def of(cls, index: Index, weights: FloatArray) -> "Weighting":
        """Check weights and sum them.

        Raises
        ------
        OptionError
            If there is not one weight for each streamline, or one is negative or not finite.
        """
        checked = check_weights(weights, index.n_streamlines)
        return cls(checked, index.weigh(np.arange(index.n_streamlines), checked))


@dataclass(frozen=True, eq=False)
class Disconnection:
    """What one lesion disconnects.

    Arrays ``(n_visited,)`` belong to ``index.map.voxels``; volumes have the shape and orientation
    of the report grid as stored.

    Parameters
    ----------
    index
        The index that was asked.
    cut_ranks : (n_cut,)
        Ranks of the streamlines cut, ascending.
    cut_counts : (n_visited,)
        Streamlines cut that visit each voxel.
    min_tdi
        Streamlines a voxel needs to be covered.
    weighting
        Streamline weights, if any; the ratio is then one of weights.
    cut_sums : (n_visited,)
        Weights of the streamlines cut that visit each voxel; none without weights.
    """

    index: Index
    cut_ranks: NDArray[np.int64]
    cut_counts: NDArray[np.int32]
    min_tdi: int
    weighting: Weighting | None = None
    cut_sums: NDArray[np.float64] | None = None

    @property
    def grid(self) -> Grid:
        """The report grid."""
        return self.index.map.grid

    @property
    def rule(self) -> str:
        """The mapping rule."""
        return self.index.map.rule

    @property
    def n_streamlines(self) -> int:
        """Streamlines of the tractogram."""
        return self.index.n_streamlines

    @property
    def n_cut(self) -> int:
        """Streamlines cut."""
        return len(self.cut_ranks)

    @property
    def cut_fraction(self) -> float:
        """Share of the streamlines that are cut."""
        return self.n_cut / self.n_streamlines

    @cached_property
    def cut_ids(self) -> NDArray[np.int64]:
        """Numbers in the file of the streamlines cut, ascending, (n_cut,)."""
        return np.sort(self.index.parts.order[self.cut_ranks]).astype(np.int64)

    @property
    def weight_total(self) -> float:
        """Summed weight of all streamlines; their number without weights."""
        return float(self.weighting.weights.sum()) if self.weighting else float(self.n_streamlines)

    @property
    def weight_cut(self) -> float:
        """Summed weight of the streamlines cut; their number without weights."""
        return float(self.weighting.weights[self.cut_ids].sum()) if self.weighting else self.n_cut

    @cached_property
    def ratios(self) -> NDArray[np.float64]:
        """Disconnection of each visited voxel, (n_visited,); 0 where the total weight is 0."""
        if self.weighting is None or self.cut_sums is None:
            return self.cut_counts / self.index.map.tdi
        sums = self.weighting.sums
        return np.divide(self.cut_sums, sums, out=np.zeros_like(sums), where=sums > 0)

    @cached_property
    def covered(self) -> BoolArray:
        """Whether each visited voxel has enough streamlines, (n_visited,)."""
        return np.asarray(self.index.map.tdi >= self.min_tdi)

    @property
    def n_visited(self) -> int:
        """Voxels that any streamline visits."""
        return len(self.index.map.voxels)

    @property
    def n_covered(self) -> int:
        """Voxels of the coverage mask."""
        return int(self.covered.sum())

    @property
    def disconnected_pct(self) -> float | None:
        """Mean disconnection of the covered voxels, percent; none if none is covered."""
        if not self.n_covered:
            return None
        return 100.0 * float(self.ratios[self.covered].sum()) / self.n_covered

    @property
    def disconnected_mm3(self) -> dict[float, float | None]:
        """Volume, mm³, of the covered voxels at or above each of `THRESHOLDS`."""
        ratios, volume = self.ratios[self.covered], self.grid.voxel_volume_mm3
        numbers = {at: (ratios >= at * (1 - _ROUNDING)).sum() for at in THRESHOLDS}
        return {at: float(n * volume) if len(ratios) else None for at, n in numbers.items()}

    @cached_property
    def disconnection(self) -> NDArray[np.float32]:
        """Volume of ratios in [0, 1]; 0 where no streamline runs."""
        if self.weighting is None:
            return self.index.ratio_volume(self.cut_counts)
        return self.index.to_grid(self.ratios.astype(np.float32))

    @cached_property
    def cut_tdi(self) -> NDArray[np.int32]:
        """Volume of streamlines cut."""
        return self.index.to_grid(self.cut_counts)

    @cached_property
    def tdi(self) -> NDArray[np.int32]:
        """Volume of all streamlines."""
        return self.index.to_grid(self.index.map.tdi.astype(np.int32))

    @cached_property
    def coverage(self) -> NDArray[np.bool_]:
        """Volume of the coverage mask."""
        return self.index.to_grid(self.covered)


def disconnect_voxels(
    index: Index,
    mask: BoolArray,
    grid: Grid,
    *,
    min_tdi: int = DEFAULT_MIN_TDI,
    weighting: Weighting | None = None,
    threads: int = 1,
) -> Disconnection:
    """Return what a lesion disconnects.

    The lesion decides on its own grid which streamlines are cut; the index's report grid only says
    where they run.

    Parameters
    ----------
    index
        An open index, in the lesion's space.
    mask : grid.shape
        Lesioned voxels, as stored.
    grid
        Where they are.
    min_tdi
        Streamlines a voxel needs to be covered.
    weighting
        Streamline weights.
    threads
        Threads for this lesion; the answer does not depend on it.

    Raises
    ------
    LesionError
        If no voxel is lesioned, or the mask does not fit the grid.
    """
    if min_tdi < 1:
        raise OptionError(f"min_tdi is {min_tdi}: a covered voxel needs at least 1 streamline.")
    ranks = index.cut(LesionBox.of(mask, grid), threads=threads)
    counts = index.count(ranks, threads=threads)
    sums = index.weigh(ranks, weighting.weights) if weighting else None
    return Disconnection(index, ranks, counts, min_tdi, weighting, sums)


def disconnect_spheres(
    index: Index,
    centres_mm: FloatArray,
    radius_mm: float,
    *,
    min_tdi: int = DEFAULT_MIN_TDI,
    threads: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Lesion the brain with one sphere after another.

    Parameters
    ----------
    index
        An open index.
    centres_mm : (n, 3)
        Where, mm RAS+; moved to whole mm.
    radius_mm
        Radius: a 1 mm voxel belongs to the sphere if its centre does.
    min_tdi
        Streamlines a voxel needs to be covered.
    threads
        Spheres at once.

    Returns
    -------
    n_cut : (n,)
        Streamlines that each sphere cuts.
    disconnected_pct : (n,)
        As `Disconnection.disconnected_pct`; not-a-number if no voxel is covered.
    """
    reach = int(np.ceil(radius_mm))
    steps = np.arange(-reach, reach + 1) ** 2
    mask = steps[:, None, None] + steps[:, None] + steps <= radius_mm**2

    def lesion(centre: FloatArray) -> tuple[int, float]:
        affine = np.eye(4)
        affine[:3, 3] = np.rint(centre) - reach
        shape = (mask.shape[0], mask.shape[1], mask.shape[2])
        result = disconnect_voxels(index, mask, Grid(shape, affine), min_tdi=min_tdi)
        pct = result.disconnected_pct
        return result.n_cut, np.nan if pct is None else pct

    with ThreadPoolExecutor(threads) as pool:
        found: Sequence[tuple[int, float]] = list(pool.map(lesion, np.asarray(centres_mm)))
    return np.array([n for n, _ in found], np.int64), np.array([pct for _, pct in found])
