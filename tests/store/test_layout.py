import re
import stat
from pathlib import Path

import pytest
from tests.store.samples import Maker, files_below, key_of

import lacuna.store
from lacuna.errors import CacheDirError
from lacuna.store import Key, Store, _layout
from lacuna.store.buckets import BUCKETS
from lacuna.utils.cache import configure_cache, get_temp_dir

MARKS = {".lacuna-cache", "CACHEDIR.TAG"}


def drawn_names(text: str) -> set[str]:
    drawing = text[text.index("<cache_dir>/") :].split("\n\n")[0].split("```")[0]
    return set(re.findall(r"(?<=\s)\.?[a-z]+(?=/)", drawing)) - {"v"}


PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "cache.md"


@pytest.mark.parametrize(
    "text", [_layout.__doc__, lacuna.store.__doc__, PAGE.read_text(encoding="utf-8")]
)
def test_layout__the_drawing_names_what_there_is(text):
    assert drawn_names(text) == set(_layout._OURS)


def test_layout__an_entry_lies_where_the_drawing_says(store, key, make):
    entry = store.get_or_make(key, make)
    digest = key.digest
    assert entry.path == store.root / "tdi" / "v1" / digest[:2] / digest
    assert files_below(entry.path) == {"offsets.npy", "dps/weights.npy", "meta.json"}


def test_layout__everything_is_private(store, key, make):
    store.get_or_make(key, make)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in store.root.rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


def test_layout__versions_share_a_root(store, key, make, monkeypatch):
    old = store.get_or_make(key, make)
    monkeypatch.setitem(BUCKETS, "tdi", 2)
    newer = key_of()
    assert store.find(newer) is None
    new = store.get_or_make(newer, make)
    assert (old.path.parent.parent.name, new.path.parent.parent.name) == ("v1", "v2")
    assert {entry.path for entry in store.entries()} == {old.path, new.path}


def test_store__creates_nothing_before_it_is_asked(tmp_path):
    store = Store(tmp_path / "cache")
    assert store.find(key_of()) is None
    assert list(store.entries()) == list(store.unmanaged()) == list(store.verify()) == []
    assert not store.plan_clear().execute().removed
    assert not (tmp_path / "cache").exists()


def test_marker__a_root_and_bucket_that_we_made_carry_it(store, key, make):
    store.get_or_make(key, make)
    for directory in (store.root, store.root / "tdi"):
        assert {path.name for path in directory.iterdir()} >= MARKS
    tag = (store.root / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


def test_marker__an_empty_root_with_our_empty_directories_gets_it(tmp_path, key, make):
    for name in ("tdi", "transforms", "tmp"):
        (tmp_path / "found" / name).mkdir(parents=True)
    Store(tmp_path / "found").get_or_make(key, make)
    assert {path.name for path in (tmp_path / "found").iterdir()} >= MARKS


def test_marker__a_root_with_other_data_never_gets_it_its_bucket_does(tmp_path, key, make):
    (tmp_path / "thesis.docx").write_text("two years")
    store = Store(tmp_path)
    entry = store.get_or_make(key, make)
    assert not MARKS & {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in (tmp_path / "tdi").iterdir()} >= MARKS
    assert store.plan_clear(force=True).execute().removed
    assert not entry.path.exists()
    assert (tmp_path / "thesis.docx").read_text() == "two years"


def test_marker__a_bucket_with_other_data_never_gets_it_its_version_does(tmp_path, key, make):
    mine = tmp_path / "tdi" / "my_map.nii.gz"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    store = Store(tmp_path)
    store.get_or_make(key, make)
    assert not MARKS & {path.name for path in (tmp_path / "tdi").iterdir()}
    assert {path.name for path in (tmp_path / "tdi" / "v1").iterdir()} >= MARKS
    assert len(store.plan_clear(force=True).execute().removed) == 1
    assert mine.read_bytes() == b"mine"


def test_marker__scratch_in_use_is_other_data(tmp_path, key, make):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "half.nii").touch()
    Store(tmp_path).get_or_make(key, make)
    assert not MARKS & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["tdi", ".stage", ".claims", ".trash"])
def test_layout__a_link_below_the_root_is_refused_not_followed(tmp_path, key, make, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / name).symlink_to(elsewhere)
    with pytest.raises(CacheDirError, match=rf"{re.escape(name)} is a link .*cache_dir"):
        Store(tmp_path / "cache").get_or_make(key, make)
    assert make.calls == 0
    assert not list(elsewhere.iterdir())


def test_layout__the_root_itself_may_be_a_link(tmp_path, key, make):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "scratch")
    store = Store(tmp_path / "cache")
    store.get_or_make(key, make)
    assert len(store.plan_clear(force=True).execute().removed) == 1


def test_unmanaged__what_others_put_among_the_entries_is_shown_once(store, key, make):
    store.get_or_make(key, make)
    tdi = store.root / "tdi"
    shard = tdi / "v1" / key.digest[:2]
    (tdi / "mine.nii.gz").touch()
    (tdi / "folder").mkdir()
    (tdi / "folder" / "inner.nii").touch()
    (tdi / "v1" / "notes.txt").touch()
    (shard / "README").touch()
    (tdi / "v7").symlink_to(store.root)
    expected = {tdi / "mine.nii.gz", tdi / "folder", tdi / "v1" / "notes.txt", shard / "README"}
    assert set(store.unmanaged()) == {*expected, tdi / "v7"}


def test_unmanaged__is_never_deleted(store, key, make):
    store.get_or_make(key, make)
    shard = store.root / "tdi" / "v1" / key.digest[:2]
    places = [store.root / "tdi" / "mine.nii", shard / "mine.nii", store.root / ".trash" / "mine"]
    for place in places:
        place.write_text("mine")
    store.plan_clear(force=True).execute()
    assert [place.read_text() for place in places] == ["mine"] * 3


def test_store__importing_it_needs_no_arrays():
    import subprocess
    import sys

    code = "import sys, lacuna.store; sys.exit('numpy' in sys.modules or 'yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_key__says_where_it_lies() -> None:
    key: Key = key_of()
    assert Path(key.location).parts[:2] == ("tdi", "v1")
    assert Maker().calls == 0


def test_marker__our_own_scratch_and_kernels_are_no_other_data(tmp_path, key, make):
    root = tmp_path / "cache"
    configure_cache(cache_dir=root)
    (get_temp_dir("run_") / "half.nii").touch()
    (root / ".kernels").mkdir()
    (root / ".kernels" / "segment.nbi").touch()
    store = Store(root)
    store.get_or_make(key, make)
    assert {path.name for path in root.iterdir()} >= MARKS
    assert list(store.unmanaged()) == []


def test_marker__a_root_that_holds_marked_buckets_gets_it_later(store, make):
    store.get_or_make(key_of(1), make)
    for name in MARKS:
        (store.root / name).unlink()
    store.get_or_make(key_of(2), make)
    assert {path.name for path in store.root.iterdir()} >= MARKS


def test_marker__what_may_not_be_looked_at_is_other_data(tmp_path, key, make, refused_permissions):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0)
    try:
        Store(tmp_path).get_or_make(key, make)
    finally:
        (tmp_path / "tmp").chmod(0o700)
    assert not MARKS & {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in (tmp_path / "tdi").iterdir()} >= MARKS
