import json
import shutil

import pytest
from tests.store.samples import Maker, files_below, key_of

from lacuna.store.doctor import plan_adoption

MARKS = {".lacuna-cache", "CACHEDIR.TAG"}


def purge(*directories):
    for directory in directories:
        for name in MARKS:
            (directory / name).unlink()


def clear(store):
    return len(store.plan_clear(force=True).execute().removed)


@pytest.fixture
def entry(store, key, make):
    return store.get_or_make(key, make)


@pytest.fixture
def tdi(store, entry):
    """Return a bucket that holds an entry and was purged of its marker, like the root."""
    purge(store.root, store.root / "tdi")
    return store.root / "tdi"


def test_adopt__a_purged_bucket_can_be_cleared_again(store, tdi):
    assert clear(store) == 0
    plan = plan_adoption(store.root)
    assert (plan.n_entries, plan.n_unmarked, plan.n_left, plan.foreign) == (1, 1, 0, ())
    assert plan.execute() == (str(tdi), str(store.root))
    assert files_below(tdi) >= MARKS
    assert clear(store) == 1


def test_adopt__planning_writes_nothing(store, tdi):
    before = files_below(store.root)
    plan_adoption(store.root)
    assert files_below(store.root) == before


def test_adopt__a_root_that_is_marked_needs_nothing(store, entry):
    assert plan_adoption(store.root).marks == ()


def test_adopt__a_tag_alone_that_is_gone_is_written_again(store, entry):
    (store.root / "tdi" / "CACHEDIR.TAG").unlink()
    assert plan_adoption(store.root).execute() == (str(store.root / "tdi"),)
    assert files_below(store.root / "tdi") >= MARKS


def test_adopt__other_data_beside_the_buckets_keeps_the_root_unmarked(store, tdi):
    (store.root / "thesis.docx").touch()
    plan = plan_adoption(store.root)
    assert plan.foreign == (f"{store.root}/thesis.docx",)
    assert plan.execute() == (str(tdi),)
    assert clear(store) == 1


def test_adopt__other_data_in_a_bucket_marks_its_version_alone(store, tdi):
    (tdi / "mine.nii.gz").touch()
    plan = plan_adoption(store.root)
    assert plan.foreign == (f"{tdi}/mine.nii.gz",)
    assert plan.execute() == (f"{tdi}/v1",)
    assert clear(store) == 1
    assert (tdi / "mine.nii.gz").exists()


def add_file(entry):
    (entry.path / "notes.txt").write_text("mine")


def add_link(entry):
    (entry.path / "elsewhere").symlink_to("/")


def lose_sidecar(entry):
    (entry.path / "meta.json").unlink()


def alter_key(entry):
    meta = dict(entry.meta)
    meta["key"] = {**meta["key"], "parameters": {"number": 77}}
    (entry.path / "meta.json").write_text(json.dumps(meta))


def rename_entry(entry):
    entry.path.rename(entry.path.with_name(entry.path.name[:-4] + "0000"))


def write_nonsense(entry):
    (entry.path / "meta.json").write_text("[]")


@pytest.mark.parametrize(
    "change", [add_file, add_link, lose_sidecar, alter_key, rename_entry, write_nonsense]
)
def test_adopt__what_is_not_provably_ours_is_refused_and_listed(store, entry, tdi, change):
    change(entry)
    plan = plan_adoption(store.root)
    assert plan.marks == ()
    assert [path.startswith(f"{tdi}/v1/") for path in plan.foreign] == [True]
    assert plan.execute() == ()
    assert clear(store) == 0


def test_adopt__one_stranger_leaves_other_entries_as_they_are(store, entry, tdi):
    store.get_or_make(key_of(2), Maker())
    purge(*(path.parent for path in store.root.rglob(".lacuna-cache")))
    add_file(entry)
    plan = plan_adoption(store.root)
    assert (plan.n_entries, plan.n_unmarked, plan.n_left, plan.marks) == (1, 1, 1, ())


def test_adopt__an_entry_that_lost_payload_is_still_ours(store, entry, tdi):
    (entry.path / "offsets.npy").unlink()
    assert len(plan_adoption(store.root).execute()) == 2
    assert clear(store) == 1


def test_adopt__directories_that_a_purge_emptied_are_no_other_data(store, entry, tdi):
    store.get_or_make(key_of(2), Maker())
    shutil.rmtree(entry.path)
    entry.path.mkdir()
    purge(*(path.parent for path in store.root.rglob(".lacuna-cache")))
    assert plan_adoption(store.root).marks == (str(tdi), str(store.root))


@pytest.mark.parametrize("inner", ["", "closed"])
def test_adopt__what_cannot_be_looked_at_is_foreign(store, entry, tdi, inner, refused_permissions):
    store.get_or_make(key_of(2), Maker())
    purge(*(path.parent for path in store.root.rglob(".lacuna-cache")))
    closed = entry.path / inner
    closed.mkdir(exist_ok=True)
    closed.chmod(0)
    try:
        plan = plan_adoption(store.root)
    finally:
        closed.chmod(0o700)
    assert (plan.marks, plan.foreign) == ((), (str(entry.path),))


def test_adopt__an_empty_layout_proves_nothing(tmp_path):
    (tmp_path / "tdi" / "v1" / "ab" / ("ab" * 32)).mkdir(parents=True)
    assert plan_adoption(tmp_path).marks == ()


def test_adopt__links_are_not_followed(store, tdi, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tdi").symlink_to(tdi)
    plan = plan_adoption(tmp_path / "other")
    assert (plan.n_entries, plan.marks) == (0, ())
    assert plan.foreign == (f"{tmp_path}/other/tdi",)


def test_adopt__what_became_foreign_after_the_plan_is_not_marked(store, entry, tdi):
    plan = plan_adoption(store.root)
    add_file(entry)
    assert plan.execute() == ()
    assert not MARKS & files_below(tdi)
