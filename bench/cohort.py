"""What a cohort of real lesions costs, and the parcels of all ends, beside MRtrix3: ratios.

usage: python bench/cohort.py [--large 1] [--peer-lesions N] [--quick] [--directory DIR]

Needs the test data (LACUNA_TEST_DATA, else ../shared/data). README.md in this folder says what is
compared with what.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lacuna.formats import open_tractogram, save_tck
from lacuna.formats.atlas import load_atlas
from lacuna.store import Store
from lacuna.tractogram.ends import assign_ends
from lacuna.workflow.products import open_index
from structural import N_THREADS, Bench, Row, compared, median, prime, write_tractogram

ROOT = Path(__file__).resolve().parent.parent
SPACE = "MNI152NLin6Asym"
TRACTOGRAM = "tractograms/hcp842_wholebrain_MNI152NLin6Asym"
ATLAS = "parcellations/*-Schaefer2018_desc-100Parcels*_dseg.nii.gz"
TRACT_ATLAS = "parcellations/*_atlas-HCP1065_desc-thr0p1_probseg.nii.gz"
N_TRACTS = 60


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", type=float, default=1, help="million streamlines; 0: none")
    parser.add_argument("--peer-lesions", type=int, default=4, help="for MRtrix3, of the large one")
    parser.add_argument("--quick", action="store_true", help="10 lesions, 20 000 streamlines")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    parser.add_argument("--directory", type=Path, help="on the disk to measure (default: here)")
    options, _ = parser.parse_known_args()
    data = Path(os.environ.get("LACUNA_TEST_DATA", ROOT.parent / "shared" / "data"))
    lesions = sorted((data / "lesions/lesymap").glob("Subject_*.nii.gz"))
    if not lesions:
        raise SystemExit(f"no test data at {data}: set LACUNA_TEST_DATA")
    n_large = 20_000 if options.quick else round(options.large * 1e6)
    lesions = lesions[:10] if options.quick else lesions
    print(f"{N_THREADS} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory(dir=options.directory or ".", prefix="bench-cohort-") as place:
        bench = Bench(Path(place).resolve(), 1)
        atlas = next(data.glob(ATLAS))
        prime(bench)
        # Without the space of its name, which is not that of the lesions.
        (bench.directory / "atlas-HCP1065_probseg.nii.gz").symlink_to(next(data.glob(TRACT_ATLAS)))
        small = bench.directory / "hcp842.tck"
        opened = open_tractogram((data / TRACTOGRAM).with_suffix(".trk")).streamlines
        save_tck(small, *opened.gather(np.arange(len(opened))))
        measure(bench, small, "6 232", atlas, lesions, len(lesions))
        if n_large:
            large = bench.directory / "large.tck"
            write_tractogram(large, n_large)
            name = f"{n_large / 1e6:g} M"
            measure(bench, large, name, atlas, lesions, options.peer_lesions)
        if options.json:
            options.json.write_text(json.dumps([asdict(row) for row in bench.table.rows], indent=1))


def measure(
    bench: Bench,
    tractogram: Path,
    name: str,
    atlas: Path,
    lesions: Sequence[Path],
    n_peer: int,
) -> None:
    """Add the rows of one tractogram; the peer gets the first lesions only where it is slow."""
    cache, folder = bench.directory / "cache", bench.directory / "lesions"
    bench.warm(tractogram, cache)
    add_assignment(bench, tractogram, name, atlas, cache)
    folder.mkdir()
    for lesion in lesions:
        (folder / lesion.name).symlink_to(lesion)
    # Paid once, and reported apart: the ends by parcel, and whatever a first process compiles.
    run_cohort(bench, lesions[0], tractogram, atlas, cache, 1)
    ours = {n: run_cohort(bench, folder, tractogram, atlas, cache, n) for n in (1, 2)}
    write_ranges(bench.directory / "tracts.tsv", len(open_tractogram(tractogram).streamlines))
    everything = run_cohort(bench, folder, tractogram, atlas, cache, 2, everything=True)
    theirs = 0.0
    if bench.has_peer:
        chosen = lesions[:: max(1, len(lesions) // n_peer)][:n_peer]
        output = bench.directory / "theirs"
        template = bench.template("2 mm")
        script = Path(__file__).with_name("mrtrix3-cohort")
        all_of_them = bench.run(script, tractogram, atlas, template, output, *chosen).seconds
        shutil.rmtree(output)
        none = bench.run(script, tractogram, atlas, template, output).seconds
        shutil.rmtree(output)
        theirs = none + (all_of_them - none) * len(lesions) / len(chosen)
    what = f"{len(lesions)} lesions × {name}"
    told = "" if n_peer >= len(lesions) else f"; MRtrix3: {n_peer} of the lesions, scaled"
    for n, seconds in ours.items():
        row = compared(f"{what}, --nprocs {n}", "", seconds, theirs)
        bench.table.add(Row(**asdict(row) | {"verdict": told.removeprefix("; ")}))
    bench.table.add(compared(f"{what}, --nprocs 2, every output", "", everything, theirs))
    bench.table.add(Row(f"{what}: 2 workers against 1", "", f"{ours[1] / ours[2]:.2f} ×"))
    shutil.rmtree(folder)
    shutil.rmtree(cache)
    tractogram.unlink()


def write_ranges(path: Path, n_streamlines: int) -> None:
    """Write a table of tracts, each as long as any other."""
    ends = np.linspace(0, n_streamlines, N_TRACTS + 1).astype(int)
    rows = [f"t{i}\t{ends[i]}\t{ends[i + 1]}\n" for i in range(N_TRACTS)]
    path.write_text("tract\tstart\tstop\n" + "".join(rows))


def add_assignment(bench: Bench, tractogram: Path, name: str, atlas: Path, cache: Path) -> None:
    """Find the parcels of all ends: we know the ends from the index, the peer reads the file."""
    index = open_index(Store(cache), tractogram, grid=bench.grids["2 mm"]).index
    ours, theirs = [], []
    command = [tractogram, atlas, bench.directory / "count.csv", "-assignment_radial_search", "4"]
    assign_ends(index.parts.ends[:1], load_atlas(atlas))  # compiles
    for _ in range(3):
        started = time.perf_counter()
        assign_ends(index.parts.ends, load_atlas(atlas), threads=N_THREADS or 1)
        ours.append(time.perf_counter() - started)
        if bench.has_peer:
            theirs.append(bench.run("tck2connectome", *command, "-force", "-quiet").seconds)
    bench.table.add(compared(f"{name}: parcels of all ends", "", median(ours), median(theirs)))


def run_cohort(
    bench: Bench,
    lesions: Path,
    tractogram: Path,
    atlas: Path,
    cache: Path,
    n_workers: int,
    *,
    everything: bool = False,
) -> float:
    """Run all lesions; return the seconds of the whole process.

    Parameters
    ----------
    everything
        Tracts, an atlas of tracts, figures and pages, too, which the peer has not.
    """
    output = bench.directory / "ours"
    spaces = ["--space", SPACE, "--tractogram-space", SPACE, "--atlas-space", SPACE]
    words = [lesions, output, "--tractogram", tractogram, "--atlas", atlas, *spaces]
    words += ["--nprocs", n_workers, "--threads", 1]
    tracts = ["--tracts", bench.directory / "tracts.tsv"]
    tracts += ["--tract-atlas", bench.directory / "atlas-HCP1065_probseg.nii.gz"]
    words += tracts if everything else ["--no-figures", "--no-report"]
    seconds = bench.lacuna("run", "snm", *words, cache=cache).seconds
    shutil.rmtree(output)
    return seconds


if __name__ == "__main__":
    main()
