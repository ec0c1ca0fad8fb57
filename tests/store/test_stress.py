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


def crowd(directory: Path, seconds: float) -> tuple[int, int, int]:
    command = [sys.executable, "-m", "tests.store.crowd", str(directory), str(seconds)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    n_reads, n_evicted, n_killed = map(int, found.stdout.split())
    return n_reads, n_evicted, n_killed


def test_eviction__takes_nothing_from_its_readers(tmp_path):
    n_reads, n_evicted, _ = crowd(tmp_path, 2)
    assert n_reads >= 1000
    assert n_evicted >= 1


@pytest.mark.stress
def test_eviction__takes_nothing_from_its_readers_in_a_minute_of_a_million_reads(tmp_path):
    n_reads, n_evicted, n_killed = crowd(tmp_path, 60)
    assert n_reads >= 1_000_000
    assert n_evicted >= 200
    assert n_killed >= 50
