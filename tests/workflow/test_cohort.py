"""Which lesions are taken together, by records and tables that are written here by hand."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from tests.phantoms import write_nifti

from lacuna.bids.dataset import find_lesions
from lacuna.bids.ledger import LedgerEntry
from lacuna.errors import DatasetError
from lacuna.geometry.grid import Grid
from lacuna.workflow.cohort import plan_group
from lacuna.workflow.group import write_group

GRID = Grid((4, 4, 4), np.eye(4))
STEM = "sub-{}_space-Study"


def content_of(path):
    return f"content {path.stat().st_size}"


@pytest.fixture(autouse=True)
def results(tmp_path):
    """Results of `run damage` for three plain masks: a, b, c."""
    parameters = {"Analysis": "damage", "Space": "Study"}
    generated = [{"Name": "Lacuna", "Parameters": parameters}]
    Path("masks").mkdir()
    Path("out/logs").mkdir(parents=True)
    description = {"Name": "x", "GeneratedBy": generated}
    Path("out/dataset_description.json").write_text(json.dumps(description))
    for number, name in enumerate("abc"):
        mask = np.zeros(GRID.shape, np.uint8)
        mask[: number + 1, 0, 0] = 1
        write_nifti(Path(f"masks/{name}_space-Study.nii.gz"), mask, GRID)
        stem = Path(f"out/sub-{name}/dwi") / STEM.format(name)
        stem.parent.mkdir(parents=True)
        Path(f"{stem}_desc-summary_stats.tsv").write_text(f"volume_mm3\n{number + 1}\n")
        Path(f"{stem}_desc-summary_stats.json").write_text('{"volume_mm3": {"Description": "v"}}')
        shutil.copy(f"masks/{name}_space-Study.nii.gz", f"{stem}_label-lesion_mask.nii.gz")
        Path(f"{stem}_label-lesion_mask.json").write_text('{"Lacuna": {}}')


def outputs_of(name):
    path = f"sub-{name}/dwi/{STEM.format(name)}_desc-summary_stats.tsv"
    return {path: Path("out", path).stat().st_size}


def record(name, ended="2026-01-01", **changes):
    mask = Path(f"masks/{name}_space-Study.nii.gz").absolute()
    entry = {
        "stem": STEM.format(name),
        "lesion": str(mask),
        "fingerprint": content_of(mask),
        "parameters": {"Atlases": {"A": "1"}},
        "inputs": {"/gone/tractogram.tck": "2"},
        "version": "0.0.1",
        "space": "Study",
        "resolution": "",
        "is_done": True,
        "outputs": outputs_of(name),
        "ended": ended,
    }
    entry |= changes
    entry["parameters"] = {"LesionSpace": "Study", **entry["parameters"]}
    content = asdict(LedgerEntry(**entry))
    Path(f"out/logs/{STEM.format(name)}.json").write_text(json.dumps(content))


def plan(labels=None):
    listing = find_lesions("masks", labels)
    return plan_group(listing, Path("out"), analysis="damage", fingerprint=content_of)


def blank(**_):
    return "a page"


def taken(found):
    return [lesion.outputs.lesion.participant for lesion in found.lesions]


def test_plan_group__results_of_an_earlier_version_belong_together():
    for name in "abc":
        record(name)
    assert (taken(plan()), plan().left_out) == (["a", "b", "c"], {})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_done": False, "reason": "no room"}, "failed: no room"),
        ({"parameters": {"Atlases": {"A": "9"}}}, "stale: atlas A changed"),
        ({"fingerprint": "another"}, "stale: the lesion mask changed"),
        ({"version": "0.0.2"}, "stale: made by version 0.0.2"),
        ({"outputs": {"sub-b/dwi/gone.tsv": 3}}, "stale: gone.tsv is gone"),
    ],
)
def test_plan_group__what_is_not_done_like_the_newest_is_left_out_and_why(changes, reason):
    record("a", ended="2026-01-03")
    record("b", **changes)
    record("c")
    found = plan()
    assert taken(found) == ["a", "c"]
    ((name, said),) = found.left_out.items()
    assert name == "b_space-Study.nii.gz"
    assert said.startswith(reason)


def test_plan_group__a_lesion_that_was_begun_and_not_ended_is_missing():
    for name in "abc":
        record(name)
    Path("out/logs/sub-c_space-Study.begun").touch()
    found = plan()
    assert taken(found) == ["a", "b"]
    assert found.left_out["c_space-Study.nii.gz"].startswith("missing")


def test_plan_group__what_no_record_names_is_missing():
    with pytest.raises(DatasetError, match="None of the 3 lesions"):
        plan()
    record("a")
    assert (taken(plan()), len(plan().left_out)) == (["a"], 2)


def test_plan_group__what_decides_no_number_may_differ():
    record("a", parameters={"Figures": True, "Report": False, "SaveStreamlines": "tck"})
    record("b", parameters={"Strict": True, "Template": {"x.nii": "1"}}, ended="2026-01-04")
    record("c", parameters={"MinEdge": 2})
    found = plan()
    assert taken(found) == ["a", "b"]
    assert found.left_out["c_space-Study.nii.gz"] == "stale: --min-edge was 2, is not given"


def test_plan_group__lesions_with_other_tables_than_most_are_left_out():
    for name in "abc":
        record(name)
    name = "sub-b/dwi/sub-b_space-Study_seg-A_desc-damage_stats.tsv"
    Path(f"out/{name}").write_text("name\nx\n")
    record("b", outputs={**outputs_of("b"), name: 7})
    found = plan()
    assert taken(found) == ["a", "c"]
    assert "group_seg-A_desc-damage_stats.tsv" in found.left_out["b_space-Study.nii.gz"]


def test_plan_group__masks_that_were_not_asked_for_are_no_strays():
    for name in "abc":
        record(name)
    assert plan(["b"]).left_out == {}
    Path("masks/c_space-Study.nii.gz").unlink()
    assert plan(["b"]).left_out == {}
    assert list(plan().left_out) == ["sub-c_space-Study"]


def test_plan_group__a_lesion_that_failed_and_is_no_longer_there_left_nothing():
    for name in "abc":
        record(name)
    record("c", is_done=False, outputs={}, reason="It is empty.")
    Path("masks/c_space-Study.nii.gz").unlink()
    assert plan().left_out == {}


def test_plan_group__results_of_another_analysis_are_an_error():
    record("a")
    with pytest.raises(DatasetError, match="holds results of `run damage`"):
        plan_group(find_lesions("masks"), Path("out"), analysis="snm", fingerprint=content_of)


def test_write_group__nothing_is_replaced_if_results_change_while_they_are_read():
    for name in "abc":
        record(name)
    write_group(plan(), ["x"], blank)
    before = {path.name: path.read_bytes() for path in Path("out").glob("group*")}
    assert before.keys() > {"group.html", "group_desc-summary_stats.tsv"}
    late = plan()
    record("b", ended="2026-01-02")
    with pytest.raises(DatasetError, match="changed while they were read"):
        write_group(late, ["y"], blank)
    assert {path.name: path.read_bytes() for path in Path("out").glob("group*")} == before
    assert not list(Path("out").glob(".*part"))


def test_write_group__a_table_with_other_columns_is_an_error_and_changes_nothing():
    for name in "abc":
        record(name)
    found = plan()
    table = Path("out/sub-b/dwi/sub-b_space-Study_desc-summary_stats.tsv")
    table.write_text("volume_ml1\n2\n")
    with pytest.raises(DatasetError, match=r"sub-b_\S+ has other columns"):
        write_group(found, ["x"], blank)
    assert not list(Path("out").glob("*group*"))


def test_write_group__lesions_that_share_a_participant_are_told_apart():
    record("a")
    for path in Path("masks").iterdir():
        path.unlink()
    for session, label in (("1", "lesion"), ("2", "lesion"), ("2", "L")):
        name = f"sub-x_ses-{session}_space-Study_label-{label}_mask.nii.gz"
        mask = np.zeros(GRID.shape, np.uint8)
        mask[0, 0, : int(session)] = 1
        write_nifti(Path("masks") / name, mask, GRID)
        stem = f"sub-x_ses-{session}_space-Study_label-{label}"
        table = Path(f"out/sub-x/ses-{session}/dwi/{stem}_desc-summary_stats.tsv")
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(f"volume_mm3\n{session}\n")
        table.with_suffix(".json").write_text("{}")
        shutil.copy(Path("masks") / name, table.parent / name)
        (table.parent / name.replace(".nii.gz", ".json")).write_text('{"Lacuna": {}}')
        said = {"stem": stem, "fingerprint": content_of(Path("masks", name)), "outputs": {}}
        said["lesion"] = str(Path("masks", name).absolute())
        said["outputs"][table.relative_to("out").as_posix()] = table.stat().st_size
        content = {**json.loads(Path("out/logs/sub-a_space-Study.json").read_text()), **said}
        Path(f"out/logs/{stem}.json").write_text(json.dumps(content))
    write_group(plan(), ["x"], blank)
    lines = Path("out/group_desc-summary_stats.tsv").read_text().splitlines()
    assert lines == [
        "participant_id\tsession_id\tlabel_id\tvolume_mm3",
        "sub-x\tses-1\tlesion\t1",
        "sub-x\tses-2\tL\t2",
        "sub-x\tses-2\tlesion\t2",
    ]


def test_plan_group__a_lesion_that_failed_with_other_options_decides_nothing():
    for name in "abc":
        record(name)
    other = {"Atlases": {"B": "2"}}
    failed = {"is_done": False, "outputs": {}, "reason": "It is empty.", "parameters": other}
    record("c", ended="2026-02-01", **failed)
    assert [each.record.stem for each in plan().lesions] == [
        "sub-a_space-Study",
        "sub-b_space-Study",
    ]


def test_plan_group__a_lesion_that_was_not_asked_for_decides_nothing():
    for name in "abc":
        record(name)
    record("c", ended="2026-02-01", parameters={"Atlases": {"B": "2"}})
    assert len(plan(["a", "b"]).lesions) == 2
    assert [each.record.stem for each in plan().lesions] == ["sub-c_space-Study"]
