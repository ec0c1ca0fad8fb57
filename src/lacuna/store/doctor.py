"""The doctor: can a directory be trusted with a cache? Asked by trying, not by looking it up.

>>> from lacuna.store.doctor import examine
>>> for finding in examine("/scratch/me"):  # doctest: +SKIP
...     print(finding.verdict, finding.name, finding.seen, finding.advice)

Promises rest on renames of directories, on exclusive creation and on fsync; locks and links that
fail, or lie, are worth a note and no more.
"""

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from lacuna.store._adoption import AdoptionPlan, plan_adoption
from lacuna.store._layout import is_marked
from lacuna.store._peer import compare_nodes
from lacuna.store._probes import (
    WORDS,
    Case,
    Finding,
    existing,
    failed,
    finding,
    private_directory,
    probe,
    remove_leftovers,
)
from lacuna.store._root import group_of
from lacuna.store._space import size_text
from lacuna.utils.filesystem import LOCAL_TYPES, free_space, mount_of

__all__ = ["AdoptionPlan", "Finding", "absent", "compare_nodes", "examine", "plan_adoption"]

_QUOTA_ANSWER_S = 5.0


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
    path = existing(directory)
    findings = list(_filesystem(path, publishes=publishes))
    findings.append(finding("access", *_access(path, read_only=read_only, publishes=publishes)))
    if publishes:
        with suppress(OSError):  # what cannot be read was said under access
            findings.append(finding("marker", *_marker(path)))
    if read_only or not os.access(path, os.W_OK | os.X_OK):
        return findings
    findings += [*_room(path), *_quota(path)]
    if scratch is not None:
        findings.append(finding("scratch", *_scratch(path, existing(scratch))))
    remove_leftovers(path)
    try:
        with private_directory(path, "probe") as place:
            findings += probe(place, now, publishes=publishes)
    except OSError as error:
        findings.append(failed("probes", error))
    return findings


def absent(problem: str, source: str) -> Finding:
    """Return what there is to say of a shared cache that is not there, or cannot be reached.

    Parameters
    ----------
    problem
        In a word or two.
    source
        Who chose it, in words.
    """
    return finding("access", "access-absent", {"problem": problem, "source": source})


def _filesystem(path: str, *, publishes: bool) -> Iterator[Finding]:
    kind, source, point, options = mount_of(path) or ("", "", "", frozenset[str]())
    case = "local" if kind in LOCAL_TYPES else "shared" if kind else "unknown"
    if kind in ("tmpfs", "ramfs") and publishes:
        case = "memory"
    facts = {"mount": f"{kind} ({source}), mounted on {point}"}
    yield finding("file system", f"filesystem-{'overlay' if kind == 'overlay' else case}", facts)
    for option in sorted(options):
        if f"option-{option}" in WORDS:
            yield finding("mount option", f"option-{option}", {})


def _access(path: str, *, read_only: bool, publishes: bool) -> Case:
    status = os.stat(path)
    mode, is_shared = status.st_mode, group_of(path) is not None
    owner = f"user {status.st_uid}, group {status.st_gid}"
    with suppress(KeyError):
        owner = f"user {Path(path).owner()}, group {Path(path).group()}"
    reason = "mounted read-only" if os.statvfs(path).f_flag & os.ST_RDONLY else "not writable"
    facts = {"access": f"{stat.filemode(mode)}, {owner}", "reason": reason}
    case = "access-group" if is_shared else "access"
    is_member = os.geteuid() == 0 or status.st_gid in (os.getegid(), *os.getgroups())
    if not os.access(path, os.R_OK | os.X_OK):
        is_stranger = is_shared and not is_member and status.st_uid != os.geteuid()
        case = "access-stranger" if is_stranger else "access-unreadable"
        facts |= {"uid": str(os.geteuid()), "group": owner.partition(", group ")[2]}
    elif not os.access(path, os.W_OK):
        case = "access-read-only" if read_only else "access-unwritable"
    elif mode & stat.S_IWOTH and (publishes or not mode & stat.S_ISVTX):
        case = "access-anybody"
    elif mode & stat.S_IWGRP and not is_shared and publishes:
        case = "access-half-shared"
    return case, facts


def _marker(path: str) -> Case:
    plan = plan_adoption(path)
    case = "marker-foreign" if plan.foreign else "marker-not-needed"
    if plan.n_unmarked or is_marked(path):
        case = "marker-lost" if plan.n_unmarked else "marker"
    return case, {"plan": plan}


def _room(path: str) -> Iterator[Finding]:
    free_bytes, free_inodes = free_space(path)
    for name, free, text, least, plenty in (
        ("space", free_bytes, size_text, 1 << 20, 5 << 30),
        ("inodes", free_inodes, str, 1, 10_000),
    ):
        if free is None:
            yield finding(name, f"{name}-unknown", {})
        else:
            case = "none" if free < least else "little" if free < plenty else "enough"
            yield finding(name, f"{name}-{case}", {"free": text(free)})


def _quota(path: str) -> Iterator[Finding]:
    """Yield what the quota programs say, where there are any; an overrun is marked by a star."""
    commands = [["quota", "-w", "-s"]]
    if (mount_of(path) or ("",))[0] == "lustre":
        commands.append(["lfs", "quota", "-h", "-u", str(os.geteuid()), path])
    for command in commands:
        if shutil.which(command[0]) is None:
            continue
        with suppress(OSError, subprocess.SubprocessError):
            answer = subprocess.run(
                command, capture_output=True, text=True, timeout=_QUOTA_ANSWER_S, check=False
            ).stdout
            text = " | ".join(
                " ".join(line.split()) for line in answer.splitlines() if line.strip()
            )
            if text:
                case = "quota-used-up" if "*" in text else "quota"
                yield finding(f"{command[0]} says", case, {"answer": text})


def _scratch(path: str, scratch: str) -> Case:
    kind = (mount_of(scratch) or ("unknown",))[0]
    is_beside = os.stat(path).st_dev == os.stat(scratch).st_dev
    return "scratch" if is_beside else "scratch-elsewhere", {"scratch": scratch, "kind": kind}
