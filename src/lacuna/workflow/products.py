"""How each cached thing is made: from a tractogram to an open index.

Five products, each an entry of its own: ``unpacked`` (compressed tractograms only),
``streamlines`` and ``hits`` (once per tractogram), ``map`` (once per report grid and rule),
``ends`` (once per atlas).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import CacheEntryError, OptionError
from lacuna.formats import Spans, TractogramFile, needs_unpacking, open_tractogram, unpack
from lacuna.formats.nifti import save_map
from lacuna.geometry.grid import FloatArray, Grid
from lacuna.geometry.parcellation import Parcellation
from lacuna.geometry.space import StatedSpace
from lacuna.store import Entry, Key, Store, size_text
from lacuna.tractogram import index as building
from lacuna.tractogram.ends import RADIUS_MM, assign_ends
from lacuna.tractogram.index import Hits, Map, Parts
from lacuna.tractogram.mrtrix import upsampling_ratio
from lacuna.tractogram.query import Index, spread, sum_weights
from lacuna.tractogram.rules import CODES
from lacuna.workflow.kernels import keep_kernels
from lacuna.workflow.warped import Warp, WarpedPoints, open_warped, write_warped
from lacuna.workflow.weights import Weights

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being built, streamlines done, and streamlines in all."""

Opened = TypeVar("Opened")

_ATTEMPTS = 3

TOLERATED_STEP = 0.1
"""A ``step_size`` further from the median distance of points than this share is stale."""


@dataclass(frozen=True, eq=False)
class OpenedIndex:
    """An index, and where it came from.

    Parameters
    ----------
    index
        What may be asked.
    file
        The tractogram it was built from.
    fingerprint
        xxh3-128 of the tractogram's content; of a warped one, the digest that stands for it.
    keys
        Digest of each cache entry in use, by product.
    built
        Whether anything had to be built.
    space
        Space of the tractogram, where the caller knows it.
    warped
        How many points were moved there, if they were, and how many in vain.
    waited
        Whether another process was waited for, which was building.
    """

    index: Index
    file: TractogramFile
    fingerprint: str
    keys: Mapping[str, str]
    built: bool
    space: StatedSpace | None = None
    warped: Mapping[str, int] | None = None
    waited: bool = False

    @property
    def n_streamlines(self) -> int:
        """Streamlines of the tractogram."""
        return self.index.n_streamlines


class _Products:
    """The entries of one tractogram in a store."""

    def __init__(
        self,
        store: Store,
        path: Path,
        threads: int,
        progress: Progress | None = None,
        warp: Warp | None = None,
    ) -> None:
        keep_kernels()
        self.store = store
        self.threads = threads
        self.progress = progress
        self.keys: dict[str, str] = {}
        self.built = False
        self.waited = False
        self.entries: dict[str, Entry] = {}
        self.name = path.name
        is_packed = needs_unpacking(path)  # first, as it says what is wrong with the path
        self.fingerprint = store.fingerprint(path)
        self.path = self._unpacked(path) if is_packed else path
        self.warped = None if warp is None else self._warped(warp)
        self.file, self.parts = self._streamlines()
        for product in self.entries.keys() & {"unpacked", "warped"}:
            self.entries[product].lease_for(self.file.streamlines)

    def get(
        self,
        product: str,
        make: Callable[[Path], None],
        check: Callable[[Path], Any],
        *,
        parameters: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
        label: str = "",
        expected_bytes: int = 0,
        to_come: int = 0,
    ) -> Entry:
        """Return an entry of this tractogram; build it if it is missing.

        What would not fit, together with the bytes that are `to_come` after it, is not begun.
        """

        def made(directory: Path) -> None:
            self.built = True
            size = f": about {size_text(expected_bytes)}" if expected_bytes else ""
            where = f"{size} in {self.store.root} (--cache-dir)"
            logger.info("building %s of %s%s", product, self.name, where)
            make(directory)

        content = {"tractogram": self.fingerprint, **(inputs or {})}
        key = Key(product, parameters or {}, content, label or self.name)
        entry = self.store.get_or_make(
            key,
            made,
            partial(_reopen, check),
            expected_bytes=expected_bytes + to_come or None,
            on_wait=self._wait,
        )
        self.keys[product], self.entries[product] = entry.digest, entry
        return entry

    def _wait(self, message: str) -> None:
        self.waited = True
        logger.warning("%s", message)

    def open(
        self,
        read: Callable[[Entry], Opened],
        product: str,
        make: Callable[[Path], None],
        check: Callable[[Path], Any],
        *,
        user: object = None,
        **asked: Any,
    ) -> Opened:
        """Read an entry, and let nobody delete it as long as what was read from it is in use.

        Parameters
        ----------
        read
            Maps the files of the entry.
        product, make, check, asked
            As in `get`.
        user
            Who uses the entry, unless it is what was read.
        """
        return leased(partial(self.get, product, make, check, **asked), read, user)

    def hits(self) -> Hits:
        """Return which streamlines meet which lattice cells."""
        return self.open(
            lambda entry: building.open_hits(entry.path, self.parts),
            "hits",
            lambda directory: building.build_hits(
                self.file.streamlines,
                self.parts,
                directory,
                threads=self.threads,
                progress=self.told("hits"),
            ),
            lambda directory: building.open_hits(directory, self.parts),
            label=f"{self.name}, 1 mm lattice",
            expected_bytes=self._hits_bytes(),
        )

    def missing_hits_bytes(self) -> int:
        """Return about how large the hits will be, 0 if they are there."""
        there = self.store.find(Key("hits", {}, {"tractogram": self.fingerprint}, self.name))
        return 0 if there else self._hits_bytes()

    def _hits_bytes(self) -> int:
        return estimate_bytes(self.parts, 1.0) + 16 * self.parts.lattice.n_voxels

    def map(self, grid: Grid, rule: str, upsample: int | None, *, to_come: int = 0) -> Map:
        """Return which voxels of a grid each streamline visits."""
        ratio = self._ratio(grid, rule, upsample)
        # Under the other rules every orientation of a grid is one entry.
        asked = grid if rule == "mrtrix" else grid.canonical
        return self.open(
            lambda entry: building.open_map(entry.path, grid, rule, ratio),
            "map",
            lambda directory: _make_map(self, asked, rule, ratio, directory),
            lambda directory: building.open_map(directory, asked, rule, ratio),
            parameters={
                "shape": list(asked.shape),
                "affine": asked.affine.tolist(),
                "rule": rule,
                "upsample": ratio,
            },
            label=f"{self.name}, {describe_grid(grid)}, rule {rule}",
            expected_bytes=estimate_bytes(self.parts, float(np.cbrt(grid.voxel_volume_mm3))),
            to_come=to_come,
        )

    def _ratio(self, grid: Grid, rule: str, upsample: int | None) -> int:
        if rule not in CODES:
            raise OptionError(
                f"There is no mapping rule {rule!r}; choose one of {', '.join(CODES)}."
            )
        if rule == "mrtrix":
            return upsample if upsample is not None else _ratio_of(self.file, grid)
        if upsample is not None:
            raise OptionError(f"Upsampling is part of rule mrtrix only, not of rule {rule}.")
        return 1

    def warn(self) -> None:
        """Say what is odd about the tractogram, also when it comes from the cache."""
        for warning in self.file.warnings:
            logger.warning("%s: %s", self.name, warning)

    def told(self, what: str) -> building.Progress | None:
        """Return the callback of one pass."""
        return None if self.progress is None else partial(self.progress, what)

    def _unpacked(self, path: Path) -> Path:
        return self.open(
            lambda entry: _only_file(entry.path),
            "unpacked",
            lambda directory: _unpack_into(path, directory),
            lambda directory: open_tractogram(_only_file(directory)),
            label=f"{path.name}, unpacked",
            user=self,
        )

    def _warped(self, warp: Warp) -> WarpedPoints:
        def make(directory: Path) -> None:
            told = self.told("warped")
            write_warped(
                open_tractogram(self.path).streamlines,
                warp.load(),
                directory,
                threads=self.threads,
                progress=told,
            )

        warped = self.open(
            lambda entry: open_warped(entry.path),
            "warped",
            make,
            open_warped,
            user=self,
            parameters={"inverted": warp.is_inverted},
            inputs=warp.inputs,
            label=f"{self.name}, {warp.points_from} to {warp.points_to}",
            expected_bytes=0 if self.path.is_dir() else self.path.stat().st_size,
        )
        # What is built from the moved points knows them by this.
        self.fingerprint = self.keys["warped"]
        return warped

    def _open(self, spans: Spans | None = None) -> TractogramFile:
        if self.warped is None:
            return open_tractogram(self.path, spans)
        file = open_tractogram(self.path, (self.warped.firsts, self.warped.counts))
        warnings = file.warnings + self.warped.warnings
        return replace(file, streamlines=self.warped.streamlines, warnings=warnings)

    def _streamlines(self) -> tuple[TractogramFile, Parts]:
        opened: list[TractogramFile] = []

        def make(directory: Path) -> None:
            opened.append(self._open())
            building.build_streamlines(
                opened[0].streamlines,
                directory,
                threads=self.threads,
                progress=self.told("streamlines"),
            )

        parts = self.open(
            lambda entry: building.open_streamlines(entry.path),
            "streamlines",
            make,
            building.open_streamlines,
        )
        if not opened:
            opened.append(self._open((parts.firsts, parts.counts)))
        return opened[0], parts


def open_index(
    store: Store,
    tractogram: Path,
    *,
    grid: Grid,
    rule: str = "segment",
    upsample: int | None = None,
    space: StatedSpace | None = None,
    warp: Warp | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> OpenedIndex:
    """Open the index of a tractogram; build in the store what is missing of it.

    Parameters
    ----------
    store
        Where it is kept.
    tractogram
        A .tck, .trk or .trx file, or one of the first two compressed.
    grid
        Report grid, any shape and affine.
    rule
        As in `lacuna.tractogram.rules`.
    upsample
        Rule ``mrtrix`` only: pieces per step; by default as ``tckmap`` would, from the file.
    space
        Space of the tractogram, kept for whoever compares it with a lesion's.
    warp
        Takes the tractogram into another space first.
    threads
        Threads to build with.
    progress
        Told how far each pass is.

    Raises
    ------
    OptionError
        If there is no such rule, or it lacks the upsampling that it needs.
    FormatError
        If the tractogram is broken or of another format.
    CacheFullError
        If the index would not fit.
    """
    products = _Products(store, Path(tractogram), threads, progress, warp)
    products.warn()
    mapped = products.map(grid, rule, upsample, to_come=products.missing_hits_bytes())
    index = Index(products.file.streamlines, products.parts, products.hits(), mapped)
    return OpenedIndex(
        index,
        products.file,
        products.fingerprint,
        products.keys,
        products.built,
        space,
        None if products.warped is None else products.warped.report,
        products.waited,
    )


def ends_key(opened: OpenedIndex, parcellation: Parcellation) -> Key:
    """Return the key of the entry that says which parcels each streamline joins."""
    return Key(
        "ends",
        {"radius_mm": RADIUS_MM},
        {"tractogram": opened.fingerprint, "atlas": parcellation.fingerprint},
        f"{opened.file.path.name}, {parcellation.name}",
    )


def open_ends(
    store: Store, opened: OpenedIndex, parcellation: Parcellation, *, threads: int = 1
) -> NDArray[np.integer]:
    """Open which parcels each streamline joins; find them, and keep them, if that is not known.

    Parameters
    ----------
    store
        Where it is kept.
    opened
        The index of the tractogram.
    parcellation
        In the space of the tractogram.
    threads
        Threads to find them with.

    Returns
    -------
    (n_streamlines, 2)
        By number in the file, as `assign_ends`; mapped, and nobody deletes it while it is in use.
    """
    parts = opened.index.parts

    def make(directory: Path) -> None:
        ends = assign_ends(parts.ends, parcellation, threads=threads)
        small = np.int16 if parcellation.n_parcels <= np.iinfo(np.int16).max else np.int32
        np.save(directory / "ends.npy", ends.astype(small))

    def read(directory: Path) -> NDArray[np.integer]:
        ends = building.open_array(directory / "ends.npy")
        if ends.shape != (opened.n_streamlines, 2):
            raise CacheEntryError(f"{directory} holds ends of other streamlines: {ends.shape}.")
        return ends

    key = ends_key(opened, parcellation)
    expected_bytes = 4 * opened.n_streamlines
    get = partial(
        store.get_or_make, key, make, partial(_reopen, read), expected_bytes=expected_bytes
    )
    return leased(get, lambda entry: read(entry.path))


def make_tdi(
    store: Store,
    tractogram: Path,
    *,
    grid: Grid,
    rule: str = "segment",
    upsample: int | None = None,
    weights: Weights | None = None,
    warp: Warp | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> NDArray[np.int32] | NDArray[np.float32]:
    """Return the track density of a whole tractogram.

    Parameters
    ----------
    store, tractogram, grid, rule, upsample, warp, threads, progress
        As in `open_index`.
    weights
        Summed instead of counting 1 for each streamline.

    Returns
    -------
    grid.shape
        Integer counts; sums with weights.
    """
    products = _Products(store, Path(tractogram), threads, progress, warp)
    products.warn()
    mapped = products.map(grid, rule, upsample)
    if weights is None:
        return spread(mapped, mapped.tdi.astype(np.int32))
    order = products.parts.order
    chosen = weights.of(products.file, products.parts)[order]
    ranks = np.arange(len(order), dtype=np.int64)
    return spread(mapped, sum_weights(mapped, ranks, chosen).astype(np.float32))


def find_box(
    store: Store,
    tractogram: Path,
    *,
    warp: Warp | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return the corners, mm RAS+, of the box that holds all points of a tractogram."""
    low, high = _Products(store, Path(tractogram), threads, progress, warp).parts.box_mm
    return low, high


def estimate_bytes(parts: Parts, voxel_size_mm: float) -> int:
    """Return about how large the lists of visited voxels will be.

    A line of random direction crosses 1.5 faces of unit voxels per unit of length.
    """
    length = float(parts.lengths_mm.sum(dtype=np.float64))
    return int(4 * (1.5 * length / voxel_size_mm + len(parts.order)))


def describe_grid(grid: Grid) -> str:
    """Return a grid's shape and voxel size in words."""
    sizes = sorted({f"{size:g}" for size in np.round(grid.voxel_sizes_mm, 3)})
    return f"{' × '.join(map(str, grid.canonical.shape))} voxels of {' × '.join(sizes)} mm"


def _make_map(products: _Products, grid: Grid, rule: str, ratio: int, directory: Path) -> None:
    streamlines, parts = products.file.streamlines, products.parts
    building.build_map(
        streamlines,
        parts,
        grid,
        directory,
        rule=rule,
        upsample=ratio,
        threads=products.threads,
        progress=products.told("map"),
    )
    mapped = building.open_map(directory, grid, rule, ratio)
    tdi = np.zeros(grid.n_voxels, np.int32)
    tdi[mapped.voxels] = mapped.tdi
    stored = grid.orientation.from_canonical(tdi.reshape(grid.canonical.shape))
    save_map(directory / "tdi.nii.gz", stored, grid)


def _ratio_of(file: TractogramFile, grid: Grid) -> int:
    """Return the upsampling that ``tckmap`` would choose, and say where that is doubtful."""
    if file.format != "tck":
        raise OptionError(
            f"Rule mrtrix divides steps by the step_size line of a .tck header, and "
            f"{file.path.name} has none: say --upsample N (1: points as stored)."
        )
    ratio = upsampling_ratio(file.step_size_mm, grid)
    median = _median_step_mm(file)
    if file.step_size_mm is None:
        logger.warning(
            "%s states no step_size, so that rule mrtrix, like tckmap, takes its points as they "
            "are, %.2f mm apart: --upsample N would divide the steps.",
            file.path.name,
            median,
        )
    elif abs(file.step_size_mm - median) > TOLERATED_STEP * median:
        logger.warning(
            "%s states a step_size of %g mm, but its points are %.2f mm apart: it may have been "
            "resampled since. Rule mrtrix, like tckmap, believes the header; see --upsample.",
            file.path.name,
            file.step_size_mm,
            median,
        )
    return ratio


def _median_step_mm(file: TractogramFile) -> float:
    n = len(file.streamlines)
    points, offsets = file.streamlines.gather(np.unique(np.linspace(0, n - 1, 1000).astype(int)))
    steps = np.sqrt((np.diff(points.astype(np.float64), axis=0) ** 2).sum(axis=1))
    within = np.ones(len(steps), bool)
    between = offsets[1:-1] - 1
    within[between[(between >= 0) & (between < len(steps))]] = False
    return float(np.median(steps[within])) if within.any() else 0.0


def leased(
    get: Callable[[], Entry], read: Callable[[Entry], Opened], user: object = None
) -> Opened:
    """Read an entry, and keep it for who uses it: `user`, or what was read."""
    for left in reversed(range(_ATTEMPTS)):
        entry = get()
        try:
            with entry:
                opened = read(entry)
                entry.lease_for(opened if user is None else user)
                return opened
        except CacheEntryError:
            if not left:
                raise
    raise AssertionError


def _reopen(check: Callable[[Path], Any], directory: Path) -> None:
    check(directory)


def _unpack_into(path: Path, directory: Path) -> None:
    unpack(path, directory)


def _only_file(directory: Path) -> Path:
    found = [path for path in sorted(directory.iterdir()) if path.name != "meta.json"]
    if len(found) != 1:
        raise CacheEntryError(
            f"{directory} should hold one unpacked tractogram, not {len(found)} files: remove it "
            "with `lacuna cache clear`."
        )
    return found[0]
