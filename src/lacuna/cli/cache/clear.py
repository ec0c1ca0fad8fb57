"""``lacuna cache clear``: delete what is kept."""

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lacuna.cli.cache.consent import add_consent, carry_out
from lacuna.cli.cache.selection import add_filters, selection
from lacuna.cli.options import counted, show_duration, show_size

if TYPE_CHECKING:
    from lacuna.store import PrunePlan

_ADVICE = {"used": "; --force deletes it", "pinned": "; `lacuna cache unpin` releases it"}
_ADOPT = {"no": "; `lacuna cache adopt` marks it again"}


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what deletes entries."""
    clear = add("clear", _clear, "Delete what the cache holds, unless it is in use or pinned.")
    add_filters(clear)
    add_consent(clear)
    clear.add_argument("--force", action="store_true", help="also what was used in the last 24 h")


def _clear(args: argparse.Namespace) -> int:
    from lacuna.workflow.stores import open_store

    plan = open_store(args.settings).plan_clear(selection(args), force=args.force)
    return clear_entries(args, plan, is_met=not plan.kept)


def clear_entries(
    args: argparse.Namespace,
    plan: "PrunePlan",
    *,
    is_met: bool,
    may_spare: bool = False,
    nothing: str = "nothing to delete",
) -> int:
    """Show a plan about entries, carry it out with consent, and return the exit code.

    Parameters
    ----------
    args
        As of `carry_out`, and so is the rest.
    plan
        What is to go.
    is_met, may_spare, nothing
        As of `carry_out`.

    Raises
    ------
    CacheDirError
        This user may delete none of it.
    """
    has_work = bool(plan.removals or plan.leftovers or plan.leases)
    if has_work and not args.dry_run:
        plan.require_writable()
    return carry_out(
        args,
        plan,
        lambda: _show(plan),
        has_work=has_work,
        is_met=is_met,
        may_spare=may_spare,
        nothing=nothing,
    )


def _show(plan: "PrunePlan") -> None:
    now = time.time()
    for lease in plan.leases:
        taken = f"taken {show_duration(lease.age_s)} ago"
        print(f"end: {lease.label}, {taken}; nobody can say if it is used: {lease.evidence}")
    for item in plan.removals:
        unused = f"unused for {show_duration(now - item.used_at)}; " if item.used_at else ""
        why = f": {unused}{item.because}" if item.because else ""
        print(f"delete: {item.label} ({show_size(item.size_bytes)}){why}")
    if plan.leftovers:
        left = counted(len(plan.leftovers), "leftover")
        print(f"delete: {left} of ended processes ({show_size(plan.leftover_bytes)})")
    for item in plan.kept:
        advices = _ADOPT if item.because else _ADOPT | _ADVICE
        advice = advices.get(item.reason.split()[0], "")
        print(f"keep: {item.label} ({show_size(item.size_bytes)}): {item.reason}{advice}")
    if plan.missing_bytes:
        print(f"the budgets ask for {show_size(plan.missing_bytes)} more, which may not be deleted")
