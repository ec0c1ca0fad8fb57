"""Transforms of the catalogue: taken in once, then used by name, or where spaces differ."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from tests.cli.test_transform import write_shift
from tests.phantoms import parallel_tract, write_nifti, write_tck

from lacuna.cli.main import main
from lacuna.geometry.grid import Grid
from lacuna.geometry.streamlines import Streamlines

FSL, PREP = "MNI152NLin6Asym", "MNI152NLin2009cAsym"
FORTH, BACK = f"{PREP}_to_{FSL}", f"{FSL}_to_{PREP}"
"""As images go; points of a tractogram in 6Asym go to 2009cAsym by the first."""

FILE = f"tpl-{FSL}_from-{PREP}_mode-image_xfm.h5"
GRID = Grid((20, 30, 1), np.eye(4))
LESION = f"one_space-{PREP}.nii.gz"
SHIFT = np.array([0, 3.0, 0])
"""From 6Asym to 2009cAsym, mm."""


@pytest.fixture(autouse=True)
def scene(tmp_path):
    tract, _ = parallel_tract(20)
    write_tck(tmp_path / f"space-{FSL}_t.tck", tract)
    points = tract.words.reshape(-1, 3) + SHIFT.astype(np.float32)
    moved = Streamlines(points.ravel(), tract.firsts, tract.counts)
    write_tck(tmp_path / f"space-{PREP}_t.tck", moved)
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:10, 4:6] = 1
    write_nifti(tmp_path / LESION, mask, GRID)
    write_shift(tmp_path / FILE, SHIFT)
    write_shift(tmp_path / "back.h5", -SHIFT)


def snm(output, *words, lesion=LESION, tractogram=f"space-{FSL}_t.tck"):
    fixed = ("--grid", LESION, "--min-tdi", "1", "--no-figures", "--no-report")
    return main(["run", "snm", lesion, output, "--tractogram", tractogram, *fixed, *words])


def mapped(output):
    (path,) = Path(output).rglob("*desc-disconnection_map.nii.gz")
    said = json.loads(Path(str(path).replace(".nii.gz", ".json")).read_text())["Lacuna"]
    return np.asarray(nib.load(path).dataobj), said["Transform"]


def test_fetched_transform__is_used_where_spaces_differ_and_said_and_recorded(capsys):
    assert snm("out") == 1
    told = capsys.readouterr().err
    assert f"--transform FILE between {PREP} and {FSL}, or the catalogue's {FORTH}" in told
    assert f"`lacuna fetch {FORTH}` gets it" in told
    assert snm("direct", tractogram=f"space-{PREP}_t.tck") == 0
    assert main(["fetch", FORTH, "--from", FILE]) == 0
    capsys.readouterr()
    assert snm("out") == snm("named", "--transform", FORTH) == 0
    assert f"spaces differ: {FILE} connects {PREP} and {FSL}, and was fetched" in (
        capsys.readouterr().err
    )
    expected = mapped("direct")[0]
    assert 0 < np.count_nonzero(expected) < expected.size
    for output, giver in (("out", "Lacuna's catalogue"), ("named", "--transform")):
        found, said = mapped(output)
        np.testing.assert_array_equal(found, expected)
        assert (said["PointsFrom"], said["PointsTo"], said["GivenBy"]) == (FSL, PREP, giver)
        cited = (Path(output) / "logs/CITATION.md").read_text()
        assert "Ciric et al. 2022" in cited


def test_fetched_transform__gives_way_to_one_that_is_given(capsys):
    assert main(["fetch", FORTH, "--from", FILE]) == 0
    write_shift(Path("own.h5"), -SHIFT + [0, 1, 0])  # though it has to be inverted
    words = ("--transform", "own.h5", "--transform-from", FSL, "--transform-to", PREP)
    assert snm("out", *words) == 0
    assert mapped("out")[1]["Name"] == "own.h5"
    assert "spaces differ" not in capsys.readouterr().err


def test_fetched_transform__moves_nothing_from_where_lesions_are(capsys):
    main(["fetch", FORTH, "--from", FILE])
    Path("both").mkdir()
    Path(LESION).rename(f"both/{LESION}")
    Path(f"both/two_space-{FSL}.nii.gz").write_bytes(Path(f"both/{LESION}").read_bytes())
    fixed = ("--grid", f"both/{LESION}", "--min-tdi", "1", "--no-figures", "--no-report")
    words = ["run", "snm", "both", "out", "--tractogram", f"space-{FSL}_t.tck", *fixed]
    assert main(words) == 1
    assert f"{LESION} is in {PREP}" in capsys.readouterr().err.replace("\n", " ")
    assert mapped("out")[1] is None
    # Each by itself, as a task of an array does, and then together: one kind of results.
    for who in ("one", "two"):
        moving = [*words, "--move-lesions", "--participant-label", who]
        moving[3] = "moved"
        assert main(moving) == 0
    moving = [*words, "--move-lesions"]
    moving[3] = "moved"
    capsys.readouterr()
    assert main(moving) == 0
    assert "done already: 2 of 2" in capsys.readouterr().err


def test_fetched_transform__brings_atlases_too():
    write_nifti(Path(f"space-{FSL}_atlas-A_dseg.nii.gz"), np.ones((20, 3, 1), np.uint8), GRID)
    main(["fetch", BACK, "--from", "back.h5"])
    words = ["--atlas", f"space-{FSL}_atlas-A_dseg.nii.gz", "--no-report"]
    assert main(["run", "damage", LESION, "out", *words]) == 0
    (path,) = Path("out").rglob("*desc-damage_stats.tsv")
    (row,) = csv.DictReader(path.read_text().splitlines(), delimiter="\t")
    # Rows 0 to 2 come to 3 to 5, of which the lesion has 2 × 2 voxels.
    assert (float(row["volume_mm3"]), float(row["lesioned_mm3"])) == (60, 4)


def test_transform__by_name_has_to_be_one_and_be_there(capsys):
    assert snm("out", "--transform", BACK) == 1
    assert f"then `lacuna fetch {BACK} --from FILE` takes it in" in capsys.readouterr().err
    assert snm("out", "--transform", "HCP842") == 2
    assert "HCP842 is a tractogram, no transform" in capsys.readouterr().err
    assert snm("out", "--transform", "MNI_to_MNI") == 2
    assert "there is no such file. Check the path, or the name" in capsys.readouterr().err


def test_fetch__refuses_the_other_direction_and_what_is_no_transform(capsys):
    assert main(["fetch", BACK, "--from", FILE]) == 1
    assert f"resamples images of {PREP} onto {FSL}, but it is given as one of {FSL}" in (
        capsys.readouterr().err
    )
    Path("x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert main(["fetch", BACK, "--from", "x.h5"]) == 1
    assert "x.h5" in capsys.readouterr().err
    assert snm("out", "--transform", BACK) == 1


@pytest.mark.data
def test_fetched_transform__cuts_what_scipy_finds_cut(shared_data, monkeypatch):
    folder = shared_data / "transforms"
    name = f"tpl-{FSL}_from-{PREP}_mode-image_desc-nemofnirt4mm_xfm"
    assert main(["fetch", FORTH, "--from", str(folder / f"{name}.h5")]) == 0
    path = sorted((shared_data / "lesions/lqt").glob("*.nii.gz"))[0]
    tractogram = shared_data / "tractograms/hcp842_small1000.tck"
    words = ("--space", PREP, "--tractogram-space", FSL, "--rule", "vertex", "--grid", "2")
    given = ["run", "snm", str(path), "out", "--tractogram", str(tractogram), *words]
    assert main([*given, "--no-figures", "--no-report"]) == 0
    (table,) = Path("out").rglob("*desc-summary_stats.tsv")
    (row,) = csv.DictReader(table.read_text().splitlines(), delimiter="\t")
    field, mask = nib.load(folder / f"{name}.nii.gz"), nib.load(path)
    vectors = np.asarray(field.dataobj).squeeze() * [-1, -1, 1]  # LPS
    lesioned, n_cut = np.asarray(mask.dataobj) > 0, 0
    for line in nib.streamlines.load(tractogram).streamlines:
        at = nib.affines.apply_affine(np.linalg.inv(field.affine), line).T
        shift = [map_coordinates(vectors[..., i], at, order=1, mode="nearest") for i in range(3)]
        there = nib.affines.apply_affine(np.linalg.inv(mask.affine), line + np.transpose(shift))
        n_cut += lesioned[tuple(np.rint(there).astype(int).T)].any()
    assert int(row["n_cut"]) == n_cut > 20
