"""Whose a temporary name or a claim is, and whether that process still lives."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Owner:
    """This process, as others can recognise it later.

    Attributes
    ----------
    token : str
        Ten characters that temporary names carry; a forked child has another one.
    record : dict
        JSON-able facts: token, host, boot id, namespaces, pid, start time, uid, scheduler job.
    """

    token: str
    record: dict[str, Any]


class Verdict:
    """Whether an owner lives.

    Attributes
    ----------
    state : str
        ``alive``, ``dead`` (proven) or ``unknown``.
    reason : str
        What it rests on, for messages.
    """

    state: str
    reason: str


def current_owner() -> Owner:
    """Return the identity of this process; one per process, a new one after fork."""
    raise NotImplementedError


def write_record(path: str | os.PathLike[str]) -> None:
    """Write the record of this process to a new file, mode 0600, in one write."""
    raise NotImplementedError


def read_record(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the record in a file; None if it is absent, a link, too large or not whole."""
    raise NotImplementedError


def verdict(
    record: Mapping[str, Any] | None, where: str | os.PathLike[str] | None = None
) -> Verdict:
    """Judge whether the process that wrote a record still lives.

    Parameters
    ----------
    record
        As written by :func:`write_record`; None (no record) is never proven dead.
    where
        A path on the file system that holds the record: an owner from before a reboot is proven
        dead only if that is a local one, since two hosts may share a name.
    """
    raise NotImplementedError
