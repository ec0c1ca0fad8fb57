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

from lacuna.bids.names import file_stem
from lacuna.errors import OptionError, SpaceError
from lacuna.formats.transform import load_transform
from lacuna.geometry.space import StatedSpace, resolve_space
from lacuna.geometry.streamlines import Streamlines
from lacuna.geometry.warp import Transform
from lacuna.store import Store

logger = logging.getLogger(__name__)

_POINTS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Warp:
    """A transform of which it is known which way it takes a tractogram's points.

    Parameters
    ----------
    path
        Its file.
    images_from, images_to
        The file resamples images of the first space onto the second.
    points_from, points_to
        Where the tractogram is, and where it goes.
    fsl_images
        As for `load_transform`.
    inputs
        Fingerprints of its file and of the images.
    """

    path: Path
    images_from: str
    images_to: str
    points_from: str
    points_to: str
    fsl_images: tuple[Path, ...]
    inputs: Mapping[str, str]

    @property
    def is_inverted(self) -> bool:
        """Whether the file moves points the other way."""
        return self.points_from == self.images_from

    @property
    def space(self) -> StatedSpace:
        """Where the tractogram goes."""
        return StatedSpace(
            self.points_to,
            f"as {self.path.name} brings the tractogram there from {self.points_from}",
        )

    def load(self) -> Transform:
        """Return what moves the points."""
        images = self.fsl_images or None
        transform = load_transform(self.path, self.images_from, self.images_to, fsl_images=images)
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
        said |= {"ImagesFrom": self.images_from, "ImagesTo": self.images_to}
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


def plan_warp(
    store: Store,
    path: Path,
    tractogram: StatedSpace,
    *,
    images_from: str | None = None,
    images_to: str | None = None,
    fsl_images: Sequence[Path] = (),
) -> Warp:
    """Decide which way a transform takes a tractogram.

    Parameters
    ----------
    store
        Keeps fingerprints.
    path
        The transform's file.
    tractogram
        Where the tractogram is.
    images_from, images_to
        Spaces of the moving and of the fixed image; else as a name like
        ``tpl-B_from-A_mode-image_xfm.h5`` says.
    fsl_images
        As for `load_transform`.

    Raises
    ------
    OptionError
        If there is no such file, or nothing says which spaces it connects.
    SpaceError
        If its name says otherwise, or the tractogram is in neither space.
    """
    if not path.is_file():
        raise OptionError(f"--transform {path}: there is no such file. Check the path.")
    start, end = _state_direction(path, images_from, images_to)
    ours = resolve_space(tractogram.name)
    if start == end or ours not in (start, end):
        raise SpaceError(
            f"{path.name} connects {start} and {end}, and the tractogram is in {ours} "
            f"({tractogram.source}). Give a transform between {ours} and the lesions' space, or "
            "correct --transform-from, --transform-to or --tractogram-space."
        )
    names = ("transform", "moving", "reference")
    inputs = {
        name: store.fingerprint(file)
        for name, file in zip(names, (path, *fsl_images), strict=False)
    }
    other = end if ours == start else start
    return Warp(path, start, end, ours, other, tuple(fsl_images), inputs)


def choose_warp(warp: Warp, lesions: Sequence[StatedSpace | None]) -> Warp | None:
    """Return the transform if any lesion is elsewhere than the tractogram.

    Raises
    ------
    SpaceError
        If lesions are elsewhere, and none is where the transform brings the tractogram.
    """
    spaces = {resolve_space(space.name): space for space in lesions if space is not None}
    if warp.points_to in spaces:
        return warp
    elsewhere = [space for name, space in spaces.items() if name != warp.points_from]
    if elsewhere:
        raise SpaceError(
            f"{warp.path.name} brings the tractogram from {warp.points_from} to {warp.points_to}, "
            f"and the lesions are in {elsewhere[0].name} ({elsewhere[0].source}). Give a "
            f"--transform between {warp.points_from} and {elsewhere[0].name}."
        )
    if spaces:
        logger.warning(
            "%s is not used: lesions and tractogram are both in %s.",
            warp.path.name,
            warp.points_from,
        )
        return None
    return warp


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
    said = dict(re.findall(r"(?:^|_)(from|to|tpl|mode)-([A-Za-z0-9]+)", file_stem(path)))
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
        if name is not None and resolve_space(name) != space:
            raise SpaceError(
                f"The name of {path.name} says that it resamples images of {named[0]} onto "
                f"{named[1]}, the options say of {spaces[0]} onto {spaces[1]}. Images are meant, "
                "which go the other way than points: give --transform-from and --transform-to as "
                "in the name, or leave them out."
            )
    return spaces


def _pieces(counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield numbers of successive streamlines that together have some 2¹⁸ points."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        begun = ends[first] - counts[first]
        last = int(np.searchsorted(ends, begun + _POINTS_AT_ONCE, side="right"))
        yield np.arange(first, max(last, first + 1))
        first = max(last, first + 1)
