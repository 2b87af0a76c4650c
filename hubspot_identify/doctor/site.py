"""The doctor's checks of the site itself: settings, cache, Content-Security-Policy, users."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.cache import caches
from django.core.checks import ERROR as CHECK_ERROR
from django.core.checks import WARNING as CHECK_WARNING
from django.core.checks import run_checks
from django.core.exceptions import FieldError, ImproperlyConfigured
from django.db import DatabaseError

from .._tokens.account import Account
from .._tokens.entries import PREFIX
from ..checks.deployment import sharing_problem
from ..checks.settings import TAG
from ..conf import Config
from ..csp import sources
from ..delivery import endpoint_url, is_inline
from ..eligibility import is_verified
from ..exceptions import InvalidVisitorError
from ..visitors import Visitor
from .findings import ERROR, GUIDE, NOTE, OK, WARNING, Finding

#: For this many months HubSpot supports a version of its API that is named after its month.
SUPPORT_MONTHS = 18
#: The last month in which HubSpot supports the versions v1 to v3.
END_OF_V3 = date(2027, 9, 1)
#: The doctor warns for this many days before a version's support ends.
WARNING_DAYS = 183


def run_system_checks() -> Iterator[Finding]:
    """Run the system checks, including those for deployment."""
    messages = [
        message for message in run_checks(tags=[TAG], include_deployment_checks=True) if not message.is_silenced()
    ]
    for message in messages:
        level = ERROR if message.level >= CHECK_ERROR else WARNING if message.level >= CHECK_WARNING else NOTE
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
    if is_inline(config, url):
        text = f"Pages contain the identity, and wait at most {config.page_wait:g} s for a token."
    else:
        text = f"The browser fetches the identity from {url}, so pages do not wait for it."
    return Finding("delivery", OK, text)


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
        return Finding("cache", ERROR, text, "Check that its server is running and can be reached from this machine.")
    name = type(cache).__name__
    if not stored:
        text = f"The cache {alias!r} ({name}) does not store values."
        return Finding("cache", ERROR, text, "Use Redis, memcached or the database.")
    # The system checks warn about a cache that is not shared.
    scope = "but only for one process or host" if sharing_problem(cache) else "and all processes share it"
    return Finding("cache", OK, f"The cache {alias!r} ({name}) works, {scope}.", seconds=seconds)


def check_breaker(account: Account) -> Iterator[Finding]:
    """Report an open circuit breaker."""
    state = account.breaker.state
    remaining = state.until - time.time()
    if state.kind and remaining > 0:
        text = f"After earlier failures, the site does not call HubSpot for another {remaining:.0f} s ({state.kind})."
        yield Finding("breaker", NOTE, text)


def check_csp(config: Config) -> Iterator[Finding]:
    """Check that the Content-Security-Policy in the settings allows the chat."""
    policy = _policy_in_settings()
    if policy is None:
        return
    missing = [
        f"{directive} {' '.join(blocked)}"
        for directive, needed in sources(config.region).items()
        if (blocked := _blocked_sources(directive, needed, policy))
    ]
    if not missing:
        yield Finding("csp", OK, "The Content-Security-Policy allows the chat.")
        return
    text = f"The Content-Security-Policy blocks parts of the chat. Missing sources: {'; '.join(missing)}"
    yield Finding("csp", WARNING, text, f'Merge hubspot_identify.csp.sources("{config.region}") into the policy.')


def _policy_in_settings() -> Mapping[str, Any] | None:
    """Return the policy of Django's own middleware or of django-csp 4, or ``None`` if neither is configured."""
    policy = getattr(settings, "SECURE_CSP", None) or getattr(settings, "CONTENT_SECURITY_POLICY", None)
    if not isinstance(policy, Mapping):
        return None
    directives = policy.get("DIRECTIVES", policy)
    return directives if isinstance(directives, Mapping) else None


def _blocked_sources(directive: str, needed: list[str], policy: Mapping[str, Any]) -> list[str]:
    allowed = policy.get(directive, policy.get("default-src"))
    if allowed is None:
        return []
    texts = [str(source) for source in ([allowed] if isinstance(allowed, str) else allowed)]
    known = {source.removeprefix("https://") for text in texts for source in text.split()}
    if directive == "script-src" and "'strict-dynamic'" in known:
        return []  # Scripts that the app's own script loads are allowed then.
    allows_all_https = bool(known & {"*", "https:"})
    return [
        source
        for source in needed
        if source.removeprefix("https://") not in known and not (allows_all_https and source.startswith("https:"))
    ]


def check_users(visitor: Visitor, config: Config) -> Iterator[Finding]:
    """Check that users with the visitor's address would be identified, as far as possible without a request."""
    try:
        model = get_user_model()
        field = model.get_email_field_name()
        users = list(model._default_manager.filter(**{f"{field}__iexact": visitor.email})[:5])
    except (ImproperlyConfigured, AttributeError, FieldError, DatabaseError) as error:
        yield Finding("user", NOTE, f"The users cannot be queried ({type(error).__name__}).")
        return
    if not users:
        yield Finding("user", NOTE, "No user has this address.")
    for user in users:
        reason = _reason_not_identified(user, config)
        text = f"This user is not identified: {reason}" if reason else "This user is identified when logged in."
        yield Finding("user", WARNING if reason else OK, text if len(users) == 1 else f"{text} [{user.pk}]")


def _reason_not_identified(user: Any, config: Config) -> str | None:
    try:
        visitor = config.visitor(user, None)
    except InvalidVisitorError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - the site's callable may raise anything
        return f"VISITOR raises {type(error).__name__} when called without a request."
    if not isinstance(visitor, Visitor):
        return f"VISITOR returned {'None' if visitor is None else f'a {type(visitor).__name__}'}."
    try:
        verified = is_verified(user, visitor, config)
    except Exception as error:  # noqa: BLE001 - the site's callable may raise anything
        return f"EMAIL_VERIFIED raises {type(error).__name__}."
    if not verified:
        return "EMAIL_VERIFIED is False." if config.email_verified is False else "The address is not verified."
    return None
