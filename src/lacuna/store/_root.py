"""Making a root on purpose: for one user, or for the members of a group.

A root that a group shares gets its directories at once. Made later, under one member's strict
umask, each would be closed to the others for a moment.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from lacuna.errors import CacheDirError
from lacuna.store._layout import (
    DIRECTORIES,
    PRIVATE,
    SCRATCH,
    find_other_data,
    is_marked,
    make_directory,
    prepare_root,
    walk,
)
from lacuna.store._space import explained
from lacuna.utils import modes

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def group_of(root: Path | str) -> int | None:
    """Return the number of the group that shares a root; None for a private one."""
    return os.stat(root).st_gid if modes.is_shared(root) else None


def make_root(root: Path | str, group: int | None = None) -> None:
    """Make a cache root and mark it; on one of ours, mend what is missing.

    Parameters
    ----------
    root
        An absent or empty directory, or a root already.
    group
        Number of the group whose members may read, refresh and remove what is kept; what is there
        already becomes theirs too. Without one a private root is made, and a shared one stays.

    Raises
    ------
    CacheDirError
        It holds other data, belongs to another group, or cannot be made.
    """
    root = os.path.abspath(root)
    with explained(root, "a cache"):
        os.makedirs(root, 0o700, exist_ok=True)
        if not is_marked(root) and (other := find_other_data(root)):
            raise _refused(root, f"holds other data, such as {other}", "an empty directory")
        theirs = group_of(root)
        if theirs is None and group is not None:
            _give(root, group)
        elif group not in (None, theirs):
            raise _refused(root, f"is shared with group {theirs} already", "another directory")
        prepare_root(root)
        if group_of(root) is not None:
            for name in DIRECTORIES:
                make_directory(f"{root}/{name}")
            modes.make_directory(f"{root}/{SCRATCH}", sticky=True)
            with suppress(PermissionError):  # made by another member, as it has to be
                modes.share_directory(f"{root}/{SCRATCH}", sticky=True, group=os.stat(root).st_gid)
            _share_all(root)


def _refused(root: str, why: str, what: str) -> CacheDirError:
    return CacheDirError(
        errno.ENOTEMPTY,
        f"{root} {why}: no cache was made. Choose {what} with --cache-dir, LACUNA_CACHE_DIR or "
        "cache_dir (configuration).",
        root,
    )


def _give(root: str, group: int) -> None:
    """Make a private root the group's."""
    for path, is_entry in walk(root):
        if not is_entry:
            raise _refused(root, f"holds files that are not the cache's, such as {path}", "another")
    modes.share_directory(root, group=group)
    if group_of(root) != group:
        raise CacheDirError(
            errno.ENOTSUP,
            f"{root} cannot be shared: its file system does not keep a group's modes. Choose "
            "another one with --cache-dir, LACUNA_CACHE_DIR or cache_dir (configuration).",
            root,
        )


def _share_all(root: str) -> None:
    """Share everything below a group's root that is ours to share, but for what is private."""
    group = os.stat(root).st_gid
    for place, names, files, here in os.fwalk(root):
        if place == root:
            names[:] = [name for name in names if name not in PRIVATE]
        else:
            _share(here, group, 0o2770)
        for name in files:
            with suppress(OSError):  # a link, or another member's
                handle = os.open(name, _READ, dir_fd=here)
                try:
                    if stat.S_ISREG(os.fstat(handle).st_mode):
                        _share(handle, group, 0o660)
                finally:
                    os.close(handle)


def _share(handle: int, group: int, mode: int) -> None:
    with suppress(PermissionError):
        modes.set_access(handle, mode, group)
