"""Building and opening the index: three directories of plain arrays.

``streamlines``
    Once per tractogram: where each streamline's points lie, the order in which the index counts
    streamlines, their ends and lengths.
``hits``
    Once per tractogram: for each 1 mm cell of a fixed lattice the streamlines that meet it.
``map``
    Once per report grid and rule: the voxels that each streamline visits.

Streamlines are numbered along a Z-order curve of their middles, and then of their ends (their
*rank*), so that those cut together lie together. Every pass reads the tractogram in file order, in
pieces, and writes arrays that were given their full size on the disk before; so the tractogram may
be larger than memory.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import FormatError, GridError
from lacuna.geometry.grid import MAX_VOXELS_PER_AXIS, FloatArray, Grid, IntArray
from lacuna.geometry.streamlines import Streamlines
from lacuna.tractogram._kernels import build
from lacuna.tractogram._kernels.build import Block
from lacuna.tractogram.rules import frame_of

Progress = Callable[[int, int], None]
"""Called with streamlines done and streamlines in all."""

LARGEST_BOX_MM = 1000.0
"""No brain is larger: coordinates beyond it are in other units, or broken."""
ORDER_CELL_MM = 8.0
"""Streamlines with their middles, and ends, in the same cells of that size are neighbours."""
CODE_BITS = 21
"""Three times 7: `LARGEST_BOX_MM` has fewer than 128 such cells."""
MOST_STREAMLINES = 1 << (32 - build.KIND_BITS)
STREAMLINES_PER_PIECE = 1 << 14
SHARES_PER_THREAD = 32
POINTS_PER_WINDOW = 1 << 25
"""400 MB of single-precision points."""
COUNTER_BYTES = 1 << 30
"""Each thread keeps 8 bytes for every voxel it counts: more threads than fit here are not used."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What is known of each streamline; arrays by number in the file unless said otherwise.

    Parameters
    ----------
    firsts, counts : (n,)
        As in `lacuna.geometry.streamlines.Streamlines`.
    order : (n,)
        File number of the streamline of each rank.
    ends : (n, 2, 3)
        First and last point, mm RAS+; not-a-number for empty streamlines.
    lengths_mm : (n,)
        Length of each polyline.
    box_mm : (2, 3)
        Lowest and highest coordinate of all points.
    largest_step_mm : (1,)
        Largest distance between two neighbouring points.
    """

    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]
    order: NDArray[np.uint32]
    ends: NDArray[np.float32]
    lengths_mm: NDArray[np.float32]
    box_mm: NDArray[np.float64]
    largest_step_mm: NDArray[np.float64]

    @property
    def lattice(self) -> Grid:
        """The 1 mm cells, centred on whole mm, with one to spare around all points."""
        return Grid.over_box(self.box_mm[0] - 1, self.box_mm[1] + 1, 1.0)

    @property
    def ranks(self) -> NDArray[np.uint32]:
        """Rank of each streamline of the file."""
        ranks = np.empty_like(self.order)
        ranks[self.order] = np.arange(len(self.order), dtype=self.order.dtype)
        return ranks


def blocks(streamlines: Streamlines, ids: IntArray) -> Iterator[Block]:
    """Yield some streamlines, in this order, a piece at a time, as the kernels take them.

    Native single precision is handed over as it lies in the mapped file; anything else is
    converted, a piece at a time.
    """
    world, moved = np.eye(4)[:3], streamlines.world_from_stored is not None
    if streamlines.world_from_stored is not None:
        world = np.ascontiguousarray(streamlines.world_from_stored[:3], np.float64)
    native = streamlines.words.dtype == np.float32 and streamlines.words.dtype.isnative
    for low in range(0, len(ids), STREAMLINES_PER_PIECE):
        piece = ids[low : low + STREAMLINES_PER_PIECE]
        numbers = piece.astype(np.int64)
        if native:
            words, stride = streamlines.words, streamlines.stride
            firsts, counts = streamlines.firsts[piece], streamlines.counts[piece]
        else:
            points, offsets = streamlines.gather(piece)
            words, stride, world, moved = points.reshape(-1), 3, np.eye(4)[:3], False
            firsts, counts = offsets[:-1] * 3, np.diff(offsets)
        yield Block(
            _plain(words), _plain(firsts), _plain(counts), _plain(numbers), stride, _plain(world),
            moved,
        )  # fmt: skip


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only base-class view: numba compiles once for each kind of array it meets."""
    plain = array.view(np.ndarray)
    plain.flags.writeable = False
    return plain


class _Passes:
    """Runs passes over all streamlines on several threads.

    The file is read in windows, each from front to back; within a window streamlines are taken in
    rank order, shared out in stretches, so that neighbours in space follow each other and the
    counters they touch stay in the processor's cache.
    """

    def __init__(
        self,
        streamlines: Streamlines,
        threads: int,
        progress: Progress | None,
        *,
        ranks: NDArray[np.uint32] | None = None,
        n_counted: int = 0,
    ) -> None:
        fit = COUNTER_BYTES // (8 * n_counted) if n_counted else threads
        self.n_threads = max(1, min(threads, fit, len(streamlines) // 1024))
        self._streamlines = streamlines
        self._ranks = ranks
        self._progress = progress
        self._done = 0
        self._lock = Lock()
        self.is_stopped = False

    def run(self, work: Callable[[int, Block], None]) -> None:
        """Call ``work(thread, block)`` for every piece."""
        self._done = 0
        for ids in self._windows():
            stretches = np.array_split(ids, self.n_threads)

            def stretch(thread: int, stretches: list[IntArray] = stretches) -> None:
                for block in blocks(self._streamlines, stretches[thread]):
                    if self.is_stopped:
                        return
                    work(thread, block)
                    self._report(len(block.firsts))

            self.each_thread(stretch)

    def each_thread(self, work: Callable[[int], None]) -> None:
        """Call ``work(thread)`` on all threads at once."""
        if self.n_threads == 1:
            work(0)
            return
        with ThreadPoolExecutor(self.n_threads) as pool:
            try:
                list(pool.map(work, range(self.n_threads)))
            except BaseException:
                # Nobody can end a thread: Ctrl-C would wait for all of them to come to their end.
                self.is_stopped = True
                raise

    def _windows(self) -> Iterator[IntArray]:
        ends = np.cumsum(self._streamlines.counts)
        cuts = np.searchsorted(ends, np.arange(POINTS_PER_WINDOW, ends[-1], POINTS_PER_WINDOW))
        bounds = np.unique(np.concatenate([[0], cuts, [len(ends)]]))
        for low, high in pairwise(bounds):
            if self._ranks is None:
                yield np.arange(low, high)
            else:
                yield low + np.argsort(self._ranks[low:high], kind="stable")

    def _report(self, n: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += n
                self._progress(self._done, len(self._streamlines))


def build_streamlines(
    streamlines: Streamlines, directory: Path, *, threads: int = 1, progress: Progress | None = None
) -> None:
    """Measure and order all streamlines.

    Parameters
    ----------
    streamlines
        The tractogram.
    directory
        Where the arrays go; exists.
    threads
        Threads to use.
    progress
        Told how far the pass is.

    Raises
    ------
    FormatError
        If there are no streamlines, too many, or coordinates that no brain has.
    """
    n = len(streamlines)
    if n == 0 or streamlines.n_points == 0:
        raise FormatError("The tractogram holds no points: there is nothing to index.")
    if n >= MOST_STREAMLINES:
        raise FormatError(f"{n} streamlines are more than an index can number: split the file.")
    ends, middles = np.empty((n, 2, 3), np.float32), np.empty((n, 3), np.float32)
    lengths = np.empty(n, np.float32)
    passes = _Passes(streamlines, threads, progress)
    boxes = np.tile([[np.inf] * 3, [-np.inf] * 3], (passes.n_threads, 1, 1))
    steps = np.zeros((passes.n_threads, 1))
    broken: list[int] = []

    def measure(thread: int, block: Block) -> None:
        found = build.measure(block, ends, middles, lengths, boxes[thread], steps[thread])
        if found >= 0:
            broken.append(found)

    passes.run(measure)
    if broken:
        raise FormatError(
            f"Streamline {min(broken)} has a coordinate that is not a finite number. "
            "The file is damaged: write it again from its source."
        )
    box = np.array([boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)])
    if (box[1] - box[0]).max() > LARGEST_BOX_MM:
        raise FormatError(
            f"The points span {(box[1] - box[0]).max():.0f} mm: coordinates are not in mm, or some "
            "are broken. Check the tractogram's header and units."
        )
    order = _order(middles, ends, box[0])
    parts = Parts(streamlines.firsts, streamlines.counts, order, ends, lengths, box, steps.max(0))
    for name, array in vars(parts).items():
        np.save(directory / f"{name}.npy", array)


def _order(
    middles: NDArray[np.float32], ends: NDArray[np.float32], low: FloatArray
) -> NDArray[np.uint32]:
    """Return the number in the file of each rank: neighbours share their middle and both ends."""
    codes = np.empty((3, len(middles)), np.uint64)
    for code, points in zip(codes, (middles, ends[:, 0], ends[:, 1]), strict=True):
        build.morton_codes(np.ascontiguousarray(points), low, ORDER_CELL_MM, code)
    middle, one, other = codes
    # Files give streamlines no direction: the lower end counts first.
    keys = (
        (middle << 2 * CODE_BITS) | (np.minimum(one, other) << CODE_BITS) | np.maximum(one, other)
    )
    return np.argsort(keys, kind="stable").astype(np.uint32)


def open_streamlines(directory: Path) -> Parts:
    """Open what `build_streamlines` wrote."""
    return Parts(**{name: open_array(directory / f"{name}.npy") for name in Parts.__annotations__})


@dataclass(frozen=True, eq=False)
class Hits:
    """For each cell of the lattice the streamlines that meet it, and those that start in it.

    Parameters
    ----------
    lattice
        The cells.
    offsets, hits
        Cell c has ``hits[offsets[c]:offsets[c + 1]]``: rank and, in the lowest bits, the kind.
    start_offsets, starts
        Likewise the ranks of those whose first point lies in the cell.
    """

    lattice: Grid
    offsets: NDArray[np.int64]
    hits: NDArray[np.uint32]
    start_offsets: NDArray[np.int64]
    starts: NDArray[np.uint32]


def build_hits(
    streamlines: Streamlines,
    parts: Parts,
    directory: Path,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> None:
    """Write which streamlines meet which lattice cells.

    Parameters
    ----------
    streamlines, parts
        The tractogram, and what `build_streamlines` found.
    directory
        Where the arrays go; exists.
    threads, progress
        As in `build_streamlines`; two passes.
    """
    n_cells, ranks = parts.lattice.n_voxels, parts.ranks
    passes = _Passes(streamlines, threads, progress, ranks=ranks, n_counted=n_cells)
    n_threads = passes.n_threads
    frame = frame_of(parts.lattice, "segment")
    places = np.empty((n_threads, n_cells), np.uint32)
    hit_counts = np.zeros((n_threads, n_cells), np.uint32)
    start_counts = np.zeros((n_threads, n_cells), np.uint32)
    passes.run(
        lambda thread, block: build.count_hits(
            block, frame, places[thread], hit_counts[thread], start_counts[thread]
        )
    )
    offsets, start_offsets = np.empty(n_cells + 1, np.int64), np.empty(n_cells + 1, np.int64)
    build.lay_out(hit_counts, offsets)
    build.lay_out(start_counts, start_offsets)
    np.save(directory / "offsets.npy", offsets)
    np.save(directory / "start_offsets.npy", start_offsets)
    hits = _create(directory / "hits.npy", int(offsets[-1]))
    starts = _create(directory / "starts.npy", int(start_offsets[-1]))
    passes.run(
        lambda thread, block: build.fill_hits(
            block,
            frame,
            places[thread],
            ranks,
            build.Lists(offsets, hit_counts[thread], hits.view(np.ndarray)),
            build.Lists(start_offsets, start_counts[thread], starts.view(np.ndarray)),
        )
    )
    n_shares = n_threads * SHARES_PER_THREAD
    shares = np.searchsorted(offsets, np.linspace(0, offsets[-1], n_shares + 1))
    shares[0], shares[-1] = 0, n_cells

    def sort(thread: int) -> None:
        for share in range(thread, n_shares, n_threads):
            for values, ends in ((hits, offsets), (starts, start_offsets)):
                if passes.is_stopped:
                    return
                build.sort_lists(values.view(np.ndarray), ends, shares[share], shares[share + 1])

    passes.each_thread(sort)
    hits.flush()
    starts.flush()


def open_hits(directory: Path, parts: Parts) -> Hits:
    """Open what `build_hits` wrote."""
    names = ("offsets", "hits", "start_offsets", "starts")
    return Hits(parts.lattice, *[open_array(directory / f"{name}.npy") for name in names])


@dataclass(frozen=True, eq=False)
class Map:
    """The voxels of a report grid that each streamline visits.

    Parameters
    ----------
    grid, rule, upsample
        What was asked for.
    offsets, visits
        Rank r visits ``visits[offsets[r]:offsets[r + 1]]``: numbers into `voxels`.
    voxels : (n_visited,)
        Voxels that any streamline visits, by number in C order of the canonical grid.
    tdi : (n_visited,)
        Streamlines that visit each of them.
    """

    grid: Grid
    rule: str
    upsample: int
    offsets: NDArray[np.int64]
    visits: NDArray[np.uint32]
    voxels: NDArray[np.int64]
    tdi: NDArray[np.int64]


def build_map(
    streamlines: Streamlines,
    parts: Parts,
    grid: Grid,
    directory: Path,
    *,
    rule: str = "segment",
    upsample: int = 1,
    threads: int = 1,
    progress: Progress | None = None,
) -> None:
    """Write which voxels of a grid each streamline visits, and the track density.

    Parameters
    ----------
    streamlines, parts
        The tractogram, and what `build_streamlines` found.
    grid
        Report grid, any shape and affine.
    directory
        Where the arrays go; exists.
    rule, upsample
        As in `lacuna.tractogram.rules.frame_of`.
    threads, progress
        As in `build_streamlines`; two passes.

    Raises
    ------
    GridError
        If voxels are so small that one step crosses more of them than the kernels can count.
    """
    if longest_walk(parts, grid) > MAX_VOXELS_PER_AXIS:
        raise GridError(
            f"One step of a streamline, {parts.largest_step_mm[0]:.1f} mm, crosses more than "
            f"{MAX_VOXELS_PER_AXIS} voxels of {min(grid.voxel_sizes_mm):.3f} mm: use larger voxels."
        )
    passes = _Passes(streamlines, threads, progress, ranks=parts.ranks, n_counted=grid.n_voxels)
    frame = frame_of(grid, rule, upsample)
    places = np.empty((passes.n_threads, grid.n_voxels), np.uint32)
    tdis = np.zeros((passes.n_threads, grid.n_voxels), np.uint32)
    n_visits = np.empty(len(streamlines), np.int64)
    passes.run(
        lambda thread, block: build.count_visits(
            block, frame, places[thread], n_visits, tdis[thread]
        )
    )
    tdi = tdis.sum(axis=0, dtype=np.int64)
    voxels = np.flatnonzero(tdi)
    numbers = np.zeros(grid.n_voxels, np.uint32)
    numbers[voxels] = np.arange(len(voxels), dtype=np.uint32)
    offsets = np.concatenate([[0], np.cumsum(n_visits[parts.order])]).astype(np.int64)
    starts = np.empty(len(streamlines), np.int64)
    starts[parts.order] = offsets[:-1]
    visits = _create(directory / "visits.npy", int(offsets[-1]))
    passes.run(
        lambda thread, block: build.fill_visits(
            block, frame, places[thread], starts, numbers, visits.view(np.ndarray)
        )
    )
    visits.flush()
    np.save(directory / "offsets.npy", offsets)
    np.save(directory / "voxels.npy", voxels)
    np.save(directory / "tdi.npy", tdi[voxels])


def open_map(directory: Path, grid: Grid, rule: str = "segment", upsample: int = 1) -> Map:
    """Open what `build_map` wrote with the same grid, rule and upsampling."""
    names = ("offsets", "visits", "voxels", "tdi")
    return Map(grid, rule, upsample, *[open_array(directory / f"{name}.npy") for name in names])


def longest_walk(parts: Parts, grid: Grid) -> int:
    """Return how many voxels one step between two points can enter, at most."""
    per_mm = np.abs(grid.voxel_from_world[:3, :3]).sum()
    return int(parts.largest_step_mm[0] * per_mm) + 4


def _create(path: Path, n: int) -> np.memmap[Any, np.dtype[np.uint32]]:
    """Create an array of the size it will have, its disk space taken, and map it.

    A sparse file would let a full disk end the process with SIGBUS at the first page that has no
    room; this raises an OSError before anything is written.
    """
    header = np.lib.format.header_data_from_array_1_0(np.empty(0, np.uint32)) | {"shape": (n,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        if hasattr(os, "posix_fallocate"):
            file.flush()
            os.posix_fallocate(file.fileno(), 0, start + 4 * n)
        else:
            _write_zeros(file, 4 * n)
    return np.memmap(path, np.uint32, "r+", offset=start, shape=(n,))


def _write_zeros(file: Any, n_bytes: int) -> None:
    piece = bytes(1 << 22)
    while n_bytes > 0:
        n_bytes -= file.write(piece[:n_bytes])


def open_array(path: Path) -> NDArray[Any]:
    """Map an array that was written, read-only."""
    return _plain(np.load(path, mmap_mode="r", allow_pickle=False))
