"""Whether a run fits into the memory that it may use: asked before it starts.

Only what processes write counts. The pages of an index are those of files: the system drops them
when memory is short, and reads them again, so that a run with less becomes slow, but does not end.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

from lacuna.errors import OptionError
from lacuna.formats import check_header, needs_unpacking
from lacuna.store import size_text
from lacuna.tractogram.query import Index

logger = logging.getLogger(__name__)

MB = 1 << 20
BYTES_PER_STREAMLINE = 400
"""In a file: 33 points."""
PROCESS_BYTES = 300 * MB
"""What a process has of its own: code, atlas, figure, and the arrays of a lesion on a 1 mm grid."""
LESION_BYTES = 150 * MB
"""Of these, what each lesion more at once takes in one process."""
PARENT_BYTES_PER_STREAMLINE = 80
WORKER_BYTES_PER_STREAMLINE = 32
"""Weights, ends and sums in the parent; the numbers of the streamlines cut in whoever cuts."""


def needed_bytes(processes: int, threads: int, n_streamlines: int) -> int:
    """Return about how much memory a run writes.

    Parameters
    ----------
    processes
        Worker processes; with 1 the calling process works.
    threads
        Lesions at once in the calling process, if it works.
    n_streamlines
        Of the tractogram, 0 without one.
    """
    parent = PROCESS_BYTES + PARENT_BYTES_PER_STREAMLINE * n_streamlines
    lesion = WORKER_BYTES_PER_STREAMLINE * n_streamlines
    if processes == 1:
        return parent + threads * (LESION_BYTES + lesion)
    return parent + processes * (PROCESS_BYTES + lesion)


def check_memory(
    processes: int, threads: int, n_streamlines: int, *, asked_bytes: int | None = None
) -> int:
    """Return how much memory, bytes, a run may use, if that is enough for it.

    Parameters
    ----------
    processes, threads, n_streamlines
        As in `needed_bytes`.
    asked_bytes
        What the caller allows; by default all that the process may have.

    Raises
    ------
    OptionError
        If more is asked for than there is, or more is needed.
    """
    limit, source = memory_limit()
    if asked_bytes is not None:
        if asked_bytes > limit:
            raise OptionError(
                f"--mem {size_text(asked_bytes)} is more than the {size_text(limit)} that this "
                f"process may have ({source}): ask the scheduler for more, or give less."
            )
        limit, source = asked_bytes, "--mem"
    needed = needed_bytes(processes, threads, n_streamlines)
    if needed > limit:
        fitting = [
            n for n in range(2, processes) if needed_bytes(n, threads, n_streamlines) <= limit
        ]
        alone = size_text(needed_bytes(1, 1, n_streamlines))
        way = f"--nprocs {fitting[-1]} would fit" if fitting else f"--nprocs 1 --threads 1: {alone}"
        raise OptionError(
            f"The run needs about {size_text(needed)} of memory for {processes} process(es), and "
            f"may use {size_text(limit)} ({source}): {way}."
        )
    return limit


def count_streamlines(tractogram: Path) -> int:
    """Return how many streamlines a file says it has, else about how many would fit into it."""
    said = None if needs_unpacking(tractogram) else check_header(tractogram)
    if said is not None or tractogram.is_dir():
        return said or 0
    return tractogram.stat().st_size // BYTES_PER_STREAMLINE


def warn_of_slowness(index: Index, needed: int, limit: int) -> None:
    """Say if the pages of an index and what processes write do not fit into memory together."""
    parts = (index.parts, index.hits, index.map)
    pages = sum(
        array.nbytes for part in parts for array in vars(part).values() if hasattr(array, "nbytes")
    )
    if pages + needed > limit:
        logger.warning(
            "The index, %s, and about %s of working memory are more than the %s that may be used: "
            "parts of it will be read again and again. More memory would make the run faster.",
            *map(size_text, (pages, needed, limit)),
        )


def memory_limit(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> tuple[int, str]:
    """Return how much memory, bytes, this process may have, and what says so."""
    limits = [(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "all of this machine")]
    lines = []
    with suppress(OSError):
        lines = own.read_text().splitlines()
    for line in lines:
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / controllers
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        here = top / group.strip("/")
        for directory in (here, *here.parents):
            with suppress(OSError, ValueError):  # no limit reads "max"
                limits.append((int((directory / name).read_text()), f"{directory / name}"))
            if directory == top:
                break
    return min(limits)
