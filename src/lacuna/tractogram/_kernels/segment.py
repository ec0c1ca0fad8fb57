"""Exact voxels of polylines and of points, in integer arithmetic.

Voxel coordinates are rounded once to `UNITS` steps per voxel edge (1e-6 of a voxel, below the
precision of stored coordinates); from there on nothing is rounded again, so corners, edges and
faces are decided exactly. With voxel k holding ``[k·UNITS, (k+1)·UNITS)``, a point on a face
belongs to the upper voxel.

The walk between two points is that of Amanatides and Woo (1987, doi:10.2312/egtp.19871000), with
crossing times compared as fractions instead of accumulated as floats.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Integer = int | np.int64
Units = tuple[np.int64, np.int64, np.int64]

FRACTION_BITS = 20
UNITS = 1 << FRACTION_BITS
"""Steps per voxel edge. Products of two spans of up to 2 047 voxels still fit 64 bits."""


@njit(nogil=True)
def to_units(x: float, y: float, z: float, voxel_from_world: NDArray[np.float64]) -> Units:
    """Return a world point in voxel steps, shifted so that voxel k starts at k·UNITS."""
    m = voxel_from_world
    i = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3] + 0.5
    j = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3] + 0.5
    k = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3] + 0.5
    return (
        np.int64(np.rint(i * UNITS)),
        np.int64(np.rint(j * UNITS)),
        np.int64(np.rint(k * UNITS)),
    )


@njit(nogil=True)
def flat_voxel(i: Integer, j: Integer, k: Integer, shape: NDArray[np.int64]) -> Integer:
    """Return the C-order number of a voxel, −1 outside the grid."""
    if i < 0 or j < 0 or k < 0 or i >= shape[0] or j >= shape[1] or k >= shape[2]:
        return -1
    voxel: Integer = (i * shape[1] + j) * shape[2] + k
    return voxel


@njit(nogil=True)
def _comes_before(n_a: int, d_a: int, up_a: bool, n_b: int, d_b: int, up_b: bool) -> int:
    """Compare two face crossings at times n/d: −1 earlier, 0 at once, 1 later.

    Moving up, a point is in the next voxel already on the face; moving down, it leaves its voxel
    just after the face: up comes first.
    """
    left, right = n_a * d_b, n_b * d_a
    if left != right:
        return -1 if left < right else 1
    if up_a == up_b:
        return 0
    return -1 if up_a else 1


@njit(nogil=True)
def _walk(  # noqa: C901 -- three axes written out: arrays of three cost twice the time
    start: Units,
    stop: Units,
    shape: NDArray[np.int64],
    out: NDArray[np.int64],
    n_out: int,
) -> int:
    """Append the voxels after the first one on the way from one point to another."""
    i, j, k = (
        start[0] >> FRACTION_BITS,
        start[1] >> FRACTION_BITS,
        start[2] >> FRACTION_BITS,
    )
    left_i = abs((stop[0] >> FRACTION_BITS) - i)
    left_j = abs((stop[1] >> FRACTION_BITS) - j)
    left_k = abs((stop[2] >> FRACTION_BITS) - k)
    if left_i + left_j + left_k == 0:
        return n_out
    up_i, up_j, up_k = stop[0] > start[0], stop[1] > start[1], stop[2] > start[2]
    d_i, d_j, d_k = abs(stop[0] - start[0]), abs(stop[1] - start[1]), abs(stop[2] - start[2])
    n_i = ((i + 1) << FRACTION_BITS) - start[0] if up_i else start[0] - (i << FRACTION_BITS)
    n_j = ((j + 1) << FRACTION_BITS) - start[1] if up_j else start[1] - (j << FRACTION_BITS)
    n_k = ((k + 1) << FRACTION_BITS) - start[2] if up_k else start[2] - (k << FRACTION_BITS)
    while left_i + left_j + left_k > 0:
        step_i, step_j, step_k = bool(left_i > 0), bool(left_j > 0), bool(left_k > 0)
        if step_i and step_j:
            order = _comes_before(n_i, d_i, up_i, n_j, d_j, up_j)
            step_i, step_j = order <= 0, order >= 0
        if step_k and step_i:
            order = _comes_before(n_i, d_i, up_i, n_k, d_k, up_k)
            if order > 0:
                step_i = step_j = False
            elif order < 0:
                step_k = False
        elif step_k and step_j:
            order = _comes_before(n_j, d_j, up_j, n_k, d_k, up_k)
            step_j, step_k = order <= 0, order >= 0
        if step_i:
            i, n_i, left_i = i + (1 if up_i else -1), n_i + UNITS, left_i - 1
        if step_j:
            j, n_j, left_j = j + (1 if up_j else -1), n_j + UNITS, left_j - 1
        if step_k:
            k, n_k, left_k = k + (1 if up_k else -1), n_k + UNITS, left_k - 1
        voxel = flat_voxel(i, j, k, shape)
        if voxel >= 0:
            out[n_out] = voxel
            n_out += 1
    return n_out


@njit(nogil=True)
def visit_segment(
    points: NDArray[np.float32],
    n_points: int,
    voxel_from_world: NDArray[np.float64],
    shape: NDArray[np.int64],
    out: NDArray[np.int64],
) -> tuple[int, NDArray[np.int64]]:
    """Return the voxels that a polyline passes through, in order, with repeats.

    Returns
    -------
    n : int
        How many.
    out : (≥ n,)
        The voxels; the buffer given, or a larger one.
    """
    n_out = 0
    last = (np.int64(0), np.int64(0), np.int64(0))
    for p in range(n_points):
        here = to_units(points[p, 0], points[p, 1], points[p, 2], voxel_from_world)
        if p == 0:
            voxel = flat_voxel(
                here[0] >> FRACTION_BITS,
                here[1] >> FRACTION_BITS,
                here[2] >> FRACTION_BITS,
                shape,
            )
            if voxel >= 0:
                out[n_out] = voxel
                n_out += 1
        else:
            span = abs(here[0] - last[0]) + abs(here[1] - last[1]) + abs(here[2] - last[2])
            need = n_out + (span >> FRACTION_BITS) + 4
            if need > len(out):
                larger = np.empty(2 * need, np.int64)
                larger[:n_out] = out[:n_out]
                out = larger
            n_out = _walk(last, here, shape, out, n_out)
        last = here
    return n_out, out


@njit(nogil=True)
def voxel_of_point(
    x: float, y: float, z: float, voxel_from_world: NDArray[np.float64], shape: NDArray[np.int64]
) -> Integer:
    """Return the C-order number of the voxel that holds a point, −1 outside the grid."""
    i, j, k = to_units(x, y, z, voxel_from_world)
    voxel: Integer = flat_voxel(i >> FRACTION_BITS, j >> FRACTION_BITS, k >> FRACTION_BITS, shape)
    return voxel
