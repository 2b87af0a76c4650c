"""Identification tokens for Python code: your own views, APIs and tasks.

Every function has an asynchronous twin whose name starts with ``a``, and takes ``account``, a name from ``ACCOUNTS``.
All raise :class:`~hubspot_identify.exceptions.ConfigurationError` for wrong settings.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async

from ._callables import CallableError
from ._compat import django_request, keep_out_of_page_caches
from ._tokens.account import Account, account_for, get_account
from ._tokens.entries import VisitorToken
from ._tokens.fetch import UncachedCall
from ._tokens.lookup import CacheLookup, await_token, read_cache_and_schedule, wait_for_token
from .delivery import is_inline
from .exceptions import ConfigurationError, TransportError
from .identification import Identification, identification_of, resolve_request, unidentified
from .middleware import mark_identified
from .visitors import Visitor

if TYPE_CHECKING:
    from django.http import HttpRequest

__all__ = [
    "Identification",
    "VisitorToken",
    "acreate_token",
    "aforget_token",
    "aget_token",
    "aidentify",
    "create_token",
    "forget_token",
    "get_token",
    "identify",
]

_POLL = 0.02  # seconds between two attempts to get a worker slot


def create_token(visitor: Visitor, *, account: str | None = None) -> VisitorToken:
    """Create a token with one immediate call that bypasses cache, circuit breaker and rate limit.

    Takes at most ``TIMEOUT`` seconds.

    Args:
        visitor: whom the token is for.
        account: a name from ``ACCOUNTS``.

    Raises:
        HubSpotIdentifyError: there is no token. The subclass says what to do about it.
    """
    call = UncachedCall(_enabled_account(visitor, account), visitor)
    while not call.start() and time.monotonic() < call.deadline:
        time.sleep(_POLL)
    return _token_or_raise(call.wait())


async def acreate_token(visitor: Visitor, *, account: str | None = None) -> VisitorToken:
    """Asynchronous :func:`create_token`."""
    call = UncachedCall(_enabled_account(visitor, account), visitor)
    while not call.start() and time.monotonic() < call.deadline:
        await asyncio.sleep(_POLL)
    return _token_or_raise(await call.await_())


def get_token(visitor: Visitor, wait: float = 0.0, *, account: str | None = None) -> VisitorToken | None:
    """Return the token from the cache. If there is none, schedule a fetch in the background.

    Args:
        visitor: whom the token is for.
        wait: seconds to wait for a token. While no worker is free or the rate limit is reached, the app tries again to
            schedule a fetch within this time.
        account: a name from ``ACCOUNTS``.

    Returns:
        the token, or ``None``. Failures of HubSpot and the cache are logged and never raised.
    """
    resolved = _checked_account(visitor, account, wait)
    if not resolved.config.enabled:
        return None
    _, token = wait_for_token(read_cache_and_schedule(visitor, resolved), visitor, resolved, wait)
    return token


async def aget_token(visitor: Visitor, wait: float = 0.0, *, account: str | None = None) -> VisitorToken | None:
    """Asynchronous :func:`get_token`."""
    resolved = await sync_to_async(_checked_account)(visitor, account, wait)
    if not resolved.config.enabled:
        return None
    lookup = await sync_to_async(read_cache_and_schedule)(visitor, resolved)
    _, token = await await_token(lookup, visitor, resolved, wait)
    return token


def forget_token(visitor: Visitor, *, account: str | None = None) -> None:
    """Remove a visitor's token from the cache. HubSpot cannot revoke it: a page that has it can still use it.

    A new token can be created once the previous call's lock has expired (``TIMEOUT`` + 1 s). A call in progress may
    still store its token. A delay after a failure stays in force. While the cache cannot be written, only this process
    forgets the token. Call this again when the cache is available.
    """
    resolved = _checked_account(visitor, account)
    if resolved.config.enabled:
        key = resolved.entry_key(visitor)
        # Not deleted: a process that kept the token during an outage of the cache would use it again.
        resolved.write_entry(key, resolved.read_entry(key).without_token(time.time()))


async def aforget_token(visitor: Visitor, *, account: str | None = None) -> None:
    """Asynchronous :func:`forget_token`."""
    await sync_to_async(forget_token)(visitor, account=account)


def identify(request: HttpRequest, *, wait: float | None = None, account: str | None = None) -> Identification:
    """Return what the endpoint would send for a request, for APIs and other template engines.

    Keeps the response to the request out of Django's page caches, because it is personal. Other caches require
    ``IdentifiedPageMiddleware``, or ``Cache-Control: private, no-store`` set by the view.

    If ``ENABLED`` or ``CHOOSE_ACCOUNT`` raises an exception, the chat is disabled, as on pages. If another callable in
    the settings raises one, the visitor is anonymous. In both cases, ``failed`` is ``True`` in the result. Under
    ``DEBUG``, the exception is raised.

    Args:
        request: of Django, Django REST framework or Django Ninja. Its user is identified, or the user in
            ``request.auth``, which Django Ninja sets.
        wait: seconds to wait for a token, as in :func:`get_token`; ``None`` for ``PAGE_WAIT`` with inline delivery if a
            fetch has been scheduled, and for 0 otherwise.
        account: a name from ``ACCOUNTS``; ``None`` for the one that ``CHOOSE_ACCOUNT`` returns.
    """
    if wait is not None:
        _check_wait(wait)
    try:
        resolved = _account_of_page(request, account)
        found = resolve_request(request, resolved)
    except CallableError as error:
        return unidentified(error)
    if isinstance(found, Identification):
        return found
    visitor, lookup = found
    lookup, token = wait_for_token(lookup, visitor, resolved, _page_wait(wait, lookup, resolved))
    mark_identified(django_request(request))
    return identification_of(visitor, resolved, lookup, token)


async def aidentify(request: HttpRequest, *, wait: float | None = None, account: str | None = None) -> Identification:
    """Asynchronous :func:`identify`, whose result views pass to the tag: ``identity=await aidentify(request)``."""
    if wait is not None:
        _check_wait(wait)
    try:
        resolved = await sync_to_async(_account_of_page)(request, account)
        found = await sync_to_async(resolve_request)(request, resolved)
    except CallableError as error:
        return unidentified(error)
    if isinstance(found, Identification):
        return found
    visitor, lookup = found
    lookup, token = await await_token(lookup, visitor, resolved, _page_wait(wait, lookup, resolved))
    mark_identified(django_request(request))
    return identification_of(visitor, resolved, lookup, token)


def _page_wait(wait: float | None, lookup: CacheLookup, account: Account) -> float:
    """Return the seconds to wait for a fetch. Where delivery decides, ``reverse()`` is called only if there is one."""
    if wait is not None:
        return wait
    if lookup.fetch is None:
        return 0.0
    return account.config.page_wait if is_inline(account.config) else 0.0


def _account_of_page(request: HttpRequest, name: str | None) -> Account:
    """Return the account of a request, and keep its page out of page caches, since it may be personal."""
    keep_out_of_page_caches(django_request(request))
    return account_for(request, name)


def _token_or_raise(token: VisitorToken | None) -> VisitorToken:
    if token is None:
        raise TransportError("The call failed with an unexpected error; see the log for details.")
    return token


def _enabled_account(visitor: Visitor, account: str | None) -> Account:
    resolved = _checked_account(visitor, account)
    if resolved.config.enabled is False:
        raise ConfigurationError("ENABLED", "HUBSPOT_IDENTIFY['ENABLED'] is False.", "Set it to True to create tokens.")
    return resolved


def _checked_account(visitor: Visitor, account: str | None, wait: float = 0.0) -> Account:
    if not isinstance(visitor, Visitor):
        raise TypeError(f"visitor must be a hubspot_identify.visitors.Visitor, not {type(visitor).__name__}.")
    _check_wait(wait)
    return get_account(account)


def _check_wait(wait: float) -> None:
    if isinstance(wait, bool) or not isinstance(wait, (int, float)):
        raise TypeError(f"wait must be a number of seconds, not {type(wait).__name__}.")
    if not (math.isfinite(wait) and wait >= 0):
        raise ValueError(f"wait must be 0 or more seconds, not {wait!r}.")
