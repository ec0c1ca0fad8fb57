"""``lacuna cache clear``: delete what is kept."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from lacuna.cli.cache.selection import add_filters, selection
from lacuna.cli.options import confirm, print_json, show_size
from lacuna.errors import OptionError

if TYPE_CHECKING:
    from lacuna.store import ClearPlan


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what deletes entries."""
    clear = add("clear", _clear, "Delete what the cache holds.")
    add_filters(clear)
    clear.add_argument("-n", "--dry-run", action="store_true", help="print the plan, and stop")
    clear.add_argument("-y", "--yes", action="store_true", help="do not ask")
    clear.add_argument("--force", action="store_true", help="also what was used in the last 24 h")


def _clear(args: argparse.Namespace) -> int:
    from lacuna.workflow.stores import open_store

    plan = open_store(args.settings).plan_clear(selection(args), force=args.force)
    if not args.json:
        _print_plan(plan)
    elif not (args.dry_run or args.yes):
        raise OptionError("With --json nobody is asked: add --dry-run or --yes.")
    has_work = bool(plan.removals or plan.leftovers)
    if args.dry_run or not has_work:
        if args.json:
            print_json({"plan": plan, "cleared": None})
        return 0 if args.dry_run or not plan.kept else 1
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
    return 1 if plan.kept or cleared.failed else 0


def _print_plan(plan: "ClearPlan") -> None:
    for item in plan.removals:
        print(f"delete: {item.label} ({show_size(item.size_bytes)})")
    if plan.leftovers:
        n_left = len(plan.leftovers)
        print(f"delete: {n_left} leftovers of ended processes ({show_size(plan.leftover_bytes)})")
    for item in plan.kept:
        advice = "; --force deletes it" if item.reason.startswith("used") else ""
        print(f"keep: {item.label} ({show_size(item.size_bytes)}): {item.reason}{advice}")
    if not (plan.removals or plan.leftovers):
        print("nothing to delete")
