"""A disk that fills up while a file arrives; a program, run by test_fetch in a mount namespace.

usage: python -m tests.assets.full_disk DIRECTORY

DIRECTORY is a tmpfs of 4 MB, mounted for this. The server does not say how large the file is.
"""

import hashlib
import random
import sys
from pathlib import Path

import pytest
from tests.assets.conftest import QUICK
from tests.assets.server import Server, serve

from lacuna.assets.fetch import fetch
from lacuna.errors import CacheFullError
from lacuna.store import Store

CONTENT = random.Random(3).randbytes(3_000_000)


def main(directory: Path) -> None:
    store, filler = Store(directory / "cache"), directory / "filler"
    filler.write_bytes(bytes(2_000_000))
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    with Server(CONTENT) as server:
        server.script = [serve(state_length=False)]
        with pytest.raises(CacheFullError, match=r"data\.trk.*cache"):
            fetch(store, server.url(), sha256=sha256, patience=QUICK)
        (kept,) = (store.root / ".partial").iterdir()
        came = kept.stat().st_size
        assert came > 1_000_000
        assert not list((store.root / ".stage").iterdir())
        filler.unlink()
        entry = fetch(store, server.url(), sha256=sha256, patience=QUICK)
        # The rest fits, though the whole would not a second time.
        assert server.ranges == [None, f"bytes={came}-"]
        assert (entry.path / "data.trk").read_bytes() == CONTENT
    sys.stdout.write("kept its promise\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
