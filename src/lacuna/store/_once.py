"""One build per key: claim it and build, or wait for whoever does.

Waiting ends when the *entry* appears, or when the claim is gone. The claim of an owner who is
proven dead is moved away. One of whom nothing can be proven is waited for, up to a limit, and
then a duplicate is built beside it: that costs work, never a result.
"""

import atexit
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from lacuna.store._claim import Claim, find_holder, poll_delays, set_aside
from lacuna.store._entry import Entry
from lacuna.store._publish import Make, Place, build
from lacuna.store._removal import sweep
from lacuna.store._space import explained, require_space

_UNSIGNED_WAIT_S = 2.0


@dataclass(frozen=True)
class Request:
    """A missing key, and how it is to be made.

    Parameters
    ----------
    place
        Where the entry is going to be.
    make, check
        As in `Store.get_or_make`.
    look
        Returns the entry as soon as it is there.
    expected_bytes
        Size of the payload, if known.
    keep_free
        Bytes that must stay free beside it.
    foreign_wait_s
        Limit to waiting for an owner of whom nothing can be proven.
    tell
        Told for whom we wait.
    """

    place: Place
    make: Make
    check: Make | None
    look: Callable[[], Entry | None]
    expected_bytes: int | None
    keep_free: int
    foreign_wait_s: float
    tell: Callable[[str], None]


def make_once(request: Request) -> Entry:
    """Return the entry of a missing key, made by us or by whoever was first."""
    place = request.place
    with explained(place.root, place.what, request.expected_bytes):
        place.prepare()
    claim = Claim(place.root, place.key.digest)
    keep_claim = False
    try:
        entry = _wait(request, claim) or _build(request, claim)
        keep_claim = entry.directory == claim.stage
        if keep_claim:
            _keep_until_exit(claim)
        return entry
    finally:
        if not keep_claim:
            claim.release()


def _wait(request: Request, claim: Claim) -> Entry | None:
    """Return the entry that somebody else made, or None: it is ours to build."""
    place = request.place
    root, digest = place.root, place.key.digest
    told: tuple[int, int] | None = None
    since = time.monotonic()
    for delay in poll_delays():
        with explained(root, place.what):
            if _take(request, claim):
                return request.look()
            holder = find_holder(root, digest)
        if holder is None:
            continue
        waited = time.monotonic() - since if told == holder.claim else 0.0
        unsigned = holder.state == "unsigned"
        if holder.state == "dead" or (unsigned and waited > _UNSIGNED_WAIT_S):
            set_aside(root, digest, holder)
            continue
        if told != holder.claim:
            told, since = holder.claim, time.monotonic()
            if not unsigned:
                request.tell(f"Waiting for {place.what}: {holder} is building it.")
        if holder.state == "unknown" and waited > request.foreign_wait_s:
            request.tell(
                f"Building {place.what} here as well: after {waited:.0f} s it is not known "
                f"whether {holder} still lives: {holder.reason}."
            )
            with explained(root, place.what):
                claim.stand_beside()
            return None
        time.sleep(delay)
        entry = request.look()
        if entry is not None:
            return entry
    return None


def _take(request: Request, claim: Claim) -> bool:
    try:
        return claim.take()
    except FileNotFoundError:
        request.place.prepare(again=True)  # somebody removed what was made earlier
        return claim.take()


def _build(request: Request, claim: Claim) -> Entry:
    place = request.place
    sweep(place.root, place.key.digest, building=True)
    if request.expected_bytes is not None:
        require_space(place.root, place.what, request.expected_bytes, request.keep_free)
    return build(place, claim.stage, request.make, request.check, request.expected_bytes)


def _keep_until_exit(claim: Claim) -> None:
    """Keep our own copy, which lost to an entry that cannot be seen from here, while we live."""
    claim.step_aside()
    pid = os.getpid()

    def remove() -> None:
        if os.getpid() == pid:
            shutil.rmtree(claim.stage, ignore_errors=True)
            claim.release()

    atexit.register(remove)
