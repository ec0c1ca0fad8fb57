from itertools import pairwise

import numpy as np
import pytest
from tests.oracles.mrtrix import mrtrix_voxels, weights
from tests.phantoms import coherent_tractogram

from lacuna.errors import OptionError
from lacuna.geometry.grid import Grid
from lacuna.tractogram._kernels.mrtrix import visit_mrtrix, voxel_mrtrix
from lacuna.tractogram.mrtrix import (
    first_of_region,
    hermite_weights,
    mrtrix_frame,
    upsampling_ratio,
)

FSL_2MM = Grid(
    (91, 109, 91),
    np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]]),
)
FSL_2MM_LAS = Grid(
    (91, 109, 91),
    np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]]),
)
FSL_2MM_LIA = Grid(
    (91, 91, 109),
    np.array([[-2.0, 0, 0, 90], [0, 0, 2, -126], [0, -2, 0, 108], [0, 0, 0, 1]]),
)
OBLIQUE = Grid(
    (80, 60, 50),
    np.array([[1.2, -0.5, 0.2, -60], [0.4, 1.8, -0.3, -70], [-0.1, 0.6, 2.1, -50], [0, 0, 0, 1]]),
)


@pytest.mark.parametrize("grid", [FSL_2MM, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("ratio", [1, 2, 3, 5, 14])
def test_visit_mrtrix__equals_the_oracle(grid, ratio):
    streamlines = coherent_tractogram(12, step_mm=3.1, seed=ratio)
    points, offsets = streamlines.gather(np.arange(12))
    matrix, canonical = mrtrix_frame(grid)
    shape = np.array(canonical.shape)
    out = np.empty(ratio * len(points), np.int64)
    for start, stop in [*pairwise(offsets), (4, 4), (4, 5), (4, 6)]:
        n = visit_mrtrix(points, start, stop, matrix, shape, hermite_weights(ratio), out)
        found = set(zip(*(axis.tolist() for axis in np.unravel_index(out[:n], shape)), strict=True))
        assert found == mrtrix_voxels(points[start:stop], matrix, canonical.shape, ratio)


@pytest.mark.parametrize("ratio", [1, 4])
def test_visit_mrtrix__writes_ratio_times_steps_plus_one_and_none_if_empty(ratio):
    points = np.linspace((-20, -30, 5), (30, 20, 9), 7).astype(np.float32)
    matrix, canonical = mrtrix_frame(FSL_2MM)
    out = np.empty(ratio * 6 + 1, np.int64)
    arguments = matrix, np.array(canonical.shape), hermite_weights(ratio), out
    assert visit_mrtrix(points, 0, 7, *arguments) == ratio * 6 + 1
    assert visit_mrtrix(points, 3, 4, *arguments) == 1
    assert visit_mrtrix(points, 3, 3, *arguments) == 0


@pytest.mark.parametrize(
    ("x", "voxel"),
    [(0.5, 1), (1.5, 2), (2.5, 3), (-0.4999, 0), (-0.5, -1), (3.4999, 3), (3.5, -1), (np.nan, -1)],
)
def test_voxel_mrtrix__rounds_halves_up_and_drops_what_is_outside(x, voxel):
    matrix, canonical = mrtrix_frame(Grid((4, 1, 1), np.eye(4)))
    at = np.float32(x)
    zero = np.float32(0)
    assert voxel_mrtrix(at, zero, zero, matrix, np.array(canonical.shape)) == voxel


def test_mrtrix_frame__does_not_depend_on_the_orientation_of_storage():
    matrix, canonical = mrtrix_frame(FSL_2MM)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[0.5, 0, 0, 45], [0, 0.5, 0, 63], [0, 0, 0.5, 36]])
    for grid in (FSL_2MM_LAS, FSL_2MM_LIA):
        turned, same = mrtrix_frame(grid)
        np.testing.assert_array_equal(turned, matrix)
        assert same.is_same(canonical)


def test_mrtrix_frame__of_a_cropped_mask_counts_from_where_it_was_cropped():
    first = first_of_region(np.array([0, 12, 30]))
    np.testing.assert_array_equal(first, [0, 11, 29])
    whole, _ = mrtrix_frame(FSL_2MM_LAS)
    cropped, grid = mrtrix_frame(FSL_2MM_LAS, first)
    np.testing.assert_array_equal(cropped[:, :3], whole[:, :3])
    np.testing.assert_array_equal(cropped[:, 3], whole[:, 3] - first)
    assert grid.shape == (91, 98, 62)


@pytest.mark.parametrize("stated", [(1.3, 1.9, 2.7), (0.859375, 1.796875, 2.29167)])
def test_mrtrix_frame__takes_the_voxel_sizes_of_the_header_not_of_the_rounded_affine(stated):
    turn = np.linalg.qr([[1.0, 0.2, 0.1], [-0.2, 1, 0.3], [0, -0.3, 1]])[0]
    stated = np.array(stated)
    affine = np.eye(4)
    affine[:3, :3] = (turn * stated).astype(np.float32)
    _, canonical = mrtrix_frame(Grid((9, 9, 9), affine))
    found = np.linalg.norm(canonical.affine[:3, :3], axis=0)
    np.testing.assert_allclose(found, stated.astype(np.float32), rtol=1e-14)


@pytest.mark.parametrize(
    ("step_size_mm", "voxel_mm", "ratio"),
    [
        (None, 2.0, 1),
        (float("nan"), 2.0, 1),
        (0.0, 2.0, 1),
        (-3.0, 2.0, 1),
        (0.1, 2.0, 1),
        (0.666, 2.0, 1),
        (0.66601, 2.0, 2),
        (1.0, 2.0, 2),
        (1.0, 1.0, 4),
        (0.999, 1.0, 3),
        (2.5, 0.5, 16),
    ],
)
def test_upsampling_ratio__keeps_steps_within_a_third_of_a_voxel(step_size_mm, voxel_mm, ratio):
    grid = Grid((9, 9, 9), np.diag([voxel_mm, voxel_mm + 1, voxel_mm + 2, 1]))
    assert upsampling_ratio(step_size_mm, grid) == ratio


@pytest.mark.parametrize("ratio", [1, 2, 3, 7])
def test_hermite_weights__equal_the_formula_in_single_precision(ratio):
    found = hermite_weights(ratio)
    assert found.dtype == np.float32
    assert found.shape == (ratio - 1, 4)
    for k, row in enumerate(found, start=1):
        np.testing.assert_array_equal(row, weights(np.float32(k / ratio)))
        assert row.sum() == pytest.approx(1, abs=1e-6)


def test_hermite_weights__refuse_less_than_one_piece():
    with pytest.raises(OptionError, match="0 pieces"):
        hermite_weights(0)
