"""``lacuna run damage``, from the command line to the files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests.phantoms import write_nifti

from lacuna.cli.main import main
from lacuna.geometry.grid import Grid

GRID = Grid((20, 20, 1), np.eye(4))


@pytest.fixture
def atlas(tmp_path):
    """Label 3 for y < 10, 12 above; named, in a study's own space."""
    labels = np.full(GRID.shape, 12, np.int16)
    labels[:, :10] = 3
    path = tmp_path / "tpl-StudySpace_atlas-Halves_dseg.nii.gz"
    write_nifti(path, labels, GRID)
    Path("tpl-StudySpace_atlas-Halves_dseg.tsv").write_text("index\tname\n3\tlow\n12\thigh\n")
    return path


@pytest.fixture
def masks(tmp_path):
    for name, n_lesioned in {"one": 5, "two": 15}.items():
        mask = np.zeros(GRID.shape, np.uint8)
        mask[8:10, :n_lesioned] = 1
        (tmp_path / "masks").mkdir(exist_ok=True)
        write_nifti(tmp_path / "masks" / f"{name}_space-StudySpace.nii.gz", mask, GRID)
    return tmp_path / "masks"


def damage(*words, code=0):
    assert main(["run", "damage", *map(str, words)]) == code


def rows(text):
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def table(out, pattern):
    (path,) = Path(out).rglob(pattern)
    assert json.loads(path.with_suffix(".json").read_text()).keys() == set(
        rows(path.read_text())[0]
    )
    return rows(path.read_text())


def test_damage__writes_a_table_per_lesion_and_atlas_and_needs_no_tractogram(masks, atlas, capsys):
    damage(masks, "out", "participant", "--atlas", atlas)
    low, high = table(
        "out", "sub-two/dwi/sub-two_space-StudySpace_seg-Halves_desc-damage_stats.tsv"
    )
    assert low == {
        "index": "3",
        "name": "low",
        "volume_mm3": "200",
        "lesioned_mm3": "20",
        "damage": "0.1",
    }
    assert (high["index"], high["lesioned_mm3"], high["damage"]) == ("12", "10", "0.05")
    shown = capsys.readouterr()
    said = [(row["volume_mm3"], row["n_regions_damaged"]) for row in rows(shown.out)]
    assert said == [("10", "1"), ("30", "2")]
    assert "2 of 2 lesions done" in shown.err
    (summary,) = table("out", "sub-one_space-StudySpace_desc-summary_stats.tsv")
    assert summary["side"] == "right"
    (sidecar,) = Path("out").rglob("sub-one_*label-lesion_mask.json")
    (recorded,) = json.loads(sidecar.read_text())["Lacuna"]["Atlases"]
    assert (recorded["Name"], recorded["Space"]) == ("Halves", "StudySpace")
    assert not Path("cache").exists()


def test_damage__a_table_of_names_may_be_given_with_the_atlas(masks, atlas):
    Path("names.txt").write_text("3 unten\n12 oben\n")
    damage(masks, "out", "--atlas", f"{atlas}:names.txt", "--participant-label", "one")
    assert [row["name"] for row in table("out", "*seg-Halves_desc-damage_stats.tsv")] == [
        "unten",
        "oben",
    ]


def test_damage__maps_of_the_probability_of_tracts_have_a_table_of_their_own(masks, tmp_path):
    import nibabel as nib

    values = np.zeros((*GRID.shape, 2), np.float32)
    values[:, :10, :, 0], values[:, :2, :, 0], values[0, 0, 0, 1] = 0.25, 0.75, 1
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "space-StudySpace_probseg.nii.gz")
    path = tmp_path / "space-StudySpace_probseg.nii.gz"
    damage(masks, "out", "--tract-atlas", path, "--participant-label", "one")
    first, second = table("out", "sub-one_*seg-spaceStudySpaceprobseg_desc-tractoverlap_stats.tsv")
    assert (first["max_probability"], first["volume_mm3"], first["damage"]) == ("0.75", "40", "0.1")
    assert (second["max_probability"], second["damage"]) == ("0", "0")


def test_damage__a_dry_run_tells_the_plan_and_writes_nothing(masks, atlas, capsys):
    damage(masks, "out", "--atlas", atlas, "--dry-run")
    assert "one_space-StudySpace.nii.gz → sub-one/dwi/sub-one_space" in capsys.readouterr().err
    assert not Path("out").exists()


def test_damage__one_failed_lesion_is_reported_and_the_others_go_on(masks, atlas, capsys):
    write_nifti(masks / "none_space-StudySpace.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
    damage(masks, "out", "--atlas", atlas, code=1)
    shown = capsys.readouterr()
    assert "is empty" in shown.err
    assert "1 of 3 lesions failed" in shown.err
    assert len(rows(shown.out)) == 2
    assert not list(Path("out/sub-none").rglob("*summary*"))


def test_damage__spaces_must_be_stated_and_agree(masks, atlas, capsys):
    damage(masks, "out", "--atlas", atlas, "--space", "StudySpace")
    bare = Path(atlas).rename("bare.nii.gz")
    damage(masks, "out2", "--atlas", bare, code=1)
    assert "Give --atlas-space NAME" in capsys.readouterr().err
    damage(masks, "out2", "--atlas", bare, "--atlas-space", "MNIColin27", code=1)
    assert "None of the 2 lesions can be used" in capsys.readouterr().err
    damage(masks, "out2", "--atlas", bare, "--atlas-space", "StudySpace")


def test_damage__another_templates_grid_is_a_warning_and_with_strict_an_error(masks, capsys):
    labels = np.ones((91, 109, 91), np.uint8)
    grid = Grid.cubic(2, labels.shape, (-90, -126, -72))
    write_nifti(Path("atlas-A_space-StudySpace_dseg.nii.gz"), labels, grid)
    words = ["--atlas", "atlas-A_space-StudySpace_dseg.nii.gz"]
    damage(masks, "out", *words)
    assert "its grid is exactly that of" in capsys.readouterr().err
    damage(masks, "out2", *words, "--strict", code=1)


def test_damage__a_lesion_that_touches_no_region_is_a_result_with_a_warning(masks, atlas, capsys):
    far = Grid.cubic(1, (2, 2, 2), (500, 0, 0))
    write_nifti(masks / "far_space-StudySpace.nii.gz", np.ones((2, 2, 2), np.uint8), far)
    damage(masks, "out", "--atlas", atlas, "--participant-label", "far")
    assert "touches no region" in capsys.readouterr().err
    assert [row["damage"] for row in table("out", "*desc-damage_stats.tsv")] == ["0", "0"]


def test_damage__no_atlas_or_two_of_one_name_are_usage_errors(masks, atlas, capsys):
    damage(masks, "out", code=2)
    assert "give --atlas FILE" in capsys.readouterr().err
    damage(masks, "out", "--atlas", atlas, "--atlas", atlas, code=2)
    assert "would write one file" in capsys.readouterr().err


def test_damage__another_atlas_of_the_same_name_takes_the_place_of_the_first(masks, atlas, capsys):
    damage(masks, "out", "--atlas", atlas)
    damage(masks, "out", "--atlas", atlas)
    Path("names.txt").write_text("3 unten\n12 oben\n")
    damage(masks, "out", "--atlas", f"{atlas}:names.txt")
    assert "stale: 2 (atlas Halves changed)" in capsys.readouterr().err
    low, high = table("out", "*sub-two*seg-Halves_desc-damage_stats.tsv")
    assert (low["name"], high["name"]) == ("unten", "oben")
