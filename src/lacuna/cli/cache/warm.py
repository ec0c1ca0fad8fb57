"""``lacuna cache warm``: build ahead of time what runs will need."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lacuna.cli.lesions import add_atlases, open_atlases
from lacuna.cli.options import add_threads, print_json, print_table
from lacuna.cli.tractogram import (
    add_index_options,
    find_space,
    find_tractogram,
    find_warp,
    report_grid,
    show_progress,
)

if TYPE_CHECKING:
    from lacuna.geometry.space import StatedSpace
    from lacuna.workflow.products import OpenedIndex


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what fills the cache."""
    warm = add("warm", _warm, "Build ahead of time what runs will need.", needs="scratch")
    warm.add_argument(
        "--tractogram",
        type=Path,
        metavar="T",
        help="a .tck, .trk or .trx, or a fetched NAME",
    )
    add_index_options(warm)
    add_atlases(warm)
    warm.set_defaults(strict=False)
    add_threads(warm)
    warm.add_argument(
        "--kernels",
        action="store_true",
        help="compile the kernels for every processor of this kind and put them into the installed "
        "package, for whoever runs it: as who installed it; without --tractogram nothing else",
    )


def _warm(args: argparse.Namespace) -> int:
    if args.kernels:
        _ship_kernels(args)
        if args.tractogram is None:
            return 0
    from lacuna.workflow.products import open_index
    from lacuna.workflow.stores import open_store

    store, path = open_store(args.settings), find_tractogram(args)
    warp = find_warp(args, store, path)
    with show_progress(args) as progress:
        opened = open_index(
            store,
            path,
            grid=report_grid(args, store, path, progress, warp),
            rule=args.rule,
            upsample=args.upsample,
            warp=warp,
            threads=args.settings.num_threads,
            progress=progress,
        )
    keys = dict(opened.keys) | _assign(args, opened, warp.space if warp else find_space(args, path))
    if args.json:
        print_json({"tractogram": path, "built": opened.built, "entries": keys})
    else:
        state = "built" if opened.built else "was there"
        print(f"{path}: {opened.n_streamlines} streamlines, index {state}")
        print_table((product, digest[:12]) for product, digest in keys.items())
    return 0


def _assign(
    args: argparse.Namespace, opened: "OpenedIndex", space: "StatedSpace | None"
) -> dict[str, str]:
    """Find out which parcels of each atlas the streamlines join; return the entries."""
    atlases = open_atlases(args)
    if not atlases:
        return {}
    from lacuna.workflow.damage import check_atlases
    from lacuna.workflow.lesion import require_space
    from lacuna.workflow.measures import open_measures
    from lacuna.workflow.stores import open_store

    name = opened.file.path.name
    space = require_space(space, name, "--tractogram-space", "the tractogram")
    check_atlases(atlases, space, name)
    store, threads = open_store(args.settings), args.settings.num_threads
    return dict(open_measures(store, opened, atlases, threads=threads).keys)


def _ship_kernels(args: argparse.Namespace) -> None:
    from lacuna.utils.cache import temp_dir
    from lacuna.workflow.kernels import BASELINE, SHIPPED
    from lacuna.workflow.shipping import ship

    # numba settles for a processor once per process: another process compiles.
    code = "import sys; from lacuna.workflow.shipping import *; compile_into(Path(sys.argv[1]))"
    with temp_dir("kernels_") as directory:
        subprocess.run(
            [sys.executable, "-P", "-c", code, str(directory)],
            env=os.environ | BASELINE | {"NUMBA_DISABLE_JIT": "0"},
            check=True,
        )
        n_kernels = ship(directory)
    if args.json:
        print_json({"kernels": n_kernels, "directory": SHIPPED})
    else:
        print(f"{n_kernels} kernels compiled into {SHIPPED}")
