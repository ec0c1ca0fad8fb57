"""Images brought onto the voxels of another space: labels by the nearest voxel, shares linearly.

Images are pulled: each voxel of the target asks where its centre came from. What moves an image
from A to B therefore moves *points* from B to A.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.geometry.grid import BoolArray, FloatArray, Grid, IntArray
from lacuna.geometry.warp import DisplacementField, Transform, interpolate, voxels_of

_MARGIN = 4
"""Voxels around what was moved forth that are asked, too: a field moves each voxel otherwise."""

_DIGITS = 6
"""Voxel coordinates are rounded to so many decimals: a face is a face, however it was stored."""


def find_outline(mask: BoolArray) -> IntArray:
    """Return the voxels, (n, 3), that are the first or last of a mask on any line along an axis."""
    found = np.zeros(mask.shape, bool)
    for axis in range(3):
        lines, ends = np.moveaxis(mask, axis, 0), np.moveaxis(found, axis, 0)
        j, k = np.nonzero(lines.any(axis=0))
        ends[lines.argmax(axis=0)[j, k], j, k] = True
        ends[len(lines) - 1 - lines[::-1].argmax(axis=0)[j, k], j, k] = True
    return np.argwhere(found)


def find_moved_box(
    transform: Transform, mask: BoolArray, grid: Grid, voxel_size_mm: float
) -> tuple[FloatArray, FloatArray]:
    """Return the corners, mm RAS+, of a box in which a mask lies once it has been moved.

    Parameters
    ----------
    transform
        Moves points from where the mask goes to where it is.
    mask, grid
        In canonical order; not empty.
    voxel_size_mm
        Of the voxels onto which it goes; the box has a margin of four of them.
    """
    moved = grid.to_world(find_outline(mask)).astype(np.float64)
    for step in transform.inverse().steps:
        if isinstance(step, DisplacementField):
            # Beyond its voxels a field moves nothing, or, inverted, goes on as at its border: from
            # this side it cannot be told which of both was done.
            forth = step.move(moved) if step.inverted else None
            there = moved + step.displacements(moved)[0] if forth is None else forth.points
            moved = np.concatenate([there, moved])
        else:
            moved = (moved @ step[:3, :3].T + step[:3, 3]).astype(np.float64)
    margin = _MARGIN * max(voxel_size_mm, *grid.voxel_sizes_mm)
    return moved.min(axis=0) - margin, moved.max(axis=0) + margin


def pull_voxels(
    transform: Transform,
    source: Grid,
    target: Grid,
    box_mm: tuple[FloatArray, FloatArray],
    *,
    threads: int = 1,
) -> tuple[IntArray, NDArray[np.float64]]:
    """Return which voxels of a target grid come from a source grid, and from where in it.

    Parameters
    ----------
    transform
        Moves points from the target's space to the source's.
    source, target
        The target's axes point towards +x, +y, +z.
    box_mm
        Corners of the only part of the target that is looked at.

    Returns
    -------
    voxels : (n,)
        Numbers of voxels in the target, in C order, ascending.
    at : (n, 3)
        Coordinates in the source's canonical twin, up to a voxel beyond its first and last.
    """
    corners = np.array(np.meshgrid(*np.transpose(box_mm))).reshape(3, -1).T
    corners = target.to_voxels(corners)
    low = np.clip(np.floor(corners.min(axis=0)), 0, target.shape).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, target.shape).astype(int)
    j, k = (axis.ravel() for axis in np.mgrid[low[1] : high[1], low[2] : high[2]])

    def pull(i: int) -> tuple[IntArray, NDArray[np.float64]]:
        points = target.to_world(np.column_stack([np.full(len(j), i), j, k]))
        at = voxels_of(source, transform.move(points).points).round(_DIGITS)
        inside = ((at > -1) & (at < source.canonical.shape)).all(axis=1)
        voxels = (i * target.shape[1] + j[inside]) * target.shape[2] + k[inside]
        return voxels, at[inside]

    transform.move(np.zeros((1, 3)))  # so that threads do not each prepare its fields
    with ThreadPoolExecutor(threads) as pool:
        parts = [(np.empty(0, np.int64), np.empty((0, 3))), *pool.map(pull, range(low[0], high[0]))]
    return np.concatenate([voxels for voxels, _ in parts]), np.concatenate([at for _, at in parts])


def take_nearest(array: NDArray[Any], at: FloatArray) -> NDArray[Any]:
    """Return the values of the voxels in which points lie, 0 outside.

    Parameters
    ----------
    array : (i, j, k)
        In canonical order.
    at : (n, 3)
        Voxel coordinates; a point on a face belongs to the voxel on its +x, +y, +z side.
    """
    nearest = np.floor(at + 0.5).astype(np.int64)
    inside = ((nearest >= 0) & (nearest < array.shape)).all(axis=1)
    found = np.zeros(len(at), array.dtype)
    found[inside] = array[tuple(nearest[inside].T)]
    return found


def take_linear(array: NDArray[Any], at: FloatArray) -> NDArray[np.float64]:
    """Return values between the centres of voxels, 0 beyond an array; as `take_nearest`."""
    padded = np.pad(array, 1).astype(np.float64)
    return interpolate(padded.reshape(-1, 1), padded.shape, at.astype(np.float64) + 1)[:, 0].round(
        _DIGITS
    )
