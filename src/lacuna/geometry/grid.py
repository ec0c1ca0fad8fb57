"""Voxel grids: a shape and an affine from voxel indices to mm RAS+.

A voxel is a half-open box around its centre. A point on a face belongs to the voxel on the +x,
+y, +z side of it *in the world*, never in index order, so that one image stored LAS, RAS or LIA
gives one answer. Arithmetic is therefore done on the canonical twin of a grid, whose axes point
towards +x, +y, +z as nearly as the affine allows.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lacuna.errors import GridError

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
BoolArray = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)

MAX_VOXELS_PER_AXIS = 2048
"""Longest axis that the integer traversal in `lacuna.tractogram` can hold."""

SAME_AFFINE_TOLERANCE_MM = 1e-3
"""Affines that differ by less, anywhere in the grid, are the same: noise of file headers."""

HEADER_NOISE_MM = 2e-5
"""What single precision makes of a corner, some 100 mm from where the affine says it is."""


@dataclass(frozen=True)
class Orientation:
    """How the axes of a stored array become the axes of its canonical twin.

    Parameters
    ----------
    axes
        The stored axis that becomes canonical axis 0, 1, 2.
    flips
        Whether canonical axis 0, 1, 2 runs against its stored axis.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def to_canonical(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return a view of a stored array with canonical axes."""
        return array.transpose(self.axes)[self._slices]

    def from_canonical(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return a view of a canonical array with the stored axes."""
        return array[self._slices].transpose(tuple(int(axis) for axis in np.argsort(self.axes)))

    @property
    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxels in the world.

    Parameters
    ----------
    shape
        Voxels along each stored axis.
    affine : (4, 4)
        Voxel indices to mm RAS+; integers are voxel centres.

    Raises
    ------
    GridError
        If the affine is singular or not finite, or the shape cannot be used.
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)
        if len(shape) != 3 or min(shape) < 1 or max(shape) > MAX_VOXELS_PER_AXIS:
            raise GridError(
                f"A grid needs three axes of 1 to {MAX_VOXELS_PER_AXIS} voxels, not {shape}."
            )
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GridError(f"An affine is a finite 4 × 4 matrix, not {affine.tolist()}.")
        if not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise GridError(f"The last row of an affine is 0 0 0 1, not {affine[3].tolist()}.")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GridError("The affine is singular: its voxels have no volume.")

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel, mm³."""
        # A determinant by LU decomposition makes 7.999999999999998 of 2 × 2 × 2 mm; and in another
        # order of the axes an oblique voxel differs in the last bit.
        x, y, z = self.canonical.affine[:3, :3].T
        return float(abs(np.cross(x, y) @ z))

    @property
    def voxel_sizes_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel along the stored axes, mm."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)

    @cached_property
    def voxel_from_world(self) -> FloatArray:
        """The inverse of the affine, (4, 4)."""
        return np.linalg.inv(self.affine)

    @cached_property
    def orientation(self) -> Orientation:
        """How the stored axes map to axes that point towards +x, +y, +z."""
        directions = self.affine[:3, :3] / np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        # One assignment for all axes: a greedy one can give two canonical axes to one stored
        # axis on strongly oblique grids.
        axes = max(
            permutations(range(3)),
            key=lambda order: sum(abs(directions[world, order[world]]) for world in range(3)),
        )
        flips = tuple(bool(directions[world, axes[world]] < 0) for world in range(3))
        return Orientation((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))

    @cached_property
    def canonical(self) -> "Grid":
        """The same voxels with axes that point towards +x, +y, +z."""
        axes, flips = self.orientation.axes, self.orientation.flips
        turned = np.zeros((4, 4))
        turned[3, 3] = 1
        for canonical_axis, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
            turned[axis, canonical_axis] = -1 if flip else 1
            turned[axis, 3] = self.shape[axis] - 1 if flip else 0
        shape = (self.shape[axes[0]], self.shape[axes[1]], self.shape[axes[2]])
        return Grid(shape, self.affine @ turned)

    @cached_property
    def origin(self) -> FloatArray:
        """Centre of the first canonical voxel, mm RAS+, (3,), without the noise of headers.

        A flipped header keeps another corner in single precision, which would show in last digits.
        """
        exact = self.canonical.affine[:3, 3]
        meant = np.round(exact, 3)
        return np.where(np.abs(exact - meant) < HEADER_NOISE_MM, meant, exact)

    def to_voxels(self, points: FloatArray) -> FloatArray:
        """Return the voxel coordinates of points.

        Parameters
        ----------
        points : (n, 3)
            World coordinates, mm RAS+.

        Returns
        -------
        (n, 3)
            Voxel coordinates; not rounded, and outside the grid where the points are.
        """
        return points @ self.voxel_from_world[:3, :3].T + self.voxel_from_world[:3, 3]

    def to_world(self, voxels: FloatArray | IntArray) -> FloatArray:
        """Return the world coordinates, mm RAS+, (n, 3), of voxel coordinates (n, 3)."""
        return voxels @ self.affine[:3, :3].T + self.affine[:3, 3]

    def is_same(self, other: "Grid") -> bool:
        """Tell whether both grids have the same voxels in the same order, header noise apart."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        offsets = self.to_world(corners) - other.to_world(corners)
        return bool(np.abs(offsets).max() < SAME_AFFINE_TOLERANCE_MM)

    @classmethod
    def cubic(cls, voxel_size_mm: float, shape: tuple[int, int, int], origin: ArrayLike) -> "Grid":
        """Return an axis-aligned grid of cubic voxels.

        Parameters
        ----------
        origin : (3,)
            Centre of the first voxel, mm RAS+.
        """
        affine = np.diag([voxel_size_mm, voxel_size_mm, voxel_size_mm, 1.0])
        affine[:3, 3] = origin
        return cls(shape, affine)

    @classmethod
    def over_box(cls, low: FloatArray, high: FloatArray, voxel_size_mm: float) -> "Grid":
        """Return an axis-aligned grid that covers a box, with centres on multiples of its voxels.

        Parameters
        ----------
        low, high : (3,)
            Corners of the box, mm RAS+.
        voxel_size_mm
            Edge length of the cubic voxels, mm.
        """
        first = np.floor(np.asarray(low) / voxel_size_mm + 0.5)
        last = np.floor(np.asarray(high) / voxel_size_mm + 0.5)
        shape = (last - first + 1).astype(int)
        return cls.cubic(voxel_size_mm, tuple(shape), first * voxel_size_mm)
