"""Disconnection by definition: counted by hand, and what must hold for any lesion and any grid."""

from dataclasses import FrozenInstanceError
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.phantoms import build_index, coherent_tractogram, pack, parallel_tract

from lacuna.analysis.structural import Weighting, disconnect_spheres, disconnect_voxels
from lacuna.errors import LesionError, OptionError
from lacuna.geometry.grid import Grid
from lacuna.geometry.streamlines import Streamlines


def grid_of(shape, affine_rows):
    return Grid(shape, np.array([*affine_rows, [0, 0, 0, 1]], np.float64))


def straight(shape, size_mm, origin):
    return grid_of(shape, np.column_stack([np.diag([size_mm] * 3), origin]))


TURN = np.array([[np.cos(0.4), -np.sin(0.4), 0], [np.sin(0.4), np.cos(0.4), 0], [0, 0, 1]])

GRIDS = {
    "1 mm": straight((22, 20, 18), 1, (-6, -5, -5)),
    "1 mm, half a voxel off": straight((22, 20, 18), 1, (-5.5, -5, -4.5)),
    "2 mm": straight((11, 10, 9), 2, (-6, -6, -4)),
    "1.5 mm": straight((15, 14, 12), 1.5, (-6.25, -5, -5)),
    "0.5 mm": straight((44, 40, 36), 0.5, (-5.75, -5.25, -5)),
    "LAS": grid_of((22, 20, 18), [[-1, 0, 0, 15], [0, 1, 0, -5], [0, 0, 1, -5]]),
    "oblique": grid_of(
        (16, 28, 10), np.column_stack([TURN @ np.diag([1.2, 0.8, 2.0]), (-1, -9, -6)])
    ),
}
REPORT_GRIDS = ("1 mm, half a voxel off", "2 mm", "1.5 mm", "oblique")


def knotted_lines(n: int = 120, seed: int = 3) -> Streamlines:
    """Return polylines within 10 mm, half of them through voxel faces, edges and corners."""
    random = np.random.default_rng(seed)
    lines = [random.uniform(-4, 12, (random.integers(1, 7), 3)) for _ in range(n)]
    return pack([np.rint(line * 4) / 4 if i % 2 else line for i, line in enumerate(lines)])


@pytest.fixture(scope="module")
def knots(tmp_path_factory):
    """Return the index of the same knotted lines on each report grid."""
    streamlines, place = knotted_lines(), tmp_path_factory.mktemp("knots")
    return {
        name: build_index(streamlines, GRIDS[name], place / name.replace(" ", "_"))
        for name in REPORT_GRIDS
    }


@pytest.fixture(scope="module")
def tract(tmp_path_factory):
    """Return the index of twenty straight streamlines on the grid that holds one in each row."""
    streamlines, grid = parallel_tract(20)
    return build_index(streamlines, grid, tmp_path_factory.mktemp("tract"))


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """Return the index of a small brain's bundles at 2 mm."""
    whole = coherent_tractogram(600, step_mm=3)
    small = Streamlines(whole.words / 3, whole.firsts, whole.counts)
    grid = straight((40, 44, 40), 2, (-40, -50, -38))
    return build_index(small, grid, tmp_path_factory.mktemp("brain"))


def rows(n_rows: int, grid: Grid, x: slice = slice(9, 10)):
    """Lesion the voxels y < n_rows of a parallel tract, at some x."""
    mask = np.zeros(grid.shape, bool)
    mask[x, :n_rows] = True
    return mask


def random_lesion(random, grid: Grid):
    centre = random.uniform(0, 8, 3)
    voxels = np.indices(grid.shape).reshape(3, -1).T
    near = np.linalg.norm(grid.to_world(voxels) - centre, axis=1) < random.uniform(1, 5)
    mask = near.reshape(grid.shape)
    mask.flat[random.integers(mask.size)] = True
    return mask


def store_as(array, grid: Grid, codes: str):
    """Return an array (canonical RAS) and its grid as they would be stored in another order."""
    if codes == "LAS":
        turn = np.diag([-1.0, 1, 1, 1])
        turn[0, 3] = grid.shape[0] - 1
        return array[::-1], Grid(grid.shape, grid.affine @ turn)
    assert codes == "LIA"
    turn = np.zeros((4, 4))
    turn[0, 0], turn[0, 3] = -1, grid.shape[0] - 1
    turn[2, 1], turn[2, 3] = -1, grid.shape[2] - 1
    turn[1, 2] = turn[3, 3] = 1
    shape = (grid.shape[0], grid.shape[2], grid.shape[1])
    return array[::-1, :, ::-1].transpose(0, 2, 1), Grid(shape, grid.affine @ turn)


# By hand


def test_disconnect_voxels__of_k_of_20_rows_disconnects_these_rows(tract):
    for k in (1, 7, 20):
        result = disconnect_voxels(tract, rows(k, tract.map.grid), tract.map.grid, min_tdi=1)
        assert (result.n_cut, result.cut_fraction) == (k, k / 20)
        assert result.cut_ids.tolist() == list(range(k))
        assert (result.weight_cut, result.weight_total) == (k, 20)
        assert result.disconnected_pct == 100 * k / 20
        assert result.disconnected_mm3 == {0.01: 20 * k, 0.1: 20 * k, 0.5: 20 * k}
        expected = np.zeros((20, 20, 1))
        expected[:, :k] = 1
        np.testing.assert_array_equal(result.disconnection, expected)
        np.testing.assert_array_equal(result.cut_tdi, expected)
        np.testing.assert_array_equal(result.tdi, 1)
        assert result.coverage.all()


def test_disconnected_mm3__counts_voxels_at_or_above_each_threshold(tmp_path):
    # One voxel column after another; streamline i runs through columns 0 to i: column j has
    # 100 − j of 100 streamlines, and those of the highest numbers are cut in the last columns.
    ends = np.arange(100)
    lines = [[(0, 0, 0), (float(end), 0, 0)] for end in ends]
    grid = grid_of((100, 1, 1), [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0]])
    index = build_index(pack(lines), grid, tmp_path)
    mask = np.zeros(grid.shape, bool)
    mask[99] = True  # cuts the longest only: ratio 1 / (100 − j) in column j
    result = disconnect_voxels(index, mask, grid, min_tdi=1)
    ratios = 1 / (100 - np.arange(100))
    assert result.n_cut == 1
    np.testing.assert_array_equal(result.disconnection.ravel(), ratios.astype(np.float32))
    assert result.disconnected_pct == pytest.approx(100 * ratios.mean(), rel=1e-14)
    # 1/100 is reached everywhere; 1/10 in the last 10 columns; 1/2 in the last 2; 6 mm³ each.
    assert result.disconnected_mm3 == {0.01: 600, 0.1: 60, 0.5: 12}


def test_coverage__numbers_are_of_covered_voxels_only(tmp_path):
    lines = [[(0, 0, 0), (4, 0, 0)]] * 10 + [[(0, 1, 0), (4, 1, 0)]] * 9
    grid = Grid((5, 3, 1), np.eye(4))
    index = build_index(pack(lines), grid, tmp_path)
    mask = np.zeros(grid.shape, bool)
    mask[2, 1] = True  # the nine that are too few to say anything
    result = disconnect_voxels(index, mask, grid)
    assert result.min_tdi == 10
    assert result.n_cut == 9
    assert (result.n_visited, result.n_covered) == (10, 5)
    assert result.coverage[:, :, 0].T.tolist() == [[True] * 5, [False] * 5, [False] * 5]
    assert result.disconnection[:, 1].min() == 1
    assert result.disconnected_pct == 0
    assert result.disconnected_mm3 == {0.01: 0, 0.1: 0, 0.5: 0}
    one_less = disconnect_voxels(index, mask, grid, min_tdi=9)
    assert (one_less.n_covered, one_less.disconnected_pct) == (10, 50)
    none = disconnect_voxels(index, mask, grid, min_tdi=11)
    assert (none.n_covered, none.disconnected_pct) == (0, None)
    assert none.disconnected_mm3 == {0.01: None, 0.1: None, 0.5: None}


def test_weights__the_ratio_is_one_of_weights_and_counts_stay_counts(tmp_path):
    lines = [[(0, 0, 0), (4, 0, 0)], [(0, 0, 0), (4, 0, 0)], [(0, 1, 0), (4, 1, 0)]]
    lines += [[(2, 0, 0), (2, 0, 1)]]
    grid = Grid((5, 2, 2), np.eye(4))
    index = build_index(pack(lines), grid, tmp_path)
    weighting = Weighting.of(index, np.array([1.5, 0.5, 0.0, 2.0]))
    mask = np.zeros(grid.shape, bool)
    mask[2, 0, 1] = mask[3, 1, 0] = True  # the fourth, and the third, which weighs nothing
    result = disconnect_voxels(index, mask, grid, min_tdi=1, weighting=weighting)
    assert result.cut_ids.tolist() == [2, 3]
    assert (result.weight_cut, result.weight_total) == (2.0, 4.0)
    assert result.cut_fraction == 0.5
    assert result.disconnection[:, 0, 0].tolist() == [0, 0, 0.5, 0, 0]
    assert result.disconnection[2, 0, 1] == 1
    assert not result.disconnection[:, 1].any()  # 0 of 0
    assert result.cut_tdi[2].tolist() == [[1, 1], [1, 0]]
    assert result.tdi[2].tolist() == [[3, 1], [1, 0]]


def test_disconnect_voxels__streamlines_that_are_not_touched_are_not_cut(tract):
    grid = straight((3, 3, 3), 1, (5, 25, 0))
    result = disconnect_voxels(tract, np.ones(grid.shape, bool), grid, min_tdi=1)
    assert (result.n_cut, result.weight_cut, result.disconnected_pct) == (0, 0, 0)
    assert not result.disconnection.any()
    assert len(result.cut_ids) == 0


# What must hold for any lesion


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=40)
@given(seeds, st.sampled_from(sorted(GRIDS)), st.sampled_from(REPORT_GRIDS))
def test_disconnection__is_1_in_every_fully_lesioned_voxel_that_has_streamlines(
    knots, seed, lesion_grid, report_grid
):
    grid, index = GRIDS[lesion_grid], knots[report_grid]
    mask = random_lesion(np.random.default_rng(seed), grid)
    result = disconnect_voxels(index, mask, grid, min_tdi=1)
    inside = fully_lesioned(mask, grid, index.map.grid) & (result.tdi > 0)
    assert (result.disconnection[inside] == 1).all()
    assert ((result.disconnection >= 0) & (result.disconnection <= 1)).all()
    assert not result.disconnection[result.tdi == 0].any()


def fully_lesioned(mask, grid: Grid, report: Grid):
    """Return the voxels of a report grid that lie wholly inside a lesion on another grid."""
    table = np.zeros(np.array(grid.shape) + 1, np.int64)
    table[1:, 1:, 1:] = mask.cumsum(0).cumsum(1).cumsum(2)
    centres = grid.to_voxels(report.to_world(np.indices(report.shape).reshape(3, -1).T))
    # The box, in lesion voxels, around the report voxel: exact if the grids are not turned against
    # each other, else too large.
    half = np.abs(grid.voxel_from_world[:3, :3] @ report.affine[:3, :3]).sum(axis=1) / 2
    low = np.floor(centres - half + 0.5 + 1e-9).astype(int)
    high = np.ceil(centres + half + 0.5 - 1e-9).astype(int)
    on_grid = ((low >= 0) & (high <= grid.shape)).all(axis=1)
    low, high = np.clip(low, 0, grid.shape), np.clip(high, 0, grid.shape)
    corners = [[high[:, axis], low[:, axis]] for axis in range(3)]
    found = sum(
        (-1) ** (a + b + c) * table[corners[0][a], corners[1][b], corners[2][c]]
        for a in (0, 1)
        for b in (0, 1)
        for c in (0, 1)
    )
    return (on_grid & (found == (high - low).prod(axis=1))).reshape(report.shape)


@pytest.mark.parametrize("report_grid", REPORT_GRIDS)
def test_fully_lesioned__the_property_above_is_not_empty(knots, report_grid):
    grid = GRIDS["0.5 mm"]
    mask = np.ones(grid.shape, bool)
    result = disconnect_voxels(knots[report_grid], mask, grid, min_tdi=1)
    inside = fully_lesioned(mask, grid, GRIDS[report_grid]) & (result.tdi > 0)
    assert inside.sum() > 100
    assert (result.disconnection[inside] == 1).all()


@settings(max_examples=25)
@given(seeds, st.sampled_from(sorted(GRIDS)), st.sampled_from(REPORT_GRIDS))
def test_disconnection__of_a_larger_lesion_is_nowhere_less(knots, seed, lesion_grid, report_grid):
    random, grid, index = np.random.default_rng(seed), GRIDS[lesion_grid], knots[report_grid]
    mask = random_lesion(random, grid)
    results = [disconnect_voxels(index, mask, grid, min_tdi=1)]
    for _ in range(2):
        mask = mask | random_lesion(random, grid)
        results.append(disconnect_voxels(index, mask, grid, min_tdi=1))
    for smaller, larger in pairwise(results):
        assert (smaller.disconnection <= larger.disconnection).all()
        assert smaller.disconnected_pct <= larger.disconnected_pct


@settings(max_examples=25)
@given(seeds)
def test_weights__ratios_stay_in_range_and_equal_weights_change_nothing(knots, seed):
    random, grid, index = np.random.default_rng(seed), GRIDS["1 mm"], knots["2 mm"]
    mask = random_lesion(random, grid)
    weighting = Weighting.of(index, random.exponential(size=index.n_streamlines))
    ratios = disconnect_voxels(index, mask, grid, weighting=weighting).ratios
    assert ((ratios >= 0) & (ratios <= 1)).all()
    plain = disconnect_voxels(index, mask, grid)
    assert (ratios[plain.ratios == 1] == 1).all()
    even = Weighting.of(index, np.full(index.n_streamlines, 0.25))
    found = disconnect_voxels(index, mask, grid, weighting=even).ratios
    np.testing.assert_array_equal(found, plain.ratios)


@pytest.mark.parametrize("codes", ["LAS", "LIA"])
@pytest.mark.parametrize("lesion_grid", ["1 mm", "2 mm", "1.5 mm", "0.5 mm", "oblique"])
def test_disconnect_voxels__orientation_of_the_lesion_changes_no_bit(knots, lesion_grid, codes):
    grid, index = GRIDS[lesion_grid], knots["2 mm"]
    random = np.random.default_rng(11)
    for _ in range(5):
        mask = random_lesion(random, grid)
        one = disconnect_voxels(index, mask, grid, min_tdi=1)
        other = disconnect_voxels(index, *store_as(mask, grid, codes), min_tdi=1)
        assert 0 < one.n_cut < index.n_streamlines
        np.testing.assert_array_equal(other.cut_ranks, one.cut_ranks)
        np.testing.assert_array_equal(other.disconnection, one.disconnection)
        assert other.disconnected_pct == one.disconnected_pct
        assert other.disconnected_mm3 == one.disconnected_mm3


@pytest.mark.parametrize("codes", ["LAS", "LIA"])
@pytest.mark.parametrize("report_grid", REPORT_GRIDS)
def test_disconnect_voxels__orientation_of_the_report_grid_changes_no_bit(
    knots, report_grid, codes, tmp_path
):
    grid, lesion_grid = GRIDS[report_grid], GRIDS["1 mm"]
    turned = store_as(np.empty(grid.shape), grid, codes)[1]
    index = build_index(knotted_lines(), turned, tmp_path)
    mask = random_lesion(np.random.default_rng(4), lesion_grid)
    one = disconnect_voxels(knots[report_grid], mask, lesion_grid, min_tdi=2)
    other = disconnect_voxels(index, mask, lesion_grid, min_tdi=2)
    for name in ("disconnection", "cut_tdi", "tdi", "coverage"):
        expected, found = getattr(one, name), getattr(other, name)
        assert found.shape == turned.shape
        np.testing.assert_array_equal(found, store_as(expected, grid, codes)[0])
    assert one.disconnected_pct > 0
    assert other.disconnected_pct == one.disconnected_pct
    assert other.disconnected_mm3 == one.disconnected_mm3


# Spheres


@pytest.mark.parametrize("threads", [1, 3])
def test_disconnect_spheres__equals_one_lesion_after_another(brain, threads):
    points = brain.streamlines.gather(np.arange(0, 600, 60))[0]
    centres = np.concatenate([points[::29], [[90.0, 0, 0]]])
    n_cut, pct = disconnect_spheres(brain, centres, 5, min_tdi=3, threads=threads)
    assert n_cut[:-1].min() > 0
    assert (n_cut[-1], pct[-1]) == (0, 0)
    for i, centre in enumerate(centres):
        grid = straight((11, 11, 11), 1, np.rint(centre) - 5)
        voxels = np.indices(grid.shape) - 5
        result = disconnect_voxels(brain, (voxels**2).sum(axis=0) <= 25, grid, min_tdi=3)
        assert (n_cut[i], pct[i]) == (result.n_cut, result.disconnected_pct)


def test_disconnect_spheres__where_nothing_is_covered_the_share_is_not_a_number(tract):
    n_cut, pct = disconnect_spheres(tract, np.array([[9.0, 9, 0]]), 1)
    assert n_cut.tolist() == [3]
    assert np.isnan(pct).all()


# Results and errors


def test_disconnection__is_frozen(tract):
    result = disconnect_voxels(tract, rows(3, tract.map.grid), tract.map.grid)
    with pytest.raises(FrozenInstanceError):
        result.min_tdi = 1
    with pytest.raises(FrozenInstanceError):
        result.cut_ranks = np.arange(3)
    assert result.disconnection is result.disconnection  # computed once
    assert (result.rule, result.n_streamlines) == ("segment", 20)
    assert result.grid is tract.map.grid


def test_disconnection__volumes_have_the_types_they_are_written_in(tract):
    result = disconnect_voxels(tract, rows(3, tract.map.grid), tract.map.grid)
    kinds = {name: getattr(result, name).dtype for name in ("disconnection", "tdi", "cut_tdi")}
    assert kinds == {"disconnection": np.float32, "tdi": np.int32, "cut_tdi": np.int32}
    assert result.coverage.dtype == bool


def test_disconnect_voxels__what_cannot_be_a_lesion_is_an_error(tract):
    grid = tract.map.grid
    with pytest.raises(LesionError, match="empty"):
        disconnect_voxels(tract, np.zeros(grid.shape, bool), grid)
    with pytest.raises(LesionError, match="does not fit"):
        disconnect_voxels(tract, np.ones((2, 2, 2), bool), grid)
    with pytest.raises(OptionError, match="min_tdi is 0"):
        disconnect_voxels(tract, rows(1, grid), grid, min_tdi=0)


@pytest.mark.parametrize(
    ("weights", "match"),
    [([1.0] * 19, "19 weights do not fit 20"), ([1.0] * 19 + [-1.0], "Weight 20 is -1")],
)
def test_weighting__wrong_weights_are_an_error(tract, weights, match):
    with pytest.raises(OptionError, match=match):
        Weighting.of(tract, np.array(weights))


@pytest.mark.parametrize("weight", [0.05, 0.1, 0.7, 1.3])
def test_disconnected_mm3__equal_weights_reach_what_counts_reach(tmp_path, weight):
    # 20 lines through one voxel; 2 or 10 of them are cut: a tenth, a half.
    grid = straight((3, 20, 1), 1, (0, 0, 0))
    lines = [[(0, float(y), 0), (1, 0, 0)] for y in range(20)]
    index = build_index(pack(lines), grid, tmp_path)
    weighting = Weighting.of(index, np.full(20, weight))
    for n in (2, 10):
        mask = np.zeros(grid.shape, bool)
        mask[0, -n:] = True
        counted = disconnect_voxels(index, mask, grid, min_tdi=20)
        weighed = disconnect_voxels(index, mask, grid, min_tdi=20, weighting=weighting)
        assert weighed.disconnected_mm3 == counted.disconnected_mm3
        assert counted.disconnected_mm3[n / 20] == 1
