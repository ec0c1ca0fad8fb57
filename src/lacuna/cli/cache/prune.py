"""``lacuna cache prune | pin | unpin``: keep within the budgets, and keep what must stay."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lacuna.cli.cache.clear import clear_entries
from lacuna.cli.cache.consent import add_consent, require_consent
from lacuna.cli.options import duration, print_json, show_duration, show_size, size
from lacuna.errors import OptionError

if TYPE_CHECKING:
    from lacuna.store import Entry, PrunePlan

_FEWEST_DIGITS = 4


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what evicts entries, and what protects them."""
    prune = add("prune", _prune, "Delete what was unused for longest, as far as budgets ask for.")
    prune.epilog = (
        "What is in use, pinned, or was used in the last 24 h stays, even if a budget cannot be "
        "met then: that is no error. Exit code 1: something that was to go could not be removed."
    )
    budgets = prune.add_argument_group("budgets (default: those of the configuration)")
    budgets.add_argument("--max-size", type=size, metavar="SIZE", help="keep SIZE at most")
    budgets.add_argument(
        "--max-age", type=duration, metavar="TIME", help="delete what was unused for TIME"
    )
    budgets.add_argument("--min-free", type=size, metavar="SIZE", help="have SIZE free on the disk")
    prune.add_argument(
        "--old-versions", action="store_true", help="also what only older versions can read"
    )
    prune.add_argument(
        "--end-leases-older-than",
        type=duration,
        metavar="TIME",
        help="first end leases from other machines or containers that were taken so long ago: "
        "whoever took them may have been killed, and who was not may lose what it uses",
    )
    add_consent(prune)
    for name, text in (
        ("pin", "Keep entries, whatever the budgets say."),
        ("unpin", "Let pinned entries go again, when it is their turn."),
    ):
        parser = add(name, partial(_change, pinned=name == "pin"), text)
        parser.add_argument(
            "entries",
            nargs="+",
            metavar="ENTRY",
            help=f"its label, or {_FEWEST_DIGITS} or more digits of its digest, as in `list`",
        )


def _prune(args: argparse.Namespace) -> int:
    from lacuna.store import UNMARKED
    from lacuna.workflow.stores import open_store

    require_consent(args)
    plan = open_store(args.settings).plan_prune(
        max_size=args.max_size,
        max_age_s=args.max_age,
        min_free=args.min_free,
        old_versions=args.old_versions,
        end_leases_older_than_s=args.end_leases_older_than,
    )
    # A cron job must hear of a cache that never gets smaller; that it is busy today is no news.
    is_met = not any(item.reason == UNMARKED for item in plan.kept)
    nothing = "nothing to delete" if plan.kept or plan.missing_bytes else _say_met(plan)
    return clear_entries(args, plan, is_met=is_met, may_spare=True, nothing=nothing)


def _say_met(plan: "PrunePlan") -> str:
    """Return which budgets there are, where all of them are met."""
    budget = plan.budget
    shown = {
        "max_size": budget and budget.max_size is not None and _exact(budget.max_size),
        "max_age": budget and budget.max_age_s is not None and show_duration(budget.max_age_s),
        "min_free": budget and budget.min_free and _exact(budget.min_free),
    }
    met = [f"{name} ({value})" for name, value in shown.items() if value]
    unset = [name for name, value in shown.items() if not value]
    parts = [f"No {_joined(unset, 'or')} is set"] if unset else []
    parts += [f"{_joined(met, 'and')} {'is' if len(met) == 1 else 'are'} met"] if met else []
    return f"{'; '.join(parts)}: nothing to delete"


def _exact(n_bytes: int) -> str:
    """Return a size, in the binary unit if it was probably given in that."""
    return show_size(n_bytes) if not n_bytes or n_bytes % (1 << 30) else f"{n_bytes >> 30} GiB"


def _joined(names: Sequence[str], word: str) -> str:
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _change(args: argparse.Namespace, *, pinned: bool) -> int:
    from lacuna.workflow.stores import open_store

    store = open_store(args.settings)
    change, state = (store.pin, "pinned") if pinned else (store.unpin, "no longer pinned")
    chosen = _choose([entry for entry in store.entries() if not entry.read_only], args.entries)
    for entry in chosen:
        change(entry)
    if args.json:
        print_json([{"label": item.label, "digest": item.digest} for item in chosen])
    else:
        for entry in chosen:
            print(f"{state}: {entry.label or entry.product} ({entry.digest[:12]})")
    return 0


def _choose(entries: "Sequence[Entry]", names: Sequence[str]) -> "list[Entry]":
    """Return the entries that are named, each by its label or the beginning of its digest."""
    chosen = {}
    for name in names:
        found = [
            entry
            for entry in entries
            if entry.label == name
            or (len(name) >= _FEWEST_DIGITS and entry.digest.startswith(name))
        ]
        if not found:
            raise OptionError(f"No entry of the cache is called {name!r}: see `lacuna cache list`.")
        chosen.update({entry.directory: entry for entry in found})
    return list(chosen.values())
