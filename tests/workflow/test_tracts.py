"""Tracts by groups, ranges and files, and the table of what is cut of each."""

import csv

import numpy as np
import pytest
from tests.phantoms import parallel_tract, write_tck

from lacuna.analysis.structural import Weighting, disconnect_voxels
from lacuna.bids.derivatives import plan_outputs
from lacuna.errors import DatasetError, FormatError, SpaceError
from lacuna.formats import save_trx
from lacuna.geometry.grid import Grid
from lacuna.geometry.streamlines import Streamlines
from lacuna.store import Store
from lacuna.workflow.lesion import load_lesion
from lacuna.workflow.products import open_index
from lacuna.workflow.tracts import open_tracts, write_tracts

from .conftest import SPACE, a_record


@pytest.fixture
def scene(tmp_path, masks):
    """Return what opens tracts of twenty streamlines of which a lesion cuts those with y < 5."""
    streamlines, grid = parallel_tract(20)
    path, store = tmp_path / "tract.trx", Store(tmp_path / "store")
    points, offsets = streamlines.gather(np.arange(20))
    groups = {"low": np.array([0, 1, 1, 9]), "high": np.arange(10, 20)}
    save_trx(path, points, offsets, grid, groups=groups)
    opened, record = open_index(store, path, grid=grid), a_record(path, grid)
    (found,) = masks(one=5).found
    lesion = load_lesion(found)
    (outputs,) = plan_outputs([found], tmp_path / "out", space=SPACE, resolution="1")

    def table(tracts, weights=None):
        weighting = None if weights is None else Weighting.of(opened.index, weights)
        result = disconnect_voxels(opened.index, lesion.mask, lesion.grid, weighting=weighting)
        write_tracts(outputs, lesion, result, tracts)
        (written,) = (tmp_path / "out").rglob("*_res-1_desc-tracts_stats.tsv")
        with written.open() as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return {row.pop("name"): list(row.values()) for row in rows}

    return lambda source=None: open_tracts(store, opened, record, source), table


def test_groups__of_the_tractogram_are_its_tracts(scene):
    tracts, table = scene
    assert table(tracts()) == {
        "low": ["3", "2", f"{2 / 3:.12g}", "3", "2", f"{2 / 3:.12g}"],
        "high": ["10", "0", "0", "10", "0", "0"],
    }


def test_ranges__of_a_table_take_the_place_of_groups_and_may_be_weighed(scene, tmp_path):
    tracts, table = scene
    path = tmp_path / "ranges.tsv"
    path.write_text("tract\tstart\tstop\nfirst\t0\t10\nnone\t3\t3\n")
    weights = np.arange(20) / 10
    assert table(tracts(path), weights) == {
        "first": ["10", "5", "0.5", "4.5", "1", f"{1 / 4.5:.12g}"],
        "none": ["0", "0", "n/a", "0", "0", "n/a"],
    }
    path.write_text("tract\tstart\tstop\nfirst\t0\t21\n")
    with pytest.raises(FormatError, match="first goes from 0 to 21, but the tractogram holds 20"):
        tracts(path)


def lines_at(*heights):
    points = [[[x, y, 0] for x in range(20)] for y in heights]
    words = np.array(points, np.float32).reshape(-1)
    return Streamlines(words, np.arange(len(heights)) * 60, np.full(len(heights), 20))


def test_files__of_a_folder_are_cut_each_by_itself(scene, tmp_path):
    tracts, table = scene
    folder = tmp_path / "tracts"
    folder.mkdir()
    write_tck(folder / "AF_L.tck", lines_at(3, 4, 5))
    write_tck(folder / "AF_R.tck", lines_at(40))
    (folder / "notes.txt").write_text("none")
    assert table(tracts(folder)) == {
        "AF_L": ["3", "2", f"{2 / 3:.12g}", "3", "2", f"{2 / 3:.12g}"],
        "AF_R": ["1", "0", "0", "1", "0", "0"],
    }
    weighed = table(tracts(folder), np.ones(20))
    assert weighed["AF_R"] == ["1", "0", "0", "n/a", "n/a", "n/a"]


def test_files__of_another_space_or_of_one_name_are_refused(scene, tmp_path):
    tracts, _ = scene
    folder = tmp_path / "tracts"
    folder.mkdir()
    with pytest.raises(DatasetError, match="holds no"):
        tracts(folder)
    write_tck(folder / "AF.tck", lines_at(3))
    (folder / "AF.json").write_text('{"Space": "MNIColin27"}')
    with pytest.raises(SpaceError, match="MNIColin27"):
        tracts(folder)
    (folder / "AF.json").unlink()
    save_trx(folder / "AF.trx", *lines_at(3).gather(np.arange(1)), Grid((1, 1, 1), np.eye(4)))
    with pytest.raises(DatasetError, match="two tracts called AF"):
        tracts(folder)


def test_a_tractogram_that_names_no_tract_has_none(tmp_path):
    streamlines, grid = parallel_tract(3)
    path, store = tmp_path / "tract.tck", Store(tmp_path / "store")
    write_tck(path, streamlines)
    opened = open_index(store, path, grid=grid)
    assert open_tracts(store, opened, a_record(path, grid)) is None
