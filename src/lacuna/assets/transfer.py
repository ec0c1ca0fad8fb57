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
from typing import TYPE_CHECKING

from lacuna.config import certificates
from lacuna.errors import ChecksumError, FetchError, NetworkError
from lacuna.store import Partial, size_text

if TYPE_CHECKING:
    import requests

_logger = logging.getLogger(__name__)

_BLOCK = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d*)")
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
        In a row that bring nothing new, or less than comes at that rate in `read_s`.
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
    """

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


def download(
    partial: Partial, urls: Sequence[str], sha256: str, patience: Patience, progress: Progress
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
        # Of a compressed answer no range could be resumed.
        session.headers.update({"User-Agent": "lacuna", "Accept-Encoding": "identity"})
        session.verify = certificates() or True
        transfer = _Transfer(session, partial, sha256, patience, progress)
        for url in urls:
            try:
                return transfer.run(url)
            except NetworkError as error:
                errors.append(error)
                _logger.info("%s", error)
    if len(errors) == 1:
        raise errors[0]
    raise FetchError(f"No address gave {partial.what}. " + " ".join(map(str, errors)))


@dataclass
class _Transfer:
    """What is there of the file, its running checksum, and how to get the rest."""

    session: "requests.Session"
    partial: Partial
    sha256: str
    patience: Patience
    tell: Progress

    def __post_init__(self) -> None:
        self.n_bytes, self.hash = 0, hashlib.sha256()
        while block := self.partial.read(_BLOCK, self.n_bytes):
            self._note(block)
        self.in_pieces = self.n_bytes > 0

    def run(self, url: str) -> None:
        """Try until the file is whole, or next to nothing has come for several attempts."""
        patience = self.patience
        enough = patience.read_s * patience.min_bytes_per_s
        n_failed, furthest, self.tag = 0, self.n_bytes, ""
        while not self._is_whole():
            try:
                self._attempt(url)
                continue
            except _SetbackError as caught:
                setback = caught
            if self._is_whole():  # a server that said it would send more
                return
            n_failed = 0 if self.n_bytes - furthest >= enough else n_failed + 1
            furthest = max(furthest, self.n_bytes)
            if n_failed >= patience.attempts:
                raise FetchError(
                    f"{url} could not be fetched: {setback}, {n_failed} times in a row. "
                    f"{size_text(self.n_bytes)} are kept, so run it again later; behind a proxy, "
                    "set HTTPS_PROXY."
                )
            jitter = random.uniform(0.5, 1.0)  # noqa: S311 — not secrecy
            grown = patience.first_pause_s * 2 ** max(n_failed - 1, 0) * jitter
            pause_s = min(max(grown, setback.pause_s), patience.longest_pause_s)
            _logger.warning("%s: %s; trying again in %.0f s.", url, setback, pause_s)
            time.sleep(pause_s)

    def _is_whole(self) -> bool:
        # The size: somebody who took us for dead may have added to the same file.
        is_ours = self.partial.size_bytes == self.n_bytes
        return is_ours and self.hash.hexdigest() == self.sha256

    def _attempt(self, url: str) -> None:
        import requests
        from urllib3.exceptions import HTTPError

        headers = {"Range": f"bytes={self.n_bytes}-"} if self.n_bytes else {}
        limits = self.patience.connect_s, self.patience.read_s
        try:
            with self.session.get(url, headers=headers, stream=True, timeout=limits) as response:
                self._receive(response, self._begin(url, response))
        # ValueError: dates, numbers and addresses in headers that nobody can read.
        except (requests.RequestException, HTTPError, ValueError) as error:
            why = _reason(error)
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise FetchError(
                    f"{url} could not be fetched: the server's certificate is not trusted ({why}). "
                    "If your institution has certificates of its own, name their file in "
                    "REQUESTS_CA_BUNDLE or SSL_CERT_FILE."
                ) from error
            if isinstance(error, HTTPError | requests.ConnectionError | requests.Timeout):
                raise _SetbackError(why) from error
            raise FetchError(f"{url} could not be fetched: {why}. Check the address.") from error
        if not self._is_whole():
            raise self._wrong_file(url)

    def _begin(self, url: str, response: "requests.Response") -> int:
        """Look at what a server answers; return how large it says the file is, bytes; 0: unsaid."""
        from urllib3.util import Retry

        headers, status, tag = response.headers, response.status_code, self.tag
        if status == 206:
            found = _CONTENT_RANGE.match(headers.get("Content-Range", ""))
            if found is None or int(found[1]) != self.n_bytes:
                raise self._start_over("the server sent another part than was asked for")
            total = int(found[2] or 0)
        elif status == 200:
            if self.n_bytes and "html" in headers.get("Content-Type", "").lower():
                # Of a login, perhaps: no reason to lose what came.
                raise _SetbackError("the server sent an HTML page instead of the rest")
            self._start_over()
            total = response.raw.length_remaining or 0
        elif status == 416:
            raise self._start_over("the server has less of it than had come")
        elif status in (408, 425, 429) or status >= 500:
            asked = Retry().get_retry_after(response.raw) or 0.0
            raise _SetbackError(f"the server answered {status} {response.reason}", asked)
        else:
            raise FetchError(
                f"{url} could not be fetched: the server answered {status} {response.reason}. "
                "Check the address, and whether it wants a login: then fetch the file with a "
                "browser and take it in with --from."
            )
        self.tag = headers.get("ETag", "")  # a weak one vouches for no bytes
        self.in_pieces |= self.n_bytes > 0 and not (tag == self.tag and tag.startswith('"'))
        if total:
            self.partial.require_space(total - self.n_bytes)
        return total

    def _receive(self, response: "requests.Response", total: int) -> None:
        patience = self.patience
        since, before = time.monotonic(), self.n_bytes
        # read1: read would wait for a whole block, however slowly it trickles in.
        while block := response.raw.read1(_BLOCK, decode_content=False):
            self.partial.append(block)
            self._note(block)
            self.tell(self.partial.what, self.n_bytes, total)
            elapsed = time.monotonic() - since
            if elapsed >= patience.read_s:
                rate = (self.n_bytes - before) / elapsed
                if rate < patience.min_bytes_per_s:
                    raise _SetbackError(f"it came with {rate:.0f} bytes a second")
                since, before = time.monotonic(), self.n_bytes
        if self.n_bytes < total:  # it may send less at once than it was asked for
            raise _SetbackError(f"the server sent {self.n_bytes} of {total} bytes")

    def _note(self, block: bytes) -> None:
        self.hash.update(block)
        self.n_bytes += len(block)

    def _start_over(self, reason: str = "") -> _SetbackError:
        self.partial.clear()
        self.n_bytes, self.hash, self.in_pieces = 0, hashlib.sha256(), False
        return _SetbackError(reason)

    def _wrong_file(self, url: str) -> Exception:
        if self.in_pieces:
            return self._start_over("its pieces do not fit together")
        page = describe_page(self.partial.read(4096, 0))
        found, size = self.hash.hexdigest(), size_text(self.n_bytes)
        self._start_over()
        return ChecksumError(
            f"What {url} gave ({size}) is not {self.partial.what}: its SHA-256 is {found}, not "
            f"{self.sha256}. {page or 'The file may have been replaced, or the sum is mistyped.'} "
            "It was thrown away."
        )


def describe_page(start: bytes) -> str:
    """Return a sentence if what begins like this is an HTML page, else nothing."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"<") or text.startswith(b"<?xml"):
        return ""
    title = _TITLE.search(start)
    named = f" titled “{title[1].decode(errors='replace').strip()}”" if title else ""
    return f"It looks like an HTML page{named}: an error, or a page to log in."


def _reason(error: BaseException) -> str:
    """Return what lies behind an error that others have wrapped several times."""
    behind = (getattr(error, "reason", None), *error.args)
    inner = [each for each in behind if isinstance(each, BaseException)]
    if inner:
        return _reason(inner[-1])
    return str(error).rpartition("): ")[2] or type(error).__name__
