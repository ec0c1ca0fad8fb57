"""Grids: what they are whatever their headers keep."""

import numpy as np
import pytest

from lacuna.geometry.grid import Grid


@pytest.mark.parametrize("first", [-91.00005, -90.0, 12.25, -96.5000049])
def test_origin__is_the_same_for_copies_whose_headers_keep_another_corner(first):
    size = np.float32(3.7)
    for step in range(300):
        corner = np.float32(first + step * 1e-4)
        far = np.float32(float(corner) + 45 * float(size))  # what a flipped copy keeps
        grids = [Grid.cubic(float(size), (46, 46, 46), (float(corner), 0, 0))]
        affine = np.diag([-float(size), float(size), float(size), 1])
        affine[0, 3] = far
        grids.append(Grid((46, 46, 46), affine))
        origins = [grid.origin[0] for grid in grids]
        assert abs(origins[0] - origins[1]) < 3e-5
        assert abs(origins[0] - float(corner)) < 3e-5
    assert Grid.cubic(1, (2, 2, 2), (-90.0000076, 5e-6, 3)).origin.tolist() == [-90, 0, 3]
