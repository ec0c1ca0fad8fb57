"""``lacuna cache prune | pin | unpin``: keep within the budgets, and keep what must stay."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lacuna.cli.cache.clear import clear_entries
from lacuna.cli.cache.consent import add_consent, require_consent
from lacuna.cli.options import confirm, duration, print_json, size
from lacuna.errors import OptionError

if TYPE_CHECKING:
    from lacuna.store import Entry

_FEWEST_DIGITS = 4


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what evicts entries, and what protects them."""
    prune = add("prune", _prune, "Delete what was unused for longest, as far as budgets ask for.")
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
        "whoever took them may have been killed, and who was not loses what it uses",
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
    from lacuna.workflow.stores import open_store

    require_consent(args)
    store, older_than_s = open_store(args.settings), args.end_leases_older_than
    if older_than_s is not None and not args.dry_run:
        if not args.yes and not confirm("End leases whose owners may still use what they hold?"):
            print("lacuna: nothing was deleted", file=sys.stderr)
            return 1
        print(f"leases ended: {store.end_leases(older_than_s)}", file=sys.stderr)
    plan = store.plan_prune(
        max_size=args.max_size,
        max_age_s=args.max_age,
        min_free=args.min_free,
        old_versions=args.old_versions,
    )
    return clear_entries(args, plan, is_met=not plan.missing_bytes)


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
