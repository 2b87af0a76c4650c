"""What test suites of sites get: tokens without network, every failure at hand, and no call that goes unseen."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client
from pytest_django import Settings
from support.server import TokenServer

from hubspot_identify import exceptions, services, testing
from hubspot_identify.background import Workers, get_workers
from hubspot_identify.conf import get_config
from hubspot_identify.testing import FAILURES, UnmockedCallError, fake_hubspot, no_hubspot
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com", "Ada", "Lovelace", context=(("plan", "pro"),))


@pytest.fixture
def browser(db: None, client: Client) -> Client:
    """Ada's, logged in."""
    client.force_login(User.objects.create_user("ada", "ada@example.com", first_name="Ada", last_name="Lovelace"))
    return client


def test_a_logged_in_user_is_identified(browser: Client) -> None:
    """The browser of a logged-in user learns the identity, and the fake knows for whom the token was."""
    with fake_hubspot() as hubspot:
        identity = hubspot.identity_of(browser)
    assert identity is not None
    assert identity["email"] == hubspot.tokens[identity["token"]] == "ada@example.com"
    assert (hubspot.identified, hubspot.visitors[0].first_name, hubspot.calls) == (["ada@example.com"], "Ada", 1)


def test_a_second_look_comes_from_the_cache(settings: Settings, browser: Client) -> None:
    """Cache entries work as ever, one for each account, and each call is recorded with all that HubSpot is told."""
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
    ("values", "complaint"),
    [
        ("key", r"HUBSPOT_IDENTIFY is a str: write a dict"),
        ({"ACCOUNTS": ["eu"]}, r"\['ACCOUNTS'\] is a list: write a dict"),
        ({"ACCOUNTS": {"eu": "key"}}, r"\['ACCOUNTS'\]\['eu'\] is a str: write a dict"),
    ],
)
def test_wrong_settings_are_told_as_ever(settings: Settings, values: object, complaint: str) -> None:
    """What the fake adds to the settings does not come between a mistake in them and its explanation."""
    settings.HUBSPOT_IDENTIFY = values
    with ExitStack() as stack, pytest.raises(exceptions.ConfigurationError, match=complaint):
        stack.enter_context(fake_hubspot())


def test_nobody_is_identified(client: Client) -> None:
    """An anonymous visitor stays one, without any call."""
    with fake_hubspot() as hubspot:
        assert hubspot.identity_of(client) is None
    assert hubspot.calls == 0


@pytest.mark.parametrize("source", [None, {"ENABLED": False}, {"API_KEY": "", "ENABLED": False}])
def test_the_fake_needs_no_settings(settings: Settings, source: object) -> None:
    """A suite that has the chat switched off, or no settings for it, has it on within the fake, and only there."""
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


def test_missing_email_verified_is_left_to_allauth(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With django-allauth its record decides in the tests, too."""
    monkeypatch.setattr("hubspot_identify.testing.apps.is_installed", lambda name: True)
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    with fake_hubspot():
        assert get_config().email_verified is None


def test_missing_email_verified_fails_the_tests_of_an_enabled_chat(settings: Settings, browser: Client) -> None:
    """The error that the endpoint only logs is raised, so that no test passes because of it."""
    settings.HUBSPOT_IDENTIFY = {"API_KEY": "key-of-the-site"}
    with fake_hubspot() as hubspot, pytest.raises(exceptions.ConfigurationError):
        hubspot.identity_of(browser)


def test_response_503_of_the_site_itself_is_no_configuration_error(settings: Settings, client: Client) -> None:
    """A response of a middleware of the site is not mistaken for wrong settings."""
    settings.MIDDLEWARE = [f"{__name__}.maintenance"]
    with fake_hubspot() as hubspot:
        assert hubspot.identity_of(client) is None


def maintenance(get_response: object) -> Callable[[HttpRequest], HttpResponse]:
    return lambda request: JsonResponse({"identity": None}, status=503)


def test_callables_of_the_site_still_decide(settings: Settings, browser: Client) -> None:
    """The fake switches on what is off, but leaves a callable alone: consent can be tested."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ENABLED": lambda request: False}
    with fake_hubspot() as hubspot:
        assert hubspot.identity_of(browser) is None
    assert hubspot.calls == 0


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_of_the_tree(failure: type[exceptions.HubSpotIdentifyError]) -> None:
    """Each error can be had, from the network up: raised by ``create_token``, and swallowed by ``get_token``."""
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


def test_no_failure_is_missing() -> None:
    """The fake knows every error that the app can raise for HubSpot's sake."""
    known = leaves(exceptions.HubSpotIdentifyError)
    assert {error for error in known if error.__module__ == exceptions.__name__} == set(FAILURES)


def test_any_status(caplog: pytest.LogCaptureFixture) -> None:
    """Statuses without an error of their own can be had as well."""
    with fake_hubspot() as hubspot:
        hubspot.fail(477)
        with pytest.raises(exceptions.UnavailableError) as caught:
            services.create_token(ADA)
    assert caught.value.status == 477


@pytest.mark.parametrize("failure", [200, ValueError, "429"])
def test_no_failure_at_all(failure: object) -> None:
    """What is no failure is a mistake in the test, and said so."""
    with fake_hubspot() as hubspot, pytest.raises(TypeError, match="pass an HTTP status from 400 to 599, or one of"):
        hubspot.fail(failure)  # type: ignore[arg-type]


def test_held_calls(browser: Client) -> None:
    """While HubSpot hangs, nobody waits and nobody is identified; let go, the token arrives."""
    with fake_hubspot() as hubspot:
        hubspot.hold()
        assert hubspot.identity_of(browser) is None
        hubspot.release()
        assert hubspot.identity_of(browser) is not None
    assert hubspot.calls == 1


def test_no_thread_outlives_the_block() -> None:
    """A call that hangs is let go at the end, its thread is waited for, and its workers are forgotten."""
    before = set(threading.enumerate())
    with fake_hubspot() as hubspot:
        hubspot.hold()
        assert services.get_token(ADA) is None
        inside = get_workers()
    assert not any(thread.join(5) for thread in set(threading.enumerate()) - before)  # on their way out of Python
    assert set(threading.enumerate()) <= before
    assert get_workers() is not inside


def test_a_thread_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's own callable that hangs is not left running behind the next test."""
    monkeypatch.setattr(testing, "GENEROUS_TIMEOUT", 0.01)
    let_go = threading.Event()

    def hang() -> str:
        let_go.wait()
        raise RuntimeError

    def hang_in_block() -> None:
        with fake_hubspot(API_KEY=hang) as hubspot:
            services.get_token(ADA)
            stuck.append(get_workers())
            with pytest.raises(AssertionError, match="did not end"):
                hubspot.settle()

    stuck: list[Workers] = []
    with pytest.raises(AssertionError, match="outlived the test"):
        hang_in_block()
    let_go.set()
    assert stuck[0].join(5)


def test_nothing_is_left_in_the_cache() -> None:
    """A token made in one block is unknown in the next, and in the site's own cache."""
    for _ in range(2):
        with fake_hubspot() as hubspot:
            assert services.get_token(ADA) is None
            hubspot.settle()
            assert services.get_token(ADA) is not None
    with no_hubspot(), pytest.raises(UnmockedCallError), no_hubspot():
        assert services.get_token(ADA) is None


def test_an_unmocked_call_is_an_error(settings: Settings) -> None:
    """Without the fake the call itself fails, saying where it went and not with which key."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "AUTH_SCHEME": "hapikey"}
    with (
        pytest.raises(UnmockedCallError, match=r"tokens/create\): use fake_hubspot\(\)") as at_the_end,
        no_hubspot(),
        pytest.raises(UnmockedCallError, match=r"^A test called https://api\.hubapi\.com/"),
    ):
        services.create_token(ADA)
    assert "key-of-the-tests" not in str(at_the_end.value)


def test_an_unmocked_call_behind_a_page_is_an_error() -> None:
    """A call that nobody waits for is found when the block ends, though ``get_token`` never raises."""
    with pytest.raises(UnmockedCallError), no_hubspot():
        assert services.get_token(ADA) is None


def test_outside_the_network_is_back(settings: Settings, token_server: TokenServer) -> None:
    """After the block the app calls what the settings say."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": token_server.url}
    with fake_hubspot():
        services.create_token(ADA)
    assert token_server.calls == 0
    services.create_token(ADA)
    assert token_server.calls == 1


def test_pytest_plugin(tmp_path: Path) -> None:
    """With the one line in a site's conftest the fixture is there, and a call without it fails the test."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["hubspot_identify.testing"]\n')
    (tmp_path / "test_site.py").write_text(
        textwrap.dedent("""
            import os
            from hubspot_identify import services
            from hubspot_identify.visitors import Visitor

            ADA = Visitor("ada@example.com")

            def test_with_fixture(hubspot):
                assert services.get_token(ADA, wait=5.0) is not None
                assert hubspot.identified == ["ada@example.com"]

            def test_without_call():
                pass

            def test_unmocked():
                assert services.get_token(ADA, wait=5.0) is None
        """)
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-c", "/dev/null"]
    run = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "--ds=settings", f"--override-ini=pythonpath={Path(__file__).parent}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    summary = run.stdout.splitlines()
    assert any(line.startswith("ERROR test_site.py::test_unmocked - hubspot_identify.testing.Unm") for line in summary)
    assert summary[-1].startswith("3 passed, 1 error in"), run.stdout + run.stderr


def test_pytest_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pytest is not installed, the context managers are there all the same."""
    monkeypatch.setitem(sys.modules, "pytest", None)
    spec = importlib.util.spec_from_file_location("hubspot_identify.without_pytest", testing.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert hasattr(module, "fake_hubspot")
    assert not hasattr(module, "hubspot")
