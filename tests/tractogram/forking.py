"""Cut, fork, cut: threads before a fork must not hang or break the child; a program.

usage: python -m tests.tractogram.forking DIRECTORY
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tests.phantoms import build_index, parallel_tract

from lacuna.geometry.grid import Grid
from lacuna.tractogram.query import Index, LesionBox
from lacuna.workflow.kernels import keep_kernels


def cut_in_threads(index: Index) -> list[int]:
    grid = Grid(
        (41, 41, 3), np.array([[0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, -1], [0, 0, 0, 1]])
    )

    def cut(n_rows: int) -> int:
        mask = np.zeros(grid.shape, bool)
        mask[20, : 2 * n_rows, 1] = True
        return len(index.cut(LesionBox.of(mask, grid)))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(cut, range(1, 21)))


def main(directory: Path) -> None:
    keep_kernels()
    index = build_index(*parallel_tract(20), directory, threads=2)
    expected = list(range(1, 21))
    assert cut_in_threads(index) == expected
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(0 if cut_in_threads(index) == expected else 1)
        assert cut_in_threads(index) == expected
        assert os.waitpid(child, 0)[1] == 0
    assert cut_in_threads(index) == expected


if __name__ == "__main__":
    main(Path(sys.argv[1]))
