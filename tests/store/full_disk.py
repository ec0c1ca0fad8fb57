"""A disk that fills up, really; a program, run by test_faults in a mount namespace of its own.

usage: python -m tests.store.full_disk CASE DIRECTORY

DIRECTORY is a tmpfs of 4 MB and 120 inodes, mounted for this.
"""

import contextlib
import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.store.samples import Maker, key_of, leftovers

from lacuna.errors import CacheDirError, CacheFullError
from lacuna.store import Store, allocate

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
    for number in range(200):
        (directory / f"{number}.npy").touch()


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


CASES: dict[str, Callable[[Store, Path], None]] = {
    "write": lambda store, _: fails_with(store, write_bytes, errno.ENOSPC, "no space"),
    "numpy": lambda store, _: fails_with(store, save_array, errno.ENOSPC),
    "map": lambda store, _: fails_with(store, map_array, errno.ENOSPC),
    "inodes": lambda store, _: fails_with(store, make_many_files, errno.ENOSPC, "no inodes"),
    "claim": lambda store, _: not_even_a_claim(store),
    "read-only": read_only,
    "read-only, damaged": read_only_and_damaged,
}


def main(case: str, directory: Path) -> None:
    store = Store(directory / "cache")
    kept = store.get_or_make(key_of(1), Maker())
    CASES[case](store, directory)
    assert [report.problem for report in store.verify(discard=False)] == [None]
    assert store.find(key_of(1)) is not None
    assert (kept.path / "offsets.npy").exists()
    sys.stdout.write("kept its promise\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
