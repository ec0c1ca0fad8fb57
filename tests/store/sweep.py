"""A child kills itself at its N-th file operation, for every N; a program, run by test_crash.

usage: python -m tests.store.sweep SCENARIO DIRECTORY [ERROR]

With the name of an error that operation fails instead; with ENOSPC or EDQUOT so does everything
after it that needs space. Prints how many such places there were. Fails with the first state that
breaks the promise: an entry is absent or whole, whoever comes next makes or finds it, and clears
up what was left.
"""

import errno
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.store.samples import (
    dead_record,
    foreign_record,
    key_of,
    leave_claim,
    leave_lease,
    leftovers,
    unused,
)
from tests.store.scratch import DAY_S, dead_owner, leave, owner_like, record_of
from xxhash import xxh3_128_hexdigest as hash_of

from lacuna.errors import LacunaError
from lacuna.store import (
    Store,
    make_root,
    plan_reap,
    reap_ended,
    record_usage,
)
from lacuna.store._adoption import plan_adoption
from lacuna.store._claim import Claim
from lacuna.store._entry import is_marked
from lacuna.store._publish import Request, build
from lacuna.store._removal import evict, settle
from lacuna.utils.owner import read_record

KEY = key_of()
FAILED = 3
AT_ONCE = 6
Scenario = Callable[[Path], None]
OPERATIONS = (
    *("open", "read", "preadv", "write", "fsync", "close", "stat", "lstat", "fchmod", "chmod"),
    *("mkdir", "rename", "unlink", "rmdir", "listdir", "scandir", "utime"),
)
NEED_SPACE = ("write", "fsync", "mkdir")


def die(name: str, real: Callable[..., Any], *args: Any) -> None:
    """Kill this process at an operation; half-way, if it writes."""
    if name == "write":
        real(args[0], args[1][: len(args[1]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def fail_with(number: int) -> Callable[..., None]:
    def fail(name: str, real: Callable[..., Any], *args: Any) -> None:
        if name == "close":
            real(*args)
        path = args[0] if isinstance(args[0], (str, Path)) else None
        raise OSError(number, os.strerror(number), path)

    return fail


def strike_at(number: int, strike: Callable[..., None], *, lasting: bool) -> Callable[[], bool]:
    """Strike the next operation but that many, or from there on all that need space."""
    left = number

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            creates = name == "open" and args[1] & os.O_CREAT
            if left <= 0 if lasting and (creates or name in NEED_SPACE) else left == 0:
                strike(name, real, *args)
            return real(*args, **options)

        return operation

    for name in OPERATIONS:
        setattr(os, name, wrap(name, getattr(os, name)))
    return lambda: left <= 0


def write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(handle, data)
    os.close(handle)


def make(directory: Path) -> None:
    write(directory / "a.npy", b"a" * 100)
    (directory / "b").mkdir()
    write(directory / "b" / "c.npy", b"c" * 200)


def publish(root: Path) -> None:
    Store(root).get_or_make(KEY, make)


def nothing(root: Path) -> None:
    """Start from an absent root."""


def of_a_group(root: Path) -> None:
    os.umask(0o077)
    root.mkdir(parents=True)
    root.chmod(0o2770)


def init(root: Path) -> None:
    make_root(root, os.getegid())


def check_shared(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        bits = 0o770 if path.is_dir() else 0o660
        assert path.stat().st_mode & 0o777 == bits or path.name == ".lacuna-cache", path


def damaged(root: Path) -> None:
    publish(root)
    (root / KEY.location / "b" / "c.npy").write_bytes(b"half")


def purged(root: Path) -> None:
    publish(root)
    (root / KEY.location / "meta.json").unlink()


def claimed_by_the_dead(root: Path) -> None:
    Store(root).get_or_make(key_of(1), make)
    leave_claim(Store(root), KEY, dead_record())


def claimed_by_another_host(root: Path) -> None:
    leave_claim(Store(root), KEY, foreign_record())
    make_old(root / ".claims")


def build_beside(root: Path) -> None:
    Store(root, foreign_wait_s=0).get_or_make(KEY, make, on_wait=lambda _: None)


def make_old(place: Path) -> None:
    for path in place.iterdir():
        os.utime(path, (time.time() - 100,) * 2)


def published_by_the_dead(root: Path) -> None:
    publish(root)
    leave_claim(Store(root), KEY, dead_record(), stage=False)


def lose_to_another(root: Path) -> None:
    def late(directory: Path) -> None:
        make(directory)
        other = Claim(str(root), KEY.digest)
        build(Request(str(root), KEY, make), other.stage)
        other.release()

    Store(root).get_or_make(KEY, late)


def half_fetched(root: Path) -> None:
    record = dead_record()
    left = root / ".partial" / f"{KEY.digest}.{record['token']}.0"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"a" * 40)
    left.with_name(f"{left.name}.owner").write_text(json.dumps(record))


def receive(root: Path) -> None:
    store = Store(root)

    def arrive(directory: Path) -> None:
        make(directory)
        with store.partial(KEY) as partial:
            while partial.size_bytes < 100:
                partial.append(b"a" * 20)
            partial.move_to(directory / "a.npy")

    store.get_or_make(KEY, arrive)


def verify(root: Path) -> None:
    list(Store(root).verify())


def clear(root: Path) -> None:
    Store(root).plan_clear(force=True).execute()


def three_entries(root: Path) -> None:
    for number in range(3):
        Store(root).get_or_make(key_of(number), make)
    leave_claim(Store(root), key_of(7), dead_record())


def unused_entries(root: Path) -> None:
    three_entries(root)
    for entry in Store(root).entries():
        unused(entry)


def prune(root: Path) -> None:
    Store(root).plan_prune(max_size=0).execute()


def leased_entry(root: Path) -> None:
    publish(root)
    leave_lease(Store(root), KEY, foreign_record())


def look_again(root: Path) -> None:
    """Evict an entry that is in use: its user was faster than the second look."""
    trash = evict(str(root), f"{root}/{KEY.location}")
    assert trash is not None
    assert not settle(str(root), trash)


def used_elsewhere(root: Path) -> None:
    unused_entries(root)
    leave_lease(Store(root), KEY, foreign_record())
    make_old(root / ".leases")


def evicted(root: Path) -> None:
    publish(root)
    assert evict(str(root), f"{root}/{KEY.location}")


def purged_of_marks(root: Path) -> None:
    publish(root)
    for place in (root, root / "tdi"):
        (place / ".lacuna-cache").unlink()
        (place / "CACHEDIR.TAG").unlink()


def adopt(root: Path) -> None:
    plan_adoption(str(root)).execute()


def source_of(root: Path) -> Path:
    """Return an input file that is old enough for its fingerprint to be remembered."""
    path = root.with_name("source.trk")
    if not path.exists():
        path.write_bytes(b"points")
        time.sleep(2.1)
    return path


def long_in_use(root: Path) -> None:
    publish(root)
    source_of(root)
    record_usage()  # which clears what this process counted
    (root / ".usage" / "runs").write_bytes(b"1700000000 1 0\n" * 5000)


def take_notes(root: Path) -> None:
    """Write what is small and may be lost: fingerprints, pins, and how a run went."""
    store = Store(root)
    entry = store.get_or_make(KEY, make)
    store.fingerprint(source_of(root))
    record_usage()
    store.pin(entry)
    store.unpin(entry)


def use(root: Path) -> None:
    with Store(root).get_or_make(KEY, make):
        pass


def make_room(root: Path) -> None:
    def late(directory: Path) -> None:
        if Store(root).find(key_of(1)):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), f"{directory}/a.npy")
        make(directory)

    Store(root).get_or_make(key_of(9), late)


def scratch(root: Path) -> None:
    """Leave scratch of ended processes, of both lifetimes, and of what may live."""
    dead, foreign = dead_owner(), dead_owner(host="node-17")
    for lifetime in "pc":
        leave(root, dead, lifetime=lifetime, age_s=8 * DAY_S, prefix="dead_")
    leave(root, foreign, lifetime="c", age_s=8 * DAY_S, prefix="old_")
    leave(root, foreign, prefix="live_")
    leave(root, owner_like(), age_s=8 * DAY_S, prefix="live_")
    orphan = dead_owner()
    record_of(root, orphan).write_text(json.dumps(orphan))


def reap(root: Path) -> None:
    plan_reap(root, foreign_older_than_s=7 * DAY_S).execute()


SCENARIOS = {
    "publish": (nothing, publish),
    "publish-shared": (of_a_group, publish),
    "init": (nothing, init),
    "rebuild": (damaged, publish),
    "rebuild-purged": (purged, publish),
    "takeover": (claimed_by_the_dead, publish),
    "beside": (claimed_by_another_host, build_beside),
    "tidy": (published_by_the_dead, publish),
    "lose": (nothing, lose_to_another),
    "fetch": (half_fetched, receive),
    "verify": (damaged, verify),
    "clear": (three_entries, clear),
    "evict": (unused_entries, prune),
    "evict-leased": (used_elsewhere, prune),
    "second-look": (leased_entry, look_again),
    "bring-back": (evicted, publish),
    "lease": (unused_entries, use),
    "make-room": (unused_entries, make_room),
    "reap": (scratch, reap),
    "adopt": (purged_of_marks, adopt),
    "notes": (long_in_use, take_notes),
}


def sweep(scenario: str, directory: Path, error: str = "") -> int:
    """Strike at every operation; most of the time is spent waiting for what nobody signed."""
    directory.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(AT_ONCE, get_context("fork")) as pool:
        shares = [
            pool.submit(sweep_share, scenario, directory, error, first)
            for first in range(1, AT_ONCE + 1)
        ]
        return sum(share.result() for share in shares)


def sweep_share(scenario: str, directory: Path, error: str, first: int) -> int:
    """Strike at every AT_ONCE-th operation from the first one on; return at how many."""
    prepare, act = SCENARIOS[scenario]
    strike = fail_with(getattr(errno, error)) if error else die
    for n_struck in itertools.count():
        number = first + n_struck * AT_ONCE
        root = directory / str(number)
        prepare(root)
        child = os.fork()
        if child == 0:
            was_struck = strike_at(number, strike, lasting=error in ("ENOSPC", "EDQUOT"))
            with suppress(*((OSError, LacunaError) if error else ())):
                act(root)
            os._exit(FAILED if was_struck() else 0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != FAILED:
            assert os.WEXITSTATUS(status) == 0, f"the child ended otherwise at {number}"
            return n_struck
        try:
            check_all(root, prepare, act)
        except Exception as problem:
            raise AssertionError(f"{error or 'killed'} at operation {number}") from problem
        shutil.rmtree(root, ignore_errors=True)
    raise AssertionError("counting has no end")


def check_all(root: Path, prepare: Callable[..., None], act: Callable[..., None]) -> None:
    if act is reap:
        check_reaped(root)
        return
    before = {receive: check_partials, build_beside: check_beside, adopt: adopt}
    after = {clear: check_cleared, take_notes: check_notes, init: init}
    if prepare is used_elsewhere:
        assert list((root / ".leases").glob(f"{KEY.digest}.foreignaaa.0")), "a lease was lost"
    if act in before:
        before[act](root)
    if act in (prune, look_again, use, make_room):
        may_go = prepare is unused_entries and act is not use
        check_evicted(root, lost_allowed=may_go)
    check(root, damage_allowed=prepare in (damaged, purged))
    if act in after:
        after[act](root)
    if act is init or prepare is of_a_group:
        check_shared(root)


def check(root: Path, *, damage_allowed: bool) -> None:
    store = Store(root)
    problems = [report.problem for report in store.verify(discard=False) if report.problem]
    assert not problems or damage_allowed, problems
    if not (damage_allowed and problems):
        entry = store.find(KEY)
        assert entry is None or (entry.path / "b" / "c.npy").read_bytes() == b"c" * 200
    entry = store.get_or_make(KEY, make, on_wait=fail_to_wait)
    assert (entry.path / "a.npy").read_bytes() == b"a" * 100
    assert (entry.path / "b" / "c.npy").read_bytes() == b"c" * 200
    for directory in (root, root / "tdi"):
        assert (directory / ".lacuna-cache").is_file(), f"{directory.name} has no marker"
        assert (directory / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f59")
    of_key = {name for name in leftovers(store) if KEY.digest in name}
    # Died between creating a record beside the claim and signing it: goes when it is old.
    assert all(is_unsigned(root / name) for name in of_key), of_key
    old = time.time() - 100
    for name in of_key:
        os.utime(root / name, (old, old))
    Store(root).get_or_make(KEY, make)
    assert not {name for name in leftovers(store) if KEY.digest in name}


def check_partials(root: Path) -> None:
    """What came is gone on with, by one process alone; what is left is cleared when it is old."""
    store, place = Store(root), root / ".partial"
    sizes = [path.stat().st_size for path in place.glob("*.[0-9]*") if path.suffix != ".owner"]
    with store.partial(KEY) as partial:
        assert partial.size_bytes == max(sizes, default=0)
        assert partial.read(200, 0) == b"a" * partial.size_bytes
    for path in place.rglob("*"):
        os.utime(path, (1, 1))
    store.plan_clear(lambda _entry: False).execute()
    assert not list(place.iterdir())


def fail_to_wait(text: str) -> None:
    raise AssertionError(text)


def is_unsigned(path: Path) -> bool:
    return path.parent.name == ".claims" and read_record(path) is None


def check_beside(root: Path) -> None:
    """See that nothing was taken from another builder that may live; then let it leave."""
    (stage,) = (root / ".stage").glob("*.foreignaaa.0")
    assert (stage / "offsets.npy").read_bytes() == b"half"
    shutil.rmtree(stage)
    (root / ".claims" / KEY.digest).unlink()


def check_notes(root: Path) -> None:
    store = Store(root)
    assert store.fingerprint(source_of(root)) == hash_of(b"points")
    assert store.usage().hits <= 5001
    entry = store.get_or_make(KEY, make)
    store.unpin(entry)
    assert not entry.pinned
    store.pin(entry)
    assert entry.pinned


def check_cleared(root: Path) -> None:
    clear(root)
    if left := list(Store(root).entries()):
        assert all(is_marked((entry.path / "meta.json").stat()) for entry in left)
        time.sleep(5.1)  # so long whoever marked it is taken to be at work
        clear(root)
    assert not list(Store(root).entries())
    assert not leftovers(Store(root))


def check_evicted(root: Path, *, lost_allowed: bool) -> None:
    """Let somebody use what may still be there, and see that it is, or comes back, whole."""
    store = Store(root)
    evicted = [path for path in (root / ".trash").iterdir() if path.name.endswith(".tdi.v1")]
    keys = {key.digest: key for key in map(key_of, range(3))}
    wanted = [keys[path.name.partition(".")[0]] for path in evicted]
    wanted += [key for key in keys.values() if store.find(key)]
    assert lost_allowed or KEY.digest in {key.digest for key in wanted}
    (root / ".leases").mkdir(exist_ok=True)
    leases = [leave_lease(store, key, foreign_record()) for key in wanted]
    store.plan_clear(lambda _: False).execute()
    prune(root)
    for key in wanted:
        entry = store.find(key)
        assert entry is not None, "what is in use was lost"
        assert (entry.path / "b" / "c.npy").read_bytes() == b"c" * 200
    for lease in leases:
        lease.unlink()
    old = time.time() - 100
    for lease in (root / ".leases").iterdir():
        os.utime(lease, (old, old))  # one that died before signing it counts when it is old
    for entry in store.entries():
        unused(entry)
    prune(root)
    assert not [key for key in keys.values() if store.find(key)], "a dead owner keeps an entry"
    assert not list((root / ".leases").iterdir())
    assert not list((root / ".trash").iterdir())


def check_reaped(root: Path) -> None:
    whole = {"lesion.nii", "work", "work/half.tck"}
    for path in root.glob("*_*"):
        if not path.name.startswith("reaped_") and "_p" not in path.name[-10:]:
            held = {inner.relative_to(path).as_posix() for inner in path.rglob("*")}
            assert held == whole, f"half of {path.name} looks like a caller's"
    reap_ended(root)
    assert not list(root.glob("reaped_*")), "half a directory is not removed by itself"
    reap(root)
    assert len(list(root.glob("live_*"))) == 2
    assert {path.name.partition("_")[0] for path in root.glob("*_*")} == {"live"}
    assert len(list(root.glob(".lacuna-owner-*"))) <= 3  # and one that was not signed


if __name__ == "__main__":
    os.fsync = lambda _: None  # type: ignore[assignment]  # a kill loses no page cache
    sys.stdout.write(f"{sweep(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])}\n")
