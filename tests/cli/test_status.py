"""Runs that go on where earlier ones ended, and ``lacuna status``, which tells how far they are."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.phantoms import parallel_tract, write_nifti, write_tck

from lacuna.bids.ledger import read_ledger
from lacuna.cli.main import main
from lacuna.cli.status import compress
from lacuna.geometry.grid import Grid

GRID = Grid((20, 20, 1), np.eye(4))


@pytest.fixture
def tract(tmp_path):
    path = tmp_path / "tract.tck"
    write_tck(path, parallel_tract(20)[0])
    path.with_suffix(".json").write_text('{"Space": "StudySpace"}')
    write_nifti(tmp_path / "grid.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
    return path


@pytest.fixture
def atlases(tmp_path):
    for name, share in (("Halves", 10), ("Fifths", 4)):
        labels = np.tile(1 + np.arange(20)[:, None, None] // share, (1, 20, 1)).astype(np.int16)
        write_nifti(tmp_path / f"atlas-{name}_space-StudySpace_dseg.nii.gz", labels, GRID)
        rows = "".join(f"{number}\tp{number}\n" for number in np.unique(labels))
        table = tmp_path / f"atlas-{name}_space-StudySpace_dseg.tsv"
        table.write_text(f"index\tname\n{rows}")
    return [f"--atlas=atlas-{name}_space-StudySpace_dseg.nii.gz" for name in ("Halves", "Fifths")]


def write_mask(subject, n_lesioned):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:10, :n_lesioned] = 1
    name = f"sub-{subject}_space-StudySpace_label-lesion_mask.nii.gz"
    path = Path("bids", f"sub-{subject}", "anat", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, mask, GRID)
    return path


@pytest.fixture
def bids(tract):
    for number in range(4):
        write_mask(f"0{number}", number + 3)
    Path("bids/dataset_description.json").write_text('{"Name": "x"}')


def snm(*words, code=0):
    fixed = ["--tractogram", "tract.tck", "--grid", "grid.nii.gz", "--min-tdi", "1"]
    fixed += [] if "--template" in words else ["--no-figures"]
    assert main(["run", "snm", "bids", "out", *map(str, words), *fixed]) == code


def status(capsys, *words, code=1, source="bids"):
    capsys.readouterr()
    assert main(["status", source, "out", "--json", *words]) == code
    return json.loads(capsys.readouterr().out)


def states(told):
    return [(each["state"], each["why"]) for each in told["lesions"]]


def stamps():
    """Return when each result was written."""
    found = Path("out").rglob("sub-*/dwi/*")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def of(subject, found):
    return {name: value for name, value in found.items() if name.startswith(f"sub-{subject}_")}


def files():
    return {path.name for path in Path("out").rglob("*") if path.is_file()}


def test_run__the_second_run_does_nothing_and_prints_the_same_table(bids, capsys):
    snm()
    first, before = capsys.readouterr(), stamps()
    snm()
    second = capsys.readouterr()
    assert stamps() == before
    assert second.out == first.out
    assert len(list(csv.DictReader(second.out.splitlines(), delimiter="\t"))) == 4
    assert "done already: 4 of 4" in second.err
    assert "index of" not in second.err


def test_run__only_a_lesion_that_changed_is_done_again(bids, capsys):
    snm()
    first, before = capsys.readouterr().out.splitlines(), stamps()
    write_mask("02", 9)
    snm()
    shown, after = capsys.readouterr(), stamps()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == of("02", before).keys()
    assert "done already: 3 of 4; stale: 1 (the lesion mask changed)" in shown.err
    lines = shown.out.splitlines()
    assert [old == new for old, new in zip(first, lines, strict=True)] == [True] * 3 + [False, True]


def test_run__overwrite_does_all_again(bids, capsys):
    snm()
    before = stamps()
    snm("--overwrite")
    assert "stale: 4 (--overwrite)" in capsys.readouterr().err
    assert not set(before.items()) & set(stamps().items())


def test_run__a_dry_run_says_of_each_lesion_how_far_it_is_and_changes_nothing(bids, capsys):
    snm()
    write_mask("02", 9)
    before = stamps()
    capsys.readouterr()
    snm("--dry-run")
    shown = capsys.readouterr().err
    assert shown.count("(done already)") == 3
    assert "(stale: the lesion mask changed)" in shown
    assert stamps() == before


def test_run__an_atlas_more_or_less_makes_all_stale_and_leaves_no_orphan(bids, atlases, capsys):
    halves, fifths = atlases
    snm(halves)
    of_halves, description = files(), Path("out/dataset_description.json").read_text()
    capsys.readouterr()
    snm(halves, fifths)
    assert "stale: 4 (atlas Fifths was added)" in capsys.readouterr().err
    assert any("seg-Fifths" in name for name in files())
    snm(halves)
    assert "stale: 4 (atlas Fifths was left out)" in capsys.readouterr().err
    assert files() == of_halves
    assert Path("out/dataset_description.json").read_text() == description
    assert "Halves" not in description


def test_run__another_atlas_of_one_name_makes_stale(bids, atlases, capsys):
    snm(atlases[0])
    table = Path("atlas-Halves_space-StudySpace_dseg.tsv")
    table.write_text("index\tname\n1\tleft\n2\tright\n")
    capsys.readouterr()
    snm(atlases[0])
    assert "stale: 4 (atlas Halves changed)" in capsys.readouterr().err
    (written, *_) = Path("out").rglob("*seg-Halves*desc-parcels_stats.tsv")
    assert "left" in written.read_text()


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (["--save-streamlines", "tck"], [], "--save-streamlines was tck, is not given"),
        ([], ["--save-streamlines", "trx"], "--save-streamlines was not given, is trx"),
        ([], ["--strict"], "Strict was no, is yes"),
        (["--min-edge", "0"], ["--min-edge", "1"], "--min-edge was 0.0, is 1.0"),
    ],
)
def test_run__other_options_make_stale_and_leave_what_a_new_folder_would_hold(
    bids, atlases, capsys, first, second, why
):
    snm(*first, atlases[0])
    capsys.readouterr()
    snm(*second, atlases[0])
    assert f"stale: 4 ({why})" in capsys.readouterr().err
    ours = files()
    shutil.rmtree("out")
    snm(*second, atlases[0])
    assert files() == ours


def test_run__figures_and_their_template_make_stale(bids, capsys):
    write_nifti(Path("tpl-StudySpace_T1w.nii.gz").absolute(), np.ones(GRID.shape, "u1"), GRID)
    words = ["--participant-label", "01", "--template", "tpl-StudySpace_T1w.nii.gz"]
    snm("--participant-label", "01")
    snm(*words)
    assert "Figures was no, is yes; the template tpl-StudySpace" in capsys.readouterr().err
    write_nifti(Path("tpl-StudySpace_T1w.nii.gz").absolute(), np.eye(20)[..., None], GRID)
    snm(*words)
    assert "the template tpl-StudySpace_T1w.nii.gz changed" in capsys.readouterr().err
    snm("--participant-label", "01")
    assert not list(Path("out").rglob("*.png"))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: path.unlink(), "is gone"),
        (lambda path: path.write_bytes(b"half"), "has another size"),
    ],
)
def test_run__a_result_that_is_gone_or_cut_short_is_made_again(bids, capsys, harm, why):
    snm()
    (path,) = Path("out").rglob("sub-01_*desc-tdi_map.nii.gz")
    before = path.read_bytes()
    harm(path)
    assert states(status(capsys))[1] == ("stale", f"{path.name} {why}")
    snm()
    assert path.read_bytes() == before
    status(capsys, code=0)


def test_run__a_result_of_another_version_is_stale(bids, capsys):
    snm()
    (record,) = Path("out/logs").glob("sub-01*.json")
    content = json.loads(record.read_text()) | {"version": "0.0.0"}
    record.write_text(json.dumps(content))
    (state, why) = states(status(capsys))[1]
    assert state == "stale"
    assert why.startswith("made by version 0.0.0, this is ")


def test_run__a_failed_lesion_is_tried_again_and_its_old_results_are_gone(bids, capsys):
    snm()
    write_mask("01", 0)
    snm(code=1)
    shown = capsys.readouterr().err
    assert not of("01", stamps())
    (_, why) = states(status(capsys))[1]
    assert "is empty" in why
    assert f"lacuna: error: sub-01_space-StudySpace_label-lesion_mask.nii.gz: {why}" in shown
    write_mask("01", 2)
    snm()
    status(capsys, code=0)


def test_run__a_refused_lesion_is_failed_with_its_reason(bids, capsys):
    path = write_mask("03", 3)
    path.rename(path.with_name("sub-03_space-MNIColin27_label-lesion_mask.nii.gz"))
    snm(code=1)
    told = status(capsys)
    assert told["counts"] == {"done": 3, "failed": 1, "stale": 0, "missing": 0}
    assert "is in MNIColin27" in states(told)[3][1]


def test_run__damage_goes_on_too_with_an_atlas_more(bids, atlases, capsys):
    words = ["run", "damage", "bids", "out"]
    assert main([*words, atlases[0]]) == 0
    before = stamps()
    assert main([*words, atlases[0]]) == 0
    assert stamps() == before
    assert "done already: 4 of 4" in capsys.readouterr().err
    assert main([*words, *atlases]) == 0
    assert "stale: 4 (atlas Fifths was added)" in capsys.readouterr().err
    status(capsys, code=0)


def test_run__side_in_participants_tsv_counts_for_that_lesion_alone(bids, capsys):
    snm()
    Path("bids/participants.tsv").write_text("participant_id\tlesion_side\nsub-01\tleft\n")
    snm()
    shown = capsys.readouterr().err
    assert "stale: 1 (lesion_side in participants.tsv was not given, is left)" in shown


def test_run__what_nobody_recorded_stays(bids):
    snm()
    mine = Path("out/sub-01/dwi/mine.txt")
    mine.write_text("x")
    snm("--overwrite")
    assert mine.exists()


def test_status__lists_what_is_left_and_numbers_it_as_the_array_does(bids, capsys):
    assert main(["status", "bids", "out"]) == 1
    assert capsys.readouterr().out.endswith("--array=0-3\n")
    snm("--participant-label", "01")
    told = status(capsys)
    assert told["array"] == "0,2-3"
    assert [each["task"] for each in told["lesions"]] == [0, 1, 2, 3]
    assert told["counts"] == {"done": 1, "failed": 0, "stale": 0, "missing": 3}
    # The number is that of the folder, also where some hold no lesion, or were not asked for.
    Path("bids/sub-00x/anat").mkdir(parents=True)
    assert status(capsys, "--participant-label", "02", "03")["array"] == "3-4"
    snm()
    capsys.readouterr()
    assert main(["status", "bids", "out"]) == 0
    shown = capsys.readouterr().out
    assert shown == "done: 4\nfailed: 0\nstale: 0\nmissing: 0\n"
    assert main(["status", "bids", "out", "-v"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("done: 4\n  sub-00/anat/sub-00_space-")
    assert "--array" not in shown


def test_status__of_a_folder_of_masks_each_mask_is_a_task(tract, capsys):
    for number in range(3):
        Path("masks").mkdir(exist_ok=True)
        write_mask("x", 4).rename(f"masks/m{number}_space-StudySpace.nii.gz")
    shutil.rmtree("bids")
    words = ["--tractogram", "tract.tck", "--grid", "grid.nii.gz", "--no-figures"]
    one = "masks/m1_space-StudySpace.nii.gz"
    assert main(["run", "snm", one, "out", *words]) == 0
    assert status(capsys, source="masks")["array"] == "0,2"


def test_status__says_what_was_begun_and_not_ended(bids, capsys):
    snm()
    (record,) = Path("out/logs").glob("sub-02*.json")
    record.rename(record.with_suffix(".begun"))
    assert states(status(capsys))[2] == ("missing", "it was begun, and not ended")


def test_status__compares_all_with_the_options_of_the_last_run(bids, atlases, capsys):
    snm(atlases[0])
    snm(*atlases, "--participant-label", "00", "03")
    told = status(capsys)
    why = "atlas Fifths was added"
    assert states(told) == [("done", ""), ("stale", why), ("stale", why), ("done", "")]
    assert told["array"] == "1-2"


def test_status__sees_another_tractogram_and_misses_none_that_is_gone(bids, tract, capsys):
    snm()
    tract.rename("elsewhere.tck")
    status(capsys, code=0)
    write_tck(tract, parallel_tract(19)[0])
    why = "tract.tck changed, so that results need another OUTPUT_DIR"
    assert states(status(capsys)) == [("stale", why)] * 4


def test_status__a_damaged_record_is_missing(bids, capsys):
    snm()
    (record,) = Path("out/logs").glob("sub-02*.json")
    record.write_bytes(record.read_bytes()[:-20])
    assert states(status(capsys))[2] == ("missing", "its record cannot be read")
    assert len(read_ledger(Path("out"))) == 3
    snm()
    status(capsys, code=0)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([9, 3, 8, 7], "3,7-9"), ([0, 1], "0-1"), ([2, 0, 4], "0,2,4")],
)
def test_compress__runs_are_joined(numbers, text):
    assert compress(numbers) == text


def test_status__looks_at_the_sessions_and_masks_that_a_run_would_take(bids, capsys):
    snm()
    told = {"lesion": {"subject": ["01", "02"]}}
    Path("filter.json").write_text(json.dumps(told))
    chosen = status(capsys, "--bids-filter-file", "filter.json", code=0)
    assert [Path(each["lesion"]).name[:6] for each in chosen["lesions"]] == ["sub-01", "sub-02"]
    capsys.readouterr()
    assert main(["status", "bids", "out", "--session-label", "x"]) != 0
    assert "session x" in capsys.readouterr().err


def test_run__labels_add_up_when_the_option_is_given_twice(bids):
    snm("--participant-label", "01", "--participant_label", "sub-02")
    assert {path.name for path in Path("out").glob("sub-*.html")} == {"sub-01.html", "sub-02.html"}


def test_status__page_that_is_gone_is_not_done(bids, capsys):
    snm()
    Path("out/sub-01.html").unlink()
    capsys.readouterr()
    assert main(["status", "bids", "out"]) == 1
    shown = capsys.readouterr().out
    assert "sub-01.html is gone" in shown
    assert shown.endswith("--array=1\n")
    snm()
    assert main(["status", "bids", "out"]) == 0


def test_status__page_that_was_cut_off_is_made_again(bids, capsys):
    snm()
    page = Path("out/sub-01.html")
    whole = page.read_bytes()
    page.write_bytes(whole[:-1000])
    capsys.readouterr()
    assert main(["status", "bids", "out"]) == 1
    assert "sub-01.html is gone, or does not show all" in capsys.readouterr().out
    snm()
    assert page.read_bytes() == whole


def test_run__another_mask_with_the_same_output_name_is_refused(bids, capsys):
    options = ["--tractogram", "tract.tck", "--grid", "grid.nii.gz", "--min-tdi", "1"]
    options += ["--no-report", "--no-figures", "--space", "StudySpace"]
    source = next(Path("bids").rglob("*_mask.nii.gz"))
    for name in ("my_lesion.nii.gz", "my-lesion.nii.gz"):
        Path(name).write_bytes(source.read_bytes())
    assert main(["run", "snm", "my_lesion.nii.gz", "flat", *options]) == 0
    before = {path: path.read_bytes() for path in Path("flat").rglob("*") if path.is_file()}
    assert main(["run", "snm", "my-lesion.nii.gz", "flat", *options]) == 1
    assert "would have the names of those of" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in before}
    Path("my_lesion.nii.gz").unlink()  # renamed: one mask
    assert main(["run", "snm", "my-lesion.nii.gz", "flat", *options]) == 0
