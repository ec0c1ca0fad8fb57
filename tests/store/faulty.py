"""One call of the store in a process whose system calls fail; a program, run by test_faults.

usage: python -m tests.store.faulty CACHE_DIR

Says when it is ready, waits for a line, and exits with a number of EXITS.
"""

import contextlib
import ctypes
import errno
import os
import sys
from pathlib import Path

from tests.store.samples import key_of

from lacuna.errors import CacheDirError, CacheEntryError, CacheFullError
from lacuna.store import Store

WHOLE, FULL, UNUSABLE, BAD_ENTRY, MAKER_FAILED = 0, 10, 11, 12, 13
CONTENT = b"offsets" * 5000
PR_SET_PTRACER, ANYONE = 0x59616D61, ctypes.c_ulong(-1)


class MakerError(Exception):
    """The maker met an error of its own, which is none of the store's business."""


def make(directory: Path) -> None:
    try:
        write(directory)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MakerError from error


def write(directory: Path) -> None:
    for name in ("a.npy", "b.npy"):
        handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            assert os.write(handle, CONTENT) == len(CONTENT)
        finally:
            os.close(handle)


def check(directory: Path) -> None:
    for name in ("a.npy", "b.npy"):
        if (directory / name).read_bytes() != CONTENT:
            raise ValueError(f"{name} is not what was written")


def call(root: str) -> int:
    try:
        Store(root, foreign_wait_s=1).get_or_make(key_of(), make, check)
    except CacheFullError:
        return FULL
    except CacheDirError:
        return UNUSABLE
    except CacheEntryError:
        return BAD_ENTRY
    except MakerError:
        return MAKER_FAILED
    return WHOLE


if __name__ == "__main__":
    with contextlib.suppress(OSError, AttributeError):
        # Where only ancestors may trace: strace is a sibling.
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYONE, 0, 0, 0)
    os.write(1, b"ready\n")
    os.read(0, 1)
    os._exit(call(sys.argv[1]))
