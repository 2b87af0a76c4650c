"""One call of the token API: what goes over the wire, and by which way."""

from __future__ import annotations

import gzip
import http.server
import json
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from support.server import TokenServer, email_of

import hubspot_identify
from hubspot_identify import client as client_module
from hubspot_identify.answers import MAX_BODY
from hubspot_identify.client import TokenClient
from hubspot_identify.conf import Config, build_config
from hubspot_identify.exceptions import CredentialError, TransportError, UnexpectedResponseError
from hubspot_identify.visitors import Visitor

KEY = "pat-na1-1b2c3d4e"
ADA = Visitor("ada@example.com", "Ada", "Lovelace")


@pytest.fixture
def client() -> Iterator[TokenClient]:
    client = TokenClient()
    yield client
    client.close()


def config_of(base_url: str, **settings: object) -> Config:
    return build_config({"API_KEY": KEY, "BASE_URL": base_url, **settings})


# The request


@pytest.mark.parametrize(
    ("scheme", "query", "authorization"),
    [("bearer", "", f"Bearer {KEY}"), ("hapikey", f"hapikey={KEY}", None)],
)
def test_the_request_is_the_documented_one(
    client: TokenClient, token_server: TokenServer, scheme: str, query: str, authorization: str | None
) -> None:
    """Method, path, query, body and every header, as HubSpot's documents show them; and the token is the answer's."""
    token = client.create_token(ADA, config_of(token_server.url, AUTH_SCHEME=scheme))
    (request,) = token_server.requests()
    assert request.method == "POST"
    assert request.path == "/conversations/v3/visitor-identification/tokens/create"
    assert request.query == query
    assert request.body == b'{"email": "ada@example.com", "firstName": "Ada", "lastName": "Lovelace"}'
    expected = {
        "Host": f"127.0.0.1:{token_server.port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(request.body)),
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "User-Agent": f"django-hubspot-identify/{hubspot_identify.__version__} python-requests/{requests.__version__}",
        "Authorization": authorization,
    }
    assert dict(request.headers) == {name: value for name, value in expected.items() if value is not None}
    assert token_server.emails_by_token() == {token: "ada@example.com"}


@pytest.mark.parametrize(
    ("visitor", "body"),
    [
        (Visitor("ada@example.com"), {"email": "ada@example.com"}),
        (Visitor("ada@example.com", "Ada"), {"email": "ada@example.com", "firstName": "Ada"}),
        (Visitor("ada@example.com", "", "李🦄"), {"email": "ada@example.com", "lastName": "李🦄"}),
        (
            Visitor("ada@bücher.example", context=(("plan", "pro"),)),
            {"email": "ada@xn--bcher-kva.example", "hsCustomerAgentContext": {"plan": "pro"}},
        ),
    ],
)
def test_only_what_is_known_is_sent(
    client: TokenClient, token_server: TokenServer, visitor: Visitor, body: object
) -> None:
    """Empty names and an empty context are left out."""
    client.create_token(visitor, config_of(token_server.url))
    assert token_server.requests()[0].json() == body


@pytest.mark.parametrize("base", ["", "/", "/hub/v1", "/hub/v1/"])
@pytest.mark.parametrize("path", ["/visitor-identification/2026-09/tokens/create", "/"])
def test_base_url_and_path_are_joined_by_one_slash(
    client: TokenClient, token_server: TokenServer, base: str, path: str
) -> None:
    """A base URL may have a path of its own, and a slash at its end."""
    client.create_token(ADA, config_of(token_server.url + base, TOKEN_PATH=path, AUTH_SCHEME="hapikey"))
    (request,) = token_server.requests()
    assert (request.path, request.query) == (base.rstrip("/") + path, f"hapikey={KEY}")


def test_a_key_of_odd_characters_arrives_whole(client: TokenClient, token_server: TokenServer) -> None:
    """In the header as it is, in the query encoded."""
    key = "a&b=c+d%20#/?~'\""
    client.create_token(ADA, config_of(token_server.url, API_KEY=key))
    client.create_token(ADA, config_of(token_server.url, API_KEY=key, AUTH_SCHEME="hapikey"))
    header, query = token_server.requests()
    assert header.headers["Authorization"] == f"Bearer {key}"
    assert query.query == "hapikey=a%26b%3Dc%2Bd%2520%23%2F%3F~%27%22"


# The credential


def test_a_callable_key_is_asked_each_time(client: TokenClient, token_server: TokenServer) -> None:
    """Its answer, stripped as a text would be, is used for one call."""
    keys = iter(["first", " second\n"])
    config = config_of(token_server.url, API_KEY=lambda: next(keys))
    for _ in range(2):
        client.create_token(ADA, config)
    sent = [request.headers["Authorization"] for request in token_server.requests()]
    assert sent == ["Bearer first", "Bearer second"]


def fail() -> str:
    raise LookupError(f"no {KEY} here")


@pytest.mark.parametrize(
    ("callable_", "problem"),
    [
        (fail, "failed (LookupError)"),
        (lambda: None, "returned a NoneType, not text"),
        (lambda: KEY.encode(), "returned a bytes, not text"),
        (lambda: " ", "returned a key that is empty"),
        (lambda: f"{KEY}\r\nX-Injected: 1", "returned a key that has white space or control characters inside"),
        (lambda: "schlüssel", "returned a key that has characters that are not ASCII"),
    ],
)
def test_a_callable_key_that_fails_is_a_credential_error(
    client: TokenClient, token_server: TokenServer, callable_: Callable[[], Any], problem: str
) -> None:
    """Nothing is sent; the error says what happened, quotes nothing, and nothing hangs on it."""
    with pytest.raises(CredentialError) as caught:
        client.create_token(ADA, config_of(token_server.url, API_KEY=callable_))
    assert str(caught.value) == f"The callable in HUBSPOT_IDENTIFY['API_KEY'] {problem}."
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert token_server.calls == 0


# The way there


def test_netrc_can_neither_replace_nor_add_a_credential(
    client: TokenClient, token_server: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests reads ~/.netrc by itself; for these calls nothing of it counts, in either scheme."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password other\ndefault login eve password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert requests.utils.get_netrc_auth(token_server.url) == ("eve", "other")
    for scheme in ("bearer", "hapikey"):
        client.create_token(ADA, config_of(token_server.url, AUTH_SCHEME=scheme))
    bearer, hapikey = token_server.requests()
    assert bearer.headers["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in hapikey.headers


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_used(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """HubSpot is asked through it, inside TLS: the proxy sees the host and no credential."""
    monkeypatch.setenv(variable, token_server.url)
    token_server.answer(502)
    with pytest.raises(TransportError, match=r"^HubSpot could not be reached\.$"):
        client.create_token(ADA, config_of("https://api.hubapi.com"))
    (request,) = token_server.requests()
    assert (request.method, request.path) == ("CONNECT", "api.hubapi.com:443")
    assert KEY not in str(request)


def test_loopback_is_asked_directly(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proxy can reach this machine's own sandbox."""
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert email_of(client.create_token(ADA, config_of(token_server.url))) == ADA.email


@pytest.fixture(scope="module")
def certificates() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_url(certificates: trustme.CA) -> Iterator[str]:
    """A healthy server that speaks TLS, with a certificate of an authority that nobody knows."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"token": "over-tls"}')

        def log_message(self, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            """Clients that break off the handshake are what is tested."""

    with Server(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificates.issue_cert("127.0.0.1").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_private_authority_of_the_environment_is_trusted(
    client: TokenClient,
    tls_url: str,
    certificates: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
) -> None:
    """Behind a company's own authority the usual variables help."""
    bundle = tmp_path / "ca.pem"
    certificates.cert_pem.write_to_path(str(bundle))
    for other in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, str(bundle))
    assert client.create_token(ADA, config_of(tls_url)) == "over-tls"


@pytest.mark.parametrize("value", [None, "", "0", "false", "False", "no", "none"])
def test_tls_is_verified_whatever_the_environment_says(
    client: TokenClient, tls_url: str, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """An unknown certificate is refused; no value of the usual variables switches that off."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PYTHONHTTPSVERIFY", "SSL_VERIFY"):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    with pytest.raises(TransportError):
        client.create_token(ADA, config_of(tls_url))


def test_an_untrusted_certificate_is_said_in_words(client: TokenClient, tls_url: str) -> None:
    """It is told from a host that can't be reached."""
    with pytest.raises(TransportError, match=r"^The TLS connection to HubSpot failed: its certificate"):
        client.create_token(ADA, config_of(tls_url))


# One connection, kept


def test_the_connection_is_kept(client: TokenClient, token_server: TokenServer) -> None:
    """Three calls, one connection; after a close a new one."""
    config = config_of(token_server.url)
    for _ in range(3):
        client.create_token(ADA, config)
    assert [request.connection for request in token_server.requests()] == [1, 1, 1]
    client.close()
    client.create_token(ADA, config)
    assert token_server.requests()[-1].connection == 2


def test_there_is_nothing_to_cut_before_the_first_call(client: TokenClient, token_server: TokenServer) -> None:
    """A call that hangs before it has a session, in a callable key say, can't be broken off, and is none the worse."""
    client.cut()
    assert email_of(client.create_token(ADA, config_of(token_server.url))) == ADA.email


def test_cookies_are_not_kept(client: TokenClient, token_server: TokenServer) -> None:
    """What a server sets for one visitor is not sent with the next one's call."""
    token_server.answer(200, {"token": "t"}, {"Set-Cookie": "who=ada; Path=/"})
    config = config_of(token_server.url)
    client.create_token(ADA, config)
    client.create_token(Visitor("eve@example.com"), config)
    assert ["Cookie" in request.headers for request in token_server.requests()] == [False, False]


def test_a_reset_of_a_kept_connection_is_replayed_once(client: TokenClient, token_server: TokenServer) -> None:
    """The server had closed the idle connection: the same request goes over a new one, unseen by the caller."""
    token_server.mood("reset_reused")
    config = config_of(token_server.url)
    client.create_token(ADA, config)
    assert email_of(client.create_token(Visitor("eve@example.com"), config)) == "eve@example.com"
    seen = [(request.connection, request.json()["email"]) for request in token_server.requests()]
    assert seen == [(1, "ada@example.com"), (1, "eve@example.com"), (2, "eve@example.com")]


def test_a_reset_is_replayed_no_second_time(client: TokenClient, token_server: TokenServer) -> None:
    """If the new connection is reset as well, that is the outcome, and the next call is not taken for a replay."""
    config = config_of(token_server.url)
    client.create_token(ADA, config)
    token_server.mood("reset")
    for calls in (3, 4):
        with pytest.raises(TransportError, match=r"^HubSpot closed the connection without an answer\.$"):
            client.create_token(ADA, config)
        assert token_server.calls == calls


def test_a_reset_of_a_fresh_connection_is_not_replayed(client: TokenClient, token_server: TokenServer) -> None:
    """A server in trouble is not asked twice."""
    token_server.mood("reset")
    with pytest.raises(TransportError, match=r"^HubSpot closed the connection without an answer\.$"):
        client.create_token(ADA, config_of(token_server.url))
    assert token_server.calls == 1


@pytest.mark.parametrize("ending", [{"Connection": "close"}, {"Content-Length": "4000"}])
def test_a_connection_that_was_not_kept_is_not_replayed_either(
    client: TokenClient, token_server: TokenServer, ending: dict[str, str]
) -> None:
    """A reset after an answer that ended its connection met a fresh one."""
    config = config_of(token_server.url)
    token_server.mood("truncated") if "Content-Length" in ending else token_server.answer(200, {"token": "t"}, ending)
    try:
        client.create_token(ADA, config)
    except UnexpectedResponseError:
        assert "Content-Length" in ending
    token_server.mood("reset")
    with pytest.raises(TransportError):
        client.create_token(ADA, config)
    assert token_server.calls == 2


# Answers


def test_a_token_is_taken_as_it_is(client: TokenClient, token_server: TokenServer) -> None:
    """Opaque, up to 4096 characters that can stand in an address."""
    token = "eyJ.-_~=/" + "a" * 4087
    token_server.answer(201, {"token": token, "announced": "tomorrow"})
    assert client.create_token(ADA, config_of(token_server.url)) == token


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-GZip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
        (" ", bytes),
    ],
)
def test_a_packed_answer_is_unpacked(
    client: TokenClient, token_server: TokenServer, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    """The encodings that were asked for."""
    token_server.answer(200, pack(b'{"token": "packed"}'), {"Content-Encoding": encoding})
    assert client.create_token(ADA, config_of(token_server.url)) == "packed"


TOO_MUCH = f"with more than {MAX_BODY} bytes"
CUT_GZIP = gzip.compress(b'{"token": "t"}', mtime=0)[:-8]
BROKEN = "with a body that broke off or can't be unpacked"
ODD_TOKEN = "with a token that can't stand in an address"


@pytest.mark.parametrize(
    ("mood", "options", "problem"),
    [
        ("html", {}, "without a token"),
        ("empty", {}, "with an empty body"),
        ("truncated", {}, BROKEN),
        ("bomb", {}, TOO_MUCH),
        ("endless_body", {}, TOO_MUCH),
        ("answer", {"body": b" " * MAX_BODY + b'{"token": "t"}'}, TOO_MUCH),
        ("answer", {"status": 204}, "with an empty body"),
        ("answer", {"body": "not json"}, "without a token"),
        ("answer", {"body": b'{"token": "\xff"}'}, "without a token"),
        ("answer", {"body": "[" * 60_000}, "without a token"),
        ("answer", {"body": "1" * 5000}, "without a token"),
        ("answer", {"body": ["token"]}, "without a token"),
        ("answer", {"body": {}}, "without a token"),
        ("answer", {"body": {"token": None}}, "without a token"),
        ("answer", {"body": {"token": 5}}, "without a token"),
        ("answer", {"body": {"token": ["t"]}}, "without a token"),
        ("answer", {"body": {"token": ""}}, ODD_TOKEN),
        ("answer", {"body": {"token": "a" * 4097}}, ODD_TOKEN),
        ("answer", {"body": {"token": "t\n"}}, ODD_TOKEN),
        ("answer", {"body": {"token": "a&identificationEmail=eve"}}, ODD_TOKEN),
        ("answer", {"body": {"token": "a+b"}}, ODD_TOKEN),
        ("answer", {"body": {"token": "a#b"}}, ODD_TOKEN),
        ("answer", {"body": {"token": "</script>"}}, ODD_TOKEN),
        ("answer", {"body": {"token": "tökén"}}, ODD_TOKEN),
        ("answer", {"body": b"no gzip", "headers": {"Content-Encoding": "gzip"}}, BROKEN),
        (
            "answer",
            {"body": gzip.compress(b'{"token": "t"}', mtime=0)[:-8], "headers": {"Content-Encoding": "gzip"}},
            BROKEN,
        ),
        ("answer", {"body": b'{"token": "t"}', "headers": {"Content-Encoding": "br"}}, BROKEN),
    ],
    ids=lambda value: str(value)[:60] if not isinstance(value, dict) else str(value.get("body", ""))[:30],
)
def test_an_answer_that_is_no_token_is_unexpected(
    client: TokenClient, token_server: TokenServer, mood: Any, options: dict[str, Any], problem: str
) -> None:
    """The error says what kind of answer it was and quotes none of it."""
    token_server.mood(mood, **options)
    status = options.get("status", 200)
    with pytest.raises(UnexpectedResponseError) as caught:
        client.create_token(ADA, config_of(token_server.url))
    assert str(caught.value) == f"HubSpot answered {status} {problem}."
    assert caught.value.status == status


def test_exactly_the_allowed_size_is_read(client: TokenClient, token_server: TokenServer) -> None:
    """64 KiB are taken, packed or not."""
    body = b'{"token": "t"}'.ljust(MAX_BODY)
    for packed, headers in ((body, {}), (gzip.compress(body), {"Content-Encoding": "gzip"})):
        token_server.answer(200, packed, headers)
        assert client.create_token(ADA, config_of(token_server.url)) == "t"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", ["bearer", "hapikey"])
def test_redirects_are_refused(client: TokenClient, token_server: TokenServer, status: int, scheme: str) -> None:
    """A credential does not travel, not even on the same host."""
    token_server.mood("redirect", status=status)
    with pytest.raises(UnexpectedResponseError) as caught:
        client.create_token(ADA, config_of(token_server.url, AUTH_SCHEME=scheme))
    assert str(caught.value) == f"HubSpot answered {status}, a redirect, which is not followed."
    assert token_server.calls == 1


def test_the_body_of_a_redirect_is_bounded_too(client: TokenClient, token_server: TokenServer) -> None:
    """A session that is told not to follow redirects would read their bodies to the end; this one ends never."""
    token_server.answer(302, b" " * (MAX_BODY + 1), {"Location": "/elsewhere", "Content-Length": "1000000000"})
    with pytest.raises(UnexpectedResponseError, match=r"^HubSpot answered 302, a redirect, which is not followed\.$"):
        client.create_token(ADA, config_of(token_server.url))


@pytest.mark.parametrize("status", [304, 305, 600, 999])
def test_statuses_without_a_meaning_are_unexpected(client: TokenClient, token_server: TokenServer, status: int) -> None:
    """Whatever stands in the status line, there is an error of ours for it."""
    token_server.answer(status)
    with pytest.raises(UnexpectedResponseError) as caught:
        client.create_token(ADA, config_of(token_server.url))
    assert caught.value.status == status


# No answer


@pytest.mark.parametrize(
    ("mood", "text"),
    [
        ("refused", "HubSpot could not be reached."),
        ("unconnectable", "HubSpot could not be reached within 0.1 s."),
        ("hang", "HubSpot did not answer within 0.1 s."),
        ("drip_headers", "HubSpot did not answer within 0.1 s."),
        ("hang_after_headers", "HubSpot did not answer within 0.1 s."),
    ],
)
def test_no_answer_is_a_transport_error(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, mood: Any, text: str
) -> None:
    """In words of ours, without the library's exception behind it; and a later call is not the worse for it."""
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT", 0.1)
    monkeypatch.setattr(client_module, "READ_TIMEOUT", 0.1)
    token_server.mood(mood)
    config = config_of(token_server.url)
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config)
    assert str(caught.value) == text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    token_server.mood("healthy")
    monkeypatch.undo()
    assert email_of(client.create_token(ADA, config)) == ADA.email


def test_an_unknown_host_is_a_transport_error(client: TokenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name resolution fails as anything else on the way does."""

    def unknown(*args: object, **kwargs: object) -> None:
        raise OSError("unknown host")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    with pytest.raises(TransportError, match=r"^HubSpot could not be reached\.$"):
        client.create_token(ADA, config_of("https://api.hubapi.com"))


def test_a_wrong_bundle_of_authorities_is_a_transport_error(
    client: TokenClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trouble of the environment's is told by its type alone."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(TransportError, match=r"^The call to HubSpot failed \(OSError\)\.$"):
        client.create_token(ADA, config_of("https://127.0.0.1:9"))


def test_one_visitors_failure_leaves_the_next_ones_call_alone(client: TokenClient, token_server: TokenServer) -> None:
    """Refused over a connection that stays, the next call goes over the same and gets its own answer."""
    config = config_of(token_server.url)
    token_server.answer(400, json.dumps({"category": "VALIDATION_ERROR"}))
    with pytest.raises(Exception, match="400"):
        client.create_token(ADA, config)
    token_server.mood("healthy")
    assert email_of(client.create_token(Visitor("eve@example.com"), config)) == "eve@example.com"
    assert token_server.connections == 1
