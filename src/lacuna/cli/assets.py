"""Data of the catalogue, where a command line names them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lacuna.errors import FetchError

if TYPE_CHECKING:
    from lacuna.assets.catalog import Asset


def find_asset(named: str | Path) -> "Asset | None":
    """Return the asset of the catalogue of that name; a path comes first."""
    from lacuna.assets.catalog import load_catalog

    return None if Path(named).exists() else load_catalog().get(str(named))


def find_asset_file(args: argparse.Namespace, asset: "Asset") -> Path:
    """Return the file of an asset that was fetched; nobody deletes it while the command runs.

    Raises
    ------
    FetchError
        If it is not in the cache; the message says how it gets there.
    """
    from lacuna.assets.catalog import find_fetched
    from lacuna.assets.fetch import how_to_get
    from lacuna.workflow.stores import open_store

    entry = find_fetched(open_store(args.settings).entries(), asset)
    if entry is None:
        raise FetchError(how_to_get(asset))
    entry.lease_for(args)
    if not entry.read_only:
        entry.touch()
    return entry.path / min(entry.files)
