"""Deleting with consent: a plan is shown, agreed to, carried out and reported, in one way."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from lacuna.cli.options import confirm, counted, print_json, show_size
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
    may_spare: bool = False,
    nothing: str = "nothing to delete",
    what: tuple[str, str] = ("entry", "entries"),
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
    may_spare
        Whether it is fine that somebody uses some of it by now, and it stays.
    nothing
        What to say if nothing is to go.
    what
        What the plan removes: one, and many.
    key
        Name in JSON of what came of it.
    """
    require_consent(args)
    if not args.json:
        show()
        print("" if has_work else f"{nothing}\n", end="")
    cleared = None
    if has_work and not args.dry_run:
        if not args.yes and not confirm(_question(plan)):
            print("lacuna: nothing was deleted", file=sys.stderr)
            return 1
        cleared = plan.execute()
    if args.json:
        print_json({"plan": plan, key: cleared})
    elif cleared:
        n_removed = counted(len(cleared.removed), *what)
        ended = f", {counted(len(cleared.ended), 'lease')} ended" if cleared.ended else ""
        print(f"deleted {n_removed}, {show_size(cleared.freed_bytes)} freed{ended}")
        for item in (*cleared.spared, *cleared.failed):
            print(f"not deleted: {item.label}: {item.reason}")
    is_left = cleared and (cleared.failed or (cleared.spared and not may_spare))
    return 0 if args.dry_run or (is_met and not is_left) else 1


def _question(plan: "PrunePlan | ReapPlan") -> str:
    question = f"Delete {show_size(plan.expected_freed_bytes)}"
    if leases := getattr(plan, "leases", ()):
        number = counted(len(leases), "lease")
        question += f", and end {number} although those who took them may live"
    return f"{question}?"
