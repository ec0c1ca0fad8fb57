"""The part of a participant's page that is about one lesion.

Numbers are read back from the tables and sidecars that were written, so that they cannot differ.
"""

from __future__ import annotations

import json
from html import escape

import numpy as np

from lacuna.assets.methods import describe_methods
from lacuna.report.figures import Volume, lesion_centre, sample
from lacuna.report.lesion import CutResults, LesionReport
from lacuna.report.losses import describe_atlas, rank_losses
from lacuna.report.page import (
    Section,
    copyable,
    facts,
    figure,
    format_number,
    methods,
    table,
    warning,
)
from lacuna.report.pictures import Scene, heights_of, scale_bar
from lacuna.report.viewer import embed, encode_lesion, encode_shares, encode_streamlines

VIEWS = (
    '<label>View <select name="view"><option value="3">planes and 3-D</option>'
    '<option value="4">3-D</option><option value="0">axial</option>'
    '<option value="1">coronal</option><option value="2">sagittal</option></select></label>'
)


def build_section(report: LesionReport) -> Section:
    """Return everything about one lesion."""
    name = report.outputs.lesion.path.name
    parts = [("lesion", "Lesion", _lesion(report))]
    if report.cut is not None:
        parts.append(("disconnection", "Disconnection", _disconnection(report, report.cut)))
    parts.append(("viewer", "In three dimensions", _viewer(report)))
    if report.cut is not None and report.outputs.path("tracts", "stats", ".tsv").exists():
        parts.append(("tracts", "Tracts", rank_losses(report, "tracts")))
    parts += [
        (f"atlas-{atlas.name}", f"Atlas {atlas.name}", describe_atlas(report, atlas))
        for atlas in report.parcellations
    ]
    parts += [
        (f"atlas-{seg}", f"Atlas {seg}", rank_losses(report, "tractoverlap", seg))
        for seg in report.tract_atlases
    ]
    text = copyable(_methods(report), f"{report.anchor}-text", "Copy methods and references")
    parts.append(("methods", "Methods and references", text))
    parts.append(("provenance", "How it was made", _provenance(report)))
    body = "".join(
        f'<section id="{escape(report.anchor)}-{escape(key)}"><h3>{escape(title)}</h3>{html}'
        "</section>\n"
        for key, title, html in parts
    )
    run = report.said["Lacuna"]
    sources = [report.said, run.get("Tractogram") or {}, *(run.get("Atlases") or ())]
    told = dict.fromkeys(text for source in sources for text in source.get("Warnings") or ())
    warnings = "".join(map(warning, told))
    html = (
        f'<section class="lesion" id="{escape(report.anchor)}"><h2>{escape(name)}</h2>\n'
        f"{warnings}{_facts(report)}\n{body}</section>"
    )
    listed = tuple((f"{report.anchor}-{key}", title) for key, title, _ in parts)
    return Section(report.anchor, _title(report), html, listed)


def encode_section(section: Section) -> str:
    """Return a section as a file of its own, from which `decode_section` makes it again."""
    said = {"anchor": section.anchor, "title": section.title, "parts": section.parts}
    # Two hyphens would end the comment.
    head = json.dumps(said).replace("-", "\\u002d")
    return f"<!-- {head} -->\n{section.html}\n"


def decode_section(text: str) -> Section:
    """Return a section from its file."""
    head, _, html = text.partition("\n")
    said = json.loads(head.removeprefix("<!-- ").removesuffix(" -->"))
    parts = tuple((anchor, title) for anchor, title in said["parts"])
    return Section(said["anchor"], said["title"], html.rstrip("\n"), parts)


def _title(report: LesionReport) -> str:
    entities = report.outputs.lesion.entities
    known = ("sub", "space", "res", "desc")
    told = [f"{k}-{v}" for k, v in entities.items() if k not in known and v != "lesion"]
    return " ".join(told) or "Lesion"


def _facts(report: LesionReport) -> str:
    row, lesion = report.summary, report.said["Lesion"]
    centre = ", ".join(format_number(row[f"centre_{axis}_mm"], 3) for axis in "xyz")
    by = lesion["SpaceStatedBy"]
    items = [
        ("Volume", f"{format_number(float(row['volume_mm3']) / 1000)} ml", _mm3(row["volume_mm3"])),
        ("Side", row["side"], "as its header says: a flip could not be seen"),
        ("Centre of mass", f"{centre} mm", "x to the right, y to the front, z up"),
        ("Space", lesion["Space"], by if by.startswith("as ") else f"stated by {by}"),
    ]
    if report.cut is not None:
        cut = format_number(row["n_cut"]), format_number(row["n_streamlines"])
        pct = format_number(row["disconnected_pct"])
        of_all = f"{format_number(100 * float(row['cut_fraction']))} % of {cut[1]}"
        voxels, any_ = (format_number(row[f"n_{key}_voxels"]) for key in ("covered", "visited"))
        some = f" ({any_} have any)"
        inside, visited = (100 * (1 - x) for x in _shares_within(report.lesion, report.cut))
        items += [
            ("Streamlines cut", cut[0], of_all),
            ("Mean disconnection", f"{pct} %", f"of {voxels} voxels with enough streamlines{some}"),
            ("Lesion without streamlines", f"{visited:.1f} %", "of its voxels are passed by none"),
            ("Outside the tractogram's box", f"{inside:.1f} %", "of the lesion's voxels"),
        ]
        if not report.background.is_density:
            outside = 100 * _share_outside(report.lesion, report.background.image)
            told = "of the lesion's voxels lie where it is 0: outside the brain, if without skull"
            items.append(("Outside the template", f"{outside:.1f} %", told))
    else:
        items.append(("Regions touched", row["n_regions_damaged"], "over all atlases"))
        for atlas in report.parcellations:
            lesioned = sum(float(r["lesioned_mm3"]) for r in report.rows("damage", atlas.name))
            share = 100 * max(0.0, 1 - lesioned / float(row["volume_mm3"]))
            items.append(
                (f"Outside all parcels of {atlas.name}", f"{share:.1f} %", "of its volume")
            )
    return facts(items)


def _mm3(value: str) -> str:
    return f"{format_number(value)} mm³"


def _shares_within(lesion: Volume, cut: CutResults) -> tuple[float, float]:
    """Return which share of the lesion's voxels is in the box, and where streamlines run."""
    centres = lesion.grid.to_world(np.argwhere(lesion.array))
    low, high = cut.box_mm
    inside = ((centres >= low) & (centres <= high)).all(axis=1)
    return float(inside.mean()), float((sample(cut.visited, centres) > 0).mean())


def _share_outside(lesion: Volume, template: Volume) -> float:
    """Return which share of the lesion's voxels has its centre where a template is 0."""
    centres = lesion.grid.to_world(np.argwhere(lesion.array))
    return float((sample(template, centres) <= 0).mean())


def _lesion(report: LesionReport) -> str:
    row, scene = report.summary, Scene(report.background, report.lesion)
    what = (
        f"Outline of the lesion, {_mm3(row['volume_mm3'])}, {row['side']}, centre of mass at x "
        f"{format_number(row['centre_x_mm'])}, y {format_number(row['centre_y_mm'])}, z "
        f"{format_number(row['centre_z_mm'])} mm"
    )
    heights = heights_of(report.lesion, 8, percentiles=(1, 99))
    across = f"{what}, on 8 axial slices from z = {heights[0]:.0f} to {heights[-1]:.0f} mm."
    planes = scene.planes(lesion_centre(report.lesion), f"{what}, on three planes through it.")
    ground = f"Background: {report.background.caption.rstrip('.')}."
    said = (
        "The lesion (outlined) on axial, coronal and sagittal planes through the lesioned voxel "
        f"nearest to its centre of mass, and on axial planes over its height. Left is left. "
        f"{ground}"
    )
    return figure(planes + scene.mosaic(heights, across), said)


def _disconnection(report: LesionReport, cut: CutResults) -> str:
    row = report.summary
    scene = Scene(report.background, report.lesion, cut.shares)
    heights = heights_of(cut.shares, 16, percentiles=(2, 98))
    alt = (
        f"Map of disconnection on 16 axial slices from z = {heights[0]:.0f} to "
        f"{heights[-1]:.0f} mm: mean {format_number(row['disconnected_pct'])} % of the covered "
        f"voxels; {_mm3(row['disconnected_mm3_thr50'])} have lost half of their streamlines."
    )
    three = scene.planes(lesion_centre(report.lesion), f"{alt} Three planes through the lesion.")
    said = (
        "Share of the streamlines through each voxel that the lesion cuts, drawn where at least "
        f"{row['min_tdi']} streamlines pass; the lesion is outlined. Left is left."
    )
    bar = scale_bar("share of streamlines disconnected")
    limits = [
        (f"at least {name}", format_number(row[f"disconnected_mm3_{column}"]))
        for name, column in (("1 %", "thr01"), ("10 %", "thr10"), ("50 %", "thr50"))
    ]
    volumes = table(
        ["streamlines lost", "volume (mm³)"],
        limits,
        caption="Volume of the covered voxels. It grows with the tractogram: compare within one.",
    )
    return figure(three + scene.mosaic(heights, alt) + bar, said) + volumes


def _viewer(report: LesionReport) -> str:
    anchor, cut = f"{report.anchor}-view", report.cut
    parts = [report.packed, embed("lesion", encode_lesion(report.lesion))]
    shown, colours = "lesion (blue)", ""
    controls = [
        VIEWS,
        _slider("background", "Background", 1),
        _slider("lesion", "Lesion", 0.7),
    ]
    if cut is not None:
        n = len(cut.offsets) - 1
        parts.append(embed("map", encode_shares(cut.shares)))
        controls.append(_slider("map", "Disconnection", 0.9))
        shown += ", disconnection (violet to yellow: 0 to 1)"
        if n:
            parts.append(embed("streamlines", encode_streamlines(cut.points, cut.offsets)))
            shown += (
                f" and {format_number(n)} of the {format_number(report.summary['n_cut'])} "
                "streamlines cut (green), chosen evenly and with fewer points"
            )
            colours = "By direction: red left–right, green front–back, blue up–down. "
            controls.append(
                '<label><input type="checkbox" name="streamlines" checked> streamlines</label>'
                '<label>coloured <select name="colours"><option value="Fixed">alike</option>'
                '<option value="Local">by direction</option></select></label>'
            )
    controls.append('<label><input type="checkbox" name="clip"> cut open</label>')
    centre = " ".join(f"{x:.1f}" for x in lesion_centre(report.lesion))
    alt = f"Interactive view of the {shown}."
    box = (
        f'<div class="viewer" id="{escape(anchor)}" data-centre="{centre}">'
        f'<canvas tabindex="0" role="img" aria-label="{escape(alt)}"></canvas>'
        "<p>The interactive view needs JavaScript and WebGL 2.</p>"
        f"{''.join(parts)}</div>"
        f'<div class="controls" data-for="{escape(anchor)}" hidden>{"".join(controls)}</div>'
    )
    said = (
        f"Interactive view: {shown}. Click and drag; scroll to move through slices. {colours}"
        "The brain is first seen from the lesion's side. Drawn by NiiVue on the background's grid; "
        "numbers come from the lesion's own."
    )
    return figure(box, said)


def _slider(name: str, label: str, value: float) -> str:
    return (
        f'<label>{label} <input type="range" name="{name}" min="0" max="1" step="0.05" '
        f'value="{value}"></label>'
    )


def _methods(report: LesionReport) -> str:
    said = report.said
    return methods(describe_methods(said["Lacuna"], said["Lesion"], report.summary))


def _provenance(report: LesionReport) -> str:
    how = report.said["Lacuna"]
    timing = [(name, f"{seconds:.3f} s") for name, seconds in report.seconds.items()]
    keys = list(how.get("CacheKeys", {}).items())
    versions = list(how["Versions"].items())
    sources = [("lesion", report.said["Lesion"]["Path"])]
    if "Tractogram" in how:
        sources.append(("tractogram", f"{how['Tractogram']['Path']}"))
        sources.append(("tractogram's xxh3-128", how["Tractogram"]["XXH3-128"]))
    sources += [(f"atlas {atlas['Name']}", atlas["Path"]) for atlas in how.get("Atlases", ())]
    parts = [
        f"<p>Command line</p><pre><code>{escape(' '.join(map(str, how['Command'])))}</code></pre>",
        table(["input", "file"], sources, caption="Inputs", text_columns=2),
        table(["program", "version"], versions, caption="Versions", text_columns=2),
    ]
    if keys:
        parts.append(table(["entry", "key"], keys, caption="Cache entries", text_columns=2))
    if timing:
        parts.append(table(["step", "time"], timing, caption="Time taken"))
    sidecar = report.link(report.outputs.lesion_path(".json"))
    return f"{''.join(parts)}<p>Everything that is known of this run: {sidecar}</p>"
