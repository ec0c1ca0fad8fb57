"""Content fingerprints of input files, each file read once.

A memo remembers the fingerprint under the file's real path together with inode, size and both
times. The device number is left out: it differs between the nodes of a cluster. A file modified
within the last two seconds is not remembered, since it could change again without a new time.
"""

import hashlib
import json
import os
import stat
import time
from contextlib import suppress
from typing import TypeAlias

import xxhash

from lacuna.errors import InputError
from lacuna.store._entry import hash_file, read_file
from lacuna.store._layout import MEMO, listing, prepare_root, write_file

_UNTRUSTED_S = 2.0
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

Stat: TypeAlias = tuple[int, int, int, int]


class Fingerprints:
    """Fingerprints of files, remembered in this process and on disk.

    Parameters
    ----------
    root
        The cache root.
    scratch
        Where the memo goes if the root cannot be written, or can be by others.
    """

    def __init__(self, root: str, scratch: str | None) -> None:
        self._root = root
        self._directories = [f"{root}/{MEMO}"]
        if scratch is not None:
            self._directories.append(f"{scratch}/{MEMO}-{os.geteuid()}")
        self._known: dict[str, tuple[Stat, str]] = {}

    def of(self, path: str) -> str:
        """Return the xxh3-128 of a file, or of a folder's names and files.

        Raises
        ------
        InputError
            It is no file or folder, or it changes while it is read.
        OSError
            It cannot be read.
        """
        path = os.path.abspath(path)
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return self._of_folder(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is neither a file nor a folder: it has no content to know.")
        facts = _facts(status)
        known = self._known.get(path)
        if known is not None and known[0] == facts:
            return known[1]
        real = os.path.realpath(path)
        found = self._recall(real, facts)
        if found is None:
            trusted_ns = time.time_ns() - round(_UNTRUSTED_S * 1e9)
            found, facts = _read_whole(path)
            if max(facts[2:]) >= trusted_ns:
                return found
            self._remember(real, facts, found)
        self._known[path] = (facts, found)
        return found

    def _of_folder(self, path: str) -> str:
        files = []
        pending = [""]
        while pending:
            folder = pending.pop()
            for item in listing(f"{path}/{folder}"):
                if item.is_dir():
                    pending.append(f"{folder}{item.name}/")
                else:
                    files.append([f"{folder}{item.name}", self.of(item.path)])
        return xxhash.xxh3_128(json.dumps(sorted(files)).encode()).hexdigest()

    def _recall(self, real: str, facts: Stat) -> str | None:
        for directory in self._directories:
            with suppress(OSError, ValueError, TypeError, KeyError):
                if _is_our_own(directory):
                    memo = json.loads(read_file(_memo(directory, real)))
                    if memo["path"] == real and tuple(memo["stat"]) == facts:
                        return str(memo["xxh3_128"])
        return None

    def _remember(self, real: str, facts: Stat, found: str) -> None:
        text = json.dumps({"path": real, "stat": facts, "xxh3_128": found}).encode()
        with suppress(OSError):
            prepare_root(self._root)
        for directory in self._directories:
            with suppress(OSError):
                if _is_safe(os.path.dirname(directory)):
                    with suppress(FileExistsError):
                        os.mkdir(directory, 0o700)
                if _is_our_own(directory):
                    write_file(_memo(directory, real), text)
                    return


def _facts(status: os.stat_result) -> Stat:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _memo(directory: str, real: str) -> str:
    name = hashlib.blake2b(os.fsencode(real), digest_size=16).hexdigest()
    return f"{directory}/{name}.json"


def _is_our_own(directory: str) -> bool:
    """Whether nobody else can have put a false memo there, or can put one there now."""
    status = os.lstat(directory)
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return own and not status.st_mode & _OTHERS_WRITE and _is_safe(os.path.dirname(directory))


def _is_safe(above: str) -> bool:
    """Whether nobody else can exchange our directories there for others."""
    mode = os.stat(above).st_mode
    return not mode & _OTHERS_WRITE or bool(mode & stat.S_ISVTX)


def _read_whole(path: str) -> tuple[str, Stat]:
    handle = os.open(path, os.O_RDONLY)
    try:
        before = _facts(os.fstat(handle))
        digest = hash_file(handle)
        if _facts(os.fstat(handle)) != before:
            raise InputError(f"{path} changed while it was read. Wait until it is complete.")
    finally:
        os.close(handle)
    return digest, before
