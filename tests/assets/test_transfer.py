"""Servers that drop, truncate, lie, stall and change their minds, and what is made of them."""

import hashlib
import ssl
import threading
import time
from dataclasses import replace as changed

import pytest
import trustme
from tests.assets.conftest import QUICK
from tests.assets.server import Server, page, replace, serve, status

from lacuna.assets.fetch import fetch
from lacuna.errors import ChecksumError, ConfigError, FetchError

OTHER = b"TRACK, but another file" * 9000


@pytest.fixture
def get(store, server, sha256):
    """Return a function that fetches the server's file, and gives its bytes."""

    def fetched(patience=QUICK, **options):
        options = {"sha256": sha256, "offline": False} | options
        entry = fetch(store, options.pop("url", server.url()), patience=patience, **options)
        return (entry.path / entry.files[0]).read_bytes()

    return fetched


def partials(store):
    place = store.root / ".partial"
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


def kept_bytes(store):
    return sum(path.stat().st_size for path in (store.root / ".partial").iterdir())


def test_download__is_one_request_and_leaves_nothing_beside_the_entry(get, server, store, content):
    assert get() == content
    assert get() == content
    assert [seen.path for seen in server.seen] == ["/data.trk"]
    assert server.seen[0].headers["accept-encoding"] == "identity"
    assert partials(store) == []


def test_progress__is_told_bytes_so_far_and_in_all(get, content):
    told = []
    get(progress=lambda *said: told.append(said))
    assert told[-1] == ("data.trk", len(content), len(content))


@pytest.mark.parametrize("reset", [False, True])
def test_dropped__goes_on_where_it_ended(get, server, content, reset):
    server.script = [serve(drop_at=50_000, reset=reset), serve(drop_at=70_000, reset=reset)]
    assert get() == content
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in server.ranges[1:]]
    assert 0 < starts[0] < starts[1] < len(content)
    assert reset or server.n_sent == len(content)


def test_dropped__as_often_as_something_new_came(get, server, content):
    server.script = [serve(drop_at=20_000) for _ in range(9)]
    assert get() == content


def test_dropped__without_a_stated_length_is_thrown_away_once(get, server, content):
    server.script = [serve(drop_at=50_000, state_length=False)]
    with pytest.raises(ChecksumError, match="thrown away"):
        get()
    assert get() == content


def test_range__that_is_ignored_starts_over(get, server, content):
    server.script = [serve(drop_at=50_000), serve(ranges=False)]
    assert get() == content
    assert server.n_sent == 50_000 + len(content)


def test_range__that_is_another_one_starts_over(get, server, content):
    server.script = [serve(drop_at=50_000), serve(skip=10)]
    assert get() == content
    assert server.ranges[-1] is None


@pytest.mark.parametrize("tag", ['"v1"', None, 'W/"weak"'])
def test_file__that_changed_in_between_is_noticed(get, server, content, tag):
    server.content, server.tag = OTHER, tag
    after = '"v2"' if tag == '"v1"' else tag
    server.script = [serve(drop_at=50_000), replace(content, after)]
    assert get() == content


def test_file__of_the_same_size_that_changed_under_a_server_without_tags_is_noticed(
    get, server, content
):
    server.content, server.tag = bytes(len(content)), None
    server.script = [serve(drop_at=50_000), replace(content, None)]
    assert get() == content
    assert server.ranges[1:] == ["bytes=50000-", None]


def test_file__that_has_another_tag_on_each_server_of_a_cluster_loses_nothing(get, server, content):
    server.script = [serve(drop_at=50_000), replace(content, '"other"')]
    assert get() == content
    assert server.n_sent == len(content)


def test_range__of_which_only_a_part_comes_is_gone_on_with(get, server, content):
    server.script = [serve(drop_at=50_000), serve(length=10_000, drop_at=10_000)]
    assert get() == content
    assert server.ranges == [None, "bytes=50000-", "bytes=60000-"]


def test_length__stated_too_large_does_not_matter_once_the_file_is_there(get, server, content):
    server.script = [serve(length=len(content) + 1000)]
    assert get() == content
    assert len(server.seen) == 1


def test_length__stated_too_small_is_a_wrong_checksum(get, server):
    server.script = [serve(length=1000)]
    with pytest.raises(ChecksumError):
        get()


def test_checksum__that_is_wrong_names_both_and_keeps_nothing(get, server, store, sha256):
    server.content = OTHER
    with pytest.raises(ChecksumError, match=sha256) as caught:
        get()
    assert hashlib.sha256(OTHER).hexdigest() in str(caught.value)
    assert partials(store) == []
    assert not list(store.entries())
    assert len(server.seen) == 1


def test_checksum__wrong_of_pieces_with_one_tag_is_not_fetched_twice(get, server):
    server.content = OTHER
    server.script = [serve(drop_at=50_000)]
    with pytest.raises(ChecksumError):
        get()
    assert server.n_sent == len(OTHER)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!DOCTYPE html><html><title> Sign in </title>", "titled “Sign in”"),
        ("\n<HTML>gone</HTML>", "HTML page"),
        ("<div>session expired</div>", "HTML page"),
    ],
)
def test_page__with_status_200_is_called_one(get, server, text, said):
    server.script = [page(text)]
    with pytest.raises(ChecksumError, match=said):
        get()


def test_page__instead_of_the_rest_costs_nothing_that_came(get, server, content):
    server.script = [serve(drop_at=50_000), page()]
    assert get() == content
    assert server.ranges == [None, "bytes=50000-", "bytes=50000-"]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_status__that_will_not_change_is_asked_once(get, server, code):
    server.script = [status(code)]
    with pytest.raises(FetchError, match=str(code)):
        get()
    assert len(server.seen) == 1


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_status__that_may_change_is_asked_again(get, server, content, code):
    server.script = [status(code), status(code)]
    assert get() == content
    server.script = [status(code)] * 3
    with pytest.raises(FetchError, match=rf"{code}.*3 times in a row"):
        get(url=server.url("other.trk"))
    assert server.script == []


@pytest.mark.parametrize("asked", ["0", "99999", "Wed, 21 Oct 2099 07:28:00 GMT", "soon"])
def test_retry_after__is_honoured_within_bounds(get, server, content, asked):
    server.script = [status(503, Retry_After=asked)]
    assert get() == content


def test_retry_after__is_waited_for(get, server):
    server.script = [status(503, Retry_After="1")]
    started = time.monotonic()
    get(changed(QUICK, longest_pause_s=0.5))
    assert 0.5 <= time.monotonic() - started < 5


def test_slow__answer_is_given_up_and_what_came_is_kept(get, server, store, content):
    server.script = [serve(chunk=500, drop_at=20_000, pause_s=0.02)] * 3
    with pytest.raises(FetchError, match="bytes a second, 2 times in a row"):
        get(changed(QUICK, read_s=0.1, min_bytes_per_s=1e9, attempts=2))
    assert len(server.seen) == 2
    came = kept_bytes(store)
    assert 2000 < came < 30_000
    server.script = []
    assert get() == content
    assert server.ranges[-1] == f"bytes={came}-"


def test_slow__but_steady_answer_is_waited_for(get, server, content):
    server.script = [serve(pause_s=0.02)]
    assert get(changed(QUICK, read_s=0.1, min_bytes_per_s=1000)) == content
    assert len(server.seen) == 1


def test_silent__server_is_given_up(get, server):
    release = threading.Event()
    server.script = [lambda _: release.wait(10)] * 2
    started = time.monotonic()
    try:
        with pytest.raises(FetchError, match="timed out"):
            get(changed(QUICK, read_s=0.1, attempts=2))
        assert time.monotonic() - started < 5
    finally:
        release.set()


def test_no_server__is_said_with_the_reason(get, server):
    with Server(b"") as other:
        url = other.url()
    with pytest.raises(FetchError, match="refused"):
        get(url=url)


def test_mirrors__are_tried_in_order_and_share_what_came(get, server, content):
    with Server(content, tag='"elsewhere"') as first:
        first.script = [serve(drop_at=50_000), *[status(503)] * 3]
        assert get(url=first.url(), mirrors=[server.url()]) == content
    assert server.ranges == ["bytes=50000-"]


def test_mirrors__that_all_fail_are_all_named(get, server):
    server.script = [status(404), page()]
    with pytest.raises(FetchError, match=r"404.*Sign in"):
        get(mirrors=[server.url("mirror.trk")])


def test_redirect__is_followed(get, server, content):
    server.script = [status(302, Location="/moved.trk")]
    assert get() == content


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/data.trk"])
def test_redirect__away_from_http_is_refused(get, server, target):
    server.script = [status(302, Location=target)]
    with pytest.raises(FetchError, match="No connection adapters"):
        get()


def test_redirect__in_a_circle_ends(get, server):
    server.script = [status(302, Location="/data.trk")] * 40
    with pytest.raises(FetchError, match="redirects"):
        get()


def test_proxy__of_the_environment_is_asked(get, server, content, monkeypatch):
    monkeypatch.setenv("http_proxy", server.root)
    assert get(url="http://data.invalid/data.trk") == content
    assert server.seen[0].path == "http://data.invalid/data.trk"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def secure(authority, content):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Server(content, certificate=context) as running:
        yield running


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_certificates__of_the_environment_are_trusted(
    get, secure, content, authority, tmp_path, monkeypatch, variable
):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    assert get(url=secure.url()) == content


def test_certificates__that_nobody_vouches_for_are_refused_at_once(get, secure):
    with pytest.raises(FetchError, match="REQUESTS_CA_BUNDLE"):
        get(url=secure.url())
    assert not secure.seen


def test_certificates__that_are_not_there_are_the_callers_turn(get, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent.pem")
    with pytest.raises(ConfigError, match="SSL_CERT_FILE names /nonexistent"):
        get()


@pytest.mark.parametrize(
    "answer",
    [
        status(302, Location="http://[::1"),
        status(503, Retry_After="9" * 5000),
        status(429, Retry_After="Wed, 99 Oct 99999 07:28:00 GMT"),
    ],
    ids=["redirect", "pause", "date"],
)
def test_nonsense__of_one_server_is_no_crash_and_the_next_is_asked(get, server, content, answer):
    server.script = [answer]
    assert get(mirrors=[server.url("mirror.trk")]) == content
