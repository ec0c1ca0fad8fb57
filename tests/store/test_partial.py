"""What came of a file so far belongs to one process, outlives it, and is taken up by the next."""

import json
import os
import time
from contextlib import suppress

import pytest
from tests.store.samples import dead_record, files_below, foreign_record

from lacuna.errors import CacheFullError
from lacuna.store import Key, Store

KEY = Key("download", {"sha256": "0" * 64, "name": "data.trk"}, label="data.trk")


def leave(store, record, content=b"half of it", *, age_s=0.0):
    """Leave what a process has on disk in the middle of a transfer."""
    path = store.root / ".partial" / f"{KEY.digest}.{(record or {}).get('token', 'gone')}.0"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    owner = path.with_name(path.name + ".owner")
    if record:
        owner.write_text(json.dumps(record))
    then = time.time() - age_s
    for each in (path, *([owner] if record else [])):
        os.utime(each, (then, then))
    return path


def came_of(store):
    with store.partial(KEY) as partial:
        return partial.size_bytes


def test_partial__outlives_a_maker_that_fails_and_becomes_the_entry(store):
    with suppress(KeyError), store.partial(KEY) as partial:
        partial.append(b"one ")
        raise KeyError
    assert came_of(store) == 4

    def make(directory):
        with store.partial(KEY) as partial:
            assert partial.read(10, 0) == b"one "
            partial.append(b"two")
            partial.move_to(directory / "data.trk")

    entry = store.get_or_make(KEY, make)
    assert (entry.path / "data.trk").read_bytes() == b"one two"
    assert files_below(store.root / ".partial") == set()
    assert not list((store.root / ".partial").iterdir())


def test_partial__that_stayed_empty_leaves_nothing(store):
    with store.partial(KEY) as partial:
        partial.append(b"what was not wanted")
        partial.clear()
    assert not list((store.root / ".partial").iterdir())


def test_partial__has_its_owner_beside_it_while_it_is_written(store):
    with store.partial(KEY) as partial:
        partial.append(b"one")
        (owner,) = (store.root / ".partial").glob("*.owner")
        assert json.loads(owner.read_text())["pid"] == os.getpid()
    assert not owner.exists()


@pytest.mark.parametrize("record", [None, dead_record()], ids=["let go", "dead"])
def test_partial__of_nobody_is_taken_up(store, record):
    left = leave(store, record)
    with store.partial(KEY) as partial:
        assert partial.size_bytes == len("half of it")
        assert not left.exists()
    assert [path.name for path in (store.root / ".partial").iterdir()] != [left.name]
    assert came_of(store) == len("half of it")


def test_partial__of_another_host_is_left_alone(store):
    left = leave(store, foreign_record())
    with store.partial(KEY) as partial:
        assert partial.size_bytes == 0
        partial.append(b"mine")
    assert left.read_bytes() == b"half of it"


def test_partial__two_at_once_have_one_each(store):
    leave(store, dead_record())
    with store.partial(KEY) as one, Store(store.root).partial(KEY) as two:
        assert sorted([one.size_bytes, two.size_bytes]) == [0, len("half of it")]


def test_partial__the_largest_is_taken_up(store):
    leave(store, None, b"less")
    leave(store, dead_record(), b"a little more")
    with store.partial(KEY) as partial:
        assert partial.size_bytes == len("a little more")


def test_partial__a_link_in_its_place_is_not_followed(store, tmp_path):
    left = leave(store, dead_record())
    (tmp_path / "mine").write_bytes(b"not yours")
    left.unlink()
    left.symlink_to(tmp_path / "mine")
    with store.partial(KEY) as partial:
        partial.append(b"!")
    assert (tmp_path / "mine").read_bytes() == b"not yours"


def test_partial__a_forked_child_that_leaves_the_block_takes_nothing_along(store):
    with store.partial(KEY) as partial:
        partial.append(b"one")
        child = os.fork()
        if child == 0:
            try:
                partial.__exit__()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        partial.append(b"two")
        assert len(list((store.root / ".partial").glob("*.owner"))) == 1
    assert came_of(store) == 6


def test_partial__more_than_fits_is_refused(store):
    with store.partial(KEY) as partial, pytest.raises(CacheFullError, match=r"data\.trk"):
        partial.require_space(1 << 60)


def test_clear__removes_what_was_abandoned_for_a_day_and_nothing_else(store):
    fresh = leave(store, None)
    foreign = leave(store, foreign_record(), age_s=100_000)
    old = leave(store, dead_record(), age_s=100_000)
    orphan = store.root / ".partial" / f"{'1' * 64}.{dead_record()['token']}.0.owner"
    orphan.write_text(json.dumps(dead_record()))
    os.utime(orphan, (0, 0))
    plan = store.plan_clear()
    assert plan.leftover_bytes >= len("half of it")
    assert len(plan.leftovers) == 2
    plan.execute()
    assert fresh.exists()
    assert foreign.exists()
    assert not old.exists()
    assert not orphan.exists()
    assert len(list((store.root / ".partial").iterdir())) == 3


def test_clear__leaves_alone_what_was_taken_up_since(store):
    leave(store, dead_record(), age_s=100_000)
    plan = store.plan_clear()
    with store.partial(KEY) as partial:
        plan.execute()
        partial.append(b"!")
    assert came_of(store) == len("half of it!")
