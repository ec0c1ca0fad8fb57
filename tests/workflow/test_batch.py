import csv
import dataclasses
import json
import logging
import threading

import nibabel as nib
import numpy as np
import pytest

from lacuna.analysis.structural import Weighting
from lacuna.errors import DatasetError, SpaceError
from lacuna.formats import open_tractogram
from lacuna.workflow.batch import Choices, plan_batch, prepare_work, work_through


def load(path):
    return np.asarray(nib.load(path).dataobj)


def execute(plan, index, *, on_outcome=None, **hooks):
    return work_through(plan, prepare_work(plan, index, **hooks), on_outcome=on_outcome)


def failed(outcomes):
    return tuple(outcome for outcome in outcomes if outcome.error is not None)


def rows(path):
    with path.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_execute__numbers_and_maps_are_those_of_the_phantom(tract, masks, tmp_path):
    index, record = tract
    (outcome,) = execute(plan_batch(masks(one=5), tmp_path / "out", record), index)
    assert outcome.error is None
    stem = "sub-one_space-StudySpace_res-1_desc-"
    folder = tmp_path / "out" / "sub-one" / "dwi"
    (row,) = rows(folder / f"{stem}summary_stats.tsv")
    assert row["n_cut"] == "5"
    assert row["cut_fraction"] == "0.25"
    assert float(row["disconnected_pct"]) == 25
    assert float(row["disconnected_mm3_thr50"]) == 100
    assert row["volume_mm3"] == "10"
    assert row["side"] == "right"
    assert (row["weight_cut"], row["weight_total"]) == ("5", "20")
    expected = np.zeros((20, 20, 1))
    expected[:, :5] = 1
    assert np.array_equal(load(folder / f"{stem}disconnection_map.nii.gz"), expected)
    assert np.array_equal(load(folder / f"{stem}cuttdi_map.nii.gz"), expected)
    assert (load(folder / f"{stem}tdi_map.nii.gz") == 1).all()
    assert (load(folder / f"{stem}coverage_mask.nii.gz") == 1).all()


def test_execute__every_output_has_a_name_of_the_specification_and_a_sidecar(
    tract, masks, tmp_path
):
    index, record = tract
    execute(plan_batch(masks(one=5), tmp_path / "out", record), index, draw=lambda *_: b"png")
    stem = "sub-one_space-StudySpace_res-1_desc-"
    images = ["disconnection_map", "tdi_map", "cuttdi_map", "coverage_mask"]
    expected = {f"{stem}{name}{end}" for name in images for end in (".nii.gz", ".json")}
    expected |= {f"{stem}summary_stats.tsv", f"{stem}summary_stats.json"}
    expected |= {f"sub-one_space-StudySpace_label-lesion_mask{end}" for end in (".nii.gz", ".json")}
    expected |= {f"{stem}disconnection_map.png"}
    assert {path.name for path in (tmp_path / "out/sub-one/dwi").iterdir()} == expected
    assert (tmp_path / "out" / "dataset_description.json").is_file()


def test_execute__one_failed_lesion_does_not_stop_the_others(tract, masks, tmp_path):
    index, record = tract
    listing = masks(a=3, b=0, c=7)
    seen = []
    outcomes = execute(plan_batch(listing, tmp_path / "out", record), index, on_outcome=seen.append)
    assert tuple(seen) == outcomes
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert [outcome.summary.get("n_cut") for outcome in outcomes] == [3, None, 7]
    (bad,) = failed(outcomes)
    assert "empty" in str(bad.error)
    assert not (tmp_path / "out" / "sub-b").exists()


def test_execute__an_error_nobody_foresaw_is_that_lesions_only(tract, masks, tmp_path):
    index, record = tract

    def draw(result, lesion, name):
        if name.startswith("a"):
            raise RuntimeError("no ink")
        return b"png"

    plan = plan_batch(masks(a=3, b=4), tmp_path / "out", record)
    first, second = execute(plan, index, draw=draw)
    assert str(first.error) == "no ink"
    assert second.error is None


def test_execute__the_table_appears_last_so_that_it_says_all_is_there(tract, masks, tmp_path):
    index, record = tract

    def draw(*_):
        raise RuntimeError("no ink")

    execute(plan_batch(masks(a=3), tmp_path / "out", record), index, draw=draw)
    assert not list((tmp_path / "out").rglob("*summary_stats*"))


def test_execute__a_table_of_an_earlier_run_does_not_vouch_for_a_failed_one(tract, masks, tmp_path):
    index, record = tract
    listing = masks(a=3)
    plan = plan_batch(listing, tmp_path / "out", record)
    execute(plan, index)
    masks(a=0)
    assert failed(execute(plan, index))
    assert not list((tmp_path / "out").rglob("*summary_stats.tsv"))


def test_execute__results_do_not_depend_on_threads_or_order(tract, masks, tmp_path):
    index, record = tract
    listing = masks(**{f"m{i}": i for i in range(1, 13)})
    for threads in (1, 4):
        many = dataclasses.replace(record, threads=threads)
        execute(plan_batch(listing, tmp_path / f"out{threads}", many), index)
    for path in (tmp_path / "out1").rglob("*.nii.gz"):
        twin = tmp_path / "out4" / path.relative_to(tmp_path / "out1")
        assert path.read_bytes() == twin.read_bytes()


def test_execute__figures_are_drawn_one_at_a_time(tract, masks, tmp_path):
    index, record = tract
    drawing = threading.Lock()

    def draw(*_):
        assert drawing.acquire(blocking=False)
        threading.Event().wait(0.01)
        drawing.release()
        return b"png"

    listing = masks(**{f"m{i}": i for i in range(1, 6)})
    plan = plan_batch(listing, tmp_path / "out", dataclasses.replace(record, threads=4))
    assert not failed(execute(plan, index, draw=draw))


@pytest.mark.parametrize("kind", ["tck", "trx"])
def test_execute__saved_streamlines_are_those_cut(tract, masks, tmp_path, kind):
    index, record = tract
    record = dataclasses.replace(record, step_size_mm=1.0)
    plan = plan_batch(masks(one=5), tmp_path / "out", record, Choices(save_streamlines=kind))
    execute(plan, index)
    path = tmp_path / f"out/sub-one/dwi/sub-one_space-StudySpace_res-1_desc-cut_tractography.{kind}"
    saved = open_tractogram(path).streamlines
    points, _ = saved.gather(np.arange(len(saved)))
    assert sorted(set(points[:, 1])) == [0, 1, 2, 3, 4]
    assert len(points) == 5 * 20
    assert open_tractogram(path).step_size_mm == (1.0 if kind == "tck" else None)
    assert path.with_suffix(".json").is_file()


def test_execute__weights_count_instead_of_streamlines(tract, masks, tmp_path):
    index, record = tract
    weights = np.arange(20) / 10
    weighting = Weighting.of(index, weights)
    plan = plan_batch(masks(one=5), tmp_path / "out", record)
    (outcome,) = execute(plan, index, weighting=weighting)
    assert outcome.summary["weight_cut"] == pytest.approx(1.0)
    assert outcome.summary["weight_total"] == pytest.approx(19.0)
    stem = "sub-one_space-StudySpace_res-1_desc-"
    cut = load(tmp_path / f"out/sub-one/dwi/{stem}cuttdi_map.nii.gz")
    assert np.allclose(cut[3, :, 0], np.where(np.arange(20) < 5, weights, 0))


def test_execute__says_so_when_most_voxels_are_not_covered(tract, masks, tmp_path, caplog):
    index, record = tract
    plan = plan_batch(masks(one=5), tmp_path / "out", dataclasses.replace(record, min_tdi=2))
    with caplog.at_level(logging.WARNING, "lacuna"):
        (outcome,) = execute(plan, index)
    assert "Only 0 of 400 voxels" in caplog.text
    assert outcome.summary["disconnected_pct"] is None
    (table,) = (tmp_path / "out").rglob("*summary_stats.tsv")
    assert rows(table)[0]["disconnected_pct"] == "n/a"


def test_execute__a_lesion_that_cuts_nothing_is_a_result_with_a_warning(tract, masks, tmp_path):
    index, record = tract
    listing = masks(one=20)
    small = np.diag([0.2, 0.2, 0.2, 1])
    small[:3, 3] = [5, 0.5, 0]
    mask = nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), small)
    nib.save(mask, listing.found[0].path)
    (outcome,) = execute(plan_batch(listing, tmp_path / "out", record), index)
    assert outcome.summary["n_cut"] == 0
    assert any("touches no streamline" in warning for warning in outcome.warnings)


def test_plan_batch__writes_nothing_and_can_be_read(tract, masks, tmp_path):
    _, record = tract
    plan = plan_batch(masks(one=5, two=6), tmp_path / "out", record)
    assert not (tmp_path / "out").exists()
    text = str(plan)
    assert "lesion masks: 2" in text
    assert "one.nii.gz → sub-one/dwi/sub-one_space-StudySpace_res-1_desc-disconnection" in text


def test_plan_batch__lists_what_was_passed_over_by_reason(tract, masks, tmp_path):
    _, record = tract
    listing = masks(one=5)
    from lacuna.bids.dataset import IgnoredFile

    ignored = tuple(IgnoredFile(tmp_path / f"masks/{i}.nii.gz", "it is old") for i in range(5))
    plan = plan_batch(dataclasses.replace(listing, ignored=ignored), tmp_path / "out", record)
    assert "passed over, as it is old: 5 (0.nii.gz, 1.nii.gz, 2.nii.gz, …)" in str(plan)


def test_plan_batch__a_lesion_in_another_space_is_refused_and_the_others_go_on(
    tract, masks, tmp_path
):
    index, record = tract
    listing = masks(a=3, b=4)
    listing.found[0].path.with_name("a.json").write_text(json.dumps({"Space": "MNIColin27"}))
    from lacuna.bids.dataset import find_lesions

    plan = plan_batch(find_lesions(listing.root), tmp_path / "out", record)
    assert "a.nii.gz → refused" in str(plan)
    first, second = execute(plan, index)
    assert isinstance(first.error, SpaceError)
    assert second.error is None


def test_plan_batch__no_lesion_in_the_space_is_an_error_before_work(tract, masks, tmp_path):
    _, record = tract
    other = dataclasses.replace(record, tractogram_space="MNI152NLin6Asym")
    with pytest.raises(SpaceError, match="None of the 2 lesions can be used"):
        plan_batch(masks(a=3, b=4), tmp_path / "out", other)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"rule": "vertex"}, {"fingerprint": "e" * 32}, {"min_tdi": 2}])
def test_plan_batch__other_parameters_in_an_output_folder_are_refused(
    tract, masks, tmp_path, change
):
    index, record = tract
    listing = masks(one=5)
    execute(plan_batch(listing, tmp_path / "out", record), index)
    with pytest.raises(DatasetError, match="never pooled"):
        plan_batch(listing, tmp_path / "out", dataclasses.replace(record, **change))


def test_plan_batch__another_grid_in_an_output_folder_is_refused(tract, masks, tmp_path):
    from lacuna.geometry.grid import Grid

    index, record = tract
    listing = masks(one=5)
    execute(plan_batch(listing, tmp_path / "out", record), index)
    moved = Grid((20, 20, 2), np.eye(4))
    with pytest.raises(DatasetError, match="ReportGrid"):
        plan_batch(listing, tmp_path / "out", dataclasses.replace(record, grid=moved))


def test_plan_batch__the_same_parameters_go_on_in_the_folder(tract, masks, tmp_path):
    index, record = tract
    listing = masks(one=5)
    for _ in range(2):
        assert not failed(execute(plan_batch(listing, tmp_path / "out", record), index))


def test_plan_batch__two_masks_with_one_output_name_are_refused(tract, masks, tmp_path):
    _, record = tract
    with pytest.raises(DatasetError, match="would both write"):
        plan_batch(masks(a_b=3, ab=4), tmp_path / "out", record)
