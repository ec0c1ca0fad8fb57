"""Removing: entries to the trash, trash for good, and nothing that could be reached through a link.

Every step goes from one open directory to the next by name, without following links, so that a
directory swapped for a link in the meantime leads nowhere. Clearing decides, shows, and does: only
what lies where entries lie, below a marker of ours, is ever removed; and of the dot-directories
only names that we gave.
"""

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from lacuna.store._claim import judge, set_aside
from lacuna.store._entry import Damage, Entry, read, survey
from lacuna.store._layout import (
    CLAIMS,
    STAGE,
    TRASH,
    is_marked,
    is_temporary_name,
    listing,
    make_directory,
    temporary_name,
    write_file,
)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_ELSEWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

Select = Callable[[Entry], bool]


@contextmanager
def _opened(root: str, *parts: str) -> Iterator[int]:
    """Open a directory below a root, no part of the way below it through a link."""
    handle = os.open(root, _DIRECTORY)
    try:
        for part in parts:
            above, handle = handle, os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            os.close(above)
        yield handle
    finally:
        os.close(handle)


def discard(root: str, directory: str, reason: str) -> str | None:
    """Move an entry to the trash; return its name there, None if it was gone already."""
    bucket, version, shard, digest = os.path.relpath(directory, root).split("/")
    name = temporary_name(digest)
    make_directory(f"{root}/{TRASH}")
    try:
        with _opened(root, bucket, version, shard) as source, _opened(root, TRASH) as trash:
            os.rename(digest, name, src_dir_fd=source, dst_dir_fd=trash)
    except OSError as error:
        if error.errno in _ELSEWHERE:
            return None
        raise
    # A full disk must not keep it from being thrown away.
    with suppress(OSError), _opened(root, TRASH, name) as thrown:
        write_file("reason.json", json.dumps({"reason": reason}).encode(), below=thrown)
    return name


def sweep(root: str, start: str) -> None:
    """Remove what dead owners left under names that begin so: with a key's digest."""
    for leftover in find_leftovers(root, start):
        remove_leftover(root, leftover)


def find_leftovers(root: str, start: str = "") -> list[str]:
    """Return trash, and records whose owner is proven dead, as paths below the root."""
    found = [f"{TRASH}/{name}" for name in _names(root, TRASH, start)]
    for name in _names(root, CLAIMS, start):
        holder = judge(root, name)
        if holder is not None and holder.state == "dead":
            found.append(f"{CLAIMS}/{name}")
    return found


def remove_leftover(root: str, leftover: str) -> None:
    """Remove trash, or the record of a dead owner after the stages for which it speaks."""
    place, name = leftover.split("/")
    with suppress(OSError):
        if "." not in name:
            holder = judge(root, name)
            if holder is None or holder.state != "dead":
                return
            make_directory(f"{root}/{TRASH}")
            place, name = TRASH, set_aside(root, name, holder)
        if place == CLAIMS:
            _remove_stage(root, name)
        elif name.endswith(".claim"):
            for stage in _names(root, STAGE, name.removesuffix("claim")):
                _remove_stage(root, stage)
        _remove(root, place, name)


def _remove_stage(root: str, name: str) -> None:
    _remove(root, STAGE, name)
    # What another member of a group hid in it only that member can remove. No record will speak
    # for it from now on, but in the trash everything is left.
    with suppress(OSError), _opened(root, STAGE) as source, _opened(root, TRASH) as trash:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=trash)


def _remove(root: str, place: str, name: str) -> None:
    with suppress(OSError), _opened(root, place) as fd:
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            shutil.rmtree(name, ignore_errors=True, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)


def _names(root: str, place: str, start: str) -> list[str]:
    with suppress(OSError):
        names = sorted(os.listdir(f"{root}/{place}"))
        return [name for name in names if name.startswith(start) and is_temporary_name(name)]
    return []


def _leftover_size(root: str, leftover: str) -> int:
    """Return the bytes that removing a leftover frees, the stages with it."""
    place, name = leftover.split("/")
    if place == TRASH:
        return _tree_size(f"{root}/{leftover}")
    holder = judge(root, name)
    token = holder.token if holder else ""
    stages = _names(root, STAGE, name if "." in name else f"{name}.{token}.")
    return sum(_tree_size(f"{root}/{STAGE}/{stage}") for stage in stages)


def _tree_size(path: str) -> int:
    """Return the bytes of all files below a directory; links count as nothing."""
    total = 0
    with suppress(OSError):
        for item in listing(path):
            if item.is_dir(follow_symlinks=False):
                total += _tree_size(item.path)
            elif item.is_file(follow_symlinks=False):
                total += item.stat(follow_symlinks=False).st_size
    return total


@dataclass(frozen=True)
class Removal:
    """An entry that a plan removes, or keeps.

    Parameters
    ----------
    directory
        Where it lies.
    label
        What it is, for people.
    size_bytes
        Its payload; what removing it frees.
    reason
        Why it is kept; empty for one that goes.
    """

    directory: str
    label: str
    size_bytes: int
    reason: str = ""


@dataclass(frozen=True)
class Cleared:
    """What executing a plan came to.

    Parameters
    ----------
    removed
        Entries that are gone.
    failed
        Entries that are still there, each with the reason.
    freed_bytes
        Payload of the removed entries, and the leftovers.
    """

    removed: tuple[Removal, ...]
    failed: tuple[Removal, ...]
    freed_bytes: int


@dataclass(frozen=True)
class ClearPlan:
    """What clearing would remove; nothing happens until `execute`.

    Parameters
    ----------
    root
        The cache root.
    removals
        Entries that go.
    kept
        Entries that were selected but stay, with the reason.
    leftovers
        Trash, and records of owners proven dead; paths below the root.
    leftover_bytes
        Their size.
    unused_for_s
        Entries that were used in this time stay.
    """

    root: str
    removals: tuple[Removal, ...]
    kept: tuple[Removal, ...]
    leftovers: tuple[str, ...]
    leftover_bytes: int
    unused_for_s: float

    @property
    def expected_freed_bytes(self) -> int:
        """What executing the plan frees."""
        return sum(item.size_bytes for item in self.removals) + self.leftover_bytes

    def execute(self) -> Cleared:
        """Remove what the plan names, but for what was used, or changed, since it was made."""
        for leftover in self.leftovers:
            remove_leftover(self.root, leftover)
        removed, failed = [], []
        for item in self.removals:
            try:
                reason = self._reason_to_keep(item)
                trash = None if reason else discard(self.root, item.directory, "cleared")
            except OSError as error:
                reason, trash = str(error), None
            if reason:
                failed.append(replace(item, reason=reason))
            elif trash is not None:
                remove_leftover(self.root, f"{TRASH}/{trash}")
                removed.append(item)
        freed = sum(item.size_bytes for item in removed) + self.leftover_bytes
        return Cleared(tuple(removed), tuple(failed), freed)

    def _reason_to_keep(self, item: Removal) -> str:
        found = read(item.directory, os.path.basename(item.directory), root=self.root)
        if found is None:
            return ""
        now = _judge_entry(found, self.unused_for_s)
        return now.reason or ("" if now == item else "it is not what it was when this was planned")


def plan_clear(root: str, select: Select | None, *, unused_for_s: float) -> ClearPlan:
    """Decide what clearing a root removes; damaged entries go whatever is selected."""
    items = [
        _judge_entry(found, unused_for_s)
        for found in survey(root)
        if isinstance(found, Damage) or select is None or select(found)
    ]
    leftovers = tuple(find_leftovers(root))
    return ClearPlan(
        root,
        tuple(item for item in items if not item.reason),
        tuple(item for item in items if item.reason),
        leftovers,
        sum(_leftover_size(root, leftover) for leftover in leftovers),
        unused_for_s,
    )


def _judge_entry(found: Entry | Damage, unused_for_s: float) -> Removal:
    directory = found.directory
    reason = ""
    if isinstance(found, Damage):
        item = Removal(directory, f"damaged: {found.reason}", _tree_size(directory))
    else:
        item = Removal(directory, found.label or found.product, found.size_bytes)
        if time.time() - found.used_at < unused_for_s:
            reason = f"used in the last {unused_for_s / 3600:g} hours"
    version = os.path.dirname(os.path.dirname(directory))
    if not (is_marked(version) or is_marked(os.path.dirname(version))):
        reason = "no marker of the cache lies above it"
    return replace(item, reason=reason)
