"""Reading tables as they are written: every cell stays the text that it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lacuna.bids.dataset import find_participants, read_sidecar, split_rows
from lacuna.bids.derivatives import format_value
from lacuna.errors import DatasetError


class TextTable(NamedTuple):
    """A table whose cells are text.

    Parameters
    ----------
    columns
        Their names.
    rows
        Cells in the order of the columns.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Participants:
    """What a dataset says of its participants.

    Parameters
    ----------
    columns
        What is said of each column but ``participant_id``, by its name.
    rows
        Cells in the order of the columns, by label without ``sub-``.
    """

    columns: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    rows: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def cells(self, label: str) -> Sequence[str]:
        """Return what is said of a participant, ``n/a`` where nothing is."""
        return self.rows.get(label) or ["n/a"] * len(self.columns)


def read_table(path: Path) -> TextTable:
    """Read a table that `write_table` or `write_matrix` wrote.

    Raises
    ------
    DatasetError
        If it cannot be read, or a row has more or fewer cells than the header.
    """
    try:
        # Cells hold no tab or line end; other separators that splitlines knows may be in names.
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be read ({error}): run the participant level again."
        ) from error
    columns, *rows = (tuple(line.split("\t")) for line in lines)
    if any(len(row) != len(columns) for row in rows):
        raise DatasetError(
            f"{path} has rows that are longer or shorter than its header, as a file that was "
            "edited or cut: run the participant level again."
        )
    return TextTable(columns, tuple(rows))


def read_participants(root: Path) -> Participants:
    """Read ``participants.tsv`` and its data dictionary; without one, nothing is said.

    For a dataset ``derivatives/X`` without one, that of the dataset around it is read.

    Raises
    ------
    DatasetError
        If it has no column ``participant_id``, columns or participants twice, or ragged rows.
    """
    path = find_participants(root)
    if path is None:
        return Participants()
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header, *lines = split_rows(stream.read()) or [[]]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); save it as UTF-8.") from error
    header = [name.strip() for name in header]
    if header.count("participant_id") != 1 or len(set(header)) < len(header):
        raise DatasetError(
            f"{path} must have one column participant_id and no column twice; it has: "
            f"{', '.join(header)}."
        )
    place, rows = header.index("participant_id"), dict[str, list[str]]()
    for number, line in enumerate(lines, 2):
        if not any(line):
            continue
        if len(line) != len(header):
            raise DatasetError(
                f"{path}, line {number} has {len(line)} cells, the header {len(header)}: are "
                "there spaces instead of tabs?"
            )
        label = line.pop(place).strip().removeprefix("sub-")
        if label in rows:
            raise DatasetError(f"{path} has participant {label} twice; keep one line of each.")
        rows[label] = [format_value(cell.strip()) for cell in line]
    sidecar = path.with_suffix(".json")
    said = read_sidecar(sidecar) if sidecar.is_file() else {}
    del header[place]
    entries = {name: said.get(name) for name in header}
    described = {k: entry if isinstance(entry, dict) else {} for k, entry in entries.items()}
    return Participants(described, rows)
