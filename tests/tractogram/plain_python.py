"""The kernels as plain Python, with every index checked; a program, run by test_plain_python.

usage: NUMBA_DISABLE_JIT=1 python -W error -m tests.tractogram.plain_python DIRECTORY

Compiled, an index beyond an array reads what lies there. Here it is an IndexError, and a negative
one, which Python would count from the end, is one as well. Writes its answers to answers.npz.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np


class Guarded(np.ndarray):
    """An array that kernels may not index from its end."""

    def __getitem__(self, key: Any) -> Any:
        check(key, sys._getframe(1))
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        check(key, sys._getframe(1))
        super().__setitem__(key, value)


n_checked = 0


def check(key: Any, frame: Any) -> None:
    global n_checked
    if f"{os.sep}_kernels{os.sep}" not in frame.f_code.co_filename:
        return
    n_checked += 1
    for item in key if isinstance(key, tuple) else (key,):
        bounds = (item.start, item.stop) if isinstance(item, slice) else (item,)
        if any(bound is not None and bound < 0 for bound in bounds):
            raise IndexError(f"{key} in {frame.f_code.co_name}, line {frame.f_lineno}")


def guard_new_arrays() -> None:
    def guarded(make: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(make)
        def made(*args: Any, **options: Any) -> Any:
            return make(*args, **options).view(Guarded)

        return made

    np.empty, np.zeros = guarded(np.empty), guarded(np.zeros)


def answers(directory: Path, guard: Callable[[Any], Any]) -> dict[str, Any]:
    """Return what every kernel has a part in: cuts, counts and densities under each rule."""
    from tests.phantoms import build_index, pack

    from lacuna.geometry.grid import Grid
    from lacuna.tractogram.query import LesionBox

    random = np.random.default_rng(17)
    lines = [random.uniform(-3, 9, (random.integers(1, 6), 3)) for _ in range(12)]
    lines = [np.rint(line * 2) / 2 if i % 2 else line for i, line in enumerate(lines)]
    streamlines = pack([*lines, np.empty((0, 3)), [(40, 3, 3), (4, 3, 3)]])
    turned = np.array([[0.9, -0.4, 0, 1], [0.4, 0.9, 0, -2], [0, 0, 1.3, -1], [0, 0, 0, 1]])
    grids = {
        "inside": Grid((4, 3, 4), np.eye(4)),
        "around": Grid(
            (9, 8, 9), np.array([[2.0, 0, 0, -4], [0, 2, 0, -4], [0, 0, 2, -4], [0, 0, 0, 1]])
        ),
        "oblique": Grid((8, 9, 6), turned),
        "fine, off": Grid((9, 9, 9), np.diag([0.5, 0.5, 0.5, 1])),
        "LAS, beyond": Grid(
            (14, 9, 9), np.array([[-1.0, 0, 0, 8], [0, 1, 0, -7], [0, 0, 1, 4], [0, 0, 0, 1]])
        ),
    }
    found: dict[str, Any] = {}
    for rule, upsample in (("segment", 1), ("vertex", 1), ("mrtrix", 3)):
        options = {"rule": rule, "upsample": upsample}
        index = build_index(streamlines, grids["oblique"], directory / rule, **options)
        index = replace(index, hits=guarded_parts(index.hits, guard))
        index = replace(index, map=guarded_parts(index.map, guard))
        found[f"{rule}: tdi"] = index.map.tdi
        found[f"{rule}: visits"] = index.map.visits
        for name, grid in grids.items():
            for share in (0.02, 0.6, 1.0):
                mask = random.random(grid.shape) < share
                mask[-1, -1, -1] = True
                ranks = index.cut(LesionBox.of(mask, grid))
                found[f"{rule}: {name}, {share}"] = ranks
                found[f"{rule}: {name}, {share}, counts"] = index.count(ranks)
                weights = np.arange(index.n_streamlines) / 4
                found[f"{rule}: {name}, {share}, sums"] = index.weigh(ranks, weights)
    return found


def guarded_parts(part: Any, guard: Callable[[Any], Any]) -> Any:
    arrays = {name: item for name, item in vars(part).items() if isinstance(item, np.ndarray)}
    return replace(part, **{name: guard(array) for name, array in arrays.items()})


def main(directory: Path) -> None:
    guard_new_arrays()
    found = answers(directory, lambda array: array.view(Guarded))
    assert n_checked > 100_000, n_checked
    np.savez(directory / "answers.npz", **{k: np.asarray(v) for k, v in found.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
