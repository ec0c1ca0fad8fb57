"""Maps over lesions, against sums by hand."""

import numpy as np
import pytest

from lacuna.analysis.group import LesionOverlap, MapSums
from lacuna.geometry.grid import Grid


def test_map_sums__a_share_that_is_stored_as_float32_reaches_its_own_threshold():
    sums = MapSums(np.array([[[True, True, False]]]), [0.7])
    sums.add(np.array([[[0.7, 0.69, 1]]], np.float32))
    sums.add(np.array([[[1, 0, 1]]], np.float32))
    assert sums.frequencies[0.7].tolist() == [[[1, 0, 0]]]
    np.testing.assert_allclose(sums.mean, [[[0.85, 0.345, 0]]], rtol=1e-6)


def test_lesion_overlap__lesions_on_several_grids_keep_their_volumes():
    target = Grid(
        (6, 6, 6), np.array([[-2, 0, 0, 5], [0, 2, 0, -5], [0, 0, 2, -5], [0, 0, 0, 1.0]])
    )
    overlap = LesionOverlap(target)
    fine, coarse = np.zeros((8, 8, 8), bool), np.ones((2, 1, 1), bool)
    fine[0, 0, 0] = True
    assert overlap.add(fine, Grid.cubic(0.5, fine.shape, (-1.75, 0, 0)))
    assert overlap.add(coarse, Grid.cubic(3, coarse.shape, (0, 0, 0)))
    assert overlap.counts.sum() * 8 == pytest.approx(0.125 + 54)
    # Its voxel is the one from -2 to 0 along x, which is stored from right to left.
    centre = target.to_voxels(np.array([[-1.0, 1, 1]]))[0].round().astype(int)
    assert overlap.counts[tuple(centre)] > 0
    assert overlap.counts.shape == target.shape


def test_lesion_overlap__a_turned_grid_counts_by_points_and_says_so():
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    target = Grid.cubic(2, (10, 10, 10), (-9, -9, -9))
    overlap = LesionOverlap(target)
    mask = np.zeros((5, 5, 5), bool)
    mask[1:4, 1:4, 1:4] = True
    assert not overlap.add(mask, Grid(mask.shape, affine))
    assert overlap.counts.sum() * 8 == pytest.approx(27)
    assert overlap.counts.max() <= 1.05
