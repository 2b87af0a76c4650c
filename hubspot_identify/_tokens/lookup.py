"""What happens on the request's thread: one read of the cache, and the scheduling of a fetch if one is due."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from asgiref.sync import sync_to_async

from ..exceptions import HubSpotIdentifyError
from .account import Account
from .entries import VisitorToken
from .fetch import start_fetch

if TYPE_CHECKING:
    from ..visitors import Visitor
    from .workers import Job

RETRY_AFTER = 0.1  # seconds between two attempts to schedule a fetch for a caller that waits


class CacheLookup(NamedTuple):
    """The result of a read of the cache.

    Attributes:
        token: the token, if the cache has a valid one.
        fetch: the fetch that was scheduled or is running, if there is one.
        pending: whether a further request may find a token.
    """

    token: VisitorToken | None = None
    fetch: Job | None = None
    pending: bool = False

    def wait(self, seconds: float) -> VisitorToken | None:
        """Return the token, or wait for the fetch, whose failure has been logged."""
        if self.token is None and self.fetch is not None and seconds > 0:
            with suppress(HubSpotIdentifyError):
                return self.fetch.wait(seconds)
        return self.token

    async def await_(self, seconds: float) -> VisitorToken | None:
        """Do the same as :meth:`wait` without blocking the event loop."""
        if self.token is None and self.fetch is not None and seconds > 0:
            with suppress(HubSpotIdentifyError):
                return await self.fetch.await_(seconds)
        return self.token


def read_cache_and_schedule(visitor: Visitor, account: Account) -> CacheLookup:
    """Read the cache once, and schedule a fetch if one is due. Workers do everything else."""
    now = time.time()
    key = account.entry_key(visitor)
    entry = account.read_entry(key)
    token = entry.token_for(visitor)
    if not entry.is_due(visitor, now, account.profile) or account.breaker.is_open_locally:
        return CacheLookup(token)
    if account.rate_limit.full_for:
        return CacheLookup(token, pending=token is None)
    fetch = start_fetch(account, visitor, key, has_failure=entry.has_failure(now))
    return CacheLookup(token, fetch, pending=token is None)


def wait_for_token(
    lookup: CacheLookup, visitor: Visitor, account: Account, seconds: float
) -> tuple[CacheLookup, VisitorToken | None]:
    """Wait for a token. While no slot is free or the rate limit is reached, try to schedule a fetch again.

    Returns:
        the last lookup, and the token if there is one.
    """
    end, left = time.monotonic() + seconds, seconds
    token = lookup.wait(seconds)
    while _may_try_again(lookup, token, account) and (left := min(left, end - time.monotonic())) > 0:
        time.sleep(pause := min(left, _retry_after(account)))
        left -= pause  # in tests the clock may stand still
        lookup = read_cache_and_schedule(visitor, account)
        token = lookup.wait(left)
    return lookup, token


async def await_token(
    lookup: CacheLookup, visitor: Visitor, account: Account, seconds: float
) -> tuple[CacheLookup, VisitorToken | None]:
    """Do the same as :func:`wait_for_token` without blocking the event loop."""
    end, left = time.monotonic() + seconds, seconds
    token = await lookup.await_(seconds)
    while _may_try_again(lookup, token, account) and (left := min(left, end - time.monotonic())) > 0:
        await asyncio.sleep(pause := min(left, _retry_after(account)))
        left -= pause
        lookup = await sync_to_async(read_cache_and_schedule)(visitor, account)
        token = await lookup.await_(left)
    return lookup, token


def _may_try_again(lookup: CacheLookup, token: VisitorToken | None, account: Account) -> bool:
    is_refused = lookup.fetch is None or account.rate_limit.full_for > 0
    return token is None and lookup.pending and is_refused


def _retry_after(account: Account) -> float:
    return max(RETRY_AFTER, account.rate_limit.full_for)
