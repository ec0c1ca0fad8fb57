"""``lacuna cache``: where it is, what it holds, whether it is sound; clear it, or fill it."""

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacuna.cli.options import (
    add_threads,
    common_options,
    confirm,
    duration,
    print_json,
    print_table,
    show_duration,
    show_size,
    size,
)
from lacuna.cli.tractogram import add_index_options, find_tractogram, report_grid, show_progress
from lacuna.errors import CacheError, OptionError
from lacuna.utils.cache import describe

if TYPE_CHECKING:
    from lacuna.store import ClearPlan, Entry
    from lacuna.utils.filesystem import Location

_SORT_KEYS: "dict[str, Callable[[Entry], Any]]" = {
    "used": lambda entry: -entry.used_at,
    "made": lambda entry: entry.meta["made"],
    "size": lambda entry: -entry.size_bytes,
    "label": lambda entry: entry.label,
}


def add_parser(subparsers: Any) -> None:
    """Add ``lacuna cache`` and its actions."""
    parser = subparsers.add_parser("cache", help="look after what is kept between runs")
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions")

    def add(name: str, action: Callable[[argparse.Namespace], int], text: str, **needs: str) -> Any:
        added = actions.add_parser(name, parents=[common_options()], help=text, description=text)
        added.add_argument("--json", action="store_true", help="print JSON")
        added.set_defaults(action=action, **({"needs": "settings"} | needs))
        return added

    add("dir", _dir, "Print where the cache is.")
    add("info", _info, "Print the locations, who chose them, and what they hold.")

    listing = add("list", _list, "List what the cache holds.")
    _add_filters(listing)
    listing.add_argument(
        "--sort", choices=_SORT_KEYS, default="used", help="by what (default: used, latest first)"
    )

    verify = add("verify", _verify, "Read everything again and find damage.")
    _add_filters(verify)
    verify.add_argument(
        "-n", "--dry-run", action="store_true", help="report damage, but leave it in place"
    )

    clear = add("clear", _clear, "Delete what the cache holds.")
    _add_filters(clear)
    clear.add_argument("-n", "--dry-run", action="store_true", help="print the plan, and stop")
    clear.add_argument("-y", "--yes", action="store_true", help="do not ask")
    clear.add_argument("--force", action="store_true", help="also what was used in the last 24 h")

    warm = add("warm", _warm, "Build ahead of time what runs will need.", needs="scratch")
    warm.add_argument("--tractogram", type=Path, metavar="T", help=".tck, .trk or .trx")
    add_index_options(warm)
    add_threads(warm)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which entries (default: all)")
    group.add_argument("--bucket", type=_bucket, metavar="NAME", help="only of this bucket")
    group.add_argument("--label", metavar="TEXT", help="only those with TEXT in their label")
    group.add_argument(
        "--min-size", type=size, metavar="SIZE", help="only of this size or larger, such as 1GB"
    )
    group.add_argument(
        "--unused-for", type=duration, metavar="TIME", help="only unused for so long, such as 30d"
    )


def _bucket(text: str) -> str:
    from lacuna.store.buckets import BUCKETS

    if text not in BUCKETS:
        raise argparse.ArgumentTypeError(f"{text!r} is no bucket: they are {', '.join(BUCKETS)}")
    return text


def run(args: argparse.Namespace) -> int:
    """Run the action that was asked for."""
    code: int = args.action(args)
    return code


def _dir(args: argparse.Namespace) -> int:
    locations = describe()
    if args.json:
        print_json({location.name: location.path for location in locations})
        return 0
    if locations[0].path is None:
        raise CacheError(locations[0].problem)
    print(locations[0].path)
    return 0


def _info(args: argparse.Namespace) -> int:
    locations = describe()
    held = _what_is_held(args) if locations[0].exists else {}
    if args.json:
        found = {"files": args.settings.files, "files_not_read": args.settings.unread}
        print_json({"locations": locations, **held, **found})
        return 0
    for location in locations:
        print(f"{location.name}: {location.path or location.problem}")
        print(f"  chosen by: {location.source}")
        print(f"  {_state(location)}")
    shared = {f"shared, read only: {root}": held["shared"][root] for root in held.get("shared", ())}
    for name, total in (held.get("buckets", {}) | shared).items():
        print(f"{name}: {total['entries']} entries, {show_size(total['bytes'])}")
    if held.get("damaged"):
        print(f"damaged: {held['damaged']} entries; `lacuna cache verify` says more")
    if held.get("leftovers"):
        amount = show_size(held["leftover_bytes"])
        print(f"leftovers: {held['leftovers']}, {amount}; `lacuna cache clear` removes them")
    for path in held.get("unmanaged", ()):
        print(f"unmanaged, never deleted: {path}")
    for file in args.settings.files:
        print(f"configuration file: {file}")
    for file in args.settings.unread:
        print(f"configuration file not read: {file}")
    return 0


def _state(location: "Location") -> str:
    facts = (
        "exists" if location.exists else "absent",
        "writable" if location.writable else "not writable",
        location.filesystem,
        location.free_bytes is not None and f"{show_size(location.free_bytes)} free",
        location.free_inodes is not None and f"{location.free_inodes} inodes free",
    )
    return ", ".join(fact for fact in facts if fact)


def _what_is_held(args: argparse.Namespace) -> dict[str, Any]:
    """Return totals per bucket and shared root, and what is not an entry."""
    from lacuna.store.buckets import BUCKETS
    from lacuna.workflow.stores import open_store

    store = open_store(args.settings)
    buckets = {name: {"entries": 0, "bytes": 0} for name in BUCKETS}
    shared: dict[str, dict[str, int]] = {}
    for entry in store.entries():
        totals, name = (shared, str(entry.root)) if entry.read_only else (buckets, entry.bucket)
        total = totals.setdefault(name, {"entries": 0, "bytes": 0})
        total["entries"] += 1
        total["bytes"] += entry.size_bytes
    plan = store.plan_clear(lambda _entry: False)
    return {
        "buckets": buckets,
        "shared": shared,
        "damaged": len(plan.removals),
        "leftovers": len(plan.leftovers),
        "leftover_bytes": plan.leftover_bytes,
        "unmanaged": [str(path) for path in store.unmanaged()],
    }


def _list(args: argparse.Namespace) -> int:
    from lacuna.workflow.stores import open_store

    select = _selection(args)
    chosen = [entry for entry in open_store(args.settings).entries() if select(entry)]
    chosen.sort(key=_SORT_KEYS[args.sort])
    if args.json:
        print_json([_as_json(entry) for entry in chosen])
    elif not chosen:
        print("nothing", file=sys.stderr)
    else:
        rows = [
            (
                entry.label or entry.product,
                entry.bucket,
                show_size(entry.size_bytes),
                show_duration(time.time() - entry.used_at),
                entry.digest[:12],
                f"in {entry.root}" if entry.read_only else "",
            )
            for entry in chosen
        ]
        print_table([("label", "bucket", "size", "unused for", "digest", ""), *rows], right=(2, 3))
    return 0


def _as_json(entry: "Entry") -> dict[str, Any]:
    names = ("label", "product", "bucket", "digest", "size_bytes", "made_in_s", "path", "read_only")
    used = datetime.fromtimestamp(entry.used_at, UTC).isoformat(timespec="seconds")
    return {
        **{name: getattr(entry, name) for name in names},
        "used": used,
        "made": entry.meta["made"],
    }


def _verify(args: argparse.Namespace) -> int:
    from lacuna.workflow.stores import open_store

    reports = []
    for report in open_store(args.settings).verify(_selection(args), discard=not args.dry_run):
        reports.append(report)
        if args.json:
            continue
        name = report.label or report.path
        if report.problem is None:
            print(f"whole: {name} ({show_size(report.size_bytes)})")
        else:
            fate = "; it will be made again when needed" if report.discarded else ""
            print(f"damaged: {name}: {report.problem}{fate}")
    if args.json:
        print_json(reports)
    return 1 if any(report.problem for report in reports) else 0


def _clear(args: argparse.Namespace) -> int:
    from lacuna.workflow.stores import open_store

    plan = open_store(args.settings).plan_clear(_selection(args), force=args.force)
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


def _selection(args: argparse.Namespace) -> "Callable[[Entry], bool]":
    """Return which entries the filters choose."""
    now = time.time()

    def select(entry: "Entry") -> bool:
        return (
            (args.bucket is None or entry.bucket == args.bucket)
            and (args.label is None or args.label in entry.label)
            and (args.min_size is None or entry.size_bytes >= args.min_size)
            and (args.unused_for is None or now - entry.used_at >= args.unused_for)
        )

    return select


def _warm(args: argparse.Namespace) -> int:
    from lacuna.workflow.products import open_index
    from lacuna.workflow.stores import open_store

    store, path = open_store(args.settings), find_tractogram(args)
    with show_progress(args) as progress:
        opened = open_index(
            store,
            path,
            grid=report_grid(args, store, path, progress),
            rule=args.rule,
            upsample=args.upsample,
            threads=args.settings.num_threads,
            progress=progress,
        )
    if args.json:
        print_json({"tractogram": path, "built": opened.built, "entries": dict(opened.keys)})
    else:
        state = "built" if opened.built else "was there"
        print(f"{path}: {opened.n_streamlines} streamlines, index {state}")
        print_table((product, digest[:12]) for product, digest in opened.keys.items())
    return 0
