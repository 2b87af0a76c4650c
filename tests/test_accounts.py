"""Two accounts of one site, each with its own server: they share neither visitors, tokens nor failures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import Client
from pytest_django import Settings
from support.clocks import GENEROUS_TIMEOUT
from support.pages import ada, render_django, request_by, script_attributes
from support.server import TokenServer, TokenServerProcess
from support.workers import wait_for_workers

from hubspot_identify import services
from hubspot_identify._tokens.breaker import FAILURES, VISITORS
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com", "Ada", "Lovelace")
KEYS = {"": "key-of-the-world", "emea": "key-of-europe"}

Portals = dict[str, TokenServer]


@pytest.fixture
def portals(token_server_process: TokenServerProcess, settings: Settings) -> Iterator[Portals]:
    """The servers of two accounts: the settings outside of ``ACCOUNTS``, and ``emea``."""
    servers = {name: token_server_process.open() for name in KEYS}
    world, europe = (
        {"API_KEY": KEYS[name], "BASE_URL": servers[name].url, "PORTAL_ID": portal}
        for name, portal in (("", "1"), ("emea", "2"))
    )
    settings.HUBSPOT_IDENTIFY = {**world, "EMAIL_VERIFIED": True, "ACCOUNTS": {"emea": {**europe, "REGION": "eu1"}}}
    yield servers
    for server in servers.values():
        server.close()


def token_of(account: str, visitor: Visitor = ADA) -> str | None:
    token = services.get_token(visitor, wait=GENEROUS_TIMEOUT, account=account)
    wait_for_workers()
    return token.value if token else None


def test_visitor_has_a_token_of_each_account(portals: Portals) -> None:
    """Each account's server gets one call with that account's key, and its token is cached for that account only."""
    tokens = {account: token_of(account) for account in portals}
    for account, server in portals.items():
        assert token_of(account) == tokens[account]
        assert server.emails_by_token() == {tokens[account]: ADA.email}
        (request,) = server.requests()
        assert dict(request.headers)["Authorization"] == f"Bearer {KEYS[account]}"


def test_forget_token_applies_to_one_account(portals: Portals) -> None:
    """The token of the other account stays in the cache."""
    tokens = {account: token_of(account) for account in portals}
    services.forget_token(ADA, account="emea")
    assert services.get_token(ADA, account="emea") is None
    assert token_of("") == tokens[""] is not None


@pytest.mark.parametrize(
    ("status", "failing", "working", "calls"),
    [
        (401, "emea", "", 1),
        (429, "emea", "", 1),
        (503, "emea", "", FAILURES),
        (404, "emea", "", VISITORS),
        (503, "", "emea", FAILURES),
    ],
)
def test_account_creates_tokens_while_the_circuit_breaker_of_another_is_open(
    portals: Portals, status: int, failing: str, working: str, calls: int
) -> None:
    """After some failed calls the app stops calling for one account. For the other it calls for the same visitors."""
    portals[failing].reject_key() if status == 401 else portals[failing].answer(status, {"correlationId": "c"})
    visitors = [Visitor(f"visitor{number}@example.com") for number in range(calls + 1)]
    assert [token_of(failing, visitor) for visitor in visitors] == [None] * (calls + 1)
    assert portals[failing].calls == calls
    tokens = [token_of(working, visitor) for visitor in visitors]
    assert list(portals[working].emails_by_token()) == tokens


def test_log_records_name_the_account(portals: Portals, caplog: pytest.LogCaptureFixture) -> None:
    """The same failure of two accounts is logged for each of them."""
    for account, server in portals.items():
        server.answer(503)
        assert token_of(account) is None
        server.reject_key()
        assert token_of(account, Visitor("eve@example.com")) is None
    for logger in ("hubspot_identify._tokens.breaker", "hubspot_identify._tokens.fetch"):
        lines = [record.message for record in caplog.records if record.name == logger]
        assert ["emea" in line for line in lines] == [False, True]


@pytest.mark.django_db
def test_page_has_the_chat_subject_and_token_of_its_account(portals: Portals, client: Client) -> None:
    """The attributes that the tag writes lead the browser to one account only."""
    user = ada()
    user.save()
    client.force_login(user)
    subjects = set()
    for account, server in portals.items():
        page = script_attributes(render_django(request_by(), account=account))
        assert page["data-loader"].rpartition("/")[2] == {"": "1.js", "emea": "2.js"}[account]
        headers = {"X-HubSpot-Identify": "1"}
        assert client.get(page["data-endpoint"], headers=headers).status_code == 202
        wait_for_workers()
        response = client.get(page["data-endpoint"], headers=headers).json()
        assert list(server.emails_by_token()) == [response["identity"]["token"]]
        subjects.add(response["subject"])
    assert len(subjects) == 2
