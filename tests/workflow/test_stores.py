"""The store has the budgets of the settings."""

import pytest

from lacuna.config import load_config, load_settings
from lacuna.errors import CacheFullError
from lacuna.store import Key
from lacuna.workflow.stores import open_store

NEARLY_ALL = 10**15


def make(directory):
    (directory / "payload.bin").write_bytes(b"x" * 1000)


def open_with(text, tmp_path):
    (tmp_path / "lab.yaml").write_text(f"cache_dir: {tmp_path}/kept\n{text}")
    return open_store(load_config(tmp_path / "lab.yaml"))


def test_min_free__that_somebody_stated_refuses_builds(tmp_path):
    store = open_with(f"min_free: {NEARLY_ALL}\n", tmp_path)
    with pytest.raises(CacheFullError, match=r"min_free keeps 1000\.0 TB"):
        store.get_or_make(Key("map"), make, expected_bytes=1000)


def test_min_free__that_is_the_default_only_steers_eviction(tmp_path):
    store = open_with("", tmp_path)
    assert store.plan_prune().missing_bytes >= 0
    assert store._budget.min_free == load_settings().min_free == 5 << 30
    assert store._min_free == 0


def test_budgets__are_those_of_the_file(tmp_path):
    store = open_with("max_size: 7 kB\nmax_age: 30d\n", tmp_path)
    assert (store._budget.max_size, store._budget.max_age_s) == (7000, 30 * 86_400)
