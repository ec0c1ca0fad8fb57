"""Which voxels a map is written on: those of an image, or of a voxel size in a space."""

from collections.abc import Callable
from pathlib import Path

from lacuna.errors import OptionError
from lacuna.formats.nifti import load_image
from lacuna.geometry.grid import FloatArray, Grid
from lacuna.geometry.space import canonical_grid

LIMITS_MM = (0.2, 10.0)
"""Voxel sizes that a number may ask for."""


def choose_grid(
    reference: str | Path, space: str, find_box: Callable[[], tuple[FloatArray, FloatArray]]
) -> Grid:
    """Return a report grid.

    Parameters
    ----------
    reference
        An image whose grid is taken, or a voxel size in mm, such as ``"2"``.
    space
        Space of the tractogram; its customary grid of that voxel size is taken if there is one.
    find_box
        Returns the corners of the tractogram's box, mm RAS+; asked only if there is none.

    Raises
    ------
    OptionError
        If it is neither an image nor a voxel size that can be used.
    """
    try:
        size_mm = float(str(reference))
    except ValueError:
        if not Path(reference).is_file():
            raise OptionError(
                f"--grid {reference} is neither a file nor a voxel size: give a NIfTI image whose "
                "grid is to be used, or 1 or 2 (mm)."
            ) from None
        return load_image(reference).grid
    if not LIMITS_MM[0] <= size_mm <= LIMITS_MM[1]:
        raise OptionError(
            f"--grid {reference}: voxels of {size_mm:g} mm are not sensible; use "
            f"{LIMITS_MM[0]:g} to {LIMITS_MM[1]:g} mm."
        )
    known = canonical_grid(space, size_mm)
    return known if known is not None else Grid.over_box(*find_box(), size_mm)
