"""Which share of a tract is cut, by phantoms."""

import math

import numpy as np
import pytest
from tests.phantoms import build_index, parallel_tract

from lacuna.analysis.tracts import disconnect_tract_files, disconnect_tracts
from lacuna.errors import OptionError
from lacuna.geometry.grid import Grid

TRACTS = {
    "lower": np.arange(5),
    "all": np.arange(10),
    "outer": np.array([0, 9], np.uint32),
    "nothing": np.array([], np.int64),
}


def test_disconnect_tracts__counts_the_streamlines_of_each():
    found = disconnect_tracts(TRACTS, np.array([0, 1, 5]), 10)
    assert found.names == tuple(TRACTS)
    assert found.n_streamlines.tolist() == [5, 10, 2, 0]
    assert found.n_cut.tolist() == [2, 3, 1, 0]
    assert found.shares[:3].tolist() == [0.4, 0.3, 0.5]
    assert np.isnan(found.shares[3])


def test_disconnect_tracts__with_weights_there_is_a_share_of_weight_too():
    weights = np.arange(10) / 2
    found = disconnect_tracts(TRACTS, np.array([0, 1, 5]), 10, weights)
    assert found.weights.tolist() == [5, 22.5, 4.5, 0]
    assert found.cut_weights.tolist() == [0.5, 3, 0, 0]
    assert found.n_cut.tolist() == [2, 3, 1, 0]
    assert found.shares[:3].tolist() == [0.4, 0.3, 0.5]
    assert found.weighted_shares[:3] == pytest.approx([0.1, 3 / 22.5, 0])


@pytest.mark.parametrize("seed", range(5))
def test_disconnect_tracts__no_rounding_makes_a_part_heavier_than_the_whole(seed):
    random = np.random.default_rng(seed)
    weights = random.random(1000)
    spared = random.random(1000) < 0.1
    weights[spared] = 0
    found = disconnect_tracts({"all": np.arange(1000)}, np.flatnonzero(~spared), 1000, weights)
    assert found.weighted_shares.tolist() == [1]
    assert found.weights == pytest.approx([math.fsum(weights)])


def test_disconnect_tracts__a_tract_of_another_tractogram_is_refused():
    with pytest.raises(OptionError, match="all has streamlines 0 to 9"):
        disconnect_tracts({"all": np.arange(10)}, np.array([0]), 9)
    with pytest.raises(OptionError, match="all has streamlines -1 to 0"):
        disconnect_tracts({"all": np.array([-1, 0])}, np.array([0]), 9)


def test_disconnect_tracts__weights_are_summed_in_double_precision():
    weights = np.array([2**24, 1, 1 / 3])
    found = disconnect_tracts(
        {"all": np.arange(3), "one": np.array([2])}, np.array([0, 1]), 3, weights
    )
    assert found.cut_weights.tolist() == [2**24 + 1, 0]
    assert found.weights[1] == 1 / 3


@pytest.mark.parametrize("rule", ["segment", "vertex"])
def test_disconnect_tract_files__cuts_each_by_itself_however_far_the_lesion_is(rule, tmp_path):
    streamlines, grid = parallel_tract(20)
    indexes = {
        name: build_index(streamlines, grid, tmp_path / name, rule=rule) for name in ("a", "b")
    }
    near = disconnect_tract_files(indexes, np.ones((2, 3, 1), bool), Grid((2, 3, 1), np.eye(4)))
    assert near.n_streamlines.tolist() == [20, 20]
    assert near.n_cut.tolist() == near.cut_weights.tolist() == [3, 3]
    far = Grid.cubic(1.5, (2, 3, 1), (300, -200, 0))
    assert disconnect_tract_files(indexes, np.ones((2, 3, 1), bool), far).n_cut.tolist() == [0, 0]
