"""What every test gets: a home of its own, and a reason where it cannot run."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
DATA = Path(os.environ.get("LACUNA_TEST_DATA") or ROOT.parent / "shared" / "data").absolute()

TOOLS = {
    "peer": ("tckmap", "tckedit", "tck2connectome"),
    "faults": ("strace", "unshare"),
    "slurm": ("slurmctld", "slurmd", "munged", "sbatch", "setpriv"),
}
"""Marker → the programs without which its tests cannot run."""

# The first call of a kernel compiles it: seconds, which say nothing about the example at hand.
settings.register_profile("lacuna", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lacuna")


def pytest_configure() -> None:
    """Let all tests and their child processes share one place for compiled kernels."""
    directory = ROOT / ".pytest_cache" / "kernels"
    with contextlib.suppress(OSError):  # in a read-only checkout every process compiles
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        os.environ.setdefault("NUMBA_CACHE_DIR", str(directory))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what reads the shared data, so that ``-m 'not data'`` finds it."""
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("data")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here, by name; in CI that is a failure."""
    for marker, tools in TOOLS.items():
        missing = [tool for tool in tools if shutil.which(tool) is None]
        if missing and item.get_closest_marker(marker):
            _cannot_run(f"{marker}: {', '.join(missing)} not installed")
    if item.get_closest_marker("data") and not DATA.is_dir():
        _cannot_run(f"data: no shared data at {DATA}; set LACUNA_TEST_DATA")
    needs_root = item.get_closest_marker("root") or item.get_closest_marker("slurm")
    if needs_root and (not hasattr(os, "geteuid") or os.geteuid() != 0):
        _cannot_run("root: this test must be root")


def _cannot_run(reason: str) -> NoReturn:
    if IN_CI:
        pytest.fail(f"{reason} (CI skips nothing)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data; its README lists the sources."""
    if not DATA.is_dir():
        _cannot_run(f"data: no shared data at {DATA}; set LACUNA_TEST_DATA")
    return DATA


@pytest.fixture
def require_tool() -> Callable[[str], str]:
    """Return a function that finds a program, or skips the test (in CI: fails it)."""

    def find(name: str) -> str:
        path = shutil.which(name)
        return path if path else _cannot_run(f"{name} not installed")

    return find


@pytest.fixture
def refused_permissions(tmp_path: Path) -> None:
    """Skip where permissions are not enforced: root with all its capabilities."""
    directory = tmp_path / "probe-permissions"
    directory.mkdir()
    directory.chmod(0o500)
    try:
        (directory / "file").touch()
    except PermissionError:
        return
    finally:
        directory.chmod(0o700)
        shutil.rmtree(directory)
    _cannot_run("this process may write anywhere; `make test` drops that power")


@pytest.fixture(autouse=True)
def own_place(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Give each test its own home, cache, configuration and working directory."""
    home = tmp_path_factory.mktemp("home")
    places = {
        "HOME": home,
        "USERPROFILE": home,
        "XDG_CACHE_HOME": home / "cache",
        "XDG_CONFIG_HOME": home / "config",
        "XDG_CONFIG_DIRS": home / "site",
        "APPDATA": home / "roaming",
        "LOCALAPPDATA": home / "local",
    }
    for name in list(os.environ):
        if name.lstrip("_").startswith("LACUNA_"):
            monkeypatch.delenv(name)
    for name, path in places.items():
        monkeypatch.setenv(name, str(path))
    monkeypatch.chdir(tmp_path)
    yield
    cache = sys.modules.get("lacuna.utils.cache")
    if cache is not None:
        cache.configure_cache()
