"""``lacuna run snm`` and tracts: groups, ranges, folders, and atlases of probabilities."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.phantoms import parallel_tract, write_nifti, write_tck

from lacuna.cli.main import main
from lacuna.geometry.grid import Grid
from lacuna.geometry.streamlines import Streamlines

GRID = Grid((20, 20, 1), np.eye(4))


@pytest.fixture
def scene(tmp_path):
    """Twenty streamlines along x at y = 0 … 19, and a lesion of those with y < 5."""
    write_tck(tmp_path / "tract_space-Study.tck", parallel_tract(20)[0])
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:10, :5] = 1
    write_nifti(tmp_path / "one_space-Study.nii.gz", mask, GRID)
    write_nifti(tmp_path / "grid.nii.gz", mask, GRID)


def snm(*words, out="out", code=0):
    given = ["one_space-Study.nii.gz", out, "--tractogram", "tract_space-Study.tck"]
    options = ["--grid", "grid.nii.gz", "--min-tdi", "1", "--no-figures"]
    assert main(["run", "snm", *given, *options, *map(str, words)]) == code


def table(desc, out="out"):
    (path,) = Path(out).rglob(f"*desc-{desc}_stats.tsv")
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_tracts__of_a_table_are_written_beside_the_maps(scene, capsys):
    Path("tracts.tsv").write_text("bundle\tstart\tstop\nlow\t0\t10\nhigh\t10\t20\n")
    snm("--tracts", "tracts.tsv")
    assert [(row["name"], row["disconnection"]) for row in table("tracts")] == [
        ("low", "0.5"),
        ("high", "0"),
    ]
    Path("tracts.tsv").write_text("bundle\tstart\tstop\nlow\t0\t10\n")
    capsys.readouterr()
    snm("--tracts", "tracts.tsv")
    assert "file of tracts" in capsys.readouterr().err
    assert [row["name"] for row in table("tracts")] == ["low"]
    assert "Disconnection of a tract is" in Path("out/logs/CITATION.md").read_text()


def test_tracts__of_a_folder_are_cut_each_by_itself(scene):
    Path("tracts").mkdir()
    points = np.array([[x, y, 0] for y in (4, 5) for x in range(20)], np.float32).reshape(-1)
    write_tck(Path("tracts/AF.tck"), Streamlines(points, np.array([0, 60]), np.array([20, 20])))
    snm("--tracts", "tracts")
    (row,) = table("tracts")
    assert (row["name"], row["n_streamlines"], row["n_cut"]) == ("AF", "2", "1")


def test_tracts__nobody_names_make_no_table_and_a_missing_one_is_said(scene, capsys):
    snm()
    assert not list(Path("out").rglob("*desc-tracts*"))
    snm("--tracts", "missing", out="other", code=1)
    assert "no table or folder of tracts missing" in capsys.readouterr().err


def test_atlases__damage_and_tract_overlap_are_written_beside_the_maps(scene):
    write_nifti(Path("atlas-A_space-Study_dseg.nii.gz"), np.ones(GRID.shape, np.uint8), GRID)
    values = np.zeros((*GRID.shape, 1), np.float32)
    values[:, :2] = 0.75
    nib.save(nib.Nifti1Image(values, np.eye(4)), "atlas-T_space-Study_probseg.nii.gz")
    snm(
        "--atlas",
        "atlas-A_space-Study_dseg.nii.gz",
        "--tract-atlas",
        "atlas-T_space-Study_probseg.nii.gz",
    )
    assert [row["damage"] for row in table("damage")] == ["0.025"]
    assert [row["max_probability"] for row in table("tractoverlap")] == ["0.75"]
    assert [row["damage"] for row in table("tractoverlap")] == ["0.1"]


@pytest.mark.data
def test_groups__of_a_real_tractogram_are_its_tracts_as_published(shared_data):
    tractograms = shared_data / "tractograms"
    lesions = shared_data / "lesions" / "lqt"
    words = ["--tractogram", tractograms / "hcp842_27bundles_exact_MNI.trx", "--rule", "vertex"]
    words += ["--tractogram-space", "MNI152NLin6Asym", "--space", "MNI152NLin6Asym"]
    words += ["--no-figures"]
    lesion = lesions / "ExampleLesion3.nii.gz"
    assert main(["run", "snm", *map(str, [lesion, "out", *words])]) == 0
    with (tractograms / "hcp842_27bundles_lqt_expected.tsv").open() as file:
        published = {row["bundle"]: row for row in csv.DictReader(file, delimiter="\t")}
    rows = table("tracts")
    assert len(rows) == 27
    for row in rows:
        percent = float(published[row["name"]]["ExampleLesion3_lqt_percent"])
        assert 100 * float(row["disconnection"]) == pytest.approx(percent, abs=0.05), row["name"]
