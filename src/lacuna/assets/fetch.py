"""Files that others publish, fetched or taken in once and kept in the cache."""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from urllib.parse import unquote, urlsplit

from lacuna.assets.catalog import Asset, find_fetched, get_asset
from lacuna.assets.transfer import Patience, Progress, describe_page, download
from lacuna.config import current_settings
from lacuna.errors import ChecksumError, FetchError, FormatError, OfflineError, OptionError
from lacuna.store import Entry, Key, Store

_logger = logging.getLogger(__name__)

_BLOCK = 1 << 20
_BEGINNINGS = {".zip": b"PK", ".gz": b"\x1f\x8b", ".h5": b"\x89HDF"}
"""With what a file of that ending begins, where `lacuna.formats` does not read it."""


@dataclass(frozen=True)
class _Wanted:
    """What is asked for.

    Parameters
    ----------
    said
        As the caller named it.
    names
        Under which it may be kept.
    label
        For people.
    """

    said: str
    names: tuple[str, ...]
    label: str
    sha256: str | None
    urls: tuple[str, ...]
    size_bytes: int | None
    asset: Asset | None

    @property
    def command(self) -> str:
        """The command line that asks for it."""
        given = f" --sha256 {self.sha256}" if self.sha256 and not self.asset else ""
        return f"lacuna fetch {quote(self.said)}{given}"

    def key(self, sha256: str, name: str) -> Key:
        return Key("download", {"sha256": sha256, "name": name}, label=self.label)


def fetch(
    store: Store,
    what: str | Asset,
    *,
    sha256: str | None = None,
    mirrors: Sequence[str] = (),
    source: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
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
    progress
        Told how far it is.

    Returns
    -------
    Entry
        Its only file is ``entry.path / entry.files[0]``.

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
        ``source`` is not what its name says.
    CacheFullError
        It does not fit; what came so far is kept.
    """
    wanted = _read_request(what, sha256, mirrors)
    if source is not None:
        return _take_in(store, wanted, Path(source), progress)
    held = wanted.asset and find_fetched(store.entries(), wanted.asset, wanted.sha256)
    if held:
        return held
    if wanted.sha256 is None or not wanted.urls:
        raise FetchError(how_to_get(wanted.asset) if wanted.asset else f"{what} has no address.")
    key = wanted.key(wanted.sha256, wanted.names[0])
    offline = current_settings().offline if offline is None else offline
    if offline and store.find(key) is None:
        raise OfflineError(
            f"{wanted.said} is not in the cache, and the network is off (--offline, "
            f"LACUNA_OFFLINE or offline in a configuration file). On a machine with network, "
            f"`{wanted.command}` prints the path of the file; copy that here, and run "
            f"`{wanted.command} --from FILE`."
        )
    return _fetch(store, wanted, key, patience or Patience(), progress)


def how_to_get(asset: Asset) -> str:
    """Return what a person has to do for an asset that is not in the cache."""
    if asset.is_fetchable:
        return f"{asset.name} is not in the cache: `lacuna fetch {asset.name}` fetches it."
    return (
        f"{asset.name} has to be downloaded by hand ({asset.licence}). {asset.how} See "
        f"https://doi.org/{asset.doi}; then `lacuna fetch {asset.name} --from FILE` takes it in."
    )


def _read_request(what: str | Asset, sha256: str | None, mirrors: Sequence[str]) -> _Wanted:
    if sha256 is not None:
        sha256 = sha256.strip().lower().removeprefix("sha256:")
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise OptionError(f"{sha256!r} is no SHA-256, which has 64 digits: 0 to 9, a to f.")
    for url in mirrors:
        _check_address(url)
    if isinstance(what, str) and "://" in what:
        _check_address(what)
        if sha256 is None:
            raise OptionError(
                f"{what} needs --sha256: without the file's checksum nobody can tell whether what "
                "comes is that file. Who publishes it often states the sum beside it."
            )
        name = _file_name(what)
        return _Wanted(what, (name,), name, sha256, (what, *mirrors), None, None)
    asset = what if isinstance(what, Asset) else get_asset(what)
    label = f"{asset.name}, {asset.space}" if asset.space else asset.name
    known, urls = sha256 or asset.sha256, (*asset.urls, *mirrors)
    return _Wanted(asset.name, asset.files, label, known, urls, asset.size_bytes, asset)


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise OptionError(
            f"{url} cannot be fetched: an address begins with https:// or http://. A file that is "
            "here already is taken in with --from."
        )


def _file_name(url: str) -> str:
    """Return the name that an address gives a file, with nothing that could lead elsewhere."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    name = re.sub(r"[^\w.+-]", "_", name).lstrip(".")[-200:]
    return f"_{name}" if name in ("", "meta.json") else name


def _fetch(
    store: Store, wanted: _Wanted, key: Key, patience: Patience, progress: Progress | None
) -> Entry:
    name = wanted.names[0]

    def make(directory: Path) -> None:
        with store.partial(key) as partial:
            download(
                partial,
                wanted.urls,
                str(wanted.sha256),
                what=name,
                patience=patience,
                progress=progress,
            )
            partial.move_to(directory / name)

    size = wanted.size_bytes
    rest = None if size is None else max(size - store.partial(key).size_bytes, 0)
    return store.get_or_make(key, make, expected_bytes=rest)


def _take_in(store: Store, wanted: _Wanted, path: Path, progress: Progress | None) -> Entry:
    """Copy a file into the cache, if it is what it should be."""
    name = _name_for(wanted, path)
    found = _copy(path, None, name, progress)
    if wanted.sha256 not in (None, found):
        raise ChecksumError(
            f"{path} is not {wanted.said}: its SHA-256 is {found}, not {wanted.sha256}. "
            "Download it again, and copy it whole."
        )

    def make(directory: Path) -> None:
        if _copy(path, directory / name, name, progress) != found:
            raise ChecksumError(f"{path} changed while it was read. Wait until it is complete.")

    key = wanted.key(found, name)
    return store.get_or_make(key, make, expected_bytes=path.stat().st_size)


def _name_for(wanted: _Wanted, path: Path) -> str:
    """Return the name under which a file is kept, after a look at how it begins."""
    from lacuna.formats import check_header

    if not path.is_file():
        raise FormatError(f"{path} is no file. Give the one that holds {wanted.said}.")
    with path.open("rb") as file:
        start = file.read(4096)
    page = describe_page(start, is_page=True)
    if page and not any(name.endswith((".html", ".htm")) for name in wanted.names):
        raise FormatError(f"{path} is not {wanted.said}. {page} Open it to see, and try again.")
    suffixes = "".join(path.suffixes[-2:]).lower()
    fits = [name for name in wanted.names if suffixes.endswith(_ending(name))]
    if wanted.sha256 is None and not fits:
        endings = ", ".join(_ending(name) for name in wanted.names)
        raise FormatError(f"{path} cannot be {wanted.said}: its name should end in {endings}.")
    name = fits[0] if fits else wanted.names[0]
    begins = _BEGINNINGS.get(Path(name).suffix.lower(), b"")
    if not start.startswith(begins):
        raise FormatError(
            f"{path} does not begin as a {_ending(name)} file does, but with {start[:12]!r}: it is "
            "another format, or damaged. Download it again."
        )
    check_header(path)
    return name


def _ending(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return Path(name).with_suffix("").suffix.lower() + suffix if suffix == ".gz" else suffix


def _copy(path: Path, target: Path | None, name: str, progress: Progress | None) -> str:
    """Read a file, copy it if a target is given, and return its SHA-256."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        sink = stack.enter_context(target.open("xb")) if target else None
        while block := file.read(_BLOCK):
            digest.update(block)
            if sink:
                sink.write(block)
            done += len(block)
            if progress:
                progress(f"{name} ({'copying' if target else 'checking'})", done, total)
    return digest.hexdigest()
