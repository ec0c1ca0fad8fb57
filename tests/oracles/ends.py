"""The parcel at an end, by looking at every labelled voxel of the image."""

import math
from itertools import product

import numpy as np

from lacuna.geometry.grid import FloatArray
from lacuna.geometry.parcellation import Parcellation


def parcel_near(point: FloatArray, parcellation: Parcellation, radius_mm: float) -> int:
    """Return the index of the parcel of the nearest labelled centre, or −1.

    Parameters
    ----------
    point : (3,)
        mm RAS+.
    """
    grid = parcellation.grid.canonical
    sizes = grid.voxel_sizes_mm
    x, y, z = (float(value) for value in point)
    inverse = grid.voxel_from_world
    here = [
        _round(inverse[i, 0] * x + inverse[i, 1] * y + inverse[i, 2] * z + inverse[i, 3])
        for i in range(3)
    ]
    best, found = (radius_mm,), -1
    for voxel in product(*map(range, grid.shape)):
        index = int(parcellation.indices[voxel])
        if index < 0:
            continue
        centre = [float(sum(grid.affine[i, :3] * voxel) + grid.affine[i, 3]) for i in range(3)]
        distance = math.dist((x, y, z), centre)
        offset = [voxel[i] - here[i] for i in range(3)]
        from_here = math.sqrt(sum((offset[i] * sizes[i]) ** 2 for i in range(3)))
        rank = distance, from_here, *offset[::-1]
        if distance < radius_mm and rank < best:
            best, found = rank, index
    return found


def _round(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value)) if np.isfinite(value) else 0
