"""Against the Lesion Quantification Toolkit: its published tables, tract by tract."""

import csv

import pytest

import lacuna
from lacuna.analysis.damage import parcel_damage
from lacuna.analysis.tracts import disconnect_tracts
from lacuna.formats.atlas import load_atlas
from lacuna.formats.nifti import load_mask
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
    tracts = disconnect_tracts(opened.file.groups, result.cut_ids, opened.n_streamlines)
    for name, n, share in zip(tracts.names, tracts.n_streamlines, tracts.shares, strict=True):
        assert n == int(table[name]["n_streamlines"])
        published = float(table[name][f"ExampleLesion{number}_lqt_percent"])
        assert 100 * share == pytest.approx(published, abs=0.05), name
    assert 0 < result.n_cut < opened.n_streamlines


def test_tracts__under_rule_segment_each_is_cut_at_least_as_much(opened, shared_data, tmp_path):
    path = shared_data / "tractograms" / "hcp842_27bundles_exact_MNI.trx"
    line = lacuna.open_index(path, space=SPACE, grid=2, store=Store(tmp_path / "store"))
    lesion = shared_data / "lesions" / "lqt" / "ExampleLesion1.nii.gz"
    by_point, by_line = (lacuna.disconnect(index, lesion, space=SPACE) for index in (opened, line))
    assert set(by_point.cut_ids.tolist()) < set(by_line.cut_ids.tolist())


@pytest.mark.parametrize("number", [1, 2, 3])
def test_damage__percent_of_each_parcel_is_near_the_published_table(number, shared_data):
    """Theirs is of another release of the parcellation: up to 0.6 points apart."""
    stem = "tpl-MNI152NLin6Asym_res-01_atlas-Schaefer2018_desc-100Parcels7Networks_dseg.nii.gz"
    parcels = load_atlas(shared_data / "parcellations" / stem)
    folder = shared_data / "lesions" / "lqt"
    with (folder / f"Subject{number}_Yeo.100.7_percent_damage.csv").open() as file:
        table = {row["Parcel"]: float(row["PercentDamage"]) for row in csv.DictReader(file)}
    mask = load_mask(folder / f"ExampleLesion{number}.nii.gz")
    shares = parcel_damage(mask.array, mask.grid, parcels).shares
    assert len(shares) == 100
    for name, share in zip(parcels.names, shares, strict=True):
        published = table[name.removeprefix("7Networks_")]
        assert 100 * share == pytest.approx(published, abs=0.6), name
