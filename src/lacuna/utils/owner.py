"""Whose a temporary name or a claim is, and whether that process still lives.

A temporary name reads ``<prefix><token>_<lifetime><8 random characters><suffix>``. The token
leads to ``.lacuna-owner-<token>.json`` in the same directory, which holds the owner's record;
the lifetime is ``p`` (ends with the process) or ``c`` (the caller's, outlives the process).
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

RECORD_PREFIX = ".lacuna-owner-"
PROCESS, CALLER = "p", "c"

_RECORD_MAX_BYTES = 16_384
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO)  # a link, a directory, a socket
_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
_SAME_MACHINE = (
    ("host", "it runs, or ran, on another host"),
    ("pid_namespace", "it runs, or ran, in another container"),
    ("time_namespace", "it counts time in another namespace"),
)


class Owner:
    """A process, as others can recognise it later.

    Attributes
    ----------
    token : str
        Twelve characters that temporary names carry; a forked child has another one.
    record : dict
        JSON-able facts: token, host, boot id, namespaces, pid, start time, uid, scheduler job.
    for_callers : str
        Lifetime of names that are made for a caller.
    lock : RLock
        Held from signing until a name is made, so that the record is not withdrawn in between.
    """

    def __init__(self) -> None:
        self.token = os.urandom(6).hex()
        self.record = _describe_this_process(self.token)
        self.for_callers = CALLER
        self.lock = RLock()
        self._bases: set[str] = set()  # directories that this process signed

    def sign(self, base: str) -> None:
        """Make sure that a directory, where a name is about to be made, holds the record."""
        # Looked at each time: a purge takes old files, and another path may lead to this place.
        if not os.path.lexists(record := os.path.join(base, record_name(self.token))):
            write_record(record)
        self._bases.add(base)

    def release(self, base: str) -> None:
        """Remove the record from a directory if no name there carries the token any more."""
        own = record_name(self.token)
        with self.lock, contextlib.suppress(OSError, ValueError):
            if not any(self.token in name and name != own for name in os.listdir(base)):
                self._bases.discard(base)
                os.unlink(os.path.join(base, own))

    def release_all(self) -> None:
        """Remove the record wherever no name carries the token any more."""
        for base in list(self._bases):
            self.release(base)


class Verdict:
    """Whether an owner lives.

    Attributes
    ----------
    state : str
        ``alive``, ``dead`` (proven) or ``unknown``.
    reason : str
        What it rests on; completes a sentence about the owner.
    """

    __slots__ = ("reason", "state")

    def __init__(self, state: str, reason: str) -> None:
        self.state = state
        self.reason = reason


_owners: dict[int, Owner] = {}  # at most one: of this process, by its number


def current_owner() -> Owner:
    """Return the identity of this process; one per process, a new one after fork."""
    pid = os.getpid()
    # Atomic: a lock could be held, in the parent, by a thread that a forked child does not have.
    return _owners.get(pid) or _owners.setdefault(pid, Owner())


def _at_exit() -> None:
    # A child that forked inside the parent's code runs this too, with no owner of its own.
    for owner in _owners.values():
        owner.release_all()


# Neither does anything where no name was made.
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    # The pid alone does not tell a fork: in a new namespace the child may have the same.
    os.register_at_fork(after_in_child=_owners.clear)


@contextlib.contextmanager
def own_scratch() -> Iterator[None]:
    """Let all scratch that this process makes end with the process.

    Inside the block ``get_temp_dir`` and ``make_temp_file`` mark what they make as ``temp_dir``
    does: the command line runs in it. It does not hold in forked children, since their parent
    may still need what they made.
    """
    owner = current_owner()
    before, owner.for_callers = owner.for_callers, PROCESS
    try:
        yield
    finally:
        owner.for_callers = before


def unique_name(token: str, lifetime: str) -> str:
    """Return the middle of a new temporary name, between prefix and suffix."""
    return f"{token}_{lifetime}{os.urandom(4).hex()}"


def record_name(token: str) -> str:
    """Return the name of the file that holds an owner's record."""
    return f"{RECORD_PREFIX}{token}.json"


def write_record(path: str | os.PathLike[str]) -> None:
    """Write the record of this process to a new file with mode 0600; 0640 where a group shares.

    Raises
    ------
    OSError
        As the system gives it, ``FileExistsError`` included; nothing is left behind.
    """
    import json

    from lacuna.utils.modes import share_file

    text = json.dumps(current_owner().record).encode("ascii")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        try:
            # Before it holds anything, so that other members never see one that they cannot read;
            # they may not write it: it decides whether our scratch is taken for left.
            share_file(file, os.path.dirname(path), 0o640)
            if os.write(file, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
        finally:
            os.close(file)  # a quota on a network file system may only be reported here
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def read_record(path: str | os.PathLike[str], *, surely: bool = False) -> dict[str, Any] | None:
    """Return the record in a file; None if it is absent, a link, too large or not whole.

    Parameters
    ----------
    path
        The file.
    surely
        Whether None must mean that there is no record, not that it could not be read.

    Raises
    ------
    OSError
        It could not be read, where that matters.
    """
    import json

    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)  # a pipe put in its place must not make us wait
    try:
        file = os.open(path, flags)
        try:
            text = os.read(file, _RECORD_MAX_BYTES + 1)
        finally:
            os.close(file)
        record = json.loads(text) if len(text) <= _RECORD_MAX_BYTES else None
    except OSError as error:
        if surely and error.errno not in _NO_FILE:
            raise
        return None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def verdict(
    record: Mapping[str, Any] | None, where: str | os.PathLike[str] | None = None
) -> Verdict:
    """Judge whether the process that wrote a record still lives.

    ``dead`` is said only of what is proven: no such process, or another one under its number,
    on this boot of this machine and in this container; or an earlier boot of this machine.

    Parameters
    ----------
    record
        As :func:`read_record` returns it; without one nothing is proven.
    where
        A path on the file system that holds the record. An owner from before a reboot is dead
        only if that file system is a local one: two hosts may share a name.
    """
    if not record or not isinstance(record.get("pid"), int) or record["pid"] <= 0:
        return Verdict("unknown", "it left no record that can be read")
    mine = current_owner().record
    for key, reason in _SAME_MACHINE:
        if record.get(key) != mine[key]:
            return Verdict("unknown", f"{reason} ({record.get(key) or 'not named'})")
    if not record.get("boot_id") or not mine["boot_id"]:
        return Verdict("unknown", "it is not known in which boot of the machine it started")
    here = _verdict_here(record["pid"], record.get("start_time"))
    if record["boot_id"] == mine["boot_id"]:
        return here
    from lacuna.utils.filesystem import is_local

    # Some containers show a boot id of their own: whoever is seen running was not restarted.
    if here.state != "dead" or where is None or not is_local(where):
        return Verdict("unknown", "it comes from another boot, or from a host of the same name")
    return Verdict("dead", "the machine was restarted since")


def _verdict_here(pid: int, start_time: int | None) -> Verdict:
    if sys.platform == "win32":
        # os.kill(pid, 0) would send it Ctrl+C there.
        alive = pid == os.getpid()
        return Verdict(
            "alive" if alive else "unknown",
            "it is this process" if alive else "processes cannot be asked on this system",
        )
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Verdict("dead", f"there is no process {pid} any more")
    except (PermissionError, OverflowError):
        pass  # somebody else's, or a number that no process has: the start time tells
    facts = _process_facts(pid)
    if facts is None or start_time is None:
        return Verdict("unknown", f"a process {pid} exists, but not since when")
    state, n_threads, started = facts
    if started != start_time:
        return Verdict("dead", f"process {pid} is another one by now")
    if state in "ZX" and n_threads <= 1:
        return Verdict("dead", f"process {pid} has ended and waits for its parent")
    return Verdict("alive", f"process {pid} runs")


def _describe_this_process(token: str) -> dict[str, Any]:
    facts = _process_facts(os.getpid())
    job = [f"{name}={os.environ[name]}" for name in _JOB_VARIABLES if os.environ.get(name)]
    array = [os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK")]
    if job and job[0].startswith("SLURM") and all(array):
        job[0] += ",{}_{}".format(*array)
    return {
        "token": token,
        "host": os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME"),
        "boot_id": _boot_id(),
        "pid_namespace": _read_link("/proc/self/ns/pid"),
        "time_namespace": _read_link("/proc/self/ns/time"),
        "pid": os.getpid(),
        "start_time": None if facts is None else facts[2],
        "uid": os.getuid() if hasattr(os, "getuid") else None,
        "job": job[0] if job else None,
    }


def _boot_id() -> str | None:
    if sys.platform == "darwin":
        import subprocess

        command = ["sysctl", "-n", "kern.bootsessionuuid"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.check_output(command, text=True, timeout=10).strip() or None
    return _read_line("/proc/sys/kernel/random/boot_id") or None


def _process_facts(pid: int) -> tuple[str, int, int] | None:
    """Return state, number of threads, and start in clock ticks after boot; None if unknown."""
    # In a new namespace whose /proc is still the old one, numbers there are other processes.
    if _read_link("/proc/self") != str(os.getpid()):
        return None
    line = _read_line(f"/proc/{pid}/stat")
    try:
        fields = line[line.rindex(")") + 2 :].split()  # the name may hold spaces and brackets
        return fields[0], int(fields[17]), int(fields[19])
    except (ValueError, IndexError):
        return None


def _read_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return ""


def _read_link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except (OSError, AttributeError):
        return None
