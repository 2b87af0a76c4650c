"""One call of the token API: the request, the connection, and the responses that are accepted."""

from __future__ import annotations

import gzip
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support.certificates import Certificate, new_certificate
from support.clocks import GENEROUS_TIMEOUT
from support.server import TokenServer, TokenServerProcess, email_of

import hubspot_identify
from hubspot_identify._hubspot import client as client_module
from hubspot_identify._hubspot import transport
from hubspot_identify._hubspot.client import TokenClient
from hubspot_identify._hubspot.responses import MAX_BODY
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
def test_request_is_the_documented_one(
    client: TokenClient, token_server: TokenServer, scheme: str, query: str, authorization: str | None
) -> None:
    """Method, path, query, body and all headers are as in HubSpot's documentation."""
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
        (
            Visitor("ada@bücher.example", "", "李🦄", context=(("plan", "pro"),)),
            {"email": "ada@xn--bcher-kva.example", "lastName": "李🦄", "hsCustomerAgentContext": {"plan": "pro"}},
        ),
    ],
)
def test_empty_fields_are_not_sent(
    client: TokenClient, token_server: TokenServer, visitor: Visitor, body: object
) -> None:
    """Names and context are optional."""
    client.create_token(visitor, config_of(token_server.url))
    assert token_server.requests()[0].json() == body


def test_base_url_and_path_are_joined_by_one_slash(client: TokenClient, token_server: TokenServer) -> None:
    """A base URL may have a path, and a slash at its end."""
    client.create_token(ADA, config_of(f"{token_server.url}/", TOKEN_PATH="/tokens/create", AUTH_SCHEME="hapikey"))
    client.create_token(ADA, config_of(f"{token_server.url}/hub/v1/", TOKEN_PATH="/", AUTH_SCHEME="hapikey"))
    first, second = token_server.requests()
    assert (first.path, first.query) == ("/tokens/create", f"hapikey={KEY}")
    assert (second.path, second.query) == ("/hub/v1/", f"hapikey={KEY}")


def test_special_characters_of_a_key_are_encoded_in_the_query_only(
    client: TokenClient, token_server: TokenServer
) -> None:
    """The header contains the key unchanged."""
    key = "a&b=c+d%20#/?'\"~"
    client.create_token(ADA, config_of(token_server.url, API_KEY=key))
    client.create_token(ADA, config_of(token_server.url, API_KEY=key, AUTH_SCHEME="hapikey"))
    header, query = token_server.requests()
    assert header.headers["Authorization"] == f"Bearer {key}"
    assert query.query == "hapikey=a%26b%3Dc%2Bd%2520%23%2F%3F%27%22~"


# The credential


def test_callable_key_is_called_for_each_token(client: TokenClient, token_server: TokenServer) -> None:
    """White space around the returned key is removed."""
    keys = iter(["first", " second\n"])
    config = config_of(token_server.url, API_KEY=lambda: next(keys))
    for _ in range(2):
        client.create_token(ADA, config)
    sent = [request.headers["Authorization"] for request in token_server.requests()]
    assert sent == ["Bearer first", "Bearer second"]


def test_rejected_key_is_replaced_once_if_it_is_callable(client: TokenClient, token_server: TokenServer) -> None:
    """An OAuth token may expire between its fetch and its use, so a different key is tried once."""
    keys = iter(["expired", "fresh", "unused"])
    token_server.reject_key()
    with pytest.raises(AuthenticationError) as caught:
        client.create_token(ADA, config_of(token_server.url, API_KEY=lambda: next(keys)))
    sent = [request.headers["Authorization"] for request in token_server.requests()]
    assert sent == ["Bearer expired", "Bearer fresh"]
    assert caught.value.__context__ is None


def test_replaced_key_returns_the_token(client: TokenClient, token_server: TokenServer) -> None:
    """The rejection of the first key is no error for the caller."""
    keys = iter(["expired", "fresh"])

    def next_key() -> str:
        key = next(keys)
        token_server.reject_key() if key == "expired" else token_server.set_scenario("healthy")
        return key

    assert email_of(client.create_token(ADA, config_of(token_server.url, API_KEY=next_key))) == ADA.email


def test_rejection_is_raised_if_the_callable_fails_the_second_time(
    client: TokenClient, token_server: TokenServer
) -> None:
    """HubSpot's response explains the failure better."""
    keys = iter(["expired"])
    token_server.reject_key()
    with pytest.raises(AuthenticationError) as caught:
        client.create_token(ADA, config_of(token_server.url, API_KEY=lambda: next(keys)))
    assert caught.value.key_rejected
    assert caught.value.__context__ is None


@pytest.mark.parametrize("key", [KEY, lambda: KEY])
def test_same_rejected_key_is_not_tried_again(client: TokenClient, token_server: TokenServer, key: Any) -> None:
    """This applies to a fixed key, and to a callable that returns the same key."""
    token_server.reject_key()
    with pytest.raises(AuthenticationError):
        client.create_token(ADA, config_of(token_server.url, API_KEY=key))
    assert token_server.calls == 1


def raises() -> str:
    raise LookupError(f"no {KEY} here")


def raises_below() -> Any:
    return json.loads(KEY)


@pytest.mark.parametrize(
    ("api_key", "in_text"),
    [
        (raises, "LookupError"),
        (lambda: None, "NoneType"),
        (lambda: " ", "API_KEY"),
        (lambda: f"{KEY}\r\nX-Injected: 1", "API_KEY"),
        (lambda: f"'{KEY}'\n", "quotation mark"),
    ],
    ids=["raises", "returns None", "returns an empty key", "returns two lines", "returns a quoted key"],
)
def test_failure_of_a_callable_key_is_a_credential_error(
    client: TokenClient, token_server: TokenServer, api_key: Callable[[], Any], in_text: str
) -> None:
    """No request is sent. The error names the type of what was raised or returned, and quotes and chains nothing."""
    with pytest.raises(CredentialError) as caught:
        client.create_token(ADA, config_of(token_server.url, API_KEY=api_key))
    assert in_text in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert token_server.calls == 0


@pytest.mark.parametrize(
    ("api_key", "places"),
    [
        (raises, [f"{__name__}, line {raises.__code__.co_firstlineno + 1}"]),
        (raises_below, ["json.decoder, line ", f"{__name__}, line {raises_below.__code__.co_firstlineno + 1}"]),
        (lambda account: KEY, [f"{client_module.__name__}, line "]),
    ],
    ids=["raises", "calls what raises", "takes an argument"],
)
def test_error_of_a_callable_key_gives_the_location(
    client: TokenClient, api_key: Callable[..., Any], places: list[str]
) -> None:
    """The message has the module and line that raised the exception, and those in the callable if they differ."""
    with pytest.raises(CredentialError) as caught:
        client.create_token(ADA, config_of("http://127.0.0.1:9", API_KEY=api_key))
    assert [place for place in places if place not in str(caught.value)] == []
    assert str(caught.value).count(", line ") == len(places)
    assert KEY not in str(caught.value)


# The connection


def test_netrc_neither_replaces_nor_adds_a_credential(
    client: TokenClient, token_server: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests reads ~/.netrc by default. The app's calls ignore it, in both schemes."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password other\ndefault login eve password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert requests.utils.get_netrc_auth(token_server.url) == ("eve", "other")
    for scheme in ("bearer", "hapikey"):
        client.create_token(ADA, config_of(token_server.url, AUTH_SCHEME=scheme))
    bearer, hapikey = token_server.requests()
    assert bearer.headers["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in hapikey.headers


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_proxy_of_the_environment_is_used(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The call goes through it inside TLS, so the proxy sees the host and no credential."""
    monkeypatch.setenv(variable, token_server.url)
    token_server.answer(502)
    with pytest.raises(TransportError):
        client.create_token(ADA, config_of("https://api.hubapi.com"))
    (request,) = token_server.requests()
    assert (request.method, request.path) == ("CONNECT", "api.hubapi.com:443")
    assert KEY not in str(request)


def test_loopback_address_is_called_without_a_proxy(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proxy can reach the sandbox on this machine."""
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert email_of(client.create_token(ADA, config_of(token_server.url))) == ADA.email


@pytest.fixture
def tls_server(token_server_process: TokenServerProcess, certificate: Certificate) -> Iterator[TokenServer]:
    """A token server with TLS, and a certificate from an authority that is not trusted by default."""
    server = token_server_process.open(certificate.server)
    yield server
    server.close()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_private_authority_of_the_environment_is_trusted(
    client: TokenClient,
    tls_server: TokenServer,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    """A company with its own authority sets one of the usual variables."""
    for other in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(variable, str(certificate.authority))
    assert email_of(client.create_token(ADA, config_of(tls_server.https_url))) == ADA.email


@pytest.mark.parametrize("value", [None, "", "0", "False"])
def test_untrusted_certificate_is_refused_whatever_the_environment_contains(
    client: TokenClient, tls_server: TokenServer, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """No value of the usual variables disables the verification, which comes before the request."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PYTHONHTTPSVERIFY", "SSL_VERIFY"):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(tls_server.https_url))
    assert not caught.value.request_sent
    assert tls_server.calls == 0


def test_https_proxy_is_verified_like_hubspot(
    client: TokenClient, tls_server: TokenServer, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that uses TLS gets a request only if the authorities of the environment trust it."""
    tls_server.answer(502)
    monkeypatch.setenv("HTTPS_PROXY", tls_server.https_url)
    for calls, bundle in enumerate((None, certificate.authority)):
        if bundle:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        with pytest.raises(TransportError):
            client.create_token(ADA, config_of("https://api.hubapi.com"))
        assert tls_server.calls == calls


def test_authorities_may_be_in_a_directory(
    client: TokenClient, tls_server: TokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The variables may name a directory, as OpenSSL allows. An empty one trusts no certificate."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(tls_server.https_url))
    assert str(tmp_path) not in str(caught.value)  # as it would be if it could not be loaded


# One connection per call


def test_each_call_opens_a_connection(client: TokenClient, token_server: TokenServer) -> None:
    """Three calls open three connections, even if the server would keep one open."""
    config = config_of(token_server.url)
    token_server.answer(200, {"token": "t"}, {"Connection": "keep-alive"})
    for _ in range(3):
        client.create_token(ADA, config)
    assert [request.connection for request in token_server.requests()] == [1, 2, 3]


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The path of a file of certificate authorities, set in the environment. The file does not exist yet."""
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
    monkeypatch.setattr(transport, "create_urllib3_context", lambda: pytest.fail("The authorities were loaded again."))
    assert email_of(TokenClient().create_token(ADA, config)) == ADA.email


def test_replaced_bundle_is_used_without_a_restart(
    tls_server: TokenServer, certificate: Certificate, bundle: Path, tmp_path: Path
) -> None:
    """A company may replace its authority while the processes run."""
    config = config_of(tls_server.https_url)
    (tmp_path / "former").mkdir()
    bundle.write_bytes(new_certificate(tmp_path / "former").authority.read_bytes())
    with pytest.raises(TransportError):
        TokenClient().create_token(ADA, config)
    bundle.write_bytes(certificate.authority.read_bytes())
    assert email_of(TokenClient().create_token(ADA, config)) == ADA.email


@pytest.mark.parametrize(
    ("variable", "content"),
    [("REQUESTS_CA_BUNDLE", None), ("REQUESTS_CA_BUNDLE", "no certificate"), ("CURL_CA_BUNDLE", None)],
)
def test_error_for_an_unusable_bundle_names_the_file(
    client: TokenClient,
    token_server: TokenServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    content: str | None,
) -> None:
    """The error contains its path and the environment variable, if the file is missing or has no certificates."""
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


def test_error_for_an_unusable_default_bundle_names_the_file(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an environment variable, the authorities are those of requests."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("requests.utils.DEFAULT_CA_BUNDLE_PATH", "/missing/cacert.pem")
    with pytest.raises(TransportError, match=r"/missing/cacert\.pem"):
        client.create_token(ADA, config_of(token_server.https_url))


def test_aborted_client_opens_no_connection(client: TokenClient, token_server: TokenServer) -> None:
    """A call that was aborted before it connects, such as in a callable key, ends when it tries to connect."""
    client.abort()
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(token_server.url))
    assert not caught.value.request_sent
    assert token_server.calls == 0


def abort_soon_after(condition: Callable[[], bool], client: TokenClient) -> threading.Thread:
    """Start a thread that waits for the condition and a little longer, and aborts the client's call."""

    def abort() -> None:
        while not condition():
            time.sleep(0.01)
        time.sleep(0.1)
        client.abort()

    thread = threading.Thread(target=abort)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "scenario", ["hang", "hang_after_headers", "drip_headers", "drip_body", "drip_to_close", "continue"]
)
def test_aborted_call_ends(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, scenario: Any
) -> None:
    """The thread that waits for the response is released, whatever the server does."""
    monkeypatch.setattr(client_module, "READ_TIMEOUT", GENEROUS_TIMEOUT)
    token_server.set_scenario(scenario, interval=0.01)
    aborting = abort_soon_after(lambda: client.request_sent, client)
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(token_server.url))
    aborting.join()
    assert caught.value.request_sent


def test_aborted_call_ends_during_the_tls_handshake(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server accepts the connection and never continues the handshake."""
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT", GENEROUS_TIMEOUT)
    monkeypatch.setattr(client_module, "READ_TIMEOUT", GENEROUS_TIMEOUT)
    token_server.set_scenario("hang")
    aborting = abort_soon_after(lambda: token_server.connections == 1, client)
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(token_server.https_url))
    aborting.join()
    assert not caught.value.request_sent


def test_cookies_are_not_kept(client: TokenClient, token_server: TokenServer) -> None:
    """A cookie that a server sets for one visitor is not sent for the next one."""
    token_server.answer(200, {"token": "t"}, {"Set-Cookie": "who=ada; Path=/"})
    config = config_of(token_server.url)
    client.create_token(ADA, config)
    client.create_token(Visitor("eve@example.com"), config)
    assert ["Cookie" in request.headers for request in token_server.requests()] == [False, False]


@pytest.mark.parametrize("status", [101, 103])
def test_interim_response_is_a_transport_error(client: TokenClient, token_server: TokenServer, status: int) -> None:
    """Only status 100 is skipped. After any other interim status no response on the connection is used."""
    token_server.set_scenario("stray", call=1, status=status)
    with pytest.raises(TransportError):
        client.create_token(ADA, config_of(token_server.url))
    assert token_server.calls == 1


# Responses


def test_token_is_returned_unchanged(client: TokenClient, token_server: TokenServer) -> None:
    """It may have up to 4096 characters that are allowed in a URL. Other fields of the response are ignored."""
    token = "eyJ.-_~=/" + "a" * 4087
    token_server.answer(201, {"token": token, "other": "field"})
    assert client.create_token(ADA, config_of(token_server.url)) == token


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("X-GZip", gzip.compress),
        ("deflate", zlib.compress),
        (" ", bytes),
    ],
)
def test_compressed_response_is_decompressed(
    client: TokenClient, token_server: TokenServer, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    """The request accepts gzip and deflate."""
    token_server.answer(200, compress(b'{"token": "t"}'), {"Content-Encoding": encoding})
    assert client.create_token(ADA, config_of(token_server.url)) == "t"


GZIP = {"Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    ("scenario", "options"),
    [
        ("truncated", {}),
        ("bomb", {}),
        ("endless_body", {}),
        ("answer", {"body": b" " * MAX_BODY + b'{"token": "t"}'}),
        ("answer", {"status": 204}),
        ("answer", {"body": "not json"}),
        ("answer", {"body": b'{"token": "\xff"}'}),
        ("answer", {"body": "[" * 60_000}),
        ("answer", {"body": "1" * 5000}),
        ("answer", {"body": ["token"]}),
        ("answer", {"body": {}}),
        ("answer", {"body": {"token": 5}}),
        ("answer", {"body": {"token": ""}}),
        ("answer", {"body": {"token": "a" * 4097}}),
        ("answer", {"body": {"token": "t\n"}}),
        ("answer", {"body": {"token": "a&identificationEmail=eve"}}),
        ("answer", {"body": {"token": "a+b"}}),
        ("answer", {"body": {"token": "tökén"}}),
        ("answer", {"body": b"no gzip", "headers": GZIP}),
        ("answer", {"body": gzip.compress(b'{"token": "t"}', mtime=0)[:-8], "headers": GZIP}),
        ("answer", {"body": b'{"token": "t"}', "headers": {"Content-Encoding": "br"}}),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.get("body", ""))[:30],
)
def test_response_without_a_usable_token_is_unexpected(
    client: TokenClient, token_server: TokenServer, scenario: Any, options: dict[str, Any]
) -> None:
    """A token is a text of characters that are allowed in a URL, in a complete JSON object of limited size."""
    token_server.set_scenario(scenario, **options)
    status = options.get("status", 200)
    with pytest.raises(UnexpectedResponseError) as caught:
        client.create_token(ADA, config_of(token_server.url))
    assert caught.value.status == status
    assert str(status) in str(caught.value)
    assert "eve" not in str(caught.value)


def test_body_of_the_maximum_size_is_accepted(client: TokenClient, token_server: TokenServer) -> None:
    """The limit applies to the decompressed body."""
    body = b'{"token": "t"}'.ljust(MAX_BODY)
    for content, headers in ((body, {}), (gzip.compress(body), GZIP)):
        token_server.answer(200, content, headers)
        assert client.create_token(ADA, config_of(token_server.url)) == "t"


@pytest.mark.parametrize(("status", "scheme"), [(301, "bearer"), (302, "hapikey"), (307, "bearer")])
def test_redirects_are_refused(client: TokenClient, token_server: TokenServer, status: int, scheme: str) -> None:
    """The credential is not sent to another URL, not even on the same host."""
    token_server.set_scenario("redirect", status=status)
    with pytest.raises(UnexpectedResponseError) as caught:
        client.create_token(ADA, config_of(token_server.url, AUTH_SCHEME=scheme))
    assert caught.value.status == status
    assert token_server.calls == 1


def test_body_of_a_redirect_is_limited(client: TokenClient, token_server: TokenServer) -> None:
    """By default, requests reads the body of a redirect to its end, which never comes here."""
    token_server.answer(302, b" " * (MAX_BODY + 1), {"Location": "/elsewhere", "Content-Length": "1000000000"})
    with pytest.raises(UnexpectedResponseError) as caught:
        client.create_token(ADA, config_of(token_server.url))
    assert caught.value.status == 302


@pytest.mark.parametrize("status", [304, 600])
def test_status_without_a_meaning_is_unexpected(client: TokenClient, token_server: TokenServer, status: int) -> None:
    """The exception has the status, whatever it is."""
    token_server.answer(status)
    with pytest.raises(UnexpectedResponseError) as caught:
        client.create_token(ADA, config_of(token_server.url))
    assert caught.value.status == status


# No response


@pytest.mark.parametrize(
    ("scenario", "request_sent"),
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
def test_missing_response_is_a_transport_error(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, scenario: Any, request_sent: bool
) -> None:
    """No exception of a library is chained. The call is not repeated, and a later call with the client succeeds.

    A failure before the request cannot be caused by a visitor's data.
    """
    with monkeypatch.context() as patch:
        patch.setattr(client_module, "CONNECT_TIMEOUT", 0.1)
        patch.setattr(client_module, "READ_TIMEOUT", 0.1)
        token_server.set_scenario(scenario, call=1, status=103)
        config = config_of(token_server.url)
        with pytest.raises(TransportError) as caught:
            client.create_token(ADA, config)
    assert caught.value.request_sent is request_sent
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert token_server.calls == request_sent
    token_server.set_scenario("healthy")
    assert email_of(client.create_token(ADA, config)) == ADA.email


def test_unknown_host_is_a_transport_error(client: TokenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name resolution fails before the request."""

    def unknown(*args: object, **kwargs: object) -> None:
        raise OSError("unknown host")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of("https://api.hubapi.com"))
    assert not caught.value.request_sent


def test_malformed_proxy_is_a_transport_error(client: TokenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text names only the type of the exception, because its own text may contain the proxy's password."""
    monkeypatch.setenv("HTTPS_PROXY", "http://:8080")
    with pytest.raises(TransportError, match="InvalidProxyURL") as caught:
        client.create_token(ADA, config_of("https://api.hubapi.com"))
    assert not caught.value.request_sent


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_without_a_tunnel_gets_no_request(
    client: TokenClient, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """The proxy refuses the tunnel, or does not complete its own TLS handshake."""
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT", 0.2 if scheme == "https" else GENEROUS_TIMEOUT)
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://127.0.0.1:{token_server.port}")
    token_server.answer(502) if scheme == "http" else token_server.set_scenario("hang")
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of("https://api.hubapi.com"))
    assert not caught.value.request_sent
    assert ADA.email not in str(token_server.requests())


def test_request_with_a_replaced_key_may_fail_before_it_is_sent(client: TokenClient, token_server: TokenServer) -> None:
    """After a rejected key, the attribute ``request_sent`` is about the second request."""

    def next_key() -> str:
        key = next(keys)
        token_server.reject_key() if key == "expired" else token_server.set_scenario("refused")
        return key

    keys = iter(["expired", "fresh"])
    with pytest.raises(TransportError) as caught:
        client.create_token(ADA, config_of(token_server.url, API_KEY=next_key))
    assert not caught.value.request_sent
