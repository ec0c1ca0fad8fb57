"""Against the Lesion Quantification Toolkit: its published tables, tract by tract."""

import csv

import pytest

import lacuna
from lacuna.store import Store

SPACE = "MNI152NLin6Asym"

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def opened(shared_data, tmp_path_factory):
    path = shared_data / "tractograms" / "hcp842_27bundles_exact_MNI.trx"
    store = Store(tmp_path_factory.mktemp("store"))
    return lacuna.open_index(path, space=SPACE, rule="vertex", grid=2, store=store)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_tracts__percent_cut_equals_the_published_table(number, opened, shared_data):
    path = shared_data / "tractograms" / "hcp842_27bundles_lqt_expected.tsv"
    with path.open() as file:
        table = {row["bundle"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert len(table) == 27
    assert opened.file.groups.keys() == table.keys()
    lesion = shared_data / "lesions" / "lqt" / f"ExampleLesion{number}.nii.gz"
    result = lacuna.disconnect(opened, lesion, space=SPACE)
    cut = set(result.cut_ids.tolist())
    for name, members in opened.file.groups.items():
        assert len(members) == int(table[name]["n_streamlines"])
        percent = 100 * len(cut.intersection(members.tolist())) / len(members)
        published = float(table[name][f"ExampleLesion{number}_lqt_percent"])
        assert percent == pytest.approx(published, abs=0.05), name
    assert 0 < result.n_cut < opened.n_streamlines


def test_tracts__under_rule_segment_each_is_cut_at_least_as_much(opened, shared_data, tmp_path):
    path = shared_data / "tractograms" / "hcp842_27bundles_exact_MNI.trx"
    line = lacuna.open_index(path, space=SPACE, grid=2, store=Store(tmp_path / "store"))
    lesion = shared_data / "lesions" / "lqt" / "ExampleLesion1.nii.gz"
    by_point, by_line = (lacuna.disconnect(index, lesion, space=SPACE) for index in (opened, line))
    assert set(by_point.cut_ids.tolist()) < set(by_line.cut_ids.tolist())
