"""Where results come from, as BIDS writes it: ``bids:<dataset>:<path>``, and what dataset that is.

The name of a dataset follows from its path alone, so that processes need not agree on it.
"""

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

DESCRIPTION = "dataset_description.json"


def source_uri(path: Path) -> str:
    """Return the BIDS URI of a file in a dataset, or the address of any other."""
    path = path.absolute()
    root = find_dataset(path.parent)
    if root is None:
        return path.as_uri()
    return f"bids:{link_name(root)}:{quote(path.relative_to(root).as_posix())}"


def dataset_links(paths: Iterable[Path]) -> dict[str, str]:
    """Return the address of each dataset that files are in, by the name that URIs give it."""
    roots = {find_dataset(path.absolute().parent) for path in paths} - {None}
    return {link_name(root): root.as_uri() for root in sorted(filter(None, roots))}


@lru_cache(maxsize=1024)
def find_dataset(directory: Path) -> Path | None:
    """Return the innermost dataset that a directory is or lies in, if any."""
    return next((d for d in (directory, *directory.parents) if (d / DESCRIPTION).is_file()), None)


def link_name(root: Path) -> str:
    """Return what URIs call a dataset: its folder's name, and digits that tell its path."""
    word = re.sub(r"[^A-Za-z0-9]+", "", root.name) or "dataset"
    # Two datasets may have folders of one name.
    return f"{word}-{hashlib.sha256(str(root).encode()).hexdigest()[:6]}"
