"""``lacuna cache doctor | adopt``: find out if a directory can be trusted, and make it ours."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lacuna.cli.cache.consent import add_consent, require_consent
from lacuna.cli.options import confirm, counted, duration, print_json
from lacuna.errors import CacheDirError
from lacuna.utils.cache import get_cache_dir, get_temp_base_dir

if TYPE_CHECKING:
    from lacuna.store.doctor import AdoptionPlan, Finding


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what examines a directory, and what marks it again."""
    doctor = add("doctor", _doctor, "Find out by trying what a directory is good for.")
    doctor.add_argument(
        "directory",
        nargs="?",
        type=directory,
        metavar="DIR",
        help="an existing directory (default: those of the cache, of scratch and of shared caches)",
    )
    doctor.add_argument(
        "--peer", action="store_true", help="together with another node that runs the same"
    )
    doctor.add_argument(
        "--wait",
        type=duration,
        default="2min",
        metavar="TIME",
        help="how long to wait for the other node (default: 2min)",
    )
    adopt = add("adopt", _adopt, "Mark a cache again whose marker a purge took.")
    adopt.add_argument(
        "directory", nargs="?", type=directory, metavar="DIR", help="default: the cache directory"
    )
    add_consent(adopt)


def directory(text: str) -> Path:
    """Return a directory that was named: an empty name would be the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; is a variable not set?")
    return Path(text)


def _doctor(args: argparse.Namespace) -> int:
    from lacuna.store.doctor import compare_nodes

    if args.peer:
        place = args.directory or get_cache_dir()
        tell = partial(print, file=sys.stderr, flush=True)
        found = {str(place): compare_nodes(place, wait_s=args.wait, tell=tell)}
    else:
        found = _examine(args)
    verdicts = [finding.verdict for several in found.values() for finding in several]
    if args.json:
        print_json(found)
    else:
        _print_findings(found)
        counts = [counted(verdicts.count(name), name) for name in ("problem", "warning", "note")]
        what = "something" if "problem" in verdicts else "nothing"
        counts.append(f"{verdicts.count('ok')} ok")
        print(f"{', '.join(counts)}: {what} was found that breaks a promise of the cache")
    return int("problem" in verdicts)


def _examine(args: argparse.Namespace) -> "dict[str, list[Finding]]":
    from lacuna.store.doctor import absent, examine
    from lacuna.workflow.stores import problem_of

    roots = args.settings.paths("shared_cache_dirs")
    if args.directory is not None:
        is_shared = os.path.realpath(args.directory) in map(os.path.realpath, roots)
        return {str(args.directory): examine(args.directory, read_only=is_shared)}
    cache, scratch = get_cache_dir(), get_temp_base_dir()
    found = {str(cache): examine(cache, scratch=scratch)}
    found[str(scratch)] = examine(scratch, publishes=False)
    source = args.settings.sources["shared_cache_dirs"]
    for root in roots:
        try:
            found[str(root)] = examine(root, read_only=True)
        except CacheDirError:
            found[str(root)] = [absent(problem_of(root), source)]
    return found


def _print_findings(found: "dict[str, list[Finding]]") -> None:
    for directory, several in found.items():
        print(directory)
        for finding in several:
            print(f"  {finding.verdict:<8} {finding.name}: {finding.seen}")
            if finding.verdict != "ok":
                for text in filter(None, (finding.meaning, finding.advice)):
                    print(f"           {text}")


def _adopt(args: argparse.Namespace) -> int:
    from lacuna.store.doctor import plan_adoption

    require_consent(args)
    plan = plan_adoption(str(args.directory or get_cache_dir()))
    if not args.json:
        _print_plan(plan)
    marked: tuple[str, ...] | None = None
    if plan.marks and not args.dry_run:
        if not args.yes and not confirm(f"Mark {_directories(plan.marks)}?"):
            print("lacuna: nothing was marked", file=sys.stderr)
            return 1
        marked = plan.execute()
    if args.json:
        print_json({"plan": plan, "marked": marked})
    elif marked is not None:
        print(f"marked {_directories(marked)}")
    is_refused = plan.n_left or (plan.foreign and not plan.n_entries)
    return 1 if is_refused or (marked is not None and marked != plan.marks) else 0


def _directories(marks: Sequence[str]) -> str:
    return counted(len(marks), "directory", "directories")


def _print_plan(plan: "AdoptionPlan") -> None:
    for directory in plan.marks:
        print(f"mark: {directory}")
    for path in plan.foreign:
        print(f"not ours: {path}")
    print(
        f"{counted(plan.n_entries, 'entry', 'entries')}, {plan.n_unmarked} below no marker", end=""
    )
    print(f"; {plan.n_left} of them stay so: move away what is not ours" if plan.n_left else "")
    if not plan.marks:
        print("nothing to mark")
