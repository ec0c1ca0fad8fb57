"""Parcellations: images whose whole numbers name regions."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import GridError
from lacuna.geometry.grid import Grid


@dataclass(frozen=True, eq=False)
class Parcellation:
    """Regions of a brain, each with a number and a name of its own.

    Parameters
    ----------
    name
        Of the parcellation, letters and digits only: the value of ``seg`` in file names.
    labels : (i, j, k)
        Number of the region of each voxel, as stored; 0 is none.
    grid
        Where the voxels are.
    numbers : (n,)
        Numbers in the image, ascending; they need not follow each other.
    names : (n,)
        Their names, all different.
    notes
        What is odd about image or names, one sentence each.

    Raises
    ------
    GridError
        If the labels do not fit the grid.
    """

    name: str
    labels: NDArray[np.int32]
    grid: Grid
    numbers: NDArray[np.int32]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.labels.shape != self.grid.shape:
            raise GridError(
                f"Labels of shape {self.labels.shape} do not fit a grid of {self.grid.shape}."
            )

    @property
    def n_parcels(self) -> int:
        """Regions that have voxels."""
        return len(self.numbers)

    @cached_property
    def canonical(self) -> NDArray[np.int32]:
        """Labels with axes towards +x, +y, +z, in C order."""
        return np.ascontiguousarray(self.grid.orientation.to_canonical(self.labels))

    @cached_property
    def indices(self) -> NDArray[np.int32]:
        """Index into `numbers` of each voxel of `canonical`, −1 where there is no region."""
        # A table instead of a search per voxel, unless numbers are so high that it would be large.
        if self.numbers[-1] > self.labels.size:
            found = np.searchsorted(self.numbers, self.canonical).astype(np.int32)
        else:
            table = np.zeros(int(self.numbers[-1]) + 1, np.int32)
            table[self.numbers] = np.arange(self.n_parcels)
            found = table[self.canonical]
        found[self.canonical == 0] = -1
        return found

    @cached_property
    def n_voxels(self) -> NDArray[np.int64]:
        """Voxels of each region, (n,)."""
        return np.bincount(self.indices[self.indices >= 0], minlength=self.n_parcels)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of labels, place and names: the same for LAS, RAS and LIA copies."""
        grid = self.grid.canonical
        said = repr((grid.shape, np.round(grid.affine, 4).tolist(), self.names))
        digest = hashlib.blake2b(said.encode(), digest_size=16)
        digest.update(self.canonical.astype("<i4").tobytes())
        return digest.hexdigest()
