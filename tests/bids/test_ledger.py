import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


def end_with(error, out, **changes):
    with recording(out, entry_of(**changes)):
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


@contextmanager
def lesion(out, **changes):
    """Keep a record as a process of its own does: what one thread writes no other is told of."""
    with ThreadPoolExecutor(1) as pool:
        kept = recording(out, entry_of(**changes))
        pool.submit(kept.__enter__).result()
        yield lambda **texts: pool.submit(write, out, **texts).result()
        pool.submit(kept.__exit__, None, None, None).result()


OTHER = {"parameters": {"Rule": "vertex"}}


def test_recording__of_two_runs_that_ask_different_things_none_vouches_for_the_files(tmp_path):
    """Whoever ends last, `one` may be the other's."""

    def run_both():
        with lesion(tmp_path) as writes, pytest.raises(UnfinishedError):
            run_other(writes)

    def run_other(writes):
        with lesion(tmp_path, **OTHER) as also_writes:
            also_writes(one="other")
            writes(one="first")

    with pytest.raises(UnfinishedError, match="at the same time"):
        run_both()
    assert read_ledger(tmp_path) == {}
    assert is_begun(tmp_path, STEM)
    with lesion(tmp_path) as writes:
        writes(two="2")
    assert files(tmp_path) == {"sub-1/dwi/two", f"logs/{STEM}.json"}


@pytest.mark.parametrize("other", [OTHER, {"fingerprint": "e" * 32}, {"version": "1.1"}])
def test_recording__a_run_that_began_before_another_ended_does_not_vouch_for_its_files(
    tmp_path, other
):
    def run_both():
        with lesion(tmp_path) as writes:
            writes(one="first")
            with lesion(tmp_path, **other) as also_writes:
                also_writes(one="other")
            assert read_entry(tmp_path, STEM) is not None
            writes(two="first")

    with pytest.raises(UnfinishedError):
        run_both()
    assert read_entry(tmp_path, STEM) is None


def test_recording__knows_of_others_also_by_a_list_that_is_not_the_one_it_began(tmp_path):
    def run_three():
        with lesion(tmp_path):
            with lesion(tmp_path, **OTHER):
                pass
            with pytest.raises(KeyboardInterrupt):
                end_with(KeyboardInterrupt(), tmp_path, **OTHER)

    with pytest.raises(UnfinishedError):
        run_three()
    assert is_begun(tmp_path, STEM)


def test_recording__a_run_that_began_first_and_fails_leaves_the_other_its_files(tmp_path):
    def run_both():
        with recording(tmp_path, entry_of()):
            with lesion(tmp_path, **OTHER) as also_writes:
                also_writes(one="other")
            raise ZeroDivisionError

    with pytest.raises(UnfinishedError):
        run_both()
    assert read_entry(tmp_path, STEM).is_done
    assert files(tmp_path) == {"sub-1/dwi/one", f"logs/{STEM}.json"}


def test_recording__two_runs_that_ask_the_same_both_end_it(tmp_path):
    with lesion(tmp_path) as writes:
        writes(one="1")
        with lesion(tmp_path) as also_writes:
            also_writes(one="1", two="2")
        writes(two="2")
    assert read_entry(tmp_path, STEM).outputs == {"sub-1/dwi/one": 1, "sub-1/dwi/two": 1}
    assert files(tmp_path) == {"sub-1/dwi/one", "sub-1/dwi/two", f"logs/{STEM}.json"}


def test_recording__does_not_call_done_what_lost_a_file_meanwhile(tmp_path):
    def run():
        with lesion(tmp_path) as writes:
            writes(one="1", two="2")
            (tmp_path / "sub-1/dwi/two").unlink()

    with pytest.raises(UnfinishedError, match="two was removed"):
        run()
    assert is_begun(tmp_path, STEM)
    with lesion(tmp_path):
        pass
    assert files(tmp_path) == {f"logs/{STEM}.json"}


def test_recording__goes_on_after_a_list_whose_last_line_was_cut_short(tmp_path):
    with recording(tmp_path, entry_of()):
        write(tmp_path, one="1")
    (tmp_path / "logs" / f"{STEM}.begun").write_text("mark sub-1/dwi/o")
    with pytest.raises(KeyboardInterrupt):
        end_with(KeyboardInterrupt(), tmp_path)  # before it replaced `one`
    with recording(tmp_path, entry_of()):
        pass
    assert files(tmp_path) == {f"logs/{STEM}.json"}
