"""The catalogue of data that Lacuna does not bring: ``catalog.toml``, read and checked."""

import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated

import msgspec

from lacuna.errors import OptionError
from lacuna.store import Entry

ATLASES = ("parcellation", "tract atlas")
"""Kinds of images with a table of names; of the second, each tract has a volume of its own."""

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Sum = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Asset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file that others publish; of a mere address no more is known than that and its checksum.

    Parameters
    ----------
    name
        By which it is asked for.
    kind
        What it is, in a word or two.
    space
        Name of its template space; of a transform, the one onto which it resamples images.
    images_from
        Of a transform, the space of those images; nothing else has one.
    files
        Names under which it may be kept, one for each ending.
    licence, citation, doi
        Terms, and what to cite.
    how
        Where a person finds it, in a sentence.
    size_bytes, n_streamlines
        About; None if that is not known.
    n_regions
        Parcels or tracts of an atlas, exactly.
    urls
        Addresses of the first of ``files``, the best first.
    sha256
        Of that file.
    """

    name: _Text
    title: _Text = ""
    kind: _Text = ""
    space: str | None = None
    images_from: str | None = None
    files: Annotated[tuple[_Text, ...], msgspec.Meta(min_length=1)]
    licence: _Text = ""
    citation: _Text = ""
    doi: _Text = ""
    how: _Text = ""
    size_bytes: int | None = None
    n_streamlines: int | None = None
    n_regions: int | None = None
    urls: tuple[_Text, ...] = ()
    sha256: _Sum | None = None

    @property
    def is_fetchable(self) -> bool:
        """Whether Lacuna knows an address and the checksum."""
        return bool(self.urls and self.sha256)


@cache
def load_catalog() -> dict[str, Asset]:
    """Return the assets of the catalogue by name."""
    text = Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    said = {name: {"name": name, **table} for name, table in tables.items()}
    return msgspec.convert(said, dict[str, Asset])


def get_asset(name: str) -> Asset:
    """Return an asset of the catalogue.

    Raises
    ------
    OptionError
        If there is none of that name.
    """
    catalog = load_catalog()
    if name in catalog:
        return catalog[name]
    near = get_close_matches(name, catalog, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "`lacuna fetch --list` shows what there is."
    raise OptionError(f"{name} is neither an address nor a name in the catalogue; {hint}")


def find_fetched(entries: Iterable[Entry], asset: Asset) -> Entry | None:
    """Return the entry that holds an asset, fetched or taken in; the newest of several.

    Its file is ``min(entry.files)``: the table of an atlas, ``.tsv``, comes after its image.

    Where its checksum is known, no other file will do.
    """
    held = [
        entry
        for entry in entries
        if entry.product == "download"
        and min(entry.files) in asset.files
        and asset.sha256 in (None, entry.meta["key"]["parameters"]["sha256"])
    ]
    return max(held, key=lambda entry: str(entry.meta["made"]), default=None)
