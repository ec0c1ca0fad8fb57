"""Cuts and counts of the index, against exact oracles that look at every streamline."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.oracles.segment import segment_voxels, vertex_voxels
from tests.phantoms import coherent_tractogram, pack, parallel_tract

from lacuna.errors import GridError, LesionError, OptionError
from lacuna.geometry.grid import Grid
from lacuna.geometry.streamlines import Streamlines
from lacuna.tractogram.query import LesionBox


def scaled(shape, sizes, origin, turn=0.0):
    c, s = np.cos(turn), np.sin(turn)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(sizes)
    affine[:3, 3] = origin
    return Grid(shape, affine)


GRIDS = {
    "1 mm on the lattice": scaled((14, 12, 10), (1, 1, 1), (-3, -2, -1)),
    "1 mm, half a voxel off": scaled((14, 12, 10), (1, 1, 1), (-2.5, -2, -1)),
    "2 mm": scaled((7, 6, 5), (2, 2, 2), (-2, -2, -2)),
    "2 mm, half a voxel off": scaled((7, 6, 5), (2, 2, 2), (-2.5, -2.5, -2.5)),
    "1.5 mm": scaled((9, 8, 7), (1.5, 1.5, 1.5), (-2.25, -2, -1)),
    "0.5 mm": scaled((20, 18, 16), (0.5, 0.5, 0.5), (-1, -1, -1)),
    "oblique and anisotropic": scaled((9, 12, 5), (1.2, 0.7, 2.0), (-0.3, -2.1, -1.2), 0.4),
    "LAS": Grid(
        (14, 12, 10), np.array([[-1, 0, 0, 10], [0, 1, 0, -2], [0, 0, 1, -1], [0, 0, 0, 1]])
    ),
}
VISIT = {"segment": segment_voxels, "vertex": vertex_voxels}


def random_polylines(rng, n):
    lines = []
    for _ in range(n):
        points = rng.uniform(-3, 11, (rng.integers(1, 6), 3))
        if rng.random() < 0.5:
            points = np.rint(points * 4) / 4  # faces, edges and corners
        lines.append(points)
    return [*lines, np.empty((0, 3))]


def random_lesion(rng, grid):
    centre = rng.uniform(0, 8, 3)
    voxels = np.indices(grid.shape).reshape(3, -1).T
    near = np.linalg.norm(grid.to_world(voxels) - centre, axis=1) < rng.uniform(1, 4)
    mask = near.reshape(grid.shape)
    mask.flat[rng.integers(mask.size)] = True
    return mask


def cut_ids(index, mask, grid):
    return index.parts.order[index.cut(LesionBox.of(mask, grid))]


STRAY = np.array([[-30, 2, 3], [30, 3.5, 2], [4, 4, 4]])
"""Steps too long for the cells around a lesion to spare its points an exact look."""


@pytest.mark.parametrize("extra", [[], [STRAY]], ids=["", "with a stray step"])
@pytest.mark.parametrize("rule", ["segment", "vertex"])
@pytest.mark.parametrize("name", GRIDS)
def test_cut__equals_the_exact_oracle__whatever_the_lesion_grid(name, rule, extra, make_index):
    rng = np.random.default_rng(crc32(name.encode()))
    lines, grid = random_polylines(rng, 50) + extra, GRIDS[name]
    index = make_index(pack(lines), GRIDS["2 mm"], rule=rule)
    visited = [VISIT[rule](np.float32(line), grid) for line in lines]
    for _ in range(20):
        mask = random_lesion(rng, grid)
        turned = grid.orientation.to_canonical(mask)
        expected = [i for i, voxels in enumerate(visited) if any(turned[v] for v in voxels)]
        assert sorted(cut_ids(index, mask, grid)) == expected


@pytest.mark.parametrize("rule", ["segment", "vertex"])
def test_count__equals_the_exact_oracle__in_every_voxel(rule, make_index):
    rng = np.random.default_rng(5)
    lines = random_polylines(rng, 40)
    for grid in (GRIDS["2 mm"], GRIDS["LAS"], GRIDS["oblique and anisotropic"]):
        index = make_index(pack(lines), grid, rule=rule)
        some = np.sort(rng.choice(len(lines), 15, replace=False))
        expected = np.zeros(grid.canonical.shape, int)
        for rank in some:
            for voxel in VISIT[rule](np.float32(lines[index.parts.order[rank]]), grid):
                expected[voxel] += 1
        stored = index.to_grid(index.count(some))
        np.testing.assert_array_equal(grid.orientation.to_canonical(stored), expected)


def test_cut__does_not_depend_on_the_orientation_of_the_lesion_file(make_index):
    index = make_index(coherent_tractogram(500), GRIDS["2 mm"])
    grid = Grid(
        (91, 109, 91), np.array([[2, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    )
    mask = np.zeros(grid.shape, bool)
    mask[30:50, 40:60, 30:50] = True
    mirrored = grid.affine @ np.array([[-1, 0, 0, 90], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    lia = np.ascontiguousarray(mask[::-1].transpose(0, 2, 1)[:, ::-1])
    turn = np.array([[-1, 0, 0, 90], [0, 0, 1, 0], [0, -1, 0, 90], [0, 0, 0, 1]])
    expected = index.cut(LesionBox.of(mask, grid))
    assert len(expected) > 10
    for other, affine in ((mask[::-1], mirrored), (lia, grid.affine @ turn)):
        box = LesionBox.of(np.ascontiguousarray(other), Grid(other.shape, affine))
        np.testing.assert_array_equal(index.cut(box), expected)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(GRIDS)))
def test_cut__a_larger_lesion_never_cuts_fewer(make_index, seed, name):
    rng = np.random.default_rng(seed)
    index, grid = make_index(pack(random_polylines(rng, 30)), GRIDS["2 mm"]), GRIDS[name]
    small = random_lesion(rng, grid)
    large = small | random_lesion(rng, grid)
    assert set(cut_ids(index, small, grid)) <= set(cut_ids(index, large, grid))


@pytest.mark.parametrize("rule", ["segment", "vertex"])
def test_cut__from_four_threads_at_once_is_what_it_is_from_one(rule, make_index):
    rng, grid = np.random.default_rng(9), GRIDS["1.5 mm"]
    index = make_index(pack(random_polylines(rng, 400)), GRIDS["2 mm"], rule=rule)
    boxes = [LesionBox.of(random_lesion(rng, grid), grid) for _ in range(60)]

    def answer(box):
        ranks = index.cut(box)
        return ranks.tolist(), index.count(ranks).tolist()

    expected = [answer(box) for box in boxes]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(answer, boxes)) == expected


def test_cut__goes_on_after_a_fork_in_parent_and_child(tmp_path):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.tractogram.forking", str(tmp_path / "index")]
    ended = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_index__is_the_same_with_any_number_of_threads(make_index):
    brain = coherent_tractogram(3100, step_mm=4)
    streamlines = Streamlines(brain.words / 4, brain.firsts, brain.counts)
    one, some = (make_index(streamlines, GRIDS["2 mm"], threads=n) for n in (1, 3))
    for part in ("parts", "hits", "map"):
        for name, array in vars(getattr(one, part)).items():
            if isinstance(array, np.ndarray):
                np.testing.assert_array_equal(array, getattr(getattr(some, part), name), name)


def test_cut_and_count__are_the_same_with_any_number_of_threads(make_index):
    index = make_index(coherent_tractogram(5000), GRIDS["2 mm"])
    grid = scaled((80, 80, 70), (2, 2, 2), (-80, -100, -60))
    mask = np.random.default_rng(2).random(grid.shape) < 0.02
    box = LesionBox.of(mask, grid)
    ranks = index.cut(box)
    assert len(ranks) > 2000
    np.testing.assert_array_equal(index.cut(box, threads=3), ranks)
    np.testing.assert_array_equal(index.count(ranks, threads=3), index.count(ranks))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_index__is_the_same_whatever_numbers_are_stored_in(dtype, make_index):
    plain = coherent_tractogram(300)
    other = Streamlines(plain.words.astype(dtype), plain.firsts, plain.counts)
    expected, found = make_index(plain, GRIDS["2 mm"]), make_index(other, GRIDS["2 mm"])
    np.testing.assert_array_equal(found.hits.hits, expected.hits.hits)
    np.testing.assert_array_equal(found.map.visits, expected.map.visits)


def test_index__interleaved_and_moved_points_are_read_as_gather_reads_them(make_index):
    plain = coherent_tractogram(300)
    words = np.zeros(5 * plain.n_points + 7, np.float32)
    points = plain.gather(np.arange(300))[0]
    for axis in range(3):
        words[7 + axis :: 5][: len(points)] = points[:, axis]
    world = np.array([[-1.1, 0, 0, 5.3], [0, 0.9, 0.1, 2], [0, 0, 1, -0.7], [0, 0, 0, 1]])
    firsts = 7 + (plain.firsts // 3) * 5
    moved = Streamlines(words, firsts, plain.counts, 5, world)
    again, offsets = moved.gather(np.arange(300))
    expected = make_index(
        Streamlines(again.reshape(-1), offsets[:-1] * 3, plain.counts), GRIDS["2 mm"]
    )
    np.testing.assert_array_equal(make_index(moved, GRIDS["2 mm"]).hits.hits, expected.hits.hits)


def test_cut__of_k_parallel_streamlines_cuts_k(make_index):
    streamlines, grid = parallel_tract(20)
    index = make_index(streamlines, grid)
    for k in (1, 7, 20):
        mask = np.zeros(grid.shape, bool)
        mask[9, :k] = True
        assert sorted(cut_ids(index, mask, grid)) == list(range(k))


def test_cut__a_lesion_beyond_the_tractogram_cuts_nothing(make_index):
    index = make_index(parallel_tract(5)[0], parallel_tract(5)[1])
    far = scaled((3, 3, 3), (1, 1, 1), (500, 500, 500))
    assert len(index.cut(LesionBox.of(np.ones(far.shape, bool), far))) == 0


def test_cut__a_lesion_that_holds_everything_cuts_all_that_have_points(make_index):
    lines = random_polylines(np.random.default_rng(1), 30)
    index = make_index(pack(lines), GRIDS["2 mm"])
    whole = scaled((40, 40, 40), (1, 1, 1), (-15, -15, -15))
    assert len(index.cut(LesionBox.of(np.ones(whole.shape, bool), whole))) == 30


def test_lesion_box__an_empty_lesion_is_an_error():
    with pytest.raises(LesionError, match="empty"):
        LesionBox.of(np.zeros((3, 3, 3), bool), scaled((3, 3, 3), (1, 1, 1), (0, 0, 0)))


def test_lesion_box__a_mask_of_another_shape_is_an_error():
    with pytest.raises(LesionError, match="does not fit"):
        LesionBox.of(np.ones((3, 3, 4), bool), scaled((3, 3, 3), (1, 1, 1), (0, 0, 0)))


@pytest.mark.parametrize("order", ["C", "F"])
def test_lesion_box__holds_all_lesioned_voxels__in_either_memory_order(order):
    mask = np.zeros((9, 8, 7), bool, order=order)
    mask[2:5, 3, 6] = mask[8, 7, 0] = True
    grid = scaled(mask.shape, (1, 1, 1), (0, 0, 0))
    box = LesionBox.of(mask, grid)
    assert box.low.tolist() == [2, 3, 0]
    assert box.n_voxels == 4
    assert {tuple(v) for v in np.argwhere(box.mask) + box.low} == {
        tuple(v) for v in np.argwhere(mask)
    }


def test_cut__voxels_too_small_for_the_longest_step_are_an_error(make_index):
    index = make_index(pack([[(0, 0, 0), (300, 0, 0)]]), GRIDS["2 mm"])
    tiny = scaled((3, 3, 3), (0.05, 0.05, 0.05), (0, 0, 0))
    with pytest.raises(GridError, match="larger voxels"):
        index.cut(LesionBox.of(np.ones((3, 3, 3), bool), tiny))


def test_weigh__sums_weights_by_number_in_the_file(make_index):
    streamlines, grid = parallel_tract(6)
    index = make_index(streamlines, grid)
    weights = np.arange(6) + 0.5
    sums = index.to_grid(index.weigh(np.arange(6), weights))
    np.testing.assert_array_equal(sums[3, :, 0], weights)


def test_weigh__wrong_weights_are_an_error(make_index):
    from lacuna.tractogram.query import check_weights

    with pytest.raises(OptionError, match="3 weights do not fit 6"):
        check_weights(np.ones(3), 6)
    with pytest.raises(OptionError, match="Weight 2 is nan"):
        check_weights(np.array([1, np.nan]), 2)
