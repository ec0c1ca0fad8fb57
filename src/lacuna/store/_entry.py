"""An entry: a directory of payload files beside the ``meta.json`` that was written last.

Looking an entry up is the hot path. It opens and reads the sidecar and looks at each payload file
once: on a network file system that is all there is to a hit.
"""

import errno
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import xxhash

from lacuna.errors import CacheDirError
from lacuna.store._digest import digest_of
from lacuna.store._layout import META, walk

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # never hang on a fifo
_FIRST_READ = 1 << 16
_READ_CAP = 1 << 24
_LOOKS = 3
_BLOCK = 1 << 20


@dataclass(slots=True, eq=False, repr=False)
class Entry:
    """A cached thing, whole and checked; a context manager while its files are in use.

    Parameters
    ----------
    directory
        Where its files lie.
    meta
        What ``meta.json`` says: key, label, files, when it was made and how long that took.
    root
        The cache root that it belongs to.
    read_only
        Whether it lies in a root that is never written.
    """

    directory: str
    meta: Mapping[str, Any]
    root: str = ""
    read_only: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    @property
    def path(self) -> Path:
        """The directory that holds the payload files under their real names."""
        return Path(self.directory)

    @property
    def digest(self) -> str:
        """The digest of the key, 64 hexadecimal digits."""
        return str(self.meta["digest"])

    @property
    def product(self) -> str:
        """What kind of thing it is."""
        return str(self.meta["key"]["product"])

    @property
    def bucket(self) -> str:
        """The bucket in which it lies."""
        return str(self.meta["bucket"])

    @property
    def label(self) -> str:
        """What it is, for people."""
        return str(self.meta["label"])

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the payload files, relative to the directory."""
        return tuple(self.meta["files"])

    @property
    def size_bytes(self) -> int:
        """Sum of the payload files' sizes."""
        return sum(fact["size"] for fact in self.meta["files"].values())

    @property
    def used_at(self) -> float:
        """When it was last asked for, to within an hour; seconds since the epoch."""
        try:
            return os.stat(f"{self.directory}/{META}").st_mtime
        except FileNotFoundError:
            return time.time()  # somebody clears the cache at this moment

    @property
    def made_in_s(self) -> float:
        """How long it took to make, s."""
        return float(self.meta["seconds"])


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

    Damage is believed when it was seen three times in a row: an entry that is published, or
    replaced, between two steps of a look shows parts of two states. So does a stale handle on
    NFS, which is that of a file that was replaced.

    Raises
    ------
    CacheDirError
        The place cannot be read at all.
    """
    for look in range(_LOOKS):
        try:
            found = _read(directory, digest, root, read_only)
        except OSError as error:
            if error.errno == errno.ESTALE and look < _LOOKS - 1:
                continue
            found = _missing(error, directory, error.filename or f"{directory}/{META}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            found = Damage(directory, f"{META} cannot be read")
        if not isinstance(found, Damage):
            break
    return found


def _read(directory: str, digest: str, root: str, read_only: bool) -> Entry | Damage | None:
    meta = json.loads(read_file(f"{directory}/{META}").decode())
    if meta["digest"] != digest:
        return Damage(directory, f"{META} belongs to {str(meta['digest'])[:12]}")
    for name, fact in meta["files"].items():
        status = os.lstat(f"{directory}/{name}")
        if not stat.S_ISREG(status.st_mode):
            return Damage(directory, f"{name} is no longer a file")
        if status.st_size != fact["size"]:
            sizes = f"{status.st_size} bytes where {fact['size']} were written"
            return Damage(directory, f"{name} has {sizes}")
    return Entry(directory, meta, root, read_only)


def read_file(path: str) -> bytes:
    """Return what a small file holds, never through a link, and never more than 16 MB."""
    handle = os.open(path, _READ)
    try:
        data = os.read(handle, _FIRST_READ)
        if len(data) == _FIRST_READ:
            while len(data) < _READ_CAP and (more := os.read(handle, _FIRST_READ)):
                data += more
    finally:
        os.close(handle)
    return data


def _missing(error: OSError, directory: str, path: str) -> Damage | None:
    """Tell a missing entry from one that lost files, and both from a place that fails."""
    if error.errno == errno.ENOENT and not os.path.lexists(directory):
        return None
    if error.errno == errno.ENOTDIR and not os.path.isdir(directory):
        return None  # somebody's file, which is not ours to throw away
    name = os.path.relpath(path, directory)
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


def survey(root: str, *, read_only: bool = False) -> Iterator[Entry | Damage]:
    """Yield all that lies where entries lie, sorted; of a read-only root, what can be read."""
    try:
        for directory, is_entry in walk(root):
            digest = os.path.basename(directory)
            if is_entry and (found := read(directory, digest, root=root, read_only=read_only)):
                yield found
    except OSError:
        if not read_only:
            raise


def rehash(entry: Entry) -> Damage | None:
    """Read every payload file again and compare it with what was written."""
    directory = entry.directory
    if digest_of(entry.meta["key"]) != entry.digest:
        return Damage(directory, f"the key in {META} was altered")
    for name, fact in entry.meta["files"].items():
        path = f"{directory}/{name}"
        try:
            handle = os.open(path, _READ)
            try:
                found = hash_file(handle, fact["size"])
            finally:
                os.close(handle)
        except OSError as error:
            return _missing(error, directory, path)
        if found != fact["xxh3_128"]:
            return Damage(directory, f"{name} no longer holds what was written (bit rot)")
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
