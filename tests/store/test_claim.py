import itertools
import json
import os
import time
from pathlib import Path

import pytest
from tests.store.samples import (
    Maker,
    dead_record,
    foreign_record,
    key_of,
    leave_claim,
    leftovers,
)

from lacuna.store import Store
from lacuna.store._claim import Claim, find_holder, poll_delays, set_aside


@pytest.fixture
def root(store):
    from lacuna.store._layout import prepare

    key = key_of()
    prepare(str(store.root), key.bucket, key.format_version, key.digest)
    return str(store.root)


def test_claim__is_exclusive_and_free_again_after_release(root):
    digest = key_of().digest
    first, second = Claim(root, digest), Claim(root, digest)
    assert first.take()
    assert not second.take()
    first.release()
    assert second.take()
    second.release()
    assert not list(Path(root, ".claims").iterdir())


def test_claim__holds_the_record_from_the_first_moment(root):
    digest = key_of().digest
    claim = Claim(root, digest)
    assert claim.take()
    holder = find_holder(root, digest)
    assert (holder.attempt, holder.state) == (claim.attempt, "alive")
    assert str(holder) == f"process {os.getpid()} on {os.uname().nodename}"


def test_claim__a_half_released_one_can_be_taken(root):
    digest = key_of().digest
    Path(root, ".claims", digest).mkdir()
    assert find_holder(root, digest) is None
    assert Claim(root, digest).take()


def test_claim__release_leaves_the_claim_of_another_alone(root):
    digest = key_of().digest
    first, second = Claim(root, digest), Claim(root, digest)
    first.take()
    set_aside(root, digest, first.attempt)
    assert second.take()
    first.release()
    assert find_holder(root, digest).attempt == second.attempt


def test_set_aside__puts_back_a_claim_that_is_not_the_one_judged(root):
    digest = key_of().digest
    live = Claim(root, digest)
    live.take()
    set_aside(root, digest, "deadaaaaaa.0")
    assert find_holder(root, digest).attempt == live.attempt


def test_claim__names_carry_the_owner(root):
    from lacuna.utils.owner import current_owner

    claim = Claim(root, key_of().digest)
    assert claim.name.split(".")[:2] == [key_of().digest, current_owner().token]
    assert claim.stage.endswith(claim.name)


def test_dead_owner__its_claim_is_taken_over_at_once_and_its_stage_removed(store, key, make):
    leave_claim(store, key, dead_record())
    told = []
    started = time.monotonic()
    store.get_or_make(key, make, on_wait=told.append)
    assert time.monotonic() - started < 5
    assert make.calls == 1
    assert not told
    assert not leftovers(store)


def test_dead_owner__a_claim_left_after_publishing_goes_with_the_next_use(store, key, make):
    store.get_or_make(key, make)
    leave_claim(store, key, dead_record(), stage=False)
    Store(store.root).get_or_make(key, make)
    assert make.calls == 1
    assert not leftovers(store)


def test_dead_owner__a_waiter_that_died_leaves_nothing_for_long(store, key, make):
    record = dead_record()
    side = store.root / ".claims" / f"{key.digest}.{record['token']}.4"
    side.mkdir(parents=True)
    (side / f"{record['token']}.4").write_text(json.dumps(record))
    store.get_or_make(key, make)
    assert not leftovers(store)


def test_recordless__a_claim_in_the_making_stays_until_it_is_a_minute_old(store, key, make):
    side = store.root / ".claims" / f"{key.digest}.somebodyaa.0"
    side.mkdir(parents=True)
    store.get_or_make(key, make)
    assert leftovers(store) == {f".claims/{side.name}"}
    old = time.time() - 100
    os.utime(side, (old, old))
    Store(store.root).get_or_make(key, make)
    assert not leftovers(store)


def test_unknown_owner__is_waited_for_then_a_duplicate_is_built(tmp_path, key, make):
    store = Store(tmp_path / "cache", foreign_wait_s=0.3)
    leave_claim(store, key, foreign_record())
    told = []
    store.get_or_make(key, make, on_wait=told.append)
    assert make.calls == 1
    assert "on node-17 is building it" in told[0]
    assert "another host" in told[1]
    # Nothing is proven about it: its claim and its stage are left alone.
    assert len(leftovers(store)) == 2


def test_unknown_owner__its_entry_wakes_the_waiter(store, key):
    leave_claim(store, key, foreign_record(), stage=False)
    elsewhere = Store(store.root.parent / "elsewhere")
    made = elsewhere.get_or_make(key, Maker())
    late = Maker()

    def publish(_: str) -> None:
        target = store.root / key.location
        target.parent.mkdir(parents=True, exist_ok=True)
        made.path.rename(target)

    entry = store.get_or_make(key, late, on_wait=publish)
    assert late.calls == 0
    assert (entry.path / "offsets.npy").exists()


def test_unreadable_record__is_never_proven_dead(tmp_path, key, make):
    store = Store(tmp_path / "cache", foreign_wait_s=0.1)
    place = store.root / ".claims" / key.digest
    place.mkdir(parents=True)
    (place / "somebodyaa.0").write_text("{")
    told = []
    store.get_or_make(key, make, on_wait=told.append)
    assert "a process that left no record is building it" in told[0]
    assert (place / "somebodyaa.0").exists()


def test_waiting__is_said_in_the_log_where_nobody_listens(tmp_path, key, make, caplog):
    store = Store(tmp_path / "cache", foreign_wait_s=0.1)
    leave_claim(store, key, foreign_record())
    store.get_or_make(key, make)
    assert f"Waiting for {key.label}: process" in caplog.text


def test_poll_delays__grow_to_five_seconds_with_jitter():
    delays = list(itertools.islice(poll_delays(), 60))
    assert delays[0] <= 0.02
    assert all(3.5 <= delay <= 5 for delay in delays[-20:])
    assert len(set(delays)) == 60
