"""Leases and pins: which entries must stay, since somebody uses or wants them.

A lease is a file ``<digest>.<owner token>.<number>`` that holds its owner's record, as a claim
does: whoever would delete the entry judges by it whether the owner lives. A process has one for
each entry that it uses, and counts its users. A forked child has none of its parent's: they end
with the parent, and what the child asks for itself it leases itself.

Where no lease can be written, because the disk is full or the place read-only, the entry is used
all the same: that it was used just now protects it for a day.
"""

import json
import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from threading import RLock

from lacuna.store._claim import Holder, judge
from lacuna.store._layout import (
    LEASES,
    PINS,
    is_temporary_name,
    make_directory,
    temporary_name,
    write_file,
)
from lacuna.utils.owner import write_record


@dataclass(frozen=True)
class DoubtfulLease:
    """A lease of which nobody can say whether its owner lives.

    Parameters
    ----------
    name
        Of its file; it begins with the digest of the entry.
    owner
        Who took it, for people.
    evidence
        Why nobody can say.
    age_s
        Time since it was taken, s.
    entry
        What it keeps, for people, if a plan knows.
    reason
        Why it was not ended, if it was to be.
    """

    name: str
    owner: str
    evidence: str
    age_s: float
    entry: str = ""
    reason: str = ""

    @property
    def digest(self) -> str:
        """The digest of the entry that it keeps."""
        return self.name.partition(".")[0]

    @property
    def label(self) -> str:
        """What it is, for people."""
        return f"lease of {self.owner} on {self.entry or self.digest[:12]}"


class Lease:
    """What one process holds on one entry.

    Parameters
    ----------
    root
        The cache root.
    digest
        Of the entry's key.
    """

    def __init__(self, root: str, digest: str) -> None:
        self.root = root
        self.digest = digest
        self._n_users = 0
        self._path: str | None = None

    def take(self) -> None:
        """Add a user; write the file, unless it is there."""
        self._n_users += 1
        # Looked at each time: the whole cache may have been removed and begun anew.
        if self._path is None or not os.path.lexists(self._path):
            self._path = self._write()

    def drop(self) -> bool:
        """Take a user away; say whether none is left, and the file is gone."""
        self._n_users -= 1
        if self._n_users == 0 and self._path is not None:
            with suppress(OSError):
                os.unlink(self._path)
        return self._n_users == 0

    def _write(self) -> str | None:
        for _ in range(2):
            path = f"{self.root}/{LEASES}/{temporary_name(self.digest)}"
            try:
                write_record(path)
                # An evictor whose clock is wrong took it for unsigned and old, and removed it.
                os.lstat(path)
            except FileNotFoundError:
                with suppress(OSError):
                    make_directory(f"{self.root}/{LEASES}")
            except OSError:
                return None
            else:
                return path
        return None


_held: dict[tuple[str, str], Lease] = {}
_lock = RLock()  # a collector may end a lease in the thread that is taking one


def _forget() -> None:
    global _lock
    _lock = RLock()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def lease(root: str, digest: str) -> Lease:
    """Say that this process uses an entry, until `release`."""
    with _lock:
        found = _held.setdefault((root, digest), Lease(root, digest))
        found.take()
        _held[root, digest] = found
        return found


def release(held: Lease) -> None:
    """Say that one user of an entry is done with it; the lease of a parent is left alone."""
    with _lock:
        key = held.root, held.digest
        if _held.get(key) is held and held.drop():
            del _held[key]


def holders(root: str, start: str = "", ignored: Collection[str] = ()) -> dict[str, str]:
    """Return who uses entries, by digest: owners that live, or of whom nothing is known.

    Parameters
    ----------
    root
        The cache root.
    start
        Beginning of the digests to look for.
    ignored
        Names of leases that do not count.

    Raises
    ------
    OSError
        The leases cannot be looked at.
    """
    found = {}
    for name, holder in _judged(root, start):
        if holder.state != "dead" and name not in ignored:
            doubt = f" ({holder.reason})" if holder.state == "unknown" else ""
            found[name.partition(".")[0]] = f"{holder}{doubt}"
    return found


def find_doubtful(root: str, older_than_s: float, start: str = "") -> list[DoubtfulLease]:
    """Return the leases of which nobody can say whether their owner lives, oldest first.

    Parameters
    ----------
    root
        The cache root.
    older_than_s
        Time since they were taken.
    start
        Beginning of their names.
    """
    found = []
    for name, holder in _judged(root, start):
        age_s = time.time() - holder.claim[1] / 1e9
        if holder.state == "unknown" and age_s > older_than_s:
            found.append(DoubtfulLease(name, str(holder), holder.reason, age_s))
    return sorted(found, key=lambda item: -item.age_s)


def _judged(root: str, start: str) -> Iterator[tuple[str, Holder]]:
    try:
        names = os.listdir(f"{root}/{LEASES}")
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name.startswith(start) and is_temporary_name(name):
            holder = judge(root, name, LEASES)
            if holder is not None:
                yield name, holder


def pin(root: str, digest: str, label: str) -> None:
    """Keep an entry until it is unpinned."""
    make_directory(f"{root}/{PINS}")
    facts = {"label": label, "pinned": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_file(f"{root}/{PINS}/{digest}", json.dumps(facts).encode())


def unpin(root: str, digest: str) -> bool:
    """Let an entry go; say whether it was pinned."""
    try:
        os.unlink(f"{root}/{PINS}/{digest}")
    except FileNotFoundError:
        return False
    return True


def is_pinned(root: str, digest: str) -> bool:
    """Whether an entry is to be kept."""
    return os.path.lexists(f"{root}/{PINS}/{digest}")
