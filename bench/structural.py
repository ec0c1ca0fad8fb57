"""What a lesion costs, beside MRtrix3 on the same files in the same run: a table of ratios.

usage: python bench/structural.py [--sizes 0.1,0.5,2] [--quick] [--json FILE] [--directory DIR]

Ours and the peer take turns, so that a busy machine slows both; times are medians. README.md in
this folder says what is compared with what.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from lacuna.analysis.structural import disconnect_voxels
from lacuna.geometry.grid import Grid
from lacuna.geometry.space import canonical_grid
from lacuna.store import Store
from lacuna.tractogram.query import Index
from lacuna.workflow.products import open_index

Array = NDArray[Any]

SPACE = "MNI152NLin6Asym"
VOLUMES_ML = (1, 10, 100)
TIMES_FASTER = {1: 3000, 10: 800, 100: 300}
"""By lesion volume, on a 1 mm grid; a third of it on others."""
BRAIN_MM = np.array([68.0, 85.0, 60.0])
MIDDLE_MM = np.array([0.0, -18.0, 10.0])
STEP_MM = 1.0
N_BUNDLES = 400
POINTS_PER_CURVE = 181
N_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    target: str
    ours: str
    peer: str = ""
    ratio: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Ran:
    """A command that has ended: its time, s, and the most memory of its own, bytes."""

    seconds: float
    own_bytes: int


class Table:
    """Rows, printed as they come."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._print(Row("what", "target", "ours", "MRtrix3", "ratio", "verdict"))

    def add(self, row: Row) -> None:
        """Print a row and keep it."""
        self.rows.append(row)
        self._print(row)

    @staticmethod
    def _print(row: Row) -> None:
        print(
            f"{row.what:44} {row.target:>12} {row.ours:>16} {row.peer:>11} {row.ratio:>9}  "
            f"{row.verdict}",
            flush=True,
        )


class Bench:
    """Where the files are, what is asked for, and how commands are run."""

    def __init__(self, directory: Path, n_lesions: int) -> None:
        self.directory = directory
        self.n_lesions = n_lesions
        self.table = Table()
        self.has_peer = shutil.which("tckmap") is not None
        self.grids = {f"{size} mm": fsl_grid(size) for size in (1, 2)}
        clean = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith(("LACUNA_", "PYTHON"))
        }
        # What is compiled once per installation is kept from one process to the next.
        kernels = directory / "kernels"
        kernels.mkdir(mode=0o700)
        self.environment = clean | {
            "NUMBA_CACHE_DIR": str(kernels),
            "PYTHONPYCACHEPREFIX": str(directory / "bytecode"),
            "XDG_CONFIG_HOME": str(directory / "config"),
        }
        for name, grid in self.grids.items():
            write_mask(self.template(name), np.zeros(grid.shape, bool), grid)

    def template(self, name: str) -> Path:
        """Return the image that shows ``tckmap`` a grid."""
        return self.directory / f"template {name}.nii"

    def run(self, *command: object) -> Ran:
        """Run a command, and look how much memory it has that is no page of a file."""
        log = self.directory / "log"
        with log.open("w") as output:
            started = time.perf_counter()
            process = subprocess.Popen(
                [str(word) for word in command],
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            most = 0
            while process.poll() is None:
                most = max(most, anonymous_bytes(process.pid))
                time.sleep(0.005)
            seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{command[0]} failed:\n{log.read_text()}")
        return Ran(seconds, most)

    def lacuna(self, *command: object, cache: Path) -> Ran:
        """Run our own command line."""
        words = [*command, "--cache-dir", cache, "--tmp-dir", self.directory, "--quiet"]
        return self.run(Path(sys.executable).with_name("lacuna"), *words)

    def warm(self, tractogram: Path, cache: Path) -> Ran:
        """Build the index of a tractogram, with a 2 mm map."""
        words = ["--tractogram", tractogram, "--tractogram-space", SPACE, "--grid", 2]
        return self.lacuna("cache", "warm", *words, "--threads", N_THREADS, cache=cache)

    def tckmap(self, tractogram: Path, grid: str) -> Ran:
        """Map a tractogram as MRtrix3 does by default, with all cores."""
        image = self.directory / "tckmap.nii"
        words = [tractogram, image, "-template", self.template(grid)]
        return self.run("tckmap", *words, "-force", "-quiet")

    def tckedit(self, tractogram: Path, lesion: Path, kept: Path) -> Ran:
        """Keep what a lesion cuts as MRtrix3 does."""
        return self.run("tckedit", tractogram, kept, "-include", lesion, "-force", "-quiet")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="0.1,0.5,2", help="million streamlines, with commas")
    parser.add_argument("--quick", action="store_true", help="small, few lesions: minutes to one")
    parser.add_argument("--lesions", type=int, default=4, help="of each volume and grid")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    parser.add_argument("--directory", type=Path, help="on the disk to measure (default: here)")
    options, _ = parser.parse_known_args()
    sizes = [round(float(size) * 1e6) for size in options.sizes.split(",")]
    null_size, n_null, n_lesions = 1_000_000, 1000, options.lesions
    if options.quick:
        sizes, null_size, n_null, n_lesions = [20_000, 50_000], 50_000, 100, 2
    print(f"{N_THREADS} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory(dir=options.directory or ".", prefix="bench-snm-") as place:
        bench = Bench(Path(place).resolve(), n_lesions)
        if not bench.has_peer:
            print("MRtrix3 (tckmap, tckedit) is not installed: no ratios, ours only")
        prime(bench)
        per_cut: dict[int, float] = {}
        for n in sizes:
            per_cut[n] = measure_size(bench, n)
        add_growth(bench, per_cut)
        add_null(bench, null_size, n_null)
        if options.json:
            options.json.write_text(json.dumps([asdict(row) for row in bench.table.rows], indent=1))


def prime(bench: Bench) -> None:
    """Compile what is compiled once per installation, on a tractogram of its own."""
    path, cache = bench.directory / "prime.tck", bench.directory / "prime"
    places = write_tractogram(path, 2000)
    bench.warm(path, cache)
    for name, grid in bench.grids.items():
        lesion = bench.directory / f"prime {name}.nii"
        write_mask(lesion, next(random_lesions(grid, places, 1, 1, seed=0)), grid)
        run_snm(bench, path, lesion, cache)


def measure_size(bench: Bench, n: int) -> float:
    """Add the rows of one tractogram; return the time per streamline cut, s, of 10 ml lesions."""
    path = bench.directory / f"{n}.tck"
    places = write_tractogram(path, n)
    name = f"{n / 1e6:g} M"
    cache = add_build(bench, path, name)
    index = open_index(Store(cache), path, grid=bench.grids["2 mm"], threads=N_THREADS or 1).index
    add_index_size(bench, index, cache, name)
    per_cut = 0.0
    for grid_name, grid in bench.grids.items():
        for volume_ml in VOLUMES_ML:
            n_lesions = bench.n_lesions if is_small(path) else (bench.n_lesions + 1) // 2
            lesions = random_lesions(grid, places, volume_ml, n_lesions, seed=volume_ml)
            found = add_query(bench, index, path, f"{name}, {volume_ml} ml on {grid_name}", lesions)
            if volume_ml == 10 and grid_name == "1 mm":
                per_cut = found
    lesion = bench.directory / "lesion.nii"
    grid = bench.grids["1 mm"]
    write_mask(lesion, next(random_lesions(grid, places, 10, 1, seed=5)), grid)
    add_process(bench, path, lesion, cache, name)
    shutil.rmtree(cache)
    path.unlink()
    return per_cut


def add_build(bench: Bench, path: Path, name: str) -> Path:
    """Build the index of a tractogram, a small one three times; return the cache that has it."""
    ours: list[Ran] = []
    coarse: list[Ran] = []
    fine: list[Ran] = []
    cache = bench.directory / "cache"
    for _ in range(3 if is_small(path) else 1):
        shutil.rmtree(cache, ignore_errors=True)
        ours.append(bench.warm(path, cache))
        if bench.has_peer:
            fine.append(bench.tckmap(path, "1 mm"))
            coarse.append(bench.tckmap(path, "2 mm"))
    peer = median([a.seconds + b.seconds for a, b in zip(fine, coarse, strict=True)])
    seconds = median([ran.seconds for ran in ours])
    bench.table.add(compared(f"{name}: build hits and 2 mm map", "≤ 1 ×", seconds, peer, at_most=1))
    memory = max(ran.own_bytes for ran in ours)
    bench.table.add(
        Row(
            f"{name}: memory of the build",
            "≤ 2 GiB",
            size(memory),
            size(max(ran.own_bytes for ran in fine + coarse)) if fine else "",
            verdict=verdict(memory <= 2 << 30),
        )
    )
    return cache


def is_small(path: Path) -> bool:
    """Tell whether the peer takes seconds, not minutes."""
    return path.stat().st_size < 1 << 30


def add_index_size(bench: Bench, index: Index, cache: Path, name: str) -> None:
    """Add up the files of the cache."""
    n_bytes = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    per_streamline = n_bytes / index.n_streamlines
    points = index.streamlines.n_points / index.n_streamlines
    cells = index.hits.lattice.n_voxels / 1e6
    bench.table.add(
        Row(
            f"{name}: index per streamline of {points:.0f} points",
            "",
            f"{per_streamline:.0f} B",
            verdict=f"{size(n_bytes)}; lattice of {cells:.1f} M cells",
        )
    )


def add_query(bench: Bench, index: Index, path: Path, name: str, lesions: Iterator[Array]) -> float:
    """Cut and map; return the time per streamline cut, s."""
    ours: list[float] = []
    peer: list[float] = []
    n_cut = 0
    grid = bench.grids[name[-4:]]
    lesion, kept = bench.directory / "lesion.nii", bench.directory / "kept.tck"
    for mask in lesions:
        write_mask(lesion, mask, grid)
        if bench.has_peer:
            edited = bench.tckedit(path, lesion, kept)
            peer.append(edited.seconds + bench.tckmap(kept, "2 mm").seconds)
        seconds, n = time_query(index, mask, grid)
        ours.append(seconds)
        n_cut += n
    volume_ml = int(name.split(", ")[1].split()[0])
    times = TIMES_FASTER[volume_ml] / (1 if name.endswith("1 mm") else 3)
    row = compared(name, f"≥ {times:.0f} ×", median(ours), median(peer), at_least=times)
    bench.table.add(row)
    return sum(ours) / max(n_cut, 1)


def time_query(index: Index, mask: Array, grid: Grid) -> tuple[float, int]:
    """Return the median time, s, from a mask to its volume of ratios, and the streamlines cut."""
    times: list[float] = []
    for _ in range(15):
        started = time.perf_counter()
        found = disconnect_voxels(index, mask, grid, threads=N_THREADS or 1)
        _ = found.disconnection
        times.append(time.perf_counter() - started)
    return median(times), found.n_cut


def add_process(bench: Bench, path: Path, lesion: Path, cache: Path, name: str) -> None:
    """Start a process per lesion, as people do on a command line."""
    ours: list[float] = []
    peer: list[float] = []
    run_snm(bench, path, lesion, cache)
    for _ in range(3):
        ours.append(run_snm(bench, path, lesion, cache).seconds)
        if bench.has_peer:
            peer.append(bench.tckedit(path, lesion, bench.directory / "kept.tck").seconds)
    row = compared(f"{name}: new process, one 10 ml lesion", "≤ 1.5 s", median(ours), median(peer))
    bench.table.add(Row(**asdict(row) | {"verdict": verdict(median(ours) <= 1.5)}))


def run_snm(bench: Bench, path: Path, lesion: Path, cache: Path) -> Ran:
    """Run the command for one lesion, without figures; its files are removed."""
    output = bench.directory / "out"
    spaces = ["--space", SPACE, "--tractogram-space", SPACE]
    words = [lesion, output, "--tractogram", path, *spaces, "--no-figures"]
    ran = bench.lacuna("run", "snm", *words, cache=cache)
    shutil.rmtree(output)
    return ran


def add_growth(bench: Bench, per_cut: dict[int, float]) -> None:
    """Compare the time per streamline cut between tractograms of different size."""
    smallest, largest = min(per_cut), max(per_cut)
    growth = per_cut[largest] / per_cut[smallest]
    spread = ", ".join(f"{1e9 * per_cut[n]:.0f}" for n in sorted(per_cut))
    bench.table.add(
        Row(
            f"per streamline cut, from {smallest / 1e6:g} to {largest / 1e6:g} M",
            "≤ 1.25 ×",
            f"{spread} ns",
            ratio=f"{growth:.2f} ×",
            verdict=verdict(growth <= 1.25),
        )
    )


def add_null(bench: Bench, n: int, n_lesions: int) -> None:
    """Lesion one tractogram at many random places, with two threads."""
    path, cache = bench.directory / "null.tck", bench.directory / "null"
    places = write_tractogram(path, n)
    bench.warm(path, cache)
    index = open_index(Store(cache), path, grid=bench.grids["2 mm"], threads=N_THREADS or 1).index
    mask, grids = null_lesions(places, n_lesions)

    def query(grid: Grid) -> int:
        found = disconnect_voxels(index, mask, grid)
        _ = found.disconnection
        return found.n_cut

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(query, grids[:20]))
        started = time.perf_counter()
        n_cut = list(pool.map(query, grids))
        seconds = time.perf_counter() - started
    allowed = 5.0 * n_lesions / 1000
    bench.table.add(
        Row(
            f"{n_lesions} random 10 ml lesions, {n / 1e6:g} M, 2 threads",
            f"≤ {allowed:g} s",
            span(seconds),
            verdict=f"{verdict(seconds <= allowed)}; {np.mean(n_cut):.0f} cut by each",
        )
    )
    path.unlink()
    shutil.rmtree(cache)


def null_lesions(places: Array, n: int) -> tuple[Array, list[Grid]]:
    """Return a sphere of 10 ml in a box, and a grid of that box for each of n places."""
    reach = 14
    steps = np.arange(-reach, reach + 1) ** 2
    distances = steps[:, None, None] + steps[:, None] + steps
    mask = distances <= np.sort(distances, axis=None)[10_000]
    grids = []
    for place in np.random.default_rng(3).permutation(places)[:n]:
        affine = np.eye(4)
        affine[:3, 3] = np.rint(place) - reach
        grids.append(Grid((len(mask), len(mask), len(mask)), affine))
    return mask, grids


def write_tractogram(path: Path, n: int, seed: int = 0) -> Array:
    """Write n streamlines as MRtrix3 would, in random order; return 5 000 points of them.

    Each follows the curve of its bundle, beside it and a little askew. Curves are 30 to 140 mm
    long, inside an ellipsoid of a brain's size, so that the lattice is as large as with real data.
    """
    random = np.random.default_rng(seed)
    curves = random_curves(random)
    lengths = random.uniform(35, 130, N_BUNDLES)
    popularity = random.lognormal(0, 0.7, N_BUNDLES)
    header = f"mrtrix tracks\ncount: {n}\ndatatype: Float32LE\nstep_size: {STEP_MM}\nfile: . 128\n"
    places: list[Array] = []
    with path.open("wb") as file:
        file.write(f"{header}END\n".encode().ljust(128, b"\0"))
        for first in range(0, n, 20_000):
            some = min(20_000, n - first)
            bundle = random.choice(N_BUNDLES, some, p=popularity / popularity.sum())
            own_mm = np.clip(lengths[bundle] * random.normal(1, 0.1, some), 30, 140)
            counts = (own_mm / STEP_MM).astype(np.int64) + 1
            points = follow(curves, bundle, counts, random)
            if len(places) < 5:
                places.append(points[random.integers(0, len(points), 1000)])
            # A row of not-a-number ends each streamline.
            rows = np.full((len(points) + some, 3), np.nan, "<f4")
            rows[np.arange(len(points)) + np.repeat(np.arange(some), counts)] = points
            rows.tofile(file)
        np.full(3, np.inf, "<f4").tofile(file)
    found = np.concatenate(places)
    return found[np.isfinite(found).all(axis=1)].astype(np.float64)


def follow(curves: Array, bundle: Array, counts: Array, random: np.random.Generator) -> Array:
    """Return the points, (sum of counts, 3), of streamlines along curves."""
    n = len(bundle)
    askew = (np.eye(3) + random.normal(0, 0.03, (n, 3, 3))).astype(np.float32)
    centres = curves[bundle, POINTS_PER_CURVE // 2]
    beside = (centres + random.normal(0, 3, (n, 3))).astype(np.float32)
    of = np.repeat(np.arange(n), counts)
    starts = POINTS_PER_CURVE // 2 - counts // 2
    at = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts - starts, counts)
    along = curves[bundle[of], at] - centres[of]
    return np.einsum("nij,nj->ni", askew[of], along) + beside[of]


def random_curves(random: np.random.Generator) -> Array:
    """Return smooth curves of unit speed, (n, points, 3), whose middle 140 mm stay in the brain."""
    kept: list[Array] = []
    s = (np.arange(POINTS_PER_CURVE) - POINTS_PER_CURVE // 2) * STEP_MM
    while len(kept) < N_BUNDLES:
        middle = random.uniform(-1, 1, 3)
        heading, bend = random.uniform(0, [2 * np.pi, np.pi]), random.normal(0, 0.02, 2)
        wave, phase = random.normal(0, 0.35, 2), random.uniform(0, 2 * np.pi)
        a, b = (heading[i] + bend[i] * s + wave[i] * np.sin(s / 17 + phase) for i in range(2))
        steps = np.stack([np.sin(b) * np.cos(a), np.sin(b) * np.sin(a), np.cos(b)], axis=1)
        curve = np.cumsum(steps * STEP_MM, axis=0)
        curve += middle * BRAIN_MM - curve[len(s) // 2]
        inner = curve[np.abs(s) <= 70] / (BRAIN_MM - 6)
        if (np.square(inner).sum(axis=1) <= 1).all():
            kept.append(curve + MIDDLE_MM)
    return np.array(kept, np.float32)


def random_lesions(
    grid: Grid, places: Array, volume_ml: float, n: int, seed: int
) -> Iterator[Array]:
    """Yield masks of one volume at random places, spheres and irregular blobs in turn."""
    random = np.random.default_rng(seed)
    n_voxels = round(1000 * volume_ml / grid.voxel_volume_mm3)
    radius_mm = (750 * volume_ml / np.pi) ** (1 / 3)
    for number, place in enumerate(random.permutation(places)[:n]):
        voxels = np.indices(grid.shape).reshape(3, -1).T
        near = (np.abs(grid.to_world(voxels) - place) <= 1.7 * radius_mm + 2).all(axis=1)
        apart = grid.to_world(voxels[near]) - place
        field = np.linalg.norm(apart, axis=1) / radius_mm
        for wave in random.normal(0, 2.5, (12, 3)) if number % 2 else ():
            field += 0.09 * np.sin(apart / radius_mm @ wave + random.uniform(0, 7))
        mask = np.zeros(grid.n_voxels, np.bool_)
        mask[np.flatnonzero(near)[np.argsort(field, kind="stable")[:n_voxels]]] = True
        yield mask.reshape(grid.shape)


def fsl_grid(voxel_size_mm: float) -> Grid:
    """Return FSL's grid of a voxel size."""
    grid = canonical_grid(SPACE, voxel_size_mm)
    assert grid is not None
    return grid


def write_mask(path: Path, mask: Array, grid: Grid) -> None:
    """Write a mask uncompressed: what the peer reads fastest."""
    image = nib.Nifti1Image(mask.astype(np.uint8), grid.affine)
    image.set_sform(grid.affine, 4)
    image.set_qform(grid.affine, 4)
    nib.save(image, path)


def anonymous_bytes(pid: int) -> int:
    """Return the memory of a process that is no page of a file; 0 where that is not told."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    return 0


def compared(
    what: str,
    target: str,
    ours: float,
    peer: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """Return a row with two times: faster by a factor, or at most so much of the peer's."""
    if not peer:
        return Row(what, target, span(ours), "absent")
    if at_most is not None:
        ratio = f"{ours / peer:.2f} ×"
        return Row(what, target, span(ours), span(peer), ratio, verdict(ours <= at_most * peer))
    met = verdict(peer >= at_least * ours) if at_least is not None else ""
    return Row(
        what,
        target,
        span(ours),
        span(peer),
        f"{peer / ours:.{0 if peer > 10 * ours else 1}f} ×",
        met,
    )


def verdict(met: bool) -> str:
    """Say whether a target was met."""
    return "met" if met else "missed"


def median(values: Sequence[float]) -> float:
    """Return the median, 0 of nothing."""
    return statistics.median(values) if values else 0.0


def span(seconds: float) -> str:
    """Return a time with its unit."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"


def size(n_bytes: int) -> str:
    """Return a size with its unit."""
    return f"{n_bytes / 2**20:.0f} MiB" if n_bytes < 2**30 else f"{n_bytes / 2**30:.2f} GiB"


if __name__ == "__main__":
    main()
