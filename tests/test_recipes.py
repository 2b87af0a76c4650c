"""The recipes in docs/ about portals, fleets and visitors work, and the numbers there are those of the code."""

from __future__ import annotations

import math
import os
import pickle
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import caches
from django.db import connection
from django.http import HttpRequest, HttpResponseBase
from django.template import Context, Template
from django.test import Client
from docutils import nodes
from pytest_django import Settings
from support.manual import code_blocks, text_of, tree_of
from support.pages import ada, render_django, request_by, script_attributes

from hubspot_identify._tokens.account import Account, account_for, get_account
from hubspot_identify._tokens.entries import (
    CHANGE_AFTER,
    CLOCK_SKEW,
    EXPIRE_AFTER,
    HOUR,
    RENEW_AFTER,
    RENEW_SPREAD,
    Entry,
)
from hubspot_identify._tokens.workers import MAX_ABANDONED_THREADS
from hubspot_identify.conf import Config, build_config, get_config
from hubspot_identify.eligibility import is_verified, visitor_of
from hubspot_identify.testing import FakeHubSpot, fake_hubspot
from hubspot_identify.visitors import MAX_CONTEXT_SIZE, Visitor

GetResponse = Callable[[HttpRequest], HttpResponseBase]


def words_of(page: str) -> str:
    return " ".join(text_of(page if page.isupper() else f"docs/{page}").split())


def block_with(page: str, text: str, language: str = "python") -> str:
    """The only code block of a page that contains a text."""
    (block,) = (block for block in code_blocks(f"docs/{page}", language) if text in block)
    return block


def run(page: str, text: str, **names: Any) -> dict[str, Any]:
    """Run a block with these names, and return the names that are defined afterwards."""
    exec(block_with(page, text), names)
    return names


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], types.ModuleType]:
    """Make a block the module ``chat`` of the site, for dotted paths and imports."""

    def make(page: str, text: str) -> types.ModuleType:
        module = types.ModuleType("chat")
        exec(block_with(page, text), vars(module))
        monkeypatch.setitem(sys.modules, "chat", module)
        return module

    return make


Chat = Callable[[str, str], types.ModuleType]


# Portals


@pytest.fixture
def two_portals(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> dict[str, Any]:
    """The settings of a site with a second portal in the EU."""
    monkeypatch.setenv("HUBSPOT_API_KEY", "key-of-the-world")
    monkeypatch.setenv("HUBSPOT_EU_API_KEY", "key-of-europe")
    found: dict[str, Any] = run("portals", 'os.environ["HUBSPOT_EU_API_KEY"]', os=os)["HUBSPOT_IDENTIFY"]
    settings.HUBSPOT_IDENTIFY = found
    return found


def test_each_portal_has_its_own_key_and_loader(two_portals: dict[str, Any]) -> None:
    """The loader and the endpoint in the page are those of the account that the tag names."""
    assert [get_config(name).api_key for name in ("", "eu")] == ["key-of-the-world", "key-of-europe"]
    page = Template(block_with("portals", "{% load", "html+django")).render(Context({"request": request_by()}))
    attributes = script_attributes(page)
    assert attributes["data-loader"] == "https://js-eu1.hs-scripts.com/7654321.js"
    assert attributes["data-endpoint"] == "/hubspot/identity/eu/"


@pytest.mark.parametrize(
    ("host", "account"),
    [("www.example.com", ""), ("www.example.fr:8000", "eu"), ("elsewhere.example", "")],
)
def test_portal_by_host(two_portals: dict[str, Any], chat: Chat, host: str, account: str) -> None:
    """The host of the request selects the account. An unlisted host uses the top-level settings."""
    chat("portals", "def account_of_host")
    run("portals", '"chat.account_of_host"', HUBSPOT_IDENTIFY=two_portals)
    assert account_for(request_by(headers={"host": host})).config.account == account


def test_account_that_is_disabled_renders_nothing(two_portals: dict[str, Any]) -> None:
    """The pages of the other accounts still have the chat."""
    run("portals", '= {"ENABLED": False}', HUBSPOT_IDENTIFY=two_portals)
    (disabled,) = [name for name, values in two_portals["ACCOUNTS"].items() if values.get("ENABLED") is False]
    assert render_django(request_by(), account=disabled) == ""
    assert render_django(request_by(), account="eu") != ""


@pytest.fixture
def sites(settings: Settings, db: None) -> Iterator[Any]:
    """The manager of ``django.contrib.sites``, which is installed and has its table."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django.contrib.sites"]
    from django.contrib.sites.models import Site

    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE django_site (id integer PRIMARY KEY, domain text, name text)")
    yield Site.objects
    Site.objects.clear_cache()


def test_portal_by_site(two_portals: dict[str, Any], settings: Settings, sites: Any) -> None:
    """The site of the host selects the account, with one query for each host."""
    for domain in ("www.example.com", "www.example.de"):
        sites.create(domain=domain, name=domain)
    chooser = run("portals", "get_current_site")["account_of_site"]
    settings.HUBSPOT_IDENTIFY = {**two_portals, "CHOOSE_ACCOUNT": chooser}
    for host, account in {"www.example.com": "", "www.example.de": "eu"}.items():
        assert account_for(request_by(headers={"host": host})).config.account == account
    with connection.execute_wrapper(lambda *_: pytest.fail("a query")):
        assert account_for(request_by(headers={"host": "www.example.de"})).config.account == "eu"


def tenant_middleware(get_response: GetResponse) -> GetResponse:
    """Like the middleware of django-tenants: the host selects the tenant, or else ``public``."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        vars(request)["tenant"] = tenant(request)
        return get_response(request)

    return middleware


def tenant(request: HttpRequest) -> SimpleNamespace:
    name, _, domain = request.get_host().partition(".")
    return SimpleNamespace(schema_name=name if domain == "example.com" and name != "www" else "public")


@pytest.fixture
def tenants(chat: Chat, settings: Settings) -> Iterator[FakeHubSpot]:
    """A site with two tenants that have a portal, and a fake HubSpot."""
    chat("portals", "account_of_tenant(request)")
    settings.HUBSPOT_IDENTIFY = run("portals", "KEYS = ")["HUBSPOT_IDENTIFY"]
    settings.MIDDLEWARE = [f"{__name__}.tenant_middleware", *settings.MIDDLEWARE]
    with fake_hubspot() as hubspot:
        yield hubspot


@pytest.mark.django_db
def test_user_of_a_tenant_is_identified_only_in_its_portal(tenants: FakeHubSpot, client: Client) -> None:
    """On the host of a tenant only the account of that tenant identifies the user, whatever the URL names."""
    user = ada()
    user.save()
    client.force_login(user)
    identified = {
        (host, account): tenants.identity_of(client, account, SERVER_NAME=f"{host}.example.com") is not None
        for host in ("acme", "globex", "www")
        for account in ("acme", "globex", "public", None)
    }
    assert {key for key, is_identified in identified.items() if is_identified} == {
        ("acme", "acme"),
        ("acme", None),
        ("globex", "globex"),
        ("globex", None),
    }
    assert tenants.calls == 2


@pytest.mark.parametrize("debug", [True, False])
def test_page_of_a_tenant_has_its_chat(tenants: FakeHubSpot, settings: Settings, debug: bool) -> None:
    """Each tenant's pages have the loader of its portal. Tenants without a portal, and other pages, have no chat."""
    settings.DEBUG = debug
    portals = {}
    for host in ("acme", "globex", "initech", "www"):
        request = request_by(headers={"host": f"{host}.example.com"})
        vars(request)["tenant"] = tenant(request)
        portals[host] = re.findall(r"/(\d+)\.js", render_django(request))
    assert portals == {"acme": ["1234567"], "globex": ["7654321"], "initech": [], "www": []}
    assert render_django(request_by()) == ""


@pytest.mark.django_db
def test_endpoint_responds_on_the_host_of_a_tenant_without_a_portal(
    tenants: FakeHubSpot, settings: Settings, client: Client
) -> None:
    """The visitor is anonymous, even with ``DEBUG``, whichever account the URL names."""
    settings.DEBUG = True
    user = ada()
    user.save()
    client.force_login(user)
    for account in (None, "initech", "acme"):
        assert tenants.identity_of(client, account, SERVER_NAME="initech.example.com") is None
    settings.MIDDLEWARE = settings.MIDDLEWARE[1:]
    for account in (None, "acme"):  # on a host without a tenant
        assert tenants.identity_of(client, account) is None


# Visitors


@pytest.fixture
def configured(settings: Settings) -> Callable[[str, str], Config]:
    """Run a block that adds to ``HUBSPOT_IDENTIFY``, and use the result as the settings."""

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
    ids=["customer", "staff", "no address"],
)
def test_visitor_of_a_user_model(
    chat: Chat, configured: Configured, is_staff: bool, address: str, expected: Visitor | None
) -> None:
    """The fields of the model are read. Staff and users without an address are anonymous."""
    chat("visitors", "def customer_visitor")
    config = configured("visitors", '"chat.customer_visitor"')
    user = SimpleNamespace(
        is_authenticated=True, is_staff=is_staff, contact_email=address, given_name="Ada", family_name="Lovelace"
    )
    assert visitor_of(request_by(user), config) == expected


def test_user_without_djangos_authentication(chat: Chat, settings: Settings, client: Client) -> None:
    """A member whose address is in the session is identified. Other visitors are anonymous."""
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    settings.MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware", "chat.member_middleware"]
    module = chat("visitors", "class Member")
    with fake_hubspot(VISITOR=module.member_visitor) as hubspot:
        assert hubspot.identity_of(client) is None
        session = client.session
        session["member_email"] = "ada@example.com"
        session.save()
        client.cookies[settings.SESSION_COOKIE_NAME] = str(session.session_key)
        identity = hubspot.identity_of(client)
    assert identity is not None
    assert identity["email"] == "ada@example.com"


@pytest.mark.parametrize(
    ("confirmed_at", "confirmed", "expected"),
    [
        ("2024-01-01", "Kim@example.com", True),
        (None, "kim@example.com", False),
        ("2024-01-01", "former@example.com", False),
        ("2024-01-01", "\N{KELVIN SIGN}im@example.com", False),
    ],
    ids=["confirmed", "not confirmed", "changed", "similar"],
)
def test_only_the_confirmed_address_is_verified(
    chat: Chat, configured: Configured, confirmed_at: str | None, confirmed: str, expected: bool
) -> None:
    """Upper and lower case do not matter. An address that was changed later is not verified."""
    chat("visitors", "def is_proved")
    config = configured("visitors", '"chat.is_proved"')
    user = SimpleNamespace(email_confirmed_at=confirmed_at, confirmed_email=confirmed)
    assert is_verified(user, Visitor("kim@example.com"), config) is expected


NEW_SETTINGS = """
INSTALLED_APPS += ["accounts", "hubspot_identify"]
HUBSPOT_IDENTIFY = {"API_KEY": "key", "PORTAL_ID": "123", "EMAIL_VERIFIED": False}
TEMPLATES[0]["DIRS"] = [BASE_DIR]
DATABASES["default"]["NAME"] = ":memory:"
"""
NEW_URLS = """
from django.urls import include
from django.views.generic import TemplateView

urlpatterns += [
    path("hubspot/", include("hubspot_identify.urls")),
    path("profile/", TemplateView.as_view(template_name="profile.html")),
]
"""


@pytest.mark.slow
@pytest.mark.parametrize("title", ["With django.core.signing", "With django-allauth's account app alone"])
def test_recipe_verifies_addresses_in_a_new_project(tmp_path: Path, title: str) -> None:
    """The code of the section is copied into a new project, in which the tests of the integration pass."""
    (section,) = [each for each in tree_of("docs/visitors").findall(nodes.section) if each[0].astext() == title]
    python = [sys.executable, "-Wignore"]
    subprocess.run([*python, "-m", "django", "startproject", "shop", tmp_path], check=True)
    subprocess.run([*python, "manage.py", "startapp", "accounts"], cwd=tmp_path, check=True)
    files = {"settings.py": tmp_path / "shop/settings.py", "urls.py": tmp_path / "shop/urls.py"}
    append(files["settings.py"], NEW_SETTINGS)
    append(files["urls.py"], NEW_URLS)
    for block in section.findall(nodes.literal_block):
        if "html+django" in block["classes"]:
            append(tmp_path / "profile.html", block.astext())
        else:
            name = block.astext().partition("\n")[0].removeprefix("# ")
            append(files.get(name, tmp_path / name), block.astext())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "shop.settings"}
    for command in (
        ["manage.py", "makemigrations", "accounts"],
        ["manage.py", "check", "--fail-level=WARNING"],
    ):
        subprocess.run([*python, *command], cwd=tmp_path, env=environment, check=True, capture_output=True)
    cases = Path(__file__).parent / "integrations/confirmation_cases.py"
    run = subprocess.run(
        [*python, "-m", "pytest", "-q", "-n", "0", "--ds=shop.settings", "-Wignore::DeprecationWarning", cases],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def append(file: Path, text: str) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"\n{text}\n")


def test_impersonation_of_the_site_makes_the_visitor_anonymous(chat: Chat, configured: Configured) -> None:
    """While staff act for a customer, the visitor is anonymous."""
    chat("visitors", "def acts_for_customer")
    config = configured("visitors", '"chat.acts_for_customer"')
    request: Any = request_by(ada())
    request.session = {}
    assert visitor_of(request, config) is not None
    request.session = {"acting_colleague": 7}
    assert visitor_of(request, config) is None


@pytest.mark.django_db
def test_context_is_sent_with_the_token_request(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """HubSpot gets plan and locale. A user without an address is anonymous."""
    monkeypatch.setattr(User, "plan", "gold", raising=False)
    monkeypatch.setattr(User, "locale", "de", raising=False)
    visitor = run("visitors", "def visitor_with_plan")["visitor_with_plan"]
    user = ada()
    user.save()
    client.force_login(user)
    with fake_hubspot(VISITOR=visitor) as hubspot:
        assert hubspot.identity_of(client) is not None
    assert [seen.context for seen in hubspot.visitors] == [(("locale", "de"), ("plan", "gold"))]
    assert visitor(User(pk=2), None) is None


# Fleets


def test_setting_for_the_size_of_the_cache(settings: Settings) -> None:
    """Django's caches use the option that the manual recommends."""
    settings.CACHES = run("fleets", "MAX_ENTRIES")["CACHES"]
    cache: Any = caches["default"]
    assert cache._max_entries == 100_000


def test_settings_for_serverless_sites(configured: Configured) -> None:
    """The settings are valid, and the page waits for the token."""
    config = configured("fleets", "PAGE_WAIT")
    assert (config.delivery, config.page_wait) == ("inline", 1.0)


def test_numbers_of_the_manual_are_those_of_the_code() -> None:
    """Limits, times and sizes in the text follow from the constants."""
    visitors, fleets, config = words_of("visitors"), words_of("fleets"), Config()
    readme, security = words_of("README"), words_of("SECURITY")
    assert f"after about {RENEW_AFTER / HOUR:g} of its 12 hours" in readme
    assert f"once in about {RENEW_AFTER / HOUR:g} hours" in readme
    assert f"a call in {RENEW_AFTER / HOUR:g} hours" in fleets
    for page in (readme, security):
        assert f"for up to {EXPIRE_AFTER / HOUR:g} hours" in page
    assert f"{MAX_CONTEXT_SIZE} characters" in visitors
    assert f"{CHANGE_AFTER / 60:g} minutes" in visitors

    calls = math.ceil(24 * HOUR / (RENEW_AFTER * (1 - RENEW_SPREAD)))
    assert f"{calls} a day" in fleets
    assert f"{650_000 // calls // 10_000 * 10} 000 visitors" in fleets
    assert f"``{config.rate_limit}``" in fleets
    assert f"{config.rate_limit * 3600 // 1000} 000 an hour" in fleets
    assert f"{100_000 / config.rate_limit / 3600:.1f} hours" in fleets
    assert f"{CLOCK_SKEW:g} seconds" in fleets
    assert f"{2 * EXPIRE_AFTER / HOUR:g} hours" in fleets
    assert f"{MAX_ABANDONED_THREADS} of them" in fleets

    visitor = Visitor("ada@example.com")
    entry = Entry("t" * 100, 1.8e9, 0.0, get_account().profile(visitor))
    size = len(pickle.dumps(entry.as_primitives(get_account().entry_key(visitor)))) - 100
    assert size < 300
    assert "300 bytes" in fleets


def test_changed_secret_key_invalidates_tokens_and_subjects(settings: Settings) -> None:
    """``SECRET_KEY_FALLBACKS`` does not change that. A changed ``API_KEY`` invalidates only the tokens."""
    visitor = Visitor("ada@example.com")
    key, subject = get_account().entry_key(visitor), get_account().subject(visitor)
    other = Account(build_config({**settings.HUBSPOT_IDENTIFY, "API_KEY": "another"}), get_account().store)
    assert other.entry_key(visitor) != key
    assert other.subject(visitor) == subject
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    assert get_account().entry_key(visitor) != key
    assert get_account().subject(visitor) != subject
