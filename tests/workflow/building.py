"""Builds of an index that are starved, killed or raced; a program, run by test_building.

usage: python -m tests.workflow.building CASE DIRECTORY SCRATCH

The store is in DIRECTORY (for `full` and `refused`: a small tmpfs, mounted for this), everything
else in SCRATCH.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.phantoms import coherent_tractogram, write_tck
from tests.store.samples import leftovers

from lacuna.errors import CacheFullError
from lacuna.geometry.grid import Grid
from lacuna.geometry.streamlines import Streamlines
from lacuna.store import Store
from lacuna.workflow.products import OpenedIndex, open_index

GRID = Grid(
    (40, 44, 40), np.array([[2.0, 0, 0, -40], [0, 2, 0, -50], [0, 0, 2, -38], [0, 0, 0, 1]])
)
PRODUCTS = {"streamlines", "map", "hits"}
N_KILLS = 25


def write_tractogram(path: Path, n_streamlines: int) -> Path:
    whole = coherent_tractogram(n_streamlines, step_mm=2)
    write_tck(path, Streamlines(whole.words / 3, whole.firsts, whole.counts))
    return path


def build(root: Path, path: Path, tell: Callable[[str], None] = lambda _: None) -> OpenedIndex:
    return open_index(Store(root), path, grid=GRID, progress=lambda what, *_: tell(what))


def arrays_of(opened: OpenedIndex) -> dict[str, Any]:
    parts = ("parts", "hits", "map")
    return {
        f"{part}.{name}": array
        for part in parts
        for name, array in vars(getattr(opened.index, part)).items()
        if isinstance(array, np.ndarray)
    }


def assert_same(found: OpenedIndex, expected: OpenedIndex) -> None:
    arrays = arrays_of(expected)
    assert len(arrays) == 15
    for name, array in arrays_of(found).items():
        np.testing.assert_array_equal(array, arrays[name], name)


def assert_whole(root: Path) -> set[str]:
    """Return the products that are there; each must be whole."""
    store = Store(root)
    assert [report.problem for report in store.verify(discard=False) if report.problem] == []
    return {entry.product for entry in store.entries()}


def fill_disk(directory: Path) -> Path:
    filler = directory / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


def full(directory: Path, scratch: Path) -> None:
    """Fill the disk at each report of progress, that is in each pass; then make room."""
    path = write_tractogram(scratch / "a.tck", 3000)
    reports: list[str] = []
    expected = build(scratch / "expected", path, reports.append)
    assert reports == ["streamlines", "map", "map", "hits", "hits"]
    for at, part in enumerate(reports):
        root, seen, fillers = directory / f"cache{at}", [], []

        def tell(
            what: str, at: int = at, seen: list[str] = seen, fillers: list[Path] = fillers
        ) -> None:
            seen.append(what)
            if len(seen) > at:  # also when it tries again, on what the first attempt gave back
                fillers.append(fill_disk(directory))

        refusal = ""
        try:
            assert_same(build(root, path, tell), expected)
        except CacheFullError as error:
            refusal = str(error)
        is_built = not refusal
        assert is_built or re.search(r"no space is left.*--cache-dir", refusal), refusal
        # After the last pass only small files are left to write, where larger ones have just gone.
        assert not is_built or at == len(reports) - 1
        assert seen[: at + 1] == reports[: at + 1]
        assert assert_whole(root) == (PRODUCTS if is_built else set(reports[:at]) - {part})
        assert not leftovers(Store(root))
        fillers[0].unlink()
        again: list[str] = []
        assert_same(build(root, path, again.append), expected)
        assert again == ([] if is_built else reports[reports.index(part) :])
        assert assert_whole(root) == PRODUCTS
        shutil.rmtree(root)


def refused(directory: Path, scratch: Path) -> None:
    """The map would fit, but not with the hits beside it: nothing of the two is begun."""
    path = write_tractogram(scratch / "a.tck", 3000)
    root, begun = directory / "cache", set[str]()
    build(scratch / "expected", path)
    sizes = {entry.product: entry.size_bytes for entry in Store(scratch / "expected").entries()}
    used = sizes["streamlines"] + sizes["map"] + sizes["hits"] // 2
    filler = directory / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(directory).free - used))
    with pytest.raises(CacheFullError, match=r"No room for.*it needs.*free.*--cache-dir"):
        build(root, path, begun.add)
    assert begun == assert_whole(root) == {"streamlines"}
    filler.unlink()
    build(root, path)
    assert assert_whole(root) == PRODUCTS


def killed(directory: Path, scratch: Path) -> None:
    """Kill builders at random moments; whoever comes next completes the index."""
    path = write_tractogram(scratch / "a.tck", 3000)
    build(scratch / "warm", path)
    start = time.perf_counter()
    expected = build(scratch / "expected", path)
    seconds = time.perf_counter() - start
    random, n_killed, states = np.random.default_rng(), 0, set()
    for number in range(N_KILLS):
        root = directory / str(number)
        child = os.fork()
        if child == 0:
            build(root, path)
            os._exit(0)
        time.sleep(random.uniform(0, 1.2 * seconds))
        os.kill(child, signal.SIGKILL)
        n_killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if root.exists():
            states.add(frozenset(assert_whole(root)))
        assert_same(build(root, path), expected)
        assert assert_whole(root) == PRODUCTS
        assert not {name for name in leftovers(Store(root)) if not name.startswith(".claims/")}
        shutil.rmtree(root)
    assert n_killed > N_KILLS // 3
    assert len(states) > 1  # it was not always the same moment


def raced(directory: Path, scratch: Path) -> None:
    """Let two processes ask for one cold index at once: each part is built by one of them."""
    path = write_tractogram(scratch / "a.tck", 20000)
    expected = build(scratch / "expected", path)
    start, children = time.time() + 0.3, []
    for number in range(2):
        child = os.fork()
        if child == 0:
            built = set[str]()
            time.sleep(max(0.0, start - time.time()))
            assert_same(build(directory / "cache", path, built.add), expected)
            (scratch / f"{number}.json").write_text(json.dumps(sorted(built)))
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    one, other = (set(json.loads((scratch / f"{n}.json").read_text())) for n in range(2))
    assert not one & other
    assert one | other == assert_whole(directory / "cache") == PRODUCTS
    assert not leftovers(Store(directory / "cache"))


CASES = {"full": full, "refused": refused, "killed": killed, "raced": raced}


if __name__ == "__main__":
    CASES[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.write("kept its promise\n")
