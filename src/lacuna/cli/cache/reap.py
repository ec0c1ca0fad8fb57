"""``lacuna cache reap``: remove the scratch that nobody uses any more."""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lacuna.cli.cache.consent import add_consent, carry_out
from lacuna.cli.options import counted, duration, show_size
from lacuna.errors import OptionError

if TYPE_CHECKING:
    from lacuna.store import Scratch

_ADVICE = {
    "nothing proves": "; --foreign --older-than TIME goes by its age",
    "nobody was asked": "; --ask-scheduler asks",
}


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what deletes scratch."""
    reap = add("reap", _reap, "Delete the scratch of processes that have ended.")
    reap.add_argument(
        "--ask-scheduler",
        action="store_true",
        help="ask SLURM, PBS, LSF or SGE once if the jobs are over in which scratch was made; "
        "what is left of one that is not stays",
    )
    reap.add_argument(
        "--foreign",
        action="store_true",
        help="also what nothing is proven about: it comes from another machine or container, "
        "or left no record; needs --older-than",
    )
    reap.add_argument(
        "--older-than",
        type=duration,
        metavar="TIME",
        help="with --foreign: if nothing in it was modified for so long, such as 30d",
    )
    add_consent(reap)


def _reap(args: argparse.Namespace) -> int:
    from lacuna.store import ask_schedulers, plan_reap
    from lacuna.utils.locations import find_temp_base

    if args.foreign != (args.older_than is not None):
        raise OptionError("--foreign and --older-than go together: age alone decides then.")
    plan = plan_reap(
        find_temp_base(make=False)[0],
        jobs=ask_schedulers if args.ask_scheduler else None,
        foreign_older_than_s=args.older_than,
    )
    return carry_out(
        args,
        plan,
        lambda: _show(plan.items),
        has_work=bool(plan.removals),
        what=("piece", "pieces"),
        key="reaped",
    )


def _show(items: "Sequence[Scratch]") -> None:
    n_records = sum(item.kind == "record" and item.removable for item in items)
    for item in items:
        if not (item.kind == "record" and item.removable):
            print(f"{'delete' if item.removable else 'keep'}: {show_scratch(item)}")
    if n_records:
        owners = counted(n_records, "owner")
        print(f"delete: the records of {owners} of whom nothing else is left")


def show_scratch(item: "Scratch") -> str:
    """Return what a piece of scratch is, whose, if that process lives, and what becomes of it."""
    kind = f"{item.lifetime}'s {item.kind}" if item.lifetime else item.kind
    size = "" if item.size_bytes is None else f", {show_size(item.size_bytes)}"
    job = f", {item.job}" if item.job else ""
    about = f"{item.label} ({kind}{size})"
    advice = next((text for start, text in _ADVICE.items() if item.reason.startswith(start)), "")
    return f"{about}: {item.reason}{advice} ({item.owner}{job}: {item.evidence})"
