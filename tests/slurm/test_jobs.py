"""Jobs of a real SLURM that share one cache: built once, whole whatever ends them, and cleared."""

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.slurm.cluster import eventually
from tests.slurm.conftest import Study

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

INDEX = ["hits", "map", "streamlines"]
TOKEN = re.compile(r"([0-9a-f]{12})_[pc]")
LONG_AGO = 30 * 86_400


def owners(names: set[str]) -> set[str]:
    """Return the tokens of those whose scratch has these names."""
    return {match[1] for name in names if (match := TOKEN.search(name))}


class Builder(NamedTuple):
    """Who is building something right now."""

    job: str
    token: str


def wait_for_builder(study: Study, besides: set[str] = frozenset()) -> Builder:
    """Wait until a process is in the middle of building, other than those with these tokens."""
    found: list[Builder] = []

    def is_building() -> bool:
        for stage in (study.directory / "cache" / ".stage").glob("*/*"):
            digest, _, rest = stage.parent.name.partition(".")
            claim = study.directory / "cache" / ".claims" / digest
            with contextlib.suppress(OSError, ValueError):
                record = json.loads(claim.read_text())
                if rest.startswith(record["token"]) and record["token"] not in besides:
                    # Of an array's task, scancel wants the number in the array: the last one.
                    found.append(Builder(re.split("[=,]", record["job"])[-1], record["token"]))
        return bool(found)

    eventually(is_building, "a builder")
    return found[0]


def state_of(study: Study, job: str) -> str:
    return study.cluster.jobs(job)[0]["JobState"]


def reap(study: Study, *options: str) -> list[str]:
    """Reap, and return the names of what went, records left out."""
    printed = json.loads(study.lacuna("cache", "reap", "--yes", "--json", *options))
    removed = (printed["reaped"] or {"removed": []})["removed"]
    return [Path(item["path"]).name for item in removed if item["kind"] != "record"]


def assert_next_array_finishes(study: Study) -> None:
    """Run four tasks on what is there: they build nothing, and leave nothing."""
    job = study.submit("array.sh", "--no-figures", options="--array=0-3")
    assert study.cluster.wait(job) == ["COMPLETED"] * 4
    assert "building" not in study.log_of(job)
    assert study.log_of(job).count("1 of 1 lesions done") == 4
    assert study.in_progress() == set()


def test_array__16_tasks_build_a_cold_index_once(study):
    disk = study.directory / "node-disk"
    job = study.submit("array.sh", "--no-figures", NODE_DISK=str(disk))
    assert study.cluster.wait(job) == ["COMPLETED"] * 16
    tasks = study.cluster.jobs(job)
    assert max(task["StartTime"] for task in tasks) <= min(task["EndTime"] for task in tasks)

    log = study.log_of(job)
    assert sorted(re.findall(r"building (\w+) of", log)) == INDEX
    assert study.products() == INDEX
    assert study.in_progress() == set()
    # Each had its scratch on the node's own disk, and took it away.
    assert len(list(disk.iterdir())) == 16
    assert not [path for path in disk.rglob("*") if path.is_file()]
    assert not study.scratch()

    study.lacuna(
        *("run", "snm", "lesions", "serial", "participant", "--no-figures"),
        *("--cache-dir", "cache-of-its-own"),
    )
    serial = study.results("serial")
    assert study.n_done("serial") == 16
    assert study.results() == serial


def test_job__takes_its_threads_and_its_scratch_from_slurm(study):
    disk = study.directory / "node-disk"
    job = study.submit("settings.sh", options="--cpus-per-task=3", NODE_DISK=str(disk))
    assert study.cluster.wait(job) == ["COMPLETED"]
    settings = json.loads(study.log_of(job))["settings"]
    assert settings["num_threads"] == {"value": 3, "source": "SLURM_CPUS_PER_TASK"}
    assert settings["tmp_dir"]["value"] == str(disk / job)
    assert "lacuna.yaml" in settings["tmp_dir"]["source"]


def test_scancel__of_a_builder_lets_the_others_take_over(study, large_tractogram):
    """One is cancelled, the next one killed: the third builds, and the fourth waits for it."""
    job = study.submit(
        "warm.sh", "--tractogram", str(large_tractogram), options="--array=0-3 --cpus-per-task=1"
    )
    first = wait_for_builder(study)
    study.cluster.run("scancel", first.job)
    second = wait_for_builder(study, {first.token})
    assert study.kill(second.job) == second.token
    third = wait_for_builder(study, {first.token, second.token})
    living = owners(study.scratch()) - {first.token, second.token}
    reap(study)
    # What was killed could not tidy up, what was cancelled did, and what lives is left alone.
    assert third.token in owners(study.scratch())
    eventually(lambda: owners(study.scratch()) <= living, "the scratch of the living alone")

    study.cluster.wait(job)
    assert [state_of(study, each.job) for each in (first, second)] == ["CANCELLED", "FAILED"]
    states = sorted(task["JobState"] for task in study.cluster.jobs(job))
    assert states == ["CANCELLED", "COMPLETED", "COMPLETED", "FAILED"]
    assert study.products() == INDEX
    # The leases of the dead hold nothing, and go at the next hit.
    assert all(n.startswith(".leases/") and second.token in n for n in study.in_progress())
    assert not study.scratch()


def test_scancel__in_mid_analysis_leaves_results_whole_and_what_reap_clears(study):
    study.lacuna("cache", "warm")
    jobs = {name: study.submit("cohort.sh", name) for name in ("cancelled", "killed")}
    pipeline = study.submit("pipeline.sh", "600")
    for name in jobs:
        eventually(lambda name=name: study.n_done(name), f"results in {name}")
    eventually(lambda: study.log_of(pipeline), "the pipeline")
    borrowed = Path(study.log_of(pipeline).strip()).name
    study.cluster.run("scancel", jobs["cancelled"])
    killed = study.kill(jobs["killed"])
    assert study.cluster.wait(jobs["cancelled"]) == ["CANCELLED"]
    assert study.cluster.wait(jobs["killed"]) == ["FAILED"]

    left = study.scratch() - {borrowed}
    assert owners(left) == {killed}
    assert set(reap(study)) == left
    assert study.scratch() == {borrowed}
    assert state_of(study, pipeline) == "RUNNING"
    assert not study.unfinished_results("cancelled")
    for name in jobs:
        assert 0 < study.n_done(name) < 16
    assert study.products() == INDEX
    # The leases of the dead hold nothing, and go at the next hit.
    assert {name.split(".")[-2] for name in study.in_progress()} == {killed}
    assert_next_array_finishes(study)


def test_time_limit__leaves_results_whole_and_what_reap_clears(study):
    study.lacuna("cache", "warm")
    listening, deaf = study.submit("cohort.sh", "results"), study.submit("deaf.sh")
    eventually(lambda: study.log_of(deaf) and study.n_done(), "both jobs to work")
    study.cluster.run("scancel", "--signal=STOP", "--full", listening)  # lest it be done in time
    for job in (listening, deaf):
        study.cluster.reach_time_limit(job)
    assert study.cluster.wait(listening) == ["TIMEOUT"]
    assert not study.unfinished_results()
    assert 0 < study.n_done() < 16
    assert study.cluster.wait(deaf) == ["TIMEOUT"]

    left = study.scratch()
    assert left == {Path(study.log_of(deaf).splitlines()[0]).name}
    assert set(reap(study)) == left
    assert not study.scratch()
    assert study.products() == INDEX
    assert_next_array_finishes(study)


def test_requeue__the_next_attempt_of_a_task_finishes(study, large_tractogram):
    job = study.submit(
        "array.sh", "--no-figures", "--tractogram", str(large_tractogram), options="--array=5"
    )
    first = wait_for_builder(study)
    study.cluster.run("scontrol", "requeue", f"{job}_5")
    second = wait_for_builder(study, {first.token})
    assert second.job == first.job
    assert study.cluster.wait(job) == ["COMPLETED"]
    (task,) = study.cluster.jobs(job)
    assert task["Restarts"] == "1"
    assert study.log_of(job).count("1 of 1 lesions done") == 1
    assert study.products() == INDEX
    assert study.in_progress() == set()
    assert not study.scratch()


def test_reap__asks_squeue_which_jobs_still_use_what_a_dead_process_made(study):
    running, over = study.submit("pipeline.sh", "600"), study.submit("pipeline.sh", "0")
    assert study.cluster.wait(over) == ["COMPLETED"]
    eventually(lambda: study.log_of(running), "the pipeline")
    kept, left = (Path(study.log_of(job).strip()) for job in (running, over))
    assert {kept.name, left.name} == study.scratch()
    assert reap(study, "--ask-scheduler") == []  # both were modified just now
    for path in (kept, left):
        for each in (*path.iterdir(), path):
            os.utime(each, (time.time() - LONG_AGO,) * 2)
    assert reap(study) == []  # nobody was asked
    assert reap(study, "--ask-scheduler") == [left.name]
    assert state_of(study, running) == "RUNNING"
    assert (kept / "intermediate.nii").exists()
    study.cluster.run("scancel", running)
    study.cluster.wait(running)
    assert reap(study, "--ask-scheduler") == [kept.name]
    assert not study.scratch()


def test_cohort__what_is_left_is_submitted_again_and_then_all_is_put_together(study, shared_data):
    name = "tpl-MNI152NLin6Asym_res-01_atlas-Schaefer2018_desc-100Parcels7Networks_dseg.nii.gz"
    atlas = ["--atlas", str(shared_data / "parcellations" / name)]
    asked = [*atlas, "--no-figures", "--no-report"]
    warm = study.submit("warm.sh", *atlas)
    first = study.submit("array.sh", *asked, options=f"--array=0-2 --dependency=afterok:{warm}")
    early = study.submit("group.sh", "--strict", options=f"--dependency=afterany:{first}")
    assert study.cluster.wait(early) == ["FAILED"]
    assert not list((study.directory / "results").glob("group*"))

    left = study.lacuna("status", "lesions", "results", ok=False).splitlines()[-1]
    assert left == "--array=3-15"
    second = study.submit("array.sh", *asked, options=left)
    last = study.submit("group.sh", "--strict", options=f"--dependency=afterany:{second}")
    assert study.cluster.wait(last) == ["COMPLETED"], study.log_of(last)
    assert "building" in study.log_of(warm)
    assert not [job for job in (first, second) if "building" in study.log_of(job)]
    assert "--array" not in study.lacuna("status", "lesions", "results")

    table = (study.directory / "results" / "group_desc-summary_stats.tsv").read_text()
    participants = [line.split("\t")[0] for line in table.splitlines()[1:]]
    assert participants == [f"sub-{number:02}" for number in range(1, 17)]
