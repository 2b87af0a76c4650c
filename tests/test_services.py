"""Nobody waits for HubSpot longer than said, nobody gets another's token, and every failure is survived."""

from __future__ import annotations

import contextlib
import itertools
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
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.http import HttpRequest
from django.test import RequestFactory
from pytest_django import Settings
from support.clocks import GENEROUS_TIMEOUT, SLACK, Clock, once_in_time
from support.faulty_cache import FaultyCache, refused
from support.server import Scenario, TokenServer, email_of
from support.workers import wait_for_workers

from hubspot_identify import services, views, widget
from hubspot_identify import store as store_module
from hubspot_identify.background import MAX_ABANDONED_THREADS, SLOTS, get_workers
from hubspot_identify.client import TokenClient  # loaded before any first call has to
from hubspot_identify.conf import get_config
from hubspot_identify.exceptions import (
    AuthenticationError,
    ConfigurationError,
    HubSpotIdentifyError,
    TransportError,
    UnknownAccountError,
)
from hubspot_identify.per_process import PerProcess
from hubspot_identify.tokens import (
    CHANGE_AFTER,
    DEAD_AFTER,
    HOUR,
    Entry,
    VisitorToken,
    decode_entry,
    entry_key,
    subject,
)
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com", "Ada", "Lovelace")
EVE = Visitor("eve@example.com")
NOW = 1_800_000_000.0


def change(settings: Settings, **changes: object) -> None:
    """Change some of the app's settings."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **changes}


def warm(visitor: Visitor = ADA, account: str | None = None) -> VisitorToken:
    """Have a token in the cache, and return it."""
    token = services.get_token(visitor, wait=GENEROUS_TIMEOUT, account=account)
    assert token is not None
    wait_for_workers()
    return token


def request_of(email: str | None = ADA.email) -> HttpRequest:
    """What our script sends, from somebody's session."""
    request = RequestFactory().get(
        "/hubspot/identity/", headers={"X-HubSpot-Identify": "1", "Sec-Fetch-Site": "same-origin"}
    )
    request.session = {}  # type: ignore[assignment]
    request.user = SimpleNamespace(  # type: ignore[assignment]
        pk=1 if email else None, is_authenticated=email is not None, email=email, first_name="Ada", last_name=""
    )
    return request


# The public functions


def test_create_token(hubspot: TokenServer) -> None:
    """A new token for each call, past the cache."""
    before = time.time()
    one, other = services.create_token(ADA), services.create_token(ADA)
    assert before <= one.created_at <= other.created_at <= time.time()
    assert (email_of(one.value), one.visitor, one.value == other.value) == (ADA.email, ADA, False)
    assert hubspot.calls == 2
    assert services.get_token(EVE) is None  # nothing was cached for anybody
    assert services.get_token(ADA) is None


def test_two_who_create_tokens_at_a_time(hubspot: TokenServer) -> None:
    """Two calls are two calls, and each gets the token of its own visitor, or another of the same."""
    hubspot.set_scenario("healthy", latency=0.2)
    visitors = [ADA, EVE] * 4
    with ThreadPoolExecutor(SLOTS) as pool:
        tokens = list(pool.map(services.create_token, visitors))
    assert [email_of(token.value) for token in tokens] == [visitor.email for visitor in visitors]
    assert len({token.value for token in tokens}) == hubspot.calls == len(visitors)


def test_create_token_tells_of_a_mistake_in_the_code(hubspot: TokenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is in the log; the caller gets one of the errors that the documentation names."""
    monkeypatch.setattr(TokenClient, "create_token", lambda *args: 1 / 0)
    with pytest.raises(TransportError, match=r"^The call ended with a mistake in the code around it, which the log "):
        services.create_token(ADA)


def test_create_token_passes_breaker_and_rate_window(hubspot: TokenServer, settings: Settings) -> None:
    """A command that examines the set-up, or a task that has to know, gets HubSpot's own answer each time."""
    change(settings, RATE_LIMIT=1)
    hubspot.reject_key()
    for _ in range(3):
        with pytest.raises(AuthenticationError):
            services.create_token(ADA)
    hubspot.set_scenario("healthy")
    assert services.create_token(ADA)
    assert hubspot.calls == 4


def test_get_token_makes_one_behind(hubspot: TokenServer) -> None:
    """The first caller goes without, the next has it, and HubSpot is asked once."""
    assert services.get_token(ADA) is None
    wait_for_workers()
    token = services.get_token(ADA)
    assert token is not None
    assert email_of(token.value) == ADA.email
    assert services.get_token(ADA) == token
    assert hubspot.calls == 1


def test_get_token_may_wait(hubspot: TokenServer) -> None:
    """For who asks and for everybody else who asks meanwhile."""
    hubspot.set_scenario("healthy", latency=0.1)
    with ThreadPoolExecutor(20) as pool:
        tokens = set(pool.map(lambda _: services.get_token(ADA, wait=GENEROUS_TIMEOUT), range(20)))
    assert len(tokens) == 1
    assert None not in tokens
    assert hubspot.calls == 1


def test_forget_token(hubspot: TokenServer) -> None:
    """The token is dropped, and the next is a new one."""
    token = warm()
    services.forget_token(ADA)
    cache.delete(f"{entry_key(ADA, get_config())}:lock")  # which is some seconds old by then
    assert services.get_token(ADA) is None
    wait_for_workers()
    assert warm() != token


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that failed is tried again at once."""
    monkeypatch.setattr(store_module, "PAUSE", 0.0)


@pytest.mark.usefixtures("no_pause")
def test_forgotten_token_is_not_used_by_a_process_that_kept_it(
    hubspot: TokenServer, faulty_cache: type[FaultyCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process has the token in its memory since an outage of the cache. Afterwards, another process forgets it.

    The failure of a later fetch does not bring it back either.
    """
    faulty_cache.instead["*"] = refused
    token = warm()
    faulty_cache.reset()
    assert services.get_token(ADA) == token
    with monkeypatch.context() as other_process:
        other_process.setattr(store_module, "_stores", PerProcess(dict))
        services.forget_token(ADA)
    hubspot.answer(500)
    assert services.get_token(ADA) is None
    wait_for_workers()
    assert hubspot.calls == 2
    with time_machine.travel(time.time() + 3 * HOUR):
        assert services.get_token(ADA) is None
        wait_for_workers()


@pytest.mark.parametrize("status", [400, 500])
def test_forget_token_keeps_the_record_of_a_failure(hubspot: TokenServer, status: int) -> None:
    """HubSpot is not asked sooner again, and the visitor is no probe of the circuit breaker."""
    key = entry_key(ADA, get_config())
    with time_machine.travel(NOW, tick=False):
        warm()
        hubspot.answer(status)
    with time_machine.travel(NOW + 9 * HOUR, tick=False):
        cache.delete(f"{key}:lock")
        services.get_token(ADA)
        wait_for_workers()
        before = decode_entry(cache.get(key), key, time.time())
        assert before.token is not None
        services.forget_token(ADA)
        cache.delete(f"{key}:lock")
        after = decode_entry(cache.get(key), key, time.time())
        assert (after.token, after.retry_at, after.failed_at) == (None, before.retry_at, NOW + 9 * HOUR)
        assert services.get_token(ADA) is None
        wait_for_workers()
    assert hubspot.calls == 2


def test_switched_off(hubspot: TokenServer, settings: Settings) -> None:
    """No call, no token, and who insists is told why. Nothing else need be set then."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    assert services.get_token(ADA, wait=1) is None
    services.forget_token(ADA)
    assert services.identify(request_of()) is services.NOBODY
    with pytest.raises(ConfigurationError, match="'ENABLED'] is False"):
        services.create_token(ADA)
    assert hubspot.calls == 0


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: services.get_token("ada@example.com"), TypeError, "visitor"),  # type: ignore[arg-type]
        (lambda: services.create_token(None), TypeError, "visitor"),  # type: ignore[arg-type]
        (lambda: services.forget_token(1), TypeError, "visitor"),  # type: ignore[arg-type]
        (lambda: services.get_token(ADA, wait=-1), ValueError, "wait"),
        (lambda: services.get_token(ADA, wait=math.inf), ValueError, "wait"),
        (lambda: services.get_token(ADA, wait=math.nan), ValueError, "wait"),
        (lambda: services.get_token(ADA, wait="1"), TypeError, "wait"),  # type: ignore[arg-type]
        (lambda: services.get_token(ADA, wait=True), TypeError, "wait"),
        (lambda: services.identify(request_of(None), wait=-1), ValueError, "wait"),
        (lambda: services.get_token(ADA, account="nowhere"), UnknownAccountError, "nowhere"),
    ],
)
def test_wrong_arguments_raise(call: Callable[[], object], error: type[Exception], named: str) -> None:
    """At once, for any visitor and whatever the cache holds. The error names the argument or the account."""
    with pytest.raises(error, match=named):
        call()


def test_identify_says_what_the_endpoint_would(hubspot: TokenServer) -> None:
    """First that it is worth asking again, then who it is; nobody for nobody."""
    name = subject(ADA, get_config())
    assert services.identify(request_of()) == services.Identification(name, None, pending=True)
    wait_for_workers()
    found = services.identify(request_of())
    assert found.as_dict() == {"subject": name, "identity": found.identity}
    assert found.identity is not None
    assert found.identity["email"] == ADA.email == email_of(found.identity["token"])
    assert DEAD_AFTER - 60 < found.identity["expires_in"] <= DEAD_AFTER
    assert not found.pending
    assert services.identify(request_of(None)) is services.NOBODY
    assert "ada@" not in repr(found)


def test_identify_waits_as_inline_pages_do(hubspot: TokenServer, settings: Settings) -> None:
    """``PAGE_WAIT`` where the page carries the identity, or as long as one says."""
    change(settings, DELIVERY="inline", PAGE_WAIT=10, TIMEOUT=GENEROUS_TIMEOUT)
    assert services.identify(request_of()).identity is not None
    wait_for_workers()
    change(settings, DELIVERY=None)
    assert services.identify(request_of("eve@example.com")).identity is None
    wait_for_workers()
    assert services.identify(request_of("joe@example.com"), wait=GENEROUS_TIMEOUT).identity is not None


def test_a_refused_visitor_is_not_worth_asking_for_again(hubspot: TokenServer) -> None:
    """HubSpot did not accept the data: no identity, and not pending."""
    hubspot.answer(400)
    services.identify(request_of())
    wait_for_workers()
    assert services.identify(request_of()) == services.Identification(subject(ADA, get_config()), None)
    assert hubspot.calls == 1


def test_an_open_breaker_is_not_worth_asking_again(hubspot: TokenServer) -> None:
    """For nobody, once this process knows of it."""
    hubspot.reject_key()
    services.identify(request_of())
    wait_for_workers()
    found = services.identify(request_of("eve@example.com"))
    assert (found.identity, found.pending) == (None, False)


# 1. The request thread


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each thread that opens a connection or looks up a name, as often as it does."""
    threads: list[str] = []

    def recording(function: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any, **options: Any) -> Any:
            threads.append(threading.current_thread().name)
            return function(*args, **options)

        return record

    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, recording(getattr(owner, name)))
    return threads


def ours(names: list[str]) -> int:
    return names.count(threading.current_thread().name)


def test_the_endpoint_makes_one_cache_operation(
    hubspot: TokenServer, faulty_cache: type[FaultyCache], connects: list[str]
) -> None:
    """Cold and warm, and no connection; all else is the worker's."""
    main = threading.current_thread().name
    cold = views.identity(request_of())
    assert (cold.status_code, faulty_cache.count(main)) == (202, 1)
    assert ours(connects) == 0
    wait_for_workers()
    assert "hubspot-identify" in connects
    warm = views.identity(request_of())
    assert (warm.status_code, faulty_cache.count(main)) == (200, 2)
    assert ADA.email in warm.content.decode()
    assert ours(connects) == 0


def test_the_endpoint_never_waits(hubspot: TokenServer) -> None:
    """With HubSpot hanging and all workers hanging on it, the answer comes at once."""
    hubspot.set_scenario("hang")

    def attempt() -> None:
        started = time.monotonic()
        statuses = [views.identity(request_of(f"{uuid.uuid4()}@example.com")).status_code for _ in range(20)]
        assert time.monotonic() - started < SLACK
        assert statuses == [202] * 20

    once_in_time(attempt)
    assert hubspot.wait_for_calls(SLOTS)


class Untouchable:
    """Whatever is asked of it, the test fails."""

    def __getattr__(self, name: str) -> object:
        pytest.fail(f"asked for {name}")


def test_the_deferred_tag_touches_nothing(faulty_cache: type[FaultyCache], connects: list[str]) -> None:
    """No cache, no user, no session, no connection."""
    request = RequestFactory().get("/")
    request.user = request.session = Untouchable()  # type: ignore[assignment]
    assert "data-endpoint" in widget.render_script(request)
    assert (faulty_cache.asked, connects) == ([], [])


def test_the_inline_tag_makes_one_cache_operation(
    hubspot: TokenServer, faulty_cache: type[FaultyCache], settings: Settings, connects: list[str]
) -> None:
    """Cold and warm. On a miss it waits for the worker, and the very first page carries the identity."""
    change(settings, DELIVERY="inline", PAGE_WAIT=5)
    main = threading.current_thread().name
    for pages in (1, 2):
        assert ADA.email in widget.render_script(request_of())
        wait_for_workers()
        assert faulty_cache.count(main) == pages
    assert ours(connects) == 0
    assert hubspot.calls == 1


def test_an_inline_page_waits_no_longer_than_page_wait(hubspot: TokenServer, settings: Settings) -> None:
    """And not at all where that is 0."""
    hubspot.set_scenario("held")

    def attempt() -> None:
        started = time.monotonic()
        assert "data-identity" not in widget.render_script(request_of())
        assert page_wait <= time.monotonic() - started < page_wait + SLACK

    for page_wait in (0.2, 0):
        change(settings, DELIVERY="inline", PAGE_WAIT=page_wait, TIMEOUT=GENEROUS_TIMEOUT)
        once_in_time(attempt)
    hubspot.release()


# 2. Deadlines


@pytest.fixture
def silent_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A resolver that answers nobody until the test is over, or says so."""
    answer = threading.Event()
    look_up = socket.getaddrinfo

    def silent(*args: Any, **options: Any) -> Any:
        answer.wait(GENEROUS_TIMEOUT)
        return look_up(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    yield answer
    answer.set()


MOODS: list[Scenario | str] = [
    "refused",
    "unconnectable",
    "silent resolver",
    "tls",
    "hang",
    "hang_after_headers",
    "drip_headers",
    "drip_body",
    "drip_to_close",
    "endless_body",
    "bomb",
]


def set_mood(scenario: str, server: TokenServer, settings: Settings, request: pytest.FixtureRequest) -> None:
    if scenario == "silent resolver":
        request.getfixturevalue("silent_resolver")
    elif scenario == "tls":
        change(settings, BASE_URL=server.https_url)
        server.set_scenario("hang")
    else:
        server.set_scenario(scenario)  # type: ignore[arg-type]


def timed(call: Callable[[], object]) -> float:
    """How long a call took that gives no token."""
    started = time.monotonic()
    with contextlib.suppress(HubSpotIdentifyError):
        assert call() is None
    return time.monotonic() - started


@pytest.mark.parametrize("scenario", MOODS)
def test_everybody_is_released_in_time(
    hubspot: TokenServer, settings: Settings, scenario: str, request: pytest.FixtureRequest
) -> None:
    """Whatever HubSpot does: waiters go on within their time, and at the deadline both slots are free again."""
    set_mood(scenario, hubspot, settings, request)
    change(settings, TIMEOUT=0.5)
    numbers = itertools.count()

    def attempt() -> None:
        other = Visitor(f"other{next(numbers)}@example.com")  # new each time, since a failure is remembered
        calls = [lambda: services.create_token(ADA), lambda: services.get_token(other, wait=0.2)]
        with ThreadPoolExecutor(2) as pool:
            create, get = pool.map(timed, calls)
        assert create < 0.5 + SLACK
        assert get < 0.2 + SLACK

    once_in_time(attempt)
    deadlines = [job.deadline for job in get_workers()._jobs.values()]
    time.sleep(max([0.0, *(deadline - time.monotonic() for deadline in deadlines)]))
    quick = [get_workers().submit(f"quick{number}", lambda *_: None, GENEROUS_TIMEOUT) for number in range(SLOTS)]
    assert [job.wait(GENEROUS_TIMEOUT) for job in quick if job] == [None] * SLOTS
    if scenario == "tls":
        # Before the server resets its connections: Python does not close a socket whose handshake has not begun.
        wait_for_workers()


@pytest.mark.parametrize("scenario", ["unconnectable", "hang", "drip_headers", "drip_body", "drip_to_close"])
def test_ten_hanging_calls_leave_the_process_able_to_serve(
    hubspot: TokenServer, settings: Settings, scenario: Scenario
) -> None:
    """Those that never end by themselves are aborted a few seconds after their deadline."""
    hubspot.set_scenario(scenario)
    change(settings, TIMEOUT=0.2)
    for number in range(10):
        with pytest.raises(TransportError):
            services.create_token(Visitor(f"visitor{number}@example.com"))
    hubspot.set_scenario("healthy")
    change(settings, TIMEOUT=GENEROUS_TIMEOUT)
    until = time.monotonic() + GENEROUS_TIMEOUT
    token = None
    while token is None and time.monotonic() < until:  # "not now" is an answer, and one asks again
        time.sleep(0.01)
        token = services.get_token(ADA, wait=GENEROUS_TIMEOUT)
    assert token is not None


def test_a_resolver_that_never_answers_holds_eight_threads_at_most(
    silent_resolver: threading.Event, hubspot: TokenServer, settings: Settings
) -> None:
    """Nothing can abort those. No call is started meanwhile, and the process serves again when the resolver does."""
    change(settings, TIMEOUT=0.1)
    for number in range(MAX_ABANDONED_THREADS + 2):
        with pytest.raises(TransportError):
            services.create_token(Visitor(f"visitor{number}@example.com"))
        time.sleep(0.01)  # after which the job is overdue as well, whose time began a moment later
    threads = [thread for thread in threading.enumerate() if thread.name == "hubspot-identify"]
    assert len(threads) == MAX_ABANDONED_THREADS
    change(settings, TIMEOUT=3.0)
    assert services.get_token(ADA, wait=1) is None
    silent_resolver.set()
    wait_for_workers()
    assert email_of(warm().value) == ADA.email


def test_all_workers_busy(hubspot: TokenServer, settings: Settings) -> None:
    """Who insists on a token waits for a free worker, and in the end is told that there was none."""
    hubspot.set_scenario("held")
    for number in range(SLOTS):
        services.get_token(Visitor(f"visitor{number}@example.com"))
    change(settings, TIMEOUT=0.2)
    with pytest.raises(TransportError, match="All workers were busy"):
        services.create_token(ADA)
    change(settings, TIMEOUT=GENEROUS_TIMEOUT)
    threading.Timer(0.1, hubspot.release).start()
    assert services.create_token(ADA)


@pytest.mark.parametrize("scenario", ["hang", "drip_body"])
def test_the_interpreter_exits_while_a_call_hangs(token_server: TokenServer, scenario: Scenario) -> None:
    """Within a second of what it takes without a call: a deployment does not wait for HubSpot either."""
    token_server.set_scenario(scenario)
    program = f"""
        import time
        import django
        from django.conf import settings

        settings.configure(
            SECRET_KEY="only-for-tests",
            INSTALLED_APPS=["hubspot_identify"],
            HUBSPOT_IDENTIFY={{"API_KEY": "key", "BASE_URL": "{token_server.url}", "EMAIL_VERIFIED": True}},
        )
        django.setup()
        from hubspot_identify import services
        from hubspot_identify.visitors import Visitor

        if input() == "call":
            services.get_token(Visitor("ada@example.com"))
            input()
        print(time.monotonic(), flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]

    def exit_time(do: str) -> float:
        calls = token_server.calls
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            process.stdin.write(f"{do}\n")
            process.stdin.flush()
            assert do == "nothing" or token_server.wait_for_calls(calls + 1, timeout=GENEROUS_TIMEOUT)
            output, _ = process.communicate("\n", timeout=GENEROUS_TIMEOUT)
            taken = time.monotonic() - float(output)
        assert process.returncode == 0
        return taken

    def attempt() -> None:
        assert exit_time("call") < exit_time("nothing") + 1

    once_in_time(attempt)


# 4. The right person


@pytest.mark.parametrize(
    "changes",
    [
        {"API_KEY": "another-key"},
        {"PORTAL_ID": "124"},
        {"TOKEN_PATH": "/visitor-identification/2026-09/tokens/create"},
        {"BASE_URL": "http://localhost:{port}"},
    ],
)
def test_a_changed_account_never_gets_the_old_token(
    hubspot: TokenServer, settings: Settings, changes: dict[str, str]
) -> None:
    """Another key, portal, path or server: the old token is as if it were not there."""
    old = warm()
    change(settings, **{name: value.format(port=hubspot.port) for name, value in changes.items()})
    assert services.get_token(ADA) is None
    wait_for_workers()
    new = warm()
    assert (new.value != old.value, hubspot.calls) == (True, 2)


def test_everybody_gets_their_own(hubspot: TokenServer) -> None:
    """Many visitors at once on few workers: whoever has a token has one for their own address."""
    visitors = [Visitor(f"visitor{number}@example.com") for number in range(40)]

    def ask(visitor: Visitor) -> tuple[Visitor, VisitorToken | None]:
        return visitor, services.get_token(visitor, wait=GENEROUS_TIMEOUT)

    answers = []
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            answers += pool.map(ask, visitors)
            wait_for_workers()
    made = hubspot.emails_by_token()
    got = [(visitor.email, made[token.value]) for visitor, token in answers if token]
    assert len(got) > 10
    assert [asked for asked, _ in got] == [email for _, email in got]


def test_changed_names_are_renewed_behind_the_page_once_in_ten_minutes(hubspot: TokenServer) -> None:
    """Nobody spends the site's calls by editing a profile again and again."""
    with time_machine.travel(NOW, tick=False) as traveller:
        old = warm()
        for seconds in range(0, int(2.5 * CHANGE_AFTER), 30):
            traveller.move_to(NOW + seconds)
            token = services.get_token(Visitor(ADA.email, f"Name {seconds}"))
            assert token is not None
            wait_for_workers()
        assert hubspot.calls == 3
        assert services.get_token(ADA) != old


def test_a_callable_key_may_change_without_a_cold_token(hubspot: TokenServer, settings: Settings) -> None:
    """An OAuth token that changes every half hour: a day of page views, none of them without identity."""
    keys: list[str] = []

    def key() -> str:
        keys.append(f"key-{int(time.time() // 1800)}")
        return keys[-1]

    change(settings, API_KEY=key)
    with time_machine.travel(NOW, tick=False) as traveller:
        warm()
        for _ in range(48):
            traveller.shift(1800)
            assert services.get_token(ADA) is not None
            wait_for_workers()
    assert len(set(keys)) == len(keys) == hubspot.calls
    assert 3 <= hubspot.calls <= 5
    sent = [request.headers["Authorization"] for request in hubspot.requests()]
    assert sent == [f"Bearer {key}" for key in keys]


def test_a_callable_key_is_asked_on_a_worker_only(hubspot: TokenServer, settings: Settings) -> None:
    """It may be slow, or fail, without any page noticing."""
    threads: list[str] = []
    asked = threading.Event()

    def key() -> str:
        threads.append(threading.current_thread().name)
        asked.set()
        raise OSError("the vault is sealed: s3cret")

    change(settings, API_KEY=key)
    assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is None
    assert asked.is_set()
    assert set(threads) == {"hubspot-identify"}
    assert hubspot.calls == 0


@pytest.mark.parametrize(
    "value",
    [
        "a text",
        12,
        [],
        {"token": "someone-elses"},
        Entry("a b", NOW, 0.0, ""),
        Entry("dead", NOW - DEAD_AFTER, 0.0, ""),
        Entry("future", NOW + 3600, 0.0, ""),
    ],
)
def test_a_strange_value_under_our_key_is_a_miss(hubspot: TokenServer, value: object) -> None:
    """The visitor gets a token of their own in its place."""
    with time_machine.travel(NOW, tick=False):
        key = entry_key(ADA, get_config())
        cache.set(key, value.as_primitives(key) if isinstance(value, Entry) else value)
        assert services.get_token(ADA) is None
        wait_for_workers()
        token = services.get_token(ADA)
    assert token is not None
    assert hubspot.emails_by_token() == {token.value: ADA.email}


# 6. Ages


def test_a_token_due_for_renewal_is_served_meanwhile(hubspot: TokenServer) -> None:
    """One job renews it, however many pages ask; nobody waits for it."""
    with time_machine.travel(NOW, tick=False) as traveller:
        old = warm()
        traveller.shift(9 * HOUR)
        hubspot.set_scenario("held")
        assert {services.get_token(ADA, wait=GENEROUS_TIMEOUT) for _ in range(20)} == {old}
        hubspot.release()
        wait_for_workers()
        new = services.get_token(ADA)
        assert new is not None
        assert (new.created_at, hubspot.calls) == (NOW + 9 * HOUR, 2)


def test_a_dead_token_never_leaves_the_cache_layer(hubspot: TokenServer) -> None:
    """Rather none at all."""
    with time_machine.travel(NOW, tick=False) as traveller:
        warm()
        hubspot.answer(500)
        traveller.shift(DEAD_AFTER - 1)
        last = services.identify(request_of()).identity
        assert last is not None
        assert last["expires_in"] == 1
        wait_for_workers()
        traveller.shift(1)
        assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is None


@pytest.mark.parametrize("scenario", ["refused", "answer"])
def test_three_hours_without_hubspot(hubspot: TokenServer, scenario: Scenario) -> None:
    """No view of an active visitor is without token, before, while and after; and HubSpot is left in peace."""
    start, end = NOW + 6.5 * HOUR, NOW + 9.5 * HOUR
    views = missing = calls = 0
    with time_machine.travel(NOW, tick=False) as traveller:
        warm()
        while time.time() < NOW + 12 * HOUR:
            traveller.shift(300)
            if start <= time.time() < start + 300:
                hubspot.set_scenario(scenario, status=503)
                calls = hubspot.calls
            elif end <= time.time() < end + 300:
                calls = hubspot.calls - calls
                hubspot.set_scenario("healthy")
            views += 1
            missing += services.get_token(ADA) is None
            wait_for_workers()
        new = services.get_token(ADA)
    assert (views, missing) == (144, 0)
    assert calls <= 36  # one visitor, who tries again at each view that is due
    assert new is not None
    assert new.created_at >= end


# 7. Cache trouble


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the store's clock is ahead of the real one."""
    ahead = [0.0]
    monkeypatch.setattr(store_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))
    return ahead


@pytest.mark.parametrize("trouble", ["raises", "hangs", "garbage"])
@pytest.mark.parametrize("operation", ["get", "set", "add", "incr", "delete_many", "*"])
def test_cache_trouble_is_survived(
    hubspot: TokenServer,
    faulty_cache: type[FaultyCache],
    moving: list[float],
    operation: str,
    trouble: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The page is served, no token that was fetched is lost, HubSpot is asked once, the log has few lines."""

    def hang(*_: object, **__: object) -> None:
        moving[0] += 5
        raise TimeoutError

    def garbage(*_: object, **__: object) -> object:
        return {"token": ["no", "token"], "created_at": object()}

    faulty_cache.instead[operation] = {"raises": refused, "hangs": hang, "garbage": garbage}[trouble]
    assert views.identity(request_of()).status_code == 202
    wait_for_workers()
    answers = [views.identity(request_of()) for _ in range(3)]
    wait_for_workers()
    if trouble != "garbage" or operation not in {"get", "set", "*"}:  # it said that it took what it lost
        assert [answer.status_code for answer in answers] == [200] * 3
        assert all(ADA.email in answer.content.decode() for answer in answers)
        assert hubspot.calls == 1
    assert [answer.status_code in {200, 202} for answer in answers] == [True] * 3
    assert hubspot.calls <= 2
    quiet = operation == "delete_many" or (trouble == "garbage" and operation not in {"incr", "*"})
    assert len(caplog.records) == (not quiet)


def test_the_cache_is_used_again_when_it_is_back(
    hubspot: TokenServer, faulty_cache: type[FaultyCache], moving: list[float]
) -> None:
    """After five seconds, and what this process had kept meanwhile is still there."""
    faulty_cache.instead["*"] = refused
    token = warm()
    faulty_cache.reset()
    moving[0] += 6
    assert services.get_token(ADA) == token
    assert faulty_cache.count() == 1
    assert hubspot.calls == 1


def test_without_a_cache_one_call_a_second(
    hubspot: TokenServer, faulty_cache: type[FaultyCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many visitors in a moment without a cache are one call, not many."""
    faulty_cache.instead["*"] = refused
    monkeypatch.setattr(store_module, "time", Clock())
    with time_machine.travel(NOW, tick=False):
        for number in range(20):
            services.get_token(Visitor(f"visitor{number}@example.com"))
            wait_for_workers()
    assert hubspot.calls == 1


# Accounts


def test_accounts_share_nothing_but_the_workers(token_server_process: Any, settings: Settings) -> None:
    """Two portals of one site: tokens, breakers and pauses are each their own."""
    us, eu = token_server_process.open(), token_server_process.open()
    try:
        change(settings, BASE_URL=us.url, ACCOUNTS={"eu": {"BASE_URL": eu.url, "PORTAL_ID": "9", "API_KEY": "eu-key"}})
        token = warm()
        assert services.get_token(ADA, account="eu") is None
        wait_for_workers()
        other = warm(ADA, "eu")
        assert (token.value in us.emails_by_token(), other.value in eu.emails_by_token()) == (True, True)
        eu.reject_key()
        assert services.get_token(EVE, wait=GENEROUS_TIMEOUT, account="eu") is None
        wait_for_workers()
        assert warm(EVE).value in us.emails_by_token()
        services.forget_token(ADA, account="eu")
        assert services.get_token(ADA) == token
        assert {request.headers["Authorization"] for request in eu.requests()} == {"Bearer eu-key"}
    finally:
        us.close()
        eu.close()
