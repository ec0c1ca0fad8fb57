"""Tracts: tables of which streamlines belong to each, and 4-D images of their probabilities."""

import csv
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import FormatError
from lacuna.formats.atlas import atlas_name, find_table, read_labels
from lacuna.formats.nifti import open_volumes
from lacuna.geometry.tract_atlas import TractAtlas

STORAGE_TOLERANCE = 1e-6
"""How far beyond 0 and 1 storage may move a probability: 255 times a slope of 1/255 in single
precision is 1.00000006."""

_NAME_COLUMNS = ("tract", "bundle", "name")


def load_tract_ranges(
    path: str | PathLike[str], n_streamlines: int
) -> dict[str, NDArray[np.int64]]:
    """Return the numbers of each tract's streamlines from a table of ranges.

    Parameters
    ----------
    path
        Tab-separated, with a header: the tract (``tract``, ``bundle`` or ``name``), its first
        streamline (``start``, counted from 0) and the one after its last (``stop``). A tract may
        have several rows.
    n_streamlines
        Streamlines of the tractogram.

    Raises
    ------
    FormatError
        If it cannot be read so, or a range goes beyond the tractogram.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path} cannot be read as a table of tracts ({error}).") from error
    header = rows[0].keys() if rows else ()
    column = next((name for name in _NAME_COLUMNS if name in header), None)
    if column is None or not {"start", "stop"} <= set(header):
        raise FormatError(
            f"{path} needs the tab-separated columns tract, start and stop, and at least one row; "
            f"it has {', '.join(header) or 'nothing'}."
        )
    found: dict[str, list[NDArray[np.int64]]] = {}
    for row in rows:
        try:
            start, stop = int(row["start"]), int(row["stop"])
        except (TypeError, ValueError):
            start, stop = 0, -1
        if not 0 <= start <= stop:
            raise FormatError(
                f"{path}: tract {row[column]} goes from {row['start']} to {row['stop']}, which is "
                "no range of streamlines: they are counted from 0, and stop is not one of them."
            )
        if stop > n_streamlines:
            raise FormatError(
                f"{path}: tract {row[column]} goes from {start} to {stop}, but the tractogram "
                f"holds {n_streamlines} streamlines: the table belongs to another file."
            )
        if not row[column]:
            raise FormatError(f"{path}: the range from {start} to {stop} has no name: give it one.")
        found.setdefault(row[column], []).append(np.arange(start, stop))
    return {name: np.unique(np.concatenate(parts)) for name, parts in found.items()}


def load_tract_atlas(
    path: str | PathLike[str], table: str | PathLike[str] | None = None
) -> TractAtlas:
    """Load an image with a volume of probabilities for each tract.

    Parameters
    ----------
    path
        Values in [0, 1].
    table
        Names of the volumes, counted from 1; by default a file beside the image, as for
        `lacuna.formats.atlas.load_atlas`. Without any, tracts are called by their numbers.

    Raises
    ------
    FormatError
        If the image cannot be read or holds other values, or the table names not all volumes.
    GridError
        As `lacuna.formats.nifti.load_image`.
    """
    path = Path(path)
    grid, volumes = open_volumes(path)
    voxels, values = [], []
    for number, volume in enumerate(volumes, 1):
        if volume.dtype.kind not in "buif":
            raise FormatError(f"{path} holds {volume.dtype} values, not probabilities.")
        flat = np.ascontiguousarray(grid.orientation.to_canonical(volume)).reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not -STORAGE_TOLERANCE <= low <= high <= 1 + STORAGE_TOLERANCE:  # NaN fails, too
            raise FormatError(
                f"{path}: volume {number} has values from {low:g} to {high:g}, and probabilities "
                "are 0 to 1. If they are percent, divide them by 100."
            )
        voxels.append(np.flatnonzero(flat > 0).astype(np.int32))
        values.append(np.minimum(flat[voxels[-1]], 1).astype(np.float32))
    if not voxels:
        raise FormatError(f"{path} has no volume: it names no tract.")
    table = find_table(path) if table is None else Path(table)
    known = read_labels(table) if table else {n: str(n) for n in range(1, len(voxels) + 1)}
    if known.keys() != set(range(1, len(voxels) + 1)):
        raise FormatError(
            f"{table} names {len(known)} tracts, numbered {min(known)} to {max(known)}, but {path} "
            f"has {len(voxels)} volumes. Is it the table of another atlas?"
        )
    return TractAtlas(
        name=atlas_name(path),
        grid=grid.canonical,
        names=tuple(known[number] for number in sorted(known)),
        offsets=np.cumsum([0, *map(len, voxels)]),
        voxels=np.concatenate(voxels),
        values=np.concatenate(values),
    )
