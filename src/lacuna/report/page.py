"""Pages: one HTML file with everything in it, for a screen without a network and for paper.

Whatever text goes into a page passes `escape` once; the functions here that take text do so
themselves, and those that take HTML say ``html``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lacuna.assets.methods import Methods

POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' blob:; connect-src data: blob:; worker-src blob:; font-src data:"
)
"""What a page may load: nothing but what is in it; the browser refuses anything else."""


@dataclass(frozen=True)
class Section:
    """A part of a page that its table of contents names.

    Parameters
    ----------
    anchor
        Its ``id``.
    title
        For the table of contents.
    html
        A ``<section>`` with that id, its heading first.
    parts
        Anchor and title of what the table of contents lists below it.
    """

    anchor: str
    title: str
    html: str
    parts: tuple[tuple[str, str], ...] = ()


def build_page(
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    versions: Mapping[str, str] | None = None,
    html_end: str = "",
) -> str:
    """Return a whole page.

    Parameters
    ----------
    title
        Its heading, and the window's title.
    sections
        In their order.
    lead
        A sentence below the heading.
    versions
        What made the results, by name, for the footer; this program by default.
    html_end
        Further scripts.
    """
    made_by = versions or {"Lacuna": version("lacuna-lnm")}
    said = ", ".join(f"{name} {number}" for name, number in made_by.items())
    contents = "".join(map(_entry, sections))
    body = "\n".join(section.html for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#content">Skip to content</a>
<div class="frame">
<nav class="contents" aria-label="Contents"><strong>Lacuna</strong><ol>{contents}</ol></nav>
<div class="body">
<header class="title"><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>
<main id="content">
{body}
</main>
<footer>Made with {escape(said)}. This page loads nothing from elsewhere.</footer>
</div>
</div>
<script>
{asset("page.js")}</script>
{html_end}</body>
</html>
"""


def _entry(section: Section) -> str:
    links = (f'<li><a href="#{escape(a)}">{escape(t)}</a></li>' for a, t in section.parts)
    below = f"<ol>{''.join(links)}</ol>" if section.parts else ""
    link = f'<a href="#{escape(section.anchor)}">{escape(section.title)}</a>'
    return f"<li>{link}{below}</li>"


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str,
    text_columns: int = 1,
    anchor: str = "",
) -> str:
    """Return a table as HTML; its first column heads the rows.

    Parameters
    ----------
    columns
        Headings.
    rows
        Cells, as text or numbers.
    caption
        What the table holds.
    text_columns
        How many columns, from the left, are text; the others are aligned as numbers.
    anchor
        Its ``id``, for scripts.
    """

    def cell(tag: str, column: int, value: object, more: str = "") -> str:
        kind = "" if column < text_columns else ' class="number"'
        return f"<{tag}{more}{kind}>{escape(str(value))}</{tag}>"

    head = "".join(cell("th", i, name, ' scope="col"') for i, name in enumerate(columns))
    lines = []
    for row in rows:
        heading = cell("th", 0, row[0], ' scope="row"')
        cells = "".join(cell("td", i, value) for i, value in enumerate(row[1:], 1))
        lines.append(f"<tr>{heading}{cells}</tr>")
    name = f' id="{escape(anchor)}"' if anchor else ""
    return (
        f'<div class="scroll"><table{name}><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def facts(items: Iterable[tuple[str, object, str]]) -> str:
    """Return short facts as HTML: name, value, and a remark below it, which may be empty."""
    found = []
    for name, value, remark in items:
        below = f"<small>{escape(remark)}</small>" if remark else ""
        found.append(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}{below}</dd></div>")
    return f'<dl class="facts">{"".join(found)}</dl>'


def figure(html: str, caption: str) -> str:
    """Return a figure as HTML: a picture that has its own alternative text, and a caption."""
    return f"<figure>{html}<figcaption>{escape(caption)}</figcaption></figure>"


def image(png: bytes, alt: str, *, width: int) -> str:
    """Return a PNG as HTML.

    Parameters
    ----------
    png
        The file.
    alt
        What it shows, with numbers, for those who cannot see it.
    width
        In pixels of the page; it shrinks with the window.
    """
    return f'<img src="{data_url(png, "image/png")}" alt="{escape(alt)}" width="{width}">'


def data_url(content: bytes, kind: str) -> str:
    """Return bytes as a URL that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def warning(text: str) -> str:
    """Return a warning as HTML."""
    return f'<p class="warning"><strong>Warning.</strong> {escape(text)}</p>'


def copyable(html: str, anchor: str, label: str) -> str:
    """Return HTML with a button that copies its text."""
    button = f'<button type="button" data-copy="{escape(anchor)}">{escape(label)}</button>'
    return (
        f'<div class="controls">{button}</div><div id="{escape(anchor)}" class="prose">{html}</div>'
    )


def methods(told: Methods) -> str:
    """Return a methods section and what it cites, as HTML."""
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in told.paragraphs)
    items = []
    for text, doi in told.references:
        link = f' <a href="https://doi.org/{escape(doi)}">doi:{escape(doi)}</a>' if doi else ""
        items.append(f"<li>{escape(text)}{link}</li>")
    return f"{paragraphs}<h4>References</h4><ol>{''.join(items)}</ol>"


def format_number(value: object, digits: int = 3) -> str:
    """Return a table's cell or a number for people: so many digits, and no exponent."""
    try:
        number = float(str(value))
    except ValueError:
        return str(value)
    if not math.isfinite(number):
        return "n/a"
    if number == int(number):
        return f"{int(number):,}".replace(",", "\u202f")
    places = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    return f"{number:.{min(places, 12)}f}"


@cache
def asset(name: str) -> str:
    """Return a text file of this package."""
    return files("lacuna.report").joinpath(name).read_text(encoding="utf-8")
