import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def race(directory: Path, n_processes: int, n_deaths: int = 0) -> int:
    command = [sys.executable, "-m", "tests.store.race", str(directory)]
    found = subprocess.run(
        [*command, str(n_processes), str(n_deaths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return int(found.stdout)


def test_get_or_make__eight_processes_build_once(tmp_path):
    assert race(tmp_path, 8) == 1


@pytest.mark.stress
@pytest.mark.parametrize("turn", range(10))
def test_get_or_make__32_processes_build_once(tmp_path, turn):
    assert race(tmp_path, 32) == 1


@pytest.mark.stress
@pytest.mark.parametrize("n_deaths", [1, 5])
def test_get_or_make__when_builders_are_killed_one_other_takes_over(tmp_path, n_deaths):
    assert race(tmp_path, 32, n_deaths) == n_deaths + 1
