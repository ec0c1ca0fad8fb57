"""How often a cache had what was asked for: counted in memory, one line per run kept."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass

from lacuna.store._entry import read_file
from lacuna.store._layout import USAGE, make_directory, write_file
from lacuna.utils.modes import share_file

_FILE = "runs"
_MOST_BYTES = 1 << 16

_counts: dict[str, list[int]] = {}


@dataclass(frozen=True)
class Usage:
    """What is known of earlier runs.

    Parameters
    ----------
    hits, misses
        How often what was asked for was there, and was not.
    since
        When the first of them ended, seconds since the epoch; None if there was none.
    """

    hits: int = 0
    misses: int = 0
    since: int | None = None


def count(root: str, *, hit: bool) -> None:
    """Note what became of a request to this process."""
    _counts.setdefault(root, [0, 0])[not hit] += 1


def record_usage() -> None:
    """Add a line about this process to each root that it asked, where that can be written."""
    for root, (hits, misses) in _counts.items():
        with suppress(OSError):
            make_directory(f"{root}/{USAGE}")
            _append(f"{root}/{USAGE}", f"{time.time():.0f} {hits} {misses}\n".encode())
    _counts.clear()


def read_usage(root: str) -> Usage:
    """Return what the runs that used a root add up to."""
    lines = []
    with suppress(OSError):
        for line in read_file(f"{root}/{USAGE}/{_FILE}").split(b"\n"):
            numbers = line.split()
            if len(numbers) == 3 and all(number.isdigit() for number in numbers):
                lines.append([int(number) for number in numbers])
    if not lines:
        return Usage()
    times, hits, misses = zip(*lines, strict=True)
    return Usage(sum(hits), sum(misses), min(times))


def _append(directory: str, line: bytes) -> None:
    path = f"{directory}/{_FILE}"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(handle).st_size
        if size == 0:
            share_file(handle, directory)
        os.write(handle, line)
    finally:
        os.close(handle)
    if size > _MOST_BYTES:
        # What another adds meanwhile is lost: these are numbers to look at.
        so_far = read_usage(os.path.dirname(directory))
        write_file(path, f"{so_far.since} {so_far.hits} {so_far.misses}\n".encode())
