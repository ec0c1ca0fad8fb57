"""The page of a participant, put together from the sections of all lesions that lie there."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lacuna.bids.derivatives import LesionOutputs, write_text
from lacuna.report.lesion import LesionReport
from lacuna.report.page import build_page
from lacuna.report.section import build_section, decode_section, encode_section
from lacuna.report.viewer import viewer_scripts

logger = logging.getLogger(__name__)

MAX_TURNS = 20
"""How often a page is written again because another process came in between."""


def section_path(outputs: LesionOutputs) -> Path:
    """Return where the part of the page that is about one lesion goes."""
    table = outputs.path("summary", "stats", ".tsv").name
    name = table.replace("_desc-summary_stats.tsv", "_desc-lesion_report.html")
    return outputs.output_dir / f"sub-{outputs.lesion.participant}" / "figures" / name


def page_path(outputs: LesionOutputs) -> Path:
    """Return where the page of a lesion's participant goes."""
    return outputs.output_dir / f"sub-{outputs.lesion.participant}.html"


def write_section(report: LesionReport) -> None:
    """Write the part of the page that is about one lesion."""
    write_text(section_path(report.outputs), encode_section(build_section(report)))


def clear_unfinished(outputs: Iterable[LesionOutputs]) -> None:
    """Remove what a run that was killed left of the pages of participants."""
    for page in {page_path(each) for each in outputs}:
        for part in page.parent.glob(f".{page.name}.*.part"):
            part.unlink(missing_ok=True)


def lead_of_page(outputs: LesionOutputs) -> int:
    """Return by how many ns the page of a lesion's participant is newer than its sections.

    Less than 0 if it is older, or gone; 0 tells nothing: file systems' clocks tick in milliseconds,
    or seconds.
    """
    try:
        # Whatever comes into the folder or leaves it changes the folder's time.
        sections = section_path(outputs).parent.stat().st_mtime_ns
        return page_path(outputs).stat().st_mtime_ns - sections
    except FileNotFoundError:
        return -1


def update_page(outputs: LesionOutputs) -> None:
    """Let the page of a participant hold the sections that lie there; without any, there is none.

    One that cannot be written is a warning: results stand without it, and the next run tries again.
    """
    folder, page = section_path(outputs).parent, page_path(outputs)
    if lead_of_page(outputs) > 0:
        return
    try:
        for _ in range(MAX_TURNS):
            found = _list(folder)
            # A process that clears up may take what this one writes, or the ledger a section.
            with suppress(FileNotFoundError):
                _write(page, outputs, list(found))
                if _list(folder) == found:
                    return
    except OSError as error:
        logger.warning("The page %s could not be written: %s", page, error)


def _write(page: Path, outputs: LesionOutputs, found: list[Path]) -> None:
    sections = []
    for path in found:
        try:
            sections.append(decode_section(path.read_text("utf-8")))
        except ValueError as error:
            logger.warning("%s is damaged (%s), and left out of %s.", path, error, page.name)
    if not sections:
        page.unlink(missing_ok=True)
        return
    lead = f"{len(sections)} lesion{'s' * (len(sections) != 1)}; space {outputs.space}."
    name = f"sub-{outputs.lesion.participant}"
    write_text(page, build_page(name, sections, lead=lead, html_end=viewer_scripts()))


def _list(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the sections of a participant, each with what changes when it is replaced."""
    found = {}
    for path in sorted(folder.glob("*_report.html")):
        status = path.stat()
        found[path] = status.st_mtime_ns, status.st_ino
    return found
