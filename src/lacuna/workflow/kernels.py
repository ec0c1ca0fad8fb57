"""Keeping compiled kernels between processes, where no one else can put code.

What numba keeps are pickles of machine code: whoever can write there can run anything as us. So
they are kept in a directory of our own, below a directory that nobody else can write, or not at
all; and the numba settings that the user made for other code stay as they are.

Whoever installs Lacuna may ship compiled kernels beside their sources: who can write there decides
what we run anyway. They are compiled for the oldest processor of the architecture, so that they
run on all of them, and are never written by a run.
"""

import hashlib
import os
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache, _CacheLocator
from numba.core.runtime import rtsys

from lacuna.tractogram._kernels import build, ends, graph, mrtrix, query, segment
from lacuna.utils.cache import get_cache_dir

MODULES = (segment, mrtrix, build, query, ends, graph)

BASELINE = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
"""What makes numba compile for every processor of an architecture: set before it starts."""

SHIPPED = Path(build.__file__).with_name("compiled")
"""Where kernels compiled in advance lie, if whoever installed Lacuna made them."""


def keep_kernels() -> None:
    """Load compiled kernels that were shipped, or kept in the cache directory; keep new ones there.

    Where the user named a place for compiled code (``NUMBA_CACHE_DIR``), that is taken instead of
    the cache directory. Neither is, unless it is private: then each process compiles what was not
    shipped.
    """
    if numba.config.DISABLE_JIT:
        return
    named = numba.config.CACHE_DIR
    private = private_directory(Path(named) if named else get_cache_dir())
    keep_in(private, SHIPPED if is_trusted(SHIPPED) else None)


def is_trusted(directory: Path) -> bool:
    """Say whether only the owner of the directory that holds it can have put code into it."""
    try:
        own, sources = directory.lstat(), directory.parent.stat()
    except OSError:
        return False
    others = own.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(own.st_mode) and not others and own.st_uid == sources.st_uid


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
def keep_in(private: Path | None, shipped: Path | None = None) -> None:
    """Load compiled kernels from two directories, and keep new ones in the first, if there is one.

    Kernels that already run in this process are left as they are.
    """
    for module in MODULES:
        for kernel in vars(module).values():
            compiles = isinstance(kernel, numba.core.dispatcher.Dispatcher)
            if compiles and kernel.py_func.__module__ == module.__name__ and not kernel.overloads:
                kernel._cache = _Layers(kernel.py_func, private, shipped)


class _Layers(NullCache):  # type: ignore[misc] # numba has no types
    """What was shipped, and behind it what this user keeps."""

    def __init__(self, kernel: Any, private: Path | None, shipped: Path | None) -> None:
        self._shipped = _kept(shipped, _Baseline)(kernel) if shipped else NullCache()
        self._private = _kept(private, _Finished)(kernel) if private else NullCache()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = None
        with suppress(OSError):  # what we may not read was not shipped for us
            found = self._shipped.load_overload(sig, target_context)
        return self._private.load_overload(sig, target_context) if found is None else found

    def save_overload(self, sig: Any, data: Any) -> None:
        self._private.save_overload(sig, data)


class _Finished(FunctionCache):  # type: ignore[misc]
    """Loads compiled code without all that only compiling needs."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # numba would first load half of SciPy, half a second and more; it does so when it compiles.
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


class _Baseline(_Finished):
    """Looks for what was compiled for every processor, not for the one at hand."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        sig, (triple, *_), code = super()._index_key(sig, codegen)
        return sig, (triple, *BASELINE.values()), code


def _kept(directory: Path, kind: type[Any]) -> type[Any]:
    class Files(CompileResultCacheImpl):  # type: ignore[misc]
        _locator_classes = (_locator(directory),)

    return type("Kept", (kind,), {"_impl_class": Files})


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
