"""Hits and misses are counted in memory, and kept by one line for each run."""

import stat

from tests.store.samples import Maker, key_of

from lacuna.store import Store, record_usage


def ask(store, *numbers):
    for number in numbers:
        store.get_or_make(key_of(number), Maker())


def test_usage__adds_up_over_runs(store):
    assert (store.usage().hits, store.usage().since) == (0, None)
    ask(store, 1, 2, 1)
    assert store.usage().misses == 0
    record_usage()
    ask(store, 1, 2, 1)
    record_usage()
    record_usage()
    usage = store.usage()
    assert (usage.hits, usage.misses) == (4, 2)
    file = store.root / ".usage" / "runs"
    assert len(file.read_text().splitlines()) == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_usage__shared_caches_count_as_hits_of_the_own_root(store, tmp_path):
    ask(Store(tmp_path / "shared"), 1)
    record_usage()
    ask(Store(store.root, read_only_roots=[tmp_path / "shared"]), 1)
    record_usage()
    assert not store.root.exists()  # nothing was made, and nothing is, to count


def test_usage__stays_a_small_file(store):
    ask(store, 1)
    record_usage()
    file = store.root / ".usage" / "runs"
    file.write_text("1700000000 3 2\nnonsense\n5 5\n" * 6000)
    ask(store, 1)
    record_usage()
    assert file.stat().st_size < 100
    assert (store.usage().hits, store.usage().misses) == (18_001, 12_000)
    assert store.usage().since == 1_700_000_000


def test_usage__is_not_written_through_a_link(store, tmp_path):
    ask(store, 1)
    (tmp_path / "mine").write_text("years")
    (store.root / ".usage").mkdir()
    (store.root / ".usage" / "runs").symlink_to(tmp_path / "mine")
    record_usage()
    assert (tmp_path / "mine").read_text() == "years"
