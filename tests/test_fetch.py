"""The way of a token from HubSpot into the cache: one fetch at a time for each visitor, and every failure recorded."""

from __future__ import annotations

import contextlib
import contextvars
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
from django.db import connection
from pytest_django import Settings
from support.app_settings import configure
from support.clocks import GENEROUS_TIMEOUT, wait_until
from support.faulty_cache import FaultyCache
from support.server import TokenServer

from hubspot_identify import services
from hubspot_identify._tokens import fetch as fetch_module
from hubspot_identify._tokens.account import Account, get_account
from hubspot_identify._tokens.breaker import CLOSED, COOL_DOWN, COOL_DOWN_SPREAD, FAILURES
from hubspot_identify._tokens.entries import (
    CHANGE_AFTER,
    EXPIRE_AFTER,
    FAILURE_RECORD,
    HOUR,
    RENEW_AFTER,
    Entry,
    VisitorToken,
    decode_entry,
)
from hubspot_identify._tokens.fetch import (
    RETRY_AGAIN,
    RETRY_CHANGES,
    RETRY_FAILED,
    RETRY_REFUSED,
    TokenFetch,
)
from hubspot_identify._tokens.rate_limit import WINDOW
from hubspot_identify._tokens.workers import Job, get_workers
from hubspot_identify.exceptions import (
    AuthenticationError,
    CredentialError,
    InvalidRequestError,
    RateLimitError,
    TransportError,
    UnavailableError,
    UnexpectedResponseError,
)
from hubspot_identify.signals import token_created, token_failed
from hubspot_identify.testing import join_threads
from hubspot_identify.visitors import Visitor

NOW = 1_800_000_000.0
OLD = (RENEW_AFTER + EXPIRE_AFTER) / 2  # the age in seconds of a token that is due and still valid
ADA = Visitor("ada@example.com", "Ada")
EVE = Visitor("eve@example.com")


@pytest.fixture
def frozen_time() -> Iterator[time_machine.Traveller]:
    """Stop the clock, so that time passes only when the test moves it. No deadline passes by itself."""
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


def schedule(visitor: Visitor = ADA, account: str = "") -> Job:
    """Schedule a fetch, and return it."""
    resolved = get_account(account)
    scheduled = get_workers().submit(TokenFetch(resolved, visitor, resolved.entry_key(visitor)))
    assert scheduled is not None
    return scheduled


def fetch(visitor: Visitor = ADA, account: str = "") -> VisitorToken | None:
    """Run a fetch to its end, and return its token."""
    scheduled = schedule(visitor, account)
    try:
        return scheduled._future.result(GENEROUS_TIMEOUT)
    finally:
        assert join_threads(GENEROUS_TIMEOUT)


def cached_entry(visitor: Visitor = ADA, now: float | None = None) -> Entry:
    """Return what the cache holds for a visitor."""
    key = get_account().entry_key(visitor)
    return decode_entry(cache.get(key), key, time.time() if now is None else now)


def store_entry(visitor: Visitor = ADA, **changes: Any) -> Entry:
    """Put an entry into the cache."""
    values = {"token": "old", "created_at": NOW, "retry_at": 0.0, "profile": get_account().profile(visitor), **changes}
    entry, key = Entry(**values), get_account().entry_key(visitor)
    cache.set(key, entry.as_primitives(key), None)
    return entry


def lock_key(visitor: Visitor = ADA) -> str:
    return f"{get_account().entry_key(visitor)}:lock"


def test_token_is_cached_with_the_time_before_the_call(hubspot: TokenServer) -> None:
    """The lifetime of the token counts from the request to HubSpot, not from the response."""
    with time_machine.travel(NOW, tick=False) as traveller:
        hubspot.set_scenario("held")
        job = schedule()
        assert hubspot.wait_for_calls(1)
        traveller.shift(2)
        hubspot.release()
        token = job._future.result(GENEROUS_TIMEOUT)
        assert join_threads(GENEROUS_TIMEOUT)
        assert token is not None
        assert hubspot.emails_by_token() == {token.value: ADA.email}
        assert token == VisitorToken(token.value, ADA, NOW)
        assert cached_entry() == Entry(token.value, NOW, 0.0, get_account().profile(ADA))


def test_fetch_does_not_wait_for_the_lock(hubspot: TokenServer, frozen_time: time_machine.Traveller) -> None:
    """While another process holds the lock there is no call. A token that it has already stored is returned."""
    cache.add(lock_key(), 1, 60)
    assert fetch() is None
    store_entry(token="theirs")
    token = fetch()
    assert token is not None
    assert (token.value, hubspot.calls, cache.get(lock_key())) == ("theirs", 0, 1)


def test_lock_expires_after_the_timeout(hubspot: TokenServer, faulty_cache: type[FaultyCache]) -> None:
    """The lock lasts for TIMEOUT and one second, and is not deleted after the call."""
    timeouts: dict[str, object] = {}

    def add(key: str, value: object, timeout: float) -> bool:
        timeouts[key] = timeout
        return LocMemCache.add(caches["default"], key, value, timeout)

    faulty_cache.instead["add"] = add
    assert fetch() is not None
    assert timeouts[lock_key()] == 4
    assert "delete_many" not in [operation for operation, _ in faulty_cache.asked]


def test_cache_is_read_again_under_the_lock(hubspot: TokenServer, frozen_time: time_machine.Traveller) -> None:
    """A token that another process stored just before the lock was taken is returned without a call."""
    store_entry(token="theirs")
    token = fetch()
    assert token is not None
    assert (token.value, hubspot.calls) == ("theirs", 0)


def test_open_breaker_leaves_the_old_token_and_no_lock(
    hubspot: TokenServer, frozen_time: time_machine.Traveller
) -> None:
    """There is no call, an old token is returned if there is one, and the visitor can be tried again at once."""
    get_account().breaker.record_failure(AuthenticationError("rejected", status=401, key_rejected=True), "eve", NOW)
    assert fetch() is None
    store_entry(created_at=NOW - OLD)
    token = fetch()
    assert token is not None
    assert (token.value, hubspot.calls, cache.get(lock_key())) == ("old", 0, None)


def test_visitor_refused_by_the_rate_limit_gets_a_token_later(hubspot: TokenServer, settings: Settings) -> None:
    """The rate limit delays a fetch and leaves no lock."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "RATE_LIMIT": 1}
    with time_machine.travel(NOW, tick=False) as traveller:
        assert all(fetch(Visitor(f"visitor{number}@example.com")) for number in range(WINDOW))
        assert fetch() is None
        traveller.shift(WINDOW + 1)
        assert fetch() is not None
    assert hubspot.calls == WINDOW + 1


def test_changed_names_leave_the_calls_to_other_visitors(hubspot: TokenServer, settings: Settings) -> None:
    """Each second, an account that has edited its name comes before a new visitor. Nine of ten calls are for new ones.

    The accounts keep their tokens, and their page views schedule no fetch in the next seconds.
    """
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "RATE_LIMIT": 1}
    first = 0
    with time_machine.travel(NOW, tick=False) as traveller:
        for number in range(10):
            visitor = Visitor(f"account{number}@example.com", f"Name {number}")
            store_entry(visitor, created_at=time.time() - CHANGE_AFTER, profile="of other names")
            token = fetch(visitor)
            assert token is not None
            assert (token.value == "old") == (number > 0)
            assert not cached_entry(visitor).is_due(visitor, time.time(), get_account().profile)
            first += fetch(Visitor(f"new{number}@example.com")) is not None
            traveller.shift(1)
    assert (first, hubspot.calls) == (9, 10)


def test_changed_names_are_tried_again_after_a_minute(hubspot: TokenServer, settings: Settings) -> None:
    """Once the token is old, the part of the rate limit for changed names no longer applies to it."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "RATE_LIMIT": 1}
    changed = {"created_at": NOW - CHANGE_AFTER, "profile": "of other names"}
    with time_machine.travel(NOW, tick=False) as traveller:
        for visitor in (EVE, ADA):
            store_entry(visitor, **changed)
            fetch(visitor)
        assert (hubspot.calls, cached_entry().token) == (1, "old")
        traveller.shift(RETRY_CHANGES)
        token = services.get_token(ADA, wait=GENEROUS_TIMEOUT)
        assert join_threads(GENEROUS_TIMEOUT)
        assert token != services.get_token(ADA)
        store_entry(EVE, **{**changed, "created_at": NOW - OLD})
        traveller.shift(1)
        fetch(EVE)
    assert hubspot.calls == 3


def test_refused_call_for_changed_names_does_not_restore_a_forgotten_token(
    hubspot: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is forgotten while the worker asks whether a call is allowed."""
    store_entry(created_at=time.time() - CHANGE_AFTER, profile="of other names")

    def forget_and_refuse(account: Account, **_: object) -> bool:
        services.forget_token(ADA)
        return False

    monkeypatch.setattr(Account, "allows_call", forget_and_refuse)
    fetch()
    assert cached_entry().token is None


def test_visitors_with_the_same_made_key_have_separate_fetches(hubspot: TokenServer, settings: Settings) -> None:
    """A ``KEY_FUNCTION`` that makes equal keys costs the cached tokens, and gives no visitor the token of another."""
    settings.CACHES = {"default": {**settings.CACHES["default"], "KEY_FUNCTION": same_key}}
    hubspot.set_scenario("held")
    fetches = [schedule(visitor) for visitor in (ADA, EVE)]
    assert fetches[0] is not fetches[1]
    hubspot.release()
    assert join_threads(GENEROUS_TIMEOUT)
    for visitor in (ADA, EVE):
        token = services.get_token(visitor, wait=GENEROUS_TIMEOUT)
        assert token is None or hubspot.emails_by_token()[token.value] == visitor.email


def same_key(key: str, key_prefix: str, version: int) -> str:
    """Make the same key for everything; a KEY_FUNCTION."""
    return "key"


# Failures


@pytest.mark.parametrize(
    ("status", "error_class", "shortest", "longest", "age"),
    [
        (400, InvalidRequestError, RETRY_REFUSED, RETRY_REFUSED, OLD),
        (429, RateLimitError, 10.0, 10.0, OLD),
        (500, UnavailableError, *RETRY_FAILED, OLD),
        (200, UnexpectedResponseError, *RETRY_FAILED, None),
    ],
)
def test_failure_delays_the_next_attempt_and_keeps_the_token(
    hubspot: TokenServer,
    frozen_time: time_machine.Traveller,
    status: int,
    error_class: type[Exception],
    shortest: float,
    longest: float,
    age: float | None,
) -> None:
    """The delay is one hour for data that HubSpot refuses, and otherwise 5 to 30 s."""
    before = store_entry(created_at=NOW - age) if age else Entry(None, 0.0, 0.0, "")
    hubspot.answer(status)
    with pytest.raises(error_class):
        fetch()
    entry = cached_entry()
    assert NOW + shortest <= entry.retry_at <= NOW + longest
    assert (entry.token, entry.created_at, entry.profile) == (before.token, before.created_at, before.profile)


def test_failure_stays_on_record_for_an_hour(hubspot: TokenServer) -> None:
    """The hour starts at the time of the next attempt. A token created meanwhile, e.g. with other names, keeps it."""
    with time_machine.travel(NOW, tick=False) as traveller:
        hubspot.answer(500)
        for _ in range(3):
            with pytest.raises(UnavailableError):
                fetch()
            assert cached_entry().failed_at == NOW
            traveller.move_to(max(time.time() + RETRY_FAILED[1], cached_entry().retry_at) + 0.001)
        entry = cached_entry()
        assert entry.has_failure(entry.retry_at + FAILURE_RECORD - 1)
        assert not entry.has_failure(entry.retry_at + FAILURE_RECORD)
        hubspot.set_scenario("healthy")
        assert fetch() is not None
        with_token = cached_entry()
        assert with_token.failed_at == NOW
        assert with_token.has_failure(entry.retry_at + FAILURE_RECORD - 1)
        assert not with_token.has_failure(entry.retry_at + FAILURE_RECORD)


def test_visitor_who_keeps_failing_is_tried_less_often(hubspot: TokenServer) -> None:
    """The interval grows to five minutes, so that hanging calls do not occupy the worker slots of other visitors."""
    hubspot.answer(500)
    with time_machine.travel(NOW, tick=False) as traveller:
        while time.time() < NOW + HOUR:
            with pytest.raises(UnavailableError):
                fetch()
            traveller.move_to(cached_entry().retry_at + 0.001)  # the clock may round down
        assert HOUR / RETRY_AGAIN < hubspot.calls < 2 * HOUR / RETRY_AGAIN


def test_rejected_key_is_not_on_the_visitors_record(hubspot: TokenServer, frozen_time: time_machine.Traveller) -> None:
    """HubSpot itself says that the key is the reason, and not the visitor."""
    hubspot.reject_key()
    with pytest.raises(AuthenticationError):
        fetch()
    assert not cached_entry().has_failure(NOW)


def test_pause_is_on_the_visitors_record(hubspot: TokenServer, frozen_time: time_machine.Traveller) -> None:
    """A visitor who is the only one to get such responses must not pause the calls for the others again."""
    hubspot.answer(429, {"errorType": "RATE_LIMIT"})
    with pytest.raises(RateLimitError):
        fetch()
    assert cached_entry().has_failure(NOW)


def test_visitor_with_a_failure_is_not_the_probe(hubspot: TokenServer) -> None:
    """Five failures open the breaker. After the cool-down the call of another visitor closes it."""
    hubspot.answer(503)
    with time_machine.travel(NOW, tick=False) as traveller:
        for number in range(FAILURES):
            with pytest.raises(UnavailableError):
                fetch(Visitor(f"visitor{number}@example.com"))
        assert fetch() is None
        hubspot.set_scenario("healthy")
        traveller.shift(RETRY_FAILED[1])
        assert fetch(Visitor("visitor0@example.com")) is None
        assert hubspot.calls == FAILURES
        assert fetch() is not None
        assert fetch(Visitor("visitor0@example.com")) is not None


def test_visitor_with_a_failed_connection_may_be_the_probe(hubspot: TokenServer) -> None:
    """No visitor can have caused the outage, so any of the same visitors closes the breaker after it."""
    hubspot.set_scenario("refused")
    with time_machine.travel(NOW, tick=False) as traveller:
        for number in range(FAILURES):
            with pytest.raises(TransportError):
                fetch(Visitor(f"visitor{number}@example.com"))
        hubspot.set_scenario("healthy")
        traveller.shift(max(RETRY_FAILED[1], COOL_DOWN * (1 + COOL_DOWN_SPREAD)))
        assert fetch(Visitor("visitor0@example.com")) is not None


@pytest.mark.parametrize(("scenario", "on_record"), [("refused", False), ("reset", True)])
def test_failure_before_the_request_is_not_on_the_visitors_record(
    hubspot: TokenServer, frozen_time: time_machine.Traveller, scenario: Any, on_record: bool
) -> None:
    """The visitor is tried again after the same delay in both cases."""
    hubspot.set_scenario(scenario)
    with pytest.raises(TransportError):
        fetch()
    assert cached_entry().has_failure(NOW) is on_record
    assert cached_entry().retry_at > NOW


def test_unusable_certificate_bundle_is_logged_once_a_minute(
    hubspot: TokenServer,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log record contains the path of the file."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": hubspot.https_url}
    for visitor in (ADA, EVE):
        with pytest.raises(TransportError):
            fetch(visitor)
    (record,) = caplog.records
    assert str(tmp_path / "missing.pem") in record.message


def test_retries_are_spread() -> None:
    """Visitors whose fetches failed in the same outage are not all tried again at the same moment."""
    delays = {fetch_module.retry_delay(TransportError("no response")) for _ in range(50)}
    assert len(delays) > 40
    assert all(RETRY_FAILED[0] <= delay <= RETRY_FAILED[1] for delay in delays)


def test_failing_callable_key_is_an_error_in_the_log(
    hubspot: TokenServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """One ERROR a minute names the type of the exception, its module and its line, but not its text."""

    def no_key() -> str:
        raise LookupError("key-of-the-tests")

    configure(settings, API_KEY=no_key)
    for visitor in (ADA, EVE):
        with pytest.raises(CredentialError):
            fetch(visitor)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hubspot_identify._tokens.fetch", logging.ERROR)
    assert f"LookupError in {__name__}, line {no_key.__code__.co_firstlineno + 1}" in record.message
    assert "key-of-the-tests" not in caplog.text
    assert hubspot.calls == 0


def test_each_class_of_failure_is_logged_once_a_minute(hubspot: TokenServer, caplog: pytest.LogCaptureFixture) -> None:
    """The record contains the ids that HubSpot's support asks for, but no e-mail address and no key."""
    body = {
        "status": "error",
        "message": "ada@example.com may not use key-of-the-tests",
        "correlationId": "11111111-2222-3333-4444-555555555555",
        "category": "GATEWAY",
    }
    hubspot.answer(502, body)
    for number in range(3):
        with pytest.raises(UnavailableError):
            fetch(Visitor(f"visitor{number}@example.com"))
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hubspot_identify._tokens.fetch", logging.WARNING)
    for part in ("502", "GATEWAY", "11111111-2222-3333-4444-555555555555"):
        assert part in record.message
    assert "@example.com" not in caplog.text
    assert "key-of-the-tests" not in caplog.text
    hubspot.answer(200)
    with pytest.raises(UnexpectedResponseError):
        fetch(ADA)
    assert len(caplog.records) == 2


def test_failures_behind_an_open_breaker_are_not_logged(hubspot: TokenServer, caplog: pytest.LogCaptureFixture) -> None:
    """The breaker logs once why it opened. Its failed probes add nothing."""
    hubspot.reject_key()
    with time_machine.travel(NOW, tick=False) as traveller:
        for number in range(5):
            with pytest.raises(AuthenticationError):
                fetch(Visitor(f"visitor{number}@example.com"))
            traveller.shift(301)
    assert [record.name for record in caplog.records] == ["hubspot_identify._tokens.breaker"]


def test_log_record_contains_the_account(
    hubspot: TokenServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The failures of each account are logged separately."""
    accounts = ("portal-eu", "portal-us")
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ACCOUNTS": {account: {} for account in accounts}}
    hubspot.answer(503)
    for account in accounts:
        with pytest.raises(UnavailableError):
            fetch(ADA, account)
    assert [account in record.message for account in accounts for record in caplog.records] == [
        True,
        False,
        False,
        True,
    ]


# Calls after their deadline


@pytest.fixture
def short_timeout(settings: Settings, hubspot: TokenServer) -> TokenServer:
    """Set a TIMEOUT of a fifth of a second."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "TIMEOUT": 0.2}
    return hubspot


@pytest.fixture
def reported_errors() -> Iterator[list[object]]:
    """Collect the errors that the ``token_failed`` signal reports."""
    errors: list[object] = []
    token_failed.connect(lambda error, **_: errors.append(error), weak=False, dispatch_uid="collect")
    yield errors
    token_failed.disconnect(dispatch_uid="collect")


def exceed_deadline(server: TokenServer) -> None:
    """Let a call pass its deadline without a response."""
    server.set_scenario("held")
    job = schedule()
    assert server.wait_for_calls(1)
    with pytest.raises(TransportError):
        job.wait(GENEROUS_TIMEOUT)


def test_late_call_counts_as_a_failure_and_its_token_is_cached(
    short_timeout: TokenServer, caplog: pytest.LogCaptureFixture, reported_errors: list[object]
) -> None:
    """At the deadline the failure is logged and reported. A response after it still fills the cache."""
    exceed_deadline(short_timeout)
    assert wait_until(lambda: len(reported_errors) > 0)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hubspot_identify._tokens.fetch", logging.WARNING)
    assert "0.2" in record.message
    assert [type(error) for error in reported_errors] == [TransportError]
    assert cached_entry().token is None
    assert cached_entry().has_failure(time.time())
    assert cached_entry().retry_at > time.time()
    short_timeout.release()
    assert join_threads(GENEROUS_TIMEOUT)
    token = services.get_token(ADA)
    assert token is not None
    assert short_timeout.emails_by_token() == {token.value: ADA.email}
    assert not cached_entry().has_failure(time.time())


def test_late_call_without_a_connection_is_not_on_the_visitors_record(
    short_timeout: TokenServer, settings: Settings, reported_errors: list[object]
) -> None:
    """If a callable key blocks until the deadline, the visitor is not the reason."""
    released = threading.Event()

    def blocking_key() -> str:
        released.wait(GENEROUS_TIMEOUT)
        return "key"

    configure(settings, API_KEY=blocking_key)
    schedule()
    try:
        assert wait_until(lambda: len(reported_errors) > 0)
        assert cached_entry().retry_at > time.time()
        assert not cached_entry().has_failure(time.time())
    finally:
        released.set()


def test_late_error_is_counted_once(short_timeout: TokenServer, reported_errors: list[object]) -> None:
    """The failure is counted at the deadline, and not again when the call ends with an error."""
    exceed_deadline(short_timeout)
    assert wait_until(lambda: len(reported_errors) > 0)
    recorded = cached_entry()
    short_timeout.set_scenario("refused")  # ends the connection
    assert join_threads(GENEROUS_TIMEOUT)
    assert cached_entry() == recorded
    assert len(reported_errors) == 1


@pytest.mark.parametrize("status", [200, 503])
def test_slow_signal_receiver_causes_no_failure(
    hubspot: TokenServer, caplog: pytest.LogCaptureFixture, reported_errors: list[object], status: int
) -> None:
    """HubSpot responded in time. If a receiver passes the deadline afterwards, no further failure is counted."""
    deadline_passed = threading.Event()

    def receiver(**_: object) -> None:
        deadline_passed.wait(GENEROUS_TIMEOUT)

    hubspot.answer(status, {"token": "created"})
    for signal in (token_created, token_failed):
        signal.connect(receiver)
    try:
        scheduled = schedule()
        with contextlib.suppress(UnavailableError):
            assert scheduled.wait(GENEROUS_TIMEOUT) is not None  # before the receiver returns
        scheduled.on_deadline()
        deadline_passed.set()
        assert join_threads(GENEROUS_TIMEOUT)
    finally:
        for signal in (token_created, token_failed):
            signal.disconnect(receiver)
    failures = 0 if status == 200 else 1
    assert (len(reported_errors), len(caplog.records)) == (failures, failures)
    assert (cached_entry().token is not None) == (status == 200)


def test_slow_cache_causes_no_failure(
    short_timeout: TokenServer,
    faulty_cache: type[FaultyCache],
    caplog: pytest.LogCaptureFixture,
    reported_errors: list[object],
) -> None:
    """If the deadline passes before the call, HubSpot is not called, and no failure is counted or logged."""
    deadline_passed = threading.Event()

    def slow_add(*args: Any, **options: Any) -> bool:
        deadline_passed.wait(GENEROUS_TIMEOUT)
        return True

    faulty_cache.instead["add"] = slow_add
    scheduled = schedule()
    with pytest.raises(TransportError):
        scheduled.wait(GENEROUS_TIMEOUT)
    scheduled.on_deadline()
    deadline_passed.set()
    assert join_threads(GENEROUS_TIMEOUT)
    assert (short_timeout.calls, reported_errors) == (0, [])
    assert "hubspot_identify._tokens.fetch" not in [record.name for record in caplog.records]
    assert get_account().breaker.state == CLOSED


def test_token_that_arrives_while_the_failure_is_recorded_is_not_lost(
    hubspot: TokenServer, faulty_cache: type[FaultyCache]
) -> None:
    """The response arrives after the deadline's thread has read the entry and before it writes the failure."""
    hubspot.set_scenario("held")
    scheduled = schedule()
    assert hubspot.wait_for_calls(1)
    key = get_account().entry_key(ADA)
    released, written = threading.Event(), threading.Event()

    def set_and_notify(*args: Any, **options: Any) -> None:
        LocMemCache.set(caches["default"], *args, **options)
        written.set()

    def get(read: str, *_: object, **__: object) -> object:
        value = LocMemCache.get(caches["default"], read)
        if read == key and not released.is_set():
            released.set()
            hubspot.release()
            written.wait(0.1)  # without the lock between the two, the token would be written now
        return value

    faulty_cache.instead.update(get=get, set=set_and_notify)
    scheduled.on_deadline()
    assert released.is_set()
    assert join_threads(GENEROUS_TIMEOUT)
    faulty_cache.reset()
    assert cache.get(key)["token"] in hubspot.emails_by_token()


# Signals


@pytest.fixture
def sent_signals() -> Iterator[list[dict[str, Any]]]:
    """Collect the arguments that the receivers of both signals get, and the threads they run on."""
    sent: list[dict[str, Any]] = []

    def new_receiver(name: str) -> Callable[..., None]:
        def receiver(sender: type, **arguments: Any) -> None:
            sent.append({"name": name, "sender": sender, "thread": threading.current_thread().name, **arguments})

        return receiver

    receivers = {token_created: new_receiver("token_created"), token_failed: new_receiver("token_failed")}
    for signal, receiver in receivers.items():
        signal.connect(receiver)
    yield sent
    for signal, receiver in receivers.items():
        signal.disconnect(receiver)


def test_signal_is_sent_for_a_token(hubspot: TokenServer, sent_signals: list[dict[str, Any]]) -> None:
    """The worker sends the visitor and the account, and never the token itself."""
    assert fetch() is not None
    assert sent_signals == [
        {
            "name": "token_created",
            "sender": Visitor,
            "thread": "hubspot-identify",
            "signal": token_created,
            "visitor": ADA,
            "account": "",
        }
    ]


def test_signal_is_sent_for_a_failure(
    hubspot: TokenServer, sent_signals: list[dict[str, Any]], settings: Settings
) -> None:
    """The worker sends the error itself and the name of the account in ``ACCOUNTS``."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ACCOUNTS": {"eu": {}}}
    hubspot.answer(500)
    with pytest.raises(UnavailableError) as caught:
        fetch(ADA, "eu")
    (sent,) = sent_signals
    assert {name: sent[name] for name in ("name", "visitor", "account", "thread", "error")} == {
        "name": "token_failed",
        "visitor": ADA,
        "account": "eu",
        "thread": "hubspot-identify",
        "error": caught.value,
    }


def test_receivers_leave_nothing_for_the_next_visitor(hubspot: TokenServer, settings: Settings) -> None:
    """The thread is used again. What a receiver or ``API_KEY`` has set in its context or on the database is not."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    found: list[tuple[str, str]] = []

    def look_and_leave(data: str) -> None:
        found.append((variable.get(), getattr(connection, "tenant", "")))
        variable.set(data)
        connection.tenant = data  # type: ignore[attr-defined]

    def api_key() -> str:
        look_and_leave("key")
        return "key"

    def receiver(visitor: Visitor, **_: object) -> None:
        look_and_leave(visitor.email)

    configure(settings, API_KEY=api_key)
    token_created.connect(receiver)
    try:
        for visitor in (ADA, EVE):
            assert services.get_token(visitor, wait=GENEROUS_TIMEOUT) is not None
            assert join_threads(GENEROUS_TIMEOUT)
    finally:
        token_created.disconnect(receiver)
    assert found == [("", ""), ("", "key")] * 2  # within one call, the database connection is the same


def test_receiver_that_raises_does_not_affect_the_token(
    hubspot: TokenServer, sent_signals: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """The token is cached, the other receivers are called, and Django logs the exception."""

    def broken_receiver(**_: object) -> None:
        raise LookupError("of the receiver")

    token_created.connect(broken_receiver)
    try:
        token = fetch()
    finally:
        token_created.disconnect(broken_receiver)
    assert token is not None
    assert services.get_token(ADA) == token
    assert len(sent_signals) == 1
    assert "broken_receiver" in caplog.text


def test_create_token_sends_no_signal(hubspot: TokenServer, sent_signals: list[dict[str, Any]]) -> None:
    """Its caller gets the token or the error directly."""
    services.create_token(ADA)
    hubspot.answer(500)
    with pytest.raises(UnavailableError):
        services.create_token(ADA)
    assert sent_signals == []
