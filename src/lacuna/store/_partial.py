"""Partials: what came of a file so far, kept while its transfer fails, to be taken up again.

A partial is a directory ``.partial/<digest>.<owner token>.<number>``. It holds the ``content`` and,
in ``source.json``, where that comes from. Its owner's record lies beside it, with ``.owner`` after
the same name; it is made before the partial and removed when the attempt has ended. A partial
without a record, or whose owner is proven dead, is anybody's: whoever renames it to a name of their
own has it. No name is ever used twice, so that of two who try, one succeeds.
"""

import json
import os
import shutil
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

from lacuna.store._claim import judge
from lacuna.store._digest import Key
from lacuna.store._layout import (
    PARTIAL,
    TRASH,
    is_temporary_name,
    make_directory,
    prepare_root,
    temporary_name,
    write_file,
)
from lacuna.store._space import explained, require_space
from lacuna.utils.modes import share_file
from lacuna.utils.owner import read_record, write_record

CONTENT, SOURCE, OWNER = "content", "source.json", ".owner"
_ABANDONED_S = 24 * 3600.0


class Partial:
    """A file that arrives bit by bit; a context manager while it is ours.

    Entering takes what an earlier attempt left; leaving keeps what is there for the next one.

    Parameters
    ----------
    root
        The cache root.
    key
        Of the entry that the file is for.
    keep_free
        Bytes that must stay free beside it.
    """

    def __init__(self, root: str, key: Key, keep_free: int = 0) -> None:
        self._root, self._what = root, key.label or key.product
        self._digest, self._keep_free = key.digest, keep_free
        self._place = f"{root}/{PARTIAL}"
        self._own = ""
        self._handle = -1
        self._pid = 0

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        self._own = f"{self._place}/{temporary_name(self._digest)}"
        with explained(self._root, self._what):
            prepare_root(self._root)
            make_directory(self._place)
            write_record(self._own + OWNER)
            try:
                self._take()
                make_directory(self._own)
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
                self._handle = os.open(f"{self._own}/{CONTENT}", flags, 0o600)
                share_file(self._handle, self._own)
            except BaseException:
                self._let_go()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
        if os.getpid() == self._pid:  # a child that forked inside leaves it to its parent
            self._let_go()

    @property
    def size_bytes(self) -> int:
        """How much is there: before it is entered, how much could be taken up."""
        if self._own:
            return os.fstat(self._handle).st_size
        return max((size for size, _ in self._free()), default=0)

    @property
    def source(self) -> Mapping[str, Any]:
        """What was noted about where the content comes from; empty if nothing was."""
        return read_record(f"{self._own}/{SOURCE}") or {}

    def note_source(self, source: Mapping[str, Any]) -> None:
        """Replace what is noted about the source."""
        with explained(self._root, self._what):
            write_file(f"{self._own}/{SOURCE}", json.dumps(dict(source)).encode())

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Return a piece of what is there."""
        return os.pread(self._handle, n_bytes, offset)

    def append(self, data: bytes) -> None:
        """Add a piece."""
        with explained(self._root, self._what):
            view = memoryview(data)
            while view:
                view = view[os.write(self._handle, view) :]

    def clear(self) -> None:
        """Throw away what is there, and what was noted."""
        os.ftruncate(self._handle, 0)
        with suppress(FileNotFoundError):
            os.unlink(f"{self._own}/{SOURCE}")

    def require_space(self, n_bytes: int) -> None:
        """Refuse to go on with what will not fit.

        Raises
        ------
        CacheFullError
            That many bytes more would fill the disk.
        """
        require_space(self._root, self._what, n_bytes, self._keep_free)

    def move_to(self, path: str | os.PathLike[str]) -> None:
        """Move the finished file into the entry that is made."""
        os.rename(f"{self._own}/{CONTENT}", path)

    def _free(self) -> list[tuple[int, str]]:
        """Return size and path of each partial that nobody owns, the largest first."""
        found = []
        for name in _names(self._place, self._digest):
            path = f"{self._place}/{name}"
            with suppress(OSError):
                status = os.lstat(f"{path}/{CONTENT}")
                usable = os.access(f"{path}/{CONTENT}", os.R_OK | os.W_OK)
                if usable and stat.S_ISREG(status.st_mode) and _is_free(self._root, name):
                    found.append((status.st_size, path))
        return sorted(found, reverse=True)

    def _take(self) -> None:
        for _, path in self._free():
            with suppress(OSError):  # somebody was faster
                os.rename(path, self._own)
                with suppress(OSError):
                    os.unlink(path + OWNER)
                return

    def _let_go(self) -> None:
        with suppress(OSError):
            if not os.lstat(f"{self._own}/{CONTENT}").st_size:
                os.unlink(f"{self._own}/{CONTENT}")
        if not os.path.lexists(f"{self._own}/{CONTENT}"):
            shutil.rmtree(self._own, ignore_errors=True)
        with suppress(OSError):
            os.unlink(self._own + OWNER)


def find_abandoned(root: str) -> list[str]:
    """Return partials that nobody owns and nothing was added to for a day, below the root."""
    place = f"{root}/{PARTIAL}"
    newest: dict[str, float] = {}
    for name in _names(place):
        own = name.removesuffix(OWNER)
        for path in (f"{place}/{name}", f"{place}/{name}/{CONTENT}"):
            with suppress(OSError):
                newest[own] = max(newest.get(own, 0.0), os.lstat(path).st_mtime)
    old = [name for name, used in newest.items() if time.time() - used >= _ABANDONED_S]
    return [f"{PARTIAL}/{name}" for name in old if _is_free(root, name)]


def abandon(root: str, name: str) -> str | None:
    """Move a partial to the trash, unless it has an owner again; return its name there."""
    if not _is_free(root, name):
        return None
    make_directory(f"{root}/{TRASH}")
    trash = temporary_name(name.partition(".")[0])
    with suppress(FileNotFoundError):  # its owner died before it was made, or after it was moved
        os.rename(f"{root}/{PARTIAL}/{name}", f"{root}/{TRASH}/{trash}")
    with suppress(FileNotFoundError):
        os.unlink(f"{root}/{PARTIAL}/{name}{OWNER}")
    return trash


def _is_free(root: str, name: str) -> bool:
    holder = judge(root, name + OWNER, PARTIAL)
    return holder is None or holder.state == "dead"


def _names(place: str, start: str = "") -> list[str]:
    with suppress(OSError):
        names = sorted(os.listdir(place))
        return [name for name in names if name.startswith(start) and is_temporary_name(name)]
    return []
