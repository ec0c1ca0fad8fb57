"""What all analyses of lesions ask of the command line, and tell."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lacuna.cli.options import add_threads
from lacuna.cli.tractogram import option_as_space
from lacuna.errors import LacunaError

if TYPE_CHECKING:
    from lacuna.workflow.batch import Outcome
    from lacuna.workflow.damage import OpenedAtlas


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
    group.add_argument(
        "--participant-label",
        "--participant_label",
        nargs="+",
        metavar="LABEL",
        help="only these participants, with or without sub-",
    )


def add_atlases(group: argparse._ActionsContainer) -> None:
    """Add the options that say which atlases are asked."""
    group.add_argument(
        "--atlas",
        action="append",
        default=[],
        metavar="FILE[:TABLE]",
        help="label image, and its table of names if that does not lie beside it; repeatable",
    )
    group.add_argument(
        "--tract-atlas",
        action="append",
        default=[],
        metavar="FILE[:TABLE]",
        help="image with a volume of probabilities for each tract; repeatable",
    )
    group.add_argument("--atlas-space", metavar="S", help="space of atlases that do not say")


def open_atlases(args: argparse.Namespace) -> "tuple[OpenedAtlas, ...]":
    """Return the atlases that the arguments name."""
    from lacuna.workflow.damage import open_atlas

    return tuple(
        open_atlas(
            *split_table(text),
            default_space=option_as_space(args, "atlas_space"),
            has_tracts=has_tracts,
            strict=args.strict,
        )
        for texts, has_tracts in ((args.atlas, False), (args.tract_atlas, True))
        for text in texts
    )


def add_care(group: argparse._ActionsContainer) -> None:
    """Add ``--strict`` and ``--threads``."""
    group.add_argument("--strict", action="store_true", help="refuse what is merely suspicious")
    add_threads(group)


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

    headers = chain(["\t".join(columns) + "\n"], repeat(""))

    def tell(outcome: "Outcome") -> None:
        if outcome.error is not None:
            kind = "" if isinstance(outcome.error, LacunaError) else type(outcome.error).__name__
            name = outcome.outputs.lesion.path.name
            text = f"{kind}: {outcome.error}" if kind else str(outcome.error)
            print(f"lacuna: error: {name}: {text}", file=sys.stderr)
            return
        row = "\t".join(format_value(outcome.summary[column]) for column in columns)
        print(next(headers) + row, flush=True)

    return tell


def conclude(args: argparse.Namespace, outcomes: "Sequence[Outcome]", output_dir: Path) -> int:
    """Say how many lesions were done; return the exit code."""
    n, n_failed = len(outcomes), sum(outcome.error is not None for outcome in outcomes)
    say(args, f"{n - n_failed} of {n} lesions done, results in {output_dir}")
    if n_failed:
        print(f"lacuna: error: {n_failed} of {n} lesions failed", file=sys.stderr)
    return 1 if n_failed else 0


def say(args: argparse.Namespace, text: str) -> None:
    """Print a message to stderr, unless quiet."""
    if text and not args.quiet:
        print(text, file=sys.stderr)
