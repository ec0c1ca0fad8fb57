"""Parcels at the ends of streamlines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles.ends import parcel_near

from lacuna.formats import open_tractogram
from lacuna.formats.atlas import load_atlas
from lacuna.geometry.grid import Grid
from lacuna.geometry.parcellation import Parcellation
from lacuna.tractogram.ends import assign_ends
from lacuna.tractogram.index import build_streamlines, open_streamlines

SHAPE = (7, 6, 5)


def parcels(labels, grid):
    numbers = np.unique(labels[labels > 0]).astype(np.int32)
    return Parcellation("a", labels.astype(np.int32), grid, numbers, tuple(map(str, numbers)))


def affine(columns, origin):
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = np.array(columns, float).T, origin
    return made


AFFINES = {
    "1 mm": affine([(1, 0, 0), (0, 1, 0), (0, 0, 1)], (-3, -2, -2)),
    "2 mm LAS": affine([(-2, 0, 0), (0, 2, 0), (0, 0, 2)], (6.5, -5.5, -4.5)),
    "LIA": affine([(-1, 0, 0), (0, 0, -1), (0, 1, 0)], (3, -2, 2)),
    "flat": affine([(1, 0, 0), (0, 1.5, 0), (0, 0, 3)], (-3, -4, -6)),
    "sheared": affine([(1, 0, 0), (0.9, 1, 0), (0, 0.5, 1)], (-6, -3, -2)),
}


@settings(max_examples=30)
@given(st.sampled_from(sorted(AFFINES)), st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.2]))
def test_assign_ends__is_what_a_look_at_every_voxel_finds(name, seed, share):
    random = np.random.default_rng(seed)
    labels = np.where(random.random(SHAPE) < share, random.integers(1, 2000, SHAPE), 0)
    labels[3, 3, 2] = 7
    grid = Grid(SHAPE, AFFINES[name])
    atlas = parcels(labels, grid)
    # On centres, faces, edges and corners of voxels, where many centres are equally near.
    voxels = random.integers(-4, 2 * np.array(SHAPE) + 4, (20, 2, 3)) / 2
    ends = grid.to_world(voxels.reshape(-1, 3)).astype(np.float32).reshape(-1, 2, 3)
    if name == "sheared":
        ends += random.normal(0, 0.01, ends.shape).astype(np.float32)
    found = assign_ends(ends, atlas, 2.5, threads=2)
    expected = [[parcel_near(end, atlas, 2.5) for end in pair] for pair in ends]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def one_voxel(*, at=(0, 0, 0)):
    labels = np.zeros((9, 9, 9), np.int32)
    labels[at] = 4
    return parcels(labels, Grid.cubic(1, labels.shape, (0, 0, 0)))


@pytest.mark.parametrize(("x", "index"), [(3.99, 0), (4.0, -1), (-3.99, 0), (-4.0, -1), (30, -1)])
def test_assign_ends__centre_must_be_strictly_nearer_than_the_radius(x, index):
    ends = np.array([[[x, 0, 0], [0, x, 0]]], np.float32)
    assert assign_ends(ends, one_voxel()).tolist() == [[index, index]]


def test_assign_ends__in_a_sheared_grid_looks_as_far_as_indices_may_go():
    # Seven voxels back and seven up lead 7 mm away, where unsheared they would lead 12 mm.
    labels = np.zeros((9, 9, 1), np.int32)
    labels[0, 8] = 4
    grid = Grid(labels.shape, affine([(1, 0, 0), (0.95, 1, 0), (0, 0, 1)], (0, 0, 0)))
    ends = np.array([[[7.95, 1, 0], [7.95, 0.01, 0]]], np.float32)
    assert assign_ends(ends, parcels(labels, grid), 8).tolist() == [[0, 0]]
    assert assign_ends(ends, parcels(labels, grid), 7.5).tolist() == [[0, -1]]


def test_assign_ends__compares_distances_in_double_precision():
    # A hundred-millionth of a millimetre off the middle: in single precision both are 3 mm away.
    labels = np.zeros((7, 1, 1), np.int32)
    labels[0], labels[6] = 1, 2
    ends = np.array([[[1e-8, 0, 0], [-1e-8, 0, 0]], [[0, 0, 0], [0, 0, 0]]], np.float32)
    atlas = parcels(labels, Grid.cubic(1, labels.shape, (-3, 0, 0)))
    assert assign_ends(ends, atlas).tolist() == [[1, 0], [0, 0]]


def test_assign_ends__of_equally_near_voxels_the_lowest_z_then_y_then_x_wins():
    labels = np.zeros((3, 3, 3), np.int32)
    around = [(1, 1, 0), (1, 0, 1), (0, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)]
    for number, voxel in enumerate(around, 1):
        labels[voxel] = number
    middle = np.ones((1, 2, 3), np.float32)
    for number, voxel in enumerate(around, 1):
        atlas = parcels(labels, Grid.cubic(1, labels.shape, (0, 0, 0)))
        assert atlas.numbers[assign_ends(middle, atlas)].tolist() == [[number, number]]
        labels[voxel] = 0


def test_assign_ends__ends_that_are_nowhere_have_no_parcel():
    ends = np.array([[[np.nan] * 3, [1, 0, 0]]], np.float32)
    assert assign_ends(ends, one_voxel()).tolist() == [[-1, 0]]
    assert assign_ends(ends[:0], one_voxel()).shape == (0, 2)


def test_assign_ends__orientation_of_the_file_and_threads_change_nothing():
    random = np.random.default_rng(3)
    labels = np.where(random.random((12, 11, 10)) < 0.2, random.integers(1, 50, (12, 11, 10)), 0)
    grid = Grid.cubic(2, labels.shape, (-10.5, -9.5, -8.5))
    ends = grid.to_world(random.integers(-2, 24, (4000, 3)) / 2).astype(np.float32)
    ends = ends.reshape(-1, 2, 3)
    expected = assign_ends(ends, parcels(labels, grid))
    turned = affine([(-2, 0, 0), (0, 0, -2), (0, 2, 0)], grid.to_world(np.array([11, 0, 9])))
    stored = parcels(labels[::-1, :, ::-1].transpose(0, 2, 1), Grid((12, 10, 11), turned))
    las = affine([(-2, 0, 0), (0, 2, 0), (0, 0, 2)], grid.to_world(np.array([11, 0, 0])))
    flipped = parcels(labels[::-1], Grid(labels.shape, las))
    assert (expected >= 0).mean() > 0.5
    for atlas in (stored, flipped):
        np.testing.assert_array_equal(assign_ends(ends, atlas, threads=3), expected)


def test_assign_ends__a_real_atlas_in_three_orientations(shared_data, tmp_path):
    path = shared_data / "tractograms" / "hcp842_wholebrain_MNI152NLin6Asym.trk"
    build_streamlines(open_tractogram(path).streamlines, tmp_path)
    ends = open_streamlines(tmp_path).ends
    atlas = load_atlas(next(shared_data.glob("parcellations/*2018_desc-100Parcels*_dseg.nii.gz")))
    assert atlas.grid.orientation.flips == (True, False, False)
    expected = assign_ends(ends, atlas)
    ras = atlas.grid.canonical
    lia = affine([(-1, 0, 0), (0, 0, -1), (0, 1, 0)], ras.to_world(np.array([181, 0, 181])))
    turned = atlas.canonical[::-1, :, ::-1].transpose(0, 2, 1)
    for other in (parcels(atlas.canonical, ras), parcels(turned, Grid(turned.shape, lia))):
        np.testing.assert_array_equal(assign_ends(ends, other), expected)
