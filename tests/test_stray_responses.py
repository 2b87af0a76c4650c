"""A stray response on the way never gives a visitor the token of another visitor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pytest_django import Settings
from support.certificates import Certificate
from support.server import TokenServer, TokenServerProcess, email_of

from hubspot_identify import services
from hubspot_identify._hubspot import client
from hubspot_identify.exceptions import HubSpotIdentifyError
from hubspot_identify.visitors import Visitor

CALLS, THREADS, STRAY_CALL = 16, 4, 5


@pytest.fixture
def server(
    request: pytest.FixtureRequest,
    token_server_process: TokenServerProcess,
    certificate: Certificate,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[TokenServer]:
    """The token endpoint, reached directly by HTTP or HTTPS, or by HTTPS through a proxy."""
    monkeypatch.setattr(client, "CONNECT_TIMEOUT", 30.0)
    monkeypatch.setattr(client, "READ_TIMEOUT", 30.0)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.authority))
    server = token_server_process.open(None if request.param == "http" else certificate.server)
    proxy = token_server_process.open()
    base_url = server.url if request.param == "http" else server.https_url
    if request.param == "proxy":
        proxy.set_scenario("tunnel", target=server.port)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        base_url = "https://api.hubapi.com"
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": base_url, "TIMEOUT": 30}
    yield server
    assert proxy.calls == (server.connections if request.param == "proxy" else 0)
    for one in (server, proxy):
        one.close()


def token_for(visitor: Visitor) -> str | None:
    try:
        return services.create_token(visitor).value
    except HubSpotIdentifyError:
        return None


@pytest.mark.parametrize(
    ("server", "status"),
    [
        *(("http", status) for status in (103, 204, 500, 200)),
        *(("https", status) for status in (103, 500, 200)),
        *(("proxy", status) for status in (103, 500, 200)),
    ],
    indirect=["server"],
)
def test_stray_response_gives_no_visitor_a_wrong_token(server: TokenServer, status: int) -> None:
    """One of many calls gets an additional response. That call may fail; every other visitor gets their own token."""
    server.set_scenario("stray", call=STRAY_CALL, status=status)
    visitors = [Visitor(f"visitor{number}@example.com") for number in range(CALLS)]
    with ThreadPoolExecutor(THREADS) as pool:
        tokens = list(pool.map(token_for, visitors))
    wrong = [
        token for visitor, token in zip(visitors, tokens, strict=True) if token and email_of(token) != visitor.email
    ]
    assert wrong == []
    assert tokens.count(None) == (0 if status == 200 else 1)
    assert server.connections == CALLS
