"""Template spaces: their names, and the grids on which each is usually stored.

A space says where an anatomical point lies in mm RAS+; a grid says where voxels lie. A grid never
proves a space: real atlases carry one space's name on another's grid. Spaces are therefore stated
and compared by name, and grids only raise a suspicion.

Shapes and origins are those of TemplateFlow's template descriptions, of the McConnell Brain
Imaging Centre's releases (2009a: 197 × 233 × 189), of FSL 6 and of SPM's default bounding boxes.
"""

import re
from dataclasses import dataclass

from lacuna.errors import SpaceError
from lacuna.geometry.grid import Grid


@dataclass(frozen=True)
class StatedSpace:
    """A space and where it was stated.

    Parameters
    ----------
    name
        As it was written; `resolve_space` makes it comparable.
    source
        For people: ``--space``, a file's name, a sidecar, a configuration file.
    """

    name: str
    source: str


_MNI_LINEAR = (
    Grid.cubic(1, (181, 217, 181), (-90, -126, -72)),
    Grid.cubic(2, (91, 109, 91), (-90, -126, -72)),
)
_FSL = (
    Grid.cubic(1, (182, 218, 182), (-91, -126, -72)),
    Grid.cubic(2, (91, 109, 91), (-90, -126, -72)),
    Grid.cubic(0.5, (364, 436, 364), (-91.5, -126, -72)),
)
_MNI_2009AB = (
    Grid.cubic(1, (197, 233, 189), (-98, -134, -72)),
    Grid.cubic(2, (99, 117, 95), (-98, -134, -72)),
    Grid.cubic(0.5, (394, 466, 378), (-98, -134, -72)),
)
_MNI_2009C = (
    Grid.cubic(1, (193, 229, 193), (-96, -132, -78)),
    Grid.cubic(2, (97, 115, 97), (-96.5, -132.5, -78.5)),
)
_SPM8_BOX = (
    Grid.cubic(1, (157, 189, 136), (-78, -112, -50)),
    Grid.cubic(2, (79, 95, 68), (-78, -112, -50)),
)
_SPM12_BOX = (
    Grid.cubic(1, (157, 189, 156), (-78, -112, -70)),
    Grid.cubic(2, (79, 95, 79), (-78, -112, -70)),
    Grid.cubic(1.5, (121, 145, 121), (-90, -126, -72)),
)
_CH2 = (Grid.cubic(1, (181, 217, 181), (-90, -125, -71)),)

# The first grid of a voxel size is the canonical one; later ones are others in which software
# that belongs to the space writes it, so that they raise no suspicion.
_GRIDS: dict[str, tuple[Grid, ...]] = {
    "MNI152NLin6Asym": _FSL,
    "MNI152NLin6Sym": (Grid.cubic(1, (193, 229, 193), (-96, -132, -74)),),
    "MNI152NLin2009aAsym": _MNI_2009AB,
    "MNI152NLin2009aSym": _MNI_2009AB,
    "MNI152NLin2009bAsym": _MNI_2009AB,
    "MNI152NLin2009bSym": _MNI_2009AB,
    "MNI152NLin2009cAsym": _MNI_2009C,
    "MNI152NLin2009cSym": _MNI_2009C,
    "IXI549Space": _SPM12_BOX + _SPM8_BOX,
    "MNI152Lin": _MNI_LINEAR + _SPM8_BOX,
    "MNIColin27": _MNI_LINEAR + _CH2,
    "MNI305": (),
}

_ALIASES = {
    "fsl": "MNI152NLin6Asym",
    "spm12": "IXI549Space",
    "spm8": "MNI152Lin",
    "ch2": "MNIColin27",
    "colin27": "MNIColin27",
}

_STUDY_NAME = re.compile(r"[A-Za-z0-9]+")


def known_spaces() -> tuple[str, ...]:
    """Return the names of the template spaces that are known here."""
    return tuple(_GRIDS)


def resolve_space(name: str) -> str:
    """Return the one name of a space.

    Template spaces are found in any case and by their aliases (``ch2`` is ``MNIColin27``). Any
    other alphanumeric name is a study space of its own, and is returned as it is.

    Raises
    ------
    SpaceError
        If the name fits several template spaces, or is not alphanumeric.
    """
    if name in _GRIDS:
        return name
    folded = name.casefold()
    candidates = _candidates(folded)
    if candidates:
        raise SpaceError(
            f"{name!r} is not one space: it may be {', '.join(candidates)}. "
            "Name the template that the images were aligned to."
        )
    if not _STUDY_NAME.fullmatch(name):
        raise SpaceError(
            f"{name!r} is no name of a space: use letters and digits only, "
            "as in MNI152NLin6Asym or the name of a study's own template."
        )
    known = {space.casefold(): space for space in _GRIDS} | _ALIASES
    return known.get(folded, name)


def canonical_grid(space: str, voxel_size_mm: float) -> Grid | None:
    """Return the grid in which a template space is usually stored.

    Parameters
    ----------
    space
        A name that `resolve_space` accepts.
    voxel_size_mm
        Edge length of the cubic voxels, mm.

    Returns
    -------
    Grid or None
        With axes towards +x, +y, +z; none for a study space, or where no such grid is customary.
    """
    for grid in _GRIDS.get(resolve_space(space), ()):
        if grid.voxel_sizes_mm[0] == voxel_size_mm:
            return grid
    return None


def fitting_grid(space: str, voxel_size_mm: float) -> Grid | None:
    """Return the coarsest customary grid of a space whose voxels are no larger than some.

    Parameters
    ----------
    space
        A name that `resolve_space` accepts.
    voxel_size_mm
        Smallest edge of the voxels, mm; a hundredth more is no larger.

    Returns
    -------
    Grid or None
        None for a study space, or where all are coarser.
    """
    sizes = [grid.voxel_sizes_mm[0] for grid in _GRIDS.get(resolve_space(space), ())]
    fine = [size for size in sizes if size <= 1.01 * voxel_size_mm]
    return canonical_grid(space, max(fine)) if fine else None


def grid_names(grid: Grid) -> tuple[str, ...]:
    """Return the template spaces that are customarily stored on these voxels, however turned."""
    turned = grid.canonical
    return tuple(space for space, grids in _GRIDS.items() if any(map(turned.is_same, grids)))


def _candidates(folded: str) -> list[str]:
    """Return the template spaces that people may mean by a name that is too short for one."""
    short = folded.replace("icbm", "mni")
    # Without its letter 2009Asym reads like 2009aSym once case is ignored.
    if short in ("mni152nlin2009asym", "mni152nlin2009sym"):
        short = "mni152nlin2009"
    if not short.startswith("mni") or short in map(str.casefold, _GRIDS):
        return []
    found = [space for space in _GRIDS if space.casefold().startswith(short)]
    return found + ["IXI549Space"] * ("mni152".startswith(short))
