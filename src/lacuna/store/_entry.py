"""An entry: a directory of payload files beside the ``meta.json`` that was written last.

Looking an entry up is the hot path. It opens and reads the sidecar and looks at each payload file
once: on a network file system that is all there is to a hit.
"""

import errno
import json
import os
import stat
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import xxhash

from lacuna.errors import CacheDirError, CacheEntryError
from lacuna.store._digest import digest_of
from lacuna.store._layout import META, version_lag, walk
from lacuna.store._lease import Lease, is_pinned, lease, release
from lacuna.store._removal import restore

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # never hang on a fifo
_FIRST_READ = 1 << 16
_READ_CAP = 1 << 24
_LOOKS = 3
_BLOCK = 1 << 20

_TOUCH_EVERY_S = 3600.0
_MARK_S = 1_500_000_000
_MARKED_BELOW = 1_000_000_000  # in 2001 nothing was kept
_EVICTION_S = 5.0
_MARK_PAUSES_S = (0.001, 0.01, 0.03, 0.1, 0.3, 0.6)


@dataclass(slots=True, eq=False, repr=False)
class Entry:
    """A cached thing, whole and checked; a context manager while its files are in use.

    Inside the block a lease keeps everybody from deleting it. If it went before the block began,
    entering raises `CacheEntryError`: ask for it again.

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
    _leases: list[Lease] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._leases += self._leased()
        return self

    def __exit__(self, *_: object) -> None:
        if self._leases:
            release(self._leases.pop())

    def lease_for(self, user: object) -> None:
        """Keep the entry from being deleted until an object is collected, or the process ends.

        Parameters
        ----------
        user
            What reads the files, such as an array that is mapped from one.

        Raises
        ------
        CacheEntryError
            It is gone already.
        """
        for held in self._leased():
            weakref.finalize(user, release, held)

    def touch(self) -> None:
        """Note that it is used, at most once in an hour.

        Raises
        ------
        FileNotFoundError
            It is gone.
        """
        path = f"{self.directory}/{META}"
        status = os.stat(path, follow_symlinks=False)
        now = time.time()
        if now - used_at(status) <= _TOUCH_EVERY_S:
            return
        if is_being_evicted(status):
            # Without the mark of an evictor at work, others would believe that there is none.
            with suppress(PermissionError):
                _set_mark(path, now)
                return
        os.utime(path, follow_symlinks=False)

    def _leased(self) -> list[Lease]:
        """Return a lease on an entry that is surely there; none for one that nobody deletes."""
        if self.read_only or not self.root:
            return []
        held = lease(self.root, self.digest)
        try:
            self._confirm()
        except BaseException:
            release(held)
            raise
        return [held]

    def _confirm(self) -> None:
        """Wait until no one is about to evict it, and make sure that it is there.

        An evictor marks an entry before it looks at the leases. Who sees no mark after leasing will
        be seen; who sees one waits for what the evictor decides, or brings the entry back.
        """
        path = f"{self.directory}/{META}"
        for pause in (*_MARK_PAUSES_S, 0.0):
            try:
                if not is_marked(os.stat(path, follow_symlinks=False)):
                    break
            except FileNotFoundError:
                if not restore(self.root, self.digest) and not os.path.lexists(path):
                    raise CacheEntryError(
                        f"{self.label or self.product} was removed from the cache in {self.root} "
                        "before it could be used; ask for it again, and it is made anew."
                    ) from None
            except OSError:
                break  # whoever reads it will say why that fails
            time.sleep(pause)
        else:  # whoever marked it has ended, or is far too slow
            with suppress(OSError):
                os.utime(path, follow_symlinks=False)
        with suppress(OSError):
            self.touch()

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
            return used_at(os.stat(f"{self.directory}/{META}"))
        except FileNotFoundError:
            return time.time()  # somebody clears the cache at this moment

    @property
    def pinned(self) -> bool:
        """Whether it stays until it is unpinned."""
        return bool(self.root) and is_pinned(self.root, self.digest)

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


def used_at(status: os.stat_result) -> float:
    """Return when an entry was last used, from the status of its sidecar."""
    return status.st_mtime + _MARK_S * is_marked(status)


def is_marked(status: os.stat_result) -> bool:
    """Whether somebody is about to evict an entry, or ended while doing so."""
    return status.st_mtime < _MARKED_BELOW


def is_being_evicted(status: os.stat_result) -> bool:
    """Whether somebody marked an entry so lately that they may still be at work."""
    return is_marked(status) and abs(time.time() - status.st_ctime) < _EVICTION_S


def mark(directory: str) -> int | None:
    """Mark an entry as about to be evicted, unless another is at it.

    The mark is a date: it can be set where the disk is full, and tells when the entry was used.
    Of a group's entry only who made it can set one. Two that mark at once tell theirs apart by
    the last digits; who unmarks takes away only their own.

    Returns
    -------
    int or None
        The date that the sidecar has from now on, ns, as long as nobody uses the entry or marks
        it too; None if another was faster.
    """
    path = f"{directory}/{META}"
    status = os.stat(path, follow_symlinks=False)
    if is_being_evicted(status):
        return None
    with suppress(PermissionError):
        _set_mark(path, used_at(status))
    return os.stat(path, follow_symlinks=False).st_mtime_ns


def _set_mark(path: str, used_at_s: float) -> None:
    date = (int(used_at_s) - _MARK_S) * 10**9 + int.from_bytes(os.urandom(4)) % 10**9
    os.utime(path, ns=(date, date), follow_symlinks=False)


def unmark(directory: str, marked_ns: int) -> None:
    """Take our mark away, unless the entry was used since, or another marked it too."""
    path = f"{directory}/{META}"
    with suppress(OSError):
        status = os.stat(path, follow_symlinks=False)
        if status.st_mtime_ns == marked_ns and is_marked(status):
            os.utime(path, (used_at(status),) * 2, follow_symlinks=False)


def survey(root: str, *, read_only: bool = False) -> Iterator[Entry | Damage]:
    """Yield all that lies where entries lie, sorted; of a read-only root, what can be read.

    What a newer program made is none of our business, nor what an older one made in a form that
    we cannot read: it is not damaged.
    """
    try:
        for directory, is_entry in walk(root):
            lag = version_lag(directory) if is_entry else -1
            if lag < 0:
                continue
            found = read(directory, os.path.basename(directory), root=root, read_only=read_only)
            if isinstance(found, Entry) or (found is not None and lag == 0):
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
