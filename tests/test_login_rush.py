"""Many new visitors at once: what happens while all worker slots are busy or the rate limit is reached."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest
from pytest_django import Settings
from support.app_settings import configure
from support.clocks import GENEROUS_TIMEOUT, wait_until
from support.faulty_cache import FaultyCache
from support.pages import request_by
from support.server import TokenServer, email_of

from hubspot_identify import services, views
from hubspot_identify._tokens import rate_limit as rate_limit_module
from hubspot_identify._tokens.account import get_account
from hubspot_identify._tokens.workers import SLOTS
from hubspot_identify.services import VisitorToken
from hubspot_identify.visitors import Visitor

RUSH = 3 * SLOTS
VISITORS = [Visitor(f"visitor{number}@example.com") for number in range(RUSH)]


def request_of(visitor: Visitor) -> HttpRequest:
    """Return the script's request for the identity of a user who has this address."""
    user = User(pk=1, email=visitor.email)
    return request_by(user, "/hubspot/identity/", headers={"X-HubSpot-Identify": "1"})


@pytest.fixture
def short_window(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Calls are counted in 1 s instead of 10 s, and five are allowed in it."""
    monkeypatch.setattr(rate_limit_module, "WINDOW", 1)
    configure(settings, RATE_LIMIT=5)


def fill_window() -> None:
    """Use up all calls that the rate limit allows."""
    rate_limit = get_account().rate_limit
    while rate_limit.allows_call():
        pass
    assert rate_limit.full_for


# A full window


def test_process_that_knows_of_a_full_window_starts_no_thread(
    hubspot: TokenServer, settings: Settings, faulty_cache: type[FaultyCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request costs one read of the cache, and the response asks the script to try again."""
    configure(settings, RATE_LIMIT=1)
    fill_window()
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    before = faulty_cache.count()
    responses = [views.identity(request_of(visitor)) for visitor in VISITORS]
    assert {response.status_code for response in responses} == {202}
    assert faulty_cache.count() - before == len(VISITORS)
    assert started == []
    assert hubspot.calls == 0


def test_visitors_are_identified_when_the_window_has_room_again(hubspot: TokenServer, short_window: None) -> None:
    """The process forgets that the window is full when the oldest calls no longer count."""
    fill_window()
    assert services.get_token(VISITORS[0]) is None
    assert wait_until(lambda: services.get_token(VISITORS[0]) is not None)


# Callers that wait


def assert_tokens(tokens: list[VisitorToken | None]) -> None:
    """Assert that each visitor has a token, and that it is the visitor's own."""
    assert [token and email_of(token.value) for token in tokens] == [visitor.email for visitor in VISITORS]


def test_callers_wait_for_a_free_slot(hubspot: TokenServer, settings: Settings) -> None:
    """More simultaneous calls than worker slots: each caller gets the visitor's token."""
    configure(settings, RATE_LIMIT=50)
    hubspot.set_scenario("healthy", latency=0.1)
    with ThreadPoolExecutor(RUSH) as pool:
        tokens = list(pool.map(lambda visitor: services.get_token(visitor, wait=GENEROUS_TIMEOUT), VISITORS))
    assert_tokens(tokens)


def test_tasks_wait_for_a_free_slot(hubspot: TokenServer, settings: Settings) -> None:
    """Callers in an event loop wait as well."""
    configure(settings, RATE_LIMIT=50)
    hubspot.set_scenario("healthy", latency=0.1)

    async def main() -> list[VisitorToken | None]:
        return await asyncio.gather(*(services.aget_token(visitor, wait=GENEROUS_TIMEOUT) for visitor in VISITORS))

    assert_tokens(asyncio.run(main()))


@pytest.mark.slow
def test_callers_wait_for_room_in_the_window(hubspot: TokenServer, short_window: None) -> None:
    """More calls than the rate limit allows: a task gets all tokens, one after the other."""
    assert_tokens([services.get_token(visitor, wait=GENEROUS_TIMEOUT) for visitor in VISITORS])


@pytest.mark.slow
def test_identify_waits_for_room_in_the_window(hubspot: TokenServer, short_window: None) -> None:
    """Synchronous and asynchronous views that pass ``wait`` get the identity."""
    fill_window()
    request = request_of(VISITORS[0])
    assert services.identify(request, wait=GENEROUS_TIMEOUT).identity is not None
    fill_window()
    request = request_of(VISITORS[1])
    assert asyncio.run(services.aidentify(request, wait=GENEROUS_TIMEOUT)).identity is not None


def test_caller_waits_no_longer_than_it_says(hubspot: TokenServer, settings: Settings) -> None:
    """If the window stays full for longer than ``wait``, the caller gets no token, and no call is made."""
    configure(settings, RATE_LIMIT=1)
    fill_window()
    assert services.get_token(VISITORS[0], wait=0.2) is None
    assert hubspot.calls == 0


def test_caller_does_not_try_again_after_a_failure(hubspot: TokenServer) -> None:
    """The delay after a failure also applies to callers that wait."""
    hubspot.answer(500)
    assert services.get_token(VISITORS[0], wait=GENEROUS_TIMEOUT) is None
    assert hubspot.calls == 1
