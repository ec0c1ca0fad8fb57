"""How much of each voxel of one grid a mask on another grid covers: exact overlap of boxes.

No voxel is sampled or resampled. Grids whose axes are parallel, in any order and direction, need
one list of pieces per axis: the boxes that two voxels share are products of these. Of other grids
the surface of what is masked is cut along the target's voxels, and volumes are taken under it.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from lacuna.geometry.grid import SAME_AFFINE_TOLERANCE_MM, BoolArray, Grid

_DIGITS = 12
"""Shares are rounded to so many decimals: what is covered wholly is 1, however it was stored."""


_FACE = np.array([(0, 0, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1)])
"""Corners of a voxel's lower face on the first axis, anticlockwise as seen from further up it."""

_CHUNK = 1 << 14
"""So many faces are cut at once: it bounds memory."""

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
        The voxels asked about; where axes are parallel, faces within a micrometre of each other
        are one face.

    Returns
    -------
    box
        The part of the target's canonical twin that holds all that is covered.
    shares
        In [0, 1], for the voxels of this box.
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
        turned_mask = relative.orientation.to_canonical(mask)
        box, shares = _slanted_shares(turned_mask, relative.canonical, turned.shape)
        return box, shares.round(_DIGITS)
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


def _slanted_shares(
    mask: BoolArray, grid: Grid, shape: tuple[int, int, int]
) -> tuple[Box, NDArray[np.float64]]:
    """Return `covered_shares` of any grid.

    What is under a face of the mask's surface counts with the sign of the side that faces up.
    Faces between two masked voxels cancel out, and are left out.

    Parameters
    ----------
    grid
        In the target's voxels, of which the first spans 0 to 1.
    shape
        Of the target.
    """
    hull = grid.to_world(np.array(list(product(*[(-0.5, n - 0.5) for n in mask.shape]))))
    low = np.clip(np.floor(hull.min(axis=0)).astype(np.int64), 0, shape)
    size = np.clip(np.ceil(hull.max(axis=0)).astype(np.int64), low, shape) - low
    # One layer more: it takes all faces above the box, under which columns lie wholly.
    within, areas = np.zeros((2, size[0], size[1], size[2] + 1))
    for axis in range(3):
        steps = np.diff(mask.astype(np.int8), axis=axis, prepend=0, append=0)
        faces, corners = np.argwhere(steps), np.roll(_FACE, axis, axis=1)
        is_lower = (steps[steps != 0] > 0)[:, None, None]
        for start in range(0, len(faces), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            points = faces[chunk, None] + corners - 0.5
            points = grid.to_world(np.where(is_lower[chunk], points[:, ::-1], points)) - low
            _add_faces(within, areas, points)
    shares = within + areas[..., ::-1].cumsum(axis=2)[..., ::-1] - areas
    # Turned towards +x, +y, +z, the axes of a strongly sheared grid may form a left hand.
    shares *= np.sign(np.linalg.det(grid.affine[:3, :3]))
    x, y, z = (slice(int(a), int(a + n)) for a, n in zip(low, size, strict=True))
    return (x, y, z), shares[..., :-1]


def _add_faces(
    within: NDArray[np.float64], areas: NDArray[np.float64], faces: NDArray[np.float64]
) -> None:
    """Add what is under each piece of each face: its volume in the piece's voxel, and its area.

    Parameters
    ----------
    within, areas
        Are added to; below the voxel of a piece its area is also the volume under it.
    faces : (n, 4, 3)
        Corners. Those that run clockwise, as seen from above, count negative.
    """
    points, owners = faces.reshape(-1, 3), np.repeat(np.arange(len(faces)), faces.shape[1])
    voxels = np.zeros((len(faces), 3), np.int64)
    for axis in range(3):
        points, owners, voxels = _cut(points, owners, voxels, axis)
    starts, following = _polygons(owners)
    x, y, z = points.T
    first = starts[owners]
    x, y = x - x[first], y - y[first]
    doubled = x * y[following] - y * x[following]
    heights = (z[first] + z + z[following]) / 3
    voxels[:, 2] = np.minimum(voxels[:, 2], areas.shape[2] - 1)
    is_inside = ((voxels >= 0) & (voxels < areas.shape)).all(axis=1)
    at = tuple(voxels[is_inside].T)
    np.add.at(areas, at, np.add.reduceat(doubled, starts)[is_inside] / 2)
    np.add.at(within, at, np.add.reduceat(doubled * heights, starts)[is_inside] / 2)


def _cut(
    points: NDArray[np.float64], owners: NDArray[np.int64], voxels: NDArray[np.int64], axis: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut convex polygons where they pass from voxel to voxel along an axis.

    Parameters
    ----------
    points : (n, 3)
        Their corners, one polygon after another, measured from their voxel's lower corner.
    owners : (n,)
        Which polygon each is of, from 0.
    voxels : (n_polygons, 3)
        Where each is, known along the axes that were cut before. All three arrays are used up.

    Returns
    -------
    points, owners, voxels
        Of the pieces, each in one voxel along this axis.
    """
    starts, following = _polygons(owners)
    lowest = np.floor(np.minimum.reduceat(points[:, axis], starts))
    # Measured from its own voxel a corner keeps its last bits, wherever in the grid it is.
    points[:, axis] -= lowest[owners]
    voxels[:, axis] = lowest
    pieces, n_pieces = [], 0
    while len(points):
        is_above = points[:, axis] > 1
        at = np.flatnonzero(is_above != is_above[following])
        # From below, whichever way it is followed: two faces get the same point of one edge.
        below, above = np.where(is_above[at], (following[at], at), (at, following[at]))
        a, b = points.take(below, 0), points.take(above, 0)
        new = a + (b - a) * ((1 - a[:, axis]) / (b - a)[:, axis])[:, None]
        new[:, axis] = 1
        points, owners = np.insert(points, at + 1, new, 0), np.insert(owners, at + 1, owners[at])
        piece = np.flatnonzero(points[:, axis] <= 1)
        pieces.append((points.take(piece, 0), owners[piece] + n_pieces, voxels))
        n_pieces += len(voxels)
        # Of a polygon that only touches the face nothing is beyond it: it would be cut for nothing.
        goes_on = np.zeros(len(voxels), bool)
        goes_on[owners[points[:, axis] > 1]] = True
        left = np.flatnonzero(goes_on[owners] & (points[:, axis] >= 1))
        points, owners = points.take(left, 0), (goes_on.cumsum() - 1)[owners[left]]
        points[:, axis] -= 1
        voxels = voxels[goes_on] + np.eye(3, dtype=np.int64)[axis]
        following = _polygons(owners)[1]
    corners, of, where = zip(*pieces, strict=True)
    return np.concatenate(corners), np.concatenate(of), np.concatenate(where)


def _polygons(owners: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each polygon's first corner, and the corner that follows each."""
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    following = np.arange(1, len(owners) + 1)
    following[np.diff(owners, append=-1) != 0] = starts
    return starts, following
