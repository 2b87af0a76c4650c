"""What happens on the request's thread: one read of the cache, and the scheduling of a fetch if one is due."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ..exceptions import HubSpotIdentifyError
from .account import Account
from .entries import VisitorToken
from .fetch import start_fetch

if TYPE_CHECKING:
    from ..visitors import Visitor
    from .workers import Job


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
    fetch = start_fetch(account, visitor, key, has_failure=entry.has_failure(now))
    return CacheLookup(token, fetch, pending=token is None)
