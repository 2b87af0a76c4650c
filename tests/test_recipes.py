"""The recipes in docs/ on portals, fleets and visitors do what they say, and their numbers are the code's."""

from __future__ import annotations

import ast
import math
import os
import pickle
import re
import sys
import types
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import caches
from django.db import connection
from django.http import HttpRequest, HttpResponseBase
from django.template import Context, Template
from django.test import Client
from docutils.core import publish_doctree
from pytest_django import Settings
from support.manual import code_blocks, text_of
from support.pages import ada, render_django, request_by, script_attributes

from hubspot_identify.background import MAX_ABANDONED_THREADS, SLOTS
from hubspot_identify.conf import Config, build_config, config_for, get_config
from hubspot_identify.testing import FakeHubSpot, fake_hubspot
from hubspot_identify.tokens import (
    CHANGE_AFTER,
    CLOCK_SKEW,
    DEAD_AFTER,
    HOUR,
    RENEW_AFTER,
    RENEW_SPREAD,
    Entry,
    entry_key,
    profile_digest,
)
from hubspot_identify.tokens import subject as subject_of
from hubspot_identify.visitors import MAX_CONTEXT_SIZE, Visitor, is_verified, visitor_of

PAGES = ["portals", "fleets", "visitors"]
GetResponse = Callable[[HttpRequest], HttpResponseBase]


def words_of(page: str) -> str:
    return " ".join(text_of(page).split())


def block_with(page: str, text: str, language: str = "python") -> str:
    """The one code block of a page that holds a text."""
    (block,) = (block for block in code_blocks(page, language) if text in block)
    return block


def run(page: str, text: str, **names: Any) -> dict[str, Any]:
    """What a block leaves behind, run with these names."""
    exec(block_with(page, text), names)
    return names


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], types.ModuleType]:
    """Makes a block the site's module ``chat``, for dotted paths and imports."""

    def make(page: str, text: str) -> types.ModuleType:
        module = types.ModuleType("chat")
        exec(block_with(page, text), vars(module))
        monkeypatch.setitem(sys.modules, "chat", module)
        return module

    return make


Chat = Callable[[str, str], types.ModuleType]


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_clean(page: str) -> None:
    """Docutils has no complaint, and Python can read every block of it."""
    publish_doctree(text_of(page), settings_overrides={"report_level": 2, "halt_level": 2})
    for block in code_blocks(page):
        ast.parse(block)


# Portals


@pytest.fixture
def two_portals(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> dict[str, Any]:
    """The settings of a site in the world and in the EU."""
    monkeypatch.setenv("HUBSPOT_API_KEY", "key-of-the-world")
    monkeypatch.setenv("HUBSPOT_EU_API_KEY", "key-of-europe")
    found: dict[str, Any] = run("portals", 'os.environ["HUBSPOT_EU_API_KEY"]', os=os)["HUBSPOT_IDENTIFY"]
    settings.HUBSPOT_IDENTIFY = found
    return found


def test_two_portals(two_portals: dict[str, Any]) -> None:
    """Each has its own key and loader; the tag and its endpoint follow the name."""
    assert [get_config(name).api_key for name in ("", "eu")] == ["key-of-the-world", "key-of-europe"]
    page = Template(block_with("portals", "{% load", "html+django")).render(Context({"request": request_by()}))
    attributes = script_attributes(page)
    assert attributes["data-loader"] == "https://js-eu1.hs-scripts.com/7654321.js"
    assert attributes["data-endpoint"] == "/hubspot/identity/eu/"


@pytest.mark.parametrize(
    ("host", "account"),
    [("www.example.com", ""), ("www.example.de", "eu"), ("www.example.fr:8000", "eu"), ("elsewhere.example", "")],
)
def test_portals_by_host(two_portals: dict[str, Any], chat: Chat, host: str, account: str) -> None:
    """The host of the request decides, and a host that nobody thought of gets the settings themselves."""
    chat("portals", "def account_of_host")
    run("portals", '"chat.account_of_host"', HUBSPOT_IDENTIFY=two_portals)
    assert config_for(request_by(headers={"host": host})).account == account


def test_a_portal_for_those_without_chat(two_portals: dict[str, Any]) -> None:
    """The account that is off writes nothing into the page, and the others write on."""
    run("portals", '["nobody"]', HUBSPOT_IDENTIFY=two_portals)
    assert render_django(request_by(), account="nobody") == ""
    assert render_django(request_by(), account="eu") != ""


@pytest.fixture
def sites(settings: Settings, db: None) -> Iterator[Any]:
    """django.contrib.sites, installed and with its table."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django.contrib.sites"]
    from django.contrib.sites.models import Site

    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE django_site (id integer PRIMARY KEY, domain text, name text)")
    yield Site.objects
    Site.objects.clear_cache()


def test_portals_by_site(two_portals: dict[str, Any], settings: Settings, sites: Any) -> None:
    """The site of the host decides, at the price of one query a host."""
    for domain in ("www.example.com", "www.example.de"):
        sites.create(domain=domain, name=domain)
    chooser = run("portals", "get_current_site")["account_of_site"]
    settings.HUBSPOT_IDENTIFY = {**two_portals, "CHOOSE_ACCOUNT": chooser}
    for host, account in {"www.example.com": "", "www.example.de": "eu"}.items():
        assert config_for(request_by(headers={"host": host})).account == account
    with connection.execute_wrapper(lambda *_: pytest.fail("a query")):
        assert config_for(request_by(headers={"host": "www.example.de"})).account == "eu"


def tenant_middleware(get_response: GetResponse) -> GetResponse:
    """As django-tenants' own: the host chooses, and ``public`` is where there is no tenant."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        request.tenant = tenant(request)  # type: ignore[attr-defined]
        return get_response(request)

    return middleware


def tenant(request: HttpRequest) -> SimpleNamespace:
    name, _, domain = request.get_host().partition(".")
    return SimpleNamespace(schema_name=name if domain == "example.com" and name != "www" else "public")


@pytest.fixture
def tenants(chat: Chat, settings: Settings) -> Iterator[FakeHubSpot]:
    """Two tenants, and HubSpot."""
    chat("portals", "account_of_tenant(request)")
    settings.HUBSPOT_IDENTIFY = run("portals", "KEYS = ")["HUBSPOT_IDENTIFY"]
    settings.MIDDLEWARE = [f"{__name__}.tenant_middleware", *settings.MIDDLEWARE]
    with fake_hubspot() as hubspot:
        yield hubspot


@pytest.mark.django_db
def test_tenants(tenants: FakeHubSpot, client: Client) -> None:
    """A tenant's user is identified in that tenant's portal on its hosts, and whatever they ask for, nowhere else."""
    user = ada()
    user.save()
    client.force_login(user)
    asked = {
        (host, account): tenants.identity_of(client, account, SERVER_NAME=f"{host}.example.com") is not None
        for host in ("acme", "globex", "www")
        for account in ("acme", "globex", "public", None)
    }
    assert {key for key, identified in asked.items() if identified} == {
        ("acme", "acme"),
        ("acme", None),
        ("globex", "globex"),
        ("globex", None),
    }
    assert tenants.calls == 2


def test_pages_of_tenants(tenants: FakeHubSpot) -> None:
    """Each tenant's pages have its chat, and those of none have none."""
    portals = {}
    for host in ("acme", "globex", "www"):
        request = request_by(headers={"host": f"{host}.example.com"})
        request.tenant = tenant(request)  # type: ignore[attr-defined]
        portals[host] = re.findall(r"/(\d+)\.js", render_django(request))
    assert portals == {"acme": ["1234567"], "globex": ["7654321"], "www": []}


# Visitors


@pytest.fixture
def configured(settings: Settings) -> Callable[[str, str], Config]:
    """Runs a block that adds to ``HUBSPOT_IDENTIFY``, and makes that the settings."""

    def configure(page: str, text: str) -> Config:
        names = run(page, text, HUBSPOT_IDENTIFY=dict(settings.HUBSPOT_IDENTIFY))
        settings.HUBSPOT_IDENTIFY = names["HUBSPOT_IDENTIFY"]
        return get_config()

    return configure


Configured = Callable[[str, str], Config]


@pytest.mark.parametrize(
    ("is_staff", "address", "expected"),
    [
        (False, "ada@example.com", Visitor("ada@example.com", "Ada", "Lovelace")),
        (True, "ada@example.com", None),
        (False, "", None),
    ],
    ids=["customer", "colleague", "no address"],
)
def test_visitor_of_a_user_model(
    chat: Chat, configured: Configured, is_staff: bool, address: str, expected: Visitor | None
) -> None:
    """Other fields are read, and colleagues and users without an address stay unknown."""
    chat("visitors", "def customer_visitor")
    config = configured("visitors", '"chat.customer_visitor"')
    user = SimpleNamespace(
        is_authenticated=True, is_staff=is_staff, contact_email=address, given_name="Ada", family_name="Lovelace"
    )
    assert visitor_of(request_by(user), config) == expected


def test_users_that_are_not_djangos(chat: Chat, settings: Settings, client: Client) -> None:
    """A member whom only the session knows is identified, and nobody else."""
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    settings.MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware", "chat.member_middleware"]
    module = chat("visitors", "class Member")
    with fake_hubspot(VISITOR=module.member_visitor) as hubspot:
        assert hubspot.identity_of(client) is None
        session = client.session
        session["member_email"] = "ada@example.com"
        session.save()
        client.cookies[settings.SESSION_COOKIE_NAME] = session.session_key
        identity = hubspot.identity_of(client)
    assert identity is not None
    assert identity["email"] == "ada@example.com"


@pytest.mark.parametrize(
    ("confirmed_at", "confirmed", "expected"),
    [
        ("then", "Kim@example.com", True),
        (None, "kim@example.com", False),
        ("then", "former@example.com", False),
        ("then", "\N{KELVIN SIGN}im@example.com", False),
    ],
    ids=["confirmed", "not yet", "changed since", "looks like it"],
)
def test_verified_by_a_callable(
    chat: Chat, configured: Configured, confirmed_at: str | None, confirmed: str, expected: bool
) -> None:
    """The address that was confirmed counts, in any case of letters, and no later one."""
    chat("visitors", "def is_proved")
    config = configured("visitors", '"chat.is_proved"')
    user = SimpleNamespace(email_confirmed_at=confirmed_at, confirmed_email=confirmed)
    assert is_verified(user, Visitor("kim@example.com"), config) is expected


def test_impersonation_of_ones_own(chat: Chat, configured: Configured) -> None:
    """While a colleague acts for the customer nobody is identified."""
    chat("visitors", "def acts_for_customer")
    config = configured("visitors", '"chat.acts_for_customer"')
    request = request_by(ada())
    request.session = {}  # type: ignore[assignment]
    assert visitor_of(request, config) is not None
    request.session = {"acting_colleague": 7}  # type: ignore[assignment]
    assert visitor_of(request, config) is None


@pytest.mark.django_db
def test_context_with_plan_and_locale(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """HubSpot learns plan and locale with the token; a user without an address is still nobody."""
    monkeypatch.setattr(User, "plan", "gold", raising=False)
    monkeypatch.setattr(User, "locale", "de", raising=False)
    visitor = run("visitors", "def visitor_with_plan")["visitor_with_plan"]
    user = ada()
    user.save()
    client.force_login(user)
    with fake_hubspot(VISITOR=visitor) as hubspot:
        assert hubspot.identity_of(client) is not None
    assert [made.context for made in hubspot.visitors] == [(("locale", "de"), ("plan", "gold"))]
    assert visitor(User(pk=2), None) is None


def test_numbers_on_context() -> None:
    """Size and patience are the constants."""
    said = words_of("visitors")
    assert f"{MAX_CONTEXT_SIZE} characters of JSON" in said
    assert f"no sooner than {CHANGE_AFTER / 60:g} minutes" in said


# Fleets


def test_room_in_the_cache(settings: Settings) -> None:
    """The option to copy is the one that gives Django's own caches room."""
    settings.CACHES = run("fleets", "MAX_ENTRIES")["CACHES"]
    assert caches["default"]._max_entries == 100_000


def test_settings_for_serverless(configured: Configured) -> None:
    """The settings to copy are settings, and have the page wait."""
    config = configured("fleets", "PAGE_WAIT")
    assert (config.delivery, config.page_wait) == ("inline", 1.0)


def test_size_of_an_entry() -> None:
    """What an entry takes beside its token, as Django stores it."""
    visitor = Visitor("ada@example.com")
    entry = Entry("t" * 100, 1.8e9, 0.0, profile_digest(visitor))
    assert len(pickle.dumps(entry.as_primitives(entry_key(visitor, get_config())))) - 100 < 300
    assert "some 300 bytes and the token" in words_of("fleets")


def test_numbers_on_users_and_calls() -> None:
    """How many users a portal carries follows from ages and limits."""
    said, config = words_of("fleets"), Config()
    calls = math.ceil(24 * HOUR / (RENEW_AFTER * (1 - RENEW_SPREAD)))
    assert f"at most {calls} a day" in said
    assert f"some {650_000 // calls // 10_000 * 10} 000 visitors" in said
    assert f"``{config.rate_limit}`` by default, which is {config.rate_limit * 3600 // 1000} 000 an hour" in said
    assert f"{100_000 / config.rate_limit / 3600:.1f} hours for 100 000 visitors" in said
    assert 17 * 10 < 190


def test_numbers_on_hosts_and_threads() -> None:
    """Clocks, ages and threads are the constants."""
    said = words_of("fleets")
    assert f"less than {CLOCK_SKEW:g} seconds" in said
    assert f"within {2 * DEAD_AFTER / HOUR:g} hours" in said
    assert (SLOTS, f"given up, {MAX_ABANDONED_THREADS} of them at most" in said) == (2, True)


def test_another_secret_key_starts_anew(settings: Settings) -> None:
    """Neither tokens nor subjects survive it, fallbacks or not; another text as API_KEY costs the tokens alone."""
    visitor, config = Visitor("ada@example.com"), get_config()
    key, subject = entry_key(visitor, config), subject_of(visitor, config)
    other = build_config({**settings.HUBSPOT_IDENTIFY, "API_KEY": "another"})
    assert entry_key(visitor, other) != key
    assert subject_of(visitor, other) == subject
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    assert entry_key(visitor, config) != key
    assert subject_of(visitor, config) != subject
