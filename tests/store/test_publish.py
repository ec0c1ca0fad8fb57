import errno
import os
import shutil
import threading
from pathlib import Path

import pytest
from tests.store.samples import Maker, files_below, key_of, leftovers

from lacuna.errors import CacheDirError, CacheEntryError, CacheFullError
from lacuna.store import Store
from lacuna.store._claim import Claim
from lacuna.store._layout import prepare
from lacuna.store._publish import Request, build


def failing(error):
    def make(directory: Path) -> None:
        (directory / "half.npy").write_bytes(b"half")
        raise error

    return make


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_publish__nothing_is_kept_when_making_raises(store, key, error):
    with pytest.raises(type(error)):
        store.get_or_make(key, failing(error))
    assert store.find(key) is None
    assert not leftovers(store)


def test_publish__an_error_of_the_maker_is_passed_on_as_it_is(store, key):
    error = ValueError("the maker's own")
    with pytest.raises(ValueError) as caught:
        store.get_or_make(key, failing(error))
    assert caught.value is error


def test_publish__the_check_sees_the_files_before_anyone_else(store, key, make):
    seen = []

    def check(directory: Path) -> None:
        seen.append(files_below(directory))
        assert store.find(key) is None

    store.get_or_make(key, make, check)
    store.get_or_make(key, make, check)
    assert seen == [{"offsets.npy", "dps/weights.npy"}]


def test_publish__what_fails_its_check_is_not_kept(store, key, make):
    def check(directory: Path) -> None:
        raise OSError("bad magic")

    with pytest.raises(CacheEntryError, match=r"sample 2 mm was made, but .* bad magic"):
        store.get_or_make(key, make, check)
    assert store.find(key) is None
    assert not leftovers(store)


def make_nothing(directory: Path) -> None:
    (directory / "folder").mkdir()


def make_link(directory: Path) -> None:
    (directory / "array.npy").symlink_to("/etc/passwd")


def make_link_to_folder(directory: Path) -> None:
    (directory / "array.npy").touch()
    (directory / "folder").symlink_to("/etc")


def make_fifo(directory: Path) -> None:
    os.mkfifo(directory / "pipe")


def make_sidecar(directory: Path) -> None:
    (directory / "meta.json").touch()


@pytest.mark.parametrize(
    "make", [make_nothing, make_link, make_link_to_folder, make_fifo, make_sidecar]
)
def test_publish__only_plain_files_are_kept(store, key, make):
    with pytest.raises(CacheEntryError, match="cannot be kept"):
        store.get_or_make(key, make)
    assert not leftovers(store)


def test_publish__a_large_file_is_hashed_while_it_is_synced(store, key):
    content = os.urandom((1 << 23) + 12345)
    entry = store.get_or_make(
        key, lambda directory: (directory / "a").write_bytes(content) and None
    )
    (report,) = store.verify()
    assert report.problem is None
    assert entry.size_bytes == len(content)


LARGE = (1 << 23) + 1


def make_both(directory: Path) -> None:
    (directory / "small.npy").write_bytes(b"s")
    (directory / "large.npy").write_bytes(bytes(LARGE))


def spy(monkeypatch, name, seen, fail_at=""):
    """Note what a call is given, by name; let it report a full quota for one of them."""
    real = getattr(os, name)

    def call(handle, *rest, **options):
        given = Path(f"/proc/self/fd/{handle}" if isinstance(handle, int) else handle)
        given = given.readlink() if isinstance(handle, int) else given
        real(handle, *rest, **options)
        seen.append((name, given.name))
        if given.name == fail_at and ".stage" in given.parts:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, name, call)


def test_publish__all_is_on_the_disk_before_the_rename_and_the_name_after_it(
    store, key, monkeypatch
):
    seen: list[tuple[str, str]] = []
    spy(monkeypatch, "fsync", seen)
    spy(monkeypatch, "rename", seen)
    store.get_or_make(key, make_both)
    (at,) = (number for number, (call, _) in enumerate(seen) if call == "rename")
    assert {name for _, name in seen[:at]} == {"small.npy", "large.npy", "meta.json"}
    assert seen[at + 1 :] == [("fsync", key.digest[:2])]


@pytest.mark.parametrize("call", ["fsync", "close"])
@pytest.mark.parametrize("name", ["small.npy", "large.npy", "meta.json"])
def test_full_disk__that_is_noticed_late_for_any_file_is_not_overlooked(
    store, key, monkeypatch, call, name
):
    with monkeypatch.context() as patched:

        def make(directory: Path) -> None:
            make_both(directory)
            spy(patched, call, [], fail_at=name)

        with pytest.raises(CacheFullError):
            store.get_or_make(key, make)
    assert store.find(key) is None
    assert not leftovers(store)


def test_publish__the_first_writer_wins_and_the_loser_uses_its_entry(store, key):
    def slow(directory: Path) -> None:
        (directory / "a").write_text("loser")
        other = Claim(str(store.root), key.digest)
        win = Request(str(store.root), key, lambda path: (path / "a").write_text("winner") and None)
        build(win, other.stage)
        other.release()

    entry = store.get_or_make(key, slow)
    assert (entry.path / "a").read_text() == "winner"
    assert not leftovers(store)


def test_publish__a_damaged_winner_does_not_win(store, key, make):
    def slow(directory: Path) -> None:
        broken = store.root / key.location
        broken.mkdir(parents=True)
        (broken / "offsets.npy").write_bytes(b"half")
        make(directory)

    assert store.get_or_make(key, slow).size_bytes > 100
    assert store.find(key) is not None


def test_publish__a_loser_who_cannot_see_the_winner_keeps_its_own_copy(store, key, make):
    # A network file system may say that a name is taken and, for a while, that nothing is there.
    prepare(str(store.root), key.location)
    claim = Claim(str(store.root), key.digest)

    class Unseen(Request):
        def read(self):
            return None

    (store.root / key.location).mkdir()
    (store.root / key.location / "something").touch()
    entry = build(Unseen(str(store.root), key, make), claim.stage)
    assert str(entry.path) == claim.stage
    assert (entry.path / "offsets.npy").exists()


def test_publish__an_emptied_directory_around_the_entry_is_made_again(store, key, make):
    def tidied(directory: Path) -> None:
        make(directory)
        (store.root / key.location).parent.rmdir()

    store.get_or_make(key, tidied)
    assert store.find(key) is not None


@pytest.mark.parametrize("name", [".", ".stage", ".claims", "tdi"])
def test_publish__what_was_removed_since_the_last_time_is_made_again(store, make, name):
    store.get_or_make(key_of(1), make)
    shutil.rmtree(store.root / name)
    store.get_or_make(key_of(2), make)
    assert store.find(key_of(2)) is not None


def test_publish__a_file_in_the_place_of_the_entry_is_an_error_that_names_it(store, key, make):
    place = store.root / key.location
    place.parent.mkdir(parents=True)
    place.write_text("not ours")
    with pytest.raises(CacheDirError):
        store.get_or_make(key, make)
    assert place.read_text() == "not ours"


def test_publish__an_unwritable_root_says_what_to_set(tmp_path, key, make, refused_permissions):
    root = tmp_path / "locked"
    root.mkdir()
    root.chmod(0o500)
    try:
        with pytest.raises(CacheDirError, match="LACUNA_CACHE_DIR") as caught:
            Store(root).get_or_make(key, make)
        assert caught.value.errno == errno.EACCES
        assert Store(root).find(key) is None
    finally:
        root.chmod(0o700)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk__while_making_is_a_typed_error_with_the_way_out(store, key, number):
    error = OSError(number, os.strerror(number))
    with pytest.raises(CacheFullError) as caught:
        store.get_or_make(key, failing(error), expected_bytes=5_000_000)
    text = str(caught.value)
    assert caught.value.errno == number
    assert caught.value.__cause__ is error
    for part in (key.label, str(store.root), "5.0 MB", "cache_dir", "LACUNA_CACHE_DIR", "--cache"):
        assert part in text
    assert ("quota" in text) == (number == errno.EDQUOT)
    assert store.find(key) is None
    assert not leftovers(store)


def test_full_disk__is_recognised_below_other_errors(store, key):
    error = RuntimeError("the writer gave up")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(CacheFullError):
        store.get_or_make(key, failing(error))


def test_full_disk__of_somebody_else_is_not_ours(store, key, tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "scratch" / "file"))
    with pytest.raises(OSError) as caught:
        store.get_or_make(key, failing(error))
    assert caught.value is error


def test_full_disk__what_will_not_fit_is_not_begun(store, key, make):
    with pytest.raises(CacheFullError, match=r"needs 1000000\.0 TB, .* are free.*LACUNA_CACHE_DIR"):
        store.get_or_make(key, make, expected_bytes=10**18)
    assert make.calls == 0
    assert not leftovers(store)


def test_full_disk__min_free_is_kept_free(tmp_path, key, make):
    with pytest.raises(CacheFullError, match="min_free keeps 1000000"):
        Store(tmp_path, min_free=10**18).get_or_make(key, make, expected_bytes=1)
    Store(tmp_path, min_free=10**18).get_or_make(key, make)


def test_publish__threads_build_once(store, key):
    make = Maker()
    barrier = threading.Barrier(6)
    entries = []

    def ask() -> None:
        barrier.wait()
        entries.append(store.get_or_make(key, make, on_wait=lambda _: None).path)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert make.calls == 1
    assert len(set(entries)) == 1
    assert not leftovers(store)


def test_publish__other_keys_do_not_wait(store):
    inner = Maker()

    def outer(directory: Path) -> None:
        store.get_or_make(key_of(2), inner)
        Maker()(directory)

    store.get_or_make(key_of(1), outer)
    assert inner.calls == 1


def test_publish__what_somebody_removed_before_the_rename_is_an_error(
    store, key, make, monkeypatch
):
    def lose(stage: str, _: str, **__: int) -> None:
        shutil.rmtree(stage, ignore_errors=True)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), stage)

    monkeypatch.setattr(os, "rename", lose)
    with pytest.raises(CacheDirError, match="No such file"):
        store.get_or_make(key, make)
    assert not leftovers(store)
