"""``lacuna fetch`` from the command line to the file, and catalogued names in other commands."""

import json
import os
from pathlib import Path

import pytest
from tests.phantoms import coherent_tractogram, write_tck

from lacuna.cli.main import main


@pytest.fixture
def tractogram(tmp_path, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "by-hand.tck"
    write_tck(path, coherent_tractogram(50, step_mm=6), step_size_mm=6)
    return path


def lacuna(*argv):
    return main([str(word) for word in argv])


def test_fetch__prints_the_path_and_nothing_else(tractogram, capsys):
    assert lacuna("fetch", "dTOR985", "--from", tractogram, "--force") == 0
    out, err = capsys.readouterr()
    assert Path(out.strip()).read_bytes() == tractogram.read_bytes()
    assert err == ""
    assert lacuna("fetch", "dTOR985", "--json", "--offline") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == out.strip()
    assert facts["label"] == "dTOR985, MNI152NLin2009bAsym"
    assert len(facts["sha256"]) == 64


def test_from__what_is_hardly_the_asset_needs_force(tractogram, capsys):
    assert lacuna("fetch", "dTOR985", "--from", tractogram) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "is hardly dTOR985" in err
    assert "not about 11.0 GB and 50 streamlines, not about 12,000,000" in err
    assert lacuna("fetch", "dTOR985", "--from", tractogram, "--force") == 0


def test_list__shows_what_is_there(tractogram, capsys):
    assert lacuna("fetch", "--list") == 0
    assert "dTOR985" in capsys.readouterr().out
    lacuna("fetch", "dTOR985", "--from", tractogram, "--force")
    path = capsys.readouterr().out.strip()
    assert lacuna("fetch", "--list", "--json") == 0
    listed = {asset["name"]: asset for asset in json.loads(capsys.readouterr().out)}
    assert listed["dTOR985"]["path"] == path
    assert listed["HCP842"]["path"] is None
    assert {"title", "space", "licence", "citation", "doi", "how"} <= listed["HCP842"].keys()


def test_fetch__by_hand_says_how(tractogram, capsys):
    assert lacuna("fetch", "HCP842") == 1
    assert "--from FILE" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["dTOR985", "--list"]])
def test_fetch__wants_a_name_or_the_list(argv):
    assert lacuna("fetch", *argv) == 2


def test_offline__of_the_environment_and_the_option(tractogram, capsys, monkeypatch):
    asked = ("fetch", "https://data.invalid/x.tck", "--sha256", "0" * 64)
    assert lacuna(*asked, "--offline") == 1
    assert "the network is off" in capsys.readouterr().err
    monkeypatch.setenv("LACUNA_OFFLINE", "1")
    assert lacuna(*asked) == 1
    assert "the network is off" in capsys.readouterr().err


def test_warm__accepts_a_name_and_knows_its_space(tractogram, capsys):
    lacuna("fetch", "HCP842", "--from", tractogram)
    path = capsys.readouterr().out.strip()
    assert lacuna("cache", "warm", "--tractogram", "HCP842", "--json") == 0
    warmed = json.loads(capsys.readouterr().out)
    assert warmed["tractogram"] == path
    # The grid of the catalogued space, which a tractogram without one does not get.
    by_path = ("cache", "warm", "--tractogram", tractogram, "--json")
    assert lacuna(*by_path, "--tractogram-space", "MNI152NLin6Asym") == 0
    assert json.loads(capsys.readouterr().out)["entries"] == warmed["entries"]
    assert lacuna("cache", "warm", "--tractogram", "HCP842", "--tractogram-space", "MNI305") == 0


def test_tdi__accepts_a_name(tractogram, tmp_path, capsys):
    lacuna("fetch", "HCP842", "--from", tractogram)
    assert lacuna("tdi", "HCP842", tmp_path / "density.nii.gz") == 0
    assert (tmp_path / "density.nii.gz").exists()
    assert not list((tmp_path / "cache" / ".leases").iterdir())


def test_name__is_found_in_a_shared_cache_that_cannot_be_written(
    tractogram, tmp_path, capsys, monkeypatch
):
    lacuna("fetch", "HCP842", "--from", tractogram)
    shared = capsys.readouterr().out.strip()
    os.utime(Path(shared).with_name("meta.json"), (1e9 + 8e8, 1e9 + 8e8))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    monkeypatch.setenv("LACUNA_SHARED_CACHE_DIRS", str(tmp_path / "cache"))
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "mine"))
    assert lacuna("fetch", "HCP842", "--offline") == 0
    assert capsys.readouterr().out.strip() == shared
    assert lacuna("cache", "warm", "--tractogram", "HCP842") == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    assert after == before


def test_name__that_is_not_there_says_how_to_get_it(tractogram, capsys):
    assert lacuna("cache", "warm", "--tractogram", "dTOR985") == 1
    assert "lacuna fetch dTOR985 --from FILE" in capsys.readouterr().err


def test_name__a_path_comes_first(tractogram, capsys):
    Path("dTOR985").mkdir()
    assert lacuna("cache", "warm", "--tractogram", "dTOR985") == 1
    assert "fetch" not in capsys.readouterr().err


def test_name__in_a_configuration_file(tractogram, tmp_path, capsys):
    lacuna("fetch", "HCP842", "--from", tractogram)
    path = capsys.readouterr().out.strip()
    (tmp_path / "mine.yaml").write_text("tractogram: HCP842\n")
    assert lacuna("cache", "warm", "--config", tmp_path / "mine.yaml", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tractogram"] == path
