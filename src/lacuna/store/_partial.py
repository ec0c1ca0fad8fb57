"""Partials: what came of a file so far, kept while its transfer fails, to be taken up again.

A partial is a file ``.partial/<digest>.<owner token>.<number>``. Its owner's record lies beside it,
with ``.owner`` after the same name; it is made before the partial and removed when the attempt has
ended. A partial without a record, or whose owner is proven dead, is anybody's: whoever renames it
to a name of their own has it. No name is ever used twice, so that of two who try, one succeeds.
"""

import os
import stat
import time
from contextlib import suppress
from typing import Self

from lacuna.store._claim import judge
from lacuna.store._digest import Key
from lacuna.store._layout import (
    PARTIAL,
    make_directory,
    prepare_root,
    temporary_name,
    temporary_names,
)
from lacuna.store._space import explained, require_space
from lacuna.utils.modes import share_file
from lacuna.utils.owner import write_record

OWNER = ".owner"
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

    Attributes
    ----------
    what
        The file, for people.
    """

    def __init__(self, root: str, key: Key, keep_free: int = 0) -> None:
        self.what = key.label or key.product
        self._root, self._digest, self._keep_free = root, key.digest, keep_free

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        place = f"{self._root}/{PARTIAL}"
        self._path = f"{place}/{temporary_name(self._digest)}"
        with explained(self._root, self.what):
            prepare_root(self._root)
            make_directory(place)
            write_record(self._path + OWNER)
            try:
                _take(self._root, self._digest, self._path)
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
                self._handle = os.open(self._path, flags, 0o600)
                share_file(self._handle, place)
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
        """How much is there."""
        return os.fstat(self._handle).st_size

    def read(self, n_bytes: int, offset: int) -> bytes:
        """Return a piece of what is there."""
        return os.pread(self._handle, n_bytes, offset)

    def append(self, data: bytes) -> None:
        """Add a piece."""
        with explained(self._root, self.what):
            while data:
                data = data[os.write(self._handle, data) :]

    def clear(self) -> None:
        """Throw away what is there."""
        os.ftruncate(self._handle, 0)

    def require_space(self, n_bytes: int) -> None:
        """Refuse to go on with what will not fit.

        Raises
        ------
        CacheFullError
            That many bytes more would fill the disk.
        """
        require_space(self._root, self.what, n_bytes, self._keep_free)

    def move_to(self, path: str | os.PathLike[str]) -> None:
        """Move the finished file into the entry that is made."""
        os.rename(self._path, path)

    def _let_go(self) -> None:
        with suppress(OSError):
            if not os.lstat(self._path).st_size:
                os.unlink(self._path)
        with suppress(OSError):
            os.unlink(self._path + OWNER)


def _take(root: str, digest: str, own: str) -> None:
    """Rename the largest partial of a digest that nobody owns, if there is one."""
    free = []
    for name in temporary_names(root, PARTIAL, digest):
        path = f"{root}/{PARTIAL}/{name}"
        with suppress(OSError):
            status = os.lstat(path)
            usable = stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK | os.W_OK)
            if usable and not name.endswith(OWNER) and _is_free(root, name):
                free.append((status.st_size, path))
    for _, path in sorted(free, reverse=True):
        with suppress(OSError):  # somebody was faster
            os.rename(path, own)
            with suppress(OSError):
                os.unlink(path + OWNER)
            return


def find_abandoned(root: str) -> list[str]:
    """Return partials that nobody owns and nothing was added to for a day, below the root."""
    newest: dict[str, float] = {}
    for name in temporary_names(root, PARTIAL):
        own = name.removesuffix(OWNER)
        with suppress(OSError):
            changed = os.lstat(f"{root}/{PARTIAL}/{name}").st_mtime
            newest[own] = max(newest.get(own, 0.0), changed)
    old = [name for name, changed in newest.items() if time.time() - changed >= _ABANDONED_S]
    return [f"{PARTIAL}/{name}" for name in old if _is_free(root, name)]


def abandon(root: str, name: str) -> bool:
    """Remove a partial and its record, unless it has an owner again; say whether it is gone."""
    if not _is_free(root, name):
        return False
    for path in (f"{root}/{PARTIAL}/{name}", f"{root}/{PARTIAL}/{name}{OWNER}"):
        with suppress(FileNotFoundError):  # its owner died before it was made, or after it moved
            os.unlink(path)
    return True


def _is_free(root: str, name: str) -> bool:
    holder = judge(root, name + OWNER, PARTIAL)
    return holder is None or holder.state == "dead"
