"""Atlases and lesions in another space: onto which voxels they go, and what that changes.

Labels are taken from the nearest voxel, probabilities linearly; a voxel is lesioned where at
least half of it was. What was moved is kept in the cache, known by contents alone.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import LesionError, SpaceError
from lacuna.formats.nifti import Image
from lacuna.geometry.grid import BoolArray, FloatArray, Grid, IntArray
from lacuna.geometry.parcellation import Parcellation
from lacuna.geometry.resample import find_moved_box, pull_voxels, take_linear, take_nearest
from lacuna.geometry.space import StatedSpace, fitting_grid
from lacuna.geometry.tract_atlas import TractAtlas
from lacuna.store import Key, Store
from lacuna.workflow.lesion import Lesion, measure_lesion
from lacuna.workflow.products import leased
from lacuna.workflow.warped import TransformFile, Warp, find_warp

logger = logging.getLogger(__name__)

LESIONED_SHARE = 0.5
"""A voxel is lesioned if at least this share of it was before it was moved."""

TOLERATED_CHANGE = 0.1
"""A lesion whose volume changes by more of itself is warned about."""

_PARTS = ("voxels", "values", "offsets")

Content = tuple[NDArray[np.int32], NDArray[Any], NDArray[np.int64]]
"""Numbers of voxels, their values, and where each volume begins and ends among them."""

Take = Callable[[IntArray, FloatArray], Content]
"""Returns what is in voxels of the target that lie at coordinates of the source."""


@dataclass(frozen=True, eq=False)
class _Resampled:
    """What an image holds on the voxels of another space.

    Parameters
    ----------
    grid
        With axes towards +x, +y, +z.
    voxels, values, offsets
        As in `Content`; all other voxels hold 0.
    report
        Voxels that are not 0, and how many of their centres met a field in vain.
    """

    grid: Grid
    voxels: NDArray[np.int32]
    values: NDArray[Any]
    offsets: NDArray[np.int64]
    report: Mapping[str, int]

    @property
    def volume(self) -> NDArray[Any]:
        """All voxels of an image with one volume."""
        found = np.zeros(self.grid.n_voxels, self.values.dtype)
        found[self.voxels] = self.values
        return found.reshape(self.grid.shape)

    def to_json(self, warp: Warp, how: str) -> dict[str, Any]:
        """Return what is needed to do it again, as JSON values."""
        said = {key: value for key, value in warp.to_json().items() if "Points" not in key}
        moved = {"From": warp.points_to, "To": warp.points_from, "Interpolation": how}
        grid = {"Shape": list(self.grid.shape), "Affine": self.grid.affine.tolist()}
        report = {f"Voxels{key.title()}": n for key, n in self.report.items()}
        return {**said, **moved, "Grid": grid, **report}


def move_parcels(
    store: Store, parcels: Parcellation, warp: Warp, *, threads: int = 1
) -> tuple[Parcellation, dict[str, Any]]:
    """Bring labels into another space; say which of them are lost.

    Parameters
    ----------
    store
        Keeps what was moved.
    parcels
        Where the transform takes points to.
    warp
        Moves points the other way than the labels go.
    threads
        Threads to use the first time.

    Returns
    -------
    parcels
        On the coarsest customary grid of the space whose voxels are no larger, or, where there is
        none, on cubic voxels of the smallest edge.
    dict
        What a record says of it, as JSON values.
    """
    labels, grid = parcels.canonical, parcels.grid.canonical

    def take(voxels: IntArray, at: FloatArray) -> Content:
        values = take_nearest(labels, at)
        return _content([voxels[values > 0]], [values[values > 0]])

    said = parcels.fingerprint
    moved = _resample(store, warp, "nearest", said, parcels.name, grid, labels > 0, take, threads)
    numbers, before, after = parcels.numbers, labels[labels > 0], moved.values
    is_left = np.isin(numbers, after)
    if not is_left.all():
        lost = [f"{numbers[i]} ({parcels.names[i]})" for i in np.flatnonzero(~is_left)]
        logger.warning(
            "Atlas %s: %d of %d labels have no voxel left in %s, and are not reported: %s.",
            *(parcels.name, len(lost), len(numbers), warp.points_from, ", ".join(lost[:12])),
        )
    if not is_left.any():
        raise SpaceError(
            f"Nothing of atlas {parcels.name} is left in {warp.points_from}: is "
            f"{warp.path.name} the right transform, and does it go from {warp.file.images_from} to "
            f"{warp.file.images_to}?"
        )
    names = tuple(np.array(parcels.names, object)[is_left])
    volumes = {
        "VolumeBeforeMm3": len(before) * grid.voxel_volume_mm3,
        "VolumeAfterMm3": len(after) * moved.grid.voxel_volume_mm3,
    }
    found = Parcellation(parcels.name, moved.volume, moved.grid, numbers[is_left], names)
    return found, moved.to_json(warp, "nearest voxel") | volumes


def move_tracts(
    store: Store, tracts: TractAtlas, warp: Warp, *, threads: int = 1
) -> tuple[TractAtlas, dict[str, Any]]:
    """Bring maps of probabilities into another space; parameters and grid as in `move_parcels`."""
    grid, shape = tracts.grid, tracts.grid.shape
    spans = list(zip(tracts.offsets[:-1], tracts.offsets[1:], strict=True))

    def take(voxels: IntArray, at: FloatArray) -> Content:
        numbers, values = [], []
        for start, stop in spans:
            # Only the box of a tract: with dozens of them, whole volumes would take minutes.
            ids = np.column_stack(np.unravel_index(tracts.voxels[start:stop], shape))
            low = ids.min(axis=0, initial=max(shape))
            box = np.zeros(np.maximum(ids.max(axis=0, initial=0) - low + 1, 1), np.float32)
            box[tuple((ids - low).T)] = tracts.values[start:stop]
            near = ((at > low - 1) & (at < low + box.shape)).all(axis=1)
            found = take_linear(box, at[near] - low)
            numbers.append(voxels[near][found > 0])
            values.append(np.minimum(found[found > 0], 1).astype(np.float32))
        return _content(numbers, values)

    mask = np.zeros(grid.n_voxels, bool)
    mask[tracts.voxels] = True
    said, mask = tracts.fingerprint, mask.reshape(shape)
    moved = _resample(store, warp, "linear", said, tracts.name, grid, mask, take, threads)
    found = TractAtlas(
        tracts.name, moved.grid, tracts.names, moved.offsets, moved.voxels, moved.values
    )
    return found, moved.to_json(warp, "linear")


def move_lesion(store: Store, lesion: Lesion, warp: Warp) -> Lesion:
    """Bring a lesion into another space; say what that does to its volume.

    Parameters
    ----------
    store, warp
        As in `move_parcels`, which tells the grid, too.
    lesion
        Where the transform takes points to.

    Raises
    ------
    LesionError
        If nothing is left of it.
    """
    grid = lesion.grid.canonical
    mask = np.ascontiguousarray(lesion.grid.orientation.to_canonical(lesion.mask))

    def take(voxels: IntArray, at: FloatArray) -> Content:
        is_lesion = take_linear(mask, at) >= LESIONED_SHARE
        return _content([voxels[is_lesion]], [np.ones(int(is_lesion.sum()), np.uint8)])

    digest = hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16)
    digest.update(repr((grid.shape, np.round(grid.affine, 4).tolist())).encode())
    said, name = digest.hexdigest(), Path(lesion.name).name
    moved = _resample(store, warp, "half", said, name, grid, mask, take, 1)
    if not len(moved.voxels):
        raise LesionError(
            f"Nothing is left of {lesion.name} ({lesion.volume_mm3:.0f} mm³) in "
            f"{warp.points_from}: no voxel is lesioned by half. Leave out --move-lesions, so that "
            "no lesion is resampled."
        )
    stated = StatedSpace(
        warp.points_from,
        f"as {warp.path.name} brings the lesion there from {warp.points_to}",
    )
    found = measure_lesion(Image(moved.volume > 0, moved.grid, lesion.name), stated)
    change = found.volume_mm3 / lesion.volume_mm3 - 1
    warnings = list(lesion.warnings)
    for problem, n in (("outside the field", "outside"), ("where the field folds", "unsolved")):
        if moved.report[n]:
            warnings.append(
                f"{lesion.name}: {moved.report[n]} of {found.n_voxels} voxels lie {problem} of "
                f"{warp.path.name}, which tells nothing of them."
            )
    if abs(change) > TOLERATED_CHANGE:
        warnings.append(
            f"{lesion.name}: bringing the lesion into {warp.points_from} changes its volume by "
            f"{change:+.0%}, from {lesion.volume_mm3:.0f} to {found.volume_mm3:.0f} mm³ (voxels of "
            "which at least half was lesioned)."
        )
    for warning in warnings[len(lesion.warnings) :]:
        logger.warning("%s", warning)
    report = moved.to_json(warp, "linear") | {
        "LesionedShare": LESIONED_SHARE,
        "VolumeBeforeMm3": lesion.volume_mm3,
        "VolumeAfterMm3": found.volume_mm3,
    }
    return replace(found, warnings=tuple(warnings), moved=report)


@dataclass(frozen=True, eq=False)
class LesionMoves:
    """Brings lesions to where everything else is.

    Parameters
    ----------
    store
        Keeps what was moved.
    files
        Transforms that may be used.
    space
        Where lesions go.
    """

    store: Store
    files: Sequence[TransformFile]
    space: StatedSpace

    def leads_from(self, space: StatedSpace | None) -> bool:
        """Tell whether a transform takes lesions of a space there."""
        return space is not None and self.find(space) is not None

    def find(self, space: StatedSpace) -> Warp | None:
        """Return what takes lesions of a space there, if that is another."""
        return find_warp(self.store, self.files, self.space.name, space.name)

    def warps(self, spaces: Sequence[StatedSpace | None]) -> list[Warp]:
        """Return what takes lesions there from each of some spaces that is another."""
        names = sorted({space.name for space in spaces if space is not None})
        found = [find_warp(self.store, self.files, self.space.name, name) for name in names]
        return [warp for warp in found if warp is not None]

    def parameters(self) -> dict[str, list[str]]:
        """Return what decides where lesions go, by file: fingerprints, and the spaces it joins.

        It does not depend on which lesions a run takes: the tasks of an array agree on it.
        """
        said: dict[str, list[str]] = {}
        for file in self.files:  # several may have one name
            contents = map(self.store.fingerprint, (file.path, *file.fsl_images))
            said.setdefault(file.path.name, []).extend(
                [*contents, file.images_from, file.images_to]
            )
        return said

    def bring(self, lesion: Lesion) -> Lesion:
        """Return a lesion as it is there; the same if it is there already."""
        warp = None if lesion.space is None else self.find(lesion.space)
        return lesion if warp is None else move_lesion(self.store, lesion, warp)


def _content(numbers: Sequence[IntArray], values: Sequence[NDArray[Any]]) -> Content:
    offsets = np.cumsum([0, *map(len, numbers)]).astype(np.int64)
    return np.concatenate(numbers).astype(np.int32), np.concatenate(values), offsets


def _check(read: Callable[[Path], Any], directory: Path) -> None:
    read(directory)


def _resample(
    store: Store,
    warp: Warp,
    how: str,
    fingerprint: str,
    name: str,
    grid: Grid,
    mask: BoolArray,
    take: Take,
    threads: int,
) -> _Resampled:
    """Return an image, known by its fingerprint, on other voxels; mask and grid are canonical."""
    # Not to the last digit: a header holds less, and a flipped one other digits.
    size_mm = round(min(grid.voxel_sizes_mm), 3)
    known = fitting_grid(warp.points_from, size_mm)

    def make(directory: Path) -> None:
        transform = warp.load()
        box = find_moved_box(transform, mask, grid, size_mm)
        target = known or Grid.over_box(*box, size_mm)
        content = take(*pull_voxels(transform, grid, target, box, threads=threads))
        used = np.column_stack(np.unravel_index(np.unique(content[0]), target.shape))
        moved = transform.move(target.to_world(used))
        transform.check(moved.n_unsolved, len(used))
        for part, array in zip(_PARTS, content, strict=True):
            np.save(directory / f"{part}.npy", np.asarray(array))
        report = {"moved": len(used), "outside": moved.n_outside, "unsolved": moved.n_unsolved}
        said = {"shape": target.shape, "affine": target.affine.tolist(), "report": report}
        (directory / "resampled.json").write_text(json.dumps(said), encoding="utf-8")

    def read(directory: Path) -> _Resampled:
        said = json.loads((directory / "resampled.json").read_text(encoding="utf-8"))
        voxels, values, offsets = (np.load(directory / f"{part}.npy") for part in _PARTS)
        grid = Grid(tuple(said["shape"]), said["affine"])
        return _Resampled(grid, voxels, values, offsets, said["report"])

    parameters = {
        "how": how,
        "inverted": warp.is_inverted,
        "voxel_size_mm": size_mm,
        "shape": known and list(known.shape),
        "affine": known and known.affine.tolist(),
    }
    label = f"{name}, {warp.points_to} to {warp.points_from}"
    key = Key("resampled", parameters, {"image": fingerprint, **warp.inputs}, label)
    get = partial(store.get_or_make, key, make, partial(_check, read))
    return leased(get, lambda entry: read(entry.path))
