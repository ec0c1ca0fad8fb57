"""Rules `segment` and `vertex` in exact fractions: no rounding, no walk, all near boxes seen."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise, product
from math import floor

import numpy as np

from lacuna.geometry.grid import FloatArray, Grid

Voxel = tuple[int, int, int]
Point = Sequence[Fraction]

HALF = Fraction(1, 2)
FAR = 0.9
"""Voxels. A box with its centre further from a line than from its corners, 0.87, is not met."""


def segment_voxels(points: FloatArray, grid: Grid) -> set[Voxel]:
    """Return the voxels of the canonical grid that a polyline passes through.

    Parameters
    ----------
    points : (n, 3)
        mm RAS+.
    grid
        In any orientation.
    """
    return boxes_on_polyline(voxel_coordinates(points, grid), grid.canonical.shape)


def vertex_voxels(points: FloatArray, grid: Grid) -> set[Voxel]:
    """Return the voxels of the canonical grid that hold a vertex."""
    return boxes_of_points(voxel_coordinates(points, grid), grid.canonical.shape)


def voxel_coordinates(points: FloatArray, grid: Grid) -> list[list[Fraction]]:
    """Return exact coordinates, in voxels of the canonical grid, of points (n, 3)."""
    a = [[Fraction(float(value)) for value in row] for row in grid.canonical.affine]
    cofactors = [
        [
            a[(i + 1) % 3][(j + 1) % 3] * a[(i + 2) % 3][(j + 2) % 3]
            - a[(i + 1) % 3][(j + 2) % 3] * a[(i + 2) % 3][(j + 1) % 3]
            for j in range(3)
        ]
        for i in range(3)
    ]
    determinant = sum(a[0][j] * cofactors[0][j] for j in range(3))
    from_origin = [
        [Fraction(float(point[i])) - a[i][3] for i in range(3)] for point in np.asarray(points)
    ]
    return [
        [sum(cofactors[i][j] * p[i] for i in range(3)) / determinant for j in range(3)]
        for p in from_origin
    ]


def boxes_of_points(points: Iterable[Point], shape: Sequence[int]) -> set[Voxel]:
    """Return the boxes [k − ½, k + ½) that hold points, those outside the shape left out."""
    voxels = {(floor(x + HALF), floor(y + HALF), floor(z + HALF)) for x, y, z in points}
    return {voxel for voxel in voxels if _is_inside(voxel, shape)}


def boxes_on_polyline(points: Sequence[Point], shape: Sequence[int]) -> set[Voxel]:
    """Return the boxes [k − ½, k + ½) that hold any point of a polyline, corners included."""
    found = boxes_of_points(points, shape)
    for start, stop in pairwise(points):
        spans = [
            range(
                max(floor(min(start[axis], stop[axis]) + HALF), 0),
                min(floor(max(start[axis], stop[axis]) + HALF), shape[axis] - 1) + 1,
            )
            for axis in range(3)
        ]
        found |= {voxel for voxel in _near(start, stop, spans) if _meets_box(start, stop, voxel)}
    return found


def _near(start: Point, stop: Point, spans: Sequence[range]) -> list[Voxel]:
    """Return the boxes that are worth a look in fractions, which is slow."""
    boxes = np.array(list(product(*spans)), np.int64).reshape(-1, 3)
    here, step = np.array(start, np.float64), np.array(stop, np.float64) - np.array(start, float)
    length = max(float(step @ step), 1e-30)
    times = np.clip((boxes - here) @ step / length, 0, 1)
    distances = np.linalg.norm(boxes - here - times[:, np.newaxis] * step, axis=1)
    return [(int(i), int(j), int(k)) for i, j, k in boxes[distances < FAR]]


def _is_inside(voxel: Voxel, shape: Sequence[int]) -> bool:
    return all(0 <= voxel[axis] < shape[axis] for axis in range(3))


def _meets_box(start: Point, stop: Point, voxel: Voxel) -> bool:
    """Clip a segment, as times from 0 to 1, against the three half-open slabs of a box.

    A bound is (time, is_open): of two lower bounds the later binds, of two at once the open one.
    """
    first, last = (Fraction(0), False), (Fraction(1), False)
    for axis in range(3):
        low, high = voxel[axis] - HALF, voxel[axis] + HALF
        here, step = start[axis], stop[axis] - start[axis]
        if step == 0:
            if not low <= here < high:
                return False
            continue
        enter, leave = ((low - here) / step, False), ((high - here) / step, True)
        if step < 0:
            enter, leave = leave, enter
        first = max(first, enter)
        last = min(last, leave, key=lambda bound: (bound[0], not bound[1]))
    return first[0] < last[0] or (first[0] == last[0] and not first[1] and not last[1])
