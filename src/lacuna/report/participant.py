"""The page of a participant, put together from the sections of all lesions that lie there."""

from __future__ import annotations

from contextvars import Context
from pathlib import Path

from lacuna.bids.derivatives import LesionOutputs, write_text
from lacuna.report.page import build_page
from lacuna.report.section import LesionReport, build_section, decode_section, encode_section
from lacuna.report.viewer import viewer_scripts

MAX_TURNS = 20
"""How often a page is written again because another lesion of the participant came in between."""


def section_path(outputs: LesionOutputs) -> Path:
    """Return where the part of the page that is about one lesion goes."""
    table = outputs.path("summary", "stats", ".tsv").name
    name = table.replace("_desc-summary_stats.tsv", "_desc-lesion_report.html")
    return outputs.output_dir / f"sub-{outputs.lesion.participant}" / "figures" / name


def page_path(outputs: LesionOutputs) -> Path:
    """Return where the page of a lesion's participant goes."""
    return outputs.output_dir / f"sub-{outputs.lesion.participant}.html"


def write_report(report: LesionReport) -> None:
    """Write the part of the page that is about one lesion, and the page with it."""
    write_text(section_path(report.outputs), encode_section(build_section(report)))
    write_page(report.outputs)


def write_page(outputs: LesionOutputs) -> None:
    """Write the page of a participant from the sections that lie there."""
    folder, label = section_path(outputs).parent, outputs.lesion.participant
    for _ in range(MAX_TURNS):
        found = _list(folder)
        sections = [decode_section(path.read_text("utf-8")) for path in found]
        lead = f"{len(sections)} lesion{'s' * (len(sections) != 1)}; space {outputs.space}."
        page = build_page(f"sub-{label}", sections, lead=lead, html_end=viewer_scripts())
        # In a context of its own: what a lesion writes is removed if it fails, and compared
        # later, but the page is of all lesions of the participant.
        Context().run(write_text, page_path(outputs), page)
        # Whoever wrote a section since then may have written its page before this one.
        if _list(folder) == found:
            return


def _list(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the sections of a participant, each with what changes when it is replaced."""
    found = {}
    for path in sorted(folder.glob("*_report.html")):
        status = path.stat()
        found[path] = status.st_mtime_ns, status.st_ino
    return found
