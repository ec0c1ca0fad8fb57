"""Direct damage: what share of a parcel's or a tract's volume a lesion takes; no tractogram.

Voxels of lesion and atlas may differ: shares are exact overlaps of their boxes, as the Lesion
Quantification Toolkit counts voxels where both are one grid (doi:10.1016/j.nicl.2021.102639).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lacuna.geometry.grid import BoolArray, Grid
from lacuna.geometry.overlap import Box, covered_shares
from lacuna.geometry.parcellation import Parcellation
from lacuna.geometry.tract_atlas import TractAtlas
from lacuna.tractogram.query import LesionBox

INSIDE = 0.5
"""A voxel whose probability is above it counts as one of the tract."""


@dataclass(frozen=True, eq=False)
class ParcelDamage:
    """What a lesion takes of each parcel.

    Parameters
    ----------
    parcellation
        The parcels.
    lesioned_mm3, volume_mm3 : (n_parcels,)
        Lesioned volume and whole volume of each.
    """

    parcellation: Parcellation
    lesioned_mm3: NDArray[np.float64]
    volume_mm3: NDArray[np.float64]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Lesioned share of each parcel's volume, (n_parcels,)."""
        return self.lesioned_mm3 / self.volume_mm3


@dataclass(frozen=True, eq=False)
class TractOverlap:
    """Where a lesion meets maps of the probability of tracts.

    Parameters
    ----------
    names
        Of the tracts.
    maxima : (n_tracts,)
        Highest probability of any voxel that the lesion covers in part or wholly; 0 where none.
    lesioned_mm3, volume_mm3 : (n_tracts,)
        Of the voxels with a probability above 0.5: lesioned volume and whole volume.
    """

    names: tuple[str, ...]
    maxima: NDArray[np.float64]
    lesioned_mm3: NDArray[np.float64]
    volume_mm3: NDArray[np.float64]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Lesioned share of the volume above 0.5, (n_tracts,); not-a-number where there is none."""
        shares = np.full(len(self.names), np.nan)
        np.divide(self.lesioned_mm3, self.volume_mm3, out=shares, where=self.volume_mm3 > 0)
        return shares


def parcel_damage(mask: BoolArray, grid: Grid, parcellation: Parcellation) -> ParcelDamage:
    """Return what a lesion takes of each parcel.

    Parameters
    ----------
    mask : grid.shape
        Lesioned voxels, as stored.
    grid
        Where they are; any grid.
    parcellation
        In the lesion's space.

    Raises
    ------
    LesionError
        If no voxel is lesioned, or the mask does not fit its grid.
    """
    box, shares = lesioned_shares(mask, grid, parcellation.grid)
    # In world order: stored LAS, RAS or LIA, an atlas gives the same sums to the last bit.
    indices, volume = parcellation.indices[box], parcellation.grid.voxel_volume_mm3
    is_parcel = indices >= 0
    covered = np.bincount(indices[is_parcel], shares[is_parcel], parcellation.n_parcels)
    sizes = np.stack([covered, parcellation.n_voxels]) * volume
    return ParcelDamage(parcellation, *sizes)


def tract_overlap(mask: BoolArray, grid: Grid, atlas: TractAtlas) -> TractOverlap:
    """Return where a lesion meets the tracts of an atlas of probabilities.

    Parameters
    ----------
    mask, grid
        As in `parcel_damage`.
    atlas
        In the lesion's space.

    Raises
    ------
    LesionError
        As `parcel_damage`.
    """
    box, shares = lesioned_shares(mask, grid, atlas.grid)
    everywhere = np.zeros(atlas.grid.shape)
    everywhere[box] = shares
    at_voxels = everywhere.reshape(-1)[atlas.voxels]
    found = np.zeros((3, len(atlas.names)))
    for i, (start, stop) in enumerate(zip(atlas.offsets[:-1], atlas.offsets[1:], strict=True)):
        values, lesioned = atlas.values[start:stop], at_voxels[start:stop]
        is_inside = values > INSIDE
        # Kept in single precision, of which six decimals mean something.
        found[0, i] = np.round(np.float64(values[lesioned > 0].max(initial=0)), 6)
        found[1:, i] = lesioned[is_inside].sum(), np.count_nonzero(is_inside)
    found[1:] *= atlas.grid.voxel_volume_mm3
    return TractOverlap(atlas.names, *found)


def lesioned_shares(mask: BoolArray, grid: Grid, target: Grid) -> tuple[Box, NDArray[np.float64]]:
    """Return `covered_shares` of a lesion, for which only its own box is looked at.

    Raises
    ------
    LesionError
        As `parcel_damage`.
    """
    lesion = LesionBox.of(mask, grid)
    affine = grid.canonical.affine.copy()
    affine[:3, 3] = grid.canonical.to_world(lesion.low)
    cropped = Grid(lesion.mask.shape, affine)
    return covered_shares(lesion.mask > 0, cropped, target)
