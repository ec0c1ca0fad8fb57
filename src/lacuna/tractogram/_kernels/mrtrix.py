"""The voxels that MRtrix3 maps a streamline to, bit for bit.

Single precision throughout, each sum in the order in which the 3.0.3 binaries for x86-64 take it;
another order, or a fused multiply-add, puts about one point in a million into another voxel.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@njit(nogil=True)
def voxel_mrtrix(
    x: np.float32, y: np.float32, z: np.float32, voxel_from_world: FloatArray, shape: IntArray
) -> int:
    """Return the voxel of a point, as C-order flat index, or -1 outside the grid.

    Parameters
    ----------
    x, y, z
        The point, mm RAS+.
    voxel_from_world : (3, 4)
    shape : (3,)
    """
    voxel = 0
    for axis in range(3):
        at = np.float64(
            (voxel_from_world[axis, 0] * x + voxel_from_world[axis, 1] * y)
            + (voxel_from_world[axis, 2] * z + voxel_from_world[axis, 3])
        )
        # Half away from zero, so -0.5 is outside; NaN fails both comparisons.
        if not (at > -0.5 and at < shape[axis] - 0.5):
            return -1
        voxel = voxel * shape[axis] + int(np.floor(at + 0.5))
    return voxel


@njit(nogil=True)
def visit_mrtrix(
    points: FloatArray,
    start: int,
    stop: int,
    voxel_from_world: FloatArray,
    shape: IntArray,
    hermite: FloatArray,
    out: IntArray,
) -> int:
    """Write the voxels of one streamline's vertices and interpolated points.

    Parameters
    ----------
    points : (m, 3)
        World coordinates, mm RAS+; the streamline is ``points[start:stop]``.
    voxel_from_world : (3, 4)
    shape : (3,)
    hermite : (ratio - 1, 4)
        Weights of four neighbouring vertices at 1/ratio, 2/ratio, …; no rows: vertices only.
    out : (k,)
        Flat C-order voxels in the order of the points, repeated as they come; needs room for
        ``ratio * (stop - start - 1) + 1`` of them, none for an empty streamline.

    Returns
    -------
    int
        How many were written. Points outside the grid are left out.
    """
    n = 0
    for i in range(start, stop):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        voxel = voxel_mrtrix(x, y, z, voxel_from_world, shape)
        if voxel >= 0:
            out[n] = voxel
            n += 1
        if i + 1 == stop:
            break
        x2, y2, z2 = points[i + 1, 0], points[i + 1, 1], points[i + 1, 2]
        # Beyond both ends, the neighbour is the end point carried on by its last step.
        if i > start:
            x0, y0, z0 = points[i - 1, 0], points[i - 1, 1], points[i - 1, 2]
        else:
            x0, y0, z0 = x + (x - x2), y + (y - y2), z + (z - z2)
        if i + 2 < stop:
            x3, y3, z3 = points[i + 2, 0], points[i + 2, 1], points[i + 2, 2]
        else:
            x3, y3, z3 = x2 + (x2 - x), y2 + (y2 - y), z2 + (z2 - z)
        for k in range(len(hermite)):
            w0, w1, w2, w3 = hermite[k, 0], hermite[k, 1], hermite[k, 2], hermite[k, 3]
            voxel = voxel_mrtrix(
                ((w0 * x0 + w1 * x) + w2 * x2) + w3 * x3,
                ((w0 * y0 + w1 * y) + w2 * y2) + w3 * y3,
                ((w0 * z0 + w1 * z) + w2 * z2) + w3 * z3,
                voxel_from_world,
                shape,
            )
            if voxel >= 0:
                out[n] = voxel
                n += 1
    return n
