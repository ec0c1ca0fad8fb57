import pytest

from lacuna.workflow.kernels import keep_kernels


@pytest.fixture(scope="session", autouse=True)
def kept_kernels():
    """Compile each kernel once for all runs, not once for each process."""
    keep_kernels()
