"""Writing a file beside its place and renaming it: readers see the old one or the whole new one."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from lacuna.errors import CacheFullError
from lacuna.utils.filesystem import free_space
from lacuna.utils.owner import PROCESS, current_owner, unique_name

MAX_NAME_CHARACTERS = 150
"""Of the name kept in a temporary one: file systems allow 255 bytes in all."""

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
    watch = _watch.get()
    try:
        if watch is not None:
            watch(beside)
        with beside.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
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
