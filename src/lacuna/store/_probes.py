"""Probes: what a file system really does when it is asked to do what the store asks of it.

Each probe works in a private directory that ends with it, and names a case with its figures. What
to say of a case, and what it means for the cache, is in ``doctor.toml``.
"""

import errno
import itertools
import mmap
import os
import select
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lacuna.errors import CacheDirError, CacheError
from lacuna.store._digest import Key
from lacuna.store._layout import EXAMINATION, write_file
from lacuna.store._space import allocate, size_text
from lacuna.store._store import Store
from lacuna.utils.filesystem import free_space
from lacuna.utils.owner import current_owner, read_record, verdict, write_record

WORDS = tomllib.loads(Path(__file__).with_name("doctor.toml").read_text(encoding="utf-8"))

_OWNER = "owner.json"
_N_SYNCS = 5
_CLOCKS_AGREE_S = 2.0
_LOCK_ANSWER_S = 10.0
_LARGE_BYTES = 1 << 24
_SOME_TIME_NS = 1_600_000_001_123_456_789
_LOCK_HOLDER = """
import errno, fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
try:
    getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("held", flush=True)
except OSError as error:
    print(errno.errorcode.get(error.errno, error.errno), flush=True)
sys.stdin.read()
"""
LOCK_CALLS = {"flock": "flock", "fcntl lock": "lockf"}

_counter = itertools.count()

Case = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    name
        What it is.
    verdict
        ``ok``; ``note``: good to know; ``warning``: costs something; ``problem``: breaks a promise.
    seen
        What was seen, with figures.
    meaning
        What follows for the cache.
    advice
        What to do; empty where nothing is to be done.
    """

    name: str
    verdict: str
    seen: str
    meaning: str
    advice: str


def finding(name: str, case: str, facts: dict[str, Any]) -> Finding:
    """Return what there is to say of a case, with its figures."""
    words = WORDS[case]
    texts = [words.get(part, "").format(**facts) for part in ("seen", "meaning", "advice")]
    return Finding(name, words.get("verdict", "ok"), *texts)


def failed(name: str, error: Exception) -> Finding:
    """Return what there is to say of a probe that ended in an error."""
    number = getattr(error, "errno", None)
    kind = "full" if number in (errno.ENOSPC, errno.EDQUOT) else "failed"
    own = f"{name.replace(' ', '-')}-{kind}"
    reason = os.strerror(number) if number else str(error)
    return finding(name, own if own in WORDS else kind, {"reason": reason})


def existing(directory: Path | str) -> str:
    """Return the absolute path of a directory.

    Raises
    ------
    CacheDirError
        There is none.
    """
    path = os.path.abspath(directory)
    if not os.path.isdir(path):
        number = errno.ENOTDIR if os.path.lexists(path) else errno.ENOENT
        advice = "Make it first, or name the directory that is to hold it."
        raise CacheDirError(number, f"{path} is not a directory. {advice}", path)
    return path


@contextmanager
def private_directory(parent: str, kind: str) -> Iterator[str]:
    """Make a directory for a while, signed, so that one left by a killed process is recognised."""
    path = f"{parent}/{EXAMINATION}{kind}-{current_owner().token}-{next(_counter)}"
    os.mkdir(path, 0o700)
    try:
        with suppress(OSError):  # a full disk can be examined unsigned
            write_record(f"{path}/{_OWNER}")
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(parent: str) -> None:
    """Remove the directories of earlier examinations whose process is proven dead."""
    with suppress(OSError):
        for name in os.listdir(parent):
            record = f"{parent}/{name}/{_OWNER}" if name.startswith(EXAMINATION) else ""
            if record and verdict(read_record(record), parent).state == "dead":
                shutil.rmtree(f"{parent}/{name}", ignore_errors=True)


def probe(place: str, now: Callable[[], float], *, publishes: bool) -> Iterator[Finding]:
    """Yield what each probe finds.

    Parameters
    ----------
    place
        A directory made for this.
    now
        The clock of this machine, seconds since the epoch.
    publishes
        Whether entries are kept here, rather than scratch alone.
    """
    probes = _PROBES | (_PROBES_OF_PUBLISHING if publishes else {})
    probes["clock"] = lambda inner: _compare_clocks(inner, now)
    for name, look in probes.items():
        inner, started = f"{place}/{name.replace(' ', '-')}", time.perf_counter()
        try:
            os.mkdir(inner, 0o700)
            case, facts = look(inner)
            took_ms = 1000 * (time.perf_counter() - started)
            yield finding(name, case, {"took_ms": took_ms, **facts})
        except (CacheError, OSError, ValueError) as error:  # mmap raises a ValueError
            yield failed(name, error)


def create(path: str) -> None:
    """Make a file that is not there yet."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def succeeds(call: Callable[..., None], *paths: str) -> bool:
    """Call, and say whether nothing was in the way."""
    try:
        call(*paths)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _make_twice(place: str) -> Case:
    again = []
    for name, make in (("mkdir", os.mkdir), ("O_EXCL", create)):
        make(f"{place}/{name}")
        again += [name] * succeeds(make, f"{place}/{name}")
    return "made-twice" if again else "made-once", {"calls": " and ".join(again)}


def _rename(place: str) -> Case:
    for name in ("full", "second", "third", "empty"):
        os.mkdir(f"{place}/{name}", 0o700)
    for name in ("a", "b", "full/inner", "second/inner", "third/inner"):
        write_file(f"{place}/{name}", b"")
    os.rename(f"{place}/a", f"{place}/b")
    os.rename(f"{place}/second", f"{place}/empty")
    is_lost = succeeds(os.rename, f"{place}/third", f"{place}/full")
    return "rename-replaced" if is_lost else "rename", {}


def _sync(place: str) -> Case:
    for number in range(_N_SYNCS):
        write_file(f"{place}/{number}", bytes(4096), sync=True)
    return "fsync", {"n": _N_SYNCS}


def _sync_directory(place: str) -> Case:
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return "fsync-of-directory", {}


def _reserve_and_map(place: str) -> Case:
    free = free_space(place)[0]
    size = _LARGE_BYTES if free is None else max(4096, min(_LARGE_BYTES, free // 4))
    allocate(f"{place}/mapped", size)
    handle = os.open(f"{place}/mapped", os.O_RDWR)
    try:
        with mmap.mmap(handle, size) as mapped:
            mapped[:6] = b"lacuna"
            mapped.flush()
        os.fsync(handle)  # some count the blocks of a file only when they are written
        taken = os.fstat(handle).st_blocks * 512
        is_kept = os.pread(handle, 6, 0) == b"lacuna"
    finally:
        os.close(handle)
    case = "large-file" if taken >= size else "large-file-sparse"
    facts = {"taken": size_text(taken), "size": size_text(size)}
    return case if is_kept else "large-file-unmapped", facts


def _restrict(place: str) -> Case:
    modes = {"directory": "0700", "file": "0600"}
    os.mkdir(f"{place}/directory", 0o777)
    write_file(f"{place}/file", b"")
    for name, mode in modes.items():
        os.chmod(f"{place}/{name}", int(mode, 8))
    found = {name: f"{os.stat(f'{place}/{name}').st_mode & 0o777:04o}" for name in modes}
    return "permissions" if found == modes else "permissions-lost", found


def _stamp(place: str) -> Case:
    write_file(f"{place}/stamped", b"")
    os.utime(f"{place}/stamped", ns=(_SOME_TIME_NS, _SOME_TIME_NS))
    lost_s = abs(os.stat(f"{place}/stamped").st_mtime_ns - _SOME_TIME_NS) / 1e9
    return "time-stamps" if lost_s < 1 else "time-stamps-coarse", {"lost_s": lost_s}


def _compare_clocks(place: str, now: Callable[[], float]) -> Case:
    before = now()
    write_file(f"{place}/now", b"now", sync=True)
    after = now()
    ahead_s = os.stat(f"{place}/now").st_mtime - (before + after) / 2
    return judge_clock("the file server", "this machine", ahead_s, (after - before) / 2)


def judge_clock(theirs: str, ours: str, ahead_s: float, uncertainty_s: float) -> Case:
    """Return what to think of a clock that is so many seconds ahead of another."""
    facts = {"apart_s": abs(ahead_s), "side": "ahead of" if ahead_s > 0 else "behind"}
    facts |= {"theirs": theirs, "ours": ours, "uncertainty_s": uncertainty_s}
    return "clock-differs" if abs(ahead_s) - uncertainty_s > _CLOCKS_AGREE_S else "clock", facts


def _link(place: str) -> Case:
    write_file(f"{place}/a", b"")
    os.link(f"{place}/a", f"{place}/b")
    return "hard-link", {}


@contextmanager
def lock_holder(path: str, call: str) -> Iterator[str]:
    """Let a process of its own try for a lock and keep it; yield ``held``, or what it was told.

    Parameters
    ----------
    path
        A file, made if absent.
    call
        ``flock`` or ``lockf``.
    """
    command = [sys.executable, "-I", "-S", "-c", _LOCK_HOLDER, path, call]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        try:
            # Without a lock server even an attempt that may not wait can hang.
            answered = select.select([child.stdout], [], [], _LOCK_ANSWER_S)[0]
            yield child.stdout.readline().strip() if answered else "no answer"
        finally:
            child.kill()


def _lock_twice(place: str, call: str) -> Case:
    with lock_holder(f"{place}/lock", call) as first, lock_holder(f"{place}/lock", call) as second:
        return judge_lock(first, second, "a second process of this machine")


def judge_lock(first: str, second: str, whose: str) -> Case:
    """Return what to think of a lock, given what two were told who tried for it."""
    case = {"held": "lock-lies", "EAGAIN": "lock", "EACCES": "lock"}.get(second, "lock-unclear")
    facts = {"first": first, "second": second, "whose": whose}
    return case if first == "held" else "lock-missing", facts


def _publish(place: str) -> Case:
    def make(stage: Path) -> None:
        (stage / "probe.txt").write_bytes(b"probe")

    key = Key("map", {"probe": 1}, {}, "probe")
    Store(f"{place}/cache").get_or_make(key, make)
    entry = Store(f"{place}/cache").find(key)
    if entry is None or (entry.path / "probe.txt").read_bytes() != b"probe":
        raise CacheError("what was published is not found")
    return "publication", {}


_PROBES: dict[str, Callable[[str], Case]] = {
    "made once": _make_twice,
    "large file": _reserve_and_map,
    "permissions": _restrict,
    "time stamps": _stamp,
}
_PROBES_OF_PUBLISHING: dict[str, Callable[[str], Case]] = {
    "rename": _rename,
    "fsync": _sync,
    "fsync of directory": _sync_directory,
    "hard link": _link,
    **{name: partial(_lock_twice, call=call) for name, call in LOCK_CALLS.items()},
    "publication": _publish,
}
