"""Visited voxels, against hand-counted phantoms and an oracle in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.oracles.segment import boxes_of_points, boxes_on_polyline
from tests.phantoms import PHANTOMS, UNIT_GRID

from lacuna.geometry.grid import Grid
from lacuna.tractogram._kernels.build import visit
from lacuna.tractogram._kernels.segment import UNITS, to_units
from lacuna.tractogram.rules import frame_of

SMALL = (4, 5, 3)


def visited(points, grid, rule="segment", room=1):
    points = np.ascontiguousarray(points, np.float32).reshape(-1, 3)
    frame = frame_of(grid, rule)
    n, out = visit(frame, points, len(points), np.empty(max(room, 1), np.int64))
    return {tuple(map(int, np.unravel_index(v, grid.canonical.shape))) for v in out[:n]}


def exact_units(points, grid):
    """The rounded coordinates from which everything else is exact, as fractions of a voxel."""
    matrix = frame_of(grid, "segment").matrix
    return [
        [Fraction(int(u), UNITS) - Fraction(1, 2) for u in to_units(*map(float, point), matrix)]
        for point in np.asarray(points, np.float32).reshape(-1, 3)
    ]


@pytest.mark.parametrize("name", PHANTOMS)
def test_visit__equals_what_was_counted_by_hand(name):
    phantom = PHANTOMS[name]
    assert visited(phantom.points, UNIT_GRID) == phantom.segment_voxels
    assert visited(phantom.points, UNIT_GRID, "vertex") == phantom.vertex_voxels


eighths = st.integers(-16, 64).map(lambda n: n / 8)
anywhere = st.floats(-3, 9, width=32)


@settings(max_examples=300, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=eighths | anywhere),
    st.sampled_from([1.0, 0.5, 1.5]),
)
def test_visit__equals_exact_clipping__corners_edges_and_faces_too(points, size_mm):
    grid = Grid(SMALL, np.diag([size_mm, size_mm, size_mm, 1]))
    exact = exact_units(points, grid)
    assert visited(points, grid) == boxes_on_polyline(exact, SMALL)
    assert visited(points, grid, "vertex") == boxes_of_points(exact, SMALL)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, (4, 3), elements=anywhere))
def test_visit__equals_exact_clipping__on_an_oblique_anisotropic_grid(points):
    c, s = np.cos(0.4), np.sin(0.4)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([1.2, 0.7, 2.0])
    affine[:3, 3] = -0.3, -1.1, 0.25
    grid = Grid((5, 7, 3), affine)
    assert visited(points, grid) == boxes_on_polyline(exact_units(points, grid), grid.shape)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, (4, 3), elements=eighths | anywhere))
def test_visit__vertex_voxels_are_among_segment_voxels(points):
    assert visited(points, UNIT_GRID, "vertex") <= visited(points, UNIT_GRID)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, (4, 3), elements=eighths | anywhere))
def test_visit__does_not_depend_on_the_direction_of_a_streamline(points):
    assert visited(points, UNIT_GRID) == visited(points[::-1], UNIT_GRID)


def test_visit__rounds_coordinates_by_less_than_single_precision_does():
    # At 50 mm from the origin neighbouring single-precision numbers are 4e-6 mm apart.
    assert np.spacing(np.float32(50)) > 1 / UNITS


def test_visit__a_step_across_the_largest_grid_stays_exact():
    grid = Grid((2000, 1, 1), np.eye(4))
    assert visited([[0, 0, 0], [1999, 0.4375, -0.4375]], grid) == {(i, 0, 0) for i in range(2000)}


def test_visit__a_buffer_that_is_too_small_is_replaced():
    assert visited([[0, 0, 0], [7, 7, 7]], UNIT_GRID, room=1) == {(i, i, i) for i in range(8)}
