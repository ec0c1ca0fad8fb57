"""What stands beside the results of a run as a whole: what the files are, and how to cite them."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lacuna.assets.catalog import load_catalog
from lacuna.bids.dataset import LesionListing
from lacuna.bids.derivatives import bidsignore, format_value, open_output
from lacuna.bids.sources import dataset_links

TEXTS = Path(__file__).with_name("documents.toml")
"""Every value of ``desc`` with its suffixes, the methods, and their references."""

CITATION = "logs/CITATION.md"


def open_dataset(output_dir: Path, listing: LesionListing, record: Any) -> Path:
    """Make an output folder ready, as `open_output`, with all that describes it.

    Parameters
    ----------
    listing
        The lesions, and where they are from.
    record
        Of the run: `lacuna.workflow.batch.Shared`.
    """
    return open_output(
        output_dir,
        record.parameters(),
        sources=[listing.input_path if listing.kind != "file" else listing.root],
        links=dataset_links([*(lesion.path for lesion in listing.found), *record.sources]),
        documents=documents(record.to_json()),
    )


def documents(said: Mapping[str, Any]) -> dict[str, str]:
    """Return the files that describe a derivative dataset, by their names in it.

    Parameters
    ----------
    said
        Record of the run, as JSON values.
    """
    table = texts()["descriptions"]
    rows = {desc: row["Description"] for desc, row in table.items() if _is_used(row, said)}
    lines = [f"desc-{desc}\t{format_value(text)}\n" for desc, text in rows.items()]
    kind = said.get("Analysis", "snm")
    return {
        ".bidsignore": bidsignore({desc: row["Suffixes"] for desc, row in table.items()}),
        "descriptions.tsv": "".join(["desc_id\tdescription\n", *lines]),
        "descriptions.json": json.dumps(texts()["of_descriptions"], indent=2) + "\n",
        "README": texts()["readme"].format(analysis=texts()["analyses"][kind], citation=CITATION),
        CITATION: describe_methods(said),
    }


def describe_methods(said: Mapping[str, Any]) -> str:
    """Return the methods of a run and their references, in Markdown, to be pasted into an article.

    Parameters
    ----------
    said
        Record of the run, as JSON values.
    """
    kind = said.get("Analysis", "snm")
    values = {"version": version("lacuna-lnm"), **_values(said)}
    parts = [part for part in texts()["methods"] if kind in part["of"] and _applies(part, said)]
    keys = dict.fromkeys(key for part in parts for key in part.get("cites", ()))
    references = [texts()["references"][key] for key in keys]
    references += _catalogued(said)
    return "\n".join(
        [
            "# Methods",
            "",
            " ".join(part["text"].format(**values).strip() for part in parts),
            "",
            "# References",
            "",
            *(f"- {reference}" for reference in references),
            "",
        ]
    )


@cache
def texts() -> dict[str, Any]:
    """Return all that is said about a dataset as a whole."""
    return tomllib.loads(TEXTS.read_text(encoding="utf-8"))


def _is_used(row: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    return said.get("Analysis", "snm") in row["of"]


def _applies(part: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    """Tell whether a part is about this run: it has what the part needs, and its rule."""
    needs: Sequence[str] = part.get("needs", ())
    return all(said.get(key) for key in needs) and said.get("Rule") == part.get(
        "rule", said.get("Rule")
    )


def _values(said: Mapping[str, Any]) -> dict[str, Any]:
    tractogram = said.get("Tractogram") or {}
    grid = said.get("ReportGrid") or {}
    n = tractogram.get("Streamlines")
    return {
        "atlases": ", ".join(f"{a['Name']} ({a['Space']})" for a in said.get("Atlases") or ()),
        "tractogram": tractogram.get("Name", ""),
        "n_streamlines": f"{n} streamlines" if n else "streamlines",
        "space": tractogram.get("Space", ""),
        "shape": " × ".join(map(str, grid.get("Shape", ()))),
        "min_tdi": said.get("MinTDI", ""),
        "min_edge": said.get("MinEdge") or 0,
        "weights": said.get("Weights") or "",
    }


def _catalogued(said: Mapping[str, Any]) -> list[str]:
    """Return what to cite for files whose names the catalogue has."""
    used = [said.get("Tractogram") or {}, *(said.get("Atlases") or ())]
    names = [Path(item["Path"]).name for item in used if item]
    found = [
        f"{name}: {asset.citation}." + (f" https://doi.org/{asset.doi}" if asset.doi else "")
        for name in names
        for asset in load_catalog().values()
        if name in asset.files
    ]
    known = [line.partition(": ")[0] for line in found]
    unknown = [f"{name}: not in the catalogue; cite its source." for name in names]
    return found + [line for line in unknown if line.partition(": ")[0] not in known]
