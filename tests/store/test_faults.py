import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from tests.store.faulty import BAD_ENTRY, FULL, MAKER_FAILED, UNUSABLE, WHOLE, check, make
from tests.store.full_disk import CASES
from tests.store.samples import key_of, leftovers

from lacuna.store import Store

ROOT = Path(__file__).resolve().parents[2]
KILLED = -9

pytestmark = pytest.mark.faults


def call_with(root: Path, *injections: str) -> int:
    """Return how a call ended whose system calls were made to fail; see strace(1), inject."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.store.faulty", str(root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        options = [word for item in injections for word in ("-e", f"inject={item}")]
        command = ["strace", "-f", "-p", str(child.pid), "-o", os.devnull, *options]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert tracer.stderr is not None
        try:
            assert select.select([tracer.stderr], [], [], 20)[0], "strace did not attach"
            assert b"attached" in tracer.stderr.readline()
            child.stdin.write(b"\n")
            child.stdin.flush()
            return child.wait(60)
        finally:
            child.kill()
            tracer.wait(20)
            tracer.stderr.close()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def assert_absent_or_whole(root: Path) -> None:
    store = Store(root)
    assert [report.problem for report in store.verify(discard=False) if report.problem] == []
    check(store.get_or_make(key_of(), make).path)
    Store(root).get_or_make(key_of(), make)


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
@pytest.mark.parametrize(
    "injection",
    [
        *("fsync:error={}", "fsync:error={}:when=2+", "write:error={}", "write:error={}:when=2+"),
        *("write:error={}:when=3+", "write:error={}:when=6+", "mkdir:error={}"),
        *("mkdir:error={}:when=3+", "mkdir:error={}:when=7+", "openat:error={}:when=6+"),
    ],
)
def test_full__is_a_typed_error_wherever_it_is_noticed_and_nothing_stays(
    tmp_path, injection, error
):
    root = tmp_path / "cache"
    assert call_with(root, injection.format(error)) == FULL
    assert not leftovers(Store(root))
    assert Store(root).find(key_of()) is None
    assert_absent_or_whole(root)


def test_fsync_of_the_parent__that_fails_costs_nothing_that_was_published(tmp_path):
    assert call_with(tmp_path / "cache", "fsync:error=EDQUOT:when=4+") == WHOLE
    assert_absent_or_whole(tmp_path / "cache")


@pytest.mark.parametrize("when", range(1, 16))
def test_close__a_quota_that_is_noticed_only_there_is_not_lost(tmp_path, when):
    root = tmp_path / "cache"
    ended = call_with(root, f"close:error=EDQUOT:when={when}")
    assert ended in (FULL, WHOLE)
    assert_absent_or_whole(root)


@pytest.mark.parametrize("error", ["EACCES", "EROFS", "EPERM"])
def test_unwritable__is_a_typed_error(tmp_path, error):
    assert call_with(tmp_path / "cache", f"mkdir:error={error}") == UNUSABLE
    assert_absent_or_whole(tmp_path / "cache")


@pytest.mark.parametrize("calls", ["link,linkat,symlink,symlinkat", "flock,fcntl"])
def test_links_and_locks__are_not_needed(tmp_path, calls):
    assert call_with(tmp_path / "cache", f"{calls}:error=EPERM") == WHOLE


@pytest.mark.parametrize("when", range(1, 24))
def test_stale_handle__at_any_open_leaves_the_entry_absent_or_whole(tmp_path, when):
    root = tmp_path / "cache"
    assert call_with(root, f"openat:error=ESTALE:when={when}") in (
        *(WHOLE, UNUSABLE, BAD_ENTRY, MAKER_FAILED),
    )
    assert_absent_or_whole(root)


def test_stale_handle__on_a_hit_is_looked_up_again(tmp_path):
    root = tmp_path / "cache"
    entry = Store(root).get_or_make(key_of(), make)
    before = (entry.path / "meta.json").stat().st_ino
    assert call_with(root, "openat:error=ESTALE:when=1") == WHOLE
    assert call_with(root, "newfstatat,lstat,stat:error=ESTALE:when=1") == WHOLE
    assert (entry.path / "meta.json").stat().st_ino == before


@pytest.mark.parametrize("call", ["rename,renameat,renameat2", "fsync", "mkdir", "rmdir", "unlink"])
@pytest.mark.parametrize("when", [1, 2, 3, 4])
def test_killed__at_a_call_leaves_the_entry_absent_or_whole_and_the_next_clears_up(
    tmp_path, call, when
):
    root = tmp_path / "cache"
    assert call_with(root, f"{call}:signal=KILL:when={when}") in (KILLED, WHOLE)
    assert_absent_or_whole(root)
    assert not {name for name in leftovers(Store(root)) if "/" in name and name[1] != "c"}


@pytest.mark.parametrize("error", ["EIO", "ESTALE", "EXDEV", "EBUSY"])
def test_rename__that_fails_publishes_nothing(tmp_path, error):
    root = tmp_path / "cache"
    assert call_with(root, f"rename,renameat,renameat2:error={error}") == UNUSABLE
    assert not leftovers(Store(root))
    assert_absent_or_whole(root)


@pytest.mark.parametrize("call", ["unlink,unlinkat", "rmdir"])
def test_release__that_fails_loses_nothing(tmp_path, call):
    assert call_with(tmp_path / "cache", f"{call}:error=EBUSY") == WHOLE
    assert_absent_or_whole(tmp_path / "cache")


@pytest.mark.parametrize("case", CASES)
def test_real_full_disk__loses_nothing_and_says_what_to_set(tmp_path, case):
    mount = 'mount -t tmpfs -o size=4m,nr_inodes=120 none "$1" && exec "$2" -m "$3" "$4" "$1"'
    found = subprocess.run(
        [
            *("unshare", "-Urm", "sh", "-c", mount, "sh"),
            *(str(tmp_path), sys.executable, "tests.store.full_disk", case),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (0, "kept its promise\n"), found.stderr[-3000:]


LOOKS = """
import os, sys
from tests.store.samples import Maker, key_of
from lacuna.store import Store
store, key, make = Store(sys.argv[1]), key_of(), Maker()
store.get_or_make(key, make)
reader = Store(sys.argv[1])
for number in range(2):
    os.access(f"/look-{number}", 0)
    reader.find(key)
for number in range(2):
    os.access(f"/look-{number}", 0)
    reader.get_or_make(key, make)
os.access("/look-end", 0)
"""


def test_hit__reads_one_file_looks_once_at_each_and_writes_nothing(tmp_path):
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-o", str(trace), sys.executable, "-c", LOOKS, str(tmp_path / "c")]
    subprocess.run(command, cwd=ROOT, check=True)
    *_, find, again, first_use, second_use, _ = re.split(r"access\(\"/look-", trace.read_text())
    calls = [re.findall(r"^\d+ +(\w+)\(", part, re.M) for part in (find, again, second_use)]
    # newfstatat: which of its relatives is called differs between machines
    assert [[name.replace("newfstatat", "lstat") for name in part] for part in calls] == [
        ["openat", "read", "close", "lstat", "lstat"]
    ] * 3
    writing = r"O_WRONLY|O_RDWR|O_CREAT|\b(write|utimens\w*|rename\w*|unlink\w*|mkdir\w*|chmod)\("
    assert not re.search(writing, first_use)
