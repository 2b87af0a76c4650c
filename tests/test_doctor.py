"""``manage.py hubspot_doctor``: which problems it finds, what it advises, and what it never shows."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import requests
import time_machine
from django.contrib.auth.models import User
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.http import HttpResponseRedirect
from django.urls import include, path
from pytest_django import Settings
from support.app_settings import configure
from support.server import TokenServer, TokenServerProcess
from support.site import serving_site, urlconf

from hubspot_identify import csp, doctor
from hubspot_identify._hubspot import client
from hubspot_identify._tokens.account import get_account
from hubspot_identify.doctor import network
from hubspot_identify.exceptions import AuthenticationError
from hubspot_identify.management.commands.hubspot_doctor import printable
from hubspot_identify.sandbox.state import Scenario, sandbox
from hubspot_identify.visitors import Visitor

KEY = "pat-na1-secret-of-the-site"
EMAIL = "ada@example.com"
GUIDE = "https://developers.hubspot.com/docs/api-reference/conversations-visitor-identification-v3/guide"
SCOPE = "conversations.visitor_identification.tokens.create"
SITE = urlconf(
    path("hubspot/", include("hubspot_identify.urls")),
    path("sandbox/", include("hubspot_identify.sandbox.urls")),
)


@pytest.fixture(autouse=True)
def production(settings: Settings, redis_url: str, token_server: TokenServer) -> Iterator[None]:
    """A site without problems, in which each test causes one."""
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": redis_url,
            "KEY_PREFIX": uuid.uuid4().hex,
            "OPTIONS": {"socket_timeout": 5},
        }
    }
    settings.HUBSPOT_IDENTIFY = {
        "API_KEY": KEY,
        "PORTAL_ID": "123",
        "EMAIL_VERIFIED": True,
        "BASE_URL": token_server.url,
        "LOADER_URL": "/123.js",
    }
    with time_machine.travel("2026-11-22T00:00:00Z", tick=True):
        yield


@pytest.fixture(autouse=True)
def no_users(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Skip the check of the users in tests without a database."""
    if "db" not in request.fixturenames:
        monkeypatch.setattr(doctor, "check_users", lambda visitor, config: ())


def run(*arguments: str) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of the command."""
    out, err = StringIO(), StringIO()
    code: Any = 0
    try:
        call_command("hubspot_doctor", *arguments, stdout=out, stderr=err)
    except SystemExit as end:
        code = end.code
    return code, out.getvalue(), err.getvalue()


def findings(*arguments: str) -> dict[str, dict[str, Any]]:
    """Return the findings by topic, and assert that they contain no secret and agree with the exit code."""
    code, out, err = run("--json", "--email", EMAIL, *arguments)
    assert KEY not in out + err
    assert EMAIL not in out + err
    found = json.loads(out)
    failed = any(finding["level"] == "error" for finding in found["findings"])
    assert (found["ok"], code) == (not failed, int(failed))
    return {finding["topic"]: finding for finding in found["findings"]}


def levels(out: str) -> list[str]:
    """Return the levels of the findings in the command's text."""
    return re.findall(r"^ *(ok|note|warning|error)  \S", out, re.MULTILINE)


# The command's output


def test_text_for_a_site_without_problems(token_server: TokenServer) -> None:
    """The text has a line for each finding, with durations and correlation id, and the exit code is 0."""
    token_server.answer(
        200, {"token": "t"}, {"X-HubSpot-Correlation-Id": "c-1", "Date": "Sun, 22 Nov 2026 00:00:05 GMT"}
    )
    code, out, err = run()
    assert code == 0
    assert levels(out) == ["ok", "ok", "ok", "ok", "ok", "note", "ok"]
    assert all(data in out for data in ("2027-09", "/hubspot/identity/", "'default'", "RedisCache", "/123.js"))
    assert len(re.findall(r"\(\d+\.\d\s+ms\)", out)) == 2
    assert out.count(" c-1\n") == 1
    assert max(map(len, out.splitlines())) <= 78
    assert err.count("\n") == 1
    (request,) = token_server.requests()
    assert request.json() == {"email": "hubspot-doctor@example.com"}


def test_text_for_a_site_with_problems(token_server: TokenServer, settings: Settings) -> None:
    """The text has check ID, correlation id, HubSpot's message, advice and link, and the exit code is 1."""
    settings.CACHES = {"default": {**settings.CACHES["default"], "OPTIONS": {}}}
    body = {"category": "INVALID_AUTHENTICATION", "correlationId": "c-401", "message": "Expired \x1b[31m."}
    token_server.answer(401, body)
    code, out, _ = run()
    assert code == 1
    assert (levels(out)[0], levels(out)[-1]) == ("warning", "error")
    first, last = out[: out.index(" ok  ")], out[out.index(" error  ") :]
    assert "(hubspot_identify.W008)" in first
    assert re.search(r'\n {11}-> .*"socket_connect_timeout":\s+0\.5', first, re.DOTALL)
    for data in ("401", "HUBSPOT_IDENTIFY['API_KEY']", "INVALID_AUTHENTICATION"):
        assert data in last
    assert re.search(r"Expired\s+\[31m\.", last)
    assert last.count("c-401") == 1
    assert re.search(r"\n {11}-> .*\n {14}https://app\.hubspot\.com/private-apps/123\n\n1 ", last, re.DOTALL)


def test_manual_shows_a_real_run(
    settings: Settings, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample in the manual has the levels, numbers, settings, IDs and URLs of the doctor's output."""

    def data(text: str) -> tuple[list[str], list[str]]:
        words = re.sub(r"\d+\.\d\s+ms", "", text).split()
        return levels(text), [word.strip("(),.:;") for word in words if re.search(r"[\d/_]", word)]

    configure(settings, EMAIL_VERIFIED=False, PORTAL_ID="1234567", LOADER_URL=None)
    monkeypatch.setattr(requests, "get", lambda url, **options: types.SimpleNamespace(status_code=200))
    body = {
        "category": "MISSING_SCOPES",
        "correlationId": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "message": "This app has not been granted all required scopes.",
        "context": {"missingScopes": [SCOPE]},
    }
    token_server.answer(403, body)
    _, out, err = run()
    manual = (Path(__file__).parents[1] / "docs" / "doctor.rst").read_text("utf-8")
    (shown,) = re.findall(r"    \$ python manage\.py hubspot_doctor\n((?:    .*\n|\n)+)", manual)
    assert data(shown) == data(err + out)


class Terminal(StringIO):
    """A terminal that calls a function once its line has changed three times."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self._then = then

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.getvalue().count("\r") == 3:
            self._then()
        return super().write(text)


@pytest.mark.slow
def test_progress_on_a_terminal(settings: Settings, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line counts the seconds while the doctor waits for HubSpot, and is cleared afterwards."""
    configure(settings, TIMEOUT=30)
    monkeypatch.setattr(client, "READ_TIMEOUT", 30.0)
    token_server.set_scenario("held")
    terminal = Terminal(then=token_server.release)
    call_command("hubspot_doctor", stdout=StringIO(), stderr=terminal)
    start, *shown, end = terminal.getvalue().split("\r")
    seconds = [re.fullmatch(r" {11}\S.* (\d\.\d) s", line) for line in shown]
    assert (start, end) == ("", "\x1b[K")
    assert len(seconds) >= 4
    times = [float(match[1]) for match in seconds if match]
    assert len(times) == len(seconds)
    assert times[0] == 0.0
    assert times == sorted(times)
    assert times[-1] >= 0.2


@pytest.mark.skipif(sys.platform == "win32", reason="colours there depend on the terminal program")
def test_levels_are_coloured_only_on_terminals() -> None:
    """The doctor uses colours where Django's own commands do."""
    out = StringIO()
    call_command("hubspot_doctor", stdout=out, stderr=StringIO(), force_color=True)
    assert "\x1b[32;1m       ok\x1b[0m  " in out.getvalue()
    assert "\x1b" not in run()[1]


def test_output_contains_no_control_characters() -> None:
    """Escape sequences, control characters and marks that change the direction of text are replaced."""
    assert printable("a\x1b[31m\u202e\x00\nü") == "a?[31m???ü"


# HubSpot's response


@pytest.mark.parametrize(
    ("status", "body", "hints", "link"),
    [
        (401, {}, ["API_KEY"], "https://app-eu1.hubspot.com/private-apps/123"),
        (403, {"context": {"missingScopes": ["a.b"]}}, ["a.b"], "https://app-eu1.hubspot.com/private-apps/123"),
        (403, {}, [SCOPE, "Professional"], "https://app-eu1.hubspot.com/account-and-billing/123"),
        (404, {}, ["BASE_URL", "TOKEN_PATH"], GUIDE),
        (423, {}, [], "https://status.hubspot.com/"),
        (429, {}, ["RATE_LIMIT"], network.USAGE),
        (429, {"policyName": "DAILY"}, [], network.USAGE),
        (477, {}, ["REGION"], network.HOSTING),
        (500, {}, [], "https://status.hubspot.com/"),
    ],
)
def test_refusal_has_advice_and_a_link(
    settings: Settings, token_server: TokenServer, status: int, body: dict[str, Any], hints: list[str], link: str
) -> None:
    """The advice depends on the status, and links lead to the data centre of the account."""
    configure(settings, REGION="eu1", API_KEY="key-of-no-region")
    token_server.answer(status, {**body, "correlationId": "c-9"})
    token = findings()["token"]
    assert token["level"] == "error"
    assert str(status) in token["text"]
    assert token["hint"]
    assert all(hint in token["hint"] for hint in hints)
    assert (token["link"], token["correlation_id"]) == (link, "c-9")
    assert token_server.calls == 1


@pytest.mark.parametrize(
    ("scenario", "hint", "link"),
    [
        ("refused", "127.0.0.1", ""),
        ("hang", "127.0.0.1", network.STATUS),
        ("reset", "127.0.0.1", network.STATUS),
        ("html", "TOKEN_PATH", GUIDE),
    ],
)
def test_network_problem_is_found_within_the_timeout(
    settings: Settings, token_server: TokenServer, scenario: Any, hint: str, link: str
) -> None:
    """The advice depends on whether HubSpot's host can be reached and what it sends."""
    configure(settings, TIMEOUT=0.2 if scenario == "hang" else 3.0)
    token_server.set_scenario(scenario)
    token = findings()["token"]
    assert (token["level"], token["link"]) == ("error", link)
    assert hint in token["hint"]
    assert token["seconds"] < client.READ_TIMEOUT


@pytest.mark.slow
def test_sandbox_is_diagnosed_like_hubspot(settings: Settings) -> None:
    """For each way in which the sandbox can fail, there is an error with advice."""
    settings.DEBUG = True
    settings.ROOT_URLCONF = SITE
    sandbox.reset()
    sandbox.slow_seconds = sandbox.hung_seconds = 2.0
    with serving_site() as origin:
        configure(settings, BASE_URL=f"{origin}/sandbox/api", LOADER_URL=f"{origin}/sandbox/loader/123.js")
        for scenario in Scenario:
            sandbox.set_scenario(scenario)
            configure(settings, TIMEOUT=0.2 if scenario in {Scenario.SLOW, Scenario.HUNG} else 3.0)
            found = findings()
            assert found["loader"]["level"] == "ok"
            assert found["token"]["level"] == ("ok" if scenario is Scenario.HEALTHY else "error"), scenario
            assert bool(found["token"]["hint"]) is (scenario is not Scenario.HEALTHY), scenario
        sandbox.reset()  # ends the responses that hang


def test_host_that_cannot_be_resolved_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice is not that for a firewall, which names the port as well."""

    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    configure(settings, BASE_URL="https://api.hubapi.com")
    hint = findings()["token"]["hint"]
    assert "api.hubapi.com" in hint
    assert "443" not in hint


def test_proxy_in_the_environment_is_named_without_its_password(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, token_server: TokenServer
) -> None:
    """If the environment names a proxy, the advice is about the proxy's host."""
    token_server.set_scenario("refused")
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{KEY}@127.0.0.1:{token_server.port}")
    configure(settings, BASE_URL="https://api.hubapi.com")
    hint = findings()["token"]["hint"]
    assert "127.0.0.1" in hint
    assert "api.hubapi.com" not in hint


def test_failing_callable_key_is_named_without_its_exception(settings: Settings) -> None:
    """The text of the exception may contain the key."""

    def fail() -> str:
        raise RuntimeError(KEY)

    configure(settings, API_KEY=fail)
    token = findings()["token"]
    assert token["level"] == "error"
    assert "API_KEY" in token["hint"]


def test_key_in_a_response_header_is_not_shown(token_server: TokenServer) -> None:
    """A server may return the key as the correlation id."""
    token_server.answer(200, {"token": "t"}, {"X-HubSpot-Correlation-Id": KEY})
    assert findings()["token"]["correlation_id"] == ""


@pytest.mark.parametrize("date", ["Sun, 22 Nov 2026 00:05:00 GMT", "Sat, 21 Nov 2026 23:55:00 GMT"])
def test_clock_that_differs_from_hubspots_is_a_warning(token_server: TokenServer, date: str) -> None:
    """The finding says by how many seconds. A date that cannot be parsed is ignored."""
    with time_machine.travel("2026-11-22T00:00:00Z", tick=False):
        token_server.answer(200, {"token": "t"}, {"Date": date})
        clock = findings()["clock"]
        assert clock["level"] == "warning"
        assert "300 s" in clock["text"]
        token_server.answer(200, {"token": "t"}, {"Date": "now"})
        assert "clock" not in findings()


# Settings


@pytest.mark.parametrize(
    ("path", "level", "month"),
    [
        ("/visitor-identification/2026-09/tokens/create", "ok", "2028-03"),
        ("/visitor-identification/2025-06/tokens/create", "warning", "2026-12"),
        ("/tokens", "note", ""),
    ],
)
def test_api_version_whose_support_ends_soon_is_a_warning(
    settings: Settings, path: str, level: str, month: str
) -> None:
    """The finding says in which month the support ends, if the path has a version."""
    configure(settings, TOKEN_PATH=path)
    found = findings()["path"]
    assert found["level"] == level
    assert "".join(re.findall(r"\d{4}-\d{2}", found["text"])) == month


def test_key_of_another_data_centre_is_a_warning(settings: Settings) -> None:
    """A private app's key names its data centre, which REGION must match. Other keys name none."""
    assert "region" not in findings()
    configure(settings, REGION="eu1")
    region = findings()["region"]
    assert region["level"] == "warning"
    assert '"na1"' in region["hint"]
    configure(settings, API_KEY=lambda: KEY)
    assert "region" not in findings()


def test_inline_delivery_is_shown_with_its_wait(settings: Settings) -> None:
    """The finding says for how long pages wait at most."""
    configure(settings, DELIVERY="inline", PAGE_WAIT=0.5)
    assert "0.5 s" in findings()["delivery"]["text"]


def login_wall(get_response: Any) -> Any:
    """Middleware of a site that redirects every visitor to the login page."""
    return lambda request: HttpResponseRedirect("/login/")


@pytest.mark.parametrize(("delivery", "level"), [(None, "error"), ("inline", "warning")])
def test_middleware_that_responds_in_place_of_the_endpoint_is_named(
    settings: Settings, delivery: str | None, level: str
) -> None:
    """It is an error if the pages depend on the endpoint."""
    configure(settings, DELIVERY=delivery)
    assert findings()["endpoint"]["level"] == "ok"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.login_wall"]
    endpoint = findings()["endpoint"]
    assert endpoint["level"] == level
    assert f"{__name__}.login_wall" in endpoint["text"]


def test_endpoint_is_requested_at_the_given_host(settings: Settings) -> None:
    """``--host`` names another host than the first of ``ALLOWED_HOSTS``."""
    settings.ALLOWED_HOSTS = ["shop.example"]
    assert findings()["endpoint"]["level"] == "ok"
    assert findings("--host", "evil.example")["endpoint"]["level"] == "error"


@pytest.mark.parametrize(
    ("backend", "level", "name"),
    [
        ("locmem.LocMemCache", "ok", "LocMemCache"),
        ("dummy.DummyCache", "error", "DummyCache"),
        ("redis.RedisCache", "error", "ConnectionError"),
    ],
)
def test_cache_that_does_not_work_is_an_error(settings: Settings, backend: str, level: str, name: str) -> None:
    """The doctor stores a value in the cache. It does not show the cache's address, which may contain a password."""
    settings.CACHES = {
        "default": {"BACKEND": f"django.core.cache.backends.{backend}", "LOCATION": f"redis://:{KEY}@127.0.0.1:1"}
    }
    cache = findings()["cache"]
    assert cache["level"] == level
    assert "'default'" in cache["text"]
    assert name in cache["text"]


def test_nothing_is_left_in_the_cache() -> None:
    """Neither the test of the cache nor that of the token leaves a key."""
    findings()
    cache: Any = caches["default"]
    assert cache._cache.get_client().keys(f"{cache.key_prefix}*") == []


def test_open_circuit_breaker_is_shown_and_bypassed() -> None:
    """The doctor says why it opened and for how long, and calls HubSpot nevertheless."""
    account = get_account()
    rejection = AuthenticationError("no", status=401, key_rejected=True)
    account.breaker.record_failure(rejection, account.entry_key(Visitor(EMAIL)), time.time())
    found = findings()
    assert found["breaker"]["level"] == "note"
    assert re.search(r"\b(300|2\d\d) s\b", found["breaker"]["text"])
    assert "(misconfigured)" in found["breaker"]["text"]
    assert found["token"]["level"] == "ok"


COMPLETE_POLICY = {directive: ["'self'", *hosts] for directive, hosts in csp.sources("na1").items()}


@pytest.mark.parametrize(
    ("setting", "policy", "missing"),
    [
        ("CONTENT_SECURITY_POLICY", {"DIRECTIVES": COMPLETE_POLICY}, ""),
        ("SECURE_CSP", {"default-src": ["https:", "data:"]}, ""),
        ("SECURE_CSP", {"script-src": "'nonce-1' 'strict-dynamic'", "object-src": ["'none'"]}, ""),
        ("SECURE_CSP", {"frame-src": ("*.hubspot.com",)}, ""),
        ("SECURE_CSP", {**COMPLETE_POLICY, "frame-src": ["'self'"]}, "frame-src https://*.hubspot.com"),
        ("SECURE_CSP", {"default-src": ["*"]}, "img-src data:"),
    ],
)
def test_sources_missing_in_the_content_security_policy_are_listed(
    settings: Settings, setting: str, policy: dict[str, Any], missing: str
) -> None:
    """The policy is read from the setting of Django or of django-csp."""
    setattr(settings, setting, policy)
    found = findings()["csp"]
    assert found["level"] == ("warning" if missing else "ok")
    assert found["text"].endswith(missing)


@pytest.mark.parametrize("policy", ["default-src 'self'", {"DIRECTIVES": None}])
def test_policy_in_an_unknown_format_is_ignored(settings: Settings, policy: object) -> None:
    """The doctor does not guess."""
    settings.CONTENT_SECURITY_POLICY = policy
    assert "csp" not in findings()


@pytest.fixture
def loader_server(token_server_process: TokenServerProcess) -> Iterator[TokenServer]:
    """The host of the chat's script."""
    server = token_server_process.open()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("set_scenario", "level"),
    [
        (lambda server: server.answer(200, "//"), "ok"),
        (lambda server: server.answer(404), "error"),
        (lambda server: server.set_scenario("refused"), "warning"),
        (lambda server: server.set_scenario("drip_headers"), "warning"),
    ],
)
def test_loader_is_fetched(
    settings: Settings,
    loader_server: TokenServer,
    monkeypatch: pytest.MonkeyPatch,
    set_scenario: Callable[[TokenServer], None],
    level: str,
) -> None:
    """A loader that does not exist is an error, because portal or region are wrong. The key is not sent."""
    if level == "warning":
        monkeypatch.setattr(network, "CONNECT_TIMEOUT", 0.1)
        monkeypatch.setattr(network, "READ_TIMEOUT", 0.1)
    set_scenario(loader_server)
    configure(settings, LOADER_URL=f"{loader_server.url}/123.js")
    assert findings()["loader"]["level"] == level
    assert all("Authorization" not in request.headers for request in loader_server.requests())


def test_site_without_a_portal_gets_links_without_a_portal(settings: Settings, token_server: TokenServer) -> None:
    """Its pages must contain HubSpot's embed code, which is noted. Links lead to HubSpot's choice of accounts."""
    configure(settings, PORTAL_ID=None, LOADER_URL=None)
    token_server.reject_key()
    found = findings()
    assert found["loader"]["level"] == "note"
    assert found["token"]["link"] == "https://app.hubspot.com/private-apps"


# Users


def fail(user: object, request: object) -> None:
    """A callable of the site that raises."""
    raise RuntimeError


@pytest.mark.parametrize(
    ("values", "level", "data"),
    [
        ({}, "ok", ""),
        ({"EMAIL_VERIFIED": lambda user, email: False}, "warning", ""),
        ({"EMAIL_VERIFIED": False}, "warning", "EMAIL_VERIFIED"),
        ({"VISITOR": lambda user, request: None}, "warning", "None"),
        ({"VISITOR": lambda user, request: Visitor("nonsense")}, "warning", ""),
        ({"VISITOR": fail}, "warning", "RuntimeError"),
        ({"EMAIL_VERIFIED": fail}, "warning", "RuntimeError"),
    ],
)
def test_user_who_is_not_identified_is_a_warning(
    db: None, settings: Settings, values: dict[str, Any], level: str, data: str
) -> None:
    """The users with the address given by ``--email`` are checked as far as it is possible without a request."""
    User.objects.create_user("ada", EMAIL.upper())
    configure(settings, **values)
    found = findings()["user"]
    assert found["level"] == level
    assert data in found["text"]
    assert set(re.findall("VISITOR|EMAIL_VERIFIED", found["text"])) <= set(values)


def test_users_who_share_an_address_are_listed_by_primary_key(db: None) -> None:
    """There is one finding for each user."""
    users = [User.objects.create_user(name, EMAIL) for name in ("ada", "augusta")]
    _, out, _ = run("--email", EMAIL)
    assert re.findall(r"\[(\d+)\]\n", out) == [str(user.pk) for user in users]


def test_address_without_a_user_is_a_note(db: None) -> None:
    """The token is requested nevertheless."""
    found = findings()
    assert (found["user"]["level"], found["token"]["level"]) == ("note", "ok")


def test_users_that_cannot_be_queried_are_a_note(db: None, settings: Settings) -> None:
    """On a site without Django's users, the doctor makes its other checks."""
    settings.AUTH_USER_MODEL = "nowhere.User"
    found = findings()
    assert (found["user"]["level"], found["token"]["level"]) == ("note", "ok")
    assert "ImproperlyConfigured" in found["user"]["text"]


def test_invalid_address_is_refused_and_not_quoted() -> None:
    """Nothing is checked then."""
    with pytest.raises(CommandError) as caught:
        call_command("hubspot_doctor", email="nonsense")
    assert "nonsense" not in str(caught.value)


# Configuration errors, checks and accounts


def test_configuration_error_is_found_once_and_prevents_the_call(settings: Settings, token_server: TokenServer) -> None:
    """It is a finding of the system checks, so the doctor does not add it a second time."""
    settings.HUBSPOT_IDENTIFY = {"PORTAL_ID": "123", "EMAIL_VERIFIED": True}
    found = findings()
    assert {topic: finding["level"] for topic, finding in found.items()} == {"hubspot_identify.E001": "error"}
    assert token_server.calls == 0


def test_disabled_app_is_no_error(settings: Settings, token_server: TokenServer) -> None:
    """There is nothing to check, and no token is requested."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    assert {topic: finding["level"] for topic, finding in findings().items()} == {"checks": "ok", "settings": "note"}
    code, out, _ = run()
    assert (code, levels(out)) == (0, ["ok", "note"])
    assert token_server.calls == 0


def test_warning_can_be_silenced_and_does_not_fail(settings: Settings) -> None:
    """The doctor respects ``SILENCED_SYSTEM_CHECKS``. The last line counts the warnings."""
    configure(settings, EMAIL_VERIFIED=False)
    code, out, _ = run()
    assert (code, levels(out).count("warning")) == (0, 1)
    assert re.search(r"\b1\b", out.splitlines()[-1])
    assert findings()["hubspot_identify.W014"]["level"] == "warning"
    settings.SILENCED_SYSTEM_CHECKS = ["hubspot_identify.W014"]
    assert "hubspot_identify.W014" not in findings()


def test_all_accounts_are_examined_unless_one_is_given(settings: Settings, token_server: TokenServer) -> None:
    """Each account's findings follow its name. An unknown account is an error, whose name is printed safely."""
    configure(settings, ACCOUNTS={"eu": {"DELIVERY": "inline"}})
    ours = "hubspot_identify.middleware.IdentifiedPageMiddleware"
    settings.MIDDLEWARE = [ours, *settings.MIDDLEWARE, ours]
    code, out, _ = run()
    assert (code, token_server.calls) == (0, 2)
    assert len(re.findall(r"^\S.*\beu\b", out, re.MULTILINE)) == 1
    code, out, _ = run("--account", "eu")
    assert (code, token_server.calls) == (0, 3)
    code, out, _ = run("--account", "us\x1b[31m")
    assert (code, token_server.calls) == (1, 3)
    assert "\x1b" not in out


def test_unknown_account_is_found_beside_a_configuration_error(settings: Settings) -> None:
    """The errors of the system checks do not hide it. It is listed with the accounts that exist."""
    settings.HUBSPOT_IDENTIFY = {"PORTAL_ID": "123", "ACCOUNTS": {"eu": {}}}
    found = findings("--account", "us")
    assert set(found) == {"hubspot_identify.E001", "account"}
    assert found["account"]["level"] == "error"
    assert re.search(r"'us'.*'eu'", found["account"]["text"])


def test_unexpected_exception_in_the_background_is_raised() -> None:
    """An error of the doctor itself is not hidden."""
    with pytest.raises(ZeroDivisionError):
        network.run_with_deadline(lambda: 1 / 0, 5.0)
