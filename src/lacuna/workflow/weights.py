"""Weights of streamlines: numbers of a text file, lengths, or what a tractogram keeps with each."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import OptionError
from lacuna.formats import TractogramFile, list_per_streamline
from lacuna.geometry.grid import FloatArray
from lacuna.tractogram.index import Parts
from lacuna.tractogram.query import check_weights

LENGTH = "length"


@dataclass(frozen=True, eq=False)
class Weights:
    """What is summed instead of counting streamlines.

    Parameters
    ----------
    said
        Path of a file, `LENGTH`, or a name in the tractogram.
    values : (n_streamlines,), optional
        Numbers of the file.
    """

    said: str
    values: FloatArray | None = None

    @property
    def path(self) -> Path | None:
        """The file, if they come from one of their own."""
        return None if self.values is None else Path(self.said)

    def of(self, file: TractogramFile, parts: Parts) -> NDArray[np.float64]:
        """Return the weight of each streamline of a tractogram, by number in the file.

        Raises
        ------
        OptionError
            If it has none of that name, or several numbers per streamline, or one of them is
            negative or not finite, or there are more or fewer numbers than streamlines.
        """
        found = self.values
        if found is None and self.said == LENGTH:
            found = parts.lengths_mm
        if found is None:
            if self.said not in file.per_streamline:
                raise _unknown(self.said, file.path, file.per_streamline)
            found = file.per_streamline[self.said]
        if found.ndim > 1:
            raise OptionError(
                f"--weights {self.said}: {file.path.name} keeps {found.shape[1]} numbers of that "
                "name with each streamline, and a weight is one. Write it to a file of its own."
            )
        return self.check(found, len(parts.order), f" for {file.path.name}")

    def check(self, found: FloatArray, n_streamlines: int, of: str = "") -> NDArray[np.float64]:
        """Return numbers as `check_weights` does; an error says whose they are."""
        try:
            return check_weights(found, n_streamlines)
        except OptionError as error:
            raise OptionError(f"--weights {self.said}{of}: {error}") from error


def find_weights(said: str | os.PathLike[str], tractogram: Path) -> Weights:
    """Find out which weights are meant: a file comes before a name in the tractogram.

    Parameters
    ----------
    said
        Path of a text file with a number per streamline, ``length``, or what the tractogram calls
        its numbers.
    tractogram
        To see, before it is indexed, whether it has any of that name.

    Raises
    ------
    OptionError
        If there are none, or the file cannot be read as numbers that are weights.
    """
    said = os.fspath(said)
    if said == LENGTH:
        return Weights(said)
    if Path(said).is_file():
        weights = Weights(said, numbers := _read_numbers(Path(said)))
        # Before hours may go into an index.
        if not weights.check(numbers, numbers.size).any():
            raise OptionError(f"--weights {said}: all weights are 0, and disconnect nothing.")
        return weights
    names = list_per_streamline(tractogram)
    if names is not None and said not in names:
        raise _unknown(said, tractogram, names)
    return Weights(said)


def _read_numbers(path: Path) -> FloatArray:
    try:
        table = np.loadtxt(path, comments="#", ndmin=2)
        if min(table.shape) > 1:
            raise ValueError(f"it has {table.shape[0]} lines of {table.shape[1]} numbers")
    except (OSError, ValueError) as error:
        raise OptionError(
            f"--weights {path} cannot be read as numbers ({error}): one per streamline is needed, "
            "as SIFT2 writes them."
        ) from error
    return table.ravel()


def _unknown(said: str, tractogram: Path, names: Iterable[str]) -> OptionError:
    has = ", ".join(names)
    return OptionError(
        f"--weights {said} is no file, and {tractogram.name} keeps "
        f"{f'only {has}' if has else 'nothing'} with each streamline. Give a text file with a "
        f"number per streamline, {'one of these names, ' if has else ''}or {LENGTH}."
    )
