"""Streamlines as they lie in memory or in a mapped file, read without copying the whole.

Every tractogram format keeps its points as triplets of numbers in one long array, with other
things between them: delimiters, record headers, values per point. This class describes that once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lacuna.geometry.grid import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Streamlines:
    """Polylines in mm RAS+, with random access to each.

    Parameters
    ----------
    words : (n_words,)
        Numbers as stored: any float type and byte order, usually a mapped file.
    firsts : (n,), int64
        Index in `words` of the x of each streamline's first point.
    counts : (n,), int64
        Points of each streamline; 0 and 1 occur.
    stride
        Words from one point of a streamline to the next.
    world_from_stored : (4, 4), optional
        Takes stored coordinates to mm RAS+; none if they are that already.
    """

    words: NDArray[np.floating]
    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]
    stride: int = 3
    world_from_stored: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.firsts)

    @property
    def n_points(self) -> int:
        """Points of all streamlines."""
        return int(self.counts.sum())

    def gather(self, ids: IntArray) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the points of some streamlines.

        Parameters
        ----------
        ids : (k,)
            Streamlines, in any order.

        Returns
        -------
        points : (m, 3)
            Their points one after the other, mm RAS+.
        offsets : (k + 1,)
            Points of the i-th are ``points[offsets[i]:offsets[i + 1]]``.
        """
        counts = self.counts[ids]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        starts = np.repeat(self.firsts[ids] - offsets[:-1] * self.stride, counts)
        at = starts + np.arange(offsets[-1], dtype=np.int64) * self.stride
        points = np.empty((len(at), 3), np.float32)
        for axis in range(3):
            points[:, axis] = self.words[at + axis]
        return self._to_world(points), offsets

    def _to_world(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.world_from_stored is None:
            return points
        world = self.world_from_stored
        x, y, z = points.T.astype(np.float64)
        # Written out: the kernels sum in this order, and a matrix product may not.
        moved = [
            world[i, 0] * x + world[i, 1] * y + world[i, 2] * z + world[i, 3] for i in (0, 1, 2)
        ]
        return np.stack(moved, axis=1).astype(np.float32)
