"""Tracts of a tractogram: named in it, by a table of ranges, or each a file of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.analysis.structural import Disconnection
from lacuna.analysis.tracts import disconnect_tract_files, disconnect_tracts
from lacuna.bids.derivatives import LesionOutputs, write_table
from lacuna.bids.names import file_stem
from lacuna.errors import DatasetError, FormatError, SpaceError
from lacuna.formats import is_tractogram
from lacuna.formats.tracts import load_tract_ranges
from lacuna.geometry.grid import IntArray
from lacuna.geometry.space import StatedSpace
from lacuna.store import Store
from lacuna.workflow.lesion import Lesion, tractogram_space
from lacuna.workflow.products import OpenedIndex, Progress, open_index
from lacuna.workflow.record import RunRecord, words
from lacuna.workflow.weights import Weights


@dataclass(frozen=True, eq=False)
class Tracts:
    """Tracts that lesions are asked about.

    Parameters
    ----------
    members
        Streamline numbers of each tract of the tractogram itself.
    files
        Tracts that are tractograms of their own; then there are no others.
    weights
        Of the streamlines of each tract file, by number in it; none if they have none.
    """

    members: Mapping[str, IntArray] = field(default_factory=dict)
    files: Mapping[str, OpenedIndex] = field(default_factory=dict)
    weights: Mapping[str, NDArray[np.float64]] | None = None

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.members) + len(self.files)


def open_tracts(
    store: Store,
    opened: OpenedIndex,
    record: RunRecord,
    source: Path | None = None,
    *,
    weights: Weights | None = None,
    progress: Progress | None = None,
) -> Tracts | None:
    """Find out which tracts there are.

    Parameters
    ----------
    store
        Where the indexes of tract files are kept.
    opened
        The tractogram.
    record
        Of the run: tract files are cut under its rule, and must be in its space.
    source
        Table of ranges, or folder of tract files; by default what the tractogram itself names.
    weights
        Of the tractogram; tract files have weights, too, unless these are of a text file.
    progress
        As in `open_index`.

    Returns
    -------
    Tracts or None
        None if nothing names any.

    Raises
    ------
    DatasetError
        If the folder has no tractogram, or two of one name.
    FormatError, OptionError
        If the table, or a tract file, cannot be used with the tractogram.
    SpaceError
        If a tract file states another space.
    """
    if source is not None and source.is_dir():
        files = _open_files(store, record, source, progress)
        if weights is None or weights.path is not None:
            return Tracts(files=files)
        weighed = {name: weights.of(one.file, one.index.parts) for name, one in files.items()}
        return Tracts(files=files, weights=weighed)
    n = opened.n_streamlines
    members = opened.file.groups if source is None else load_tract_ranges(source, n)
    # Twice in a group is still one streamline; and groups beyond the file fail before work starts.
    members = {name: np.unique(ids) for name, ids in members.items()}
    disconnect_tracts(members, np.array([], np.int64), n)
    return Tracts(members) if members else None


def fingerprint_tracts(store: Store, source: Path) -> dict[str, str]:
    """Return the content of a table of ranges, or of each tract file of a folder, by name.

    Raises
    ------
    DatasetError, FormatError
        If there is no such table, or no tractogram in the folder.
    """
    if not source.exists():
        raise FormatError(f"There is no table or folder of tracts {source}. Check the path.")
    paths = _tract_files(source) if source.is_dir() else [source]
    return {path.name: store.fingerprint(path) for path in paths}


def write_tracts(
    outputs: LesionOutputs, lesion: Lesion, result: Disconnection, tracts: Tracts
) -> None:
    """Write the table of what a lesion cuts of each tract."""
    weights = result.weighting.weights if result.weighting else None
    if tracts.files:
        indexes = {name: opened.index for name, opened in tracts.files.items()}
        found = disconnect_tract_files(indexes, lesion.mask, lesion.grid, tracts.weights)
    else:
        found = disconnect_tracts(tracts.members, result.cut_ids, result.n_streamlines, weights)
    # A text file of weights is about the streamlines of the tractogram, not of tract files.
    is_weighed = weights is None or not tracts.files or tracts.weights is not None
    unknown = [None] * len(found.names)
    columns: dict[str, Any] = {
        "name": found.names,
        "n_streamlines": found.n_streamlines,
        "n_cut": found.n_cut,
        "disconnection": found.shares,
        "weight_total": found.weights if is_weighed else unknown,
        "weight_cut": found.cut_weights if is_weighed else unknown,
        "weighted_disconnection": found.weighted_shares if is_weighed else unknown,
    }
    write_table(outputs.path("tracts", "stats", ".tsv"), columns, words()["tables"]["tracts"])


def _open_files(
    store: Store, record: RunRecord, folder: Path, progress: Progress | None
) -> dict[str, OpenedIndex]:
    found: dict[str, OpenedIndex] = {}
    for path in _tract_files(folder):
        name = file_stem(path)
        if name in found:
            raise DatasetError(f"{folder} has two tracts called {name}: rename or remove one.")
        # What moves the tractogram moves its tracts.
        wanted = (
            record.space
            if record.warp is None
            else StatedSpace(record.warp.points_from, record.warp.path.name)
        )
        space = tractogram_space(path, default_space=wanted)
        if space is not None and space.name != wanted.name:
            raise SpaceError(
                f"{path.name} is in {space.name} ({space.source}), the tractogram in "
                f"{wanted.name} ({wanted.source}): give tracts of that space."
            )
        found[name] = open_index(
            store,
            path,
            grid=record.grid,
            rule=record.rule,
            upsample=record.upsample,
            warp=record.warp,
            threads=record.threads,
            progress=progress,
        )
    return found


def _tract_files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if is_tractogram(path))
    if not found:
        raise DatasetError(f"{folder} holds no .tck, .trk or .trx file, one for each tract.")
    return found
