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
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection
from django.http import HttpResponse, HttpResponseRedirect
from django.urls import include, path, re_path
from pytest_django import Settings
from support.app_settings import configure
from support.server import TokenServer, TokenServerProcess
from support.site import serving_site, urlconf
from users.models import WithUUID

from hubspot_identify import csp, doctor, services
from hubspot_identify._hubspot import client
from hubspot_identify._tokens.account import get_account
from hubspot_identify.conf import get_config
from hubspot_identify.doctor import network, users
from hubspot_identify.exceptions import APIError, AuthenticationError
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
        monkeypatch.setattr(doctor, "check_address", lambda visitor, config, host: ())


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
    named = () if "--user" in arguments else ("--email", EMAIL)
    code, out, err = run("--json", *named, *arguments)
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
    assert levels(out) == ["ok", "ok", "ok", "ok", "ok", "note", "note", "ok"]
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
        (400, {"message": "hsCustomerAgentContext is required"}, ["TOKEN_PATH", "VISITOR"], GUIDE),
        (404, {}, ["BASE_URL", "TOKEN_PATH"], GUIDE),
        (423, {}, [], "https://status.hubspot.com/"),
        (429, {}, ["RATE_LIMIT"], network.USAGE),
        (429, {"policyName": "DAILY"}, [], network.USAGE),
        (477, {}, ["REGION"], network.HOSTING),
        (488, {"correctHublet": "ap1"}, ["BASE_URL", "REGION"], "https://app-eu1.hubspot.com/private-apps/123"),
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
    with pytest.raises(APIError) as caught:
        services.create_token(Visitor(EMAIL))
    assert token["text"].startswith(str(caught.value))


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


@pytest.mark.parametrize(("redirects_to_https", "named"), [(True, "SECURE_SSL_REDIRECT"), (False, "BASE_URL")])
def test_redirected_call_has_advice(
    settings: Settings, token_server: TokenServer, redirects_to_https: bool, named: str
) -> None:
    """The development server redirects calls of the sandbox if the settings of production are in use."""
    settings.SECURE_SSL_REDIRECT = redirects_to_https
    token_server.set_scenario("redirect", status=301)
    assert named in findings()["token"]["hint"]


def test_stopped_development_server_is_no_firewall(settings: Settings, token_server: TokenServer) -> None:
    """The site itself serves the sandbox's API and script, so the hint is to start it."""
    configure(settings, LOADER_URL=f"{token_server.url}/123.js")
    token_server.set_scenario("refused")
    found = findings()
    assert all("Start the development server" in found[topic]["hint"] for topic in ("token", "loader"))


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
    assert f"{__name__}, line {fail.__code__.co_firstlineno + 1}" in token["text"]


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
    ("backend", "level", "data"),
    [
        ("django.core.cache.backends.locmem.LocMemCache", "ok", ["LocMemCache"]),
        ("django.core.cache.backends.dummy.DummyCache", "error", ["DummyCache"]),
        ("django.core.cache.backends.redis.RedisCache", "error", ["ConnectionError", "server"]),
        ("django.core.cache.backends.redis.Misspelt", "error", ["BACKEND"]),
        ("no_such_library.Cache", "error", ["pip install no-such-library"]),
        (f"{__name__}.CacheWithoutLibrary", "error", ["pip install no-such-library"]),
        (f"{__name__}.CacheWithoutTable", "error", ["createcachetable"]),
    ],
)
def test_cache_that_does_not_work_is_an_error(settings: Settings, backend: str, level: str, data: list[str]) -> None:
    """The doctor stores a value in the cache. If this fails, the hint depends on the cause.

    It does not show the cache's address, which may contain a password.
    """
    settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": f"redis://:{KEY}@127.0.0.1:1"}}
    found = findings()
    assert found["cache"]["level"] == level
    assert "'default'" in found["cache"]["text"]
    assert all(each in found["cache"]["text"] + found["cache"]["hint"] for each in data)
    assert ("Not all" in found["verdict"]["text"]) is (level == "error")


class CacheWithoutLibrary(LocMemCache):
    """Imports its library as Django's cache for pylibmc does."""

    def __init__(self, *args: object) -> None:
        import no_such_library  # type: ignore[import-not-found]  # noqa: F401


class CacheWithoutTable(LocMemCache):
    """Fails like a database cache whose table was not created."""

    def set(self, *args: object, **options: object) -> None:
        raise DatabaseError


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


POLICY = {"header": "", "text": ""}


def sends_policy(get_response: Any) -> Any:
    """Middleware that sends the policy of the test."""

    def middleware(request: Any) -> Any:
        response = get_response(request)
        response.headers[POLICY["header"]] = POLICY["text"]
        return response

    return middleware


SOURCES = {directive: " ".join(hosts) for directive, hosts in csp.sources("na1").items()}


def policy(**changes: str | None) -> str:
    """Return a policy that allows the chat, with some directives changed, or left out if they are ``None``."""
    complete: dict[str, str | None] = {name: f"'self' {hosts}" for name, hosts in SOURCES.items()}
    complete |= {name.replace("_", "-"): sources for name, sources in changes.items()}
    return "; ".join(f"{name} {sources}" for name, sources in complete.items() if sources is not None)


def send_policy(settings: Settings, text: str, header: str = "Content-Security-Policy") -> None:
    """Make the site send a policy."""
    POLICY.update(header=header, text=text)
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.sends_policy"]


@pytest.mark.parametrize(
    ("text", "level", "missing"),
    [
        (policy(), "ok", ""),
        ("object-src 'none'", "ok", ""),
        ("default-src https: data:", "ok", ""),
        ("default-src *; img-src * data:", "ok", ""),
        (policy(frame_src=None, child_src="*.hubspot.com"), "ok", ""),
        (policy(script_src="'none'", script_src_elem=f"testserver {SOURCES['script-src']}"), "ok", ""),
        (policy(script_src=SOURCES["script-src"]), "error", "script-src 'self'"),
        (policy(script_src="'self' 'nonce-of-another-script' 'strict-dynamic'"), "error", "script-src 'nonce-…'"),
        (policy(frame_src="'self' https://hubspot.com"), "error", "frame-src https://*.hubspot.com"),
        (policy(default_src="'self'", frame_src=None), "error", "frame-src https://*.hubspot.com"),
        (f"{policy()}, frame-src 'self'", "error", "frame-src https://*.hubspot.com"),
        (policy(style_src="'self'"), "warning", "style-src https://static.hsappstatic.net"),
        ("default-src *", "warning", "img-src data:"),
    ],
)
def test_sources_missing_in_the_content_security_policy_are_listed(
    settings: Settings, text: str, level: str, missing: str
) -> None:
    """The doctor reads the policy from the site's response. If only pictures or styles are blocked, it is a warning."""
    send_policy(settings, text)
    found = findings()
    assert found["csp"]["level"] == level
    assert found["csp"]["text"].endswith(missing)
    assert ("no chat" in found["verdict"]["text"]) is (level == "error")


def test_script_from_another_host_needs_that_host_in_the_policy(settings: Settings) -> None:
    """``'self'`` does not cover static files on a CDN."""
    settings.STATIC_URL = "https://cdn.example/static/"
    send_policy(settings, policy())
    assert findings()["csp"]["text"].endswith("script-src https://cdn.example")
    POLICY["text"] = policy(script_src=f"https://*.example {SOURCES['script-src']}")
    assert findings()["csp"]["level"] == "ok"


@pytest.mark.parametrize(("delivery", "level"), [(None, "error"), ("inline", "ok")])
def test_policy_that_blocks_the_endpoint_is_an_error(settings: Settings, delivery: str | None, level: str) -> None:
    """With deferred delivery, the script's request for the identity needs ``connect-src 'self'``."""
    configure(settings, DELIVERY=delivery)
    send_policy(settings, policy(connect_src=SOURCES["connect-src"]))
    found = findings()
    assert found["endpoint"]["level"] == level
    assert ("None of them is identified" in found["verdict"]["text"]) is (level == "error")


@pytest.mark.parametrize("hosts", [["'strict-dynamic'"], csp.sources()["script-src"]], ids=["dynamic", "hosts"])
def test_nonce_of_the_tag_allows_the_script(settings: Settings, hosts: list[str]) -> None:
    """The policy contains a nonce only in responses that use it, so the doctor creates one as the tag does."""
    constants = pytest.importorskip("csp.constants")
    directives = {name: ["'self'", *more] for name, more in csp.sources().items()}
    settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": {**directives, "script-src": [constants.NONCE, *hosts]}}
    settings.MIDDLEWARE = ["csp.middleware.CSPMiddleware", *settings.MIDDLEWARE]
    assert findings()["csp"]["level"] == "ok"


@pytest.mark.parametrize("name", ["SECURE_CSP", "CONTENT_SECURITY_POLICY", "CSP_DEFAULT_SRC"])
def test_policy_that_the_site_does_not_send_is_a_warning(settings: Settings, name: str) -> None:
    """A policy in the settings has no effect without its middleware, unless other middleware sends one."""
    assert "csp" not in findings()
    setattr(settings, name, {"DIRECTIVES": {}})
    found = findings()["csp"]
    assert found["level"] == "warning"
    assert name in found["text"]
    send_policy(settings, "default-src 'none'", "Content-Security-Policy-Report-Only")
    assert "csp" not in findings()


def test_policy_of_a_site_without_the_apps_urls_is_checked(settings: Settings) -> None:
    """The doctor then requests another page instead of the endpoint."""
    settings.ROOT_URLCONF = urlconf()
    send_policy(settings, policy(script_src="'none'"))
    assert findings()["csp"]["level"] == "error"


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
    """A loader that does not exist is an error, whose hint names the settings that are wrong. The key is not sent."""
    if level == "warning":
        monkeypatch.setattr(network, "CONNECT_TIMEOUT", 0.1)
        monkeypatch.setattr(network, "READ_TIMEOUT", 0.1)
    set_scenario(loader_server)
    configure(settings, LOADER_URL=f"{loader_server.url}/123.js?businessUnitId=456")
    loader = findings()["loader"]
    assert loader["level"] == level
    assert ("LOADER_URL" in loader["hint"]) is (level == "error")
    requests = loader_server.requests()
    assert {(each.path, each.query, "Authorization" in each.headers) for each in requests} <= {
        ("/123.js", "businessUnitId=456", False)
    }


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


def visitor_in_session(user: Any, request: Any) -> Visitor | None:
    """A ``VISITOR`` that needs a session."""
    return Visitor(user.email) if request.session.get("tenant") is None else None


@pytest.mark.parametrize(
    ("values", "level", "data"),
    [
        ({}, "ok", ""),
        ({"VISITOR": visitor_in_session}, "ok", ""),
        ({"EMAIL_VERIFIED": lambda user, email: False}, "error", "EMAIL_VERIFIED"),
        ({"EMAIL_VERIFIED": False}, "warning", "EMAIL_VERIFIED"),
        ({"VISITOR": lambda user, request: None}, "warning", "None"),
        ({"VISITOR": lambda user, request: "ada"}, "error", "str"),
        ({"VISITOR": lambda user, request: Visitor("nonsense")}, "error", ""),
        ({"VISITOR": fail}, "warning", "RuntimeError"),
        ({"EMAIL_VERIFIED": fail}, "error", "RuntimeError"),
    ],
)
def test_user_who_is_not_identified_is_reported(
    db: None, settings: Settings, values: dict[str, Any], level: str, data: str
) -> None:
    """Each user with the address is checked with a simulated request.

    If the result depends on the site's callable, which may need a complete request, the finding is a warning.
    """
    User.objects.create_user("ada", EMAIL.upper())
    configure(settings, **values)
    found = findings()
    assert found["user"]["level"] == level
    assert data in found["user"]["text"]
    assert set(re.findall("VISITOR|EMAIL_VERIFIED", found["user"]["text"])) <= set(values)
    assert ("not" in found["verdict"]["text"] or "None" in found["verdict"]["text"]) is (level != "ok")


def test_inactive_user_is_not_identified(db: None) -> None:
    """Django does not let inactive users log in."""
    User.objects.create_user("ada", EMAIL, is_active=False)
    assert findings()["user"]["level"] == "error"


@pytest.mark.parametrize(("first_name", "is_without"), [("Ada", False), ("", True)])
def test_user_who_is_identified_without_a_name_is_said_to_be(db: None, first_name: str, is_without: bool) -> None:
    """HubSpot then shows the address instead of a name."""
    User.objects.create_user("ada", EMAIL, first_name=first_name)
    assert ("without a name" in findings()["user"]["text"]) is is_without


def test_user_is_found_by_name_or_primary_key(db: None, settings: Settings, token_server: TokenServer) -> None:
    """``--user`` needs no address. The token is requested for the user's visitor, or for the default address."""
    user = User.objects.create_user("ada", EMAIL, first_name="Ada")
    for name in ("ada", str(user.pk)):
        assert findings("--user", name)["user"]["level"] == "ok"
    configure(settings, VISITOR=fail)
    assert findings("--user", "ada")["user"]["level"] == "warning"
    sent = [request.json() for request in token_server.requests()]
    identity = {"email": EMAIL, "firstName": "Ada"}
    assert sent == [identity, identity, {"email": doctor.DEFAULT_EMAIL}]
    with pytest.raises(CommandError):
        call_command("hubspot_doctor", user="nobody")


def test_name_that_cannot_be_a_primary_key_finds_nobody(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django's error for a text that is no UUID quotes the text."""
    monkeypatch.setattr(users, "get_user_model", lambda: WithUUID)
    with connection.schema_editor() as editor:
        editor.create_model(WithUUID)
    try:
        assert users.user_with_name("nobody") is None
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(WithUUID)


def test_user_without_an_address_is_not_identified(db: None) -> None:
    """The finding says that the address is missing."""
    User.objects.create_user("ada")
    user = findings("--user", "ada")["user"]
    assert user["level"] == "error"
    assert "no e-mail address" in user["text"]


def test_named_user_of_a_site_without_users_is_an_error(settings: Settings) -> None:
    """The exception may contain the name, so only its type is shown."""
    settings.AUTH_USER_MODEL = "nowhere.User"
    with pytest.raises(CommandError, match=r"ImproperlyConfigured"):
        call_command("hubspot_doctor", user="ada")


def test_user_model_without_an_address_identifies_nobody(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site has to set ``VISITOR`` or the model's ``EMAIL_FIELD``."""
    monkeypatch.setattr(User, "get_email_field_name", lambda *user: "mail")
    found = findings()
    assert found["model"]["level"] == "error"
    assert "None of them is identified" in found["verdict"]["text"]
    configure(settings, VISITOR=lambda user, request: None)
    assert "model" not in findings()


def test_named_user_of_a_model_without_an_address_is_an_error(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding names the missing field."""
    User.objects.create_user("ada")
    monkeypatch.setattr(User, "get_email_field_name", lambda *user: "mail")
    assert "'mail'" in findings("--user", "ada")["user"]["text"]


class Account:
    """A user without attributes for names."""

    pk = 1
    email = EMAIL


def test_user_model_without_names_has_a_hint(settings: Settings) -> None:
    """The hint is to return the names from ``VISITOR``."""
    finding, visitor = users.check_user(Account(), get_config(), "localhost")
    assert visitor is not None
    assert "VISITOR" in finding.hint


def test_users_who_share_an_address_are_listed_by_primary_key(db: None, settings: Settings) -> None:
    """There is one finding for each user. If one of them is identified, the others are only warnings."""
    users = [User.objects.create_user(name, EMAIL) for name in ("ada", "augusta")]
    configure(settings, EMAIL_VERIFIED=lambda user, email: user.username == "ada")
    code, out, _ = run("--email", EMAIL)
    assert code == 0
    assert re.findall(r"(ok|warning)  This [^\[]*\[(\d+)\]\n", out) == [
        ("ok", str(users[0].pk)),
        ("warning", str(users[1].pk)),
    ]


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
    assert set(found) == {"hubspot_identify.E001", "verdict"}
    assert "no chat" in found["verdict"]["text"]
    assert token_server.calls == 0


def test_disabled_app_is_no_error(settings: Settings, token_server: TokenServer) -> None:
    """There is nothing to check, and no token is requested. The last line says that there is no chat."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    found = findings()
    assert {topic: finding["level"] for topic, finding in found.items()} == {"settings": "note", "verdict": "note"}
    code, out, _ = run()
    assert (code, levels(out)) == (0, ["note"])
    assert "no chat" in out.splitlines()[-1]
    assert token_server.calls == 0


def test_app_disabled_by_a_missing_variable_is_an_error(settings: Settings) -> None:
    """With the settings of the quick start, missing environment variables lead to empty texts and no chat."""
    settings.HUBSPOT_IDENTIFY = {"API_KEY": "", "PORTAL_ID": "", "ENABLED": False, "EMAIL_VERIFIED": True}
    code, out, _ = run()
    assert (code, levels(out)) == (1, ["error"])
    assert {"API_KEY", "PORTAL_ID"} <= set(re.findall(r"\w+", out))
    assert "no chat" in out.splitlines()[-1]


def test_empty_portal_is_an_error(settings: Settings) -> None:
    """The tag does not load the chat. ``None`` is no error: it means that the pages have the embed code."""
    configure(settings, PORTAL_ID="", LOADER_URL=None)
    found = findings()
    assert found["loader"]["level"] == "error"
    assert "no chat" in found["verdict"]["text"]


def test_missing_urls_are_an_error_if_they_are_required(settings: Settings) -> None:
    """The tag renders no chat, so the doctor does not report how the identity would reach the browser."""
    settings.ROOT_URLCONF = urlconf()
    configure(settings, DELIVERY="deferred")
    found = findings()
    assert found["delivery"]["level"] == "error"
    assert "no chat" in found["verdict"]["text"]


def test_urls_behind_another_pattern_have_no_ok(settings: Settings) -> None:
    """The doctor does not say that the browser fetches the identity from these URLs."""
    settings.ROOT_URLCONF = urlconf(
        re_path("", lambda request: HttpResponse("A page")), path("hubspot/", include("hubspot_identify.urls"))
    )
    found = findings()
    assert "delivery" not in found
    assert found["endpoint"]["level"] == "error"
    assert "None of them is identified" in found["verdict"]["text"]


def test_failing_callable_of_the_site_leaves_no_chat(settings: Settings) -> None:
    """It is an error if ``ENABLED`` raises an exception for an anonymous visitor."""

    def fail(request: object) -> bool:
        raise RuntimeError

    configure(settings, ENABLED=fail)
    found = findings()
    assert found["enabled"]["level"] == "error"
    assert "no chat" in found["verdict"]["text"]


def test_verdict_depends_on_a_callable_enabled_and_the_embed_code(settings: Settings) -> None:
    """The doctor names the conditions that it cannot check."""
    configure(settings, ENABLED=lambda request: False, PORTAL_ID=None, LOADER_URL=None)
    verdict = findings()["verdict"]
    assert verdict["level"] == "ok"
    assert re.search("if ENABLED returns True .*embed code", verdict["text"])


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, "warning"),
        ({"DEBUG": True}, ""),
        ({"STATIC_ROOT": None}, ""),
        ({"STATIC_URL": None}, "error"),
        ({"STORAGES": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}, "error"),
    ],
)
def test_script_that_was_not_collected_is_found(
    settings: Settings, tmp_path: Path, changes: dict[str, Any], level: str
) -> None:
    """Without the script, there is no chat. In development, the server finds the script in the app's folder."""
    settings.STATIC_ROOT = str(tmp_path)
    for name, value in changes.items():
        setattr(settings, name, {"staticfiles": {"BACKEND": value}} if name == "STORAGES" else value)
    found = findings()
    assert found.get("static", {"level": ""})["level"] == level
    assert ("no chat" in found["verdict"]["text"]) is (level == "error")
    if not changes:
        assert "script is served" in found["verdict"]["text"]
        call_command("collectstatic", interactive=False, stdout=StringIO())
        assert "static" not in findings()


@pytest.mark.parametrize(("limit", "level"), [(10, "note"), (17, "")])
def test_doctor_says_when_a_higher_rate_limit_is_right(settings: Settings, limit: int, level: str) -> None:
    """The default leaves room for other integrations of the account."""
    configure(settings, RATE_LIMIT=limit)
    rate = findings().get("rate", {"level": "", "text": "", "hint": ""})
    assert rate["level"] == level
    assert ("100" in rate["text"], "17" in rate["hint"]) == (bool(level), bool(level))


def test_warning_can_be_silenced_and_does_not_fail(settings: Settings) -> None:
    """The doctor respects ``SILENCED_SYSTEM_CHECKS``. The last line counts the warnings."""
    configure(settings, EMAIL_VERIFIED=False)
    code, out, _ = run()
    assert (code, levels(out).count("warning")) == (0, 1)
    last_paragraph = out.rpartition("\n\n")[2]
    assert re.search(r"\b1\b", last_paragraph)
    assert "EMAIL_VERIFIED" in last_paragraph
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
    assert len(re.findall(r"^Account eu$", out, re.MULTILINE)) == 1
    assert len(re.findall(r"^(Account eu: )?Visitors", out, re.MULTILINE)) == 2
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
