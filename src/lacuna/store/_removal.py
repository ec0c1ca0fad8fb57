"""Taking things away: by a rename into the trash first, never through a link.

Every step goes from one open directory to the next by name, without following links, so that a
directory swapped for a link in the meantime leads nowhere.
"""

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lacuna.store._claim import Holder, find_holder, judge, set_aside
from lacuna.store._layout import (
    CLAIMS,
    STAGE,
    TRASH,
    is_marked_at,
    is_temporary_name,
    listing,
    make_directory,
    open_directory,
    temporary_name,
)

_REASON = "reason.json"
_UNSIGNED_AFTER_S = 60.0
_ELSEWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def is_marked(root: str, directory: str) -> bool:
    """Whether the bucket of an entry, or the version directory in it, carries our marker."""
    bucket, version, _, _ = Path(directory).relative_to(root).parts
    with _open(root) as root_fd:
        return any(is_marked_at(root_fd, parts) for parts in ((bucket,), (bucket, version)))


def discard(root: str, directory: str, reason: str) -> str | None:
    """Move an entry to the trash; return its name there, None if it was gone already."""
    bucket, version, shard, digest = Path(directory).relative_to(root).parts
    name = temporary_name(digest)
    with _open(root) as root_fd:
        make_directory(f"{root}/{TRASH}")
        try:
            with (
                _open(bucket, root_fd) as bucket_fd,
                _open(version, bucket_fd) as version_fd,
                _open(shard, version_fd) as shard_fd,
                _open(TRASH, root_fd) as trash_fd,
            ):
                os.rename(digest, name, src_dir_fd=shard_fd, dst_dir_fd=trash_fd)
                _note(trash_fd, name, reason)
        except OSError as error:
            if error.errno in _ELSEWHERE:
                return None
            raise
    return name


def _note(trash_fd: int, name: str, reason: str) -> None:
    """Leave the reason with the trash; a full disk must not keep it from being thrown away."""
    with suppress(OSError), _open(name, trash_fd) as fd:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(_REASON, flags, 0o600, dir_fd=fd)
        try:
            os.write(handle, json.dumps({"reason": reason}).encode())
        finally:
            os.close(handle)


@contextmanager
def _open(path: str, below: int | None = None) -> Iterator[int]:
    handle = (
        os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        if below is None
        else open_directory(path, below=below)
    )
    try:
        yield handle
    finally:
        os.close(handle)


def tree_size(path: str) -> int:
    """Return the bytes of all files below a directory; links count as nothing."""
    total = 0
    pending = [path]
    while pending:
        with suppress(OSError):
            for item in listing(pending.pop()):
                if item.is_dir(follow_symlinks=False):
                    pending.append(item.path)
                elif item.is_file(follow_symlinks=False):
                    total += item.stat(follow_symlinks=False).st_size
    return total


def remove_leftover(root: str, leftover: str) -> None:
    """Remove trash, or the record of a dead owner after the stages for which it speaks."""
    place, name = leftover.split("/")
    digest, _, attempt = name.partition(".")
    if not attempt:
        holder = find_holder(root, digest)
        if holder is None or not _is_abandoned(holder):
            return
        make_directory(f"{root}/{TRASH}")
        name = set_aside(root, digest, holder)
        place, attempt = TRASH, name.partition(".")[2]
    with suppress(OSError), _open(root) as root_fd:
        if place == CLAIMS or attempt.endswith(".claim"):
            stages = f"{digest}.{attempt.partition('.')[0]}."
            for stage in _names(root, STAGE):
                if stage.startswith(stages):
                    _remove(STAGE, stage, root_fd)
        _remove(place, name, root_fd)


def _remove(place: str, name: str, root_fd: int) -> None:
    with suppress(OSError), _open(place, root_fd) as fd:
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            shutil.rmtree(name, ignore_errors=True, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)


def sweep(root: str, digest: str, *, building: bool = False) -> None:
    """Remove what dead owners left of a key.

    Who is building has judged the key's claim already: it is the own, or must stay.
    """
    for leftover in find_leftovers(root, digest, but=digest if building else ""):
        remove_leftover(root, leftover)


def find_leftovers(root: str, digest: str = "", *, but: str = "") -> list[str]:
    """Return trash, and records whose owner is proven dead, as paths below the root."""
    trash = [f"{TRASH}/{name}" for name in _names(root, TRASH) if name.startswith(digest)]
    for name in _names(root, CLAIMS):
        if name.startswith(digest) and name != but:
            holder = judge(f"{root}/{CLAIMS}/{name}")
            if holder is not None and _is_abandoned(holder):
                trash.append(f"{CLAIMS}/{name}")
    return trash


def leftover_size(root: str, leftover: str) -> int:
    """Return the bytes that removing a leftover frees, the stages with it."""
    place, name = leftover.split("/")
    if place == TRASH:
        return tree_size(f"{root}/{leftover}")
    holder = judge(f"{root}/{leftover}")
    stages = f"{name.partition('.')[0]}.{holder.token if holder else ''}."
    names = [stage for stage in _names(root, STAGE) if stage.startswith(stages)]
    return sum(tree_size(f"{root}/{STAGE}/{stage}") for stage in names)


def _is_abandoned(holder: Holder) -> bool:
    if holder.state == "unsigned":
        # Its owner died between creating the file and writing into it, a moment later.
        return time.time() - holder.claim[1] / 1e9 > _UNSIGNED_AFTER_S
    return holder.state == "dead"


def _names(root: str, place: str) -> list[str]:
    with suppress(OSError):
        return sorted(filter(is_temporary_name, os.listdir(f"{root}/{place}")))
    return []
