"""Writing a file beside its place and renaming it: readers see the old one or the whole new one."""

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from lacuna.errors import CacheFullError
from lacuna.utils.filesystem import free_space
from lacuna.utils.owner import PROCESS, current_owner, unique_name

MAX_NAME_CHARACTERS = 150
"""Of the name kept in a temporary one: file systems allow 255 bytes in all."""

SYNCS_AT_ONCE = 4
"""Threads that wait for the disk, which writes many small files in little more time than one."""

MOST_PENDING = 2 * SYNCS_AT_ONCE
"""Files of one thread that wait for the disk, each an open file."""

_later: ContextVar[Callable[[Path, int], None] | None] = ContextVar("later", default=None)
_watch: ContextVar[Callable[[Path], None] | None] = ContextVar("watch", default=None)


@contextmanager
def watching(note: Callable[[Path], None]) -> Iterator[list[Path]]:
    """Be told of every file that this thread writes, before it is there.

    Parameters
    ----------
    note
        Called with the path, and before that with the one beside it.

    Yields
    ------
    paths
        Of the files so far.
    """
    written: list[Path] = []

    def watch(path: Path) -> None:
        note(path)
        written.append(path)

    token = _watch.set(watch)
    try:
        yield written
    finally:
        _watch.reset(token)


@contextmanager
def reaching_disk() -> Iterator[None]:
    """Go on while the disk writes the files of this thread; in the end all are there.

    For files that nothing vouches for before the end: each has its name before it is safe from a
    loss of power, not only of this process.

    Raises
    ------
    OSError
        One of them could not be kept; `CacheFullError` as `replacing`.
    """
    pool, pending = ThreadPoolExecutor(SYNCS_AT_ONCE), list[Future[None]]()

    def later(path: Path, handle: int) -> None:
        if len(pending) >= MOST_PENDING:  # a slow disk must not use up the files one may open
            pending[-MOST_PENDING].result()
        pending.append(pool.submit(_sync, path, os.dup(handle)))

    token = _later.set(later)
    try:
        with pool:
            yield
        for future in pending:
            future.result()
    finally:
        _later.reset(token)


def _sync(path: Path, handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if _means_full(error, path):
            raise _full(error, path) from error
        raise
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of another once everything is written.

    Parameters
    ----------
    path
        The file to make or replace; its directory must exist.

    Yields
    ------
    stream
        A file in the same directory, removed if the block raises.

    Raises
    ------
    CacheFullError
        There is no space, quota or inode left for it.
    """
    path = Path(path)
    # The name begins with a dot and keeps no known extension: no search for images or
    # tractograms finds a file that is being written. It says whose it is.
    mark = unique_name(current_owner().token, PROCESS)
    beside = path.with_name(f".{path.name[:MAX_NAME_CHARACTERS]}.{mark}.part")
    watch, later = _watch.get(), _later.get()
    try:
        if watch is not None:
            watch(beside)
        with beside.open("xb") as stream:
            yield stream
            stream.flush()
            if later is None:
                os.fsync(stream.fileno())
            else:
                later(path, stream.fileno())
        if watch is not None:
            watch(path)
        beside.replace(path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            beside.unlink()
        if isinstance(error, OSError) and _means_full(error, beside):
            raise _full(error, path) from error
        raise


def _means_full(error: OSError, path: Path) -> bool:
    """Whether no room is left for a file; an error that names another is not about this one."""
    is_ours = error.filename in (None, str(path))
    return error.errno in (errno.ENOSPC, errno.EDQUOT) and is_ours


def _full(error: OSError, path: Path) -> CacheFullError:
    """Return the error that says where no room is left: a write that fails names no file."""
    folder = path.absolute().parent
    n_bytes = free_space(folder)[0]
    left = "" if n_bytes is None else f"; {n_bytes / 1e6:.1f} MB are free on the disk"
    return CacheFullError(
        error.errno,
        f"{path.name} could not be written to {folder}: {error.strerror}{left}. Make room there, "
        "or write to a folder on another disk; no part of the file was left.",
        str(path),
    )
