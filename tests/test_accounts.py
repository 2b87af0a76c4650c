"""Two portals of one site, each a HubSpot of its own: neither learns of the other's visitors, tokens or troubles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import Client
from pytest_django import Settings
from support.pages import ada, render_django, request_by, script_attributes
from support.server import TokenServer, TokenServerProcess

from hubspot_identify import services
from hubspot_identify.background import get_workers
from hubspot_identify.breaker import FAILURES, VISITORS
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com", "Ada", "Lovelace")
KEYS = {"": "key-of-the-world", "eu": "key-of-europe"}

Portals = dict[str, TokenServer]


@pytest.fixture
def portals(token_server_process: TokenServerProcess, settings: Settings) -> Iterator[Portals]:
    """The settings themselves are one account, ``eu`` is the other; what HubSpot each of them calls."""
    servers = {name: token_server_process.open() for name in KEYS}
    world, europe = (
        {"API_KEY": KEYS[name], "BASE_URL": servers[name].url, "PORTAL_ID": portal}
        for name, portal in (("", "1"), ("eu", "2"))
    )
    settings.HUBSPOT_IDENTIFY = {**world, "EMAIL_VERIFIED": True, "ACCOUNTS": {"eu": {**europe, "REGION": "eu1"}}}
    yield servers
    for server in servers.values():
        server.close()


def token_of(account: str, visitor: Visitor = ADA) -> str | None:
    token = services.get_token(visitor, wait=10, account=account)
    assert get_workers().join(10)
    return token and token.value


def test_the_same_visitor_has_a_token_of_each(portals: Portals) -> None:
    """Each portal is asked once, with its own key, and what it made is found again under its own name only."""
    tokens = {account: token_of(account) for account in portals}
    for account, server in portals.items():
        assert token_of(account) == tokens[account]
        assert server.emails_by_token() == {tokens[account]: ADA.email}
        (request,) = server.requests()
        assert dict(request.headers)["Authorization"] == f"Bearer {KEYS[account]}"


def test_forgetting_one_token_keeps_the_other(portals: Portals) -> None:
    """``forget_token`` is about one account."""
    tokens = {account: token_of(account) for account in portals}
    services.forget_token(ADA, account="eu")
    assert services.get_token(ADA, account="eu") is None
    assert token_of("") == tokens[""] is not None


@pytest.mark.parametrize(("status", "enough"), [(401, 1), (429, 1), (503, FAILURES), (404, VISITORS)])
@pytest.mark.parametrize(("ill", "well"), [("eu", ""), ("", "eu")])
def test_trouble_of_one_is_not_the_others(portals: Portals, ill: str, well: str, status: int, enough: int) -> None:
    """While the calls of one portal have stopped, the other creates tokens, for the same visitors too."""
    portals[ill].reject_key() if status == 401 else portals[ill].answer(status, {"correlationId": "c"})
    visitors = [Visitor(f"visitor{number}@example.com") for number in range(enough + 1)]
    assert [token_of(ill, visitor) for visitor in visitors] == [None] * (enough + 1)
    assert portals[ill].calls == enough
    tokens = [token_of(well, visitor) for visitor in visitors]
    assert list(portals[well].emails_by_token()) == tokens


def test_log_lines_name_the_account(portals: Portals, caplog: pytest.LogCaptureFixture) -> None:
    """The trouble of one portal neither hides another's, which looks the same, nor passes for it."""
    for account, server in portals.items():
        server.answer(503)
        assert token_of(account) is None
        server.reject_key()
        assert token_of(account, Visitor("eve@example.com")) is None
    for logger in ("hubspot_identify.breaker", "hubspot_identify.flights"):
        lines = [record.message for record in caplog.records if record.name == logger]
        assert [line.endswith(" [account eu]") for line in lines] == [False, True]


@pytest.mark.django_db
def test_a_page_of_each(portals: Portals, client: Client) -> None:
    """What the tag writes for an account leads the browser to that portal's chat, subject and token, and no other's."""
    user = ada()
    user.save()
    client.force_login(user)
    subjects = set()
    for account, server in portals.items():
        page = script_attributes(render_django(request_by(), account=account))
        assert page["data-loader"].rpartition("/")[2] == {"": "1.js", "eu": "2.js"}[account]
        headers = {"X-HubSpot-Identify": "1"}
        assert client.get(page["data-endpoint"], headers=headers).status_code == 202
        assert get_workers().join(10)
        said = client.get(page["data-endpoint"], headers=headers).json()
        assert list(server.emails_by_token()) == [said["identity"]["token"]]
        subjects.add(said["subject"])
    assert len(subjects) == 2
