"""``lacuna tdi``: the track density of a whole tractogram."""

import argparse
from pathlib import Path
from typing import Any

from lacuna.cli.options import add_threads, common_options
from lacuna.cli.tractogram import (
    add_index_options,
    add_weights,
    find_tractogram,
    find_warp,
    report_grid,
    show_progress,
)
from lacuna.errors import OptionError

EXAMPLE = """\
example:
  lacuna tdi tractogram.tck density.nii.gz --grid 2 --tractogram-space MNI152NLin6Asym
"""


def add_parser(subparsers: Any) -> None:
    """Add ``lacuna tdi``."""
    parser = subparsers.add_parser(
        "tdi",
        help="write the track density of a whole tractogram",
        description="Count for each voxel the streamlines that visit it, or sum their weights.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common_options()],
    )
    parser.add_argument(
        "tractogram",
        type=Path,
        metavar="TRACTOGRAM",
        help="a .tck, .trk or .trx, or a fetched NAME",
    )
    parser.add_argument("output", type=Path, metavar="OUT.nii.gz", help="image to write")
    add_index_options(parser)
    add_weights(parser)
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Write the track density."""
    from lacuna.formats.nifti import save_map
    from lacuna.workflow.products import make_tdi
    from lacuna.workflow.stores import open_store
    from lacuna.workflow.weights import find_weights

    _check_output(args.output)
    store, path = open_store(args.settings), find_tractogram(args)
    warp = find_warp(args, store, path)
    with show_progress(args) as progress:
        grid = report_grid(args, store, path, progress, warp)
        tdi = make_tdi(
            store,
            path,
            grid=grid,
            rule=args.rule,
            upsample=args.upsample,
            weights=find_weights(args.weights, path) if args.weights else None,
            warp=warp,
            threads=args.settings.num_threads,
            progress=progress,
        )
    save_map(args.output, tdi, grid)
    return 0


def _check_output(path: Path) -> None:
    """Refuse, before any work, what no image can be written to."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise OptionError(f"{path} cannot be written: its name has to end in .nii or .nii.gz.")
    if not path.parent.is_dir():
        raise OptionError(f"The folder {path.parent} does not exist.")
