"""Atlases and lesions in other spaces: what is moved, onto which voxels, and what is said of it."""

import csv
import json
import logging

import nibabel as nib
import numpy as np
import pytest
from tests.cli.test_transform import write_shift
from tests.phantoms import coherent_tractogram, turned_copies, write_nifti, write_tck

from lacuna.cli.main import main
from lacuna.geometry.grid import Grid
from lacuna.geometry.space import canonical_grid
from lacuna.geometry.streamlines import Streamlines

FSL, PREP = "MNI152NLin6Asym", "MNI152NLin2009cAsym"
FSL_GRID, PREP_GRID = canonical_grid(FSL, 2), canonical_grid(PREP, 2)
SHIFT = np.array([2.5, -1.5, 0.5])
"""From a voxel's centre in 2009cAsym to a voxel's centre in 6Asym, mm."""

XFM = f"tpl-{PREP}_from-{FSL}_mode-image_xfm.h5"
CORNER = (40, 50, 30)
GRID = Grid.cubic(2, (20, 20, 20), (-19, -19, -19))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def templates(folder):
    """Write an atlas and tracts in 6Asym, a lesion in 2009cAsym, and what joins the two."""
    labels = np.zeros(FSL_GRID.shape, np.int16)
    block = np.random.default_rng(0).choice([0, 3, 7, 20], (9, 8, 7))
    place = tuple(slice(c, c + n) for c, n in zip(CORNER, block.shape, strict=True))
    labels[place] = block
    write_nifti(folder / f"tpl-{FSL}_atlas-Toy_dseg.nii.gz", labels, FSL_GRID)
    tracts = np.stack([labels == 3, labels * 0.05], axis=-1).astype(np.float32)
    nib.save(
        nib.Nifti1Image(tracts, FSL_GRID.affine), folder / f"tpl-{FSL}_atlas-Ways_probseg.nii.gz"
    )
    mask = np.zeros(PREP_GRID.shape, np.uint8)
    mask[43:48, 53:58, 33:37] = 1
    write_nifti(folder / f"sub-1_space-{PREP}_label-L_mask.nii.gz", mask, PREP_GRID)
    write_shift(folder / XFM, SHIFT)
    # Where each voxel of 2009cAsym lies in 6Asym, by hand: the affines are 2 mm, 91 columns on.
    there = np.rint((PREP_GRID.affine[:3, 3] + SHIFT - FSL_GRID.affine[:3, 3]) / 2).astype(int)
    expected = np.zeros(PREP_GRID.shape, np.int16)
    expected[tuple(slice(c - t, c - t + n) for c, t, n in
                   zip(CORNER, there, block.shape, strict=True))] = block  # fmt: skip
    return folder, expected, mask > 0


def damage(output, *words, lesion=f"sub-1_space-{PREP}_label-L_mask.nii.gz"):
    return main(["run", "damage", lesion, output, *words])


def rows(output, pattern):
    text = next(output.rglob(pattern)).read_text()
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def sidecar(output):
    return json.loads(next(output.rglob("*_mask.json")).read_text())


def test_damage__labels_come_to_the_lesion_voxel_by_voxel(templates):
    folder, expected, mask = templates
    words = ("--atlas", f"tpl-{FSL}_atlas-Toy_dseg.nii.gz", "--transform", XFM)
    assert damage("out", *words) == 0
    found = {int(row["index"]): row for row in rows(folder / "out", "*seg-Toy_*stats.tsv")}
    assert found.keys() == {3, 7, 20}
    for label, row in found.items():
        assert float(row["volume_mm3"]) == 8 * (expected == label).sum()
        assert float(row["lesioned_mm3"]) == 8 * (expected[mask] == label).sum() > 0
    said = sidecar(folder / "out")["Lacuna"]["Atlases"][0]
    assert said["Space"] == PREP
    assert said["Transform"]["Interpolation"] == "nearest voxel"
    assert (said["Transform"]["From"], said["Transform"]["To"]) == (FSL, PREP)
    assert said["Transform"]["Grid"]["Shape"] == list(PREP_GRID.shape)
    assert not said["Transform"]["Inverted"]
    assert said["Transform"]["VoxelsOutside"] == 0
    assert said["Transform"]["VolumeBeforeMm3"] == said["Transform"]["VolumeAfterMm3"]


def test_damage__probabilities_come_to_the_lesion(templates):
    folder, expected, mask = templates
    words = ("--tract-atlas", f"tpl-{FSL}_atlas-Ways_probseg.nii.gz", "--transform", XFM)
    assert damage("out", *words) == 0
    first, second = rows(folder / "out", "*seg-Ways_*stats.tsv")
    assert float(first["volume_mm3"]) == 8 * (expected == 3).sum()
    assert float(first["lesioned_mm3"]) == 8 * (expected[mask] == 3).sum()
    assert float(second["max_probability"]) == pytest.approx(expected[mask].max() * 0.05)


def test_damage__what_was_moved_is_kept_by_content(templates, capsys):
    folder = templates[0]
    (folder / "other.h5").write_bytes((folder / XFM).read_bytes())
    about = ("--transform-from", FSL, "--transform-to", PREP)
    for words in (("--transform", XFM), ("--transform", "other.h5", *about)):
        assert damage("out", "--atlas", f"tpl-{FSL}_atlas-Toy_dseg.nii.gz", *words) == 0
    kept = [*(folder / "cache").rglob("resampled.json")]
    assert len(kept) == 1


def test_damage__without_a_transform_it_stops_and_says_what_to_do(templates, capsys):
    assert damage("out", "--atlas", f"tpl-{FSL}_atlas-Toy_dseg.nii.gz") == 1
    told = capsys.readouterr().err
    assert f"is in {PREP}" in told
    assert f"in {FSL}" in told
    assert f"give --transform FILE between {FSL} and {PREP}" in told


def test_damage__lesions_move_where_that_is_asked(templates):
    folder, expected, mask = templates
    words = ("--atlas", f"tpl-{FSL}_atlas-Toy_dseg.nii.gz", "--transform", XFM, "--move-lesions")
    assert damage("out", *words) == 0
    (row,) = rows(folder / "out", "*desc-summary_stats.tsv")
    assert row["space"] == FSL
    assert float(row["volume_mm3"]) == float(row["volume_before_mm3"]) == 8 * mask.sum()
    found = {int(row["index"]): row for row in rows(folder / "out", "*seg-Toy_*stats.tsv")}
    for label in found:
        assert float(found[label]["lesioned_mm3"]) == 8 * (expected[mask] == label).sum()
    path = next((folder / "out").rglob("*_mask.nii.gz"))
    assert f"space-{FSL}" in path.name
    written = nib.load(path)
    assert written.shape == FSL_GRID.shape
    assert np.unique(np.asarray(written.dataobj)).tolist() == [0, 1]
    said = sidecar(folder / "out")["Lesion"]["Transform"]
    assert (said["From"], said["To"], said["LesionedShare"]) == (PREP, FSL, 0.5)
    assert said["Inverted"]
    assert said["VolumeBeforeMm3"] == said["VolumeAfterMm3"] == 8 * mask.sum()


def test_damage__is_done_again_where_lesions_move_otherwise(templates, capsys):
    folder = templates[0]
    words = ("--atlas", f"tpl-{FSL}_atlas-Toy_dseg.nii.gz", "--transform", XFM, "--move-lesions")
    for expected in ("1 of 1 lesions done", "done", "1 of 1 lesions done"):
        assert damage("out", *words) == 0
        assert expected in capsys.readouterr().err
        if expected == "done":
            write_shift(folder / XFM, SHIFT + 2)
    (row,) = rows(folder / "out", "*desc-summary_stats.tsv")
    assert float(row["centre_x_mm"]) == -96.5 + 2 * 45 + SHIFT[0] + 2


def test_damage__a_lesion_that_is_said_to_be_elsewhere_is_done_again(templates, capsys):
    """The mask is the same, and so are the transforms; only what is said of its space is not."""
    folder = templates[0]
    path = folder / f"sub-1_space-{PREP}_label-L_mask.nii.gz"
    path.rename(folder / "mask.nii.gz")
    words = ("--atlas", f"tpl-{FSL}_atlas-Toy_dseg.nii.gz", "--transform", XFM, "--move-lesions")
    places = []
    for space in (PREP, FSL):
        assert damage("out", *words, "--space", space, lesion="mask.nii.gz") == 0
        (row,) = rows(folder / "out", "*desc-summary_stats.tsv")
        places.append(float(row["centre_x_mm"]))
        assert main(["status", "mask.nii.gz", "out"]) == 0
    assert f"stale: 1 (the lesion's space was {PREP}, is {FSL})" in capsys.readouterr().err
    assert places[0] != places[1]
    (folder / "mask.json").write_text(f'{{"Space": "{PREP}"}}')
    assert main(["status", "mask.nii.gz", "out"]) == 1
    assert f"the lesion's space was {FSL}, is {PREP}" in capsys.readouterr().out


def test_damage__lesions_that_move_and_stay_are_done_alike_by_tasks_of_their_own(templates, capsys):
    folder = templates[0]
    (folder / "both").mkdir()
    moves = folder / "both" / f"one_space-{PREP}.nii.gz"
    (folder / f"sub-1_space-{PREP}_label-L_mask.nii.gz").rename(moves)
    stays = np.zeros(FSL_GRID.shape, np.uint8)
    stays[CORNER] = 1
    write_nifti(folder / "both" / f"two_space-{FSL}.nii.gz", stays, FSL_GRID)
    words = ("--atlas", f"tpl-{FSL}_atlas-Toy_dseg.nii.gz", "--transform", XFM, "--move-lesions")
    for who in ("one", "two"):
        assert damage("out", *words, "--participant-label", who, lesion="both") == 0
    capsys.readouterr()
    assert damage("out", *words, lesion="both") == 0
    assert "done already: 2 of 2" in capsys.readouterr().err
    assert main(["status", "both", "out"]) == 0
    assert capsys.readouterr().out.startswith("done: 2")


def test_damage__a_changed_volume_is_warned_about_and_a_lost_lesion_is_an_error(
    templates, capsys, caplog
):
    folder = templates[0]
    write_shift(folder / XFM, SHIFT + 1)  # half a voxel
    words = ("--atlas", f"tpl-{FSL}_atlas-Toy_dseg.nii.gz", "--transform", XFM, "--move-lesions")
    with caplog.at_level(logging.WARNING):
        assert damage("out", *words) == 0
    (row,) = rows(folder / "out", "*desc-summary_stats.tsv")
    before, after = float(row["volume_before_mm3"]), float(row["volume_mm3"])
    assert before == 800
    assert abs(after / before - 1) > 0.1
    told = f"changes its volume by {after / before - 1:+.0%}, from 800 to {after:.0f} mm³"
    assert told in caplog.text
    assert any(told in warning for warning in sidecar(folder / "out")["Warnings"])
    mask = np.zeros(PREP_GRID.shape, np.uint8)
    mask[45, 55, 35] = 1
    write_nifti(folder / f"sub-2_space-{PREP}_label-L_mask.nii.gz", mask, PREP_GRID)
    assert damage("lost", *words, lesion=f"sub-2_space-{PREP}_label-L_mask.nii.gz") == 1
    assert "Leave out --move-lesions" in capsys.readouterr().err
    assert not [*(folder / "lost").rglob("sub-2*stats.tsv")]


def test_damage__labels_without_a_voxel_left_are_named(templates, caplog):
    folder = templates[0]
    labels = np.zeros(FSL_GRID.shape, np.int16)
    labels[45:48, 55:58, 35:38] = 2
    labels[0, 0, 0] = 9  # beyond what is left of the head after the shift
    write_nifti(folder / f"tpl-{FSL}_atlas-Edge_dseg.nii.gz", labels, FSL_GRID)
    write_shift(folder / XFM, SHIFT + 20)
    words = ("--atlas", f"tpl-{FSL}_atlas-Edge_dseg.nii.gz", "--transform", XFM)
    with caplog.at_level(logging.WARNING):
        assert damage("out", *words) == 0
    assert "1 of 2 labels have no voxel left in MNI152NLin2009cAsym" in caplog.text
    assert "9 (9)" in caplog.text
    assert len(rows(folder / "out", "*seg-Edge_*stats.tsv")) == 1


def test_transforms__of_the_configuration_are_used_and_those_that_fit_are_chosen(templates):
    folder = templates[0]
    (folder / "one.h5").write_bytes((folder / XFM).read_bytes())
    write_shift(folder / "two.h5", SHIFT + 40)
    (folder / "lacuna.yaml").write_text(
        f"transforms:\n  - {{file: two.h5, from: {FSL}, to: MNIColin27}}\n"
        f"  - {{file: one.h5, from: {FSL}, to: {PREP}}}\n"
    )
    assert damage("out", "--atlas", f"tpl-{FSL}_atlas-Toy_dseg.nii.gz") == 0
    assert sidecar(folder / "out")["Lacuna"]["Atlases"][0]["Transform"]["Name"] == "one.h5"


def test_transforms__are_paired_with_their_spaces_in_order(templates, capsys):
    folder = templates[0]
    (folder / "one.h5").write_bytes((folder / XFM).read_bytes())
    write_shift(folder / "two.h5", SHIFT + 40)
    common = ("--atlas", f"tpl-{FSL}_atlas-Toy_dseg.nii.gz", "--transform", "two.h5",
              "--transform", "one.h5", "--transform-from", FSL)  # fmt: skip
    assert damage("out", *common) == 2
    assert "--transform-from is given 1 times and --transform 2 times" in capsys.readouterr().err
    more = ("--transform-from", FSL, "--transform-to", "MNIColin27", "--transform-to", PREP)
    assert damage("out", *common, *more) == 0
    assert "two.h5 is not used" in capsys.readouterr().err
    assert sidecar(folder / "out")["Lacuna"]["Atlases"][0]["Transform"]["Name"] == "one.h5"


# One input stored otherwise: nothing that is written may change.


def outputs_of(root):
    """Return what a run wrote, by name: images with axes towards +x, +y, +z, all else as bytes."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.endswith(".nii.gz"):
            image = nib.as_closest_canonical(nib.load(path))
            found[name] = np.asarray(image.dataobj), np.round(image.affine, 4)
        elif path.suffix in (".tsv", ".tck", ".trx"):
            found[name] = path.read_bytes()
    return found


def bent_field(grid):
    voxels = np.moveaxis(np.indices(grid.shape), 0, -1).astype(float)
    weights = ([0.2, 0.1, 0], [0, 0.2, 0.1], [0.1, 0, 0.2])
    return np.stack([1.3 * np.sin(voxels @ weight) + 0.4 for weight in weights], axis=-1)


def write_inputs(folder, turned=None, code=0):
    """Write all inputs RAS, but the one that is named: stored LAS, LIA or PSR."""
    folder.mkdir()
    whole = coherent_tractogram(80, step_mm=6)
    points = (whole.words / 8).astype(np.float32)
    write_tck(folder / "space-A_t.tck", Streamlines(points, whole.firsts, whole.counts))
    random = np.random.default_rng(5)
    mask = np.zeros(GRID.shape, np.int32)
    mask[8:14, 6:13, 7:12] = random.random((6, 7, 5)) < 0.9
    arrays = {
        "lesion": mask,
        "atlas": np.repeat(random.integers(0, 9, (5, 5, 20)), 4, 0).repeat(4, 1).astype(np.int32),
        "ref": np.zeros(GRID.shape, np.int32),
    }
    names = {
        "lesion": "space-B_label-L_mask.nii.gz",
        "atlas": "space-A_atlas-Toy_dseg.nii.gz",
        "ref": "ref.nii.gz",
    }
    for what, array in arrays.items():
        grid = GRID
        if what == turned:
            array, grid = [*turned_copies(array, GRID)][code]
        write_nifti(folder / names[what], array, grid)
    ways = np.stack([np.clip(arrays["atlas"] * 0.11, 0, 1), arrays["atlas"] == 2], axis=-1)
    vectors, grids = bent_field(GRID), {"ways": GRID, "field": GRID}
    if turned == "atlas":
        copies = [
            [*turned_copies(np.rint(1000 * part), GRID)][code] for part in np.moveaxis(ways, -1, 0)
        ]
        ways, grids["ways"] = np.stack([part for part, _ in copies], axis=-1) / 1000, copies[0][1]
    if turned == "field":
        copies = [
            [*turned_copies(np.rint(1000 * part), GRID)][code]
            for part in np.moveaxis(vectors, -1, 0)
        ]
        vectors, grids["field"] = (
            np.stack([part for part, _ in copies], axis=-1) / 1000,
            copies[0][1],
        )
    else:
        vectors = np.rint(1000 * vectors) / 1000
    nib.save(
        nib.Nifti1Image(ways.astype(np.float32), grids["ways"].affine),
        folder / "space-A_atlas-Ways_probseg.nii.gz",
    )
    field = nib.Nifti1Image(vectors.astype(np.float32)[..., None, :], grids["field"].affine)
    field.header["intent_code"] = 1007
    nib.save(field, folder / "tpl-A_from-B_mode-image_xfm.nii.gz")


def run_all(folder, monkeypatch):
    """Run all analyses, moving everything else or the lesion; return what was written."""
    monkeypatch.chdir(folder)
    xfm = ("--transform", "tpl-A_from-B_mode-image_xfm.nii.gz")
    atlases = ("--atlas", "space-A_atlas-Toy_dseg.nii.gz",
               "--tract-atlas", "space-A_atlas-Ways_probseg.nii.gz", *xfm)  # fmt: skip
    snm = ("--tractogram", "space-A_t.tck", "--grid", "ref.nii.gz", "--min-tdi", "1",
           "--no-figures", "--save-streamlines", "tck")  # fmt: skip
    lesion = "space-B_label-L_mask.nii.gz"
    for name, more in (("all", ()), ("lesion", ("--move-lesions",))):
        assert main(["run", "snm", lesion, f"out/snm-{name}", *snm, *atlases, *more, "-q"]) == 0
        assert main(["run", "damage", lesion, f"out/damage-{name}", *atlases, *more, "-q"]) == 0
    return outputs_of(folder / "out")


@pytest.mark.parametrize("turned", ["lesion", "atlas", "ref", "field"])
@pytest.mark.parametrize("code", [0, 1])
def test_run__las_and_lia_copies_of_an_input_change_nothing_that_is_written(
    folder, monkeypatch, turned, code
):
    write_inputs(folder / "ras")
    write_inputs(folder / "turned", turned, code)
    expected = run_all(folder / "ras", monkeypatch)
    found = run_all(folder / "turned", monkeypatch)
    assert found.keys() == expected.keys()
    assert sum(name.endswith(".tsv") for name in found) > 20
    for name, content in expected.items():
        if isinstance(content, bytes):
            assert found[name] == content, name
        else:
            np.testing.assert_array_equal(found[name][0], content[0], err_msg=name)
            np.testing.assert_allclose(found[name][1], content[1], atol=1e-4)
    cuts = [content for name, content in found.items() if "desc-cuttdi_map" in name]
    assert all(array.any() for array, _ in cuts)
