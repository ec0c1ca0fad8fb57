"""A run kills itself at its N-th change to OUTPUT_DIR, for many N; a program, run by test_killed.

usage: python -m tests.workflow.killed SCENARIO DIRECTORY

Prints at how many places it died. Fails with the first state that breaks the promise: what has the
name of a result is whole, a lesion that is called done holds what it should, and the next run
makes of the folder what an undisturbed one would have.
"""

import io
import itertools
import json
import os
import shutil
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from tests.phantoms import parallel_tract, write_nifti, write_tck

from lacuna.cli.main import main
from lacuna.geometry.grid import Grid

GRID = Grid((20, 20, 1), np.eye(4))
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.link", "os.truncate")
COMMON = ["--no-report", "--threads", "1", "--quiet", "--cache-dir", "kept"]
SNM = ["--tractogram", "tract.tck", "--grid", "grid.nii.gz", "--min-tdi", "1", "--no-figures"]
HALVES = ["--atlas", "atlas-Halves_space-S_dseg.nii.gz"]
FIFTHS = ["--atlas", "atlas-Fifths_space-S_dseg.nii.gz"]

SCENARIOS = {
    "damage": ([], ["damage", *HALVES], 3),
    "damage-stale": (["damage", *HALVES, *FIFTHS], ["damage", *FIFTHS], 5),
    "snm": ([], ["snm", *SNM], 11),
    "snm-stale": (["snm", *SNM, "--save-streamlines", "tck"], ["snm", *SNM, *HALVES], 17),
}
"""Options of an earlier run, if there was one, of the one that is killed, and at each how many."""


def write_inputs() -> None:
    Path("masks").mkdir()
    for name, n_lesioned in {"one": 5, "two": 8, "none": 0}.items():
        mask = np.zeros(GRID.shape, np.uint8)
        mask[8:10, :n_lesioned] = 1
        write_nifti(Path("masks", f"{name}_space-S.nii.gz").absolute(), mask, GRID)
    for name, share in (("Halves", 10), ("Fifths", 4)):
        labels = np.tile(1 + np.arange(20)[:, None, None] // share, (1, 20, 1)).astype(np.int16)
        write_nifti(Path(f"atlas-{name}_space-S_dseg.nii.gz").absolute(), labels, GRID)
        rows = "".join(f"{number}\tp{number}\n" for number in np.unique(labels))
        Path(f"atlas-{name}_space-S_dseg.tsv").write_text(f"index\tname\n{rows}")
    write_tck(Path("tract.tck").absolute(), parallel_tract(20)[0])
    Path("tract.json").write_text('{"Space": "S"}')
    write_nifti(Path("grid.nii.gz").absolute(), np.zeros(GRID.shape, np.uint8), GRID)


def run(options: list[str], kill_at: int = 0) -> int:
    """Run in a process of its own; return its exit status, or less than 0 if it was killed."""
    child = os.fork()
    if child == 0:
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        if kill_at:
            die_at(kill_at, str(Path("out").absolute()))
        analysis, *rest = options
        code = main(["run", analysis, "masks", "out", *rest, *COMMON])
        Path("stderr").write_text(sys.stderr.getvalue())
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at(number: int, place: str) -> None:
    left = number

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        opens = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (opens or event in CHANGES) and str(Path(str(args[0])).absolute()).startswith(place):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def status() -> dict[str, str]:
    """Return the state of each lesion by its name, from another process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with redirect_stdout(io.StringIO()) as shown:
            main(["status", "masks", "out", "--json", "--cache-dir", "kept"])
        os.write(writer, shown.getvalue().encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        told = json.loads(stream.read())
    os.waitpid(child, 0)
    return {Path(each["lesion"]).name.split("_")[0]: each["state"] for each in told["lesions"]}


def contents(*, hidden: bool = True) -> dict[str, object]:
    """Return what the folder holds; of records what does not depend on the clock."""
    found: dict[str, object] = {}
    for path in Path("out").rglob("*"):
        if not path.is_file() or not (hidden or path.name[0] != "."):
            continue
        name = path.relative_to("out").as_posix()
        found[name] = path.read_bytes()
        if path.parent.name == "logs" and path.suffix == ".json":
            record = json.loads(path.read_bytes())
            found[name] = {k: v for k, v in record.items() if k not in ("seconds", "ended")}
    return found


def sweep(before: list[str], options: list[str], step: int) -> int:
    write_inputs()
    assert run(options) == 1, Path("stderr").read_text()  # which also fills the cache
    expected, earlier = contents(), {}
    if before:
        shutil.rmtree("out")
        assert run(before) == 1, Path("stderr").read_text()
        earlier = contents()
        shutil.copytree("out", "out-before")
    for n_killed, number in enumerate(itertools.count(1, step)):
        shutil.rmtree("out")
        if before:
            shutil.copytree("out-before", "out")
        code = run(options, kill_at=number)
        if code != -signal.SIGKILL:
            assert code == 1
            return n_killed
        try:
            check(expected, earlier)
            assert run(options) == 1, Path("stderr").read_text()
            after = contents()
            left = {name for name in after.keys() - expected.keys() if is_unnamed(name)}
            other = {
                name
                for name in (after.keys() | expected.keys()) - left
                if after.get(name) != expected.get(name)
            }
            assert not other, other
        except Exception as problem:
            raise AssertionError(f"killed at change {number}") from problem
    raise AssertionError("counting has no end")


def is_unnamed(name: str) -> bool:
    """Whether it is what is left of a file about the whole dataset, which no lesion's list has."""
    folder, _, file = name.rpartition("/")
    is_of_all = folder in ("", "logs") and not file.startswith(".sub-")
    return is_of_all and file.startswith(".") and file.endswith(".part")


def check(expected: dict[str, object], earlier: dict[str, object]) -> None:
    """See that what has a name is whole, and that nothing is called done which is not."""
    now = contents(hidden=False)
    for name, content in now.items():
        if name.startswith("sub-"):
            assert content in (expected.get(name), earlier.get(name)), f"{name} is not whole"
    for lesion, state in status().items():
        place = f"sub-{lesion}/"
        held, new, old = (of(place, each) for each in (now, expected, earlier))
        if state == "done":
            assert held, f"{lesion} is called done, and holds nothing"
            assert held in (new, old), f"{lesion} is called done, and is neither run's"


def of(place: str, found: dict[str, object]) -> dict[str, object]:
    return {name: content for name, content in found.items() if name.startswith(place)}


if __name__ == "__main__":
    scenario, directory = sys.argv[1:]
    os.chdir(directory)
    sys.stdout.write(f"{sweep(*SCENARIOS[scenario])}\n")
