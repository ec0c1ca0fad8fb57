"""Claims: who is building a key, so that others need not.

A claim is a directory, prepared beside its place with the owner's record in it and then renamed
there: it is never seen without a record, and a second one finds the place taken. Nothing rests
on a claim but saved work. Where two processes hold one, both build, and the first to publish
wins.

Every attempt to build has a name of its own, ``<digest>.<owner token>.<number>``. Its stage, its
claim and the trash made of a dead one carry it, so that a record found under one of these names
speaks for all of them.
"""

import errno
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lacuna.store._layout import CLAIMS, STAGE, TRASH, temporary_name
from lacuna.utils.owner import read_record, verdict, write_record

_FIRST_POLL_S = 0.02
_LONGEST_POLL_S = 5.0
_GROWTH = 1.4


@dataclass(frozen=True)
class Holder:
    """Who holds the claim on a key.

    Parameters
    ----------
    attempt
        Owner token and number.
    record
        What the owner wrote about itself; None if that cannot be read.
    state
        ``alive``, ``dead`` or ``unknown``.
    reason
        What that rests on.
    """

    attempt: str
    record: Mapping[str, Any] | None
    state: str
    reason: str

    def __str__(self) -> str:
        if self.record is None:
            return "a process that left no record"
        return f"process {self.record.get('pid', '?')} on {self.record.get('host', 'unknown host')}"


class Claim:
    """One attempt to build a key, with its record on disk.

    Parameters
    ----------
    root
        The cache root, whose dot-directories exist.
    digest
        Of the key.
    """

    def __init__(self, root: str, digest: str) -> None:
        self.name = temporary_name(digest)
        self.attempt = self.name.removeprefix(f"{digest}.")
        self.stage = f"{root}/{STAGE}/{self.name}"
        self._side = f"{root}/{CLAIMS}/{self.name}"
        self._place = f"{root}/{CLAIMS}/{digest}"
        self._pid = os.getpid()
        self._prepare()

    def _prepare(self) -> None:
        os.mkdir(self._side, 0o700)
        try:
            write_record(f"{self._side}/{self.attempt}")
        except OSError:
            with suppress(OSError):
                os.rmdir(self._side)
            raise

    def take(self) -> bool:
        """Try to become the one who builds; say whether that is so."""
        try:
            os.rename(self._side, self._place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
            # A server that answers a repeated request reports our own success as a failure.
            taken = os.path.exists(f"{self._place}/{self.attempt}")
            if not taken and error.errno == errno.ENOENT:
                self._prepare()
            return taken
        return True

    def step_aside(self) -> None:
        """Let others have the claim, and keep the record for the stage that stays."""
        with suppress(OSError):
            if os.path.exists(f"{self._place}/{self.attempt}"):
                os.rename(self._place, self._side)

    def release(self) -> None:
        """Remove the record, wherever it is; another's claim in our place is left alone."""
        if os.getpid() != self._pid:
            return
        for directory in (self._place, self._side):
            try:
                os.unlink(f"{directory}/{self.attempt}")
            except OSError:
                continue
            with suppress(OSError):
                os.rmdir(directory)  # not empty: another's
            return


def find_holder(root: str, digest: str) -> Holder | None:
    """Return who holds the claim on a key, and whether that process lives."""
    place = f"{root}/{CLAIMS}/{digest}"
    try:
        attempts = os.listdir(place)
    except FileNotFoundError:
        return None
    if not attempts:
        return None  # released half-way: the next claim replaces an empty directory
    return judge(place, attempts[0])


def judge(directory: str, attempt: str) -> Holder:
    """Return whose record lies in the directory of an attempt, and whether that process lives."""
    record = read_record(f"{directory}/{attempt}")
    judged = verdict(record, directory)
    return Holder(attempt, record, judged.state, judged.reason)


def set_aside(root: str, digest: str, attempt: str) -> None:
    """Move the claim of a dead attempt to the trash, unless somebody was faster."""
    place, trash = f"{root}/{CLAIMS}/{digest}", f"{root}/{TRASH}/{digest}.{attempt}"
    with suppress(OSError):
        # Fails on a name in use: two who judged the same claim do not move two claims.
        os.rename(place, trash)
        if not os.path.exists(f"{trash}/{attempt}"):
            os.rename(trash, place)


def poll_delays() -> Iterator[float]:
    """Yield the pauses of a waiter, s: short at first, growing to 5 s, never in step."""
    delay = _FIRST_POLL_S
    while True:
        yield delay * random.uniform(0.7, 1.0)  # noqa: S311 — jitter, not secrecy
        delay = min(delay * _GROWTH, _LONGEST_POLL_S)
