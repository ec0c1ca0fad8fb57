"""Who decides where files live, and what that comes to on this machine.

What :mod:`lacuna.utils.cache` promises is decided here: the layers (configured, environment,
site, default), the expansion of what somebody wrote, the place of last resort, and the words for
what went wrong.
"""

from __future__ import annotations

import errno
import os
import sys
from _thread import RLock

from lacuna.errors import CacheDirError, CacheFullError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Sequence
    from typing import Any

    PathText = str | os.PathLike[str]

# The one variable that children inherit; it is also this process's own memory, so that both agree.
EXPORT = "_LACUNA_LOCATIONS"
DEFAULT = "the default"
_NO_HOMES = ("~", "/", "/nonexistent")  # what services and containers have instead of one
_FALSE = ("", "0", "false", "no", "off")
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_TITLES = {"cache_dir": "cache directory", "tmp_dir": "temp directory"}
_VARIABLES = {"cache_dir": "LACUNA_CACHE_DIR", "tmp_dir": "LACUNA_TMP_DIR"}

_locks: dict[int, RLock] = {}
_warned: set[str] = set()
_parsed: tuple[str, dict[str, Any]] = ("", {})


class Choice:
    """A location as somebody chose it: unexpanded, with the words that say who it was.

    Parameters
    ----------
    texts
        Path, or several of which the first usable one counts. ``~``, ``$VAR`` and
        ``${VAR:-fallback}`` are expanded when the location is used.
    source
        Who chose it, as messages will say: ``cache_dir in lab.yaml, line 3``, ``--cache-dir``.
    relative_to
        Directory from which a relative value counts: that of the configuration file. Without
        it, the working directory at first use, with a warning.
    """

    def __init__(
        self,
        texts: PathText | Sequence[PathText],
        source: str,
        relative_to: PathText | None = None,
    ) -> None:
        several = texts if isinstance(texts, (list, tuple)) else [texts]
        self.texts = [text for text in map(os.fsdecode, several) if text]
        self.source = source
        self.relative_to = None if relative_to is None else os.path.abspath(relative_to)


def _lock() -> RLock:
    # One for each process: a forked child must not wait for a thread that it does not have.
    return _locks.setdefault(os.getpid(), RLock())


def set_locations(**choices: Choice | bool | None) -> None:
    """Choose locations on behalf of a configuration file or a command line.

    What :func:`configure_cache` does, for a caller that knows who chose each value.

    Parameters
    ----------
    **choices
        What is not named stays as it was, perhaps inherited from a parent process; None takes a
        value back. ``cache_dir`` and ``tmp_dir`` beat the environment; ``site_cache_dir`` and
        ``site_tmp_dir`` rank below it and above the platform's default, as a site's
        configuration file does. ``keep_tmp`` says whether scratch that would be removed stays,
        whatever ``LACUNA_KEEP_TMP`` says.
    """
    with _lock():
        state = {**_state(), **choices}
        # A relative path that is chosen again counts from where we are by then.
        again = [text for new in choices.values() if isinstance(new, Choice) for text in new.texts]
        known = state.get("remembered", {})
        state["remembered"] = {key: known[key] for key in known if key not in again}
        _export(state)


def reset() -> None:
    """Take back whatever was configured, here or in the process that started this one."""
    with _lock():
        _warned.clear()
        os.environ.pop(EXPORT, None)


def keeps_tmp() -> bool:
    """Return whether scratch that would be removed stays."""
    keep = _state().get("keep_tmp")
    if keep is None:
        return os.environ.get("LACUNA_KEEP_TMP", "").strip().lower() not in _FALSE
    return bool(keep)


def capture_locations() -> str:
    """Return what applies here, as text to send with a task to a worker that already runs.

    In the worker it counts as configured, with the same sources, so that neither an older
    configuration nor an older environment there makes a difference.
    """
    captured: dict[str, Any] = {"keep_tmp": keeps_tmp()}
    for key, find in (("cache_dir", find_cache_dir), ("tmp_dir", find_temp_base)):
        try:
            path, source = find()
            captured[key] = Choice(path.replace("$", "$$"), source)
        except CacheDirError:  # the worker says so, if it needs it at all
            captured[key] = _chosen(key, _state())
    return _dump(captured)


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


def find_cache_dir(state: dict[str, Any] | None = None, *, make: bool = True) -> tuple[str, str]:
    """Return the cache directory and who chose it; made if absent, unless told otherwise."""
    if state is None:
        state = _state()
    chosen = _chosen("cache_dir", state)
    if chosen is not None:
        return _first_usable("cache_dir", chosen, make=make)
    default = _default_cache_dir()
    path = state.get("remembered", {}).get(default)
    if path is None:
        try:
            if not default:
                problem = OSError(errno.ENOENT, "there is no home directory")
                raise failure("cache_dir", "~/.cache/lacuna", DEFAULT, problem)
            if make:
                make_directory(default, "cache_dir", DEFAULT)
            return default, DEFAULT
        except CacheDirError as error:
            path = _fall_back(default, error, make=make)
    _check_private(path, make=make)
    return path, f"{DEFAULT} without a usable home directory"


def find_temp_base(*, make: bool = True) -> tuple[str, str]:
    """Return the temp base and who chose it; made if absent, unless told otherwise."""
    state = _state()
    chosen = _chosen("tmp_dir", state)
    if chosen is not None:
        return _first_usable("tmp_dir", chosen, make=make)
    cache, source = find_cache_dir(state, make=make)
    path = cache + os.sep + "tmp"
    source = f"tmp in the cache directory, chosen by {source}"
    if make:
        make_part(path, "tmp_dir", source, sticky=True)
    return path, source


def _chosen(key: str, state: dict[str, Any]) -> Choice | None:
    """Return what the highest layer says that says anything; None leaves it to the default."""
    if key in state:
        found: Choice = state[key]
        return found
    value = os.environ.get(_VARIABLES[key])
    if key == "tmp_dir" and (other := os.environ.get("LACUNA_TEMP_DIR")):
        if not value:
            return Choice(other, "LACUNA_TEMP_DIR")
        if value != other:
            warn(f"LACUNA_TMP_DIR ({value}) is used and LACUNA_TEMP_DIR ({other}) is not.")
    if value:
        return Choice(value, _VARIABLES[key])
    return state.get("site_" + key)


def who_chose(key: str) -> str:
    """Return who chose a location, also where it cannot be told what it comes to."""
    state = _state()
    chosen = _chosen(key, state) or _chosen("cache_dir", state)
    return chosen.source if chosen else DEFAULT


def _first_usable(key: str, chosen: Choice, *, make: bool) -> tuple[str, str]:
    """Return the first of several places that can be used; a single one need only exist."""

    def place(text: str) -> str:
        path = _resolve(text, chosen)
        if make:
            make_directory(path, key, chosen.source)
        return path

    if len(chosen.texts) == 1:
        return place(chosen.texts[0]), chosen.source
    from lacuna.utils.filesystem import is_writable

    problems = []
    for text in chosen.texts:
        try:
            path = place(text)
        except CacheDirError as error:
            problem = str(error).rpartition(" cannot be used: ")[2].partition(". ")[0].rstrip(".")
        else:
            if is_writable(path):
                return path, chosen.source
            problem = "not writable"
        problems.append(f"\n  {text}: {problem}")
    titles = f"{_TITLES[key][:-1]}ies"
    raise CacheDirError(
        errno.EACCES,
        f"None of the {titles} ({chosen.source}) can be used. {_way_out(key)}{''.join(problems)}",
        ", ".join(chosen.texts),
    )


def _resolve(text: str, chosen: Choice) -> str:
    """Return the absolute path that a chosen text stands for."""
    path = expand(text, chosen.source)
    if os.path.isabs(path):
        return path
    if chosen.relative_to is not None:
        return os.path.join(chosen.relative_to, path)
    known = _state().get("remembered", {})
    if path in known:
        return str(known[path])
    try:
        absolute = os.path.join(os.getcwd(), path)
    except OSError as error:
        message = f"{path!r} ({chosen.source}) leads nowhere: the working directory is gone."
        raise CacheDirError(error.errno, f"{message} Choose an absolute path.", path) from error
    warn(f"The relative path {path!r}, chosen by {chosen.source}, is taken as {absolute}.")
    return _remember(path, absolute)


def _remember(key: str, path: str) -> str:
    """Remember, for children too, what a path stands for; what was first remembered counts."""
    with _lock():
        remembered: dict[str, str] = {key: path, **_state().get("remembered", {})}
        _export({**_state(), "remembered": remembered})
        return remembered[key]


def _default_cache_dir() -> str:
    """Return the platform's cache directory of Lacuna; nothing without a home directory."""
    if sys.platform == "win32":
        home = _home()
        local = os.environ.get("LOCALAPPDATA") or (home and os.path.join(home, "AppData", "Local"))
        return local and os.path.join(local, "lacuna", "cache")
    root = os.environ.get("XDG_CACHE_HOME")
    if root and root[0] == "/":  # the XDG specification: ignore a relative one
        return root + "/lacuna"
    home = _home()
    return home and home + "/.cache/lacuna"


def _home() -> str:
    """Return the home directory; nothing if there is none."""
    home = os.path.expanduser("~")
    return "" if home in _NO_HOMES else home


def _fall_back(default: str, problem: CacheDirError, *, make: bool) -> str:
    """Choose, and remember for children, the private directory that replaces the default."""
    candidates = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    for directory in (*candidates, "/tmp", "/var/tmp"):  # noqa: S108 # checked when made
        if directory and os.path.isabs(directory) and os.access(directory, os.W_OK | os.X_OK):
            break
    else:
        message = f"{problem} There is no temp directory either that can be written."
        raise CacheDirError(problem.errno, message, problem.filename)
    user = os.getuid() if sys.platform != "win32" else os.environ.get("USERNAME", "user")
    path = os.path.join(directory, f"lacuna-{user}")
    if make:
        path = _remember(default, path)
        warn(f"{problem} Until then the cache is kept in {path}.")
    return path


def _check_private(path: str, *, make: bool) -> None:
    """Make sure of a directory that is ours alone, where others might have put one first."""
    import stat

    if not make and not os.path.lexists(path):
        return
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        facts = os.lstat(path)
        others = sys.platform != "win32" and (facts.st_uid != os.getuid() or facts.st_mode & 0o077)
        if others or not stat.S_ISDIR(facts.st_mode):
            found = f"{stat.filemode(facts.st_mode)}, user {facts.st_uid}"
            raise PermissionError(errno.EPERM, f"it is not a directory of ours alone ({found})")
    except OSError as error:
        raise failure("cache_dir", path, DEFAULT, error) from error


def make_directory(path: str, key: str, source: str) -> None:
    """Make a directory that only this user enters, if it is absent."""
    if os.path.isdir(path):
        return
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except (OSError, ValueError) as error:
        raise failure(key, path, source, error) from error


def make_part(path: str, key: str, source: str, *, sticky: bool = False) -> None:
    """Make a directory in the cache directory, if it is absent: the group's where that one is.

    In a sticky one only owners remove or rename what is theirs.
    """
    if os.path.isdir(path):
        return
    from lacuna.utils import modes

    try:
        modes.make_directory(path, sticky=sticky)
        if not os.path.isdir(path):
            raise FileExistsError(errno.EEXIST, "", path)
    except FileNotFoundError:  # a purge took the cache directory meanwhile
        make_directory(path, key, source)
    except (OSError, ValueError) as error:
        raise failure(key, path, source, error) from error


def _expand(text: str) -> str:
    if "$" in text:
        import re

        inner = "[^{}]*"
        for _ in range(4):  # as deep as a fallback may hold fallbacks
            inner = rf"(?:[^{{}}]|\{{{inner}\}})*"
        text = re.sub(rf"\$(?:(\$)|([A-Za-z_]\w*)|\{{({inner})\}}|(\{{))", _variable, text)
    if text.startswith("~"):
        home = text.partition("/")[0]
        text = os.path.expanduser(text)
        if text.startswith("~") or (home == "~" and not _home()):
            raise ValueError(f"there is no home directory for {home!r}")
    return text


def _variable(found: re.Match[str]) -> str:
    dollar, plain, braced, unclosed = found.groups()
    if dollar:
        return "$"
    if unclosed:
        raise ValueError("a '${' is not closed")
    name, has_fallback, fallback = (plain or braced).partition(":-")
    if not name.isidentifier():
        raise ValueError(f"'${{{name}}}' is not a variable; '$$' stands for a dollar sign")
    # A variable that is set but empty would move the path to the root just as well.
    if value := os.environ.get(name):
        return value
    if not has_fallback:
        raise ValueError(f"the variable {name} is not set; set it, or write ${{{name}:-fallback}}")
    return _expand(fallback)


def _state() -> dict[str, Any]:
    """Return what was configured in this process, or in the one that started it."""
    global _parsed
    text = os.environ.get(EXPORT)
    if not text:
        return {}
    parsed = _parsed
    if parsed[0] == text:
        return parsed[1]
    import json

    try:
        state = json.loads(text)
        for key in state.keys() & {"cache_dir", "tmp_dir", "site_cache_dir", "site_tmp_dir"}:
            state[key] = Choice(**state[key])
    except (ValueError, TypeError):
        message = f"{EXPORT} holds {text[:60]!r}, which Lacuna did not write. Unset it."
        raise CacheDirError(errno.EINVAL, message) from None
    _parsed = text, state
    found: dict[str, Any] = state
    return found


def _export(state: dict[str, Any]) -> None:
    text = _dump(state)
    if text == "{}":
        os.environ.pop(EXPORT, None)
    else:
        os.environ[EXPORT] = text


def _dump(state: dict[str, Any]) -> str:
    import json

    said = {key: value for key, value in state.items() if value not in ({}, None)}
    return json.dumps(said, separators=(",", ":"), sort_keys=True, default=vars)


def failure(key: str, path: str, source: str, error: OSError | ValueError) -> CacheDirError:
    """Return the error that says which directory, who chose it, why, and the way out."""
    number = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
    message = f"The {_TITLES[key]} {path} ({source}) cannot be used: {reason_of(error)}. "
    if number == errno.ENAMETOOLONG:
        return CacheDirError(number, message + "Use a shorter path or prefix.", path)
    if number in _FULL:
        message = f"{message[:-2]} ({_left(path)}). Make room there, or "
        return CacheFullError(number, message + _uncapitalised(_way_out(key, full=True)), path)
    cache, part_of = os.path.dirname(path), "tmp in the cache directory, chosen by "
    if source.startswith(part_of) and not os.access(cache, os.W_OK):
        message = (
            f"The cache {cache} ({source.removeprefix(part_of)}) cannot be written: "
            f"{reason_of(error)}; nor can scratch in it. If it is there to be read only, name it "
            "under shared_cache_dirs (LACUNA_SHARED_CACHE_DIRS), and another as the cache; or "
        )
        return CacheDirError(number, message + _uncapitalised(_way_out(key)), path)
    return CacheDirError(number, message + _way_out(key), path)


def _uncapitalised(text: str) -> str:
    return text[0].lower() + text[1:]


def _left(path: str) -> str:
    from lacuna.utils.filesystem import free_space

    n_bytes, n_inodes = free_space(path)
    found = [] if n_bytes is None else [f"{n_bytes / 1e6:.1f} MB"]
    found += [] if n_inodes is None else [f"{n_inodes} inodes"]
    return f"{' and '.join(found) or 'it is not known what'} free on the disk"


def reason_of(error: OSError | ValueError) -> str:
    """Return why something failed, in the system's words."""
    if isinstance(error, FileExistsError):
        return "it is there, but is not a directory"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _way_out(key: str, *, full: bool = False) -> str:
    variable = _VARIABLES[key]
    configured = _state().get(key)
    if configured is None or configured.source.startswith((DEFAULT, "LACUNA_", "tmp in ")):
        which = "on a disk with room" if full else "that you can write"
        return f"Set {variable} to a directory {which}."
    return f"Change it there ({configured.source}; {variable} does not override it)."


def warn(message: str) -> None:
    """Warn once, at the line that called into this package."""
    with _lock():
        if message in _warned:
            return
        _warned.add(message)
    import warnings

    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals["__name__"].startswith("lacuna.utils."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)
