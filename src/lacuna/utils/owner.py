"""Whose a temporary name or a claim is, and whether that process still lives.

A temporary name reads ``<prefix><token>_<lifetime><8 random characters><suffix>``. The token
leads to ``.lacuna-owner-<token>.json`` in the same directory, which holds the owner's record;
the lifetime is ``p`` (ends with the process) or ``c`` (the caller's, outlives the process).
"""

from __future__ import annotations

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

_TOKEN_LENGTH = 10
_UNIQUE_LENGTH = 8
_RECORD_MAX_BYTES = 16_384
_ALPHABET = b"abcdefghijklmnopqrstuvwxyz234567"
_LETTERS = _ALPHABET * 8  # every byte has a letter, all equally often
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
        Ten characters that temporary names carry; a forked child has another one.
    record : dict
        JSON-able facts: token, host, boot id, namespaces, pid, start time, uid, scheduler job.
    scratch_ends_with_process : bool
        Whether names that are made for a caller may be taken for the process's own.
    """

    def __init__(self) -> None:
        self.token = random_letters(_TOKEN_LENGTH)
        self.record = _describe_this_process(self.token)
        self.scratch_ends_with_process = False
        self._lock = RLock()
        self._signed: set[str] = set()  # base directories that hold the record
        self._live: dict[str, int] = {}  # base directory → names of this process in use there
        self._callers: set[str] = set()  # base directories with names that a caller may keep

    def sign(self, base: str, lifetime: str) -> None:
        """Note that a name is about to be made; leave the record in its directory first."""
        with self._lock:
            if base not in self._signed:
                try:
                    write_record(self._record_in(base), self)
                except FileExistsError:  # the same directory under another name
                    if read_record(self._record_in(base)) != self.record:
                        raise
                self._signed.add(base)
                _remove_records_at_exit()
            if lifetime == CALLER:
                self._callers.add(base)
            else:
                self._live[base] = self._live.get(base, 0) + 1

    def sign_again(self, base: str) -> None:
        """Note that a directory may have vanished, and the record with it."""
        with self._lock:
            # Only if it has: another thread may just have made the directory and signed.
            if not os.path.lexists(self._record_in(base)):
                self._signed.discard(base)

    def release(self, base: str, lifetime: str) -> None:
        """Note that a name is gone; the last one of a process takes the record with it."""
        if lifetime == CALLER:
            return
        with self._lock:
            self._live[base] -= 1
            if not self._live[base] and base not in self._callers:
                self._withdraw(base)

    def remove_idle_records(self) -> None:
        """Remove the record wherever no name carries the token any more."""
        with self._lock:
            for base in list(self._signed):
                own = record_name(self.token)
                with contextlib.suppress(OSError):
                    if not any(self.token in name and name != own for name in os.listdir(base)):
                        self._withdraw(base)

    def _withdraw(self, base: str) -> None:
        self._signed.discard(base)
        _remove(self._record_in(base))

    def _record_in(self, base: str) -> str:
        return os.path.join(base, record_name(self.token))


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

    def __repr__(self) -> str:
        return f"Verdict({self.state!r}, {self.reason!r})"


_owner: Owner | None = None
_locks: dict[int, RLock] = {}
_watching_forks = False
_watching_exit = False


def current_owner() -> Owner:
    """Return the identity of this process; one per process, a new one after fork."""
    global _owner, _watching_forks
    owner = _owner
    if owner is not None and owner.record["pid"] == os.getpid():
        return owner
    # One lock for each process: a forked child must not wait for a thread that it does not have.
    with _locks.setdefault(os.getpid(), RLock()):
        if not _watching_forks and hasattr(os, "register_at_fork"):
            # The pid alone does not tell a fork: in a new namespace the child may have the same.
            os.register_at_fork(after_in_child=_forget_parent)
            _watching_forks = True
        if _owner is None or _owner.record["pid"] != os.getpid():
            _owner = Owner()
        return _owner


def _forget_parent() -> None:
    global _owner
    _owner = None


def _remove_records_at_exit() -> None:
    global _watching_exit
    if not _watching_exit:
        import atexit

        atexit.register(_at_exit)
        _watching_exit = True


def _at_exit() -> None:
    # A child that forked inside the parent's code runs this too, with no owner of its own.
    if _owner is not None and _owner.record["pid"] == os.getpid():
        _owner.remove_idle_records()


@contextlib.contextmanager
def owning_scratch() -> Iterator[None]:
    """Take names that are made for a caller for the process's own, inside the block."""
    owner = current_owner()
    before, owner.scratch_ends_with_process = owner.scratch_ends_with_process, True
    try:
        yield
    finally:
        owner.scratch_ends_with_process = before


def random_letters(length: int) -> str:
    """Return unpredictable lower-case letters and digits, five bits each."""
    return os.urandom(length).translate(_LETTERS).decode("ascii")


def unique_name(token: str, lifetime: str) -> str:
    """Return the middle of a new temporary name, between prefix and suffix."""
    return f"{token}_{lifetime}{random_letters(_UNIQUE_LENGTH)}"


def record_name(token: str) -> str:
    """Return the name of the file that holds an owner's record."""
    return f"{RECORD_PREFIX}{token}.json"


def find_marks(name: str) -> list[tuple[str, str]]:
    """Return every (token, lifetime) that a temporary name may carry, the likeliest first.

    A prefix or suffix can look like a mark: only one whose record exists is one.
    """
    import re

    letters = _ALPHABET.decode("ascii")
    mark = f"([{letters}]{{{_TOKEN_LENGTH}}})_([{PROCESS}{CALLER}])[a-z0-9_]{{{_UNIQUE_LENGTH}}}"
    return [(found[1], found[2]) for found in re.finditer(f"(?={mark})", name)][::-1]


def write_record(path: str | os.PathLike[str], owner: Owner | None = None) -> None:
    """Write an owner's record, by default this process's, to a new file with mode 0600.

    Raises
    ------
    OSError
        As the system gives it, ``FileExistsError`` included; nothing is left behind.
    """
    import json

    text = json.dumps((owner or current_owner()).record).encode("ascii")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        try:
            if os.write(file, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
        finally:
            os.close(file)  # a quota on a network file system may only be reported here
    except OSError:
        _remove(path)
        raise


def read_record(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the record in a file; None if it is absent, a link, too large or not whole."""
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
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def verdict(
    record: Mapping[str, Any] | None,
    where: str | os.PathLike[str] | None = None,
    *,
    judge: Mapping[str, Any] | None = None,
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
    judge
        Record of the process that judges; this one's by default.
    """
    if not record or not isinstance(record.get("pid"), int) or record["pid"] <= 0:
        return Verdict("unknown", "it left no record that can be read")
    mine = current_owner().record if judge is None else judge
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
    import time

    facts = _process_facts(os.getpid())
    job = [f"{name}={os.environ[name]}" for name in _JOB_VARIABLES if os.environ.get(name)]
    return {
        "token": token,
        "host": _host(),
        "boot_id": _boot_id(),
        "pid_namespace": _read_link("/proc/self/ns/pid"),
        "time_namespace": _read_link("/proc/self/ns/time"),
        "pid": os.getpid(),
        "start_time": None if facts is None else facts[2],
        "uid": os.getuid() if hasattr(os, "getuid") else None,
        "job": job[0] if job else None,
        "created": round(time.time(), 3),
    }


def _host() -> str:
    if hasattr(os, "uname"):
        return os.uname().nodename
    import socket

    return socket.gethostname()


def _boot_id() -> str | None:
    if sys.platform == "darwin":
        import subprocess

        command = ["sysctl", "-n", "kern.bootsessionuuid"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip() or None
    return _read_line("/proc/sys/kernel/random/boot_id")


def _process_facts(pid: int) -> tuple[str, int, int] | None:
    """Return state, number of threads, and start in clock ticks after boot; None if unknown."""
    # In a new namespace whose /proc is still the old one, numbers there are other processes.
    if _read_link("/proc/self") != str(os.getpid()):
        return None
    line = _read_line(f"/proc/{pid}/stat")
    if line is None:
        return None
    try:
        fields = line[line.rindex(")") + 2 :].split()  # the name may hold spaces and brackets
        return fields[0], int(fields[17]), int(fields[19])
    except (ValueError, IndexError):
        return None


def _read_line(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096).strip() or None
    except OSError:
        return None


def _read_link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except (OSError, AttributeError):
        return None


def _remove(path: str | os.PathLike[str]) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
