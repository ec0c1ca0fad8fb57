"""Publishing: claim, stage, write, sync, check, describe, rename.

One rename of a directory makes an entry, so no reader sees half of one. Renaming onto a directory
that is not empty fails: the first writer wins, whoever held which claim.

Claims only save work. Who wants a key that is claimed waits until the *entry* appears, or the claim
is gone. The claim of an owner who is proven dead is moved away. One of whom nothing can be proven
is waited for, up to a limit, and then a duplicate is built beside it.
"""

import atexit
import errno
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacuna.errors import CacheEntryError
from lacuna.store._claim import Claim, judge, poll_delays, set_aside
from lacuna.store._digest import Key
from lacuna.store._entry import Damage, Entry, hash_file, read
from lacuna.store._layout import META, listing, make_directory, prepare, write_file
from lacuna.store._removal import discard, remove_stage, sweep
from lacuna.store._root import group_of
from lacuna.store._space import explained, full_error, require_space
from lacuna.utils.modes import set_access, share_directory

_logger = logging.getLogger(__name__)

_FORMAT = 1
_HASH_WHILE_SYNCING_BYTES = 1 << 23
_LOOKS_FOR_WINNER = 5

Make = Callable[[Path], None]


@dataclass(frozen=True)
class Request:
    """A missing key, and how it is to be made.

    Parameters
    ----------
    root
        The cache root.
    key, make, check, expected_bytes
        As in `Store.get_or_make`.
    keep_free
        Bytes that must stay free beside the payload.
    foreign_wait_s
        Limit to waiting for an owner of whom nothing can be proven.
    tell
        Told for whom we wait.
    """

    root: str
    key: Key
    make: Make
    check: Make | None = None
    expected_bytes: int | None = None
    keep_free: int = 0
    foreign_wait_s: float = 0.0
    tell: Callable[[str], None] = _logger.warning

    @property
    def directory(self) -> str:
        """The entry's own directory, where it is going to be."""
        return f"{self.root}/{self.key.location}"

    @property
    def what(self) -> str:
        """What is built, for people."""
        return self.key.label or f"{self.key.product} {self.key.digest[:12]}"

    def read(self) -> Entry | Damage | None:
        """Look it up."""
        return read(self.directory, self.key.digest, root=self.root)

    def explained(self) -> AbstractContextManager[None]:
        """Say what was written, and how much, when that fails."""
        return explained(self.root, self.what, self.expected_bytes)


def make_once(request: Request, look: Callable[[], Entry | None]) -> Entry:
    """Return the entry of a missing key, made by us or by whoever was first.

    Parameters
    ----------
    request
        What is missing.
    look
        Returns the entry as soon as it is there.
    """
    claim = Claim(request.root, request.key.digest)
    is_kept = False
    try:
        entry = _wait(request, claim, look) or _look_again(request) or build(request, claim.stage)
        is_kept = entry.directory == claim.stage
        if is_kept:
            claim.step_aside()
            atexit.register(claim.remove_stage)
        return entry
    finally:
        if not is_kept:
            claim.release()


def _wait(request: Request, claim: Claim, look: Callable[[], Entry | None]) -> Entry | None:
    """Return the entry that somebody else made, or None: it is ours to build."""
    root, digest, what = request.root, request.key.digest, request.what
    seen: tuple[int, int] | None = None
    since = 0.0
    for delay in poll_delays():
        with request.explained():
            prepare(root, request.key.location)  # each time: a cache may be removed meanwhile
            if claim.take():
                return None
            holder = judge(root, digest)
        if holder is None:
            continue
        is_new = holder.claim != seen
        if is_new:
            seen, since = holder.claim, time.monotonic()
        waited = time.monotonic() - since
        if holder.state == "dead":
            with request.explained():
                set_aside(root, digest, holder)
            continue
        if is_new and holder.state != "unsigned":
            request.tell(f"Waiting for {what}: {holder} is building it.")
        if holder.state == "unknown" and waited > request.foreign_wait_s:
            request.tell(
                f"Building {what} here as well: after {waited:.0f} s it is not known "
                f"whether {holder} still lives: {holder.reason}."
            )
            with request.explained():
                claim.stand_beside()
            return None
        time.sleep(delay)
        entry = look()
        if entry is not None:
            return entry
    return None


def _look_again(request: Request) -> Entry | None:
    """Return the entry, if it came after all, or back from the trash; else make room for it.

    Only whoever holds the claim throws a damaged entry away: a mere reader may have looked at it
    before another mended it.
    """
    while not isinstance(found := request.read(), Entry):
        with request.explained():
            if found and discard(request.root, found.directory, found.reason):
                message = "The cached %s was damaged and is made again: %s."
                _logger.warning(message, request.what, found.reason)
        # With the dot: the claim itself is ours, or has to stay.
        if not sweep(request.root, f"{request.key.digest}.", wanted=True):
            break
    else:
        return found
    if request.expected_bytes is not None:
        require_space(request.root, request.what, request.expected_bytes, request.keep_free)
    return None


def build(request: Request, stage: str) -> Entry:
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
    try:
        with request.explained():
            make_directory(stage)
        started = time.perf_counter()
        _make(request, stage)
        with request.explained():
            files = _settle(stage, request.what)
        _check(request.check, stage, request.what)
        meta = _describe(request.key, files, time.perf_counter() - started)
        with request.explained():
            sidecar = json.dumps(meta, separators=(",", ":")).encode()
            write_file(f"{stage}/{META}", sidecar, sync=True)
            return _publish(request, stage, meta)
    except BaseException:
        remove_stage(request.root, os.path.basename(stage))
        raise


def _make(request: Request, stage: str) -> None:
    try:
        request.make(Path(stage))
    except Exception as error:
        full = full_error(error, request.root, request.what, request.expected_bytes)
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
    group = group_of(stage)
    pending = [""]
    while pending:
        folder = pending.pop()
        for item in listing(f"{stage}/{folder}"):
            name = f"{folder}{item.name}"
            if item.is_dir(follow_symlinks=False):
                if group is None:
                    os.chmod(item.path, 0o700)
                else:
                    share_directory(item.path, group=group)
                pending.append(f"{name}/")
            elif item.is_file(follow_symlinks=False) and name != META:
                files[name] = _settle_file(item.path, group)
            else:
                raise CacheEntryError(
                    f"{what} cannot be kept: {name} is a link or a special file, or has a "
                    "reserved name. Make plain files and directories only."
                )
    if not files:
        raise CacheEntryError(f"{what} cannot be kept: no file was made.")
    return files


def _settle_file(path: str, group: int | None) -> dict[str, Any]:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        status = os.fstat(handle)
        set_access(handle, 0o600 if group is None else 0o660, group)
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


def _publish(request: Request, stage: str, meta: dict[str, Any]) -> Entry:
    # No fsync of the stage itself: that of a new file carries its name on ext4, xfs and btrfs,
    # NFS makes names synchronously, and a name lost elsewhere is damage, which a hit finds.
    for look in range(_LOOKS_FOR_WINNER):
        try:
            os.rename(stage, request.directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
        else:
            _sync_directory(os.path.dirname(request.directory))
            return Entry(request.directory, meta, request.root)
        # Another was faster; or, without the stage, our first request had succeeded already.
        winner = request.read()
        if isinstance(winner, Entry):
            remove_stage(request.root, os.path.basename(stage))
            return winner
        if isinstance(winner, Damage):
            discard(request.root, winner.directory, winner.reason)
            continue
        time.sleep(0.05 * 2**look)
        prepare(request.root, request.key.location)  # somebody tidied empty directories away
    os.stat(f"{stage}/{META}")  # and not away with what was built
    return Entry(stage, meta, request.root)


def _sync_directory(path: str) -> None:
    # The entry can be seen already; should this fail, a power cut costs it, and no more.
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
