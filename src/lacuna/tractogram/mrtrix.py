"""What the rule `mrtrix` needs beside its kernel: MRtrix3's voxel coordinates, ratio and weights.

MRtrix3 turns every image towards RAS+ when it opens it, takes its voxel sizes from single-precision
header fields and looks points up in single precision (doi:10.1016/j.neuroimage.2019.116137). To
reach its answer in every voxel, these matrices must come out equal to the last bit; they were
fitted to the 3.0.3 binaries on grids so fine that each wrong bit shows.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import OptionError
from lacuna.geometry.grid import FloatArray, Grid, IntArray

HERMITE_TENSION = 0.1
"""Tension of the cardinal spline between vertices."""

STEP_PER_VOXEL = np.float32(0.333)
"""Longest step after upsampling, as a share of the smallest voxel size; a float in MRtrix3."""


def mrtrix_frame(grid: Grid, first: IntArray | None = None) -> tuple[NDArray[np.float32], Grid]:
    """Return MRtrix3's voxel coordinates of an image, or of one cropped from it.

    On grids turned by more than about 45° MRtrix3 may choose other axes than ours; points that lie
    on a face to seven digits may then fall on its other side.

    Parameters
    ----------
    grid
        The image, in any orientation.
    first : (3,), optional
        Canonical voxel at which the cropped image starts. ``tckedit`` crops a mask to its bounding
        box and one voxel more (`first_of_region`), which moves the rounding of every coordinate.

    Returns
    -------
    voxel_from_world : (3, 4)
        mm RAS+ to canonical voxel coordinates, counted from `first`.
    cropped : Grid
        The canonical grid from `first` on.
    """
    axes, flips = list(grid.orientation.axes), np.array(grid.orientation.flips)
    directions = grid.affine[:3, :3] / np.array(grid.voxel_sizes_mm)
    steps = (directions * _header_sizes(grid))[:, axes]
    shape = np.array(grid.shape)[axes]
    start = grid.affine[:3, 3] + (steps * (shape - 1))[:, flips].sum(axis=1)
    steps[:, flips] *= -1
    first = np.zeros(3, np.int64) if first is None else first
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps, start + (steps * first).sum(axis=1)
    linear = np.linalg.inv(steps)
    voxel_from_world = np.column_stack([linear, -linear @ affine[:3, 3]]).astype(np.float32)
    left = shape - first
    cropped = Grid((int(left[0]), int(left[1]), int(left[2])), affine)
    return np.ascontiguousarray(voxel_from_world), cropped


def first_of_region(low: IntArray) -> NDArray[np.int64]:
    """Return the canonical voxel at which ``tckedit`` crops a mask that is set from `low` on."""
    return np.maximum(np.asarray(low, np.int64) - 1, 0)


def upsampling_ratio(step_size_mm: float | None, grid: Grid) -> int:
    """Return into how many pieces ``tckmap`` divides each step of a streamline.

    Parameters
    ----------
    step_size_mm
        The ``step_size`` line of a .tck header; without one, nothing is divided.
    grid
        The image that streamlines are mapped to.
    """
    if step_size_mm is None or not math.isfinite(step_size_mm) or step_size_mm <= 0:
        return 1
    longest_step_mm = float(_header_sizes(grid).min()) * float(STEP_PER_VOXEL)
    return math.ceil(float(np.float32(step_size_mm)) / longest_step_mm)


def hermite_weights(ratio: int) -> NDArray[np.float32]:
    """Return the weights of four neighbouring vertices for each point between the middle two.

    Parameters
    ----------
    ratio
        Pieces that each step is divided into.

    Returns
    -------
    (ratio - 1, 4)
        Weights at 1/ratio, 2/ratio, …

    Raises
    ------
    OptionError
        If the ratio is less than 1.
    """
    if ratio < 1:
        raise OptionError(f"Steps cannot be divided into {ratio} pieces; give 1 or more.")
    p = (np.arange(1, ratio) / ratio).astype(np.float32)
    t = np.float32(0.5) * np.float32(HERMITE_TENSION)
    half, three_halves, five_halves = np.float32(0.5), np.float32(1.5), np.float32(2.5)
    p2 = p * p
    p3 = p * p2
    weights = [
        (half - t) * (2 * p2 - p3 - p),
        1 + (three_halves + t) * p3 - (five_halves + t) * p2,
        (2 + 2 * t) * p2 + (half - t) * p - (three_halves + t) * p3,
        (half - t) * (p3 - p2),
    ]
    return np.ascontiguousarray(np.stack(weights, axis=1), np.float32)


def _header_sizes(grid: Grid) -> FloatArray:
    """Return the voxel sizes along the stored axes as a NIfTI header's ``pixdim`` holds them.

    Exact for straight grids, and for oblique ones whose sizes have up to six decimals; others may
    come out one single-precision step off.
    """
    sizes = np.array(grid.voxel_sizes_mm)
    # An oblique affine is rounded itself: a voxel of 1.3 mm measures 1.30000002, the next float
    # after the 1.3 that its header states.
    stated = np.round(sizes, 6)
    sizes = np.where(np.abs(stated - sizes) < 6e-8 * sizes, stated, sizes)
    return sizes.astype(np.float32).astype(np.float64)
