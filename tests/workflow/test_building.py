"""An index whose build is starved, killed or raced is absent or whole, and built once."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "tests.workflow.building"


@pytest.fixture
def places(tmp_path):
    directories = [tmp_path / "store", tmp_path / "scratch"]
    for directory in directories:
        directory.mkdir()
    return [str(directory) for directory in directories]


def assert_kept(*command: str) -> None:
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "kept its promise\n"), found.stderr[-3000:]


def test_open_index__two_processes_build_one_cold_index_once(places):
    assert_kept(sys.executable, "-m", PROGRAM, "raced", *places)


@pytest.mark.faults
def test_open_index__killed_at_random_moments_the_next_call_completes_it(places):
    assert_kept(sys.executable, "-m", PROGRAM, "killed", *places)


@pytest.mark.faults
@pytest.mark.parametrize("case", ["full", "refused"])
def test_open_index__on_a_full_disk_nothing_half_made_stays_and_room_mends_it(places, case):
    mount = 'mount -t tmpfs -o size=64m none "$4" && exec "$1" -m "$2" "$3" "$4" "$5"'
    assert_kept(
        *("unshare", "-Urm", "sh", "-c", mount, "sh", sys.executable, PROGRAM, case, *places)
    )
