"""Kernels without the compiler: no index out of bounds, and the same answers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from tests.tractogram.plain_python import answers

ROOT = Path(__file__).resolve().parents[2]


def test_kernels__stay_within_their_arrays_and_answer_the_same_as_compiled(tmp_path):
    (tmp_path / "plain").mkdir()
    command = [sys.executable, "-W", "error", "-m", "tests.tractogram.plain_python"]
    ended = subprocess.run(
        [*command, str(tmp_path / "plain")],
        cwd=ROOT,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    plain = np.load(tmp_path / "plain" / "answers.npz")
    compiled = answers(tmp_path / "compiled", lambda array: array)
    assert set(plain.files) == set(compiled)
    for name, array in compiled.items():
        np.testing.assert_array_equal(plain[name], array, name)
    assert any(0 < len(array) < 14 for name, array in compiled.items() if name.endswith("0.02"))
