"""SIGTERM and Ctrl-C end a process whatever it does at that moment."""

import signal
import subprocess
import sys

import pytest

DESTROYED = """
import os, signal, sys, time
from lacuna.utils.termination import terminable

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(5)  # where the exception is raised, and dropped

with terminable():
    try:
        Held()
        time.sleep(5)
        print("went on")
    finally:
        print("tidied up")
"""
TWICE = """
import os, signal
from lacuna.utils.termination import terminable

with terminable():
    try:
        os.kill(os.getpid(), signal.{name})
    finally:
        os.kill(os.getpid(), signal.{name})
        os.kill(os.getpid(), signal.SIGTERM)
        print("tidied up")
"""
OTHER = """
from lacuna.utils.termination import terminable

class Held:
    def __del__(self):
        raise {error}

with terminable():
    Held()
print("went on")
"""


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [("SIGTERM", 143, ""), ("SIGINT", -signal.SIGINT, "KeyboardInterrupt")],
)
def test_terminable__a_signal_while_an_object_is_destroyed_gets_through(name, code, told):
    done = run(DESTROYED.format(name=name))
    assert (done.returncode, done.stdout) == (code, "tidied up\n")
    assert told in done.stderr
    assert "ignored" not in done.stderr


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *[("SIGTERM", 143), ("SIGHUP", 129), ("SIGXCPU", 152), ("SIGUSR1", 138)],
        *[("SIGUSR2", 140), ("SIGINT", -signal.SIGINT)],
    ],
)
def test_terminable__a_second_signal_does_not_interrupt_the_clean_up(name, code):
    done = run(TWICE.format(name=name))
    assert (done.returncode, done.stdout) == (code, "tidied up\n")
    assert done.stderr.count("Traceback") == (name == "SIGINT")


def test_terminable__what_is_ignored_stays_ignored():
    started = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    done = run(
        started
        + TWICE.replace("    try", "    os.kill(os.getpid(), 1)\n    try", 1).format(name="SIGTERM")
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "tidied up\n", "")


@pytest.mark.parametrize("error", ["SystemExit(3)", "ValueError('mine')"])
def test_terminable__what_objects_themselves_raise_is_reported_as_ever(error):
    done = run(OTHER.format(error=error))
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert "Exception ignored" in done.stderr
    assert error.partition("(")[0] in done.stderr


def test_terminable__leaves_handlers_as_they_were():
    from lacuna.utils.termination import terminable

    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    before = [signal.getsignal(number) for number in numbers], sys.unraisablehook
    with terminable():
        for number, handler in zip(numbers, before[0], strict=True):
            assert signal.getsignal(number) is not handler
    assert ([signal.getsignal(number) for number in numbers], sys.unraisablehook) == before


@pytest.mark.parametrize(("ends_process", "code"), [(True, 130), (False, -signal.SIGTERM)])
def test_terminable__what_ends_the_process_is_the_first_signal(ends_process, code):
    done = run(f"""
import os, signal, sys
from lacuna.utils.termination import terminable

try:
    with terminable(ends_process={ends_process}):
        os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(130)
""")
    assert done.returncode == code
