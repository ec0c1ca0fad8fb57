"""BIDS names: ``sub-01_ses-2_space-X_desc-y_mask.nii.gz`` taken apart and put together.

See https://bids-specification.readthedocs.io/en/stable/appendices/entities.html for the entities
and their order.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lacuna.geometry.grid import Grid

ENTITY_ORDER = (
    *("sub", "tpl", "ses", "cohort", "sample", "task", "tracksys", "acq", "nuc", "voi", "ce"),
    *("trc", "stain", "rec", "dir", "run", "mod", "echo", "flip", "inv", "mt", "part", "proc"),
    *("hemi", "space", "split", "recording", "chunk", "atlas", "seg", "scale", "res", "den"),
    *("label", "desc"),
)
"""Short names of the entities in the order in which BIDS writes them."""

_EXTENSION = re.compile(r"(\.nii|\.tck|\.trk|\.trx)?\.[A-Za-z]+$")
_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9+]+)", re.IGNORECASE)


@dataclass(frozen=True)
class BidsName:
    """The parts of a file's name.

    Parameters
    ----------
    entities
        Short name to value, ``sub`` first.
    suffix
        The last part before the extension, as in ``mask``.
    """

    entities: Mapping[str, str]
    suffix: str


def file_stem(path: str | Path) -> str:
    """Return a file's name without directory and extension; ``.nii.gz`` is one extension."""
    return _EXTENSION.sub("", Path(path).name)


def parse_name(name: str) -> BidsName | None:
    """Take a BIDS name apart.

    A bare word between entities, as in ``sub-1_T2w_desc-lesion_mask``, is the modality that the
    file belongs to and becomes the entity ``mod``.

    Returns
    -------
    BidsName or None
        None if it does not begin with ``sub-``, or a part is no entity.
    """
    *parts, suffix = file_stem(name).split("_")
    entities: dict[str, str] = {}
    for part in parts:
        match = _ENTITY.fullmatch(part)
        key, value = match.groups() if match else ("mod", part)
        if key in entities or not (match or value.isalnum()):
            return None
        entities[key] = value
    if next(iter(entities), None) != "sub" or not suffix.isalnum():
        return None
    return BidsName(entities, suffix)


def name_plain_file(name: str) -> BidsName:
    """Return the BIDS name for a file that has none: ``my_lesion.nii.gz`` is ``sub-mylesion``.

    A part ``space-X`` keeps its meaning; everything else that is a letter or digit is the
    subject's label.
    """
    parts = file_stem(name).split("_")
    spaces = [part.removeprefix("space-") for part in parts if part.startswith("space-")]
    words = "".join(part for part in parts if not part.startswith("space-"))
    label = re.sub(r"[^A-Za-z0-9]", "", words.removeprefix("sub-"))
    entities = {"sub": label or "unnamed"}
    if len(spaces) == 1 and spaces[0].isalnum():
        entities["space"] = spaces[0]
    return BidsName(entities, "mask")


def build_name(entities: Mapping[str, str], suffix: str, extension: str) -> str:
    """Return the file name; entities that BIDS does not know stand before ``space``."""
    unknown = ENTITY_ORDER.index("space") - 0.5
    rank = {key: float(place) for place, key in enumerate(ENTITY_ORDER)}
    keys = sorted(entities, key=lambda key: rank.get(key, unknown))
    return "_".join([*(f"{key}-{entities[key]}" for key in keys), suffix]) + extension


def resolution_label(grid: Grid) -> str:
    """Return the value of ``res``: a grid's voxel size, mm, as in ``2``, ``1p5``, ``1x1x3``."""
    sizes = [f"{size:.4g}".replace(".", "p") for size in grid.canonical.voxel_sizes_mm]
    return sizes[0] if len(set(sizes)) == 1 else "x".join(sizes)
