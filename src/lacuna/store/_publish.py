"""Publishing: stage, write, sync, check, describe, rename.

One rename of a directory makes an entry, so no reader sees half of one. Renaming onto a directory
that is not empty fails: the first writer wins, whoever held which claim.
"""

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacuna.errors import CacheEntryError
from lacuna.store._digest import Key
from lacuna.store._entry import Damage, Entry, hash_file, read
from lacuna.store._layout import META, listing, prepare
from lacuna.store._removal import discard
from lacuna.store._space import explained, full_error

_FORMAT = 1
_HASH_WHILE_SYNCING_BYTES = 1 << 23
_LOOKS_FOR_WINNER = 5

Make = Callable[[Path], None]


@dataclass(frozen=True)
class Place:
    """Where an entry is going to be.

    Parameters
    ----------
    root
        The cache root.
    key
        What it is.
    directory
        The entry's own directory.
    """

    root: str
    key: Key
    directory: str

    @property
    def what(self) -> str:
        """What is built, for people."""
        return self.key.label or f"{self.key.product} {self.key.digest[:12]}"

    def prepare(self, *, again: bool = False) -> None:
        """Make the directories around it; again, if some that were there have gone."""
        key = self.key
        prepare(self.root, key.bucket, key.format_version, key.digest, again=again)

    def read(self) -> Entry | Damage | None:
        """Look it up."""
        return read(self.directory, self.key.digest, root=self.root)

    def discard(self, reason: str) -> bool:
        """Move it to the trash; say whether it was there and we were the ones who did."""
        return discard(self.root, self.directory, reason) is not None


def build(
    place: Place, stage: str, make: Make, check: Make | None, expected_bytes: int | None
) -> Entry:
    """Make an entry and publish it; leave nothing behind when that fails.

    Returns
    -------
    Entry
        In its place; or, when another was faster and cannot be seen yet, in our own stage.

    Raises
    ------
    CacheFullError
        The disk filled up.
    CacheEntryError
        Nothing, or something that cannot be kept, was made; or it did not pass the check.
    """
    what = place.what
    try:
        with explained(place.root, what, expected_bytes):
            _make_stage(place, stage)
        started = time.perf_counter()
        _make(place, make, stage, expected_bytes)
        with explained(place.root, what, expected_bytes):
            files = _settle(stage, what)
        _check(check, stage, what)
        meta = _describe(place.key, files, time.perf_counter() - started)
        with explained(place.root, what, expected_bytes):
            _write(f"{stage}/{META}", json.dumps(meta, separators=(",", ":")).encode())
            return _publish(place, stage, meta)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def _make_stage(place: Place, stage: str) -> None:
    try:
        os.mkdir(stage, 0o700)
    except FileNotFoundError:
        place.prepare(again=True)
        os.mkdir(stage, 0o700)


def _make(place: Place, make: Make, stage: str, need: int | None) -> None:
    try:
        make(Path(stage))
    except Exception as error:
        full = full_error(error, place.root, place.what, need)
        if full is None:
            raise
        raise full from error


def _check(check: Make | None, stage: str, what: str) -> None:
    if check is None:
        return
    try:
        check(Path(stage))
    except Exception as error:
        raise CacheEntryError(
            f"{what} was made, but cannot be used as it was read back: {error}. It was not kept; "
            "if that happens again, the disk or the program that made it is at fault."
        ) from error


def _settle(stage: str, what: str) -> dict[str, dict[str, Any]]:
    """Bring every payload file to the disk; return sizes and hashes by name."""
    files: dict[str, dict[str, Any]] = {}
    pending = [""]
    while pending:
        folder = pending.pop()
        for item in listing(f"{stage}/{folder}"):
            name = f"{folder}{item.name}"
            if item.is_dir(follow_symlinks=False):
                os.chmod(item.path, 0o700)
                pending.append(f"{name}/")
            elif item.is_file(follow_symlinks=False) and name != META:
                files[name] = _settle_file(item.path)
            else:
                raise CacheEntryError(
                    f"{what} cannot be kept: {name} is a link or a special file, or has a "
                    "reserved name. Make plain files and directories only."
                )
    if not files:
        raise CacheEntryError(f"{what} cannot be kept: no file was made.")
    return files


def _settle_file(path: str) -> dict[str, Any]:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if stat.S_IMODE(status.st_mode) != 0o600:
            os.fchmod(handle, 0o600)
        if status.st_size < _HASH_WHILE_SYNCING_BYTES:
            os.fsync(handle)
            digest = hash_file(handle, status.st_size)
        else:
            digest = _hash_while_syncing(handle)
    finally:
        os.close(handle)  # an error here is the file server's last chance to say "quota"
    return {"size": status.st_size, "xxh3_128": digest}


def _hash_while_syncing(handle: int) -> str:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(os.fsync, handle)
        digest = hash_file(handle)
        synced.result()
    return digest


def _describe(key: Key, files: dict[str, dict[str, Any]], seconds: float) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "digest": key.digest,
        "bucket": key.bucket,
        "label": key.label,
        "key": key.identity,
        "files": files,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 3),
    }


def _write(path: str, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _publish(place: Place, stage: str, meta: dict[str, Any]) -> Entry:
    # No fsync of the stage itself: that of a new file carries its name on ext4, xfs and btrfs,
    # NFS makes names synchronously, and a name lost elsewhere is damage, which a hit finds.
    for look in range(_LOOKS_FOR_WINNER):
        if _rename(place, stage):
            _sync_directory(os.path.dirname(place.directory))
            return Entry(place.directory, meta, root=place.root)
        winner = place.read()
        if isinstance(winner, Entry):
            shutil.rmtree(stage, ignore_errors=True)
            return winner
        if isinstance(winner, Damage):
            place.discard(winner.reason)
        else:
            time.sleep(0.05 * 2**look)
    return Entry(stage, meta, root=place.root)


def _rename(place: Place, stage: str) -> bool:
    """Move the stage to its place; False where another entry is there."""
    for attempt in (1, 2):
        try:
            os.rename(stage, place.directory)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            if error.errno != errno.ENOENT or attempt == 2:
                raise
            if not os.path.exists(stage):
                return False  # a repeated request: the first one succeeded, and is found next
            place.prepare(again=True)  # somebody tidied empty directories away
        else:
            return True
    return False


def _sync_directory(path: str) -> None:
    # The entry can be seen already; should this fail, a power cut costs it, and no more.
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
