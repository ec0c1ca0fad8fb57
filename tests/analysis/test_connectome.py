"""Disconnection between parcels, counted by hand on a phantom of five."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import shortest_path

from lacuna.analysis.connectome import Connectome, disconnect_parcels
from lacuna.errors import OptionError

ENDS = np.array(
    [
        *[(0, 1), (1, 0), (0, 1), (1, 0)],  # 0–1: four, in both directions
        *[(1, 2), (2, 1)],  # 1–2: two
        (2, 3),  # 2–3: one
        *[(0, 0), (0, 0)],  # within 0
        *[(0, -1), (-1, 0), (3, -1)],  # half joined
        (-1, -1),
    ]
)
CUT = np.array([0, 1, 2, 4, 7, 9, 12])
"""Three of 0–1, one of 1–2, one within 0, one half joined to 0, one of none. Parcel 4 has none."""

N = np.nan


@pytest.fixture
def found():
    return disconnect_parcels(Connectome.of(ENDS, 5), CUT)


def test_matrix__each_streamline_counts_once_for_its_pair(found):
    expected = [[2, 4, 0, 0, 0], [4, 0, 2, 0, 0], [0, 2, 0, 1, 0], [0, 0, 1, 0, 0], [0] * 5]
    assert found.connectome.matrix.tolist() == expected
    assert found.connectome.matrix.dtype == np.int64
    assert found.connectome.half_joined.tolist() == [2, 0, 0, 1, 0]


def test_disconnectome__is_the_share_cut_and_undefined_without_streamlines(found):
    assert found.cut.tolist() == [
        *([1, 3, 0, 0, 0], [3, 0, 1, 0, 0]),
        *([0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0] * 5),
    ]
    np.testing.assert_array_equal(
        found.fraction,
        [
            *([1 / 2, 3 / 4, N, N, N], [3 / 4, N, 1 / 2, N, N]),
            *([N, 1 / 2, N, 0, N], [N, N, 0, N, N], [N] * 5),
        ],
    )
    assert found.spared.tolist() == [
        *([1, 1, 0, 0, 0], [1, 0, 1, 0, 0]),
        *([0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0] * 5),
    ]


def test_parcels__same_parcel_and_half_joined_streamlines_do_not_count(found):
    assert found.joined.tolist() == [4, 6, 3, 1, 0]
    assert found.cut_joined.tolist() == [3, 4, 1, 0, 0]
    np.testing.assert_array_equal(found.parcels, [3 / 4, 4 / 6, 1 / 3, 0, N])


def test_chaco__half_joined_streamlines_count_and_same_parcel_ones_do_not(found):
    assert found.touching.tolist() == [6, 6, 3, 2, 0]
    assert found.cut_touching.tolist() == [4, 4, 1, 0, 0]
    np.testing.assert_array_equal(found.chaco, [4 / 6, 4 / 6, 1 / 3, 0, N])
    pairs = found.fraction.copy()
    pairs[0, 0] = N
    np.testing.assert_array_equal(found.chaco_pairs, pairs)


def test_unassigned__shares_of_ends_of_all_and_of_cut_streamlines(found):
    assert found.connectome.unassigned_share == 5 / 26
    assert found.cut_unassigned_share == 3 / 14
    assert disconnect_parcels(found.connectome, CUT[:0]).cut_unassigned_share is None


def test_indirect__edges_spared_by_less_than_half_are_gone(found):
    # 0–1 is spared to a quarter and goes; 1–2 is spared to a half and stays; 4 was never joined.
    # Longest path: 0–1–2–3, 3; where there is no way: 4.
    indirect = found.indirect
    assert indirect.longest == 3
    assert indirect.delta.tolist() == [
        *([0, 3, 2, 1, 0], [3, 0, 0, 0, 0]),
        *([2, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0] * 5),
    ]
    assert np.argwhere(np.triu(indirect.indirect)).tolist() == [[0, 2], [0, 3]]
    assert indirect.n_pairs == 2
    assert indirect.density == 3 / 10


def test_indirect__min_edge_is_what_an_edge_needs():
    connectome = Connectome.of(ENDS, 5)
    assert connectome.edges(2).sum() == 4
    indirect = disconnect_parcels(connectome, CUT, min_edge=2).indirect
    assert indirect.longest == 2
    assert indirect.delta[0].tolist() == [0, 2, 1, 0, 0]
    assert indirect.density == 2 / 10


def test_indirect__a_detour_is_longer_by_its_edges():
    ends = np.array([(0, 1), (1, 2), (0, 2)])
    found = disconnect_parcels(Connectome.of(ends, 3), np.array([2])).indirect
    assert found.delta.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert found.n_pairs == 0  # its own streamline is cut: that is direct


def test_indirect__where_no_way_is_left_counts_the_longest_way_of_either_graph():
    # A ring of six, and 6 on 0: without 0–1 it is a line of five edges, without 0–6 no way is left.
    ring = [(i, (i + 1) % 6) for i in range(6)]
    found = disconnect_parcels(Connectome.of(np.array([*ring, (0, 6)]), 7), np.array([0, 6]))
    assert found.indirect.longest == 5
    assert found.indirect.delta[6].tolist() == [5, 4, 3, 2, 3, 4, 0]
    assert found.indirect.delta[0].tolist() == [0, 4, 2, 0, 0, 0, 5]


@pytest.mark.parametrize("weight", [1, 0.1])
def test_indirect__half_of_an_edge_and_the_least_edge_are_met_whatever_weights_are(weight):
    ends = np.array([(0, 1)] * 6 + [(1, 2)] * 8)
    connectome = Connectome.of(ends, 3, np.full(14, float(weight)))
    found = disconnect_parcels(connectome, np.arange(3), min_edge=8 * weight)
    assert np.argwhere(np.triu(connectome.edges(found.min_edge))).tolist() == [[1, 2]]
    assert found.indirect.density == 1 / 3
    found = disconnect_parcels(connectome, np.array([0, 1, 2, 6, 7, 8, 9, 10]))
    assert found.indirect.delta.tolist() == [[0, 0, 1], [0, 0, 2], [1, 2, 0]]


def test_weights__are_summed_where_streamlines_are_counted():
    weights = np.arange(1, len(ENDS) + 1) / 8
    found = disconnect_parcels(Connectome.of(ENDS, 5, weights), CUT)
    assert found.connectome.matrix[0, :2].tolist() == [17 / 8, 10 / 8]
    assert found.fraction[0, :2].tolist() == [8 / 17, 6 / 10]
    assert found.spared[0, 1] == 4 / 8
    assert found.parcels[1] == (6 + 5) / (10 + 11)
    assert found.chaco[0] == (6 + 10) / (10 + 21)
    assert found.chaco[4] != found.chaco[4]
    with pytest.raises(OptionError, match="3 weights do not fit 13 streamlines"):
        Connectome.of(ENDS, 5, weights[:3])
    with pytest.raises(OptionError, match="Weight 1 is "):
        Connectome.of(ENDS, 5, -weights)


def test_weights__of_zero_leave_ratios_undefined_and_make_no_edge():
    found = disconnect_parcels(Connectome.of(ENDS, 5, np.zeros(len(ENDS))), CUT)
    assert np.isnan(found.fraction).all()
    assert found.indirect.density == 0


def test_weights__whole_pairs_that_are_cut_leave_exactly_nothing():
    random = np.random.default_rng(0)
    ends = random.integers(-1, 4, (5000, 2))
    weights = random.random(5000)
    found = disconnect_parcels(Connectome.of(ends, 4, weights), np.arange(5000))
    assert (found.fraction == 1).all()
    assert (found.spared == 0).all()
    assert (found.parcels == 1).all()
    assert (found.chaco == 1).all()
    nothing = disconnect_parcels(found.connectome, np.arange(0))
    assert (nothing.fraction == 0).all()
    assert (nothing.spared == found.connectome.matrix).all()


def test_matrix__pairs_of_many_parcels_are_told_apart_however_small_the_numbers_are_stored():
    ends = np.array([(250, 299), (299, 250), (299, -1)], np.int16)
    connectome = Connectome.of(ends, 300)
    assert np.argwhere(connectome.matrix).tolist() == [[250, 299], [299, 250]]
    assert connectome.matrix[250, 299] == 2
    assert np.argwhere(connectome.half_joined).tolist() == [[299]]


def test_weights__are_summed_in_double_precision():
    weights = np.array([2**24, 1, 2**-20, 1 / 3, 1 / 3])
    ends = np.array([(0, 1), (1, 0), (0, 1), (0, 2), (0, -1)])
    connectome = Connectome.of(ends, 3, weights)
    assert connectome.matrix[0].tolist() == [0, 2**24 + 1 + 2**-20, 1 / 3]
    assert connectome.half_joined[0] == 1 / 3
    found = disconnect_parcels(connectome, np.array([2, 3]))
    assert found.cut[0].tolist() == [0, 2**-20, 1 / 3]
    assert found.spared[0].tolist() == [0, 2**24 + 1, 0]


def test_indirect__each_least_edge_has_paths_of_its_own():
    connectome = Connectome.of(ENDS, 5)
    found = [disconnect_parcels(connectome, CUT, min_edge=n).indirect for n in (0, 2, 4)]
    assert [indirect.longest for indirect in found] == [3, 2, 1]


def slow(ends, n, ids):
    """Return A or D and the half joined, one streamline after the other."""
    matrix, half = np.zeros((n, n), int), np.zeros(n, int)
    for a, b in ends[ids].tolist():
        if a >= 0 and b >= 0:
            matrix[a, b] += 1
            matrix[b, a] += a != b
        elif max(a, b) >= 0:
            half[max(a, b)] += 1
    return matrix, half


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 60))
def test_disconnect_parcels__is_what_one_streamline_after_the_other_adds_up_to(seed, n, n_lines):
    random = np.random.default_rng(seed)
    ends = random.integers(-1, n, (n_lines, 2))
    cut = np.flatnonzero(random.random(n_lines) < 0.4)
    found = disconnect_parcels(Connectome.of(ends.astype(np.int16), n), cut, min_edge=2)
    whole, half = slow(ends, n, np.arange(n_lines))
    part, part_half = slow(ends, n, cut)
    np.testing.assert_array_equal(found.connectome.matrix, whole)
    np.testing.assert_array_equal(found.connectome.half_joined, half)
    np.testing.assert_array_equal(found.cut, part)
    np.testing.assert_array_equal(found.cut_half_joined, part_half)
    edges = (whole >= 2) & ~np.eye(n, dtype=bool)
    before = shortest_path(edges, unweighted=True)
    after = shortest_path(edges & (2 * (whole - part) >= whole), unweighted=True)
    finite = [paths[np.isfinite(paths)].max() for paths in (before, after)]
    before[np.isinf(before)] = after[np.isinf(after)] = max(finite) + 1
    indirect = found.indirect
    np.testing.assert_array_equal(indirect.delta, after - before)
    np.testing.assert_array_equal(indirect.indirect, (after > before) & (part == 0))
    assert (indirect.delta >= 0).all()
