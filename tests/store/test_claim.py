import errno
import itertools
import os
import shutil
import subprocess
import sys
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

from lacuna.errors import CacheDirError
from lacuna.store import Store
from lacuna.store._claim import Claim, judge, poll_delays, set_aside
from lacuna.utils.owner import current_owner


@pytest.fixture
def root(store):
    from lacuna.store._layout import prepare

    key = key_of()
    prepare(str(store.root), key.location)
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


def test_claim__holds_the_record_of_its_owner(root):
    digest = key_of().digest
    assert Claim(root, digest).take()
    holder = judge(root, digest)
    assert (holder.token, holder.state) == (current_owner().token, "alive")
    assert str(holder) == f"process {os.getpid()} on {os.uname().nodename}"


def test_claim__release_leaves_the_claim_of_another_alone(root):
    digest = key_of().digest
    first, second = Claim(root, digest), Claim(root, digest)
    first.take()
    set_aside(root, digest, judge(root, digest))
    assert second.take()
    theirs = judge(root, digest).claim
    first.release()
    assert judge(root, digest).claim == theirs


def test_set_aside__leaves_a_claim_that_is_not_the_one_judged(root):
    digest = key_of().digest
    first, second = Claim(root, digest), Claim(root, digest)
    first.take()
    judged = judge(root, digest)
    first.release()
    second.take()
    set_aside(root, digest, judged)
    assert judge(root, digest) is not None


FORK = """
import os, sys
from lacuna.store._claim import Claim
claim = Claim(sys.argv[1], sys.argv[2])
claim.take()
child = os.fork()
if child == 0:
    claim.release()
    os._exit(0)
os.waitpid(child, 0)
sys.exit(not os.path.exists(f"{sys.argv[1]}/.claims/{sys.argv[2]}"))
"""


def test_claim__a_fork_does_not_release_it(root):
    command = [sys.executable, "-c", FORK, root, key_of().digest]
    assert subprocess.run(command, check=False).returncode == 0


def test_claim__a_stage_that_stays_keeps_a_record(root):
    digest = key_of().digest
    claim = Claim(root, digest)
    claim.take()
    claim.step_aside()
    assert judge(root, digest) is None
    assert [path.name for path in Path(root, ".claims").iterdir()] == [claim.name]
    claim.release()
    assert not list(Path(root, ".claims").iterdir())


def test_claim__the_names_of_stages_carry_the_owner(root):
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


def test_dead_owner__a_duplicate_builder_that_died_leaves_nothing(store, key, make):
    record = dead_record()
    leave_claim(store, key, record)
    claim = store.root / ".claims" / key.digest
    claim.rename(claim.with_name(f"{key.digest}.{record['token']}.0"))
    store.get_or_make(key, make)
    assert not leftovers(store)


def test_unsigned__a_claim_that_nobody_signs_is_waited_for_briefly(store, key, make):
    claim = store.root / ".claims" / key.digest
    claim.parent.mkdir(parents=True)
    claim.touch()
    started = time.monotonic()
    store.get_or_make(key, make)
    assert 4 < time.monotonic() - started < 20
    assert not leftovers(store)


def test_unsigned__a_record_in_the_making_stays_until_it_is_old(store, key, make):
    beside = store.root / ".claims" / f"{key.digest}.somebodyaa.0"
    beside.parent.mkdir(parents=True)
    beside.touch()
    store.get_or_make(key, make)
    assert leftovers(store) == {f".claims/{beside.name}"}
    old = time.time() - 100
    os.utime(beside, (old, old))
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


def test_unreadable_record__of_somebody_else_is_never_proven_dead(
    tmp_path, key, make, refused_permissions
):
    store = Store(tmp_path / "cache", foreign_wait_s=0.1)
    leave_claim(store, key, dead_record())
    claim = store.root / ".claims" / key.digest
    claim.chmod(0)
    told = []
    store.get_or_make(key, make, on_wait=told.append)
    assert "a process that left no record is building it" in told[0]
    assert claim.exists()


def test_unreadable_record__that_is_empty_was_never_signed(store, key, make, refused_permissions):
    claim = store.root / ".claims" / key.digest
    claim.parent.mkdir(parents=True)
    claim.touch()
    claim.chmod(0)
    old = time.time() - 100
    os.utime(claim, (old, old))
    store.get_or_make(key, make)
    assert not leftovers(store)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("name", ["open", "read"])
def test_unreadable_record__for_the_moment_tells_nothing(store, key, monkeypatch, name, number):
    leave_claim(store, key, dead_record())
    os.utime(store.root / ".claims" / key.digest, (1, 1))

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)
    judged = judge(str(store.root), key.digest)
    monkeypatch.undo()
    assert judged.state == "unknown"
    assert judge(str(store.root), key.digest).state == "dead"


def test_claim__that_could_not_be_removed_does_not_make_its_own_process_wait(
    store, key, make, monkeypatch
):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def give_up(_: Path) -> None:
        monkeypatch.setattr(os, "unlink", fail)
        raise ValueError

    with pytest.raises(ValueError):
        store.get_or_make(key, give_up)
    monkeypatch.undo()
    assert (store.root / ".claims" / key.digest).exists()
    store.get_or_make(key, make, on_wait=pytest.fail)
    assert not leftovers(store)


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


def test_dead_owner__whose_claim_cannot_be_moved_is_an_error_and_no_endless_wait(
    store, key, make, monkeypatch
):
    leave_claim(store, key, dead_record())

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CacheDirError, match=r"Read-only file system.*LACUNA_CACHE_DIR"):
        store.get_or_make(key, make)
    assert make.calls == 0


def test_waiting__survives_that_somebody_removes_the_whole_cache(tmp_path, key, make):
    store = Store(tmp_path / "cache")
    leave_claim(store, key, foreign_record())
    store.get_or_make(key, make, on_wait=lambda _: shutil.rmtree(store.root))
    assert make.calls == 1
    assert store.find(key) is not None


def test_claim__one_that_cannot_be_looked_at_is_not_left_to_block_its_own_process(
    store, key, make, monkeypatch
):
    real = os.stat

    def fail(path: str, **options: object) -> os.stat_result:
        if "/.claims/" in str(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", fail)
        with pytest.raises(CacheDirError):
            store.get_or_make(key, make)
    assert not leftovers(store)
    store.get_or_make(key, make)
    assert make.calls == 1


def test_dead_owner__beside_a_claim_only_its_own_stage_is_removed(store, key, make):
    record = dead_record()
    leave_claim(store, key, record)
    claim = store.root / ".claims" / key.digest
    claim.rename(claim.with_name(f"{key.digest}.{record['token']}.0"))
    other = store.root / ".stage" / f"{key.digest}.{record['token']}.1"
    other.mkdir()
    store.get_or_make(key, make)
    assert leftovers(store) == {f".stage/{other.name}"}
