"""What is said of an input dataset: by a validator, and without one."""

import json
import os

import pytest

from lacuna.bids.dataset import find_lesions
from lacuna.bids.validation import validate
from lacuna.errors import DatasetError


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "raw"
    (root / "sub-1" / "anat").mkdir(parents=True)
    (root / "sub-1" / "anat" / "sub-1_label-lesion_mask.nii.gz").touch()
    described = {"Name": "raw", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(described))
    return root


def a_program(tmp_path, script):
    path = tmp_path / "validator"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def judge(dataset, program=None, **options):
    return validate(find_lesions(dataset), os.environ, program=program, **options)


def answer(tmp_path, *issues):
    said = json.dumps({"issues": {"issues": list(issues)}})
    return a_program(tmp_path, f"cat <<'END'\n{said}\nEND")


def test_without_a_validator__own_check_finds_nothing_wrong_and_says_who_is_missing(dataset):
    verdict, note = judge(dataset)
    assert str(verdict) == ""
    assert "bids-validator-deno) was not found" in note


def test_own_check__tells_what_results_depend_on(dataset):
    (dataset / "dataset_description.json").write_text('{"Name": 3}')
    (dataset / "participants.tsv").write_text("participant_id\nsub-2\n")
    (dataset / "sub-3").mkdir()
    (dataset / "sub-3" / "sub-1_label-stroke_mask.nii.gz").touch()
    verdict, _ = judge(dataset)
    assert verdict.relevant == (
        "dataset_description.json has no Name",
        "dataset_description.json has no BIDSVersion",
        "participants.tsv has no sub-1",
        "sub-1_label-stroke_mask.nii.gz is in sub-3",
    )
    assert "4 about lesion masks in use" in str(verdict)


@pytest.mark.parametrize("content", ["[]", "{half"])
def test_description__that_is_no_object_is_refused(dataset, content):
    listing = find_lesions(dataset)
    (dataset / "dataset_description.json").write_text(content)
    with pytest.raises(DatasetError, match="dataset_description"):
        validate(listing, os.environ, program=None)


def test_validator__that_takes_too_long_is_stopped(dataset, tmp_path):
    verdict, note = judge(dataset, a_program(tmp_path, "exec sleep 60"), time_limit_s=0.2)
    assert "took more than 0 s, and was stopped" in note
    assert verdict.judge == "Lacuna's own check"


@pytest.mark.parametrize(
    "script", ["exit 3", "echo no JSON", "echo '{}'", "echo '[]'", """echo '{"issues": 1}'"""]
)
def test_validator__that_fails_is_replaced_by_the_own_check(dataset, tmp_path, script):
    verdict, note = judge(dataset, a_program(tmp_path, script))
    assert "The BIDS validator failed" in note
    assert verdict.judge == "Lacuna's own check"


def test_validator__that_is_gone_is_replaced_by_the_own_check(dataset):
    assert "The BIDS validator failed" in judge(dataset, "/no/such/program")[1]


@pytest.mark.parametrize("place", ["sub-1_label-lesion_mask.nii.gz", "other.nii"])
def test_errors__of_masks_in_use_that_are_misplaced_name_the_remedy(dataset, tmp_path, place):
    issue = {"location": f"/sub-1/anat/{place}", "severity": "error", "code": "NOT_INCLUDED"}
    _, note = judge(dataset, answer(tmp_path, issue))
    assert ('"DatasetType": "derivative"' in note) == (place != "other.nii")


def test_errors__about_masks_in_use_are_told_apart_and_warnings_are_none(dataset, tmp_path):
    mask = {"location": "/sub-1/anat/sub-1_label-lesion_mask.nii.gz", "severity": "error"}
    program = answer(
        tmp_path,
        {**mask, "code": "WRONG"},
        {"location": "/sub-1/anat/other.nii", "severity": "error", "code": "B", "subCode": "c"},
        {"severity": "error", "code": "WHOLE"},
        {**mask, "code": "MERELY", "severity": "warning"},
    )
    verdict, note = judge(dataset, program)
    assert note == ""
    assert verdict.relevant == ("WRONG sub-1/anat/sub-1_label-lesion_mask.nii.gz",)
    assert verdict.others == ("B: c sub-1/anat/other.nii", "WHOLE the dataset")


def test_own_check__an_open_quotation_mark_hides_no_participant(dataset):
    lines = [f"sub-{n}\tx" for n in range(1, 30_000)]
    lines[0] = 'sub-7\t"open'
    (dataset / "participants.tsv").write_text(
        "\n".join(["participant_id\tnote", *lines, "sub-1\tx"])
    )
    assert str(judge(dataset)[0]) == ""
