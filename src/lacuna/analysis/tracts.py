"""Tract disconnection: what share of each tract's streamlines a lesion cuts.

As in the Lesion Quantification Toolkit (doi:10.1016/j.nicl.2021.102639).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import OptionError
from lacuna.geometry.grid import BoolArray, Grid, IntArray
from lacuna.tractogram.query import Index, LesionBox


@dataclass(frozen=True, eq=False)
class TractDisconnection:
    """What a lesion cuts of each tract.

    Parameters
    ----------
    names
        Of the tracts.
    n_streamlines, n_cut : (n_tracts,)
        Streamlines of each, and those of them that are cut.
    weights, cut_weights : (n_tracts,)
        Their summed weights; the numbers themselves without weights.
    """

    names: tuple[str, ...]
    n_streamlines: NDArray[np.int64]
    n_cut: NDArray[np.int64]
    weights: NDArray[np.float64]
    cut_weights: NDArray[np.float64]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of each tract's streamlines that are cut, (n_tracts,); not-a-number without any."""
        return _ratio(self.n_cut, self.n_streamlines)

    @property
    def weighted_shares(self) -> NDArray[np.float64]:
        """Share of each tract's weight that is cut, (n_tracts,); not-a-number where it is 0."""
        return _ratio(self.cut_weights, self.weights)


def disconnect_tracts(
    tracts: Mapping[str, IntArray],
    cut_ids: IntArray,
    n_streamlines: int,
    weights: NDArray[np.float64] | None = None,
) -> TractDisconnection:
    """Return what a cut takes of tracts that are parts of one tractogram.

    Parameters
    ----------
    tracts
        Numbers of each tract's streamlines, each once; a streamline may be in several, or in none.
    cut_ids : (n_cut,)
        Numbers of the streamlines that are cut.
    n_streamlines
        Streamlines of the tractogram.
    weights : (n_streamlines,), optional
        Of the streamlines.

    Raises
    ------
    OptionError
        If a tract has a streamline that the tractogram has not.
    """
    is_cut = np.zeros(n_streamlines, bool)
    is_cut[cut_ids] = True
    counts, sums = np.zeros((2, len(tracts)), np.int64), np.zeros((2, len(tracts)))
    for i, (name, members) in enumerate(tracts.items()):
        if len(members) and not 0 <= int(members.min()) <= int(members.max()) < n_streamlines:
            raise OptionError(
                f"Tract {name} has streamlines {members.min()} to {members.max()}, but the "
                f"tractogram holds {n_streamlines}: the table belongs to another file."
            )
        is_lost = is_cut[members]
        counts[:, i] = len(members), np.count_nonzero(is_lost)
        if weights is not None:
            # Zeros instead of fewer terms: added up alike, no part comes out larger than the whole.
            each = weights[members]
            sums[:, i] = each.sum(), np.where(is_lost, each, 0).sum()
    if weights is None:
        sums = counts.astype(np.float64)
    return TractDisconnection(tuple(tracts), *counts, *sums)


def disconnect_tract_files(
    indexes: Mapping[str, Index],
    mask: BoolArray,
    grid: Grid,
    weights: Mapping[str, NDArray[np.float64]] | None = None,
) -> TractDisconnection:
    """Return what a lesion cuts of tracts that are tractograms of their own.

    Parameters
    ----------
    indexes
        Of each tract, under one mapping rule and in the lesion's space.
    mask : grid.shape
        Lesioned voxels, as stored.
    grid
        Where they are.
    weights
        Of each tract's streamlines, by number in its file.

    Raises
    ------
    LesionError
        If no voxel is lesioned, or the mask does not fit the grid.
    """
    lesion = LesionBox.of(mask, grid)
    counts, sums = np.zeros((2, len(indexes)), np.int64), np.zeros((2, len(indexes)))
    for i, (name, index) in enumerate(indexes.items()):
        ranks = index.cut(lesion)
        counts[:, i] = index.n_streamlines, len(ranks)
        if weights is not None:
            cut_ids, lost = index.parts.order[ranks], np.zeros(index.n_streamlines)
            lost[cut_ids] = weights[name][cut_ids]
            sums[:, i] = weights[name].sum(), lost.sum()
    if weights is None:
        sums = counts.astype(np.float64)
    return TractDisconnection(tuple(indexes), *counts, *sums)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
