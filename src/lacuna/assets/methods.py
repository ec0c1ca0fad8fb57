"""The methods section of a paper, with the numbers of a run filled in, and what it should cite."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lacuna.assets.catalog import load_catalog
from lacuna.geometry.grid import Grid

TEXTS = Path(__file__).with_name("methods.toml")
"""Sentences, with what they need to apply; and references."""


class Reference(NamedTuple):
    """What to cite, and its DOI, which may be empty."""

    text: str
    doi: str = ""


class Methods(NamedTuple):
    """Paragraphs, and what they cite."""

    paragraphs: tuple[str, ...]
    references: tuple[Reference, ...]

    def to_markdown(self) -> str:
        """Return it as a document."""
        cited = [f"- {r.text}" + f" https://doi.org/{r.doi}" * bool(r.doi) for r in self.references]
        lines = "\n".join(cited)
        return "# Methods\n\n" + "\n\n".join(self.paragraphs) + f"\n\n# References\n\n{lines}\n"


def describe_methods(
    said: Mapping[str, Any],
    lesion: Mapping[str, Any] | None = None,
    summary: Mapping[str, str] | None = None,
) -> Methods:
    """Return the methods of a run.

    Parameters
    ----------
    said
        Record of the run, as JSON values.
    lesion
        What a sidecar says of the lesion, for the methods of that one alone.
    summary
        Cells of its summary table, by column.
    """
    facts = _collect(said, lesion or {}, summary or {})
    parts = [part for part in _texts()["methods"] if _applies(part, facts)]
    keys = dict.fromkeys(key for part in parts for key in part.get("cites", ()))
    paragraphs: dict[str, list[str]] = {}
    for part in parts:
        paragraphs.setdefault(part["about"], []).append(part["text"].format(**facts))
    cited = [Reference(**_texts()["references"][key]) for key in keys]
    cited = [reference._replace(text=reference.text.format(**facts)) for reference in cited]
    atlases = said.get("Atlases") or ()
    moves = [each.get("Transform") for each in (said, lesion or {}, *atlases)]
    files = [said.get("Tractogram"), *atlases, *moves]
    cited += [_cite_file(Path(file["Path"]).name) for file in files if file]
    return Methods(tuple(map(" ".join, paragraphs.values())), tuple(dict.fromkeys(cited)))


@cache
def _texts() -> dict[str, Any]:
    return tomllib.loads(TEXTS.read_text(encoding="utf-8"))


def _applies(part: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Tell whether a part is about this run: all that it needs is there, and nothing that it bars.

    ``Rule=mrtrix`` is there if that is the rule.
    """

    def is_there(word: str) -> bool:
        key, equals, value = word.partition("=")
        return facts[key] == value if equals else bool(facts[key])

    bars = any(map(is_there, part.get("lacks", ())))
    return not bars and all(map(is_there, part.get("needs", ())))


def _collect(
    said: Mapping[str, Any], lesion: Mapping[str, Any], summary: Mapping[str, str]
) -> dict[str, Any]:
    """Return all that texts may need, none or empty where a run does not have it."""
    facts: dict[str, Any] = dict.fromkeys(
        ("Rule", "RuleDescription", "MinTDI", "MinEdge", "Weights", "Transform", "NumberOfTracts")
    )
    tractogram, stored = said.get("Tractogram") or {}, said.get("ReportGrid")
    # Along x, y and z, however the image of the grid was stored.
    grid = stored and Grid(tuple(stored["Shape"]), np.array(stored["Affine"])).canonical
    atlases, n = said.get("Atlases") or (), tractogram.get("Streamlines")
    facts |= {key: said[key] for key in facts if said.get(key)}
    facts |= {
        "Version": said["Versions"]["lacuna-lnm"],
        "Tractogram": tractogram.get("Name"),
        "Streamlines": f"{_number(n)} streamlines, " if n else "",
        "Space": tractogram.get("Space"),
        "Voxels": " × ".join(f"{size:.3g}" for size in grid.voxel_sizes_mm) if grid else "",
        "Shape": " × ".join(map(str, grid.shape)) if grid else "",
        "Moved": lesion.get("Transform"),
        "Lesion": lesion,
    }
    for kind in ("parcels", "tracts"):
        named = [f"{a['Name']} ({a['Space']})" for a in atlases if a["Kind"] == kind]
        facts[f"atlases_of_{kind}"] = ", ".join(named)
    facts |= {key: _number(value) for key, value in summary.items()}
    if lesion:
        side = {"bilateral": "in both hemispheres"}.get(lesion["Side"], f"{lesion['Side']}-sided")
        centre = zip("xyz", lesion["CentreOfMassMm"], strict=True)
        facts |= {
            "side": side,
            "ml": _number(lesion["VolumeMm3"] / 1000),
            "centre": ", ".join(f"{axis} = {value:.0f}" for axis, value in centre),
            "cut_pct": _number(100 * float(summary.get("cut_fraction", 0))),
        }
    return facts


def _number(value: object) -> str:
    """Return a number for people, anything else as it is."""
    try:
        number = float(str(value))
    except ValueError:
        return str(value)
    return f"{number:,.0f}" if number == int(number) else f"{number:.3g}"


def _cite_file(name: str) -> Reference:
    """Return what to cite for a file, if the catalogue has its name; else that one must know."""
    for asset in load_catalog().values():
        if name in asset.files and asset.citation:
            return Reference(f"{asset.title} ({name}): {asset.citation}.", asset.doi)
    return Reference(f"{name}: not in the catalogue; cite its source.")
