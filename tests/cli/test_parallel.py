"""``lacuna run … --nprocs``: the same files for any number of processes, and none left behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from tests.phantoms import coherent_tractogram, parallel_tract, write_nifti, write_tck

from lacuna.cli.main import main
from lacuna.geometry.grid import Grid

GRID = Grid((20, 20, 1), np.eye(4))
STOPS_IN_S = 5.0
ENTRY = "import sys; from lacuna.cli.main import command; sys.exit(command())"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def four_processors(monkeypatch):
    monkeypatch.setenv("LACUNA_NUM_THREADS", "4")


@pytest.fixture
def study(tmp_path):
    """Twenty streamlines with weights, an atlas, and eight masks of which the third is empty."""
    write_tck(tmp_path / "tract.tck", parallel_tract(20)[0])
    (tmp_path / "tract.json").write_text('{"Space": "StudySpace"}')
    np.savetxt(tmp_path / "weights.txt", np.linspace(0.1, 1.7, 20))
    labels = np.zeros(GRID.shape, np.int32)
    labels[:6], labels[14:] = 1, 2
    write_nifti(tmp_path / "space-StudySpace_atlas-Two_dseg.nii.gz", labels, GRID)
    write_nifti(tmp_path / "grid.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
    write_masks(tmp_path / "masks", 8, empty=2)
    return tmp_path


def write_masks(folder, n, *, empty=None):
    folder.mkdir()
    for i in range(n):
        mask = np.zeros(GRID.shape, np.uint8)
        mask[8:10, : 0 if i == empty else 1 + i % 19] = 1
        write_nifti(folder / f"m{i:02}_space-StudySpace.nii.gz", mask, GRID)


def words(out, *options):
    return [
        *["run", "snm", "masks", str(out), "--tractogram", "tract.tck", "--grid", "grid.nii.gz"],
        *["--min-tdi", "1", "--atlas", "space-StudySpace_atlas-Two_dseg.nii.gz"],
        *map(str, options),
    ]


def digests(folder):
    """Return a digest of every result; what was run, and for how long, is none."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith("logs/") or path.suffix == ".html":
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            said = json.loads(data)
            for part in (said.get("Lacuna"), *said.get("GeneratedBy", [])):
                if isinstance(part, dict):
                    part.pop("Command", None)
            data = json.dumps(said).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def test_nprocs__every_file_is_the_same_to_the_bit(study, capsys):
    extra = ["--weights", "weights.txt", "--save-streamlines", "trx", "--no-report"]
    runs = {
        "one": ["--threads", "1"],
        "threads": ["--threads", "4"],
        "three": ["--nprocs", "3", "--threads", "1"],
    }
    shown = {}
    for out, options in runs.items():
        assert main(words(out, *extra, *options)) == 1
        shown[out] = capsys.readouterr().out
    assert shown["one"].count("\n") == 8  # a header and seven lesions, in their order
    for out in ("threads", "three"):
        assert digests(out) == digests("one")
        assert shown[out] == shown["one"]
    assert len(digests("one")) > 7 * 20


def test_nprocs__damage_is_the_same_to_the_bit(study):
    atlas = "space-StudySpace_atlas-Two_dseg.nii.gz"
    for out, n in (("one", "1"), ("two", "2")):
        assert main(["run", "damage", "masks", out, "--atlas", atlas, "--nprocs", n]) == 1
    assert digests("two") == digests("one")
    assert len(digests("one")) > 7 * 4


def test_nprocs__an_error_is_that_lesions_only_and_crosses_whole(study, capsys):
    assert main(words("out", "--nprocs", "2", "--no-figures")) == 1
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if "error: m02" in line]
    assert "empty: no voxel is above 0" in line
    assert "7 of 8 lesions done" in err


def test_nprocs__what_a_worker_warns_of_is_said_once_by_the_parent(study, capsys):
    affine, mask = np.eye(4), np.zeros(GRID.shape, np.uint8)
    affine[1, 3], mask[8] = 17, 1  # most of it beside the tract
    moved = Grid(GRID.shape, affine)
    write_nifti(study / "masks" / "m99_space-StudySpace.nii.gz", mask, moved)
    main(words("one", "--no-figures"))
    alone = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    main(words("two", "--no-figures", "--nprocs", "2"))
    together = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert any("m99" in line for line in alone)
    assert sorted(together) == sorted(alone)


def test_nprocs__more_than_this_process_may_use_is_refused(study, capsys):
    assert main(words("out", "--nprocs", "5")) == 2
    assert "LACUNA_NUM_THREADS" in capsys.readouterr().err
    assert main(words("out", "--nprocs", "2", "--threads", "3")) == 2
    assert "needs 6 processors" in capsys.readouterr().err
    assert not Path("out").exists()


def test_mem__too_little_is_refused_before_anything_is_made(study, capsys):
    assert main(words("out", "--nprocs", "4", "--mem", "1 GB")) == 2
    assert "--nprocs 2 would fit" in capsys.readouterr().err
    assert main(["run", "damage", *words("out")[2:4], *words("out")[-2:], "--mem", "1M"]) == 2
    assert main(words("out", "--mem", "1M", "--dry-run")) == 2
    assert not Path("out").exists()


@pytest.mark.parametrize("options", [["--threads", "1"], ["--nprocs", "2"]])
def test_stop_on_first_crash__begins_nothing_after_it_and_says_what(study, capsys, options):
    write_nifti(
        study / "masks" / "m00_space-StudySpace.nii.gz", np.zeros(GRID.shape, np.uint8), GRID
    )
    assert main(words("out", "--stop-on-first-crash", *options)) == 1
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if "not begun" in line]
    n_idle = int(line.split("not begun: ")[1].split()[0])
    assert 4 <= n_idle <= 7  # who draws another meanwhile may end it
    done = [path for path in Path("out").glob("sub-*") if path.is_dir()]
    assert len(done) == 8 - n_idle - sum(f"error: m{i:02}" in err for i in range(8))
    assert "m07_space-StudySpace.nii.gz" in line


BOTH = pytest.mark.parametrize("scratch", ["fork server", "spawned"], indirect=True)


@pytest.fixture
def scratch(request, tmp_path):
    """A scratch directory; in one with a long path no fork server can have its socket."""
    if getattr(request, "param", "") == "spawned":
        folder = tmp_path / ("long" * 20)
        folder.mkdir()
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


class Run:
    """The command in a process of its own, and what can be seen of it."""

    def __init__(self, study, scratch, *options, n_masks=40):
        self.study, self.scratch = study, scratch
        write_masks(study / "many", n_masks)
        arguments = words("out", "--cache-dir", "cache", "--tmp-dir", scratch, *options)
        arguments[2] = "many"
        self.mark = f"LACUNA_TEST_RUN={os.urandom(8).hex()}"
        name, value = self.mark.split("=")
        with (study / "err").open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", ENTRY, *arguments],
                stdout=subprocess.PIPE,
                stderr=err,
                env={**os.environ, name: value},
                text=True,
            )

    def wait_for_rows(self, n):
        rows = []
        for line in self.process.stdout:
            rows.append(line)
            if len(rows) > n:  # the first is the header
                return
        pytest.fail(self.err)

    @property
    def err(self):
        return (self.study / "err").read_text()

    def family(self):
        """Return the processes that inherited our mark, by number: their command lines."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (path / "environ").read_bytes():
                    found[int(path.name)] = (path / "cmdline").read_bytes()
            except OSError:
                continue
        return found

    def workers(self):
        """Return the numbers of the worker processes: children of the fork server, or spawned."""
        found = []
        for pid, command in self.family().items():
            if b"forkserver" in command:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
                found += map(int, children.split())
            elif b"spawn_main" in command:
                found.append(pid)
        return sorted(set(found))

    def end(self, expected):
        """Wait until nothing of it is left, and look what it leaves."""
        started = time.monotonic()
        self.process.stdout.close()
        code = self.process.wait(60)
        left = self.family()
        while left and time.monotonic() - started < STOPS_IN_S:
            time.sleep(0.05)
            left = self.family()
        seconds = time.monotonic() - started
        assert code == expected, self.err
        assert not left
        assert seconds < STOPS_IN_S
        if code != -signal.SIGKILL:  # who is killed so can clear nothing away; the next run does
            assert not list(Path("out").rglob("*.part"))

    def check_scratch(self):
        assert not list(self.scratch.iterdir())

    def check_finished_lesions(self):
        """A lesion with a summary has all its files; and no image is cut short."""
        import nibabel as nib

        for table in Path("out").rglob("*_desc-summary_stats.tsv"):
            assert len(list(table.parent.glob("*.nii.gz"))) == 5
        for image in Path("out").rglob("*.nii.gz"):
            np.asarray(nib.load(image).dataobj)


@pytest.fixture
def start(study, scratch):
    """Start a run that ends with the test, whatever becomes of it."""
    runs = []

    def begin(*options):
        runs.append(Run(study, scratch, *options))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.stdout.close()
        run.process.wait()


@on_linux
@pytest.mark.faults
@pytest.mark.parametrize("nprocs", ["1", "3"])
@pytest.mark.parametrize("n_rows", [0, 1, 7])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_signals__a_run_that_draws_stops_at_once_and_leaves_nothing(
    start, number, code, n_rows, nprocs
):
    run = start("--nprocs", nprocs)
    if n_rows:
        run.wait_for_rows(n_rows)
    else:
        while "index of 20 streamlines" not in run.err:
            assert run.process.poll() is None, run.err
            time.sleep(0.01)
    run.process.send_signal(number)
    run.end(code)
    run.check_scratch()
    run.check_finished_lesions()
    assert "Traceback" not in run.err


@on_linux
@pytest.mark.faults
@BOTH
def test_signals__ctrl_c_in_a_terminal_reaches_all_processes_and_is_told_once(start):
    run = start("--nprocs", "3")
    run.wait_for_rows(2)
    for pid in [run.process.pid, *run.workers()]:
        os.kill(pid, signal.SIGINT)
    run.end(130)
    run.check_scratch()
    assert run.err.count("interrupted") == 1
    assert "Traceback" not in run.err


@on_linux
@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals__to_all_processes_of_a_job_leave_nothing(start, number):
    run = start("--nprocs", "3")
    run.wait_for_rows(2)
    for pid in run.family():
        os.kill(pid, number)
    run.end(128 + number)
    run.check_scratch()
    run.check_finished_lesions()
    assert "Traceback" not in run.err


@on_linux
@pytest.mark.faults
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals__a_run_that_builds_its_index_keeps_no_part_of_it(study, start, number, code):
    write_tck(study / "tract.tck", coherent_tractogram(200_000))
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = -90, -126, -72
    whole = Grid((91, 109, 91), affine)
    write_nifti(study / "grid.nii.gz", np.zeros(whole.shape, np.uint8), whole)
    run = start("--nprocs", "2")
    entries = study / "cache"
    while not list(entries.rglob("*.npy")):  # it has begun to write
        assert run.process.poll() is None, run.err
        time.sleep(0.01)
    run.process.send_signal(number)
    run.end(code)
    run.check_scratch()
    assert "index of" not in run.err
    assert "Traceback" not in run.err
    left = [path.name for path in entries.rglob("*") if path.suffix in (".npy", ".part")]
    assert not left


@on_linux
@pytest.mark.faults
@pytest.mark.parametrize("nprocs", ["1", "3"])
def test_signals__whoever_presses_ctrl_c_twice_is_told_once(start, nprocs):
    run = start("--nprocs", nprocs)
    run.wait_for_rows(2)
    for _ in range(3):
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    run.end(130)
    run.check_scratch()
    assert run.err.count("interrupted") == 1
    assert "Traceback" not in run.err


@on_linux
@pytest.mark.faults
@BOTH
def test_signals__workers_go_when_their_parent_was_killed(start):
    run = start("--nprocs", "3")
    run.wait_for_rows(1)
    assert len(run.workers()) >= 3
    run.process.kill()
    run.end(-signal.SIGKILL)
    run.check_finished_lesions()


@on_linux
@pytest.mark.faults
@BOTH
def test_killed_worker__costs_its_own_lesion_only(start):
    run = start("--nprocs", "3")
    run.wait_for_rows(1)
    victim = run.workers()[0]
    os.kill(victim, signal.SIGKILL)
    rows = run.process.stdout.read().splitlines()
    run.end(1)
    lost = [line for line in run.err.splitlines() if "signal 9" in line]
    assert len(lost) == 1
    assert "--nprocs" in lost[0]
    assert "39 of 40 lesions done" in run.err
    assert len(rows) + 1 == 39
    run.check_scratch()
    run.check_finished_lesions()


@on_linux
@pytest.mark.faults
def test_killed_worker__leaves_no_half_written_file(start):
    run = start("--nprocs", "2")
    run.wait_for_rows(1)
    n_killed = 0
    while n_killed < 3 and run.process.poll() is None:
        workers = run.workers()
        if len(workers) == 2:
            os.kill(workers[-1], signal.SIGKILL)
            n_killed += 1
        elif n_killed and "before it could begin" in run.err:
            break  # that one was not replaced
        time.sleep(0.3)
    run.process.stdout.read()
    run.end(1)
    run.check_finished_lesions()
    assert "not begun" not in run.err
    assert run.err.count("signal 9") == n_killed
