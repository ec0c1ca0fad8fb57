"""A server, a store, and an environment without the proxies of this machine."""

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.assets.server import Server

from lacuna.assets.transfer import Patience
from lacuna.config import load_config
from lacuna.store import Store

QUICK = Patience(connect_s=2, read_s=1, attempts=3, first_pause_s=0.01, longest_pause_s=0.05)


@pytest.fixture(autouse=True)
def plain_network(own_place: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away this machine's proxies, and the settings that an earlier test applied."""
    load_config()
    for name in list(os.environ):
        if name.lower().endswith(("_proxy", "_ca_bundle", "ssl_cert_file", "ssl_cert_dir")):
            monkeypatch.delenv(name)


@pytest.fixture
def content() -> bytes:
    return b"TRACK" + random.Random(5).randbytes(200_000)


@pytest.fixture
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(content: bytes) -> Iterator[Server]:
    with Server(content) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")
