import numpy as np
import pytest

from lacuna.analysis.sweep import average_spheres, spread_places
from lacuna.errors import OptionError
from lacuna.geometry.grid import Grid


def a_ball(n=40, size_mm=2.0):
    affine = np.diag([size_mm] * 3 + [1.0])
    affine[:3, 3] = -size_mm * (n - 1) / 2
    grid = Grid((n, n, n), affine)
    centres = grid.to_world(np.argwhere(np.ones(grid.shape)))
    return ((centres**2).sum(axis=1) < 35**2).reshape(grid.shape), grid


def voxels_of(places, grid):
    return tuple(np.rint(grid.to_voxels(places)).astype(int).T)


def test_spread_places__are_as_many_as_asked_in_the_mask_and_apart():
    mask, grid = a_ball()
    places = spread_places(mask, grid, 500)
    assert places.shape == (500, 3)
    assert mask[voxels_of(places, grid)].all()
    distances = np.sqrt(((places[:, None] - places) ** 2).sum(axis=-1))
    np.fill_diagonal(distances, np.inf)
    # 180 ml hold 500 cubes of 7.1 mm.
    assert distances.min() > 6


def test_spread_places__do_not_depend_on_how_the_mask_is_stored():
    mask, grid = a_ball()
    mask[:10] = False
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = mask.shape[0] - 1
    flipped = Grid(grid.shape, grid.affine @ flip)
    assert np.allclose(spread_places(mask, grid, 300), spread_places(mask[::-1], flipped, 300))


def test_spread_places__too_many_for_the_mask_is_an_error():
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True
    with pytest.raises(OptionError, match="20 places do not fit into 1 voxels"):
        spread_places(mask, Grid(mask.shape, np.eye(4)), 20)
    with pytest.raises(OptionError):
        spread_places(mask & False, Grid(mask.shape, np.eye(4)), 1)


def test_average_spheres__each_voxel_has_the_mean_of_the_spheres_it_lies_in():
    grid = Grid((20, 20, 20), np.diag([2.0, 2, 2, 1]))
    places = np.array([[10.0, 10, 10], [16, 10, 10], [30, 30, 30]])
    means = average_spheres(places, 5.0, np.array([1.0, 3, np.nan]), grid)
    assert means[5, 5, 5] == 1
    assert means[8, 5, 5] == 3
    assert means[6, 5, 5] == 2  # 2 mm from one, 4 mm from the other
    assert means[15, 15, 15] == 0
    inside = np.argwhere(means > 0) * 2.0
    nearest = np.sqrt(((inside[:, None] - places[:2]) ** 2).sum(axis=-1)).min(axis=1)
    assert nearest.max() <= 5


def test_average_spheres__reaches_over_the_edge_of_the_grid():
    grid = Grid((4, 4, 4), np.eye(4))
    assert average_spheres(np.zeros((1, 3)), 1.5, np.ones(1), grid)[0, 0, 0] == 1
