"""A lesion whose results have been written, as the parts of its page see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from lacuna.bids.dataset import read_sidecar
from lacuna.bids.derivatives import LesionOutputs
from lacuna.bids.tables import read_table
from lacuna.geometry.grid import FloatArray, IntArray
from lacuna.geometry.parcellation import Parcellation
from lacuna.report.figures import Background, Volume

Row = dict[str, str]
"""Cells of a table, by column."""


@dataclass(frozen=True, eq=False)
class CutResults:
    """What only a lesion upon a tractogram has.

    Parameters
    ----------
    shares
        Disconnection where it is covered, else 0.
    visited
        Streamlines through each voxel.
    points, offsets
        Some of the streamlines cut, as in `encode_streamlines`.
    box_mm : (2, 3)
        Lower and upper corner of the tractogram, mm RAS+.
    """

    shares: Volume
    visited: Volume
    points: FloatArray
    offsets: IntArray
    box_mm: FloatArray


@dataclass(frozen=True, eq=False)
class LesionReport:
    """A lesion whose results have been written, and what is drawn of it.

    Parameters
    ----------
    outputs
        Where they are.
    lesion
        As it was used, its surroundings cut off.
    background
        Beneath the lesion.
    packed
        The background for the viewer, as `embed` makes it.
    parcellations
        Atlases with parcels that were asked.
    tract_atlases
        Names of those with tracts.
    cut
        What the tractogram told; none without one.
    seconds
        Time that was taken, by what for.
    """

    outputs: LesionOutputs
    lesion: Volume
    background: Background
    packed: str
    parcellations: Sequence[Parcellation] = ()
    tract_atlases: Sequence[str] = ()
    cut: CutResults | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def anchor(self) -> str:
        """Of the section, unique on the page."""
        stem = self.outputs.path("summary", "stats", ".tsv").name
        return stem.removesuffix("_desc-summary_stats.tsv").replace("+", "-")

    @cached_property
    def said(self) -> Mapping[str, Any]:
        """Sidecar of the lesion."""
        return read_sidecar(self.outputs.lesion_path(".json"))

    @cached_property
    def summary(self) -> Row:
        """Cells of the summary table, by column."""
        return self.rows("summary")[0]

    @property
    def is_weighted(self) -> bool:
        """Whether streamlines count by weights."""
        return self.summary.get("weights", "n/a") != "n/a"

    @property
    def unit(self) -> str:
        """Of what is summed over streamlines, with a space before it."""
        if not self.is_weighted:
            return ""
        return " mm" if self.summary["weights"] == "length" else " in weight"

    def rows(self, desc: str, seg: str = "") -> list[Row]:
        """Return the rows of a table that was written, by column."""
        found = read_table(self.outputs.path(desc, "stats", ".tsv", seg=seg))
        return [dict(zip(found.columns, row, strict=True)) for row in found.rows]

    def link(self, path: Path) -> str:
        """Return a link to a file of the dataset, from its root, as HTML."""
        place = path.relative_to(self.outputs.output_dir).as_posix()
        return f'<a href="{escape(place)}">{escape(path.name)}</a>'
