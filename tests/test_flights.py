"""A token's way from HubSpot into the cache: one at a time for each visitor, with every failure accounted for."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.cache import cache, caches
from django.core.cache.backends.locmem import LocMemCache
from pytest_django import Settings
from support.clocks import GENEROUS_TIMEOUT
from support.faulty_cache import FaultyCache
from support.server import TokenServer

from hubspot_identify import flights, services
from hubspot_identify.background import Job, get_workers
from hubspot_identify.breaker import CLOSED, COOL_DOWN, COOL_DOWN_SPREAD, FAILURES, get_breaker
from hubspot_identify.client import TokenClient
from hubspot_identify.conf import Config, get_config
from hubspot_identify.exceptions import (
    AuthenticationError,
    InvalidRequestError,
    RateLimitError,
    TransportError,
    UnavailableError,
    UnexpectedResponseError,
)
from hubspot_identify.flights import RETRY_AGAIN, RETRY_CHANGES, RETRY_FAILED, RETRY_REFUSED, Flight, start_flight
from hubspot_identify.signals import token_created, token_failed
from hubspot_identify.tokens import (
    CHANGE_AFTER,
    FAILURE_RECORD,
    HOUR,
    Entry,
    VisitorToken,
    decode_entry,
    entry_key,
    profile_digest,
)
from hubspot_identify.visitors import Visitor

NOW = 1_800_000_000.0
ADA = Visitor("ada@example.com", "Ada")
EVE = Visitor("eve@example.com")


@pytest.fixture
def still() -> Iterator[time_machine.Coordinates]:
    """A day on which time passes only when the test says so; deadlines are far away."""
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


def fly(visitor: Visitor = ADA, config: Config | None = None) -> VisitorToken | None:
    """Have a flight done, and its token."""
    config = config or get_config()
    job = start_flight(entry_key(visitor, config), visitor, config)
    assert job is not None
    try:
        return job._future.result(GENEROUS_TIMEOUT)
    finally:
        assert get_workers().join(GENEROUS_TIMEOUT)


def entry_of(visitor: Visitor = ADA, now: float = NOW) -> Entry:
    """What the cache holds for a visitor."""
    key = entry_key(visitor, get_config())
    return decode_entry(cache.get(key), key, now)


def keep(visitor: Visitor = ADA, **changes: Any) -> Entry:
    """Put an entry into the cache."""
    values = {"token": "old", "created_at": NOW, "retry_at": 0.0, "digest": profile_digest(visitor), **changes}
    entry, key = Entry(**values), entry_key(visitor, get_config())
    cache.set(key, entry.as_primitives(key), None)
    return entry


def test_a_token_lands_in_the_cache(hubspot: TokenServer, still: time_machine.Coordinates) -> None:
    """With the moment before the call and a digest of the names it was made with."""
    token = fly()
    assert token is not None
    assert hubspot.emails_by_token() == {token.value: ADA.email}
    assert token == VisitorToken(token.value, ADA, NOW)
    assert entry_of() == Entry(token.value, NOW, 0.0, profile_digest(ADA))


def test_the_clock_starts_before_the_call(hubspot: TokenServer) -> None:
    """The twelve hours count from when HubSpot was asked, not from when it answered."""
    with time_machine.travel(NOW, tick=False) as traveller:
        hubspot.set_scenario("held")
        config = get_config()
        job = start_flight(entry_key(ADA, config), ADA, config)
        assert job is not None
        assert hubspot.wait_for_calls(1)
        traveller.shift(2)
        hubspot.release()
        token = job._future.result(GENEROUS_TIMEOUT)
    assert token is not None
    assert token.created_at == NOW


def test_who_finds_the_lock_taken_does_not_wait(hubspot: TokenServer) -> None:
    """Another process is at it: no call, no token yet, and the lock stays where it is."""
    lock = f"{entry_key(ADA, get_config())}:lock"
    cache.add(lock, 1, 60)
    assert fly() is None
    assert (hubspot.calls, cache.get(lock)) == (0, 1)


def test_who_finds_the_lock_taken_takes_what_has_landed(hubspot: TokenServer, still: time_machine.Coordinates) -> None:
    """The lock outlives the call, so a token may be there by now."""
    keep(token="theirs")
    cache.add(f"{entry_key(ADA, get_config())}:lock", 1, 60)
    token = fly()
    assert token is not None
    assert (token.value, hubspot.calls) == ("theirs", 0)


def test_the_lock_outlives_the_call(hubspot: TokenServer, faulty_cache: type[FaultyCache]) -> None:
    """It is taken for the whole timeout and one second more, and never deleted after a call."""
    locked: dict[str, object] = {}

    def add(key: str, value: object, timeout: object) -> bool:
        locked[key] = timeout
        return True

    faulty_cache.instead["add"] = add
    assert fly() is not None
    assert locked[f"{entry_key(ADA, get_config())}:lock"] == 4
    assert "delete_many" not in [operation for operation, _ in faulty_cache.asked]


def test_the_winner_looks_again(hubspot: TokenServer, still: time_machine.Coordinates) -> None:
    """Between the first look and the lock another process may have landed: its token is taken, HubSpot left alone."""
    keep(token="theirs")
    token = fly()
    assert token is not None
    assert (token.value, hubspot.calls) == ("theirs", 0)


@pytest.mark.parametrize("age", [0.0, 9 * HOUR])
def test_an_open_breaker_gives_the_visitor_back(
    hubspot: TokenServer, still: time_machine.Coordinates, age: float
) -> None:
    """No call, the old token if there is one, and no lock that would keep the visitor waiting afterwards."""
    if age:
        keep(created_at=NOW - age)
    get_breaker(get_config()).record_failure(AuthenticationError("no", status=401, key_rejected=True), EVE, NOW)
    token = fly()
    assert (token.value if token else None) == ("old" if age else None)
    assert hubspot.calls == 0
    assert cache.get(f"{entry_key(ADA, get_config())}:lock") is None


def test_a_full_window_gives_the_visitor_back(hubspot: TokenServer, settings: Settings) -> None:
    """The next second, the same visitor gets a token."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "RATE_LIMIT": 1}
    with time_machine.travel(NOW, tick=False) as traveller:
        assert fly(EVE) is not None
        assert fly() is None
        traveller.shift(1)
        assert fly() is not None
    assert hubspot.calls == 2


def test_changed_names_leave_the_calls_to_other_visitors(hubspot: TokenServer, settings: Settings) -> None:
    """Each second, an account that has edited its name comes before a new visitor. Nine of ten calls are for new ones.

    The accounts keep their tokens, and no page view of theirs schedules a fetch in the next seconds.
    """
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "RATE_LIMIT": 1}
    first = 0
    with time_machine.travel(NOW, tick=False) as traveller:
        for number in range(10):
            visitor = Visitor(f"account{number}@example.com", f"Name {number}")
            keep(visitor, created_at=time.time() - CHANGE_AFTER, digest="of other names")
            token = fly(visitor)
            assert token is not None
            assert (token.value == "old") == (number > 0)
            assert not entry_of(visitor, time.time()).is_due(visitor, time.time())
            first += fly(Visitor(f"new{number}@example.com")) is not None
            traveller.shift(1)
    assert (first, hubspot.calls) == (9, 10)


def test_changed_names_are_tried_again(hubspot: TokenServer, settings: Settings) -> None:
    """A minute later, if no call was to be had. A token that is old by then has the calls of all others as well."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "RATE_LIMIT": 1}
    changed = {"created_at": NOW - CHANGE_AFTER, "digest": "of other names"}
    with time_machine.travel(NOW, tick=False) as traveller:
        for visitor in (EVE, ADA):
            keep(visitor, **changed)
            fly(visitor)
        assert (hubspot.calls, entry_of().token) == (1, "old")
        traveller.shift(RETRY_CHANGES)
        token = services.get_token(ADA, wait=GENEROUS_TIMEOUT)
        assert get_workers().join(GENEROUS_TIMEOUT)
        assert token != services.get_token(ADA)
        keep(EVE, **{**changed, "created_at": NOW - 9 * HOUR})
        traveller.shift(1)
        fly(EVE)
    assert hubspot.calls == 3


# Failures


@pytest.mark.parametrize(
    ("status", "kind", "shortest", "longest"),
    [
        (400, InvalidRequestError, RETRY_REFUSED, RETRY_REFUSED),
        (422, InvalidRequestError, RETRY_REFUSED, RETRY_REFUSED),
        (404, InvalidRequestError, *RETRY_FAILED),
        (429, RateLimitError, 10.0, 10.0),
        (500, UnavailableError, *RETRY_FAILED),
        (200, UnexpectedResponseError, *RETRY_FAILED),
    ],
)
@pytest.mark.parametrize("age", [None, 9 * HOUR])
def test_failure_only_sets_the_time_of_the_next_try(
    hubspot: TokenServer,
    still: time_machine.Coordinates,
    status: int,
    kind: type[Exception],
    shortest: float,
    longest: float,
    age: float | None,
) -> None:
    """An hour for data that HubSpot refuses, else 5 to 30 s; a good token is never lost."""
    before = keep(created_at=NOW - age) if age else Entry(None, 0.0, 0.0, "")
    hubspot.answer(status)
    with pytest.raises(kind):
        fly()
    entry = entry_of()
    assert NOW + shortest <= entry.retry_at <= NOW + longest
    assert (entry.token, entry.created_at, entry.digest) == (before.token, before.created_at, before.digest)


def test_failure_stays_on_record_for_an_hour(hubspot: TokenServer) -> None:
    """An hour after the time of the next try, also if a token is created meanwhile, for example with other names."""
    with time_machine.travel(NOW, tick=False) as traveller:
        hubspot.answer(500)
        for _ in range(3):
            with pytest.raises(UnavailableError):
                fly()
            assert entry_of(now=time.time()).failed_at == NOW
            traveller.move_to(max(time.time() + RETRY_FAILED[1], entry_of(now=time.time()).retry_at) + 0.001)
        entry = entry_of(now=time.time())
        assert entry.has_failure(entry.retry_at + FAILURE_RECORD - 1)
        assert not entry.has_failure(entry.retry_at + FAILURE_RECORD)
        hubspot.set_scenario("healthy")
        assert fly() is not None
        with_token = entry_of(now=time.time())
        assert with_token.failed_at == NOW
        assert with_token.has_failure(entry.retry_at + FAILURE_RECORD - 1)
        assert not with_token.has_failure(entry.retry_at + FAILURE_RECORD)


def test_visitor_who_keeps_failing_is_tried_less_often(hubspot: TokenServer) -> None:
    """Calls that hang would otherwise hold worker slots that other visitors need. Once in five minutes remains."""
    hubspot.answer(500)
    with time_machine.travel(NOW, tick=False) as traveller:
        while time.time() < NOW + HOUR:
            with pytest.raises(UnavailableError):
                fly()
            traveller.move_to(entry_of(now=time.time()).retry_at + 0.001)  # the clock may round down
        assert HOUR / RETRY_AGAIN < hubspot.calls < 2 * HOUR / RETRY_AGAIN


def test_rejected_key_is_not_on_the_visitors_record(hubspot: TokenServer, still: time_machine.Coordinates) -> None:
    """HubSpot itself says that the key is the reason."""
    hubspot.reject_key()
    with pytest.raises(AuthenticationError):
        fly()
    assert not entry_of().has_failure(NOW)


def test_pause_is_on_the_visitors_record(hubspot: TokenServer, still: time_machine.Coordinates) -> None:
    """So that a visitor whose calls alone are answered in this way does not stop those of the others again."""
    hubspot.answer(429, {"errorType": "RATE_LIMIT"})
    with pytest.raises(RateLimitError):
        fly()
    assert entry_of().has_failure(NOW)


def test_visitor_with_a_failure_is_not_the_probe(hubspot: TokenServer) -> None:
    """After the cool-down the call of another visitor closes the breaker."""
    hubspot.answer(503)
    with time_machine.travel(NOW, tick=False) as traveller:
        for number in range(FAILURES):
            with pytest.raises(UnavailableError):
                fly(Visitor(f"visitor{number}@example.com"))
        hubspot.set_scenario("healthy")
        traveller.shift(RETRY_FAILED[1])
        assert fly(Visitor("visitor0@example.com")) is None
        assert hubspot.calls == FAILURES
        assert fly() is not None
        assert fly(Visitor("visitor0@example.com")) is not None


def test_visitors_who_met_a_failed_connection_may_be_the_probe(hubspot: TokenServer) -> None:
    """No visitor can have caused it, so after an outage the next visitor closes the breaker, even if it is the same."""
    hubspot.set_scenario("refused")
    with time_machine.travel(NOW, tick=False) as traveller:
        for number in range(FAILURES):
            with pytest.raises(TransportError):
                fly(Visitor(f"visitor{number}@example.com"))
        hubspot.set_scenario("healthy")
        traveller.shift(max(RETRY_FAILED[1], COOL_DOWN * (1 + COOL_DOWN_SPREAD)))
        assert fly(Visitor("visitor0@example.com")) is not None


@pytest.mark.parametrize(("scenario", "on_record"), [("refused", False), ("reset", True)])
def test_failure_before_the_request_is_not_on_the_visitors_record(
    hubspot: TokenServer, still: time_machine.Coordinates, scenario: Any, on_record: bool
) -> None:
    """The visitor is tried again after the same delay."""
    hubspot.set_scenario(scenario)
    with pytest.raises(TransportError):
        fly()
    assert entry_of().has_failure(NOW) is on_record
    assert entry_of().retry_at > NOW


def test_unusable_bundle_of_authorities_is_logged_once_a_minute(
    hubspot: TokenServer,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The line names the file."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": hubspot.https_url}
    for visitor in (ADA, EVE):
        with pytest.raises(TransportError):
            fly(visitor)
    (line,) = caplog.messages
    assert str(tmp_path / "missing.pem") in line


def test_retries_are_spread() -> None:
    """Those whom one outage hit do not come back together."""
    delays = {flights.retry_delay(TransportError("no answer")) for _ in range(50)}
    assert len(delays) > 40
    assert all(RETRY_FAILED[0] <= delay <= RETRY_FAILED[1] for delay in delays)


def test_failures_open_the_breaker(hubspot: TokenServer) -> None:
    """What every visitor's call meets, the sixth visitor's does not."""
    hubspot.answer(503)
    for number in range(FAILURES):
        with pytest.raises(UnavailableError):
            fly(Visitor(f"visitor{number}@example.com"))
    assert fly() is None
    assert hubspot.calls == FAILURES


def test_one_line_a_minute_and_kind(hubspot: TokenServer, caplog: pytest.LogCaptureFixture) -> None:
    """The log says what went wrong with ids that HubSpot's support asks for, and nobody's address, key or token."""
    body = {
        "status": "error",
        "message": "ada@example.com may not use key-of-the-tests",
        "correlationId": "11111111-2222-3333-4444-555555555555",
        "category": "GATEWAY",
    }
    hubspot.answer(502, body)
    for number in range(3):
        with pytest.raises(UnavailableError):
            fly(Visitor(f"visitor{number}@example.com"))
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hubspot_identify.flights", logging.WARNING)
    for part in ("502", "GATEWAY", "11111111-2222-3333-4444-555555555555"):
        assert part in record.message
    assert "@example.com" not in caplog.text
    assert "key-of-the-tests" not in caplog.text
    hubspot.answer(200)
    with pytest.raises(UnexpectedResponseError):
        fly(ADA)
    assert len(caplog.records) == 2


def test_while_the_breaker_is_open_its_line_is_enough(hubspot: TokenServer, caplog: pytest.LogCaptureFixture) -> None:
    """What opens it, and what its probes find, is told once."""
    hubspot.reject_key()
    with time_machine.travel(NOW, tick=False) as traveller:
        for number in range(5):
            with pytest.raises(AuthenticationError):
                fly(Visitor(f"visitor{number}@example.com"))
            traveller.shift(301)
    assert [record.name for record in caplog.records] == ["hubspot_identify.breaker"]


def test_the_line_names_the_account(hubspot: TokenServer, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Each account's failures have a line of their own, and it says whose they are."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ACCOUNTS": {"eu": {}, "us": {}}}
    hubspot.answer(503)
    for account in ("eu", "us"):
        with pytest.raises(UnavailableError) as caught:
            fly(ADA, get_config(account))
    assert caplog.messages == [f"No identification token. {caught.value} [account {name}]" for name in ("eu", "us")]


# Calls beyond their deadline


@pytest.fixture
def impatient(settings: Settings, hubspot: TokenServer) -> TokenServer:
    """HubSpot, and a site that gives it a fifth of a second."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "TIMEOUT": 0.2}
    return hubspot


@pytest.fixture
def heard_of_failures() -> Iterator[list[object]]:
    """The errors that the signal told of."""
    failed: list[object] = []
    token_failed.connect(lambda error, **_: failed.append(error), weak=False, dispatch_uid="count")
    yield failed
    token_failed.disconnect(dispatch_uid="count")


def be_late(server: TokenServer, visitor: Visitor = ADA) -> None:
    """Let a call pass its deadline, and the next job account for it."""
    server.set_scenario("held")
    config = get_config()
    job = start_flight(entry_key(visitor, config), visitor, config)
    assert job is not None
    assert server.wait_for_calls(1)
    with pytest.raises(TransportError):
        job.wait(GENEROUS_TIMEOUT)


def account_for_late_ones() -> None:
    job = get_workers().submit("next", lambda *_: None, GENEROUS_TIMEOUT)
    assert job is not None
    job.wait(GENEROUS_TIMEOUT)


def test_a_late_answer_fills_the_cache(impatient: TokenServer) -> None:
    """Nobody waits for it any more, and the next page has it."""
    be_late(impatient)
    impatient.release()
    assert get_workers().join(GENEROUS_TIMEOUT)
    token = services.get_token(ADA)
    assert token is not None
    assert impatient.emails_by_token() == {token.value: ADA.email}


def test_a_late_call_counts_as_a_failure(
    impatient: TokenServer, caplog: pytest.LogCaptureFixture, heard_of_failures: list[object]
) -> None:
    """The visitor is tried again later, and the log says why; the token that comes after all is kept."""
    be_late(impatient)
    account_for_late_ones()
    assert caplog.messages == ["No identification token. HubSpot did not answer within 0.2 s."]
    assert [str(error) for error in heard_of_failures] == ["HubSpot did not answer within 0.2 s."]
    key = entry_key(ADA, get_config())
    assert cache.get(key)["token"] is None
    impatient.release()
    assert get_workers().join(GENEROUS_TIMEOUT)
    assert cache.get(key)["token"] in impatient.emails_by_token()


def test_late_token_leaves_no_failure_on_record(impatient: TokenServer, heard_of_failures: list[object]) -> None:
    """The token arrives after the deadline and before the next job of this process looks for overdue calls."""
    config = get_config()
    flight = Flight(entry_key(ADA, config), ADA, config)
    job = Job("key", flight.fly, 0.0, None)
    with time_machine.travel(NOW, tick=False) as traveller:
        flight._deadline = NOW + 0.2
        impatient.set_scenario("held")
        thread = threading.Thread(target=flight.fly, args=(job, TokenClient()))
        thread.start()
        assert impatient.wait_for_calls(1)
        traveller.shift(1)
        impatient.release()
        thread.join(GENEROUS_TIMEOUT)
        flight.give_up()
        assert entry_of(now=NOW + 1).token is not None
        assert not entry_of(now=NOW + 1).has_failure(NOW + 1)
        assert entry_of(now=NOW + 1).retry_at == 0
    assert heard_of_failures == []


def test_late_call_without_a_connection_is_not_on_the_visitors_record(
    hubspot: TokenServer, still: time_machine.Coordinates
) -> None:
    """A resolver or a callable key that hangs until the deadline is no visitor's fault."""
    config = get_config()
    flight = Flight(entry_key(ADA, config), ADA, config)
    flight._client = TokenClient()
    still.shift(config.timeout)
    flight.give_up()
    assert entry_of(now=time.time()).retry_at > time.time()
    assert not entry_of(now=time.time()).has_failure(time.time())


def test_a_late_error_is_counted_once(impatient: TokenServer, heard_of_failures: list[object]) -> None:
    """By the deadline, and not again when the thread comes back."""
    be_late(impatient)
    account_for_late_ones()
    impatient.set_scenario("refused")  # ends the connection
    assert get_workers().join(GENEROUS_TIMEOUT)
    assert len(heard_of_failures) == 1


def test_a_late_error_that_comes_before_anybody_gave_it_up(
    impatient: TokenServer, heard_of_failures: list[object]
) -> None:
    """Nobody came by between the deadline and the error, which counts then, and not again when somebody comes."""
    be_late(impatient)
    impatient.set_scenario("refused")
    assert get_workers().join(GENEROUS_TIMEOUT)
    assert entry_of(now=time.time()).retry_at > time.time()
    account_for_late_ones()
    assert len(heard_of_failures) == 1


def test_a_late_call_of_long_ago_is_not_held_against_anybody(
    impatient: TokenServer, heard_of_failures: list[object]
) -> None:
    """On a quiet site the next visitor comes an hour later, and finds the door open; operators still hear of it."""
    config = get_config()
    flight = Flight(entry_key(ADA, config), ADA, config)
    flight._client = TokenClient()
    with time_machine.travel(flight._deadline + RETRY_FAILED[1] + 1, tick=False):
        for _ in range(FAILURES):
            flight.give_up()
        assert get_breaker(config).allows_call()
        assert cache.get(entry_key(ADA, config)) is None
    assert len(heard_of_failures) == FAILURES


@pytest.mark.parametrize("status", [200, 503])
def test_a_slow_receiver_is_not_held_against_hubspot(
    hubspot: TokenServer,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    heard_of_failures: list[object],
    status: int,
) -> None:
    """HubSpot answered in time; that the deadline passed afterwards is nobody's second failure."""
    deadline_passed = threading.Event()

    def slow(**_: object) -> None:
        deadline_passed.wait(GENEROUS_TIMEOUT)

    hubspot.answer(status, {"token": "made"})
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "TIMEOUT": 2.0}
    config = get_config()
    for signal in (token_created, token_failed):
        signal.connect(slow)
    try:
        job = start_flight(entry_key(ADA, config), ADA, config)
        assert job is not None
        with contextlib.suppress(UnavailableError):
            assert job.wait(GENEROUS_TIMEOUT) is not None  # before the receiver is through
        while time.monotonic() < job.deadline:
            time.sleep(0.01)
        account_for_late_ones()
        deadline_passed.set()
        assert get_workers().join(GENEROUS_TIMEOUT)
    finally:
        for signal in (token_created, token_failed):
            signal.disconnect(slow)
    assert len(heard_of_failures) == (0 if status == 200 else 1)
    assert caplog.messages == (
        [] if status == 200 else ["No identification token. HubSpot answered 503: it is in trouble"]
    )
    assert (entry_of(now=time.time()).token is not None) == (status == 200)


def test_a_slow_cache_is_not_held_against_hubspot(
    impatient: TokenServer,
    faulty_cache: type[FaultyCache],
    caplog: pytest.LogCaptureFixture,
    heard_of_failures: list[object],
) -> None:
    """The deadline passed before HubSpot was asked: it is not asked any more, and nothing is said of it."""
    deadline_passed = threading.Event()

    def slow(*args: Any, **options: Any) -> bool:
        deadline_passed.wait(GENEROUS_TIMEOUT)
        return True

    faulty_cache.instead["add"] = slow
    config = get_config()
    job = start_flight(entry_key(ADA, config), ADA, config)
    assert job is not None
    with pytest.raises(TransportError):
        job.wait(GENEROUS_TIMEOUT)
    account_for_late_ones()
    deadline_passed.set()
    assert get_workers().join(GENEROUS_TIMEOUT)
    assert (impatient.calls, heard_of_failures) == (0, [])
    assert "did not answer" not in caplog.text
    assert get_breaker(config).state == CLOSED


def test_an_answer_and_its_own_giving_up_may_meet(impatient: TokenServer, faulty_cache: type[FaultyCache]) -> None:
    """The token lands between the giver-up's look into the cache and what it writes, and is not lost."""
    be_late(impatient)
    key = entry_key(ADA, get_config())
    landed, written = threading.Event(), threading.Event()

    def keep_account(*args: Any, **options: Any) -> None:
        LocMemCache.set(caches["default"], *args, **options)
        written.set()

    def get(asked: str, *_: object, **__: object) -> object:
        found = LocMemCache.get(caches["default"], asked)
        if asked == key and not landed.is_set():
            landed.set()
            impatient.release()
            written.wait(0.3)  # which it would be, if nothing held it up
        return found

    faulty_cache.instead.update(get=get, set=keep_account)
    account_for_late_ones()
    assert landed.is_set()
    assert get_workers().join(GENEROUS_TIMEOUT)
    faulty_cache.reset()
    assert cache.get(key)["token"] in impatient.emails_by_token()


# Signals


@pytest.fixture
def heard() -> Iterator[list[dict[str, Any]]]:
    """What receivers of both signals were told, and on which thread."""
    told: list[dict[str, Any]] = []

    def listen(name: str) -> Callable[..., None]:
        def receiver(sender: type, **arguments: Any) -> None:
            told.append({"name": name, "sender": sender, "thread": threading.current_thread().name, **arguments})

        return receiver

    receivers = {token_created: listen("token_created"), token_failed: listen("token_failed")}
    for signal, receiver in receivers.items():
        signal.connect(receiver)
    yield told
    for signal, receiver in receivers.items():
        signal.disconnect(receiver)


def test_a_signal_tells_of_a_token(hubspot: TokenServer, heard: list[dict[str, Any]]) -> None:
    """Whom it is for and which account, from the worker, after it was cached; never the token itself."""
    token = fly()
    assert token is not None
    assert heard == [
        {
            "name": "token_created",
            "sender": Visitor,
            "thread": "hubspot-identify",
            "signal": token_created,
            "visitor": ADA,
            "account": "",
        }
    ]


def test_a_signal_tells_of_a_failure(hubspot: TokenServer, heard: list[dict[str, Any]]) -> None:
    """With the error itself, so that a receiver can act on its class."""
    hubspot.answer(500)
    with pytest.raises(UnavailableError) as caught:
        fly()
    (told,) = heard
    assert (told["name"], told["visitor"], told["account"], told["thread"]) == (
        "token_failed",
        ADA,
        "",
        "hubspot-identify",
    )
    assert told["error"] is caught.value


def test_a_signal_names_the_account(hubspot: TokenServer, heard: list[dict[str, Any]], settings: Settings) -> None:
    """As in ``ACCOUNTS``."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ACCOUNTS": {"eu": {}}}
    fly(ADA, get_config("eu"))
    assert [told["account"] for told in heard] == ["eu"]


def test_a_receiver_that_raises_breaks_nothing(
    hubspot: TokenServer, heard: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """The token is made and cached, the other receivers are told, and Django logs the failure."""

    def broken(**_: object) -> None:
        raise LookupError("mine")

    token_created.connect(broken)
    try:
        token = fly()
    finally:
        token_created.disconnect(broken)
    assert token is not None
    assert services.get_token(ADA) == token
    assert len(heard) == 1
    assert "broken" in caplog.text


def test_create_token_sends_no_signal(hubspot: TokenServer, heard: list[dict[str, Any]]) -> None:
    """Who calls it hears of it by its result."""
    services.create_token(ADA)
    hubspot.answer(500)
    with pytest.raises(UnavailableError):
        services.create_token(ADA)
    assert heard == []
