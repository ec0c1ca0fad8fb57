"""The scripts that jobs are submitted with are those that the documentation shows."""

import re
import subprocess
from pathlib import Path

import pytest

from lacuna.config import load_settings

SCRIPTS = sorted(Path(__file__).parent.glob("*.sh"))
DOCS = Path(__file__).resolve().parents[2] / "docs"
SHOWN = {
    "how-to/slurm.md": ("array", "warm"),
    "tutorials/cohort-on-slurm.md": ("warm", "array", "group", "cohort"),
}


def blocks_of(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts__are_sound_shell(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert script.read_text().startswith("#!/bin/bash\n#SBATCH ")


@pytest.mark.parametrize("page", SHOWN)
def test_page__shows_the_scripts_that_the_tests_submit(page):
    shown = [block for block in blocks_of(page, "bash") if block.startswith("#!")]
    assert shown == [(SCRIPTS[0].parent / f"{name}.sh").read_text() for name in SHOWN[page]]


@pytest.mark.parametrize(
    ("page", "key", "value"),
    [
        ("how-to/slurm.md", "tractogram_space", "MNI152NLin2009bAsym"),
        ("tutorials/cohort-on-slurm.md", "tractogram", "HCP842"),
    ],
)
def test_page__its_configuration_is_valid(page, key, value, tmp_path, monkeypatch):
    monkeypatch.setenv("USER", "me")
    (config,) = blocks_of(page, "yaml")
    (tmp_path / "lacuna.yaml").write_text(config)
    assert getattr(load_settings(), key) == value
