"""Points through affines and displacement fields, forth and back."""

import numpy as np
import pytest
from tests.phantoms import turned_copies

from lacuna.errors import SpaceError
from lacuna.geometry.grid import Grid
from lacuna.geometry.warp import DisplacementField, Transform

GRID = Grid((9, 10, 8), np.array([[4.0, 0, 0, -16], [0, 5, 0, -20], [0, 0, 6, -20], [0, 0, 0, 1]]))
SHEAR = np.array([[1.1, 0.05, 0, 3], [-0.1, 0.9, 0.02, -4], [0, 0, 1.05, 5], [0, 0, 0, 1]])


@pytest.fixture
def points():
    return np.random.default_rng(0).uniform(-15, 15, (500, 3))


def smooth_field(size_mm: float) -> DisplacementField:
    voxels = np.moveaxis(np.indices(GRID.shape), 0, -1).astype(float)
    waves = [np.sin(voxels @ weights) for weights in ([0.5, 0.2, 0], [0, 0.6, 0.3], [0.4, 0, 0.5])]
    return DisplacementField(GRID, size_mm * np.stack(waves, axis=-1))


def test_apply__linear_displacements_are_met_exactly(points):
    voxels = np.moveaxis(np.indices(GRID.shape), 0, -1)
    world = GRID.to_world(voxels.reshape(-1, 3))
    field = DisplacementField(GRID, (world @ SHEAR[:3, :3].T - world).reshape(*GRID.shape, 3))
    moved = Transform((field,), "A", "B").apply(points)
    np.testing.assert_allclose(moved, points @ SHEAR[:3, :3].T, atol=1e-12)


def test_apply__goes_through_the_steps_in_their_order(points):
    field = smooth_field(2)
    there = field.move(points).points @ SHEAR[:3, :3].T + SHEAR[:3, 3]
    np.testing.assert_allclose(Transform((field, SHEAR), "A", "B").apply(points), there)
    assert not np.allclose(Transform((SHEAR, field), "A", "B").apply(points), there)


def test_move__outside_the_field_nothing_moves_and_is_counted():
    field = DisplacementField(GRID, np.full((*GRID.shape, 3), 2.0))
    # A voxel reaches half its size beyond its centre.
    given = np.array([[-17.9, 0, 0], [-18.1, 0, 0], [0, 0, 300]])
    moved = Transform((field,), "A", "B").move(given)
    np.testing.assert_array_equal(moved.points, given + np.array([[2], [0], [0]]))
    assert (moved.n_outside, moved.n_unsolved) == (2, 0)


def test_inverse__brings_points_back_and_says_where_from(points):
    transform = Transform((smooth_field(2), SHEAR), "A", "B")
    back = transform.inverse()
    assert str(back) == "moves points from B to A"
    assert np.abs(transform.apply(points) - points).max() > 3
    np.testing.assert_allclose(back.apply(transform.apply(points)), points, atol=1e-3)
    np.testing.assert_allclose(back.inverse().apply(points), transform.apply(points))


def test_inverse__where_a_field_stretches_more_than_twofold():
    field = DisplacementField(
        GRID, np.stack(np.indices(GRID.shape) * [[[[8]]], [[[0]]], [[[0]]]], axis=-1)
    )
    given = np.array([[-12.0, 1, 1], [3.3, -4, 2]])
    transform = Transform((field,), "A", "B")
    np.testing.assert_allclose(transform.inverse().apply(transform.apply(given)), given, atol=1e-3)


def test_inverse__counts_what_cannot_be_placed_as_forward_displacements_show(points):
    field = smooth_field(9)
    back = Transform((field,), "A", "B").inverse().move(points)
    there, inside = field.displacements(back.points)
    # Where a field ends it goes on: only there the forward displacements say nothing.
    wrong = np.abs(back.points + there - points).max(axis=1)
    unsolved = inside & (wrong > 0.05)
    assert (inside & (wrong > 1e-3) & (wrong < 5)).sum() > 3
    assert inside.sum() + back.n_outside == len(points)
    assert unsolved.sum() <= back.n_unsolved <= unsolved.sum() + (~inside).sum()
    assert 0 < unsolved.sum() < len(points) / 2


def test_inverse__beyond_the_field_goes_on_with_its_border_and_is_counted():
    field = DisplacementField(GRID, np.full((*GRID.shape, 3), 2.0), inverted=True)
    given = np.array([[0, 0, 0], [40.0, 0, 0], [0, 0, -300]])
    moved = Transform((field,), "A", "B").move(given)
    np.testing.assert_array_equal(moved.points, given - 2)
    assert (moved.n_outside, moved.n_unsolved) == (2, 0)


def test_move__counts_of_several_fields_add_up(points):
    field = DisplacementField(GRID, np.full((*GRID.shape, 3), 2.0))
    given = np.array([[0, 0, 0], [15.5, 0, 0], [300, 0, 0]])
    # The second meets the second field at 17.5 mm, within half a voxel; the third neither.
    assert Transform((field, field), "A", "B").move(given).n_outside == 2
    assert Transform((field, np.diag([2.0, 1, 1, 1]), field), "A", "B").move(given).n_outside == 3
    folds = smooth_field(40).__class__(GRID, smooth_field(40).vectors, inverted=True)
    once = Transform((folds,), "A", "B").move(points).n_unsolved
    still = DisplacementField(GRID, np.zeros((*GRID.shape, 3)), inverted=True)
    assert Transform((folds, still), "A", "B").move(points).n_unsolved == once > 0


def test_apply__a_field_of_one_slice():
    grid = Grid((9, 1, 8), GRID.affine)
    vectors = np.zeros((9, 1, 8, 3))
    vectors[..., 0] = np.arange(9)[:, None, None]
    given = np.array([[-14.0, -20.0, -5], [-14.0, -22.4, 3], [-14.0, -17.6, 3]])
    moved = Transform((DisplacementField(grid, vectors),), "A", "B").apply(given)
    np.testing.assert_allclose(moved, given + np.array([0.5, 0, 0]))


def test_inverse__of_a_field_that_folds_is_refused(points):
    with pytest.raises(SpaceError, match=r"moves points from B to A has to be inverted.*folds"):
        Transform((smooth_field(40),), "A", "B").inverse().apply(points)


def test_apply__turned_copies_of_a_field_move_points_alike_to_the_last_bit(points):
    grid = Grid(GRID.shape, GRID.affine + np.diag([0.1, 0.3, -0.7, 0]) / 3)
    vectors = smooth_field(2).vectors.round(3)
    thousandths = (vectors * 1000).round().astype(np.int32)
    expected = Transform((DisplacementField(grid, thousandths / 1000),), "A", "B").apply(points)
    copies = [list(turned_copies(thousandths[..., i], grid)) for i in range(3)]
    for x, y, z in zip(*copies, strict=True):
        turned = DisplacementField(x[1], np.stack([x[0], y[0], z[0]], axis=-1) / 1000)
        np.testing.assert_array_equal(Transform((turned,), "A", "B").apply(points), expected)


def test_apply__does_not_depend_on_how_many_points_there_are(points):
    transform = Transform((smooth_field(2), SHEAR), "A", "B")
    whole = transform.apply(points)
    assert (np.concatenate([transform.apply(part[None]) for part in points]) == whole).all()
    assert transform.apply(np.empty((0, 3), np.float32)).shape == (0, 3)
    assert len(transform.apply(np.zeros((70_000, 3)))) == 70_000
