"""Maps of the probability that a voxel belongs to each of many tracts."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lacuna.geometry.grid import Grid


@dataclass(frozen=True, eq=False)
class TractAtlas:
    """Probabilities of tracts, which may overlap; only voxels above 0 are held.

    Parameters
    ----------
    name
        For file names: letters and digits.
    grid
        Where the voxels are; its axes point towards +x, +y, +z.
    names
        Of the tracts.
    offsets : (n_tracts + 1,)
        Tract i has ``voxels[offsets[i]:offsets[i + 1]]``.
    voxels : (n,)
        Numbers of voxels in the grid, in C order, ascending for each tract.
    values : (n,)
        Probabilities above 0, up to 1.
    """

    name: str
    grid: Grid
    names: tuple[str, ...]
    offsets: NDArray[np.int64]
    voxels: NDArray[np.int32]
    values: NDArray[np.float32]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of values, place and names: the same for LAS, RAS and LIA copies."""
        said = repr((self.grid.shape, np.round(self.grid.affine, 4).tolist(), self.names))
        digest = hashlib.blake2b(said.encode(), digest_size=16)
        for array in (self.offsets, self.voxels, self.values):
            digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()
