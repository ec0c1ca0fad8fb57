"""Files fetched once and taken in by hand: one store, many processes, no network."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from tests.assets.conftest import QUICK
from tests.assets.server import page, serve, status

from lacuna.assets.catalog import Asset
from lacuna.assets.fetch import fetch
from lacuna.config import load_config
from lacuna.errors import (
    CacheFullError,
    ChecksumError,
    FetchError,
    FormatError,
    OfflineError,
    OptionError,
)
from lacuna.store import Key

COMMAND = [sys.executable, "-c", "import sys; from lacuna.cli.main import main; sys.exit(main())"]


def start(store, url, sha256, *options):
    command = [*COMMAND, "fetch", url, "--sha256", sha256, "--cache-dir", str(store.root), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def write_old(directory):
    (directory / "old").write_bytes(bytes(1000))


@pytest.fixture
def asset():
    return Asset(
        name="Demo",
        title="A tractogram for tests",
        kind="tractogram",
        space="MNI152NLin6Asym",
        files=("Demo.zip", "Demo.h5"),
        licence="CC0",
        citation="Nobody 2024",
        doi="10.1000/1",
        how="Ask for it.",
    )


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "downloaded (1).zip"
    path.write_bytes(b"PK\x03\x04" + bytes(1000))
    return path


def test_processes__two_at_once_download_it_once(server, store, content, sha256):
    server.script = [serve(pause_s=0.02)]
    both = [start(store, server.url(), sha256) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0][0] == told[1][0]
    assert len(server.seen) == 1
    assert any("Waiting for data.trk" in stderr for _, stderr in told)


def test_killed__in_the_middle_is_gone_on_with_by_the_next(server, store, content, sha256):
    server.script = [serve(pause_s=0.05)]
    first = start(store, server.url(), sha256)
    wait_for(lambda: server.n_sent > 50_000)
    first.kill()
    first.communicate()
    had = store.root / ".partial"
    (came,) = (path.stat().st_size for path in had.glob("*[0-9]"))
    assert came > 20_000
    second = start(store, server.url(), sha256)
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert server.ranges[-1] == f"bytes={came}-"
    assert server.seen[-1].n_sent == len(content) - came
    assert out.strip().endswith("/data.trk")
    assert not list(had.iterdir())
    assert not list((store.root / ".stage").iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped__by_a_signal_keeps_what_came(server, store, sha256, number, code):
    server.script = [serve(pause_s=0.05)]
    process = start(store, server.url(), sha256)
    wait_for(lambda: server.n_sent > 50_000)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    (kept,) = (store.root / ".partial").iterdir()
    assert kept.stat().st_size > 20_000
    assert not list((store.root / ".stage").iterdir())


def test_offline__what_is_there_is_found(server, store, sha256):
    entry = fetch(store, server.url(), sha256=sha256, patience=QUICK)
    assert fetch(store, server.url(), sha256=sha256, offline=True).path == entry.path


def test_offline__is_an_error_that_names_the_command(server, store, sha256, monkeypatch):
    monkeypatch.setenv("LACUNA_OFFLINE", "1")
    load_config()
    command = f"lacuna fetch {server.url()} --sha256 {sha256}"
    with pytest.raises(OfflineError) as caught:
        fetch(store, server.url(), sha256=sha256)
    assert f"`{command}` prints the path" in str(caught.value)
    assert f"`{command} --from FILE`" in str(caught.value)
    assert not server.seen


def test_offline__a_fetchable_asset_is_asked_for_by_name(store, asset, sha256):
    known = msgspec.structs.replace(asset, urls=("https://data.invalid/d.zip",), sha256=sha256)
    with pytest.raises(OfflineError, match="`lacuna fetch Demo` prints"):
        fetch(store, known, offline=True)


@pytest.mark.parametrize(
    ("what", "sha256", "problem"),
    [
        ("file:///etc/passwd", "0" * 64, "https://"),
        ("ftp://data.invalid/x.trk", "0" * 64, "https://"),
        ("https:///x.trk", "0" * 64, "https://"),
        ("https://[1/x.trk", "0" * 64, "https://"),
        ("https://data.invalid/x.trk", None, "--sha256"),
        ("https://data.invalid/x.trk", "0" * 63, "64 digits"),
        ("dtor985", None, "did you mean dTOR985"),
        ("nothing", None, "--list"),
    ],
)
def test_request__that_makes_no_sense_is_the_callers_turn(store, what, sha256, problem):
    with pytest.raises(OptionError, match=problem):
        fetch(store, what, sha256=sha256)


def test_offline__the_command_repeats_what_was_given(store, asset):
    given = f"lacuna fetch Demo --mirror https://data.invalid/d.zip --sha256 {'0' * 64}"
    with pytest.raises(OfflineError, match=f"`{given}` prints"):
        fetch(store, asset, sha256="0" * 64, mirrors=["https://data.invalid/d.zip"], offline=True)


def test_asset__that_is_there_counts_as_used(store, asset, archive):
    meta = fetch(store, asset, source=archive).path / "meta.json"
    os.utime(meta, (1e9, 1e9))
    fetch(store, asset)
    assert meta.stat().st_mtime > 1.1e9


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b%2F..%2F..%2Fpasswd", "passwd"),
        (".hidden", "hidden"),
        ("meta.json", "_meta.json"),
        ("spaced%20name.trk?x=1", "spaced_name.trk"),
        ("%E8%85%A6" * 90 + ".trk", "_" * 90 + ".trk"),
        ("x." + "x" * 199, "x" * 199),
    ],
)
def test_name__of_a_file_never_leads_elsewhere(server, store, sha256, path, name):
    entry = fetch(store, server.url(path), sha256=sha256.upper(), patience=QUICK)
    assert entry.files == (name,)


@pytest.mark.parametrize("path", ["", "a/", "a/..", "?x=1"])
def test_name__of_no_file_is_refused_before_anything_is_asked(server, store, sha256, path):
    with pytest.raises(OptionError, match="does not end in the name of a file"):
        fetch(store, server.url(path), sha256=sha256)
    assert not server.seen


def test_asset__without_an_address_says_what_to_do(store, asset):
    with pytest.raises(FetchError, match=r"by hand.*Ask for it.*10\.1000/1.*--from FILE"):
        fetch(store, asset)


def test_asset__fetched_by_name_is_found_again(server, store, content, sha256, asset):
    known = msgspec.structs.replace(
        asset, files=("Demo.trk",), urls=(server.url("404"), server.url()), sha256=sha256
    )
    server.script = [status(404)]
    entry = fetch(store, known, patience=QUICK)
    assert entry.files == ("Demo.trk",)
    assert entry.label == "Demo, MNI152NLin6Asym"
    assert fetch(store, known, offline=True).path == entry.path
    assert len(server.seen) == 2


def test_from__takes_a_file_in_under_the_assets_name(store, asset, archive):
    entry = fetch(store, asset, source=archive, offline=True)
    assert entry.files == ("Demo.zip",)
    assert (entry.path / "Demo.zip").read_bytes() == archive.read_bytes()
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert entry.meta["key"]["parameters"]["sha256"] == sha256
    archive.unlink()
    assert fetch(store, asset, offline=True).path == entry.path


def test_asset__with_another_checksum_than_the_one_given_will_not_do(store, asset, archive):
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    entry = fetch(store, asset, source=archive)
    assert fetch(store, asset, sha256=sha256).path == entry.path
    with pytest.raises(FetchError, match="by hand"):
        fetch(store, asset, sha256="0" * 64)


def test_from__another_file_is_another_entry_and_the_newer_counts(store, asset, archive):
    old = fetch(store, asset, source=archive)
    time.sleep(1.1)  # entries know when they were made to the second
    archive.write_bytes(b"PK\x03\x04 another")
    new = fetch(store, asset, source=archive)
    assert new.path != old.path
    assert fetch(store, asset).path == new.path


def test_from__a_file_with_another_checksum_is_refused(store, sha256, archive):
    with pytest.raises(ChecksumError, match=sha256):
        fetch(store, "https://data.invalid/data.zip", sha256=sha256, source=archive)
    assert not list(store.entries())


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("data.zip", b"<!DOCTYPE html><title>Log in</title>", "HTML page titled “Log in”"),
        ("data.zip", b"something else", "does not begin as a .zip"),
        ("data.rar", b"Rar!", "should end in .zip, .h5"),
        ("data.h5", b"\x89PNG", "does not begin as a .h5"),
    ],
)
def test_from__a_file_that_is_something_else_is_refused(
    store, asset, tmp_path, name, content, problem
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=problem):
        fetch(store, asset, source=tmp_path / name)
    assert not list(store.entries())


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("cut.trk", b"TRACK", "truncated"),
        ("cut.tck", b"mrtrix tracks\n", "no END line"),
        ("cut.trx", b"PK\x03\x04", "no readable zip"),
        ("nii.trk", b"\x5c\x01\x00\x00", "does not begin with"),
    ],
)
def test_from__the_header_of_a_tractogram_is_read(store, tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=problem):
        fetch(store, "dTOR985", source=tmp_path / name)


@pytest.mark.parametrize(
    ("n_bytes", "is_taken"), [(9, False), (10, True), (1000, True), (1001, False)]
)
def test_from__more_than_ten_times_too_small_or_large_is_refused(
    store, asset, tmp_path, n_bytes, is_taken
):
    (tmp_path / "data.zip").write_bytes(b"PK".ljust(n_bytes))
    about = msgspec.structs.replace(asset, size_bytes=100)
    if not is_taken:
        with pytest.raises(FormatError, match=f"it has {n_bytes} bytes|1 kB, not about 100 bytes"):
            fetch(store, about, source=tmp_path / "data.zip")
    assert fetch(store, about, source=tmp_path / "data.zip", force=not is_taken)


@pytest.mark.parametrize("name", ["absent.zip", "."])
def test_from__no_file_is_refused(store, asset, tmp_path, name):
    with pytest.raises(FormatError, match="is no file"):
        fetch(store, asset, source=tmp_path / name)


def test_size__that_only_the_server_states_evicts_nothing_in_vain(server, store, sha256):
    old = store.get_or_make(Key("download", {"sha256": "1" * 64, "name": "old"}), write_old)
    os.utime(old.path / "meta.json", (1e9, 1e9))
    server.script = [serve(length=1 << 60)] * 2
    with pytest.raises(CacheFullError, match=r"data\.trk"):
        fetch(store, server.url(), sha256=sha256, patience=QUICK)
    assert [entry.path for entry in store.entries()] == [old.path]
    assert len(server.seen) == 1


def test_size__that_the_server_states_is_checked_before_more_is_fetched(server, store, sha256):
    server.script = [serve(length=1 << 60, pause_s=0.1)]
    with pytest.raises(CacheFullError, match=r"data\.trk"):
        fetch(store, server.url(), sha256=sha256, patience=QUICK)
    assert server.n_sent < 100_000


def test_page__instead_of_the_file_leaves_nothing(server, store, sha256):
    server.script = [page()]
    with pytest.raises(ChecksumError):
        fetch(store, server.url(), sha256=sha256, patience=QUICK)
    assert not list((store.root / ".partial").iterdir())
    assert not list((store.root / ".stage").iterdir())


@pytest.mark.faults
def test_full_disk__in_the_middle_keeps_what_came(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    program = f"{sys.executable} -m tests.assets.full_disk"
    script = f"mount -t tmpfs -o size=4m tmpfs {place} && exec {program} {place}"
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "kept its promise\n", done.stderr
