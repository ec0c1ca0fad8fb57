"""Deleting with consent: a plan is shown, agreed to, carried out and reported, in one way."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from lacuna.cli.options import confirm, print_json, show_size
from lacuna.errors import OptionError

if TYPE_CHECKING:
    from lacuna.store import PrunePlan, ReapPlan


def add_consent(parser: argparse.ArgumentParser) -> None:
    """Add the options of an action that carries out a plan."""
    parser.add_argument("-n", "--dry-run", action="store_true", help="print the plan, and stop")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def require_consent(args: argparse.Namespace) -> None:
    """Refuse ``--json`` where somebody would have to be asked."""
    if args.json and not (args.dry_run or args.yes):
        raise OptionError("With --json nobody is asked: add --dry-run or --yes.")


def carry_out(
    args: argparse.Namespace,
    plan: "PrunePlan | ReapPlan",
    show: Callable[[], None],
    *,
    has_work: bool,
    is_met: bool = True,
    what: str = "entries",
    key: str = "cleared",
) -> int:
    """Print a plan, ask, execute it, and return the exit code.

    Parameters
    ----------
    args
        With `add_consent` and ``--json``.
    plan
        What is to go.
    show
        Prints the plan.
    has_work
        Whether anything is to go.
    is_met
        Whether that is all that was asked for.
    what
        What the plan removes, in the plural.
    key
        Name in JSON of what came of it.
    """
    require_consent(args)
    if not args.json:
        show()
        print("" if has_work else "nothing to delete\n", end="")
    cleared = None
    if has_work and not args.dry_run:
        if not args.yes and not confirm(f"Delete {show_size(plan.expected_freed_bytes)}?"):
            print("lacuna: nothing was deleted", file=sys.stderr)
            return 1
        cleared = plan.execute()
    if args.json:
        print_json({"plan": plan, key: cleared})
    elif cleared:
        print(f"deleted {len(cleared.removed)} {what}, {show_size(cleared.freed_bytes)} freed")
        for item in cleared.failed:
            print(f"not deleted: {item.label}: {item.reason}")
    return 0 if args.dry_run or (is_met and not (cleared and cleared.failed)) else 1
