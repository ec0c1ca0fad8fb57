"""How much of each voxel of one grid a mask on another grid covers: exact overlap of boxes.

No voxel is sampled or resampled. Grids whose axes are parallel, in any order and direction, need
one list of pieces per axis: the boxes that two voxels share are products of these.
"""

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import GridError
from lacuna.geometry.grid import SAME_AFFINE_TOLERANCE_MM, BoolArray, Grid

_DIGITS = 12
"""Shares are rounded to so many decimals: what is covered wholly is 1, however it was stored."""


Box = tuple[slice, slice, slice]
"""Part of a volume."""


def covered_shares(mask: BoolArray, grid: Grid, target: Grid) -> tuple[Box, NDArray[np.float64]]:
    """Return the share of each target voxel's volume that a mask covers.

    Parameters
    ----------
    mask : grid.shape
        As stored.
    grid
        Where its voxels are.
    target
        The voxels asked about; faces within a micrometre of each other are one face.

    Returns
    -------
    box
        The part of the target's canonical twin that holds all that is covered.
    shares
        In [0, 1], for the voxels of this box.

    Raises
    ------
    GridError
        If one grid is rotated against the other by anything but quarter turns.
    """
    turned = target.canonical
    affine = turned.voxel_from_world @ grid.affine
    affine[3] = 0, 0, 0, 1
    affine[:3, 3] += 0.5  # voxel i of the target spans i to i + 1
    relative = Grid(grid.shape, affine)
    steps = np.diagonal(relative.canonical.affine)[:3]
    tolerances = SAME_AFFINE_TOLERANCE_MM / np.array(turned.voxel_sizes_mm)
    slant = relative.canonical.affine[:3, :3] - np.diag(steps)
    if (np.abs(slant) @ relative.canonical.shape > tolerances).any():
        raise GridError(
            "The mask's voxel grid is rotated against the atlas's: bring the atlas onto the "
            "mask's grid by nearest neighbour, for example with `mrgrid atlas.nii.gz regrid "
            "-template mask.nii.gz -interp nearest`, and give that."
        )
    shares = relative.orientation.to_canonical(mask.astype(np.float64))
    spans: list[slice] = []
    for axis, tolerance in enumerate(tolerances):
        edges = (np.arange(shares.shape[axis] + 1) - 0.5) * steps[axis]
        edges += relative.canonical.affine[axis, 3]
        faces = np.rint(edges)
        edges = np.where(np.abs(edges - faces) < tolerance, faces, edges)
        shares, span = _gather(shares, axis, edges, turned.shape[axis])
        spans.append(span)
    return (spans[0], spans[1], spans[2]), shares.round(_DIGITS)


def _gather(
    values: NDArray[np.float64], axis: int, edges: NDArray[np.float64], n_target: int
) -> tuple[NDArray[np.float64], slice]:
    """Sum values along an axis over unit intervals, each times the length in that interval.

    Parameters
    ----------
    edges : (n + 1,)
        Ascending; value i spans edge i to i + 1.
    n_target
        Intervals: 0 to 1, 1 to 2 …

    Returns
    -------
    sums
        For the intervals that are met by any value but 0.
    slice
        Which these are.
    """
    others = tuple(other for other in range(values.ndim) if other != axis)
    filled = np.flatnonzero(values.any(axis=others))
    low, high = (edges[filled[0]], edges[filled[-1] + 1]) if len(filled) else (0.0, 0.0)
    low, high = max(low, 0.0), min(high, float(n_target))
    if low >= high:
        return np.zeros([0 if i == axis else n for i, n in enumerate(values.shape)]), slice(0, 0)
    # Both grids' faces cut the axis into pieces, each in one voxel of either.
    cuts = np.concatenate([edges, np.arange(np.ceil(low), high), [low, high]])
    cuts = np.unique(cuts[(cuts >= low) & (cuts <= high)])
    sources = np.searchsorted(edges, cuts[:-1], side="right") - 1
    targets = np.floor(cuts[:-1]).astype(np.int64)
    first_pieces = np.flatnonzero(np.diff(targets, prepend=-1))
    lengths = np.diff(cuts).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    pieces = values.take(sources, axis) * lengths
    span = slice(int(targets[0]), int(targets[-1]) + 1)
    if len(first_pieces) < len(sources):
        pieces = np.add.reduceat(pieces, first_pieces, axis)
    return pieces, span
