"""What tracts, parcels and pairs of parcels lost most: bars, tables, a matrix, a glass brain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from lacuna.bids.tables import read_table
from lacuna.geometry.grid import FloatArray
from lacuna.geometry.parcellation import Parcellation
from lacuna.report.lesion import LesionReport, Row
from lacuna.report.page import figure, format_number, table
from lacuna.report.pictures import bars, glass_brain, matrix, scale_bar

N_TOP = 15
"""Rows of a table, and bars, that a page shows; the files hold all."""

N_PAIRS = 30
"""Pairs of parcels that are drawn and listed."""

_OF_VOLUME = {
    "damage": "share of volume lesioned",
    "lesioned_mm3": "lesioned (mm³)",
    "volume_mm3": "volume (mm³)",
}
RANKINGS = {
    "tracts": {
        "disconnection": "share of streamlines cut",
        "n_cut": "streamlines cut",
        "n_streamlines": "streamlines",
    },
    "parcels": {
        "disconnection": "share of connections lost",
        "cut": "streamlines cut",
        "total": "streamlines to other parcels",
    },
    "damage": _OF_VOLUME,
    "tractoverlap": {**_OF_VOLUME, "max_probability": "highest probability"},
}
"""Columns of each table that a page shows: a share, its part and its whole first."""

WEIGHTED = {
    "tracts": {
        "weighted_disconnection": "share of weight cut",
        "weight_cut": "weight cut",
        "weight_total": "weight",
        "n_cut": "streamlines cut",
        "n_streamlines": "streamlines",
    },
    "parcels": {
        "disconnection": "share of connections lost",
        "cut": "weight cut",
        "total": "weight to other parcels",
    },
}
"""The same where streamlines count by their weights: those columns hold sums of weights then."""


def _top(rows: Sequence[Row], column: str, then: str) -> list[Row]:
    """Return the rows with the highest numbers above 0; of equals those with more of another."""
    known = [row for row in rows if row[column] != "n/a" and float(row[column]) > 0]
    return sorted(known, key=lambda row: (-float(row[column]), -float(row[then])))[:N_TOP]


def rank_losses(report: LesionReport, desc: str, seg: str = "") -> str:
    """Return bars and a table of the rows that lost most."""
    rows, shown = report.rows(desc, seg), RANKINGS[desc]
    if report.is_weighted and desc in WEIGHTED:
        by = next(iter(WEIGHTED[desc]))
        # Tracts that are files of their own have no weights: counts remain then.
        shown = WEIGHTED[desc] if any(row[by] != "n/a" for row in rows) else shown
    path = report.outputs.path(desc, "stats", ".tsv", seg=seg)
    by, part, whole, *_ = shown
    top, what = _top(rows, by, part), shown[by]
    if not top:
        return f'<p class="note">None of {len(rows)} has lost anything. {report.link(path)}</p>'
    shares = [float(row[by]) for row in top]
    unit = " mm³" if whole.endswith("_mm3") else ""
    if shown is WEIGHTED.get(desc):
        unit = report.unit
    labels = [
        f"{format_number(100 * share)} % "
        f"({format_number(row[part])} of {format_number(row[whole])}{unit})"
        for share, row in zip(shares, top, strict=True)
    ]
    told = "; ".join(f"{row['name']} {label}" for row, label in zip(top, labels, strict=True))
    n = sum(row[by] not in ("n/a", "0") for row in rows)
    alt = f"Bars of {what} of the {len(top)} that lost most of {len(rows)}: {told}."
    drawn = bars([row["name"] for row in top], shares, alt, labels=labels)
    most = f"the {len(top)} highest of {n}" if n > len(top) else f"all {n}"
    said = f"{what.capitalize()}: {most} above 0, of {len(rows)} in all."
    cells = [[row["name"], *(format_number(row[key], 4) for key in shown)] for row in top]
    listed = table(["name", *shown.values()], cells, caption=said)
    return f"{figure(drawn, said)}{_folded(listed)}<p>All of them: {report.link(path)}</p>"


def _folded(listed: str) -> str:
    return f"<details><summary>The same as a table</summary>{listed}</details>"


def describe_atlas(report: LesionReport, atlas: Parcellation) -> str:
    """Return what the parcels of an atlas lost, and pairs of them, and how far they are damaged."""
    seg, parts = atlas.name, []
    if report.cut is not None:
        unassigned = report.summary.get(f"unassigned_{seg}", "n/a")
        if unassigned != "n/a":
            share = format_number(100 * float(unassigned))
            parts.append(
                f"<p>{share} % of all streamline ends are within 4 mm of no parcel, and count "
                "for none.</p>"
            )
        parts += ["<h4>Parcels by disconnection</h4>", rank_losses(report, "parcels", seg)]
        parts.append(_pairs(report, atlas))
    parts += ["<h4>Parcels by damage</h4>", rank_losses(report, "damage", seg)]
    return "".join(parts)


def read_matrix(path: Path) -> FloatArray:
    """Return a matrix that was written, not-a-number where it says ``n/a``."""
    cells = [row[1:] for row in read_table(path).rows]
    return np.array([[np.nan if c == "n/a" else float(c) for c in row] for row in cells])


def _pairs(report: LesionReport, atlas: Parcellation) -> str:
    seg, names = atlas.name, atlas.names
    path = report.outputs.path("disconnection", "relmat", ".tsv", seg=seg)
    lost = read_matrix(path)
    count = read_matrix(report.outputs.path("count", "relmat", ".tsv", seg=seg))
    spared = read_matrix(report.outputs.path("spared", "relmat", ".tsv", seg=seg))
    rows, columns = np.triu_indices(len(lost), 1)
    share, cut = lost[rows, columns], (count - spared)[rows, columns]
    hit = np.flatnonzero(np.nan_to_num(share) > 0)
    # By streamlines cut: a pair that one streamline joins is lost wholly or not at all.
    top = hit[np.argsort(-cut[hit], kind="stable")][:N_PAIRS]
    listed, drawn, unit = [], [], report.unit
    for k in top:
        i, j = int(rows[k]), int(columns[k])
        cells = format_number(cut[k]), format_number(count[i, j]), format_number(share[k], 4)
        listed.append((f"{names[i]} – {names[j]}", *cells))
        text = f"{names[i]} – {names[j]}: {cells[0]} of {cells[1]}{unit} cut"
        drawn.append((i, j, float(share[k]), text))
    n_known = int(np.isfinite(share).sum())
    alt = (
        f"Disconnectome: {len(hit)} of {n_known} pairs of {len(lost)} parcels that streamlines "
        f"join lost some, {int((np.nan_to_num(share) >= 0.5).sum())} of them half or more."
    )
    picture = matrix(lost, alt) + scale_bar("share of the pair's streamlines cut", on_white=True)
    said = (
        f"{alt} Rows and columns are parcels in the order of the atlas. Grey pairs lost nothing; "
        "no streamline joins white ones."
    )
    html = f"<h4>Disconnectome</h4>{figure(picture, said)}<p>As a file: {report.link(path)}</p>"
    if not drawn:
        return html
    first, n = listed[0], len(drawn)
    most = (
        f"the {n} pairs of parcels that lost most {'weight' if unit else 'streamlines'}"
        if n > 1
        else "the one pair that lost streamlines"
    )
    told = (
        f"Glass brain with lines between {most}; the first is {first[0]}, {first[1]} of "
        f"{first[2]}{unit} cut."
    )
    brain = glass_brain(report.background.image, parcel_centres(atlas), drawn, told)
    said = (
        f"Lines between the centres of mass of {most}; thicker where a larger share is lost. Seen "
        "from above, from the back and from the right; left is left."
    )
    summed = "weight cut" if unit else "streamlines cut"
    pairs = table(["pair", summed, "of", "share"], listed, caption=f"{most.capitalize()}.")
    return f"{html}{figure(brain, said)}{_folded(pairs)}"


@lru_cache(maxsize=16)
def parcel_centres(atlas: Parcellation) -> FloatArray:
    """Return the centre of mass of each parcel, (n, 3), mm RAS+."""
    sums, n = np.zeros((atlas.n_parcels, 3)), atlas.n_parcels
    # A plane at a time: the places of all voxels of an atlas take hundreds of megabytes.
    for i, plane in enumerate(atlas.indices):
        places = np.nonzero(plane >= 0)
        parcels = plane[places]
        sums[:, 0] += i * np.bincount(parcels, minlength=n)
        sums[:, 1] += np.bincount(parcels, places[0], n)
        sums[:, 2] += np.bincount(parcels, places[1], n)
    return atlas.grid.canonical.to_world(sums / atlas.n_voxels[:, None])
