"""When the circuit breaker stops the calls to HubSpot, on a clock that the test moves."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.cache import caches
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.accounts import new_account
from support.caches import SHARED_BACKENDS, CacheBackend
from support.clocks import Clock
from support.faulty_cache import FaultyCache

from hubspot_identify._hubspot.responses import Response, error_from_response
from hubspot_identify._tokens import breaker as breaker_module
from hubspot_identify._tokens.account import get_account
from hubspot_identify._tokens.breaker import (
    CLOSED,
    COOL_DOWN,
    COOL_DOWN_SPREAD,
    FAILURE_WINDOW,
    FAILURES,
    KEY_COOL_DOWN,
    RETRY_INTERVAL,
    STATE_GRACE,
    VISITORS,
    Breaker,
    State,
    decode_state,
)
from hubspot_identify._tokens.entries import CLOCK_SKEW
from hubspot_identify._tokens.failures import DAILY_PAUSE
from hubspot_identify.exceptions import (
    CredentialError,
    HubSpotIdentifyError,
    TransportError,
    UnexpectedResponseError,
)

ADA, EVE, JOE = "ada", "eve", "joe"
MAX_FACTOR = 1 + COOL_DOWN_SPREAD  # of the longest random cool-down
MIN_FACTOR = 1 - COOL_DOWN_SPREAD  # of the shortest

HUBSPOT_BODY = b'{"correlationId": "c"}'  # the body of a response that HubSpot itself sent
NOT_SENT = TransportError("no connection", request_sent=False)

NewBreaker = Callable[..., Breaker]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(breaker_module, "time", clock)
    return clock


@pytest.fixture
def new_breaker(clock: Clock) -> NewBreaker:
    """Return a factory for the breakers of further processes, which share only the cache and the clock."""

    def create(clock: Clock = clock, account: str = "", **changes: object) -> Breaker:
        return new_account(clock, account, **changes).breaker

    return create


@pytest.fixture
def breaker(new_breaker: NewBreaker) -> Breaker:
    return new_breaker()


def response_error(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> HubSpotIdentifyError:
    """Return the error for a response."""
    return error_from_response(Response(status, headers or {}, body))


def rejected_key(status: int = 401, category: str = "INVALID_AUTHENTICATION") -> HubSpotIdentifyError:
    """Return the error for a response in which HubSpot itself rejects the key."""
    return response_error(status, body=json.dumps({"category": category, "correlationId": "c"}).encode())


WRONG_DATA_CENTRE = response_error(488, body=b'{"status": "error", "correctHublet": "eu1"}')

visitor_numbers = itertools.count()


def fail(
    breaker: Breaker,
    times: int = 1,
    error: HubSpotIdentifyError | None = None,
    visitor: str | None = None,
    since: float | None = None,
) -> None:
    """Record failures: each of a new visitor unless one is given, and first failures unless ``since`` is given."""
    for _ in range(times):
        breaker.record_failure(
            error or TransportError("no response"),
            visitor or f"visitor{next(visitor_numbers)}",
            breaker._now() if since is None else since,
        )


def open_and_cool_down(breaker: Breaker, clock: Clock) -> None:
    """Open the breaker and let its cool-down pass, so that the next call is a probe."""
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * MAX_FACTOR)


def levels(caplog: pytest.LogCaptureFixture) -> list[int]:
    """Return the level of each log record."""
    return [record.levelno for record in caplog.records]


# Opening


@pytest.mark.parametrize(
    "error",
    [
        TransportError("no response"),
        UnexpectedResponseError("HTML", status=200),
        CredentialError("the callable failed"),
        *(response_error(status) for status in (403, 418, 503)),
    ],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'status', '')}",
)
def test_five_failures_open_the_breaker(
    breaker: Breaker, error: HubSpotIdentifyError, caplog: pytest.LogCaptureFixture
) -> None:
    """A new breaker allows calls. The fifth failure within 30 s stops them and is logged once."""
    assert breaker.allows_call()
    assert not breaker.is_open_locally
    fail(breaker, FAILURES - 1, error)
    assert breaker.allows_call()
    assert not caplog.records
    fail(breaker, 1, error)
    assert not breaker.allows_call()
    assert breaker.is_open_locally
    assert levels(caplog) == [logging.WARNING]


def test_failures_of_two_visitors_never_open_it(breaker: Breaker, clock: Clock) -> None:
    """What one visitor with two accounts can cause does not stop the calls for the others, however often they fail."""
    for _ in range(40):
        fail(breaker, 1, visitor=ADA)
        fail(breaker, 1, visitor=EVE)
        clock.pass_by(1)
        assert breaker.allows_call()


@pytest.mark.parametrize("visitors", [[0] * 9 + [1, 2], [0, 1, 2, 0, 1], [0, 0, 0, 0, 0, 1, 1, 1, 1, 2]])
def test_five_failures_of_three_visitors_open_the_breaker(breaker: Breaker, visitors: list[int]) -> None:
    """The order does not matter, even if one visitor failed more often than there are failures to count."""
    for number in visitors[:-1]:
        fail(breaker, 1, visitor=(ADA, EVE, JOE)[number])
        assert breaker.allows_call()
    fail(breaker, 1, visitor=(ADA, EVE, JOE)[visitors[-1]])
    assert not breaker.allows_call()


@pytest.mark.parametrize("error", [TransportError("no response"), response_error(404), response_error(500)])
def test_visitors_who_have_failed_before_never_open_it(
    breaker: Breaker, clock: Clock, error: HubSpotIdentifyError
) -> None:
    """Visitors whose names a firewall blocks are counted once each, and not again while a failure is on record."""
    before = clock.now - FAILURE_WINDOW - 1
    fail(breaker, 40, error, since=before)
    assert breaker.allows_call()
    assert breaker.state == CLOSED


def test_failures_of_all_processes_add_up(new_breaker: NewBreaker) -> None:
    """One failure in each of five processes opens the breaker for all of them."""
    breakers = [new_breaker() for _ in range(FAILURES)]
    for breaker in breakers:
        assert breaker.allows_call()
        fail(breaker)
    assert not any(breaker.allows_call() for breaker in breakers)
    assert all(breaker.is_open_locally for breaker in breakers)


@pytest.mark.parametrize("cache_backend", SHARED_BACKENDS, indirect=True)
def test_concurrent_failures_are_all_counted(cache_backend: CacheBackend, new_breaker: NewBreaker) -> None:
    """Five failures at the same moment open the breaker on every cache that processes share."""

    def fail_and_close(breaker: Breaker) -> None:
        fail(breaker)
        caches.close_all()

    with ThreadPoolExecutor(FAILURES) as pool:
        list(pool.map(fail_and_close, [new_breaker() for _ in range(FAILURES)]))
    assert not new_breaker().allows_call()


def test_failures_far_apart_do_not_count(breaker: Breaker, clock: Clock) -> None:
    """One failure every eight seconds for 20 minutes does not open the breaker."""
    for _ in range(150):
        fail(breaker)
        clock.pass_by(FAILURE_WINDOW / 4 + 0.5)
        assert breaker.allows_call()


def test_five_failures_in_29_seconds_count_despite_older_ones(breaker: Breaker, clock: Clock) -> None:
    """Failures outside the window neither count nor take the places of newer ones in the cache."""
    fail(breaker, FAILURES - 1)
    clock.pass_by(FAILURE_WINDOW + 1)
    for _ in range(FAILURES - 1):
        fail(breaker)
        assert breaker.allows_call()
        clock.pass_by((FAILURE_WINDOW - 1) / (FAILURES - 1))
    fail(breaker)
    assert not breaker.allows_call()


def test_successes_and_refused_visitors_in_between_do_not_hide_failures(breaker: Breaker) -> None:
    """An outage that affects every other call opens the breaker."""
    for _ in range(FAILURES):
        assert breaker.allows_call()
        fail(breaker, 1, response_error(400))
        breaker.record_success()
        fail(breaker)
    assert not breaker.allows_call()


def test_failures_from_a_clock_five_seconds_ahead_count(new_breaker: NewBreaker, clock: Clock) -> None:
    """Hosts whose clocks differ count failures together and see each other's open breaker."""
    ahead = new_breaker(Clock(clock.now + 5))
    fail(ahead, 2)
    behind = new_breaker()
    fail(behind, 3)
    assert not behind.allows_call()
    assert not ahead.allows_call()


@pytest.mark.parametrize("error", [rejected_key(), WRONG_DATA_CENTRE], ids=["invalid key", "wrong data centre"])
def test_rejected_key_opens_the_breaker_at_once(
    breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture, error: HubSpotIdentifyError
) -> None:
    """One such response stops the calls for five minutes. One ERROR is logged, however often probes fail."""
    for _ in range(3):
        fail(breaker, 1, error)
        clock.pass_by(KEY_COOL_DOWN - 1)
        assert not breaker.allows_call()
        clock.pass_by(1)
        assert breaker.allows_call()
    assert levels(caplog) == [logging.ERROR]


def test_rejected_key_of_a_callable_opens_the_breaker_for_a_short_time(new_breaker: NewBreaker, clock: Clock) -> None:
    """A callable may return a valid key at the next call, so the first cool-down applies."""
    breaker = new_breaker(API_KEY=lambda: "key")
    for _ in range(3):
        fail(breaker, 1, rejected_key())
        clock.pass_by(COOL_DOWN - 1)
        assert not breaker.allows_call()
        clock.pass_by(1)
        assert breaker.allows_call()


@pytest.mark.parametrize(
    "error",
    [response_error(404), response_error(488), rejected_key(403, "OTHER")],
    ids=["404", "488 without a data centre", "403 for another reason"],
)
def test_configuration_status_opens_the_breaker_for_the_third_visitor(
    breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture, error: HubSpotIdentifyError
) -> None:
    """Three visitors in a row, at any distance, log one ERROR. The cool-down doubles while probes fail."""
    fail(breaker, 3, error, ADA)
    clock.pass_by(600)
    fail(breaker, 3, error, EVE)
    assert breaker.allows_call()
    fail(breaker, 1, error, JOE)
    for cool_down in (COOL_DOWN, 2 * COOL_DOWN, 4 * COOL_DOWN):
        clock.pass_by(MIN_FACTOR * cool_down - 1)
        assert not breaker.allows_call()
        clock.pass_by((MAX_FACTOR - MIN_FACTOR) * cool_down + 1)
        assert breaker.allows_call()
        fail(breaker, FAILURES, error)
    assert levels(caplog) == [logging.ERROR]


def test_refused_visitors_never_open_it(breaker: Breaker, caplog: pytest.LogCaptureFixture) -> None:
    """Forty addresses that HubSpot refuses stop no other visitor. Three in a row log one ERROR without an address."""
    fail(breaker, 1, response_error(400))
    fail(breaker, 1, response_error(422))
    assert not caplog.records
    for _ in range(19):
        fail(breaker, 1, response_error(422))
        fail(breaker, 1, response_error(400))
    assert breaker.allows_call()
    assert levels(caplog) == [logging.ERROR]
    assert "@example.com" not in caplog.text


@pytest.mark.parametrize("status", [400, 404])
def test_success_discards_the_visitors_counted_before_it(
    breaker: Breaker, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """A token between the second and the third failure shows that the visitors are the reason."""
    fail(breaker, VISITORS - 1, response_error(status))
    breaker.record_success()
    fail(breaker, VISITORS - 1, response_error(status))
    assert breaker.allows_call()
    assert not caplog.records


def test_log_records_contain_the_error_and_the_account(
    new_breaker: NewBreaker, caplog: pytest.LogCaptureFixture
) -> None:
    """With several portals, each kind of record shows which account it is about and what HubSpot responded."""
    for number, (error, times) in enumerate(
        [
            (rejected_key(), 1),
            (response_error(404, body=b'{"correlationId": "c"}'), VISITORS),
            (response_error(400, body=b'{"correlationId": "c"}'), VISITORS),
            (response_error(503, body=b'{"correlationId": "c"}'), FAILURES),
            (response_error(429, body=HUBSPOT_BODY), 1),
        ]
    ):
        account = f"portal-eu-{number}"
        caplog.clear()
        fail(new_breaker(ACCOUNTS={account: {}}, account=account), times, error)
        (record,) = caplog.records
        assert record.name == "hubspot_identify._tokens.breaker"
        assert account in record.message
        assert str(error) in record.message


# Cooling down


def time_open(breaker: Breaker, clock: Clock, error: HubSpotIdentifyError | None = None) -> float:
    """Let calls fail until the breaker opens, and return the seconds until it allows a call."""
    opened = clock.now
    fail(breaker, FAILURES, error)
    while not breaker.allows_call():
        clock.pass_by(0.25)
    return clock.now - opened


@pytest.mark.parametrize(
    "error", [TransportError("no response"), NOT_SENT, response_error(404)], ids=["sent", "not sent", "404"]
)
def test_cool_down_doubles_up_to_five_minutes(breaker: Breaker, clock: Clock, error: HubSpotIdentifyError) -> None:
    """The cool-downs are 15, 30, 60, 120, 240, 300 and 300 s, each give or take a fifth."""
    for expected in (15, 30, 60, 120, 240, 300, 300):
        assert MIN_FACTOR * expected <= time_open(breaker, clock, error) <= MAX_FACTOR * expected + 0.25


def test_cool_downs_are_spread(clock: Clock, new_breaker: NewBreaker) -> None:
    """Sites whose breakers opened at the same moment do not all call again at the same moment."""
    cool_downs = [time_open(new_breaker(PORTAL_ID=str(number)), clock) for number in range(20)]
    assert max(cool_downs) - min(cool_downs) > COOL_DOWN * COOL_DOWN_SPREAD / 2


def test_success_resets_the_breaker(breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """After a successful probe, all may call, five failures are needed again, and the first cool-down is short."""
    caplog.set_level(logging.INFO)
    for _ in range(3):
        time_open(breaker, clock)
    breaker.record_success()
    assert not breaker.is_open_locally
    clock.pass_by(1)
    assert caplog.records[-1].levelno == logging.INFO
    assert all(breaker.allows_call() for _ in range(5))
    fail(breaker, FAILURES - 1)
    assert breaker.allows_call()
    assert 0 < time_open(breaker, clock) <= COOL_DOWN * MAX_FACTOR + 0.25


@pytest.mark.parametrize("status", [404, 500])
def test_visitors_who_failed_before_a_success_are_no_evidence(breaker: Breaker, clock: Clock, status: int) -> None:
    """The success of another visitor shows that they are the reason, so they cannot open the breaker again."""
    first = clock.now
    for visitor in (ADA, EVE, JOE):
        fail(breaker, 2, response_error(status), visitor)
    clock.pass_by(COOL_DOWN * MAX_FACTOR)
    assert breaker.allows_call()
    breaker.record_success()
    for visitor in (ADA, EVE, JOE):
        clock.pass_by(1)
        fail(breaker, 2, response_error(status), visitor, first)
    assert breaker.allows_call()


def test_success_discards_the_failures_before_it(breaker: Breaker, clock: Clock) -> None:
    """After a probe that succeeds within 30 s of the five failures, none of them counts any more."""
    open_and_cool_down(breaker, clock)
    assert breaker.allows_call()
    breaker.record_success()
    clock.pass_by(1)
    fail(breaker, FAILURES - 1)
    assert breaker.allows_call()


def test_cool_down_doubles_after_an_hour_without_visitors(breaker: Breaker, clock: Clock) -> None:
    """The state is kept after a cool-down: the next calls are still probes, and their failures double it."""
    time_open(breaker, clock)
    clock.pass_by(STATE_GRACE - 60)
    assert not breaker.allows_call()  # the probe that time_open() started has not ended
    fail(breaker, FAILURES)
    clock.pass_by(2 * COOL_DOWN * MIN_FACTOR - 1)
    assert not breaker.allows_call()


def test_one_process_probes_at_a_time(new_breaker: NewBreaker, clock: Clock) -> None:
    """After the cool-down one process calls; the others wait until its call has ended."""
    breakers = [new_breaker() for _ in range(8)]
    open_and_cool_down(breakers[0], clock)
    for breaker in breakers[:FAILURES]:
        assert [breaker.allows_call() for breaker in breakers].count(True) == 1
        fail(breaker)
    assert not any(breaker.allows_call() for breaker in breakers)
    clock.pass_by(2 * COOL_DOWN * MAX_FACTOR)
    assert [breaker.allows_call() for breaker in breakers].count(True) == 1
    breakers[3].record_success()
    assert all(breaker.allows_call() for breaker in breakers)


def test_lost_probe_delays_the_next_by_the_length_of_a_call(
    breaker: Breaker, clock: Clock, faulty_cache: type[FaultyCache]
) -> None:
    """If a process dies during its probe, the others wait for TIMEOUT and one second."""
    open_and_cool_down(breaker, clock)
    timeouts: list[object] = []

    def add(key: str, value: object, timeout: object) -> bool:
        timeouts.append(timeout)
        return True

    faulty_cache.instead["add"] = add
    assert breaker.allows_call()
    assert timeouts == [4]


def test_refused_visitor_as_probe_closes_the_breaker(breaker: Breaker, clock: Clock) -> None:
    """HubSpot responds, so the outage is over."""
    open_and_cool_down(breaker, clock)
    assert breaker.allows_call()
    fail(breaker, 1, response_error(400))
    assert all(breaker.allows_call() for _ in range(3))


def test_failed_probes_of_few_visitors_do_not_open_it(breaker: Breaker, clock: Clock) -> None:
    """Each probe may have failed because of its visitor. However often four visitors fail, the next one may call."""
    open_and_cool_down(breaker, clock)
    for number in range(40):
        assert breaker.allows_call()
        error = response_error(404 if number % 2 else 500)
        fail(breaker, 1, error, f"visitor{number % (FAILURES - 1)}")
    assert breaker.allows_call()


@pytest.mark.parametrize("error", [NOT_SENT, CredentialError("the callable failed")], ids=["not sent", "no key"])
def test_failed_probe_that_no_visitor_can_have_caused_doubles_the_cool_down(
    breaker: Breaker, clock: Clock, error: HubSpotIdentifyError
) -> None:
    """The request was not sent, so one failure is enough, even of a visitor with a failure on record."""
    open_and_cool_down(breaker, clock)
    assert breaker.allows_call()
    fail(breaker, 1, error, since=0.0)
    clock.pass_by(2 * COOL_DOWN * MIN_FACTOR - 1)
    assert not breaker.allows_call()


def test_failures_before_the_request_count_despite_earlier_failures(breaker: Breaker) -> None:
    """No visitor can cause a failed connection, so it counts even for visitors who have failed for long."""
    fail(breaker, FAILURES - 1, NOT_SENT, since=0.0)
    assert breaker.allows_call()
    fail(breaker, 1, NOT_SENT, since=0.0)
    assert not breaker.allows_call()


def test_failures_before_the_request_of_two_visitors_do_not_open_the_breaker(breaker: Breaker) -> None:
    """The breaker opens only after failures of three visitors, whatever the failure is."""
    for _ in range(40):
        fail(breaker, 1, NOT_SENT, ADA)
        fail(breaker, 1, NOT_SENT, EVE)
    assert breaker.allows_call()


def test_visitor_with_a_failure_is_never_the_probe(breaker: Breaker, clock: Clock) -> None:
    """The next visitor without a failure is the probe, and does not wait for the one with a failure."""
    open_and_cool_down(breaker, clock)
    assert not any(breaker.allows_call(may_probe=False) for _ in range(5))
    assert breaker.allows_call()
    breaker.record_success()
    assert breaker.allows_call(may_probe=False)


def test_visitor_with_a_failure_may_call_after_a_pause(breaker: Breaker, clock: Clock) -> None:
    """Such a call is made once, and the next visitor without a failure may call as well."""
    fail(breaker, 1, response_error(429, body=HUBSPOT_BODY))
    clock.pass_by(11)
    assert [breaker.allows_call(may_probe=False) for _ in range(3)] == [True, False, False]
    assert breaker.allows_call()


def test_visitor_with_a_failure_may_call_a_minute_after_the_cool_down(breaker: Breaker, clock: Clock) -> None:
    """On a small site, every visitor may have a failure on record. One of them may call once a minute."""
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * MAX_FACTOR + RETRY_INTERVAL)
    assert [breaker.allows_call(may_probe=False) for _ in range(3)] == [True, False, False]
    fail(breaker, 1, since=0.0)
    assert breaker.allows_call()
    breaker.record_success()
    assert breaker.allows_call(may_probe=False)


def test_late_results_change_nothing(breaker: Breaker, clock: Clock) -> None:
    """Calls that were in progress when the breaker opened neither close it nor extend the cool-down."""
    fail(breaker, FAILURES)
    fail(breaker, 20)
    fail(breaker, 1, rejected_key())
    breaker.record_success()
    assert not breaker.allows_call()
    clock.pass_by(COOL_DOWN * MAX_FACTOR)
    assert breaker.allows_call()


def test_last_seen_state_is_available_without_the_cache(
    new_breaker: NewBreaker, clock: Clock, faulty_cache: type[FaultyCache]
) -> None:
    """Whether the breaker was open at the last look costs no cache operation, and expires with the cool-down."""
    one, other = new_breaker(), new_breaker()
    fail(one, FAILURES)
    faulty_cache.reset()
    assert (one.is_open_locally, other.is_open_locally) == (True, False)
    assert faulty_cache.count() == 0
    assert not other.allows_call()
    assert other.is_open_locally
    clock.pass_by(COOL_DOWN * MAX_FACTOR)
    assert not one.is_open_locally


# Wrong clocks


@pytest.mark.parametrize("seconds", [3600, 120])
def test_clock_set_back_while_the_breaker_is_open_does_not_prolong_it(
    breaker: Breaker, clock: Clock, seconds: float
) -> None:
    """This process allows calls after the cool-down, like a process that has just started."""
    fail(breaker, FAILURES)
    clock.set_back(seconds)
    assert breaker.is_open_locally
    clock.pass_by(COOL_DOWN * MAX_FACTOR)
    assert not breaker.is_open_locally
    assert breaker.allows_call()


@pytest.mark.parametrize("seconds", [3600, 120, 20])
def test_clock_set_back_after_the_breaker_closed_changes_nothing(
    breaker: Breaker, clock: Clock, seconds: float
) -> None:
    """The state contains the time when the breaker closed, which is now in the future."""
    open_and_cool_down(breaker, clock)
    breaker.record_success()
    clock.set_back(seconds)
    assert breaker.allows_call()
    assert not breaker.is_open_locally
    fail(breaker, 1, response_error(429, {"Retry-After": "1"}, HUBSPOT_BODY))
    assert not breaker.allows_call()


def test_failures_count_after_the_clock_was_set_back(breaker: Breaker, clock: Clock) -> None:
    """The failures are not treated as if they were older than the last success."""
    open_and_cool_down(breaker, clock)
    breaker.record_success()
    clock.set_back(120)
    fail(breaker, FAILURES)
    assert breaker.is_open_locally


@pytest.mark.parametrize("ahead", [3600, 120, 20])
def test_host_whose_clock_is_ahead_does_not_keep_the_breaker_open(
    new_breaker: NewBreaker, clock: Clock, ahead: float
) -> None:
    """For the other hosts, it is open for at most the length of an opening plus the tolerated clock skew."""
    other = new_breaker(Clock(clock.now + ahead))
    fail(other, FAILURES)
    breaker = new_breaker()
    breaker.allows_call()
    clock.pass_by(COOL_DOWN * MAX_FACTOR + min(ahead, CLOCK_SKEW))
    assert not breaker.is_open_locally
    assert breaker.allows_call()


# Pauses


@pytest.mark.parametrize(
    ("status", "headers", "body", "pause"),
    [
        (429, {}, HUBSPOT_BODY, 10),
        (429, {"Retry-After": "0"}, HUBSPOT_BODY, 1),
        (429, {"Retry-After": "86400"}, HUBSPOT_BODY, 60),
        (429, {"Retry-After": "7"}, b'{"errorType": "RATE_LIMIT", "policyName": "DAILY"}', 900),
        (477, {"Retry-After": "20"}, HUBSPOT_BODY, 20),
    ],
)
def test_hubspot_can_pause_all_calls(
    new_breaker: NewBreaker, clock: Clock, status: int, headers: dict[str, str], body: bytes, pause: int
) -> None:
    """A 429 or 477 stops all processes for as long as HubSpot asks, within limits. Then one process calls."""
    breakers = [new_breaker() for _ in range(3)]
    fail(breakers[0], 1, response_error(status, headers, body))
    clock.pass_by(pause - 0.01)
    assert not any(breaker.allows_call() for breaker in breakers)
    clock.pass_by(0.02)
    assert [breaker.allows_call() for breaker in breakers].count(True) == 1


def test_repeated_pause_is_logged_once(breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Pauses that follow each other make one log record."""
    for _ in range(5):
        fail(breaker, 1, response_error(429, body=HUBSPOT_BODY))
        clock.pass_by(11)
    assert levels(caplog) == [logging.WARNING]


def test_failure_after_a_pause_is_one_of_five(breaker: Breaker, clock: Clock) -> None:
    """A pause is no failure, so a failed call after it does not open the breaker at once."""
    fail(breaker, 1, response_error(429, body=HUBSPOT_BODY))
    for _ in range(FAILURES - 1):
        clock.pass_by(11 if not breaker.allows_call() else 4)
        fail(breaker)
        assert not breaker.is_open_locally
    fail(breaker)
    assert breaker.is_open_locally


def test_pause_during_an_outage_does_not_end_it(breaker: Breaker, clock: Clock) -> None:
    """After a 429 for a probe, the next calls are still probes, and their failures double the cool-down."""
    open_and_cool_down(breaker, clock)
    fail(breaker, 1, response_error(429, body=HUBSPOT_BODY))
    clock.pass_by(11)
    fail(breaker, FAILURES)
    clock.pass_by(2 * COOL_DOWN * MIN_FACTOR - 1)
    assert not breaker.allows_call()


@pytest.mark.parametrize("status", [429, 477])
def test_pause_of_an_intermediary_is_one_failure(breaker: Breaker, status: int) -> None:
    """A firewall on the way may send a 429 to one visitor. Only a response of HubSpot stops the calls at once."""
    fail(breaker, FAILURES - 1, response_error(status, {"Retry-After": "60"}, b"<h1>Too many requests</h1>"))
    assert breaker.allows_call()
    fail(breaker, 1, response_error(status))
    assert not breaker.allows_call()


def test_visitor_cannot_prolong_a_pause(breaker: Breaker, clock: Clock) -> None:
    """A gateway on the way may send such a body to one visitor. It stops the calls for all visitors only once."""
    error = response_error(429, {"Retry-After": "60"}, b'{"category": "waf"}')
    started = clock()
    fail(breaker, 1, error, visitor=ADA)
    assert not breaker.allows_call()
    clock.pass_by(61)
    fail(breaker, 1, error, visitor=ADA, since=started)
    assert breaker.allows_call()


def test_short_pause_does_not_shorten_a_long_one(breaker: Breaker, clock: Clock) -> None:
    """A 429 whose call was in progress when the daily limit was reached does not end the long pause in ten seconds."""
    fail(breaker, 1, response_error(429, {}, b'{"policyName": "DAILY"}'))
    fail(breaker, 1, response_error(429, body=HUBSPOT_BODY))
    clock.pass_by(DAILY_PAUSE - 1)
    assert not breaker.allows_call()


# The state in the cache


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**400),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["kind", "until", "cool_down", "refused", "failed", "x"]), inner, max_size=5
            )
        ),
        max_leaves=12,
    ),
)
@settings(max_examples=50)
@example({"kind": "failing", "until": float("nan"), "cool_down": 15, "refused": [], "failed": []})
@example({"kind": "failing", "until": -(10**400), "cool_down": float("nan"), "refused": [], "failed": []})
@example({"kind": "failing", "until": 10**400, "cool_down": 10**400, "refused": [], "failed": []})
@example({"kind": "failing", "until": 0, "cool_down": 0, "refused": [[{}]]})
def test_invalid_state_in_the_cache_neither_raises_nor_stops_the_calls_for_long(value: object) -> None:
    """Whatever is stored under the breaker's key, calls are stopped for no longer than the longest pause."""
    clock = Clock()
    state = decode_state(value, clock.now)
    assert state.until <= clock.now + DAILY_PAUSE + 60
    breaker = new_account(clock).breaker
    caches["default"].clear()
    get_account().store.set(breaker._key, value, 60)
    breaker.allows_call()
    breaker.record_success()
    for error in (400, 500, 404):
        fail(breaker, 1, response_error(error))
    fail(breaker, 1, rejected_key())
    fail(breaker, 1, response_error(429, body=HUBSPOT_BODY))


def test_state_can_be_read_from_a_cache_that_turns_tuples_into_lists() -> None:
    """A state with a missing part means closed."""
    state = {"kind": "failing", "until": 5.0, "cool_down": 300.0, "refused": ["a", "b"], "failed": ["c"]}
    assert decode_state(state, 0.0) == State("failing", 5.0, 300.0, ("a", "b"), ("c",))
    assert decode_state({**state, "refused": None}, 0.0) is CLOSED


# Accounts


def test_accounts_have_separate_breakers_and_pauses(clock: Clock) -> None:
    """What happens to one account does not affect another, even if they differ only in their names."""
    accounts = {"eu": {}, "us": {"PORTAL_ID": "9"}}
    breakers = [new_account(clock, name, ACCOUNTS=accounts).breaker for name in ("", "eu", "us")]
    assert all(breaker.allows_call() for breaker in breakers)
    fail(breakers[0], 1, rejected_key())
    fail(breakers[1], 1, response_error(429, body=HUBSPOT_BODY))
    assert [breaker.allows_call() for breaker in breakers] == [False, False, True]
