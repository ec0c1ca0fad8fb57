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
_NO_HOMES = (None, "", "/", "/nonexistent")  # what services and containers have instead of one
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
    value
        Path, or several of which the first usable one counts. ``~``, ``$VAR`` and
        ``${VAR:-fallback}`` are expanded when the location is used.
    source
        Who chose it, as messages will say: ``cache_dir in lab.yaml, line 3``, ``--cache-dir``.
    relative_to
        Directory from which a relative value counts: that of the configuration file. Without
        it, the working directory at first use, with a warning.
    """

    __slots__ = ("relative_to", "several", "source", "texts")

    def __init__(
        self,
        value: PathText | Sequence[PathText],
        source: str,
        relative_to: PathText | None = None,
    ) -> None:
        self.several = isinstance(value, (list, tuple))
        values = value if isinstance(value, (list, tuple)) else [value]
        self.texts = [text for text in map(os.fsdecode, values) if text]
        self.source = source
        self.relative_to = None if relative_to is None else os.path.abspath(relative_to)

    def dump(self) -> list[Any]:
        """Return the arguments that make the same choice again."""
        return [self.texts if self.several else self.texts[0], self.source, self.relative_to]


def _lock() -> RLock:
    # One for each process: a forked child must not wait for a thread that it does not have.
    return _locks.setdefault(os.getpid(), RLock())


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
    with _lock():
        state = dict(_state())
        anchors = dict(state.get("anchors", {}))
        for key, choice in (("cache_dir", cache_dir), ("tmp_dir", tmp_dir)):
            if choice is None and keep:
                continue
            state.pop(layer + key, None)
            if choice is None or not choice.texts:
                continue
            state[layer + key] = choice
            for text in choice.texts:
                # A child may start in another directory before the first use here.
                if choice.relative_to is None and not (text[0] in "$~" or os.path.isabs(text)):
                    anchors[text] = [_working_directory(text, choice.source), False]
        state["anchors"] = anchors
        _export(state)


def reset() -> None:
    """Take back whatever was configured, here or in the process that started this one."""
    with _lock():
        _warned.clear()
        os.environ.pop(EXPORT, None)


def set_keep_tmp(keep: bool | None) -> None:
    """Keep scratch that would be removed, or do not, whatever ``LACUNA_KEEP_TMP`` says.

    Parameters
    ----------
    keep
        None: the variable counts again.
    """
    with _lock():
        _export({**_state(), "keep_tmp": keep})


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
    import contextlib

    captured: dict[str, Any] = {"keep_tmp": keeps_tmp()}
    for key, find in (("cache_dir", find_cache_dir), ("tmp_dir", find_temp_base)):
        with contextlib.suppress(CacheDirError):  # the worker says so, if it needs it at all
            path, source = find()
            captured[key] = Choice(path.replace("$", "$$"), source)
        captured[key] = _chosen(key, _state()) or captured.get(key)
    captured["anchors"] = _state().get("anchors")
    return _dump(captured)


def apply_locations(captured: str) -> None:
    """Make what :func:`capture_locations` returned elsewhere apply in this process."""
    os.environ[EXPORT] = captured


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
    fallback = state.get("fallbacks", {}).get(default)
    if fallback is None:
        if not default:
            reason = "there is no home directory"
        elif not make or os.path.isdir(default):
            return default, DEFAULT
        else:
            try:
                os.makedirs(default, 0o700, exist_ok=True)
            except (OSError, ValueError) as error:
                reason = f"{default} cannot be made ({reason_of(error)})"
            else:
                return default, DEFAULT
        fallback = _fall_back(default, reason, make=make)
    _check_private(fallback, make=make)
    return fallback, f"{DEFAULT} without a usable home directory"


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
        make_directory(path, "tmp_dir", source)
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
    problems = []
    for text in chosen.texts:
        try:
            path = _resolve(text, chosen)
            if make:
                make_directory(path, key, chosen.source)
        except CacheDirError as error:
            if not chosen.several:
                raise
            problems.append(str(error).partition(". ")[0])
        else:
            if not chosen.several or _is_writable(path):
                return path, chosen.source
            problems.append(f"{path} is not writable")
    problem = OSError(errno.EACCES, "; ".join(problems))
    raise failure(key, ", ".join(chosen.texts), chosen.source, problem)


def _is_writable(path: str) -> bool:
    from lacuna.utils.filesystem import is_writable

    return is_writable(path)


def _resolve(text: str, chosen: Choice) -> str:
    """Return the absolute path that a chosen text stands for."""
    path = expand(text, chosen.source)
    if os.path.isabs(path):
        return path
    if chosen.relative_to is not None:
        return os.path.join(chosen.relative_to, path)
    directory, warned = _state().get("anchors", {}).get(path, ("", False))
    if not warned:
        with _lock():
            directory = directory or _working_directory(path, chosen.source)
            state = _state()
            anchors = {**state.get("anchors", {}), path: [directory, True]}
            _export({**state, "anchors": anchors})
        absolute = os.path.join(directory, path)
        warn(f"The relative path {path!r}, chosen by {chosen.source}, is taken as {absolute}.")
    return os.path.join(directory, path)


def _working_directory(path: str, source: str) -> str:
    try:
        return os.getcwd()
    except OSError as error:
        message = f"{path!r} ({source}) leads nowhere: the working directory is gone."
        raise CacheDirError(error.errno, f"{message} Choose an absolute path.", path) from error


def _default_cache_dir() -> str:
    """Return the platform's cache directory of Lacuna; nothing without a home directory."""
    if sys.platform == "win32":
        home = _home()
        local = os.environ.get("LOCALAPPDATA") or (home and os.path.join(home, "AppData", "Local"))
        return local and os.path.join(local, "lacuna", "cache")
    root = os.environ.get("XDG_CACHE_HOME")
    if root and root[0] == "/":  # the XDG specification: ignore a relative one
        return root + "/lacuna"
    home = os.environ.get("HOME") or _home()
    return "" if home in _NO_HOMES else home + "/.cache/lacuna"


def _home() -> str:
    home = os.environ.get("USERPROFILE" if sys.platform == "win32" else "HOME", "")
    if home or sys.platform == "win32":
        return home
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container with a user that it does not know
        return ""


def _fall_back(default: str, reason: str, *, make: bool) -> str:
    """Choose, and remember for children, the private directory that replaces the default."""
    candidates = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    for directory in (*candidates, "/tmp", "/var/tmp"):  # noqa: S108 # checked when made
        if directory and os.path.isabs(directory) and os.access(directory, os.W_OK | os.X_OK):
            break
    else:
        reason = f"{reason}, and there is no temp directory that can be written"
        raise failure("cache_dir", "", DEFAULT, OSError(errno.ENOENT, reason))
    user = os.getuid() if sys.platform != "win32" else os.environ.get("USERNAME", "user")
    path = os.path.join(directory, f"lacuna-{user}")
    if make:
        with _lock():
            fallbacks = {**_state().get("fallbacks", {}), default: path}
            _export({**_state(), "fallbacks": fallbacks})
        warn(f"The cache is kept in {path}, since {reason}; set LACUNA_CACHE_DIR to keep it.")
    return path


def _check_private(path: str, *, make: bool) -> None:
    """Make sure of a directory that is ours alone, where others might have put one first."""
    import stat

    try:
        if not os.path.lexists(path):
            if not make:
                return
            os.makedirs(path, 0o700, exist_ok=True)
        facts = os.lstat(path)
    except OSError as error:
        raise failure("cache_dir", path, DEFAULT, error) from error
    ours = sys.platform == "win32" or (facts.st_uid == os.getuid() and not facts.st_mode & 0o077)
    if not stat.S_ISDIR(facts.st_mode) or not ours:
        problem = f"it is not a directory of ours alone ({stat.filemode(facts.st_mode)}"
        problem += f", user {facts.st_uid})"
        raise failure("cache_dir", path, DEFAULT, OSError(errno.EPERM, problem))


def make_directory(path: str, key: str, source: str) -> None:
    """Make a directory that only this user enters, if it is absent."""
    if os.path.isdir(path):
        return
    try:
        os.makedirs(path, 0o700, exist_ok=True)
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
        plain = text[1:2] in ("", "/", os.sep)
        home = _home() if plain else ""
        text = home + text[1:] if home else text if plain else os.path.expanduser(text)
        if text.startswith("~"):
            raise ValueError(f"there is no home directory for {text.partition('/')[0]!r}")
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
        for key in ("cache_dir", "tmp_dir", "site_cache_dir", "site_tmp_dir"):
            if key in state:
                state[key] = Choice(*state[key])
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
    return json.dumps(said, separators=(",", ":"), sort_keys=True, default=Choice.dump)


def failure(key: str, path: str, source: str, error: OSError | ValueError) -> CacheDirError:
    """Return the error that says which directory, who chose it, why, and the way out."""
    number = (error.errno if isinstance(error, OSError) else None) or errno.EINVAL
    message = f"The {_TITLES[key]} {path} ({source}) cannot be used: {reason_of(error)}. "
    if number == errno.ENAMETOOLONG:
        return CacheDirError(number, message + "Use a shorter path or prefix.", path)
    kind = CacheFullError if number in _FULL else CacheDirError
    return kind(number, message + _way_out(key), path)


def reason_of(error: OSError | ValueError) -> str:
    """Return why something failed, in the system's words."""
    if isinstance(error, FileExistsError):
        return "it is there, but is not a directory"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _way_out(key: str) -> str:
    variable = _VARIABLES[key]
    configured = _state().get(key)
    if configured is None or configured.source.startswith((DEFAULT, "LACUNA_", "tmp in ")):
        return f"Set {variable} to a directory that you can write."
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
