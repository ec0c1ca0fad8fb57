"""MRtrix3's mapping of streamlines, point by point in single precision."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from lacuna.geometry.grid import FloatArray

Voxel = tuple[int, int, int]
f32 = np.float32


def mrtrix_voxels(
    points: FloatArray,
    voxel_from_world: NDArray[np.float32],
    shape: tuple[int, int, int],
    ratio: int = 1,
) -> set[Voxel]:
    """Return the voxels of a streamline's vertices and interpolated points.

    Parameters
    ----------
    points : (n, 3)
        mm RAS+.
    voxel_from_world : (3, 4)
        MRtrix3's own, in single precision.
    shape
        Of the same grid.
    ratio
        Pieces that each step is divided into.
    """
    voxels = {mrtrix_voxel(p, voxel_from_world) for p in upsampled(points, ratio)}
    return {v for v in voxels if all(0 <= v[axis] < shape[axis] for axis in range(3))}


def mrtrix_voxel(point: NDArray[np.float32], voxel_from_world: NDArray[np.float32]) -> Voxel:
    """Return the voxel of a point: its coordinates rounded, halves away from zero."""
    found = []
    for row in voxel_from_world:
        at = float((row[0] * point[0] + row[1] * point[1]) + (row[2] * point[2] + row[3]))
        found.append(int(np.copysign(np.floor(abs(at) + 0.5), at)))
    return found[0], found[1], found[2]


def upsampled(points: FloatArray, ratio: int) -> list[NDArray[np.float32]]:
    """Return a streamline's vertices, and ratio − 1 points between each two."""
    p = list(np.asarray(points, np.float32).reshape(-1, 3))
    if ratio == 1 or len(p) < 2:
        return p
    padded = [p[0] + (p[0] - p[1]), *p, p[-1] + (p[-1] - p[-2])]
    found = list(p)
    for i, k in product(range(len(p) - 1), range(1, ratio)):
        w = weights(f32(k / ratio))
        a, b, c, d = padded[i : i + 4]
        found.append(((w[0] * a + w[1] * b) + w[2] * c) + w[3] * d)
    return found


def weights(position: np.float32) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Return the cardinal spline's four weights at a position between 0 and 1."""
    t = f32(0.5) * f32(0.1)
    p2 = position * position
    p3 = position * p2
    return (
        (f32(0.5) - t) * ((f32(2) * p2 - p3) - position),
        (f32(1) + (f32(1.5) + t) * p3) - (f32(2.5) + t) * p2,
        ((f32(2) + f32(2) * t) * p2 + (f32(0.5) - t) * position) - (f32(1.5) + t) * p3,
        (f32(0.5) - t) * (p3 - p2),
    )
