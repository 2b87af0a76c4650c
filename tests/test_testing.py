"""``hubspot_identify.testing``: tokens without a network, every failure, and an error for each unexpected call."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client
from pytest_django import Settings
from support.clocks import GENEROUS_TIMEOUT
from support.server import TokenServer

from hubspot_identify import exceptions, services, testing
from hubspot_identify._tokens.workers import get_workers
from hubspot_identify.conf import get_config
from hubspot_identify.testing import FAILURES, UnmockedCallError, fake_hubspot, join_threads, no_hubspot
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


def test_held_call_returns_a_token_when_it_is_released(browser: Client) -> None:
    """While calls are held, requests return at once and visitors are not identified."""
    with fake_hubspot() as hubspot:
        hubspot.hold()
        assert hubspot.identity_of(browser) is None
        hubspot.release()
        assert hubspot.identity_of(browser) is not None
    assert hubspot.calls == 1


def test_no_thread_outlives_the_block() -> None:
    """At the end of the block a held call is released, its thread ends, and the workers are replaced."""
    before = set(threading.enumerate())
    with fake_hubspot() as hubspot:
        hubspot.hold()
        assert services.get_token(ADA) is None
        inside = get_workers()
        threads = set(threading.enumerate()) - before
    assert threads
    for thread in threads:  # its job is done, but the thread itself may need a moment to end
        thread.join(5)
    assert set(threading.enumerate()) <= before
    assert get_workers() is not inside


def test_thread_that_does_not_end_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callable of the site that hangs does not run on during the next test."""
    monkeypatch.setattr(testing, "JOIN_TIMEOUT", 0.01)
    released = threading.Event()

    def hang() -> str:
        released.wait()
        raise RuntimeError

    def hang_in_block() -> None:
        with fake_hubspot(API_KEY=hang) as hubspot:
            services.get_token(ADA)
            with pytest.raises(AssertionError):
                hubspot.settle()
            settled.append(True)

    settled: list[bool] = []
    with pytest.raises(AssertionError):
        hang_in_block()
    assert settled == [True]
    released.set()
    assert join_threads(GENEROUS_TIMEOUT)


def test_cache_is_empty_after_the_block() -> None:
    """A token created in one block is neither in the next block nor in the site's own cache."""
    for _ in range(2):
        with fake_hubspot() as hubspot:
            assert services.get_token(ADA) is None
            hubspot.settle()
            assert services.get_token(ADA) is not None
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
