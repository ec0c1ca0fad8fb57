"""``lacuna cache warm``: build ahead of time what runs will need."""

import argparse
from collections.abc import Callable
from pathlib import Path

from lacuna.cli.options import add_threads, print_json, print_table
from lacuna.cli.tractogram import add_index_options, find_tractogram, report_grid, show_progress


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what fills the cache."""
    warm = add("warm", _warm, "Build ahead of time what runs will need.", needs="scratch")
    warm.add_argument("--tractogram", type=Path, metavar="T", help=".tck, .trk or .trx")
    add_index_options(warm)
    add_threads(warm)


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
