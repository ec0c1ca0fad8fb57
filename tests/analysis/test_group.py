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


@pytest.mark.parametrize(("angle", "is_exact"), [(0, True), (20, False)])
def test_add_lesion__lesions_stay_where_they_are(angle, is_exact):
    a = np.radians(angle)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    affine[:3, 3] = 1, 2, -3
    mask = np.zeros((9, 9, 9), bool)
    mask[3:7, 2:5, 4:8] = True
    grid, target = Grid(mask.shape, affine), Grid.cubic(2, (24, 24, 24), (-23, -23, -23))
    total = np.zeros(target.shape)
    assert add_lesion(total, target, mask, grid) is is_exact
    voxels = np.argwhere(total)
    found = np.average(target.to_world(voxels), axis=0, weights=total[total > 0])
    expected = grid.to_world(np.argwhere(mask)).mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6 if is_exact else 0.1)
