import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from tests.store.samples import dead_record, files_below, foreign_record

from lacuna.errors import CacheDirError
from lacuna.store import _probes
from lacuna.store.doctor import examine

LACUNA = "import sys; from lacuna.cli.main import main; sys.exit(main())"


def by_name(findings):
    return {finding.name: finding for finding in findings}


def verdicts(findings):
    return {finding.name: finding.verdict for finding in findings}


def test_examine__a_good_directory_has_no_problem_and_nothing_stays(tmp_path):
    (tmp_path / "mine.txt").touch()
    findings = examine(tmp_path, scratch=tmp_path)
    assert not [finding for finding in findings if finding.verdict == "problem"]
    found = by_name(findings)
    for name in ("made once", "rename", "large file", "permissions", "clock", "publication"):
        assert found[name].verdict == "ok", found[name]
    assert {"space", "inodes", "fsync", "scratch", "hard link", "flock", "fcntl lock"} <= set(found)
    assert files_below(tmp_path) == {"mine.txt"}
    assert len(list(tmp_path.iterdir())) == 1


def test_examine__every_trouble_says_what_it_means(tmp_path):
    tmp_path.chmod(0o777)
    for finding in examine(tmp_path, now=lambda: time.time() + 100):
        assert finding.verdict == "ok" or finding.meaning


@pytest.mark.parametrize(("ahead", "side"), [(-100, "ahead of"), (100, "behind")])
def test_examine__a_clock_that_differs_is_a_warning(tmp_path, ahead, side):
    clock = by_name(examine(tmp_path, now=lambda: time.time() + ahead))["clock"]
    assert clock.verdict == "warning"
    assert f"{side} this machine" in clock.seen
    assert abs(float(clock.seen.split(" is ")[1].split(" s ")[0]) - 100) < 1


def test_examine__scratch_is_not_asked_to_publish(tmp_path):
    names = set(by_name(examine(tmp_path, publishes=False)))
    assert "large file" in names
    assert not {"publication", "marker", "flock", "rename"} & names


def test_examine__a_shared_cache_is_only_looked_at(tmp_path, store, key, make):
    store.get_or_make(key, make)
    before = store.root.stat().st_mtime_ns
    assert set(verdicts(examine(store.root, read_only=True))) >= {"access", "marker"}
    assert store.root.stat().st_mtime_ns == before


def test_examine__needs_a_directory(tmp_path):
    with pytest.raises(CacheDirError, match="absent is not a directory"):
        examine(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(CacheDirError, match="file is not a directory"):
        examine(tmp_path / "file")


def test_access__that_anybody_may_write_is_a_warning(tmp_path):
    tmp_path.chmod(0o777)
    assert verdicts(examine(tmp_path))["access"] == "warning"
    tmp_path.chmod(0o1777)
    assert verdicts(examine(tmp_path, publishes=False))["access"] == "ok"


def test_access__of_a_group_root_names_the_group(tmp_path):
    tmp_path.chmod(0o770)
    assert verdicts(examine(tmp_path))["access"] == "note"
    tmp_path.chmod(0o2770)
    access = by_name(examine(tmp_path))["access"]
    assert access.verdict == "ok"
    assert "shared by the group" in access.seen


def test_access__unwritable_is_a_problem_but_not_for_what_is_only_read(
    tmp_path, refused_permissions
):
    tmp_path.chmod(0o500)
    try:
        access = by_name(examine(tmp_path))["access"]
        assert (access.verdict, "shared_cache_dirs" in access.advice) == ("problem", True)
        assert verdicts(examine(tmp_path, read_only=True))["access"] == "ok"
    finally:
        tmp_path.chmod(0o700)


def test_marker__that_a_purge_took_is_a_warning_that_names_the_command(store, key, make):
    store.get_or_make(key, make)
    assert verdicts(examine(store.root))["marker"] == "ok"
    (store.root / "tdi" / ".lacuna-cache").unlink()
    marker = by_name(examine(store.root))["marker"]
    assert marker.verdict == "warning"
    assert f"cache adopt {store.root}" in marker.advice


def test_leftovers__of_a_killed_examination_go_if_it_is_proven_dead(tmp_path):
    for name, record in (("dead", dead_record()), ("foreign", foreign_record())):
        place = tmp_path / f".lacuna-doctor-probe-{name}"
        place.mkdir()
        (place / "owner.json").write_text(json.dumps(record))
    (tmp_path / ".lacuna-doctor-mine").mkdir()
    examine(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".lacuna-doctor-probe-foreign", ".lacuna-doctor-mine"}


def test_lock__that_is_missing_or_lies_is_a_note_with_the_reason():
    for told in (("ENOLCK", "ENOLCK"), ("held", "held"), ("held", "EIO"), ("no answer", "held")):
        finding = _probes.finding("flock", *_probes.judge_lock(*told, "another"))
        assert finding.verdict == "note"
        assert "Nothing in the cache rests on a lock" in finding.meaning
    assert _probes.judge_lock("held", "EAGAIN", "another")[0] == "lock"


def doctor(directory, *wrapper, code=0):
    """Return what the command finds, run by another program such as strace or unshare."""
    command = [sys.executable, "-c", LACUNA, "cache", "doctor", "--json", str(directory)]
    done = subprocess.run(
        [*wrapper, *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == code, (done.stdout, done.stderr[-3000:])
    assert not [path for path in directory.iterdir() if path.name.startswith(".lacuna-doctor")]
    return {finding["name"]: finding for finding in json.loads(done.stdout)[str(directory)]}


def in_tmpfs(directory, options, script=":"):
    mount = (
        f'mount -t tmpfs -o {options} none "$0" && cd "$0" && {script}; cd /; "$@"; code=$?; '
        'ls -A "$0" | grep -q doctor && exit 99; exit $code'
    )
    return ("unshare", "-Urm", "sh", "-c", mount, str(directory))


def injected(*injections):
    options = [word for item in injections for word in ("-e", f"inject={item}")]
    return ("strace", "-f", "-o", os.devnull, *options)


def all_ok_but(found, *names):
    return {name for name, finding in found.items() if finding["verdict"] != "ok"} <= {
        *names,
        "file system",
        "space",
    }


@pytest.mark.parametrize("case", _probes.WORDS)
def test_words__of_each_trouble_say_what_it_means(case):
    words = _probes.WORDS[case]
    assert {"seen"} <= words.keys() <= {"verdict", "seen", "meaning", "advice"}
    assert words.get("verdict", "ok") in ("ok", "note", "warning", "problem")
    assert "verdict" not in words or words["meaning"]


@pytest.mark.faults
def test_tmpfs__works_and_says_that_it_is_memory(tmp_path):
    found = doctor(tmp_path, *in_tmpfs(tmp_path, "size=64m,nr_inodes=20000"))
    assert found["file system"]["verdict"] == "warning"
    assert "in memory" in found["file system"]["seen"]
    assert found["publication"]["verdict"] == "ok"
    assert all_ok_but(found, "access")


@pytest.mark.faults
def test_read_only_mount__is_a_problem_that_names_the_way_to_use_it(tmp_path):
    wrapper = in_tmpfs(tmp_path, "size=1m", 'mount -o remount,ro "$0"')
    found = doctor(tmp_path, *wrapper, code=1)
    assert found["access"]["verdict"] == "problem"
    assert "read-only" in found["access"]["seen"]
    assert "LACUNA_SHARED_CACHE_DIRS" in found["access"]["advice"]
    assert "publication" not in found


@pytest.mark.faults
def test_full__is_a_problem_in_figures(tmp_path):
    wrapper = in_tmpfs(tmp_path, "size=300k", "dd if=/dev/zero of=filler 2>/dev/null")
    found = doctor(tmp_path, *wrapper, code=1)
    for name in ("space", "large file", "publication"):
        assert found[name]["verdict"] == "problem"
    assert found["large file"]["seen"].endswith("No space left on device")
    assert found["space"]["seen"] == "0 bytes free"
    assert "could not be tried" in found["clock"]["seen"]


@pytest.mark.faults
def test_no_inodes__are_a_problem(tmp_path):
    fill = "touch 1 2 3 4 5 6 7 8 2>/dev/null"
    found = doctor(tmp_path, *in_tmpfs(tmp_path, "size=1m,nr_inodes=6", fill), code=1)
    assert (found["inodes"]["verdict"], found["inodes"]["seen"]) == ("problem", "0 free")
    assert found["probes"]["verdict"] == "problem"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("injection", "name", "verdict", "seen"),
    [
        ("link,linkat:error=EPERM", "hard link", "note", "refused: Operation not permitted"),
        ("flock:error=ENOLCK", "flock", "note", "there is none: ENOLCK"),
        ("flock:retval=0", "flock", "note", "it lies"),
        ("fallocate:error=EOPNOTSUPP", "large file", "ok", "16.8 MB taken"),
        ("chmod,fchmodat:retval=0", "permissions", "warning", "for 0700"),
        ("utimensat:retval=0", "time stamps", "warning", "a time is kept to within"),
    ],
)
def test_shortcoming__that_breaks_no_promise_is_no_problem(
    tmp_path, injection, name, verdict, seen
):
    found = doctor(tmp_path, *injected(injection))
    assert (found[name]["verdict"], seen in found[name]["seen"]) == (verdict, True), found[name]
    assert found["publication"]["verdict"] == "ok"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("injection", "name", "seen"),
    [
        ("fallocate:retval=0", "large file", "failed: mmap length is greater than file size"),
        ("fsync:error=EIO", "fsync", "failed: Input/output error"),
        ("fsync:error=EDQUOT", "large file", "could not be written: Disk quota exceeded"),
        ("rename,renameat,renameat2:retval=0:when=3", "rename", "replaced one that was not empty"),
        ("rename,renameat,renameat2:error=EXDEV:when=3+", "rename", "cross-device"),
        ("rename,renameat,renameat2:error=EXDEV:when=4+", "publication", "cross-device"),
    ],
)
def test_shortcoming__that_breaks_a_promise_is_a_problem(tmp_path, injection, name, seen):
    found = doctor(tmp_path, *injected(injection), code=1)
    assert found[name]["verdict"] == "problem", found
    assert seen.lower() in found[name]["seen"].lower()


def test_quota__what_its_program_says_is_shown(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "quota"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'Disk quotas for user me'; echo '/dev/sda  120*  100'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / "cache").mkdir()
    said = by_name(examine(tmp_path / "cache"))["quota says"]
    assert said.verdict == "warning"
    assert said.seen == "Disk quotas for user me | /dev/sda 120* 100"


def test_quota__a_program_that_fails_or_says_nothing_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    shutil.copy("/bin/false", tmp_path / "quota")
    (tmp_path / "cache").mkdir()
    assert "quota says" not in by_name(examine(tmp_path / "cache"))
