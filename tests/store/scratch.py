"""Scratch as processes leave it, of owners whose identity is made up."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lacuna.utils.owner import current_owner

DAY_S = 86_400.0
FOREIGN: dict[str, dict[str, Any]] = {
    "another host": {"host": "node-17"},
    "another container": {"pid_namespace": "pid:[1]"},
    "another time namespace": {"time_namespace": "time:[1]"},
    "no boot": {"boot_id": None},
}

_tokens = itertools.count(1)


def ended() -> int:
    """Return the number of a process that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def owner_like(**facts: object) -> dict[str, Any]:
    """Return this process's record under a new token, with some facts changed."""
    return {**current_owner().record, "token": f"{next(_tokens):012x}", **facts}


def dead_owner(**facts: object) -> dict[str, Any]:
    return owner_like(pid=ended(), **facts)


def leave(
    base: Path,
    record: Mapping[str, Any],
    *,
    lifetime: str = "p",
    signed: bool = True,
    age_s: float = 0.0,
    prefix: str = "sub01_",
) -> Path:
    """Leave a directory with files, last modified some time ago, and its owner's record."""
    base.mkdir(exist_ok=True)
    path = base / f"{prefix}{record['token']}_{lifetime}{os.urandom(4).hex()}"
    (path / "work").mkdir(parents=True)
    (path / "lesion.nii").write_bytes(b"n" * 100)
    (path / "work" / "half.tck").write_bytes(b"t" * 50)
    make_older(path, age_s)
    if signed:
        record_of(base, record).write_text(json.dumps(dict(record)))
    return path


def make_older(path: Path, age_s: float) -> None:
    then = time.time() - age_s
    for inner in (*path.rglob("*"), path):
        os.utime(inner, (then, then), follow_symlinks=False)


def record_of(base: Path, record: Mapping[str, Any]) -> Path:
    return base / f".lacuna-owner-{record['token']}.json"


def killed_with_scratch(base: Path) -> None:
    """Let a real process be killed while it holds scratch of both lifetimes in a base."""
    program = (
        "import os, signal\nfrom lacuna.utils.cache import get_temp_dir, temp_dir\n"
        "get_temp_dir('callers_'); scratch = temp_dir('processs_')\n"
        "(scratch.__enter__() / 'half.nii').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "LACUNA_TMP_DIR": str(base)}
    done = subprocess.run([sys.executable, "-c", program], env=environment)
    assert done.returncode == -9
