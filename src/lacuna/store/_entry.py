"""An entry: a directory of payload files beside the ``meta.json`` that was written last.

Looking an entry up is the hot path. It opens and reads the sidecar and looks at each payload file
once: on a network file system that is all there is to a hit.
"""

import errno
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import xxhash

from lacuna.errors import CacheDirError
from lacuna.store._digest import digest_of
from lacuna.store._layout import META

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # never hang on a fifo
_FIRST_READ = 1 << 16
_META_CAP = 1 << 24
_ESTALE_ATTEMPTS = 3
_REGULAR = stat.S_IFREG
_FORMAT_MASK = 0o170000
_BLOCK = 1 << 20
_decode = json.JSONDecoder().decode


class Entry:
    """A cached thing, whole and checked; a context manager while its files are in use.

    Parameters
    ----------
    directory
        Where its files lie.
    meta
        What ``meta.json`` says.
    root
        The cache root that it belongs to.
    read_only
        Whether it lies in a root that is never written.
    """

    __slots__ = ("_meta", "directory", "read_only", "root")

    def __init__(
        self, directory: str, meta: dict[str, Any], *, root: str = "", read_only: bool = False
    ) -> None:
        self.directory = directory
        self._meta = meta
        self.root = root
        self.read_only = read_only

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def __repr__(self) -> str:
        return f"<Entry {self.label or self.product} {self.digest[:12]} in {self.directory}>"

    @property
    def path(self) -> Path:
        """The directory that holds the payload files under their real names."""
        return Path(self.directory)

    @property
    def meta(self) -> Mapping[str, Any]:
        """Everything that the sidecar records: key, label, files, when and how long it took."""
        return MappingProxyType(self._meta)

    @property
    def digest(self) -> str:
        """The digest of the key, 64 hexadecimal digits."""
        return str(self._meta["digest"])

    @property
    def product(self) -> str:
        """What kind of thing it is."""
        return str(self._meta["key"]["product"])

    @property
    def bucket(self) -> str:
        """The bucket in which it lies."""
        return str(self._meta["bucket"])

    @property
    def label(self) -> str:
        """What it is, for people."""
        return str(self._meta["label"])

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the payload files, relative to the directory."""
        return tuple(self._meta["files"])

    @property
    def size_bytes(self) -> int:
        """Sum of the payload files' sizes."""
        return sum(fact["size"] for fact in self._meta["files"].values())

    @property
    def used_at(self) -> float:
        """When it was last asked for, to within an hour; seconds since the epoch."""
        return os.stat(f"{self.directory}/{META}").st_mtime

    @property
    def made_in_s(self) -> float:
        """How long it took to make, s."""
        return float(self._meta["seconds"])


@dataclass(frozen=True)
class Damage:
    """What is wrong with an entry.

    Parameters
    ----------
    directory
        Where the entry lies.
    reason
        A clause that follows "because".
    """

    directory: str
    reason: str


def read(
    directory: str, digest: str, *, root: str = "", read_only: bool = False
) -> Entry | Damage | None:
    """Look an entry up: whole, damaged, or not there.

    Raises
    ------
    CacheDirError
        The place cannot be read at all.
    """
    for _ in range(_ESTALE_ATTEMPTS):
        try:
            return _read(directory, digest, root, read_only)
        except OSError as error:
            # NFS: the cached handle of a file that was replaced; another look-up finds the new one.
            if error.errno != errno.ESTALE:
                return _missing(error, directory)
            stale = error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return Damage(directory, f"{META} cannot be read")
    return _missing(stale, directory)


def _read(directory: str, digest: str, root: str, read_only: bool) -> Entry | Damage:
    meta = _decode(_read_meta(f"{directory}/{META}").decode())
    if meta["digest"] != digest:
        return Damage(directory, f"{META} belongs to {str(meta['digest'])[:12]}")
    for name, fact in meta["files"].items():
        status = os.lstat(f"{directory}/{name}")
        if status.st_size != fact["size"] or status.st_mode & _FORMAT_MASK != _REGULAR:
            return Damage(directory, _difference(name, status, fact["size"]))
    return Entry(directory, meta, root=root, read_only=read_only)


def _read_meta(path: str) -> bytes:
    handle = os.open(path, _READ)
    try:
        data = os.read(handle, _FIRST_READ)
        if len(data) == _FIRST_READ:
            while len(data) < _META_CAP and (more := os.read(handle, _FIRST_READ)):
                data += more
    finally:
        os.close(handle)
    return data


def _difference(name: str, status: os.stat_result, size: int) -> str:
    if not stat.S_ISREG(status.st_mode):
        return f"{name} is no longer a file"
    return f"{name} has {status.st_size} bytes where {size} were written"


def _missing(error: OSError, directory: str) -> Damage | None:
    """Tell a missing entry from one that lost files, and both from a place that fails."""
    if error.errno == errno.ENOENT and not os.path.lexists(directory):
        return None
    if error.errno == errno.ENOTDIR and not os.path.isdir(directory):
        return None  # somebody's file, which is not ours to throw away
    name = os.path.relpath(error.filename, directory) if error.filename else META
    if error.errno == errno.ENOENT:
        return Damage(directory, f"{name} is gone")
    if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EIO, errno.ENXIO):
        return Damage(directory, f"{name} cannot be read ({error.strerror})")
    raise CacheDirError(
        error.errno,
        f"The cache entry {directory} cannot be read: {error.strerror}. Look at the permissions, "
        "or set cache_dir, LACUNA_CACHE_DIR or --cache-dir to another place.",
        directory,
    ) from error


def rehash(entry: Entry) -> Damage | None:
    """Read every payload file again and compare it with what was written."""
    directory = entry.directory
    try:
        if digest_of(entry.meta["key"]) != entry.digest:
            return Damage(directory, f"the key in {META} was altered")
        for name, fact in entry.meta["files"].items():
            handle = os.open(f"{directory}/{name}", _READ)
            try:
                found = hash_file(handle, fact["size"])
            finally:
                os.close(handle)
            if found != fact["xxh3_128"]:
                return Damage(directory, f"{name} no longer holds what was written (bit rot)")
    except OSError as error:
        return _missing(error, directory)
    return None


def hash_file(handle: int, size: int = _BLOCK) -> str:
    """Return the xxh3-128 of an open file of about that size, in 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    block = bytearray(min(_BLOCK, size + 1))
    view = memoryview(block)
    offset = 0
    while count := os.preadv(handle, [view], offset):
        digest.update(view[:count])
        offset += count
    return digest.hexdigest()


def refresh(entry: Entry, every_s: float) -> None:
    """Note that an entry was asked for, unless it was noted lately; never fails."""
    path = f"{entry.directory}/{META}"
    try:
        if time.time() - os.stat(path).st_mtime > every_s:
            os.utime(path, follow_symlinks=False)
    except OSError:
        return
