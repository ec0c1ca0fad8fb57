"""Disconnection between parcels: what a lesion takes from regions and from pairs of them.

Of the streamlines S of a tractogram a lesion cuts C. A and D count those of S and of C between two
parcels, or sum their weights. Parcel disconnection, disconnectome and indirect disconnection are
those of the Lesion Quantification Toolkit (doi:10.1016/j.nicl.2021.102639); the pooled change in
connectivity is NeMo's ChaCo (doi:10.1089/brain.2013.0147) on one tractogram instead of many.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lacuna.geometry.grid import FloatArray, IntArray
from lacuna.tractogram._kernels.graph import UNREACHABLE, count_steps
from lacuna.tractogram.ends import UNASSIGNED
from lacuna.tractogram.query import check_weights

LEAST_SPARED = 0.5
"""An edge of which less is spared carries no path any more."""

_ROUNDING = 1e-9
"""More than rounding can move a sum of weights: six weights of 0.1 less three are half of them."""


@dataclass(frozen=True, eq=False)
class Connectome:
    """How many streamlines of a tractogram join each pair of parcels.

    Parameters
    ----------
    ends : (n_streamlines, 2)
        Parcel at each end, by number of the streamline in the file; −1 for none.
    matrix : (n_parcels, n_parcels)
        A: streamlines between two parcels, symmetric; within a parcel on the diagonal. Integers,
        or sums of weights.
    half_joined : (n_parcels,)
        Those with one end in the parcel and the other in none.
    weights : (n_streamlines,), optional
        Weight of each streamline.
    """

    ends: IntArray
    matrix: NDArray[np.int64] | NDArray[np.float64]
    half_joined: NDArray[np.int64] | NDArray[np.float64]
    weights: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls, ends: IntArray, n_parcels: int, weights: NDArray[np.float64] | None = None
    ) -> "Connectome":
        """Count, or sum, the streamlines between all pairs.

        Raises
        ------
        OptionError
            If there is not one weight for each streamline, or one is negative or not finite.
        """
        weights = None if weights is None else check_weights(weights, len(ends))
        matrix, half_joined = _sum_pairs(ends, n_parcels, weights)
        return cls(ends, matrix, half_joined, weights)

    @property
    def n_parcels(self) -> int:
        """Parcels."""
        return len(self.matrix)

    @cached_property
    def unassigned_share(self) -> float:
        """Share of all ends that are near no parcel; 0 without streamlines."""
        return share_unassigned(self.ends)

    def edges(self, min_edge: float = 0) -> NDArray[np.bool_]:
        """Return which pairs are joined by a streamline, and by `min_edge` of them at least."""
        edges = (self.matrix > 0) & (self.matrix >= min_edge * (1 - _ROUNDING))
        np.fill_diagonal(edges, val=False)
        return edges

    @cached_property
    def _steps(self) -> dict[float, NDArray[np.int32]]:
        return {}

    def steps(self, min_edge: float = 0) -> NDArray[np.int32]:
        """Return the fewest edges between all parcels; −1 where there is no way."""
        if min_edge not in self._steps:
            self._steps[min_edge] = _steps_on(self.edges(min_edge))
        return self._steps[min_edge]


@dataclass(frozen=True, eq=False)
class IndirectDisconnection:
    """Which ways between parcels become longer.

    Parameters
    ----------
    delta : (n_parcels, n_parcels)
        Edges more on the shortest path. Where there is no way its length is one more than the
        longest path with or without the lesion.
    indirect : (n_parcels, n_parcels)
        Pairs with a longer way of which no streamline is cut.
    longest
        Edges of that longest path.
    density
        Share of all pairs that are joined without the lesion: near 1, none is cut indirectly.
    """

    delta: NDArray[np.int32]
    indirect: NDArray[np.bool_]
    longest: int
    density: float

    @property
    def n_pairs(self) -> int:
        """Pairs with a longer way of which no streamline is cut."""
        return int(self.indirect.sum()) // 2


@dataclass(frozen=True, eq=False)
class ParcelDisconnection:
    """What one lesion takes from parcels and pairs; not-a-number where there was nothing.

    Parameters
    ----------
    connectome
        Of all streamlines.
    cut : (n_parcels, n_parcels)
        D: as ``connectome.matrix``, of the streamlines cut.
    cut_half_joined : (n_parcels,)
        As ``connectome.half_joined``, of the streamlines cut.
    cut_unassigned_share
        Share of their ends that are near no parcel; none if none is cut.
    min_edge
        Streamlines, or weight, that an edge of the graph needs.
    """

    connectome: Connectome
    cut: NDArray[np.int64] | NDArray[np.float64]
    cut_half_joined: NDArray[np.int64] | NDArray[np.float64]
    cut_unassigned_share: float | None = None
    min_edge: float = 0

    @cached_property
    def fraction(self) -> FloatArray:
        """Disconnectome: D_ij / A_ij, (n_parcels, n_parcels)."""
        return _ratio(self.cut, self.connectome.matrix)

    @cached_property
    def spared(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """What is left, A − D, (n_parcels, n_parcels)."""
        return self.connectome.matrix - self.cut

    @cached_property
    def joined(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """Streamlines from each parcel to any other, (n_parcels,)."""
        return _others(self.connectome.matrix)

    @cached_property
    def cut_joined(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """Those of them that are cut, (n_parcels,)."""
        return _others(self.cut)

    @property
    def parcels(self) -> FloatArray:
        """Parcel disconnection: the share of `joined` that is cut, (n_parcels,)."""
        return _ratio(self.cut_joined, self.joined)

    @property
    def touching(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """Streamlines with one end in each parcel, and not the other in it, too, (n_parcels,)."""
        return self.joined + self.connectome.half_joined

    @property
    def cut_touching(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """Those of them that are cut, (n_parcels,)."""
        return self.cut_joined + self.cut_half_joined

    @property
    def chaco(self) -> FloatArray:
        """Pooled change in connectivity: the share of `touching` that is cut, (n_parcels,)."""
        return _ratio(self.cut_touching, self.touching)

    @cached_property
    def chaco_pairs(self) -> FloatArray:
        """The same of the streamlines between two parcels, (n_parcels, n_parcels)."""
        pairs = self.fraction.copy()
        np.fill_diagonal(pairs, np.nan)
        return pairs

    @cached_property
    def indirect(self) -> IndirectDisconnection:
        """Which ways become longer when edges of which less than half is spared are gone."""
        edges = self.connectome.edges(self.min_edge)
        least = LEAST_SPARED * (1 - _ROUNDING)
        left = edges & (self.spared >= least * self.connectome.matrix)
        before, after = self.connectome.steps(self.min_edge), _steps_on(left)
        longest = max(int(before.max(initial=0)), int(after.max(initial=0)))
        before, after = (np.where(n == UNREACHABLE, longest + 1, n) for n in (before, after))
        delta = after - before
        n_pairs = max(1, len(edges) * (len(edges) - 1))
        return IndirectDisconnection(
            delta, (delta > 0) & ~(self.cut > 0), longest, float(edges.sum()) / n_pairs
        )


def disconnect_parcels(
    connectome: Connectome, cut_ids: IntArray, *, min_edge: float = 0
) -> ParcelDisconnection:
    """Return what the loss of some streamlines takes from parcels and pairs.

    Parameters
    ----------
    connectome
        Of all streamlines.
    cut_ids : (n_cut,)
        Numbers in the file of those that are lost, ascending: weights are summed in this order.
    min_edge
        Streamlines, or weight, that an edge of the graph needs; any, by default.
    """
    ends = connectome.ends[cut_ids]
    weights = None if connectome.weights is None else connectome.weights[cut_ids]
    cut, half_joined = _sum_pairs(ends, connectome.n_parcels, weights)
    share = share_unassigned(ends) if len(ends) else None
    return ParcelDisconnection(connectome, cut, half_joined, share, min_edge)


def share_unassigned(ends: IntArray) -> float:
    """Return the share of ends, (n, 2), that are near no parcel; 0 if there are none."""
    return float((ends == UNASSIGNED).mean()) if len(ends) else 0.0


def _sum_pairs(
    ends: IntArray, n_parcels: int, weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the streamlines of each pair, and those of which one end is near no parcel."""
    low, high = np.sort(ends, axis=1).T.astype(np.int64)
    both, one = low >= 0, (low < 0) & (high >= 0)
    # One after the other in double precision: the same bits, whatever runs beside it.
    codes = low[both] * n_parcels + high[both]
    upper = np.bincount(codes, None if weights is None else weights[both], n_parcels**2)
    half = np.bincount(high[one], None if weights is None else weights[one], n_parcels)
    upper = upper.reshape(n_parcels, n_parcels)
    return upper + np.triu(upper, 1).T, half


def _others(matrix: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the sum of each row without the diagonal."""
    off_diagonal = matrix.copy()
    np.fill_diagonal(off_diagonal, 0)
    sums: NDArray[np.int64] = off_diagonal.sum(axis=1)
    return sums


def _ratio(part: FloatArray | IntArray, whole: FloatArray | IntArray) -> FloatArray:
    found = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def _steps_on(edges: NDArray[np.bool_]) -> NDArray[np.int32]:
    steps = np.empty(edges.shape, np.int32)
    count_steps(np.ascontiguousarray(edges), steps)
    return steps
