"""Schedulers are asked once, by programs that stand in for theirs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.store.scratch import DAY_S, dead_owner, leave

from lacuna.store import ask_schedulers, plan_reap

Install = Callable[..., Path]

SQUEUE = """\
4713,4711_2
4720,4711_9
4800,4800_N/A
"""
QSTAT_PBS = """\

server.site:
                                                            Req'd  Req'd   Elap
Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time
--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----
1234.server     me       workq    lacuna        512   1   4    8gb 02:00 R 00:10
1300[].server   me       workq    array          --   1   1    4gb 01:00 B   --
"""
QSTAT_SGE = """\
job-ID  prior   name       user         state submit/start at     queue          slots ja-task-ID
-------------------------------------------------------------------------------------------------
   1234 0.55500 lacuna     me           r     11/22/2026 10:00:00 all.q@node17       4
   1300 0.55500 array      me           qw    11/22/2026 10:00:00                    1 3-16:1
"""
BJOBS = """\
1234    me      RUN   normal     login       node17      lacuna     Nov 22 10:00
1300    me      PEND  normal     login          -        array[3]   Nov 22 10:00
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that puts a program on PATH; it notes how it was called."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def put(name: str, output: str = "", *, code: int = 0, error: str = "") -> Path:
        calls, program = tmp_path / f"{name}.calls", tmp_path / "bin" / name
        text = f"cat <<'END'\n{output}END\n" if output else ""
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {calls}\n{text}echo "{error}" >&2\nexit {code}\n'
        )
        program.chmod(0o700)
        return calls

    return put


@pytest.mark.parametrize(
    ("program", "output", "variable", "live", "over"),
    [
        ("squeue", SQUEUE, "SLURM_JOB_ID", ["4713", "4800", "9,4711_9"], ["4711", "8,4711_3"]),
        ("qstat", QSTAT_PBS, "PBS_JOBID", ["1234.server", "1300[7].server"], ["8.server", "512.x"]),
        ("qstat", QSTAT_SGE, "JOB_ID", ["1234", "1300"], ["4", "13"]),
        ("bjobs", BJOBS, "LSB_JOBID", ["1234", "1300"], ["22", "123"]),
    ],
)
def test_ask__what_is_listed_is_not_over(install, program, output, variable, live, over):
    calls = install(program, output)
    jobs = [f"{variable}={number}" for number in (*live, *over)]
    assert ask_schedulers(jobs) == {job: job in jobs[: len(live)] for job in jobs}
    assert len(calls.read_text().splitlines()) == 1
    assert "-u" in calls.read_text()


def test_ask__an_array_task_is_known_by_its_place_when_it_waits_again(install):
    install("squeue", "4711,4711_2\n")  # once it is requeued, its own number may not be shown
    answers = ask_schedulers(["SLURM_JOB_ID=4713,4711_2", "SLURM_JOB_ID=4714,4711_3"])
    assert list(answers.values()) == [True, False]


@pytest.mark.parametrize("failure", ["absent", "fails", "hangs up"])
def test_ask__a_scheduler_that_does_not_answer_says_nothing(install, failure, monkeypatch):
    if failure == "absent":
        monkeypatch.setenv("PATH", "/nonexistent")
    elif failure == "fails":
        install("squeue", code=1, error="Unable to contact slurm controller")
    else:
        install("squeue", SQUEUE, code=1)
    assert ask_schedulers(["SLURM_JOB_ID=4713"]) == {"SLURM_JOB_ID=4713": None}


def test_ask__what_the_user_likes_to_see_does_not_hide_a_job(install, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    calls = install("squeue", '$(test "$SQUEUE_STATES" || echo 4713)\n')
    program = calls.parent / "bin" / "squeue"
    program.write_text(program.read_text().replace("'END'", "END"))
    assert ask_schedulers(["SLURM_JOB_ID=4713"]) == {"SLURM_JOB_ID=4713": True}


def test_ask__a_scheduler_without_jobs_answers(install):
    install("squeue")
    install("bjobs", code=255, error="No unfinished job found")
    answers = ask_schedulers(["SLURM_JOB_ID=1", "LSB_JOBID=2"])
    assert answers == {"SLURM_JOB_ID=1": False, "LSB_JOBID=2": False}


def test_ask__a_number_that_is_none_or_a_scheduler_that_is_unknown_gets_no_answer(install):
    install("qstat")
    answers = ask_schedulers(["JOB_ID=nightly", "COBALT_JOBID=7"])
    assert answers == {"JOB_ID=nightly": None, "COBALT_JOBID=7": None}


def test_reap__asks_once_for_all_scratch_and_not_unless_told(install, tmp_path):
    calls = install("squeue", SQUEUE)
    base = tmp_path / "scratch"
    for number in (4713, 4800, 5000, 5001):
        leave(base, dead_owner(job=f"SLURM_JOB_ID={number}"), lifetime="c", age_s=8 * DAY_S)
    assert not plan_reap(base).removals
    assert not calls.exists()
    plan = plan_reap(base, jobs=ask_schedulers)
    assert len(calls.read_text().splitlines()) == 1
    assert sum(item.kind == "directory" for item in plan.removals) == 2
    plan.execute()
    assert len(calls.read_text().splitlines()) == 2
    assert len([path for path in base.iterdir() if path.is_dir()]) == 2
