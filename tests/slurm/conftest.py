"""The cluster of a session, what went wrong in it, and a study whose jobs it runs."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.slurm.cluster import Cluster, eventually

from lacuna.formats import open_tractogram, save_tck

SCRIPTS = Path(__file__).parent
SPACE = "MNI152NLin6Asym"
CONFIG = f"""\
cache_dir: cache
tmp_dir: [$SLURM_TMPDIR, scratch] # the node's own disk, where it gives us one
tractogram: {{tractogram}}
tractogram_space: {SPACE}
"""
WORK_IN_PROGRESS = (".stage", ".claims", ".trash", ".leases")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Put what SLURM and the jobs said beside the failure of a test that used them."""
    report: Any = yield
    used = getattr(item, "funcargs", {})
    if report.failed and "study" in used:
        study: Study = used["study"]
        report.sections.append(("SLURM", study.cluster.report()))
        for log in sorted(study.directory.glob("*.log")):
            last = log.read_text(errors="replace").splitlines()[-8:]
            report.sections.append((log.name, "\n".join(last)))
    return report


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        started.start()
        yield started
    finally:
        started.stop()


class Study:
    """A folder as a user has it: lesions, a configuration, scripts, and what comes of them.

    Parameters
    ----------
    directory
        Where it is made.
    cluster
        Where its jobs run.
    data
        The shared data.
    """

    n_participants = 16

    def __init__(self, directory: Path, cluster: Cluster, data: Path) -> None:
        self.directory = directory
        self.cluster = cluster
        masks = [
            *sorted((data / "lesions" / "lqt").glob("*.nii.gz")),
            *sorted((data / "lesions" / "other").glob("SYNTHETIC*.nii.gz")),
        ]
        assert len(masks) == 6
        for number in range(self.n_participants):
            subject = f"sub-{number + 1:02}"
            folder = directory / "lesions" / subject / "anat"
            folder.mkdir(parents=True)
            name = f"{subject}_space-{SPACE}_label-lesion_mask.nii.gz"
            shutil.copyfile(masks[number % len(masks)], folder / name)
        description = {"Name": "Lesions", "BIDSVersion": "1.10.0"}
        (directory / "lesions" / "dataset_description.json").write_text(json.dumps(description))
        tractogram = data / "tractograms" / f"hcp842_wholebrain_{SPACE}.trk"
        (directory / "lacuna.yaml").write_text(CONFIG.format(tractogram=tractogram))

    def submit(self, script: str, *arguments: str, options: str = "", **environment: str) -> str:
        """Submit a script as a user would; return the job's number."""
        command = ["sbatch", "--parsable", *options.split(), str(SCRIPTS / script), *arguments]
        return self.cluster.run(*command, cwd=self.directory, **_with_lacuna(environment))

    def lacuna(self, *arguments: str, ok: bool = True) -> str:
        """Run Lacuna outside of SLURM, as on the login node, and return its output."""
        done = subprocess.run(
            ["lacuna", *arguments],
            cwd=self.directory,
            env=self.cluster.environment(_with_lacuna({})),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) is ok, f"{arguments}\n{done.stderr}{done.stdout}"
        return done.stdout

    def log_of(self, job: str) -> str:
        """Return what a job, or all tasks of an array, printed."""
        files = [*self.directory.glob(f"*-{job}.log"), *self.directory.glob(f"*-{job}_*.log")]
        return "".join(file.read_text() for file in files)

    def scratch(self) -> set[str]:
        """Return the names in the temp base that all nodes share; records are none."""
        base = self.directory / "scratch"
        names = {path.name for path in base.iterdir()} if base.is_dir() else set()
        return {name for name in names if not name.startswith(".lacuna-owner-")}

    def kill(self, job: str) -> str:
        """Kill the process of a job as the kernel does when memory runs out; return its token."""
        for path in (self.directory / "scratch").glob(".lacuna-owner-*.json"):
            record = json.loads(path.read_text())
            # A task of an array has two numbers.
            if job in re.split("[=,]", record["job"] or ""):
                os.kill(record["pid"], signal.SIGKILL)
                return str(record["token"])
        raise AssertionError(f"job {job} has no scratch")

    def in_progress(self) -> set[str]:
        """Return what lies where the cache keeps unfinished work."""
        cache = self.directory / "cache"
        places = [cache / name for name in WORK_IN_PROGRESS if (cache / name).is_dir()]
        return {f"{place.name}/{path.name}" for place in places for path in place.iterdir()}

    def products(self) -> list[str]:
        """Return the product of each entry, sorted; all are whole."""
        reports = json.loads(self.lacuna("cache", "verify", "--dry-run", "--json"))
        assert not [report for report in reports if report["problem"]]
        entries = json.loads(self.lacuna("cache", "list", "--json"))
        assert len(reports) == len(entries)
        return sorted(entry["product"] for entry in entries)

    def results(self, name: str = "results") -> dict[str, Any]:
        """Return each result as what must be the same wherever it was computed.

        Every file is read through, so that one which is cut short fails. Pages tell how long it
        took, and by which command line.
        """
        root = self.directory / name
        found = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
        return {
            str(relative): self._content(path)
            for relative, path in found.items()
            if not relative.name.startswith(".")
            and relative.parts[0] != "logs"
            and relative.suffix != ".html"
        }

    def n_done(self, name: str = "results") -> int:
        """Return how many lesions have a table: what stands where that is must be whole."""
        return sum(each.endswith("_stats.tsv") for each in self.results(name))

    def unfinished_results(self, name: str = "results") -> set[str]:
        """Return the hidden names under which results are written."""
        return {path.name for path in (self.directory / name).rglob(".*.part")}

    def _content(self, path: Path) -> Any:
        data = path.read_bytes()
        assert data, path
        if path.name.endswith(".nii.gz"):
            return gzip.decompress(data)
        if path.suffix != ".json":
            return data
        # Studies lie in different places, and the command line is that of one task.
        content = json.loads(data.replace(os.fsencode(self.directory), b"STUDY"))
        content.get("Lacuna", {}).pop("Command", None)
        return content


def _with_lacuna(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment in which this checkout's programs are found."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, **environment}


@pytest.fixture(scope="session")
def kernels(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile what is to be compiled once, lest every task of an array do it at the same time."""
    directory = tmp_path_factory.mktemp("kernels")
    mask = shared_data / "lesions" / "lqt" / "ExampleLesion1.nii.gz"
    tractogram = shared_data / "tractograms" / f"hcp842_wholebrain_{SPACE}.trk"
    options = f"--space {SPACE} --tractogram-space {SPACE} --cache-dir cache --no-figures --quiet"
    subprocess.run(
        ["lacuna", "run", "snm", mask, "results", "--tractogram", tractogram, *options.split()],
        cwd=directory,
        env=os.environ | _with_lacuna({}),
        stdout=subprocess.DEVNULL,
        check=True,
    )


@pytest.fixture
def study(cluster: Cluster, kernels: None, shared_data: Path, tmp_path: Path) -> Iterator[Study]:
    """Give a study of its own, and end its jobs."""
    yield Study(tmp_path, cluster, shared_data)
    cluster.run("scancel", "--user=root")
    eventually(lambda: not cluster.run("squeue", "--noheader"), "jobs to end", 30)


@pytest.fixture(scope="session")
def large_tractogram(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a real tractogram twenty times over: seconds of building, to be stopped in."""
    small = open_tractogram(shared_data / "tractograms" / f"hcp842_wholebrain_{SPACE}.trk")
    points, offsets = small.streamlines.gather(np.arange(len(small.streamlines)))
    n_copies, n_points = 20, len(points)
    path = tmp_path_factory.mktemp("large") / "large.tck"
    save_tck(
        path,
        np.concatenate([points + np.float32(i / n_copies) for i in range(n_copies)]),
        np.concatenate([[0], *(offsets[1:] + i * n_points for i in range(n_copies))]),
    )
    return path
