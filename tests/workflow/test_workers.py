"""Worker processes by themselves; what a whole run makes of them is in tests/cli/test_parallel."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from multiprocessing import util
from pathlib import Path

import pytest

from lacuna.workflow.workers import Crew, go_on, portable, work_in_processes, work_in_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

BEGIN = """
import multiprocessing, operator, os, resource, signal, sys, threading, time
from lacuna.workflow.workers import Crew, work_in_processes

def lost(item, token, reason):
    return reason

def work(n_items, *crew):
    return sorted(work_in_processes(operator.neg, iter(range(n_items)), Crew(*crew), lost))
"""


def run(program, *, cwd=None, **options):
    return subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=cwd,
        **options,
    )


def lose(item, token, reason):
    return f"{item} {reason}"


def crew_of(n, attempt, items, **options):
    return sorted(work_in_processes(attempt, iter(items), Crew(n, **options), lose))


def double(item):
    return 2 * item


def say_much(item):
    logging.getLogger("lacuna.test").warning("%s", "x" * 300_000)
    for _ in range(2):
        warnings.warn("once for all", stacklevel=1)
    return "y" * 300_000


def die(item):
    if item == 2:
        os._exit(3)
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


class Unreadable:
    """Work that no worker can take over."""

    def __reduce__(self):
        return _refuse, ()

    def __call__(self, item):
        return item


def _refuse():
    raise ValueError("refused here")


@pytest.mark.parametrize("n", [1, 3])
def test_work_in_processes__gives_each_item_once_however_many_workers(n):
    assert crew_of(n, double, range(7)) == [(i, 2 * i) for i in range(7)]
    assert crew_of(4, double, [5]) == [(5, 10)]  # more workers than items
    assert crew_of(2, double, []) == []
    assert not multiprocessing.active_children()


def test_work_in_processes__more_than_a_pipe_holds_may_be_said_by_all_at_once(caplog):
    for _ in range(2):  # and what was warned of in one run is said in the next
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = crew_of(3, say_much, range(6))
        assert [len(said) for _, said in found] == [300_000] * 6
        said = [record.getMessage() for record in caplog.records]
        assert sum(len(text) == 300_000 for text in said) == 6
        assert said.count("once for all") == 1


def test_work_in_processes__who_dies_costs_one_item_which_says_how():
    found = dict(crew_of(2, die, range(8)))
    assert found.pop(2) == "2 ended with exit status 3"
    assert "3 was killed (signal 9)" in found.pop(3)
    assert found == {i: i for i in (0, 1, 4, 5, 6, 7)}


def test_work_in_processes__what_keeps_workers_from_beginning_is_raised():
    with pytest.raises(ValueError, match="refused here"):
        crew_of(2, Unreadable(), range(3))
    assert not multiprocessing.active_children()


def test_work_in_processes__the_script_that_calls_needs_no_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(BEGIN + "print('script')\nprint(work(3, 2))\nprint(work.__module__)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (
        "script\n[(0, 0), (1, -1), (2, -2)]\n__main__\n",
        "",
    )


def test_work_in_processes__leaves_multiprocessing_as_it_was():
    forking = multiprocessing.get_context("forkserver")
    sleeper = forking.Process(target=time.sleep, args=(60,))
    sleeper.start()
    try:
        assert crew_of(2, double, range(3)) == [(0, 0), (1, 2), (2, 4)]
        assert sleeper.is_alive()
    finally:
        sleeper.kill()
        sleeper.join()
        multiprocessing.forkserver._forkserver._stop()
    preload = multiprocessing.forkserver._forkserver._preload_modules
    assert crew_of(2, double, range(3), preload=("json",)) == [(0, 0), (1, 2), (2, 4)]
    assert multiprocessing.forkserver._forkserver._forkserver_pid is None
    assert multiprocessing.forkserver._forkserver._preload_modules == preload
    assert Path(util.get_temp_dir()).is_dir()


def test_work_in_processes__workers_that_cannot_be_started_are_done_without():
    done = run(
        "n = len(os.listdir('/proc/self/fd')) + 25\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))\n"
        "print(work(9, 20))\n"
    )
    assert done.stdout == f"{[(i, -i) for i in range(9)]}\n", done.stderr
    assert "could not be started (OSError: [Errno 24]" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_in_processes__is_interrupted_while_the_server_loads_code(tmp_path, number):
    (tmp_path / "slow.py").write_text("import time\nprint('loads', flush=True)\ntime.sleep(30)\n")
    program = (
        "from lacuna.utils.termination import terminable\n"
        "with terminable():\n"
        "    work(3, 2, 1, False, ('slow',))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )
    try:
        assert process.stdout.readline() == b"loads\n"
        time.sleep(0.3)  # by then it waits for its first worker
        started = time.monotonic()
        process.send_signal(number)
        assert process.stdout.read() == b""  # all that could write there are gone
        assert process.wait() == (143 if number == signal.SIGTERM else -signal.SIGINT)
        assert time.monotonic() - started < 5
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_work_in_threads__what_was_begun_stops_at_the_next_step_and_the_next_run_goes_on():
    begun, ended = threading.Event(), []

    def attempt(item):
        if item:
            begun.set()
            deadline = time.monotonic() + 20
            try:
                while time.monotonic() < deadline:
                    go_on()
                    time.sleep(0.01)
            except Exception as error:
                ended.append(error)
        return item

    results = work_in_threads(attempt, iter(range(10)), 2)
    assert next(results) == (0, 0)
    assert begun.wait(20)
    results.close()
    assert 1 <= len(ended) <= 2
    assert all("interrupted" in str(error) for error in ended)
    go_on()
    assert sorted(work_in_threads(double, iter(range(3)), 2)) == [(0, 0), (1, 2), (2, 4)]


def test_portable__is_the_error_itself_or_says_the_same():
    error = ValueError("3 of 4")
    assert portable(error) is error

    class LocalError(Exception):
        pass

    assert str(portable(LocalError("5 of 6"))) == "LocalError: 5 of 6"
