"""Which entries an action is about: options, and the test that they make."""

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lacuna.cli.options import duration, size

if TYPE_CHECKING:
    from lacuna.store import Entry


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose entries."""
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


def selection(args: argparse.Namespace) -> "Callable[[Entry], bool]":
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
