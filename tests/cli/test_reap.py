"""``lacuna cache reap``, and what a run removes by itself."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.store.scratch import DAY_S, dead_owner, killed_with_scratch, leave, owner_like

from lacuna.cli.main import main

SHELL = "import sys; from lacuna.cli.main import main; sys.exit(main())"
OLD_S = 40 * DAY_S


@pytest.fixture
def base(tmp_path, monkeypatch):
    """Return the temp base of the command line."""
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("LACUNA_TMP_DIR", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture
def left(base):
    """Leave one directory of each fate."""
    return {
        "ended": leave(base, dead_owner()),
        "callers": leave(base, dead_owner(), lifetime="c", age_s=OLD_S),
        "recent": leave(base, dead_owner(), lifetime="c"),
        "living": leave(base, owner_like(), age_s=OLD_S),
        "foreign": leave(base, dead_owner(host="node-17"), age_s=OLD_S),
        "job": leave(base, dead_owner(job="SLURM_JOB_ID=4711"), lifetime="c", age_s=OLD_S),
    }


def reap(*argv, code=0):
    assert main(["cache", "reap", *argv]) == code


def staying(left):
    return {name for name, path in left.items() if path.exists()}


def test_reap__prints_what_each_is_whose_how_large_and_why(left, capsys):
    reap("--dry-run")
    text = capsys.readouterr().out
    ended, living, foreign, job = (
        left[name].name for name in ("ended", "living", "foreign", "job")
    )
    assert f"delete: {ended} (process's directory, 150 bytes): its owner has ended (process" in text
    assert f"keep: {living} (process's directory, 150 bytes): its owner lives (process" in text
    assert f"keep: {foreign} " in text
    assert "--foreign --older-than" in text
    assert "on node-17: it runs, or ran, on another host (node-17))" in text
    assert f"keep: {job} " in text
    assert "SLURM_JOB_ID=4711 is over; --ask-scheduler asks" in text
    assert "delete: the records of 2 owners" in text
    assert staying(left) == set(left)


def test_reap__removes_what_is_proven_and_asks_before(left, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    reap(code=1)
    assert staying(left) == set(left)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    reap()
    assert staying(left) == {"recent", "living", "foreign", "job"}
    text = capsys.readouterr()
    assert re.search(r"Delete \d+ bytes\?", text.err)
    assert "deleted 4 pieces, " in text.out  # two directories, two records
    reap("--yes")
    assert "nothing to delete" in capsys.readouterr().out


def test_reap__foreign_goes_by_age(left):
    reap("--yes", "--foreign", "--older-than", "60d")
    assert "foreign" in staying(left)
    reap("--yes", "--foreign", "--older-than", "30d")
    assert staying(left) == {"recent", "living", "job"}


@pytest.mark.parametrize("options", [["--foreign"], ["--older-than", "3d"], ["--json"]])
def test_reap__half_an_instruction_is_refused(left, options, capsys):
    reap(*options, code=2)
    assert "error" in capsys.readouterr().err
    assert staying(left) == set(left)


def test_reap__asks_the_scheduler_when_told(left, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    program.write_text("#!/bin/sh\necho 4711,4711_N/A\n")
    program.chmod(0o700)
    reap("--yes", "--ask-scheduler")
    assert staying(left) == {"recent", "living", "foreign", "job"}
    program.write_text("#!/bin/sh\nexit 1\n")
    reap("--yes", "--ask-scheduler")
    assert "job" in staying(left)
    program.write_text("#!/bin/sh\n")
    reap("--yes", "--ask-scheduler")
    assert staying(left) == {"recent", "living", "foreign"}


def test_reap__json_has_the_plan_and_what_came_of_it(left, base, capsys):
    reap("--json", "--dry-run")
    shown = json.loads(capsys.readouterr().out)
    items = {item["path"]: item for item in shown["plan"]["items"]}
    assert shown["plan"]["base"] == str(base)
    assert shown["reaped"] is None
    assert items[str(left["ended"])].items() >= {
        ("kind", "directory"), ("lifetime", "process"), ("state", "dead"), ("job", None),
        ("removable", True), ("reason", "its owner has ended"), ("size_bytes", 150),
    }  # fmt: skip
    assert items[str(left["living"])]["state"] == "alive"
    reap("--json", "--yes")
    reaped = json.loads(capsys.readouterr().out)["reaped"]
    removed = {item["path"] for item in reaped["removed"] if item["kind"] == "directory"}
    assert removed == {str(left["ended"]), str(left["callers"])}
    assert reaped["failed"] == []
    assert reaped["freed_bytes"] > 300


def test_reap__an_empty_machine_is_told_so_and_nothing_is_made(base, capsys):
    reap("--yes")
    assert capsys.readouterr().out == "nothing to delete\n"
    assert not base.exists()


def test_info__shows_scratch_that_nobody_is_known_to_use(left, capsys):
    assert main(["cache", "info"]) == 0
    text = capsys.readouterr().out
    assert "scratch: " in text
    for name, path in left.items():
        assert (f"left: {path.name} " in text) == (name != "living"), name
    assert main(["cache", "info", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["scratch"]) > len(left)


# By itself


def run_tdi(base, *options):
    """Let a run fail that needs scratch: it removes what others left before it looks at files."""
    return main(["tdi", "absent.tck", "out.nii.gz", *options])


def test_run__removes_what_killed_runs_left_and_nothing_else(left, base, capsys):
    killed_with_scratch(base)
    assert run_tdi(base, "-v") == 1
    assert staying(left) == set(left) - {"ended"}
    assert not list(base.glob("processs_*"))
    assert len(list(base.glob("callers_*"))) == 1
    assert f"lacuna: removed {left['ended']}" in capsys.readouterr().err


def test_run__says_nothing_of_it_unless_asked(left, base, capsys):
    run_tdi(base)
    assert "removed" not in capsys.readouterr().err
    assert "ended" not in staying(left)


def test_run__looks_only_where_a_command_needs_scratch(left):
    assert main(["cache", "dir"]) == 0
    assert main(["config", "show"]) == 0
    assert staying(left) == set(left)


def test_run__an_error_leaves_nothing(base, tmp_path):
    (tmp_path / "broken.tck").write_bytes(b"mrtrix tracks\ncount: 3\n")
    assert main(["tdi", "broken.tck", "out.nii.gz"]) == 1
    assert list(base.iterdir()) == []


def start_demo(base):
    """Start a demonstration on its small real tractogram, and return once it holds scratch."""
    shell = subprocess.Popen(
        [sys.executable, "-c", SHELL, "demo", "here"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not list(base.glob("demo_*")):
        assert shell.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return shell


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_run__a_signal_leaves_nothing(base, number, code):
    shell = start_demo(base)
    shell.send_signal(number)
    _, error = shell.communicate(timeout=120)
    assert shell.returncode == code
    assert b"Traceback" not in error
    assert list(base.iterdir()) == []


def test_run__that_is_killed_leaves_what_reap_finds_and_the_next_run_removes(base, capsys):
    shell = start_demo(base)
    shell.kill()
    shell.communicate(timeout=120)
    assert list(base.glob("demo_*"))
    reap("--json", "--dry-run")
    items = json.loads(capsys.readouterr().out)["plan"]["items"]
    kinds = {Path(item["path"]).name.partition("_")[0] for item in items if item["removable"]}
    assert {"demo", "lacuna"} <= kinds
    run_tdi(base)
    assert list(base.iterdir()) == []
