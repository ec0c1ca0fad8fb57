"""Scratch whose owner is proven dead goes; everything else stays, and says why."""

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.store.scratch import (
    DAY_S,
    FOREIGN,
    dead_owner,
    ended,
    killed_with_scratch,
    leave,
    make_older,
    owner_like,
    record_of,
)

from lacuna.store import Scratch, plan_reap, reap_ended
from lacuna.utils.cache import get_temp_dir
from lacuna.utils.filesystem import is_local

ROOT = Path(__file__).resolve().parents[2]
OLD_S = 8 * DAY_S
ANY_AGE = {"foreign_older_than_s": 0.0, "caller_unmodified_s": 0.0}

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="start times are read from /proc"
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def found(base: Path, path: Path, **rules: object) -> Scratch:
    """Return how a piece of scratch is judged."""
    return next(item for item in plan_reap(base, **rules).items if item.path == path)


def names(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir())


def start_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def later(days: float = 400) -> float:
    return time.time() + days * DAY_S


# Whose owner is proven dead


def test_reap__removes_what_was_to_end_with_a_process_that_has_ended(base):
    path = leave(base, owner := dead_owner())
    plan = plan_reap(base)
    assert [item.path for item in plan.removals] == [path, record_of(base, owner)]
    assert plan.expected_freed_bytes >= 150
    assert (plan.items[0].lifetime, plan.items[0].state) == ("process", "dead")
    assert path.exists()
    done = plan.execute()
    assert not names(base)
    assert (done.removed, done.failed) == (plan.removals, ())


@pytest.mark.parametrize("kind", ["reused", "zombie"])
def test_reap__a_reused_number_and_a_zombie_are_ended_processes(base, kind):
    if kind == "reused":
        leave(base, owner_like(start_time=1))
        plan_reap(base).execute()
    else:
        program = "import sys; from lacuna.utils.cache import get_temp_dir; get_temp_dir()"
        environment = {**os.environ, "LACUNA_TMP_DIR": str(base)}
        child = subprocess.Popen([sys.executable, "-c", program], env=environment)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        plan_reap(base, caller_unmodified_s=0, now=later()).execute()
        child.wait()
    assert not names(base)


def test_reap__an_earlier_boot_is_proven_on_a_local_disk(base):
    path = leave(base, dead_owner(boot_id="0b7c6d0e-0000-4000-8000-000000000000"))
    assert found(base, path).removable == is_local(base)


def test_reap__finds_what_a_killed_process_left(base):
    killed_with_scratch(base)
    plan_reap(base).execute()
    assert [name.partition("_")[0] for name in names(base)] == [
        *(name for name in names(base) if name.startswith(".lacuna-owner-")),
        "callers",
    ]
    plan_reap(base, now=later()).execute()
    assert not names(base)


def test_reap__the_record_stays_as_long_as_something_of_its_owner_does(base):
    owner = dead_owner()
    leave(base, owner)
    kept = leave(base, owner, lifetime="c")
    plan_reap(base).execute()
    assert names(base) == sorted([kept.name, record_of(base, owner).name])


def test_reap__orphaned_records_of_ended_processes_go_and_those_of_living_ones_stay(base):
    for owner in (dead := dead_owner(), living := owner_like(), away := dead_owner(host="node-17")):
        record_of(base, owner).write_text(json.dumps(owner))
    empty = base / ".lacuna-owner-0123456789ab.json"
    empty.touch()
    plan = plan_reap(base)
    assert [item.path for item in plan.removals] == [record_of(base, dead)]
    plan.execute()
    plan_reap(base, now=later(2)).execute()  # it died before it wrote, days ago
    assert names(base) == sorted(record_of(base, owner).name for owner in (living, away))
    plan_reap(base, now=later(40), foreign_older_than_s=30 * DAY_S).execute()
    assert names(base) == [record_of(base, living).name]


def test_reap__files_are_scratch_too(base):
    owner = dead_owner()
    record_of(base, owner).write_text(json.dumps(owner))
    (base / f"{owner['token']}_pabcdefgh.nii.gz").write_bytes(b"1234")
    plan = plan_reap(base)
    assert (plan.items[0].kind, plan.items[0].size_bytes) == ("file", 4)
    plan.execute()
    assert not names(base)


# A caller's


def test_reap__a_callers_stays_for_a_week_after_it_was_last_modified(base):
    old = leave(base, dead_owner(), lifetime="c", age_s=OLD_S)
    deep = leave(base, dead_owner(), lifetime="c", age_s=OLD_S)
    os.utime(deep / "work" / "half.tck")
    young = leave(base, dead_owner(), lifetime="c", age_s=6 * DAY_S)
    plan_reap(base).execute()
    assert (old.exists(), deep.exists(), young.exists()) == (False, True, True)
    assert "modified in the last 7 days" in found(base, deep).reason


def test_reap__a_callers_never_goes_by_itself(base):
    path = leave(base, dead_owner(), lifetime="c", age_s=100 * DAY_S)
    reap_ended(base)
    assert path.exists()


def test_reap__what_cannot_be_looked_at_counts_as_modified(base, refused_permissions):
    path = leave(base, dead_owner(), lifetime="c", age_s=OLD_S)
    (path / "work").chmod(0)
    assert not found(base, path).removable


# What is not proven


def test_reap__what_a_living_process_made_stays_however_old(base):
    child = subprocess.Popen(["sleep", "60"])
    try:
        others = owner_like(pid=child.pid, start_time=start_of(child.pid))
        paths = [
            leave(base, owner, lifetime=lifetime, age_s=1000 * DAY_S)
            for owner in (owner_like(), others)
            for lifetime in "pc"
        ]
        plan = plan_reap(base, now=later(), **ANY_AGE)
        assert {item.state for item in plan.items} == {"alive"}
        assert not plan.removals
        plan.execute()
        reap_ended(base)
        assert all(path.exists() for path in paths)
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("why", [*FOREIGN, "no record", "half a record", "another's record"])
@pytest.mark.parametrize("lifetime", ["p", "c"])
def test_reap__without_proof_only_age_decides_and_only_when_asked(base, why, lifetime):
    owner = dead_owner(**FOREIGN.get(why, {}))
    path = leave(base, owner, signed=why != "no record", lifetime=lifetime, age_s=20 * DAY_S)
    if why == "half a record":
        record_of(base, owner).write_text(json.dumps(owner)[:40])
    elif why == "another's record":
        record_of(base, owner).write_text(json.dumps(dead_owner()))
    item = found(base, path, now=later())
    assert (item.state, item.removable) == ("unknown", False)
    assert "nothing proves" in item.reason
    plan_reap(base, now=later()).execute()
    reap_ended(base)
    plan_reap(base, foreign_older_than_s=30 * DAY_S).execute()
    assert path.exists()
    plan_reap(base, foreign_older_than_s=10 * DAY_S).execute()
    assert not path.exists()


def test_reap__of_two_owners_in_one_name_both_must_have_ended(base):
    outer, inner = owner_like(), dead_owner()
    record_of(base, outer).write_text(json.dumps(outer))
    nested = leave(base, inner, prefix=f"sub01_{outer['token']}_c12345678_")
    item = found(base, nested)
    assert (item.state, item.lifetime, item.removable) == ("alive", "caller", False)
    reap_ended(base)
    assert nested.exists()


def test_reap__what_carries_no_token_is_nobodys_to_remove(base):
    for name in ("matplotlib", "sub01_p12345678", "0123456789ab_x12345678", ".lacuna-owner-x.json"):
        (base / name).mkdir()
    assert not plan_reap(base, now=later(), **ANY_AGE).items


def test_reap__a_base_that_is_absent_holds_nothing(tmp_path):
    assert not plan_reap(tmp_path / "absent").items
    assert not reap_ended(tmp_path / "absent").removed


# Links, mounts, other users


def test_reap__links_are_neither_scratch_nor_followed(base, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.nii").touch()
    owner = dead_owner()
    path = leave(base, owner)
    (path / "link").symlink_to(outside)
    link = base / f"{owner['token']}_pabcdefgh"
    link.symlink_to(outside)
    plan_reap(base, now=later(), **ANY_AGE).execute()
    assert not path.exists()
    assert link.is_symlink()
    assert (outside / "precious.nii").exists()


def test_reap__a_directory_swapped_for_a_link_after_the_plan_leads_nowhere(base, tmp_path):
    path = leave(base, dead_owner())
    plan = plan_reap(base)
    path.rename(tmp_path / "precious")
    path.symlink_to(tmp_path / "precious")
    plan.execute()
    assert (tmp_path / "precious" / "lesion.nii").exists()


def test_reap__directories_without_permission_go_too(base):
    path = leave(base, dead_owner())
    (path / "work").chmod(0o500)
    (path / "closed").mkdir(mode=0)
    path.chmod(0)
    plan_reap(base).execute()
    assert not names(base)


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_reap__what_is_mounted_inside_is_not_deleted(base, tmp_path, kind):
    path = leave(base, dead_owner())
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    mount = f"mount --bind {precious}" if kind == "bind" else "mount -t tmpfs none"
    program = (
        "import sys; from lacuna.store import plan_reap\n"
        "plan = plan_reap(sys.argv[1]); print([item.reason for item in plan.items]); plan.execute()"
    )
    inner = path / "work"
    command = f"{mount} {inner} && touch {inner}/inside && {sys.executable} -c '{program}'"
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", f"{command} {base} && ls {inner}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[0] == "['something is mounted in it']"
    assert "inside" in done.stdout
    assert (precious / "file").exists()


@pytest.mark.root
def test_reap__another_users_scratch_and_records_are_only_shown(base):
    theirs = leave(base, dead_owner())
    os.chown(theirs, 4711, -1)
    item = found(base, theirs, now=later(), **ANY_AGE)
    assert (item.removable, item.reason) == (False, "it belongs to another user (4711)")
    ours = leave(base, declared_dead := dead_owner())
    os.chown(record_of(base, declared_dead), 4711, -1)
    assert found(base, ours).state == "unknown"
    plan_reap(base, now=later()).execute()
    reap_ended(base)
    assert theirs.exists()
    assert ours.exists()


# Between the plan and its execution


def test_reap__what_was_modified_after_the_plan_stays(base):
    path = leave(base, dead_owner(), lifetime="c", age_s=OLD_S)
    plan = plan_reap(base)
    (path / "work" / "new.nii").touch()
    done = plan.execute()
    assert not [item for item in done.removed if item.kind != "record"]
    assert "modified" in done.failed[0].reason
    assert (path / "work" / "new.nii").exists()


def test_reap__what_is_modified_while_it_is_set_aside_comes_back(base, monkeypatch):
    path = leave(base, dead_owner(), lifetime="c", age_s=OLD_S)
    plan, rename = plan_reap(base), os.rename

    def be_late(*names, **options):
        monkeypatch.undo()
        (path / "work" / "new.nii").touch()
        rename(*names, **options)

    monkeypatch.setattr(os, "rename", be_late)
    done = plan.execute()
    assert "modified just now" in done.failed[0].reason
    assert (path / "work" / "new.nii").exists()


def test_reap__an_owner_that_turns_out_to_live_keeps_its_scratch(base):
    path = leave(base, owner := dead_owner())
    plan = plan_reap(base)
    record_of(base, owner).write_text(json.dumps(owner_like(token=owner["token"])))
    assert [item.reason for item in plan.execute().failed] == ["its owner lives"]
    assert path.exists()


def test_reap__what_is_gone_already_is_no_failure(base):
    shutil.rmtree(leave(base, dead_owner()))
    path = leave(base, dead_owner())
    plan = plan_reap(base)
    shutil.rmtree(path)
    assert not plan.execute().failed
    assert not names(base)


def reap_often(base: Path) -> list[str]:
    plans = (plan_reap(base, caller_unmodified_s=0) for _ in range(5))
    return [item.reason for plan in plans for item in plan.execute().failed]


def test_reap__several_reapers_do_not_stand_in_each_others_way(base):
    pid = ended()
    for number in range(120):
        leave(base, owner_like(pid=pid), lifetime="pc"[number % 2], age_s=10)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(reap_often, [base] * 4) == [[]] * 4
    reap_ended(base)
    assert not names(base)


def test_reap__what_cannot_be_removed_stays_known_and_says_why(base, refused_permissions):
    path = leave(base, dead_owner())
    plan = plan_reap(base)
    base.chmod(0o500)
    done = plan.execute()
    base.chmod(0o700)
    assert "could not be removed" in done.failed[0].reason
    assert plan_reap(base).removals[0].path == path


@pytest.mark.faults
@pytest.mark.parametrize("full", ["size=64k", "nr_inodes=40"])
def test_reap__makes_room_on_a_full_disk(base, full):
    program = (
        "import contextlib, sys; from pathlib import Path; from lacuna.store import plan_reap\n"
        "from tests.store.scratch import dead_owner, leave\n"
        "base = Path(sys.argv[1])\n"
        "leave(base, dead_owner(), lifetime='c', age_s=8e5); leave(base, dead_owner())\n"
        "with contextlib.suppress(OSError):\n"
        "    for number in range(99): (base / str(number)).write_bytes(bytes(4096))\n"
        "done = plan_reap(base).execute()\n"
        "print(done.failed, [path for path in base.iterdir() if not path.name.isdigit()])"
    )
    command = f'mount -t tmpfs -o {full} none {base} && exec {sys.executable} -c "$0" {base}'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", command, program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("() []\n", 0), done.stderr


# Jobs


def test_reap__a_job_that_is_not_over_keeps_its_scratch(base):
    owners = [dead_owner(job=f"SLURM_JOB_ID={number}") for number in (1, 2, 3)]
    callers = [leave(base, owner, lifetime="c", age_s=OLD_S) for owner in owners]
    process = leave(base, owners[0])
    asked = []

    def answer(jobs):
        asked.append(sorted(jobs))
        return dict(zip(sorted(jobs), (True, False, None), strict=False))

    plan = plan_reap(base, jobs=answer)
    assert asked == [[owner["job"] for owner in owners]]  # all at once
    reasons = {item.path: item.reason for item in plan.items}
    assert reasons[callers[0]] == reasons[process] == "SLURM_JOB_ID=1 is not over"
    assert reasons[callers[2]] == "nobody says whether SLURM_JOB_ID=3 is over"
    assert {item.path for item in plan.removals} == {callers[1], record_of(base, owners[1])}


def test_reap__without_asking_a_callers_of_a_job_stays_and_a_processs_goes(base):
    owner = dead_owner(job="PBS_JOBID=12.server")
    process, callers = leave(base, owner), leave(base, owner, lifetime="c", age_s=OLD_S)
    plan_reap(base).execute()
    assert (process.exists(), callers.exists()) == (False, True)
    assert "nobody was asked" in found(base, callers).reason


def test_reap__a_job_that_is_over_proves_nothing(base):
    path = leave(base, dead_owner(host="node-17", job="SLURM_JOB_ID=1"))
    over = {"jobs": lambda jobs: dict.fromkeys(jobs, False), "now": later()}
    assert not found(base, path, **over).removable
    assert found(base, path, **over, foreign_older_than_s=DAY_S).removable
    running = {"jobs": lambda jobs: dict.fromkeys(jobs, True), "now": later()}
    assert not found(base, path, **running, foreign_older_than_s=DAY_S).removable


def test_reap__a_job_that_was_started_again_after_the_plan_keeps_its_scratch(base):
    path = leave(base, dead_owner(job="SLURM_JOB_ID=1"))
    live = [False, True]
    plan = plan_reap(base, jobs=lambda jobs: dict.fromkeys(jobs, live.pop(0)))
    assert plan.removals
    assert [item.reason for item in plan.execute().failed] == ["SLURM_JOB_ID=1 is not over"]
    assert path.exists()


# By itself


def test_reap_ended__of_a_crowd_of_owners_some_are_judged_each_time(base):
    pid = ended()
    for _ in range(200):
        record = owner_like(pid=pid)
        (base / f"{record['token']}_p12345678").mkdir()
        record_of(base, record).write_text(json.dumps(record))
    assert len(reap_ended(base).removed) == 2 * 128
    assert len(reap_ended(base).removed) == 2 * 72
    assert not names(base)


def test_reap_ended__lists_once_and_reads_no_record_where_there_is_nothing_to_do(base):
    living = get_temp_dir()
    seen: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in ("os.listdir", "os.scandir", "open"):
            seen.append(event)

    watching = True
    sys.addaudithook(watch)
    reap_ended(living.parent)
    watching = False
    assert seen == ["os.listdir"]


@pytest.mark.parametrize("action", ["lacuna", "lacuna.store", "lacuna.utils.cache"])
def test_import__reaps_nothing(base, action):
    path = leave(base, dead_owner())
    environment = {**os.environ, "LACUNA_TMP_DIR": str(base)}
    program = f"import {action}; from lacuna.utils.cache import temp_dir\nwith temp_dir(): pass"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert path.exists()


# Many, and far away


@pytest.mark.stress
def test_reap__of_10_000_owners_no_living_one_loses_anything(base):
    draw, gone = random.Random(8), ended()
    children = [subprocess.Popen(["sleep", "600"]) for _ in range(5)]
    lives = [{}, *({"pid": child.pid, "start_time": start_of(child.pid)} for child in children)]
    live, dead = set(), set()
    try:
        for _ in range(10_000):
            is_live = draw.random() < 0.5
            facts = (
                draw.choice(lives) if is_live else draw.choice([{"pid": gone}, {"start_time": 7}])
            )
            # What cannot be compared may be a living process, whatever the number says here.
            elsewhere = draw.choice([{}, {}, *FOREIGN.values()])
            unknown_start = {"start_time": None} if is_live and draw.random() < 0.3 else {}
            job = draw.choice([None, None, "SLURM_JOB_ID=1", "SLURM_JOB_ID=2"])
            owner = owner_like(**{**facts, **elsewhere, **unknown_start, "job": job})
            signed, age_s = draw.random() < 0.9, draw.choice([0, OLD_S])
            path = leave(base, owner, lifetime=draw.choice("pc"), signed=signed, age_s=age_s)
            (live if is_live or elsewhere or not signed else dead).add(path)
        jobs = {"SLURM_JOB_ID=1": True, "SLURM_JOB_ID=2": False}
        for _ in range(3):
            reap_ended(base)
            plan_reap(base).execute()
            plan_reap(base, jobs=lambda asked: {job: jobs[job] for job in asked}).execute()
        assert [path for path in live if not path.exists()] == []
        plan_reap(base, now=later()).execute()
        plan_reap(base, now=later(), jobs=lambda asked: dict.fromkeys(asked, False)).execute()
        assert [path for path in live if not path.exists()] == []
        assert [path for path in dead if path.exists()] == []
        assert len(live) > 3000
        assert len(dead) > 500
    finally:
        for child in children:
            child.kill()
            child.wait()


LIVE = """
import os, sys, time
from lacuna.utils.cache import get_temp_dir, temp_dir
end, n = time.monotonic() + 10, 0
while time.monotonic() < end:
    if (child := os.fork()) == 0:
        get_temp_dir("dropped_"); temp_dir("dropped_").__enter__(); os._exit(0)
    with temp_dir("held_") as held, temp_dir("held_") as other:
        (held / "file").write_bytes(b"1")
        os.waitpid(child, 0)
        assert (held / "file").read_bytes() == b"1", held
        assert other.is_dir(), other
    n += 1
print(n)
"""


@pytest.mark.stress
def test_reap__beside_processes_that_come_and_go_takes_only_what_they_dropped(base):
    environment = {**os.environ, "LACUNA_TMP_DIR": str(base)}
    start = [sys.executable, "-c", LIVE]
    holders = [
        subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    n_removed = 0
    while any(holder.poll() is None for holder in holders):
        for done in (reap_ended(base), plan_reap(base, caller_unmodified_s=0.0).execute()):
            n_removed += len(done.removed)
    assert min(int(holder.communicate()[0]) for holder in holders) > 10
    assert n_removed > 100
    plan_reap(base, caller_unmodified_s=0.0, now=later()).execute()
    assert not names(base)


AWAY = {
    "container": ["unshare", "-Urpfm", "--mount-proc", "--"],
    "host": [
        *("unshare", "-Urum", "sh", "-c"),
        'hostname node-17 && mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"',
        "BOOT_ID",
    ],
}
HOLD = """
import sys, time
from lacuna.utils.cache import get_temp_dir, temp_dir
with temp_dir("process_"):
    get_temp_dir("caller_")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.faults
@pytest.mark.parametrize("place", AWAY)
@pytest.mark.parametrize("away", ["holder", "reaper"])
def test_reap__leaves_alone_what_lives_in_another_container_or_on_another_host(
    base, tmp_path, place, away
):
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("11111111-2222-4333-8444-555555555555\n")
    there = [str(boot_id) if word == "BOOT_ID" else word for word in AWAY[place]]
    environment = {**os.environ, "LACUNA_TMP_DIR": str(base)}
    holder = subprocess.Popen(
        [*(there if away == "holder" else []), sys.executable, "-c", HOLD],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "ready\n"
        for path in base.glob("*_*"):
            make_older(path, 1000 * DAY_S)
        held = names(base)
        assert len(held) == 3
        reap = (
            "import json, sys; from lacuna.store import plan_reap, reap_ended\n"
            "reap_ended(sys.argv[1]); plan = plan_reap(sys.argv[1]); plan.execute()\n"
            "print(json.dumps([item.state for item in plan.items]))"
        )
        shown = subprocess.run(
            [*(there if away == "reaper" else []), sys.executable, "-c", reap, str(base)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert set(json.loads(shown.stdout)) == {"unknown"}
        assert names(base) == held
    finally:
        holder.stdin.close()
        holder.wait(60)
        holder.stdout.close()


@pytest.mark.faults
def test_reap__a_container_clears_up_after_itself(base):
    program = (
        "import os, sys, time; from tests.store.scratch import killed_with_scratch\n"
        "from pathlib import Path; from lacuna.store import reap_ended\n"
        "base = Path(sys.argv[1]); killed_with_scratch(base)\n"
        "print([item.lifetime for item in reap_ended(base).removed])"
    )
    done = subprocess.run(
        [*AWAY["container"], sys.executable, "-c", program, str(base)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['process']\n"
