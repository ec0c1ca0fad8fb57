"""Removing: entries to the trash, trash for good, and nothing that could be reached through a link.

Every step goes from one open directory to the next by name, without following links, so that a
directory swapped for a link in the meantime leads nowhere. Of the dot-directories only names that
we gave are removed.

Trash is named ``<digest>.<owner token>.<number>``. What was evicted carries in its name where it
came from, ``….<bucket>.<version>``: it is whole, and anybody who holds a lease on it, or finds that
somebody does, renames it back. Whoever deletes it renames it first, to a name without that. So an
entry comes back whole or not at all, wherever whoever evicts it is stopped.
"""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from lacuna.store._claim import judge, set_aside
from lacuna.store._layout import (
    CLAIMS,
    LEASES,
    META,
    PARTIAL,
    STAGE,
    TRASH,
    listing,
    make_directory,
    temporary_name,
    temporary_names,
    write_file,
)
from lacuna.store._lease import DoubtfulLease, holders
from lacuna.store._partial import abandon, find_abandoned
from lacuna.store.buckets import BUCKETS

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_ELSEWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_EVICTED = re.compile(rf"([0-9a-f]{{64}})\.\w+\.\d+\.({'|'.join(BUCKETS)})\.(v\d+)")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Cleared(Generic[Item]):
    """What executing a plan came to.

    Parameters
    ----------
    removed
        What is gone.
    failed
        What was to go and could not be removed, each with the reason.
    freed_bytes
        Size of what is gone, as far as it was looked at, and of the plan's leftovers.
    spared
        What was to go and stays, since somebody used, pinned or changed it meanwhile.
    ended
        Leases that were ended.
    """

    removed: tuple[Item, ...]
    failed: tuple[Item | DoubtfulLease, ...]
    freed_bytes: int
    spared: tuple[Item, ...] = ()
    ended: tuple[DoubtfulLease, ...] = ()


@contextmanager
def opened(root: str, *parts: str) -> Iterator[int]:
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
    """Move a damaged entry to the trash; return its name there, None if it was gone already."""
    name = _throw(root, directory)
    if name is not None:
        # A full disk must not keep it from being thrown away.
        with suppress(OSError), opened(root, TRASH, name) as thrown:
            write_file("reason.json", json.dumps({"reason": reason}).encode(), below=thrown)
    return name


def evict(root: str, directory: str) -> str | None:
    """Move a whole entry to the trash, to be settled; None if it was gone already."""
    bucket, version, *_ = os.path.relpath(directory, root).split("/")
    return _throw(root, directory, f".{bucket}.{version}")


def _throw(root: str, directory: str, suffix: str = "") -> str | None:
    bucket, version, shard, digest = os.path.relpath(directory, root).split("/")
    name = temporary_name(digest) + suffix
    make_directory(f"{root}/{TRASH}")
    try:
        with opened(root, bucket, version, shard) as source, opened(root, TRASH) as trash:
            os.rename(digest, name, src_dir_fd=source, dst_dir_fd=trash)
    except OSError as error:
        if error.errno in _ELSEWHERE:
            return None
        raise
    return name


def settle(root: str, name: str) -> bool:
    """Look at the leases on trash: put it back, keep it, or remove it; say whether it is gone.

    Raises
    ------
    OSError
        The leases cannot be looked at, so that it stays.
    """
    digest = name.partition(".")[0]
    if holders(root, digest):
        _put_back(root, name)
        return False
    if _EVICTED.fullmatch(name):
        doomed = temporary_name(digest)
        try:
            with opened(root, TRASH) as trash:
                os.rename(name, doomed, src_dir_fd=trash, dst_dir_fd=trash)
        except FileNotFoundError:
            return False
        name = doomed
    _remove(root, TRASH, name)
    return True


def restore(root: str, digest: str) -> bool:
    """Put an entry back that was evicted and is not yet deleted; say whether there was one."""
    return any(_put_back(root, name) for name in temporary_names(root, TRASH, f"{digest}."))


def restore_leased(root: str) -> None:
    """Put back what whoever evicted it left in the trash, although it is in use."""
    with suppress(OSError):
        in_use = holders(root)
        for name in temporary_names(root, TRASH):
            if name.partition(".")[0] in in_use:
                _put_back(root, name)


def _put_back(root: str, name: str) -> bool:
    evicted = _EVICTED.fullmatch(name)
    if evicted is None:
        return False
    digest, bucket, version = evicted.groups()
    with suppress(OSError):  # it was made anew meanwhile, or another was faster
        with (
            opened(root, TRASH) as trash,
            opened(root, bucket, version, digest[:2]) as shard,
        ):
            with suppress(OSError):
                os.utime(f"{name}/{META}", dir_fd=trash, follow_symlinks=False)
            os.rename(name, digest, src_dir_fd=trash, dst_dir_fd=shard)
        return True
    return False


def sweep(root: str, start: str, *, wanted: bool = False) -> bool:
    """Remove what dead owners left under names that begin so: with a key's digest.

    Parameters
    ----------
    root
        The cache root.
    start
        Beginning of the names.
    wanted
        Put back what was evicted and is not yet deleted, whether or not somebody uses it.

    Returns
    -------
    bool
        Whether something was wanted, and came back.
    """
    is_back = False
    with suppress(OSError):
        for leftover in find_leftovers(root, start):
            place, name = leftover.split("/")
            if wanted and place == TRASH and _put_back(root, name):
                is_back = True
            else:
                remove_leftover(root, leftover)
    return is_back


def find_leftovers(root: str, start: str = "") -> list[str]:
    """Return trash and what nobody comes back for, as paths below the root.

    That is records of the proven dead, and, unless it is for one key, abandoned partials.
    """
    found = [f"{TRASH}/{name}" for name in temporary_names(root, TRASH, start)]
    for place in (CLAIMS, LEASES):
        for name in temporary_names(root, place, start):
            holder = judge(root, name, place)
            if holder is not None and holder.state == "dead":
                found.append(f"{place}/{name}")
    return found if start else found + find_abandoned(root)


def remove_leftover(root: str, leftover: str) -> None:
    """Remove trash, or the record of a dead owner after the stages for which it speaks.

    Trash of what is in use is put back, if it is whole, and left otherwise.
    """
    place, name = leftover.split("/")
    with suppress(OSError):
        if place == TRASH and not name.endswith(".claim"):
            settle(root, name)
            return
        if place == PARTIAL:
            abandon(root, name)
            return
        if "." not in name:
            holder = judge(root, name)
            if holder is None or holder.state != "dead":
                return
            make_directory(f"{root}/{TRASH}")
            place, name = TRASH, set_aside(root, name, holder)
        if place == CLAIMS:
            remove_stage(root, name)
        elif name.endswith(".claim"):
            for stage in os.listdir(f"{root}/{STAGE}"):  # where that fails the record must stay
                if stage.startswith(name.removesuffix("claim")):
                    remove_stage(root, stage)
        _remove(root, place, name)


def remove_stage(root: str, name: str) -> None:
    """Remove a stage; what cannot be removed now goes to the trash, to be removed later."""
    _remove(root, STAGE, name)
    # What another member of a group hid in it only that member can remove. No record will speak
    # for it from now on, but in the trash everything is left.
    with suppress(OSError), opened(root, STAGE) as source, opened(root, TRASH) as trash:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=trash)


def _remove(root: str, place: str, name: str) -> None:
    with suppress(OSError), opened(root, place) as fd:
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            shutil.rmtree(name, ignore_errors=True, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)


def leftover_size(root: str, leftover: str) -> int:
    """Return the bytes that removing a leftover frees, the stages with it."""
    place, name = leftover.split("/")
    if place == PARTIAL:
        with suppress(OSError):
            return os.lstat(f"{root}/{leftover}").st_size
    if place != CLAIMS:
        return tree_size(f"{root}/{leftover}") if place == TRASH else 0
    holder = judge(root, name)
    token = holder.token if holder else ""
    stages = temporary_names(root, STAGE, name if "." in name else f"{name}.{token}.")
    return sum(tree_size(f"{root}/{STAGE}/{stage}") for stage in stages)


def tree_size(path: str) -> int:
    """Return the bytes of all files below a directory; links count as nothing."""
    total = 0
    with suppress(OSError):
        for item in listing(path):
            if item.is_dir(follow_symlinks=False):
                total += tree_size(item.path)
            elif item.is_file(follow_symlinks=False):
                total += item.stat(follow_symlinks=False).st_size
    return total
