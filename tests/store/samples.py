"""Small cached things for tests: keys, makers that count, and the traces of dead processes."""

import json
import os
import subprocess
import time
from pathlib import Path

from lacuna.store import Entry, Key, Store
from lacuna.utils.owner import current_owner

PAYLOAD = b"offsets" * 200


def key_of(number: int = 0, label: str = "tdi map sample 2 mm") -> Key:
    return Key("map", {"number": number}, {"tractogram": "0" * 32}, label)


class Maker:
    """Writes two files, one of them in a folder, and counts how often."""

    def __init__(self, payload: bytes = PAYLOAD) -> None:
        self.calls = 0
        self.payload = payload

    def __call__(self, directory: Path) -> None:
        self.calls += 1
        (directory / "offsets.npy").write_bytes(self.payload)
        (directory / "dps").mkdir()
        (directory / "dps" / "weights.npy").write_bytes(self.payload[::-1])


def files_below(directory: Path) -> set[str]:
    return {
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    }


def leftovers(store: Store) -> set[str]:
    """Return everything in the dot-directories that hold work in progress."""
    return {
        f"{place}/{path.name}"
        for place in (".stage", ".claims", ".trash")
        if (store.root / place).is_dir()
        for path in (store.root / place).iterdir()
    }


def dead_record() -> dict[str, object]:
    """Return the record of a process of this machine that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return {**current_owner().record, "token": "deadaaaaaa", "pid": child.pid, "start_time": 1}


def foreign_record() -> dict[str, object]:
    """Return the record of a process on another host."""
    return {**current_owner().record, "token": "foreignaaa", "host": "node-17"}


def leave_claim(store: Store, key: Key, record: dict[str, object], *, stage: bool = True) -> None:
    """Leave what a builder has on disk in the middle of its work."""
    claim = store.root / ".claims" / key.digest
    claim.parent.mkdir(parents=True, exist_ok=True)
    claim.write_text(json.dumps(record))
    if stage:
        half = store.root / ".stage" / f"{key.digest}.{record['token']}.0"
        half.mkdir(parents=True)
        (half / "offsets.npy").write_bytes(b"half")


def leave_lease(store: Store, key: Key, record: dict[str, object]) -> Path:
    """Leave what a process has on disk that uses an entry."""
    lease = store.root / ".leases" / f"{key.digest}.{record['token']}.0"
    lease.parent.mkdir(parents=True, exist_ok=True)
    lease.write_text(json.dumps(record))
    return lease


def unused(entry: Entry, days: float = 2) -> Entry:
    """Make an entry look as if nobody had asked for it for some days."""
    used_at = time.time() - days * 86_400
    os.utime(entry.path / "meta.json", (used_at, used_at))
    return entry
