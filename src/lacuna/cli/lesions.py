"""What all analyses of lesions ask of the command line, and tell."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lacuna.cli.assets import find_asset, find_asset_file
from lacuna.cli.options import add_threads, positive, size
from lacuna.cli.tractogram import option_as_space
from lacuna.errors import OptionError

if TYPE_CHECKING:
    from lacuna.bids.dataset import LesionListing
    from lacuna.geometry.space import StatedSpace
    from lacuna.workflow.batch import Outcome
    from lacuna.workflow.damage import OpenedAtlas
    from lacuna.workflow.warped import TransformFile, Warp
    from lacuna.workflow.workers import Crew


def add_input(parser: argparse.ArgumentParser) -> None:
    """Add what is analysed, and where results go."""
    parser.add_argument(
        "input", type=Path, metavar="INPUT", help="BIDS dataset, folder of masks, or one mask"
    )
    parser.add_argument(
        "output_dir", type=Path, metavar="OUTPUT_DIR", help="where the derivative dataset goes"
    )
    parser.add_argument(
        "level",
        nargs="?",
        choices=["participant", "group"],
        default="participant",
        metavar="participant|group",
        help="each lesion by itself (default), or all results together",
    )


def add_choice(group: argparse._ActionsContainer) -> None:
    """Add which lesions are taken, and what their space is."""
    group.add_argument("--space", metavar="S", help="space of the lesions, if they do not say")
    add_selection(group)
    group.add_argument(
        "--skip-bids-validation",
        "--skip_bids_validation",
        "--skip-bids-validator",
        action="store_true",
        help="do not look for errors in the BIDS dataset first",
    )


def add_selection(group: argparse._ActionsContainer) -> None:
    """Add which lesions are taken."""
    group.add_argument(
        "--participant-label",
        "--participant_label",
        action="extend",
        nargs="+",
        metavar="LABEL",
        help="only these participants, with or without sub-",
    )
    group.add_argument(
        "--session-label",
        "--session_label",
        action="extend",
        nargs="+",
        metavar="LABEL",
        help="only these sessions, with or without ses-",
    )
    group.add_argument(
        "--bids-filter-file",
        "--bids_filter_file",
        type=Path,
        metavar="FILE",
        help='JSON: which masks are taken, by their entities, as in {"lesion": {"session": "01"}}',
    )


def find_input(args: argparse.Namespace) -> "LesionListing":
    """Return the lesions that the arguments ask for; say what is wrong with their dataset.

    Raises
    ------
    DatasetError
        If there are none. Errors that a validator finds are warnings, and stop nothing.
    """
    listing = select_lesions(args)
    if listing.kind == "dataset" and not args.skip_bids_validation:
        _validate(args, listing)
    return listing


def select_lesions(args: argparse.Namespace) -> "LesionListing":
    """Return the lesions that the arguments ask for."""
    from lacuna.bids.dataset import find_lesions
    from lacuna.bids.selection import read_filter

    file = args.bids_filter_file
    return find_lesions(
        args.input,
        args.participant_label,
        session_labels=args.session_label,
        query=None if file is None else read_filter(file),
    )


def _validate(args: argparse.Namespace, listing: "LesionListing") -> None:
    import logging
    import os

    from lacuna.bids.validation import find_validator, validate

    verdict, note = validate(listing, os.environ, program=find_validator())
    say(args, note)
    if str(verdict):
        logging.getLogger(__name__).warning("%s", verdict)


def add_move_lesions(group: argparse._ActionsContainer, to: str) -> None:
    """Add ``--move-lesions``; `to` says where they go."""
    group.add_argument(
        "--move-lesions",
        action="store_true",
        help=f"bring lesions into the space of the {to} by the transforms, instead of all else "
        "into theirs: they are resampled, and a voxel is lesioned where half of it was",
    )


def add_atlases(group: argparse._ActionsContainer) -> None:
    """Add the options that say which atlases are asked."""
    group.add_argument(
        "--atlas",
        action="append",
        default=[],
        metavar="NAME|FILE[:TABLE]",
        help="a fetched NAME, or a label image, and its table of names if that does not lie "
        "beside it; repeatable",
    )
    group.add_argument(
        "--tract-atlas",
        action="append",
        default=[],
        metavar="NAME|FILE[:TABLE]",
        help="likewise an image with a volume of probabilities for each tract; repeatable",
    )
    group.add_argument("--atlas-space", metavar="S", help="space of atlases that do not say")


def open_atlases(args: argparse.Namespace) -> "tuple[OpenedAtlas, ...]":
    """Return the atlases that the arguments name."""
    from lacuna.workflow.damage import open_atlas

    return tuple(
        open_atlas(
            image,
            table,
            default_space=space,
            has_tracts=has_tracts,
            strict=args.strict,
        )
        for texts, has_tracts in ((args.atlas, False), (args.tract_atlas, True))
        for text in texts
        for image, table, space in [_locate_atlas(args, text, has_tracts=has_tracts)]
    )


def _locate_atlas(
    args: argparse.Namespace, text: str, *, has_tracts: bool
) -> "tuple[Path, Path | None, StatedSpace | None]":
    """Return image, table and space of an atlas; a file comes before a name in the catalogue."""
    from lacuna.assets.catalog import ATLASES
    from lacuna.geometry.space import StatedSpace

    space = option_as_space(args, "atlas_space")
    asset = find_asset(text)
    if asset is None:
        return *split_table(text), space
    wanted = ATLASES[has_tracts]
    if asset.kind != wanted:
        option = {ATLASES[False]: "--atlas", ATLASES[True]: "--tract-atlas"}.get(asset.kind)
        raise OptionError(
            f"{text} is a {asset.kind}, no {wanted}: "
            + (f"give it as {option}." if option else "`lacuna fetch --list` shows what there is.")
        )
    known = StatedSpace(asset.space, "Lacuna's catalogue") if asset.space else space
    return find_asset_file(args, asset), None, known


def add_report(group: argparse._ActionsContainer) -> None:
    """Add ``--no-report``."""
    group.add_argument("--no-report", action="store_true", help="no page per participant")


def bring_atlases(
    args: argparse.Namespace,
    files: "Sequence[TransformFile]",
    atlases: "Sequence[OpenedAtlas]",
    space: "StatedSpace",
    used: "Sequence[Warp]",
) -> "tuple[OpenedAtlas, ...]":
    """Return atlases in a space, as far as transforms lead there; name what is used for nothing.

    Parameters
    ----------
    files
        Transforms that were given.
    used
        What moves all else.
    """
    from lacuna.workflow.damage import bring_atlas
    from lacuna.workflow.stores import open_store
    from lacuna.workflow.warped import CATALOGUE, warn_of_unused

    store, threads = open_store(args.settings), args.settings.num_threads
    brought = [bring_atlas(store, files, atlas, space, threads=threads) for atlas in atlases]
    warps = [*used, *(atlas.warp for atlas in brought if atlas.warp)]
    warn_of_unused(files, warps)
    for file in dict.fromkeys(warp.file for warp in warps if warp.file.source == CATALOGUE):
        say(args, f"spaces differ: {file}, and was fetched; --transform FILE takes another")
    for warp in used if args.dry_run else ():
        warp.load()  # what is damaged is told now, not by each task of an array
    return tuple(brought)


def add_care(group: argparse._ActionsContainer) -> None:
    """Add ``--strict``, and how many threads and processes work."""
    group.add_argument("--strict", action="store_true", help="refuse what is merely suspicious")
    group.add_argument(
        "-w",
        "--work-dir",
        "--work_dir",
        dest="tmp_dir",
        default=argparse.SUPPRESS,  # the option that it is another name of has one
        metavar="DIR",
        help="the same as --tmp-dir",
    )
    add_threads(group)
    _add_workers(group)


def _add_workers(group: argparse._ActionsContainer) -> None:
    """Add how many processes work, and when they stop."""
    group.add_argument(
        "--nprocs",
        type=positive,
        default=1,
        metavar="N",
        help="worker processes, a lesion at a time each, over one index in memory (default: 1, "
        "with a lesion at a time for each thread); --threads is then for each of them",
    )
    group.add_argument(
        "--mem",
        type=size,
        metavar="SIZE",
        help="memory that the run may use, such as 8G: it is refused before work starts if it "
        "needs more",
    )
    group.add_argument(
        "--stop-on-first-crash",
        action="store_true",
        help="begin no further lesion after one that failed",
    )


def choose_crew(args: argparse.Namespace, preload: Sequence[str] = ()) -> "Crew":
    """Return how many processes and threads work.

    Raises
    ------
    OptionError
        If they are more than this process may use.
    """
    from lacuna.config import load_settings
    from lacuna.workflow.workers import Crew

    n, settings = args.nprocs, args.settings
    stops = args.stop_on_first_crash
    if n == 1:
        return Crew(stops_at_failure=stops)
    if args.threads:  # then the settings no longer know what is allowed
        settings = load_settings(args.config)
    allowed, source = settings.num_threads, settings.sources["num_threads"]
    threads = args.threads or max(1, allowed // n)
    if n * threads > allowed:
        raise OptionError(
            f"--nprocs {n} with {threads} thread(s) each needs {n * threads} processors, but "
            f"{allowed} may be used ({source}): lower --nprocs or --threads, or set "
            "LACUNA_NUM_THREADS if there are more."
        )
    return Crew(n, threads, stops, tuple(preload))


def add_again(group: argparse._ActionsContainer) -> None:
    """Add ``--overwrite`` and ``--dry-run``."""
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="do again what is done already; else only what is missing, failed, or stale: what "
        "would be other now, as the lesion, an option or the version changed",
    )
    group.add_argument("--dry-run", action="store_true", help="print what would be done, and stop")


def check_memory(args: argparse.Namespace, crew: "Crew", n_streamlines: int = 0) -> int:
    """Return how many bytes the run may use, if it needs no more; raise `OptionError` if it does.

    Parameters
    ----------
    n_streamlines
        Of the tractogram, if there is one.
    """
    from lacuna.workflow import allowance

    threads = args.settings.num_threads
    return allowance.check_memory(crew.processes, threads, n_streamlines, asked_bytes=args.mem)


def split_table(text: str) -> tuple[Path, Path | None]:
    """Return image and table of ``FILE[:TABLE]``; a file whose name holds a colon comes first."""
    image, colon, table = text.rpartition(":")
    if not colon or Path(text).exists() or not Path(table).exists():
        return Path(text), None
    return Path(image), Path(table)


def print_rows(columns: Sequence[str]) -> "Callable[[Outcome], None]":
    """Return what prints some columns of each lesion's summary, and errors, as they come."""
    from itertools import chain, repeat

    from lacuna.bids.derivatives import format_value
    from lacuna.bids.ledger import describe_error

    headers = chain(["\t".join(columns) + "\n"], repeat(""))

    def tell(outcome: "Outcome") -> None:
        if not outcome.is_begun:
            return
        if outcome.error is not None:
            name = outcome.outputs.lesion.path.name
            print(f"lacuna: error: {name}: {describe_error(outcome.error)}", file=sys.stderr)
            return
        row = "\t".join(format_value(outcome.summary[column]) for column in columns)
        print(next(headers) + row, flush=True)

    return tell


def conclude(args: argparse.Namespace, outcomes: "Sequence[Outcome]", output_dir: Path) -> int:
    """Say how many lesions were done; return the exit code."""
    n, n_failed = len(outcomes), sum(outcome.error is not None for outcome in outcomes)
    say(args, f"{n - n_failed} of {n} lesions done, results in {output_dir}")
    idle = [outcome.outputs.lesion.path.name for outcome in outcomes if not outcome.is_begun]
    if n_failed:
        print(f"lacuna: error: {n_failed - len(idle)} of {n} lesions failed", file=sys.stderr)
    if idle:
        print(f"lacuna: error: not begun: {len(idle)} ({', '.join(idle)})", file=sys.stderr)
    return 1 if n_failed else 0


def say(args: argparse.Namespace, text: str) -> None:
    """Print a message to stderr, unless quiet."""
    if text and not args.quiet:
        print(text, file=sys.stderr)
