"""What many lesions have in common: where they are, and what they disconnect on average.

Lesions come one after another, so that memory does not grow with their number.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import GridError
from lacuna.geometry.grid import BoolArray, Grid
from lacuna.geometry.overlap import covered_shares

N_PARTS = 5
"""Each edge of a voxel that is turned against the target is cut into so many parts."""


class MapSums:
    """Sums over disconnection maps on one grid.

    Parameters
    ----------
    coverage : (i, j, k)
        Voxels that are looked at; elsewhere every result is 0.
    thresholds
        What counts as disconnected: this share of the streamlines, or more.
    """

    def __init__(self, coverage: BoolArray, thresholds: Sequence[float]) -> None:
        self.coverage = coverage
        self.n_maps = 0
        self._sum = np.zeros(coverage.shape)
        self._counts = {threshold: np.zeros(coverage.shape, np.int64) for threshold in thresholds}

    def add(self, disconnection: NDArray[np.floating]) -> None:
        """Add the map of one lesion."""
        self.n_maps += 1
        self._sum += disconnection
        for threshold, counts in self._counts.items():
            # Maps are stored as float32: a share of 0.7 is less than 0.7 in any other type.
            counts += disconnection.astype(np.float32) >= np.float32(threshold)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of the maps."""
        return np.where(self.coverage, self._sum / max(self.n_maps, 1), 0)

    @property
    def frequencies(self) -> dict[float, NDArray[np.float64]]:
        """Share of the maps that reach each threshold."""
        n = max(self.n_maps, 1)
        return {at: np.where(self.coverage, c / n, 0) for at, c in self._counts.items()}


class LesionOverlap:
    """How many lesions cover each voxel of a grid, each with the share that it covers.

    Parameters
    ----------
    grid
        The voxels asked about.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._total = np.zeros(grid.canonical.shape)

    def add(self, mask: BoolArray, grid: Grid) -> bool:
        """Add a lesion on its own grid.

        Returns
        -------
        bool
            Whether the overlap is exact. For a grid that is turned by anything but quarter turns
            it is that of 125 points in each lesioned voxel.
        """
        try:
            box, shares = covered_shares(mask, grid, self.grid)
        except GridError:
            self._add_points(mask, grid)
            return False
        self._total[box] += shares
        return True

    @property
    def counts(self) -> NDArray[np.float64]:
        """Lesions in each voxel, (i, j, k) of the grid as it is stored."""
        return self.grid.orientation.from_canonical(self._total)

    def _add_points(self, mask: BoolArray, grid: Grid) -> None:
        turned, voxels = self.grid.canonical, np.argwhere(mask)
        places = (np.arange(N_PARTS) + 0.5) / N_PARTS - 0.5
        share = grid.voxel_volume_mm3 / turned.voxel_volume_mm3 / N_PARTS**3
        for offset in product(places, repeat=3):
            points = turned.to_voxels(grid.to_world(voxels + np.array(offset)))
            at = np.floor(points + 0.5).astype(np.int64)
            at = at[((at >= 0) & (at < turned.shape)).all(axis=1)]
            np.add.at(self._total, tuple(at.T), share)
