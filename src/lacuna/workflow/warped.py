"""Tractograms in another space: which transform applies, which way, and the points it moves."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.assets.catalog import load_catalog
from lacuna.bids.names import file_stem
from lacuna.config import Settings, TransformSetting
from lacuna.errors import OptionError, SpaceError
from lacuna.formats.transform import load_transform
from lacuna.geometry.space import StatedSpace, resolve_space
from lacuna.geometry.streamlines import Streamlines
from lacuna.geometry.warp import Transform
from lacuna.store import Store

logger = logging.getLogger(__name__)

CATALOGUE = "Lacuna's catalogue"
"""Source of a transform that was fetched, and that nobody asked for."""

_POINTS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class TransformFile:
    """A transform that was given, and what it does to images.

    Parameters
    ----------
    path
        Its file.
    images_from, images_to
        It resamples images of the first space onto the second.
    fsl_images
        As for `load_transform`.
    source
        Who gave it, for people.
    """

    path: Path
    images_from: str
    images_to: str
    fsl_images: tuple[Path, ...] = ()
    source: str = "--transform"

    def __str__(self) -> str:
        return f"{self.path.name} connects {self.images_from} and {self.images_to}"


@dataclass(frozen=True)
class Warp:
    """A transform of which it is known which way it takes points.

    An image goes the other way: each voxel of where it goes asks where its centre came from.

    Parameters
    ----------
    file
        The transform.
    points_from, points_to
        Where points are, and where they go.
    inputs
        Fingerprints of its file and of the images.
    """

    file: TransformFile
    points_from: str
    points_to: str
    inputs: Mapping[str, str]

    @property
    def path(self) -> Path:
        """The transform's file."""
        return self.file.path

    @property
    def is_inverted(self) -> bool:
        """Whether the file moves points the other way."""
        return self.points_from == self.file.images_from

    @property
    def space(self) -> StatedSpace:
        """Where a tractogram goes."""
        return StatedSpace(
            self.points_to,
            f"as {self.path.name} brings the tractogram there from {self.points_from}",
        )

    def load(self) -> Transform:
        """Return what moves the points."""
        file = self.file
        images = file.fsl_images or None
        transform = load_transform(file.path, file.images_from, file.images_to, fsl_images=images)
        return transform.inverse() if self.is_inverted else transform

    def parameters(self) -> dict[str, Any]:
        """Return what results must have in common to be compared, as JSON values."""
        return {
            "XXH3-128": dict(self.inputs),
            "PointsFrom": self.points_from,
            "PointsTo": self.points_to,
            "Inverted": self.is_inverted,
        }

    def to_json(self, report: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Return what is needed to do it again, as JSON values; `WarpedPoints` has the report."""
        said = {"Name": self.path.name, "Path": str(self.path), **self.parameters()}
        said |= {"ImagesFrom": self.file.images_from, "ImagesTo": self.file.images_to}
        said["GivenBy"] = self.file.source
        return said | {f"Points{key.title()}": n for key, n in (report or {}).items()}


@dataclass(frozen=True, eq=False)
class WarpedPoints:
    """The points of a tractogram where a transform brought them.

    Parameters
    ----------
    points : (n, 3), float32
        mm RAS+, streamline after streamline.
    firsts, counts : (n_streamlines,)
        Those of the tractogram as it was, which then opens without being searched.
    report
        Points in all, outside the field, and where it has no inverse.
    """

    points: NDArray[np.float32]
    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]
    report: Mapping[str, int]

    @property
    def streamlines(self) -> Streamlines:
        """The polylines."""
        ends = np.cumsum(self.counts)
        return Streamlines(self.points.reshape(-1), (ends - self.counts) * 3, self.counts)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes one doubt them."""
        n, outside, unsolved = (self.report[key] for key in ("moved", "outside", "unsolved"))
        told = []
        if outside:
            told.append(
                f"{outside} of {n} points lie outside the field of the transform, which tells "
                "nothing of them: there, streamlines may be torn."
            )
        if unsolved:
            told.append(f"{unsolved} of {n} points lie where the field folds: off by over 0.05 mm.")
        return tuple(told)


def identify_transform(
    path: Path,
    *,
    images_from: str | None = None,
    images_to: str | None = None,
    fsl_images: Sequence[Path] = (),
    source: str = "--transform",
) -> TransformFile:
    """Find out between which spaces a transform goes.

    Parameters
    ----------
    path
        Its file.
    images_from, images_to
        Spaces of the moving and of the fixed image; else as a name like
        ``tpl-B_from-A_mode-image_xfm.h5`` says.
    fsl_images
        As for `load_transform`.
    source
        Who gave it, for messages.

    Raises
    ------
    OptionError
        If there is no such file, or nothing says which spaces it connects.
    SpaceError
        If its name says otherwise, or both spaces are one.
    """
    if not path.is_file():
        raise OptionError(f"{source} {path}: there is no such file. Check the path, or the name.")
    start, end = _state_direction(path, images_from, images_to)
    if start == end:
        raise SpaceError(
            f"{path.name} is said to go from {start} to {end}, which is one space: correct "
            "--transform-from or --transform-to."
        )
    return TransformFile(path, start, end, tuple(fsl_images), source)


def configured_transforms(settings: Settings) -> tuple[TransformFile, ...]:
    """Return the transforms of a configuration file; errors as of `identify_transform`."""
    found = []
    for said in settings.transforms:
        setting = TransformSetting(said) if isinstance(said, str) else said
        transform = identify_transform(
            settings.expand("transforms", setting.file),
            images_from=setting.images_from,
            images_to=setting.images_to,
            fsl_images=[settings.expand("transforms", image) for image in setting.images],
            source=settings.sources["transforms"],
        )
        found.append(transform)
    return tuple(found)


def find_warp(
    store: Store, files: Sequence[TransformFile], points_from: str, points_to: str
) -> Warp | None:
    """Return the transform that moves points between two spaces, if there is one.

    What an earlier source gave is taken before what a later one did; then a file that moves them
    so before one that has to be inverted.

    Raises
    ------
    SpaceError
        If two files fit alike.
    """
    ends = (resolve_space(points_to), resolve_space(points_from))  # as images go
    fitting = [file for file in files if {file.images_from, file.images_to} == {*ends}]
    if not fitting:
        return None
    sources = [file.source for file in fitting]
    ranks = [
        (sources.index(file.source), (file.images_from, file.images_to) != ends) for file in fitting
    ]
    best = {f: None for f, rank in zip(fitting, ranks, strict=True) if rank == min(ranks)}
    file, *others = best
    if others:
        raise SpaceError(
            f"{file.path} and {others[0].path} both resample images of {file.images_from} onto "
            f"{file.images_to}: give the one that is meant."
        )
    names = ("transform", "moving", "reference")
    inputs = {
        name: store.fingerprint(path)
        for name, path in zip(names, (file.path, *file.fsl_images), strict=False)
    }
    return Warp(file, ends[1], ends[0], inputs)


def plan_warp(store: Store, files: Sequence[TransformFile], tractogram: StatedSpace) -> Warp | None:
    """Return what takes a tractogram to the only other space that transforms lead to.

    Parameters
    ----------
    store
        Keeps fingerprints.
    files
        None: nothing moves.
    tractogram
        Where the tractogram is.

    Raises
    ------
    SpaceError
        If they lead nowhere from there, or to several spaces.
    """
    ours = resolve_space(tractogram.name)
    ends = [{file.images_from, file.images_to} for file in files]
    others = {space for pair in ends if ours in pair for space in pair - {ours}}
    if files and len(others) != 1:
        raise SpaceError(
            f"{'; '.join(map(str, files))}, and the tractogram is in {ours} "
            f"({tractogram.source}). Give one transform that leads from {ours} to the space that "
            "is wanted, or correct --transform-from, --transform-to or --tractogram-space."
        )
    warp = find_warp(store, files, ours, others.pop()) if files else None
    warn_of_unused(files, [warp] if warp else [])
    return warp


def choose_warp(
    store: Store,
    files: Sequence[TransformFile],
    tractogram: StatedSpace,
    lesions: Sequence[StatedSpace | None],
) -> Warp | None:
    """Return what takes a tractogram to where lesions are, if any is elsewhere.

    Parameters
    ----------
    store, files, tractogram
        As in `plan_warp`.
    lesions
        Space of each, if it is stated.

    Raises
    ------
    SpaceError
        If lesions are elsewhere, transforms are given, and none leads there.
    """
    ours = resolve_space(tractogram.name)
    spaces = {resolve_space(space.name): space for space in lesions if space is not None}
    if ours in spaces:  # nobody asked to leave these lesions out
        files = [file for file in files if file.source != CATALOGUE]
    elsewhere = [space for name, space in spaces.items() if name != ours]
    for space in elsewhere:
        warp = find_warp(store, files, ours, space.name)
        if warp is not None:
            return warp
    if elsewhere and ours not in spaces and files:
        raise SpaceError(
            f"{'; '.join(map(str, files))}, and the tractogram is in {ours} "
            f"({tractogram.source}), the lesions in {elsewhere[0].name} ({elsewhere[0].source}). "
            f"Give {advise_transform(elsewhere[0].name, ours)}."
        )
    return None


def advise_transform(images_from: str, images_to: str) -> str:
    """Return what to give so that images of one space are resampled onto another."""
    advice = f"--transform FILE between {images_from} and {images_to}"
    for asset in load_catalog().values():
        if (asset.images_from, asset.space) == (images_from, images_to):
            advice += f", or the catalogue's {asset.name} (`lacuna fetch {asset.name}` gets it)"
    return advice + " (two are not chained)"


def warn_of_unused(files: Sequence[TransformFile], used: Sequence[Warp]) -> None:
    """Say which transforms of the command line connect nothing that had to be connected."""
    for file in files:
        if file.source == "--transform" and file not in [warp.file for warp in used]:
            logger.warning(
                "%s is not used: nothing has to be moved between %s and %s, or another does it.",
                *(file.path.name, file.images_from, file.images_to),
            )


def write_warped(
    streamlines: Streamlines,
    transform: Transform,
    directory: Path,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Move the points of streamlines, a piece at a time, and write them for `open_warped`.

    Raises
    ------
    SpaceError
        If the transform had to be inverted and cannot be.
    """
    counts, n_points = streamlines.counts, streamlines.n_points
    outside = unsolved = 0
    # Written, not mapped: on a full disk a mapped page kills the process.
    with (directory / "points.npy").open("wb") as stream, ThreadPoolExecutor(threads) as pool:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n_points, 3)}
        np.lib.format.write_array_header_1_0(stream, header)
        pieces, n_done = _pieces(counts), 0
        while batch := list(islice(pieces, 2 * threads)):
            for ids, moved in zip(
                batch,
                pool.map(lambda ids: transform.move(streamlines.gather(ids)[0]), batch),
                strict=True,
            ):
                stream.write(moved.points.astype("<f4").tobytes())
                outside, unsolved = outside + moved.n_outside, unsolved + moved.n_unsolved
                n_done += len(ids)
                if progress is not None:
                    progress(n_done, len(counts))
    transform.check(unsolved, n_points)
    np.save(directory / "firsts.npy", streamlines.firsts.astype("<i8"))
    np.save(directory / "counts.npy", counts.astype("<i8"))
    report = {"moved": n_points, "outside": outside, "unsolved": unsolved}
    (directory / "report.json").write_text(json.dumps(report), encoding="utf-8")


def open_warped(directory: Path) -> WarpedPoints:
    """Map what `write_warped` wrote."""
    points, firsts, counts = (
        np.load(directory / f"{name}.npy", mmap_mode="r") for name in ("points", "firsts", "counts")
    )
    report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return WarpedPoints(points, firsts, counts, report)


def _state_direction(path: Path, start: str | None, end: str | None) -> tuple[str, str]:
    said = dict(re.findall(r"(?:^|_)(from|to|tpl|mode)-([A-Za-z0-9+]+)", file_stem(path)))
    named = (said.get("from"), said.get("to", said.get("tpl")))
    if said.get("mode") == "points":
        named = named[::-1]
    stated = (start or named[0], end or named[1])
    if stated[0] is None or stated[1] is None:
        raise OptionError(
            f"Nothing says between which spaces {path.name} goes: give --transform-from and "
            "--transform-to, the spaces of the images that it resamples and of those onto which."
        )
    spaces = resolve_space(stated[0]), resolve_space(stated[1])
    for space, name in zip(spaces, named, strict=True):
        if name is not None and _contradicts(name, space):
            raise SpaceError(
                f"The name of {path.name} says that it resamples images of {named[0]} onto "
                f"{named[1]}, but it is given as one of {spaces[0]} onto {spaces[1]}. Images are "
                "meant, which go the other way than points: say --transform-from, --transform-to "
                "or the catalogue's name as the file's does."
            )
    return spaces


def _contradicts(name: str, space: str) -> bool:
    try:
        return resolve_space(name) != space
    except SpaceError:  # a name like from-MNI is too short to contradict whoever says which one
        return False


def _pieces(counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield numbers of successive streamlines that together have some 2¹⁸ points."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        begun = ends[first] - counts[first]
        last = int(np.searchsorted(ends, begun + _POINTS_AT_ONCE, side="right"))
        yield np.arange(first, max(last, first + 1))
        first = max(last, first + 1)
