"""Keeping compiled kernels between processes, where no one else can put code.

What numba keeps are pickles of machine code: whoever can write there can run anything as us. So
they are kept in a directory of our own, below a directory that nobody else can write, or not at
all; and the numba settings that the user made for other code stay as they are.
"""

import hashlib
import os
import stat
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from lacuna.tractogram._kernels import build, mrtrix, query, segment
from lacuna.utils.cache import get_cache_dir

MODULES = (segment, mrtrix, build, query)


def keep_kernels() -> None:
    """Load compiled kernels from the cache directory, and keep new ones there, if it is private.

    Where the user named a place for compiled code (``NUMBA_CACHE_DIR``), that is taken, if it is
    private. Otherwise each process compiles its own.
    """
    named = numba.config.CACHE_DIR
    directory = private_directory(Path(named) if named else get_cache_dir())
    if directory is not None and not numba.config.DISABLE_JIT:
        _keep_in(directory)


def private_directory(root: Path) -> Path | None:
    """Return a directory for code below a cache root, or none if others could write there."""
    directory = root / ".kernels"
    try:
        above = root.stat()
        if above.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or above.st_uid != os.getuid():
            return None
        directory.mkdir(mode=0o700, exist_ok=True)
        own = directory.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(own.st_mode) and own.st_uid == os.getuid()
    if not private or own.st_mode & 0o077 or not os.access(directory, os.W_OK):
        return None
    return directory


@cache
def _keep_in(directory: Path) -> None:
    locator = _locator(directory)

    class Kept(CompileResultCacheImpl):  # type: ignore[misc] # numba has no types
        _locator_classes = (locator,)

    class KeptFunction(FunctionCache):  # type: ignore[misc]
        _impl_class = Kept

    for module in MODULES:
        for kernel in vars(module).values():
            compiles = isinstance(kernel, numba.core.dispatcher.Dispatcher)
            if compiles and kernel.py_func.__module__ == module.__name__ and not kernel.overloads:
                kernel._cache = KeptFunction(kernel.py_func)


@cache
def _stamp() -> str:
    """Return a digest of all kernel sources: compiled code holds the kernels that it calls."""
    digest = hashlib.sha256()
    for module in MODULES:
        digest.update(_source(module))
    return digest.hexdigest()


def _source(module: ModuleType) -> bytes:
    return Path(module.__file__ or "").read_bytes()


def _locator(directory: Path) -> type[Any]:
    class Locator(_CacheLocator):  # type: ignore[misc]
        def __init__(self, py_func: Any) -> None:
            self._line = py_func.__code__.co_firstlineno

        def get_cache_path(self) -> str:
            return str(directory)

        def get_source_stamp(self) -> str:
            return _stamp()

        def get_disambiguator(self) -> str:
            return str(self._line)

        @classmethod
        def from_function(cls, py_func: Any, _py_file: str) -> Any:
            return cls(py_func)

    return Locator
