"""``lacuna cache clear``: delete what is kept."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lacuna.cli.cache.selection import add_filters, selection
from lacuna.cli.options import confirm, print_json, show_duration, show_size
from lacuna.errors import OptionError

if TYPE_CHECKING:
    from lacuna.store import PrunePlan

_ADVICE = {"used": "; --force deletes it", "pinned": "; `lacuna cache unpin` releases it"}


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what deletes entries."""
    clear = add("clear", _clear, "Delete what the cache holds, unless it is in use or pinned.")
    add_filters(clear)
    add_consent(clear)
    clear.add_argument("--force", action="store_true", help="also what was used in the last 24 h")


def _clear(args: argparse.Namespace) -> int:
    from lacuna.workflow.stores import open_store

    plan = open_store(args.settings).plan_clear(selection(args), force=args.force)
    return carry_out(args, plan, is_met=not plan.kept)


def add_consent(parser: argparse.ArgumentParser) -> None:
    """Add the options of an action that deletes."""
    parser.add_argument("-n", "--dry-run", action="store_true", help="print the plan, and stop")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def carry_out(args: argparse.Namespace, plan: "PrunePlan", *, is_met: bool) -> int:
    """Print a plan, ask, execute it, and return the exit code.

    Parameters
    ----------
    args
        With `add_consent` and ``--json``.
    plan
        What is to go.
    is_met
        Whether that is all that was asked for.
    """
    if not args.json:
        _print_plan(plan)
    elif not (args.dry_run or args.yes):
        raise OptionError("With --json nobody is asked: add --dry-run or --yes.")
    has_work = bool(plan.removals or plan.leftovers)
    if args.dry_run or not has_work:
        if args.json:
            print_json({"plan": plan, "cleared": None})
        return 0 if args.dry_run or is_met else 1
    if not args.yes and not confirm(f"Delete {show_size(plan.expected_freed_bytes)}?"):
        print("lacuna: nothing was deleted", file=sys.stderr)
        return 1
    cleared = plan.execute()
    if args.json:
        print_json({"plan": plan, "cleared": cleared})
    else:
        print(f"deleted {len(cleared.removed)} entries, {show_size(cleared.freed_bytes)} freed")
        for item in cleared.failed:
            print(f"not deleted: {item.label}: {item.reason}")
    return 0 if is_met and not cleared.failed else 1


def _print_plan(plan: "PrunePlan") -> None:
    now = time.time()
    for item in plan.removals:
        unused = f"unused for {show_duration(now - item.used_at)}; " if item.used_at else ""
        why = f": {unused}{item.because}" if item.because else ""
        print(f"delete: {item.label} ({show_size(item.size_bytes)}){why}")
    if plan.leftovers:
        n_left = len(plan.leftovers)
        print(f"delete: {n_left} leftovers of ended processes ({show_size(plan.leftover_bytes)})")
    for item in plan.kept:
        advice = "" if item.because else _ADVICE.get(item.reason.split()[0], "")
        print(f"keep: {item.label} ({show_size(item.size_bytes)}): {item.reason}{advice}")
    if not (plan.removals or plan.leftovers):
        print("nothing to delete")
    if plan.missing_bytes:
        print(f"the budgets ask for {show_size(plan.missing_bytes)} more, which may not be deleted")
