"""Transforms between spaces, as chains of affines and displacement fields that move points.

Points go the other way than images: what resamples images of A onto B looks up, for each point of
B, where it lies in A. A `Transform` therefore names both ends of what it does to *points*.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import SpaceError
from lacuna.geometry.grid import BoolArray, FloatArray, Grid

_BLOCK = 1 << 15
"""Points moved at a time: few enough to stay in the processor's cache."""

_CONVERGED_MM = 1e-4
_MAX_STEPS = 100

TOLERATED_RESIDUAL_MM = 0.05
"""Where a field cannot be inverted better than this, it folds or tears."""

TOLERATED_SHARE = 1e-3
"""More points than this in such places, and a field cannot be said to have an inverse."""


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """Displacements on a grid, interpolated linearly.

    Beyond its voxels nothing moves, as in ITK. Only to be inverted it goes on with the displacement
    at its border: else points near it would come from two places, or from none.

    Parameters
    ----------
    grid
        Where the displacements are.
    vectors : (i, j, k, 3)
        Displacements, mm RAS+, in the order of the grid.
    inverted
        Move points back, to where the displacements would have brought them from.
    """

    grid: Grid
    vectors: FloatArray
    inverted: bool = False

    @cached_property
    def _table(self) -> FloatArray:
        """The vectors with axes along +x, +y, +z, (n_voxels, 3)."""
        orientation = self.grid.orientation
        components = [orientation.to_canonical(self.vectors[..., i]) for i in range(3)]
        return np.stack(components, axis=-1).astype(np.float64).reshape(-1, 3)

    def displacements(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], BoolArray]:
        """Return the displacements at points, (n, 3) in mm RAS+, and which lie in the field.

        Beyond it they are those at its border.
        """
        shape = np.array(self.grid.canonical.shape)
        at = voxels_of(self.grid, points)
        inside: BoolArray = np.all((at >= -0.5) & (at <= shape - 0.5), axis=1)
        # The outer half of a border voxel moves like its centre, as in ITK.
        return interpolate(self._table, tuple(shape), np.clip(at, 0, shape - 1)), inside

    def move(self, points: NDArray[np.float64]) -> "Moved":
        """Return where points, (n, 3) in mm RAS+, go."""
        found, inside = self.displacements(points)
        if not self.inverted:
            found[~inside] = 0
            return Moved(points + found, int((~inside).sum()))
        return self._move_back(points, points - found)

    def _move_back(self, points: NDArray[np.float64], moved: NDArray[np.float64]) -> "Moved":
        error, rate = np.full(len(points), np.inf), np.ones(len(points))
        inside, todo = np.ones(len(points), bool), np.arange(len(points))
        for _ in range(_MAX_STEPS):
            found, inside[todo] = self.displacements(moved[todo])
            wrong = points[todo] - moved[todo] - found
            size = np.abs(wrong).max(axis=1)
            # Where a field stretches more than twofold, whole steps overshoot further each time.
            rate[todo[size > 0.9 * error[todo]]] *= 0.7
            error[todo] = size
            todo, wrong = todo[size > _CONVERGED_MM], wrong[size > _CONVERGED_MM]
            if not len(todo):
                break
            moved[todo] += rate[todo, None] * wrong
        return Moved(moved, int((~inside).sum()), int((error > TOLERATED_RESIDUAL_MM).sum()))


@dataclass(frozen=True, eq=False)
class Moved:
    """Where points went.

    Parameters
    ----------
    points : (n, 3), float64
        mm RAS+.
    n_outside
        How many met a field beyond its voxels: not displaced by it, or, inverted, like its border.
    n_unsolved
        How many a field that had to be inverted leaves off by more than 0.05 mm.
    """

    points: NDArray[np.float64]
    n_outside: int = 0
    n_unsolved: int = 0


@dataclass(frozen=True, eq=False)
class Transform:
    """Moves points from one space to another.

    Parameters
    ----------
    steps
        Affines (4, 4), mm RAS+ to mm RAS+, and fields, in the order in which points meet them.
    points_from, points_to
        The spaces.
    """

    steps: tuple[FloatArray | DisplacementField, ...]
    points_from: str
    points_to: str

    def __str__(self) -> str:
        return f"moves points from {self.points_from} to {self.points_to}"

    def inverse(self) -> "Transform":
        """Return the transform that moves points back; fields are inverted point by point."""
        steps = [
            replace(step, inverted=not step.inverted)
            if isinstance(step, DisplacementField)
            else np.linalg.inv(step)
            for step in reversed(self.steps)
        ]
        return Transform(tuple(steps), self.points_to, self.points_from)

    def apply(self, points_mm: FloatArray) -> NDArray[np.float64]:
        """Return where points, (n, 3) in mm RAS+ of `points_from`, lie in `points_to`.

        Raises
        ------
        SpaceError
            If a field had to be inverted, and cannot be where more than 0.1 % of the points are.
        """
        moved = self.move(points_mm)
        self.check(moved.n_unsolved, len(points_mm))
        return moved.points

    def move(self, points_mm: FloatArray) -> Moved:
        """Return where points, (n, 3), go, and how far that can be trusted."""
        parts = list(self._move_blocks(points_mm))
        return Moved(
            np.concatenate([part.points for part in parts] or [np.empty((0, 3))]),
            sum(part.n_outside for part in parts),
            sum(part.n_unsolved for part in parts),
        )

    def check(self, n_unsolved: int, n_points: int) -> None:
        """Raise if too many of some points could not be moved back through a field."""
        if n_unsolved > TOLERATED_SHARE * n_points:
            raise SpaceError(
                f"The field that {self} has to be inverted, and {n_unsolved} of {n_points} points "
                f"cannot be placed to {TOLERATED_RESIDUAL_MM} mm: it folds there. Give the file "
                f"that resamples images of {self.points_to} onto {self.points_from}."
            )

    def _move_blocks(self, points_mm: FloatArray) -> Iterator[Moved]:
        for start in range(0, len(points_mm), _BLOCK):
            done = Moved(points_mm[start : start + _BLOCK].astype(np.float64))
            for step in self.steps:
                if isinstance(step, DisplacementField):
                    step_done = step.move(done.points)
                else:
                    step_done = Moved(_multiply(step[:3, :3], done.points) + step[:3, 3])
                done = Moved(
                    step_done.points,
                    done.n_outside + step_done.n_outside,
                    done.n_unsolved + step_done.n_unsolved,
                )
            yield done


def voxels_of(grid: Grid, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return coordinates of points, (n, 3) in mm RAS+, in the voxels of a grid's canonical twin."""
    return _multiply(np.linalg.inv(grid.canonical.affine[:3, :3]), points - grid.origin)


def interpolate(
    table: FloatArray, shape: tuple[int, ...], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return what lies between the values of voxels, linearly.

    Parameters
    ----------
    table : (n_voxels, k)
        Values of the voxels, in C order.
    shape
        Voxels along each axis.
    at : (n, 3)
        Voxel coordinates, none before the first voxel or beyond the last.
    """
    sizes = np.array(shape)
    low = np.minimum(at.astype(np.int64), np.maximum(sizes - 2, 0))
    part, step = at - low, np.minimum(sizes - 1, 1) * [sizes[1] * sizes[2], sizes[2], 1]
    first = (low[:, 0] * sizes[1] + low[:, 1]) * sizes[2] + low[:, 2]
    found = np.zeros((len(at), table.shape[1]))
    for corner in np.ndindex(2, 2, 2):
        sides = [part[:, i] if far else 1 - part[:, i] for i, far in enumerate(corner)]
        weight = sides[0] * sides[1] * sides[2]
        found += weight[:, None] * table[first + int(step @ corner)]
    return found


def _multiply(matrix: FloatArray, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``points @ matrix.T``, summed in one order however many points there are."""
    x, y, z = points.T
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix], axis=1)
