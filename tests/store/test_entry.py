import errno
import logging
import os
import shutil
import time

import pytest
from tests.store.samples import PAYLOAD, Maker, key_of, leftovers

from lacuna.store import Store
from lacuna.store._entry import META


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    os.truncate(path, 0)


def unlink(path):
    path.unlink()


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_link(path):
    content = path.read_bytes()
    copy = path.with_name("copy")
    copy.write_bytes(content)
    path.unlink()
    path.symlink_to(copy)


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = [truncate, empty, unlink, replace_by_folder, replace_by_link, replace_by_fifo]


def test_hit__gives_what_was_made_without_making_it_again(store, key, make):
    first = store.get_or_make(key, make)
    with store.get_or_make(key, make) as entry:
        assert make.calls == 1
        assert entry.path == first.path
        assert (entry.path / "offsets.npy").read_bytes() == PAYLOAD
        assert entry.files == ("offsets.npy", "dps/weights.npy")
        assert entry.size_bytes == 2 * len(PAYLOAD)
        assert (entry.label, entry.product, entry.bucket) == (key.label, "map", "tdi")
        assert entry.meta["key"]["parameters"] == {"number": 0}
        assert not entry.read_only


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["offsets.npy", "dps/weights.npy", META])
def test_damage__is_found_told_once_thrown_away_and_made_again(
    store, key, make, damage, name, caplog
):
    path = store.get_or_make(key, make).path / name
    damage(path)
    assert store.find(key) is None
    with caplog.at_level(logging.WARNING):
        again = store.get_or_make(key, make)
        store.get_or_make(key, make)
    assert make.calls == 2
    assert (again.path / "offsets.npy").read_bytes() == PAYLOAD
    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"The cached {key.label} was damaged and is made again"
    ]
    assert name in caplog.text
    assert not leftovers(store)


def test_damage__a_whole_entry_is_never_adopted_under_another_digest(store, key, make):
    entry = store.get_or_make(key, make)
    other = key_of(1)
    moved = store.root / other.location
    moved.parent.mkdir(exist_ok=True)
    entry.path.rename(moved)
    assert store.find(other) is None
    assert store.get_or_make(other, make).meta["digest"] == other.digest
    assert make.calls == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"digest": 1}', "\xff", "[" * 99999])
def test_damage__a_sidecar_that_makes_no_sense_is_damage(store, key, make, text):
    path = store.get_or_make(key, make).path / META
    path.write_text(text, encoding="latin-1")
    assert store.find(key) is None
    store.get_or_make(key, make)
    assert make.calls == 2


def test_damage__an_empty_directory_in_its_place_is_replaced(store, key, make):
    (store.root / key.location).mkdir(parents=True)
    store.get_or_make(key, make)
    assert store.find(key) is not None


def test_verify__finds_bit_rot_that_no_size_shows(store, key, make):
    path = store.get_or_make(key, make).path / "offsets.npy"
    path.write_bytes(b"X" + PAYLOAD[1:])
    assert store.find(key) is not None
    (report,) = store.verify()
    assert "offsets.npy" in report.problem
    assert "bit rot" in report.problem
    assert report.discarded
    assert store.find(key) is None
    store.get_or_make(key, make)
    assert make.calls == 2
    assert not leftovers(store)


def test_verify__the_trash_keeps_the_reason_until_the_entry_is_made_again(store, key, make):
    truncate(store.get_or_make(key, make).path / "offsets.npy")
    list(store.verify())
    (reason,) = (store.root / ".trash").glob("*/reason.json")
    assert "1399 bytes where 1400 were written" in reason.read_text()


def test_verify__finds_an_altered_key(store, key, make):
    meta = store.get_or_make(key, make).path / META
    meta.write_text(meta.read_text().replace('"number":0', '"number":1'))
    (report,) = store.verify(discard=False)
    assert "key" in report.problem
    assert not report.discarded


def test_verify__a_whole_entry_has_no_problem(store, key, make):
    store.get_or_make(key, make)
    (report,) = store.verify()
    assert (report.problem, report.label, report.discarded) == (None, key.label, False)
    assert report.size_bytes == 2 * len(PAYLOAD)


def test_verify__reports_what_find_cannot_read(store, key, make):
    unlink(store.get_or_make(key, make).path / META)
    (report,) = store.verify(lambda _: False)
    assert report.problem == f"{META} is gone"


def test_read_only_root__is_searched_after_the_root_and_damage_there_is_a_miss(tmp_path, make):
    key = key_of()
    site = Store(tmp_path / "site")
    path = site.get_or_make(key, make).path
    empty_site = tmp_path / "absent"
    store = Store(tmp_path / "mine", read_only_roots=[empty_site, site.root])
    entry = store.get_or_make(key, make)
    assert (entry.path, entry.read_only, make.calls) == (path, True, 1)
    assert not store.root.exists()
    truncate(path / "offsets.npy")
    before = sorted(site.root.rglob("*"))
    own = store.get_or_make(key, make)
    assert (own.read_only, make.calls) == (False, 2)
    assert sorted(site.root.rglob("*")) == before
    reports = list(store.verify())
    assert [report.discarded for report in reports] == [False, False]
    assert [report.problem is None for report in reports] == [True, False]


def test_read_only_root__one_that_may_not_be_read_is_passed_by(tmp_path, make, refused_permissions):
    key = key_of()
    site = Store(tmp_path / "site")
    path = site.get_or_make(key, make).path
    path.chmod(0)
    try:
        Store(tmp_path / "mine", read_only_roots=[site.root]).get_or_make(key, make)
    finally:
        path.chmod(0o700)
    assert make.calls == 2


def test_hit__is_noted_at_most_hourly_and_find_notes_nothing(store, key, make):
    entry = store.get_or_make(key, make)
    old = time.time() - 5000
    os.utime(entry.path / META, (old, old))
    store.find(key)
    assert entry.used_at == pytest.approx(old)
    Store(store.root).get_or_make(key, make)
    noted = entry.used_at
    assert noted > old + 4000
    young = time.time() - 3000
    os.utime(entry.path / META, (young, young))
    Store(store.root).get_or_make(key, make)
    assert entry.used_at == pytest.approx(young)


def test_entries__are_listed_in_a_fixed_order_without_damaged_ones(store, make):
    keys = [key_of(number) for number in range(6)]
    for key in keys:
        store.get_or_make(key, Maker())
    unlink(store.find(keys[0]).path / "offsets.npy")
    digests = [entry.digest for entry in store.entries()]
    assert digests == sorted(key.digest for key in keys[1:])


def test_hit__a_large_sidecar_is_read_whole(store, key):
    def make(directory):
        for number in range(1500):
            (directory / f"a_rather_long_name_of_a_part_{number:05}.npy").touch()

    assert store.get_or_make(key, make).path.joinpath(META).stat().st_size > 1 << 16
    assert len(store.find(key).files) == 1500


def test_missing__an_error_of_the_place_is_no_miss(store, key, make):
    from lacuna.errors import CacheDirError
    from lacuna.store._entry import _missing

    with pytest.raises(CacheDirError, match="LACUNA_CACHE_DIR") as caught:
        _missing(
            OSError(errno.EACCES, "Permission denied"), str(store.root), str(store.root / META)
        )
    assert caught.value.errno == errno.EACCES


def test_find__an_entry_that_is_published_at_that_moment_is_not_damaged(
    store, key, make, monkeypatch
):
    # Between "its sidecar is not there" and "is its directory?", the entry appears.
    lexists = os.path.lexists

    def publish_first(path: str) -> bool:
        monkeypatch.setattr(os.path, "lexists", lexists)
        Store(store.root).get_or_make(key, make)
        return lexists(path)

    monkeypatch.setattr(os.path, "lexists", publish_first)
    assert store.find(key) is not None
    assert make.calls == 1


@pytest.mark.parametrize("look", [1, 3])
def test_damage__that_another_mended_meanwhile_is_not_thrown_away(
    store, key, make, monkeypatch, look
):
    unlink(store.get_or_make(key, make).path / "offsets.npy")
    lexists, looks, other = os.path.lexists, [], Maker()

    def mend_after(path: str) -> bool:
        seen = lexists(path)
        looks.append(path)
        if len(looks) == look:
            mended.append(Store(store.root).get_or_make(key, other).path.stat().st_ino)
        return seen

    mended: list[int] = []
    monkeypatch.setattr(os.path, "lexists", mend_after)
    entry = store.get_or_make(key, make)
    assert (make.calls, other.calls) == (1, 1)
    assert [entry.path.stat().st_ino] == mended


def test_verify__names_the_file_that_the_disk_cannot_read(store, key, make, monkeypatch):
    store.get_or_make(key, make)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    (report,) = store.verify(discard=False)
    assert report.problem.startswith("offsets.npy cannot be read (")


def test_used_at__of_an_entry_that_is_being_removed_is_now(store, key, make):
    entry = store.get_or_make(key, make)
    shutil.rmtree(entry.path)
    assert entry.used_at == pytest.approx(time.time(), abs=60)


def test_read_only_root__what_may_not_be_read_is_not_listed(tmp_path, make, refused_permissions):
    site = Store(tmp_path / "site")
    shard = site.get_or_make(key_of(1), make).path.parent
    store = Store(tmp_path / "mine", read_only_roots=[site.root])
    own = store.get_or_make(key_of(2), make)
    shard.chmod(0)
    try:
        assert [entry.path for entry in store.entries()] == [own.path]
    finally:
        shard.chmod(0o700)
