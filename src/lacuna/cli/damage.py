"""``lacuna run damage``: what lesions take of parcels and tracts of atlases."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacuna.cli.group import LEVELS, run_group
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
from lacuna.cli.options import common_options
from lacuna.cli.tractogram import option_as_space, setting_as_space
from lacuna.cli.transforms import add_transforms, find_transforms
from lacuna.errors import OptionError

if TYPE_CHECKING:
    from lacuna.geometry.space import StatedSpace
    from lacuna.workflow.batch import Choices
    from lacuna.workflow.damage import OpenedAtlas

EXAMPLE = """\
example:
  lacuna run damage masks results --space MNI152NLin6Asym \\
      --atlas tpl-MNI152NLin6Asym_atlas-Schaefer2018_dseg.nii.gz

exit status: 0 all lesions done; 1 some failed, each with its reason on stderr; 2 wrong usage
"""

COLUMNS = ("lesion", "volume_mm3", "side", "n_regions_damaged")
"""Columns of the summary table that stdout gets."""


def add_damage(analyses: Any) -> None:
    """Add ``lacuna run damage``."""
    parser = analyses.add_parser(
        "damage",
        help="what share of each parcel or tract of an atlas a lesion takes; no tractogram",
        description="Measure what share of the volume of each parcel, or each tract, of an atlas\n"
        "is lesioned. No tractogram is needed.",
        epilog=f"{EXAMPLE}\n{LEVELS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common_options()],
    )
    add_input(parser)
    what = parser.add_argument_group("what is analysed")
    add_atlases(what)
    add_choice(what)
    how = parser.add_argument_group("how")
    add_transforms(how, "brings atlases into the lesions' space")
    add_move_lesions(how, "first atlas")
    add_care(how)
    out = parser.add_argument_group("what is written")
    add_report(out)
    add_again(out)
    parser.set_defaults(analysis=run_damage)


def run_damage(args: argparse.Namespace) -> int:
    """Measure what each lesion takes of each atlas."""
    from functools import partial

    from lacuna.cli.pages import Pages, keep_pages
    from lacuna.workflow.batch import Choices, lesion_spaces, work_through
    from lacuna.workflow.damage import DamageRecord, damage_lesion, plan_damage, settle_atlases
    from lacuna.workflow.stores import open_store

    if args.level == "group":
        return run_group(args, "damage")
    if not args.atlas + args.tract_atlas:
        raise OptionError("No atlas: give --atlas FILE, a label image, or --tract-atlas FILE.")
    crew = choose_crew(args, preload=("lacuna.cli.pages", "lacuna.report.participant"))
    listing = find_input(args)
    choices = Choices(
        space=option_as_space(args, "space"),
        default_space=setting_as_space(args, "space"),
        strict=args.strict,
    )
    choices, atlases = _bring_together(args, lesion_spaces(listing, choices), choices)
    record = DamageRecord(
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        atlases=atlases,
        threads=args.settings.num_threads,
    )
    fingerprint = open_store(args.settings).fingerprint
    plan = plan_damage(listing, args.output_dir, record, choices)
    details = {"Report": not args.no_report}
    plan = plan.resume(fingerprint, details, overwrite=args.overwrite)
    say(args, str(plan))
    check_memory(args, crew)
    if args.dry_run:
        return 0
    settle_atlases(record.atlases)
    report = None if args.no_report else Pages(record.atlases)
    tell = keep_pages(plan, print_rows(COLUMNS))
    work = partial(damage_lesion, plan, report=report)
    outcomes = work_through(plan, work, crew=crew, on_outcome=tell)
    return conclude(args, outcomes, plan.output_dir)


def _bring_together(
    args: argparse.Namespace, lesions: "list[StatedSpace | None]", choices: "Choices"
) -> "tuple[Choices, tuple[OpenedAtlas, ...]]":
    """Return the atlases in the lesions' space, or choices that bring lesions to the first."""
    from dataclasses import replace

    from lacuna.workflow.damage import choose_space
    from lacuna.workflow.resampled import LesionMoves
    from lacuna.workflow.stores import open_store

    store, atlases = open_store(args.settings), open_atlases(args)
    files = find_transforms(args, [*(atlas.space for atlas in atlases), *lesions])
    space = choose_space(store, files, atlases, () if args.move_lesions else lesions)
    moves = LesionMoves(store, files, space) if args.move_lesions else None
    used = moves.warps(lesions) if moves else []
    return replace(choices, moves=moves), bring_atlases(args, files, atlases, space, used)
