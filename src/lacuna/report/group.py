"""The page about all lesions together: a table to sort and filter, and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from lacuna.geometry.grid import Grid
from lacuna.report.figures import Background, Volume, draw_map
from lacuna.report.page import (
    Section,
    asset,
    build_page,
    copyable,
    facts,
    figure,
    format_number,
    image,
    warning,
)

N_NAMED = 12
"""How many lesions that were left out are named outright; the others are folded away."""


@dataclass(frozen=True, eq=False)
class GroupMap:
    """A map over lesions, and how it is shown.

    Parameters
    ----------
    array : grid.shape
        Drawn where it is positive.
    title, label
        What it shows, and what its colours mean, with the unit.
    said
        How it is defined.
    """

    array: np.ndarray[Any, np.dtype[Any]]
    title: str
    label: str
    said: str


def build_group_page(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left_out: Mapping[str, str],
    links: Mapping[str, str],
    maps: Sequence[GroupMap],
    grid: Grid,
    density: np.ndarray[Any, np.dtype[Any]] | None,
    files: Sequence[str],
    methods: Sequence[str],
    space: str,
) -> str:
    """Return the whole page.

    Parameters
    ----------
    columns, rows
        The summary of all lesions, as text; the first column is the participant.
    left_out
        Why a lesion is not among them, by its name.
    links
        Page of a participant, by what the first column says.
    maps, grid
        To be drawn.
    density
        Streamlines on this grid, as background; black without.
    files
        What was written beside the page.
    methods
        Paragraphs.
    space
        Of the maps.
    """
    n, n_participants = len(rows), len({row[0] for row in rows})
    constant = [i for i in range(1, len(columns)) if n > 1 and len({row[i] for row in rows}) == 1]
    shown = [i for i in range(len(columns)) if i not in constant]
    counted = [
        ("Lesions", n, f"of {n_participants} participants"),
        ("Left out", len(left_out), "named below" if left_out else "all are in"),
    ]
    same = [(columns[i], format_number(rows[0][i]), "the same for all") for i in constant]
    sections = [
        ("overview", "Overview", facts(counted) + _left_out(left_out)),
        ("lesions", "Lesions", _table(columns, rows, shown, links) + facts(same)),
    ]
    background = _background(density, grid)
    pictures = "".join(_picture(each, grid, background, n, space) for each in maps)
    listed = "".join(f'<li><a href="{escape(name)}">{escape(name)}</a></li>' for name in files)
    text = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in methods)
    sections += [
        ("maps", "Maps", pictures),
        ("files", "Files", f"<ul>{listed}</ul>"),
        ("methods", "Methods", copyable(text, "methods-text", "Copy the text")),
    ]
    lead = f"What {n} lesions of {n_participants} participants damage and disconnect."
    script = f"<script>\n{asset('group.js')}</script>\n"
    return build_page("Group report", [_section(*s) for s in sections], lead=lead, html_end=script)


def _section(anchor: str, title: str, html: str) -> Section:
    head = f'<section id="{anchor}"><h2>{escape(title)}</h2>'
    return Section(anchor, title, f"{head}{html}</section>")


def _left_out(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return ""
    lines = [f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in left_out.items()]
    text = f"{len(left_out)} lesions are in no table and no map of this page."
    listed = f"<ul>{''.join(lines)}</ul>"
    if len(lines) > N_NAMED:
        listed = f"<details><summary>Show them</summary>{listed}</details>"
    return warning(text) + listed


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    shown: Sequence[int],
    links: Mapping[str, str],
) -> str:
    """Return the table; a script makes its headings buttons, and filters its rows."""
    numeric = {i for i in shown if i and all(_is_number(row[i]) for row in rows)}
    kinds = {i: ' class="number"' if i in numeric else "" for i in shown}
    head = "".join(f'<th scope="col"{kinds[i]}>{escape(columns[i])}</th>' for i in shown)
    lines = []
    for row in rows:
        name = escape(row[0])
        if row[0] in links:
            name = f'<a href="{escape(links[row[0]])}">{name}</a>'
        cells = [f'<th scope="row" data-value="{escape(row[0])}">{name}</th>']
        for i in shown[1:]:
            text = format_number(row[i], 4) if i in numeric else row[i]
            cells.append(f'<td{kinds[i]} data-value="{escape(row[i])}">{escape(text)}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<div class="controls"><label>Filter <input id="filter" type="search" size="36" '
        'placeholder="words, or side=left n_cut&gt;100"></label>'
        f'<span id="n-shown" role="status">{len(rows)} of {len(rows)} lesions</span></div>'
        '<div class="scroll tall" tabindex="0" role="region" aria-label="Table of lesions">'
        '<table id="lesion-table"><caption>One row for each lesion. A heading sorts by its column; '
        "numbers are rounded here, and whole in the file of the summary.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _is_number(text: str) -> bool:
    try:
        float("nan" if text == "n/a" else text)
    except ValueError:
        return False
    return True


def _background(density: np.ndarray[Any, np.dtype[Any]] | None, grid: Grid) -> Background:
    if density is None:
        return Background(Volume(np.zeros(grid.shape), grid), "none", is_density=False)
    caption = "density of the tractogram's streamlines"
    return Background(Volume(density, grid), caption, is_density=True)


def _picture(each: GroupMap, grid: Grid, background: Background, n: int, space: str) -> str:
    caption = f"{n} lesions; space {space}."
    png = draw_map(
        Volume(each.array, grid), background, label=each.label, title=each.title, caption=caption
    )
    highest = float(each.array.max())
    peak = np.argwhere(each.array == highest)[:1].astype(np.float64)
    where = ", ".join(f"{coordinate:.0f}" for coordinate in grid.to_world(peak)[0])
    n_voxels = int((each.array > 0).sum())
    alt = (
        f"{each.title}: three planes and a mosaic. The highest value is {format_number(highest)} "
        f"at ({where}) mm; {n_voxels} voxels are above 0."
    )
    heading = f"<h3>{escape(each.title)}</h3>"
    return heading + figure(image(png, alt, width=1100), f"{each.said} {alt}")
