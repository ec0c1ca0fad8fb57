"""Lesion overlap, against volumes by hand."""

import numpy as np
import pytest

from lacuna.analysis.group import add_lesion
from lacuna.geometry.grid import Grid


def test_add_lesion__lesions_on_several_grids_keep_their_volumes():
    target = Grid(
        (6, 6, 6), np.array([[-2, 0, 0, 5], [0, 2, 0, -5], [0, 0, 2, -5], [0, 0, 0, 1.0]])
    )
    total = np.zeros(target.canonical.shape)
    fine, coarse = np.zeros((8, 8, 8), bool), np.ones((2, 1, 1), bool)
    fine[0, 0, 0] = True
    assert add_lesion(total, target, fine, Grid.cubic(0.5, fine.shape, (-1.75, 0, 0)))
    assert add_lesion(total, target, coarse, Grid.cubic(3, coarse.shape, (0, 0, 0)))
    assert total.sum() * 8 == pytest.approx(0.125 + 54)
    # Its voxel is the one from -2 to 0 along x, which is stored from right to left.
    centre = target.to_voxels(np.array([[-1.0, 1, 1]]))[0].round().astype(int)
    counts = target.orientation.from_canonical(total)
    assert counts[tuple(centre)] > 0
    assert counts.shape == target.shape


def test_add_lesion__a_turned_grid_counts_by_points_and_says_so():
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    target = Grid.cubic(2, (10, 10, 10), (-9, -9, -9))
    total = np.zeros(target.canonical.shape)
    mask = np.zeros((5, 5, 5), bool)
    mask[1:4, 1:4, 1:4] = True
    assert not add_lesion(total, target, mask, Grid(mask.shape, affine))
    assert total.sum() * 8 == pytest.approx(27)
    assert total.max() <= 1.05
