"""``lacuna run snm``, from the command line to the files."""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.phantoms import parallel_tract, write_nifti, write_tck

from lacuna.bids.dataset import find_lesions
from lacuna.cli.main import build_parser, main
from lacuna.geometry.grid import Grid

GRID = Grid((20, 20, 1), np.eye(4))


@pytest.fixture
def tract(tmp_path):
    """Twenty straight streamlines along x at y = 0 … 19, in a space of their own."""
    path = tmp_path / "tract.tck"
    write_tck(path, parallel_tract(20)[0])
    path.with_suffix(".json").write_text('{"Space": "StudySpace"}')
    write_nifti(tmp_path / "grid.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
    return path


def write_mask(path, n_lesioned):
    """Lesion the streamlines with y < n_lesioned."""
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:10, :n_lesioned] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, mask, GRID)
    return path


@pytest.fixture
def masks(tmp_path):
    for name, n_lesioned in {"one": 5, "two": 8}.items():
        write_mask(tmp_path / "masks" / f"{name}_space-StudySpace.nii.gz", n_lesioned)
    return tmp_path / "masks"


def snm(*words, code=0, figures=False):
    """Run the command; on the phantom's own grid and with its own few streamlines."""
    options = ["--grid", "grid.nii.gz", "--min-tdi", "1", *([] if figures else ["--no-figures"])]
    assert main(["run", "snm", *map(str, words), *options]) == code


def rows(text):
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def n_cut(directory):
    tables = sorted(Path(directory).rglob("*desc-summary_stats.tsv"))
    return [rows(table.read_text())[0]["n_cut"] for table in tables]


def test_snm__a_folder_of_masks_becomes_a_derivative_dataset(tract, masks, capsys):
    snm(masks, "out", "--tractogram", tract)
    assert n_cut("out") == ["5", "8"]
    shown = capsys.readouterr()
    said = [(row["n_cut"], row["side"]) for row in rows(shown.out)]
    assert said == [("5", "right"), ("8", "right")]
    assert "lesion masks: 2" in shown.err
    assert "2 of 2 lesions done" in shown.err
    description = json.loads(Path("out/dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"


def test_snm__one_mask_is_an_input(tract, masks):
    snm(masks / "one_space-StudySpace.nii.gz", "out", "--tractogram", tract)
    assert n_cut("out") == ["5"]


def test_snm__a_bids_dataset_is_an_input_and_what_is_passed_over_is_listed(tract, tmp_path, capsys):
    stem = tmp_path / "bids/sub-01/ses-2/anat/sub-01_ses-2_space-StudySpace"
    write_mask(Path(f"{stem}_label-lesion_mask.nii.gz"), 3)
    write_mask(Path(f"{stem}_T1w.nii.gz"), 3)
    write_mask(tmp_path / "bids/sub-02/anat/sub-02_space-StudySpace_label-L_roi.nii.gz", 4)
    (tmp_path / "bids/dataset_description.json").write_text('{"Name": "x"}')
    snm("bids", "out", "participant", "--tractogram", tract)
    assert n_cut("out") == ["3", "4"]
    assert Path("out/sub-01/ses-2/dwi").is_dir()
    shown = capsys.readouterr().err
    assert "passed over, as its suffix is T1w, not mask or roi: 1" in shown
    snm("bids", "other", "--tractogram", tract, "--participant-label", "02")
    assert n_cut("other") == ["4"]


def test_snm__images_have_equal_sform_and_qform_and_the_report_grid(tract, masks):
    snm(masks, "out", "--tractogram", tract)
    for path in Path("out").rglob("*.nii.gz"):
        image = nib.load(path)
        assert np.array_equal(image.get_sform(), np.eye(4))
        assert np.array_equal(image.get_qform(), np.eye(4))
        assert image.header["sform_code"] == image.header["qform_code"] == 2
        assert image.shape == GRID.shape


def test_snm__one_failed_lesion_is_reported_and_the_exit_status_says_so(tract, masks, capsys):
    write_mask(masks / "nothing_space-StudySpace.nii.gz", 0)
    snm(masks, "out", "--tractogram", tract, code=1)
    assert n_cut("out") == ["5", "8"]
    shown = capsys.readouterr()
    assert "nothing_space-StudySpace.nii.gz" in shown.err
    assert "is empty" in shown.err
    assert "1 of 3 lesions failed" in shown.err
    assert len(rows(shown.out)) == 2


def test_snm__the_second_run_takes_the_index_from_the_cache(tract, masks, capsys):
    snm(masks, "out", "--tractogram", tract)
    assert "built, and kept in the cache" in capsys.readouterr().err
    tract.rename(tract.with_name("moved.tck"))
    snm(masks, "out2", "--tractogram", "moved.tck", "--tractogram-space", "StudySpace")
    assert "opened from the cache" in capsys.readouterr().err
    one, two = (
        {path.name: path.read_bytes() for path in Path(out).rglob("*.nii.gz")}
        for out in ("out", "out2")
    )
    assert one == two


def test_snm__sidecars_hold_the_command_and_the_cache_keys(tract, masks, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/lacuna", "run", "snm", "masks"])
    snm(masks, "out", "--tractogram", tract)
    for path in Path("out").rglob("*_disconnection_map.json"):
        said = json.loads(path.read_text())["Lacuna"]
        assert said["Command"] == ["lacuna", "run", "snm", "masks"]
        assert said["CacheKeys"].keys() == {"streamlines", "hits", "map"}
        assert said["Tractogram"]["Streamlines"] == 20


def test_snm__figures_are_made_unless_they_are_not_wanted(tract, masks):
    one = masks / "one_space-StudySpace.nii.gz"
    snm(one, "out", "--tractogram", tract, figures=True)
    (picture,) = Path("out").rglob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    snm(one, "bare", "--tractogram", tract)
    assert not list(Path("bare").rglob("*.png"))


def test_snm__a_template_of_another_space_is_refused_as_background(tract, masks, capsys):
    write_nifti(Path("tpl-MNIColin27_T1w.nii.gz").absolute(), np.ones(GRID.shape, "u1"), GRID)
    template = ["--template", "tpl-MNIColin27_T1w.nii.gz"]
    snm(masks, "out", "--tractogram", tract, *template, code=1)
    assert "anatomy and map would not match" in capsys.readouterr().err
    Path("tpl-MNIColin27_T1w.nii.gz").rename("tpl-StudySpace_T1w.nii.gz")
    one = masks / "one_space-StudySpace.nii.gz"
    template = ["--template", "tpl-StudySpace_T1w.nii.gz"]
    snm(one, "out", "--tractogram", tract, *template, figures=True)


@pytest.mark.parametrize("kind", ["tck", "trx"])
def test_snm__cut_streamlines_are_written_on_request(tract, masks, kind):
    snm(masks, "out", "--tractogram", tract, "--save-streamlines", kind)
    assert len(list(Path("out").rglob(f"*desc-cut_tractography.{kind}"))) == 2


def test_snm__a_dry_run_tells_the_plan_and_writes_nothing(tract, masks, capsys):
    snm(masks, "out", "--tractogram", tract, "--dry-run")
    shown = capsys.readouterr()
    assert "one_space-StudySpace.nii.gz → sub-one/dwi/" in shown.err
    assert shown.out == ""
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("second", "differs"),
    [
        (["--rule", "vertex"], "Rule"),
        (["--grid", "2"], "ReportGrid"),
        (["--min-tdi", "2"], "MinTDI"),
    ],
)
def test_snm__results_of_another_kind_in_the_output_folder_are_refused_before_work(
    tract, masks, capsys, second, differs
):
    snm(masks, "out", "--tractogram", tract)
    words = ["--grid", "grid.nii.gz", "--min-tdi", "1", *second]
    assert main(["run", "snm", str(masks), "out", "--tractogram", str(tract), *words]) == 1
    shown = capsys.readouterr().err
    assert differs in shown
    assert "give another OUTPUT_DIR" in shown


def test_snm__another_tractogram_in_the_output_folder_is_refused(tract, masks, capsys):
    snm(masks, "out", "--tractogram", tract)
    write_tck(tract, parallel_tract(19)[0])
    snm(masks, "out", "--tractogram", tract, code=1)
    assert "Tractogram" in capsys.readouterr().err


def test_snm__rule_mrtrix_records_into_how_many_pieces_each_step_was_divided(tract, masks):
    words = ["--tractogram", tract, "--rule", "mrtrix", "--upsample", "3"]
    for _ in range(2):  # the second run finds results of its own kind
        snm(masks, "out", *words)
    (sidecar,) = Path("out").rglob("sub-one_*desc-tdi_map.json")
    said = json.loads(sidecar.read_text())["Lacuna"]
    assert (said["Rule"], said["PiecesPerStep"]) == ("mrtrix", 3)


def test_snm__no_tractogram_is_a_usage_error_with_the_way_out(masks, capsys):
    snm(masks, "out", code=2)
    assert "give --tractogram FILE" in capsys.readouterr().err


def test_snm__tractogram_and_spaces_may_come_from_the_configuration_file(tract, tmp_path):
    tract.with_suffix(".json").unlink()
    write_mask(tmp_path / "one.nii.gz", 5)
    text = f"tractogram: {tract.name}\ntractogram_space: StudySpace\nspace: StudySpace\n"
    Path("lab.yaml").write_text(text)
    snm("one.nii.gz", "out", "--config", "lab.yaml")
    (sidecar,) = Path("out").rglob("*desc-tdi_map.json")
    said = json.loads(sidecar.read_text())
    assert said["Lesion"]["SpaceStatedBy"] == "space in lab.yaml, line 3"


def test_snm__an_unstated_space_is_refused_with_the_option_to_give(tract, tmp_path, capsys):
    tract.with_suffix(".json").unlink()
    mask = write_mask(tmp_path / "one.nii.gz", 5)
    snm(mask, "out", "--tractogram", tract, "--space", "StudySpace", code=1)
    assert "--tractogram-space" in capsys.readouterr().err
    snm(mask, "out", "--tractogram", tract, "--tractogram-space", "StudySpace", code=1)
    assert "Give --space" in capsys.readouterr().err


def test_snm__different_spaces_are_refused_before_anything_is_built(tract, masks, capsys):
    words = ["--tractogram", "missing.tck", "--tractogram-space", "MNI152NLin6Asym"]
    snm(masks, "out", *words, "--cache-dir", "kept", code=1)
    assert "None of the 2 lesions can be used" in capsys.readouterr().err
    assert not Path("out").exists()
    assert not Path("kept/tdi").exists()


def test_snm__a_missing_tractogram_is_said(tract, masks, capsys):
    words = ["--tractogram", "missing.tck", "--tractogram-space", "StudySpace"]
    snm(masks, "out", *words, code=1)
    assert "missing.tck" in capsys.readouterr().err


def test_snm__another_templates_grid_is_a_warning_and_with_strict_an_error(tract, tmp_path, capsys):
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = [-90, -126, -72]
    mask = np.zeros((91, 109, 91), np.uint8)
    mask[46:52, 60:70, 36] = 1
    write_nifti(tmp_path / "one.nii.gz", mask, Grid(mask.shape, affine))
    snm("one.nii.gz", "out", "--tractogram", tract, "--space", "StudySpace")
    assert "its grid is exactly that of MNI152NLin6Asym" in capsys.readouterr().err
    snm("one.nii.gz", "strict", "--tractogram", tract, "--space", "StudySpace", "--strict", code=1)
    assert "1 of 1 lesions failed" in capsys.readouterr().err


def test_snm__a_weight_per_streamline_is_read(tract, masks, capsys):
    Path("weights.txt").write_text(" ".join(["0.5"] * 20))
    snm(masks, "out", "--tractogram", tract, "--weights", "weights.txt")
    (table,) = Path("out").rglob("sub-one_*summary_stats.tsv")
    assert rows(table.read_text())[0]["weight_cut"] == "2.5"
    Path("weights.txt").write_text("1 2 3")
    snm(masks, "out2", "--tractogram", tract, "--weights", "weights.txt", code=2)
    assert "3 weights do not fit 20 streamlines" in capsys.readouterr().err
    Path("weights.txt").write_text("heavy")
    snm(masks, "out2", "--tractogram", tract, "--weights", "weights.txt", code=2)


@pytest.mark.parametrize("grid", ["3", "1.5"])
def test_snm__a_number_is_a_voxel_size_over_the_tractogram(tract, masks, grid):
    words = ["--tractogram", str(tract), "--no-figures", "--grid", grid]
    assert main(["run", "snm", str(masks), "out", *words]) == 0
    (path,) = Path("out").rglob("sub-one_*desc-tdi_map.nii.gz")
    image = nib.load(path)
    assert image.header.get_zooms() == (float(grid),) * 3
    assert np.asarray(image.dataobj).any()


def test_snm__a_grid_that_is_neither_image_nor_number_is_a_usage_error(tract, masks, capsys):
    for grid in ("fine", "0"):
        words = ["--tractogram", str(tract), "--grid", grid]
        assert main(["run", "snm", str(masks), "out", *words]) == 2
        assert f"--grid {grid}" in capsys.readouterr().err


def test_help__has_an_example_that_the_parser_takes(capsys):
    with pytest.raises(SystemExit):
        main(["run", "snm", "--help"])
    text = capsys.readouterr().out.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("lacuna ")]
    assert len(lines) == 2
    for line in lines:
        build_parser().parse_args(shlex.split(line)[1:])


def test_parser__importing_the_command_loads_nothing_heavy():
    code = "import sys, lacuna.cli.run; sys.exit(bool({'numpy', 'nibabel'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.faults
def test_snm__works_and_leaves_nothing_where_every_usual_temp_directory_is_read_only(
    tract, masks, tmp_path, require_tool
):
    """All of the run's files are reached through /mnt; figures included."""
    require_tool("unshare")
    command = [
        str(Path(sys.executable).with_name("lacuna")),
        "run",
        "snm",
        "masks",
        "out",
        "--debug",
    ]
    command += ["--tractogram", tract.name, "--grid", "grid.nii.gz", "--min-tdi", "1"]
    command += ["--cache-dir", "/mnt/kept", "--tmp-dir", "/mnt/scratch"]
    checkout = shlex.quote(str(Path(__file__).resolve().parents[2]))
    script = f"""
        set -e
        mount --bind {shlex.quote(str(tmp_path))} /mnt
        mount --bind {checkout} /media
        for place in /tmp /var/tmp /dev/shm; do mount -t tmpfs none $place; done
        # A checkout below one of them must stay where its programs expect it.
        mkdir -p {checkout} && mount --bind /media {checkout}
        for place in /tmp /var/tmp /dev/shm; do mount -o remount,ro $place; done
        cd /mnt
        ! touch /tmp/probe 2> /dev/null
        exec {shlex.join(command)}
    """
    # Without the compiler: the phantom is small, and a new cache would compile for long.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("TMPDIR", "TEMP", "TMP", "NUMBA_CACHE_DIR")
    } | {"NUMBA_DISABLE_JIT": "1", "HOME": "/nonexistent", "XDG_CACHE_HOME": ""}
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert n_cut("out") == ["5", "8"]
    assert len(list(Path("out").rglob("*.png"))) == 2
    left = [path for path in Path("scratch").rglob("*") if path.is_file()]
    assert left == []
    assert not [path for path in Path("out").rglob("*") if path.name.endswith(".part")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["grid.nii.gz", "kept", "masks", "out", "scratch", "tract.json", "tract.tck"]
    )


REAL = [("soop", "IXI549Space", 40), ("lesymap", "MNIColin27", 131)]


def link_lesions(shared_data, folder, directory, n):
    """Fill a folder with n lesions from all over a data set; its atlases stay outside."""
    found = find_lesions(shared_data / "lesions" / folder).found
    paths = [lesion.path for lesion in found if "_lesion" in lesion.path.name or folder != "soop"]
    paths = [path for path in paths if "Parcellation" not in path.name]
    directory.mkdir()
    for path in paths[:: max(1, len(paths) // n)][:n]:
        (directory / path.name).symlink_to(path)
    return directory


@pytest.mark.data
@pytest.mark.parametrize(("folder", "space", "n"), REAL)
def test_snm__real_lesions_of_another_space_are_refused_with_the_way_out(
    shared_data, tmp_path, capsys, folder, space, n
):
    tractogram = shared_data / "tractograms" / "hcp842_small1000.trx"
    words = ["--tractogram", str(tractogram), "--tractogram-space", "MNI152NLin6Asym"]
    lesions = link_lesions(shared_data, folder, tmp_path / "lesions", n)
    assert main(["run", "snm", str(lesions), "out", *words, "--space", space]) == 1
    shown = capsys.readouterr().err
    assert f"None of the {n} lesions can be used" in shown
    assert f"is in {space} (--space)" in shown
    assert "Bring the mask into MNI152NLin6Asym" in shown
    assert not Path("out").exists()


@pytest.mark.data
@pytest.mark.parametrize(("folder", "space", "n"), REAL)
@pytest.mark.parametrize("share", [6, pytest.param(1000, marks=pytest.mark.stress)])
def test_snm__real_lesions_run_through_with_the_space_stated_as_the_tractograms(
    shared_data, tmp_path, capsys, folder, space, n, share
):
    n = min(n, share)
    lesions = link_lesions(shared_data, folder, tmp_path / "lesions", n)
    tractogram = shared_data / "tractograms" / "hcp842_small1000.trx"
    words = ["--tractogram", str(tractogram), "--tractogram-space", space, "--space", space]
    assert main(["run", "snm", str(lesions), "out", *words, "--no-figures"]) == 0
    done = rows(capsys.readouterr().out)
    assert len(done) == n
    assert sum(int(row["n_cut"]) > 0 for row in done) > 0.5 * n
    if folder == "lesymap":
        assert {row["side"] for row in done} <= {"left", "bilateral"}
