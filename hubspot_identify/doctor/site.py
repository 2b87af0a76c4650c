"""What the doctor can see on the site's own side: settings, cache, policy, users."""

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
from django.utils.translation import gettext as _

from .._tokens.breaker import get_breaker
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

#: HubSpot supports a dated version of its API for so long after its month.
SUPPORT_MONTHS = 18
#: The last month of the versions v1 to v3.
END_OF_V3 = date(2027, 9, 1)
SOON_DAYS = 183


def check_checks() -> Iterator[Finding]:
    """What the system checks say, the advice for deployment included."""
    found = [message for message in run_checks(tags=[TAG], include_deployment_checks=True) if not message.is_silenced()]
    for message in found:
        level = ERROR if message.level >= CHECK_ERROR else WARNING if message.level >= CHECK_WARNING else NOTE
        yield Finding(str(message.id), level, message.msg, message.hint or "")
    if not found:
        yield Finding("checks", OK, _("The system checks have nothing to say."))


def check_path(config: Config) -> Finding:
    """How long HubSpot supports the API's version."""
    dated = re.search(r"/(\d{4})-(\d{2})/", config.token_path)
    end = END_OF_V3
    if dated:
        months = int(dated[1]) * 12 + int(dated[2]) - 1 + SUPPORT_MONTHS
        end = date(months // 12, months % 12 + 1, 1)
    elif not re.search(r"/v[123]/", config.token_path):
        return Finding("path", NOTE, _("TOKEN_PATH names no version that the doctor knows."), link=GUIDE)
    text = _("HubSpot supports this version of the API until {month}.").format(month=f"{end:%Y-%m}")
    if (end - date.today()).days > SOON_DAYS:
        return Finding("path", OK, text)
    hint = _("Write the path of a newer version into TOKEN_PATH.")
    return Finding("path", WARNING, text, hint, GUIDE)


def check_region(config: Config) -> Iterator[Finding]:
    """Private apps have keys that name the data centre. It's a hint only: other credentials don't."""
    key = config.api_key if isinstance(config.api_key, str) else ""
    named = re.match(r"pat-([a-z]{2}[0-9])-", key)
    if named and named[1] != config.region and config.portal_id:
        yield Finding(
            "region",
            WARNING,
            _("The key comes from the data centre {key}, and the chat from {region}.").format(
                key=named[1], region=config.region
            ),
            _('Write "{region}" into REGION.').format(region=named[1]),
        )


def check_delivery(config: Config) -> Finding:
    """How the identity comes to the browser."""
    endpoint = endpoint_url(config)
    if is_inline(config, endpoint):
        wait = f"{config.page_wait:g}"
        return Finding(
            "delivery", OK, _("Pages hold the identity, and wait for it {wait} s at most.").format(wait=wait)
        )
    return Finding("delivery", OK, _("The browser asks {url}, and no page waits.").format(url=endpoint))


def check_cache(alias: str) -> Finding:
    """Whether the cache works, how fast, and who shares it."""
    key, value = f"{PREFIX}doctor:{secrets.token_hex(8)}", secrets.token_hex(8)
    try:
        cache = caches[alias]
        cache.set(key, value, timeout=60)
        started = time.perf_counter()  # of a read on an open connection, which is what a page takes
        kept = cache.get(key) == value
        seconds = time.perf_counter() - started
        cache.delete(key)
    except Exception as error:  # noqa: BLE001 - back ends raise what their libraries raise, addresses with passwords in it
        text = _("The cache {alias} fails: {error}.").format(alias=repr(alias), error=type(error).__name__)
        return Finding("cache", ERROR, text, _("Look whether its server runs and is reached from here."))
    name = type(cache).__name__
    if not kept:
        text = _("The cache {alias} ({name}) keeps nothing.").format(alias=repr(alias), name=name)
        return Finding("cache", ERROR, text, _("Use Redis, memcached or the database."))
    if sharing_problem(cache):  # which the system checks call by its name
        text = _("The cache {alias} ({name}) works, for one process or host.")
    else:
        text = _("The cache {alias} ({name}) works, and all processes share it.")
    return Finding("cache", OK, text.format(alias=repr(alias), name=name), seconds=seconds)


def check_breaker(config: Config) -> Iterator[Finding]:
    """Whether HubSpot is left alone at the moment."""
    state = get_breaker(config).state
    remaining = state.until - time.time()
    if state.kind and remaining > 0:
        text = _("The site leaves HubSpot alone for another {seconds} s, because of earlier failures ({kind}).")
        yield Finding("breaker", NOTE, text.format(seconds=f"{remaining:.0f}", kind=state.kind))


def check_csp(config: Config) -> Iterator[Finding]:
    """Whether the policy in the settings lets the chat in."""
    policy = _policy_in_settings()
    if policy is None:
        return
    missing = {
        directive: lacking
        for directive, wanted in sources(config.region).items()
        if (lacking := _lacking(directive, wanted, policy))
    }
    if not missing:
        yield Finding("csp", OK, _("The Content-Security-Policy lets the chat in."))
        return
    listed = "; ".join(f"{directive} {' '.join(lacking)}" for directive, lacking in missing.items())
    yield Finding(
        "csp",
        WARNING,
        _("The Content-Security-Policy keeps parts of the chat out: {missing}").format(missing=listed),
        _("Merge hubspot_identify.csp.sources(region) into the policy."),
    )


def _policy_in_settings() -> Mapping[str, Any] | None:
    """The policy of Django's own middleware or of django-csp 4, where one of them is configured."""
    policy = getattr(settings, "SECURE_CSP", None) or getattr(settings, "CONTENT_SECURITY_POLICY", None)
    if not isinstance(policy, Mapping):
        return None
    directives = policy.get("DIRECTIVES", policy)
    return directives if isinstance(directives, Mapping) else None


def _lacking(directive: str, wanted: list[str], policy: Mapping[str, Any]) -> list[str]:
    allowed = policy.get(directive, policy.get("default-src"))
    if allowed is None:
        return []
    texts = [str(source) for source in ([allowed] if isinstance(allowed, str) else allowed)]
    known = {source.removeprefix("https://") for text in texts for source in text.split()}
    if directive == "script-src" and "'strict-dynamic'" in known:
        return []  # what our script loads is trusted as our script is
    everywhere = bool(known & {"*", "https:"})
    return [
        source
        for source in wanted
        if source.removeprefix("https://") not in known and not (everywhere and source.startswith("https:"))
    ]


def check_users(visitor: Visitor, config: Config) -> Iterator[Finding]:
    """Whether users with the address would be identified, as far as that can be said without a request."""
    try:
        model = get_user_model()
        field = model.get_email_field_name()
        users = list(model._default_manager.filter(**{f"{field}__iexact": visitor.email})[:5])
    except (ImproperlyConfigured, AttributeError, FieldError, DatabaseError) as error:
        text = _("The users can't be looked up: {error}.").format(error=type(error).__name__)
        yield Finding("user", NOTE, text)
        return
    if not users:
        yield Finding("user", NOTE, _("No user has this address."))
    for user in users:
        problem = _user_problem(user, config)
        text = problem or _("This user is identified when logged in.")
        yield Finding("user", WARNING if problem else OK, text if len(users) == 1 else f"{text} [{user.pk}]")


def _user_problem(user: Any, config: Config) -> str | None:
    try:
        made = config.visitor(user, None)  # type: ignore[operator]  # the config imported it
    except InvalidVisitorError as error:
        return _("This user is not identified: {reason}").format(reason=error)
    except Exception as error:  # noqa: BLE001 - it is the site's callable
        return _("VISITOR fails without a request: {error}.").format(error=type(error).__name__)
    if not isinstance(made, Visitor):
        returned = f"VISITOR: {None if made is None else type(made).__name__}"
        return _("This user is not identified: {reason}").format(reason=returned)
    try:
        verified = is_verified(user, made, config)
    except Exception as error:  # noqa: BLE001 - it is the site's callable
        return _("EMAIL_VERIFIED fails: {error}.").format(error=type(error).__name__)
    if not verified:
        reason = _("EMAIL_VERIFIED is False") if config.email_verified is False else _("the address is not verified")
        return _("This user is not identified: {reason}").format(reason=reason)
    return None
