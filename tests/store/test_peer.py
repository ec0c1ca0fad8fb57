"""Two processes, two mounts and two hosts of one directory."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from tests.store.samples import dead_record, foreign_record

from lacuna.errors import CacheDirError, CacheError
from lacuna.store import _peer
from lacuna.store.doctor import compare_nodes

LACUNA = "import sys; from lacuna.cli.main import main; sys.exit(main())"


def start(directory, *wrapper, wait="30s"):
    words = ("cache", "doctor", "--peer", "--json", "--wait", wait, str(directory))
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", LACUNA, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process, code=0):
    out, err = process.communicate(timeout=100)
    assert process.returncode == code, (out, err[-3000:])
    return out, err


def findings(process, directory, code=0):
    out, _ = end(process, code)
    return {finding["name"]: finding for finding in json.loads(out)[str(directory)]}


def wait_for(directory, pattern):
    until = time.monotonic() + 30
    while not list(directory.glob(pattern)):
        assert time.monotonic() < until, pattern
        time.sleep(0.005)


def is_clean(directory):
    return not list(directory.iterdir())


def test_peer__both_find_each_other_say_the_same_and_leave_nothing(tmp_path):
    pair = [start(tmp_path), start(tmp_path)]
    first, second = (findings(process, tmp_path) for process in pair)
    assert first == second
    assert first["nodes"]["verdict"] == "note"
    assert "one machine" in first["nodes"]["seen"]
    del first["nodes"]
    assert {name: finding["verdict"] for name, finding in first.items()} == dict.fromkeys(
        (
            *("exclusive file", "first rename wins", "flock", "fcntl lock"),
            *("entry seen", "clocks"),
        ),
        "ok",
    )
    counts = re.findall(r"\d+", first["exclusive file"]["seen"])
    assert int(counts[0]) == int(counts[1]) + int(counts[2]) == 200
    assert is_clean(tmp_path)


def test_peer__leftovers_of_killed_runs_do_not_answer_and_go_if_proven_dead(tmp_path):
    for name, record in (("0dead", dead_record()), ("0foreign", foreign_record())):
        place = tmp_path / f".lacuna-doctor-peer-{name}"
        place.mkdir()
        (place / "owner.json").write_text(json.dumps(record))
        (place / "first.json").write_text('{"beat": 7, "guest": null}')
        (place / "second.json").touch()
    pair = [start(tmp_path), start(tmp_path)]
    assert findings(pair[0], tmp_path) == findings(pair[1], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lacuna-doctor-peer-0foreign"]


def test_peer__alone_it_gives_up_and_says_what_to_run_where(tmp_path):
    told = []
    with pytest.raises(CacheError, match=r"No other node came within 1 s.*srun -N 2"):
        compare_nodes(tmp_path, wait_s=1, tell=told.append)
    assert f"lacuna cache doctor --peer {tmp_path}" in told[0]
    assert is_clean(tmp_path)


def test_peer__a_directory_that_is_absent_is_a_typed_error(tmp_path):
    with pytest.raises(CacheDirError, match="absent is not a directory"):
        compare_nodes(tmp_path / "absent")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_peer__stopped_while_it_waits_leaves_nothing(tmp_path, number):
    waiting = start(tmp_path)
    wait_for(tmp_path, "*/first.json")
    waiting.send_signal(number)
    waiting.communicate(timeout=30)
    assert waiting.returncode != 0
    assert is_clean(tmp_path)


def test_peer__stopped_in_the_middle_tells_the_other_and_both_leave_nothing(tmp_path):
    pair = [start(tmp_path), start(tmp_path)]
    wait_for(tmp_path, "*/claim.*")
    pair[0].send_signal(signal.SIGINT)
    end(pair[0], 130)
    _, err = end(pair[1], 1)
    assert "The other node stopped in the middle" in err
    assert is_clean(tmp_path)


@pytest.mark.stress
def test_peer__a_third_finds_nobody_and_does_not_disturb(tmp_path):
    group = [start(tmp_path, wait="8s") for _ in range(3)]
    done = [process.communicate(timeout=100) for process in group]
    codes = sorted(process.returncode for process in group)
    assert codes == [0, 0, 1], done
    assert is_clean(tmp_path)


def facts(**changes):
    """Return what one end found where all is well, with changes."""
    is_first = changes.pop("is_first")
    won = [is_first, not is_first] * 3
    return {
        "host": f"node{is_first}",
        "boot_id": str(is_first),
        "files": won,
        "directories": won,
        "wrong": 0,
        "flock": "held" if is_first else "EAGAIN",
        "lockf": "held" if is_first else "EAGAIN",
        "seen_s": 0.0,
        "clock": (0.0, 0.001),
        **changes,
    }


def judged(first=None, second=None):
    found = _peer._judge(
        facts(is_first=True, **(first or {})), facts(is_first=False, **(second or {}))
    )
    return {finding.name: finding for finding in found if finding.verdict != "ok"}


def test_judge__two_good_nodes_are_fine():
    assert judged() == {}


@pytest.mark.parametrize("which", ["files", "directories"])
def test_judge__two_winners_or_none_break_a_promise(which):
    for won in ([True] * 6, [False] * 6):
        (finding,) = judged({which: won}).values()
        assert (finding.verdict, "3 by" in finding.seen) == ("problem", True)


def test_judge__an_entry_that_was_replaced_breaks_a_promise():
    (finding,) = judged(second={"wrong": 3}).values()
    assert (finding.name, finding.verdict) == ("first rename wins", "problem")
    assert "3 of 6" in finding.seen


def test_judge__locks_that_lie_are_a_note():
    (finding,) = judged(second={"flock": "held"}).values()
    assert (finding.verdict, finding.seen) == (
        *("note", "it lies: the other node was granted it too"),
    )


@pytest.mark.parametrize(("seconds", "verdict"), [(3.0, "note"), (61.0, "warning")])
def test_judge__what_is_seen_late_is_said_in_figures(seconds, verdict):
    (finding,) = judged(second={"seen_s": seconds}).values()
    assert (finding.name, finding.verdict) == ("entry seen", verdict)
    assert f"{seconds:.0f}000 ms" in finding.seen


def test_judge__clocks_that_differ_are_a_warning():
    (finding,) = judged({"clock": (-40.0, 0.01)}).values()
    assert (finding.name, finding.verdict) == ("clocks", "warning")
    assert "nodeFalse is 40.000 s behind nodeTrue" in finding.seen


@pytest.fixture
def two_mounts(tmp_path, require_tool):
    """Return two bindfs mounts of one directory, and that directory."""
    require_tool("bindfs")
    shown = [tmp_path / "real", tmp_path / "one", tmp_path / "two"]
    for path in shown:
        path.mkdir()
    mounted = []
    try:
        for path in shown[1:]:
            subprocess.run(["bindfs", str(shown[0]), str(path)], check=True)
            mounted.append(path)
        yield shown
    finally:
        for path in mounted:
            subprocess.run(["fusermount", "-u", str(path)], check=True)


@pytest.mark.faults
def test_peer__two_mounts_whose_locks_lie_keep_all_promises(two_mounts):
    real, *mounts = two_mounts
    pair = [start(place) for place in mounts]
    found = findings(pair[0], mounts[0])
    assert found == findings(pair[1], mounts[1])
    for name in ("flock", "fcntl lock"):
        assert found[name]["verdict"] == "note"
        assert "it lies" in found[name]["seen"]
        assert "Nothing in the cache rests on a lock" in found[name]["meaning"]
    assert found["exclusive file"]["verdict"] == found["first rename wins"]["verdict"] == "ok"
    assert is_clean(real)


@pytest.mark.faults
def test_peer__two_hosts_find_each_other(tmp_path, require_tool):
    require_tool("hostname")
    boot = 'cat /proc/sys/kernel/random/uuid >"$1" && mount --bind "$1" '
    boot += "/proc/sys/kernel/random/boot_id"
    hosts = []
    (tmp_path / "shared").mkdir()
    for name in ("node-1", "node-2"):
        script = f'hostname {name} && {boot} && shift && exec "$@"'
        wrapper = ("unshare", "-Urmu", "sh", "-c", script, "sh", str(tmp_path / name))
        hosts.append(start(tmp_path / "shared", *wrapper))
    found = findings(hosts[0], tmp_path / "shared")
    assert found == findings(hosts[1], tmp_path / "shared")
    assert found["nodes"]["verdict"] == "ok"
    assert re.fullmatch(r"node-[12] and node-[12]", found["nodes"]["seen"])
    assert is_clean(tmp_path / "shared")


def test_line__what_was_said_before_is_kept_for_an_end_that_did_not_look(tmp_path):
    for name in ("first.json", "second.json"):
        (tmp_path / name).touch()
    first, second = _peer.Line(str(tmp_path), True), _peer.Line(str(tmp_path), False)
    first.tell(number=1)
    first.tell(number=2)
    assert (second.hear(), second.hear()) == ({"number": 1}, {"number": 2})


def test_line__an_end_whose_place_is_gone_is_told_so(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    line = _peer.Line(str(place), True)
    shutil.rmtree(place)
    with pytest.raises(CacheError, match="stopped"):
        line.hear()
