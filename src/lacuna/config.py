"""The configuration file, and every setting with the place it came from.

A value is looked for in this order; the first place that has it wins::

    command line
    the configuration file     --config, $LACUNA_CONFIG, ./lacuna.yaml, or the user's own
    environment variables
    the site's file            an administrator's defaults, never above a user's variable
    built-in default

Only the first configuration file found is read, never two of them; see `find_config_file`.
"""

import logging
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache as cache_result
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from lacuna.errors import CacheDirError, ConfigError
from lacuna.utils import cache

_applied: "Settings | None" = None
_log = logging.getLogger(__name__)

_SIZE_PREFIXES = ["", "K", "M", "G", "T", "P"]
_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGTPkmgtp]?)(?:i?|i[Bb]|([Bb]))\s*$")
_Size = Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(pattern=_SIZE.pattern)]
_DURATION = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|d|w)\s*$")
_Duration = (
    Annotated[float, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(pattern=_DURATION.pattern)]
)
_Paths = tuple[Annotated[str, msgspec.Meta(min_length=1)], ...]
_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_DIRECTORIES = ("cache_dir", "tmp_dir")
_MIN_FREE = 5 << 30
_LIBRARY_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class TransformSetting(
    msgspec.Struct,
    forbid_unknown_fields=True,
    frozen=True,
    rename={"images_from": "from", "images_to": "to"},
):
    """A transform whose name does not say all: it resamples images of one space onto another."""

    file: str
    images_from: str | None = None
    images_to: str | None = None
    images: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.file


class ConfigFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The types of what a configuration file may say; None says nothing."""

    cache_dir: str | None = None
    tmp_dir: str | _Paths | None = None
    shared_cache_dirs: _Paths | None = None
    offline: bool | None = None
    num_threads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    keep_tmp: bool | None = None
    max_size: _Size | None = None
    max_age: _Duration | None = None
    min_free: _Size | None = None
    space: str | None = None
    tractogram: str | None = None
    tractogram_space: str | None = None
    transforms: tuple[str | TransformSetting, ...] | None = None


SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
"""The units of a duration."""

KEYS = ConfigFile.__struct_fields__
"""The keys of a configuration file."""


@cache_result
def descriptions() -> dict[str, dict[str, Any]]:
    """Return what is said about ``keys``, ``environment`` and ``foreign`` variables."""
    return tomllib.loads(Path(__file__).with_name("settings.toml").read_text(encoding="utf-8"))


class Stated(NamedTuple):
    """What one place says about a setting.

    Parameters
    ----------
    value
        Paths are not yet expanded.
    source
        The place, in words: ``"cache_dir in lab.yaml, line 3"``.
    base
        The directory from which a relative path counts, where there is one.
    """

    value: Any
    source: str
    base: str | None = None


Layer = dict[str, Stated]
"""What one place says, by key."""


class Settings(ConfigFile, frozen=True, kw_only=True):
    """Every setting, and where each came from.

    Parameters
    ----------
    cache_dir, tmp_dir
        As configured by a file or the command line. None: not configured there, and
        `lacuna.utils.cache` decides.
    shared_cache_dirs, tractogram, transforms
        Not yet expanded either: `paths` does it when they are used.
    max_size, min_free
        Bytes.
    max_age
        Seconds.
    stated
        The values with their sources; ``site_cache_dir`` and ``site_tmp_dir`` are those of the
        site's file, which rank below the environment.
    files
        The configuration files that were read.
    unread
        Files found but not read, each with the reason.
    """

    shared_cache_dirs: tuple[str, ...] = ()
    offline: bool = False
    num_threads: int = 1
    keep_tmp: bool = False
    max_size: int | None = None
    max_age: float | None = None
    min_free: int = _MIN_FREE
    transforms: tuple[str | TransformSetting, ...] = ()
    stated: Layer = {}
    files: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def sources(self) -> dict[str, str]:
        """Where each setting came from, in words."""
        return {key: said.source for key, said in self.stated.items()}

    def paths(self, key: str) -> tuple[Path, ...]:
        """Return the expanded paths of ``shared_cache_dirs`` or ``tractogram``.

        Raises
        ------
        ConfigError
            If a variable in one of them is not set; the message names it and the source.
        """
        value, source, base = self.stated[key]
        values = (value,) if isinstance(value, str) else value or ()
        return tuple(_expanded(text, source, base) for text in values)

    def expand(self, key: str, text: str) -> Path:
        """Return the path that a text in the value of a key stands for; errors as `paths`."""
        _, source, base = self.stated[key]
        return _expanded(text, source, base)


def load_config(config: str | os.PathLike[str] | None = None) -> Settings:
    """Read the configuration as the command line does, and use its directories from now on.

    Parameters
    ----------
    config
        The file to read; by default the one that the command line would find.

    Raises
    ------
    ConfigError
        If a file cannot be read, or says something that it may not.
    """
    settings = load_settings(config)
    apply_settings(settings)
    return settings


def apply_settings(settings: Settings) -> None:
    """Tell `lacuna.utils.cache` what the settings say about directories.

    What they do not say stays as it is, so that a process started by a configured one keeps
    what it inherited.
    """
    global _applied
    _applied = settings
    choices: dict[str, cache.Choice | bool] = {
        key: cache.Choice(*said)
        for key, said in settings.stated.items()
        if key.removeprefix("site_") in _DIRECTORIES and said.value
    }
    if settings.sources["keep_tmp"] not in ("default", "LACUNA_KEEP_TMP"):
        choices["keep_tmp"] = settings.keep_tmp
    cache.set_locations(**choices)


def load_settings(
    config: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    tmp_dir: str | os.PathLike[str] | None = None,
    num_threads: int | None = None,
) -> Settings:
    """Return the settings, without any effect.

    Parameters
    ----------
    config, cache_dir, tmp_dir, num_threads
        As given by ``--config``, ``--cache-dir``, ``--tmp-dir`` and ``--threads``: they beat
        the configuration file.

    Raises
    ------
    ConfigError
        If a file cannot be read, or if it or a variable of the environment says something
        that it may not.
    """
    path, unread = find_config_file(config)
    site_path = next(filter(os.path.isfile, site_candidates()), None)
    settings = _merge(
        read_config_file(site_path) if site_path else {},
        read_config_file(path) if path else {},
        _option_layer(cache_dir, tmp_dir, num_threads),
    )
    files = tuple(str(file) for file in (path, site_path) if file)
    return msgspec.structs.replace(settings, files=files, unread=unread)


def describe_container() -> dict[str, dict[str, str]]:
    """Return what BIDS says of the container that this runs in; nothing outside of one."""
    tag = os.environ.get("LACUNA_CONTAINER_TAG")
    for kind in ("apptainer", "singularity"):
        if image := os.environ.get(f"{kind.upper()}_CONTAINER"):
            said = {"Type": kind, "Tag": tag or Path(image).name}
            return {"Container": said | {"URI": Path(image).absolute().as_uri()}}
    return {"Container": {"Type": "docker", "Tag": tag}} if tag else {}


def current_settings() -> Settings:
    """Return the settings applied last in this process, else what the environment says."""
    return _applied or _merge({}, {}, {})


def _merge(site: Layer, chosen: Layer, options: Layer) -> Settings:
    """Rank what was said, between the built-in defaults and with the environment."""
    # The environment's directories are not here: utils.cache reads them at each use.
    site = {f"site_{key}" if key in _DIRECTORIES else key: said for key, said in site.items()}
    stated = _default_layer() | site | _environment_layer() | chosen | options
    values = {key: stated[key].value for key in KEYS if stated[key].value is not None}
    return Settings(**values, stated=stated)


def find_config_file(
    config: str | os.PathLike[str] | None = None,
) -> tuple[Path | None, tuple[str, ...]]:
    """Return the configuration file to read, and those found but not read, with the reason.

    ``--config``, ``$LACUNA_CONFIG``, ``lacuna.yaml`` in the working directory and the user's
    own file are tried in this order; the first found is the one.

    Raises
    ------
    ConfigError
        If the file that ``config`` or ``LACUNA_CONFIG`` names does not exist.
    """
    named = os.fspath(config) if config is not None else ""
    chosen_by = "--config" if named else "LACUNA_CONFIG"
    named = named or os.environ.get("LACUNA_CONFIG", "")
    found = _named_file(named, chosen_by) if named else None
    unread = []
    local = Path("lacuna.yaml")
    for path in (local, user_config_file()):
        if path is None or not os.path.isfile(path):  # false, not an error, where we may not look
            continue
        if found is not None:
            if not os.path.samefile(found, path):
                unread.append(f"{_shown(path)}: {_shown(found)} comes before it")
        elif path is local and _is_foreign(path):
            reason = f"{_shown(path)}: it belongs to another user; to use it, name it with --config"
            _log.warning("Ignored the configuration file %s", reason)
            unread.append(reason)
        else:
            found = path.absolute()
    return found, tuple(unread)


def site_candidates() -> tuple[Path, ...]:
    """Return where an administrator may put defaults for all; the first that exists is read."""
    listed = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    roots = [root for root in listed.split(os.pathsep) if os.path.isabs(root)]
    return tuple(Path(root, "lacuna", "config.yaml") for root in (*roots, "/etc"))


def read_config_file(path: Path) -> Layer:
    """Return what a configuration file says, its relative paths made absolute.

    Raises
    ------
    ConfigError
        If it cannot be read, is not YAML, has an unknown or repeated key, or a value of the
        wrong type; the message gives the line.
    """
    shown = _shown(path)
    data, lines = _parse(path, shown)
    try:
        checked = msgspec.convert(data, ConfigFile)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), data, lines, shown)) from None
    base = os.path.dirname(os.path.abspath(path))
    said = {}
    for key in data:
        value = getattr(checked, key)
        if value not in (None, "", ()):  # a key without a value says nothing
            value = _PARSERS[key](value) if key in _PARSERS else value
            said[key] = Stated(value, f"{key} in {shown}, line {lines[key]}", base)
    return said


def parse_size(text: str | int) -> int:
    """Return the number of bytes in a size such as ``5 GiB`` (also ``5 G``) or ``5 GB`` (10⁹).

    Raises
    ------
    ValueError
        If it is no size.
    """
    match = _SIZE.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a number and a unit, such as 5 GiB")
    number, prefix, decimal = match.groups()
    return int(float(number) * (1000 if decimal else 1024) ** _SIZE_PREFIXES.index(prefix.upper()))


def parse_duration(text: str | float) -> float:
    """Return the seconds in a duration such as ``90min``, ``12h`` or ``30d``; a number is seconds.

    Raises
    ------
    ValueError
        If it is no duration.
    """
    if not isinstance(text, str):
        return float(text)
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a duration; write a number and s, min, h, d or w, such as 30d"
        )
    return float(match[1]) * SECONDS[match[2]]


_PARSERS = {"max_size": parse_size, "min_free": parse_size, "max_age": parse_duration}


def certificates() -> str | None:
    """Return the file or folder of trusted certificates that the environment names, if any.

    Raises
    ------
    ConfigError
        If it does not exist.
    """
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        if path := os.environ.get(name):
            if not os.path.exists(path):
                raise ConfigError(
                    f"{name} names {path}, which does not exist; mend it or unset it."
                )
            return path
    return None


def available_cpus() -> int:
    """Return how many processors this process may use: its affinity and its cgroup's quota."""
    n_cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([n_cpus, *_cgroup_quotas()]))


@contextmanager
def no_library_threads() -> Iterator[None]:
    """Keep libraries of processes that are started in the block from starting threads.

    They would come on top of those that the settings allow.
    """
    before = {name: os.environ.get(name) for name in _LIBRARY_THREADS}
    os.environ.update(dict.fromkeys(_LIBRARY_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _cgroup_quotas(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """Return the processor quotas of this process's control groups (version 2), rounded up."""
    try:
        group = own.read_text().partition("0::")[2].splitlines()[0].strip("/")
    except (OSError, IndexError):
        return []
    quotas = []
    here = root / group
    for directory in (here, *here.parents):
        try:
            quota, period = (directory / "cpu.max").read_text().split()
            quotas.append(-(-int(quota) // int(period)))
        except (OSError, ValueError):  # no limit reads "max"
            pass
        if directory == root:
            break
    return quotas


def _default_layer() -> Layer:
    """Return what holds where nobody said anything."""
    layer = dict.fromkeys(KEYS, Stated(None, "default"))
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdecimal() and int(slurm):
        threads = Stated(int(slurm), "SLURM_CPUS_PER_TASK")
    else:
        threads = Stated(available_cpus(), "the processors this process may use")
    return layer | {"num_threads": threads, "min_free": Stated(_MIN_FREE, "default")}


def _environment_layer() -> Layer:
    """Return what the environment says, apart from the directories of `lacuna.utils.cache`."""
    layer = {}
    for key in ("shared_cache_dirs", "offline", "num_threads", "keep_tmp"):
        name = f"LACUNA_{key.upper()}"
        text = os.environ.get(name, "").strip()
        if not text:
            continue
        value: str | list[str] = _WORDS.get(text.lower(), text)
        if key == "shared_cache_dirs":
            # Not at the colon of ${NAME:-fallback}.
            value = [path for path in re.split(re.escape(os.pathsep) + "(?!-)", text) if path]
        try:
            checked = msgspec.convert({key: value}, ConfigFile, strict=False)
        except msgspec.ValidationError:
            expects = descriptions()["keys"][key]["expects"]
            message = f"{name} is {text!r}, but must be {expects}; mend it or unset it."
            raise ConfigError(message) from None
        layer[key] = Stated(getattr(checked, key), name)
    return layer


def _option_layer(cache_dir: Any, tmp_dir: Any, num_threads: int | None) -> Layer:
    """Return what the command line says; an empty string says nothing."""
    options = (
        ("cache_dir", "--cache-dir", os.fspath(cache_dir or "")),
        ("tmp_dir", "--tmp-dir", os.fspath(tmp_dir or "")),
        ("num_threads", "--threads", num_threads),
    )
    return {key: Stated(value, name, os.getcwd()) for key, name, value in options if value}


def _named_file(named: str, chosen_by: str) -> Path:
    path = _expanded(named, chosen_by)
    if path.is_dir() or not path.exists():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise ConfigError(
            f"The configuration file {path}, chosen by {chosen_by}, {what}; "
            "`lacuna config init FILE` writes one."
        )
    return path


def user_config_file() -> Path | None:
    """Return where the user's own file is looked for; None without a home directory."""
    if sys.platform == "win32":
        root = os.environ.get("APPDATA", "")
    else:
        root = os.environ.get("XDG_CONFIG_HOME", "")
        if not os.path.isabs(root):  # the XDG specification: ignore a relative one
            root = os.path.expanduser("~/.config")  # stays "~" where there is no home
    return Path(root, "lacuna", "config.yaml") if os.path.isabs(root) else None


def _expanded(text: str, source: str, base: str | None = None) -> Path:
    try:
        path = cache.expand(text, source)
    except CacheDirError as error:
        raise ConfigError(str(error)) from None
    return Path(os.path.abspath(os.path.join(base or os.curdir, path)))


def _is_foreign(path: Path) -> bool:
    return sys.platform != "win32" and path.stat().st_uid not in (0, os.getuid())


def _shown(path: Path) -> str:
    """Return a path as short as it stays clear: relative to the working directory, if below it."""
    try:
        return path.absolute().relative_to(Path.cwd()).as_posix()
    except (OSError, ValueError):  # the working directory is gone, or elsewhere
        return str(path)


def _parse(path: Path, shown: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the content of a YAML file, and the line of each key."""
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_bytes())
        root = loader.get_single_node()
        data = loader.construct_document(root) if root else None
    except OSError as error:
        message = f"The configuration file {shown} cannot be read: {error.strerror}."
        raise ConfigError(message) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise ConfigError(f"{shown}{where}: this is not YAML: {problem}.") from None
    if data is None:
        return {}, {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{shown}, line 1: expected lines of the form `key: value`.")
    lines: dict[str, int] = {}
    for key, _ in root.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ConfigError(
                f"{shown}, line {line}: {key.value} stands already in line {lines[key.value]}; "
                "keep one of the two."
            )
        lines[key.value] = line
    return {str(key): value for key, value in data.items()}, lines


def _explain(problem: str, data: dict[str, Any], lines: dict[str, int], shown: str) -> str:
    """Turn msgspec's message into one with the line and the way out."""
    unknown = re.search(r"unknown field `(.*)`", problem)
    if unknown:
        from difflib import get_close_matches

        near = get_close_matches(unknown[1].lower(), list(KEYS), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}."
        line = lines.get(unknown[1], 1)
        return f"{shown}, line {line}: unknown key {unknown[1]}; {hint}"
    where = re.search(r"`\$\.(\w+)", problem)
    if where is None:
        return f"{shown}: {problem}."
    key = where[1]
    facts = descriptions()["keys"][key]
    return (
        f"{shown}, line {lines[key]}: {key} must be {facts['expects']}, "
        f"not {data[key]!r:.60}; for example `{key}: {facts['example']}`."
    )
