import json
import os
import time

import pytest
import xxhash

from lacuna.errors import InputError
from lacuna.store import Store


@pytest.fixture
def source(tmp_path):
    """Return a file that is old enough for its times to be trusted."""
    path = tmp_path / "all.tck"
    path.write_bytes(b"points" * 1000)
    age(path)
    return path


def age(path):
    # The change time cannot be set: wait until it is old enough.
    old = time.time() - 10
    os.utime(path, (old, old))
    time.sleep(max(0.0, path.stat().st_ctime + 2.05 - time.time()))


def memos(store):
    return sorted((store.root / ".memo").glob("*.json"))


def falsify(store):
    """Make the memo lie, so that using it can be seen."""
    (path,) = memos(store)
    memo = json.loads(path.read_text())
    path.write_text(json.dumps({**memo, "xxh3_128": "f" * 32}))


def test_fingerprint__is_the_xxh3_128_of_the_content(store, source):
    assert store.fingerprint(source) == xxhash.xxh3_128_hexdigest(b"points" * 1000)


def test_fingerprint__a_moved_file_has_the_same_one(store, source, tmp_path):
    before = store.fingerprint(source)
    assert store.fingerprint(source.rename(tmp_path / "moved.tck")) == before


def test_fingerprint__a_changed_file_has_another_one(store, source):
    before = store.fingerprint(source)
    source.write_bytes(b"pointz" * 1000)
    assert store.fingerprint(source) != before


def test_fingerprint__the_same_size_and_modification_time_do_not_deceive(store, source):
    before = store.fingerprint(source)
    facts = source.stat()
    source.write_bytes(b"pointz" * 1000)
    os.utime(source, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert source.stat().st_mtime_ns == facts.st_mtime_ns
    assert store.fingerprint(source) != before


def test_fingerprint__of_a_file_that_changes_while_it_is_read_is_an_error(
    store, source, monkeypatch
):
    read = os.preadv

    def grow(*arguments):
        with source.open("ab") as file:
            file.write(b"more")
        monkeypatch.undo()
        return read(*arguments)

    monkeypatch.setattr(os, "preadv", grow)
    with pytest.raises(InputError, match="changed while it was read"):
        store.fingerprint(source)


def test_memo__another_process_need_not_read_the_file(store, source):
    store.fingerprint(source)
    falsify(store)
    assert Store(store.root).fingerprint(source) == "f" * 32


def test_memo__this_process_needs_neither_file_nor_memo(store, source):
    before = store.fingerprint(source)
    falsify(store)
    assert store.fingerprint(source) == before


def test_memo__is_found_through_links(store, source, tmp_path):
    store.fingerprint(source)
    falsify(store)
    (tmp_path / "link.tck").symlink_to(source)
    assert Store(store.root).fingerprint(tmp_path / "link.tck") == "f" * 32


def test_memo__relative_paths_follow_the_working_directory(store, tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    found = []
    for name in ("one", "two"):
        monkeypatch.chdir(tmp_path / name)
        found.append(store.fingerprint("a"))
    assert found[0] != found[1]


def test_memo__files_modified_in_the_last_two_seconds_are_not_trusted(store, tmp_path):
    path = tmp_path / "fresh"
    path.write_bytes(b"1")
    store.fingerprint(path)
    assert not memos(store)
    assert not store._fingerprints._known


def test_memo__a_modification_in_the_future_is_not_trusted(store, source):
    future = time.time() + 1e6
    os.utime(source, (future, future))
    store.fingerprint(source)
    assert not memos(store)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"path": "/"}', "\xff"])
def test_memo__half_a_memo_is_none_and_is_written_again(store, source, text):
    before = store.fingerprint(source)
    (path,) = memos(store)
    path.write_text(text, encoding="latin-1")
    assert Store(store.root).fingerprint(source) == before
    assert json.loads(path.read_text())["xxh3_128"] == before


def test_memo__goes_to_the_scratch_directory_if_the_root_is_read_only(
    tmp_path, source, refused_permissions
):
    root, scratch = tmp_path / "root", tmp_path / "scratch"
    root.mkdir()
    scratch.mkdir()
    root.chmod(0o500)
    try:
        Store(root, scratch=scratch).fingerprint(source)
    finally:
        root.chmod(0o700)
    (memo,) = scratch.rglob("*.json")
    assert memo.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.root
def test_memo__one_that_somebody_else_wrote_is_not_believed(store, source):
    before = store.fingerprint(source)
    falsify(store)
    os.chown(store.root / ".memo", 12345, -1)
    assert Store(store.root).fingerprint(source) == before


def test_memo__comes_after_the_marker_of_a_new_root(store, source):
    store.fingerprint(source)
    assert (store.root / "CACHEDIR.TAG").exists()


def test_folder__names_and_contents_make_its_fingerprint(store, tmp_path):
    folder = tmp_path / "all.trx"
    (folder / "dps").mkdir(parents=True)
    (folder / "positions.3.float32").write_bytes(b"1")
    (folder / "dps" / "w.float32").write_bytes(b"2")
    prints = [store.fingerprint(folder)]
    (folder / "dps" / "w.float32").rename(folder / "dps" / "v.float32")
    prints.append(store.fingerprint(folder))
    (folder / "dps" / "v.float32").write_bytes(b"3")
    prints.append(store.fingerprint(folder))
    assert len(set(prints)) == 3
    assert store.fingerprint(folder.rename(tmp_path / "moved.trx")) == prints[-1]


def test_fingerprint__of_what_is_no_file_is_an_error(store, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        store.fingerprint(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        store.fingerprint(tmp_path / "absent")
