import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lacuna.formats import open_tractogram

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "make_demo_data.py"


def run(*arguments):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def source(tmp_path):
    """Return a file like that of AFQ-Browser: tracts of 100 points each, and their mean."""
    rng = np.random.default_rng(0)
    tracts = {}
    for tract, x in [("Right Corticospinal", 20), ("Left Arcuate", -30), ("Left ILF", -35)]:
        line = np.linspace([x, -40, -20], [x, 20, 40], 100)
        tracts[tract] = {
            str(i): (line + rng.normal(size=3)).tolist() for i in (7, 3, "coreFiber", 12)
        }
    path = tmp_path / "streamlines.json"
    path.write_text(json.dumps(tracts))
    return path


def test_make_demo_data__running_again_gives_the_same_bytes(tmp_path, source):
    out = tmp_path / "demo"
    assert run("--json", source, "--out", out).returncode == 0
    again = run("--json", source, "--out", out, "--check")
    assert again.returncode == 0
    assert "10 of 10 files equal" in again.stdout
    (out / "lesions" / "README").write_text("changed")
    changed = run("--json", source, "--out", out, "--check")
    assert changed.returncode == 1
    assert "differs: lesions/README" in changed.stderr


def test_make_demo_data__means_are_left_out_and_points_thinned(tmp_path, source):
    run("--json", source, "--out", tmp_path / "demo")
    (path,) = (tmp_path / "demo").glob("*.trx")
    opened = open_tractogram(path)
    assert len(opened.streamlines) == 9
    assert list(opened.groups) == ["Left_Arcuate", "Left_ILF", "Right_Corticospinal"]
    points, offsets = opened.streamlines.gather(np.arange(9))
    assert (np.diff(offsets) == 34).all()  # 0.85 mm apart before, 2.6 mm after
    assert np.array_equal(points * 128, np.round(points * 128))
