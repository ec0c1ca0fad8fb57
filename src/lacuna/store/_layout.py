"""Where things lie below a cache root, and which of them are ours to delete.

::

    <cache_dir>/
      downloads/ tdi/ transforms/   buckets; in each: v1/ab/<digest>/ payload files, meta.json
      others/                       one more bucket, for what other packages keep
      tmp/                          default scratch
      .stage/ .trash/ .claims/ .leases/ .pins/
      .partial/                     what came so far of files that are fetched
      .libraries/                   templates and atlases that other libraries fetch
      .memo/                        fingerprints of input files, by path and stat
      .kernels/                     compiled kernels, in a private cache only
      .usage/                       hits and misses of runs, and when eviction was last considered

A directory that holds nothing of others carries our marker and a ``CACHEDIR.TAG`` (which tells
backup programs to pass by). A root with other data in it gets neither; its buckets do, or, where
a bucket holds somebody's files too, the version directory in it. What has no marker above it is
never deleted. Everything below the root is a real directory: a link is refused, not followed.
"""

import errno
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress

from lacuna.errors import CacheDirError
from lacuna.store.buckets import BUCKETS
from lacuna.utils import modes
from lacuna.utils.owner import RECORD_PREFIX, current_owner

META = "meta.json"
MARKER = ".lacuna-cache"
TAG = "CACHEDIR.TAG"
SCRATCH = "tmp"
EXAMINATION = ".lacuna-doctor-"  # how the names of directories for probes begin
STAGE, TRASH, CLAIMS, MEMO = ".stage", ".trash", ".claims", ".memo"
LEASES, PINS, USAGE = ".leases", ".pins", ".usage"
PARTIAL = ".partial"

_OURS = frozenset((*BUCKETS, SCRATCH, STAGE, TRASH, CLAIMS, LEASES, PINS, PARTIAL)) | {
    *(MEMO, USAGE, ".kernels", ".libraries")
}
PRIVATE = frozenset((SCRATCH, MEMO, ".kernels", ".libraries"))  # in a group, no one shares these
DIRECTORIES = tuple(sorted(_OURS - PRIVATE))
_MARKER_TEXT = b"Entries below this directory belong to Lacuna's cache, which may delete them.\n"
_TAG_TEXT = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# Made by Lacuna; see https://bford.info/cachedir/\n"
)

_LEVELS = (re.compile(r"v\d+"), re.compile(r"[0-9a-f]{2}"), re.compile(r"[0-9a-f]{64}"))
_TEMPORARY = re.compile(r"[0-9a-f]{64}(\.[\w.-]+)?")

_counter = itertools.count()


def temporary_name(digest: str) -> str:
    """Return a name that no one else uses, for a stage, a claim or trash: digest.owner.number."""
    return f"{digest}.{current_owner().token}.{next(_counter)}"


def is_temporary_name(name: str) -> bool:
    """Whether a name below a dot-directory is one of ours."""
    return _TEMPORARY.fullmatch(name) is not None


def temporary_names(root: str, place: str, start: str = "") -> list[str]:
    """Return the names of ours in a dot-directory that begin so, sorted; none without it."""
    with suppress(OSError):
        names = sorted(os.listdir(f"{root}/{place}"))
        return [name for name in names if name.startswith(start) and is_temporary_name(name)]
    return []


def listing(path: str) -> "list[os.DirEntry[str]]":
    """Return what is in a directory, sorted by name."""
    with os.scandir(path) as items:
        return sorted(items, key=lambda item: item.name)


def make_directory(path: str) -> None:
    """Make a directory whose parent exists, unless it is there; the group's where that one is.

    Raises
    ------
    CacheDirError
        Something else has the name: a file, or a link.
    """
    if not stat.S_ISDIR(modes.make_directory(path).st_mode):
        raise CacheDirError(
            errno.ENOTDIR,
            f"{path} is a link or a file, where the cache needs a directory. Move it away; to "
            "keep the cache elsewhere, set cache_dir, LACUNA_CACHE_DIR or --cache-dir.",
            path,
        )


def write_file(path: str, data: bytes, *, below: int | None = None, sync: bool = False) -> None:
    """Write a small file, where another may see half of it; never through a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    handle = os.open(path, flags, 0o600, dir_fd=below)
    try:
        modes.share_file(handle, os.path.dirname(path) if below is None else below)
        while data:
            data = data[os.write(handle, data) :]
        if sync:
            os.fsync(handle)
    finally:
        os.close(handle)  # an error here is the file server's last chance to say "quota"


def prepare_root(root: str) -> None:
    """Make the root, and mark it if it is ours alone."""
    if not os.path.isdir(root):
        os.makedirs(root, 0o700, exist_ok=True)
    _mark(root, is_ours)


def prepare(root: str, location: str) -> None:
    """Make every directory that publishing an entry needs, and mark those that are ours."""
    bucket, version, shard, _ = location.split("/")
    place = f"{root}/{bucket}"
    prepare_root(root)
    for directory in (f"{root}/{STAGE}", f"{root}/{TRASH}", f"{root}/{CLAIMS}", place):
        make_directory(directory)
    marked = _mark(place, _is_mark)
    make_directory(f"{place}/{version}")
    if not marked:
        _mark(f"{place}/{version}", _is_mark)
    make_directory(f"{place}/{version}/{shard}")


def is_marked(directory: str) -> bool:
    """Whether a directory carries our marker itself."""
    try:
        return stat.S_ISREG(os.lstat(f"{directory}/{MARKER}").st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _mark(directory: str, is_own: "Callable[[os.DirEntry[str]], bool]") -> bool:
    """Mark a directory if all that is in it is ours; say whether it is marked."""
    if is_marked(directory):
        return True
    try:
        if not all(map(is_own, listing(directory))):
            return False
    except PermissionError:
        return False  # what cannot be looked at is somebody's
    with suppress(PermissionError):  # another member is about to do it
        write_marks(directory)
    return is_marked(directory)


def find_other_data(root: str) -> str | None:
    """Return the path of something in a root that is not ours, if there is any."""
    try:
        return next((item.path for item in listing(root) if not is_ours(item)), None)
    except PermissionError as error:
        return str(error.filename)


def write_marks(directory: str) -> None:
    """Write marker and tag into a directory of which somebody made sure that it is ours."""
    # The tag first: a directory with our marker is complete, whenever we die.
    write_file(f"{directory}/{TAG}", _TAG_TEXT)
    write_file(f"{directory}/{MARKER}", _MARKER_TEXT)


def _is_mark(item: "os.DirEntry[str]") -> bool:
    return item.name in (MARKER, TAG) and item.is_file(follow_symlinks=False)


def is_ours(item: "os.DirEntry[str]") -> bool:
    """Whether something in the root is ours: a name that others use too has to prove it.

    Scratch does by the token of an owner whose record lies beside it, a bucket by its marker.
    """
    if item.name.startswith(EXAMINATION):
        return item.is_dir(follow_symlinks=False)
    if item.name not in _OURS or not item.is_dir(follow_symlinks=False):
        return _is_mark(item)
    if item.name == SCRATCH:
        names = os.listdir(item.path)
        records = [name for name in names if name.startswith(RECORD_PREFIX)]
        tokens = [name.removeprefix(RECORD_PREFIX).partition(".")[0] for name in records]
        ours = (f"{MEMO}-", *tokens)
        return all(any(text in name for text in ours) for name in names)
    return item.name.startswith(".") or is_marked(item.path) or not os.listdir(item.path)


def version_lag(directory: str) -> int:
    """Return by how many versions the form of an entry is older than ours; below 0, newer."""
    bucket, version = directory.split("/")[-4:-2]
    return BUCKETS[bucket] - int(version[1:])


def walk(root: str) -> Iterator[tuple[str, bool]]:
    """Yield the path of all that lies in the buckets, sorted, and whether it lies as entries do.

    Raises
    ------
    CacheDirError
        This user may not read it.
    """
    for bucket in BUCKETS:
        place = f"{root}/{bucket}"
        if not os.path.islink(place):
            try:
                yield from _walk(place, _LEVELS)
            except PermissionError as error:
                raise _closed(root, error) from error


def _closed(root: str, error: PermissionError) -> CacheDirError:
    """Return the error that says which directory keeps this user out, and who can help."""
    is_root = not os.access(root, os.R_OK | os.X_OK)
    place, mode, ask = root if is_root else str(error.filename), "", "ask whoever owns it"
    with suppress(OSError):
        status = os.stat(place)
        group = f"group {status.st_gid}"
        mode = f" ({stat.filemode(status.st_mode)}, {group})"
        if status.st_mode & stat.S_IRGRP:
            ask = f"ask to be added to {group}"
    return CacheDirError(
        error.errno,
        f"You may not read the cache {place}{mode}: {ask}, or set cache_dir, LACUNA_CACHE_DIR or "
        "--cache-dir to a cache of yours.",
        root,
    )


def _walk(directory: str, levels: tuple[re.Pattern[str], ...]) -> Iterator[tuple[str, bool]]:
    try:
        items = listing(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    for item in items:
        fits = levels[0].fullmatch(item.name) and item.is_dir(follow_symlinks=False)
        if fits and len(levels) > 1:
            yield from _walk(item.path, levels[1:])
        elif item.name not in (MARKER, TAG):
            yield item.path, bool(fits) and item.name.startswith(os.path.basename(directory))
