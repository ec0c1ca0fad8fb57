"""Probes: what a file system really does when it is asked to do what the store asks of it.

Each probe works in a private directory that ends with it, and returns a verdict, what was seen,
what that means for the cache, and what to do.
"""

import errno
import itertools
import mmap
import os
import select
import shutil
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lacuna.errors import CacheError
from lacuna.store._digest import Key
from lacuna.store._layout import EXAMINATION, write_file
from lacuna.store._space import allocate, size_text
from lacuna.store._store import Store
from lacuna.utils.filesystem import free_space
from lacuna.utils.owner import current_owner, read_record, verdict, write_record

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
OWNER = "owner.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
CLOCKS_AGREE_S = 2.0

_N_SYNCS = 5
_SLOW_SYNC_S = 0.1
_LOCK_ANSWER_S = 10.0
_MODEST_BYTES = 1 << 24
_RESERVED_BYTES = 1 << 20
_SOME_TIME_NS = 1_600_000_001_123_456_789
_NO_LOCK_NEEDED = (
    "Nothing in the cache rests on a lock: a claim is a file that only one process can create, "
    "and one rename publishes an entry."
)
_LOCK_ADVICE = "Other programs that lock files here (SQLite, HDF5) may need another place."
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

_counter = itertools.count()

Seen = tuple[str, ...]


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
    meaning: str = ""
    advice: str = ""


@contextmanager
def private_directory(parent: str, kind: str) -> Iterator[str]:
    """Make a directory for a while, signed, so that one left by a killed process is recognised."""
    path = f"{parent}/{EXAMINATION}{kind}-{current_owner().token}-{next(_counter)}"
    os.mkdir(path, 0o700)
    try:
        with suppress(OSError):  # a full disk can be examined unsigned
            write_record(f"{path}/{OWNER}")
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(parent: str) -> None:
    """Remove the directories of earlier examinations whose process is proven dead."""
    with suppress(OSError):
        for name in os.listdir(parent):
            record = f"{parent}/{name}/{OWNER}"
            if (
                name.startswith(EXAMINATION)
                and verdict(read_record(record), parent).state == "dead"
            ):
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
    probes: dict[str, Callable[[str], Seen]] = {
        "made once": _make_twice,
        "modest file": _write,
        "reservation": _reserve,
        "memory map": _map,
        "permissions": _restrict,
        "time stamps": _stamp,
        "clock": lambda inner: _compare_clocks(inner, now),
    }
    if publishes:
        probes |= {
            "rename": _rename,
            "fsync": _sync,
            "hard link": _link,
            "flock": lambda inner: judge_lock(*_lock_twice(inner, "flock")),
            "fcntl lock": lambda inner: judge_lock(*_lock_twice(inner, "lockf")),
            "publication": _publish,
        }
    for name, look in probes.items():
        inner = f"{place}/{name.replace(' ', '-')}"
        try:
            os.mkdir(inner, 0o700)
            yield Finding(name, *look(inner))
        except (OSError, ValueError) as error:  # a map of a file whose length was not kept
            yield _failed(name, error)


def _failed(name: str, error: OSError | ValueError) -> Finding:
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else str(error)
    if number in FULL:
        return Finding(name, WARNING, f"could not be tried: {reason}")
    return Finding(
        name,
        PROBLEM,
        f"failed: {reason}",
        "Lacuna needs this of every place where it keeps something.",
        "Choose another place, or have this one mended.",
    )


def _make_twice(place: str) -> Seen:
    def create(path: str) -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    again = []
    for name, make in (("mkdir", os.mkdir), ("O_EXCL", create)):
        make(f"{place}/{name}")
        with suppress(FileExistsError):
            make(f"{place}/{name}")
            again.append(name)
    if again:
        seen = f"{' and '.join(again)} made what was there already"
        return PROBLEM, seen, "Several processes would build one entry.", "Use another place."
    return OK, "mkdir and O_EXCL refuse what is there already"


def _rename(place: str) -> Seen:
    for name in ("a", "b", "full/inner", "second/inner", "third/inner"):
        os.makedirs(os.path.dirname(f"{place}/{name}"), 0o700, exist_ok=True)
        write_file(f"{place}/{name}", name.encode())
    os.mkdir(f"{place}/empty")
    os.rename(f"{place}/a", f"{place}/b")
    os.rename(f"{place}/second", f"{place}/empty")
    advice = "Keep the cache on another file system."
    try:
        os.rename(f"{place}/third", f"{place}/full")
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            seen = f"a directory onto one that is not empty: {os.strerror(error.errno or 0)}"
            meaning = "A process that loses a race would fail, instead of using the winner's entry."
            return PROBLEM, seen, meaning, advice
    else:
        seen = "a directory replaced one that was not empty"
        meaning = "A second writer would replace an entry while the first one's is read."
        return PROBLEM, seen, meaning, advice
    return OK, "files replace files; a directory replaces an empty one, and no other"


def _sync(place: str) -> Seen:
    seconds: list[float] = []
    for number in range(_N_SYNCS):
        started = time.perf_counter()
        write_file(f"{place}/{number}", bytes(4096), sync=True)
        seconds.append(time.perf_counter() - started)
    seen = f"a small file is written and synced in {_ms(seconds)}"
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        started = time.perf_counter()
        os.fsync(handle)
        seen += f", a directory synced in {_ms([time.perf_counter() - started])}"
    except OSError as error:
        seen += f"; a directory: {os.strerror(error.errno or 0)}"
        return NOTE, seen, "A power cut may cost the newest entries, which are then made again."
    finally:
        os.close(handle)
    if statistics.median(seconds) > _SLOW_SYNC_S:
        return NOTE, seen, "Publishing waits so long for each file of an entry."
    return OK, seen


def _ms(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.2g} ms"


def _write(place: str) -> Seen:
    free = free_space(place)[0]
    n_bytes = _MODEST_BYTES if free is None else max(4096, min(_MODEST_BYTES, free // 4))
    started = time.perf_counter()
    try:
        write_file(f"{place}/modest", bytes(n_bytes), sync=True)
    except OSError as error:
        if error.errno not in FULL:
            raise
        seen = f"{size_text(n_bytes)} could not be written: {os.strerror(error.errno)}"
        if free is not None and free > n_bytes:
            seen += f", though {size_text(free)} are free"
        advice = "Ask for your quota (quota, lfs quota), make room, or choose another place."
        return PROBLEM, seen, "Your quota, or a reserve, is used up: nothing can be kept.", advice
    seconds = time.perf_counter() - started
    return OK, f"{size_text(n_bytes)} written and synced in {seconds:.2g} s"


def _reserve(place: str) -> Seen:
    path = f"{place}/reserved"
    allocate(path, _RESERVED_BYTES)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)  # some count the blocks of a file only when they are written
        taken = os.fstat(handle).st_blocks * 512
    finally:
        os.close(handle)
    seen = f"{size_text(taken)} taken for a file of {size_text(_RESERVED_BYTES)}"
    if taken < _RESERVED_BYTES:
        meaning = "An index that is built when the disk fills up may end its process (SIGBUS)."
        return WARNING, seen, meaning, "Keep room for twice the largest index."
    return OK, seen


def _map(place: str) -> Seen:
    path = f"{place}/mapped"
    allocate(path, 1 << 16)
    handle = os.open(path, os.O_RDWR)
    try:
        with mmap.mmap(handle, 1 << 16) as mapped:
            mapped[:6] = b"lacuna"
            mapped.flush()
    finally:
        os.close(handle)
    if Path(path).read_bytes()[:6] != b"lacuna":
        seen = "what was written to a map is not in the file"
        return PROBLEM, seen, "Indexes are built and read as maps.", "Keep the cache elsewhere."
    return OK, "written through a map, read from the file"


def _restrict(place: str) -> Seen:
    os.mkdir(f"{place}/closed", 0o777)
    write_file(f"{place}/closed/file", b"")
    modes = []
    for name, mode in (("closed", 0o700), ("closed/file", 0o600)):
        os.chmod(f"{place}/{name}", mode)
        found = stat.S_IMODE(os.stat(f"{place}/{name}").st_mode)
        modes.append(f"{found & 0o777:04o}" + ("" if found & 0o777 == mode else f" for {mode:04o}"))
    seen = f"directory {modes[0]}, file {modes[1]}"
    if "for" in seen:
        meaning = "Who may read what is kept is decided by the mount, not by Lacuna."
        return WARNING, seen, meaning, "Look at the mount's options (umask, file_mode, dir_mode)."
    return OK, seen


def _stamp(place: str) -> Seen:
    write_file(f"{place}/stamped", b"")
    os.utime(f"{place}/stamped", ns=(_SOME_TIME_NS, _SOME_TIME_NS))
    lost_s = abs(os.stat(f"{place}/stamped").st_mtime_ns - _SOME_TIME_NS) / 1e9
    seen = f"a time is kept to within {lost_s:.1g} s"
    if lost_s < 1:
        return OK, seen
    meaning = "A file that changes within that time may be taken for the one that was read before."
    return WARNING, seen, meaning, "Keep the data that change on another file system."


def _compare_clocks(place: str, now: Callable[[], float]) -> Seen:
    before = now()
    write_file(f"{place}/now", b"now", sync=True)
    after = now()
    ahead = os.stat(f"{place}/now").st_mtime - (before + after) / 2
    return judge_clock(ahead, (after - before) / 2, "the file server", "this machine")


def judge_clock(ahead_s: float, uncertainty_s: float, whose: str, ours: str) -> Seen:
    """Return what to think of a clock that is so many seconds ahead of another."""
    side = "ahead of" if ahead_s > 0 else "behind"
    seen = f"{whose} is {abs(ahead_s):.3f} s {side} {ours} (± {uncertainty_s:.2g} s)"
    if abs(ahead_s) - uncertainty_s <= CLOCKS_AGREE_S:
        return OK, seen
    meaning = (
        "Ages are off by as much (the 24 h for which used entries stay, limits of age); a file "
        "that changes within that time may be taken for the one that was read before."
    )
    return WARNING, seen, meaning, "Have the clocks set by a time server (NTP, chrony)."


def _link(place: str) -> Seen:
    write_file(f"{place}/a", b"")
    try:
        os.link(f"{place}/a", f"{place}/b")
    except OSError as error:
        seen = f"refused: {os.strerror(error.errno or 0)}"
        return NOTE, seen, "Lacuna makes no links; programs that lock by them cannot work here."
    return OK, "works"


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
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        # Without a lock server even an attempt that may not wait can hang.
        answered = select.select([child.stdout], [], [], _LOCK_ANSWER_S)[0]
        yield child.stdout.readline().strip() if answered else "no answer"
    finally:
        child.kill()
        with child, suppress(subprocess.TimeoutExpired):
            child.wait(_LOCK_ANSWER_S)


def _lock_twice(place: str, call: str) -> tuple[str, str, str]:
    with lock_holder(f"{place}/lock", call) as first, lock_holder(f"{place}/lock", call) as second:
        return first, second, "a second process of this machine"


def judge_lock(first: str, second: str, whose: str) -> Seen:
    """Return what to think of a lock, given what two were told who tried for it."""
    if first != "held":
        return NOTE, f"there is none: {first}", _NO_LOCK_NEEDED, _LOCK_ADVICE
    if second == "held":
        return NOTE, f"it lies: {whose} was granted it too", _NO_LOCK_NEEDED, _LOCK_ADVICE
    if second not in ("EAGAIN", "EACCES"):
        return NOTE, f"{whose} was told {second}", _NO_LOCK_NEEDED, _LOCK_ADVICE
    return OK, f"{whose} is kept out"


def _publish(place: str) -> Seen:
    def make(stage: Path) -> None:
        (stage / "probe.txt").write_text("probe", encoding="ascii")

    def check(stage: Path) -> None:
        if (stage / "probe.txt").read_text(encoding="ascii") != "probe":
            raise ValueError("it does not hold what was written")

    store, key = Store(f"{place}/cache"), Key("map", {"probe": 1}, {}, "probe")
    started = time.perf_counter()
    try:
        with store.get_or_make(key, make, check) as entry:
            made = time.perf_counter()
            check(entry.path)
        if Store(f"{place}/cache").find(key) is None:
            raise CacheError("what was published is not found")
        hit_s = time.perf_counter() - made
    except (CacheError, OSError) as error:
        seen = f"failed: {str(error).replace(place, '<probe>')}"
        return PROBLEM, seen, "Nothing can be kept here.", "See the other findings for the reason."
    return OK, f"an entry was published in {_ms([made - started])}, read back in {_ms([hit_s])}"
