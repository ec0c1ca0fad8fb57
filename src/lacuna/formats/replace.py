"""Writing a file beside its place and renaming it: readers see the old one or the whole new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lacuna.utils.owner import PROCESS, current_owner, unique_name

MAX_NAME_CHARACTERS = 150
"""Of the name kept in a temporary one: file systems allow 255 bytes in all."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of another once everything is written.

    Parameters
    ----------
    path
        The file to make or replace; its directory must exist.

    Yields
    ------
    stream
        A file in the same directory, removed if the block raises.
    """
    path = Path(path)
    # The name begins with a dot and keeps no known extension: no search for images or
    # tractograms finds a file that is being written. It says whose it is.
    mark = unique_name(current_owner().token, PROCESS)
    beside = path.with_name(f".{path.name[:MAX_NAME_CHARACTERS]}.{mark}.part")
    try:
        with beside.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            beside.unlink()
        raise
