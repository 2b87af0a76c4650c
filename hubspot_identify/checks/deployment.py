"""System checks of the server that a site runs on, for ``check --deploy``: caches, middleware, headers, threads."""

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
from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import connections, router

from ..conf import Config
from ..delivery import endpoint_url, is_inline
from .settings import TAG, configs_of, unique

OURS = "hubspot_identify.middleware.IdentifiedPageMiddleware"
SECURITY = "django.middleware.security.SecurityMiddleware"
#: Policies that leave the chat's iframe without the address of the page it stands in.
HIDING_POLICIES = frozenset({"no-referrer", "same-origin"})
#: What the libraries of Redis and memcached call the time for which they wait for an answer.
READ_TIMEOUTS = frozenset({"socket_timeout", "timeout", "receive_timeout"})
#: What Django keeps at most in a cache of its own, if it is not told otherwise.
DEFAULT_MAX_ENTRIES = 300


@register(TAG, Tags.security, deploy=True)
def check_deployment(**kwargs: Any) -> list[CheckMessage]:
    """The server: caches, middleware, headers, threads."""
    source = getattr(settings, "HUBSPOT_IDENTIFY", None)
    configs = configs_of(source)
    messages: list[CheckMessage] = []
    for config in configs:
        messages += [*_cache_problems(config.cache), *_page_cache_problems(config)]
    if configs:
        messages += [*_referrer_problems(), *_thread_problems()]
    return unique(messages)


def _cache_problems(alias: str) -> Iterator[CheckMessage]:
    try:
        cache = caches[alias]
    except InvalidCacheBackendError:
        return  # the site itself will say so
    where = f"CACHES[{alias!r}]"
    problem = sharing_problem(cache)
    if problem:
        yield Warning(
            f"{where} {problem}",
            hint=f"Use Redis, memcached or the database in {where}; or write the alias of such a cache into "
            "HUBSPOT_IDENTIFY['CACHE'].",
            id="hubspot_identify.W004",
        )
    entries = getattr(cache, "_max_entries", 0)
    if isinstance(cache, (LocMemCache, FileBasedCache, BaseDatabaseCache)) and entries <= DEFAULT_MAX_ENTRIES:
        yield Warning(
            f"{where} keeps {entries} entries at most, so with more visitors than that tokens are forgotten and made "
            "again.",
            hint=f'Write "OPTIONS": {{"MAX_ENTRIES": 100_000}} into {where}.',
            id="hubspot_identify.W005",
        )
    if isinstance(cache, BaseDatabaseCache):
        yield from _database_cache_problems(where, router.db_for_write(cache.cache_model_class))
    if _is_networked(cache) and not _has_read_timeout(settings.CACHES[alias]):
        yield Warning(
            f"{where} has no timeout, so a server that hangs would hold up the pages.",
            hint=f"Write {_timeout_options(cache)} into {where}.",
            id="hubspot_identify.W008",
        )


def sharing_problem(cache: BaseCache) -> str | None:
    """Why a cache is no meeting place for the processes of a site, or ``None``."""
    if isinstance(cache, DummyCache):
        return "is the dummy cache, which keeps nothing: every page view would have a token made."
    if isinstance(cache, LocMemCache):
        return "is the memory of one process: the others make tokens of their own, and don't know of its trouble."
    if isinstance(cache, FileBasedCache):
        return "is a cache of files, whose locks don't hold: several processes make a token for the same visitor."
    return None


def _database_cache_problems(where: str, database: str) -> Iterator[CheckMessage]:
    connection = connections[database]
    there = f"DATABASES[{database!r}]"
    if connection.vendor == "sqlite" and _transaction_mode(connection.settings_dict) != "IMMEDIATE":
        yield Warning(
            f"{where} is in the SQLite database {database!r}, which loses writes that come at the same time.",
            hint=f'Write "OPTIONS": {{"transaction_mode": "IMMEDIATE", "timeout": 20}} into {there}.',
            id="hubspot_identify.W006",
        )
    if connection.settings_dict["ATOMIC_REQUESTS"]:
        yield Warning(
            f"{where} is in the database {database!r}, which has ATOMIC_REQUESTS: what a request writes into the "
            "cache is seen by the others when it is over, and they wait for it.",
            hint="Use Redis or memcached, or put the cache into a database of its own with a router.",
            id="hubspot_identify.W007",
        )


def _transaction_mode(database: Mapping[str, Any]) -> str:
    return str(database["OPTIONS"].get("transaction_mode") or "").upper()


def _class_names(cache: BaseCache) -> str:
    return " ".join(f"{one.__module__}.{one.__qualname__}" for one in type(cache).__mro__)


def _is_networked(cache: BaseCache) -> bool:
    return re.search(r"redis|valkey|memcached|pymemcache|pylibmc", _class_names(cache).lower()) is not None


def _has_read_timeout(options: Mapping[str, Any]) -> bool:
    """Whether one is among the options of a cache, whatever its library calls it, or in the address."""
    names = [*_names(options.get("OPTIONS", {})), *re.findall(r"[?&](\w+)=", str(options.get("LOCATION", "")))]
    return any(name.lower().lstrip("_") in READ_TIMEOUTS for name in names)


def _names(options: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in options.items():
        yield str(name)
        if isinstance(value, Mapping):
            yield from _names(value)


def _timeout_options(cache: BaseCache) -> str:
    names = _class_names(cache)
    if "django_redis." in names:
        return '"OPTIONS": {"SOCKET_CONNECT_TIMEOUT": 0.5, "SOCKET_TIMEOUT": 0.5}'
    if "redis" in names.lower():
        return '"OPTIONS": {"socket_connect_timeout": 0.5, "socket_timeout": 0.5}'
    if "PyLibMC" in names:
        return '"OPTIONS": {"behaviors": {"connect_timeout": 500, "receive_timeout": 500_000}}'
    return '"OPTIONS": {"connect_timeout": 0.5, "timeout": 0.5}'


def _page_cache_problems(config: Config) -> Iterator[CheckMessage]:
    if not is_inline(config, endpoint_url(config)):
        return
    middleware = list(settings.MIDDLEWARE)
    if OURS not in middleware:
        problem = "is not in MIDDLEWARE: browsers and the caches on the way may store them."
    elif middleware[0] != OURS:
        problem = "is not the first in MIDDLEWARE: another middleware may change the headers after it."
    elif middleware[-1] != OURS:
        problem = "is not the last in MIDDLEWARE: a cache among the middleware may store the page before it is private."
    else:
        return
    yield Warning(
        f"Pages contain the identity of their visitor (inline delivery), and {OURS.rpartition('.')[2]} {problem}",
        hint=f'Put "{OURS}" into MIDDLEWARE twice, as the first and as the last.',
        id="hubspot_identify.W009",
    )


def _referrer_problems() -> Iterator[CheckMessage]:
    policy = settings.SECURE_REFERRER_POLICY
    if policy is None or SECURITY not in settings.MIDDLEWARE:
        return
    # A browser takes the last that it knows.
    last = [part.strip() for part in (policy.split(",") if isinstance(policy, str) else policy)][-1]
    if last in HIDING_POLICIES:
        yield Warning(
            f"SECURE_REFERRER_POLICY is {last!r}, so HubSpot's chat does not learn which site it stands in, which it "
            "needs to trust the page.",
            hint='Write SECURE_REFERRER_POLICY = "strict-origin-when-cross-origin" into the settings.',
            id="hubspot_identify.W010",
        )


def _thread_problems() -> Iterator[CheckMessage]:
    uwsgi = sys.modules.get("uwsgi")  # the server puts it there
    if uwsgi is None:
        return
    options = {name.decode() if isinstance(name, bytes) else name for name in getattr(uwsgi, "opt", {})}
    if not options & {"enable-threads", "threads"}:
        yield Warning(
            "uWSGI runs without threads, so no token is ever fetched behind a page.",
            hint="Write enable-threads = true into the settings of uWSGI.",
            id="hubspot_identify.W011",
        )
