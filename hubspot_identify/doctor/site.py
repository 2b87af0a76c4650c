"""The doctor's checks of the site itself: settings, static files, cache."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from datetime import date

from django.conf import settings
from django.contrib.staticfiles.storage import StaticFilesStorage, staticfiles_storage
from django.core.cache import InvalidCacheBackendError, caches
from django.core.checks import ERROR as CHECK_ERROR
from django.core.checks import WARNING as CHECK_WARNING
from django.core.checks import run_checks
from django.core.files.storage import storages
from django.db import DatabaseError

from .._tokens.account import Account
from .._tokens.entries import PREFIX
from ..checks.deployment import sharing_problem
from ..checks.settings import TAG
from ..conf import Config
from ..delivery import ROUTE, endpoint_url, is_inline
from ..widget import SCRIPT
from .findings import ERROR, GUIDE, NOTE, OK, WARNING, Finding

#: For this many months HubSpot supports a version of its API that is named after its month.
SUPPORT_MONTHS = 18
#: The last month in which HubSpot supports the versions v1 to v3.
END_OF_V3 = date(2027, 9, 1)
#: The doctor warns for this many days before a version's support ends.
WARNING_DAYS = 183
#: The highest ``RATE_LIMIT`` for an account that HubSpot allows 190 calls in any 10 s.
PROFESSIONAL_RATE_LIMIT = 17
#: System checks that are not shown, because the doctor tests the same things and has findings of its own.
TRIED = frozenset(f"{TAG}.{number}" for number in ("E004", "E005", "E007", "I001", "W013", "W016"))


def run_system_checks() -> Iterator[Finding]:
    """Run the system checks, including those for deployment, except for the ones in ``TRIED``."""
    messages = [
        message for message in run_checks(tags=[TAG], include_deployment_checks=True) if not message.is_silenced()
    ]
    for message in messages:
        level = ERROR if message.level >= CHECK_ERROR else WARNING if message.level >= CHECK_WARNING else NOTE
        if message.id not in TRIED:
            yield Finding(str(message.id), level, message.msg, message.hint or "")
    if not messages:
        yield Finding("checks", OK, "The system checks found no problems.")


def check_api_version(config: Config) -> Finding:
    """Check until when HubSpot supports the version of its API."""
    dated = re.search(r"/(\d{4})-(\d{2})/", config.token_path)
    end = END_OF_V3
    if dated:
        months = int(dated[1]) * 12 + int(dated[2]) - 1 + SUPPORT_MONTHS
        end = date(months // 12, months % 12 + 1, 1)
    elif not re.search(r"/v[123]/", config.token_path):
        text = "TOKEN_PATH contains no known version of the API."
        return Finding("path", NOTE, text, "Compare it with HubSpot's documentation.", GUIDE)
    text = f"HubSpot supports this version of the API until {end:%Y-%m}."
    if (end - date.today()).days > WARNING_DAYS:
        return Finding("path", OK, text)
    return Finding("path", WARNING, text, "Set TOKEN_PATH to the path of a newer version.", GUIDE)


def check_region(config: Config) -> Iterator[Finding]:
    """Compare ``REGION`` with the data centre in the key of a private app. Other keys do not contain one."""
    key = config.api_key if isinstance(config.api_key, str) else ""
    match = re.match(r"pat-([a-z]{2}[0-9])-", key)
    if match and match[1] != config.region and config.portal_id:
        text = f"The key belongs to the data centre {match[1]}, but the chat is loaded from {config.region}."
        yield Finding("region", WARNING, text, f'Set REGION to "{match[1]}".')


def check_delivery(config: Config) -> Finding:
    """Report how the identity reaches the browser."""
    url = endpoint_url(config)
    if url is None and (config.load_on == "interaction" or not is_inline(config)):
        text = "The tag renders no chat, because the URLconf does not include the app's URLs."
        hint = f"Add {ROUTE} to urlpatterns in {settings.ROOT_URLCONF}."
        return Finding("delivery", ERROR, text, hint)
    if is_inline(config):
        text = f"Pages contain the identity, and wait at most {config.page_wait:g} s for a token."
    else:
        text = f"The browser fetches the identity from {url}, so pages do not wait for it."
    return Finding("delivery", OK, text)


def check_script() -> tuple[str, list[Finding]]:
    """Check that the app's script has a URL, and that ``collectstatic`` has copied it.

    Returns:
        The URL, or ``""``, and the findings.
    """
    hint = "Run manage.py collectstatic."
    try:
        url = staticfiles_storage.url(SCRIPT)
        is_missing = (
            type(storages["staticfiles"]) is StaticFilesStorage
            and bool(settings.STATIC_ROOT)
            and not settings.DEBUG  # runserver serves the script from the app's folder
            and not staticfiles_storage.exists(SCRIPT)
        )
    except Exception as error:  # noqa: BLE001 - depends on the site's storage
        text = f"The URL of the app's script cannot be determined ({type(error).__name__})."
        return "", [Finding("static", ERROR, text, hint if settings.STATIC_URL else "Set STATIC_URL.")]
    return url, [Finding("static", WARNING, "The app's script is not in STATIC_ROOT.", hint)] if is_missing else []


def check_rate_limit(config: Config) -> Iterator[Finding]:
    """Report that a higher rate limit is possible for some accounts."""
    if config.rate_limit < PROFESSIONAL_RATE_LIMIT:
        calls = 10 * config.rate_limit
        text = f"RATE_LIMIT allows {calls} calls in 10 s on average, which leaves room for other integrations."
        hint = (
            "If the account is Professional or Enterprise and has no other integrations, set RATE_LIMIT to "
            f"{PROFESSIONAL_RATE_LIMIT}."
        )
        yield Finding("rate", NOTE, text, hint)


def check_cache(alias: str) -> Finding:
    """Check that the cache stores a value, and how fast it returns it."""
    key, value = f"{PREFIX}doctor:{secrets.token_hex(8)}", secrets.token_hex(8)
    try:
        cache = caches[alias]
        cache.set(key, value, timeout=60)
        started = time.perf_counter()  # Only the read is measured, on an open connection, as it happens for each page.
        stored = cache.get(key) == value
        seconds = time.perf_counter() - started
        cache.delete(key)
    except Exception as error:  # noqa: BLE001 - depends on the back end; its text may contain a password
        text = f"The cache {alias!r} fails ({type(error).__name__})."
        return Finding("cache", ERROR, text, _cache_hint(alias, error))
    name = type(cache).__name__
    if not stored:
        text = f"The cache {alias!r} ({name}) does not store values."
        return Finding("cache", ERROR, text, "Use Redis, memcached or the database.")
    # The system checks warn about a cache that is not shared.
    scope = "but only for one process or host" if sharing_problem(cache) else "and all processes share it"
    return Finding("cache", OK, f"The cache {alias!r} ({name}) works, {scope}.", seconds=seconds)


def _cache_hint(alias: str, error: Exception) -> str:
    # Django reports a back end that it cannot import with an error of its own, which has the other as its cause.
    cause = error.__cause__ if isinstance(error, InvalidCacheBackendError) else error
    if isinstance(cause, ModuleNotFoundError) and cause.name and "." not in cause.name:
        return f"Install the library of the cache: pip install {cause.name.replace('_', '-')}"
    if isinstance(error, (InvalidCacheBackendError, ImportError)):
        return f"Check BACKEND in CACHES[{alias!r}]."
    if isinstance(error, DatabaseError):
        return "Run manage.py createcachetable, and check that the database can be reached."
    return "Check that its server is running and can be reached from this machine."


def check_breaker(account: Account) -> Iterator[Finding]:
    """Report an open circuit breaker."""
    state = account.breaker.state
    remaining = state.until - time.time()
    if state.kind and remaining > 0:
        text = f"After earlier failures, the site does not call HubSpot for another {remaining:.0f} s ({state.kind})."
        yield Finding("breaker", NOTE, text)
