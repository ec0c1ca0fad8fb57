"""``--transform``: files that join spaces, of the command line or configuration."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lacuna.errors import OptionError

if TYPE_CHECKING:
    from lacuna.workflow.warped import TransformFile


def add_transforms(parser: argparse._ActionsContainer, moved: str) -> None:
    """Add the options that give transforms; `moved` says what they move."""
    parser.add_argument(
        "--transform",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"{moved}: .h5, .nii.gz, .txt, .tfm or .mat, of ANTs, ITK or FSL; repeatable, each "
        "is used where the spaces that it connects differ",
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
    args: argparse.Namespace, *, configured: bool = True
) -> "tuple[TransformFile, ...]":
    """Return the transforms of the command line, and then those of the configuration file.

    Raises
    ------
    OptionError, SpaceError
        If it is not known between which spaces one goes.
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
            path.absolute(),
            images_from=start,
            images_to=end,
            fsl_images=[image.absolute() for image in images or ()],
        )
        for path, start, end, images in zip(args.transform, *columns, strict=True)
    ]
    return (*given, *(configured_transforms(args.settings) if configured else ()))
