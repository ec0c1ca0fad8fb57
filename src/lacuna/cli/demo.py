"""``lacuna demo``: everything once, on data that ship in the package, in front of your eyes."""

import argparse
import io
import shlex
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lacuna.cli.options import add_threads, common_options, counted, print_table, show_size

if TYPE_CHECKING:
    from lacuna.assets.bundled import DemoFiles
    from lacuna.cli.run import Finished
    from lacuna.geometry.grid import FloatArray, IntArray
    from lacuna.store import Store
    from lacuna.workflow.products import OpenedIndex
    from lacuna.workflow.record import RunRecord

MIN_TDI = 3
"""Streamlines that a voxel needs: the demonstration's 4 992 are few."""

N_PLACES = 2000
RADIUS_MM = 5.0


def add_parser(subparsers: Any) -> None:
    """Add ``lacuna demo``."""
    parser = subparsers.add_parser(
        "demo",
        help="see what Lacuna does, on data that ship with it",
        description="Copy a small data set to DIR, find out what its lesions disconnect, twice, "
        f"and then lesion the brain at {N_PLACES} places. Needs no network.",
        parents=[common_options()],
    )
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        default=Path("lacuna-demo"),
        metavar="DIR",
        help="where data and results go (default: lacuna-demo)",
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demonstration; quietly, it only makes its files."""
    if not args.quiet:
        return _run(args)
    with redirect_stdout(io.StringIO()):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    from lacuna.assets.bundled import copy_demo
    from lacuna.workflow.stores import open_store

    directory = args.directory.absolute()
    files, store = copy_demo(directory), open_store(args.settings)
    print("Data: 20 tracts of one real person, and two synthetic lesions on them.")
    print("Not a normative tractogram, and in that person's own space: see NOTICE.txt.")
    print("\nGetting ready (compiles for this processor the first time) …", flush=True)
    kernel_seconds = _compile()
    print("What do the lesions disconnect? (lacuna run snm, first time)", flush=True)
    first = _map_lesions(args, files, directory / "results")
    for outcome in first.outcomes:
        if outcome.error is not None:
            raise outcome.error
        print(f"  {_sentence(outcome.summary)}")
    print("\nThe same again, from the cache, and then:")
    second = _map_lesions(args, files, directory / "results")
    print(
        f"How much would a lesion here disconnect? {N_PLACES} spheres of {RADIUS_MM:g} mm radius:"
    )
    sweep = _sweep(second.plan.record, second.opened, directory / "spheres")
    print(f"  {sweep.sentence}")
    print("\nWhat it cost:")
    print_table(_costs(store, kernel_seconds, first, second, sweep), right=(1, 2))
    print()
    _tell_places(store, directory, first, sweep)
    _tell_next(files)
    return 0


def _map_lesions(args: argparse.Namespace, files: "DemoFiles", results: Path) -> "Finished":
    from lacuna.cli.main import build_parser
    from lacuna.cli.run import map_lesions

    words = ["run", "snm", str(files.lesions), str(results), "--tractogram", str(files.tractogram)]
    words += ["--min-tdi", str(MIN_TDI), "--overwrite"]
    inner = build_parser().parse_args(words)
    inner.settings, inner.quiet = args.settings, True
    done = map_lesions(inner, ["lacuna", *words])
    assert done is not None
    return done


def _compile() -> float:
    """Have the kernels compiled, or loaded, and return the seconds that took.

    Otherwise the first index of all would seem to cost what the compiler does.
    """
    from lacuna.utils.cache import temp_dir
    from lacuna.workflow.kernels import keep_kernels
    from lacuna.workflow.shipping import sample_demo, use_kernels

    start = time.perf_counter()
    with temp_dir("demo_") as scratch:
        keep_kernels()
        use_kernels(sample_demo(), "segment", scratch)
    return time.perf_counter() - start


def _sentence(summary: Mapping[str, Any]) -> str:
    name = str(summary["lesion"]).split("_")[0].removeprefix("sub-")
    return (
        f"{name} ({summary['volume_mm3'] / 1000:.1f} ml, {summary['side']}) cuts "
        f"{summary['n_cut']} of {summary['n_streamlines']} streamlines; "
        f"a voxel loses {summary['disconnected_pct']:.1f} % of its own on average."
    )


class _Sweep(NamedTuple):
    """What the spheres did, in words, and what it took."""

    sentence: str
    cut_seconds: float
    write_seconds: float
    picture: Path


def _sweep(record: "RunRecord", opened: "OpenedIndex", directory: Path) -> _Sweep:
    import numpy as np

    from lacuna.analysis.structural import disconnect_spheres
    from lacuna.analysis.sweep import spread_places

    index = opened.index
    tdi = index.to_grid(index.map.tdi)
    places = np.rint(spread_places(tdi >= record.min_tdi, record.grid, N_PLACES))
    start = time.perf_counter()
    n_cut, pct = disconnect_spheres(
        index, places, RADIUS_MM, min_tdi=record.min_tdi, threads=record.threads
    )
    cut_seconds, start = time.perf_counter() - start, time.perf_counter()
    picture = _write_sweep(directory, record, tdi, places, pct)
    worst = int(np.nanargmax(pct))
    x, y, z = places[worst]
    sentence = (
        f"Most at ({x:.0f}, {y:.0f}, {z:.0f}) mm: {n_cut[worst]} streamlines, {pct[worst]:.1f} %; "
        f"half of the places {np.nanmedian(pct):.2g} % or less."
    )
    return _Sweep(sentence, cut_seconds, time.perf_counter() - start, picture)


def _write_sweep(
    directory: Path, record: "RunRecord", tdi: "IntArray", places: "FloatArray", pct: "FloatArray"
) -> Path:
    """Write map, sidecar and picture; return the picture."""
    from lacuna.analysis.sweep import average_spheres
    from lacuna.bids.derivatives import write_json
    from lacuna.formats.nifti import save_map
    from lacuna.formats.replace import replacing
    from lacuna.report.figures import Background, Volume, draw_map
    from lacuna.workflow.record import nifti_code

    means = average_spheres(places, RADIUS_MM, pct, record.grid)
    means[tdi < record.min_tdi] = 0
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"space-{record.tractogram_space}_res-2_desc-vulnerability_map"
    image, picture = directory / f"{stem}.nii.gz", directory / f"{stem}.png"
    save_map(image, means, record.grid, code=nifti_code(record.tractogram_space))
    what = (
        f"Mean disconnection, percent, of those of {len(places)} spheres of {RADIUS_MM:g} mm "
        "radius that hold the voxel: how much a small lesion here would disconnect."
    )
    said = {"Description": what, "Units": "percent", "SpatialReference": record.reference}
    write_json(image.with_name(f"{stem}.json"), {**said, "Lacuna": record.to_json()})
    density = f"density of the tractogram's streamlines; {record.reference}"
    png = draw_map(
        Volume(means, record.grid),
        Background(Volume(tdi, record.grid), density, is_density=True),
        label="% disconnected by a lesion here",
        title="How much would a lesion here disconnect?",
        caption=f"{what}\nTractogram {record.tractogram.name}; rule {record.rule}.",
    )
    with replacing(picture) as stream:
        stream.write(png)
    return picture


def _costs(
    store: "Store", kernel_seconds: float, first: "Finished", second: "Finished", sweep: _Sweep
) -> list[tuple[str, str, str]]:
    """Return the rows of the table of costs."""
    keys = set(first.opened.keys.values())
    kept = sum(entry.made_in_s for entry in store.entries() if entry.digest in keys)
    cold = first.index_seconds if first.opened.built else kept
    note = "" if first.opened.built else ", built earlier"
    n = len(first.outcomes)
    rows: list[tuple[str, float | str | None, float | str | None]] = [
        ("", "cold", "from the cache"),
        ("  compiling, or loading what was compiled", kernel_seconds, None),
        (f"  index of {first.opened.n_streamlines} streamlines{note}", cold, second.index_seconds),
        (f"  {n} lesions: cut, mapped, drawn", first.lesion_seconds, second.lesion_seconds),
        (f"  {N_PLACES} lesions: cut and mapped", None, sweep.cut_seconds),
        ("     each of them", None, sweep.cut_seconds / N_PLACES),
        ("  their map: averaged, written, drawn", None, sweep.write_seconds),
    ]
    return [(what, _seconds(one), _seconds(other)) for what, one, other in rows]


def _seconds(seconds: float | str | None) -> str:
    if not isinstance(seconds, float):
        return seconds or ""
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def _tell_places(store: "Store", directory: Path, first: "Finished", sweep: _Sweep) -> None:
    from lacuna.utils.cache import describe

    keys = set(first.opened.keys.values())
    entries = [entry for entry in store.entries() if entry.digest in keys]
    size = show_size(sum(entry.size_bytes for entry in entries))
    chosen = {location.name: location.source for location in describe()}
    print(f"Data and results  {directory}")
    for outcome in first.outcomes:
        print(f"  a picture       {outcome.outputs.path('disconnection', 'map', '.png')}")
    print(f"  a picture       {sweep.picture}")
    print(f"Cache             {store.root} (chosen by: {chosen['cache']})")
    number = counted(len(entries), "entry", "entries")
    print(f"  this index      {size} in {number}; `lacuna cache list` shows them")


def _tell_next(files: "DemoFiles") -> None:
    words = ["lacuna", "run", "snm", "my_lesion.nii.gz", "my_results"]
    words += ["--space", "MNI152NLin6Asym", "--tractogram", "my_tractogram.trk"]
    words += ["--tractogram-space", "MNI152NLin6Asym"]
    print("\nYour own mask, with a normative tractogram in the mask's space:")
    print(f"  {shlex.join(words)}")
    mask = min(files.lesions.rglob("*_mask.nii.gz"))
    words = ["lacuna", "run", "snm", str(mask), "my_results", "--min-tdi", str(MIN_TDI)]
    words += ["--tractogram", str(files.tractogram)]
    print("With the files above, as it stands (put your mask in the place of this one):")
    print(f"  {shlex.join(words)}")
