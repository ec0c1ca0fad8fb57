"""An HTTP server on this machine that behaves as badly as a test asks."""

import http.server
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

CHUNK = 8192


@dataclass
class Seen:
    """A request that came, and what was sent for it."""

    path: str
    headers: dict[str, str]
    n_sent: int = 0


@dataclass
class Server:
    """Serves one file under every path; ``script`` says how the next requests are answered.

    A context manager while it runs. Once the script is used up, requests are served as they
    should be.
    """

    content: bytes
    tag: str | None = '"v1"'
    script: list[Callable[["Handler"], None]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    certificate: ssl.SSLContext | None = None

    def __enter__(self) -> Self:
        server = self

        class Bound(Handler):
            owner = server

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._http.daemon_threads = True
        self.scheme = "http"
        if self.certificate:
            self._http.socket = self.certificate.wrap_socket(self._http.socket, server_side=True)
            self.scheme = "https"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def root(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self._http.server_address[1]}"

    def url(self, name: str = "data.trk") -> str:
        return f"{self.root}/{name}"

    @property
    def n_sent(self) -> int:
        return sum(request.n_sent for request in self.seen)

    @property
    def ranges(self) -> list[str | None]:
        return [request.headers.get("range") for request in self.seen]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the script of its server."""

    owner: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_seen = Seen(self.path, headers)
        self.owner.seen.append(self.request_seen)
        answer = self.owner.script.pop(0) if self.owner.script else serve()
        self.close_connection = True
        with suppress(ConnectionError, ssl.SSLError):  # who asked has gone
            answer(self)

    def handle(self) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            super().handle()

    def end_headers(self) -> None:
        self.send_header("Connection", "close")
        super().end_headers()

    def send(self, body: bytes, pause_s: float = 0.0, chunk: int = CHUNK) -> None:
        for start in range(0, len(body), chunk):
            piece = body[start : start + chunk]
            self.wfile.write(piece)
            self.request_seen.n_sent += len(piece)
            time.sleep(pause_s)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Answer = Callable[[Handler], None]


def serve(
    *,
    ranges: bool = True,
    drop_at: int | None = None,
    length: int | None = None,
    state_length: bool = True,
    pause_s: float = 0.0,
    chunk: int = CHUNK,
    skip: int = 0,
    reset: bool = False,
) -> Answer:
    """Return how to send the file.

    Parameters
    ----------
    ranges
        Whether a range is honoured.
    drop_at
        End the connection after so many bytes of the answer.
    length
        A false Content-Length.
    skip
        Send a part that begins so much later than the one asked for.
    reset
        End it with a reset.
    """

    def answer(handler: Handler) -> None:
        owner, wanted = handler.owner, handler.headers.get("Range")
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        condition = handler.headers.get("If-Range")
        start = int(found[1]) if found and ranges and condition in (None, owner.tag) else None
        if start is not None and start >= len(owner.content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(owner.content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = owner.content[(start or 0) + skip :]
        handler.send_response(200 if start is None else 206)
        if start is not None:
            last, size = len(owner.content) - 1, len(owner.content)
            handler.send_header("Content-Range", f"bytes {start + skip}-{last}/{size}")
        if owner.tag:
            handler.send_header("ETag", owner.tag)
        if state_length:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.send(body[:drop_at], pause_s, chunk)
        if reset:
            linger_not = b"\x01\0\0\0\0\0\0\0"
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)

    return answer


def status(code: int, **headers: str) -> Answer:
    """Return how to answer with a status and nothing else."""

    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def page(text: str = "<html><title>Sign in</title></html>") -> Answer:
    """Return how to answer with an HTML page that says it is all right."""

    def answer(handler: Handler) -> None:
        body = text.encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html; charset=utf-8")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.send(body)

    return answer


def replace(content: bytes, tag: str | None, then: Answer | None = None) -> Answer:
    """Return how to put another file in place, and answer."""

    def answer(handler: Handler) -> None:
        handler.owner.content, handler.owner.tag = content, tag
        (then or serve())(handler)

    return answer
