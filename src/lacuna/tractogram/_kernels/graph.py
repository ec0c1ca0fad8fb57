"""Paths through a graph of parcels."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

UNREACHABLE = -1


@njit(nogil=True)
def count_steps(edges: NDArray[np.bool_], steps: NDArray[np.int32]) -> None:
    """Find the fewest edges from every node to every other, breadth first.

    Parameters
    ----------
    edges : (n, n)
        Whether two nodes are joined; symmetric.
    steps : (n, n)
        Gets the numbers; `UNREACHABLE` where there is no way.
    """
    n = len(edges)
    queue = np.empty(n, np.int64)
    steps[:] = UNREACHABLE
    for source in range(n):
        reached = steps[source]
        reached[source] = 0
        queue[0] = source
        first, last = 0, 1
        while first < last < n:
            node = queue[first]
            first += 1
            for other in range(n):
                if edges[node, other] and reached[other] == UNREACHABLE:
                    reached[other] = reached[node] + 1
                    queue[last] = other
                    last += 1
