"""Who made a name or a claim, and what can be proven about that process."""

import json
import os
import random
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lacuna.utils import owner
from lacuna.utils.filesystem import is_local
from lacuna.utils.owner import (
    current_owner,
    read_record,
    verdict,
    write_record,
)

linux = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="start times are read from /proc"
)


def altered(**facts: object) -> dict[str, object]:
    """Return this process's record with some facts changed."""
    return {**current_owner().record, **facts}


@pytest.fixture
def ended() -> int:
    """Return the number of a process that has ended and was waited for."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_owner__is_one_per_process():
    assert current_owner() is current_owner()


def test_owner__is_one_for_all_threads():
    owners = []
    threads = [threading.Thread(target=lambda: owners.append(current_owner())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, owners))) == 1


def test_owner__is_a_new_one_after_fork(run_script):
    lines = run_script(
        """
        import os
        from lacuna.utils.owner import current_owner, verdict
        mine = current_owner()
        print(mine.token, mine.record["pid"], flush=True)
        if os.fork() == 0:
            print(current_owner().token, current_owner().record["pid"], flush=True)
            print(verdict(mine.record).state, flush=True)
            os._exit(0)
        os.wait()
        print(current_owner().token)
        """
    )
    (token, pid), (child_token, child_pid) = lines[0].split(), lines[1].split()
    assert token != child_token
    assert pid != child_pid
    assert lines[2:] == ["alive", token]


def test_owner__forking_while_another_thread_asks_does_not_hang(run_script):
    assert run_script(
        """
        import os, threading
        from lacuna.utils import owner
        owner.current_owner()
        held = threading.Event(); done = threading.Event()
        def hold():
            with owner.current_owner().lock:
                held.set(); done.wait(30)
        thread = threading.Thread(target=hold); thread.start(); held.wait()
        if os.fork() == 0:
            with owner.current_owner().lock: os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1])); done.set(); thread.join()
        """
    ) == ["0"]


@linux
def test_record__says_what_recognises_a_process(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    record = owner.Owner().record
    assert record["pid"] == os.getpid()
    assert record["uid"] == os.getuid()
    assert record["host"] == os.uname().nodename
    assert record["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert record["pid_namespace"] == str(Path("/proc/self/ns/pid").readlink())
    assert record["start_time"] > 0
    assert record["job"] == "SLURM_JOB_ID=4711"
    assert json.loads(json.dumps(record)) == record


def test_record__is_written_once_private_and_read_back(tmp_path):
    write_record(tmp_path / "record")
    assert read_record(tmp_path / "record") == current_owner().record
    assert stat.S_IMODE((tmp_path / "record").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        write_record(tmp_path / "record")


def test_record__that_cannot_be_written_whole_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda *_: 3)
    with pytest.raises(OSError, match="No space"):
        write_record(tmp_path / "record")
    assert list(tmp_path.iterdir()) == []


def test_record__that_is_not_whole_or_not_ours_is_none(tmp_path):
    path = tmp_path / "record"
    assert read_record(path) is None
    for text in ("", "{", '{"pid": 1', "[1]", "[" * 5000, '{"a": "' + "x" * 20_000 + '"}', "\xff"):
        path.write_text(text, encoding="latin-1")
        assert read_record(path) is None, text[:20]


def test_record__is_not_read_through_a_link_or_from_a_pipe(tmp_path):
    write_record(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    assert read_record(tmp_path / "link") is None
    assert read_record(tmp_path / "pipe") is None


@linux
def test_verdict__this_process_is_alive():
    assert verdict(current_owner().record).state == "alive"


@linux
def test_verdict__another_living_process_is_alive(run_script):
    record = json.loads(
        run_script(
            """
            import json, os
            from lacuna.utils.owner import current_owner, verdict
            mine = current_owner().record
            if os.fork() == 0:
                found = verdict(mine); print(json.dumps([found.state, found.reason]), flush=True)
                os._exit(0)
            os.wait()
            """
        )[0]
    )
    assert record[0] == "alive"
    assert "runs" in record[1]


def test_verdict__a_process_that_ended_is_dead(ended):
    found = verdict(altered(pid=ended))
    assert found.state == "dead"
    assert str(ended) in found.reason


@linux
def test_verdict__a_number_that_another_process_has_by_now_is_dead():
    earlier = current_owner().record["start_time"] - 1
    assert verdict(altered(start_time=earlier)).state == "dead"


@linux
def test_verdict__a_zombie_is_dead(tmp_path):
    code = (
        "import os, sys; from lacuna.utils.owner import write_record;"
        f"write_record({str(tmp_path / 'record')!r})"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = verdict(read_record(tmp_path / "record"))
    child.wait()
    assert found.state == "dead"
    assert "waits for its parent" in found.reason


@pytest.mark.parametrize(
    ("fact", "word"),
    [
        ({"host": "node17"}, "host"),
        ({"pid_namespace": "pid:[1]"}, "container"),
        ({"time_namespace": "time:[1]"}, "namespace"),
        ({"boot_id": None}, "boot"),
        ({"start_time": None}, "since when"),
    ],
)
@linux
def test_verdict__what_cannot_be_compared_is_unknown(fact, word, ended):
    found = verdict(altered(**fact))
    assert found.state == "unknown"
    assert word in found.reason
    if "start_time" not in fact:  # a dead number elsewhere proves nothing either
        assert verdict(altered(pid=ended, **fact)).state == "unknown"


@linux
def test_verdict__an_earlier_boot_is_proven_on_a_local_file_system_only(ended, tmp_path):
    before = altered(pid=ended, boot_id="0b7c6d0e-0000-4000-8000-000000000000")
    if is_local(tmp_path):
        assert verdict(before, tmp_path).state == "dead"
    assert verdict(before, "/proc").state == "unknown"  # stands for what is not surely local
    assert verdict(before).state == "unknown"


@linux
def test_verdict__who_is_seen_running_was_not_lost_in_a_reboot(tmp_path):
    shown_another_boot = altered(boot_id="0b7c6d0e-0000-4000-8000-000000000000")
    assert verdict(shown_another_boot, tmp_path).state == "unknown"


def test_verdict__two_machines_without_a_boot_id_prove_nothing(ended, monkeypatch):
    monkeypatch.setitem(current_owner().record, "boot_id", None)
    assert verdict(altered(pid=ended)).state == "unknown"


@pytest.mark.parametrize("record", [None, {}, {"pid": "7"}, {"pid": 0}, {"pid": -1}, {"pid": None}])
def test_verdict__no_record_is_unknown(record):
    assert verdict(record).state == "unknown"


def test_verdict__a_number_that_no_process_can_have_is_not_alive():
    assert verdict(altered(pid=2**70)).state != "alive"


def test_verdict__windows_is_never_sent_a_signal(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("this would be Ctrl+C"))
    assert verdict(current_owner().record).state == "alive"
    assert verdict(altered(pid=os.getppid())).state == "unknown"


@linux
def test_verdict__random_identities_of_living_processes_are_never_dead():
    mine = current_owner().record
    choices = {
        "host": [mine["host"], "node17"],
        "boot_id": [mine["boot_id"], "another", None],
        "pid_namespace": [mine["pid_namespace"], "pid:[1]", None],
        "time_namespace": [mine["time_namespace"], None],
        "start_time": [mine["start_time"], None],
    }
    draw = random.Random(4)
    for _ in range(500):
        record = {**mine, **{key: draw.choice(values) for key, values in choices.items()}}
        assert verdict(record, "/").state != "dead", record


@pytest.mark.faults
@pytest.mark.root
def test_verdict__across_containers_is_unknown_in_both_directions(tmp_path):
    write_record(tmp_path / "outside")
    code = (
        "import sys; from lacuna.utils.owner import *; from lacuna.utils import owner\n"
        f"print(verdict(read_record({str(tmp_path / 'outside')!r})).state)\n"
        f"write_record({str(tmp_path / 'inside')!r})\n"
        "print(verdict(owner.current_owner().record).state)"
    )
    for options in (["--mount-proc"], []):
        inside = subprocess.run(
            ["unshare", "-Urpf", *options, sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        # With the old /proc in place, even about itself a process can say nothing there.
        assert inside == ["unknown", "alive" if options else "unknown"]
        assert verdict(read_record(tmp_path / "inside")).state == "unknown"
        (tmp_path / "inside").unlink()
