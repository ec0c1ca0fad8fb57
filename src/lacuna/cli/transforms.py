"""``--transform``: what joins spaces, of the command line, configuration or catalogue."""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lacuna.cli.assets import find_asset, find_asset_file
from lacuna.errors import FetchError, OptionError

if TYPE_CHECKING:
    from lacuna.geometry.space import StatedSpace
    from lacuna.workflow.warped import TransformFile


def add_transforms(parser: argparse._ActionsContainer, moved: str) -> None:
    """Add the options that give transforms; `moved` says what they move."""
    parser.add_argument(
        "--transform",
        type=Path,
        action="append",
        default=[],
        metavar="FILE|NAME",
        help=f"{moved}: .h5, .nii.gz, .txt, .tfm or .mat, of ANTs, ITK or FSL, or a fetched NAME; "
        "repeatable, each is used where the spaces that it connects differ",
    )
    parser.add_argument(
        "--transform-from",
        action="append",
        default=[],
        metavar="A",
        help="space of the images that FILE resamples; else as its name says (from-A); with "
        "several files, once for each",
    )
    parser.add_argument(
        "--transform-to",
        action="append",
        default=[],
        metavar="B",
        help="space onto which it resamples them (to-B, tpl-B), likewise; either direction will do",
    )
    parser.add_argument(
        "--transform-images",
        nargs=2,
        type=Path,
        action="append",
        default=[],
        metavar=("IMAGE_A", "IMAGE_B"),
        help="what FSL aligned, -in and -ref: its transforms mean nothing without",
    )


def find_transforms(
    args: argparse.Namespace, spaces: "Sequence[StatedSpace | None]" = ()
) -> "tuple[TransformFile, ...]":
    """Return the transforms of the command line, and others that may serve.

    Parameters
    ----------
    spaces
        Of all that has to come together, what lesions may move to first: then those of the
        configuration file count, too, and fetched ones for what no other joins.

    Raises
    ------
    OptionError, SpaceError
        If it is not known between which spaces one goes.
    FetchError
        If it is of the catalogue, and not in the cache.
    """
    from lacuna.workflow.warped import configured_transforms, identify_transform

    n = len(args.transform)
    about = [args.transform_from, args.transform_to, args.transform_images]
    for name, values in zip(("from", "to", "images"), about, strict=True):
        if values and not n:
            raise OptionError("--transform-from, -to and -images say what --transform FILE is.")
        if len(values) not in (0, n):
            raise OptionError(
                f"--transform-{name} is given {len(values)} times and --transform {n} times: give "
                "it once for each file, in the same order, or list the files under transforms in "
                "a configuration file."
            )
    columns = [values or [None] * n for values in about]
    given = [
        identify_transform(
            _locate(args, path),
            images_from=start,
            images_to=end,
            fsl_images=[image.absolute() for image in images or ()],
        )
        for path, start, end, images in zip(args.transform, *columns, strict=True)
    ]
    if not spaces:
        return tuple(given)
    given += configured_transforms(args.settings)
    return (*given, *_find_fetched(args, given, spaces))


def _locate(args: argparse.Namespace, path: Path) -> Path:
    """Return the file of a transform; a file comes before a name in the catalogue."""
    asset = find_asset(path)
    if asset is None:
        return path.absolute()
    if asset.images_from is None:
        raise OptionError(f"{path} is a {asset.kind}, no transform: `lacuna fetch --list` has all.")
    return find_asset_file(args, asset)


def _find_fetched(
    args: argparse.Namespace,
    given: "Sequence[TransformFile]",
    spaces: "Sequence[StatedSpace | None]",
) -> "list[TransformFile]":
    """Return fetched transforms between spaces that none of those given joins."""
    from lacuna.assets.catalog import load_catalog
    from lacuna.geometry.space import resolve_space
    from lacuna.workflow.warped import CATALOGUE, identify_transform

    names = [resolve_space(space.name) for space in spaces if space is not None]
    if len({*names}) < 2 and not args.move_lesions:
        return []  # looking at every entry of a cache takes time
    joined = [{file.images_from, file.images_to} for file in given]
    found = []
    for asset in load_catalog().values():
        ends = {asset.images_from, asset.space}
        # Tasks of an array move lesions of other spaces each, and have to agree on the transforms.
        is_wanted = names[0] in ends if args.move_lesions else ends <= {*names}
        if asset.images_from and is_wanted and ends not in joined:
            with suppress(FetchError):
                found.append(identify_transform(find_asset_file(args, asset), source=CATALOGUE))
    return found
