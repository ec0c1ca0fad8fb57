"""One file over HTTP, until it is whole: resumed, tried again, and checked against its SHA-256.

What a server says of itself is a hint: a stated length, a range, even the status of a page that
excuses itself. The checksum alone decides whether the file is there.
"""

import hashlib
import logging
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from lacuna.config import certificates
from lacuna.errors import ChecksumError, FetchError, NetworkError
from lacuna.store import Partial, size_text

if TYPE_CHECKING:
    import requests

_logger = logging.getLogger(__name__)

_BLOCK = 1 << 20
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_TITLE = re.compile(rb"<title[^>]*>\s*([^<]{1,80})", re.IGNORECASE)

Progress = Callable[[str, int, int], None]
"""Called with the file, bytes so far, and bytes in all (0: unknown)."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how often to ask it again.

    Parameters
    ----------
    connect_s
        For a connection.
    read_s
        For the next bytes; and the time over which the rate is measured.
    min_bytes_per_s
        What comes slower than this is given up, and asked for again.
    attempts
        In a row that bring nothing new.
    first_pause_s, longest_pause_s
        Between attempts; doubled each time, with jitter. A server may ask for more, up to the
        longest.
    """

    connect_s: float = 20.0
    read_s: float = 60.0
    min_bytes_per_s: float = 500.0
    attempts: int = 6
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0


class _SetbackError(Exception):
    """An attempt failed in a way that the next one may not.

    Parameters
    ----------
    pause_s
        For which the server asks.
    is_slow
        It brings something each time, but would never come to an end.
    """

    def __init__(self, reason: str, pause_s: float = 0.0, *, is_slow: bool = False) -> None:
        super().__init__(reason)
        self.pause_s, self.is_slow = pause_s, is_slow


def download(
    partial: Partial,
    urls: Sequence[str],
    sha256: str,
    *,
    what: str,
    patience: Patience,
    progress: Progress | None = None,
) -> None:
    """Complete a partial from the first address that gives the file.

    Parameters
    ----------
    partial
        Entered; what it holds already is checked and not fetched again.
    urls
        Of the same file, tried in order.
    sha256
        Of the file, 64 hexadecimal digits.
    what
        The file, for people.

    Raises
    ------
    ChecksumError
        What came is another file; it was thrown away.
    FetchError
        No address gave it; what came so far stays in the partial.
    """
    import requests

    errors: list[NetworkError] = []
    with requests.Session() as session:
        session.headers.update(
            {
                "User-Agent": "lacuna",
                "Accept-Encoding": "identity",  # of a compressed answer no range could be resumed
            }
        )
        transfer = _Transfer(session, partial, sha256, what, patience, progress)
        for url in urls:
            try:
                return transfer.run(url)
            except NetworkError as error:
                errors.append(error)
                _logger.info("%s", error)
    if len(errors) == 1:
        raise errors[0]
    kind = ChecksumError if all(type(error) is ChecksumError for error in errors) else FetchError
    raise kind(f"No address gave {what}. " + " ".join(str(error) for error in errors))


class _Transfer:
    """What is there of the file, its running checksum, and how to get the rest."""

    def __init__(
        self,
        session: "requests.Session",
        partial: Partial,
        sha256: str,
        what: str,
        patience: Patience,
        progress: Progress | None,
    ) -> None:
        self._session, self._partial, self._sha256 = session, partial, sha256
        self._what, self._patience = what, patience
        self._tell = progress or (lambda *_: None)
        self._certificates = certificates() or True
        self._n_bytes, self._hash = 0, hashlib.sha256()
        self._in_pieces = False
        self._is_page = False
        while block := partial.read(_BLOCK, self._n_bytes):
            self._note(block)
            self._in_pieces = True

    def run(self, url: str) -> None:
        """Try until the file is whole, or nothing new has come for several attempts."""
        n_failed, furthest = 0, self._n_bytes
        while not self._is_whole():
            try:
                self._attempt(url)
                if self._is_whole():
                    return
                if not self._in_pieces:
                    raise self._wrong_file(url)
                setback = _SetbackError("its pieces do not fit together")
                self._start_over()
            except _SetbackError as caught:
                setback = caught
                if self._is_whole():  # a server that said it would send more
                    return
            has_gained = self._n_bytes > furthest and not setback.is_slow
            n_failed = 0 if has_gained else n_failed + 1
            furthest = max(furthest, self._n_bytes)
            if n_failed >= self._patience.attempts:
                raise FetchError(
                    f"{url} could not be fetched: {setback}, {n_failed} times in a row. "
                    f"{size_text(self._n_bytes)} are kept, so run it again later; behind a proxy, "
                    "set HTTPS_PROXY."
                )
            self._pause(url, setback, n_failed)

    def _pause(self, url: str, setback: _SetbackError, n_failed: int) -> None:
        patience = self._patience
        grown = patience.first_pause_s * 2 ** max(n_failed - 1, 0)
        wanted = max(grown * random.uniform(0.5, 1.0), setback.pause_s)  # noqa: S311 — jitter
        pause_s = min(wanted, patience.longest_pause_s)
        _logger.warning("%s: %s; trying again in %.0f s.", url, setback, pause_s)
        time.sleep(pause_s)

    def _is_whole(self) -> bool:
        # The size: somebody who took us for dead may have added to the same file.
        is_ours = self._partial.size_bytes == self._n_bytes
        return is_ours and self._hash.hexdigest() == self._sha256

    def _attempt(self, url: str) -> None:
        import requests
        from urllib3.exceptions import HTTPError

        limits = self._patience.connect_s, self._patience.read_s
        exceptions = requests.exceptions
        try:
            with self._session.get(
                url,
                headers=self._conditions(url),
                stream=True,
                timeout=limits,
                verify=self._certificates,
            ) as response:
                self._receive(response, self._begin(url, response))
        except exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise _SetbackError(_reason(error)) from error
            raise FetchError(
                f"{url} could not be fetched: the server's certificate is not trusted "
                f"({_reason(error)}). If your institution has certificates of its own, name their "
                "file in REQUESTS_CA_BUNDLE or SSL_CERT_FILE."
            ) from error
        except (exceptions.ConnectionError, exceptions.Timeout, HTTPError) as error:
            raise _SetbackError(_reason(error)) from error
        except exceptions.RequestException as error:
            raise FetchError(
                f"{url} could not be fetched: {_reason(error)}. Check the address."
            ) from error

    def _conditions(self, url: str) -> dict[str, str]:
        """Return the headers that ask for what is missing, of the file that we know."""
        if not self._n_bytes:
            return {}
        headers = {"Range": f"bytes={self._n_bytes}-"}
        source = self._partial.source
        if source.get("url") == url and source.get("validator"):
            headers["If-Range"] = source["validator"]
        return headers

    def _begin(self, url: str, response: "requests.Response") -> int | None:
        """Look at what a server answers, and return how large it says the file is, bytes."""
        headers, status = response.headers, response.status_code
        total: int | None = None
        is_page = "html" in headers.get("Content-Type", "").lower()
        if status == 206 and self._n_bytes:
            total = self._check_continuation(url, response)
        elif status == 200:
            if self._n_bytes and is_page:  # of a login, perhaps: no reason to lose what came
                raise _SetbackError("the server sent an HTML page instead of the rest")
            if self._n_bytes:
                self._start_over()
            stated = headers.get("Content-Length", "")
            total = int(stated) if stated.isdecimal() else None
        elif status == 416:
            self._start_over()
            raise _SetbackError("the server has less of it than had come")
        elif status in _WORTH_ANOTHER_TRY:
            asked = _retry_after(headers.get("Retry-After", ""))
            raise _SetbackError(f"the server answered {status} {response.reason}", asked)
        else:
            raise FetchError(
                f"{url} could not be fetched: the server answered {status} {response.reason}. "
                "Check the address, and whether it wants a login: then fetch the file with a "
                "browser and take it in with --from."
            )
        self._is_page = is_page
        self._partial.note_source({"url": url, "validator": _validator(response), "total": total})
        if total is not None:
            self._partial.require_space(total - self._n_bytes)
        return total

    def _check_continuation(self, url: str, response: "requests.Response") -> int | None:
        """Return the size of the file that a range is a part of; not the range or file: again."""
        source, now = self._partial.source, _validator(response)
        known = source.get("validator") if source.get("url") == url else None
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        total = int(found[2]) if found and found[2] != "*" else None
        if found is None or int(found[1]) != self._n_bytes:
            self._start_over()
            raise _SetbackError("the server sent another part than was asked for")
        sizes = {total, source.get("total")} - {None}
        if len(sizes) > 1 or (known and now and known != now):
            self._start_over()
            raise _SetbackError("the file has changed meanwhile")
        self._in_pieces |= known is None or known != now
        return total

    def _receive(self, response: "requests.Response", total: int | None) -> None:
        patience = self._patience
        since, before = time.monotonic(), self._n_bytes
        # read1: read would wait for a whole block, however slowly it trickles in.
        while block := response.raw.read1(_BLOCK, decode_content=False):
            self._partial.append(block)
            self._note(block)
            self._tell(self._what, self._n_bytes, total or 0)
            elapsed = time.monotonic() - since
            if elapsed >= patience.read_s:
                rate = (self._n_bytes - before) / elapsed
                if rate < patience.min_bytes_per_s:
                    raise _SetbackError(f"it came with {rate:.0f} bytes a second", is_slow=True)
                since, before = time.monotonic(), self._n_bytes
        if total is not None and self._n_bytes < total:
            raise _SetbackError(f"the connection ended after {self._n_bytes} of {total} bytes")

    def _note(self, block: bytes) -> None:
        self._hash.update(block)
        self._n_bytes += len(block)

    def _start_over(self) -> None:
        self._partial.clear()
        self._n_bytes, self._hash, self._in_pieces = 0, hashlib.sha256(), False

    def _wrong_file(self, url: str) -> ChecksumError:
        page = describe_page(self._partial.read(4096, 0), is_page=self._is_page)
        found, size = self._hash.hexdigest(), size_text(self._n_bytes)
        self._start_over()
        return ChecksumError(
            f"What {url} gave ({size}) is not {self._what}: its SHA-256 is {found}, not "
            f"{self._sha256}. {page or 'The file may have been replaced, or the sum is mistyped.'} "
            "It was thrown away."
        )


def describe_page(start: bytes, *, is_page: bool = False) -> str:
    """Return a sentence if what begins like this is an HTML page, else nothing."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not (text.startswith((b"<!doctype html", b"<html")) or (is_page and text[:1] == b"<")):
        return ""
    title = _TITLE.search(start)
    named = f" titled “{title[1].decode(errors='replace').strip()}”" if title else ""
    return f"It looks like an HTML page{named}: an error, or a page to log in."


def _validator(response: "requests.Response") -> str | None:
    """Return what tells this version of a file from another; a weak tag does not."""
    tag: str = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _retry_after(text: str) -> float:
    """Return how long a server asks to wait, s."""
    if text.isdecimal():
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return 0.0


def _reason(error: BaseException) -> str:
    """Return what lies behind an error that others have wrapped several times."""
    behind = (getattr(error, "reason", None), *error.args)
    inner = [each for each in behind if isinstance(each, BaseException)]
    if inner:
        return _reason(inner[-1])
    return str(error).rpartition("): ")[2] or type(error).__name__
