"""Claims: who is building a key, so that others need not.

A claim is a file that only one process can create, and that holds its owner's record. Nothing
rests on a claim but saved work: where two processes hold one, both build, and the first to
publish wins. Who builds although another holds the claim leaves a record beside it.

The stage of an attempt is named ``<digest>.<owner token>.<number>`` and is made after the record
and removed before it, so that a claim whose owner is dead speaks for every stage of that owner, and
a record beside it for the stage of the same name.
"""

import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lacuna.store._layout import CLAIMS, STAGE, TRASH, temporary_name
from lacuna.utils.owner import read_record, verdict, write_record

_FIRST_POLL_S = 0.02
_LONGEST_POLL_S = 5.0
_GROWTH = 1.4
_UNSIGNED_S = 5.0
_left: set[tuple[int, int]] = set()  # whoever made them lives, and would wait for itself for ever


@dataclass(frozen=True)
class Holder:
    """Who holds the claim on a key.

    Parameters
    ----------
    claim
        Identity of the claim's file: another claim on the same key has another one.
    record
        What the owner wrote about itself; None if that cannot be read.
    state
        ``alive``, ``dead``, ``unknown``; or ``unsigned``: created, and nothing written in it.
    reason
        What that rests on.
    """

    claim: tuple[int, int]
    record: Mapping[str, Any] | None
    state: str
    reason: str

    def __str__(self) -> str:
        if self.record is None:
            return "a process that left no record"
        return f"process {self.record.get('pid', '?')} on {self.record.get('host', 'unknown host')}"

    @property
    def token(self) -> str:
        """The owner's token; empty without a record."""
        return "" if self.record is None else str(self.record.get("token", ""))


class Claim:
    """One attempt to build a key.

    Parameters
    ----------
    root
        The cache root, whose dot-directories exist.
    digest
        Of the key.
    """

    def __init__(self, root: str, digest: str) -> None:
        self.name = temporary_name(digest)
        self.stage = f"{root}/{STAGE}/{self.name}"
        self._place = f"{root}/{CLAIMS}/{digest}"
        self._beside = f"{root}/{CLAIMS}/{self.name}"
        self._held: tuple[str, tuple[int, int]] | None = None
        self._pid = os.getpid()

    def take(self) -> bool:
        """Try to become the one who builds; say whether that is so."""
        try:
            self._write(self._place)
        except FileExistsError:
            return False
        return True

    def stand_beside(self) -> None:
        """Leave a record for a stage that is not covered by the claim, which another holds."""
        self._write(self._beside)

    def step_aside(self) -> None:
        """Let others have the claim, and keep a record for the stage that stays."""
        with suppress(OSError):
            if self._held is not None and self._is_own(*self._held):
                os.rename(self._held[0], self._beside)
                self._held = self._beside, self._held[1]

    def release(self) -> None:
        """Remove the record; another's claim in our place is left alone."""
        held, self._held = self._held, None
        for _ in range(2):
            try:
                if held is not None and self._is_own(*held):
                    os.unlink(held[0])
            except FileNotFoundError:
                return
            except OSError:
                continue
            return
        if held is not None:
            _left.add(held[1])

    def remove_stage(self) -> None:
        """Remove a stage that was kept, and its record; a forked child leaves both alone."""
        if os.getpid() == self._pid:
            shutil.rmtree(self.stage, ignore_errors=True)
            self.release()

    def _write(self, path: str) -> None:
        write_record(path)
        try:
            self._held = path, _identity(os.stat(path))
        except BaseException:  # we live: nobody, nor we ourselves, would ever take it for left
            with suppress(OSError):
                os.unlink(path)
            raise

    def _is_own(self, path: str, identity: tuple[int, int]) -> bool:
        # A fork inside the maker must not end the claim of its parent.
        return os.getpid() == self._pid and _identity(os.lstat(path)) == identity


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_mtime_ns


def judge(root: str, name: str, place: str = CLAIMS) -> Holder | None:
    """Return whose record lies among the claims, or elsewhere, and whether that process lives.

    A record that nobody signs for a while is a dead owner's: it died between creating the file and
    writing into it, a moment later. One that cannot be *read*, because it is another's or its file
    server fails, tells nothing.
    """
    path = f"{root}/{place}/{name}"
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    identity, is_unsigned = _identity(status), status.st_size == 0
    if identity in _left:
        return Holder(identity, None, "dead", "this process could not remove it")
    record = None
    with suppress(OSError):
        record = read_record(path, surely=True)
        is_unsigned = record is None
    if is_unsigned:
        # abs: the clock of a file server may be ahead, and to wait for it would take for ever.
        is_old = abs(time.time() - identity[1] / 1e9) > _UNSIGNED_S
        return Holder(identity, record, "dead" if is_old else "unsigned", "it was never signed")
    judged = verdict(record, path)
    return Holder(identity, record, judged.state, judged.reason)


def set_aside(root: str, digest: str, holder: Holder) -> str:
    """Move a claim to the trash that no one will release, unless somebody was faster.

    Returns
    -------
    str
        Its name there.

    Raises
    ------
    OSError
        It cannot be moved: whoever waits for it would wait for ever.
    """
    place = f"{root}/{CLAIMS}/{digest}"
    name = f"{digest}.{holder.token or 'unsigned'}.claim"
    trash = f"{root}/{TRASH}/{name}"
    with suppress(FileNotFoundError):
        if _identity(os.lstat(place)) == holder.claim:
            os.rename(place, trash)
            if _identity(os.lstat(trash)) != holder.claim:
                os.rename(trash, place)  # taken anew in between
    return name


def poll_delays() -> Iterator[float]:
    """Yield the pauses of a waiter, s: short at first, growing to 5 s, never in step."""
    delay = _FIRST_POLL_S
    while True:
        yield delay * random.uniform(0.7, 1.0)  # noqa: S311 — jitter, not secrecy
        delay = min(delay * _GROWTH, _LONGEST_POLL_S)
