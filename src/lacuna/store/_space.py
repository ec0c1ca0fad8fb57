"""When the disk, the quota or the inodes run out: said in one way, with the way out."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lacuna.errors import CacheDirError, CacheFullError
from lacuna.utils.filesystem import free_space

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_WAY_OUT = "set cache_dir (configuration), LACUNA_CACHE_DIR or --cache-dir to another place"
_NEARLY_NOTHING = 1 << 20
_ZEROS = bytes(1 << 20)


def size_text(n_bytes: int) -> str:
    """Return a size for people, in decimal units: ``1.3 GB``."""
    size = float(n_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit in ("bytes", "kB") else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def allocate(path: Path | str, n_bytes: int) -> None:
    """Make a new file of zeros whose blocks are reserved, to be mapped and written.

    Writing to a sparse memory map on a full disk kills the process (SIGBUS); a file made here
    cannot run out of space any more.

    Parameters
    ----------
    path
        A file that does not exist yet.
    n_bytes
        Its size.

    Raises
    ------
    CacheFullError
        There is no space for it; nothing is left behind.
    """
    place = os.path.abspath(path)
    directory, name = os.path.split(place)
    # A reservation that does not fit takes all there is, from everyone, before it fails.
    require_space(directory, name, n_bytes, 0)
    handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with explained(directory, name, n_bytes):
            try:
                if n_bytes:
                    _reserve(handle, n_bytes)
            finally:
                os.close(handle)
    except CacheDirError:
        with suppress(OSError):
            os.unlink(place)
        raise


def _reserve(handle: int, n_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, n_bytes)
            return
        except OSError as error:
            # Some file systems have no reservation; zeros that were written take the same room.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    written = 0
    while written < n_bytes:
        written += os.pwrite(handle, _ZEROS[: n_bytes - written], written)


def require_space(directory: str, what: str, need: int, keep_free: int) -> None:
    """Refuse to begin what will not fit.

    Raises
    ------
    CacheFullError
        Fewer than need + keep_free bytes are free.
    """
    free, _ = free_space(directory)
    if free is None or free >= need + keep_free:
        return
    reserve = f", and min_free keeps {size_text(keep_free)} of them" if keep_free else ""
    error = CacheFullError(
        errno.ENOSPC,
        f"No room for {what} in {directory}: it needs {size_text(need)}, {size_text(free)} are "
        f"free{reserve}. Make room (`lacuna cache clear`), or {_WAY_OUT}.",
        directory,
    )
    error.need_bytes = need
    raise error


def full_error(error: BaseException, root: str, what: str, need: int | None) -> OSError | None:
    """Return the typed error, if a maker's, or one behind it, means that this disk is full.

    Parameters
    ----------
    error
        What was raised; where it names a file on another place, it is none of ours.
    root
        The cache root, whose disk it is.
    what
        What was being written, for people.
    need
        Bytes that it takes, if known.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, CacheFullError) and need is None:
            return seen
        if isinstance(seen, OSError) and _means_full(seen, root):
            return _full(seen.errno or errno.ENOSPC, root, what, need)
        seen = seen.__cause__ or seen.__context__
    return None


def _means_full(error: OSError, root: str) -> bool:
    if error.errno is None:
        # numpy reports a short write without an errno.
        return "written" in str(error) and (free_space(root)[0] or 0) < _NEARLY_NOTHING
    named = error.filename
    is_here = not isinstance(named, str) or os.path.abspath(named).startswith(root + os.sep)
    return error.errno in _FULL and is_here


def _full(number: int, directory: str, what: str, need: int | None) -> CacheFullError:
    needed = f"it needs about {size_text(need)}" if need else "how much it needs is not known"
    free, inodes = free_space(directory)
    left = "how much is free is not known" if free is None else f"{size_text(free)} are free"
    if number == errno.EDQUOT:
        problem = "the disk quota is used up"
    elif inodes == 0:
        problem = "no inodes are left"
    else:
        problem = "no space is left"
    return CacheFullError(
        number,
        f"While writing {what} in {directory}, {problem}: {needed}, {left} on the "
        f"disk. No entry was made of it. Make room (`lacuna cache clear`), or {_WAY_OUT}.",
        directory,
    )


@contextmanager
def explained(root: str, what: str, need: int | None = None) -> Iterator[None]:
    """Turn the system's errors while writing to the cache into ours.

    Raises
    ------
    CacheFullError
        Space, quota or inodes ran out.
    CacheDirError
        The place cannot be written.
    """
    try:
        yield
    except CacheDirError:
        raise
    except OSError as error:
        number = error.errno or errno.EIO
        if number in _FULL:
            raise _full(number, root, what, need) from error
        if number in _UNWRITABLE:
            message = f"{root} cannot be written ({error.strerror})"
        else:
            message = f"Writing {what} in {root} failed ({error.strerror or error})"
        raise CacheDirError(number, f"{message}: mend that, or {_WAY_OUT}.", root) from error
