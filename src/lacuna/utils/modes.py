"""Who may use what is made: its owner alone, or a group, where the directory above is a group's.

A directory is a group's if it is setgid and its group may write in it. What is made below is the
group's too, all the way down and whatever the umask; anything else is its owner's alone. Nobody
has to remember which roots are shared, since each directory says it of itself.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    PathText = str | os.PathLike[str]

_SHARED = stat.S_ISGID | stat.S_IWGRP
_PAUSES_S = (0.0, 0.02, 0.1, 0.4)


def is_shared(directory: PathText | int) -> bool:
    """Return whether what is made in a directory is its group's; no, if it cannot be looked at."""
    try:
        return os.stat(directory).st_mode & _SHARED == _SHARED
    except OSError:
        return False


def make_directory(path: str, *, sticky: bool = False) -> os.stat_result:
    """Make a directory whose parent exists, unless something has that name.

    Parameters
    ----------
    path
        Below a directory that is a group's it becomes that too.
    sticky
        There, let only owners remove or rename what is in it.

    Returns
    -------
    os.stat_result
        Of what has the name, which need not be a directory: links are not followed.
    """
    for pause in _PAUSES_S:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            status = _make(path, sticky=sticky)
        is_hidden = status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IRWXG != stat.S_IRWXG
        if not (is_hidden and stat.S_ISDIR(status.st_mode) and is_shared(os.path.dirname(path))):
            return status
        import time

        time.sleep(pause)
    # Its maker did not come to share it, and died before using it if it is empty.
    try:
        os.rmdir(path)
    except OSError:
        return status
    return _make(path, sticky=sticky)


def _make(path: str, *, sticky: bool) -> os.stat_result:
    shared = is_shared(os.path.dirname(path))
    try:
        os.mkdir(path, 0o770 if shared else 0o700)
        if shared:
            share_directory(path, sticky=sticky)
    except FileExistsError:
        pass
    return os.lstat(path)


def share_directory(path: str, *, sticky: bool = False, group: int | None = None) -> None:
    """Let the group use a directory.

    Parameters
    ----------
    path
        A link is refused: other members could lay one that leads to a directory of ours.
    sticky
        Let only owners remove or rename what is in it.
    group
        Number of the group that gets it; the one that has it by default.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        set_access(handle, 0o3770 if sticky else 0o2770, group)
    finally:
        os.close(handle)


def share_file(handle: int, directory: PathText | int, mode: int = 0o660) -> None:
    """Let the group use an open file, if the directory that holds it is the group's."""
    if is_shared(directory):
        set_access(handle, mode)


def set_access(handle: int, mode: int, group: int | None = None) -> None:
    """Give an open file or directory a mode, and a group, where it has another."""
    status = os.fstat(handle)
    if group not in (None, status.st_gid):
        os.fchown(handle, -1, group)
    if stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(handle, mode)
