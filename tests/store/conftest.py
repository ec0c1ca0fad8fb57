"""A store of its own for each test."""

from pathlib import Path

import pytest
from tests.store.samples import Maker, key_of

from lacuna.store import Key, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def key() -> Key:
    return key_of()


@pytest.fixture
def make() -> Maker:
    return Maker()
