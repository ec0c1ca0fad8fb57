"""Tracts of a tractogram: named in it, by a table of ranges, or each a file of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lacuna.analysis.structural import Disconnection
from lacuna.analysis.tracts import disconnect_tract_files, disconnect_tracts
from lacuna.bids.derivatives import LesionOutputs, write_table
from lacuna.bids.names import file_stem
from lacuna.errors import DatasetError, SpaceError
from lacuna.formats import is_tractogram
from lacuna.formats.tracts import load_tract_ranges
from lacuna.geometry.grid import IntArray
from lacuna.store import Store
from lacuna.workflow.lesion import Lesion, tractogram_space
from lacuna.workflow.products import OpenedIndex, Progress, open_index
from lacuna.workflow.record import RunRecord, words


@dataclass(frozen=True, eq=False)
class Tracts:
    """Tracts that lesions are asked about.

    Parameters
    ----------
    members
        Streamline numbers of each tract of the tractogram itself.
    files
        Tracts that are tractograms of their own; then there are no others.
    """

    members: Mapping[str, IntArray] = field(default_factory=dict)
    files: Mapping[str, OpenedIndex] = field(default_factory=dict)


def open_tracts(
    store: Store,
    opened: OpenedIndex,
    record: RunRecord,
    source: Path | None = None,
    *,
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
        return Tracts(files=_open_files(store, record, source, progress))
    members = opened.file.groups if source is None else load_tract_ranges(source)
    # Twice in a group is still one streamline; and ranges beyond the file fail before work starts.
    members = {name: np.unique(ids) for name, ids in members.items()}
    disconnect_tracts(members, np.array([], np.int64), opened.n_streamlines)
    return Tracts(members) if members else None


def write_tracts(
    outputs: LesionOutputs, lesion: Lesion, result: Disconnection, tracts: Tracts
) -> None:
    """Write the table of what a lesion cuts of each tract."""
    weights = result.weighting.weights if result.weighting else None
    if tracts.files:
        indexes = {name: opened.index for name, opened in tracts.files.items()}
        found = disconnect_tract_files(indexes, lesion.mask, lesion.grid)
    else:
        found = disconnect_tracts(tracts.members, result.cut_ids, result.n_streamlines, weights)
    # Weights belong to the streamlines of the tractogram; tract files have none.
    is_weighed = weights is None or not tracts.files
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
    for path in sorted(path for path in folder.iterdir() if is_tractogram(path)):
        name = file_stem(path)
        if name in found:
            raise DatasetError(f"{folder} has two tracts called {name}: rename or remove one.")
        space = tractogram_space(path, default_space=record.space)
        if space is None or space.name != record.tractogram_space:
            stated = f"{space.name} ({space.source})" if space else "unstated"
            raise SpaceError(
                f"The space of {path.name} is {stated}, that of the tractogram "
                f"{record.tractogram_space} ({record.space_source}): a lesion can be in one only. "
                "Give tracts of that space."
            )
        found[name] = open_index(
            store,
            path,
            grid=record.grid,
            rule=record.rule,
            upsample=record.upsample,
            threads=record.threads,
            progress=progress,
        )
    if not found:
        raise DatasetError(f"{folder} holds no .tck, .trk or .trx file, one for each tract.")
    return found
