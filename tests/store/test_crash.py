import subprocess
import sys
from pathlib import Path

import pytest
from tests.store.sweep import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]
FEWEST_OPERATIONS = {"publish": 50, "rebuild": 50, "takeover": 50, "clear": 100, "reap": 100}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_crash_sweep__afterwards_the_entry_is_absent_or_whole_and_the_next_call_clears_up(
    scenario, tmp_path
):
    found = subprocess.run(
        [sys.executable, "-m", "tests.store.sweep", scenario, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert int(found.stdout) >= FEWEST_OPERATIONS.get(scenario, 20)
