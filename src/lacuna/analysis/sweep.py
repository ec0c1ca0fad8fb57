"""Many small lesions all over the brain: where to put them, and a map of what they do."""

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import OptionError
from lacuna.geometry.grid import BoolArray, FloatArray, Grid

COARSEST_MM, FINEST_MM = 30.0, 1.0
"""Spacings of places that are tried."""


def spread_places(mask: BoolArray, grid: Grid, n_places: int) -> FloatArray:
    """Return places that are spread evenly over a mask.

    Parameters
    ----------
    mask : grid.shape
        Where places may be.
    grid
        Its voxels.
    n_places
        How many are wanted.

    Returns
    -------
    (n_places, 3)
        Points of the coarsest cubic lattice that has enough of them in the mask, mm RAS+.

    Raises
    ------
    OptionError
        If the mask is too small for so many places a millimetre apart.
    """
    turned, inside = grid.canonical, grid.orientation.to_canonical(mask)
    corners = turned.to_world(np.argwhere(inside))
    if len(corners):
        low, high = corners.min(axis=0), corners.max(axis=0)
        # Each step has about 6 % more places.
        for spacing_mm in np.geomspace(COARSEST_MM, FINEST_MM, 170):
            axes = [np.arange(low[i], high[i] + spacing_mm, spacing_mm) for i in range(3)]
            points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
            voxels = np.rint(turned.to_voxels(points)).astype(np.int64)
            on_grid = ((voxels >= 0) & (voxels < turned.shape)).all(axis=1)
            kept: FloatArray = points[on_grid][inside[tuple(voxels[on_grid].T)]]
            if len(kept) >= n_places:
                return kept[np.linspace(0, len(kept) - 1, n_places).astype(np.int64)]
    raise OptionError(
        f"{n_places} places do not fit into {int(mask.sum())} voxels: ask for fewer, or for a "
        "larger mask."
    )


def average_spheres(
    places_mm: FloatArray, radius_mm: float, values: FloatArray, grid: Grid
) -> NDArray[np.float32]:
    """Return for each voxel the mean value of the spheres that its centre lies in.

    Parameters
    ----------
    places_mm : (n, 3)
        Centres of the spheres, mm RAS+.
    radius_mm
        Their radius.
    values : (n,)
        A value of each; not-a-number is left out.
    grid
        Voxels of the result.

    Returns
    -------
    grid.shape
        Means; 0 where no sphere reaches.
    """
    reach = np.ceil(radius_mm / min(grid.voxel_sizes_mm)).astype(int) + 1
    offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3), axis=-1).reshape(-1, 3)
    sums, counts = np.zeros(grid.shape), np.zeros(grid.shape)
    for place, value in zip(places_mm, values, strict=True):
        if np.isnan(value):
            continue
        voxels = np.rint(grid.to_voxels(place[np.newaxis])).astype(np.int64) + offsets
        near = ((grid.to_world(voxels) - place) ** 2).sum(axis=1) <= radius_mm**2
        near &= ((voxels >= 0) & (voxels < grid.shape)).all(axis=1)
        at = tuple(voxels[near].T)
        sums[at] += value
        counts[at] += 1
    means = np.divide(sums, counts, out=np.zeros(grid.shape), where=counts > 0)
    return means.astype(np.float32)
