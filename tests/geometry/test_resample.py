"""Images on the voxels of another space, against arithmetic done by hand."""

import numpy as np
import pytest
from tests.phantoms import turned_copies

from lacuna.geometry.grid import Grid
from lacuna.geometry.resample import (
    find_moved_box,
    find_outline,
    pull_voxels,
    take_linear,
    take_nearest,
)
from lacuna.geometry.space import canonical_grid, fitting_grid
from lacuna.geometry.warp import DisplacementField, Transform

GRID = Grid.cubic(2, (12, 14, 10), (-11, -13, -9))
TARGET = Grid.cubic(1.5, (20, 22, 18), (-14, -15, -13))


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, 6, GRID.shape).astype(np.int32)


def bent() -> Transform:
    voxels = np.moveaxis(np.indices(TARGET.shape), 0, -1).astype(float)
    waves = [np.sin(voxels @ weights) for weights in ([0.2, 0.1, 0], [0, 0.2, 0.1], [0.1, 0, 0.2])]
    affine = np.array([[1.1, 0.05, 0, 1], [-0.1, 0.9, 0.02, -2], [0, 0, 1.05, 1], [0, 0, 0, 1]])
    return Transform((DisplacementField(TARGET, 1.5 * np.stack(waves, axis=-1)), affine), "A", "B")


def whole(transform, labels, threads=1, grid=GRID):
    box = find_moved_box(transform, labels > 0, grid.canonical, 1.5)
    voxels, at = pull_voxels(transform, grid, TARGET, box, threads=threads)
    found = np.zeros(TARGET.n_voxels, labels.dtype)
    found[voxels] = take_nearest(labels, at)
    return found.reshape(TARGET.shape)


def test_pull_voxels__nearest_labels_are_those_of_one_voxel_after_another(labels):
    transform, expected = bent(), np.zeros(TARGET.shape, np.int32)
    for voxel in np.ndindex(TARGET.shape):
        centre = TARGET.affine[:3, :3] @ voxel + TARGET.affine[:3, 3]
        there = transform.apply(centre[None])[0]
        i, j, k = np.floor((there - GRID.affine[:3, 3]) / 2 + 0.5).astype(int)
        if min(i, j, k) >= 0 and i < 12 and j < 14 and k < 10:
            expected[voxel] = labels[i, j, k]
    assert (expected > 0).mean() > 0.2
    for threads in (1, 3):
        np.testing.assert_array_equal(whole(transform, labels, threads), expected)


def test_pull_voxels__turned_copies_of_the_source_give_the_same(labels):
    expected = whole(bent(), labels)
    for array, grid in turned_copies(labels, GRID):
        assert not grid.is_same(GRID)
        turned = grid.orientation.to_canonical(array)
        np.testing.assert_array_equal(whole(bent(), turned, grid=grid), expected)


def test_pull_voxels__centres_on_faces_belong_beyond_them_however_the_source_is_stored(labels):
    shift = np.array([0.3, 0.7, -1.1])  # not exact in binary
    source = Grid(GRID.shape, GRID.affine + np.pad(shift[:, None], ((0, 1), (3, 0))))
    onto = Grid.cubic(2, (10, 12, 8), (-8, -10, -6))
    to_source = np.eye(4)
    to_source[:3, 3] = shift
    copies = [(labels, source), *turned_copies(labels, source)]
    for array, grid in copies:
        canonical = grid.orientation.to_canonical(array)
        box = (np.full(3, -40.0), np.full(3, 40.0))
        voxels, at = pull_voxels(Transform((to_source,), "A", "B"), grid, onto, box)
        assert len(voxels) == onto.n_voxels
        found = take_nearest(canonical, at).reshape(onto.shape)
        np.testing.assert_array_equal(found, labels[2:12, 2:14, 2:10])


def test_take_linear__is_the_share_of_a_voxel_that_is_covered():
    mask = np.zeros((4, 4, 4), bool)
    mask[1:3, 1:3, 1:3] = True
    at = np.array([[1, 1, 1], [0.5, 1, 1], [0.25, 0.5, 1], [-0.5, 1, 1], [2.75, 2, 2]])
    np.testing.assert_allclose(take_linear(mask, at), [1, 0.5, 0.125, 0, 0.25])


def test_take_nearest__a_point_on_a_face_belongs_to_the_voxel_beyond_it():
    values = np.arange(1, 9).reshape(2, 2, 2)
    at = np.array([[0.5, 0, 0], [0, 0.5, 0], [-0.5, 0, 0], [1.5, 0, 0], [-0.51, 0, 0]])
    assert take_nearest(values, at).tolist() == [5, 3, 1, 0, 0]


def test_find_outline__has_the_ends_of_every_line_and_nothing_within():
    mask = np.zeros((7, 7, 7), bool)
    mask[1:6, 1:6, 1:6] = True
    mask[0, 3, 3] = True
    found = {tuple(voxel) for voxel in find_outline(mask)}
    assert (0, 3, 3) in found
    assert (3, 3, 3) not in found
    assert all(mask[voxel] for voxel in found)
    assert (1, 3, 3) not in found  # another begins its line
    assert len(found) == 98


@pytest.mark.parametrize(
    ("space", "size", "expected"),
    [
        ("MNI152NLin6Asym", 2.0, 2),
        ("MNI152NLin6Asym", 1.999, 2),
        ("MNI152NLin6Asym", 1.5, 1),
        ("MNI152NLin6Asym", 5.0, 2),
        ("MNI152NLin2009cAsym", 1.0, 1),
    ],
)
def test_fitting_grid__is_the_coarsest_that_loses_nothing(space, size, expected):
    assert fitting_grid(space, size) is canonical_grid(space, expected)


def test_fitting_grid__is_none_where_all_are_coarser_or_none_is_customary():
    assert fitting_grid("MNI152NLin2009cAsym", 0.5) is None
    assert fitting_grid("OurStudy", 1) is None


@pytest.mark.parametrize("inverted", [False, True])
def test_find_moved_box__holds_what_lies_outside_a_field(inverted):
    """Beyond a field nothing moves, or, inverted, all moves like its border: both are tried."""
    field_grid = Grid.cubic(4.0, (11, 20, 20), (-20, -40, -40))
    field = DisplacementField(field_grid, np.full((11, 20, 20, 3), [15.0, 0, 0]))
    transform = Transform((field,), "B", "A")
    transform = transform.inverse() if inverted else transform
    grid = Grid.cubic(1.0, (100, 60, 60), (-50, -30, -30))
    mask = np.zeros(grid.shape, bool)
    mask[75:95, 20:40, 20:40] = True  # x from 25 mm to 44 mm: the field ends at 22 mm
    low, high = find_moved_box(transform, mask, grid, 1.0)
    everywhere = (np.array([-1e3] * 3), np.array([1e3] * 3))
    boxed, found = pull_voxels(transform, grid, grid, (low, high))
    whole, wanted = pull_voxels(transform, grid, grid, everywhere)
    lesioned = boxed[take_nearest(mask, found)]
    np.testing.assert_array_equal(lesioned, whole[take_nearest(mask, wanted)])
    assert len(lesioned)
