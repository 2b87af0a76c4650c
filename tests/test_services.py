"""The public functions: results, waiting times, whose token is returned, and what happens on failures."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.test import RequestFactory
from pytest_django import Settings
from support.app_settings import configure
from support.clocks import GENEROUS_TIMEOUT, SLACK, Clock, once_in_time, wait_until
from support.faulty_cache import FaultyCache, refused
from support.server import Scenario, TokenServer, TokenServerProcess, email_of
from support.workers import TaskJob, wait_for_workers

from hubspot_identify import identification, services, views, widget
from hubspot_identify._hubspot.client import TokenClient  # imported here so that no timed call has to import it
from hubspot_identify._tokens import account as account_module
from hubspot_identify._tokens import store as store_module
from hubspot_identify._tokens import workers as workers_module
from hubspot_identify._tokens.account import get_account
from hubspot_identify._tokens.entries import (
    CHANGE_AFTER,
    EXPIRE_AFTER,
    HOUR,
    RENEW_AFTER,
    RENEW_SPREAD,
    Entry,
    VisitorToken,
    decode_entry,
)
from hubspot_identify._tokens.per_process import PerProcess
from hubspot_identify._tokens.workers import SLOTS, get_workers
from hubspot_identify.exceptions import (
    AuthenticationError,
    ConfigurationError,
    HubSpotIdentifyError,
    TransportError,
    UnknownAccountError,
)
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com", "Ada", "Lovelace")
EVE = Visitor("eve@example.com")
NOW = 1_800_000_000.0
OLD = (RENEW_AFTER + EXPIRE_AFTER) / 2  # the age in seconds of a token that is due and still valid


def cached_token(visitor: Visitor = ADA, account: str | None = None) -> VisitorToken:
    """Return the visitor's token from the cache, where it is stored first if it is missing."""
    token = services.get_token(visitor, wait=GENEROUS_TIMEOUT, account=account)
    assert token is not None
    wait_for_workers()
    return token


def request_of(email: str | None = ADA.email) -> Any:
    """Return the script's request for the identity of the user who has this address."""
    request: Any = RequestFactory().get(
        "/hubspot/identity/", headers={"X-HubSpot-Identify": "1", "Sec-Fetch-Site": "same-origin"}
    )
    request.session = {}
    request.user = SimpleNamespace(
        pk=1 if email else None, is_authenticated=email is not None, email=email, first_name="Ada", last_name=""
    )
    return request


# The public functions


def test_create_token_bypasses_the_cache(hubspot: TokenServer) -> None:
    """Each call returns a new token, and none is cached."""
    before = time.time()
    one, other = services.create_token(ADA), services.create_token(ADA)
    assert before <= one.created_at <= other.created_at <= time.time()
    assert (email_of(one.value), one.visitor, one.value == other.value) == (ADA.email, ADA, False)
    assert hubspot.calls == 2
    assert services.get_token(ADA) is None


def test_simultaneous_create_token_calls_return_each_visitors_own_token(hubspot: TokenServer) -> None:
    """Calls are not shared, also those for the same visitor."""
    hubspot.set_scenario("healthy", latency=0.05)
    visitors = [ADA, EVE] * 2
    with ThreadPoolExecutor(SLOTS) as pool:
        tokens = list(pool.map(services.create_token, visitors))
    assert [email_of(token.value) for token in tokens] == [visitor.email for visitor in visitors]
    assert len({token.value for token in tokens}) == hubspot.calls == len(visitors)


def test_create_token_raises_a_documented_error_for_an_unexpected_exception(
    hubspot: TokenServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception itself is logged."""
    monkeypatch.setattr(TokenClient, "create_token", lambda *args: 1 / 0)
    with pytest.raises(TransportError):
        services.create_token(ADA)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hubspot_identify._tokens.workers", logging.ERROR)
    assert "ZeroDivisionError" in caplog.text


def test_create_token_bypasses_circuit_breaker_and_rate_limit(hubspot: TokenServer, settings: Settings) -> None:
    """A command that examines the settings gets HubSpot's current response each time."""
    configure(settings, RATE_LIMIT=1)
    hubspot.reject_key()
    for _ in range(3):
        with pytest.raises(AuthenticationError):
            services.create_token(ADA)
    hubspot.set_scenario("healthy")
    assert services.create_token(ADA)
    assert hubspot.calls == 4


def test_get_token_fetches_in_the_background(hubspot: TokenServer) -> None:
    """The first caller gets none, later callers get the token, and HubSpot is called once."""
    assert services.get_token(ADA) is None
    wait_for_workers()
    token = services.get_token(ADA)
    assert token is not None
    assert email_of(token.value) == ADA.email
    assert services.get_token(ADA) == token
    assert hubspot.calls == 1


def test_callers_that_wait_for_the_same_token_share_one_call(hubspot: TokenServer) -> None:
    """Twenty threads wait for the token of one visitor."""
    hubspot.set_scenario("healthy", latency=0.1)
    with ThreadPoolExecutor(20) as pool:
        tokens = set(pool.map(lambda _: services.get_token(ADA, wait=GENEROUS_TIMEOUT), range(20)))
    assert len(tokens) == 1
    assert None not in tokens
    assert hubspot.calls == 1


def test_forgotten_token_is_replaced_by_a_new_one(hubspot: TokenServer) -> None:
    """After ``forget_token()``, the next token is another one."""
    token = cached_token()
    services.forget_token(ADA)
    cache.delete(f"{get_account().entry_key(ADA)}:lock")  # which would expire some seconds later
    assert services.get_token(ADA) is None
    wait_for_workers()
    assert cached_token() != token


def forget_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget Ada's token in a process that shares only the cache."""
    with monkeypatch.context() as other_process:
        other_process.setattr(account_module, "_accounts", PerProcess(account_module._Accounts))
        other_process.setattr(account_module, "_stores", PerProcess(lambda: functools.cache(store_module.Store)))
        services.forget_token(ADA)


def test_forgotten_token_is_not_used_by_a_process_that_kept_it(
    hubspot: TokenServer, faulty_cache: type[FaultyCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process has kept the token in memory during an outage of the cache. Then another process forgets the token.

    The failure of a later fetch does not restore it either.
    """
    monkeypatch.setattr(store_module, "PAUSE", 0.0)  # seconds until a cache that failed is used again
    faulty_cache.instead["*"] = refused
    token = cached_token()
    faulty_cache.reset()
    assert services.get_token(ADA) == token
    forget_in_another_process(monkeypatch)
    hubspot.answer(500)
    assert wait_until(lambda: not get_account().rate_limit.full_for)  # one call a second during the outage
    assert services.get_token(ADA) is None
    wait_for_workers()
    assert hubspot.calls == 2
    with time_machine.travel(time.time() + 3 * HOUR):
        assert services.get_token(ADA) is None
        wait_for_workers()


def test_token_that_is_forgotten_again_is_not_used_by_a_process_that_kept_a_new_one(
    hubspot: TokenServer, faulty_cache: type[FaultyCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first time, the process has read the entry, and has created a token during an outage of the cache."""
    monkeypatch.setattr(store_module, "PAUSE", 0.0)  # seconds until a cache that failed is used again
    services.forget_token(ADA)
    faulty_cache.instead["set"] = refused
    token = cached_token()
    faulty_cache.reset()
    assert services.get_token(ADA) == token
    forget_in_another_process(monkeypatch)
    assert services.get_token(ADA) is None


def test_forget_token_keeps_the_record_of_a_failure(hubspot: TokenServer) -> None:
    """HubSpot is not called any sooner, and the visitor is not used to probe an open circuit breaker."""
    key = get_account().entry_key(ADA)
    with time_machine.travel(NOW, tick=False):
        cached_token()
        hubspot.answer(500)
    with time_machine.travel(NOW + OLD, tick=False):
        cache.delete(f"{key}:lock")
        services.get_token(ADA)
        wait_for_workers()
        before = decode_entry(cache.get(key), key, time.time())
        assert before.token is not None
        services.forget_token(ADA)
        cache.delete(f"{key}:lock")
        after = decode_entry(cache.get(key), key, time.time())
        assert (after.token, after.retry_at, after.failed_at) == (None, before.retry_at, NOW + OLD)
        assert services.get_token(ADA) is None
        wait_for_workers()
    assert hubspot.calls == 2


def test_disabled_app_makes_no_call(hubspot: TokenServer, settings: Settings) -> None:
    """With ``ENABLED`` set to ``False``, no other setting is needed and only ``create_token()`` raises."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    assert services.get_token(ADA, wait=1) is None
    services.forget_token(ADA)
    assert services.identify(request_of()).as_dict() == {"enabled": False}
    with pytest.raises(ConfigurationError) as caught:
        services.create_token(ADA)
    assert caught.value.setting == "ENABLED"
    assert hubspot.calls == 0


@pytest.mark.parametrize("function", [services.get_token, services.create_token, services.forget_token])
def test_visitor_of_another_type_is_a_type_error(function: Callable[..., object]) -> None:
    """An e-mail address is no visitor."""
    with pytest.raises(TypeError, match=r"hubspot_identify\.visitors\.Visitor"):
        function("ada@example.com")


@pytest.mark.parametrize(("wait", "error"), [(-1, ValueError), (math.inf, ValueError), (True, TypeError)])
def test_invalid_wait_is_an_error(wait: float, error: type[Exception]) -> None:
    """It is raised for every visitor, anonymous ones included, and whatever is cached."""
    with pytest.raises(error, match=r"\bwait\b"):
        services.get_token(ADA, wait=wait)
    with pytest.raises(error, match=r"\bwait\b"):
        services.identify(request_of(None), wait=wait)


def test_unknown_account_is_an_error() -> None:
    """The error names the account."""
    with pytest.raises(UnknownAccountError, match="nowhere"):
        services.get_token(ADA, account="nowhere")


def test_identify_returns_what_the_endpoint_responds(hubspot: TokenServer) -> None:
    """Without a token the identity is pending; then it has the token. Anonymous visitors have none."""
    name = get_account().subject(ADA)
    assert services.identify(request_of()) == services.Identification(name, None, pending=True)
    wait_for_workers()
    found = services.identify(request_of())
    assert found.as_dict() == {"subject": name, "identity": found.identity}
    assert found.identity is not None
    assert found.identity["email"] == ADA.email == email_of(found.identity["token"])
    assert EXPIRE_AFTER - 60 < found.identity["expires_in"] <= EXPIRE_AFTER
    assert not found.pending
    assert services.identify(request_of(None)) is identification.ANONYMOUS
    assert "ada@" not in repr(found)


def test_identify_waits_as_long_as_inline_pages_do(hubspot: TokenServer, settings: Settings) -> None:
    """By default it waits ``PAGE_WAIT`` if pages contain the identity, and otherwise not at all."""
    configure(settings, DELIVERY="inline", PAGE_WAIT=10, TIMEOUT=GENEROUS_TIMEOUT)
    assert services.identify(request_of()).identity is not None
    wait_for_workers()
    configure(settings, DELIVERY=None)
    assert services.identify(request_of("eve@example.com")).identity is None
    wait_for_workers()
    assert services.identify(request_of("joe@example.com"), wait=GENEROUS_TIMEOUT).identity is not None


# What runs in the thread of the request


@pytest.fixture
def connecting_threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of the thread for each connection that is opened and each host name that is resolved."""
    threads: list[str] = []

    def recording(function: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any, **options: Any) -> Any:
            threads.append(threading.current_thread().name)
            return function(*args, **options)

        return record

    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, recording(getattr(owner, name)))
    return threads


def test_endpoint_makes_one_cache_operation(
    hubspot: TokenServer, faulty_cache: type[FaultyCache], connecting_threads: list[str]
) -> None:
    """With and without a cached token, its thread reads the cache once and opens no connection."""
    main = threading.current_thread().name
    without_token = views.identity(request_of())
    assert (without_token.status_code, faulty_cache.count(main)) == (202, 1)
    assert main not in connecting_threads
    wait_for_workers()
    assert "hubspot-identify" in connecting_threads
    with_token = views.identity(request_of())
    assert (with_token.status_code, faulty_cache.count(main)) == (200, 2)
    assert ADA.email in with_token.content.decode()
    assert main not in connecting_threads


def test_endpoint_never_waits_for_hubspot(hubspot: TokenServer) -> None:
    """It responds at once while HubSpot hangs and all workers are busy."""
    hubspot.set_scenario("hang")

    def attempt() -> None:
        started = time.monotonic()
        statuses = [views.identity(request_of(f"{uuid.uuid4()}@example.com")).status_code for _ in range(20)]
        assert time.monotonic() - started < SLACK
        assert statuses == [202] * 20

    once_in_time(attempt)
    assert hubspot.wait_for_calls(SLOTS)


class Untouchable:
    """An object that must not be accessed."""

    def __getattr__(self, name: str) -> object:
        pytest.fail(f"{name} was accessed")


def test_deferred_tag_accesses_nothing(faulty_cache: type[FaultyCache], connecting_threads: list[str]) -> None:
    """It needs no cache, user, session or connection."""
    request: Any = RequestFactory().get("/")
    request.user = request.session = Untouchable()
    assert "data-endpoint" in widget.render_script(request)
    assert (faulty_cache.asked, connecting_threads) == ([], [])


def test_inline_tag_makes_one_cache_operation(
    hubspot: TokenServer, faulty_cache: type[FaultyCache], settings: Settings, connecting_threads: list[str]
) -> None:
    """Without a cached token it waits for the worker, so the first page already contains the identity."""
    configure(settings, DELIVERY="inline", PAGE_WAIT=5)
    main = threading.current_thread().name
    for pages in (1, 2):
        assert ADA.email in widget.render_script(request_of())
        wait_for_workers()
        assert faulty_cache.count(main) == pages
    assert main not in connecting_threads
    assert hubspot.calls == 1


def test_inline_page_waits_no_longer_than_page_wait(hubspot: TokenServer, settings: Settings) -> None:
    """With ``PAGE_WAIT`` 0 it does not wait at all."""
    hubspot.set_scenario("held")

    def attempt() -> None:
        started = time.monotonic()
        assert "data-identity" not in widget.render_script(request_of())
        assert page_wait <= time.monotonic() - started < page_wait + SLACK

    for page_wait in (0.1, 0):
        configure(settings, DELIVERY="inline", PAGE_WAIT=page_wait, TIMEOUT=GENEROUS_TIMEOUT)
        once_in_time(attempt)
    hubspot.release()


# Deadlines


@pytest.fixture
def silent_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A resolver of host names that does not answer until the event is set, at the latest when the test ends."""
    answer = threading.Event()
    look_up = socket.getaddrinfo

    def silent(*args: Any, **options: Any) -> Any:
        answer.wait(GENEROUS_TIMEOUT)
        return look_up(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    yield answer
    answer.set()


def seconds_without_token(call: Callable[[], object]) -> float:
    """Return how long a call takes that returns no token or raises."""
    started = time.monotonic()
    with contextlib.suppress(HubSpotIdentifyError):
        assert call() is None
    return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    ["unconnectable", "silent resolver", "tls", "hang", "drip_headers", "drip_body", "drip_to_close", "endless_body"],
)
def test_waiters_are_released_in_time_whatever_hubspot_does(
    hubspot: TokenServer, settings: Settings, scenario: Any, request: pytest.FixtureRequest
) -> None:
    """Each caller waits no longer than its own limit, and at the deadline all worker slots are free again."""
    if scenario == "silent resolver":
        request.getfixturevalue("silent_resolver")
    elif scenario == "tls":
        configure(settings, BASE_URL=hubspot.https_url)
        hubspot.set_scenario("hang")
    else:
        hubspot.set_scenario(scenario)
    configure(settings, TIMEOUT=0.3)
    numbers = itertools.count()

    def attempt() -> None:
        other = Visitor(f"other{next(numbers)}@example.com")  # another one each time, since failures are recorded
        calls = [lambda: services.create_token(ADA), lambda: services.get_token(other, wait=0.1)]
        with ThreadPoolExecutor(2) as pool:
            create, get = pool.map(seconds_without_token, calls)
        assert create < 0.3 + SLACK
        assert get < 0.1 + SLACK

    once_in_time(attempt)
    deadlines = [job.deadline for job in get_workers()._jobs]
    time.sleep(max([0.0, *(deadline - time.monotonic() for deadline in deadlines)]))
    jobs = [get_workers().submit(TaskJob(f"job {number}", lambda *_: None)) for number in range(SLOTS)]
    assert [job.wait(GENEROUS_TIMEOUT) for job in jobs if job] == [None] * SLOTS
    if scenario == "tls":
        # Before the server resets its connections: Python does not close a socket whose handshake has not begun.
        wait_for_workers()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["hang", "drip_headers", "drip_body"])
def test_hanging_calls_are_aborted_so_that_the_process_recovers(
    hubspot: TokenServer, settings: Settings, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that would never end by themselves end some time after their deadline."""
    monkeypatch.setattr(workers_module, "MAX_ABANDONED_THREADS", 3)
    monkeypatch.setattr(workers_module, "ABORT_AFTER", 0.5)
    hubspot.set_scenario(scenario)
    configure(settings, TIMEOUT=0.1)
    for number in range(5):
        with pytest.raises(TransportError):
            services.create_token(Visitor(f"visitor{number}@example.com"))
    hubspot.set_scenario("healthy")
    configure(settings, TIMEOUT=GENEROUS_TIMEOUT)
    until = time.monotonic() + GENEROUS_TIMEOUT
    token = None
    while token is None and time.monotonic() < until:  # the worker slots may still be in use
        time.sleep(0.01)
        token = services.get_token(ADA, wait=GENEROUS_TIMEOUT)
    assert token is not None


@pytest.mark.slow
def test_silent_resolver_blocks_a_limited_number_of_threads(
    silent_resolver: threading.Event, hubspot: TokenServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These cannot be aborted. No further call is started, and the process recovers when the resolver answers."""
    limit = 3
    monkeypatch.setattr(workers_module, "MAX_ABANDONED_THREADS", limit)
    configure(settings, TIMEOUT=0.1)
    for number in range(limit + 2):
        with pytest.raises(TransportError):
            services.create_token(Visitor(f"visitor{number}@example.com"))
    threads = [thread for thread in threading.enumerate() if thread.name == "hubspot-identify"]
    assert len(threads) == limit
    configure(settings, TIMEOUT=3.0)
    assert services.get_token(ADA, wait=0.1) is None
    silent_resolver.set()
    wait_for_workers()
    assert email_of(cached_token().value) == ADA.email


def test_create_token_waits_for_a_free_worker(hubspot: TokenServer, settings: Settings) -> None:
    """If none becomes free within ``TIMEOUT``, it raises an error and makes no call."""
    hubspot.set_scenario("held")
    for number in range(SLOTS):
        services.get_token(Visitor(f"visitor{number}@example.com"))
    configure(settings, TIMEOUT=0.1)
    with pytest.raises(TransportError):
        services.create_token(ADA)
    configure(settings, TIMEOUT=GENEROUS_TIMEOUT)
    threading.Timer(0.05, hubspot.release).start()
    assert services.create_token(ADA)
    assert hubspot.calls == SLOTS + 1


EXITING_PROGRAM = """
    import atexit, sys
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY="only-for-tests",
        INSTALLED_APPS=["hubspot_identify"],
        CACHES={"default": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": sys.argv[2]}},
        HUBSPOT_IDENTIFY={
            "API_KEY": "key", "BASE_URL": sys.argv[1], "EMAIL_VERIFIED": True, "TIMEOUT": float(sys.argv[3])
        },
    )
    atexit.register(print, "exits", flush=True)  # registered before the app's function, so that it runs afterwards
    django.setup()
    from hubspot_identify import services
    from hubspot_identify._tokens import workers
    from hubspot_identify.visitors import Visitor

    workers.EXIT_WAIT = float(sys.argv[4])
    token = services.get_token(Visitor("ada@example.com"))
    print(token and token.value, flush=True)
    input()
    atexit.register(print, "waits", flush=True)  # registered last, so that it runs first
"""


def exiting_program(server: TokenServer, directory: Path, *, timeout: float, exit_wait: float) -> subprocess.Popen[str]:
    """Start a program that schedules a fetch, prints the cached token, and exits after a line on its input."""
    arguments = [server.url, str(directory), str(timeout), str(exit_wait)]
    command = [sys.executable, "-c", textwrap.dedent(EXITING_PROGRAM), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_process_that_exits_finishes_its_call(token_server: TokenServer, tmp_path: Path) -> None:
    """A reload loses no token: the next process finds the token whose call was running when the first one exited."""
    token_server.set_scenario("held")
    with exiting_program(token_server, tmp_path, timeout=30, exit_wait=GENEROUS_TIMEOUT) as process:
        assert token_server.wait_for_calls(1, timeout=GENEROUS_TIMEOUT)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert [process.stdout.readline() for _ in range(2)] == ["None\n", "waits\n"]
        token_server.release()
        assert process.communicate(timeout=GENEROUS_TIMEOUT)[0] == "exits\n"
    assert process.returncode == 0
    with exiting_program(token_server, tmp_path, timeout=30, exit_wait=0) as process:
        output, _ = process.communicate("\n", timeout=GENEROUS_TIMEOUT)
    assert token_server.emails_by_token()[output.split()[0]] == "ada@example.com"
    assert token_server.calls == 1


@pytest.mark.slow
def test_interpreter_exits_while_a_call_hangs(token_server: TokenServer, tmp_path: Path) -> None:
    """The exit does not wait for the call's deadline, so that HubSpot does not delay a deployment."""
    token_server.set_scenario("drip_body")
    with exiting_program(token_server, tmp_path, timeout=30, exit_wait=workers_module.EXIT_WAIT) as process:
        assert token_server.wait_for_calls(1, timeout=GENEROUS_TIMEOUT)
        started = time.monotonic()
        output, _ = process.communicate("\n", timeout=GENEROUS_TIMEOUT)
    assert output.split() == ["None", "waits", "exits"]
    assert process.returncode == 0
    assert time.monotonic() - started < 15


# Each visitor's own token


def test_changed_account_never_uses_the_old_token(hubspot: TokenServer, settings: Settings) -> None:
    """With another key, portal, path or server, the token in the cache is a miss."""
    changes = (
        {"API_KEY": "another-key"},
        {"PORTAL_ID": "124"},
        {"TOKEN_PATH": "/visitor-identification/2026-09/tokens/create"},
        {"BASE_URL": f"http://localhost:{hubspot.port}"},
    )
    tokens = [cached_token().value]
    for number, changed in enumerate(changes, 1):
        configure(settings, **changed)
        assert services.get_token(ADA) is None
        wait_for_workers()
        tokens.append(cached_token().value)
        assert (len(set(tokens)), hubspot.calls) == (number + 1, number + 1)


def test_simultaneous_visitors_get_their_own_tokens(hubspot: TokenServer) -> None:
    """Many visitors share few workers, and each token was created for the address of the visitor who gets it."""
    visitors = [Visitor(f"visitor{number}@example.com") for number in range(30)]

    def fetch(visitor: Visitor) -> tuple[Visitor, VisitorToken | None]:
        return visitor, services.get_token(visitor, wait=GENEROUS_TIMEOUT)

    results: list[tuple[Visitor, VisitorToken | None]] = []
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            results += pool.map(fetch, visitors)
            wait_for_workers()
    emails = hubspot.emails_by_token()
    pairs = [(visitor.email, emails[token.value]) for visitor, token in results if token]
    assert len(pairs) > 5
    assert [email for email, _ in pairs] == [email for _, email in pairs]


def test_changed_names_are_refreshed_in_the_background_once_in_ten_minutes(hubspot: TokenServer) -> None:
    """A visitor cannot use up the site's calls by editing a profile again and again."""
    with time_machine.travel(NOW, tick=False) as traveller:
        old = cached_token()
        for seconds in range(0, int(2.5 * CHANGE_AFTER), 60):
            traveller.move_to(NOW + seconds)
            token = services.get_token(Visitor(ADA.email, f"Name {seconds}"))
            assert token is not None
            wait_for_workers()
        assert hubspot.calls == 3
        assert services.get_token(ADA) != old


def test_changing_callable_key_does_not_invalidate_tokens(hubspot: TokenServer, settings: Settings) -> None:
    """An OAuth token changes every half hour. On no page view of a day is the identity missing."""
    keys: list[str] = []

    def key() -> str:
        keys.append(f"key-{int(time.time() // 1800)}")
        return keys[-1]

    configure(settings, API_KEY=key)
    with time_machine.travel(NOW, tick=False) as traveller:
        cached_token()
        for _ in range(48):
            traveller.shift(1800)
            assert services.get_token(ADA) is not None
            wait_for_workers()
    assert len(set(keys)) == len(keys) == hubspot.calls
    assert 3 <= hubspot.calls <= 5
    sent = [request.headers["Authorization"] for request in hubspot.requests()]
    assert sent == [f"Bearer {key}" for key in keys]


def test_callable_key_is_called_only_on_a_worker(hubspot: TokenServer, settings: Settings) -> None:
    """It may be slow or raise without an effect on pages."""
    threads: list[str] = []

    def key() -> str:
        threads.append(threading.current_thread().name)
        raise OSError("the vault is sealed: s3cret")

    configure(settings, API_KEY=key)
    assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is None
    assert set(threads) == {"hubspot-identify"}
    assert hubspot.calls == 0


@pytest.mark.parametrize(
    "value",
    [
        {"token": "someone-elses"},
        Entry("a b", NOW, 0.0, ""),
        Entry("expired", NOW - EXPIRE_AFTER, 0.0, ""),
        Entry("future", NOW + 3600, 0.0, ""),
    ],
)
def test_unexpected_cache_entry_is_a_miss(hubspot: TokenServer, value: object) -> None:
    """The visitor gets a new token, which replaces the entry."""
    with time_machine.travel(NOW, tick=False):
        key = get_account().entry_key(ADA)
        cache.set(key, value.as_primitives(key) if isinstance(value, Entry) else value)
        assert services.get_token(ADA) is None
        wait_for_workers()
        token = services.get_token(ADA)
    assert token is not None
    assert hubspot.emails_by_token() == {token.value: ADA.email}


# Ages of tokens


def test_token_due_for_renewal_is_served_while_one_job_renews_it(hubspot: TokenServer) -> None:
    """However many pages request it, HubSpot is called once and no page waits."""
    with time_machine.travel(NOW, tick=False) as traveller:
        old = cached_token()
        traveller.shift(OLD)
        hubspot.set_scenario("held")
        assert {services.get_token(ADA, wait=GENEROUS_TIMEOUT) for _ in range(20)} == {old}
        hubspot.release()
        wait_for_workers()
        new = services.get_token(ADA)
        assert new is not None
        assert (new.created_at, hubspot.calls) == (NOW + OLD, 2)


def test_expired_token_is_never_returned(hubspot: TokenServer) -> None:
    """A second before it expires it is still used. After that there is none, also if HubSpot fails."""
    with time_machine.travel(NOW, tick=False) as traveller:
        cached_token()
        hubspot.answer(500)
        traveller.shift(EXPIRE_AFTER - 1)
        last = services.identify(request_of()).identity
        assert last is not None
        assert last["expires_in"] == 1
        wait_for_workers()
        traveller.shift(1)
        assert services.get_token(ADA, wait=0.1) is None


@pytest.mark.slow
def test_active_visitor_stays_identified_through_three_hours_without_hubspot(hubspot: TokenServer) -> None:
    """Every page view before, during and after the outage has a token, and HubSpot gets few calls."""
    start = NOW + RENEW_AFTER * (1 - RENEW_SPREAD) - HOUR / 2  # before any token is due
    end = start + 3 * HOUR
    views = missing = calls = 0
    with time_machine.travel(NOW, tick=False) as traveller:
        cached_token()
        while time.time() < end + 2.5 * HOUR:
            traveller.shift(600)
            if start <= time.time() < start + 600:
                hubspot.answer(503)
                calls = hubspot.calls
            elif end <= time.time() < end + 600:
                calls = hubspot.calls - calls
                hubspot.set_scenario("healthy")
            views += 1
            missing += services.get_token(ADA) is None
            wait_for_workers()
        new = services.get_token(ADA)
    assert views > 60
    assert missing == 0
    assert calls <= 18  # at most one for each page view
    assert new is not None
    assert new.created_at >= end


# Failures of the cache


@pytest.fixture
def store_seconds_ahead(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds by which the store's clock is ahead of the real one."""
    ahead = [0.0]
    monkeypatch.setattr(store_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))
    return ahead


def test_page_is_kept_out_of_page_caches_even_if_a_callable_raises(hubspot: TokenServer, settings: Settings) -> None:
    """The view may catch the exception and render a page that depends on the visitor."""

    def failing_visitor(user: object, request: object) -> Visitor:
        raise LookupError("VISITOR")

    configure(settings, VISITOR=failing_visitor)
    settings.DEBUG = True
    request = request_of()
    with pytest.raises(LookupError):
        services.identify(request)
    assert request._cache_update_cache is False


@pytest.mark.parametrize(
    ("operation", "failure"),
    [
        ("get", "raises"),
        ("set", "raises"),
        ("add", "raises"),
        ("incr", "raises"),
        ("*", "raises"),
        ("*", "hangs"),
        ("get", "garbage"),
        ("add", "garbage"),
        ("*", "garbage"),
    ],
)
def test_failing_cache_operation_does_not_fail_the_endpoint(
    hubspot: TokenServer,
    faulty_cache: type[FaultyCache],
    store_seconds_ahead: list[float],
    operation: str,
    failure: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The endpoint responds, keeps the token that was fetched, calls HubSpot once and logs at most one line."""

    def hang(*_: object, **__: object) -> None:
        store_seconds_ahead[0] += 5
        raise TimeoutError

    def garbage(*_: object, **__: object) -> object:
        return {"token": ["no", "token"], "created_at": object()}

    faulty_cache.instead[operation] = {"raises": refused, "hangs": hang, "garbage": garbage}[failure]
    assert views.identity(request_of()).status_code == 202
    wait_for_workers()
    responses = [views.identity(request_of()) for _ in range(3)]
    wait_for_workers()
    if failure != "garbage" or operation == "add":  # otherwise the cache loses tokens without an error
        assert [response.status_code for response in responses] == [200] * 3
        assert all(ADA.email in response.content.decode() for response in responses)
        assert hubspot.calls == 1
    assert {response.status_code for response in responses} <= {200, 202}
    assert hubspot.calls <= 2
    is_noticed = failure != "garbage" or operation == "*"
    assert len(caplog.records) == is_noticed


def test_recovered_cache_is_used_again(
    hubspot: TokenServer, faulty_cache: type[FaultyCache], store_seconds_ahead: list[float]
) -> None:
    """It is used again after five seconds, and what this process stored in the meantime is still available."""
    faulty_cache.instead["*"] = refused
    token = cached_token()
    faulty_cache.reset()
    store_seconds_ahead[0] += 6
    assert services.get_token(ADA) == token
    assert faulty_cache.count() == 1
    assert hubspot.calls == 1


def test_without_a_cache_there_is_one_call_a_second(
    hubspot: TokenServer, faulty_cache: type[FaultyCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many visitors at the same time cause a single call while the cache is unavailable."""
    faulty_cache.instead["*"] = refused
    monkeypatch.setattr(store_module, "time", Clock())
    with time_machine.travel(NOW, tick=False):
        for number in range(20):
            services.get_token(Visitor(f"visitor{number}@example.com"))
            wait_for_workers()
    assert hubspot.calls == 1


# Accounts


def test_accounts_share_only_the_workers(token_server_process: TokenServerProcess, settings: Settings) -> None:
    """Each of two portals of a site has its own tokens, keys and circuit breaker."""
    us, eu = token_server_process.open(), token_server_process.open()
    try:
        configure(
            settings, BASE_URL=us.url, ACCOUNTS={"eu": {"BASE_URL": eu.url, "PORTAL_ID": "9", "API_KEY": "eu-key"}}
        )
        token = cached_token()
        assert services.get_token(ADA, account="eu") is None
        wait_for_workers()
        other = cached_token(ADA, "eu")
        assert (token.value in us.emails_by_token(), other.value in eu.emails_by_token()) == (True, True)
        eu.reject_key()
        assert services.get_token(EVE, wait=GENEROUS_TIMEOUT, account="eu") is None
        wait_for_workers()
        assert cached_token(EVE).value in us.emails_by_token()
        services.forget_token(ADA, account="eu")
        assert services.get_token(ADA) == token
        assert {request.headers["Authorization"] for request in eu.requests()} == {"Bearer eu-key"}
    finally:
        us.close()
        eu.close()
