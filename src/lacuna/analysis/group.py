"""Where many lesions are: how many of them cover each voxel."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import GridError
from lacuna.geometry.grid import BoolArray, Grid
from lacuna.geometry.overlap import covered_shares

N_PARTS = 5
"""Each edge of a voxel that is turned against the target is cut into so many parts."""


def add_lesion(total: NDArray[np.float64], target: Grid, mask: BoolArray, grid: Grid) -> bool:
    """Add the share of each voxel that a lesion covers.

    Parameters
    ----------
    total : target.canonical.shape
        Is added to.
    target
        The voxels asked about.
    mask, grid
        The lesion on its own grid; not empty.

    Returns
    -------
    bool
        Whether the shares are exact. For a grid that is turned by anything but quarter turns they
        are those of 125 points in each lesioned voxel.
    """
    # Most of a volume is no lesion: only the box around it is looked at.
    voxels = np.argwhere(mask)
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    mask = mask[tuple(map(slice, low, high))]
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(low)
    grid = Grid(mask.shape, affine)
    try:
        box, shares = covered_shares(mask, grid, target)
    except GridError:
        _add_points(total, target.canonical, mask, grid)
        return False
    total[box] += shares
    return True


def _add_points(total: NDArray[np.float64], target: Grid, mask: BoolArray, grid: Grid) -> None:
    voxels = np.argwhere(mask)
    places = (np.arange(N_PARTS) + 0.5) / N_PARTS - 0.5
    share = grid.voxel_volume_mm3 / target.voxel_volume_mm3 / N_PARTS**3
    for offset in product(places, repeat=3):
        points = target.to_voxels(grid.to_world(voxels + np.array(offset)))
        at = np.floor(points + 0.5).astype(np.int64)
        at = at[((at >= 0) & (at < target.shape)).all(axis=1)]
        np.add.at(total, tuple(at.T), share)
