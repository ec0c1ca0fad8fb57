"""Two nodes on one directory: whether they see each other, and only one of them ever wins.

They find each other by an offer: a directory whose owner keeps counting in a file, so that one
left by a killed process is told from a live one without trusting any clock. They talk through two
files that are there from the beginning and are opened for each look: that is when a network file
system asks its server again, whereas a name that was absent may stay so for a minute.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lacuna.errors import CacheError
from lacuna.store._entry import read_file
from lacuna.store._layout import EXAMINATION, write_file
from lacuna.store._probes import (
    LOCK_CALLS,
    Case,
    Finding,
    create,
    existing,
    finding,
    judge_clock,
    judge_lock,
    lock_holder,
    private_directory,
    remove_leftovers,
    succeeds,
)
from lacuna.store._space import explained
from lacuna.utils.owner import current_owner

_KIND = "peer"
_MESSAGE_BYTES = 1 << 14
_LOOK_AGAIN_S = 0.25
_STEP_S = 120.0  # a network file system may hide a change for a minute
_ROUNDS, _PER_ROUND, _PINGS, _LOOKS = 20, 10, 10, 3
_VISIBLE_S, _HIDDEN_S = 1.0, 60.0

Facts = dict[str, Any]
_GONE: Facts = {}
_STOPPED = "The other node stopped in the middle. Start both again."


@dataclass
class Line:
    """One end of the conversation: what it says lies in one file, what it hears in another.

    Parameters
    ----------
    place
        The directory of both.
    is_first
        Whether it is the end that made the place.
    guest
        The name of the other end, for whoever still asks whether it was accepted.
    """

    place: str
    is_first: bool
    guest: str = ""
    _said: list[Facts] = field(default_factory=list)
    _n_heard: int = 0

    def tell(self, **facts: Any) -> None:
        """Say the next thing; the one before stays, for an end that has not looked yet."""
        self._said.append(facts)
        latest = range(max(0, len(self._said) - 2), len(self._said))
        said = {str(number): self._said[number] for number in latest}
        _write_json(self._file(self.is_first), {"guest": self.guest, **said})

    def hear(self) -> Facts:
        """Wait for the next thing that the other end says.

        Raises
        ------
        CacheError
            It left, or says nothing.
        """
        number, pause, until = str(self._n_heard), 0.0005, time.monotonic() + _STEP_S
        self._n_heard += 1
        while time.monotonic() < until:
            said = _read_json(self._file(not self.is_first))
            if number in said:
                return dict(said[number])
            if said is _GONE:
                raise CacheError(_STOPPED)
            time.sleep(pause)
            pause = min(pause * 1.2, 0.05)
        raise CacheError(
            f"The other node was not heard of for {_STEP_S:.0f} s: it was stopped, or what one "
            f"node writes in {os.path.dirname(self.place)} is not seen by the other. Try again; "
            "if it stays so, the nodes cannot share a cache there."
        )

    def exchange(self, **facts: Any) -> Facts:
        """Say something, and hear what the other end says; both then go on at about one time."""
        self.tell(**facts)
        return self.hear()

    def _file(self, is_first: bool) -> str:
        return f"{self.place}/{'first' if is_first else 'second'}.json"


def _write_json(path: str, facts: Facts) -> None:
    # Always the same size, and never cut: an end that remembers the size would see half of it.
    # Never made anew: the place may be about to be removed.
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        os.pwrite(handle, json.dumps(facts).encode().ljust(_MESSAGE_BYTES), 0)
    finally:
        os.close(handle)


def _read_json(path: str) -> Facts:
    """Return what a file holds: nothing while it is written, and ``_GONE`` without one."""
    try:
        found = json.loads(read_file(path))
    except FileNotFoundError:
        return _GONE
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def compare_nodes(
    directory: Path | str,
    *,
    wait_s: float = 120.0,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """Try, together with another node that does the same, what one node cannot know.

    Parameters
    ----------
    directory
        The same for both; what is made in it is removed.
    wait_s
        How long to wait for the other.
    tell
        Told what to do meanwhile.

    Returns
    -------
    list of Finding
        The same on both nodes.

    Raises
    ------
    CacheError
        The other did not come, or stopped.
    CacheDirError
        There is no such directory, or it cannot be written.
    """
    root = existing(directory)
    remove_leftovers(root)
    with explained(root, "what the nodes tell each other"), private_directory(root, _KIND) as own:
        line = _meet(root, own, wait_s, tell)
        try:
            ours = _try_all(line)
            theirs = line.exchange(**ours)
            if not line.is_first:
                line.tell()
                return list(_judge(theirs, ours))
            line.hear()  # what is removed now was read
            return list(_judge(ours, theirs))
        except BaseException as error:
            shutil.rmtree(line.place, ignore_errors=True)  # which tells the other
            if isinstance(error, FileNotFoundError):
                raise CacheError(_STOPPED) from error
            raise


def _meet(root: str, own: str, wait_s: float, tell: Callable[[str], None]) -> Line:
    """Return a line to another process, made by us or by it.

    An offer is joined by writing one's name into it; it is answered with the name that came
    first. Of two offers the one whose name comes first counts.
    """
    me = current_owner().token + os.path.basename(own)
    tell(
        f"Waiting up to {wait_s:.0f} s for another node. Run there, as the same user: "
        f"lacuna cache doctor --peer {root}"
    )
    seen: dict[str, Any] = {}
    for name in ("first", "second"):
        write_file(f"{own}/{name}.json", bytes(_MESSAGE_BYTES))
    until, beat = time.monotonic() + wait_s, 0
    while time.monotonic() < until:
        beat += 1
        guest = _read_json(f"{own}/second.json").get("guest")
        _write_json(f"{own}/first.json", {"beat": beat, "guest": guest})
        if guest:
            return Line(own, is_first=True, guest=guest)
        for name in sorted(os.listdir(root)):
            place = f"{root}/{name}"
            if not name.startswith(f"{EXAMINATION}{_KIND}") or name >= os.path.basename(own):
                continue
            said = _read_json(f"{place}/first.json")
            is_live = place in seen and said.get("beat", 0) != seen[place]
            seen[place] = said.get("beat")
            if is_live and not said.get("guest") and _join(place, me):
                return Line(place, is_first=False)
        time.sleep(_LOOK_AGAIN_S)
    raise CacheError(
        f"No other node came within {wait_s:.0f} s. Start `lacuna cache doctor --peer {root}` on "
        "two nodes at about the same time and as the same user, or with `srun -N 2 -n 2`."
    )


def _join(place: str, me: str) -> bool:
    """Answer an offer; say whether we are the one who is accepted."""
    said: Facts = {}
    until = time.monotonic() + _STEP_S / 2
    with suppress(OSError):
        if not _read_json(f"{place}/second.json"):
            _write_json(f"{place}/second.json", {"guest": me})
        while not said.get("guest") and said is not _GONE and time.monotonic() < until:
            said = _read_json(f"{place}/first.json")
            time.sleep(_LOOK_AGAIN_S)
    return bool(said.get("guest") == me)


def _try_all(line: Line) -> Facts:
    place = line.place
    facts: Facts = {key: current_owner().record[key] for key in ("host", "boot_id")}
    facts["files"] = _contest(line, lambda number: succeeds(create, f"{place}/claim.{number}"))
    stage, entry = f"{place}/stage.{line.is_first}.", f"{place}/entry."
    for number in range(_ROUNDS * _PER_ROUND):
        _stage(f"{stage}{number}", str(line.is_first))
    won = _contest(line, lambda number: succeeds(os.rename, f"{stage}{number}", f"{entry}{number}"))
    line.exchange()
    started = time.monotonic()
    found = [_wait_for(f"{entry}{number}/who", started) for number in range(len(won))]
    expected = [str(line.is_first == is_ours) for is_ours in won]
    wrong = sum(text != winner for (text, _), winner in zip(found, expected, strict=True))
    facts |= {"directories": won, "wrong": wrong}
    for call in LOCK_CALLS.values():
        if not line.is_first:
            line.hear()
        with lock_holder(f"{place}/{call}", call) as state:
            facts[call] = state
            line.tell()
            if line.is_first:
                line.hear()
    facts["seen_s"] = max(_look_out(line), *(waited_s for _, waited_s in found))
    facts["clock"] = _compare_clocks(line)
    return facts


def _contest(line: Line, attempt: Callable[[int], bool]) -> list[bool]:
    """Return which of many attempts succeeded that both make at about the same time."""
    won: list[bool] = []
    for number in range(_ROUNDS * _PER_ROUND):
        if number % _PER_ROUND == 0:
            line.exchange()
        won.append(attempt(number))
    return won


def _stage(path: str, text: str) -> None:
    os.mkdir(path, 0o700)
    write_file(f"{path}/who", text.encode())


def _wait_for(path: str, started: float) -> tuple[str, float]:
    """Return what a file says, and how long after a start it was seen, s."""
    while (waited_s := time.monotonic() - started) < _HIDDEN_S:
        with suppress(OSError):
            return read_file(path).decode(), waited_s
        time.sleep(0.002)
    return "", waited_s


def _look_out(line: Line) -> float:
    """Return how long a directory of the other node took to be seen, at most, s."""
    longest_s = 0.0
    for number in range(2 * _LOOKS):
        place, looks = f"{line.place}/seen.{number}", line.is_first == bool(number % 2)
        if looks:
            os.path.lexists(place)  # an absence that was seen is remembered
        else:
            _stage(f"{place}.stage", "x")
        line.exchange()
        if not looks:
            os.rename(f"{place}.stage", place)
        line.exchange()
        if looks:
            longest_s = max(longest_s, _wait_for(f"{place}/who", time.monotonic())[1])
    return longest_s


def _compare_clocks(line: Line) -> tuple[float, float]:
    """Return how far the second clock is ahead, and how sure that is, s; known to the first."""
    best = (0.0, float("inf"))
    for _ in range(_PINGS):
        started = time.time()
        if line.is_first:
            theirs, ended = line.exchange()["now"], time.time()
            pair = (theirs - (started + ended) / 2, (ended - started) / 2)
            best = min(best, pair, key=lambda pair: pair[1])
        else:
            line.hear()
            line.tell(now=time.time())
    return best


def _judge(first: Facts, second: Facts) -> Iterator[Finding]:
    is_one = first["boot_id"] and first["boot_id"] == second["boot_id"]
    hosts = str(first["host"]), str(second["host"])
    facts = {"hosts": " and ".join(hosts)}
    yield finding("nodes", "nodes-one-machine" if is_one else "nodes", facts)
    yield finding("exclusive file", *_judge_contest(first["files"], second["files"]))
    case, facts = _judge_contest(first["directories"], second["directories"])
    wrong = max(first["wrong"], second["wrong"])
    case = "contest-replaced" if wrong and case == "contest" else case
    yield finding("first rename wins", case, {**facts, "wrong": wrong})
    for name, call in LOCK_CALLS.items():
        yield finding(name, *judge_lock(first[call], second[call], "the other node"))
    seen_s = max(first["seen_s"], second["seen_s"])
    case = "delay" if seen_s < _VISIBLE_S else "delay-long"
    case = case if seen_s < _HIDDEN_S else "delay-endless"
    yield finding("entry seen", case, {"delay_ms": 1000 * seen_s})
    yield finding("clocks", *judge_clock(*hosts[::-1], *first["clock"]))


def _judge_contest(first: list[bool], second: list[bool]) -> Case:
    pairs = list(zip(first, second, strict=True))
    both, none = pairs.count((True, True)), pairs.count((False, False))
    facts = {"n": len(pairs), "first": sum(first), "second": sum(second), "both": both}
    return "contest-broken" if both or none else "contest", {**facts, "none": none}
