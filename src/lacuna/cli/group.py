"""``lacuna run … group``: the results of all lesions of an output folder together."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lacuna.cli.lesions import say
from lacuna.cli.options import not_negative
from lacuna.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lacuna.report.group import GroupMap
    from lacuna.workflow.cohort import GroupPlan
    from lacuna.workflow.group import GroupMaps

LEVELS = """\
level group: puts what the participant level wrote in OUTPUT_DIR into tables over all lesions, mean
maps and matrices, and group.html; needs no tractogram. Lesions that failed, are missing, or were
done with other options than most are left out: they are named on stderr and in the sidecars, and
the exit status is 1. With --strict nothing is written then.
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
    from lacuna.bids.dataset import find_lesions
    from lacuna.workflow.cohort import plan_group
    from lacuna.workflow.group import write_group
    from lacuna.workflow.stores import open_store

    plan = plan_group(
        find_lesions(args.input, args.participant_label),
        args.output_dir,
        analysis=analysis,
        fingerprint=open_store(args.settings).fingerprint,
        thresholds=getattr(args, "threshold", None) or (0.5,),
    )
    n_out = len(plan.left_out)
    for name, reason in plan.left_out.items():
        print(f"lacuna: warning: {name} is left out: {reason}", file=sys.stderr)
    if n_out and args.strict:
        raise DatasetError(
            f"{n_out} lesions would be left out, and with --strict nothing is written: complete "
            "the participant level, or choose by --participant-label."
        )
    say(args, str(plan))
    if args.dry_run:
        return 1 if n_out else 0
    maps = write_group(plan, [Path(sys.argv[0]).name, *sys.argv[1:]])
    _write_page(plan, maps, analysis)
    say(args, f"{len(plan.lesions)} lesions together, in {plan.output_dir / 'group.html'}")
    if n_out:
        print(f"lacuna: error: {n_out} lesions are in no table and no map", file=sys.stderr)
    return 1 if n_out else 0


def _write_page(plan: "GroupPlan", maps: "GroupMaps", analysis: str) -> None:
    from lacuna.bids.derivatives import write_text
    from lacuna.bids.tables import read_table
    from lacuna.report.group import build_group_page

    root = plan.output_dir
    summary = read_table(root / "group_desc-summary_stats.tsv")
    pages = {row[0]: f"{row[0]}.html" for row in summary.rows}
    page = build_group_page(
        summary.columns,
        summary.rows,
        left_out=plan.left_out,
        links={name: page for name, page in pages.items() if (root / page).is_file()},
        maps=list(_shown(maps)),
        grid=maps.grid,
        density=maps.density,
        files=maps.files,
        methods=_methods(plan, analysis),
        space=plan.space,
    )
    write_text(root / "group.html", page)


def _shown(maps: "GroupMaps") -> "Iterator[GroupMap]":
    """Yield what is drawn of the maps, with its title."""
    from lacuna.report.group import GroupMap

    titles = {
        "lesionoverlap": ("Lesion overlap", "lesions"),
        "meandisconnection": ("Mean disconnection", "mean share of streamlines disconnected"),
        "frequency": ("Frequency of disconnection", "share of lesions"),
    }
    for desc, array in maps.arrays.items():
        kind, _, percent = desc.partition("thr")
        if kind in titles:
            title, label = titles[kind]
            title += f", threshold {percent.replace('p', '.')} %" if percent else ""
            yield GroupMap(array, title, label, maps.described[desc])


def _methods(plan: "GroupPlan", analysis: str) -> list[str]:
    from importlib.metadata import version

    n, n_out = len(plan.lesions), len(plan.left_out)
    left = f" {n_out} further lesions were left out." if n_out else ""
    overlap = (
        f"Results of {n} lesions in {plan.space} were put together with Lacuna "
        f"{version('lacuna-lnm')}.{left} Lesion overlap is the number of lesions in each voxel, "
        "each with the share of the voxel's volume that it covers, by exact overlap of voxels."
    )
    found = [overlap]
    if analysis == "snm":
        shares = ", ".join(f"{threshold:g}" for threshold in plan.thresholds)
        found.append(
            "A lesion's disconnection of a voxel is the share of a normative tractogram's "
            f"streamlines through it that the lesion cuts (mapping rule "
            f"{plan.parameters['Rule']}). Mean and frequency over lesions (the share of lesions "
            f"with a disconnection of at least {shares}) are given for voxels with at least "
            f"{plan.parameters['MinTDI']} streamlines."
        )
    return found


def _share(text: str) -> float:
    value = not_negative(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0, up to 1")
    return value
