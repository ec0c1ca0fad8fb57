"""What stands beside the results of a run as a whole: what the files are, and how to cite them."""

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lacuna.assets.methods import describe_methods
from lacuna.bids.dataset import LesionListing
from lacuna.bids.derivatives import bidsignore, format_value, open_output
from lacuna.bids.sources import dataset_links

TEXTS = Path(__file__).with_name("documents.toml")
"""Every value of ``desc`` with its suffixes, and what a README says."""

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
    kind = said.get("Analysis", "snm")
    lines = [
        f"desc-{desc}\t{format_value(row['Description'])}\n"
        for desc, row in table.items()
        if kind in row["of"]
    ]
    return {
        ".bidsignore": bidsignore({desc: row["Suffixes"] for desc, row in table.items()}),
        "descriptions.tsv": "".join(["desc_id\tdescription\n", *lines]),
        "descriptions.json": json.dumps(texts()["of_descriptions"], indent=2) + "\n",
        "README": texts()["readme"].format(analysis=texts()["analyses"][kind], citation=CITATION),
        CITATION: describe_methods(said).to_markdown(),
    }


@cache
def texts() -> dict[str, Any]:
    """Return all that is said about a dataset as a whole."""
    return tomllib.loads(TEXTS.read_text(encoding="utf-8"))
