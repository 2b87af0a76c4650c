"""``hubspot_identify.testing``: tokens without a network, every failure, and an error for each unexpected call."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client
from django.urls import path, reverse
from django.utils.asyncio import async_unsafe
from pytest_django import Settings
from requests.adapters import HTTPAdapter
from support.clocks import GENEROUS_TIMEOUT
from support.server import TokenServer
from support.site import serving_site, urlconf

from hubspot_identify import exceptions, services, signals, testing
from hubspot_identify.conf import get_config
from hubspot_identify.testing import (
    FAILURES,
    UnmockedCallError,
    fake_hubspot,
    hubspot_sandbox,
    join_threads,
    no_hubspot,
)
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com", "Ada", "Lovelace", context=(("plan", "pro"),))


@pytest.fixture
def browser(db: None, client: Client) -> Client:
    """The browser of a logged-in user."""
    client.force_login(User.objects.create_user("ada", "ada@example.com", first_name="Ada", last_name="Lovelace"))
    return client


def test_logged_in_user_is_identified(browser: Client) -> None:
    """The endpoint returns an identity, and the fake records the visitor for whom the token was created."""
    with fake_hubspot() as hubspot:
        identity = hubspot.identity_of(browser)
    assert identity is not None
    assert identity["email"] == hubspot.tokens[identity["token"]] == "ada@example.com"
    assert (hubspot.identified, hubspot.visitors[0].first_name, hubspot.calls) == (["ada@example.com"], "Ada", 1)


def test_second_request_is_served_from_the_cache(settings: Settings, browser: Client) -> None:
    """Each account has its own cache entries, and each call is recorded with the complete visitor."""
    values = {**settings.HUBSPOT_IDENTIFY, "VISITOR": lambda user, request: ADA}
    settings.HUBSPOT_IDENTIFY = {**values, "ACCOUNTS": {"eu": {"API_KEY": "", "REGION": "eu1"}}}
    with fake_hubspot() as hubspot:
        first, second, european = (hubspot.identity_of(browser, account) for account in (None, None, "eu"))
    assert first is not None
    assert second is not None
    assert european is not None
    assert first["token"] == second["token"] != european["token"]
    assert hubspot.visitors == [ADA, ADA]


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ("key", "HUBSPOT_IDENTIFY"),
        ({"ACCOUNTS": ["eu"]}, "HUBSPOT_IDENTIFY['ACCOUNTS']"),
        ({"ACCOUNTS": {"eu": "key"}}, "HUBSPOT_IDENTIFY['ACCOUNTS']['eu']"),
    ],
)
def test_wrong_settings_raise_the_usual_error(settings: Settings, values: object, place: str) -> None:
    """The settings that the fake adds do not hide a mistake in those of the site."""
    settings.HUBSPOT_IDENTIFY = values
    with ExitStack() as stack, pytest.raises(exceptions.ConfigurationError) as caught:
        stack.enter_context(fake_hubspot())
    assert f"{place} " in caught.value.problem


@pytest.mark.parametrize("source", [None, {"ENABLED": False}, {"API_KEY": "", "ENABLED": False}])
def test_fake_needs_no_settings(settings: Settings, source: object) -> None:
    """The fake enables the chat for a test suite without settings or with a disabled chat, and restores them."""
    settings.HUBSPOT_IDENTIFY = source
    with fake_hubspot(PORTAL_ID="456"):
        assert services.create_token(ADA).value == "token-1-of-the-fake"
        assert get_config().portal_id == "456"
    assert settings.HUBSPOT_IDENTIFY is source


def test_missing_email_verified_is_true_if_the_suite_disables_the_chat(settings: Settings, browser: Client) -> None:
    """A test suite whose settings only disable the chat can still test identification."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    with fake_hubspot() as hubspot:
        assert hubspot.identity_of(browser) is not None


def test_missing_email_verified_stays_missing_with_allauth(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With django-allauth its records decide in tests as well."""
    monkeypatch.setattr("hubspot_identify.testing.apps.is_installed", lambda name: True)
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    with fake_hubspot():
        assert get_config().email_verified is None


def test_missing_email_verified_fails_the_tests_of_an_enabled_chat(settings: Settings, browser: Client) -> None:
    """The error that the endpoint only logs is raised, so that no test passes because of it."""
    settings.HUBSPOT_IDENTIFY = {"API_KEY": "key-of-the-site"}
    with fake_hubspot() as hubspot, pytest.raises(exceptions.ConfigurationError) as caught:
        hubspot.identity_of(browser)
    assert caught.value.setting == "EMAIL_VERIFIED"


def test_response_503_of_the_site_itself_is_no_configuration_error(settings: Settings, client: Client) -> None:
    """A response of the site's middleware is not mistaken for wrong settings."""
    settings.MIDDLEWARE = [f"{__name__}.maintenance"]
    with fake_hubspot() as hubspot:
        assert hubspot.identity_of(client) is None


def maintenance(get_response: object) -> Callable[[HttpRequest], HttpResponse]:
    return lambda request: JsonResponse({"identity": None}, status=503)


def test_anonymous_visitors_and_visitors_without_consent_cause_no_call(settings: Settings, browser: Client) -> None:
    """The fake does not replace a callable in ``ENABLED``, so that consent can be tested."""
    with fake_hubspot() as hubspot:
        assert hubspot.identity_of(Client()) is None
    assert hubspot.calls == 0
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ENABLED": lambda request: False}
    with fake_hubspot() as hubspot:
        assert hubspot.identity_of(browser) is None
    assert hubspot.calls == 0


@pytest.mark.parametrize("failure", FAILURES)
def test_each_error_can_be_simulated(failure: type[exceptions.HubSpotIdentifyError]) -> None:
    """``create_token()`` raises the error, and ``get_token()`` does not."""
    with fake_hubspot() as hubspot:
        hubspot.fail(failure)
        with pytest.raises(failure) as caught:
            services.create_token(ADA)
        assert type(caught.value) is failure
        assert services.get_token(ADA, wait=5.0) is None
        hubspot.recover()
        assert services.get_token(ADA, wait=5.0) is not None
    assert (hubspot.calls, hubspot.identified) == (3, ["ada@example.com"])


def leaves(error: type[Exception]) -> set[type[Exception]]:
    return set().union(*(leaves(one) for one in error.__subclasses__())) if error.__subclasses__() else {error}


def test_failures_are_all_errors_of_the_app() -> None:
    """The fake can simulate every error that the app raises because of HubSpot."""
    errors = leaves(exceptions.HubSpotIdentifyError)
    assert {error for error in errors if error.__module__ == exceptions.__name__} == set(FAILURES)


def test_other_statuses_can_be_simulated() -> None:
    """A status that has no error class of its own can be passed as a number."""
    with fake_hubspot() as hubspot:
        hubspot.fail(477)
        with pytest.raises(exceptions.UnavailableError) as caught:
            services.create_token(ADA)
    assert caught.value.status == 477


@pytest.mark.parametrize("failure", [200, ValueError])
def test_invalid_failure_raises(failure: Any) -> None:
    """A status of a success or an error of another library is a mistake in the test."""
    with fake_hubspot() as hubspot, pytest.raises(TypeError, match="400"):
        hubspot.fail(failure)


def test_caller_waits_for_a_call_that_has_just_been_released() -> None:
    """The response is not in the cache yet, so a second call would find the visitor locked."""
    with fake_hubspot() as hubspot:
        hubspot.hold()
        services.get_token(ADA)
        while not hubspot.calls:
            time.sleep(0.001)
        hubspot.release()
        token = services.get_token(ADA, wait=GENEROUS_TIMEOUT)
    assert token is not None
    assert hubspot.calls == 1


def test_held_call_returns_a_token_when_it_is_released(browser: Client) -> None:
    """While calls are held, requests return at once and visitors are not identified."""
    with fake_hubspot() as hubspot:
        hubspot.hold()
        assert hubspot.identity_of(browser) is None
        hubspot.release()
        assert hubspot.identity_of(browser) is not None
    assert hubspot.calls == 1


def test_held_calls_take_worker_slots_and_fail_after_the_timeout() -> None:
    """A test of an outage gets what the site would: a timeout for the waiting caller, and a failure on record."""
    with fake_hubspot(TIMEOUT=1.0) as hubspot:
        hubspot.hold()
        failures: list[Exception] = []
        failed = threading.Event()

        def record(error: Exception, **_: object) -> None:
            failures.append(error)
            failed.set()

        signals.token_failed.connect(record)
        with pytest.raises(exceptions.TransportError):
            services.create_token(ADA)
        assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is None
        assert failed.wait(GENEROUS_TIMEOUT)
        assert [type(error) for error in failures] == [exceptions.TransportError]
        hubspot.release()
        hubspot.settle()
        token = services.get_token(ADA)  # HubSpot's late response
    assert token is not None
    assert hubspot.calls == 2


def test_no_thread_outlives_the_block() -> None:
    """At the end of the block a held call is released, and its thread ends."""
    before = set(threading.enumerate())
    with fake_hubspot() as hubspot:
        hubspot.hold()
        assert services.get_token(ADA) is None
        threads = set(threading.enumerate()) - before
    assert threads
    for thread in threads:  # its job is done, but the thread itself may need a moment to end
        thread.join(GENEROUS_TIMEOUT)
    assert set(threading.enumerate()) <= before


def test_thread_that_does_not_end_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callable of the site that hangs does not run on during the next test."""
    monkeypatch.setattr(testing, "JOIN_TIMEOUT", 0.01)
    released = threading.Event()

    def hang() -> str:
        released.wait()
        raise RuntimeError

    def hang_in_block() -> None:
        with fake_hubspot(API_KEY=hang) as hubspot:
            hubspot.hold()
            services.get_token(ADA)
            hubspot.release()
            with pytest.raises(AssertionError):
                hubspot.settle()
            settled.append(True)

    settled: list[bool] = []
    with pytest.raises(AssertionError):
        hang_in_block()
    assert settled == [True]
    released.set()
    assert join_threads(GENEROUS_TIMEOUT)


# Where the calls are made


@pytest.fixture
def threads_of_receivers() -> Iterator[list[threading.Thread]]:
    """The threads on which the app has announced tokens and failures."""
    threads: list[threading.Thread] = []

    def record(**_: object) -> None:
        threads.append(threading.current_thread())

    signals.token_created.connect(record)
    signals.token_failed.connect(record)
    yield threads
    signals.token_created.disconnect(record)
    signals.token_failed.disconnect(record)


def test_calls_are_made_in_the_thread_of_the_test(
    monkeypatch: pytest.MonkeyPatch, browser: Client, threads_of_receivers: list[threading.Thread]
) -> None:
    """The first request gets the token or the failure. Receivers share the test's thread, and so its transaction."""
    monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail(f"{thread} was started"))
    with fake_hubspot() as hubspot:
        response = browser.get(reverse("hubspot_identify:identity"), headers={"X-HubSpot-Identify": "1"})
        assert (response.status_code, response.json()["identity"]["email"]) == (200, "ada@example.com")
        assert services.get_token(Visitor("grace@example.com")) is not None
        hubspot.fail(503)
        assert services.get_token(Visitor("eve@example.com")) is None
    assert threads_of_receivers == [threading.current_thread()] * 3


def test_clock_that_is_frozen_on_one_thread_does_not_prevent_tokens(
    monkeypatch: pytest.MonkeyPatch, browser: Client
) -> None:
    """freezegun gives the true time to functions that are called directly from a thread's start."""
    this, true_time = threading.current_thread(), time.time
    frozen = true_time() - 1e8
    monkeypatch.setattr(time, "time", lambda: frozen if threading.current_thread() is this else true_time())
    with fake_hubspot() as hubspot:
        first, second = hubspot.identity_of(browser), hubspot.identity_of(browser)
    assert first is not None
    assert first == second
    assert hubspot.calls == 1


def test_wait_ends_although_the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a frozen clock, a caller does not wait forever for a held call or for a rate limit that is reached."""
    frozen = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: frozen[0])
    monkeypatch.setattr(time, "monotonic", lambda: frozen[1])
    with fake_hubspot(RATE_LIMIT=1) as hubspot:
        hubspot.hold()
        assert services.get_token(ADA, wait=0.02) is None
        hubspot.release()
        hubspot.settle()
        tokens = [services.get_token(Visitor(f"{number}@example.com"), wait=0.02) for number in range(20)]
    assert tokens[0] is not None
    assert tokens[-1] is None


def test_libraries_that_mock_requests_do_not_prevent_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """requests-mock and httmock replace methods of ``Session``, and responses replaces ``HTTPAdapter.send``."""

    def refuse(*args: object, **options: object) -> None:
        pytest.fail("The call went through the library's mock.")

    for target, name in ((requests.Session, "send"), (requests.Session, "get_adapter"), (HTTPAdapter, "send")):
        monkeypatch.setattr(target, name, refuse)
    with fake_hubspot():
        assert services.get_token(ADA) is not None


@async_unsafe("The database cannot be used in an event loop.")
def key_from_the_database() -> str:
    return "key"


def test_calls_of_asynchronous_code_can_use_the_database() -> None:
    """Callables and receivers of the site are never called in the event loop, where Django refuses the ORM."""
    created: list[str] = []

    @async_unsafe("The database cannot be used in an event loop.")
    def record(visitor: Visitor, **_: object) -> None:
        created.append(visitor.email)

    async def main() -> tuple[object, object, object]:
        other, third = Visitor("grace@example.com"), Visitor("eve@example.com")
        return await services.aget_token(ADA), await services.acreate_token(other), services.get_token(third)

    signals.token_created.connect(record)
    with fake_hubspot(API_KEY=key_from_the_database):
        tokens = asyncio.run(main())
    assert None not in tokens
    assert created == ["ada@example.com", "eve@example.com"]


def test_cache_is_empty_after_the_block() -> None:
    """A token created in one block is neither in the next block nor in the site's own cache."""
    for _ in range(2):
        with fake_hubspot() as hubspot:
            assert services.get_token(ADA) == services.get_token(ADA) is not None
        assert hubspot.calls == 1
    with no_hubspot(), pytest.raises(UnmockedCallError), no_hubspot():
        assert services.get_token(ADA) is None


def test_unmocked_call_raises_in_the_call_and_at_the_end(settings: Settings) -> None:
    """Without the fake the call raises an error that has its URL and not the key."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "AUTH_SCHEME": "hapikey"}
    with (
        pytest.raises(UnmockedCallError) as at_the_end,
        no_hubspot(),
        pytest.raises(UnmockedCallError) as in_the_call,
    ):
        services.create_token(ADA)
    for error in (in_the_call.value, at_the_end.value):
        assert "https://api.hubapi.com/" in str(error)
        assert "tokens/create" in str(error)
        assert "key-of-the-tests" not in str(error)


def test_unmocked_call_in_the_background_raises_at_the_end() -> None:
    """The call is detected although ``get_token()`` never raises."""
    with pytest.raises(UnmockedCallError), no_hubspot():
        assert services.get_token(ADA) is None


def test_network_is_available_after_the_block(settings: Settings, token_server: TokenServer) -> None:
    """After the block the app calls the server in the settings."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": token_server.url}
    with fake_hubspot():
        services.create_token(ADA)
    assert token_server.calls == 0
    services.create_token(ADA)
    assert token_server.calls == 1


# The sandbox on a live server; the manual's example is tested in tests/browser/


@pytest.fixture
def live_site(settings: Settings) -> Iterator[str]:
    """The origin of a running site, in a suite that disables the chat. The sandbox is neither installed nor routed."""
    settings.HUBSPOT_IDENTIFY = {
        "ENABLED": False,
        "BASE_URL": "https://api.hubapi.com",
        "ACCOUNTS": {"eu": {"REGION": "eu1", "PORTAL_ID": "456", "BASE_URL": "https://api-eu1.hubapi.com"}},
    }
    settings.ROOT_URLCONF = urlconf(path("forbidden/", forbidden))
    settings.ROOT_URLCONF.handler403 = lambda request, exception: HttpResponse("the site's own page", status=403)
    with serving_site() as origin:
        yield origin


def forbidden(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


def test_sandbox_replaces_hubspot_on_a_live_server(settings: Settings, live_site: str) -> None:
    """Each account gets tokens and the loader of its portal from the sandbox, even if the suite forbids calls."""
    loaders = []
    with no_hubspot(), hubspot_sandbox(live_site, RATE_LIMIT=5) as sandbox:
        for account, region in ((None, ""), ("eu", "eu1")):
            token = services.get_token(ADA, wait=GENEROUS_TIMEOUT, account=account)
            assert token is not None
            assert sandbox.contact_for(ADA.email, token.value) is not None
            config = get_config(account)
            assert (config.rate_limit, config.region) == (5, region or "na1")
            loaders.append(config.loader)
            assert requests.get(f"{live_site}{config.loader}", timeout=GENEROUS_TIMEOUT).status_code == 200
        assert len(sandbox.calls) == 2
        assert requests.get(f"{live_site}/forbidden/", timeout=GENEROUS_TIMEOUT).text == "the site's own page"
    assert loaders == ["/sandbox/loader/123.js", "/sandbox/loader/456.js"]
    assert requests.get(f"{live_site}{loaders[0]}", timeout=GENEROUS_TIMEOUT).status_code == 404
    assert (settings.DEBUG, settings.HUBSPOT_IDENTIFY["ENABLED"], len(sandbox.calls)) == (False, False, 0)


def test_hung_sandbox_does_not_delay_pages_and_ends_with_the_block(live_site: str) -> None:
    """The app calls the sandbox on worker threads, as on the site."""
    with hubspot_sandbox(live_site) as sandbox:
        sandbox.set_scenario("hung")
        assert services.get_token(ADA) is None
    assert join_threads(0.0)
    assert sandbox.scenario == "healthy"


@pytest.mark.slow
@pytest.mark.parametrize("fixtures", ["", "unmocked_hubspot_is_an_error"])
def test_pytest_plugin(tmp_path: Path, fixtures: str) -> None:
    """With one line in a site's ``conftest.py`` the fixture exists. With one more, a call without it fails the test."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["hubspot_identify.testing"]\n')
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nusefixtures = {fixtures}\n")
    (tmp_path / "test_site.py").write_text(
        textwrap.dedent("""
            from hubspot_identify import services
            from hubspot_identify.testing import join_threads
            from hubspot_identify.visitors import Visitor

            ADA = Visitor("ada@example.com")

            def test_with_fixture(hubspot):
                assert services.get_token(ADA, wait=5.0) is not None
                assert hubspot.identified == ["ada@example.com"]

            def test_without_call():
                pass

            def test_unmocked(settings):
                settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": "http://127.0.0.1:1"}
                assert services.get_token(ADA, wait=5.0) is None
                assert join_threads(30)
        """)
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:randomly"]
    run = subprocess.run(
        [*command, "--ds=settings", f"--override-ini=pythonpath={Path(__file__).parent}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = run.stdout.splitlines()[-1]
    assert outcomes.startswith("3 passed, 1 error in" if fixtures else "3 passed in"), run.stdout + run.stderr
    assert ("UnmockedCallError" in run.stdout) == bool(fixtures)


def test_pytest_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pytest the context managers can be imported."""
    monkeypatch.setitem(sys.modules, "pytest", None)
    spec = importlib.util.spec_from_file_location("hubspot_identify.without_pytest", testing.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert hasattr(module, "fake_hubspot")
    assert not hasattr(module, "hubspot")
