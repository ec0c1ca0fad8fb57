"""``lacuna run … group``: the results of all lesions of an output folder together."""

import argparse
import sys
from pathlib import Path

from lacuna.cli.lesions import find_input, say
from lacuna.cli.options import not_negative
from lacuna.errors import DatasetError

LEVELS = """\
level group: puts what the participant level wrote in OUTPUT_DIR into tables over all lesions, mean
maps and matrices, and group.html; needs no tractogram. Lesions that failed, are missing, or were
done with other options than the one that was done last are left out: they are named on stderr and
in the sidecars, and the exit status is 1. With --strict nothing is written then.
"""


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """Add what only the group level asks for."""
    parser.add_argument_group("group level").add_argument(
        "--threshold",
        action="append",
        type=_share,
        metavar="SHARE",
        help="map how many of the lesions disconnect this share of a voxel's streamlines, or more "
        "(default: 0.5); repeatable",
    )


def run_group(args: argparse.Namespace, analysis: str) -> int:
    """Put the results of all lesions together.

    Parameters
    ----------
    analysis
        ``snm`` or ``damage``.
    """
    from functools import partial

    from lacuna.report.group import build_group_page
    from lacuna.workflow.cohort import plan_group
    from lacuna.workflow.group import PAGE, write_group
    from lacuna.workflow.stores import open_store

    plan = plan_group(
        find_input(args),
        args.output_dir,
        analysis=analysis,
        fingerprint=open_store(args.settings).fingerprint,
        thresholds=getattr(args, "threshold", None) or (0.5,),
    )
    n_out, root = len(plan.left_out), plan.output_dir
    for name, reason in plan.left_out.items():
        print(f"lacuna: warning: {name} is left out: {reason}", file=sys.stderr)
    if n_out and args.strict:
        raise DatasetError(
            f"{n_out} lesions would be left out, and with --strict nothing is written: complete "
            "the participant level, or choose by --participant-label."
        )
    say(args, str(plan))
    if not args.dry_run:
        command = [Path(sys.argv[0]).name, *sys.argv[1:]]
        people = {f"sub-{each.outputs.lesion.participant}" for each in plan.lesions}
        page = partial(
            build_group_page,
            left_out=plan.left_out,
            links={who: f"{who}.html" for who in people if (root / f"{who}.html").is_file()},
            space=plan.space,
            parameters=plan.parameters,
            thresholds=plan.thresholds,
        )
        write_group(plan, command, page)
        say(args, f"{len(plan.lesions)} lesions together, in {root / PAGE}")
        if n_out:
            print(f"lacuna: error: {n_out} lesions are in no table and no map", file=sys.stderr)
    return 1 if n_out else 0


def _share(text: str) -> float:
    value = not_negative(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0, up to 1")
    return value
