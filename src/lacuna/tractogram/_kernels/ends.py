"""From each end of a streamline to the nearest labelled voxel."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

UNASSIGNED = -1

SLACK_MM = 1e-6
"""More than rounding can move a distance, less than any two that matter differ."""


@njit(nogil=True)
def assign_points(
    points: NDArray[np.float32],
    voxel_from_world: NDArray[np.float64],
    affine: NDArray[np.float64],
    indices: NDArray[np.int32],
    offsets: NDArray[np.int64],
    least_mm: NDArray[np.float64],
    radius_mm: float,
    found: NDArray[np.int32],
) -> None:
    """Look around each point, through offsets from near to far.

    Parameters
    ----------
    points : (n, 3)
        mm RAS+.
    voxel_from_world, affine : (3, 4)
        mm RAS+ to voxels of `indices`, and back.
    indices : (i, j, k)
        Parcel of each voxel, or `UNASSIGNED`.
    offsets : (m, 3)
        Voxels to look at, from the one that holds the point.
    least_mm : (m,)
        Ascending: no voxel from there on is nearer to the centre of the one that holds the point.
    radius_mm
        Centres at that distance are too far.
    found : (n,)
        Gets the parcel whose voxel has the nearest centre; among equals the first wins.
    """
    inverse, world = voxel_from_world, affine
    for n in range(len(points)):
        found[n] = UNASSIGNED
        x, y, z = np.float64(points[n, 0]), np.float64(points[n, 1]), np.float64(points[n, 2])
        if not math.isfinite(x + y + z):
            continue
        i = _round(inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2] * z + inverse[0, 3])
        j = _round(inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2] * z + inverse[1, 3])
        k = _round(inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2] * z + inverse[2, 3])
        away_mm = _distance(world, i, j, k, x, y, z) + SLACK_MM
        nearest_mm = radius_mm
        for at in range(len(offsets)):
            if least_mm[at] > nearest_mm + away_mm:
                break
            a, b, c = i + offsets[at, 0], j + offsets[at, 1], k + offsets[at, 2]
            if not (0 <= a < indices.shape[0] and 0 <= b < indices.shape[1]):
                continue
            if not 0 <= c < indices.shape[2] or indices[a, b, c] == UNASSIGNED:
                continue
            distance_mm = _distance(world, a, b, c, x, y, z)
            if distance_mm < nearest_mm:
                nearest_mm, found[n] = distance_mm, indices[a, b, c]


@njit(nogil=True)
def _round(value: float) -> int:
    """Return the nearest whole number; halves go away from zero."""
    return math.floor(value + 0.5) if value >= 0 else math.ceil(value - 0.5)


@njit(nogil=True)
def _distance(
    m: NDArray[np.float64], i: int, j: int, k: int, x: float, y: float, z: float
) -> float:
    """Return how far a point is from the centre of a voxel, mm."""
    dx = x - (m[0, 0] * i + m[0, 1] * j + m[0, 2] * k + m[0, 3])
    dy = y - (m[1, 0] * i + m[1, 1] * j + m[1, 2] * k + m[1, 3])
    dz = z - (m[2, 0] * i + m[2, 1] * j + m[2, 2] * k + m[2, 3])
    return math.sqrt(dx * dx + dy * dy + dz * dz)
