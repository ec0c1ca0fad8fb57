"""The store that the settings ask for."""

import logging
import os
import stat
from pathlib import Path

from lacuna.config import Settings, current_settings
from lacuna.store import Store
from lacuna.utils import cache

_logger = logging.getLogger(__name__)

_warned: set[Path] = set()


def open_store(settings: Settings | None = None) -> Store:
    """Return the store in the cache directory, with the read-only caches of others behind it.

    Parameters
    ----------
    settings
        None: those applied last, by `lacuna.load_config` or the command line, else what the
        environment says.

    Raises
    ------
    CacheDirError
        If the cache directory is absent and cannot be made.
    ConfigError
        If a variable in the path of a shared cache is not set.
    """
    settings = settings or current_settings()
    root = cache.get_cache_dir()
    warn_of_shared(settings)
    return Store(
        root,
        read_only_roots=settings.paths("shared_cache_dirs"),
        scratch=None if _is_private(root) else _scratch(),
        max_size=settings.max_size,
        max_age_s=settings.max_age,
        # Nobody who did not ask for it is refused a build for want of spare room.
        min_free=settings.min_free if settings.sources["min_free"] != "default" else None,
        evict_below=settings.min_free,
    )


def warn_of_shared(settings: Settings) -> None:
    """Say, once in a process, which shared caches cannot be used: all is built anew without."""
    for root in settings.paths("shared_cache_dirs"):
        if root not in _warned and (problem := problem_of(root)):
            _warned.add(root)
            advice = "ask its owner for access" if "readable" in problem else "mend the path"
            _logger.warning(
                "The shared cache %s (%s) is %s, so that nothing in it is used: %s, or take it "
                "out there.",
                *(root, settings.sources["shared_cache_dirs"], problem, advice),
            )


def problem_of(root: Path) -> str:
    """Return why nothing is found in a shared cache; nothing if it can be looked at."""
    try:
        os.scandir(root).close()
    except FileNotFoundError:
        return "absent"
    except NotADirectoryError:
        return "no directory"
    except OSError as error:
        return f"not readable by you ({error.strerror})"
    return "" if os.access(root, os.X_OK) else "not readable by you (it cannot be entered)"


def _is_private(root: Path) -> bool:
    """Whether we, and nobody else, can write in the root."""
    return os.access(root, os.W_OK) and not root.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _scratch() -> Path | None:
    """Return the temp base, where there is one: the store can do without."""
    try:
        return cache.get_temp_base_dir()
    except OSError:
        return None
