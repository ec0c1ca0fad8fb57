"""The page of a participant, put together from the sections of all lesions that lie there."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from lacuna.bids.derivatives import LesionOutputs, write_text
from lacuna.report.lesion import LesionReport
from lacuna.report.page import build_page
from lacuna.report.section import build_section, decode_section, encode_section
from lacuna.report.viewer import viewer_scripts

logger = logging.getLogger(__name__)

MAX_TURNS = 20
"""How often a page is written again because another process came in between."""
MARK = "<!-- sections: "
"""Begins the last line of a page, which lists what it was made of."""
LONGEST_MARK = 1 << 20
"""Bytes at the end of a page in which that line is looked for."""


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


def is_current(outputs: LesionOutputs) -> bool:
    """Tell whether the page of a lesion's participant is whole, and made of the sections there."""
    return _shown(page_path(outputs)) == _list(section_path(outputs).parent)


def update_page(outputs: LesionOutputs) -> None:
    """Let the page of a participant hold the sections that lie there; without any, there is none.

    One that cannot be written is a warning: results stand without it, and the next run tries again.
    """
    folder, page = section_path(outputs).parent, page_path(outputs)
    try:
        for _ in range(MAX_TURNS):
            # A process that clears up may take what this one writes, or the ledger a section.
            with suppress(FileNotFoundError):
                found = _list(folder)
                if _shown(page) == found and (found or not page.exists()):
                    return
                _write(page, outputs, found)
                if not page.exists():
                    return
    except OSError as error:
        logger.warning("The page %s could not be written: %s", page, error)


def _write(page: Path, outputs: LesionOutputs, found: Mapping[str, str]) -> None:
    sections = []
    for name in found:
        path = section_path(outputs).with_name(name)
        try:
            sections.append(decode_section(path.read_text("utf-8")))
        except ValueError as error:
            logger.warning("%s is damaged (%s), and left out of %s.", path, error, page.name)
    if not sections:
        page.unlink(missing_ok=True)
        return
    lead = f"{len(sections)} lesion{'s' * (len(sections) != 1)}; space {outputs.space}."
    name = f"sub-{outputs.lesion.participant}"
    html = build_page(name, sections, lead=lead, html_end=viewer_scripts())
    # At the very end, so that a page that was cut off has none. Two hyphens would end the comment.
    said = json.dumps(found).replace("-", "\\u002d")
    write_text(page, f"{html}{MARK}{said} -->\n")


def _shown(page: Path) -> dict[str, str]:
    """Return the sections that a page was made of, as `_list` does; none if it is not whole."""
    try:
        with page.open("rb") as stream:
            stream.seek(max(0, page.stat().st_size - LONGEST_MARK))
            _, mark, said = stream.read().decode(errors="replace").rpartition(MARK)
        return dict(json.loads(said.removesuffix(" -->\n"))) if mark else {}
    except (OSError, ValueError):
        return {}


def _list(folder: Path) -> dict[str, str]:
    """Return the sections of a participant: name, and digest of the content."""
    paths = sorted(folder.glob("*_report.html"))
    return {path.name: blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in paths}
