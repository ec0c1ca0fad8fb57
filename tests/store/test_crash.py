import subprocess
import sys
from pathlib import Path

import pytest
from tests.store.sweep import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]
FEWEST_OPERATIONS = {"publish": 50, "rebuild": 50, "takeover": 50, "clear": 100, "reap": 100}


FAULTS = [
    # A root of a group may get a file that its members cannot read: `init` mends that.
    *((scenario, "EIO") for scenario in SCENARIOS if scenario != "publish-shared"),
    *((scenario, "ESTALE") for scenario in ("publish", "beside", "lease", "evict-leased")),
    *((scenario, "ENOSPC") for scenario in ("publish", "rebuild", "fetch", "lose", "notes")),
    *((scenario, "ENOSPC") for scenario in ("evict", "evict-leased", "lease", "reap", "adopt")),
]


def sweep(*words: object) -> int:
    found = subprocess.run(
        [sys.executable, "-m", "tests.store.sweep", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return int(found.stdout)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_crash_sweep__afterwards_the_entry_is_absent_or_whole_and_the_next_call_clears_up(
    scenario, tmp_path
):
    assert sweep(scenario, tmp_path) >= FEWEST_OPERATIONS.get(scenario, 20)


@pytest.mark.stress
@pytest.mark.parametrize(("scenario", "error"), FAULTS)
def test_fault_sweep__whatever_fails_loses_nothing_and_takes_nothing_from_others(
    scenario, error, tmp_path
):
    assert sweep(scenario, tmp_path, error) >= 15
