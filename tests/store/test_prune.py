"""Eviction takes what was unused for longest, as far as it must, and nothing that is in use."""

import errno
import json
import logging
import os
import time
from pathlib import Path

import pytest
from tests.store.samples import (
    PAYLOAD,
    Maker,
    dead_record,
    foreign_record,
    key_of,
    leave_lease,
    leftovers,
    unused,
)

from lacuna.errors import CacheDirError, CacheFullError
from lacuna.store import Store
from lacuna.store._entry import mark
from lacuna.store._prune import _look_again, make_room
from lacuna.store._removal import evict, settle, sweep
from lacuna.utils.owner import current_owner

EACH = 2 * len(PAYLOAD)
EVERYTHING = 10**18


def fill(store, n=4):
    """Return entries that were unused for 10, 9, 8, … days."""
    return [unused(store.get_or_make(key_of(number), Maker()), 10 - number) for number in range(n)]


def names(items):
    return [Path(item.directory).name for item in items]


def there(store, n=4):
    return [number for number in range(n) if store.find(key_of(number))]


def test_max_size__what_was_unused_for_longest_goes_and_no_more(store):
    entries = fill(store)
    plan = store.plan_prune(max_size=2 * EACH + 1)
    assert names(plan.removals) == [entry.digest for entry in entries[:2]]
    assert (plan.expected_freed_bytes, plan.missing_bytes) == (2 * EACH, 0)
    assert there(store) == [0, 1, 2, 3]
    cleared = plan.execute()
    assert (len(cleared.removed), cleared.freed_bytes) == (2, 2 * EACH)
    assert there(store) == [2, 3]
    assert not leftovers(store)
    assert store.plan_prune(max_size=2 * EACH).removals == ()


def test_max_age__what_was_unused_for_longer_goes(store):
    fill(store)
    plan = store.plan_prune(max_age_s=8.5 * 86_400)
    assert {item.because for item in plan.removals} == {"unused for longer than max_age"}
    plan.execute()
    assert there(store) == [2, 3]


def test_min_free__says_what_it_cannot_free(store):
    fill(store)
    plan = store.plan_prune(min_free=EVERYTHING)
    assert len(plan.removals) == 4
    assert plan.missing_bytes > EVERYTHING / 2


def test_min_free__that_is_met_asks_for_nothing(store):
    fill(store)
    assert store.plan_prune(min_free=1).removals == ()


def test_budgets__are_those_of_the_store_unless_given(store):
    fill(store)
    assert len(Store(store.root, max_size=0).plan_prune().removals) == 4
    assert len(Store(store.root, max_size=0).plan_prune(max_size=3 * EACH).removals) == 1
    assert len(Store(store.root, max_age_s=8.5 * 86_400).plan_prune().removals) == 2
    assert len(Store(store.root, evict_below=EVERYTHING).plan_prune().removals) == 4
    assert len(store.plan_prune().removals) == 0


def test_kept__what_was_used_in_the_last_day_is_pinned_or_in_use(store):
    entries = fill(store, 5)
    os.utime(entries[0].path / "meta.json")
    store.pin(entries[1])
    leave_lease(store, key_of(3), foreign_record())
    with entries[2]:
        unused(entries[2])
        plan = store.plan_prune(max_size=0)
        reasons = {Path(item.directory).name: item.reason for item in plan.kept}
        assert names(plan.removals) == [entries[4].digest]
        assert reasons[entries[0].digest] == "used in the last 24 hours"
        assert reasons[entries[1].digest] == "pinned"
        assert reasons[entries[2].digest].startswith(f"in use by process {os.getpid()} on ")
        assert "on node-17" in reasons[entries[3].digest]
        assert plan.missing_bytes == 4 * EACH
        plan.execute()
        assert there(store, 5) == [0, 1, 2, 3]


def test_clear__takes_neither_what_is_pinned_nor_what_is_in_use_even_if_forced(store):
    entries = fill(store, 3)
    store.pin(entries[0])
    with entries[1]:
        store.plan_clear(force=True).execute()
        assert there(store) == [0, 1]
    assert store.unpin(entries[0])
    assert not store.unpin(entries[0])
    store.plan_clear(force=True).execute()
    assert there(store) == []


def test_lease_of_a_dead_process__keeps_nothing_and_is_cleared_away(store):
    fill(store, 1)
    lease = leave_lease(store, key_of(0), dead_record())
    plan = store.plan_prune(max_size=0)
    assert plan.leftovers == (f".leases/{lease.name}",)
    plan.execute()
    assert there(store) == []
    assert not lease.exists()


def test_end_leases__are_part_of_the_plan_and_only_those_of_unknown_owners_that_are_old(store):
    entries = fill(store, 2)
    lease = leave_lease(store, key_of(0), foreign_record())
    leave_lease(store, key_of(1), foreign_record())
    assert store.plan_prune(max_size=0, end_leases_older_than_s=3600).leases == ()
    with entries[1]:
        unused(entries[1])
        for path in (store.root / ".leases").iterdir():
            os.utime(path, (time.time() - 7200,) * 2)
        plan = store.plan_prune(max_size=0, end_leases_older_than_s=3600)
        assert len(plan.leases) == 2
        assert "process" in plan.leases[0].owner
        assert "node-17" in plan.leases[0].owner
        assert plan.leases[0].evidence
        assert plan.leases[0].age_s == pytest.approx(7200, abs=60)
        assert names(plan.removals) == [entries[0].digest]
        assert lease.exists()
        done = plan.execute()
        assert (len(done.ended), names(done.removed)) == (2, [entries[0].digest])
        assert list(store.users()) == [entries[1].digest]
    assert not store.users()


def test_end_leases__one_whose_owner_proves_to_live_stays_and_so_does_its_entry(store):
    fill(store, 1)
    lease = leave_lease(store, key_of(0), foreign_record())
    os.utime(lease, (0, 0))
    plan = store.plan_prune(max_size=0, end_leases_older_than_s=3600)
    lease.write_text(json.dumps(current_owner().record))
    done = plan.execute()
    assert (done.ended, done.removed) == ((), ())
    assert [item.reason for item in done.failed] == ["its owner is known by now"]
    assert there(store) == [0]


@pytest.mark.usefixtures("refused_permissions")
def test_require_writable__says_which_cache_this_user_cannot_change(store):
    (entry,) = fill(store, 1)
    plan = store.plan_prune(max_size=0)
    plan.require_writable()
    shard = entry.path.parent
    shard.chmod(0o500)
    try:
        with pytest.raises(CacheDirError, match="cannot be written by you: nothing was deleted"):
            plan.require_writable()
    finally:
        shard.chmod(0o700)


def test_execute__keeps_what_was_leased_since_it_was_planned(store):
    (entry,) = fill(store, 1)
    plan = store.plan_prune(max_size=0)
    with entry:
        unused(entry)
        cleared = plan.execute()
        assert cleared.spared[0].reason.startswith("in use by")
        assert entry.path.exists()
        assert (time.time() - entry.used_at) > 86_400  # and its date is what it was


def test_execute__keeps_what_was_pinned_or_used_since_it_was_planned(store):
    entries = fill(store, 2)
    plan = store.plan_prune(max_size=0)
    store.pin(entries[0])
    Store(store.root).get_or_make(key_of(1), Maker())
    assert [item.reason for item in plan.execute().spared] == [
        "pinned",
        "used in the last 24 hours",
    ]
    assert there(store) == [0, 1]


@pytest.mark.parametrize("record", [foreign_record, None])
def test_second_look__puts_back_what_was_leased_meanwhile(store, record):
    (entry,) = fill(store, 1)
    trash = evict(str(store.root), entry.directory)
    assert not entry.path.exists()
    leave_lease(store, key_of(0), foreign_record())
    assert not settle(str(store.root), trash)
    assert there(store) == [0]
    assert not leftovers(store)


def test_second_look__puts_back_what_was_used_without_a_lease_on_its_way_to_the_trash(store):
    (entry,) = fill(store, 1)
    status = mark(entry.directory)
    entry.touch()
    trash = evict(str(store.root), entry.directory)
    assert "used since" in _look_again(str(store.root), trash, entry.digest, status)
    assert there(store) == [0]
    assert not leftovers(store)


def test_evictor_that_died__a_later_sweep_puts_back_what_is_in_use_and_removes_the_rest(store):
    entries = fill(store, 2)
    for entry in entries:
        evict(str(store.root), entry.directory)
    leave_lease(store, key_of(0), foreign_record())
    assert len(store.plan_clear(lambda _: False).leftovers) == 1
    sweep(str(store.root), "")
    assert there(store) == [0]
    assert not leftovers(store)


def test_trash__of_what_was_made_anew_goes_when_its_last_user_has_ended(store):
    (entry,) = fill(store, 1)
    lease = leave_lease(store, key_of(0), foreign_record())
    evict(str(store.root), entry.directory)
    (store.root / ".trash").rename(store.root / "aside")
    store.get_or_make(key_of(0), Maker())
    (store.root / ".trash").rmdir()
    (store.root / "aside").rename(store.root / ".trash")
    sweep(str(store.root), "")
    assert len(leftovers(store)) == 1  # somebody may have mapped it
    lease.unlink()
    sweep(str(store.root), "")
    assert not leftovers(store)
    assert there(store) == [0]


def test_damaged__an_entry_in_use_stays_readable_in_the_trash(store):
    (entry,) = fill(store, 1)
    with entry, (entry.path / "dps" / "weights.npy").open("rb") as mapped:
        (entry.path / "offsets.npy").unlink()
        Store(store.root).get_or_make(key_of(0), Maker())
        assert len([name for name in leftovers(store) if name.startswith(".trash")]) == 1
        assert mapped.read() == PAYLOAD[::-1]
    sweep(str(store.root), "")
    assert not leftovers(store)


def test_builder__takes_what_was_evicted_for_an_entry_that_was_damaged_since(store, caplog):
    (entry,) = fill(store, 1)
    evict(str(store.root), entry.directory)
    (store.root / ".trash").rename(store.root / "aside")
    store.get_or_make(key_of(0), Maker())
    (entry.path / "offsets.npy").unlink()
    (store.root / ".trash").rmdir()
    (store.root / "aside").rename(store.root / ".trash")
    make = Maker()
    assert Store(store.root).get_or_make(key_of(0), make).path == entry.path
    assert make.calls == 0
    assert "was damaged" in caplog.text
    assert there(store) == [0]


def test_old_versions__are_removed_by_directory_and_newer_ones_are_nobodys_business(store):
    fill(store, 2)
    bucket = store.root / "tdi"
    (bucket / "v1").rename(bucket / "v0")
    (bucket / "v0" / key_of(0).digest[:2] / key_of(0).digest / "meta.json").write_text("other form")
    fill(store, 1)
    newer = bucket / "v2" / "ab" / ("ab" * 32)
    newer.mkdir(parents=True)
    (newer / "meta.json").write_text("a form to come")
    assert store.plan_prune().removals == ()
    assert [report.problem for report in store.verify()] == [None, None]
    plan = store.plan_prune(old_versions=True)
    assert len(plan.removals) == 2
    assert {item.because for item in plan.removals} == {"this version no longer reads it"}
    assert plan.removals[0].label.startswith("of an older version: tdi/v0/")
    assert len(plan.execute().removed) == 2
    assert there(store) == [0]
    store.plan_clear(force=True).execute()
    assert (newer / "meta.json").exists()


def test_clear__of_everything_takes_old_versions_that_cannot_be_read(store):
    fill(store, 1)
    (store.root / "tdi" / "v1").rename(store.root / "tdi" / "v0")
    next((store.root / "tdi").rglob("meta.json")).write_text("other form")
    assert store.plan_clear(lambda _: True).removals == ()
    assert len(store.plan_clear().execute().removed) == 1


def test_prune__takes_nothing_without_a_marker_above_it(store):
    fill(store, 1)
    (store.root / "tdi" / ".lacuna-cache").unlink()
    plan = store.plan_prune(max_size=0)
    assert plan.kept[0].reason == "no marker of the cache lies above it"


def test_plan__shows_without_touching(store):
    fill(store)
    before = {path: path.stat().st_mtime for path in store.root.rglob("*")}
    store.plan_prune(max_size=0, old_versions=True)
    assert {path: path.stat().st_mtime for path in store.root.rglob("*")} == before


def test_publishing__evicts_what_the_budget_asks_for_and_says_so(store, caplog):
    fill(store)
    caplog.set_level(logging.INFO)
    Store(store.root, max_size=3 * EACH).get_or_make(key_of(9), Maker())
    assert there(store, 10) == [2, 3, 9]
    assert "evicted 2 entries unused for longest from the cache" in caplog.text


def test_publishing__looks_at_most_every_few_minutes(store):
    fill(store)
    budget = Store(store.root, max_size=4 * EACH)
    budget.get_or_make(key_of(8), Maker())
    budget.get_or_make(key_of(9), Maker())
    assert len(there(store, 10)) == 5
    long_ago = time.time() - 3600
    os.utime(store.root / ".usage" / "evicted", (long_ago, long_ago))
    budget.get_or_make(key_of(7), Maker())
    assert len(there(store, 10)) == 4


def test_publishing__without_budgets_looks_at_nothing(store):
    fill(store)
    assert not (store.root / ".usage").exists()
    Store(store.root, evict_below=1).get_or_make(key_of(9), Maker())
    assert not (store.root / ".usage").exists()
    assert len(there(store, 10)) == 5


def share(directory):
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o2770 if path.is_dir() else 0o660)


def test_group_root__nothing_is_evicted_that_nobody_asked_for(store):
    fill(store)
    share(store.root)
    Store(store.root, max_size=0).get_or_make(key_of(9), Maker())
    assert not make_room(str(store.root), errno.ENOSPC, None, 0)
    assert len(there(store, 10)) == 5
    assert len(store.plan_prune(max_size=0).execute().removed) == 4


class FullOnce(Maker):
    """Finds the disk full, as long as there is something else to remove."""

    def __init__(self, store, number=errno.EDQUOT):
        super().__init__()
        self.store, self.number = store, number

    def __call__(self, directory):
        if len(there(self.store)) > 2:
            raise OSError(self.number, os.strerror(self.number), str(directory / "offsets.npy"))
        super().__call__(directory)


def test_quota__one_attempt_frees_as_much_as_is_needed(store):
    fill(store)
    maker = FullOnce(store)
    store.get_or_make(key_of(9), maker, expected_bytes=2 * EACH)
    assert there(store, 10) == [2, 3, 9]


def test_quota__is_an_error_after_one_attempt(store):
    fill(store)
    with pytest.raises(CacheFullError):
        store.get_or_make(key_of(9), FullOnce(store), expected_bytes=1)
    assert there(store) == [1, 2, 3]
    assert not leftovers(store)


def test_space__nothing_is_removed_where_that_would_not_suffice(store):
    fill(store)
    with pytest.raises(CacheFullError):
        store.get_or_make(key_of(9), Maker(), expected_bytes=EVERYTHING)
    assert there(store) == [0, 1, 2, 3]


def test_full_elsewhere__is_no_reason_to_evict(store, tmp_path):
    fill(store)

    def make(_):
        raise CacheFullError(errno.ENOSPC, "no space in scratch", str(tmp_path / "scratch"))

    with pytest.raises(CacheFullError):
        store.get_or_make(key_of(9), make)
    assert there(store) == [0, 1, 2, 3]


def test_pin__says_when_and_what(store, key, make):
    entry = store.get_or_make(key, make)
    assert not entry.pinned
    store.pin(entry)
    assert entry.pinned
    said = json.loads((store.root / ".pins" / key.digest).read_text())
    assert said["label"] == "tdi map sample 2 mm"


def test_pin__in_a_root_that_is_only_read_is_refused(store, key, make):
    store.get_or_make(key, make)
    reader = Store(store.root.parent / "own", read_only_roots=[store.root])
    entry = reader.find(key)
    for change in (reader.pin, reader.unpin):
        with pytest.raises(CacheDirError, match="only read") as caught:
            change(entry)
        assert caught.value.errno == errno.EROFS
    assert not (store.root / ".pins").exists()
