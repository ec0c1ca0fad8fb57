import json
from pathlib import Path

import numpy as np
import pytest
from tests.phantoms import parallel_tract, write_nifti, write_tck

from lacuna.bids.dataset import find_lesions
from lacuna.geometry.grid import Grid
from lacuna.tractogram.index import (
    build_hits,
    build_map,
    build_streamlines,
    open_hits,
    open_map,
    open_streamlines,
)
from lacuna.tractogram.query import Index
from lacuna.workflow.kernels import keep_kernels
from lacuna.workflow.record import RunRecord

SPACE = "StudySpace"


@pytest.fixture(scope="session", autouse=True)
def kept_kernels():
    """Compile each kernel once for all runs, not once for each process."""
    keep_kernels()


@pytest.fixture
def tract(tmp_path):
    """Twenty straight streamlines along x at y = 0 … 19, their index and a record of a run."""
    streamlines, grid = parallel_tract(20)
    path = tmp_path / "tract.tck"
    write_tck(path, streamlines)
    directories = [tmp_path / "index" / name for name in ("streamlines", "hits", "map")]
    for directory in directories:
        directory.mkdir(parents=True)
    build_streamlines(streamlines, directories[0])
    parts = open_streamlines(directories[0])
    build_hits(streamlines, parts, directories[1])
    build_map(streamlines, parts, grid, directories[2])
    index = Index(
        streamlines, parts, open_hits(directories[1], parts), open_map(directories[2], grid)
    )
    return index, a_record(path, grid)


def a_record(path: Path, grid: Grid, **changes) -> RunRecord:
    values = {
        "command": ["lacuna", "run", "snm"],
        "rule": "segment",
        "grid": grid,
        "min_tdi": 1,
        "tractogram": path,
        "tractogram_space": SPACE,
        "space_source": "--tractogram-space",
        "fingerprint": "f" * 32,
        "n_streamlines": 20,
        "cache_keys": {"map": "a" * 64},
    }
    return RunRecord(**values | changes)


@pytest.fixture
def masks(tmp_path):
    """A folder to put masks in: ``masks(name=k)`` lesions the k streamlines with y < k."""
    folder = tmp_path / "masks"
    folder.mkdir()

    def write(**sizes: int):
        for name, n_lesioned in sizes.items():
            mask = np.zeros((20, 20, 1), np.uint8)
            mask[8:10, :n_lesioned] = 1
            write_nifti(folder / f"{name}.nii.gz", mask, Grid((20, 20, 1), np.eye(4)))
            (folder / f"{name}.json").write_text(json.dumps({"Space": SPACE}))
        return find_lesions(folder)

    return write
