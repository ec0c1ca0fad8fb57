"""Handing what is open to other processes: arrays of mapped files as where they lie.

A worker that gets an array in a pickle has a copy of its own. So arrays that are views of mapped
files are handed over as file, offset and shape; large ones in memory are written to a file once,
and all workers map that. The pages are shared, however many workers there are.
"""

import io
import mmap
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SMALL_BYTES = 1 << 16
"""Arrays in memory of up to so many bytes are copied: a file each would cost more."""


class Place(NamedTuple):
    """Where in a file the first element of an array lies.

    Parameters
    ----------
    path
        The file.
    offset
        In bytes.
    writable
        Whether the process that maps it may change its own view: pages that it changes are its own.
    """

    path: str
    offset: int
    writable: bool


def hand_over(value: Any, directory: Path) -> bytes:
    """Return a pickle of something, without the arrays that other processes can map.

    Parameters
    ----------
    value
        Whatever pickles.
    directory
        Where large arrays in memory are written; must live as long as the workers.
    """
    stream = io.BytesIO()
    _Pickler(stream, directory).dump(value)
    return stream.getvalue()


def take_over(handed: bytes) -> Any:
    """Return what `hand_over` was given, by our own parent process."""
    return ForkingPickler.loads(handed)


class _Pickler(ForkingPickler):
    def __init__(self, stream: io.BytesIO, directory: Path) -> None:
        super().__init__(stream, 5)
        self._directory = directory
        self._n_written = 0

    def reducer_override(self, value: Any) -> Any:
        # Others, such as masked ones, are more than their numbers.
        is_plain = type(value) in (np.ndarray, np.memmap)
        if not is_plain or value.dtype.hasobject or not value.size:
            return NotImplemented
        place = find_place(value)
        if place is None:
            if value.nbytes <= SMALL_BYTES:
                return NotImplemented
            # The order in memory is kept: sums of floats depend on it.
            value = np.copy(value, order="K")
            place = self._write(value)
        return _map, (place, value.dtype, value.shape, value.strides)

    def _write(self, array: NDArray[Any]) -> Place:
        self._n_written += 1
        path = self._directory / f"{self._n_written}.bin"
        array.ravel(order="K").tofile(path)
        return Place(str(path), 0, writable=True)


def find_place(array: NDArray[Any]) -> Place | None:
    """Return where in a mapped file an array lies; none if it can be changed, or is in memory."""
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    is_mapped = isinstance(root, np.memmap) and isinstance(root.base, mmap.mmap)
    if array.flags.writeable or not is_mapped or root.filename is None:
        return None
    first, start = (each.__array_interface__["data"][0] for each in (array, root))
    return Place(str(Path(root.filename).absolute()), root.offset + first - start, writable=False)


def _map(
    place: Place, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...]
) -> NDArray[Any]:
    mapped = np.memmap(place.path, np.uint8, mode="c" if place.writable else "r")
    return np.ndarray(shape, dtype, mapped, place.offset, strides)
