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

from lacuna.store._claim import find_holder, judge, set_aside
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
_RECORDLESS_AFTER_S = 60.0
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


def remove_attempt(root: str, name: str) -> None:
    """Remove a dead attempt, or trash: the stage first, the record that speaks for it last."""
    digest, _, attempt = name.partition(".")
    if not attempt:
        with suppress(OSError):
            os.rmdir(f"{root}/{CLAIMS}/{digest}")  # not empty: claimed again since
        return
    if os.path.exists(f"{root}/{CLAIMS}/{digest}/{attempt}"):
        make_directory(f"{root}/{TRASH}")
        set_aside(root, digest, attempt)
    with suppress(OSError), _open(root) as root_fd:
        for place in (STAGE, TRASH, CLAIMS):
            with suppress(OSError), _open(place, root_fd) as place_fd:
                _remove(name, place_fd)


def _remove(name: str, below: int) -> None:
    if stat.S_ISDIR(os.stat(name, dir_fd=below, follow_symlinks=False).st_mode):
        shutil.rmtree(name, ignore_errors=True, dir_fd=below)
    else:
        os.unlink(name, dir_fd=below)


def sweep(root: str, digest: str, *, building: bool = False) -> None:
    """Remove what dead owners left of a key: trash, claims, and the stages that go with them.

    Who is building has judged the key's claim already: it is the own, or must stay.
    """
    for name in find_abandoned(root, digest, claimed=building):
        remove_attempt(root, name)


def find_abandoned(root: str, digest: str = "", *, claimed: bool = False) -> list[str]:
    """Return the names of trash, of attempts of the proven dead, and of half-released claims."""
    trash = [name for name in _names(root, TRASH) if name.startswith(digest)]
    claims = f"{root}/{CLAIMS}"
    for name in _names(root, CLAIMS):
        if not name.startswith(digest):
            continue
        if "." in name:
            if _is_abandoned(f"{claims}/{name}", name.partition(".")[2]):
                trash.append(name)
        elif claimed:
            continue
        elif (holder := find_holder(root, name)) is None:
            trash.append(name)
        elif holder.state == "dead":
            trash.append(f"{name}.{holder.attempt}")
    return trash


def _is_abandoned(path: str, attempt: str) -> bool:
    holder = judge(path, attempt)
    if holder.record is not None:
        return holder.state == "dead"
    # Its owner died between making the directory and writing the record, a moment later.
    with suppress(OSError):
        return time.time() - os.stat(path).st_mtime > _RECORDLESS_AFTER_S
    return False


def _names(root: str, place: str) -> list[str]:
    with suppress(OSError):
        return sorted(filter(is_temporary_name, os.listdir(f"{root}/{place}")))
    return []
