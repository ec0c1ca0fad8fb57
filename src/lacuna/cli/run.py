"""``lacuna run``: what each lesion of a dataset, a folder or a file disconnects."""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lacuna.cli.damage import add_damage
from lacuna.cli.group import LEVELS, add_thresholds, run_group
from lacuna.cli.lesions import (
    add_again,
    add_atlases,
    add_care,
    add_choice,
    add_input,
    add_move_lesions,
    add_report,
    bring_atlases,
    check_memory,
    choose_crew,
    conclude,
    find_input,
    open_atlases,
    print_rows,
    say,
)
from lacuna.cli.options import common_options, not_negative, positive
from lacuna.cli.tractogram import (
    add_index_options,
    add_weights,
    find_space,
    find_tractogram,
    option_as_space,
    report_grid,
    setting_as_space,
    show_progress,
)
from lacuna.cli.transforms import find_transforms
from lacuna.errors import SpaceError

if TYPE_CHECKING:
    from lacuna.analysis.structural import Disconnection
    from lacuna.geometry.space import StatedSpace
    from lacuna.report.figures import Background
    from lacuna.store import Store
    from lacuna.workflow.batch import BatchPlan, LesionWork, Outcome
    from lacuna.workflow.damage import OpenedAtlas
    from lacuna.workflow.lesion import Lesion
    from lacuna.workflow.measures import Measures
    from lacuna.workflow.products import OpenedIndex
    from lacuna.workflow.record import RunRecord
    from lacuna.workflow.warped import Warp
    from lacuna.workflow.weights import Weights
    from lacuna.workflow.workers import Crew

EXAMPLE = """\
example, with the data that `lacuna demo` copies:
  lacuna demo lacuna-demo
  lacuna run snm lacuna-demo/lesions my-results --min-tdi 3 --save-streamlines trx \\
      --tractogram lacuna-demo/space-AFQacpc_desc-afq20tracts_tractography.trx

exit status: 0 all lesions done; 1 some failed, each with its reason on stderr; 2 wrong usage
"""

PRELOADED = ("lacuna.cli.run", "lacuna.cli.pages", "lacuna.report.participant")
"""Modules that worker processes share."""

COLUMNS = ("lesion", "volume_mm3", "side", "n_cut", "cut_fraction", "disconnected_pct")
"""Columns of the summary table that stdout gets."""


def add_parser(subparsers: Any) -> None:
    """Add ``lacuna run`` and its analyses."""
    parser = subparsers.add_parser("run", help="run an analysis: snm, damage")
    analyses = parser.add_subparsers(metavar="ANALYSIS", required=True, title="analyses")
    snm = analyses.add_parser(
        "snm",
        help="structural network mapping: which streamlines a lesion cuts, and where they run",
        description="Find out which streamlines of a tractogram each lesion cuts, and what\n"
        "share of the streamlines through each voxel that is.",
        epilog=f"{EXAMPLE}\n{LEVELS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common_options()],
    )
    _add_arguments(snm)
    add_thresholds(snm)
    snm.set_defaults(analysis=_run_snm)
    add_damage(analyses)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    what = parser.add_argument_group("what is analysed")
    what.add_argument(
        "--tractogram", type=Path, metavar="T", help="a .tck, .trk or .trx, or a fetched NAME"
    )
    add_choice(what)
    add_atlases(what)
    what.add_argument(
        "--tracts",
        type=Path,
        metavar="FILE|FOLDER",
        help="table of the tracts' ranges of streamlines (tract, start, stop), or folder of a "
        "tractogram for each (default: the groups of a .trx)",
    )
    how = parser.add_argument_group("how")
    add_index_options(how)
    how.add_argument(
        "--min-tdi",
        type=positive,
        default=10,
        metavar="N",
        help="streamlines that a voxel needs to count (default: 10)",
    )
    add_weights(how)
    how.add_argument(
        "--min-edge",
        type=not_negative,
        default=0.0,
        metavar="N",
        help="streamlines, or summed weight, that join two parcels of an atlas for indirect "
        "disconnection (default: any)",
    )
    add_move_lesions(how, "tractogram")
    add_care(how)
    out = parser.add_argument_group("what is written")
    out.add_argument("--save-streamlines", choices=["tck", "trx"], help="the streamlines cut, too")
    out.add_argument("--no-figures", action="store_true", help="no PNG per lesion")
    add_report(out)
    out.add_argument(
        "--template",
        type=Path,
        metavar="IMAGE",
        help="background of the figures, without skull, in the space of the results: the lesions', "
        "or with --move-lesions the tractogram's (default: the tractogram's density)",
    )
    add_again(out)


def run(args: argparse.Namespace) -> int:
    """Run the analysis that was asked for."""
    code: int = args.analysis(args)
    return code


class Finished(NamedTuple):
    """A run that came to its end.

    Parameters
    ----------
    plan
        What was to be done.
    opened
        The index that was asked.
    outcomes
        What became of each lesion.
    index_seconds, lesion_seconds
        Time for the index, and for everything after it.
    """

    plan: "BatchPlan[RunRecord]"
    opened: "OpenedIndex"
    outcomes: "tuple[Outcome, ...]"
    index_seconds: float
    lesion_seconds: float


def _run_snm(args: argparse.Namespace) -> int:
    if args.level == "group":
        return run_group(args, "snm")
    tell = print_rows(COLUMNS)
    done = map_lesions(args, [Path(sys.argv[0]).name, *sys.argv[1:]], tell)
    return 0 if done is None else _conclude(args, done)


def map_lesions(
    args: argparse.Namespace,
    command: Sequence[str],
    tell: "Callable[[Outcome], None] | None" = None,
) -> Finished | None:
    """Do what the arguments of ``lacuna run snm`` ask for.

    Parameters
    ----------
    args
        As parsed, with the settings.
    command
        What the record says was run.
    tell
        Called with what became of each lesion, as soon as it is known.

    Returns
    -------
    Finished or None
        None if only the plan was wanted, or all was done already.
    """
    from lacuna.cli.pages import keep_pages
    from lacuna.workflow.allowance import count_streamlines
    from lacuna.workflow.batch import read_done

    crew = choose_crew(args, preload=PRELOADED)
    ready = _prepare(args, command)
    say(args, str(ready.plan))
    plan = ready.plan
    if plan.is_done and not args.dry_run:
        conclude(args, read_done(plan, keep_pages(plan, tell)), plan.output_dir)
    if plan.is_done:
        return None
    limit = check_memory(args, crew, count_streamlines(plan.record.tractogram))
    return None if args.dry_run else _execute(args, ready, crew, limit, keep_pages(plan, tell))


class _Prepared(NamedTuple):
    """Everything that was read and checked before the index is opened."""

    store: "Store"
    plan: "BatchPlan[RunRecord]"
    template: "Background | None"
    weights: "Weights | None"
    atlases: "tuple[OpenedAtlas, ...]"


def _prepare(args: argparse.Namespace, command: Sequence[str]) -> _Prepared:
    from dataclasses import replace

    from lacuna.workflow.batch import Choices, lesion_spaces, plan_batch, screen
    from lacuna.workflow.damage import check_atlases
    from lacuna.workflow.lesion import require_space
    from lacuna.workflow.resampled import LesionMoves
    from lacuna.workflow.stores import open_store
    from lacuna.workflow.warped import choose_warp
    from lacuna.workflow.weights import find_weights

    listing = find_input(args)
    path = find_tractogram(args)
    choices = Choices(
        space=option_as_space(args, "space"),
        default_space=setting_as_space(args, "space"),
        save_streamlines=args.save_streamlines,
        strict=args.strict,
    )
    space = require_space(find_space(args, path), path.name, "--tractogram-space", "the tractogram")
    store = open_store(args.settings)
    lesions, atlases = lesion_spaces(listing, choices), open_atlases(args)
    files = find_transforms(args, [space, *lesions, *(atlas.space for atlas in atlases)])
    warp = None if args.move_lesions else choose_warp(store, files, space, lesions)
    space = space if warp is None else warp.space
    moves = LesionMoves(store, files, space) if args.move_lesions else None
    choices = replace(choices, moves=moves)
    screen(listing, space, choices, tractogram_name=path.name)
    template = _load_template(args.template, space.name)
    weights = find_weights(args.weights, path) if args.weights else None
    used = [warp] if warp else moves.warps(lesions) if moves else []
    atlases = bring_atlases(args, files, atlases, space, used)
    check_atlases(atlases, space, path.name)
    record = replace(
        _describe_run(args, command, store, path, space, warp),
        atlases=tuple(atlas.to_json() for atlas in atlases),
        min_edge=args.min_edge,
        weights=args.weights,
        weights_fingerprint=store.fingerprint(weights.path) if weights and weights.path else None,
    )
    background = {args.template.name: store.fingerprint(args.template)} if template else None
    plan = plan_batch(listing, args.output_dir, record, choices).resume(
        store.fingerprint,
        {
            "Figures": not args.no_figures,
            "Report": not args.no_report,
            "Template": None if args.no_figures and args.no_report else background,
        },
        inputs={str(path): record.fingerprint},
        overwrite=args.overwrite,
    )
    return _Prepared(store, plan, template, weights, atlases)


def _describe_run(
    args: argparse.Namespace,
    command: Sequence[str],
    store: "Store",
    path: Path,
    space: "StatedSpace",
    warp: "Warp | None",
) -> "RunRecord":
    """Return what all results will share; the index is not opened yet."""
    from lacuna.workflow.record import RunRecord, find_reference
    from lacuna.workflow.tracts import fingerprint_tracts

    return RunRecord(
        command=command,
        rule=args.rule,
        upsample=args.upsample,
        min_tdi=args.min_tdi,
        grid=report_grid(args, store, path, warp=warp),
        tractogram=path,
        tractogram_space=space.name,
        space_source=space.source,
        fingerprint=store.fingerprint(path),
        threads=args.settings.num_threads,
        spatial_reference=None if warp else find_reference(path),
        warp=warp,
        tracts=fingerprint_tracts(store, args.tracts) if args.tracts else {},
    )


class _Opened(NamedTuple):
    """Everything that lesions need, and what they will be told."""

    plan: "BatchPlan[RunRecord]"
    opened: "OpenedIndex"
    work: "LesionWork"
    seconds: float


def _execute(
    args: argparse.Namespace,
    ready: _Prepared,
    crew: "Crew",
    limit: int,
    tell: "Callable[[Outcome], None]",
) -> Finished:
    from dataclasses import replace

    from lacuna.cli.pages import Pages
    from lacuna.workflow.allowance import needed_bytes, warn_of_slowness
    from lacuna.workflow.batch import work_through

    plan, opened, work, index_seconds = _open(args, ready, crew.threads)
    needed = needed_bytes(crew.processes, plan.record.threads, opened.n_streamlines)
    warn_of_slowness(opened.index, needed, limit)
    if not args.no_report:
        pages = Pages(ready.atlases, plan.record, ready.template, index_seconds=index_seconds)
        work = replace(work, report=pages)
    start = time.perf_counter()
    outcomes = work_through(plan, work, crew=crew, on_outcome=tell)
    return Finished(plan, opened, outcomes, index_seconds, time.perf_counter() - start)


def _open(args: argparse.Namespace, ready: _Prepared, lesion_threads: int) -> _Opened:
    """Open the index and all that is asked of every lesion; build what the cache does not have.

    Runs in the parent process only: ``work`` is handed to others as it is.
    """
    from dataclasses import replace
    from functools import partial

    from lacuna.analysis.structural import Weighting
    from lacuna.workflow.batch import prepare_work
    from lacuna.workflow.measures import open_measures
    from lacuna.workflow.products import open_index
    from lacuna.workflow.tracts import open_tracts

    record, start = ready.plan.record, time.perf_counter()
    with show_progress(args) as progress:
        opened = open_index(
            ready.store,
            record.tractogram,
            grid=record.grid,
            rule=record.rule,
            upsample=record.upsample,
            warp=record.warp,
            threads=record.threads,
            progress=progress,
        )
        tracts = open_tracts(
            ready.store, opened, record, args.tracts, weights=ready.weights, progress=progress
        )
    index, seconds = opened.index, time.perf_counter() - start
    whence = "built, and kept in the cache" if opened.built else "opened from the cache"
    whence += ", after waiting for another process to build it" if opened.waited else ""
    say(args, f"index of {opened.n_streamlines} streamlines {whence}: {seconds:.2f} s")
    weighting = None
    if ready.weights is not None:
        weighting = Weighting.of(index, ready.weights.of(opened.file, index.parts))
    measures = open_measures(
        ready.store,
        opened,
        ready.atlases,
        weights=None if weighting is None else weighting.weights,
        min_edge=record.min_edge,
        tracts=tracts,
        threads=record.threads,
    )
    record = _complete(record, opened, measures)
    plan = replace(ready.plan, record=record)
    draw = None if args.no_figures else partial(_draw, record, ready.template)
    work = prepare_work(plan, index, weighting=weighting, measure=measures.write, draw=draw)
    return _Opened(plan, opened, replace(work, threads=lesion_threads), seconds)


def _complete(record: "RunRecord", opened: "OpenedIndex", measures: "Measures") -> "RunRecord":
    """Return the record with what only the open index can tell."""
    from dataclasses import replace

    return replace(
        record,
        n_streamlines=opened.n_streamlines,
        warnings=opened.file.warnings,
        n_tracts=len(measures.tracts or ()),
        step_size_mm=opened.file.step_size_mm,
        pieces_per_step=opened.index.map.upsample,
        warped=opened.warped,
        cache_keys={**opened.keys, **measures.keys},
    )


def _load_template(path: Path | None, space: str) -> "Background | None":
    if path is None:
        return None
    from lacuna.bids.names import file_stem
    from lacuna.formats.nifti import load_image
    from lacuna.geometry.space import resolve_space
    from lacuna.report.figures import Background, Volume

    said = re.search(r"(?:^|_)(?:tpl|space)-([A-Za-z0-9]+)", file_stem(path))
    if said is not None and resolve_space(said[1]) != resolve_space(space):
        raise SpaceError(
            f"--template {path.name} is in {said[1]}, the results are in {space}: anatomy and map "
            "would not match. Give a template of that space, or none."
        )
    image = load_image(path)
    caption = f"{path.name}, taken to be in {space}"
    return Background(Volume(image.array, image.grid), caption, is_density=False)


def _draw(
    record: "RunRecord",
    template: "Background | None",
    result: "Disconnection",
    lesion: "Lesion",
    name: str,
) -> bytes:
    from lacuna.report.figures import Background, Volume, crop_lesion, draw_disconnection
    from lacuna.workflow.record import caption

    density = Background(
        Volume(result.tdi, result.grid),
        f"density of the tractogram's streamlines; {record.reference}",
        is_density=True,
    )
    return draw_disconnection(
        Volume(result.disconnection, result.grid),
        Volume(result.coverage, result.grid),
        crop_lesion(Volume(lesion.mask, lesion.grid)),
        template or density,
        title=f"What {name} disconnects",
        caption=caption(result, lesion, record),
    )


def _conclude(args: argparse.Namespace, done: Finished) -> int:
    from lacuna.cli.cache.show import say_if_large
    from lacuna.workflow.stores import open_store

    code = conclude(args, done.outcomes, done.plan.output_dir)
    if done.opened.built:  # only then did it grow; to look at every entry costs a file server
        say(args, say_if_large(open_store(args.settings).total_bytes()))
    return code
