import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lacuna.bids.derivatives import write_text
from lacuna.bids.ledger import LedgerEntry, is_begun, read_entry, read_ledger, recording
from lacuna.errors import LesionError, UnfinishedError

ROOT = Path(__file__).resolve().parents[2]
STEM = "sub-1_space-S_res-2"
KILLED = """
import os, signal, sys
from pathlib import Path
from lacuna.formats.replace import replacing
from tests.bids.test_ledger import entry_of, recording, write

out = Path(sys.argv[1])
with recording(out, entry_of()):
    write(out, two="2")
    with replacing(out / "sub-1" / "dwi" / "three") as stream:
        stream.write(b"half")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def entry_of(stem=STEM, **changes):
    values = {
        "stem": stem,
        "lesion": "/data/sub-1_mask.nii.gz",
        "fingerprint": "f" * 32,
        "parameters": {"Rule": "segment"},
        "inputs": {"/data/tract.trk": "a" * 32},
        "version": "1.0",
        "space": "S",
        "resolution": "2",
    }
    return LedgerEntry(**values | changes)


def write(out, **texts):
    for name, text in texts.items():
        write_text(out / "sub-1" / "dwi" / name, text)


def end_with(error, out):
    with recording(out, entry_of()):
        write(out, two="2")
        raise error


def files(out):
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_recording__says_what_was_written_and_comes_last(tmp_path):
    with recording(tmp_path, entry_of()):
        write(tmp_path, one="12345")
        assert read_ledger(tmp_path) == {}
        assert is_begun(tmp_path, STEM)
    (entry,) = read_ledger(tmp_path).values()
    assert entry.is_done
    assert entry.outputs == {"sub-1/dwi/one": 5}
    assert (entry.parameters, entry.inputs) == (entry_of().parameters, entry_of().inputs)
    assert entry.ended.endswith("+00:00")
    assert not is_begun(tmp_path, STEM)
    assert files(tmp_path) == {"sub-1/dwi/one", f"logs/{STEM}.json"}


def test_recording__removes_what_it_had_and_was_not_given_again_and_nothing_else(tmp_path):
    with recording(tmp_path, entry_of()):
        write(tmp_path, one="1", two="2")
    write(tmp_path, mine="3")
    with recording(tmp_path, entry_of()):
        write(tmp_path, two="22")
    assert files(tmp_path) == {"sub-1/dwi/two", "sub-1/dwi/mine", f"logs/{STEM}.json"}
    assert read_entry(tmp_path, STEM).outputs == {"sub-1/dwi/two": 2}


def test_recording__what_failed_holds_no_file_and_says_why(tmp_path):
    with recording(tmp_path, entry_of()):
        write(tmp_path, one="1")
    with pytest.raises(LesionError):
        end_with(LesionError("It is empty."), tmp_path)
    entry = read_entry(tmp_path, STEM)
    assert (entry.is_done, entry.reason, entry.outputs) == (False, "It is empty.", {})
    with pytest.raises(ZeroDivisionError):
        end_with(ZeroDivisionError("1 / 0"), tmp_path)
    assert read_entry(tmp_path, STEM).reason == "ZeroDivisionError: 1 / 0"
    assert files(tmp_path) == {f"logs/{STEM}.json"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UnfinishedError("It was interrupted.")])
def test_recording__an_interrupt_is_no_failure_and_leaves_a_lesion_to_be_done(tmp_path, error):
    with pytest.raises(type(error)):
        end_with(error, tmp_path)
    assert is_begun(tmp_path, STEM)
    assert read_ledger(tmp_path) == {}


def test_recording__what_a_killed_process_left_goes_with_the_next_run(tmp_path):
    with recording(tmp_path, entry_of()):
        write(tmp_path, one="1")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert read_ledger(tmp_path) == {}
    assert is_begun(tmp_path, STEM)
    assert len(files(tmp_path)) == 4  # the two, what is half, and the list of them
    with recording(tmp_path, entry_of()):
        write(tmp_path, four="4")
    assert files(tmp_path) == {"sub-1/dwi/four", f"logs/{STEM}.json"}


def test_recording__threads_keep_their_lesions_apart(tmp_path):
    together = threading.Barrier(8)

    def work(number):
        with recording(tmp_path, entry_of(f"sub-1_run-{number}")):
            together.wait()
            write(tmp_path, **{f"file{number}": "x" * number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    for number in range(8):
        entry = read_entry(tmp_path, f"sub-1_run-{number}")
        assert entry.outputs == {f"sub-1/dwi/file{number}": number}


def test_recording__files_above_the_participants_are_not_one_lesions(tmp_path):
    with recording(tmp_path, entry_of()):
        write(tmp_path, one="1")
        write_text(tmp_path / "sub-1.html", "all lesions")
    assert read_entry(tmp_path, STEM).outputs.keys() == {"sub-1/dwi/one"}


@pytest.mark.parametrize("name", ["/data/Lä sion\n.nii", "/data/\udcff.nii", "/data/病.nii"])
def test_recording__survives_odd_names(tmp_path, name):
    with recording(tmp_path, entry_of(lesion=name)):
        pass
    assert read_entry(tmp_path, STEM).lesion == name


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"stem": "x"}',
        json.dumps({**vars(entry_of()), "more": 1}).encode(),
        json.dumps({**vars(entry_of()), "stem": "other"}).encode(),
        json.dumps({**vars(entry_of()), "outputs": ["a"]}).encode(),
        json.dumps({**vars(entry_of()), "outputs": {"../a/b": 1}}).encode(),
        json.dumps({**vars(entry_of()), "outputs": {"/etc/passwd": 1}}).encode(),
        json.dumps({**vars(entry_of()), "outputs": {"sub-1/x": "1"}}).encode(),
        json.dumps({**vars(entry_of()), "parameters": None}).encode(),
    ],
)
def test_read_ledger__a_damaged_record_is_none(tmp_path, content):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / f"{STEM}.json").write_bytes(content)
    assert read_ledger(tmp_path) == {}


def test_read_ledger__a_sound_record_that_someone_wrote_is_one(tmp_path):
    """Otherwise the records above could be refused for another reason."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / f"{STEM}.json").write_text(json.dumps(vars(entry_of())))
    assert read_ledger(tmp_path) == {STEM: entry_of()}


def test_read_ledger__no_folder_is_no_record(tmp_path):
    assert read_ledger(tmp_path / "nowhere") == {}


def test_recording__a_list_that_was_edited_or_cut_short_removes_nothing_outside(tmp_path):
    out = tmp_path / "out"
    (out / "logs").mkdir(parents=True)
    for name in ("kept", "short", "gone"):
        write_text(out / "sub-1" / name, "x")
    write_text(tmp_path / "outside", "x")
    text = f"../outside\n{tmp_path}/outside\nkept\nsub-1/gone\nsub-1/short"
    (out / "logs" / f"{STEM}.begun").write_text(text)
    with recording(out, entry_of()):
        pass
    assert (tmp_path / "outside").exists()
    assert files(out) == {"sub-1/kept", "sub-1/short", f"logs/{STEM}.json"}
