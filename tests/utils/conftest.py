"""Small scripts in interpreters of their own: what a test's process did must not count there."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Script = Callable[..., list[str]]


@pytest.fixture
def run_script(tmp_path: Path) -> Script:
    """Return a function that runs a script and returns the lines it prints.

    The script is a file, since spawned workers import the script that started them.
    """

    def run(
        source: str, *arguments: object, cwd: Path | None = None, **environment: str
    ) -> list[str]:
        path = tmp_path / f"script_{len(list(tmp_path.glob('script_*')))}.py"
        path.write_text(textwrap.dedent(source))
        done = subprocess.run(
            [sys.executable, str(path), *map(str, arguments)],
            env={**os.environ, **environment},
            cwd=cwd or tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run
