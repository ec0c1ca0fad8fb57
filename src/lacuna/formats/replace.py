"""Writing a file beside its place and renaming it: readers see the old one or the whole new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


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
    # tractograms finds a file that is being written.
    beside = path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}.part")
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
