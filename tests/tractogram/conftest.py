from pathlib import Path

import pytest
from tests.phantoms import build_index

from lacuna.workflow.kernels import keep_kernels


@pytest.fixture(scope="session", autouse=True)
def kept_kernels():
    """Compile each kernel once for all runs, not once for each process."""
    keep_kernels()


@pytest.fixture
def make_index(tmp_path):
    """Build and open the index of streamlines: ``make_index(streamlines, grid, rule=…)``."""
    n_made = 0

    def make(streamlines, grid, **options):
        nonlocal n_made
        n_made += 1
        directory = Path(tmp_path / f"index{n_made}")
        return build_index(streamlines, grid, directory, **options)

    return make
