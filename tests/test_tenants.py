"""Sites with tenants, as with django-tenants: cache keys that depend on the thread, and a URLconf for each host.

Workers store tokens for the right tenant.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path
from django.utils.deprecation import MiddlewareMixin
from pytest_django import Settings
from support.app_settings import configure
from support.caches import CacheBackend
from support.clocks import GENEROUS_TIMEOUT, wait_until
from support.faulty_cache import FaultyCache, refused
from support.logs import logged
from support.pages import keep_token, render_django, script_attributes
from support.server import TokenServer
from support.workers import wait_for_workers

from hubspot_identify import services
from hubspot_identify._tokens.account import get_account
from hubspot_identify._tokens.entries import Entry, VisitorToken, decode_entry
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com", "Ada")
TENANTS = ("acme", "globex")

_current = threading.local()


@contextmanager
def tenant(name: str) -> Iterator[None]:
    """Serve a request of a tenant on this thread."""
    _current.schema = name
    try:
        yield
    finally:
        del _current.schema


def schema_key(key: str, prefix: str, version: int) -> str:
    """Raises on a thread without a tenant, such as a worker."""
    return f"{_current.schema}:{prefix}:{version}:{key}"


def schema_or_public_key(key: str, prefix: str, version: int) -> str:
    """Like that of django-tenants: on a worker thread, the tenant is ``public``."""
    return f"{getattr(_current, 'schema', 'public')}:{prefix}:{version}:{key}"


def set_key_function(settings: Settings, function: Callable[..., str] | str, **cache: object) -> None:
    settings.CACHES = {"default": {**settings.CACHES["default"], **cache, "KEY_FUNCTION": function}}


@pytest.fixture
def cached(settings: Settings, hubspot: TokenServer) -> TokenServer:
    """The token server, and a site whose cache keys depend on the thread."""
    set_key_function(settings, schema_key)
    return hubspot


def entry_of(name: str) -> Entry:
    """Return the cache entry of the visitor as a user of a tenant."""
    key = get_account().entry_key(ADA)
    with tenant(name):
        return decode_entry(caches["default"].get(key), key, time.time())


def fetch(name: str) -> VisitorToken | None:
    """Return the token that a tenant's page gets after a fetch."""
    with tenant(name):
        services.get_token(ADA)
        wait_for_workers()
        return services.get_token(ADA)


@pytest.mark.parametrize(
    ("cache_backend", "function"),
    [
        ("locmem", schema_key),
        ("locmem", schema_or_public_key),
        ("file", schema_key),
        pytest.param("redis", schema_key, marks=pytest.mark.slow),
        pytest.param("memcached", schema_key, marks=pytest.mark.slow),
        pytest.param("database", schema_key, marks=pytest.mark.slow),
    ],
    indirect=["cache_backend"],
)
def test_simultaneous_fetches_of_two_tenants_return_two_tokens(
    hubspot: TokenServer, cache_backend: CacheBackend, settings: Settings, function: Callable[..., str]
) -> None:
    """The tenants have users with the same address, and separate cache entries for them."""
    set_key_function(settings, function)
    hubspot.set_scenario("held")
    for name in TENANTS:
        with tenant(name):
            assert services.get_token(ADA) is None
    assert hubspot.wait_for_calls(2, GENEROUS_TIMEOUT)
    hubspot.release()
    wait_for_workers()
    tokens = []
    for name in TENANTS:
        with tenant(name):
            token = services.get_token(ADA)
        assert token is not None
        tokens.append(token.value)
    assert set(tokens) == set(hubspot.emails_by_token())
    assert [entry_of(name).token for name in (*TENANTS, "public")] == [*tokens, None]


@pytest.mark.parametrize("package", [pytest.param("django_redis", marks=pytest.mark.slow), "django_tenants"])
def test_entry_is_stored_for_the_tenant_with_third_party_packages(
    package: str,
    hubspot: TokenServer,
    settings: Settings,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """django-redis has its own cache back end; django-tenants a function that reads the schema of the connection."""
    pytest.importorskip(package)
    if package == "django_redis":
        location = request.getfixturevalue("redis_url")
        set_key_function(settings, schema_key, BACKEND="django_redis.cache.RedisCache", LOCATION=location)
    else:
        set_key_function(settings, "django_tenants.cache.make_key")
    request.addfinalizer(caches["default"].close)
    database: Any = connections["default"]
    monkeypatch.setattr(database, "schema_name", "acme", raising=False)
    token = fetch("acme")
    assert token is not None
    assert entry_of("acme").token == token.value
    database.schema_name = "globex"
    assert entry_of("globex").token is None


def test_worker_has_its_own_cache_object(cached: TokenServer, settings: Settings) -> None:
    """The app changes its own keys there during a job. Requests and the keys of the site are unaffected."""
    seen: list[Any] = []

    def api_key() -> str:
        seen.append(caches["default"])
        with pytest.raises(AttributeError):
            caches["default"].get("a key of the site")
        return "key"

    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "API_KEY": api_key}
    assert fetch("acme") is not None
    (cache,) = seen
    assert cache is not caches["default"]
    assert cache.key_func is schema_key


def test_key_function_that_raises_on_a_worker_is_not_a_cache_failure(
    cached: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The circuit breaker and the rate limit belong to no tenant. They use Django's default keys then."""
    assert fetch("acme") is not None
    assert not get_account().store.is_down
    assert caplog.records == []


def test_token_is_kept_in_process_if_the_key_function_raises_in_a_request(cached: TokenServer) -> None:
    """The cache cannot be used there."""
    assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is not None
    wait_for_workers()
    assert services.get_token(ADA) is not None


def test_forget_token_applies_to_one_tenant(cached: TokenServer) -> None:
    """The token of the other tenant's user with the same address stays in the cache."""
    tokens = [fetch(name) for name in TENANTS]
    with tenant("acme"):
        services.forget_token(ADA)
    assert [entry_of(name).token for name in TENANTS] == [None, tokens[1] and tokens[1].value]


def test_outage_shows_no_tenant_the_token_of_another(
    settings: Settings, hubspot: TokenServer, faulty_cache: type[FaultyCache]
) -> None:
    """What a process has read is kept for each tenant, although users of two tenants have the same address."""
    set_key_function(settings, schema_key)
    tokens = [fetch(name) for name in TENANTS]
    assert None not in tokens
    faulty_cache.instead["*"] = refused
    found = []
    for name in (*TENANTS, "initech"):
        with tenant(name):
            found.append(services.get_token(ADA))
    assert found == [*tokens, None]


def test_token_that_could_not_be_removed_is_forgotten_for_its_tenant(
    settings: Settings, hubspot: TokenServer, faulty_cache: type[FaultyCache]
) -> None:
    """A page of another tenant does not bring it back."""
    set_key_function(settings, schema_key)
    tokens = [fetch(name) for name in TENANTS]
    faulty_cache.instead["set"] = refused
    with tenant("acme"):
        services.forget_token(ADA)
    with tenant("globex"):
        assert services.get_token(ADA) == tokens[1]
    with tenant("acme"):
        assert services.get_token(ADA) is None


def test_failure_of_an_overdue_call_is_recorded_for_its_tenant(cached: TokenServer, settings: Settings) -> None:
    """The thread that waits for the deadline uses the keys of the tenant."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "TIMEOUT": 0.2}
    cached.set_scenario("held")
    with tenant("acme"):
        assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is None
    assert cached.wait_for_calls(1, GENEROUS_TIMEOUT)
    assert wait_until(lambda: entry_of("acme").retry_at > time.time())
    assert [entry_of(name).retry_at for name in TENANTS[1:]] == [0.0] * len(TENANTS[1:])
    assert entry_of("public").retry_at == 0.0
    cached.release()


class OwnKeysCache(LocMemCache):
    """A cache back end with a ``make_key()`` method that depends on the thread."""

    fallback: str | None = "public"

    def make_key(self, key: str, version: int | None = None) -> str:
        schema = getattr(_current, "schema", self.fallback)
        return f"{schema or _current.schema}:{key}"


@pytest.mark.parametrize("fallback", ["public", None])
def test_entry_is_stored_for_the_tenant_if_the_back_end_makes_its_own_keys(
    hubspot: TokenServer,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fallback: str | None,
) -> None:
    """Requests of the tenant find the token, and those of another tenant do not."""
    monkeypatch.setattr(OwnKeysCache, "fallback", fallback)
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.OwnKeysCache", "LOCATION": "own keys"}}
    token = fetch("acme")
    assert token is not None
    assert [entry_of(name).token for name in TENANTS] == [token.value, None]
    assert caplog.records == []
    assert not get_account().store.is_down


# A URLconf for each type of tenant


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(render_django(request))


PAGE = path("page/", page)
ROUTED = path("hubspot/", include("hubspot_identify.urls"))


class TenantOfHost(MiddlewareMixin):
    """Selects the tenant by the host, and its URLconf with the code of django-tenants."""

    def process_request(self, request: HttpRequest) -> None:
        from django_tenants.middleware.main import TenantMainMiddleware

        request.tenant = SimpleNamespace(schema_name=request.get_host().partition(".")[0])  # type: ignore[attr-defined]
        TenantMainMiddleware.setup_url_routing(request)


@pytest.fixture
def visit(settings: Settings, client: Client) -> Callable[[str, str], Any]:
    """Get a path of a tenant's host as a user with a token. Pages of the public schema have a URLconf of their own."""
    pytest.importorskip("django_tenants")
    settings.ROOT_URLCONF = (PAGE, ROUTED)
    settings.PUBLIC_SCHEMA_URLCONF = (PAGE,)
    settings.MIDDLEWARE = [f"{__name__}.TenantOfHost", *settings.MIDDLEWARE]
    user = User.objects.create_user("ada", ADA.email)
    client.force_login(user)
    keep_token(user, "token-of-ada")
    headers = {"X-HubSpot-Identify": "1"}
    return lambda tenant, path: client.get(path, SERVER_NAME=f"{tenant}.example.com", headers=headers)


@pytest.mark.django_db
@pytest.mark.parametrize("delivery", [None, "deferred"])
def test_public_schema_without_the_apps_urls_has_an_unidentified_chat(
    visit: Callable[[str, str], Any], settings: Settings, caplog: pytest.LogCaptureFixture, delivery: str | None
) -> None:
    """Its pages contain no identity, and this is logged once. The tenants' pages work as usual."""
    configure(settings, DELIVERY=delivery)
    endpoint = script_attributes(visit("acme", "/page/").content.decode())["data-endpoint"]
    assert visit("acme", endpoint).json()["identity"]["token"] == "token-of-ada"
    for _ in range(2):
        content = visit("public", "/page/").content.decode()
        expected = ["data-cfasync", "src", "defer", "data-loader", "data-load-on", "data-widget"]
        assert list(script_attributes(content)) == expected
    assert logged(caplog) == [("hubspot_identify.delivery", logging.ERROR)]


@pytest.mark.django_db
def test_public_schema_with_the_apps_urls_identifies_visitors(
    visit: Callable[[str, str], Any], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """``PUBLIC_SCHEMA_URLCONF`` may include the app's URLs at another path."""
    settings.PUBLIC_SCHEMA_URLCONF = (PAGE, path("chat/", include("hubspot_identify.urls")))
    endpoint = script_attributes(visit("public", "/page/").content.decode())["data-endpoint"]
    assert endpoint == "/chat/identity/"
    assert visit("public", endpoint).json()["identity"]["token"] == "token-of-ada"
    assert logged(caplog) == []
