"""Where things lie below a cache root, and which of them are ours to delete.

::

    <cache_dir>/
      downloads/ tdi/ transforms/   buckets; in each: v1/ab/<digest>/ payload files, meta.json
      tmp/                          default scratch
      .stage/ .trash/ .claims/ .leases/ .pins/
      .memo/                        fingerprints of input files, by path and stat

A directory that we made, or found empty, carries our marker and a ``CACHEDIR.TAG`` (which tells
backup programs to pass by). A root with other data in it gets neither; its buckets do, or, where
a bucket holds somebody's files too, the version directory in it. What has no marker above it is
never deleted. Everything below the root is a real directory: a link is refused, not followed.
"""

import errno
import itertools
import os
import re
import stat
from collections.abc import Iterator

from lacuna.errors import CacheDirError
from lacuna.store.buckets import BUCKETS
from lacuna.utils.owner import current_owner

META = "meta.json"
MARKER = ".lacuna-cache"
TAG = "CACHEDIR.TAG"
STAGE, TRASH, CLAIMS, MEMO = ".stage", ".trash", ".claims", ".memo"

_OURS = frozenset((*BUCKETS, "tmp", STAGE, TRASH, CLAIMS, MEMO, ".leases", ".pins"))
_MARKER_TEXT = b"Entries below this directory belong to Lacuna's cache, which may delete them.\n"
_TAG_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
_TAG_TEXT = _TAG_SIGNATURE + b"\n# Made by Lacuna; see https://bford.info/cachedir/\n"

_VERSION = re.compile(r"v\d+")
_SHARD = re.compile(r"[0-9a-f]{2}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(r"[0-9a-f]{64}\.[\w.-]+")

_counter = itertools.count()
_prepared: set[str] = set()


def temporary_name(digest: str) -> str:
    """Return a name that no one else uses, for a stage, a claim or trash: digest.owner.number."""
    return f"{digest}.{current_owner().token}.{next(_counter)}"


def is_temporary_name(name: str) -> bool:
    """Whether a name below a dot-directory is one of ours."""
    return _TEMPORARY.fullmatch(name) is not None or _DIGEST.fullmatch(name) is not None


def listing(path: str) -> "list[os.DirEntry[str]]":
    """Return what is in a directory, sorted by name."""
    with os.scandir(path) as items:
        return sorted(items, key=lambda item: item.name)


def make_directory(path: str) -> None:
    """Make a private directory whose parent exists, unless it is there.

    Raises
    ------
    CacheDirError
        Something else has the name: a file, or a link.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            mode = os.lstat(path).st_mode
        else:
            return
    if not stat.S_ISDIR(mode):
        raise CacheDirError(
            errno.ENOTDIR,
            f"{path} is a link or a file, where the cache needs a directory. Move it away; to "
            "keep the cache elsewhere, set cache_dir, LACUNA_CACHE_DIR or --cache-dir.",
            path,
        )


def prepare_root(root: str) -> None:
    """Make the root, and mark it if it is ours alone."""
    if not os.path.isdir(root):
        os.makedirs(root, 0o700, exist_ok=True)
    if not _is_marked(root):
        _mark_if_empty(root)


def prepare(root: str, bucket: str, version: int, digest: str, *, again: bool = False) -> None:
    """Make every directory that publishing an entry needs, and mark those that are ours.

    What this process made or found before is there, unless that proved wrong: then again.
    """
    shard = f"{root}/{bucket}/v{version}/{digest[:2]}"
    version_place = os.path.dirname(shard)
    if again or version_place not in _prepared:
        _prepare(root, bucket, version_place)
        _prepared.add(version_place)
    try:
        make_directory(shard)
    except FileNotFoundError:
        _prepare(root, bucket, version_place)
        make_directory(shard)


def _prepare(root: str, bucket: str, version_place: str) -> None:
    prepare_root(root)
    for name in (STAGE, TRASH, CLAIMS):
        make_directory(f"{root}/{name}")
    place = f"{root}/{bucket}"
    make_directory(place)
    marked = _is_marked(place) or _mark_if_empty(place)
    make_directory(version_place)
    if not marked and not _is_marked(version_place):
        _mark_if_empty(version_place)


def _is_marked(directory: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(f"{directory}/{MARKER}").st_mode)
    except FileNotFoundError:
        return False


def _mark_if_empty(directory: str) -> bool:
    """Mark a directory that holds nothing but our own empty directories; say whether it was."""
    if not all(_is_nothing(item) for item in listing(directory)):
        return False
    # The tag first: a directory with our marker is complete, whenever we die.
    for name, text in ((TAG, _TAG_TEXT), (MARKER, _MARKER_TEXT)):
        handle = os.open(
            f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600
        )
        try:
            os.write(handle, text)
        finally:
            os.close(handle)
    return True


def _is_nothing(item: "os.DirEntry[str]") -> bool:
    if item.name in (MARKER, TAG):
        return item.is_file(follow_symlinks=False)
    return (
        item.name in _OURS
        and item.is_dir(follow_symlinks=False)
        and all(_is_nothing(inner) for inner in listing(item.path))
    )


def is_marked_at(root_fd: int, parts: tuple[str, ...]) -> bool:
    """Whether the directory at parts below an open root carries our marker itself."""
    place = "/".join((*parts, MARKER))
    try:
        return stat.S_ISREG(os.stat(place, dir_fd=root_fd, follow_symlinks=False).st_mode)
    except OSError:
        return False


def open_directory(path: str, *, below: int | None = None) -> int:
    """Open a real directory, never through a link in its last part."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=below)


def walk_entries(root: str) -> Iterator[tuple[str, str]]:
    """Yield digest and directory of all that lies where entries lie, sorted."""
    for bucket in BUCKETS:
        for version in _directories(f"{root}/{bucket}", _VERSION):
            for shard in _directories(f"{root}/{bucket}/{version}", _SHARD):
                place = f"{root}/{bucket}/{version}/{shard}"
                for digest in _directories(place, _DIGEST):
                    if digest.startswith(shard):
                        yield digest, f"{place}/{digest}"


def walk_unmanaged(root: str) -> Iterator[str]:
    """Yield what lies in the buckets without being an entry, each at its topmost path."""
    for bucket in BUCKETS:
        for item in _items(f"{root}/{bucket}"):
            if not _is_level(item, _VERSION):
                yield from _unless_marker(item)
                continue
            for inner in _items(item.path):
                if not _is_level(inner, _SHARD):
                    yield from _unless_marker(inner)
                    continue
                for entry in _items(inner.path):
                    if not (_is_level(entry, _DIGEST) and entry.name.startswith(inner.name)):
                        yield entry.path


def _unless_marker(item: "os.DirEntry[str]") -> Iterator[str]:
    if item.name not in (MARKER, TAG):
        yield item.path


def _is_level(item: "os.DirEntry[str]", pattern: re.Pattern[str]) -> bool:
    return pattern.fullmatch(item.name) is not None and item.is_dir(follow_symlinks=False)


def _directories(path: str, pattern: re.Pattern[str]) -> list[str]:
    return [item.name for item in _items(path) if _is_level(item, pattern)]


def _items(path: str) -> "list[os.DirEntry[str]]":
    """Return what is in a directory, sorted; nothing where it is absent, or a link."""
    try:
        handle = open_directory(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno == errno.ELOOP:
            return []
        raise
    os.close(handle)
    return listing(path)
