"""The store has the budgets of the settings."""

import logging
import os

import pytest

from lacuna.config import load_config, load_settings
from lacuna.errors import CacheFullError
from lacuna.store import Key, Store
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


def test_shared_caches__that_cannot_be_used_are_named_once_with_who_chose_them(tmp_path, caplog):
    (tmp_path / "file").touch()
    text = f"shared_cache_dirs: [{tmp_path}/typo, {tmp_path}/file, {tmp_path}]\n"
    for _ in range(2):
        open_with(text, tmp_path)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"The shared cache {tmp_path}/typo (shared_cache_dirs in lab.yaml, ")
    assert "is absent" in first
    assert "mend the path" in first
    assert "is no directory" in second


def test_shared_caches__that_are_closed_to_us_are_named(tmp_path, caplog, refused_permissions):
    (tmp_path / "lab").mkdir(mode=0)
    open_with(f"shared_cache_dirs: [{tmp_path}/lab]\n", tmp_path)
    assert "is not readable by you (Permission denied)" in caplog.text
    assert "ask its owner" in caplog.text


def test_shared_caches__damage_that_makes_a_build_necessary_is_told_once(tmp_path, caplog):
    key = Key("map", {}, {}, "map of the lab")
    entry = Store(tmp_path / "lab").get_or_make(key, make)
    os.truncate(entry.path / "payload.bin", 10)
    store = open_with(f"shared_cache_dirs: [{tmp_path}/lab]\n", tmp_path)
    assert store.find(key) is None
    assert not caplog.records
    for _ in range(2):
        store.get_or_make(key, make)
    (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert record.getMessage().startswith(f"map of the lab in the shared cache {tmp_path}/lab")
    assert "10 bytes where 1000 were written" in record.getMessage()
