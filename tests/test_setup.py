"""How .venv comes about, played through with a stand-in for Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the Makefile is for POSIX systems")

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("cat", "chmod", "cksum", "cp", "dirname", "mkdir", "rm", "sed", "sh")
PYTHON = """#!/bin/sh
echo "$*" >>"$LOG"
case "$*" in
*"sys.version_info <"*) exit {too_old} ;;
*ensurepip*) exit {no_venv} ;;
*platform*) echo "Python {version}" ;;
*version_info*) echo 3.12 ;;
"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*"--require-hashes"*) exit ${{PIP_FAILS:-0}} ;;
esac
"""


class Checkout:
    """A checkout with its own PATH, and the log of what was asked of Python."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.bin = directory / "checkout", directory / "bin"
        self.log = directory / "log"
        for each in (self.directory / "requirements", self.bin):
            each.mkdir(parents=True)
        for name in ("requirements/make-venv", "pyproject.toml"):
            shutil.copy(ROOT / name, self.directory / name)
        for profile in ("run", "dev"):
            (self.directory / f"requirements/{profile}.lock").write_text(f"{profile}==1\n")
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))

    def put_python(self, version="3.12.1", *, too_old=0, no_venv=0, name="python3") -> None:
        path = self.bin / name
        path.write_text(PYTHON.format(version=version, too_old=too_old, no_venv=no_venv))
        path.chmod(0o755)

    def make_venv(self, profile="run", **environment) -> subprocess.CompletedProcess:
        self.log.write_text("")
        return subprocess.run(
            ["sh", self.directory / "requirements" / "make-venv", profile],
            env={"PATH": str(self.bin), "LOG": str(self.log), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def installed(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line.split()[-1] for line in lines if " install " in line]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_make_venv__installs_the_lock_then_lacuna(checkout):
    checkout.put_python()
    assert checkout.make_venv("dev").returncode == 0
    assert checkout.installed() == ["requirements/dev.lock", "."]


def test_make_venv__second_time_does_nothing(checkout):
    checkout.put_python()
    checkout.make_venv()
    assert checkout.make_venv().returncode == 0
    assert not checkout.installed()


def test_make_venv__half_made_one_is_made_again(checkout):
    checkout.put_python()
    assert checkout.make_venv(PIP_FAILS="1").returncode == 1
    (checkout.directory / ".venv" / "half").touch()
    assert checkout.make_venv().returncode == 0
    assert not (checkout.directory / ".venv" / "half").exists()
    assert checkout.installed() == ["requirements/run.lock", "."]


def test_make_venv__one_for_development_serves_for_running(checkout):
    checkout.put_python()
    checkout.make_venv("dev")
    checkout.make_venv("run")
    assert not checkout.installed()


def test_make_venv__one_for_running_is_extended_for_development(checkout):
    checkout.put_python()
    checkout.make_venv("run")
    (checkout.directory / ".venv" / "kept").touch()
    checkout.make_venv("dev")
    assert checkout.installed() == ["requirements/dev.lock", "."]
    assert (checkout.directory / ".venv" / "kept").exists()


def test_make_venv__changed_lock_makes_it_again(checkout):
    checkout.put_python()
    checkout.make_venv()
    (checkout.directory / ".venv" / "old").touch()
    (checkout.directory / "requirements" / "run.lock").write_text("run==2\n")
    checkout.make_venv()
    assert not (checkout.directory / ".venv" / "old").exists()


def test_make_venv__changed_project_reinstalls_lacuna_alone(checkout):
    checkout.put_python()
    checkout.make_venv("dev")
    with (checkout.directory / "pyproject.toml").open("a") as stream:
        stream.write("# changed\n")
    checkout.make_venv("run")
    assert checkout.installed() == ["."]
    checkout.make_venv("dev")
    assert not checkout.installed()


def test_make_venv__moved_checkout_makes_it_again(checkout):
    checkout.put_python()
    checkout.make_venv()
    checkout.directory = checkout.directory.rename(checkout.directory.with_name("elsewhere"))
    checkout.make_venv()
    assert checkout.installed() == ["requirements/run.lock", "."]


def test_make_venv__vanished_python_makes_it_again(checkout):
    checkout.put_python()
    checkout.make_venv()
    (checkout.directory / ".venv" / "bin" / "python").unlink()
    checkout.make_venv()
    assert checkout.installed() == ["requirements/run.lock", "."]


def says_one_sentence(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("lacuna: ")
    return line


def test_make_venv__no_python_says_what_to_install(checkout):
    sentence = says_one_sentence(checkout.make_venv())
    assert (
        "Python 3.11 or newer is needed and no python3 is on PATH: install python3.12" in sentence
    )


def test_make_venv__old_python_says_what_to_install(checkout):
    checkout.put_python("3.9.2", too_old=1)
    sentence = says_one_sentence(checkout.make_venv())
    assert "python3 is Python 3.9.2: install python3.12" in sentence


def test_make_venv__old_python_beside_a_newer_one_is_passed_over(checkout):
    checkout.put_python("3.9.2", too_old=1)
    checkout.put_python("3.13.0", name="python3.13")
    assert checkout.make_venv().returncode == 0


def test_make_venv__debian_without_venv_says_what_to_install(checkout):
    checkout.put_python(no_venv=1)
    sentence = says_one_sentence(checkout.make_venv())
    assert "'sudo apt-get install python3.12-venv'" in sentence
    assert not (checkout.directory / ".venv").exists()


def test_make_venv__chosen_python_that_is_too_old_is_refused(checkout):
    checkout.put_python()
    checkout.put_python("3.9.2", too_old=1, name="python3.9")
    sentence = says_one_sentence(checkout.make_venv(PYTHON="python3.9"))
    assert "PYTHON=python3.9 is Python 3.9.2: give one that is 3.11 or newer." in sentence


def test_make_venv__network_failure_names_the_lock(checkout):
    checkout.put_python()
    done = checkout.make_venv(PIP_FAILS="1")
    assert "requirements/run.lock could not be installed: check the network" in done.stderr
    assert not list((checkout.directory / ".venv").glob(".*-ready"))


def test_make__second_start_takes_less_than_two_seconds(checkout):
    make = shutil.which("make")
    if make is None:
        pytest.skip("make not installed")
    checkout.put_python()
    shutil.copy(ROOT / "Makefile", checkout.directory)
    lacuna = checkout.bin / "lacuna"
    lacuna.write_text("#!/bin/sh\necho demo runs\n")
    lacuna.chmod(0o755)
    environment = {"PATH": str(checkout.bin), "LOG": str(checkout.log)}
    checkout.make_venv()
    shutil.copy(lacuna, checkout.directory / ".venv" / "bin")
    started = os.times().elapsed
    done = subprocess.run(
        [make, "demo"], cwd=checkout.directory, env=environment, capture_output=True, check=True
    )
    assert done.stdout == b"demo runs\n"
    assert os.times().elapsed - started < 2
