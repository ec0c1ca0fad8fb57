"""Anything that may happen to a store, in any order, against a dict."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.store.samples import (
    dead_record,
    foreign_record,
    key_of,
    leave_claim,
    leave_lease,
    leftovers,
    unused,
)
from tests.store.scratch import DAY_S, leave, owner_like

from lacuna.errors import CacheEntryError
from lacuna.store import Entry, Key, Store, plan_reap, reap_ended
from lacuna.store._removal import evict

NUMBERS = st.integers(0, 3)
NAMES = st.sampled_from(["a.npy", "b/c.npy", "meta.json"])
DEAD, FOREIGN = dead_record(), foreign_record()


def content(number: int) -> bytes:
    return bytes([number]) * (50 + number)


class Died(BaseException):
    """What unwinds a maker that is interrupted."""


class StoreMachine(RuleBasedStateMachine):
    """The model: number of each entry that is there → is it whole, sized right, or broken.

    Beside it: which are pinned, which we use, which somebody elsewhere leases, and which a dead
    evictor left in the trash.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.store = Store(self.directory / "cache")
        self.model: dict[int, str] = {}
        self.n_built = 0
        self.scratch: dict[Path, str] = {}
        self.pinned: set[int] = set()
        self.used: dict[int, Entry] = {}
        self.leased: dict[int, Path] = {}
        self.in_trash: dict[int, str] = {}

    def is_in_use(self, number: int) -> bool:
        return number in self.used or number in self.leased

    def stays(self, number: int) -> bool:
        """Whether nobody may delete it."""
        is_broken = self.model.get(number) == "broken"
        return self.is_in_use(number) or (number in self.pinned and not is_broken)

    def settle(self) -> None:
        """Note what looking through the trash does: what is in use comes back, the rest goes."""
        for number, state in self.in_trash.items():
            if self.is_in_use(number):
                self.model[number] = state
        self.in_trash.clear()

    def keep(self, numbers: set[int]) -> None:
        self.model = {number: self.model[number] for number in numbers}

    def teardown(self) -> None:
        for number in list(self.used):
            self.stop_using(number)
        shutil.rmtree(self.directory)

    @initialize(other_data=st.booleans())
    def start(self, other_data: bool) -> None:
        if other_data:
            (self.directory / "cache").mkdir()
            (self.directory / "cache" / "thesis").write_text("years")
        self.other_data = other_data

    def place(self, number: int) -> Path:
        return self.store.root / key_of(number).location

    def make_for(self, number: int):
        def make(directory: Path) -> None:
            self.n_built += 1
            (directory / "a.npy").write_bytes(content(number))
            (directory / "b").mkdir()
            (directory / "b" / "c.npy").write_bytes(content(number)[::-1])

        return make

    @rule(number=NUMBERS)
    def get(self, number: int) -> None:
        before = self.n_built
        entry = self.store.get_or_make(key_of(number), self.make_for(number))
        state = self.model.get(number) or self.in_trash.pop(number, None)
        assert self.n_built - before == (state not in ("whole", "rotten"))
        if state != "rotten":
            assert (entry.path / "a.npy").read_bytes() == content(number)
        self.model[number] = state if state == "rotten" else "whole"

    @rule(number=NUMBERS)
    def find(self, number: int) -> None:
        found = self.store.find(key_of(number)) is not None
        assert found == (self.model.get(number) in ("whole", "rotten"))

    @rule(number=NUMBERS)
    def interrupt(self, number: int) -> None:
        if self.model.get(number) in ("whole", "rotten") or number in self.in_trash:
            return

        def make(directory: Path) -> None:
            (directory / "a.npy").write_bytes(b"half")
            raise Died

        try:
            self.store.get_or_make(key_of(number), make)
        except Died:
            self.model.pop(number, None)  # what was broken is thrown away first
        else:
            raise AssertionError("made from nothing")

    @rule(number=NUMBERS)
    def crash(self, number: int) -> None:
        key = key_of(number)
        if not any(key.digest in name for name in leftovers(self.store)):
            leave_claim(self.store, key, DEAD)

    @rule(number=NUMBERS, name=NAMES)
    def purge_a_file(self, number: int, name: str) -> None:
        if number in self.model:
            (self.place(number) / name).unlink(missing_ok=True)
            self.model[number] = "broken"

    @rule(number=NUMBERS, name=NAMES)
    def truncate(self, number: int, name: str) -> None:
        path = self.place(number) / name
        if number in self.model and path.exists():
            path.write_bytes(path.read_bytes()[:-1])
            self.model[number] = "broken"

    @rule(number=NUMBERS)
    def rot(self, number: int) -> None:
        path = self.place(number) / "a.npy"
        if self.model.get(number) in ("whole", "rotten"):
            path.write_bytes(bytes([255]) + path.read_bytes()[1:])
            self.model[number] = "rotten"

    @rule()
    def verify(self) -> None:
        problems = [report for report in self.store.verify() if report.problem]
        assert len(problems) == sum(state != "whole" for state in self.model.values())
        self.model = {key: state for key, state in self.model.items() if state == "whole"}

    @rule(number=NUMBERS)
    def pin(self, number: int) -> None:
        if entry := self.store.find(key_of(number)):
            self.store.pin(entry)
            self.pinned.add(number)

    @rule(number=NUMBERS)
    def unpin(self, number: int) -> None:
        if entry := self.store.find(key_of(number)):
            assert self.store.unpin(entry) == (number in self.pinned)
            self.pinned.discard(number)

    @rule(number=NUMBERS)
    def use(self, number: int) -> None:
        if number not in self.used and (entry := self.store.find(key_of(number))):
            self.used[number] = entry.__enter__()

    @rule(number=NUMBERS)
    def stop_using(self, number: int) -> None:
        if number in self.used:
            self.used.pop(number).__exit__()

    @rule(number=NUMBERS)
    def use_elsewhere(self, number: int) -> None:
        self.leased[number] = leave_lease(self.store, key_of(number), FOREIGN)

    @rule(number=NUMBERS)
    def stop_using_elsewhere(self, number: int) -> None:
        if number in self.leased:
            self.leased.pop(number).unlink()

    @rule(number=NUMBERS)
    def die_in_use(self, number: int) -> None:
        leave_lease(self.store, key_of(number), DEAD)

    @rule(number=NUMBERS)
    def die_evicting(self, number: int) -> None:
        if self.model.get(number) in ("whole", "rotten"):
            assert evict(str(self.store.root), str(self.place(number))) is not None
            self.in_trash[number] = self.model.pop(number)

    @rule(number=NUMBERS)
    def use_what_went(self, number: int) -> None:
        """Begin to use what was found before it went: it comes back, or that is an error."""
        if number not in self.model:
            meta = {"digest": key_of(number).digest, "label": "what went"}
            try:
                with Entry(str(self.place(number)), meta, str(self.store.root)) as entry:
                    assert (entry.path / "a.npy").exists()
            except CacheEntryError:
                assert number not in self.in_trash
            else:
                self.model[number] = self.in_trash.pop(number)

    @rule(old=st.sets(NUMBERS))
    def prune(self, old: set[int]) -> None:
        self.clear_nothing()
        for number in old:
            if entry := self.store.find(key_of(number)):
                unused(entry)
        gone = {n for n in old & set(self.model) if not self.stays(n)}
        self.store.plan_prune(max_size=0).execute()
        self.keep(set(self.model) - gone)
        for entry in self.store.entries():
            os.utime(entry.path / "meta.json")

    @rule()
    def clear_nothing(self) -> None:
        """Clear only what may always go: what is damaged, and what was left in the trash."""
        self.store.plan_clear(lambda _: False).execute()
        self.settle()
        self.keep({n for n, state in self.model.items() if state != "broken" or self.stays(n)})

    @rule(number=NUMBERS)
    def clear(self, number: int) -> None:
        digest = key_of(number).digest
        plan = self.store.plan_clear(lambda entry: entry.digest == digest, force=True)
        candidates = {n for n, state in self.model.items() if state == "broken" or n == number}
        gone = {n for n in candidates if not self.stays(n)}
        plan.execute()
        self.keep(set(self.model) - gone)
        self.settle()

    @rule()
    def clear_all(self) -> None:
        self.store.plan_clear(force=True).execute()
        self.keep({n for n in self.model if self.stays(n)})
        self.settle()
        assert not leftovers(self.store) or self.used or self.leased

    @rule(whose=st.sampled_from(["living c", "dead p", "dead c"]))
    def leave_scratch(self, whose: str) -> None:
        self.store.root.mkdir(exist_ok=True)
        owner = owner_like(**({} if whose == "living c" else {"start_time": 1}))
        path = leave(self.store.root / "tmp", owner, lifetime=whose[-1], age_s=8 * DAY_S)
        self.scratch[path] = whose

    @rule(by_itself=st.booleans())
    def reap(self, by_itself: bool) -> None:
        base = self.store.root / "tmp"
        done = reap_ended(base) if by_itself else plan_reap(base).execute()
        assert not done.failed
        kept = ("living c", "dead c") if by_itself else ("living c",)
        self.scratch = {path: whose for path, whose in self.scratch.items() if whose in kept}

    @invariant()
    def scratch_is_that_of_the_model(self) -> None:
        found = {path for path in self.store.root.glob("tmp/*") if path.is_dir()}
        assert found == set(self.scratch)

    @invariant()
    def entries_are_those_of_the_model(self) -> None:
        digests: set[str] = {entry.digest for entry in self.store.entries()}
        keys: list[Key] = [key_of(n) for n, state in self.model.items() if state != "broken"]
        assert digests == {key.digest for key in keys}

    @invariant()
    def other_data_is_untouched(self) -> None:
        if getattr(self, "other_data", False):
            assert (self.store.root / "thesis").read_text() == "years"


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=25)
