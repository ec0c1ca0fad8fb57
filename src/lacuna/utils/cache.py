"""Where Lacuna's files live: the cache, and scratch.

Two directories carry everything that nobody asked for by name. The *cache* holds what is
expensive to make; the *temp base* holds what lives for one analysis::

    <cache_dir>/
      downloads/ tdi/ transforms/      what is kept
      tmp/                             scratch, unless a temp base is chosen

Who decides, highest first: what was configured (:func:`configure_cache`, a configuration file, a
command-line option), the environment, a site's configuration file, the platform's default.
"""

from __future__ import annotations

import errno
import os
import sys
from _thread import RLock
from pathlib import Path

from lacuna.errors import CacheDirError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    T = TypeVar("T")
    PathText = str | os.PathLike[str]

# The one variable through which child processes learn what was configured here.
_EXPORT = "_LACUNA_LOCATIONS"

_lock = RLock()


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
        several = isinstance(value, (list, tuple))
        self.value: str | list[str] = (
            [os.fsdecode(item) for item in value] if several else os.fsdecode(value)  # type: ignore[union-attr, arg-type]
        )
        self.source = source
        self.relative_to = None if relative_to is None else os.path.abspath(relative_to)


def configure_cache(cache_dir: PathText | None = None, tmp_dir: PathText | None = None) -> None:
    """Say where the cache and the scratch of this process and its children are."""
    raise NotImplementedError


def set_locations(
    cache_dir: Choice | None = None,
    tmp_dir: Choice | None = None,
    *,
    site: bool = False,
) -> None:
    """Choose locations on behalf of a configuration file or a command line.

    What :func:`configure_cache` does, for a caller that knows who chose each value. Replaces
    both values of its layer and leaves the other layer alone; ``None`` takes a value back. A
    caller with nothing to set does not call: what a parent process configured then stays.

    Parameters
    ----------
    cache_dir, tmp_dir
        What was chosen; ``tmp_dir`` may list several places, of which the first usable counts.
    site
        Set the values that rank below the environment and above the platform's default, as a
        site's configuration file does, instead of those that beat the environment.
    """
    raise NotImplementedError


def set_keep_tmp(keep: bool | None) -> None:  # noqa: FBT001
    """Keep scratch that would be removed, whatever ``LACUNA_KEEP_TMP`` says; None: as it says."""
    raise NotImplementedError


def capture_locations() -> str:
    """Return what applies here, as text to send with a task to a worker that already runs."""
    raise NotImplementedError


def apply_locations(captured: str) -> None:
    """Make what :func:`capture_locations` returned elsewhere apply in this process."""
    raise NotImplementedError


def run_with_locations(
    captured: str, function: Callable[..., T], /, *args: Any, **kwargs: Any
) -> T:
    """Apply captured locations, then call: what a pool runs in its workers."""
    apply_locations(captured)
    return function(*args, **kwargs)
