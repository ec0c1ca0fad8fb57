"""Exact overlap of voxel boxes, against fractions that Python computes."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.phantoms import turned_copies

from lacuna.errors import GridError
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


def test_covered_shares__a_rotated_grid_is_refused_with_the_way_out():
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    with pytest.raises(GridError, match="nearest"):
        covered_shares(
            np.ones((3, 3, 3), bool), Grid((3, 3, 3), affine), Grid((3, 3, 3), np.eye(4))
        )


@pytest.mark.parametrize(("n", "refused"), [(2, False), (300, True)])
def test_covered_shares__a_slant_matters_by_how_far_it_leads_over_the_whole_grid(n, refused):
    slanted = np.eye(4)
    slanted[0, 1] = 1e-4
    mask, plain = np.ones((3, n, 1), bool), Grid((3, n, 1), np.eye(4))
    if refused:
        with pytest.raises(GridError, match="rotated"):
            covered_shares(mask, Grid(mask.shape, slanted), plain)
    else:
        assert (everywhere(mask, Grid(mask.shape, slanted), plain) == 1).all()


def test_covered_shares__nothing_is_covered_far_away():
    grid = Grid.cubic(1, (3, 3, 3), (0, 0, 0))
    _, shares = covered_shares(np.ones((3, 3, 3), bool), Grid.cubic(1, (3, 3, 3), (9, 0, 0)), grid)
    assert not shares.size
