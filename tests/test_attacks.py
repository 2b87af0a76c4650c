"""Attacks of an outsider: to be taken for another visitor, to learn a secret, or to deny the service."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connections
from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings
from support.faulty_cache import FaultyCache
from support.pages import ada, grace, keep_token, render_django, request_by
from support.server import TokenServer

from hubspot_identify import identification, services
from hubspot_identify._tokens.account import Account
from hubspot_identify._tokens.store import Store
from hubspot_identify.conf import Config, build_config
from hubspot_identify.exceptions import ConfigurationError, InvalidVisitorError
from hubspot_identify.logs import _last_logged
from hubspot_identify.testing import join_threads
from hubspot_identify.views import identity
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com")


def fetch_identity(user: object, **headers: str) -> HttpResponse:
    """Return the endpoint's response to the script on a page of this user."""
    return identity(request_by(user, "/hubspot/identity/", HTTP_X_HUBSPOT_IDENTIFY="1", **headers))


# To be taken for another visitor


@pytest.mark.parametrize(
    "address",
    [
        '"ada@example.com"@evil.example',
        '"ada"@example.com',
        "=?x?q?ada=40example.com=3e=00?=@evil.example",
    ],
)
def test_address_that_contains_another_address_is_refused(address: str) -> None:
    """Mail to it may reach the attacker, while another program reads the victim's address in it."""
    with pytest.raises(InvalidVisitorError):
        Visitor(address)


@pytest.mark.parametrize(
    "address",
    [
        "\u0131da@example.com",
        "ada@e\u00adxample.com",
        "ada@example\u3002com",
        "ada@\u212aelvin.example",
        "\uff41da@example.com",
        "ada@example.com\0",
        "ada@example.com\n",
        " ada@example.com",
        "ada@example.com,eve@evil.example",
    ],
)
def test_address_is_never_changed_into_another_one(address: str) -> None:
    """It is refused instead of being case-folded, normalised, trimmed or cut."""
    with pytest.raises(InvalidVisitorError):
        Visitor(address)


@pytest.mark.django_db
@pytest.mark.parametrize("delivery", ["deferred", "inline"])
def test_sign_up_with_a_customers_address_gets_no_token_if_email_verified_is_missing(
    client: Client, settings: Settings, hubspot: TokenServer, delivery: str
) -> None:
    """Without django-allauth and ``EMAIL_VERIFIED``, no interface identifies the user, even with a cached token."""
    keep_token(ada())
    eve = User.objects.create_user("eve", "ada@example.com")
    client.force_login(eve)
    values = {key: value for key, value in settings.HUBSPOT_IDENTIFY.items() if key != "EMAIL_VERIFIED"}
    settings.HUBSPOT_IDENTIFY = {**values, "DELIVERY": delivery}
    with pytest.raises(ConfigurationError):
        services.identify(request_by(eve))
    with pytest.raises(ConfigurationError):
        services.get_token(Visitor(eve.email))
    assert render_django(request_by(eve)) == ""
    response = client.get("/hubspot/identity/", headers={"X-HubSpot-Identify": "1"})
    assert (response.status_code, response.json()) == (503, {"subject": None, "identity": None})
    assert join_threads(5)
    assert hubspot.calls == 0


def test_no_two_accounts_or_visitors_share_a_cache_key() -> None:
    """Account, API, portal, credential and address cannot be cut or quoted so that two combinations look the same."""
    parts: dict[str, list[str]] = {
        "API_KEY": ["k", "k1", 'k","2', "k,null"],
        "BASE_URL": ["https://a.example", "https://a.example/v"],
        "TOKEN_PATH": ["/v/t", "/t"],
        "PORTAL_ID": ["1", "11", ""],
    }
    settings = [dict(zip(parts, values, strict=True)) for values in itertools.product(*parts.values())]
    accounts = ["", "a", "1"]
    configs = [
        build_config({**values, "EMAIL_VERIFIED": True, "ACCOUNTS": {"a": {}, "1": {}}}, account)
        for values in settings
        for account in accounts
    ]
    visitors = [ADA, Visitor("da@example.com"), Visitor("ada@example.co")]
    keys = {Account(config, Store("default")).entry_key(visitor) for config in configs for visitor in visitors}
    assert len(keys) == len(configs) * len(visitors)
    subjects = {Account(config, Store("default")).subject(visitor) for config in configs for visitor in visitors}
    assert len(subjects) == len(parts["PORTAL_ID"]) * len(visitors)


def test_names_do_not_decide_whose_token_is_used() -> None:
    """A user who has another user's name, or address as a name, still gets the token of their own address."""
    keep_token(ada())
    eve = User(pk=3, username="ada", email="eve@example.com", first_name="ada@example.com", last_name="Lovelace")
    keep_token(eve, "token-of-eve")
    identity_of_eve = json.loads(fetch_identity(eve).content)["identity"]
    assert (identity_of_eve["email"], identity_of_eve["token"]) == ("eve@example.com", "token-of-eve")


@pytest.mark.parametrize(
    "value",
    [
        {"token": "</script>", "created_at": 9e9, "retry_at": 0.0, "digest": ""},
        {"token": ["t"], "created_at": True, "retry_at": 0.0, "digest": ""},
        "token",
        object(),
    ],
)
def test_foreign_cache_entry_is_a_miss(faulty_cache: type[FaultyCache], hubspot: TokenServer, value: object) -> None:
    """A value that another program stored under the app's key identifies no one."""
    faulty_cache.instead["get"] = lambda *args: value
    hubspot.answer(500)
    assert json.loads(fetch_identity(ada()).content)["identity"] is None


def test_reply_meant_for_another_key_is_a_miss(faulty_cache: type[FaultyCache], hubspot: TokenServer) -> None:
    """A cache client that is out of step returns for each key the value of the key before it."""
    hubspot.answer(500)
    users = [ada(), grace()]
    for user in users:
        keep_token(user)
    replies: list[object] = [None]

    def get_previous(key: str, *args: object) -> object:
        replies.append(LocMemCache.get(caches["default"], key))
        return replies.pop(0)

    faulty_cache.instead["get"] = get_previous
    for user in users * 3:
        identity_of_user = json.loads(fetch_identity(user).content)["identity"]
        assert identity_of_user is None or identity_of_user["token"] == f"token-of-{user.username}"
        assert join_threads(5)


def one_key() -> str:
    return "key"


class KeyFromVault:
    """An API_KEY that keeps a state."""

    def __call__(self) -> str:
        return "key"

    method = __call__


CALLABLES: list[Callable[[], Callable[[], str]]] = [
    lambda: one_key,
    lambda: lambda: "key",
    lambda: functools.partial(one_key),
    lambda: KeyFromVault(),
    lambda: KeyFromVault().method,
]


def keys_of(config: Config) -> tuple[str, str]:
    """Return the cache keys of Ada's entry and of the circuit breaker."""
    account = Account(config, Store("default"))
    return account.entry_key(ADA), account.breaker._key


@pytest.mark.parametrize(
    "changes",
    [
        {"SETTINGS_MODULE": "other.settings"},
        {"ROOT_URLCONF": "other.urls"},
        {"ENGINE": "django.db.backends.postgresql"},
        {"HOST": "db.other.example"},
        {"PORT": 5433},
        {"NAME": Path("other")},
    ],
)
def test_sites_with_a_callable_key_share_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    """Two sites with the same SECRET_KEY, callable and cache share neither tokens nor a circuit breaker."""
    config = build_config({"API_KEY": one_key, "EMAIL_VERIFIED": True})
    before = keys_of(config)
    for name, value in changes.items():
        if name in connections["default"].settings_dict:
            monkeypatch.setitem(connections.settings["default"], name, value)
        else:
            setattr(settings, name, value)
    assert all(one != other for one, other in zip(before, keys_of(config), strict=True))


def test_sites_whose_callables_differ_share_nothing() -> None:
    """The name of the callable decides, not what it returns, because it is called only on a worker.

    All processes of one site have the same keys, although each has objects of its own.
    """
    keys = []
    for make in CALLABLES:
        here, there = (build_config({"API_KEY": make(), "EMAIL_VERIFIED": True}) for _ in range(2))
        keys.append(keys_of(here))
        assert keys_of(there) == keys[-1]
        assert make()() == "key"
    assert [len(set(column)) for column in zip(*keys, strict=True)] == [len(CALLABLES)] * 2


PROGRAM = """
import functools
from django.conf import settings
settings.configure(SECRET_KEY="s")
from django.db import connections
from hubspot_identify._tokens.account import Account
from hubspot_identify._tokens.store import Store
from hubspot_identify.conf import Config
from hubspot_identify.visitors import Visitor
def key():
    return Account(Config(api_key=functools.partial(print)), Store("default")).entry_key(Visitor("ada@example.com"))
print(key())
connections["default"]
print(key())
"""


@pytest.mark.slow
def test_processes_with_a_callable_key_share_their_tokens() -> None:
    """Their keys are equal, also without URLconf, database and settings module, and after the database is used."""
    keys = [
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert len({*keys[0], *keys[1]}) == 1


# To learn a secret


def test_refusal_is_the_same_for_every_visitor() -> None:
    """Logged-in and anonymous visitors get identical responses, so that no other site learns who is logged in."""
    responses = []
    for user in (ada(), AnonymousUser(), None):
        keep_token(ada())
        response = identity(request_by(user, "/hubspot/identity/"))
        responses.append((response.status_code, response.content, dict(response.headers)))
    assert responses[0] == responses[1] == responses[2]
    assert responses[0][0] == 403


POISONED_HEADERS = {
    "HTTP_HOST": "evil.example",
    "HTTP_X_FORWARDED_HOST": "evil.example",
    "HTTP_X_FORWARDED_PROTO": "javascript",
    "HTTP_X_FORWARDED_PREFIX": "//evil.example",
    "HTTP_X_SCRIPT_NAME": "//evil.example",
    "HTTP_SCRIPT_NAME": "//evil.example",
    "HTTP_FORWARDED": "host=evil.example",
    "HTTP_X_ORIGINAL_URL": "//evil.example/",
    "HTTP_REFERER": "https://evil.example/",
    "HTTP_ORIGIN": "https://evil.example",
    "HTTP_COOKIE": "csp_nonce=x; consent=x; hubspotutk=x",
}


def test_no_header_poisons_a_page(settings: Settings) -> None:
    """A page that a cache stores for all visitors contains nothing of what the first visitor sent."""
    settings.USE_X_FORWARDED_HOST = True
    clean = render_django(request_by(AnonymousUser()))
    for path in ("/", "//evil.example/x", "/?data-loader=//evil.example", "/%22%3E%3Cscript%3E"):
        assert render_django(request_by(AnonymousUser(), path, **POISONED_HEADERS)) == clean
    assert "evil" not in clean


@pytest.mark.parametrize("ending", ["x.css", "eu/x.css", "eu.css/"])
def test_url_that_looks_like_a_static_file_has_no_identity(client: Client, ending: str) -> None:
    """Some caches store every response whose URL ends like that of a static file."""
    assert client.get(f"/hubspot/identity/{ending}", headers={"X-HubSpot-Identify": "1"}).status_code == 404


# To deny the service


def test_one_visitor_has_one_call_at_a_time(settings: Settings, hubspot: TokenServer) -> None:
    """Requests with changing names, for endpoint and inline pages, cause one call. Other visitors get their own."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": "inline", "PAGE_WAIT": 0, "TIMEOUT": 30}
    hubspot.set_scenario("held")
    for number in range(20):
        eve = User(pk=3, username="eve", email="eve@example.com", first_name=f"Eve {number}")
        assert fetch_identity(eve).status_code == 202
        render_django(request_by(eve))
    assert hubspot.wait_for_calls(1)
    assert fetch_identity(grace()).status_code == 202
    assert hubspot.wait_for_calls(2)
    hubspot.release()
    assert join_threads(5)
    assert [request.json()["email"] for request in hubspot.requests()] == ["eve@example.com", "grace@example.com"]
    assert fetch_identity(grace()).status_code == 200


@pytest.mark.parametrize("status", [200, 400, 500])
def test_one_visitor_cannot_use_up_the_rate_limit(settings: Settings, hubspot: TokenServer, status: int) -> None:
    """After the first call, changing names cause no second call and no further keys in the cache."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "RATE_LIMIT": 1000}
    if status != 200:
        hubspot.answer(status)
    keys = set()
    for number in range(10):
        eve = User(pk=3, username="eve", email="eve@example.com", first_name=f"Eve {number}")
        fetch_identity(eve)
        assert join_threads(5)
        cache: Any = caches["default"]
        keys.add(frozenset(cache._cache))
    assert hubspot.calls == 1
    assert len(keys) == 1


def test_unknown_account_names_fill_neither_log_nor_memory(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """CHOOSE_ACCOUNT returns what the client sent. Only the first unknown name is logged, and none is kept."""
    settings.HUBSPOT_IDENTIFY = {
        **settings.HUBSPOT_IDENTIFY,
        "ACCOUNTS": {"eu": {"PORTAL_ID": "9"}},
        "CHOOSE_ACCOUNT": lambda request: request.headers["X-Tenant"],
    }
    for number in range(10):
        assert fetch_identity(ada(), HTTP_X_TENANT=f"x{number}\nERROR").status_code == 200
        assert render_django(request_by(ada(), HTTP_X_TENANT=f"x{number}\nERROR")) == ""
    ours = [record for record in caplog.records if record.name.startswith("hubspot_identify")]
    assert [record.levelno for record in ours] == [logging.ERROR] * 2
    assert all("x0" in record.getMessage() and "\n" not in record.getMessage() for record in ours)
    assert len(_last_logged) == 2


def test_debug_page_of_a_failing_callable_shows_no_secret(settings: Settings, client: Client) -> None:
    """Django's debug page for an exception of the site's own code contains no key, token or e-mail address."""
    keep_token(ada())

    def broken(request: object) -> bool:
        raise LookupError("the site's mistake")

    settings.DEBUG = True
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "IMPERSONATED": broken}
    settings.MIDDLEWARE = [f"{__name__}.as_ada"]
    client.raise_request_exception = False
    page = client.get("/hubspot/identity/", headers={"X-HubSpot-Identify": "1"})
    assert page.status_code == 500
    assert b"the site&#x27;s mistake" in page.content
    for secret in ("key-of-the-tests", "token-of-ada", "ada@example.com"):
        assert secret not in page.content.decode()


def as_ada(get_response: Any) -> Any:
    def handle(request: Any) -> Any:
        request.user = ada()
        return get_response(request)

    return handle


def test_anonymous_visitors_cause_no_call(hubspot: TokenServer) -> None:
    """Without a session, requests start neither a call nor a worker."""
    for _ in range(10):
        assert services.identify(request_by(AnonymousUser())) == identification.ANONYMOUS
    assert hubspot.calls == 0
    assert join_threads(0)
