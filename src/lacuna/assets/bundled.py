"""The demonstration data that ship in the package."""

import shutil
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from lacuna.formats.replace import replacing

DEMO = Path(__file__).with_name("demo")
"""Where they are installed; may be read-only."""

TRACTOGRAM = "space-AFQacpc_desc-afq20tracts_tractography.trx"


@dataclass(frozen=True)
class DemoFiles:
    """A copy of the demonstration data.

    Parameters
    ----------
    tractogram
        20 tracts of one real person, in that person's own space.
    lesions
        A BIDS derivatives dataset of synthetic lesions in the same space.
    notice
        Where the data come from, and their licence.
    """

    tractogram: Path
    lesions: Path
    notice: Path


def copy_demo(directory: str | PathLike[str]) -> DemoFiles:
    """Copy the demonstration data.

    Parameters
    ----------
    directory
        Where to; made if it is absent. Files of the same names are replaced, others stay.
    """
    directory = Path(directory)
    for source in sorted(DEMO.rglob("*")):
        target = directory / source.relative_to(DEMO)
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as content, replacing(target) as stream:
            shutil.copyfileobj(content, stream)
    return DemoFiles(directory / TRACTOGRAM, directory / "lesions", directory / "NOTICE.txt")
