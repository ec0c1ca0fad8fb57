"""A disk that fills up, really; a program, run by test_faults in a mount namespace of its own.

usage: python -m tests.store.full_disk CASE DIRECTORY

DIRECTORY is a tmpfs of 4 MB and 120 inodes, mounted for this.
"""

import contextlib
import errno
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.store.samples import Maker, key_of, leftovers, unused

from lacuna.errors import CacheDirError, CacheFullError
from lacuna.store import Key, Store, allocate

TOO_MANY_BYTES = 6_000_000


def write_bytes(directory: Path) -> None:
    with (directory / "points.npy").open("wb") as file:
        for _ in range(60):
            file.write(bytes(TOO_MANY_BYTES // 60))


def save_array(directory: Path) -> None:
    np.save(directory / "offsets.npy", np.zeros(1000))
    np.save(directory / "points.npy", np.zeros(TOO_MANY_BYTES // 8))


def map_array(directory: Path) -> None:
    """Write an index as its builder does: reserve the file, map it, fill it."""
    path = directory / "points.npy"
    allocate(path, TOO_MANY_BYTES)
    np.memmap(path, mode="r+", dtype=np.uint8)[:] = 1


def make_many_files(directory: Path) -> None:
    touch(directory, 200)


def fails_with(store: Store, make: Callable[[Path], None], number: int, *words: str) -> None:
    with pytest.raises(CacheFullError) as caught:
        store.get_or_make(key_of(2), make, expected_bytes=3_000_000)
    text = str(caught.value)
    assert caught.value.errno == number
    for word in (*words, str(store.root), "3.0 MB", "free", "LACUNA_CACHE_DIR", "--cache-dir"):
        assert word in text, (word, text)
    assert not leftovers(store)
    assert store.find(key_of(2)) is None


def read_only(store: Store, directory: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
    with pytest.raises(CacheDirError, match=r"Read-only file system.*LACUNA_CACHE_DIR") as caught:
        store.get_or_make(key_of(2), Maker())
    assert not isinstance(caught.value, CacheFullError)
    assert caught.value.errno == errno.EROFS
    assert Store(store.root).get_or_make(key_of(1), Maker()) is not None


def read_only_and_damaged(store: Store, directory: Path) -> None:
    (store.root / key_of(1).location / "offsets.npy").rename(directory / "kept")
    subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
    with pytest.raises(CacheDirError, match="Read-only file system"):
        store.get_or_make(key_of(1), Maker())
    assert [report.discarded for report in store.verify()] == [False]
    subprocess.run(["mount", "-o", "remount,rw", str(directory)], check=True)
    (directory / "kept").rename(store.root / key_of(1).location / "offsets.npy")


def not_even_a_claim(store: Store) -> None:
    with (store.root / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    with pytest.raises(CacheFullError):
        store.get_or_make(key_of(2), Maker())
    assert not leftovers(store)


def fill(store: Store, n: int) -> list[Key]:
    """Fill the disk to the last block with entries that nobody used for a while."""
    keys = [key_of(number) for number in range(10, 10 + n)]
    for key in keys:
        unused(store.get_or_make(key, lambda place: save(place, 700_000)))
    filler = store.root / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return keys


def save(directory: Path, n_bytes: int) -> None:
    (directory / "offsets.npy").write_bytes(bytes(n_bytes))


def make_room(store: Store, _: Path) -> None:
    """Build what does not fit, on a disk that is full to the last block, and be given room."""
    keys = fill(store, 4)
    reader = store.find(keys[0])
    assert reader is not None
    with reader:  # on a full disk it can say so only by having been used
        entry = store.get_or_make(key_of(2), partial(save, n_bytes=1_000_000), expected_bytes=10**6)
        assert (entry.path / "offsets.npy").stat().st_size == 1_000_000
        there = [store.find(key) is not None for key in keys]
        assert there == [True, False, False, True]
        assert (reader.path / "offsets.npy").read_bytes() == bytes(700_000)
    assert not leftovers(store)
    save_more = partial(save, n_bytes=800_000)  # of which nobody knew how much it would be
    store.get_or_make(key_of(3), save_more)
    assert store.find(keys[3]) is None
    assert store.find(keys[0]) is not None


def make_inodes(store: Store, _: Path) -> None:
    """The same where inodes are what is missing."""
    for number in range(10, 20):
        unused(store.get_or_make(key_of(number), lambda place: touch(place, 5)))
    store.get_or_make(key_of(2), lambda place: touch(place, 40))


def touch(directory: Path, n_files: int) -> None:
    for number in range(n_files):
        (directory / f"{number}.npy").touch()


CASES: dict[str, Callable[[Store, Path], None]] = {
    "write": lambda store, _: fails_with(store, write_bytes, errno.ENOSPC, "no space"),
    "numpy": lambda store, _: fails_with(store, save_array, errno.ENOSPC),
    "map": lambda store, _: fails_with(store, map_array, errno.ENOSPC),
    "inodes": lambda store, _: fails_with(store, make_many_files, errno.ENOSPC, "no inodes"),
    "claim": lambda store, _: not_even_a_claim(store),
    "make room": make_room,
    "make inodes": make_inodes,
    "read-only": read_only,
    "read-only, damaged": read_only_and_damaged,
}


def main(case: str, directory: Path) -> None:
    store = Store(directory / "cache")
    kept = store.get_or_make(key_of(1), Maker())
    CASES[case](store, directory)
    assert not [report for report in store.verify(discard=False) if report.problem]
    assert store.find(key_of(1)) is not None
    assert (kept.path / "offsets.npy").exists()
    sys.stdout.write("kept its promise\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
