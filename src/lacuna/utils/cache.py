"""Where Lacuna's files live: the cache, and scratch.

Two directories carry everything that nobody asked for by name. The *cache* holds what is
expensive to make, the *temp base* what lives for one analysis::

    <cache_dir>/
      downloads/ tdi/ transforms/      what is kept
      tmp/                             scratch, unless another temp base is chosen

Who decides, highest first: what was configured (:func:`configure_cache`, a configuration file, an
option), the environment, a site's configuration file, the platform's default. The environment is
read at each call. Locations may hold ``~``, ``$VAR`` and ``${VAR:-fallback}`` (``$$`` is a dollar
sign), which count when a location is used.

What was configured reaches processes that are started afterwards, by whatever means, through one
private environment variable. Workers that were already running learn it only with a task: see
:func:`capture_locations`. In pools of other programs that were already running it is unknown.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from pathlib import Path

from lacuna.errors import CacheDirError
from lacuna.utils import locations
from lacuna.utils.locations import (
    Choice,
    capture_locations,
    expand,
    find_cache_dir,
    find_temp_base,
    set_locations,
)

__all__ = [
    "Choice",
    "capture_locations",
    "child_environment",
    "configure_cache",
    "describe",
    "expand",
    "get_cache_dir",
    "get_tdi_cache_dir",
    "get_temp_base_dir",
    "get_temp_dir",
    "get_transform_cache_dir",
    "library_environment",
    "make_temp_file",
    "run_with_locations",
    "set_locations",
    "temp_dir",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tempfile
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any, TypeVar

    from lacuna.utils.filesystem import Location

    T = TypeVar("T")
    PathText = str | os.PathLike[str]

_LIBRARIES = (
    ("TEMPLATEFLOW_HOME", "templateflow"),
    ("NILEARN_DATA", "nilearn"),
    ("DIPY_HOME", "dipy"),
    ("NEUROMAPS_DATA", "neuromaps"),
    ("AFQ_HOME", "afq"),
)

_as_path = functools.cache(Path)


def configure_cache(cache_dir: PathText | None = None, tmp_dir: PathText | None = None) -> None:
    """Say where the cache and the scratch of this process and its children are.

    What is given here beats the environment. A second call replaces the first, and a call
    without arguments takes back everything that was configured.

    Parameters
    ----------
    cache_dir
        None: ``LACUNA_CACHE_DIR`` applies, then the platform's default.
    tmp_dir
        None: ``LACUNA_TMP_DIR`` applies, then ``tmp`` in the cache directory.

    Examples
    --------
    >>> configure_cache(cache_dir="/data/lacuna", tmp_dir="${SLURM_TMPDIR:-/scratch/$USER}")
    >>> configure_cache()
    """
    chosen = {
        key: Choice(value, "configure_cache()")
        for key, value in (("cache_dir", cache_dir), ("tmp_dir", tmp_dir))
        if value is not None and os.fspath(value)
    }
    if chosen:
        set_locations(**{"cache_dir": None, "tmp_dir": None, **chosen})
    else:
        locations.reset()


def get_cache_dir() -> Path:
    """Return the cache directory, made if it was absent.

    It is what was configured, else ``LACUNA_CACHE_DIR``, else the platform's default:
    ``$XDG_CACHE_HOME/lacuna``, so usually ``~/.cache/lacuna``, on Linux and macOS, and
    ``%LOCALAPPDATA%/lacuna/cache`` on Windows. Where the default cannot be made (no home
    directory), a private directory under the system's temp directory replaces it, with a
    warning; a directory that somebody chose is never replaced.

    Raises
    ------
    CacheDirError
        If it is absent and cannot be made.
    """
    return _as_path(find_cache_dir()[0])


def get_tdi_cache_dir() -> Path:
    """Return the directory of track-density images and streamline indexes, made if absent.

    Raises
    ------
    CacheDirError
        If it is absent and cannot be made.
    """
    return _part_of_cache("tdi")


def get_transform_cache_dir() -> Path:
    """Return the directory of spatial transforms, made if absent.

    Raises
    ------
    CacheDirError
        If it is absent and cannot be made.
    """
    return _part_of_cache("transforms")


def get_temp_base_dir() -> Path:
    """Return the directory that holds all scratch, made if absent.

    It is what was configured, else ``LACUNA_TMP_DIR`` (or ``LACUNA_TEMP_DIR``), else ``tmp`` in
    the cache directory.

    Raises
    ------
    CacheDirError
        If it is absent and cannot be made.
    """
    return _as_path(find_temp_base()[0])


def get_temp_dir(prefix: str = "") -> Path:
    """Return a new, empty directory in the temp base that only this user can enter.

    It is the caller's, who removes it: it outlives the function and the process.

    Raises
    ------
    CacheDirError
        If it cannot be made.
    ValueError
        If the prefix would lead out of the temp base.

    See Also
    --------
    temp_dir : removes its directory on the way out.
    """
    from lacuna.utils.owner import current_owner

    return _make_directory(prefix, current_owner().for_callers)


def make_temp_file(
    suffix: str = "", prefix: str = "", delete: bool = False, mode: str = "w+b"
) -> tempfile._TemporaryFileWrapper[Any]:
    """Return a new open file in the temp base, as ``tempfile.NamedTemporaryFile`` does.

    Parameters
    ----------
    suffix, prefix
        What its name ends and begins with.
    delete
        Whether it vanishes when closed. By default it stays, for other programs to open by name,
        and is the caller's to remove.
    mode
        As for ``open``; text is UTF-8.

    Raises
    ------
    CacheDirError
        If it cannot be made.
    ValueError
        If prefix or suffix would lead out of the temp base.
    """
    import tempfile

    from lacuna.utils import owner

    _check_name("prefix", prefix)
    _check_name("suffix", suffix)
    me = owner.current_owner()
    lifetime = owner.PROCESS if delete else me.for_callers

    def make(base: str) -> tempfile._TemporaryFileWrapper[Any]:
        return tempfile.NamedTemporaryFile(
            mode=mode,
            encoding=None if "b" in mode else "utf-8",
            suffix=suffix,
            prefix=f"{prefix}{me.token}_{lifetime}",
            dir=base,
            delete=delete,
        )

    return _make_in_temp_base(make)


def temp_dir(prefix: str = "") -> AbstractContextManager[Path]:
    """Return a context manager that gives a new temp directory and removes it on the way out.

    Also when an exception, ``KeyboardInterrupt`` or ``SystemExit`` passes; kept with
    ``LACUNA_KEEP_TMP=1``. A process that is to clean up on SIGTERM turns it into ``SystemExit``,
    as the command line does. A forked child that leaves the block removes nothing.

    Examples
    --------
    >>> with temp_dir(prefix="snm_") as scratch:
    ...     _ = (scratch / "lesion.nii").write_bytes(b"")
    """
    from contextlib import contextmanager

    return contextmanager(_temporary_directory)(prefix)


def _temporary_directory(prefix: str) -> Iterator[Path]:
    from lacuna.utils import owner

    me, kept = owner.current_owner(), locations.keeps_tmp()
    # What is to be kept must not be taken for a dead process's leftovers later.
    path = _make_directory(prefix, owner.CALLER if kept else owner.PROCESS)
    try:
        yield path
    finally:
        # A child that forked inside the block leaves it too, while the parent still works there.
        if not kept and owner.current_owner() is me:
            _remove_tree(path)
            me.release(os.fspath(path.parent))


def child_environment(directory: PathText | None = None) -> dict[str, str]:
    """Return the variables that make other programs and libraries keep their scratch with ours.

    To be merged into the environment of a program, or into this process's own.

    Parameters
    ----------
    directory
        Where they shall write; the temp base by default.
    """
    import contextlib

    from lacuna.utils.modes import is_shared

    base = os.fspath(get_temp_base_dir() if directory is None else directory)
    with contextlib.suppress(CacheDirError):  # whoever needs the cache is told
        find_cache_dir()  # without a home it lies below TMPDIR: settled before that moves
    names = ("TMPDIR", "TRX_TMPDIR", "MRTRIX_TMPFILE_DIR", "JOBLIB_TEMP_FOLDER")
    variables = dict.fromkeys(names, base)
    if not is_shared(base):  # settings are read from there: another member could have put some
        variables["MPLCONFIGDIR"] = os.path.join(base, "matplotlib")
    if exported := os.environ.get(locations.EXPORT):
        variables[locations.EXPORT] = exported
    return variables


def library_environment() -> dict[str, str]:
    """Return the variables that make other libraries keep below the cache what they fetch.

    To be merged into the environment of a program, or into this process's own. A variable that
    is set already stays as it is; where the cache cannot be written, or is a group's, there are
    none: what other libraries make there would shut its members out, as their umask has it.
    """
    from lacuna.utils.filesystem import is_writable
    from lacuna.utils.modes import is_shared

    try:
        cache, _ = find_cache_dir(make=False)
    except CacheDirError:
        return {}
    return {
        variable: os.path.join(cache, ".libraries", library)
        for variable, library in _LIBRARIES
        if not os.environ.get(variable) and is_writable(cache) and not is_shared(cache)
    }


def describe() -> list[Location]:
    """Return how each location stands: who chose it, what it lies on, what is free there.

    Nothing is made, and nothing raised: a location that cannot be used says why.
    """
    from lacuna.utils.filesystem import Location

    places = []
    for key, find, parts in (
        ("cache_dir", find_cache_dir, ("cache", "tdi", "transforms")),
        ("tmp_dir", find_temp_base, ("temp",)),
    ):
        try:
            path, source = find(make=False)
        except CacheDirError as error:
            source = locations.who_chose(key)
            places += [Location(name, None, source, problem=str(error)) for name in parts]
            continue
        places.append(Location(parts[0], Path(path), source))
        places += [
            Location(name, Path(path, name), f"{name} in the cache directory") for name in parts[1:]
        ]
    return places


def run_with_locations(
    captured: str, function: Callable[..., T], /, *args: Any, **kwargs: Any
) -> T:
    """Make captured locations apply in this process, then call: what a pool runs in its workers.

    Examples
    --------
    ``pool.submit(run_with_locations, capture_locations(), cut, lesion)``
    """
    os.environ[locations.EXPORT] = captured
    return function(*args, **kwargs)


def _part_of_cache(name: str) -> Path:
    cache, source = find_cache_dir()
    path = os.path.join(cache, name)
    locations.make_part(path, "cache_dir", f"{name} in the cache directory, chosen by {source}")
    return _as_path(path)


def _make_directory(prefix: str, lifetime: str) -> Path:
    from lacuna.utils import owner

    _check_name("prefix", prefix)
    token = owner.current_owner().token

    def make(base: str) -> Path:
        name = prefix + owner.unique_name(token, lifetime)
        os.mkdir(base + os.sep + name, 0o700)
        return _as_path(base) / name

    return _make_in_temp_base(make)


def _make_in_temp_base(make: Callable[[str], T]) -> T:
    """Call ``make`` on the temp base once its owner has signed; again if a name is taken."""
    from lacuna.utils.owner import current_owner

    me = current_owner()
    for attempt in range(100):
        # At first as if the base were there, which a new name proves as well as a look would.
        base, source = find_temp_base(make=attempt > 0)
        try:
            with me.lock:
                me.sign(base)
                return make(base)
        except (OSError, ValueError) as error:
            me.release(base)
            if attempt and isinstance(error, ValueError):  # of the name or mode: the base is there
                raise
            failure = locations.failure("tmp_dir", base, source, error)
            # A name may be taken, and a purge may take the base.
            again = getattr(error, "errno", None) in (errno.EEXIST, errno.ENOENT)
            if attempt and not again:
                raise failure from error
    raise failure


def _remove_tree(path: Path) -> None:
    """Remove a directory with all it holds; say so if that fails, but do not raise."""
    import shutil
    import time

    for pause in (0.0, 0.05, 0.5):  # whoever still writes there may be about to end
        time.sleep(pause)
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return
        _open_up(path)
    locations.warn(f"The temp directory {path} could not be removed.")


def _open_up(path: PathText) -> None:
    """Let this user enter a directory and those below, but follow no link."""
    import contextlib

    with contextlib.suppress(OSError):
        if not os.path.islink(path):
            os.chmod(path, 0o700)
            for entry in os.scandir(path):
                if entry.is_dir(follow_symlinks=False):
                    _open_up(entry.path)


def _check_name(what: str, text: str) -> None:
    drive = sys.platform == "win32" and ":" in text
    if drive or text == ".." or "/" in text or "\\" in text or "\0" in text:
        raise ValueError(
            f"The {what} {text!r} would lead out of the temp directory: "
            "it may hold no path separator and no NUL, and not be '..'."
        )
