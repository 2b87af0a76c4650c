"""Identification tokens for Python code: views of your own, APIs, tasks.

Every function has an asynchronous twin with an ``a`` in front, and takes ``account``, a name from ``ACCOUNTS``. All
raise :class:`~hubspot_identify.exceptions.ConfigurationError` for wrong settings.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from ._compat import django_request, keep_out_of_page_caches
from ._tokens.breaker import get_breaker
from ._tokens.entries import DEAD_AFTER, VisitorToken, decode_entry, entry_key
from ._tokens.entries import subject as subject_of
from ._tokens.fetch import start_fetch, start_uncached_call
from ._tokens.store import get_store
from .conf import Config, config_for, get_config
from .delivery import endpoint_url, is_inline
from .eligibility import visitor_of
from .exceptions import ConfigurationError, HubSpotIdentifyError, TransportError
from .middleware import mark_identified
from .visitors import Visitor

if TYPE_CHECKING:
    from django.http import HttpRequest

    from ._tokens.workers import Job

_POLL = 0.02  # seconds between two tries for a free worker


@dataclass(frozen=True, slots=True)
class Identification:
    """What may be told of the visitor of a request.

    Attributes:
        subject: an opaque name of the visitor, ``None`` for nobody. Another visitor has another one.
        identity: ``{"email": str, "token": str, "expires_in": seconds}`` for the widget, or ``None``.
        pending: whether there may be an identity if one asks again in a second.
    """

    subject: str | None
    identity: dict[str, Any] | None = field(repr=False)
    pending: bool = False

    def as_dict(self) -> dict[str, Any]:
        """``{"subject": …, "identity": …}``, as the endpoint sends it."""
        return {"subject": self.subject, "identity": self.identity}


ANONYMOUS = Identification(subject=None, identity=None)


def create_token(visitor: Visitor, *, account: str | None = None) -> VisitorToken:
    """Have HubSpot make a token now, past cache, breaker and rate window. Takes at most ``TIMEOUT`` seconds.

    Args:
        visitor: whom the token is for.
        account: a name from ``ACCOUNTS``.

    Raises:
        HubSpotIdentifyError: HubSpot made none. The subclass says what to do about it.
    """
    config = _callable_config(visitor, account)
    end = time.monotonic() + config.timeout
    while (job := start_uncached_call(visitor, config)) is None and time.monotonic() < end:
        time.sleep(_POLL)
    return _token_or_raise(job, job.wait(end - time.monotonic()) if job else None)


async def acreate_token(visitor: Visitor, *, account: str | None = None) -> VisitorToken:
    """Asynchronous :func:`create_token`."""
    config = _callable_config(visitor, account)
    end = time.monotonic() + config.timeout
    while (job := start_uncached_call(visitor, config)) is None and time.monotonic() < end:
        await asyncio.sleep(_POLL)
    return _token_or_raise(job, await job.await_(end - time.monotonic()) if job else None)


def get_token(visitor: Visitor, wait: float = 0.0, *, account: str | None = None) -> VisitorToken | None:
    """A token from the cache; where there is none, ``None``, and one is made behind.

    Args:
        visitor: whom the token is for.
        wait: seconds to wait for a token that is being made.
        account: a name from ``ACCOUNTS``.

    Returns:
        the token, or ``None``. Trouble of HubSpot or the cache is logged and never raised.
    """
    config = _checked_config(visitor, wait, account)
    return _wait(_read_cache_and_schedule(visitor, config), wait) if config.enabled else None


async def aget_token(visitor: Visitor, wait: float = 0.0, *, account: str | None = None) -> VisitorToken | None:
    """Asynchronous :func:`get_token`."""
    config = _checked_config(visitor, wait, account)
    return (
        await _await(await sync_to_async(_read_cache_and_schedule)(visitor, config), wait) if config.enabled else None
    )


def forget_token(visitor: Visitor, *, account: str | None = None) -> None:
    """Remove a visitor's token from the cache. HubSpot can't revoke it: a page that has it can still use it.

    A new token can be created once the previous call's lock has expired (``TIMEOUT`` + 1 s); a call in progress may
    still store its token. If HubSpot refused the visitor before, the next try is not sooner. While the cache is
    unavailable, only this process forgets the token.
    """
    config = _checked_config(visitor, 0.0, account)
    if config.enabled:
        store, key = get_store(config.cache), entry_key(visitor, config)
        entry = decode_entry(store.get(key), key, time.time()).without_token()
        # Not deleted: a process that kept the token during an outage of the cache would use it again.
        store.set(key, entry.as_primitives(key), DEAD_AFTER)


async def aforget_token(visitor: Visitor, *, account: str | None = None) -> None:
    """Asynchronous :func:`forget_token`."""
    await sync_to_async(forget_token)(visitor, account=account)


def identify(request: HttpRequest, *, wait: float | None = None, account: str | None = None) -> Identification:
    """What the endpoint would say of a request, for APIs and other template engines.

    Keeps the response to the request out of Django's page caches, for it is one visitor's. Other caches need
    ``IdentifiedPageMiddleware``, or ``Cache-Control: private, no-store`` of the view's own.

    Args:
        request: whose session decides.
        wait: seconds to wait for a token that is being made; ``None`` for ``PAGE_WAIT`` where pages carry the
            identity inline, and else 0.
        account: a name from ``ACCOUNTS``; ``None`` asks ``CHOOSE_ACCOUNT``.
    """
    wait = None if wait is None else _checked_wait(wait)
    visitor, config, found = _resolve_request(request, account)
    if visitor is None:
        return ANONYMOUS
    return _identification(visitor, config, found, _wait(found, _page_wait(wait, found, config)))


async def aidentify(request: HttpRequest, *, wait: float | None = None, account: str | None = None) -> Identification:
    """Asynchronous :func:`identify`, whose result views pass to the tag: ``identity=await aidentify(request)``."""
    wait = None if wait is None else _checked_wait(wait)
    visitor, config, found = await sync_to_async(_resolve_request)(request, account)
    if visitor is None:
        return ANONYMOUS
    return _identification(visitor, config, found, await _await(found, _page_wait(wait, found, config)))


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """What a look into the cache gave: a token, a job that makes one, and whether it's worth asking again."""

    token: VisitorToken | None = None
    job: Job | None = None
    pending: bool = False


def _resolve_request(request: HttpRequest, account: str | None) -> tuple[Visitor | None, Config, CacheLookup]:
    """Whom a request speaks for, and what is there for them; nothing is looked up for nobody."""
    page = django_request(request)
    keep_out_of_page_caches(page)
    config = config_for(request, account)
    visitor = visitor_of(request, config)
    if visitor is not None:
        mark_identified(page)
    return visitor, config, CacheLookup() if visitor is None else _read_cache_and_schedule(visitor, config)


def _read_cache_and_schedule(visitor: Visitor, config: Config) -> CacheLookup:
    """One read of the cache, and where it says so a try for a worker. The rest is the worker's."""
    now = time.time()
    key = entry_key(visitor, config)
    entry = decode_entry(get_store(config.cache).get(key), key, now)
    token = VisitorToken(entry.token, visitor, entry.created_at) if entry.token else None
    if not entry.is_due(visitor, now) or get_breaker(config).is_open_locally:
        return CacheLookup(token)
    job = start_fetch(key, visitor, config, has_failure=entry.has_failure(now))
    return CacheLookup(token, job, pending=token is None)


def _wait(found: CacheLookup, seconds: float) -> VisitorToken | None:
    if found.token is None and found.job is not None and seconds > 0:
        try:
            return found.job.wait(seconds)
        except HubSpotIdentifyError:
            return None  # the worker has logged it
    return found.token


async def _await(found: CacheLookup, seconds: float) -> VisitorToken | None:
    if found.token is None and found.job is not None and seconds > 0:
        try:
            return await found.job.await_(seconds)
        except HubSpotIdentifyError:
            return None
    return found.token


def _identification(visitor: Visitor, config: Config, found: CacheLookup, token: VisitorToken | None) -> Identification:
    subject = subject_of(visitor, config)
    if token is None:
        return Identification(subject, None, found.pending)
    identity = {"email": visitor.email, "token": token.value, "expires_in": token.expires_in(time.time())}
    return Identification(subject, identity)


def _page_wait(wait: float | None, found: CacheLookup, config: Config) -> float:
    if wait is not None:
        return wait
    if found.token is not None:  # nearly always, and the rest takes its time
        return 0.0
    return config.page_wait if config.enabled and is_inline(config, endpoint_url(config)) else 0.0


def _token_or_raise(job: Job | None, token: VisitorToken | None) -> VisitorToken:
    if job is None:
        raise TransportError("All workers were busy with calls that HubSpot does not answer.")
    if token is None:
        raise TransportError("The call ended with a mistake in the code around it, which the log tells.")
    return token


def _callable_config(visitor: Visitor, account: str | None) -> Config:
    config = _checked_config(visitor, 0.0, account)
    if config.enabled is False:
        hint = "Set it to True before you call create_token()."
        raise ConfigurationError("HUBSPOT_IDENTIFY['ENABLED'] is False.", setting="ENABLED", hint=hint)
    return config


def _checked_config(visitor: Visitor, wait: float, account: str | None) -> Config:
    if not isinstance(visitor, Visitor):
        raise TypeError(f"visitor must be a hubspot_identify.visitors.Visitor, not {type(visitor).__name__}.")
    _checked_wait(wait)
    return get_config(account)


def _checked_wait(wait: float) -> float:
    if isinstance(wait, bool) or not isinstance(wait, (int, float)):
        raise TypeError(f"wait must be a number of seconds, not {type(wait).__name__}.")
    if not (math.isfinite(wait) and wait >= 0):
        raise ValueError(f"wait must be 0 or more seconds, not {wait!r}.")
    return wait
