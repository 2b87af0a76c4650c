"""When HubSpot is not called: circuit breaker, pause and rate limit, rule by rule, on a clock of the test."""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.cache import caches
from hypothesis import example, given
from hypothesis import strategies as st
from support.caches import SHARED_BACKENDS, CacheBackend
from support.clocks import Clock
from support.faulty_cache import FaultyCache, refused

from hubspot_identify import store as store_module
from hubspot_identify.answers import error_of
from hubspot_identify.breaker import (
    CLOSED,
    COOL_DOWN,
    COOL_DOWN_SPREAD,
    DAILY_PAUSE,
    FAILURE_WINDOW,
    FAILURES,
    KEY_COOL_DOWN,
    RETRY_INTERVAL,
    STATE_GRACE,
    VISITORS,
    Breaker,
    State,
    decode_state,
    get_breaker,
)
from hubspot_identify.conf import build_config
from hubspot_identify.exceptions import (
    CredentialError,
    HubSpotIdentifyError,
    TransportError,
    UnexpectedResponseError,
)
from hubspot_identify.store import Store, get_store
from hubspot_identify.visitors import Visitor

ADA, EVE, JOE = (Visitor(f"{name}@example.com") for name in ("ada", "eve", "joe"))
SETTINGS = {"API_KEY": "key", "PORTAL_ID": "123", "EMAIL_VERIFIED": True, "RATE_LIMIT": 1000}
LONGEST = 1 + COOL_DOWN_SPREAD
SHORTEST = 1 - COOL_DOWN_SPREAD

HUBSPOTS = b'{"correlationId": "c"}'  # the body of a response of HubSpot itself
NOT_SENT = TransportError("no connection", request_sent=False)

NewBreaker = Callable[..., Breaker]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def new_breaker(clock: Clock) -> NewBreaker:
    """Makes the breaker of one more process: nothing but cache and clock is shared with the others."""

    def make(clock: Clock = clock, account: str = "", **changes: object) -> Breaker:
        return Breaker(build_config({**SETTINGS, **changes}, account), Store("default"), clock)

    return make


@pytest.fixture
def breaker(new_breaker: NewBreaker) -> Breaker:
    return new_breaker()


def answer(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> HubSpotIdentifyError:
    """The error for a response."""
    return error_of(status, headers or {}, body)


def rejected_key(status: int = 401, category: str = "INVALID_AUTHENTICATION") -> HubSpotIdentifyError:
    """The error for a response in which HubSpot itself rejects the key."""
    return answer(status, body=json.dumps({"category": category, "correlationId": "c"}).encode())


numbers = itertools.count()


def fail(
    breaker: Breaker,
    times: int = 1,
    error: HubSpotIdentifyError | None = None,
    visitor: Visitor | None = None,
    since: float | None = None,
) -> None:
    """Record failures: of another visitor each unless one is given, and first failures unless ``since`` is given."""
    for _ in range(times):
        someone = visitor or Visitor(f"visitor{next(numbers)}@example.com")
        breaker.record_failure(
            error or TransportError("no answer"), someone, breaker._now() if since is None else since
        )


def test_it_is_closed_until_told_otherwise(breaker: Breaker) -> None:
    """Nothing known is nothing wrong."""
    assert breaker.allows_call()
    assert not breaker.is_open_locally


# Opening


@pytest.mark.parametrize(
    "error",
    [
        TransportError("no answer"),
        UnexpectedResponseError("HTML", status=200),
        CredentialError("the callable failed"),
        *(answer(status) for status in (401, 403)),
        *(answer(status) for status in (402, 418, 423, 429, 477, 500, 502, 503, 504, 520, 525)),
    ],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'status', '')}",
)
def test_five_failures_open_it(breaker: Breaker, error: HubSpotIdentifyError, caplog: pytest.LogCaptureFixture) -> None:
    """The fifth within 30 s, of one process or several, and a log line says so once."""
    fail(breaker, FAILURES - 1, error)
    assert breaker.allows_call()
    assert not caplog.records
    fail(breaker, 1, error)
    assert not breaker.allows_call()
    assert breaker.is_open_locally
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_failures_of_two_visitors_never_open_it(breaker: Breaker, clock: Clock) -> None:
    """However often they fail: what one visitor, or one with a second account, can cause does not stop the others."""
    for _ in range(40):
        fail(breaker, 1, visitor=ADA)
        fail(breaker, 1, visitor=EVE)
        clock.pass_by(1)
        assert breaker.allows_call()


@pytest.mark.parametrize(
    "visitors", [[0] * 9 + [1, 2], [0, 1, 2, 0, 1], [0, 0, 0, 0, 0, 1, 1, 1, 1, 2], [0, 0, 0, 1, 2]]
)
def test_five_failures_of_three_visitors_open_it(breaker: Breaker, visitors: list[int]) -> None:
    """In any order, also where one visitor has failed more often than there are failures to count."""
    for number in visitors[:-1]:
        fail(breaker, 1, visitor=(ADA, EVE, JOE)[number])
        assert breaker.allows_call()
    fail(breaker, 1, visitor=(ADA, EVE, JOE)[visitors[-1]])
    assert not breaker.allows_call()


@pytest.mark.parametrize("status", [0, 403, 404, 415, 429, 477, 500])
def test_visitors_who_have_failed_before_never_open_it(breaker: Breaker, clock: Clock, status: int) -> None:
    """Many visitors whose names a firewall blocks are each counted once, and not again while their failure is known."""
    before = clock.now - FAILURE_WINDOW - 1
    error = answer(status) if status else TransportError("no answer")
    fail(breaker, 40, error, since=before)
    assert breaker.allows_call()
    assert breaker.state == CLOSED


def test_all_processes_count_together(new_breaker: NewBreaker) -> None:
    """Five processes with a failure each are five failures, and all of them leave HubSpot alone."""
    breakers = [new_breaker() for _ in range(FAILURES)]
    for breaker in breakers:
        assert breaker.allows_call()
        fail(breaker)
    assert not any(breaker.allows_call() for breaker in breakers)
    assert all(breaker.is_open_locally for breaker in breakers)


@pytest.mark.parametrize("cache_backend", SHARED_BACKENDS, indirect=True)
def test_concurrent_failures_are_all_counted(cache_backend: CacheBackend, new_breaker: NewBreaker) -> None:
    """Five at the same moment open it, on every back end that processes share."""

    def fail_and_close(breaker: Breaker) -> None:
        fail(breaker)
        caches.close_all()

    with ThreadPoolExecutor(FAILURES) as pool:
        list(pool.map(fail_and_close, [new_breaker() for _ in range(FAILURES)]))
    assert not new_breaker().allows_call()


def test_failures_far_apart_do_not_count(breaker: Breaker, clock: Clock) -> None:
    """A failure every eight seconds for an hour never makes five within thirty."""
    for _ in range(450):
        fail(breaker)
        clock.pass_by(FAILURE_WINDOW / 4 + 0.5)
        assert breaker.allows_call()


def test_failures_of_old_do_not_hide_new_ones(breaker: Breaker, clock: Clock) -> None:
    """Five within the window open it, also where the cache still holds those from before."""
    fail(breaker, FAILURES - 1)
    clock.pass_by(FAILURE_WINDOW + 1)
    fail(breaker, FAILURES - 1)
    assert breaker.allows_call()
    fail(breaker)
    assert not breaker.allows_call()


def test_five_failures_in_just_the_window(breaker: Breaker, clock: Clock) -> None:
    """The first is 29 s old when the fifth comes."""
    for _ in range(FAILURES - 1):
        fail(breaker)
        clock.pass_by((FAILURE_WINDOW - 1) / (FAILURES - 1))
    fail(breaker)
    assert not breaker.allows_call()


def test_successes_and_refused_visitors_between_do_not_hide_failures(breaker: Breaker) -> None:
    """Trouble that hits every other call opens it as well."""
    for _ in range(FAILURES):
        assert breaker.allows_call()
        fail(breaker, 1, answer(400))
        breaker.record_success()
        fail(breaker)
    assert not breaker.allows_call()


def test_failures_from_a_clock_five_seconds_off_count(new_breaker: NewBreaker, clock: Clock) -> None:
    """Hosts whose clocks differ open one breaker together, and open it for each other."""
    ahead = new_breaker(Clock(clock.now + 5))
    fail(ahead, 2)
    behind = new_breaker()
    fail(behind, 3)
    assert not behind.allows_call()
    assert not ahead.allows_call()


@pytest.mark.parametrize(
    ("status", "category"),
    [(401, "INVALID_AUTHENTICATION"), (401, "EXPIRED_AUTHENTICATION"), (403, "MISSING_SCOPES")],
)
def test_rejected_key_opens_it_at_once(
    breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture, status: int, category: str
) -> None:
    """One response of HubSpot's is enough for five minutes, and one ERROR is logged, however often probes fail."""
    for _ in range(3):
        fail(breaker, 1, rejected_key(status, category))
        clock.pass_by(KEY_COOL_DOWN - 1)
        assert not breaker.allows_call()
        clock.pass_by(1)
        assert breaker.allows_call()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_wrong_data_centre_opens_it_at_once(breaker: Breaker) -> None:
    """Status 488 with the name of the right one."""
    fail(breaker, 1, answer(488, body=b'{"status": "error", "correctHublet": "eu1"}'))
    assert not breaker.allows_call()


def test_rejected_key_of_a_callable_opens_it_for_a_cool_down(new_breaker: NewBreaker, clock: Clock) -> None:
    """The callable may return a valid key at the next call."""
    breaker = new_breaker(API_KEY=lambda: "key")
    for _ in range(3):
        fail(breaker, 1, rejected_key())
        clock.pass_by(COOL_DOWN - 1)
        assert not breaker.allows_call()
        clock.pass_by(1)
        assert breaker.allows_call()


@pytest.mark.parametrize(
    "error", [answer(status) for status in (404, 405, 410, 415, 488)] + [rejected_key(403, "OTHER")]
)
def test_wrong_path_opens_it_for_the_third_visitor(
    breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture, error: HubSpotIdentifyError
) -> None:
    """Three different visitors in a row, at any distance, log one ERROR. The cool-down doubles while probes fail."""
    fail(breaker, 3, error, ADA)
    clock.pass_by(600)
    fail(breaker, 3, error, EVE)
    assert breaker.allows_call()
    fail(breaker, 1, error, JOE)
    for cool_down in (COOL_DOWN, 2 * COOL_DOWN, 4 * COOL_DOWN):
        clock.pass_by(SHORTEST * cool_down - 1)
        assert not breaker.allows_call()
        clock.pass_by((LONGEST - SHORTEST) * cool_down + 1)
        assert breaker.allows_call()
        fail(breaker, FAILURES, error)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("status", [400, 422])
def test_refused_visitors_never_open_it(breaker: Breaker, caplog: pytest.LogCaptureFixture, status: int) -> None:
    """Forty addresses that HubSpot refuses stop no other visitor. Three in a row log one ERROR, without an address."""
    fail(breaker, 2, answer(status))
    assert not caplog.records
    fail(breaker, 38, answer(status))
    assert breaker.allows_call()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "@example.com" not in caplog.text


@pytest.mark.parametrize("status", [400, 404])
def test_success_forgets_the_visitors_before_it(
    breaker: Breaker, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """A token between the second and the third shows that it was these visitors after all."""
    fail(breaker, VISITORS - 1, answer(status))
    breaker.record_success()
    fail(breaker, VISITORS - 1, answer(status))
    assert breaker.allows_call()
    assert not caplog.records


@pytest.mark.parametrize(
    "errors",
    [
        [rejected_key()],
        [answer(404)] * VISITORS,
        [answer(400)] * VISITORS,
        [answer(503)] * FAILURES,
        [answer(429, body=HUBSPOTS)],
    ],
)
def test_the_line_has_the_error_and_the_account(
    new_breaker: NewBreaker, caplog: pytest.LogCaptureFixture, errors: list[HubSpotIdentifyError]
) -> None:
    """An operator with several portals knows which one it is about."""
    breaker = new_breaker(ACCOUNTS={"eu": {}}, account="eu")
    for error in errors:
        fail(breaker, 1, error)
    (message,) = caplog.messages
    assert message.endswith(f"{errors[0]} [account eu]")


# Cooling down


def probe_fails(breaker: Breaker, clock: Clock, error: HubSpotIdentifyError | None = None) -> float:
    """Let calls fail until the breaker opens, and return the seconds that it stays open."""
    opened = clock.now
    fail(breaker, FAILURES, error)
    while not breaker.allows_call():
        clock.pass_by(0.25)
    return clock.now - opened


@pytest.mark.parametrize("error", [TransportError("no response"), NOT_SENT, answer(404)], ids=str)
def test_cool_down_doubles_to_five_minutes(breaker: Breaker, clock: Clock, error: HubSpotIdentifyError) -> None:
    """15, 30, 60, 120, 240, 300, 300 s, each give or take a fifth, whatever the failure is."""
    for expected in (15, 30, 60, 120, 240, 300, 300):
        assert SHORTEST * expected <= probe_fails(breaker, clock, error) <= LONGEST * expected + 0.25


def test_cool_downs_are_spread(clock: Clock, new_breaker: NewBreaker) -> None:
    """Sites that lost HubSpot at the same moment don't come back at the same moment."""
    cool_downs = [probe_fails(new_breaker(PORTAL_ID=str(number)), clock) for number in range(20)]
    assert max(cool_downs) - min(cool_downs) > COOL_DOWN * COOL_DOWN_SPREAD / 2


def test_a_success_begins_anew(breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """After a probe that worked all may call, five failures are needed again, and the first cool-down is short."""
    caplog.set_level(logging.INFO)
    for _ in range(3):
        probe_fails(breaker, clock)
    breaker.record_success()
    assert not breaker.is_open_locally
    clock.pass_by(1)
    assert caplog.records[-1].levelno == logging.INFO
    assert all(breaker.allows_call() for _ in range(5))
    fail(breaker, FAILURES - 1)
    assert breaker.allows_call()
    assert 0 < probe_fails(breaker, clock) <= COOL_DOWN * LONGEST + 0.25


@pytest.mark.parametrize("status", [404, 500])
def test_visitors_who_failed_before_a_success_are_no_evidence(breaker: Breaker, clock: Clock, status: int) -> None:
    """The success of another visitor shows that they are the reason, so they cannot open it a second time."""
    first = clock.now
    for visitor in (ADA, EVE, JOE):
        fail(breaker, 2, answer(status), visitor)
    clock.pass_by(COOL_DOWN * LONGEST)
    assert breaker.allows_call()
    breaker.record_success()
    for visitor in (ADA, EVE, JOE):
        clock.pass_by(1)
        fail(breaker, 2, answer(status), visitor, first)
    assert breaker.allows_call()


def test_a_success_settles_the_failures_before_it(breaker: Breaker, clock: Clock) -> None:
    """A probe that works within the window of the five failures leaves none of them to count."""
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * LONGEST)
    assert breaker.allows_call()
    breaker.record_success()
    clock.pass_by(1)
    fail(breaker, FAILURES - 1)
    assert breaker.allows_call()


def test_a_process_has_one_view_of_an_account() -> None:
    """What one thread learned the next one knows, without asking the cache."""
    assert get_breaker(build_config(SETTINGS)) is get_breaker(build_config(SETTINGS))


def test_cool_down_doubles_if_no_visitor_comes_for_minutes(breaker: Breaker, clock: Clock) -> None:
    """The state is kept for some time after a cool-down: calls are still probes, and their failures double it."""
    probe_fails(breaker, clock)
    clock.pass_by(STATE_GRACE - 60)
    assert not breaker.allows_call()  # the probe that probe_fails() started has not ended
    fail(breaker, FAILURES)
    clock.pass_by(2 * COOL_DOWN * SHORTEST - 1)
    assert not breaker.allows_call()


def test_one_probe_for_all_processes(new_breaker: NewBreaker, clock: Clock) -> None:
    """After the cool-down one process calls; the others do not until its call has ended."""
    breakers = [new_breaker() for _ in range(8)]
    fail(breakers[0], FAILURES)
    clock.pass_by(COOL_DOWN * LONGEST)
    for breaker in breakers[:FAILURES]:
        assert [breaker.allows_call() for breaker in breakers].count(True) == 1
        fail(breaker)
    assert not any(breaker.allows_call() for breaker in breakers)
    clock.pass_by(2 * COOL_DOWN * LONGEST)
    assert [breaker.allows_call() for breaker in breakers].count(True) == 1
    breakers[3].record_success()
    assert all(breaker.allows_call() for breaker in breakers)


def test_a_probe_that_dies_delays_the_next_by_no_more_than_a_call(
    breaker: Breaker, clock: Clock, faulty_cache: type[FaultyCache]
) -> None:
    """The others wait for a whole call, which is TIMEOUT and a second, and then one of them tries."""
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * LONGEST)
    kept: dict[str, object] = {}

    def add(key: str, value: object, timeout: object) -> bool:
        kept[key] = timeout
        return True

    faulty_cache.instead["add"] = add
    assert breaker.allows_call()
    assert kept[breaker._probe_key] == 4


def test_refused_visitor_as_probe_closes_it(breaker: Breaker, clock: Clock) -> None:
    """HubSpot responds: whatever the breaker was opened for is over."""
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * LONGEST)
    assert breaker.allows_call()
    fail(breaker, 1, answer(400))
    assert all(breaker.allows_call() for _ in range(3))


def test_failed_probes_of_few_visitors_do_not_open_it(breaker: Breaker, clock: Clock) -> None:
    """Each probe may have failed because of its visitor. However often four visitors fail, the next one may call."""
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * LONGEST)
    for number in range(40):
        assert breaker.allows_call()
        fail(breaker, 1, answer(404 if number % 2 else 500), Visitor(f"visitor{number % (FAILURES - 1)}@example.com"))
    assert breaker.allows_call()


@pytest.mark.parametrize("error", [NOT_SENT, CredentialError("the callable failed")], ids=lambda error: str(error))
@pytest.mark.parametrize("since", [None, 0.0])
def test_failed_probe_that_no_visitor_can_have_caused_doubles_the_cool_down(
    breaker: Breaker, clock: Clock, error: HubSpotIdentifyError, since: float | None
) -> None:
    """The request was not sent, so one failure is enough, also of a visitor with a failure on record."""
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * LONGEST)
    assert breaker.allows_call()
    fail(breaker, 1, error, since=since)
    clock.pass_by(2 * COOL_DOWN * SHORTEST - 1)
    assert not breaker.allows_call()


def test_failures_before_the_request_open_it_whatever_is_on_record(breaker: Breaker) -> None:
    """Connections that fail are no visitor's fault, so they count also for visitors who have failed for long."""
    fail(breaker, FAILURES - 1, NOT_SENT, since=0.0)
    assert breaker.allows_call()
    fail(breaker, 1, NOT_SENT, since=0.0)
    assert not breaker.allows_call()


def test_failures_before_the_request_of_two_visitors_never_open_it(breaker: Breaker) -> None:
    """Opening always takes failures of three visitors."""
    for _ in range(40):
        fail(breaker, 1, NOT_SENT, ADA)
        fail(breaker, 1, NOT_SENT, EVE)
    assert breaker.allows_call()


def test_refused_probe_takes_nothing_from_the_rate_limit(new_breaker: NewBreaker, clock: Clock) -> None:
    """Visitors with a failure on record cannot use up the calls that a probe needs."""
    breaker = new_breaker(RATE_LIMIT=1)
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * LONGEST)
    assert not any(breaker.allows_call(may_probe=False) for _ in range(20))
    assert breaker.allows_call()


def test_probe_refused_by_the_rate_limit_is_not_taken(new_breaker: NewBreaker, clock: Clock) -> None:
    """The next second, another visitor may be the probe."""
    breaker = new_breaker(RATE_LIMIT=1)
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * LONGEST + RETRY_INTERVAL)
    assert breaker.allows_call(may_probe=False)
    assert not breaker.allows_call()
    clock.pass_by(1)
    assert breaker.allows_call()


def test_visitor_with_a_failure_is_never_the_probe(breaker: Breaker, clock: Clock) -> None:
    """Another visitor is, as soon as one comes; neither waits for the other."""
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * LONGEST)
    assert not any(breaker.allows_call(may_probe=False) for _ in range(5))
    assert breaker.allows_call()
    breaker.record_success()
    assert breaker.allows_call(may_probe=False)


def test_visitor_with_a_failure_may_call_after_a_pause(breaker: Breaker, clock: Clock) -> None:
    """A pause is no opening. The call takes nothing from the next visitor without a failure, and is not repeated."""
    fail(breaker, 1, answer(429, body=HUBSPOTS))
    clock.pass_by(11)
    assert [breaker.allows_call(may_probe=False) for _ in range(3)] == [True, False, False]
    assert breaker.allows_call()


def test_visitors_without_a_probe_are_not_locked_out(breaker: Breaker, clock: Clock) -> None:
    """On a small site every visitor may have a failure on record. One of them may call a minute after the cool-down."""
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * LONGEST + RETRY_INTERVAL)
    assert [breaker.allows_call(may_probe=False) for _ in range(3)] == [True, False, False]
    fail(breaker, 1, since=0.0)
    assert breaker.allows_call()
    breaker.record_success()
    assert breaker.allows_call(may_probe=False)


def test_late_results_change_nothing(breaker: Breaker, clock: Clock) -> None:
    """Calls that were under way when it opened neither close it nor lengthen it."""
    fail(breaker, FAILURES)
    fail(breaker, 20)
    fail(breaker, 1, rejected_key())
    breaker.record_success()
    assert not breaker.allows_call()
    clock.pass_by(COOL_DOWN * LONGEST)
    assert breaker.allows_call()


def test_a_process_knows_what_it_saw(new_breaker: NewBreaker, clock: Clock, faulty_cache: type[FaultyCache]) -> None:
    """Whether the breaker was open at the last look costs no cache operation, and ends by itself."""
    one, other = new_breaker(), new_breaker()
    fail(one, FAILURES)
    faulty_cache.reset()
    assert (one.is_open_locally, other.is_open_locally) == (True, False)
    assert faulty_cache.count() == 0
    assert not other.allows_call()
    assert other.is_open_locally
    clock.pass_by(COOL_DOWN * LONGEST)
    assert not one.is_open_locally


# Pauses


@pytest.mark.parametrize(
    ("status", "headers", "body", "pause"),
    [
        (429, {}, HUBSPOTS, 10),
        (429, {"Retry-After": "7"}, HUBSPOTS, 7),
        (429, {"Retry-After": "0"}, HUBSPOTS, 1),
        (429, {"Retry-After": "86400"}, HUBSPOTS, 60),
        (429, {"X-HubSpot-RateLimit-Interval-Milliseconds": "3000"}, HUBSPOTS, 3),
        (429, {"Retry-After": "7"}, b'{"errorType": "RATE_LIMIT", "policyName": "DAILY"}', 900),
        (429, {}, b'{"policyName": "TEN_SECONDLY_ROLLING"}', 10),
        (477, {}, HUBSPOTS, 10),
        (477, {"Retry-After": "20"}, HUBSPOTS, 20),
        (477, {"Retry-After": "86400"}, HUBSPOTS, 60),
    ],
)
def test_pauses(
    new_breaker: NewBreaker, clock: Clock, status: int, headers: dict[str, str], body: bytes, pause: int
) -> None:
    """One 429 or 477 stops all processes for as long as HubSpot says, within limits; then one of them tries."""
    breakers = [new_breaker() for _ in range(3)]
    fail(breakers[0], 1, answer(status, headers, body))
    clock.pass_by(pause - 0.01)
    assert not any(breaker.allows_call() for breaker in breakers)
    clock.pass_by(0.02)
    assert [breaker.allows_call() for breaker in breakers].count(True) == 1


def test_a_pause_is_logged_once(breaker: Breaker, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """However often HubSpot repeats itself."""
    for _ in range(5):
        fail(breaker, 1, answer(429, body=HUBSPOTS))
        clock.pass_by(11)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_failure_after_a_pause_is_one_of_five(breaker: Breaker, clock: Clock) -> None:
    """A pause is no opening, so the call that tries again is no probe of one."""
    fail(breaker, 1, answer(429, body=HUBSPOTS))
    for _ in range(FAILURES - 1):
        clock.pass_by(11 if not breaker.allows_call() else 4)
        fail(breaker)
        assert not breaker.is_open_locally
    fail(breaker)
    assert breaker.is_open_locally


def test_pause_during_an_outage_does_not_end_it(breaker: Breaker, clock: Clock) -> None:
    """After a 429 for a probe, the next calls are still probes, and their failures double the cool-down."""
    fail(breaker, FAILURES)
    clock.pass_by(COOL_DOWN * LONGEST)
    fail(breaker, 1, answer(429, body=HUBSPOTS))
    clock.pass_by(11)
    fail(breaker, FAILURES)
    clock.pass_by(2 * COOL_DOWN * SHORTEST - 1)
    assert not breaker.allows_call()


@pytest.mark.parametrize("status", [429, 477])
def test_pause_of_an_intermediary_is_one_failure(breaker: Breaker, status: int) -> None:
    """A firewall on the way may answer 429 to one visitor. Only HubSpot's own response stops the calls at once."""
    fail(breaker, FAILURES - 1, answer(status, {"Retry-After": "60"}, b"<h1>Too many requests</h1>"))
    assert breaker.allows_call()
    fail(breaker, 1, answer(status))
    assert not breaker.allows_call()


@pytest.mark.parametrize("status", [429, 477])
def test_visitor_cannot_prolong_a_pause(breaker: Breaker, clock: Clock, status: int) -> None:
    """A gateway on the way may send such a body to one visitor. It stops the calls for all visitors only once."""
    error = answer(status, {"Retry-After": "60"}, b'{"category": "waf"}')
    started = clock()
    fail(breaker, 1, error, visitor=ADA)
    assert not breaker.allows_call()
    clock.pass_by(61)
    fail(breaker, 1, error, visitor=ADA, since=started)
    assert breaker.allows_call()


def test_a_pause_never_shortens_an_opening(breaker: Breaker, clock: Clock) -> None:
    """A 429 that was under way when the breaker opened for five minutes does not reopen the door in ten seconds."""
    fail(breaker, 1, answer(429, {}, b'{"policyName": "DAILY"}'))
    fail(breaker, 1, answer(429, body=HUBSPOTS))
    clock.pass_by(DAILY_PAUSE - 1)
    assert not breaker.allows_call()


# What is read back


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
@example({"kind": "failing", "until": float("nan"), "cool_down": 15, "refused": [], "failed": []})
@example({"kind": "failing", "until": -(10**400), "cool_down": float("nan"), "refused": [], "failed": []})
@example({"kind": "failing", "until": 10**400, "cool_down": 10**400, "refused": [], "failed": []})
@example({"kind": "failing", "until": 0, "cool_down": 0, "refused": [[{}]]})
def test_nothing_in_the_cache_crashes_or_locks_us_out(value: object) -> None:
    """Whatever stands under our key, nobody is locked out for longer than the longest pause."""
    clock = Clock()
    state = decode_state(value, clock.now)
    assert state.until <= clock.now + DAILY_PAUSE + 60
    breaker = Breaker(build_config(SETTINGS), Store("default"), clock)
    caches["default"].clear()
    get_store("default").set(breaker._key, value, 60)
    breaker.allows_call()
    breaker.record_success()
    fail(breaker, 1, answer(400))
    fail(breaker, 1, answer(500))
    fail(breaker, 1, answer(404))
    fail(breaker, 1, rejected_key())
    fail(breaker, 1, answer(429, body=HUBSPOTS))


def test_a_state_survives_the_cache() -> None:
    """Also one that turns tuples into lists."""
    state = {"kind": "failing", "until": 5.0, "cool_down": 300.0, "refused": ["a", "b"], "failed": ["c"]}
    assert decode_state(state, 0.0) == State("failing", 5.0, 300.0, ("a", "b"), ("c",))
    assert decode_state({**state, "refused": None}, 0.0) is CLOSED


# The rate window


@pytest.mark.parametrize("cache_backend", ["locmem", "redis", "memcached", "database"], indirect=True)
def test_so_many_calls_a_second(cache_backend: CacheBackend, new_breaker: NewBreaker, clock: Clock) -> None:
    """All processes together, second by second."""
    breakers = [new_breaker(RATE_LIMIT=4) for _ in range(3)]
    for _ in range(5):
        assert [breakers[number % 3].allows_call() for number in range(9)] == [True] * 4 + [False] * 5
        clock.pass_by(1)


@pytest.mark.parametrize("cache_backend", ["redis", "memcached"], indirect=True)
def test_threads_never_exceed_the_rate(cache_backend: CacheBackend, new_breaker: NewBreaker, clock: Clock) -> None:
    """Where the cache counts atomically, the limit holds whoever comes at the same moment, at each new second too."""
    breakers = [new_breaker(RATE_LIMIT=5) for _ in range(8)]

    def ask_and_close(breaker: Breaker) -> bool:
        allowed = breaker.allows_call()
        caches.close_all()
        return allowed

    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            allowed = sum(pool.map(ask_and_close, breakers * 4))
            assert 0 < allowed <= 5
            clock.pass_by(1)


def test_the_window_leaves_one_key_behind(
    faulty_cache: type[FaultyCache], new_breaker: NewBreaker, clock: Clock
) -> None:
    """Not one a second: a cache with few places is not filled with counters."""
    breaker = new_breaker(RATE_LIMIT=2)
    backend = caches["default"]
    for _ in range(120):
        breaker.allows_call()
        clock.pass_by(0.5)
    assert len(backend._cache) == 1


def test_hosts_whose_clocks_differ_share_the_window(new_breaker: NewBreaker, clock: Clock) -> None:
    """Five seconds apart, two hosts together make no more calls a second than the limit."""
    ahead_clock = Clock(clock.now + 5)
    behind, ahead = new_breaker(RATE_LIMIT=4), new_breaker(ahead_clock, RATE_LIMIT=4)
    calls: Counter[int] = Counter()
    for tick in range(200):
        calls[tick // 10] += behind.allows_call()
        calls[tick // 10] += ahead.allows_call()
        clock.pass_by(0.1)
        ahead_clock.pass_by(0.1)
    assert calls.pop(0) <= 2 * 4  # until each has seen the other
    assert set(calls.values()) == {4}


def test_a_window_from_far_ahead_is_not_believed(new_breaker: NewBreaker, clock: Clock) -> None:
    """A host whose clock is an hour ahead does not use up everybody's calls for an hour."""
    lost = new_breaker(Clock(clock.now + 3600), RATE_LIMIT=1)
    assert lost.allows_call()
    assert new_breaker(RATE_LIMIT=1).allows_call()


def test_a_foreign_value_under_the_windows_key(new_breaker: NewBreaker, clock: Clock) -> None:
    """A number that is not ours is turned into this second's window."""
    breaker = new_breaker(RATE_LIMIT=2)
    breaker.allows_call()
    caches["default"].set(f"{breaker._key}:rate", 7, None)
    assert [breaker.allows_call() for _ in range(3)] == [True, True, False]


def test_while_one_turns_the_window_the_others_wait(new_breaker: NewBreaker, clock: Clock) -> None:
    """Two processes that both begin the new second would let twice as many calls through."""
    breaker = new_breaker(RATE_LIMIT=2)
    breaker.allows_call()
    clock.pass_by(1)
    caches["default"].add(f"{breaker._key}:rate:turn", 1, 60)
    assert not breaker.allows_call()
    caches["default"].delete(f"{breaker._key}:rate:turn")
    assert breaker.allows_call()


def test_a_window_that_another_turned_meanwhile(
    new_breaker: NewBreaker, clock: Clock, faulty_cache: type[FaultyCache]
) -> None:
    """Who wins the turn looks again, and counts in the window that is there."""
    breaker, key = new_breaker(RATE_LIMIT=2), new_breaker()._key + ":rate"
    breaker.allows_call()
    clock.pass_by(1)
    window = int(clock.now) * 1_000_000

    def turned_before(turn: str, *args: object, **options: object) -> bool:
        caches["default"].set(key, window + 1)
        return True

    faulty_cache.instead["add"] = turned_before
    assert [breaker.allows_call() for _ in range(2)] == [True, False]


def test_the_first_window_that_another_began(
    new_breaker: NewBreaker, clock: Clock, faulty_cache: type[FaultyCache]
) -> None:
    """Between "there is no window" and "here is mine" another's may appear; the call is counted there."""
    breaker = new_breaker(RATE_LIMIT=2)

    def quicker(key: str, value: int, *args: object, **options: object) -> bool:
        caches["default"].set(key, value)
        return False

    faulty_cache.instead["add"] = quicker
    assert [breaker.allows_call() for _ in range(2)] == [True, False]


def test_a_window_that_can_not_be_had(new_breaker: NewBreaker, faulty_cache: type[FaultyCache]) -> None:
    """A cache that neither counts nor adds lets no call through, rather than all."""
    faulty_cache.instead["add"] = lambda *_, **__: False
    assert not new_breaker().allows_call()


@pytest.fixture
def breaker_without_cache(
    monkeypatch: pytest.MonkeyPatch, faulty_cache: type[FaultyCache], new_breaker: NewBreaker, clock: Clock
) -> Breaker:
    """A breaker whose cache fails."""
    faulty_cache.instead["*"] = refused
    monkeypatch.setattr(store_module, "time", clock)
    return new_breaker()


def test_without_a_cache_one_call_a_second(breaker_without_cache: Breaker, clock: Clock) -> None:
    """Nothing is shared then, so each process makes do with one, whatever the limit; its breaker still works."""
    breaker = breaker_without_cache
    for _ in range(4):
        assert [breaker.allows_call() for _ in range(3)].count(True) == 1
        clock.pass_by(1)
    fail(breaker, FAILURES)
    clock.pass_by(1)
    assert not breaker.allows_call()


@pytest.mark.parametrize("limit", [1, 10, 17])
def test_changed_names_get_a_tenth_of_the_calls(new_breaker: NewBreaker, clock: Clock, limit: int) -> None:
    """In all processes together, and counted among all calls. The rest is for first and for old tokens."""
    breakers = [new_breaker(RATE_LIMIT=limit) for _ in range(3)]
    changes = others = 0
    for _ in range(60):
        for number in range(2 * limit):
            changes += breakers[number % 3].allows_call(for_changes=True)
        for number in range(2 * limit):
            others += breakers[number % 3].allows_call()
        clock.pass_by(1)
    assert (changes, others) == (6 * limit, 54 * limit)


def test_without_a_cache_changed_names_get_no_call(breaker_without_cache: Breaker, clock: Clock) -> None:
    """The one call a second is for visitors without a token."""
    for _ in range(4):
        assert not breaker_without_cache.allows_call(for_changes=True)
        assert breaker_without_cache.allows_call()
        clock.pass_by(1)


@pytest.mark.parametrize("broken", ["incr", "add"])
def test_trouble_that_shows_while_the_window_is_asked(
    monkeypatch: pytest.MonkeyPatch,
    faulty_cache: type[FaultyCache],
    new_breaker: NewBreaker,
    clock: Clock,
    broken: str,
) -> None:
    """A cache that can do everything else means one call a second as well, and not one a minute."""
    faulty_cache.instead[broken] = refused
    monkeypatch.setattr(store_module, "time", clock)
    breaker = new_breaker()
    for _ in range(4):
        assert breaker.allows_call()
        clock.pass_by(store_module.PAUSE + 1)


# Accounts


def test_portals_have_breakers_pauses_and_windows_of_their_own(clock: Clock) -> None:
    """Nothing that happens to one account is held against another, be it only the name that differs."""
    source = {**SETTINGS, "RATE_LIMIT": 1, "ACCOUNTS": {"eu": {}, "us": {"PORTAL_ID": "9"}}}
    breakers = [Breaker(build_config(source, name), Store("default"), clock) for name in ("", "eu", "us")]
    assert all(breaker.allows_call() for breaker in breakers)
    clock.pass_by(1)
    fail(breakers[0], 1, rejected_key())
    fail(breakers[1], 1, answer(429, body=HUBSPOTS))
    assert [breaker.allows_call() for breaker in breakers] == [False, False, True]


def test_one_breaker_an_account_and_process() -> None:
    """It is found again; an account with another limit or key has another one."""
    one = get_breaker(build_config(SETTINGS))
    assert get_breaker(build_config(SETTINGS)) is one
    assert get_breaker(build_config({**SETTINGS, "API_KEY": "other"})) is not one
    assert get_breaker(build_config({**SETTINGS, "RATE_LIMIT": 1})) is not one
