"""Readers, writers and evictors in one cache; a program, run by test_stress.

usage: python -m tests.store.crowd DIRECTORY SECONDS

Evictors take whatever nobody uses, and are killed all the time. Fails if anything that is leased
cannot be read, whole, or if something is left in the end. Prints the number of reads, of entries
that went, and of evictors that were killed.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.store.samples import key_of, leftovers

from lacuna.errors import CacheEntryError
from lacuna.store import Store
from lacuna.store._entry import is_marked
from lacuna.store._removal import sweep

N_KEYS = 12
N_READERS, N_WRITERS, N_EVICTORS = 4, 2, 2
READS_PER_LEASE = 200
FILES = ("a.npy", "b.npy")


def content(number: int) -> bytes:
    return bytes([number + 1]) * 3000


def read(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.read(handle, 4096)
    finally:
        os.close(handle)


def use(store: Store, number: int, *, make_it: bool) -> int:
    """Use an entry as a program does, and return how often its files were read."""

    def make(stage: Path) -> None:
        for name in FILES:
            (stage / name).write_bytes(content(number))

    key = key_of(number)
    entry = store.get_or_make(key, make, on_wait=lambda _: None) if make_it else store.find(key)
    if entry is None:
        return 0
    try:
        entry.__enter__()
    except CacheEntryError:
        return 0
    paths = [f"{entry.directory}/{name}" for name in FILES]
    for turn in range(READS_PER_LEASE):
        if read(paths[turn % len(paths)]) != content(number):
            raise AssertionError(f"torn: {number}")
    entry.__exit__()
    return READS_PER_LEASE


def evict(root: Path, chance: random.Random) -> int:
    """Let some entries look old and remove them; or remove all that may be removed."""
    store = Store(root)
    if chance.random() < 0.3:
        return len(store.plan_clear(force=True).execute().removed)
    old = time.time() - 3 * 86_400
    for entry in store.entries():
        with suppress(FileNotFoundError):
            sidecar = entry.path / "meta.json"
            if chance.random() < 0.5 and not is_marked(sidecar.stat()):
                os.utime(sidecar, (old, old))
    return len(store.plan_prune(max_size=0).execute().removed)


def start(work: Callable[[], int], log: Path, end: float) -> int:
    """Fork a process that works until the end, and writes down how much it did."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("ab", buffering=0) as file:
            while time.time() < end:
                file.write(f"{work()}\n".encode())
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(code)


def crowd(directory: Path, seconds: float) -> tuple[int, int, int]:
    root, end = directory / "cache", time.time() + seconds
    directory.mkdir(parents=True, exist_ok=True)

    def user(number: int) -> int:
        chance, store = random.Random(number), Store(root)  # of which each process has its own
        share = number < N_WRITERS
        return start(
            lambda: use(store, chance.randrange(N_KEYS), make_it=share), directory / "reads", end
        )

    def evictor() -> int:
        chance = random.Random(os.urandom(4))
        return start(lambda: evict(root, chance), directory / "evictions", end)

    users = [user(number) for number in range(N_WRITERS + N_READERS)]
    evictors = [evictor() for _ in range(N_EVICTORS)]
    n_killed = 0
    while time.time() < end - 0.5:
        time.sleep(random.uniform(0.05, 0.4))
        victim = evictors.pop(0)
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        n_killed += 1
        evictors.append(evictor())
    codes = [os.waitpid(child, 0)[1] for child in (*users, *evictors)]
    assert not any(codes), codes
    check(Store(root))
    reads, gone = (
        sum(map(int, (directory / name).read_text().split())) for name in ("reads", "evictions")
    )
    return reads, gone, n_killed


def check(store: Store) -> None:
    assert not [report for report in store.verify(discard=False) if report.problem]
    for lease in (store.root / ".leases").iterdir():
        os.utime(lease, (1e9, 1e9))  # one that was never signed counts when it is old
    for claim in (store.root / ".claims").iterdir():
        os.utime(claim, (1e9, 1e9))
    sweep(str(store.root), "")
    assert not leftovers(store)
    assert not list((store.root / ".leases").iterdir())


if __name__ == "__main__":
    sys.stdout.write("{} {} {}\n".format(*crowd(Path(sys.argv[1]), float(sys.argv[2]))))
