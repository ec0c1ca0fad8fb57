"""The scripts that jobs are submitted with are those that the documentation shows."""

import re
import subprocess
from pathlib import Path

import pytest

from lacuna.config import load_settings

SCRIPTS = sorted(Path(__file__).parent.glob("*.sh"))
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "slurm.md"


def blocks_of(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts__are_sound_shell(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert script.read_text().startswith("#!/bin/bash\n#SBATCH ")


def test_page__shows_the_scripts_that_the_tests_submit():
    shown = [block for block in blocks_of("bash") if block.startswith("#!")]
    assert shown == [(SCRIPTS[0].parent / f"{name}.sh").read_text() for name in ("array", "warm")]


def test_page__its_configuration_is_valid(tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "me")
    (config,) = blocks_of("yaml")
    (tmp_path / "lacuna.yaml").write_text(config)
    assert load_settings().tractogram_space == "MNI152NLin2009bAsym"
