"""``lacuna cache dir | info | list | verify``: where it is, what it holds, whether it is sound."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lacuna.cli.cache.init import group_name
from lacuna.cli.cache.reap import show_scratch
from lacuna.cli.cache.selection import add_filters, selection
from lacuna.cli.options import counted, print_json, print_table, show_duration, show_size
from lacuna.errors import CacheError
from lacuna.utils.cache import describe

if TYPE_CHECKING:
    from lacuna.store import Entry, Scratch
    from lacuna.utils.filesystem import Location

_MOST_SHOWN = 20
_ADOPT = "`lacuna cache adopt` marks it again (below no marker nothing is deleted)"
_LARGE_BYTES = 50 << 30
_SORT_KEYS: "dict[str, Callable[[Entry], Any]]" = {
    "used": lambda entry: -entry.used_at,
    "made": lambda entry: entry.meta["made"],
    "size": lambda entry: -entry.size_bytes,
    "label": lambda entry: entry.label,
}


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the actions that only look."""
    add("dir", _dir, "Print where the cache is.")
    add("info", _info, "Print the locations, who chose them, and what they hold.")

    listing = add("list", _list, "List what the cache holds.")
    add_filters(listing)
    listing.add_argument(
        "--sort", choices=_SORT_KEYS, default="used", help="by what (default: used, latest first)"
    )

    verify = add("verify", _verify, "Read everything again and find damage.")
    add_filters(verify)
    verify.add_argument(
        "-n", "--dry-run", action="store_true", help="report damage, but leave it in place"
    )


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
    shared = _shared(args)
    scratch = _scratch(locations[-1])
    if args.json:
        found = {"files": args.settings.files, "files_not_read": args.settings.unread}
        print_json({"locations": locations, **held, "shared": shared, "scratch": scratch, **found})
        return 0
    for location in locations:
        print(f"{location.name}: {location.path or location.problem}")
        print(f"  chosen by: {location.source}")
        print(f"  {_state(location)}")
    if held:
        _print_held(held)
    for root, total in shared.items():
        state = total.get("problem") or f"{total['entries']} entries, {show_size(total['bytes'])}"
        print(f"shared, read only: {root} ({args.settings.sources['shared_cache_dirs']}): {state}")
    _print_scratch(scratch)
    for file in args.settings.files:
        print(f"configuration file: {file}")
    for file in args.settings.unread:
        print(f"configuration file not read: {file}")
    return 0


def _shared(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the totals of each shared root, or why there are none."""
    from lacuna.store import Store
    from lacuna.workflow.stores import problem_of

    shared: dict[str, dict[str, Any]] = {}
    for root in args.settings.paths("shared_cache_dirs"):
        if problem := problem_of(root):
            shared[str(root)] = {"problem": problem}
        else:
            total = shared[str(root)] = {"entries": 0, "bytes": 0}
            with suppress(OSError):  # what is closed to us is no use to us
                for entry in Store(root).entries():
                    total["entries"] += 1
                    total["bytes"] += entry.size_bytes
    return shared


def _scratch(temp: "Location") -> "tuple[Scratch, ...]":
    """Return what lies in the temp base, if that can be read."""
    from lacuna.store import plan_reap

    with suppress(OSError):
        return plan_reap(temp.path).items if temp.path else ()
    return ()


def _print_scratch(scratch: "Sequence[Scratch]") -> None:
    """Print how much scratch there is, and each piece that nobody is known to use."""
    if not scratch:
        return
    left = [item for item in scratch if item.state != "alive"]
    n_bytes = sum(item.size_bytes or 0 for item in scratch)
    print(f"scratch: {len(scratch)}, {show_size(n_bytes)}; {len(scratch) - len(left)} in use")
    for item in left[:_MOST_SHOWN]:
        print(f"  left: {show_scratch(item)}")
    if left:
        print(f"  {len(left)} left behind; `lacuna cache reap` removes what may go")


def _print_held(held: dict[str, Any]) -> None:
    """Print what a cache holds, what protects it, how often it was of use, and what is odd."""
    if held["group"]:
        print(f"the cache is shared with group {held['group']}: its members change it too")
    for name, total in held["buckets"].items():
        print(f"{name}: {_entries(total['entries'])}, {show_size(total['bytes'])}")
    for path in held["unmarked"]:
        print(f"no marker: {path}; {_ADOPT}")
    if held["pinned"] or held["in_use"]:
        print(f"pinned: {_entries(held['pinned'])}; in use: {held['in_use']}")
    if usage := held["usage"]:
        since = datetime.fromtimestamp(usage.since, UTC).date()
        misses = counted(usage.misses, "miss", "misses")
        print(f"asked for since {since}: {counted(usage.hits, 'hit')}, {misses}")
    if text := say_if_large(sum(total["bytes"] for total in held["buckets"].values())):
        print(text)
    if held["damaged"]:
        print(f"damaged: {_entries(held['damaged'])}; `lacuna cache verify` says more")
    if held["leftovers"]:
        amount = show_size(held["leftover_bytes"])
        print(f"leftovers: {held['leftovers']}, {amount}; `lacuna cache clear` removes them")
    for path in held["unmanaged"]:
        print(f"unmanaged, never deleted: {path}")


def _entries(number: int) -> str:
    return counted(number, "entry", "entries")


def say_if_large(n_bytes: int) -> str:
    """Return what there is to say about the size of a cache; nothing about a small one."""
    if n_bytes <= _LARGE_BYTES:
        return ""
    return (
        f"the cache holds {show_size(n_bytes)}: `lacuna cache prune --max-size SIZE` makes it "
        "smaller, max_size in the configuration keeps it so"
    )


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
    """Return who shares it, totals per bucket, and what else is known of it."""
    from lacuna.store import group_of
    from lacuna.store.buckets import BUCKETS
    from lacuna.store.doctor import plan_adoption
    from lacuna.workflow.stores import open_store

    store = open_store(args.settings)
    buckets = {name: {"entries": 0, "bytes": 0} for name in BUCKETS}
    pinned = 0
    for entry in store.entries():
        if entry.read_only:
            continue
        total = buckets.setdefault(entry.bucket, {"entries": 0, "bytes": 0})
        total["entries"] += 1
        total["bytes"] += entry.size_bytes
        pinned += entry.pinned
    unmarked: tuple[str, ...] = ()
    with suppress(OSError):
        unmarked = plan_adoption(str(store.root)).marks
    plan = store.plan_clear(lambda _entry: False)
    usage = store.usage()
    group = group_of(store.root)
    return {
        "group": None if group is None else group_name(group),
        "buckets": buckets,
        "unmarked": unmarked,
        "pinned": pinned,
        "in_use": len(store.users()),
        "usage": usage if usage.since else None,
        "damaged": len(plan.removals),
        "leftovers": len(plan.leftovers),
        "leftover_bytes": plan.leftover_bytes,
        "unmanaged": [str(path) for path in store.unmanaged()],
    }


def _list(args: argparse.Namespace) -> int:
    from lacuna.workflow.stores import open_store

    select, store = selection(args), open_store(args.settings)
    chosen = [entry for entry in store.entries() if select(entry)]
    chosen.sort(key=_SORT_KEYS[args.sort])
    users = store.users()
    if args.json:
        print_json([_as_json(entry, users) for entry in chosen])
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
                _remark(entry, users),
            )
            for entry in chosen
        ]
        print_table([("label", "bucket", "size", "unused for", "digest", ""), *rows], right=(2, 3))
    return 0


def _remark(entry: "Entry", users: "Mapping[str, str]") -> str:
    if entry.read_only:
        return f"in {entry.root}"
    remarks = ("pinned" if entry.pinned else "", "in use" if entry.digest in users else "")
    return ", ".join(filter(None, remarks))


def _as_json(entry: "Entry", users: "Mapping[str, str]") -> dict[str, Any]:
    names = ("label", "product", "bucket", "digest", "size_bytes", "made_in_s", "path", "read_only")
    used = datetime.fromtimestamp(entry.used_at, UTC).isoformat(timespec="seconds")
    return {
        **{name: getattr(entry, name) for name in names},
        "used": used,
        "made": entry.meta["made"],
        "pinned": not entry.read_only and entry.pinned,
        "in_use_by": None if entry.read_only else users.get(entry.digest),
    }


def _verify(args: argparse.Namespace) -> int:
    from lacuna.workflow.stores import open_store

    reports = []
    for report in open_store(args.settings).verify(selection(args), discard=not args.dry_run):
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
