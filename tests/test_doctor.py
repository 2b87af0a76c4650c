"""The doctor: what it finds, what it says to do, and what it never shows."""

from __future__ import annotations

import json
import re
import socket
import sys
import textwrap
import time
import types
import uuid
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.http import HttpResponseRedirect
from django.urls import include, path
from pytest_django import Settings
from support.server import TokenServer, TokenServerProcess
from support.site import serving_site

from hubspot_identify import client, csp, doctor
from hubspot_identify.breaker import get_breaker
from hubspot_identify.conf import build_config, get_config
from hubspot_identify.doctor import network
from hubspot_identify.exceptions import AuthenticationError
from hubspot_identify.management.commands.hubspot_doctor import printable
from hubspot_identify.sandbox.state import Mood, sandbox
from hubspot_identify.visitors import Visitor

KEY = "pat-na1-secret-of-the-site"
EMAIL = "ada@example.com"
GUIDE = "https://developers.hubspot.com/docs/api-reference/conversations-visitor-identification-v3/guide"
SITE = types.ModuleType("site_with_sandbox")
SITE.urlpatterns = [  # type: ignore[attr-defined]
    path("hubspot/", include("hubspot_identify.urls")),
    path("sandbox/", include("hubspot_identify.sandbox.urls")),
]


@pytest.fixture(autouse=True)
def production(settings: Settings, redis_url: str, token_server: TokenServer) -> Iterator[None]:
    """A site that is well set up, so that each test breaks one thing."""
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


def configure(settings: Settings, **values: Any) -> None:
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **values}


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    out, err = StringIO(), StringIO()
    code: Any = 0
    try:
        call_command("hubspot_doctor", *arguments, stdout=out, stderr=err)
    except SystemExit as end:
        code = end.code
    return code, out.getvalue(), err.getvalue()


def findings(*arguments: str) -> dict[str, dict[str, Any]]:
    """The findings by topic, once it is sure that they hold no secret and that the exit code agrees."""
    code, out, err = run("--json", "--email", EMAIL, *arguments)
    assert KEY not in out + err
    assert EMAIL not in out + err
    found = json.loads(out)
    failed = any(finding["level"] == "error" for finding in found["findings"])
    assert (found["ok"], code) == (not failed, int(failed))
    return {finding["topic"]: finding for finding in found["findings"]}


@pytest.fixture(autouse=True)
def no_users(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Without a database, nobody is looked up in it."""
    if "db" not in request.fixturenames:
        monkeypatch.setattr(doctor, "look_at_users", lambda visitor, config: ())


def test_a_healthy_site_as_text(token_server: TokenServer, settings: Settings) -> None:
    """The whole output for a site without trouble, in plain text where it goes to no terminal, and exit code 0."""
    token_server.answer(
        200, {"token": "t"}, {"X-HubSpot-Correlation-Id": "c-1", "Date": "Sun, 22 Nov 2026 00:00:05 GMT"}
    )
    code, out, err = run()
    assert code == 0
    assert re.sub(r"\d+\.\d ms", "1.0 ms", out).splitlines() == [
        "       ok  The system checks have nothing to say.",
        "       ok  HubSpot supports this version of the API until 2027-09.",
        "       ok  The browser asks /hubspot/identity/, and no page waits.",
        "       ok  Anonymous visitors reach the endpoint /hubspot/identity/.",
        "       ok  The cache 'default' (RedisCache) works, and all processes share it.",
        "           (1.0 ms)",
        "     note  The chat's script comes from the site itself: /123.js",
        "       ok  HubSpot made a token, on a thread behind the command. (1.0 ms)",
        "              correlation id c-1",
        "",
        "All is well.",
    ]
    assert err == "Asking HubSpot for a token ...\n"
    (request,) = token_server.requests()
    assert request.json() == {"email": "hubspot-doctor@example.com"}


def test_trouble_as_text(token_server: TokenServer, settings: Settings) -> None:
    """An error stands with its correlation id, what to do and where, a count, and exit code 1."""
    settings.CACHES = {"default": {**settings.CACHES["default"], "OPTIONS": {}}}
    body = {"category": "INVALID_AUTHENTICATION", "correlationId": "c-401", "message": "Expired \x1b[31m."}
    token_server.answer(401, body)
    code, out, _ = run()
    lines = re.sub(r"\d+\.\d ms", "1.0 ms", out).splitlines()
    assert code == 1
    assert lines[:4] == [
        "  warning  CACHES['default'] has no timeout, so a server that hangs would hold",
        "           up the pages. (hubspot_identify.W008)",
        '           -> Write "OPTIONS": {"socket_connect_timeout": 0.5,',
        "              \"socket_timeout\": 0.5} into CACHES['default'].",
    ]
    assert lines[-8:] == [
        "    error  HubSpot answered 401: the key in HUBSPOT_IDENTIFY['API_KEY'] is",
        "           wrong, expired or was deactivated (category INVALID_AUTHENTICATION,",
        "           correlation id c-401). HubSpot says: Expired  [31m. (1.0 ms)",
        "           -> Copy the access token of the private app, or a new service key,",
        "              into API_KEY.",
        "              https://app.hubspot.com/private-apps/123",
        "",
        "1 error: mend it first.",
    ]


@pytest.mark.parametrize(
    ("status", "body", "hint", "link"),
    [
        (401, {}, "into API_KEY", "https://app-eu1.hubspot.com/private-apps/123"),
        (
            403,
            {"context": {"missingScopes": ["a.b"]}},
            "the scope a.b.",
            "https://app-eu1.hubspot.com/private-apps/123",
        ),
        (403, {}, "Professional or Enterprise", "https://app-eu1.hubspot.com/account-and-billing/123"),
        (404, {}, "BASE_URL and TOKEN_PATH", GUIDE),
        (400, {"message": "bad"}, "BASE_URL and TOKEN_PATH", GUIDE),
        (423, {}, "call the doctor again", "https://status.hubspot.com/"),
        (429, {}, "have a key for this site alone", network.USAGE),
        (429, {"policyName": "DAILY"}, "calls of this day", network.USAGE),
        (477, {}, "whether REGION changed", network.HOSTING),
        (500, {}, "HubSpot is in trouble", "https://status.hubspot.com/"),
    ],
)
def test_every_refusal_is_explained(
    settings: Settings, token_server: TokenServer, status: int, body: dict[str, Any], hint: str, link: str
) -> None:
    """Each status has words about what to do, and the page of the account's own data centre to do it on."""
    configure(settings, REGION="eu1", API_KEY="key-of-no-region")
    token_server.answer(status, {**body, "correlationId": "c-9"})
    token = findings()["token"]
    assert token["level"] == "error"
    assert token["text"].startswith(f"HubSpot answered {status}: ")
    assert hint in token["hint"]
    assert (token["link"], token["correlation_id"]) == (link, "c-9")
    assert token_server.calls == 1


@pytest.mark.parametrize(
    ("scenario", "hint", "link"),
    [
        ("refused", "takes no connection", ""),
        ("hang", "slow or in trouble", network.STATUS),
        ("drip_headers", "slow or in trouble", network.STATUS),
        ("reset", "slow or in trouble", network.STATUS),
        ("html", "proxies on the way", GUIDE),
        ("empty", "proxies on the way", GUIDE),
        ("redirect", "proxies on the way", GUIDE),
        ("truncated", "proxies on the way", GUIDE),
    ],
)
def test_every_scenario_of_the_network(
    settings: Settings, token_server: TokenServer, scenario: Any, hint: str, link: str
) -> None:
    """However the answer fails to come, the doctor is done within TIMEOUT and says how far it got."""
    if scenario in {"hang", "drip_headers"}:
        configure(settings, TIMEOUT=0.3)
    token_server.set_scenario(scenario)
    token = findings()["token"]
    assert (token["level"], token["link"]) == ("error", link)
    assert hint in token["hint"]
    assert token["seconds"] < network.READ_TIMEOUT


@pytest.mark.parametrize("scenario", list(Mood))
def test_every_scenario_of_the_sandbox(settings: Settings, scenario: Mood) -> None:
    """Against the sandbox the doctor is well when it is, and has a hint for all else."""
    settings.DEBUG = True
    settings.ROOT_URLCONF = SITE
    sandbox.reset()
    sandbox.slow_seconds = sandbox.hung_seconds = 2.0
    sandbox.set_mood(scenario)
    with serving_site() as origin:
        configure(settings, BASE_URL=f"{origin}/sandbox/api", LOADER_URL=f"{origin}/sandbox/loader/123.js")
        if scenario in {Mood.SLOW, Mood.HUNG}:
            configure(settings, TIMEOUT=0.5)
        found = findings()
        sandbox.reset()  # lets those go that hang
    assert found["loader"]["level"] == "ok"
    assert found["token"]["level"] == ("ok" if scenario is Mood.HEALTHY else "error")
    assert bool(found["token"]["hint"]) is (scenario is not Mood.HEALTHY)


def test_a_name_that_cannot_be_resolved(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing resolver is told from a firewall."""

    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    configure(settings, BASE_URL="https://api.hubapi.com")
    assert findings()["token"]["hint"] == "api.hubapi.com can't be resolved: look at the DNS of this machine."


def test_a_proxy_in_the_environment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, token_server: TokenServer
) -> None:
    """Where the environment has a proxy, that is where to look; its password is not shown."""
    token_server.set_scenario("refused")
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{KEY}@127.0.0.1:{token_server.port}")
    configure(settings, BASE_URL="https://api.hubapi.com")
    token = findings()["token"]
    assert token["hint"] == "The environment sends the call through the proxy 127.0.0.1: look there."


def test_a_callable_key_that_fails(settings: Settings) -> None:
    """A failing callable is named, and what it raised is not shown."""

    def fail() -> str:
        raise RuntimeError(KEY)

    configure(settings, API_KEY=fail)
    assert findings()["token"]["hint"] == "Call the callable in API_KEY in a shell, and mend it."


def test_a_key_in_a_header_is_not_shown(token_server: TokenServer) -> None:
    """Even a stand-in that echoes the key as its correlation id does not make the doctor print it."""
    token_server.answer(200, {"token": "t"}, {"X-HubSpot-Correlation-Id": KEY})
    assert findings()["token"]["correlation_id"] == ""


@pytest.mark.parametrize(
    ("date", "seconds"),
    [("Sun, 22 Nov 2026 00:05:00 GMT", "300"), ("Sat, 21 Nov 2026 23:55:00 GMT", "300"), ("now", None)],
)
def test_a_wrong_clock(token_server: TokenServer, date: str, seconds: str | None) -> None:
    """A clock that is minutes away from HubSpot's is a warning; an unreadable date is none."""
    with time_machine.travel("2026-11-22T00:00:00Z", tick=False):
        token_server.answer(200, {"token": "t"}, {"Date": date})
        clock = findings().get("clock")
    assert (clock and clock["text"]) == (seconds and f"The clock here and HubSpot's are {seconds} s apart.")


@pytest.mark.parametrize(
    ("path", "level", "text"),
    [
        ("/conversations/v3/visitor-identification/tokens/create", "ok", "until 2027-09."),
        ("/visitor-identification/2026-09/tokens/create", "ok", "until 2028-03."),
        ("/visitor-identification/2025-06/tokens/create", "warning", "until 2026-12."),
        ("/tokens", "note", "no version that the doctor knows."),
    ],
)
def test_versions_of_the_api(settings: Settings, path: str, level: str, text: str) -> None:
    """A version whose support ends within half a year is a warning."""
    configure(settings, TOKEN_PATH=path)
    found = findings()["path"]
    assert found["level"] == level
    assert found["text"].endswith(text)


def test_key_and_region_disagree(settings: Settings) -> None:
    """The data centre in a private app's key is compared with REGION; other credentials have none."""
    assert "region" not in findings()
    configure(settings, REGION="eu1")
    assert findings()["region"]["hint"] == 'Write "na1" into REGION.'
    configure(settings, API_KEY=lambda: KEY)
    assert "region" not in findings()


def test_inline_delivery(settings: Settings) -> None:
    """Sites whose pages wait are told for how long."""
    configure(settings, DELIVERY="inline", PAGE_WAIT=0.5)
    assert findings()["delivery"]["text"] == "Pages hold the identity, and wait for it 0.5 s at most."


def login_wall(get_response: Any) -> Any:
    """Middleware of a site that redirects every visitor to the login page."""
    return lambda request: HttpResponseRedirect("/login/")


@pytest.mark.parametrize(("delivery", "level"), [(None, "error"), ("inline", "warning")])
def test_middleware_that_responds_in_place_of_the_endpoint(
    settings: Settings, delivery: str | None, level: str
) -> None:
    """The doctor names it, and fails if the pages depend on the endpoint."""
    configure(settings, DELIVERY=delivery)
    assert findings()["endpoint"]["level"] == "ok"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.login_wall"]
    endpoint = findings()["endpoint"]
    assert endpoint["level"] == level
    assert f"{__name__}.login_wall" in endpoint["text"]


def test_host_of_the_request(settings: Settings) -> None:
    """``--host`` names another host than the first of ``ALLOWED_HOSTS``."""
    settings.ALLOWED_HOSTS = ["shop.example"]
    assert findings()["endpoint"]["level"] == "ok"
    assert findings("--host", "evil.example")["endpoint"]["level"] == "error"


@pytest.mark.parametrize(
    ("backend", "level", "text"),
    [
        ("locmem.LocMemCache", "ok", "The cache 'default' (LocMemCache) works, for one process or host."),
        ("dummy.DummyCache", "error", "The cache 'default' (DummyCache) keeps nothing."),
        ("redis.RedisCache", "error", "The cache 'default' fails: ConnectionError."),
    ],
)
def test_caches(settings: Settings, backend: str, level: str, text: str) -> None:
    """The cache is tried; one that fails is an error, told without its address."""
    settings.CACHES = {
        "default": {"BACKEND": f"django.core.cache.backends.{backend}", "LOCATION": f"redis://:{KEY}@127.0.0.1:1"}
    }
    cache = findings()["cache"]
    assert (cache["level"], cache["text"]) == (level, text)


def test_the_cache_is_left_as_it_was(redis_url: str) -> None:
    """Trying the cache and making a token leaves nothing behind in it."""
    findings()
    cache: Any = caches["default"]
    assert cache._cache.get_client().keys(f"{cache.key_prefix}*") == []


def test_an_open_breaker(token_server: TokenServer) -> None:
    """Why nobody is identified for the moment is told, and HubSpot asked all the same."""
    breaker = get_breaker(get_config())
    breaker.record_failure(AuthenticationError("no", status=401, key_rejected=True), Visitor(EMAIL), time.time())
    found = findings()
    assert re.fullmatch(
        r"The site leaves HubSpot alone for another (300|2\d\d) s, because of earlier failures \(misconfigured\)\.",
        found["breaker"]["text"],
    )
    assert found["token"]["level"] == "ok"


FULL = {directive: ["'self'", *hosts] for directive, hosts in csp.sources("na1").items()}


@pytest.mark.parametrize(
    ("policy", "missing"),
    [
        (FULL, None),
        ({"DIRECTIVES": FULL}, None),
        ({"default-src": ["https:", "data:"]}, None),
        ({"script-src": "'nonce-1' 'strict-dynamic'", "object-src": ["'none'"]}, None),
        ({**FULL, "frame-src": ["'self'"]}, "frame-src https://*.hubspot.com"),
        ({"default-src": ["*"]}, "img-src data:"),
        ({"frame-src": ("*.hubspot.com",)}, None),
        ({"script-src": ["'self'"], "connect-src": ["*"]}, f"script-src {' '.join(csp.sources()['script-src'])}"),
    ],
)
@pytest.mark.parametrize("setting", ["SECURE_CSP", "CONTENT_SECURITY_POLICY"])
def test_content_security_policy(settings: Settings, policy: dict[str, Any], missing: str | None, setting: str) -> None:
    """What the policy in the settings keeps out is listed, be it of Django or of django-csp."""
    setattr(settings, setting, policy)
    found = findings()["csp"]
    assert found["level"] == ("warning" if missing else "ok")
    if missing:
        assert found["text"] == f"The Content-Security-Policy keeps parts of the chat out: {missing}"


@pytest.mark.parametrize("policy", [None, "default-src 'self'", {"DIRECTIVES": None}])
def test_no_policy_that_could_be_read(settings: Settings, policy: object) -> None:
    """Without a policy, or with one of another shape, the doctor says nothing of it."""
    settings.CONTENT_SECURITY_POLICY = policy
    assert "csp" not in findings()


@pytest.fixture
def loader_server(token_server_process: TokenServerProcess) -> Iterator[TokenServer]:
    """The host of the chat's script."""
    server = token_server_process.open()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("scenario", "level"),
    [
        (lambda server: server.answer(200, "//"), "ok"),
        (lambda server: server.answer(404), "error"),
        (lambda server: server.set_scenario("refused"), "warning"),
        (lambda server: server.set_scenario("drip_headers"), "warning"),
    ],
)
def test_loader(
    settings: Settings,
    loader_server: TokenServer,
    monkeypatch: pytest.MonkeyPatch,
    scenario: Callable[[TokenServer], None],
    level: str,
) -> None:
    """The chat's script is fetched, as a browser would; a wrong portal or region shows."""
    if level == "warning":  # where waiting does not help
        monkeypatch.setattr(network, "CONNECT_TIMEOUT", 0.2)
        monkeypatch.setattr(network, "READ_TIMEOUT", 0.2)
    scenario(loader_server)
    configure(settings, LOADER_URL=f"{loader_server.url}/123.js")
    assert findings()["loader"]["level"] == level
    assert all("Authorization" not in request.headers for request in loader_server.requests())


def test_without_a_portal(settings: Settings) -> None:
    """A site that has HubSpot's embed code itself is reminded of it."""
    configure(settings, PORTAL_ID=None, LOADER_URL=None)
    assert findings()["loader"]["level"] == "note"


def test_links_without_a_portal(token_server: TokenServer) -> None:
    """Where the portal is unknown, the links lead to HubSpot's own choice of accounts."""
    config = build_config({"API_KEY": KEY, "EMAIL_VERIFIED": True})
    hint = network._advice(AuthenticationError("no", status=401), config)
    assert hint[1] == "https://app.hubspot.com/private-apps"


def _fail(user: object, request: object) -> None:
    raise RuntimeError


@pytest.mark.parametrize(
    ("extra", "level", "text"),
    [
        ({}, "ok", "This user is identified when logged in."),
        ({"EMAIL_VERIFIED": lambda user, email: False}, "warning", "the address is not verified"),
        ({"EMAIL_VERIFIED": False}, "warning", "EMAIL_VERIFIED is False"),
        ({"VISITOR": lambda user, request: None}, "warning", "This user is not identified: VISITOR: None"),
        ({"VISITOR": lambda user, request: Visitor("nonsense")}, "warning", "The e-mail address is not valid."),
        ({"VISITOR": _fail}, "warning", "VISITOR fails without a request: RuntimeError."),
        ({"VISITOR": lambda user, request: EMAIL}, "warning", "This user is not identified: VISITOR: str"),
        ({"EMAIL_VERIFIED": _fail}, "warning", "EMAIL_VERIFIED fails: RuntimeError."),
    ],
)
def test_users(db: None, settings: Settings, extra: dict[str, Any], level: str, text: str) -> None:
    """With ``--email``, the users of that address are taken through the gate, as far as it goes without a request."""
    User.objects.create_user("ada", EMAIL.upper())
    configure(settings, **extra)
    found = findings()["user"]
    assert found["level"] == level
    assert found["text"].endswith(text)


def test_several_users(db: None) -> None:
    """Of users who share an address each is told apart by the key."""
    users = [User.objects.create_user(name, EMAIL) for name in ("ada", "augusta")]
    _, out, _ = run("--email", EMAIL)
    assert [line.rpartition(" ")[2] for line in out.splitlines() if "This user" in line] == [
        f"[{user.pk}]" for user in users
    ]


def test_no_user(db: None) -> None:
    """An address of nobody's is no error: the token is made all the same."""
    found = findings()
    assert (found["user"]["text"], found["token"]["level"]) == ("No user has this address.", "ok")


def test_users_that_cannot_be_looked_up(db: None, settings: Settings) -> None:
    """A site without Django's users, or without their table, has the rest examined."""
    settings.AUTH_USER_MODEL = "nowhere.User"
    assert findings()["user"]["text"] == "The users can't be looked up: ImproperlyConfigured."


def test_not_an_address() -> None:
    """What is no address is refused before anything else happens, and not quoted."""
    with pytest.raises(CommandError, match=r"^The e-mail address is not valid\.$"):
        call_command("hubspot_doctor", email="nonsense")


@pytest.mark.parametrize("values", [{"PORTAL_ID": "123", "EMAIL_VERIFIED": True}, {"API_KEY": KEY}])
def test_wrong_settings(settings: Settings, token_server: TokenServer, values: dict[str, Any]) -> None:
    """Wrong settings are told by the checks and by the doctor, who then calls nobody."""
    settings.HUBSPOT_IDENTIFY = values
    found = findings()
    assert {topic: finding["level"] for topic, finding in found.items()} == {
        "hubspot_identify.E001": "error",
    }
    assert token_server.calls == 0


def test_switched_off(settings: Settings, token_server: TokenServer) -> None:
    """Where the chat is off there is nothing to examine, and nothing wrong."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    assert {topic: finding["level"] for topic, finding in findings().items()} == {"checks": "ok", "settings": "note"}
    code, out, _ = run()
    assert (code, out.splitlines()[-1]) == (0, "No token was made, since the chat is switched off.")
    assert token_server.calls == 0


def test_silenced_checks_stay_silent(settings: Settings) -> None:
    """What the site has silenced the doctor does not bring up again."""
    configure(settings, EMAIL_VERIFIED=False)
    assert findings()["hubspot_identify.W014"]["level"] == "warning"
    settings.SILENCED_SYSTEM_CHECKS = ["hubspot_identify.W014"]
    assert "hubspot_identify.W014" not in findings()


def test_accounts(settings: Settings, token_server: TokenServer) -> None:
    """All accounts are examined, each under its name, or the one asked for; an unknown one is an error."""
    configure(settings, ACCOUNTS={"eu": {"DELIVERY": "inline"}})
    ours = "hubspot_identify.middleware.IdentifiedPageMiddleware"
    settings.MIDDLEWARE = [ours, *settings.MIDDLEWARE, ours]
    code, out, _ = run()
    assert (code, token_server.calls) == (0, 2)
    assert out.splitlines().count("Account eu") == 1
    code, out, _ = run("--account", "eu")
    assert (code, token_server.calls) == (0, 3)
    code, out, _ = run("--account", "us\x1b[31m")
    assert (code, token_server.calls) == (1, 3)
    assert "\x1b" not in out


def test_an_unknown_account_is_told_beside_other_mistakes(settings: Settings) -> None:
    """That the checks have told of wrong settings does not hide that the account asked for is none."""
    settings.HUBSPOT_IDENTIFY = {"PORTAL_ID": "123", "ACCOUNTS": {"eu": {}}}
    code, out, _ = run("--account", "us")
    assert code == 1
    assert "(hubspot_identify.E001)" in out
    assert "has no account 'us'; it has" in " ".join(out.split())


def test_warnings_do_not_fail(settings: Settings) -> None:
    """Advice alone is exit code 0."""
    configure(settings, EMAIL_VERIFIED=False)
    code, out, _ = run()
    assert (code, out.splitlines()[-1]) == (0, "It works, with 1 warning.")


class Terminal(StringIO):
    """A terminal, before which somebody sits until the line has changed some times."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self._then = then

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.getvalue().count("\r") == 3:
            self._then()
        return super().write(text)


def test_progress_on_a_terminal(settings: Settings, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the seconds count up while HubSpot is waited for, and the line is gone afterwards."""
    configure(settings, TIMEOUT=30)
    monkeypatch.setattr(client, "READ_TIMEOUT", 30.0)
    token_server.set_scenario("held")
    terminal = Terminal(then=token_server.release)
    call_command("hubspot_doctor", stdout=StringIO(), stderr=terminal)
    start, *shown, end = terminal.getvalue().split("\r")
    seconds = [re.fullmatch(r" {11}Asking HubSpot for a token \.\.\. (\d\.\d) s", line) for line in shown]
    assert (start, end) == ("", "\x1b[K")
    assert len(seconds) >= 4
    times = [float(match[1]) for match in seconds if match]
    assert len(times) == len(seconds)
    assert times[0] == 0.0
    assert times == sorted(times)
    assert times[-1] >= 0.2


@pytest.mark.skipif(sys.platform == "win32", reason="colours there depend on the terminal's programs")
def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels are coloured where Django would colour, and nowhere else."""
    out = StringIO()
    call_command("hubspot_doctor", stdout=out, stderr=StringIO(), force_color=True)
    assert "\x1b[32;1m       ok\x1b[0m  The system checks" in out.getvalue()
    assert "\x1b" not in run()[1]


def test_nothing_for_terminals_to_obey() -> None:
    """Escapes, controls and marks that turn the direction of text are replaced."""
    assert printable("a\x1b[31m\u202e\x00\nü") == "a?[31m???ü"


def test_a_mistake_of_ours_is_not_hidden() -> None:
    """What is raised in the background is raised again."""
    with pytest.raises(ZeroDivisionError):
        network.in_background(lambda: 1 / 0, 5.0)


def test_the_manual_shows_a_real_run(
    settings: Settings, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output in the manual is that of the doctor, but for the milliseconds."""
    configure(settings, EMAIL_VERIFIED=False, PORTAL_ID="1234567", LOADER_URL=None)
    monkeypatch.setattr(network.requests, "get", lambda url, **options: types.SimpleNamespace(status_code=200))
    scope = "conversations.visitor_identification.tokens.create"
    body = {
        "category": "MISSING_SCOPES",
        "correlationId": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "message": "This app has not been granted all required scopes.",
        "context": {"missingScopes": [scope]},
    }
    token_server.answer(403, body)
    _, out, err = run()
    manual = (Path(__file__).parents[1] / "docs" / "doctor.rst").read_text("utf-8")
    (shown,) = re.findall(r"    \$ python manage\.py hubspot_doctor\n((?:    .*\n|\n)+)", manual)
    times = re.compile(r"\(\d+\.\d ms\)")
    assert times.sub("()", textwrap.dedent(err + out)).split() == times.sub("()", textwrap.dedent(shown)).split()
