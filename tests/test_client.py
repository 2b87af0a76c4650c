"""One call of the token API: what goes over the wire, and by which way."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support.certificates import Certificate, new_certificate
from support.server import TokenServer, TokenServerProcess, email_of

import hubspot_identify
from hubspot_identify import client as client_module
from hubspot_identify import transport
from hubspot_identify.answers import MAX_BODY
from hubspot_identify.client import TokenClient
from hubspot_identify.conf import Config, build_config
from hubspot_identify.exceptions import (
    AuthenticationError,
    CredentialError,
    TransportError,
    UnexpectedResponseError,
)
from hubspot_identify.visitors import Visitor

KEY = "pat-na1-1b2c3d4e"
ADA = Visitor("ada@example.com", "Ada", "Lovelace")


@pytest.fixture
def client() -> TokenClient:
    return TokenClient()


def config_of(base_url: str, **settings: object) -> Config:
    return build_config({"API_KEY": KEY, "BASE_URL": base_url, "EMAIL_VERIFIED": True, **settings})


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
        "Connection": "close",
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


def test_rejected_callable_key_is_fetched_again_and_tried_once(client: TokenClient, token_server: TokenServer) -> None:
    """An OAuth token may expire between its fetch and its use: a different key gets one more try."""
    keys = iter(["expired", "fresh", "unused"])
    token_server.reject_key()
    with pytest.raises(AuthenticationError) as caught:
        client.create_token(ADA, config_of(token_server.url, API_KEY=lambda: next(keys)))
    sent = [request.headers["Authorization"] for request in token_server.requests()]
    assert sent == ["Bearer expired", "Bearer fresh"]
    assert caught.value.__context__ is None


def test_fresh_key_gets_the_token(client: TokenClient, token_server: TokenServer) -> None:
    """The caller never learns of the first key's rejection."""
    keys = iter(["expired", "fresh"])

    def next_key() -> str:
        key = next(keys)
        token_server.reject_key() if key == "expired" else token_server.set_scenario("healthy")
        return key

    assert email_of(client.create_token(ADA, config_of(token_server.url, API_KEY=next_key))) == ADA.email


def test_callable_that_fails_the_second_time_does_not_hide_the_rejection(
    client: TokenClient, token_server: TokenServer
) -> None:
    """HubSpot's own words about the key are what an operator needs."""
    keys = iter(["expired"])
    token_server.reject_key()
    with pytest.raises(AuthenticationError) as caught:
        client.create_token(ADA, config_of(token_server.url, API_KEY=lambda: next(keys)))
    assert caught.value.key_rejected
    assert caught.value.__context__ is None


@pytest.mark.parametrize("key", [KEY, lambda: KEY])
def test_same_rejected_key_is_not_tried_again(client: TokenClient, token_server: TokenServer, key: Any) -> None:
    """A fixed key, and a callable that returns the same key."""
    token_server.reject_key()
    with pytest.raises(AuthenticationError):
        client.create_token(ADA, config_of(token_server.url, API_KEY=key))
    assert token_server.calls == 1


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


@pytest.fixture
def tls_server(token_server_process: TokenServerProcess, certificate: Certificate) -> Iterator[TokenServer]:
    """A healthy server that speaks TLS, with a certificate from an authority that no machine trusts."""
    server = token_server_process.open(certificate.server)
    yield server
    server.close()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_private_authority_of_the_environment_is_trusted(
    client: TokenClient,
    tls_server: TokenServer,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    """Behind a company's own authority the usual variables help."""
    for other in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, str(certificate.authority))
    assert email_of(client.create_token(ADA, config_of(tls_server.https_url))) == ADA.email


@pytest.mark.parametrize("value", [None, "", "0", "false", "False", "no", "none"])
def test_tls_is_verified_whatever_the_environment_says(
    client: TokenClient, tls_server: TokenServer, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """An unknown certificate is refused; no value of the usual variables switches that off."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PYTHONHTTPSVERIFY", "SSL_VERIFY"):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    with pytest.raises(TransportError):
        client.create_token(ADA, config_of(tls_server.https_url))


def test_an_untrusted_certificate_is_said_in_words(client: TokenClient, tls_server: TokenServer) -> None:
    """It is told from a host that can't be reached."""
    with pytest.raises(TransportError, match=r"^The TLS connection to HubSpot failed: its certificate"):
        client.create_token(ADA, config_of(tls_server.https_url))


def test_https_proxy_is_verified_like_hubspot(
    client: TokenClient, tls_server: TokenServer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that speaks TLS itself gets a request only if the authorities of the environment vouch for it."""
    tls_server.answer(502)
    monkeypatch.setenv("HTTPS_PROXY", tls_server.https_url)
    for calls, bundle in enumerate((None, certificate.authority)):
        if bundle:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        with pytest.raises(TransportError):
            client.create_token(ADA, config_of("https://api.hubapi.com"))
        assert tls_server.calls == calls


def test_directory_of_authorities_is_read(
    client: TokenClient, tls_server: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The variables may name a directory, as OpenSSL allows; an empty one trusts no certificate."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    with pytest.raises(TransportError, match="certificate"):
        client.create_token(ADA, config_of(tls_server.https_url))


# One connection per call


def test_each_call_has_a_connection_of_its_own(client: TokenClient, token_server: TokenServer) -> None:
    """Three calls open three connections, whatever the server offers."""
    config = config_of(token_server.url)
    token_server.answer(200, {"token": "t"}, {"Connection": "keep-alive"})
    for _ in range(3):
        client.create_token(ADA, config)
    assert [request.connection for request in token_server.requests()] == [1, 2, 3]


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of certificate authorities, named by the environment; it does not exist yet."""
    path = tmp_path / "ca.pem"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    return path


def test_certificate_authorities_are_loaded_once(
    tls_server: TokenServer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    """The second call uses the TLS context of the first."""
    bundle.write_bytes(certificate.authority.read_bytes())
    config = config_of(tls_server.https_url)
    TokenClient().create_token(ADA, config)
    monkeypatch.setattr(transport, "create_urllib3_context", lambda: pytest.fail("loaded again"))
    assert email_of(TokenClient().create_token(ADA, config)) == ADA.email


def test_replaced_bundle_is_used_without_a_restart(
    tls_server: TokenServer, certificate: Certificate, bundle: Path, tmp_path: Path
) -> None:
    """A company that rotates its authority replaces the file while the processes run."""
    config = config_of(tls_server.https_url)
    (tmp_path / "former").mkdir()
    bundle.write_bytes(new_certificate(tmp_path / "former").authority.read_bytes())
    with pytest.raises(TransportError):
        TokenClient().create_token(ADA, config)
    bundle.write_bytes(certificate.authority.read_bytes())
    assert email_of(TokenClient().create_token(ADA, config)) == ADA.email


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_unusable_bundle_is_named(
    client: TokenClient,
    token_server: TokenServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    content: str | None,
) -> None:
    """The error names the file and the variable that says so, whether the file is missing, empty or another one."""
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, str(bundle))
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(token_server.https_url))
    assert str(bundle) in str(caught.value)
    assert variable in str(caught.value)
    assert KEY not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert not caught.value.request_sent


def test_unusable_default_bundle_is_named(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a variable, the authorities are those of requests."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("requests.utils.DEFAULT_CA_BUNDLE_PATH", "/missing/cacert.pem")
    with pytest.raises(TransportError, match=r"/missing/cacert\.pem"):
        client.create_token(ADA, config_of(token_server.https_url))


def test_aborted_client_opens_no_connection(client: TokenClient, token_server: TokenServer) -> None:
    """A call that hangs before it connects, such as in a callable key, ends as soon as it tries to."""
    client.abort()
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(token_server.url))
    assert not caught.value.request_sent
    assert token_server.calls == 0


@pytest.mark.parametrize(
    "scenario", ["hang", "hang_after_headers", "drip_headers", "drip_body", "drip_to_close", "continue"]
)
def test_aborted_call_ends(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, scenario: Any
) -> None:
    """Whatever the server does, the thread that waits for it is released. The response is not blamed for it."""
    monkeypatch.setattr(client_module, "READ_TIMEOUT", 30.0)
    token_server.set_scenario(scenario, interval=0.01)
    timer = threading.Timer(0.3, client.abort)
    timer.start()
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(token_server.url))
    assert timer.finished.is_set()
    assert caught.value.request_sent


def test_aborted_call_ends_during_the_tls_handshake(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a server that speaks no TLS is expected to."""
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT", 30.0)
    monkeypatch.setattr(client_module, "READ_TIMEOUT", 30.0)
    token_server.set_scenario("hang")
    timer = threading.Timer(0.3, client.abort)
    timer.start()
    with pytest.raises(TransportError):
        client.create_token(ADA, config_of(token_server.https_url))
    assert timer.finished.is_set()


def test_cookies_are_not_kept(client: TokenClient, token_server: TokenServer) -> None:
    """What a server sets for one visitor is not sent with the next one's call."""
    token_server.answer(200, {"token": "t"}, {"Set-Cookie": "who=ada; Path=/"})
    config = config_of(token_server.url)
    client.create_token(ADA, config)
    client.create_token(Visitor("eve@example.com"), config)
    assert ["Cookie" in request.headers for request in token_server.requests()] == [False, False]


def test_reset_is_a_transport_error(client: TokenClient, token_server: TokenServer) -> None:
    """A server that resets the connection is not asked a second time."""
    token_server.set_scenario("reset")
    with pytest.raises(TransportError):
        client.create_token(ADA, config_of(token_server.url))
    assert token_server.calls == 1


@pytest.mark.parametrize("status", [101, 102, 103, 199])
def test_interim_response_is_a_transport_error(client: TokenClient, token_server: TokenServer, status: int) -> None:
    """Only 100 is skipped. After any other interim status no response on the connection is used."""
    token_server.set_scenario("stray", call=1, status=status)
    with pytest.raises(TransportError):
        client.create_token(ADA, config_of(token_server.url))
    assert token_server.calls == 1


# Responses


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
    ("scenario", "options", "problem"),
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
    client: TokenClient, token_server: TokenServer, scenario: Any, options: dict[str, Any], problem: str
) -> None:
    """The error says what kind of answer it was and quotes none of it."""
    token_server.set_scenario(scenario, **options)
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
    token_server.set_scenario("redirect", status=status)
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
    ("scenario", "text"),
    [
        ("refused", "HubSpot could not be reached."),
        ("unconnectable", "HubSpot could not be reached within 0.1 s."),
        ("hang", "HubSpot did not answer within 0.1 s."),
        ("drip_headers", "HubSpot did not answer within 0.1 s."),
        ("hang_after_headers", "HubSpot did not answer within 0.1 s."),
    ],
)
def test_no_answer_is_a_transport_error(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, scenario: Any, text: str
) -> None:
    """In words of ours, without the library's exception behind it; and a later call is not the worse for it."""
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT", 0.1)
    monkeypatch.setattr(client_module, "READ_TIMEOUT", 0.1)
    token_server.set_scenario(scenario)
    config = config_of(token_server.url)
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config)
    assert str(caught.value) == text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    token_server.set_scenario("healthy")
    monkeypatch.undo()
    assert email_of(client.create_token(ADA, config)) == ADA.email


def test_an_unknown_host_is_a_transport_error(client: TokenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name resolution fails as anything else on the way does."""

    def unknown(*args: object, **kwargs: object) -> None:
        raise OSError("unknown host")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    with pytest.raises(TransportError, match=r"^HubSpot could not be reached\.$"):
        client.create_token(ADA, config_of("https://api.hubapi.com"))


def test_malformed_proxy_is_a_transport_error(client: TokenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text names only the type of the exception, because its own text may contain the proxy's password."""
    monkeypatch.setenv("HTTPS_PROXY", "http://:8080")
    with pytest.raises(TransportError, match="InvalidProxyURL") as caught:
        client.create_token(ADA, config_of("https://api.hubapi.com"))
    assert not caught.value.request_sent


@pytest.mark.parametrize(
    ("scenario", "is_sent"),
    [
        ("refused", False),
        ("unconnectable", False),
        ("hang", True),
        ("drip_headers", True),
        ("hang_after_headers", True),
        ("reset", True),
        ("stray", True),
    ],
)
def test_error_says_whether_the_request_was_sent(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, scenario: Any, is_sent: bool
) -> None:
    """What fails before cannot be caused by a visitor's data."""
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT", 0.1)
    monkeypatch.setattr(client_module, "READ_TIMEOUT", 0.1)
    token_server.set_scenario(scenario, call=1, status=103)
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(token_server.url))
    assert caught.value.request_sent is is_sent


def test_request_is_not_sent_to_a_server_that_is_not_trusted(client: TokenClient, tls_server: TokenServer) -> None:
    """The certificate is verified before."""
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(tls_server.https_url))
    assert not caught.value.request_sent


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_request_is_not_sent_if_a_proxy_refuses_the_tunnel(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """Nor if the proxy does not complete a TLS handshake. What the proxy was sent contains nothing of the visitor."""
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT", 1.0 if scheme == "https" else 30.0)
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://127.0.0.1:{token_server.port}")
    token_server.answer(502) if scheme == "http" else token_server.set_scenario("hang")
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of("https://api.hubapi.com"))
    assert not caught.value.request_sent


def test_second_request_of_a_call_counts_for_itself(client: TokenClient, token_server: TokenServer) -> None:
    """After a rejected key, the connection for the other key may fail before its request."""

    def next_key() -> str:
        key = next(keys)
        token_server.reject_key() if key == "expired" else token_server.set_scenario("refused")
        return key

    keys = iter(["expired", "fresh"])
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(token_server.url, API_KEY=next_key))
    assert not caught.value.request_sent
