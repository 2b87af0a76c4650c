"""What one visitor can cause never switches identification off for the others: a simulated hour of a site."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import time_machine
from django.core.cache import caches
from pytest_django import Settings
from support.server import TokenServer

from hubspot_identify import services
from hubspot_identify.background import get_workers
from hubspot_identify.breaker import forget_breakers
from hubspot_identify.tokens import VisitorToken
from hubspot_identify.visitors import Visitor

NOW = 1_800_000_000.0
STEP = 10  # seconds between two visitors
VISITORS = 360  # in an hour
BURST = 4  # calls of attackers before each visitor

REFUSED = json.dumps({"status": "error", "category": "VALIDATION_ERROR", "correlationId": "c"})
BLOCKED = [Visitor("eve@example.com", "<script>alert(1)</script>")]
TWELVE = [Visitor(f"refused{number}@example.com") for number in range(12)]


def share_identified(attackers: list[Visitor], burst: int = BURST) -> float:
    """Return the share of the visitors who are identified on their first page while the attackers call as well."""
    caches["default"].clear()
    forget_breakers()
    identified, turns = 0, itertools.cycle(attackers)
    with time_machine.travel(NOW, tick=False) as clock:
        for number in range(VISITORS):
            for _ in range(min(burst, len(attackers))):
                fetch(next(turns))
            identified += fetch(Visitor(f"visitor{number}@example.com")) is not None
            clock.shift(STEP)
    return identified / VISITORS


def fetch(visitor: Visitor) -> VisitorToken | None:
    """Wait for the visitor's token, and until the worker is free for the next one."""
    token = services.get_token(visitor, wait=10)
    assert get_workers().join(10)
    return token


@pytest.mark.parametrize(
    ("attackers", "response"),
    [
        (BLOCKED, {"status": 403, "body": "<h1>Request blocked</h1>"}),
        (BLOCKED, {"status": 401, "body": "<h1>Log in</h1>"}),
        (BLOCKED, {"status": 404}),
        (BLOCKED, {"status": 415, "body": REFUSED}),
        (BLOCKED, {"status": 488}),
        (BLOCKED, {"status": 500}),
        (BLOCKED, {"status": 429, "headers": {"Retry-After": "3600"}}),
        (BLOCKED, {"status": 302, "headers": {"Location": "/blocked"}}),
        (BLOCKED, {"status": 103}),
        ([Visitor(f"refused{number}@example.com") for number in range(40)], {"status": 400, "body": REFUSED}),
    ],
    ids=lambda value: f"{len(value)} attackers" if isinstance(value, list) else str(value["status"]),
)
def test_attack_of_few_visitors_leaves_the_others_identified(
    hubspot: TokenServer, attackers: list[Visitor], response: dict[str, Any]
) -> None:
    """At least 98 % of the share without an attack, for visitors who are new, one every ten seconds."""
    hubspot.set_scenario("firewall", **response)
    in_peace, under_attack = share_identified([]), share_identified(attackers)
    assert under_attack >= 0.98 * in_peace
    assert in_peace > 0.99


@pytest.mark.parametrize("burst", [BURST, len(TWELVE)])
@pytest.mark.parametrize("status", [404, 429, 500])
def test_twelve_blocked_accounts_leave_the_others_identified(
    hubspot: TokenServer, settings: Settings, status: int, burst: int
) -> None:
    """The same share, although each of them can be a probe that fails, and all of them call before each visitor."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "RATE_LIMIT": 1000}  # time stands still during a burst
    hubspot.set_scenario("firewall", status=status, headers={"Retry-After": "3600"})
    without_attack, under_attack = share_identified([]), share_identified(TWELVE, burst)
    assert under_attack >= 0.98 * without_attack
    assert without_attack > 0.99


def test_accounts_that_change_their_names_leave_the_others_identified(hubspot: TokenServer, settings: Settings) -> None:
    """The same share, although each account gets a token with another name in between, as often as it can."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "RATE_LIMIT": 1000}
    hubspot.set_scenario("firewall", status=404)
    accounts = [Visitor(f"eve{n}@example.com", name) for name in ("<script>", "Eve") for n in range(len(TWELVE))]
    assert share_identified(accounts, len(accounts)) >= 0.98
