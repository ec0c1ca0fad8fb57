"""Files that others publish, fetched or taken in once and kept in the cache."""

import hashlib
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from msgspec.structs import replace

from lacuna.assets.catalog import ATLASES, Asset, find_fetched, get_asset
from lacuna.assets.transfer import Patience, Progress, describe_page, download
from lacuna.config import current_settings
from lacuna.errors import ChecksumError, FetchError, FormatError, OfflineError, OptionError
from lacuna.store import Entry, Key, Store, size_text

_BLOCK = 1 << 20
_BEGINNINGS = {".zip": b"PK", ".gz": b"\x1f\x8b", ".h5": b"\x89HDF"}
"""With what a file of that ending begins, where `lacuna.formats` does not read it."""


def fetch(
    store: Store,
    what: str | Asset,
    *,
    sha256: str | None = None,
    mirrors: Sequence[str] = (),
    source: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    force: bool = False,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> Entry:
    """Return the entry that holds a file, fetched unless it is there.

    Parameters
    ----------
    store
        Where it is kept.
    what
        An http or https address, an asset of the catalogue, or its name.
    sha256
        Of the file; an address needs it.
    mirrors
        Other addresses of the same file, tried in order.
    source
        A file that was brought here otherwise: it is copied, and no network used.
    offline
        Never use the network; None: as the settings say.
    force
        Take in a ``source`` whose size or number of streamlines is not that of the asset.
    progress
        Told how far it is.

    Returns
    -------
    Entry
        Its file is ``entry.path / min(entry.files)``; beside that of an atlas lies its table of
        names, if one lay beside ``source``.

    Raises
    ------
    FetchError
        No address gave the file, or none is known.
    ChecksumError
        What came, or ``source``, is another file.
    OfflineError
        It is not in the cache, and the network is not to be used.
    OptionError
        The address or the checksum cannot be used, or the name is unknown.
    FormatError
        ``source`` is not what its name says, or is more than ten times too small or too large.
    CacheFullError
        It does not fit; what came so far is kept.
    """
    asset = _read_request(what, sha256, mirrors)
    tell = progress or (lambda *_: None)
    if source is not None:
        return _take_in(store, asset, Path(source), tell, force=force)
    name = asset.files[0]
    key = _key(asset, asset.sha256 or "", name)
    held = store.find(key) or find_fetched(store.entries(), asset)
    if held:
        if not held.read_only:
            with suppress(OSError):  # it was removed just now, or belongs to another
                held.touch()
        return held
    if not asset.is_fetchable:
        raise FetchError(how_to_get(asset))
    if current_settings().offline if offline is None else offline:
        given = [option for url in mirrors for option in ("--mirror", url)]
        if sha256:
            given += ["--sha256", str(asset.sha256)]
        command = shlex.join(["lacuna", "fetch", asset.name, *given])
        raise OfflineError(
            f"{asset.name} is not in the cache, and the network is off (--offline, LACUNA_OFFLINE "
            f"or offline in a configuration file). On a machine with network, `{command}` prints "
            f"the path of the file; copy that here, and run `{command} --from FILE`."
        )

    def make(directory: Path) -> None:
        with store.partial(key) as partial:
            download(partial, asset.urls, str(asset.sha256), patience or Patience(), tell)
            partial.move_to(directory / name)

    return store.get_or_make(key, make)


def how_to_get(asset: Asset) -> str:
    """Return what a person has to do for an asset that is not in the cache."""
    if asset.is_fetchable:
        return f"{asset.name} is not in the cache: `lacuna fetch {asset.name}` fetches it."
    return (
        f"{asset.name} has to be downloaded by hand ({asset.licence}). {asset.how} See "
        f"https://doi.org/{asset.doi}; then `lacuna fetch {asset.name} --from FILE` takes it in."
    )


def _read_request(what: str | Asset, sha256: str | None, mirrors: Sequence[str]) -> Asset:
    """Return what is asked for, with what was given; an address is an asset of that name."""
    if sha256 is not None:
        sha256 = sha256.strip().lower().removeprefix("sha256:")
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise OptionError(f"{sha256!r} is no SHA-256, which has 64 digits: 0 to 9, a to f.")
    address = what if isinstance(what, str) and "://" in what else ""
    for url in filter(None, (address, *mirrors)):
        with suppress(ValueError):
            parts = urlsplit(url)
            if parts.scheme in ("http", "https") and parts.hostname:
                continue
        raise OptionError(
            f"{url} cannot be fetched: an address begins with https:// or http://. A file that is "
            "here already is taken in with --from."
        )
    if address and sha256 is None:
        raise OptionError(
            f"{what} needs --sha256: without the file's checksum nobody can tell whether what "
            "comes is that file. Who publishes it often states the sum beside it."
        )
    if address:
        asset = Asset(name=address, files=(_file_name(address),), urls=(address,))
    else:
        asset = what if isinstance(what, Asset) else get_asset(what)
    return replace(asset, sha256=sha256 or asset.sha256, urls=(*asset.urls, *mirrors))


def _key(asset: Asset, sha256: str, name: str, table: str = "") -> Key:
    label = f"{asset.name}, {asset.space}" if asset.space else name
    names = {"names": hashlib.sha256(table.encode()).hexdigest()} if table else {}
    return Key("download", {"sha256": sha256, "name": name, **names}, label=label)


def _file_name(url: str) -> str:
    """Return the name that an address gives a file, with nothing that could lead elsewhere."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    name = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[-200:].lstrip(".")
    if not name:
        raise OptionError(f"{url} does not end in the name of a file: give the file's own address.")
    return f"_{name}" if name == "meta.json" else name


def _take_in(
    store: Store, asset: Asset, path: Path, tell: Progress, *, force: bool = False
) -> Entry:
    """Copy a file into the cache, if it is what it should be."""
    if not path.is_file():
        raise FormatError(f"{path} is no file. Give the one that holds {asset.name}.")
    fits = [name for name in asset.files if path.name.lower().endswith(_ending(name))]
    if asset.sha256 is None:
        _look_at(path, asset, fits, force=force)
    table = _read_names(path, asset) if asset.kind in ATLASES else ""
    if asset.images_from and asset.space:
        from lacuna.formats.transform import load_transform

        load_transform(path, asset.images_from, asset.space)
    name = (fits or asset.files)[0]
    sha256 = asset.sha256 or _copy(path, Path(os.devnull), f"{name} (checking)", tell)

    def make(directory: Path) -> None:
        found = _copy(path, directory / name, f"{name} (copying)", tell)
        if found != sha256:
            raise ChecksumError(
                f"{path} is not {asset.name}: its SHA-256 is {found}, not {sha256}. Download it "
                "again, or wait until it is copied whole."
            )
        if table:
            beside = name.removesuffix(_ending(name)) + ".tsv"
            (directory / beside).write_text(table, encoding="utf-8")

    key = _key(asset, sha256, name, table)
    return store.get_or_make(key, make, expected_bytes=path.stat().st_size)


def _read_names(path: Path, asset: Asset) -> str:
    """Return the table of names beside an atlas, as it is kept; refuse an atlas of other regions.

    Nothing if there is no table.
    """
    from lacuna.formats.atlas import find_table, load_atlas
    from lacuna.formats.tracts import load_tract_atlas

    if asset.kind == ATLASES[False]:
        atlas = load_atlas(path)
        names, numbers = atlas.names, atlas.numbers.tolist()
    else:
        names = load_tract_atlas(path).names
        numbers = list(range(1, len(names) + 1))
    if asset.n_regions not in (None, len(names)):
        raise FormatError(
            f"{path} is not {asset.name}: it has {len(names)} regions, not {asset.n_regions}. "
            "Give the file of that name, as `lacuna fetch` without --from says."
        )
    rows = [f"{number}\t{name}" for number, name in zip(numbers, names, strict=True)]
    return "\n".join(["index\tname", *rows, ""]) if find_table(path) else ""


def _look_at(path: Path, asset: Asset, fits: Sequence[str], *, force: bool) -> None:
    """Refuse what cannot be the asset, whose checksum nobody knows, by its name and beginning."""
    from lacuna.formats import check_header

    with path.open("rb") as file:
        start = file.read(4096)
    if page := describe_page(start):
        raise FormatError(f"{path} is not {asset.name}. {page} Open it to see, and try again.")
    if not fits:
        endings = ", ".join(map(_ending, asset.files))
        raise FormatError(f"{path} cannot be {asset.name}: its name should end in {endings}.")
    if not start.startswith(_BEGINNINGS.get(path.suffix.lower(), b"")):
        raise FormatError(
            f"{path} does not begin as a {_ending(fits[0])} file does, but with {start[:12]!r}: it "
            "is another format, or damaged. Download it again."
        )
    count, n_bytes = check_header(path), path.stat().st_size
    differences = []
    if _is_far(n_bytes, asset.size_bytes):
        differences.append(f"{size_text(n_bytes)}, not about {size_text(asset.size_bytes or 0)}")
    if _is_far(count, asset.n_streamlines):
        differences.append(f"{count:,} streamlines, not about {asset.n_streamlines:,}")
    if differences and not force:
        raise FormatError(
            f"{path} is hardly {asset.name}: it has {' and '.join(differences)}. Download it again "
            "if it is cut short; --force takes it in under that name all the same."
        )


def _is_far(found: int | None, expected: int | None) -> bool:
    """Whether two numbers that are known differ by more than ten times."""
    if found is None or expected is None:
        return False
    return not expected <= 10 * found <= 100 * expected


def _ending(name: str) -> str:
    return "".join(Path(name).suffixes).lower()


def _copy(path: Path, target: Path, what: str, tell: Progress) -> str:
    """Copy a file, and return its SHA-256."""
    digest, total = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file, target.open("wb") as sink:
        while block := file.read(_BLOCK):
            digest.update(block)
            sink.write(block)
            tell(what, file.tell(), total)
    return digest.hexdigest()
