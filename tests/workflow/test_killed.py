"""A run that is killed anywhere leaves nothing half written, and is gone on with by the next."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.stress
@pytest.mark.parametrize("scenario", ["damage", "damage-stale", "snm", "snm-stale"])
def test_run__killed_at_any_change_is_whole_and_gone_on_with(tmp_path, scenario):
    # Without the compiler: the phantom is small.
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    command = [sys.executable, "-m", "tests.workflow.killed", scenario, str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) >= 10
