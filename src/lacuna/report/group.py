"""The page about all lesions together: a table to sort and filter, and maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from typing import Any

import numpy as np

from lacuna.assets.methods import describe_methods
from lacuna.bids.tables import TextTable
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
    methods,
    warning,
)

N_NAMED = 12
"""How many lesions that were left out are named outright; the others are folded away."""


MAPS = {
    "lesionoverlap": ("Lesion overlap", "lesions"),
    "meandisconnection": ("Mean disconnection", "mean share of streamlines disconnected"),
    "frequency": ("Frequency of disconnection", "share of lesions"),
}
"""Title of each map that is drawn, and what its colours mean, by the ``desc`` of its file."""


def build_group_page(
    summary: TextTable,
    *,
    left_out: Mapping[str, str],
    links: Mapping[str, str],
    maps: Iterable[tuple[str, np.ndarray[Any, np.dtype[Any]], str]],
    grid: Grid,
    density: np.ndarray[Any, np.dtype[Any]] | None,
    files: Sequence[str],
    record: Mapping[str, Any],
    space: str,
    parameters: Mapping[str, Any],
    thresholds: Sequence[float],
) -> str:
    """Return the whole page.

    Parameters
    ----------
    summary
        Of all lesions; the first column is the participant.
    left_out
        Why a lesion is not among them, by its name.
    links
        Page of a participant, by what the first column says.
    maps, grid
        The ``desc`` of each file, its values, and what they are; those of `MAPS` are drawn.
    density
        Streamlines on this grid, as background; black without.
    files
        What was written beside the page.
    record
        Of the run that made the results of one lesion, for the methods.
    space, parameters, thresholds
        As in `lacuna.workflow.cohort.GroupPlan`.
    """
    columns, rows = summary.columns, summary.rows
    n, n_participants = len(rows), len({row[0] for row in rows})
    constant = [i for i in range(1, len(columns)) if n > 1 and len({row[i] for row in rows}) == 1]
    counted = [
        ("Lesions", n, f"of {n_participants} participants"),
        ("Left out", len(left_out), "named below" if left_out else "all are in"),
    ]
    same = [(columns[i], format_number(rows[0][i]), "the same for all") for i in constant]
    if density is None:
        behind = Background(Volume(np.zeros(grid.shape), grid), "none", is_density=False)
    else:
        caption = "density of the tractogram's streamlines"
        behind = Background(Volume(density, grid), caption, is_density=True)
    caption = f"{n} lesions; space {space}."
    pictures = [
        _picture(desc, Volume(array, grid), behind, said, caption)
        for desc, array, said in maps
        if desc.partition("thr")[0] in MAPS
    ]
    listed = "".join(f'<li><a href="{escape(name)}">{escape(name)}</a></li>' for name in files)
    told = describe_methods(record)
    own = _methods(n, len(left_out), space, parameters, thresholds)
    text = methods(told._replace(paragraphs=(*told.paragraphs, own)))
    sections = {
        "Overview": facts(counted) + _left_out(left_out),
        "Lesions": _table(summary, constant, links) + facts(same),
        "Maps": "".join(pictures),
        "Files": f"<ul>{listed}</ul>",
        "Methods": copyable(text, "methods-text", "Copy methods and references"),
    }
    return build_page(
        "Group report",
        [_section(title, html) for title, html in sections.items()],
        lead=f"What {n} lesions of {n_participants} participants damage and disconnect.",
        html_end=f"<script>\n{asset('group.js')}</script>\n",
    )


def _section(title: str, html: str) -> Section:
    anchor = title.lower()
    return Section(anchor, title, f'<section id="{anchor}"><h2>{title}</h2>{html}</section>')


def _left_out(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return ""
    lines = [f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in left_out.items()]
    text = f"{len(left_out)} lesions are in no table and no map of this page."
    listed = f"<ul>{''.join(lines)}</ul>"
    if len(lines) > N_NAMED:
        listed = f"<details><summary>Show them</summary>{listed}</details>"
    return warning(text) + listed


def _table(summary: TextTable, hidden: Sequence[int], links: Mapping[str, str]) -> str:
    """Return the table; a script makes its headings buttons, and filters its rows."""
    columns, rows = summary
    shown = [i for i in range(len(columns)) if i not in hidden]
    numeric = {i for i in shown if i and all(_is_number(row[i]) for row in rows)}

    def cell(i: int, value: str) -> str:
        kind, text = ("number", format_number(value, 4)) if i in numeric else ("text", value)
        html = escape(text)
        if i == 0 and value in links:
            html = f'<a href="{escape(links[value])}">{html}</a>'
        tag, said = ('th scope="row"', escape(value)) if i == 0 else ("td", escape(value))
        return f'<{tag} class="{kind}" data-value="{said}" title="{said}">{html}</{tag[:2]}>'

    head = "".join(
        f'<th scope="col"{" class=number" * (i in numeric)}>{escape(columns[i])}</th>'
        for i in shown
    )
    lines = ["<tr>" + "".join(cell(i, row[i]) for i in shown) + "</tr>" for row in rows]
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


def _picture(desc: str, volume: Volume, behind: Background, said: str, caption: str) -> str:
    kind, _, percent = desc.partition("thr")
    title, label = MAPS[kind]
    title += f", threshold {float(percent.replace('p', '.')):g} %" if percent else ""
    png = draw_map(volume, behind, label=label, title=title, caption=caption)
    highest = float(volume.array.max())
    peak = np.argwhere(volume.array == highest)[:1].astype(np.float64)
    where = ", ".join(f"{coordinate:.0f}" for coordinate in volume.grid.to_world(peak)[0])
    alt = (
        f"{title}: three planes and a mosaic. The highest value is {format_number(highest)} "
        f"at ({where}) mm; {int((volume.array > 0).sum())} voxels are above 0."
    )
    return f"<h3>{escape(title)}</h3>" + figure(image(png, alt, width=1100), f"{said} {alt}")


def _methods(
    n: int, n_out: int, space: str, parameters: Mapping[str, Any], thresholds: Sequence[float]
) -> str:
    left = f" {n_out} further lesions were left out." if n_out else ""
    text = (
        f"Results of {n} lesions in {space} were put together with Lacuna "
        f"{version('lacuna-lnm')}.{left} Lesion overlap is the number of lesions in each voxel, "
        "each with the share of the voxel's volume that it covers, by exact overlap of voxels."
    )
    if "Rule" not in parameters:
        return text
    shares = ", ".join(f"{threshold:g}" for threshold in thresholds)
    return (
        f"{text} Mean disconnection, and its frequency (the share of lesions with a disconnection "
        f"of at least {shares}), are given for voxels with at least {parameters['MinTDI']} "
        "streamlines."
    )
