"""What another worker process of ``lacuna run snm --nprocs N`` adds in memory.

usage: python bench/memory.py [--streamlines 1000000] [--lesions 12] [--directory DIR]

Read from ``/proc/<pid>/smaps_rollup`` while lesions of 100 ml are worked on, with figures, an atlas
of 180 parcels and weights. `written` is what a process has changed and nobody else has. Pages of
the index belong to whoever touched them: in `PSS` each process counts its share, so that their sum
over all processes counts every page once. The target is for the growth of that sum.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from structural import SPACE, fsl_grid, write_mask, write_tractogram

TARGET_MB = 300
NPROCS = (1, 2, 4)


def main() -> None:
    """Make the files, run the command, and print what it had at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streamlines", type=int, default=1_000_000)
    parser.add_argument("--lesions", type=int, default=12)
    parser.add_argument("--directory", type=Path)
    args = parser.parse_args()
    sums = {}
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        directory = Path(name)
        words = prepare(directory, args.streamlines, args.lesions)
        watch([*words, str(directory / "first")], 1, directory)  # builds the index
        for nprocs in NPROCS:
            out = str(directory / f"out{nprocs}")
            seconds, most, sums[nprocs] = watch([*words, out], nprocs, directory)
            print(f"--nprocs {nprocs}: {seconds:.1f} s, PSS of all processes {sums[nprocs]:.0f} MB")
            for process, sizes in most.items():
                print(f"  {process}: " + ", ".join(f"{k} {v:.0f} MB" for k, v in sizes.items()))
    few, many = NPROCS[-2:]
    growth = (sums[many] - sums[few]) / (many - few)
    print(f"another worker adds {growth:.0f} MB (target: {TARGET_MB} MB)")
    if growth > TARGET_MB:
        raise SystemExit(1)


def prepare(directory: Path, n_streamlines: int, n_lesions: int) -> list[str]:
    """Write tractogram, weights, atlas and lesions; return the command but for where to write."""
    random, grid = np.random.default_rng(0), fsl_grid(1)
    tractogram = directory / "tractogram.tck"
    places = write_tractogram(tractogram, n_streamlines)
    np.savetxt(directory / "weights.txt", random.uniform(0, 2, n_streamlines), "%.4f")
    i, j, k = np.indices(grid.shape) // np.array([36, 44, 36])[:, None, None, None]
    write_mask(directory / f"tpl-{SPACE}_atlas-Cubes_dseg.nii", 1 + i + 6 * (j + 5 * k), grid)
    (directory / "masks").mkdir()
    centres = np.rint(places[:: len(places) // n_lesions][:n_lesions])
    for number, centre in enumerate(centres):
        at = np.indices(grid.shape).reshape(3, -1).T + grid.affine[:3, 3]
        mask = (((at - centre) ** 2).sum(axis=1) <= 28.8**2).reshape(grid.shape)
        write_mask(directory / "masks" / f"sub-{number}_space-{SPACE}_mask.nii", mask, grid)
    return [
        *[str(Path(sys.executable).with_name("lacuna")), "run", "snm", str(directory / "masks")],
        *["--tractogram", str(tractogram), "--tractogram-space", SPACE],
        *["--weights", str(directory / "weights.txt")],
        *["--atlas", str(directory / f"tpl-{SPACE}_atlas-Cubes_dseg.nii")],
    ]


def watch(
    words: list[str], nprocs: int, directory: Path
) -> tuple[float, dict[str, dict[str, float]], float]:
    """Run a command; return its time, and the most memory, MB, of each process and of all."""
    most_of_all = 0.0
    most: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    options = ["--nprocs", str(nprocs), "--cache-dir", str(directory / "cache"), "--quiet"]
    environment = {**os.environ, "LACUNA_NUM_THREADS": str(nprocs)}
    started = time.perf_counter()
    with (directory / "log").open("w") as log:
        process = subprocess.Popen([*words, *options], stdout=log, stderr=log, env=environment)
        while process.poll() is None:
            found = {pid: memory(pid) for pid in family(process.pid)}
            most_of_all = max(most_of_all, sum(sizes.get("PSS", 0) for sizes in found.values()))
            for pid, sizes in found.items():
                name = "parent" if pid == process.pid else f"process {pid}"
                for key, value in sizes.items():
                    most[name][key] = max(most[name][key], value)
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit((directory / "log").read_text())
    return time.perf_counter() - started, most, most_of_all


def family(parent: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [parent]
    for pid in found:
        try:
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except OSError:
            continue
        found += [int(child) for child in text.split()]
    return found


def memory(pid: int) -> dict[str, float]:
    """Return what a process has written alone, its share of all it maps, and all its own, MB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    sizes = {key: int(value.split()[0]) / 1024 for key, value in (x.split(":") for x in lines)}
    return {
        "written": sizes["Private_Dirty"],
        "PSS": sizes["Pss"],
        "USS": sizes["Private_Dirty"] + sizes["Private_Clean"],
    }


if __name__ == "__main__":
    main()
