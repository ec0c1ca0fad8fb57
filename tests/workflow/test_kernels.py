"""Compiled code is kept where only we can write, and nowhere else."""

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from lacuna.tractogram._kernels import build, ends, graph, mrtrix, query, segment
from lacuna.workflow import kernels
from lacuna.workflow.kernels import private_directory

COMPILE_ONE = """
    import json, os, sys
    import numba, numpy as np
    before = numba.config.CACHE_DIR, dict(os.environ)
    from lacuna.tractogram._kernels import query
    from lacuna.workflow.kernels import keep_kernels
    keep_kernels()
    assert query.count_bits(np.array([5, 1], np.uint64)) == 3
    stats = query.count_bits.stats
    assert (numba.config.CACHE_DIR, dict(os.environ)) == before
    print(json.dumps([sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]))
"""


@pytest.fixture
def root(tmp_path):
    directory = tmp_path / "cache"
    directory.mkdir(mode=0o700)
    return directory


def compile_one(**environment):
    """Use one kernel in another process; return how often it was loaded, and how often compiled."""
    inherited = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COMPILE_ONE)],
        env=inherited | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout.strip()


def test_keep_kernels__another_process_loads_what_one_compiled(root):
    assert compile_one(LACUNA_CACHE_DIR=root) == "[0, 1]"
    kept = list((root / ".kernels").iterdir())
    assert kept
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o022 == 0 for path in kept)
    assert stat.S_IMODE((root / ".kernels").stat().st_mode) == 0o700
    assert compile_one(LACUNA_CACHE_DIR=root) == "[1, 0]"


def test_keep_kernels__what_was_compiled_needs_no_compiler_until_another_type_comes(root):
    assert compile_one(LACUNA_CACHE_DIR=root) == "[0, 1]"
    code = textwrap.dedent(COMPILE_ONE) + textwrap.dedent("""
        assert "numba.np.linalg" not in sys.modules
        assert query.count_bits(np.array([5, 9, 1], np.uint64)[::2]) == 3
        assert sum(stats.cache_misses.values()) == 1
    """)
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment["LACUNA_CACHE_DIR"] = str(root)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_keep_kernels__in_a_cache_that_others_can_write_nothing_is_kept(root):
    root.chmod(0o770)
    assert compile_one(LACUNA_CACHE_DIR=root) == "[0, 1]"
    assert list(root.iterdir()) == []


def test_keep_kernels__the_users_own_place_for_compiled_code_is_taken(root, tmp_path):
    named = tmp_path / "named"
    named.mkdir(mode=0o700)
    assert compile_one(LACUNA_CACHE_DIR=root, NUMBA_CACHE_DIR=named) == "[0, 1]"
    assert [path.name for path in named.iterdir()] == [".kernels"]
    assert list(root.iterdir()) == []


def test_keep_kernels__a_named_place_that_others_can_write_is_not_taken(root, tmp_path):
    named = tmp_path / "named"
    named.mkdir()
    named.chmod(0o777)
    assert compile_one(LACUNA_CACHE_DIR=root, NUMBA_CACHE_DIR=named) == "[0, 1]"
    assert list(named.iterdir()) == list(root.iterdir()) == []


def test_keep_kernels__with_compilation_disabled_nothing_is_kept(root):
    code = "from lacuna.workflow.kernels import keep_kernels; keep_kernels()"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "LACUNA_CACHE_DIR": str(root)}
    environment.pop("NUMBA_CACHE_DIR", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(root.glob(".kernels/*"))


def test_keep_kernels__covers_every_module_of_kernels():
    assert set(kernels.MODULES) == {build, ends, graph, mrtrix, query, segment}
    files = {path.stem for path in (Path(build.__file__).parent).glob("*.py")}
    assert files == {module.__name__.rpartition(".")[2] for module in kernels.MODULES} | {
        "__init__"
    }


def test_private_directory__is_made_for_us_alone(root):
    directory = private_directory(root)
    assert directory is not None
    assert directory.parent == root
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert private_directory(root) == directory


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777, 0o2770])
def test_private_directory__none_below_a_directory_that_others_can_write(root, mode):
    root.chmod(mode)
    assert private_directory(root) is None
    assert list(root.iterdir()) == []


def test_private_directory__none_in_a_read_only_directory(root, refused_permissions):
    root.chmod(0o500)
    assert private_directory(root) is None


def test_private_directory__none_that_exists_and_can_not_be_written(root, refused_permissions):
    (root / ".kernels").mkdir(mode=0o500)
    assert private_directory(root) is None


@pytest.mark.parametrize("mode", [0o750, 0o770, 0o701, 0o777])
def test_private_directory__none_that_others_can_enter(root, mode):
    (root / ".kernels").mkdir()
    (root / ".kernels").chmod(mode)
    assert private_directory(root) is None


def test_private_directory__none_behind_a_link(root, tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o700)
    (root / ".kernels").symlink_to(tmp_path / "theirs")
    assert private_directory(root) is None


def test_private_directory__none_where_a_file_is_in_the_way(root):
    (root / ".kernels").touch()
    assert private_directory(root) is None


def test_private_directory__none_where_there_is_no_root(tmp_path):
    assert private_directory(tmp_path / "absent") is None


@pytest.mark.root
def test_private_directory__none_below_somebody_elses_directory(root):
    os.chown(root, 12345, 12345)
    assert private_directory(root) is None


def test_kernels__run_as_plain_python_too():
    assert query.count_bits.py_func(np.array([5, 1], np.uint64)) == 3
