"""Which two parcels a streamline joins: those nearest to its ends."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lacuna.geometry.grid import FloatArray, Grid
from lacuna.geometry.parcellation import Parcellation
from lacuna.tractogram._kernels.ends import UNASSIGNED, assign_points
from lacuna.tractogram.mrtrix import mrtrix_frame

RADIUS_MM = 4.0
"""How far an end may be from the centre of a parcel's voxel: MRtrix3's default."""

POINTS_PER_SHARE = 1 << 16

__all__ = ["RADIUS_MM", "UNASSIGNED", "assign_ends"]


def assign_ends(
    ends_mm: NDArray[np.float32],
    parcellation: Parcellation,
    radius_mm: float = RADIUS_MM,
    *,
    threads: int = 1,
) -> NDArray[np.int32]:
    """Return the parcel at each end of each streamline.

    As ``tck2connectome -assignment_radial_search`` of MRtrix3
    (doi:10.1016/j.neuroimage.2019.116137): the labelled voxel whose centre is nearest to the end,
    in double precision, and strictly nearer than the radius. Of voxels at one distance that wins
    which comes first by its distance from the voxel that holds the end, then by z, y and x, all
    towards RAS+.

    Parameters
    ----------
    ends_mm : (n, 2, 3)
        First and last points, mm RAS+; not-a-number where there are none.
    parcellation
        Regions, in the space of the points.
    radius_mm
        How far to look.
    threads
        Threads to use.

    Returns
    -------
    (n, 2)
        Index into ``parcellation.numbers``; −1 where no parcel is near enough.
    """
    _, grid = mrtrix_frame(parcellation.grid)
    offsets, least_mm = _offsets(grid, radius_mm)
    points = np.ascontiguousarray(ends_mm, np.float32).reshape(-1, 3)
    found = np.empty(len(points), np.int32)
    # Contiguous copies of one kind: numba compiles once for each kind of array it meets.
    frame = _voxel_from_world(grid), np.ascontiguousarray(grid.affine[:3])
    indices = parcellation.indices

    def assign(share: slice) -> None:
        assign_points(
            points[share], *frame, indices, offsets, least_mm, float(radius_mm), found[share]
        )

    # In small shares: nobody can end a thread, so that Ctrl-C waits for those that are begun.
    bounds = [*range(0, len(points), POINTS_PER_SHARE), len(points)]
    shares = [slice(low, high) for low, high in pairwise(bounds)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(assign, shares))
    return found.reshape(-1, 2)


def _voxel_from_world(grid: Grid) -> FloatArray:
    """Return the inverse of the affine, (3, 4), by cofactors.

    On oblique grids its last bits decide which voxel holds a point on a face, and so which of two
    equally near centres comes first. MRtrix3's library takes cofactors, NumPy's eliminates.
    """
    a, b, c = grid.affine[:3, :3].T
    rows = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
    linear = rows * (1 / (rows[0] * a).sum())
    return np.ascontiguousarray(
        np.column_stack([linear, -(linear * grid.affine[:3, 3]).sum(axis=1)])
    )


def _offsets(grid: Grid, radius_mm: float) -> tuple[NDArray[np.int64], FloatArray]:
    """Return the voxels that may be within the radius, in order, and how near each is at least."""
    sizes = np.array(grid.voxel_sizes_mm)
    # In a sheared grid voxels can be nearer to each other than their indices say.
    squeeze = min(1.0, float(np.linalg.svd(grid.affine[:3, :3] / sizes)[1].min()))
    reach_mm = radius_mm / squeeze + np.sqrt((sizes**2).sum())
    z, y, x = (np.arange(-n, n + 1) for n in (reach_mm // sizes[::-1]).astype(int) + 1)
    offsets = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1).reshape(-1, 3)[:, ::-1]
    distances_mm = np.sqrt(((offsets * sizes) ** 2) @ np.ones(3))
    order = np.argsort(distances_mm, kind="stable")
    order = order[: np.searchsorted(distances_mm[order], reach_mm)]
    return np.ascontiguousarray(offsets[order], np.int64), squeeze * distances_mm[order]
