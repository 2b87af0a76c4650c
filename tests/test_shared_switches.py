"""What one visitor can cause never stops the identification of the others: a simulated hour of a site."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from django.core.cache import caches
from pytest_django import Settings
from support.clocks import GENEROUS_TIMEOUT
from support.server import TokenServer

from hubspot_identify import services
from hubspot_identify._hubspot.client import TokenClient
from hubspot_identify._tokens import breaker as breaker_module
from hubspot_identify._tokens import rate_limit as rate_limit_module
from hubspot_identify._tokens.account import reset_accounts
from hubspot_identify._tokens.entries import VisitorToken
from hubspot_identify.conf import Config
from hubspot_identify.exceptions import HubSpotIdentifyError
from hubspot_identify.testing import join_threads
from hubspot_identify.visitors import Visitor

pytestmark = pytest.mark.slow

NOW = 1_800_000_000.0
STEP = 20  # seconds between two visitors
VISITORS = 180  # in an hour
BURST = 4  # calls of attackers before each visitor

REFUSED = json.dumps({"status": "error", "category": "VALIDATION_ERROR", "correlationId": "c"})
BLOCKED = [Visitor("eve@example.com", "<script>alert(1)</script>")]
TWELVE = [Visitor(f"refused{number}@example.com") for number in range(12)]

UseFirewall = Callable[..., None]


@pytest.fixture
def use_firewall(hubspot: TokenServer, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> UseFirewall:
    """Return a function that sets the response of a firewall for blocked names and for addresses like "refused1@…".

    One real call shows which error this response causes. The simulation then raises that error without a connection.
    """
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "RATE_LIMIT": 1000}  # time stands still during a burst
    for module in (breaker_module, rate_limit_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=time.time))  # time_machine moves no other clock

    def set_response(**response: Any) -> None:
        hubspot.set_scenario("firewall", **response)
        with pytest.raises(HubSpotIdentifyError) as caught:
            services.create_token(TWELVE[0])
        error = caught.value

        def create_token(client: TokenClient, visitor: Visitor, config: Config) -> str:
            if visitor.email.startswith("refused") or "<script>" in visitor.first_name:
                raise error
            return f"token-of-{visitor.email.partition('@')[0]}"

        monkeypatch.setattr(TokenClient, "create_token", create_token)

    return set_response


def share_identified(attackers: list[Visitor], burst: int = BURST) -> float:
    """Return the share of the visitors who are identified on their first page while the attackers call as well."""
    caches["default"].clear()
    reset_accounts()
    identified, turns = 0, itertools.cycle(attackers)
    with time_machine.travel(NOW, tick=False) as clock:
        for number in range(VISITORS):
            for _ in range(min(burst, len(attackers))):
                fetch(next(turns))
            identified += fetch(Visitor(f"visitor{number}@example.com")) is not None
            clock.shift(STEP)
    return identified / VISITORS


def fetch(visitor: Visitor) -> VisitorToken | None:
    """Return the visitor's token, and wait until the worker is free again."""
    token = services.get_token(visitor, wait=GENEROUS_TIMEOUT)
    assert join_threads(GENEROUS_TIMEOUT)
    return token


@pytest.mark.parametrize(
    ("attackers", "response"),
    [
        (BLOCKED, {"status": 403, "body": "<h1>Request blocked</h1>"}),
        (BLOCKED, {"status": 404}),
        (BLOCKED, {"status": 415, "body": REFUSED}),
        (BLOCKED, {"status": 500}),
        (BLOCKED, {"status": 429, "headers": {"Retry-After": "3600"}}),
        (BLOCKED, {"status": 302, "headers": {"Location": "/blocked"}}),
        (BLOCKED, {"status": 103}),
        ([Visitor(f"refused{number}@example.com") for number in range(40)], {"status": 400, "body": REFUSED}),
    ],
    ids=lambda value: f"{len(value)} attackers" if isinstance(value, list) else str(value["status"]),
)
def test_attack_of_few_visitors_leaves_the_others_identified(
    use_firewall: UseFirewall, attackers: list[Visitor], response: dict[str, Any]
) -> None:
    """At least 98 % of the new visitors are identified at once."""
    use_firewall(**response)
    assert share_identified(attackers) >= 0.98


@pytest.mark.parametrize(("status", "burst"), [(404, len(TWELVE)), (500, len(TWELVE)), (429, BURST)])
def test_twelve_blocked_accounts_leave_the_others_identified(
    use_firewall: UseFirewall, status: int, burst: int
) -> None:
    """The same share is identified, although each account can be a probe that fails."""
    use_firewall(status=status, headers={"Retry-After": "3600"})
    assert share_identified(TWELVE, burst) >= 0.98


def test_accounts_that_change_their_names_leave_the_others_identified(use_firewall: UseFirewall) -> None:
    """The same share is identified, although each account gets a token with another name in between."""
    use_firewall(status=404)
    accounts = [Visitor(f"eve{n}@example.com", name) for name in ("<script>", "Eve") for n in range(len(TWELVE))]
    assert share_identified(accounts, len(accounts)) >= 0.98
