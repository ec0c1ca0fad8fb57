import os
import shutil
from pathlib import Path

import pytest
from tests.store.samples import (
    PAYLOAD,
    Maker,
    dead_record,
    foreign_record,
    key_of,
    leave_claim,
    leftovers,
    unused,
)

from lacuna.store import Store


def test_clear__keeps_what_was_used_in_the_last_day_unless_forced(store, make):
    recent = store.get_or_make(key_of(1), make)
    old = unused(store.get_or_make(key_of(2), make))
    plan = store.plan_clear()
    assert [item.directory for item in plan.removals] == [str(old.path)]
    assert [(item.directory, item.reason) for item in plan.kept] == [
        (str(recent.path), "used in the last 24 hours")
    ]
    assert plan.expected_freed_bytes == 2 * len(PAYLOAD)
    assert old.path.exists()
    cleared = plan.execute()
    assert (len(cleared.removed), cleared.freed_bytes) == (1, 2 * len(PAYLOAD))
    assert not old.path.exists()
    assert recent.path.exists()
    assert len(store.plan_clear(force=True).execute().removed) == 1
    assert not leftovers(store)


def test_clear__removes_only_what_was_selected(store, make):
    for number in range(4):
        store.get_or_make(key_of(number), make)
    chosen = key_of(2).digest
    plan = store.plan_clear(lambda entry: entry.digest == chosen, force=True)
    assert [Path(item.directory).name for item in plan.removals] == [chosen]
    plan.execute()
    assert len(list(store.entries())) == 3


def test_clear__removes_damaged_entries_and_says_why(store, key, make):
    (store.get_or_make(key, make).path / "offsets.npy").unlink()
    plan = store.plan_clear(lambda _: False)
    assert plan.removals[0].label == "damaged: offsets.npy is gone"
    plan.execute()
    assert not (store.root / key.location).exists()


def test_clear__removes_other_versions_too(store, key, make):
    entry = unused(store.get_or_make(key, make))
    (store.root / "tdi" / "v1").rename(store.root / "tdi" / "v0")
    assert len(store.plan_clear().execute().removed) == 1
    assert not entry.path.exists()


def test_clear__removes_what_dead_owners_left_and_nothing_of_others(store, key):
    leave_claim(store, key, dead_record())
    leave_claim(store, key_of(1), foreign_record())
    plan = store.plan_clear()
    assert len(plan.leftovers) == 1
    assert plan.leftover_bytes == len(b"half")
    assert plan.execute().freed_bytes == len(b"half")
    assert len(leftovers(store)) == 2
    assert all(key_of(1).digest in name for name in leftovers(store))


def test_clear__takes_nothing_without_a_marker_above_it(store, key, make):
    entry = store.get_or_make(key, make)
    (store.root / "tdi" / ".lacuna-cache").unlink()
    plan = store.plan_clear(force=True)
    assert plan.removals == ()
    assert plan.kept[0].reason == "no marker of the cache lies above it"
    assert entry.path.exists()


def test_clear__looks_for_the_marker_again_before_it_acts(store, key, make):
    entry = store.get_or_make(key, make)
    plan = store.plan_clear(force=True)
    (store.root / "tdi" / ".lacuna-cache").unlink()
    cleared = plan.execute()
    assert cleared.removed == ()
    assert len(cleared.failed) == 1
    assert entry.path.exists()


def test_clear__an_entry_that_is_gone_already_is_no_failure(store, key, make):
    plan_of = store.get_or_make(key, make)
    plan = store.plan_clear(force=True)
    shutil.rmtree(plan_of.path)
    assert plan.execute() == type(plan.execute())((), (), 0)


@pytest.mark.parametrize("level", ["tdi", "v1", "shard", "digest"])
def test_clear__follows_no_link_that_took_the_place_of_a_directory(
    store, key, make, tmp_path, level
):
    entry = store.get_or_make(key, make)
    plan = store.plan_clear(force=True)
    depth = {"digest": 0, "shard": 1, "v1": 2, "tdi": 3}[level]
    place = [entry.path, *entry.path.parents][depth]
    moved = tmp_path / "precious"
    place.rename(moved)
    place.symlink_to(moved)
    plan.execute()
    store.plan_clear(force=True).execute()
    assert len(list(moved.rglob("offsets.npy"))) == 1


def test_clear__a_link_inside_the_trash_is_not_followed(store, key, make, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("years")
    store.get_or_make(key, make)
    (store.root / ".trash" / f"{key.digest}.x.1").symlink_to(precious)
    inner = store.root / ".trash" / f"{key.digest}.x.2"
    inner.mkdir()
    (inner / "link").symlink_to(precious)
    store.plan_clear().execute()
    assert not leftovers(store)
    assert (precious / "data").read_text() == "years"


def test_clear__a_trash_that_is_a_link_is_left_alone(store, key, make, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / f"{key.digest}.x.1").write_text("years")
    store.get_or_make(key, make)
    (store.root / ".trash").rmdir()
    (store.root / ".trash").symlink_to(precious)
    store.plan_clear(force=True).execute()
    assert (precious / f"{key.digest}.x.1").read_text() == "years"


def test_plan__shows_without_touching(store, key, make):
    store.get_or_make(key, make)
    leave_claim(store, key_of(1), dead_record())
    before = sorted(store.root.rglob("*"))
    store.plan_clear(force=True)
    list(store.verify(discard=False))
    list(store.unmanaged())
    assert sorted(store.root.rglob("*")) == before


def test_store__a_second_one_sees_what_the_first_made(store, key):
    store.get_or_make(key, Maker())
    assert Store(store.root).find(key) is not None


def test_clear__keeps_what_was_used_since_it_was_planned(store, key, make):
    entry = unused(store.get_or_make(key, make))
    plan = store.plan_clear()
    os.utime(entry.path / "meta.json")
    cleared = plan.execute()
    assert [item.reason for item in cleared.spared] == ["used in the last 24 hours"]
    assert (cleared.removed, cleared.freed_bytes) == ((), 0)
    assert store.find(key) is not None


def test_clear__keeps_what_was_mended_since_it_was_planned(store, key, make):
    (store.get_or_make(key, make).path / "offsets.npy").unlink()
    plan = store.plan_clear(lambda _: False, force=True)
    store.get_or_make(key, make)
    assert "not what it was" in plan.execute().spared[0].reason
    assert store.find(key) is not None
