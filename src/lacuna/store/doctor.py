"""The doctor: can a directory be trusted with a cache? Asked by trying, not by looking it up.

>>> from lacuna.store.doctor import examine
>>> for finding in examine("/scratch/me"):  # doctest: +SKIP
...     print(finding.verdict, finding.name, finding.seen, finding.advice)

Promises rest on renames of directories, on exclusive creation and on fsync; locks and links that
fail, or lie, are worth a note and no more.
"""

import errno
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from lacuna.errors import CacheDirError
from lacuna.store._adoption import AdoptionPlan, plan_adoption
from lacuna.store._layout import is_marked
from lacuna.store._peer import compare_nodes
from lacuna.store._probes import (
    NOTE,
    OK,
    PROBLEM,
    WARNING,
    Finding,
    Seen,
    private_directory,
    probe,
    remove_leftovers,
)
from lacuna.store._root import group_of
from lacuna.store._space import size_text
from lacuna.utils.filesystem import LOCAL_TYPES, free_space, mount_of

__all__ = ["AdoptionPlan", "Finding", "compare_nodes", "examine", "plan_adoption"]

_ROOMY_BYTES = 5 << 30
_ROOMY_INODES = 10_000
_NEARLY_NOTHING = 1 << 20
_QUOTA_ANSWER_S = 5.0

_SHARED = (
    "Other machines may use it: whether a process there lives cannot be proven, so its claim is "
    "waited for up to 15 minutes, and its scratch is removed only on request."
)
_LOCKS = "Locks do not reach other nodes; nothing in the cache rests on them."
_SLOW = "Every small write waits for the file server."
_OPTIONS: dict[str, Seen] = {
    "soft": (
        WARNING,
        "A server that is slow to answer is reported as an error, in the middle of a write.",
        "Ask for a hard mount.",
    ),
    **dict.fromkeys(("nolock", "local_lock=all", "local_lock=flock"), (NOTE, _LOCKS, "")),
    **dict.fromkeys(("localflock", "noflock"), (NOTE, _LOCKS, "")),
    **dict.fromkeys(("sync", "noac"), (NOTE, _SLOW, "")),
}


def examine(
    directory: Path | str,
    *,
    scratch: Path | str | None = None,
    read_only: bool = False,
    publishes: bool = True,
    now: Callable[[], float] = time.time,
) -> list[Finding]:
    """Find out what a directory is good for; nothing stays there.

    Parameters
    ----------
    directory
        It has to exist.
    scratch
        The directory for scratch that will be used beside it.
    read_only
        Whether it will only ever be read, as a shared cache is.
    publishes
        Whether entries are to be kept there, rather than scratch alone.
    now
        The clock of this machine, seconds since the epoch.

    Raises
    ------
    CacheDirError
        There is no such directory.
    """
    path = os.path.abspath(directory)
    if not os.path.isdir(path):
        number = errno.ENOTDIR if os.path.lexists(path) else errno.ENOENT
        advice = "Make it first, or name the directory that is to hold it."
        raise CacheDirError(number, f"{path} is not a directory. {advice}", path)
    findings = [Finding("file system", *_filesystem(path, in_memory_is_fine=not publishes))]
    findings += _mount_options(path)
    findings.append(Finding("access", *_access(path, read_only=read_only, publishes=publishes)))
    if publishes:
        with suppress(OSError):  # what cannot be read was said under access
            findings.append(Finding("marker", *_marker(path)))
    if read_only or not os.access(path, os.W_OK | os.X_OK):
        return findings
    findings += [Finding("space", *_space(path)), Finding("inodes", *_inodes(path))]
    findings += _quota(path)
    if scratch is not None:
        findings.append(Finding("scratch", *_scratch(path, os.path.abspath(scratch))))
    remove_leftovers(path)
    try:
        with private_directory(path, "probe") as place:
            findings += probe(place, now, publishes=publishes)
    except OSError as error:
        seen = f"a directory cannot be made: {os.strerror(error.errno or 0)}"
        meaning = "Nothing can be kept here."
        advice = "Make room or mend the permissions, or choose another place (LACUNA_CACHE_DIR)."
        findings.append(Finding("probes", PROBLEM, seen, meaning, advice))
    return findings


def _filesystem(path: str, *, in_memory_is_fine: bool) -> Seen:
    mount = mount_of(path)
    if mount is None:
        return NOTE, "its type is not known here", _SHARED
    kind, source, point, _ = mount
    seen = f"{kind} ({source}), mounted on {point}"
    if kind in ("tmpfs", "ramfs") and not in_memory_is_fine:
        meaning = "It takes memory, perhaps that of your job, and ends with the machine's uptime."
        return WARNING, f"{seen}: in memory", meaning, "Keep the cache on a disk."
    if kind == "overlay":
        meaning = "In a container it ends with the container."
        return NOTE, f"{seen}: local", meaning, "Mount a directory of the host for the cache."
    if kind in LOCAL_TYPES:
        return OK, f"{seen}: local", "A process of this machine that died is known to be dead."
    return NOTE, f"{seen}: counts as shared", _SHARED, "Try --peer, on two nodes at once."


def _mount_options(path: str) -> Iterator[Finding]:
    _, _, _, options = mount_of(path) or ("", "", "", frozenset[str]())
    for option in sorted(options & set(_OPTIONS)):
        judged, *rest = _OPTIONS[option]
        yield Finding("mount option", judged, option, *rest)


def _access(path: str, *, read_only: bool, publishes: bool) -> Seen:
    status = os.stat(path)
    mode = stat.S_IMODE(status.st_mode)
    owner = f"user {status.st_uid}, group {status.st_gid}"
    with suppress(KeyError):
        owner = f"user {Path(path).owner()}, group {Path(path).group()}"
    seen = f"{stat.filemode(status.st_mode)}, {owner}"
    if not os.access(path, os.R_OK | os.X_OK):
        return PROBLEM, f"{seen}: not readable", "Nothing in it is found.", "chmod u+rx, or ask."
    if not os.access(path, os.W_OK):
        is_mounted_so = os.statvfs(path).f_flag & os.ST_RDONLY
        seen += ": mounted read-only" if is_mounted_so else ": not writable"
        if read_only:
            return OK, seen, "What it holds is used, and it is never written."
        meaning = "What it holds can be used, but nothing can be added or mended."
        advice = "List it under shared_cache_dirs (LACUNA_SHARED_CACHE_DIRS); cache elsewhere."
        return PROBLEM, seen, meaning, advice
    is_shared = group_of(path) is not None
    seen += ": shared by the group" * is_shared
    if mode & stat.S_IWOTH and (publishes or not mode & stat.S_ISVTX):
        meaning = "Anybody on this machine can put other content in the place of an entry."
        return WARNING, seen, meaning, "chmod o-w; `lacuna cache init --group` shares with a group."
    if mode & stat.S_IWGRP and not is_shared and publishes:
        meaning = "What members make in it belongs to groups of their own, and cannot be shared."
        return NOTE, seen, meaning, "chmod g+s, or `lacuna cache init --group`."
    return OK, seen


def _marker(path: str) -> Seen:
    plan = plan_adoption(path)
    entries = f"{plan.n_entries} entries"
    if plan.n_unmarked:
        seen = f"{entries}, {plan.n_unmarked} of them below no marker"
        meaning = "They are used, but never cleared: a purge may have taken the marker."
        return WARNING, seen, meaning, f"`lacuna cache adopt {path}`"
    if is_marked(path):
        return OK, f"marked as a cache; {entries}"
    if plan.foreign:
        seen = f"not marked; {entries}; holds other data ({os.path.basename(plan.foreign[0])}, …)"
        return NOTE, seen, "Only the directories that Lacuna makes in it get a marker."
    return OK, f"not marked; {entries}; holds nothing of others"


def _space(path: str) -> Seen:
    free = free_space(path)[0]
    if free is None:
        return NOTE, "how much is free is not known"
    seen = f"{size_text(free)} free"
    if free < _NEARLY_NOTHING:
        return PROBLEM, seen, "Nothing can be kept here.", "Make room, or choose another place."
    if free < _ROOMY_BYTES:
        meaning = "An index takes gigabytes; what does not fit is refused, and loses nothing."
        return WARNING, seen, meaning, "Make room (`lacuna cache clear`), or choose another place."
    return OK, seen


def _inodes(path: str) -> Seen:
    free = free_space(path)[1]
    if free is None:
        return OK, "not limited, or not told"
    if free < _ROOMY_INODES:
        judged = WARNING if free else PROBLEM
        meaning = "An entry takes about ten; without any, nothing can be made."
        return judged, f"{free} free", meaning, "Delete many small files, or ask for more."
    return OK, f"{free} free"


def _quota(path: str) -> Iterator[Finding]:
    """Yield what the quota programs say, where there are any; an overrun is marked by a star."""
    kind = (mount_of(path) or ("",))[0]
    commands = [["quota", "-w", "-s"]]
    if kind == "lustre":
        commands.append(["lfs", "quota", "-h", "-u", str(os.geteuid()), path])
    for command in commands:
        if shutil.which(command[0]) is None:
            continue
        with suppress(OSError, subprocess.SubprocessError):
            answer = subprocess.run(
                command, capture_output=True, text=True, timeout=_QUOTA_ANSWER_S, check=False
            ).stdout
            lines = [" ".join(line.split()) for line in answer.splitlines() if line.strip()]
            if lines:
                judged = WARNING if "*" in answer else OK
                meaning = "A star marks what is used up." if judged == WARNING else ""
                yield Finding(f"{command[0]} says", judged, " | ".join(lines), meaning)


def _scratch(path: str, scratch: str) -> Seen:
    if os.stat(path).st_dev == os.stat(scratch).st_dev:
        return OK, f"{scratch}, on the same file system"
    meaning = "Entries are made inside the cache, so nothing has to move from one to the other."
    return OK, f"{scratch}, on another file system ({(mount_of(scratch) or ('?',))[0]})", meaning
