"""From a mask to a lesion: its space, side and place, and everything that may be wrong with it.

A space is stated, never guessed. What the numbers can show (an empty mask, a mask outside the
tractogram, a grid that belongs to another space) is checked; a left-right flip cannot be seen, so
side and centre of mass are reported with every result.
"""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lacuna.bids.dataset import LesionFile, find_lesions, read_sidecar, space_in_sidecar
from lacuna.bids.names import file_stem
from lacuna.errors import LesionError, SpaceError
from lacuna.formats.nifti import Image, ImageSource, load_mask
from lacuna.geometry.grid import BoolArray, FloatArray, Grid, IntArray
from lacuna.geometry.space import StatedSpace, grid_names, known_spaces, resolve_space
from lacuna.tractogram.query import LesionBox
from lacuna.workflow.warped import advise_transform

logger = logging.getLogger(__name__)

Side = Literal["left", "right", "bilateral"]

ONE_SIDED_SHARE = 0.95
"""A lesion is left or right if at least this share of its volume is."""

MIDLINE_MM = 1e-3
"""Voxels whose centres are nearer to x = 0 count half to each side."""

MOSTLY_OUTSIDE_SHARE = 0.5
"""A lesion with less of it in the tractogram's box is suspected to be in another space."""

_SIDES: dict[str, Side] = {"l": "left", "left": "left", "r": "right", "right": "right"}
_SIDES |= {"b": "bilateral", "both": "bilateral", "bilateral": "bilateral"}


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion mask that can be used, and what is known about it.

    Parameters
    ----------
    mask : (i, j, k)
        True where lesioned, as it is stored.
    grid
        Where its voxels are.
    name
        Its path, or what stands for it in messages.
    space
        Its space and where that was stated; none if nowhere.
    n_voxels
        Lesioned voxels.
    volume_mm3
        Their volume, mm³.
    side
        Where at least 95 % of the volume is, else ``"bilateral"``; by the sign of x, which is
        the midline of a template but of no native space.
    left_share
        Share of the volume with x < 0.
    centre_of_mass_mm
        Mean of the voxel centres, mm RAS+, to a micrometre.
    warnings
        What makes one doubt the mask, one sentence each.
    moved
        How it was brought into its space, as JSON values; none if it was drawn there.
    """

    mask: BoolArray
    grid: Grid
    name: str
    space: StatedSpace | None
    n_voxels: int
    volume_mm3: float
    side: Side
    left_share: float
    centre_of_mass_mm: tuple[float, float, float]
    warnings: tuple[str, ...] = ()
    moved: Mapping[str, Any] | None = None


def load_lesion(
    source: LesionFile | ImageSource,
    space: str | StatedSpace | None = None,
    *,
    default_space: StatedSpace | None = None,
    strict: bool = False,
) -> Lesion:
    """Load a lesion mask and check it.

    Warnings are logged, and kept in the result.

    Parameters
    ----------
    source
        What `find_lesions` found, a path, a nibabel image, or an array with its affine.
    space
        Its space. A file whose name or sidecar states another is an error.
    default_space
        Its space if neither `space` nor the file says, as from a configuration file.
    strict
        Refuse a mask on another template's grid instead of warning.

    Raises
    ------
    FormatError, GridError, LesionError
        If the image cannot be read, or is empty, not binary or not finite.
    SpaceError
        If its space is ambiguous, stated twice differently, or contradicted by its grid (strict).
    """
    file = None
    if isinstance(source, LesionFile | str | os.PathLike):
        file = source if isinstance(source, LesionFile) else _find_file(Path(source))
        source = file.path
    stated = decide_space(space, file.space if file else None, default_space)
    image = load_mask(source)
    lesion = measure_lesion(image, stated)
    warnings = [f"{image.name}: {note}" for note in image.notes]
    warnings += suspect_grid(lesion.name, lesion.grid, lesion.space, strict=strict)
    if file and file.lesion_side:
        warnings += _suspect_side(lesion, file.lesion_side)
    for warning in warnings:
        logger.warning(warning)
    return replace(lesion, warnings=tuple(warnings))


def measure_lesion(image: Image[np.bool_], space: StatedSpace | None) -> Lesion:
    """Return what can be said of a mask by its voxels alone; it must not be empty."""
    # In world order: a lesion stored LAS, RAS or LIA is the same to the last bit.
    voxels, turned = _find_voxels(image.array, image.grid), image.grid.canonical
    n = len(voxels[0])
    centre = turned.affine[:3, :3] @ (np.array([at.sum() for at in voxels]) / n) + turned.origin
    x = _along(turned.affine[0], voxels) + turned.origin[0]
    on_midline = int((np.abs(x) < MIDLINE_MM).sum())
    left = (int((x <= -MIDLINE_MM).sum()) + on_midline / 2) / n
    side: Side = "bilateral"
    if max(left, 1 - left) >= ONE_SIDED_SHARE:
        side = "left" if left > 0.5 else "right"
    return Lesion(
        mask=image.array,
        grid=image.grid,
        name=image.name,
        space=space,
        n_voxels=n,
        volume_mm3=n * turned.voxel_volume_mm3,
        side=side,
        left_share=left,
        centre_of_mass_mm=_to_micrometres(centre),
    )


def tractogram_space(
    path: str | os.PathLike[str],
    space: str | StatedSpace | None = None,
    *,
    default_space: StatedSpace | None = None,
) -> StatedSpace | None:
    """Return the space of a tractogram or atlas and where it was stated, if anywhere.

    It is stated by an option, by ``x.json`` beside ``x.trk`` (``Space`` or ``SpatialReference``)
    or ``space-`` or ``tpl-`` in its name, or by default.

    Parameters
    ----------
    space
        The option. A file that states another is an error.
    default_space
        Its space if nothing else says, as from a configuration file.

    Raises
    ------
    SpaceError
        If it is ambiguous, or stated twice differently.
    """
    path = Path(path)
    sidecar = path.with_name(file_stem(path) + ".json")
    said = space_in_sidecar(read_sidecar(sidecar), sidecar.name) if sidecar.is_file() else None
    entity = re.search(r"(?:^|_)(?:space|tpl)-([A-Za-z0-9+]+)", file_stem(path))
    named = StatedSpace(entity.group(1), f"the name of {path.name}") if entity else None
    if said and named:
        decide_space(said, named, None)  # refuses two that differ
    return decide_space(space, said or named, default_space)


def check_spaces(
    lesion_space: StatedSpace | None,
    tractogram_space: StatedSpace | None,
    *,
    lesion_name: str = "the lesion",
    tractogram_name: str = "the tractogram",
    what: str = "tractogram",
) -> str:
    """Return the space that a lesion shares with a tractogram, or with an atlas.

    Parameters
    ----------
    lesion_space, tractogram_space
        As they are stated, if they are.
    lesion_name, tractogram_name
        Whose they are, for messages.
    what
        What the other one is: ``tractogram`` or ``atlas``.

    Raises
    ------
    SpaceError
        If one is not stated, or they differ.
    """
    lesion = require_space(lesion_space, lesion_name, "--space", "the mask")
    tractogram = require_space(tractogram_space, tractogram_name, f"--{what}-space", f"the {what}")
    ours, theirs = resolve_space(lesion.name), resolve_space(tractogram.name)
    if ours == theirs:
        return ours
    pair = (ours, theirs) if what == "tractogram" else (theirs, ours)
    raise SpaceError(
        f"{lesion_name} is in {ours} ({lesion.source}), {tractogram_name} in {theirs} "
        f"({tractogram.source}): they differ by millimetres or more. Bring the mask into {theirs} "
        f"by normalising it, or take another {what}, in {ours}; or "
        f"give {advise_transform(*pair)}. If a space is stated "
        f"wrongly, correct it there, or give --space or --{what}-space."
    )


def check_overlap(lesion: Lesion, low: FloatArray, high: FloatArray) -> tuple[str, ...]:
    """Compare a lesion with the box that holds a tractogram.

    Parameters
    ----------
    low, high : (3,)
        Corners of the box, mm RAS+.

    Returns
    -------
    tuple of str
        Warnings; they are logged too.

    Raises
    ------
    LesionError
        If no lesioned voxel touches the box.
    """
    voxels, inside = _find_voxels(lesion.mask, lesion.grid), np.ones(lesion.n_voxels, bool)
    for row, first, last in zip(lesion.grid.canonical.affine, low, high, strict=False):
        centres, reach = _along(row, voxels) + row[3], np.abs(row[:3]).sum() / 2
        inside &= (centres >= first - reach) & (centres <= last + reach)
    share = float(inside.mean())
    where = ", ".join(f"{coordinate:.0f}" for coordinate in lesion.centre_of_mass_mm)
    if not inside.any():
        raise LesionError(
            f"{lesion.name} lies wholly outside the tractogram: its centre is at ({where}) mm, "
            f"the tractogram spans {_format_box(low, high)}. It is probably in native space, or "
            "its header is wrong."
        )
    if share >= MOSTLY_OUTSIDE_SHARE:
        return ()
    return _warn(
        f"{lesion.name}: only {share:.0%} of the lesion is in the box of the tractogram "
        f"({_format_box(low, high)}). Is the mask in native space?"
    )


def check_cut(lesion: Lesion, n_cut: int) -> tuple[str, ...]:
    """Return a warning, logged too, if a lesion cut no streamline."""
    if n_cut:
        return ()
    where = ", ".join(f"{coordinate:.0f}" for coordinate in lesion.centre_of_mass_mm)
    return _warn(
        f"{lesion.name}: the lesion ({lesion.volume_mm3:.0f} mm³ at ({where}) mm) touches no "
        "streamline. Is the mask in native space, or does it hold no white matter?"
    )


def _find_file(path: Path) -> LesionFile:
    if path.is_dir():
        raise LesionError(f"{path} is a folder, not a mask; find_lesions lists the masks in it.")
    return find_lesions(path).found[0]


def decide_space(
    option_value: str | StatedSpace | None,
    stated: StatedSpace | None,
    default: StatedSpace | None,
) -> StatedSpace | None:
    """Return the space by option, file or default, with its resolved name.

    Raises
    ------
    SpaceError
        If it is ambiguous, or option and file state two.
    """
    if isinstance(option_value, str):
        option_value = StatedSpace(option_value, "as given")
    chosen = option_value or stated or default
    if chosen is None:
        return None
    resolved = StatedSpace(resolve_space(chosen.name), chosen.source)
    if option_value is None or stated is None:
        return resolved
    try:
        said = resolve_space(stated.name)
    except SpaceError:
        # A name like space-MNI is too short to contradict an option that says which one.
        return resolved
    if said != resolved.name:
        raise SpaceError(
            f"The space is {resolved.name} ({resolved.source}), but {said} by {stated.source}. "
            "Leave the option out if the file is right, else correct the file."
        )
    return resolved


def require_space(space: StatedSpace | None, name: str, option: str, what: str) -> StatedSpace:
    """Return a space that was stated.

    Parameters
    ----------
    space
        What was found, if anything.
    name
        Whose space it is, for the message.
    option, what
        How it can be stated, and beside which file.

    Raises
    ------
    SpaceError
        If it was not; says how to state it.
    """
    if space is not None:
        return space
    folded = Path(name).name.casefold()
    hints = [known for known in known_spaces() if known.casefold() in folded]
    hint = f" Its name suggests {hints[0]}, which must be stated." if hints else ""
    raise SpaceError(
        f"The space of {name} is not stated.{hint} Give {option} NAME, for example {option} "
        f'{hints[0] if hints else "MNI152NLin6Asym"}, or put {{"Space": "NAME"}} into a JSON file '
        f"of the same name beside {what}."
    )


def _find_voxels(mask: BoolArray, grid: Grid) -> list[IntArray]:
    """Return where the lesioned voxels are along each canonical axis, (n,) each."""
    box = LesionBox.of(mask, grid)  # most of a mask is empty
    return [at + low for at, low in zip(np.nonzero(box.mask), box.low, strict=True)]


def _along(row: FloatArray, voxels: list[IntArray]) -> FloatArray:
    """Return one coordinate of voxels by the row of an affine, but for its last number."""
    first, *others = (step * at for step, at in zip(row[:3], voxels, strict=True) if step)
    found: FloatArray = first
    for other in others:
        found = found + other
    return found


def suspect_grid(
    name: str, grid: Grid, space: StatedSpace | None, *, strict: bool = False
) -> list[str]:
    """Return a warning if an image's grid is exactly that of spaces other than its own.

    Parameters
    ----------
    name
        What stands for the image in messages.
    strict
        Raise instead.

    Raises
    ------
    SpaceError
        If it is, and `strict`.
    """
    owners = grid_names(grid)
    if space is None or not owners or space.name in owners:
        return []
    message = (
        f"{name} is stated to be in {space.name} ({space.source}), but its grid is exactly "
        f"that of {' or '.join(owners)}. A grid proves no space: check how it was made."
    )
    if strict:
        raise SpaceError(message)
    return [message]


def _suspect_side(lesion: Lesion, stated: str) -> list[str]:
    expected = _SIDES.get(stated.lower())
    if expected == lesion.side:
        return []
    said = f"{lesion.name}: participants.tsv says lesion_side {stated}"
    if expected is None:
        return [f"{said}, which is not left, right or bilateral."]
    left = lesion.left_share
    shares = f"{left:.0%} of the mask is left and {1 - left:.0%} right"
    return [f"{said}, but {shares}. Is the image flipped?"]


def _warn(message: str) -> tuple[str, ...]:
    logger.warning(message)
    return (message,)


def _to_micrometres(point: FloatArray) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 3) + 0.0 for value in point)
    return x, y, z


def _format_box(low: FloatArray, high: FloatArray) -> str:
    spans = zip("xyz", low, high, strict=True)
    return ", ".join(f"{axis} {first:.0f} to {last:.0f}" for axis, first, last in spans) + " mm"
