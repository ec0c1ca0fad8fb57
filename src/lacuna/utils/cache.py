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
import os
import sys
from _thread import RLock
from pathlib import Path

from lacuna.errors import CacheDirError, CacheFullError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tempfile
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Any, TypeVar

    from lacuna.utils.filesystem import Location

    T = TypeVar("T")
    PathText = str | os.PathLike[str]

# The one variable that children inherit; it is also this process's own memory, so that both agree.
_EXPORT = "_LACUNA_LOCATIONS"
_NO_HOMES = ("", "/", "/nonexistent")  # what services and containers have instead of one
_FALSE = ("", "0", "false", "no", "off")
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_TITLES = {"cache_dir": "cache directory", "tmp_dir": "temp directory"}
_VARIABLES = {"cache_dir": "LACUNA_CACHE_DIR", "tmp_dir": "LACUNA_TMP_DIR"}
_DEFAULT = "the default"

_lock = RLock()
_warned: set[str] = set()
_paths: dict[str, Path] = {}
_parsed: tuple[str, dict[str, Any]] = ("", {})


class Choice:
    """A location as somebody chose it: unexpanded, with the words that say who it was.

    Parameters
    ----------
    value
        Path, or several of which the first usable one counts. ``~``, ``$VAR`` and
        ``${VAR:-fallback}`` are expanded when the location is used.
    source
        Who chose it, as messages will say: ``cache_dir in lab.yaml, line 3``, ``--cache-dir``.
    relative_to
        Directory from which a relative value counts: that of the configuration file. Without
        it, the working directory at first use, with a warning.
    """

    __slots__ = ("relative_to", "source", "value")

    def __init__(
        self,
        value: PathText | Sequence[PathText],
        source: str,
        relative_to: PathText | None = None,
    ) -> None:
        self.value: str | list[str]
        if isinstance(value, (list, tuple)):
            self.value = [os.fsdecode(item) for item in value]
        else:
            self.value = os.fsdecode(value)  # type: ignore[arg-type] # a sequence ends here
        self.source = source
        self.relative_to = None if relative_to is None else os.path.abspath(relative_to)

    def alternatives(self) -> list[str]:
        """Return the places to try, in order."""
        return (
            [self.value] if isinstance(self.value, str) else [text for text in self.value if text]
        )


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
    chosen = [
        Choice(value, "configure_cache()") if value is not None and os.fspath(value) else None
        for value in (cache_dir, tmp_dir)
    ]
    if chosen == [None, None]:
        with _lock:
            _warned.clear()
            os.environ.pop(_EXPORT, None)
        return
    set_locations(*chosen)


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
    return _as_path(_cache_dir()[0])


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
    return _as_path(_temp_base()[0])


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
    from lacuna.utils import owner

    ours = owner.current_owner().scratch_ends_with_process
    return _make_directory(prefix, owner.PROCESS if ours else owner.CALLER)[0]


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
    lifetime = owner.PROCESS if delete or me.scratch_ends_with_process else owner.CALLER

    def make(base: str) -> tempfile._TemporaryFileWrapper[Any]:
        return tempfile.NamedTemporaryFile(
            mode=mode,
            encoding=None if "b" in mode else "utf-8",
            suffix=suffix,
            prefix=f"{prefix}{me.token}_{lifetime}",
            dir=base,
            delete=delete,
        )

    # Nothing tells when the file is gone, so its record stays for as long as the process does.
    return _make_in_temp_base(make, owner.CALLER)[0]


def temp_dir(prefix: str = "") -> _TemporaryDirectory:
    """Return a context manager that gives a new temp directory and removes it on the way out.

    Also when an exception, ``KeyboardInterrupt`` or ``SystemExit`` passes; kept with
    ``LACUNA_KEEP_TMP=1``. A process that is to clean up on SIGTERM turns it into ``SystemExit``,
    as the command line does. A forked child that leaves the block removes nothing.

    Examples
    --------
    >>> with temp_dir(prefix="snm_") as scratch:
    ...     _ = (scratch / "lesion.nii").write_bytes(b"")
    """
    return _TemporaryDirectory(prefix)


def child_environment(directory: PathText | None = None) -> dict[str, str]:
    """Return the variables that make other programs and libraries keep their scratch with ours.

    To be merged into the environment of a program, or into this process's own.

    Parameters
    ----------
    directory
        Where they shall write; the temp base by default.
    """
    base = os.fspath(get_temp_base_dir() if directory is None else directory)
    names = ["TMPDIR", "TRX_TMPDIR", "MRTRIX_TMPFILE_DIR", "JOBLIB_TEMP_FOLDER"]
    if sys.platform == "win32":
        names += ["TEMP", "TMP"]
    variables = dict.fromkeys(names, base)
    variables["MPLCONFIGDIR"] = os.path.join(base, "matplotlib")
    if exported := os.environ.get(_EXPORT):
        variables[_EXPORT] = exported
    return variables


def describe() -> list[Location]:
    """Return how each location stands: who chose it, what it lies on, what is free there.

    Nothing is made, and nothing raised: a location that cannot be used says why.
    """
    from lacuna.utils.filesystem import Location

    places = []
    for key, find, parts in (
        ("cache_dir", _cache_dir, ("cache", "tdi", "transforms")),
        ("tmp_dir", _temp_base, ("temp",)),
    ):
        try:
            path, source = find(make=False)
        except CacheDirError as error:
            chosen = _chosen(key, _state()) or _chosen("cache_dir", _state())
            source = chosen.source if chosen else _DEFAULT
            places += [Location(name, None, source, problem=str(error)) for name in parts]
            continue
        places.append(Location(parts[0], Path(path), source))
        places += [
            Location(name, Path(path, name), f"{name} in the cache directory") for name in parts[1:]
        ]
    return places


def set_locations(
    cache_dir: Choice | None = None,
    tmp_dir: Choice | None = None,
    *,
    site: bool = False,
    keep: bool = False,
) -> None:
    """Choose locations on behalf of a configuration file or a command line.

    What :func:`configure_cache` does, for a caller that knows who chose each value. Replaces
    both values of its layer and leaves the other layer alone.

    Parameters
    ----------
    cache_dir, tmp_dir
        What was chosen; ``tmp_dir`` may list several places, of which the first usable counts.
    site
        Set the values that rank below the environment and above the platform's default, as a
        site's configuration file does, instead of those that beat the environment.
    keep
        Whether None leaves a value as it was, perhaps inherited from a parent process, instead
        of taking it back.
    """
    layer = "site_" if site else ""
    with _lock:
        state = dict(_state())
        anchors = dict(state.get("anchors", {}))
        for key, choice in (("cache_dir", cache_dir), ("tmp_dir", tmp_dir)):
            if choice is None and keep:
                continue
            state.pop(layer + key, None)
            if choice is None or not choice.alternatives():
                continue
            state[layer + key] = [choice.value, choice.source, choice.relative_to]
            for text in choice.alternatives():
                # A child may start in another directory before the first use here.
                if choice.relative_to is None and not (text[0] in "$~" or os.path.isabs(text)):
                    anchors[text] = [_working_directory(text, choice.source), False]
        state["anchors"] = anchors
        _export(state)


def set_keep_tmp(keep: bool | None) -> None:
    """Keep scratch that would be removed, or do not, whatever ``LACUNA_KEEP_TMP`` says.

    Parameters
    ----------
    keep
        None: the variable counts again.
    """
    with _lock:
        state = {key: value for key, value in _state().items() if key != "keep_tmp"}
        if keep is not None:
            state["keep_tmp"] = bool(keep)
        _export(state)


def own_scratch() -> None:
    """Declare that all scratch which this process makes ends with it, as in a command-line run.

    ``get_temp_dir`` and ``make_temp_file`` then mark what they make like ``temp_dir`` does. It
    does not hold in forked children: what a worker makes, its parent may still need.
    """
    from lacuna.utils.owner import current_owner

    current_owner().scratch_ends_with_process = True


def capture_locations() -> str:
    """Return what applies here, as text to send with a task to a worker that already runs.

    In the worker it counts as configured, with the same sources, so that neither an older
    configuration nor an older environment there makes a difference.
    """
    captured: dict[str, Any] = {"keep_tmp": _keeps_tmp()}
    for key, find in (("cache_dir", _cache_dir), ("tmp_dir", _temp_base)):
        try:
            path, source = find()
        except CacheDirError:
            path, source = "", ""  # the worker says so, if it needs the directory at all
        chosen = _chosen(key, _state())
        if chosen is not None:
            captured[key] = [chosen.value, chosen.source, chosen.relative_to]
        elif path:
            captured[key] = [path.replace("$", "$$"), source, None]
    captured["anchors"] = _state().get("anchors", {})
    return _dump(captured)


def apply_locations(captured: str) -> None:
    """Make what :func:`capture_locations` returned elsewhere apply in this process."""
    os.environ[_EXPORT] = captured


def run_with_locations(
    captured: str, function: Callable[..., T], /, *args: Any, **kwargs: Any
) -> T:
    """Apply captured locations, then call: what a pool runs in its workers.

    Examples
    --------
    ``pool.submit(run_with_locations, capture_locations(), cut, lesion)``
    """
    apply_locations(captured)
    return function(*args, **kwargs)


def expand(text: str, source: str) -> str:
    """Return a path with ``~``, ``$VAR``, ``${VAR:-fallback}`` and ``$$`` replaced.

    Raises
    ------
    CacheDirError
        If a variable is not set (or empty) and has no fallback: ``$SLURM_TMPDIR/lacuna`` must
        not become ``/lacuna``.
    """
    try:
        return _expand(text)
    except ValueError as error:
        message = f"{text!r}, chosen by {source}, cannot be used: {error}."
        raise CacheDirError(errno.ENOENT, message, text) from None


class _TemporaryDirectory:
    """A directory of this process for the time of a ``with`` block."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __enter__(self) -> Path:
        from lacuna.utils import owner

        # What is to be kept must not be taken for a dead process's leftovers later.
        self._kept = _keeps_tmp()
        self._owner = owner.current_owner()
        lifetime = owner.CALLER if self._kept else owner.PROCESS
        self._path, self._base = _make_directory(self._prefix, lifetime)
        return self._path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        from lacuna.utils import owner

        # A child that forked inside the block leaves it too, while the parent still works there.
        if self._kept or _keeps_tmp() or owner.current_owner() is not self._owner:
            return
        _remove_tree(self._path)
        self._owner.release(self._base)


def _cache_dir(state: dict[str, Any] | None = None, *, make: bool = True) -> tuple[str, str]:
    """Return the cache directory and who chose it; made if absent, unless told otherwise."""
    if state is None:
        state = _state()
    chosen = _chosen("cache_dir", state)
    if chosen is not None:
        return _first_usable("cache_dir", chosen, make=make)
    fallback = state.get("fallback")
    if fallback is None:
        path = _default_cache_dir()
        if path is None:
            reason = "there is no home directory"
        elif not make or os.path.isdir(path):
            return path, _DEFAULT
        else:
            try:
                os.makedirs(path, 0o700, exist_ok=True)
            except (OSError, ValueError) as error:
                reason = f"{path} cannot be made ({_reason(error)})"
            else:
                return path, _DEFAULT
        fallback = _fall_back(reason, make=make)
    _check_private(fallback, make=make)
    return fallback, f"{_DEFAULT} without a usable home directory"


def _part_of_cache(name: str) -> Path:
    cache, source = _cache_dir()
    path = os.path.join(cache, name)
    _make(path, "cache_dir", f"{name} in the cache directory, chosen by {source}")
    return _as_path(path)


def _temp_base(*, make: bool = True) -> tuple[str, str]:
    """Return the temp base and who chose it; made if absent, unless told otherwise."""
    state = _state()
    chosen = _chosen("tmp_dir", state)
    if chosen is not None:
        return _first_usable("tmp_dir", chosen, make=make)
    cache, source = _cache_dir(state, make=make)
    path = cache + os.sep + "tmp"
    source = f"tmp in the cache directory, chosen by {source}"
    if make:
        _make(path, "tmp_dir", source)
    return path, source


def _chosen(key: str, state: dict[str, Any]) -> Choice | None:
    """Return what the highest layer says that says anything; None leaves it to the default."""
    if key in state:
        return Choice(*state[key])
    value = os.environ.get(_VARIABLES[key])
    if key == "tmp_dir" and (other := os.environ.get("LACUNA_TEMP_DIR")):
        if not value:
            return Choice(other, "LACUNA_TEMP_DIR")
        if value != other:
            _warn(f"LACUNA_TMP_DIR ({value}) is used and LACUNA_TEMP_DIR ({other}) is not.")
    if value:
        return Choice(value, _VARIABLES[key])
    return Choice(*state["site_" + key]) if "site_" + key in state else None


def _first_usable(key: str, chosen: Choice, *, make: bool) -> tuple[str, str]:
    """Return the first place that can be used; a single one need only exist."""
    source = chosen.source
    if isinstance(chosen.value, str):
        path = _resolve(chosen.value, chosen)
        if make:
            _make(path, key, source)
        return path, source
    from lacuna.utils.filesystem import is_writable

    problems = []
    for text in chosen.alternatives():
        try:
            path = _resolve(text, chosen)
            if make:
                _make(path, key, source)
            if is_writable(path):
                return path, source
            problems.append(f"{path} is not writable")
        except CacheDirError as error:
            problems.append(str(error).partition(". ")[0])
    message = (
        f"None of the places of the {_TITLES[key]} ({source}) can be used: {'; '.join(problems)}. "
    )
    raise CacheDirError(errno.EACCES, message + _way_out(key), os.fspath(chosen.value[0]))


def _resolve(text: str, chosen: Choice) -> str:
    """Return the absolute path that a chosen text stands for."""
    path = expand(text, chosen.source)
    if os.path.isabs(path):
        return path
    if chosen.relative_to is not None:
        return os.path.join(chosen.relative_to, path)
    directory, warned = _state().get("anchors", {}).get(path, ("", False))
    if not warned:
        with _lock:
            directory = directory or _working_directory(path, chosen.source)
            state = _state()
            anchors = {**state.get("anchors", {}), path: [directory, True]}
            _export({**state, "anchors": anchors})
        absolute = os.path.join(directory, path)
        _warn(f"The relative path {path!r}, chosen by {chosen.source}, is taken as {absolute}.")
    return os.path.join(directory, path)


def _working_directory(path: str, source: str) -> str:
    try:
        return os.getcwd()
    except OSError as error:
        message = (
            f"The relative path {path!r}, chosen by {source}, leads nowhere: "
            "the working directory is gone. Choose an absolute path."
        )
        raise CacheDirError(error.errno, message, path) from error


def _default_cache_dir() -> str | None:
    """Return the platform's cache directory of Lacuna; None without a home directory."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        home = _home()
        if not local and home:
            local = os.path.join(home, "AppData", "Local")
        return os.path.join(local, "lacuna", "cache") if local else None
    root = os.environ.get("XDG_CACHE_HOME")
    if root and root[0] == "/":  # the XDG specification: ignore a relative one
        return root + "/lacuna"
    home = os.environ.get("HOME") or _home()
    return None if home is None or home in _NO_HOMES else f"{home}/.cache/lacuna"


def _home() -> str | None:
    home = os.environ.get("HOME" if sys.platform != "win32" else "USERPROFILE")
    if home or sys.platform == "win32":
        return home or None
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container with a user that it does not know
        return None


def _fall_back(reason: str, *, make: bool) -> str:
    """Choose, and remember for children, the private directory that replaces the default."""
    candidates = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    for directory in (*candidates, "/tmp", "/var/tmp"):  # noqa: S108 # checked when made
        if directory and os.path.isabs(directory) and os.access(directory, os.W_OK | os.X_OK):
            break
    else:
        message = (
            f"There is no place for the cache directory (the default): {reason}, and there is no "
            f"temp directory that can be written. {_way_out('cache_dir')}"
        )
        raise CacheDirError(errno.ENOENT, message)
    user = os.getuid() if sys.platform != "win32" else os.environ.get("USERNAME", "user")
    path = os.path.join(directory, f"lacuna-{user}")
    if make:
        with _lock:
            _export({**_state(), "fallback": path})
        _warn(f"The cache is kept in {path}, since {reason}; set LACUNA_CACHE_DIR to keep it.")
    return path


def _check_private(path: str, *, make: bool) -> None:
    """Make sure of a directory that is ours alone, where others might have put one first."""
    import stat

    problem = None
    try:
        try:
            facts = os.lstat(path)
        except FileNotFoundError:
            if not make:
                return
            os.makedirs(path, 0o700, exist_ok=True)
            facts = os.lstat(path)
    except OSError as error:
        raise _failure("cache_dir", path, _DEFAULT, error) from error
    if not stat.S_ISDIR(facts.st_mode):
        problem = "it is not a directory"
    elif sys.platform != "win32" and facts.st_uid != os.getuid():
        problem = f"it belongs to user {facts.st_uid}"
    elif sys.platform != "win32" and facts.st_mode & 0o077:
        problem = f"others may enter it (mode {stat.S_IMODE(facts.st_mode):04o})"
    if problem:
        message = f"The cache directory {path} (the default) is not used: {problem}. "
        raise CacheDirError(errno.EPERM, message + _way_out("cache_dir"), path)


def _make(path: str, key: str, source: str) -> None:
    if os.path.isdir(path):
        return
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _failure(key, path, source, error) from error


def _make_directory(prefix: str, lifetime: str) -> tuple[Path, str]:
    """Return a new temp directory, and the temp base that it lies in."""
    from lacuna.utils import owner

    _check_name("prefix", prefix)
    token = owner.current_owner().token

    def make(base: str) -> Path:
        name = prefix + owner.unique_name(token, lifetime)
        os.mkdir(base + os.sep + name, 0o700)
        return _as_path(base) / name

    return _make_in_temp_base(make, lifetime)


def _make_in_temp_base(make: Callable[[str], T], lifetime: str) -> tuple[T, str]:
    """Call ``make`` on the temp base once its owner has signed; again if a name is taken."""
    from lacuna.utils import owner

    me = owner.current_owner()
    for attempt in range(100):
        # At first as if the base were there, which a new name proves as well as a look would.
        base, source = _temp_base(make=attempt > 0)
        try:
            me.sign(base, lifetime)
            try:
                return make(base), base
            except BaseException:
                if lifetime == owner.PROCESS:
                    me.release(base)
                raise
        except OSError as error:
            failure = _failure("tmp_dir", base, source, error)
            if error.errno == errno.ENOENT:
                me.forget(base)  # somebody's purge took the base, and the record with it
            elif attempt and error.errno != errno.EEXIST:
                raise failure from error
    raise failure


def _remove_tree(path: Path) -> None:
    """Remove a directory with all it holds; say so if that fails, but do not raise."""
    import shutil
    import time

    problem = ""
    for pause in (0.0, 0.05, 0.5):
        time.sleep(pause)
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            if not os.path.lexists(path):
                return
        except OSError as error:
            problem = _reason(error)
            _make_removable(path)
        else:
            return
    _warn(f"The temp directory {path} could not be removed: {problem}.")


def _make_removable(path: Path) -> None:
    for directory, names, _ in os.walk(path):
        for name in (".", *names):
            inner = os.path.join(directory, name)
            try:
                if not os.path.islink(inner):
                    os.chmod(inner, 0o700)
            except OSError:
                continue


def _check_name(what: str, text: str) -> None:
    forbidden = "/\\\0:" if sys.platform == "win32" else "/\\\0"
    if text == ".." or any(character in text for character in forbidden):
        raise ValueError(
            f"The {what} {text!r} would lead out of the temp directory: "
            "it may hold no path separator and no NUL, and not be '..'."
        )


def _keeps_tmp() -> bool:
    keep = _state().get("keep_tmp")
    if keep is None:
        return os.environ.get("LACUNA_KEEP_TMP", "").strip().lower() not in _FALSE
    return bool(keep)


def _expand(text: str) -> str:
    if "$" in text:
        text = _substitute(text)
    if not text.startswith("~"):
        return text
    if text[1:2] in ("", "/", os.sep):
        home = _home()
        if not home:
            raise ValueError("there is no home directory for '~'")
        return home + text[1:]
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ValueError(f"there is no user {text[1:].partition('/')[0]!r}")
    return path


def _substitute(text: str) -> str:
    """Replace variables from left to right; what they hold is not looked at again."""
    before, dollar, rest = text.partition("$")
    if not dollar:
        return text
    if rest.startswith("$"):
        return before + "$" + _substitute(rest[1:])
    if rest.startswith("{"):
        end = _closing_brace(rest)
        name, has_fallback, fallback = rest[1:end].partition(":-")
        after = rest[end + 1 :]
    else:
        length = 0
        while length < len(rest) and (rest[length].isalnum() or rest[length] == "_"):
            length += 1
        name, has_fallback, fallback, after = rest[:length], "", "", rest[length:]
        if not name or name[0].isdigit():
            return before + dollar + _substitute(rest)
    if not name.isidentifier():
        raise ValueError(f"'${{{name}}}' is not a variable; '$$' stands for a dollar sign")
    # A variable that is set but empty would move the path to the root just as well.
    value = os.environ.get(name) or (_substitute(fallback) if has_fallback else None)
    if value is None:
        raise ValueError(f"the variable {name} is not set; set it, or write ${{{name}:-fallback}}")
    return before + value + _substitute(after)


def _closing_brace(text: str) -> int:
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return position
    raise ValueError("a '${' is not closed")


def _state() -> dict[str, Any]:
    """Return what was configured in this process, or in the one that started it."""
    global _parsed
    text = os.environ.get(_EXPORT)
    if not text:
        return {}
    parsed = _parsed
    if parsed[0] == text:
        return parsed[1]
    import json

    try:
        state = json.loads(text)
    except ValueError:
        state = None
    if not isinstance(state, dict):
        message = f"{_EXPORT} holds {text[:60]!r}, which Lacuna did not write. Unset it."
        raise CacheDirError(errno.EINVAL, message)
    _parsed = text, state
    return state


def _export(state: dict[str, Any]) -> None:
    state = {key: value for key, value in state.items() if value not in ({}, None)}
    if state:
        os.environ[_EXPORT] = _dump(state)
    else:
        os.environ.pop(_EXPORT, None)


def _dump(state: dict[str, Any]) -> str:
    import json

    return json.dumps(state, separators=(",", ":"), sort_keys=True)


def _as_path(text: str) -> Path:
    path = _paths.get(text)
    if path is None:
        path = _paths[text] = Path(text)
    return path


def _failure(key: str, path: str, source: str, error: OSError | ValueError) -> CacheDirError:
    number = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
    message = f"The {_TITLES[key]} {path} ({source}) cannot be used: {_reason(error)}. "
    if number == errno.ENAMETOOLONG:
        return CacheDirError(number, message + "Use a shorter path or prefix.", path)
    kind = CacheFullError if number in _FULL else CacheDirError
    return kind(number, message + _way_out(key), path)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileExistsError):
        return "it is there, but is not a directory"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _way_out(key: str) -> str:
    variable = _VARIABLES[key]
    source = _state().get(key, ("", _DEFAULT))[1]
    if source.startswith((_DEFAULT, "LACUNA_", "tmp in ")):
        return f"Set {variable} to a directory that you can write."
    return f"Change it there ({source}; {variable} does not override it)."


def _warn(message: str) -> None:
    """Warn once, at the line that called into this module."""
    if message in _warned:
        return
    _warned.add(message)
    import warnings

    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"] == __name__:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)
