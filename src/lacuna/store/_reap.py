"""Reaping: removing the scratch of processes that are proven to have ended.

Decided from names and owners' records, shown, and done; each item is judged again just before it
goes. To take living scratch for dead would be the worst failure there is, so whatever is not
proven stays: what another host or container made, what has no record, what a link leads to.
"""

import errno
import os
import random
import re
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lacuna.store._layout import listing
from lacuna.store._removal import Cleared, opened, tree_size
from lacuna.utils.filesystem import mount_points
from lacuna.utils.owner import (
    CALLER,
    PROCESS,
    RECORD_PREFIX,
    current_owner,
    read_record,
    record_name,
    unique_name,
    verdict,
)

AskJobs = Callable[[Collection[str]], Mapping[str, bool | None]]

_DAY_S = 86_400.0
_MOST_OWNERS = 128
# Looked for at every place: whoever puts one temporary name into another has two owners.
_SIGNED = re.compile(r"(?=([0-9a-f]{12})_([pc])[a-z0-9_]{8})")
_RECORD = re.compile(re.escape(RECORD_PREFIX) + r"([0-9a-f]{12})\.json")
_WEAKEST = ("dead", "unknown", "alive")


@dataclass(frozen=True)
class Scratch:
    """A temporary directory or file, or the record of an owner.

    Parameters
    ----------
    path
        Where it lies.
    kind
        ``directory``, ``file``, or ``record``: the hidden file that describes an owner.
    lifetime
        ``process`` (ends with it) or ``caller`` (outlives it); empty for a record.
    uid
        Number of the user to whom it belongs.
    owner
        Who made it, for people.
    state
        Whether the owner lives: ``alive``, ``dead`` (proven) or ``unknown``.
    evidence
        What that rests on.
    job
        The scheduler's job in which it was made, as ``SLURM_JOB_ID=4711``; None outside of one.
    removable
        Whether it goes.
    reason
        Why it goes, or stays.
    size_bytes
        Of its files; None where they were not looked at.
    """

    path: Path
    kind: str
    lifetime: str
    uid: int
    owner: str
    state: str
    evidence: str
    job: str | None
    removable: bool = False
    reason: str = ""
    size_bytes: int | None = None

    @property
    def label(self) -> str:
        """What it is called."""
        return self.path.name


@dataclass(frozen=True)
class _Rules:
    """What decides besides the verdict; as `plan_reap` takes it."""

    now: float
    jobs: AskJobs | None
    foreign_older_than_s: float | None
    caller_unmodified_s: float

    def idle_s(self, item: Scratch) -> float | None:
        """Return for how long an item must not have been modified; None if it stays anyway."""
        return self.caller_unmodified_s if item.state == "dead" else self.foreign_older_than_s


@dataclass(frozen=True)
class ReapPlan:
    """What reaping would remove, and what it leaves and why; nothing happens until `execute`.

    Parameters
    ----------
    base
        The directory that holds the scratch.
    items
        All of it that carries an owner's token, by name; then records.
    """

    base: Path
    items: tuple[Scratch, ...]
    _rules: _Rules = field(repr=False)

    @property
    def removals(self) -> tuple[Scratch, ...]:
        """What goes."""
        return tuple(item for item in self.items if item.removable)

    @property
    def expected_freed_bytes(self) -> int:
        """What executing the plan frees."""
        return sum(item.size_bytes or 0 for item in self.removals)

    def execute(self) -> Cleared[Scratch]:
        """Remove what the plan names, unless it looks different by now."""
        removed, failed = [], []
        judge = _Judge(self.base, self._rules)
        judge.ask(self.removals)
        in_use: set[str] | None = None
        for item in self.removals:
            name = item.path.name
            if item.kind == "record":  # these come last
                if in_use is None:
                    in_use = set(_tokens_in(os.listdir(self.base)))
                if in_use.intersection(_tokens_of(name)):
                    continue  # still needed, to judge what could not be removed
            described = judge.describe(name)
            now = described and judge.decide(described)
            problem = now and (_remove(now, self._rules) if now.removable else now.reason)
            if problem and os.path.lexists(item.path):
                failed.append(replace(item, removable=False, reason=problem))
            else:
                removed.append(item)
        if removed or failed:
            current_owner().release(os.fspath(self.base))
        freed = sum(item.size_bytes or 0 for item in removed)
        return Cleared(tuple(removed), tuple(failed), freed)


def plan_reap(
    base: Path | str,
    *,
    now: float | None = None,
    jobs: AskJobs | None = None,
    foreign_older_than_s: float | None = None,
    caller_unmodified_s: float = 7 * _DAY_S,
) -> ReapPlan:
    """Decide which scratch nobody uses any more.

    What ends with its process goes once that is proven dead. What is a caller's goes then too, if
    nothing in it was modified for a while, and if the job in which it was made is over.

    Parameters
    ----------
    base
        The directory that holds the scratch.
    now
        Seconds since 1970 from which ages count; the clock's by default.
    jobs
        Tells which jobs are not over, as `ask_schedulers` does; what was made in one of them
        stays, and what was made in one of which nothing is said. Nobody is asked by default.
    foreign_older_than_s
        Remove also what nothing is proven about, if nothing in it was modified for so long.
    caller_unmodified_s
        How long a caller's scratch stays after it was last modified.

    Raises
    ------
    OSError
        The directory is there, but cannot be read.
    """
    rules = _Rules(
        time.time() if now is None else now, jobs, foreign_older_than_s, caller_unmodified_s
    )
    plan = _plan(base, rules, None)
    sized = (
        replace(item, size_bytes=tree_size(os.fspath(item.path)))
        if item.size_bytes is None
        else item
        for item in plan.items
    )
    return replace(plan, items=tuple(sized))


def reap_ended(base: Path | str) -> Cleared[Scratch]:
    """Remove scratch that was to end with its process, where that is proven dead; ask nobody.

    One listing finds it; of a crowd of owners only some are judged, others at the next call.

    Raises
    ------
    OSError
        The directory is there, but cannot be read.
    """
    mine = current_owner().token
    return _plan(base, _Rules(time.time(), None, None, float("inf")), mine).execute()


def _plan(base: Path | str, rules: _Rules, mine: str | None) -> ReapPlan:
    """Judge everything; or, on behalf of an owner, what a sample of all others left behind."""
    try:
        names = sorted(os.listdir(base))
    except FileNotFoundError:
        names = []
    records = {found[1]: found[0] for name in names if (found := _RECORD.fullmatch(name))}
    signed = [name for name in names if _SIGNED.search(name)]
    if mine is not None:
        tokens = sorted({*records, *_tokens_in(signed)} - {mine})
        # Thousands of tasks must not each read the records of all others when they start.
        some = set(random.sample(tokens, min(_MOST_OWNERS, len(tokens))))
        signed = [name for name in signed if some.issuperset(_tokens_in([name]))]
        signed = [name for name in signed if CALLER not in _lifetimes(name)]
        records = {token: name for token, name in records.items() if token in some}
    judge = _Judge(Path(base), rules)
    described = [item for name in signed if (item := judge.describe(name))]
    judge.ask(described)
    items = [judge.decide(item) for item in described]
    going = Counter(_tokens_in(item.path.name for item in items if item.removable))
    carried = Counter(_tokens_in(names))
    for token, name in records.items():
        item = judge.describe(name) if carried[token] == going[token] else None
        if item is not None and item.state != "alive":
            items.append(judge.decide(item))
    return ReapPlan(Path(base), tuple(items), rules)


class _Judge:
    """Looks at what lies in a base, and decides by rules what may go.

    Parameters
    ----------
    base
        The directory that holds the scratch.
    rules
        What decides besides the verdict.
    """

    def __init__(self, base: Path, rules: _Rules) -> None:
        self._base = base
        self._rules = rules
        self._jobs: Mapping[str, bool | None] = {}

    @cached_property
    def _mounts(self) -> list[str]:
        return mount_points()

    def ask(self, items: Iterable[Scratch]) -> None:
        """Ask once whether the jobs of all that may go are over."""
        jobs = {item.job for item in items if item.job and item.state != "alive"}
        if self._rules.jobs is not None and jobs:
            self._jobs = self._rules.jobs(jobs)

    def describe(self, name: str) -> Scratch | None:
        """Return what a name stands for; None if it is gone, or is none of ours."""
        path = self._base / name
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        is_record = _RECORD.fullmatch(name) is not None
        if stat.S_ISDIR(status.st_mode) and not is_record:
            kind, size = "directory", None
        elif stat.S_ISREG(status.st_mode):
            kind, size = "record" if is_record else "file", status.st_size
        else:
            return None
        owners = [self._owner(token, status.st_uid) for token in set(_tokens_of(name))]
        state, evidence, record = max(owners, key=lambda owner: _WEAKEST.index(owner[0]))
        lifetime = "" if is_record else ("caller" if CALLER in _lifetimes(name) else "process")
        who = f"process {record.get('pid')} on {record.get('host')}" if record else "a process"
        job = next((job for *_, by in owners if isinstance(job := by.get("job"), str)), None)
        facts = (lifetime, status.st_uid, who, state, evidence, job)
        return Scratch(path, kind, *facts, size_bytes=size)

    def decide(self, item: Scratch) -> Scratch:
        """Return an item with its fate."""
        may_go, reason = self._judge(item)
        return replace(item, removable=may_go, reason=reason)

    def _owner(self, token: str, uid: int) -> tuple[str, str, Mapping[str, Any]]:
        """Return state, evidence and record of the owner of a token."""
        path = self._base / record_name(token)
        try:
            status = path.lstat()
        except FileNotFoundError:
            return "unknown", "it left no record", {}
        # Where several users share a directory, one could declare another's process dead.
        if status.st_uid != uid:
            return "unknown", f"its record was written by another user ({status.st_uid})", {}
        record = read_record(path)
        if record is None or record.get("token") != token:
            return "unknown", "it left no record that can be read", {}
        judged = verdict(record, path)
        return judged.state, judged.reason, record

    def _judge(self, item: Scratch) -> tuple[bool, str]:
        """Return whether an item may go, and why."""
        rules = self._rules
        if item.uid != os.geteuid():
            return False, f"it belongs to another user ({item.uid})"
        if item.state == "alive":
            return False, "its owner lives"
        job = None if item.kind == "record" else item.job
        if job and rules.jobs is not None and (live := self._jobs.get(job)) is not False:
            return False, f"{job} is not over" if live else f"nobody says whether {job} is over"
        inside = os.path.join(os.path.realpath(item.path), "")
        if any(point.startswith(inside) for point in self._mounts):
            return False, "something is mounted in it"
        if item.state == "dead" and item.lifetime != "caller":
            return True, "its owner has ended"
        if item.state == "dead" and job and rules.jobs is None:
            return False, f"nobody was asked whether {job} is over"
        if item.size_bytes == 0 and item.kind == "record":
            may_go = not _is_modified_since(item.path, rules.now - _DAY_S)
            return may_go, "nothing was ever written into it"
        idle_s = rules.idle_s(item)
        if idle_s is None:
            return False, "nothing proves that its owner has ended"
        if _is_modified_since(item.path, rules.now - idle_s):
            return False, f"it was modified in the last {_in_days(idle_s)}"
        return True, f"it was not modified for {_in_days(idle_s)}"


def _remove(item: Scratch, rules: _Rules) -> str:
    """Remove what was judged; return why it is still there, if it is."""
    name = item.path.name
    try:
        with opened(os.fspath(item.path.parent)) as base:
            if item.kind != "directory":
                os.unlink(name, dir_fd=base)
                return ""
            if item.state != "dead" or item.lifetime == "caller":
                name = _set_aside(item, base, rules.now - (rules.idle_s(item) or 0.0))
            shutil.rmtree(name, ignore_errors=True, dir_fd=base)
            with suppress(FileNotFoundError):
                _open_up(name, base)
                shutil.rmtree(name, dir_fd=base)
    except FileNotFoundError:
        return ""  # another was faster
    except (OSError, RecursionError) as error:
        return f"it could not be removed: {error}"
    return ""


def _set_aside(item: Scratch, base: int, since: float) -> str:
    """Give a directory a name of this process's own: half of one must not look whole.

    Raises
    ------
    OSError
        It was modified in the meantime, and is where it was; or it cannot be renamed.
    """
    me, before = current_owner(), item.path.name
    name = "reaped_" + unique_name(me.token, PROCESS)
    with me.lock:
        with suppress(OSError):  # on a full disk we go on without a record
            me.sign(os.fspath(item.path.parent))
        os.rename(before, name, src_dir_fd=base, dst_dir_fd=base)
    if not _is_modified_since(item.path.with_name(name), since):
        return name
    for place in (before, before + ".kept"):
        with suppress(OSError):
            os.rename(name, place, src_dir_fd=base, dst_dir_fd=base)
            break
    raise OSError(errno.EBUSY, "it was modified just now", os.fspath(item.path))


def _open_up(name: str, above: int) -> None:
    """Let this user enter a directory and those below, by descriptors."""
    # Without permission it can only be opened as a place, and only be changed through /proc.
    flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
    place = os.open(name, flags, dir_fd=above)
    try:
        os.chmod(f"/proc/self/fd/{place}", 0o700)
        handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=place)
        try:
            with os.scandir(handle) as items:
                below = [item.name for item in items if item.is_dir(follow_symlinks=False)]
            for inner in below:
                _open_up(inner, handle)
        finally:
            os.close(handle)
    finally:
        os.close(place)


def _is_modified_since(path: Path, since: float) -> bool:
    """Whether anything in a tree is newer, or cannot be looked at."""
    try:
        return any(status.st_mtime > since for status in _tree(path))
    except OSError:
        return True


def _tree(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of a file, or of a directory and all below it; links are not followed."""
    yield path.lstat()
    places = [os.fspath(path)]
    while places:
        try:
            items = listing(places.pop())
        except (FileNotFoundError, NotADirectoryError):
            continue
        for item in items:
            with suppress(FileNotFoundError):
                yield item.stat(follow_symlinks=False)
                if item.is_dir(follow_symlinks=False):
                    places.append(item.path)


def _tokens_of(name: str) -> list[str]:
    """Return the tokens that a name carries, also that of a record."""
    record = _RECORD.fullmatch(name)
    return [record[1]] if record else [found[1] for found in _SIGNED.finditer(name)]


def _tokens_in(names: Iterable[str]) -> Iterator[str]:
    """Yield the tokens that names carry, but for records; each as often as names carry it."""
    for name in names:
        yield from {found[1] for found in _SIGNED.finditer(name)}


def _lifetimes(name: str) -> set[str]:
    return {found[2] for found in _SIGNED.finditer(name)}


def _in_days(seconds: float) -> str:
    return f"{seconds / _DAY_S:.3g} days"
