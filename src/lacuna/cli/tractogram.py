"""What commands that read a tractogram share: options, its space, its report grid, progress."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lacuna.cli.assets import find_asset, find_asset_file
from lacuna.cli.options import positive
from lacuna.cli.transforms import add_transforms, find_transforms
from lacuna.errors import OptionError

if TYPE_CHECKING:
    from lacuna.assets.catalog import Asset
    from lacuna.geometry.grid import Grid
    from lacuna.geometry.space import StatedSpace
    from lacuna.store import Store
    from lacuna.workflow.products import Progress
    from lacuna.workflow.warped import Warp


def add_index_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options that say which index is wanted."""
    parser.add_argument(
        "--tractogram-space",
        metavar="S",
        help="space of the tractogram, such as MNI152NLin6Asym; else as its JSON file says",
    )
    add_transforms(parser, "takes the tractogram to the lesions' space, or to its other one")
    parser.add_argument(
        "--grid",
        default="2",
        metavar="REF|1|2",
        help="grid of the maps: that of an image, or voxels of 1 or 2 mm (default: 2); "
        "does not change what is cut",
    )
    parser.add_argument(
        "--rule",
        choices=["segment", "mrtrix", "vertex"],
        default="segment",
        help="when a streamline visits a voxel: its line does (default), or as in MRtrix3, or "
        "only its stored points do",
    )
    parser.add_argument(
        "--upsample", type=positive, metavar="N", help="rule mrtrix: pieces per step of the file"
    )


def add_weights(parser: argparse._ActionsContainer) -> None:
    """Add ``--weights``."""
    parser.add_argument(
        "--weights",
        metavar="FILE|length|NAME",
        help="sum weights instead of counting streamlines: numbers of a text file (SIFT2), "
        "lengths in mm, or what a .trx or .trk keeps under that name with each streamline",
    )


def option_as_space(args: argparse.Namespace, name: str) -> "StatedSpace | None":
    """Return the space that an option states."""
    from lacuna.geometry.space import StatedSpace

    value = getattr(args, name)
    return StatedSpace(value, f"--{name.replace('_', '-')}") if value else None


def setting_as_space(args: argparse.Namespace, key: str) -> "StatedSpace | None":
    """Return the space that a configuration file states."""
    from lacuna.geometry.space import StatedSpace

    value = getattr(args.settings, key)
    return StatedSpace(value, args.settings.sources[key]) if value else None


def find_tractogram(args: argparse.Namespace) -> Path:
    """Return the tractogram that the command line or a configuration file names.

    It is a path, or, where there is nothing of that name, an asset of the catalogue.

    Raises
    ------
    OptionError
        If neither does.
    FetchError
        If it is an asset that is not in the cache; the message says how it gets there.
    """
    asset = _find_asset(args)
    if asset is not None:
        return find_asset_file(args, asset)
    if args.tractogram is not None:
        return Path(args.tractogram).absolute()
    configured: tuple[Path, ...] = args.settings.paths("tractogram")
    if not configured:
        raise OptionError(
            "No tractogram: give --tractogram FILE or a name that `lacuna fetch --list` shows, or "
            "set tractogram in the configuration file."
        )
    return configured[0].absolute()


def _find_asset(args: argparse.Namespace) -> "Asset | None":
    """Return the asset of the catalogue that is named as the tractogram."""
    return find_asset(args.tractogram or args.settings.tractogram or "")


def find_space(args: argparse.Namespace, path: Path) -> "StatedSpace | None":
    """Return the space of a tractogram: by option, beside the file, catalogued or configured."""
    from lacuna.geometry.space import StatedSpace
    from lacuna.workflow.lesion import tractogram_space

    asset = _find_asset(args)
    default = setting_as_space(args, "tractogram_space")
    if asset is not None:
        default = StatedSpace(asset.space, "Lacuna's catalogue") if asset.space else None
    return tractogram_space(path, option_as_space(args, "tractogram_space"), default_space=default)


def find_warp(args: argparse.Namespace, store: "Store", path: Path) -> "Warp | None":
    """Return what ``--transform`` does to a tractogram of which nothing else is known.

    Raises
    ------
    OptionError, SpaceError
        If it is not known between which spaces it goes, or the tractogram is in neither.
    """
    from lacuna.workflow.lesion import require_space
    from lacuna.workflow.warped import plan_warp

    # What a configuration file lists would move a tractogram that nobody asked to move.
    files = find_transforms(args)
    if not files:
        return None
    space = require_space(find_space(args, path), path.name, "--tractogram-space", "the tractogram")
    return plan_warp(store, files, space)


def report_grid(
    args: argparse.Namespace,
    store: "Store",
    path: Path,
    progress: "Progress | None" = None,
    warp: "Warp | None" = None,
) -> "Grid":
    """Return the grid that ``--grid`` asks for.

    Without a stated space it is laid over the tractogram's own box.
    """
    from lacuna.workflow.products import find_box
    from lacuna.workflow.report_grid import choose_grid

    space = find_space(args, path) if warp is None else warp.space
    threads = args.settings.num_threads
    return choose_grid(
        args.grid,
        space.name if space else "unstated",
        lambda: find_box(store, path, warp=warp, threads=threads, progress=progress),
    )


@contextmanager
def show_progress(args: argparse.Namespace, doing: str = "building") -> Iterator["Progress | None"]:
    """Yield a callback that draws progress bars on stderr, none where nobody would watch."""
    if args.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    bars: dict[str, TaskID] = {}
    with Bars(console=Console(stderr=True), transient=True) as display:

        def tell(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = display.add_task(f"{doing} {what}")
            display.update(bars[what], completed=done, total=total or None)

        yield tell
