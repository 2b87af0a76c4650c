"""System checks of the server for ``check --deploy``: caches, middleware, headers, threads."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.checks import CheckMessage, Info, Tags, Warning, register
from django.db import connections, router

from ..conf import Config
from ..delivery import is_inline
from .accounts import enabled_configs, is_disabled, without_duplicates
from .settings import IDENTIFIED_PAGE_MIDDLEWARE, TAG

SECURITY_MIDDLEWARE = "django.middleware.security.SecurityMiddleware"
#: Referrer policies that hide the URL of the page from the chat's iframe.
HIDING_POLICIES = frozenset({"no-referrer", "same-origin"})
#: The names of read timeouts in the libraries for Redis and memcached. pylibmc's ``receive_timeout`` has no effect.
READ_TIMEOUTS = frozenset({"socket_timeout", "timeout", "poll_timeout"})
#: How many entries Django's own caches keep by default.
DEFAULT_MAX_ENTRIES = 300


@register(TAG, Tags.security, deploy=True)
def check_deployment(**kwargs: Any) -> list[CheckMessage]:
    """Check the server for each account. If ``ENABLED`` is ``False``, only that is reported."""
    source = getattr(settings, "HUBSPOT_IDENTIFY", None)
    configs = enabled_configs(source)
    messages: list[CheckMessage] = []
    if is_disabled(source):
        messages.append(
            Info(
                "ENABLED is False in HUBSPOT_IDENTIFY, so no page has the chat.",
                hint='Write "ENABLED": True, or set the environment variable that ENABLED depends on. If you do not '
                "want the chat, add hubspot_identify.I001 to SILENCED_SYSTEM_CHECKS.",
                id="hubspot_identify.I001",
            )
        )
    for config in configs:
        messages += _check_cache(config.cache)
        messages += _check_middleware(config)
    if configs:
        messages += _check_referrer_policy()
        messages += _check_threads()
    return without_duplicates(messages)


def _check_cache(alias: str) -> Iterator[CheckMessage]:
    try:
        cache = caches[alias]
    except (InvalidCacheBackendError, ImportError):
        return  # the site reports it itself
    name = f"CACHES[{alias!r}]"
    problem = sharing_problem(cache)
    if problem:
        yield Warning(
            f"{name} {problem}",
            hint=f"Use Redis, memcached or the database for {name}, or set HUBSPOT_IDENTIFY['CACHE'] to the alias of "
            "such a cache.",
            id="hubspot_identify.W004",
        )
    entries = getattr(cache, "_max_entries", 0)
    if isinstance(cache, (LocMemCache, FileBasedCache, BaseDatabaseCache)) and entries <= DEFAULT_MAX_ENTRIES:
        yield Warning(
            f"{name} keeps at most {entries} entries. If there are more visitors, their tokens are removed and must be "
            "created again.",
            hint=f'Add {{"MAX_ENTRIES": 100_000}} to "OPTIONS" of {name}.',
            id="hubspot_identify.W005",
        )
    if isinstance(cache, BaseDatabaseCache):
        yield from _check_cache_database(name, router.db_for_write(cache.cache_model_class))
    if _is_networked(cache) and not _has_read_timeout(settings.CACHES[alias]):
        yield Warning(
            f"{name} has no timeout, so pages have to wait if its server does not respond.",
            hint=f'Add {_timeout_options(cache)} to "OPTIONS" of {name}.',
            id="hubspot_identify.W008",
        )


def sharing_problem(cache: BaseCache) -> str | None:
    """Return why the processes of a site do not share a cache reliably, or ``None``."""
    if isinstance(cache, DummyCache):
        return "is a dummy cache, which stores nothing: each process keeps a limited number of tokens of its own."
    if isinstance(cache, LocMemCache):
        return "is local to one process: other processes create their own tokens and do not share the circuit breaker."
    if isinstance(cache, FileBasedCache):
        return "is a file-based cache, which has no reliable locks: several processes create a token for one visitor."
    return None


def _check_cache_database(name: str, alias: str) -> Iterator[CheckMessage]:
    connection = connections[alias]
    if connection.vendor == "sqlite" and _transaction_mode(connection.settings_dict) != "IMMEDIATE":
        yield Warning(
            f"{name} is in the SQLite database {alias!r}, which loses concurrent writes.",
            hint=f'Add {{"transaction_mode": "IMMEDIATE", "timeout": 20}} to "OPTIONS" of DATABASES[{alias!r}].',
            id="hubspot_identify.W006",
        )
    if connection.settings_dict["ATOMIC_REQUESTS"]:
        yield Warning(
            f"{name} is in the database {alias!r}, which has ATOMIC_REQUESTS. Other processes see what a request "
            "writes to the cache only when the request ends, and have to wait for it.",
            hint="Use Redis or memcached, or use a router to put the cache into a database of its own.",
            id="hubspot_identify.W007",
        )


def _transaction_mode(database: Mapping[str, Any]) -> str:
    return str(database["OPTIONS"].get("transaction_mode") or "").upper()


def _class_names(cache: BaseCache) -> str:
    return " ".join(f"{base.__module__}.{base.__qualname__}" for base in type(cache).__mro__)


def _is_networked(cache: BaseCache) -> bool:
    return re.search(r"redis|valkey|memcached|pymemcache|pylibmc", _class_names(cache).lower()) is not None


def _has_read_timeout(cache: Mapping[str, Any]) -> bool:
    """Return whether the options or the URL of a cache contain a read timeout, whatever its library calls it."""
    names = [*_option_names(cache.get("OPTIONS", {})), *re.findall(r"[?&](\w+)=", str(cache.get("LOCATION", "")))]
    return any(name.lower().lstrip("_") in READ_TIMEOUTS for name in names)


def _option_names(options: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in options.items():
        yield str(name)
        if isinstance(value, Mapping):
            yield from _option_names(value)


def _timeout_options(cache: BaseCache) -> str:
    names = _class_names(cache)
    if "django_redis." in names or "django_valkey." in names:
        return '{"SOCKET_CONNECT_TIMEOUT": 0.5, "SOCKET_TIMEOUT": 0.5}'
    if "redis" in names.lower():
        return '{"socket_connect_timeout": 0.5, "socket_timeout": 0.5}'
    if "PyLibMC" in names:
        return '{"behaviors": {"connect_timeout": 500, "_poll_timeout": 500}}'
    return '{"connect_timeout": 0.5, "timeout": 0.5}'


def _check_middleware(config: Config) -> Iterator[CheckMessage]:
    if not is_inline(config):
        return
    middleware = list(settings.MIDDLEWARE)
    if IDENTIFIED_PAGE_MIDDLEWARE not in middleware:
        problem = "is not in MIDDLEWARE: browsers and proxies may store the pages."
    elif middleware[0] != IDENTIFIED_PAGE_MIDDLEWARE:
        problem = "is not the first in MIDDLEWARE: another middleware may change the headers that it sets."
    elif middleware[-1] != IDENTIFIED_PAGE_MIDDLEWARE:
        problem = "is not the last in MIDDLEWARE: a caching middleware may store the page before it is private."
    else:
        return
    yield Warning(
        f"Pages contain the identity of their visitor (inline delivery), but IdentifiedPageMiddleware {problem}",
        hint=f'Put "{IDENTIFIED_PAGE_MIDDLEWARE}" into MIDDLEWARE twice: as the first and as the last.',
        id="hubspot_identify.W009",
    )


def _check_referrer_policy() -> Iterator[CheckMessage]:
    policy = settings.SECURE_REFERRER_POLICY
    if policy is None or SECURITY_MIDDLEWARE not in settings.MIDDLEWARE:
        return
    # Browsers apply the last policy that they know.
    last = [part.strip() for part in (policy.split(",") if isinstance(policy, str) else policy)][-1]
    if last in HIDING_POLICIES:
        yield Warning(
            f"SECURE_REFERRER_POLICY is {last!r}, which hides the site from HubSpot's chat. The chat needs the site's "
            "address to trust the page.",
            hint='Add SECURE_REFERRER_POLICY = "strict-origin-when-cross-origin" to the settings.',
            id="hubspot_identify.W010",
        )


def _check_threads() -> Iterator[CheckMessage]:
    uwsgi = sys.modules.get("uwsgi")  # exists only inside uWSGI
    if uwsgi is None:
        return
    options = {name.decode() if isinstance(name, bytes) else name for name in getattr(uwsgi, "opt", {})}
    if not options & {"enable-threads", "threads"}:
        yield Warning(
            "uWSGI runs without threads, so the app cannot fetch tokens in the background.",
            hint="Write enable-threads = true in the settings of uWSGI.",
            id="hubspot_identify.W011",
        )
