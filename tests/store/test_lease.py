"""Who uses an entry says so, and nobody else can tell otherwise."""

import gc
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.store.samples import Maker, foreign_record, key_of, leave_lease, unused

from lacuna.errors import CacheEntryError
from lacuna.store import Store
from lacuna.store._entry import is_marked, mark, unmark
from lacuna.store._lease import holders
from lacuna.store._removal import evict
from lacuna.utils.owner import current_owner

ROOT = Path(__file__).resolve().parents[2]


class User:
    """Something that maps files."""


def leases(store):
    directory = store.root / ".leases"
    return sorted(directory.iterdir()) if directory.is_dir() else []


def test_entry__is_leased_inside_its_block_and_only_there(store, key, make):
    entry = store.get_or_make(key, make)
    assert leases(store) == []
    with entry:
        (lease,) = leases(store)
        assert lease.name.startswith(f"{key.digest}.{current_owner().token}.")
        assert json.loads(lease.read_text()) == current_owner().record
        assert holders(str(store.root)) == {
            key.digest: f"process {os.getpid()} on {os.uname().nodename}"
        }
    assert leases(store) == []


def test_entry__many_users_in_one_process_share_a_lease(store, key, make):
    entry = store.get_or_make(key, make)
    with entry, entry, Store(store.root).get_or_make(key, make):
        assert len(leases(store)) == 1
    assert leases(store) == []


def test_entry__an_exception_ends_the_lease(store, key, make):
    with pytest.raises(KeyError), store.get_or_make(key, make):
        raise KeyError
    assert leases(store) == []


def test_lease_for__lasts_until_its_user_is_collected(store, key, make):
    user = User()
    store.get_or_make(key, make).lease_for(user)
    gc.collect()
    assert len(leases(store)) == 1
    del user
    gc.collect()
    assert leases(store) == []


def test_lease_for__ends_with_the_process(store, key, make):
    store.get_or_make(key, make)
    code = (
        "import os, sys; from lacuna.store import Store; from tests.store.samples import key_of\n"
        "class User: pass\n"
        "user = User(); store = Store(sys.argv[1]); store.find(key_of()).lease_for(user)\n"
        "print(len(os.listdir(sys.argv[1] + '/.leases')))"
    )
    command = [sys.executable, "-c", code, str(store.root)]
    assert subprocess.check_output(command, cwd=ROOT, text=True) == "1\n"
    assert leases(store) == []


def test_forked_child__leaves_the_lease_of_its_parent_and_ends_its_own(store, key, make):
    entry = store.get_or_make(key, make)
    with entry:
        child = os.fork()
        if child == 0:
            entry.__exit__()
            with Store(store.root).find(key):
                os._exit(0 if len(leases(store)) == 2 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert len(leases(store)) == 2  # it ended without a word
        assert len(holders(str(store.root))) == 1
        Store(store.root).get_or_make(key, make)
        assert len(leases(store)) == 1
    assert leases(store) == []


def test_read_only_root__is_not_written(tmp_path, key, make):
    shared = Store(tmp_path / "shared")
    shared.get_or_make(key, make)
    store = Store(tmp_path / "own", read_only_roots=[shared.root])
    with store.find(key) as entry:
        entry.lease_for(User())
        assert leases(shared) == leases(store) == []


def test_lease__that_cannot_be_written_keeps_nobody_from_using_the_entry(store, key, make):
    entry = store.get_or_make(key, make)
    (store.root / ".leases").write_text("in the way")
    with entry:
        assert (entry.path / "offsets.npy").exists()
    assert holders(str(store.root)) == {}


def test_lease__that_was_purged_is_written_again_for_the_next_user(store, key, make):
    with store.get_or_make(key, make) as entry:
        leases(store)[0].unlink()
        with entry:
            assert len(leases(store)) == 1
    assert leases(store) == []


def test_entering__what_was_removed_is_an_error_that_says_so(store, key, make):
    entry = store.get_or_make(key, make)
    shutil.rmtree(entry.path)
    with pytest.raises(CacheEntryError, match=r"tdi map sample.*ask for it again"):
        entry.__enter__()
    assert leases(store) == []


def test_entering__brings_back_what_an_evictor_had_not_yet_deleted(store, key, make):
    entry = unused(store.get_or_make(key, make))
    assert evict(str(store.root), entry.directory) is not None
    assert store.find(key) is None
    with entry:
        assert store.find(key) is not None
    assert entry.used_at > entry.path.stat().st_mtime - 100


def test_asking__brings_back_what_an_evictor_had_not_yet_deleted(store, key, make):
    evict(str(store.root), unused(store.get_or_make(key, make)).directory)
    Store(store.root).get_or_make(key, make)
    assert make.calls == 1


def test_entering__waits_for_an_evictor_that_made_up_its_mind_but_not_for_a_dead_one(
    store, key, make
):
    entry = unused(store.get_or_make(key, make))
    before = entry.used_at
    mark(entry.directory)
    assert (entry.path / "meta.json").stat().st_mtime < 1e9
    assert abs(entry.used_at - before) < 1
    with entry:
        assert (entry.path / "meta.json").stat().st_mtime > 1e9
        assert entry.used_at > before + 1000


def test_entering__notes_the_use(store, key, make):
    entry = unused(store.get_or_make(key, make))
    before = entry.used_at
    with Store(store.root).find(key):
        assert entry.used_at > before + 1000


def test_holders__who_cannot_be_judged_may_live_and_the_reason_is_told(store, key):
    leave_lease(store, key, foreign_record())
    leave_lease(store, key_of(1), {**foreign_record(), "host": None})
    (text, _) = holders(str(store.root)).values()
    assert text.startswith("process ")
    assert "on another host" in "".join(holders(str(store.root), key.digest).values())


def test_get_or_make__a_hit_leases_nothing(store, key):
    store.get_or_make(key, Maker())
    Store(store.root).get_or_make(key, Maker())
    assert not (store.root / ".leases").exists()


def test_mark__of_an_evictor_at_work_stays_whoever_else_comes(store, key, make):
    entry = store.get_or_make(key, make)
    unused(entry)
    sidecar = entry.path / "meta.json"
    marked = mark(entry.directory)
    assert mark(entry.directory) is None, "another evictor has to leave it alone"
    unmark(entry.directory, marked + 1)
    assert sidecar.stat().st_mtime_ns == marked, "what another evictor marked too stays marked"
    entry.touch()
    assert is_marked(sidecar.stat()), "who asks in the meantime is noted, and the mark stays"
    assert sidecar.stat().st_mtime_ns != marked
    assert time.time() - entry.used_at < 60


def test_mark__whose_evictor_ended_does_not_keep_the_entry_for_ever(store, key, make):
    entry = store.get_or_make(key, make)
    unused(entry)
    mark(entry.directory)
    with entry:
        assert not is_marked((entry.path / "meta.json").stat())
