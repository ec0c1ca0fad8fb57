"""The catalogue says of each asset what users need to know, and claims no more than is known."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.cli.test_transform import write_shift

from lacuna.assets.catalog import ATLASES, find_fetched, get_asset, load_catalog
from lacuna.assets.fetch import fetch, how_to_get
from lacuna.errors import OptionError
from lacuna.geometry.space import resolve_space
from lacuna.workflow.warped import identify_transform

CATALOG = load_catalog()


def test_catalog__has_what_users_have():
    assert set(CATALOG) == {
        "dTOR985",
        "HCP842",
        "HCP1065",
        "GSP1000",
        "Schaefer2018_100Parcels7Networks",
        "Schaefer2018_200Parcels7Networks",
        "Schaefer2018_400Parcels7Networks",
        "TianSubcortex_3TS1",
        "TianSubcortex_3TS2",
        "Yeo2011_7Networks",
        "DesikanKilliany",
        "HCP1065_tracts",
        "MNI152NLin6Asym_to_MNI152NLin2009cAsym",
        "MNI152NLin2009cAsym_to_MNI152NLin6Asym",
    }


@pytest.mark.parametrize("asset", CATALOG.values(), ids=lambda asset: asset.name)
def test_asset__is_whole(asset):
    assert resolve_space(asset.space) == asset.space if asset.space else "--atlas-sp" in asset.how
    assert (asset.n_regions is not None) == (asset.kind in ATLASES)
    assert (asset.images_from is not None) == (asset.kind == "transform")
    assert all((asset.title, asset.kind, asset.licence, asset.citation, asset.how))
    assert re.fullmatch(r"10\.\d{4,5}/\S+", asset.doi)
    assert asset.sha256 or not asset.urls, "an address alone could give anything"
    assert all(url.startswith("https://") for url in asset.urls)
    assert len(set(asset.files)) == len(asset.files)
    assert asset.how in how_to_get(asset)


@pytest.mark.parametrize(
    "asset", [a for a in CATALOG.values() if a.images_from], ids=lambda asset: asset.name
)
def test_transform__says_what_its_file_and_its_own_name_say(asset):
    Path(asset.files[0]).touch()
    said = identify_transform(Path(asset.files[0]))
    assert (said.images_from, said.images_to) == (asset.images_from, asset.space)
    assert asset.name == f"{asset.images_from}_to_{asset.space}"


def test_asset__no_file_belongs_to_two():
    names = [name for asset in CATALOG.values() for name in asset.files]
    assert len(set(names)) == len(names)


def test_get_asset__knows_near_names():
    assert get_asset("HCP842").space == "MNI152NLin6Asym"
    with pytest.raises(OptionError, match="did you mean GSP1000"):
        get_asset("gsp-1000")


def test_find_fetched__finds_nothing_where_nothing_is(store, tmp_path):
    assert find_fetched(store.entries(), CATALOG["dTOR985"]) is None
    write_shift(tmp_path / "x.h5", np.ones(3))
    name = "MNI152NLin6Asym_to_MNI152NLin2009cAsym"
    entry = fetch(store, name, source=tmp_path / "x.h5")
    assert entry.files == CATALOG[name].files
    assert find_fetched(store.entries(), CATALOG[name]) is not None
    assert find_fetched(store.entries(), CATALOG["dTOR985"]) is None
