"""Exact overlap of voxel boxes, against Python's fractions, Qhull, points and formulas."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection
from scipy.spatial.transform import Rotation
from tests.phantoms import turned_copies

from lacuna.geometry.grid import Grid
from lacuna.geometry.overlap import covered_shares

QUARTERS = st.integers(-12, 12).map(lambda n: Fraction(n, 4))
SIZES = st.sampled_from([Fraction(1), Fraction(3, 2), Fraction(5, 4), Fraction(2)])
GRIDS = st.tuples(
    st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[SIZES] * 3), st.tuples(*[QUARTERS] * 3)
)


def as_grid(shape, sizes, origin):
    affine = np.diag([*map(float, sizes), 1.0])
    affine[:3, 3] = [float(value) for value in origin]
    return Grid(shape, affine)


def everywhere(mask, grid, target):
    """Return the shares of all voxels of the target's canonical twin."""
    box, shares = covered_shares(mask, grid, target)
    whole = np.zeros(target.canonical.shape)
    whole[box] = shares
    return whole


def share_in_fractions(mask, source, target):
    """Return the same by Python's fractions, voxel by voxel."""

    def faces(grid, axis, i):
        _, sizes, origin = grid
        return origin[axis] + (i - Fraction(1, 2)) * sizes[axis], sizes[axis]

    shares = np.zeros(target[0])
    for voxel in product(*map(range, target[0])):
        whole = Fraction(0)
        for other in np.argwhere(mask):
            part = Fraction(1)
            for axis in range(3):
                low, size = faces(target, axis, voxel[axis])
                from_, length = faces(source, axis, int(other[axis]))
                part *= max(Fraction(0), min(low + size, from_ + length) - max(low, from_)) / size
            whole += part
        shares[voxel] = float(whole)
    return shares


@given(source=GRIDS, target=GRIDS, seed=st.integers(0, 99))
def test_covered_shares__are_those_of_fractions(source, target, seed):
    mask = np.random.default_rng(seed).random(source[0]) < 0.6
    found = everywhere(mask, as_grid(*source), as_grid(*target))
    assert np.allclose(found, share_in_fractions(mask, source, target), rtol=0, atol=2e-12)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("voxel_mm", [0.7, 1.0, 1.5, 2.0])
def test_covered_shares__do_not_depend_on_how_either_is_stored(voxel_mm):
    random = np.random.default_rng(1)
    mask, grid = random.random((9, 8, 7)) < 0.4, Grid.cubic(1, (9, 8, 7), (-4, -3.5, -3))
    target = Grid.cubic(voxel_mm, (8, 9, 10), (-3.3, -4, -5))
    expected = everywhere(mask, grid, target)
    assert expected.any()
    assert expected.sum() * target.voxel_volume_mm3 <= mask.sum() + 1e-9
    for copy, copy_grid in turned_copies(mask, grid):
        assert np.array_equal(everywhere(copy, copy_grid, target), expected)
    for _, turned in turned_copies(np.zeros(target.shape), target):
        assert np.array_equal(everywhere(mask, grid, turned), expected)


def test_covered_shares__one_grid_counts_voxels_whatever_the_noise_of_its_header():
    mask = np.random.default_rng(0).random((6, 5, 4)) < 0.5
    grid = Grid.cubic(0.9, mask.shape, (-10, 3, 7))
    noise = grid.affine.copy()
    noise[:3] += np.random.default_rng(1).uniform(-1, 1, (3, 4)) * 4e-5
    assert np.array_equal(everywhere(mask, grid, Grid(grid.shape, noise)), mask)


def test_covered_shares__grids_may_be_oblique_together():
    angle = 0.3
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    mask = np.random.default_rng(0).random((6, 6, 6)) < 0.5
    grid, target = Grid.cubic(1, (6, 6, 6), (0, 0, 0)), Grid.cubic(2, (4, 4, 4), (0, 0, 0))
    expected = everywhere(mask, grid, target)
    turned = [Grid(g.shape, rotation @ g.affine) for g in (grid, target)]
    assert np.allclose(everywhere(mask, *turned), expected, rtol=0, atol=1e-11)


def rotated(grid, turn, shear=None):
    """Return a grid as a rotation, and if asked a shear before it, carries it around the origin."""
    carry = np.eye(4)
    carry[:3, :3] = turn.as_matrix() @ (np.eye(3) if shear is None else shear)
    return Grid(grid.shape, carry @ grid.affine)


def volume_by_qhull(first, second):
    """Return the volume that two boxes share; each is the affine of the cube from -½ to ½."""
    inverses = [np.linalg.inv(affine) for affine in (first, second)]
    planes = np.concatenate(
        [sign * m[:3] - [[0, 0, 0, 0.5]] * 3 for m in inverses for sign in (1, -1)]
    )
    norms = np.linalg.norm(planes[:, :3], axis=1)
    deepest = linprog(
        (0, 0, 0, -1), np.column_stack([planes[:, :3], norms]), -planes[:, 3], bounds=(None, None)
    )
    if deepest.x[3] < 1e-4:  # nothing, or a sliver that Qhull could not measure
        return None
    return ConvexHull(HalfspaceIntersection(planes, deepest.x[:3]).intersections).volume


@pytest.mark.parametrize("seed", range(8))
def test_covered_shares__of_rotated_and_sheared_boxes_are_those_of_qhull(seed):
    random = np.random.default_rng(seed)
    turns = Rotation.random(2, rng=random)
    shears = np.eye(3) + random.uniform(-0.3, 0.3, (2, 3, 3))
    mask = np.ones((1, 1, 1), bool)
    grid = rotated(Grid.cubic(2, mask.shape, random.uniform(-1, 1, 3)), turns[0], shears[0])
    target = rotated(Grid.cubic(1.3, (4, 4, 4), (-2, -2, -2)), turns[1], shears[1])
    found, n_compared = everywhere(mask, grid, target), 0
    for voxel in np.ndindex(found.shape):
        affine = target.canonical.affine.copy()
        affine[:3, 3] = target.canonical.to_world(np.array(voxel))
        expected = volume_by_qhull(grid.affine, affine)
        if expected is None:
            assert found[voxel] < 1e-2
        else:
            assert found[voxel] * target.voxel_volume_mm3 == pytest.approx(expected, abs=1e-9)
            n_compared += 1
    assert n_compared > 8


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("offset", [0, 0.25])
def test_covered_shares__of_a_cube_on_its_edge_are_an_octagon_and_four_corners(axis, offset):
    # Offset 0: the planes across the axis are planes of both grids.
    origin = np.full(3, -1.0)
    origin[axis] += offset
    target = Grid.cubic(1, (3, 3, 3), origin)
    cube = rotated(Grid.cubic(1, (1, 1, 1), (0, 0, 0)), Rotation.from_euler("xyz"[axis], np.pi / 4))
    found = np.moveaxis(everywhere(np.ones((1, 1, 1), bool), cube, target), axis, 0)
    octagon = 2 * (np.sqrt(2) - 1)
    layer = np.zeros((3, 3))
    layer[1, 1] = octagon
    layer[0, 1] = layer[1, 0] = layer[1, 2] = layer[2, 1] = (1 - octagon) / 4
    expected = np.multiply.outer([offset, 1 - offset, 0], layer)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


ROTATIONS = st.integers(0, 2**32).map(lambda seed: Rotation.random(rng=seed))
VOXELS_MM = st.sampled_from([0.7, 1, 2.5])


@settings(max_examples=40)
@given(turn=ROTATIONS, voxel_mm=VOXELS_MM, seed=st.integers(0, 99))
def test_covered_shares__keep_the_volume_of_rotated_and_sheared_masks(turn, voxel_mm, seed):
    random = np.random.default_rng(seed)
    mask = random.random((4, 3, 5)) < random.choice([0.02, 0.4, 1])
    shear = np.eye(3) + random.uniform(-0.2, 0.2, (3, 3))
    grid = rotated(Grid.cubic(1.2, mask.shape, random.uniform(-3, 0, 3)), turn, shear)
    target = Grid.cubic(voxel_mm, (int(26 / voxel_mm),) * 3, (-13 + voxel_mm / 2,) * 3)
    shares = everywhere(mask, grid, target)
    volume = mask.sum() * grid.voxel_volume_mm3
    assert shares.sum() * target.voxel_volume_mm3 == pytest.approx(volume, rel=1e-9)
    assert shares.min() >= 0
    assert shares.max() <= 1


@settings(max_examples=40)
@given(
    turn=ROTATIONS, common=ROTATIONS, voxel_mm=VOXELS_MM, origin=st.tuples(*[st.floats(-5, 0)] * 3)
)
def test_covered_shares__do_not_change_if_both_grids_are_rotated(turn, common, voxel_mm, origin):
    mask = np.random.default_rng(0).random((4, 5, 3)) < 0.5
    grid = rotated(Grid.cubic(1.1, mask.shape, (-2, -2, -1)), turn)
    target = Grid.cubic(voxel_mm, (4, 5, 6), origin)
    together = [rotated(other, common) for other in (grid, target)]
    canonical = together[1].orientation.from_canonical(everywhere(mask, *together))
    expected = target.orientation.from_canonical(everywhere(mask, grid, target))
    np.testing.assert_allclose(canonical, expected, rtol=0, atol=1e-9)


def test_covered_shares__of_a_rotated_mask_are_those_of_points():
    random = np.random.default_rng(2)
    mask = random.random((6, 7, 8)) < 0.5
    grid = rotated(Grid.cubic(1, mask.shape, (-2, -3, -4)), Rotation.random(rng=4))
    target = Grid.cubic(1.5, (4, 4, 4), (-2, -2, -2))  # the mask reaches out on every side
    n_points = 20_000
    expected = np.zeros(target.shape)
    for voxel in np.ndindex(target.shape):
        points = target.to_world(voxel + random.uniform(-0.5, 0.5, (n_points, 3)))
        at = np.rint(grid.to_voxels(points)).astype(int)
        is_inside = ((at >= 0) & (at < mask.shape)).all(axis=1)
        expected[voxel] = mask[tuple(at[is_inside].T)].sum() / n_points
    found = everywhere(mask, grid, target)
    # The standard error of a share is at most ½ / √n: five of it in any of 64, ¾ in their mean.
    error = 0.5 / np.sqrt(n_points)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5 * error)
    assert abs((found - expected).mean()) < 0.75 * error


def test_covered_shares__of_a_grid_whose_axes_form_a_left_hand_are_not_negative():
    # However these axes are ordered and flipped towards +x, +y, +z, their determinant is below 0.
    affine = np.eye(4)
    affine[:3, :3] = [(-2, -3, -3), (-2, -3, 3), (-2, 3, -3)]
    grid, target = Grid((1, 1, 1), affine), Grid.cubic(1, (10, 10, 10), (-4.5, -4.5, -4.5))
    assert np.linalg.det(grid.canonical.affine) < 0
    shares = everywhere(np.ones((1, 1, 1), bool), grid, target)
    assert shares.min() >= 0
    assert shares.sum() == pytest.approx(72, rel=1e-9)


def test_covered_shares__of_a_part_of_the_target_are_that_part_of_the_shares():
    mask = np.random.default_rng(5).random((9, 9, 9)) < 0.6
    grid = rotated(Grid.cubic(1, mask.shape, (-4, -4, -4)), Rotation.random(rng=6))
    whole = everywhere(mask, grid, Grid.cubic(1, (20, 20, 20), (-10, -10, -10)))
    for low, high in (((9, 8, 9), (12, 14, 11)), ((0, 0, 0), (9, 9, 9)), ((11, 11, 11), (20,) * 3)):
        shape = tuple(int(n) for n in np.subtract(high, low))
        part = everywhere(mask, grid, Grid.cubic(1, shape, np.array(low) - 10))
        assert part.any()
        expected = whole[tuple(map(slice, low, high))]
        np.testing.assert_allclose(part, expected, rtol=0, atol=1e-12)


def test_covered_shares__of_rotated_grids_do_not_depend_on_how_either_is_stored():
    mask = np.random.default_rng(7).random((5, 6, 7)) < 0.5
    grid = rotated(Grid.cubic(1, mask.shape, (-2, -3, -3)), Rotation.from_euler("xyz", [0.2] * 3))
    target = Grid.cubic(1.5, (5, 4, 6), (-3, -3, -4))
    expected = everywhere(mask, grid, target)
    for copy, copy_grid in turned_copies(mask, grid):
        np.testing.assert_allclose(
            everywhere(copy, copy_grid, target), expected, rtol=0, atol=2e-12
        )
    for _, turned in turned_copies(np.zeros(target.shape), target):
        assert np.array_equal(everywhere(mask, grid, turned), expected)


def test_covered_shares__of_many_faces_are_those_of_their_halves():
    mask = np.random.default_rng(8).random((42, 42, 42)) < 0.5  # 37 000 faces on each axis
    grid = rotated(Grid.cubic(1, mask.shape, (-20,) * 3), Rotation.from_rotvec((0.1, 0.2, 0.3)))
    target = Grid.cubic(4, (21, 21, 21), (-40,) * 3)
    left, right = mask.copy(), mask.copy()
    left[21:], right[:21] = False, False
    halves = [everywhere(half, grid, target) for half in (left, right)]
    found = everywhere(mask, grid, target)
    np.testing.assert_allclose(found, sum(halves), rtol=0, atol=3e-12)
    assert found.sum() * 64 == pytest.approx(mask.sum(), rel=1e-9)


@pytest.mark.parametrize(("n", "is_slanted"), [(2, False), (300, True)])
def test_covered_shares__a_slant_matters_by_how_far_it_leads_over_the_whole_grid(n, is_slanted):
    slanted = np.eye(4)
    slanted[0, 1] = 1e-4
    mask, plain = np.ones((3, n, 1), bool), Grid((3, n, 1), np.eye(4))
    expected = np.ones(mask.shape)
    if is_slanted:
        expected[0, :, 0] -= 1e-4 * np.arange(n)
        # Across the first row it leads half to one side, half to the other.
        expected[0, 0] -= 1e-4 / 8
        expected[2, 0] -= 1e-4 / 8
    found = everywhere(mask, Grid(mask.shape, slanted), plain)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_covered_shares__nothing_is_covered_far_away():
    grid = Grid.cubic(1, (3, 3, 3), (0, 0, 0))
    _, shares = covered_shares(np.ones((3, 3, 3), bool), Grid.cubic(1, (3, 3, 3), (9, 0, 0)), grid)
    assert not shares.size


def test_covered_shares__nothing_is_covered_far_away_by_a_rotated_mask_nor_by_an_empty_one():
    grid = Grid.cubic(1, (3, 3, 3), (0, 0, 0))
    mask, turn = np.ones((3, 3, 3), bool), Rotation.from_rotvec((0, 0, 0.3))
    for origin in ((9, 0, 0), (0, -9, 0), (0, 0, 9), (0, 0, -9)):
        _, shares = covered_shares(mask, rotated(Grid.cubic(1, mask.shape, origin), turn), grid)
        assert not shares.any()
    assert not everywhere(~mask, rotated(grid, turn), grid).any()
