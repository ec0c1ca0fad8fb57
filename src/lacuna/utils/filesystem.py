"""What kind of file system a path lies on, and what is left there."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

# Seen by one machine only. What is not in this list counts as shared: whoever takes a shared
# directory for a local one may judge a living owner on another host dead.
LOCAL_TYPES = frozenset(
    {"apfs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfs", "jfs", "ntfs"}
    | {"ntfs3", "overlay", "ramfs", "reiserfs", "tmpfs", "vfat", "xfs", "zfs"}
)


class Location:
    """One of the places where files are kept, as it stands.

    Attributes
    ----------
    name : str
        ``cache``, ``tdi``, ``transforms`` or ``temp``.
    path : Path or None
        None where it cannot be told; ``problem`` then says why.
    source : str
        Who chose it.
    exists, writable : bool
        Of an absent directory, ``writable`` says whether it could be made.
    filesystem : str or None
        Type, as the system names it: ``ext4``, ``nfs4``. None if unknown.
    free_bytes, free_inodes : int or None
        What this user may still use; None if unknown or unlimited.
    problem : str or None
        Why the location cannot be used.
    """

    def __init__(
        self, name: str, path: Path | None, source: str, *, problem: str | None = None
    ) -> None:
        self.name = name
        self.path = path
        self.source = source
        self.problem = problem
        self.exists = path is not None and os.path.isdir(path)  # no, where it cannot be looked at
        self.writable = path is not None and is_writable(path)
        self.filesystem = None if path is None else filesystem_type(path)
        self.free_bytes, self.free_inodes = (None, None) if path is None else free_space(path)


def is_writable(path: str | os.PathLike[str]) -> bool:
    """Return whether files can be made in a directory, or in the one that would hold it."""
    existing = nearest_existing(path)
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)


def filesystem_type(path: str | os.PathLike[str], mounts: str | None = None) -> str | None:
    """Return the type of the file system that holds, or would hold, a path.

    Parameters
    ----------
    path
        It need not exist.
    mounts
        Text of a Linux ``mountinfo`` table; that of this process by default.

    Returns
    -------
    str or None
        As the kernel names it; None where there is no such table.
    """
    found = mount_of(path, mounts)
    return None if found is None else found[0]


def mount_of(
    path: str | os.PathLike[str], mounts: str | None = None
) -> tuple[str, str, str, frozenset[str]] | None:
    """Return how the file system is mounted that holds, or would hold, a path.

    Returns
    -------
    (type, source, mount point, options)
        None where there is no such table.
    """
    if mounts is None:
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
                mounts = file.read()
        except OSError:
            return None
    where = os.path.join(os.path.realpath(nearest_existing(path)), "")
    best, mount = -1, None
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields, more = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(more) < 3:
            continue
        point = os.path.join(_unescape(fields[4]), "")
        # ">=": a later mount on the same point hides the earlier one.
        if where.startswith(point) and len(point) >= best:
            options = frozenset(f"{fields[5]},{more[2]}".split(","))
            best, mount = len(point), (more[0], _unescape(more[1]), _unescape(fields[4]), options)
    return mount


def mount_points() -> list[str]:
    """Return where file systems are mounted; nothing where there is no such table."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return [_unescape(line.split(" ")[4]) for line in file]
    except OSError:
        return []


def is_local(path: str | os.PathLike[str]) -> bool:
    """Return whether a path surely lies on a file system that only this machine mounts."""
    return filesystem_type(path) in LOCAL_TYPES


def free_space(path: str | os.PathLike[str]) -> tuple[int | None, int | None]:
    """Return the bytes and inodes that this user may still take where a path lies.

    Returns
    -------
    (bytes, inodes)
        None for what the system does not tell; file systems without a fixed number of inodes
        give None for these.
    """
    existing = nearest_existing(path)
    if sys.platform == "win32":
        import shutil

        return shutil.disk_usage(existing).free, None
    try:
        facts = os.statvfs(existing)
    except OSError:
        return None, None
    return facts.f_bavail * facts.f_frsize, facts.f_favail if facts.f_files else None


def nearest_existing(path: str | os.PathLike[str]) -> str:
    """Return the path, or the closest ancestor of it that exists."""
    text = os.path.abspath(path)
    while not os.path.lexists(text):
        parent = os.path.dirname(text)
        if parent == text:
            break
        text = parent
    return text


def _unescape(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
