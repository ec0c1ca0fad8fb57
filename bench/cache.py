"""What the cache costs, beside its peers and the raw system calls: a table of ratios.

usage: python bench/cache.py [--directory DIR] [--large-mib N] [--rounds N]

Every row runs its candidates in turn, round by round, so that a busy machine slows all of them
alike; times are medians. README.md in this folder says what is compared with what.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import diskcache
import huggingface_hub
import joblib
import numpy as np
import platformdirs
import pooch

from lacuna.store import Key, Store
from lacuna.utils import cache

Candidates = dict[str, Callable[[], object]]
PAYLOAD = b"x" * 1000
BLOCK = bytes(8 << 20)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--directory",
        type=Path,
        help="on the disk to measure",
    )
    parser.add_argument("--large-mib", type=int, default=1024, help="size of the large entry")
    parser.add_argument("--rounds", type=int, default=400, help="of each fast row")
    options, _ = parser.parse_known_args()
    logging.getLogger("lacuna").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-cache-") as place:
        directory = Path(place)
        cache.configure_cache(directory / "configured")
        print(f"{'what':42} {'ours':>11} {'target':>30} {'ratio':>7}   beside")
        for row in (
            import_row,
            get_cache_dir_row,
            get_temp_dir_row,
            hit_rows,
            memoised_key_rows,
            publish_row,
        ):
            row(directory, options.rounds)
        large_row(directory, options.large_mib)
        lease_row(directory, options.rounds)
        eviction_row(directory)
        system_calls_row(directory)
        cache.configure_cache()


def medians(candidates: Candidates, rounds: int, batch: int = 1) -> dict[str, float]:
    """Return the median time of one call of each candidate, s; the rounds alternate."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            started = time.perf_counter()
            for _ in range(batch):
                call()
            times[name].append((time.perf_counter() - started) / batch)
    return {name: statistics.median(values) for name, values in times.items()}


def span(seconds: float) -> str:
    """Return a time for people."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.2f} µs"


def show(what: str, found: dict[str, float], target: str, baseline: str | None = None) -> None:
    """Print a row: ours first, the others beside it, and the ratio to one of them."""
    ours, *others = found.items()
    ratio = f"{ours[1] / found[baseline]:.2f}" if baseline else ""
    beside = ", ".join(f"{name} {span(value)}" for name, value in others)
    print(f"{what:42} {span(ours[1]):>11} {target:>30} {ratio:>7}   {beside}", flush=True)


def import_row(_directory: Path, _rounds: int) -> None:
    """Time the import in new interpreters that have os and pathlib."""

    def importing(module: str) -> Callable[[], object]:
        code = (
            "import os, pathlib, time; started = time.perf_counter(); "
            f"import {module}; print(time.perf_counter() - started)"
        )
        found: list[float] = []
        timings[module] = found

        def run() -> None:
            answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            found.append(float(answer.stdout))

        return run

    timings: dict[str, list[float]] = {}
    modules = (
        "lacuna.utils.cache",
        "platformdirs",
        "diskcache",
        "pooch",
        "huggingface_hub",
        "joblib",
    )
    medians({module: importing(module) for module in modules}, 11)
    found = {module: statistics.median(values) for module, values in timings.items()}
    show("import lacuna.utils.cache", found, "≤ 3 ms over os, pathlib")


def get_cache_dir_row(directory: Path, rounds: int) -> None:
    """Time the warm look-up of the cache directory."""

    def naive() -> Path:
        path = Path(os.environ.get("LACUNA_CACHE_DIR") or "~/.cache/lacuna").expanduser()
        path.mkdir(parents=True, exist_ok=True)
        return path

    os.environ["LACUNA_CACHE_DIR"] = str(directory / "configured")
    with_platformdirs = {
        "get_cache_dir": cache.get_cache_dir,
        "naive mkdir": naive,
        "platformdirs": lambda: platformdirs.user_cache_path("lacuna"),
    }
    show("get_cache_dir() warm", medians(with_platformdirs, rounds, 20), "≤ 10 µs")
    del os.environ["LACUNA_CACHE_DIR"]


def get_temp_dir_row(directory: Path, rounds: int) -> None:
    """Time a new scratch directory."""
    base = directory / "mkdtemp"
    base.mkdir()
    found = medians(
        {
            "get_temp_dir": lambda: cache.get_temp_dir("snm_"),
            "tempfile.mkdtemp": lambda: tempfile.mkdtemp(prefix="snm_", dir=base),
        },
        rounds,
        3,
    )
    show("get_temp_dir() with owner", found, "≤ 1.6 × mkdtemp", "tempfile.mkdtemp")


def make_files(count: int) -> Callable[[Path], None]:
    """Return a maker of that many files of 1 kB."""

    def make(path: Path) -> None:
        for number in range(count):
            (path / f"part{number}.npy").write_bytes(PAYLOAD)

    return make


def hit_rows(directory: Path, rounds: int) -> None:
    """Time looking an entry up by its digest, every file checked for presence and size."""
    memory = joblib.Memory(directory / "joblib", verbose=0)
    remembered = memory.cache(remember)
    remembered(7)
    kept = diskcache.Cache(str(directory / "diskcache"))
    kept["key"] = PAYLOAD
    fetched, downloaded = make_hub_cache(directory / "hub"), make_pooch_cache(directory / "pooch")
    for count in (1, 8):
        store = Store(directory / f"hits{count}")
        key = Key("map", {"count": count})
        entry = store.get_or_make(key, make_files(count))
        sidecar = str(entry.path / "meta.json")
        payload = [str(entry.path / name) for name in entry.files]
        calls: Candidates = {
            "find": partial(store.find, key),
            "raw": partial(raw_hit, sidecar, payload),
            "get_or_make": partial(store.get_or_make, key, make_files(count)),
            "joblib.Memory": partial(remembered, 7),
            "pooch (hashes 1 kB)": downloaded,
            "huggingface_hub (no integrity)": fetched,
            "diskcache (no integrity)": partial(kept.get, "key"),
        }
        found = medians(calls, rounds, 10)
        show(f"hit, {count} payload file(s)", found, "≤ 1.5 × sidecar + stats", "raw")
    kept.close()


def make_hub_cache(directory: Path) -> Callable[[], object]:
    """Return the look-up of one file as huggingface_hub lays it out."""
    repository = directory / "models--lab--maps"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "part0.npy").write_bytes(PAYLOAD)
    find = huggingface_hub.try_to_load_from_cache
    if find("lab/maps", "part0.npy", cache_dir=directory) != str(snapshot / "part0.npy"):
        raise RuntimeError("huggingface_hub lays its cache out in another way by now")
    return lambda: find("lab/maps", "part0.npy", cache_dir=directory)


def make_pooch_cache(directory: Path) -> Callable[[], object]:
    """Return the look-up of one file in a pooch that has it."""
    directory.mkdir()
    (directory / "part0.npy").write_bytes(PAYLOAD)
    known = {"part0.npy": pooch.file_hash(str(directory / "part0.npy"))}
    files = pooch.create(directory, base_url="https://localhost/", registry=known)
    return lambda: files.fetch("part0.npy")


def remember(_number: int) -> bytes:
    """Return what joblib keeps."""
    return PAYLOAD


def raw_hit(sidecar: str, payload: list[str]) -> None:
    """Read the sidecar and look at each payload file: what a hit cannot do without."""
    handle = os.open(sidecar, os.O_RDONLY)
    text = os.read(handle, 1 << 16)
    os.close(handle)
    json.loads(text)
    for path in payload:
        os.lstat(path)


def memoised_key_rows(directory: Path, rounds: int) -> None:
    """Time what a key costs whose input is large and was seen before."""
    large = directory / "large.tck"
    with large.open("wb") as file:
        file.truncate(1_000_000_000)
    time.sleep(2.1)  # a file modified within two seconds is not remembered
    store = Store(directory / "memo")
    make = make_files(1)
    key = Key("map", {}, {"tractogram": store.fingerprint(large)})
    store.get_or_make(key, make)
    array = np.memmap(large, mode="r", shape=200_000_000)

    def hit() -> None:
        store.find(key)

    def key_and_hit(asked: Store) -> None:
        asked.find(Key("map", {}, {"tractogram": asked.fingerprint(large)}))

    def in_new_process() -> None:
        key_and_hit(Store(directory / "memo"))  # what it remembers, it reads from disk

    found = medians({"hit": hit, "same": lambda: key_and_hit(store), "new": in_new_process}, rounds)
    started = time.perf_counter()
    joblib.hash(array)
    rehashed = (time.perf_counter() - started) * 5
    peers = {"joblib.hash of 1 GB (5 × 200 MB)": rehashed}
    for what, name in (("this process", "same"), ("a new process", "new")):
        more = {"ours": max(found[name] - found["hit"], 0.0), **peers}
        show(f"key of a 1 GB input, memo of {what}", more, "≤ 60 µs more than a hit")
    large.unlink()


def publish_row(directory: Path, rounds: int) -> None:
    """Time making a small entry that survives a power cut."""
    store = Store(directory / "small")
    raw = directory / "raw"
    raw.mkdir()
    numbers = iter(range(10**9))

    def ours() -> None:
        store.get_or_make(Key("map", {"number": next(numbers)}), make_files(1))

    def raw_publish() -> None:
        stage = tempfile.mkdtemp(dir=directory)
        write_synced(f"{stage}/part0.npy", [PAYLOAD])
        write_synced(f"{stage}/meta.json", [PAYLOAD[:400]])
        Path(stage).rename(raw / str(next(numbers)))
        handle = os.open(raw, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    ours()
    found = medians({"publish": ours, "raw, 3 fsyncs": raw_publish}, min(rounds, 300))
    show("durable publish, 1 kB", found, "≤ 1.3 × raw", "raw, 3 fsyncs")


def write_synced(path: str, blocks: list[bytes]) -> None:
    """Write a file and wait until it is on the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    for block in blocks:
        os.write(handle, block)
    os.fsync(handle)
    os.close(handle)


def large_row(directory: Path, mib: int) -> None:
    """Time a large entry, against writing as much and waiting for the disk."""
    blocks = [BLOCK] * (mib // 8)
    store = Store(directory / "large")
    raw = directory / "raw.bin"

    def write(path: Path) -> None:
        with (path / "points.npy").open("wb", buffering=0) as file:
            for block in blocks:
                file.write(block)

    def ours() -> None:
        shutil.rmtree(store.get_or_make(Key("map"), write).path)

    def raw_write() -> None:
        write_synced(str(raw), blocks)
        raw.unlink()

    found = medians({"publish": ours, "raw write + fsync": raw_write}, 5)
    share = found["raw write + fsync"] / found["publish"]
    show(f"durable publish, {mib} MiB: {share:.0%} of raw", found, "≥ 90 % of raw bandwidth")


def lease_row(directory: Path, rounds: int) -> None:
    """Time saying that an entry is in use, and that it is no longer."""
    store = Store(directory / "lease")
    entry = store.get_or_make(Key("map"), make_files(1))
    path = directory / "record.json"

    def ours() -> None:
        with entry:
            pass

    def raw() -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(handle, PAYLOAD[:250])
        os.close(handle)
        path.unlink()

    found = medians({"lease": ours, "raw create, write, unlink": raw}, rounds)
    show("lease of an entry, taken and ended", found, "none", "raw create, write, unlink")


def eviction_row(directory: Path) -> None:
    """Time deciding what has to go among 10 000 entries."""
    store = Store(directory / "many", max_size=5_000_000)
    first = store.get_or_make(Key("map"), make_files(1))
    sidecars = []
    for number in range(10_000):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        place = first.path.parent.parent / digest[:2] / digest
        place.mkdir(parents=True)
        (place / "part0.npy").write_bytes(PAYLOAD)
        sidecar = place / "meta.json"
        sidecar.write_text(json.dumps({**first.meta, "digest": digest}))
        os.utime(sidecar, (number, number))
        sidecars.append(str(sidecar))

    def raw() -> None:
        for path in sidecars:
            handle = os.open(path, os.O_RDONLY)
            text = os.read(handle, 1 << 16)
            os.close(handle)
            json.loads(text)
            os.lstat(path)

    found = medians({"plan": store.plan_prune, "raw: read and stat each": raw}, 7)
    plan = store.plan_prune()
    what = f"eviction plan, {len(plan.removals)} of 10 000 entries go"
    show(what, found, "≤ 0.5 s", "raw: read and stat each")


def system_calls_row(directory: Path) -> None:
    """Count the system calls of a hit; a file server does not see a close."""
    if shutil.which("strace") is None:
        print("system calls per hit: strace is not installed")
        return
    root = directory / "calls"
    Store(root).get_or_make(Key("map"), make_files(3))
    code = (
        "import os, sys; from lacuna.store import Key, Store; key = Key('map'); "
        f"store = Store({str(root)!r}); store.find(key)\n"
        "for _ in range(100): os.access('/mark', 0); store.find(key)"
    )
    trace = directory / "trace"
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(["strace", "-o", str(trace), sys.executable, "-c", code], check=True)
    counts = collections.Counter(calls_between_marks(trace.read_text()))
    each = ", ".join(f"{name} {count / 99:g}" for name, count in counts.items())
    seen = sum(count for name, count in counts.items() if name != "close") / 99
    print(
        f"{'system calls per hit, 3 payload files':42} {seen:>11g} {'≤ 2 + 3':>30} {'':7}   {each}"
    )


def calls_between_marks(trace: str) -> Iterator[str]:
    """Yield the names of the calls between two marks in a trace."""
    lines = trace.splitlines()
    marks = [number for number, line in enumerate(lines) if '"/mark"' in line]
    for line in lines[marks[0] : marks[-1]]:
        name = re.match(r"\w+", line)
        if name and '"/mark"' not in line and name[0] not in ("brk", "mmap", "munmap"):
            yield name[0]


if __name__ == "__main__":
    main()
