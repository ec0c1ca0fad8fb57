"""A root that a group shares: its members are real users, who own what they make.

Members trust each other with what is kept, as each may remove it. They do not share scratch, nor
what another could make them believe or run.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.members import GROUP, Member
from tests.store.samples import key_of, leftovers

from lacuna.cli.main import main
from lacuna.store import Store

pytestmark = pytest.mark.root

MAKER, OTHER, STRANGER = 5001, 5002, 5003

USE = """
import json, os, sys, time
from pathlib import Path
from tests.store.samples import Maker, key_of
from lacuna.store import Store
store, make = Store(sys.argv[1]), Maker()
"""
GET = f"""{USE}
entry = store.get_or_make(key_of(int(sys.argv[2])), make)
read = [(entry.path / name).read_bytes()[:7].decode() for name in entry.files]
print(json.dumps([make.calls, sorted(read)]))
"""
MADE, FOUND = [1, ["offsets", "stesffo"]], [0, ["offsets", "stesffo"]]


@pytest.fixture
def commons(tmp_path: Path) -> Path:
    """Return a directory in which anyone may make something, as in /tmp."""
    tmp_path.chmod(0o755)
    (tmp_path / "commons").mkdir()
    (tmp_path / "commons").chmod(0o1777)
    return tmp_path / "commons"


@pytest.fixture(params=["077", "002"])
def member(request, tmp_path: Path) -> Callable[[int], Member]:
    """Return a function that returns a member of the group, by the number of the user."""
    return lambda uid, **options: Member(tmp_path, uid, int(request.param, 8), **options)


@pytest.fixture
def root(commons: Path, member) -> Path:
    """Return a root that one member made for the group."""
    member(MAKER).lacuna("cache", "init", "--group", GROUP, "--cache-dir", commons / "lab")
    return commons / "lab"


@pytest.fixture
def found(commons: Path) -> Path:
    """Return an empty directory that somebody made for the group, as admins do."""
    (commons / "found").mkdir()
    os.chown(commons / "found", 0, GROUP)
    (commons / "found").chmod(0o2770)
    return commons / "found"


def get(member: Member, root: Path, number: int = 0) -> object:
    return json.loads(member.python(GET, root, number))


def modes(root: Path) -> dict[bool, set[str]]:
    """Return the modes of all directories, and of all files, below and with a root."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for path in (root, *root.rglob("*")):
        if root / "tmp" not in (path, *path.parents):
            found[path.is_dir()].add(f"{stat.S_IMODE(path.stat().st_mode):o}")
    return found


def test_member__reads_refreshes_and_verifies_what_another_made(root, member):
    assert get(member(MAKER), root) == MADE
    directory = root / key_of().location
    assert modes(root) == {True: {"2770"}, False: {"660"}}
    assert {path.stat().st_gid for path in root.rglob("*")} == {GROUP}
    before = (directory / "meta.json").stat()
    Path(directory / "meta.json").touch()
    member(MAKER).python("import os, sys; os.utime(sys.argv[1], (1, 1))", directory / "meta.json")
    assert get(member(OTHER), root) == FOUND
    after = (directory / "meta.json").stat()
    assert (after.st_ino, after.st_uid) == (before.st_ino, MAKER)
    assert after.st_mtime > time.time() - 100
    assert "whole" in member(OTHER).lacuna("cache", "verify", "--cache-dir", root)[0]


def test_member__mends_what_another_made(root, member):
    get(member(MAKER), root)
    weights = root / key_of().location / "dps" / "weights.npy"
    weights.write_bytes(b"half")
    assert get(member(OTHER), root) == MADE
    assert weights.stat().st_uid == OTHER
    assert get(member(MAKER), root) == FOUND
    assert not leftovers(Store(root))


def test_member__removes_what_another_made_with_all_that_is_in_it(root, member):
    for number in range(3):
        get(member(MAKER), root, number)
    cleared = member(OTHER).lacuna("cache", "clear", "--yes", "--force", "--cache-dir", root)[0]
    assert "deleted 3 entries" in cleared
    assert not list(Store(root).entries())
    assert not leftovers(Store(root))
    assert get(member(OTHER), root) == MADE


def test_stranger__sees_nothing(root, member):
    get(member(MAKER), root)
    stranger = member(STRANGER, groups=())
    for action in (["list"], ["info"], ["verify"], ["clear", "-y"], ["prune", "-n"]):
        told = stranger.lacuna("cache", *action, "--cache-dir", root, code=1)[1]
        assert f"You may not read the cache {root} (drwxrws---, group {GROUP}): ask to be" in told
        assert "--debug" not in told
    assert (
        stranger.python("import os, sys; print(os.access(sys.argv[1], os.R_OK))", root) == "False"
    )


def test_stranger__cannot_make_a_root_for_the_group(commons, member):
    words = ("cache", "init", "--group", GROUP, "--cache-dir", commons / "lab")
    said = member(STRANGER, groups=()).lacuna(*words, code=2)[1]
    assert f"You are not in group '{GROUP}'" in said
    assert not (commons / "lab").exists()


def test_empty_directory_of_a_group__becomes_its_root_by_itself(found, member):
    assert get(member(MAKER), found) == MADE
    assert modes(found) == {True: {"2770"}, False: {"660"}}
    assert get(member(OTHER), found) == FOUND
    shown = json.loads(member(OTHER).lacuna("cache", "info", "--json", "--cache-dir", found)[0])
    assert shown["group"] == str(GROUP)


def test_members__that_meet_in_an_empty_root_do_not_shut_each_other_out(found, member):
    many = f"""{USE}
time.sleep(max(0, float(sys.argv[2]) - time.time()))
for number in range(60):
    store.get_or_make(key_of(number), Maker())
"""
    start = time.time() + 1.5
    running = [
        member(uid).start(sys.executable, "-c", many, str(found), str(start))
        for uid in (MAKER, OTHER, 5004, 5005)
    ]
    ended = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * 4, ended
    assert len(list(Store(found).entries())) == 60
    assert modes(found) == {True: {"2770"}, False: {"660"}}
    assert not leftovers(Store(found))


BUILD = f"""{USE}
def build(directory):
    (directory / "part").mkdir()
    (directory / "part" / "a.npy").write_bytes(b"half")
    print("building", flush=True)
    time.sleep(float(sys.argv[3]))
    make(directory)
store.get_or_make(key_of(int(sys.argv[2])), build)
"""


def start_building(member: Member, root: Path, seconds: float) -> "subprocess.Popen[str]":
    process = member.start(sys.executable, "-c", BUILD, str(root), "0", str(seconds))
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    return process


def test_member__waits_for_another_who_builds(root, member):
    building = start_building(member(MAKER), root, 4)
    waiting = f"""{USE}
told = []
store.get_or_make(key_of(), make, on_wait=told.append)
print(make.calls, *told)
"""
    told = member(OTHER).python(waiting, root)
    building.communicate()
    assert told.startswith("0 Waiting for tdi map sample 2 mm: process ")
    assert "no record" not in told


def test_member__who_died_building_is_taken_over_and_cleared_up(root, member):
    building = start_building(member(MAKER), root, 100)
    claim = root / ".claims" / key_of().digest
    pid = json.loads(claim.read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    building.communicate()
    assert get(member(OTHER), root) == MADE
    left = leftovers(Store(root))
    # What a strict umask hid below the stage only its maker can remove.
    assert len(left) == (1 if member(MAKER).umask == 0o077 else 0)
    assert all(name.startswith(".trash/") for name in left)
    member(MAKER).lacuna("cache", "clear", "--yes", "--cache-dir", root, code=1)
    assert not leftovers(Store(root))
    assert get(member(OTHER), root) == FOUND


def test_member__who_died_before_sharing_a_directory_shuts_nobody_out(root, member):
    shard = root / Path(key_of().location).parent
    make = "import os, sys; os.makedirs(sys.argv[1]); [os.chmod(p, 0o2700) for p in sys.argv[1:]]"
    member(MAKER).python(make, shard, shard.parent)
    assert f"{stat.S_IMODE(shard.stat().st_mode):o}" == "2700"
    shard.rmdir()
    assert get(member(OTHER), root) == MADE
    assert modes(root) == {True: {"2770"}, False: {"660"}}


SCRATCH = """
import os, sys
from lacuna.utils.cache import get_tdi_cache_dir, get_temp_dir, make_temp_file
get_tdi_cache_dir()
print(get_temp_dir("run_"))
print(make_temp_file().name)
"""


def test_scratch__in_a_group_root_is_its_owners_alone(found, member):
    out = member(MAKER).python(SCRATCH, LACUNA_CACHE_DIR=found).split()
    directory, file = map(Path, out)
    assert f"{stat.S_IMODE((found / 'tmp').stat().st_mode):o}" == "3770"
    assert f"{stat.S_IMODE((found / 'tdi').stat().st_mode):o}" == "2770"
    assert stat.S_IMODE(directory.stat().st_mode) & 0o777 == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    record = next((found / "tmp").glob(".lacuna-owner-*"))
    attempt = """
import os, sys
from lacuna.utils.owner import read_record, verdict
directory, file, record = sys.argv[1:]
for call in (
    lambda: os.listdir(directory), lambda: open(file), lambda: open(record, "r+"),
    lambda: os.unlink(file), lambda: os.unlink(record), lambda: os.rename(directory, "x"),
    lambda: os.rmdir(directory),
):
    try:
        call()
    except PermissionError:
        continue
    raise SystemExit("it was let")
print(verdict(read_record(record), record).state)
"""
    assert member(OTHER).python(attempt, directory, file, record) == "dead"
    assert member(OTHER).python(SCRATCH, LACUNA_CACHE_DIR=found)


def test_fingerprints__are_believed_only_where_no_other_member_can_write(root, member, commons):
    data = commons / "all.tck"
    data.write_bytes(b"tracks" * 1000)
    old = time.time() - 100
    os.utime(data, (old, old))
    time.sleep(2.1)
    remember = """
import sys
from lacuna.workflow.stores import open_store
print(open_store().fingerprint(sys.argv[1]))
"""
    true = member(MAKER).python(remember, data, LACUNA_CACHE_DIR=root)
    own = root / "tmp" / f".memo-{MAKER}"
    assert stat.S_IMODE(own.stat().st_mode) & 0o777 == 0o700
    assert len(list(own.iterdir())) == 1
    memo = next(own.iterdir())
    false = memo.read_text().replace(true, "f" * 32)
    memo.write_text(false)
    assert member(MAKER).python(remember, data, LACUNA_CACHE_DIR=root) == "f" * 32  # it is read
    memo.unlink()
    plant = """
import os, sys
for directory in sys.argv[2:]:
    os.umask(0)
    os.mkdir(directory)
    open(f"{directory}/{sys.argv[1]}", "w").write(sys.stdin.read() or "{}")
"""
    member(OTHER).python(plant, memo.name, root / ".memo", root / "tmp" / ".memo-5004")
    for planted in (root / ".memo", root / "tmp" / ".memo-5004"):
        (planted / memo.name).write_text(false)
    for uid in (MAKER, 5004):
        assert member(uid).python(remember, data, LACUNA_CACHE_DIR=root) == true


def test_kernels__are_not_kept_in_a_group_root(root, member):
    keep = """
import sys
from pathlib import Path
from lacuna.workflow.kernels import private_directory
print(private_directory(Path(sys.argv[1])))
"""
    assert member(MAKER).python(keep, root) == "None"
    assert not (root / ".kernels").exists()


def test_link__of_another_member_is_not_followed(root, member):
    (root / ".stage").rmdir()
    (root / ".stage").symlink_to(root / "tdi")
    err = member(MAKER).both(*python_command(GET, root), code=1)[1]
    assert ".stage is a link" in err


def python_command(text: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-c", text, *map(str, arguments), "0")


HOLD = f"""{USE}
with store.get_or_make(key_of(), make) as entry:
    print("holding", flush=True)
    time.sleep(100)
"""


def test_member__does_not_remove_what_another_uses(root, member):
    holding = member(MAKER).start(sys.executable, "-c", HOLD, str(root))
    assert holding.stdout is not None
    assert holding.stdout.readline() == "holding\n"
    clear = ("cache", "clear", "--yes", "--force", "--cache-dir", root)
    said = member(OTHER).lacuna(*clear, code=1)[0]
    assert "keep: tdi map sample 2 mm" in said
    lease = next((root / ".leases").iterdir())
    assert f"{stat.S_IMODE(lease.stat().st_mode):o}" == "640"
    os.kill(json.loads(lease.read_text())["pid"], signal.SIGKILL)
    holding.communicate()
    assert "deleted 1 entry" in member(OTHER).lacuna(*clear)[0]
    assert not list((root / ".leases").iterdir())


def test_eviction__is_never_automatic_where_a_group_shares(root, member):
    get(member(MAKER), root, 1)
    old = time.time() - 50 * 3600
    for meta in root.rglob("meta.json"):
        os.utime(meta, (old, old))
    small = f"{USE}\nStore(sys.argv[1], max_size=1).get_or_make(key_of(2), make)"
    member(OTHER).python(small, root)
    assert len(list(Store(root).entries())) == 2


LEAVE = """
import os, signal
from lacuna.utils.cache import temp_dir
with temp_dir("run_") as directory:
    (directory / "half.nii").touch()
    print(directory, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_reap__leaves_the_scratch_of_another_member_alone(root, member):
    left = member(MAKER).start(sys.executable, "-c", LEAVE, LACUNA_CACHE_DIR=root)
    scratch = Path(left.communicate()[0].strip())
    assert scratch.parent == root / "tmp"
    shown = member(OTHER).lacuna("cache", "reap", "--yes", "--cache-dir", root)[0]
    assert f"it belongs to another user ({MAKER})" in shown
    assert main(["cache", "reap", "--yes", "--cache-dir", str(root)]) == 0  # as root
    assert scratch.is_dir()
    member(MAKER).lacuna("cache", "reap", "--yes", "--cache-dir", root)
    assert not scratch.exists()
