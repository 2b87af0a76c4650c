"""A token's way from HubSpot into the cache: at most one at a time for each visitor, in all processes together."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import signals
from ..exceptions import APIError, HubSpotIdentifyError, TransportError
from ..logs import log_throttled
from .breaker import get_breaker
from .entries import DEAD_AFTER, Entry, VisitorToken, decode_entry, profile_digest
from .failures import PAUSE_STATUSES, REFUSED_STATUSES, concerns_all_visitors, pause_after
from .store import get_store
from .workers import Job, get_workers

if TYPE_CHECKING:
    from django.dispatch import Signal

    from .._hubspot.client import TokenClient
    from ..conf import Config
    from ..visitors import Visitor

logger = logging.getLogger(__name__)

RETRY_REFUSED = 3600.0  # seconds until a visitor is tried again whose data HubSpot does not accept
RETRY_FAILED = (5.0, 30.0)  # seconds, drawn at random, after everything else
RETRY_AGAIN = 300.0  # seconds at most for a visitor who keeps failing; until then, as long as the failures have lasted
RETRY_CHANGES = 60.0  # seconds until changed names are tried again that the rate limit has delayed


def start_fetch(key: str, visitor: Visitor, config: Config, *, has_failure: bool = False) -> Job | None:
    """Schedule the fetch of a token in the background. Opens no socket and does not access the cache.

    Args:
        key: of the visitor's cache entry.
        visitor: whom the token is for.
        config: the account.
        has_failure: whether a failure of the visitor is on record. The calls of such visitors may hang, so one worker
            slot is kept for the others.

    Returns:
        the job, or ``None`` if no worker slot is free.
    """
    flight = TokenFetch(key, visitor, config)
    return get_workers().submit(
        flight.job_key,
        flight.fly,
        config.timeout,
        on_overdue=flight.give_up,
        may_take_last_slot=not has_failure,
    )


def start_uncached_call(visitor: Visitor, config: Config) -> Job | None:
    """Have a token made and not cached, whatever breaker and rate window say. ``None``: no free worker."""

    def call(job: Job, client: TokenClient) -> VisitorToken:
        created_at = time.time()
        return VisitorToken(client.create_token(visitor, config), visitor, created_at)

    return get_workers().submit(f"call {id(call)}", call, config.timeout)


class TokenFetch:
    """One visitor's token on its way. Created in the request's thread; everything else runs on a worker.

    Attributes:
        job_key: two flights with the same key are one job. Tenants with separate cache keys have separate jobs.
    """

    def __init__(self, key: str, visitor: Visitor, config: Config) -> None:
        self._key, self._lock = key, f"{key}:lock"
        self._visitor = visitor
        self._config = config
        self._store = get_store(config.cache)
        self._breaker = get_breaker(config)
        self._deadline = time.time() + config.timeout
        self._client: TokenClient | None = None  # once it is called
        self._answered_at = math.inf
        self._succeeded = False
        self._writing = threading.RLock()  # a late response and its own give_up() may meet
        self._made_keys = self._store.made_keys(self._key, self._lock)
        self.job_key = self._made_keys.get(key, key)

    def fly(self, job: Job, client: TokenClient) -> VisitorToken | None:
        """Create the token and store it, unless another process does, or no call may be made now."""
        with self._store.using_keys(self._made_keys):
            return self._fly(job, client)

    def _fly(self, job: Job, client: TokenClient) -> VisitorToken | None:
        if not self._store.add(self._lock, 1, math.ceil(self._config.timeout) + 1):
            return self._token(self._entry())  # theirs, where they have landed meanwhile
        entry = self._entry()  # a second look: between the first and the lock, another process may have landed
        now = time.time()
        if not entry.is_due(self._visitor, now):
            return self._token(entry)
        for_changes = entry.token is not None and not entry.is_old(now)
        if not self._breaker.allows_call(may_probe=not entry.has_failure(now), for_changes=for_changes):
            if for_changes:
                self._write(replace(self._entry(), retry_at=now + RETRY_CHANGES))
            self._store.delete(self._lock)  # ours, some milliseconds old; the visitor may be tried again at once
            return self._token(entry)
        if job.overdue:  # a slow cache took all the time there was
            return None
        created_at = time.time()
        self._client = client
        try:
            value = client.create_token(self._visitor, self._config)
        except HubSpotIdentifyError as problem:
            self._answered_at = time.time()
            self._fail(job, problem.with_traceback(None))  # the frames of the call hold the key
            return None
        self._answered_at = time.time()
        # A failure stays on record: names that a firewall blocks may alternate with names that it does not block.
        entry = Entry(value, created_at, entry.retry_at, profile_digest(self._visitor), entry.failed_at)
        with self._writing:
            self._succeeded = True
            self._write(entry)
        self._breaker.record_success()
        token = self._token(entry)
        job.finish(token)  # now, since those who hear the signal may take their time
        self._send(signals.token_created)
        return token

    def _fail(self, job: Job, error: HubSpotIdentifyError) -> None:
        if job.overdue and not self._is_in_time:
            return  # give_up() has counted it, or will
        self._hold_against(error)
        self._log(error)
        job.finish(None, error)
        self._send(signals.token_failed, error=error)

    @property
    def _is_in_time(self) -> bool:
        return self._answered_at < self._deadline

    def give_up(self) -> None:
        """Record a call without a response by the deadline as failed. A late response is still used.

        The call has not failed if a slow cache or a slow receiver of a signal passed the deadline, or if its token
        arrived late. A call whose deadline passed long before the next job of this process is logged and not recorded,
        because it says nothing about HubSpot now.
        """
        if self._client is None or self._is_in_time:
            return
        text = f"HubSpot did not answer within {self._config.timeout:g} s."
        error = TransportError(text, request_sent=self._client.request_sent)
        with self._writing, self._store.using_keys(self._made_keys):
            if self._succeeded:
                return
            if time.time() < self._deadline + RETRY_FAILED[1]:
                self._hold_against(error)
        self._log(error)
        self._send(signals.token_failed, error=error)

    def _entry(self) -> Entry:
        return decode_entry(self._store.get(self._key), self._key, time.time())

    def _write(self, entry: Entry) -> None:
        # For as long as a token lives, also without one: a copy in another process must not outlive the entry.
        self._store.set(self._key, entry.as_primitives(self._key), DEAD_AFTER)

    def _token(self, entry: Entry) -> VisitorToken | None:
        return VisitorToken(entry.token, self._visitor, entry.created_at) if entry.token else None

    def _hold_against(self, error: HubSpotIdentifyError) -> None:
        now = time.time()
        with self._writing:
            entry = self._entry()
            on_record = entry.has_failure(now)
            failing_since = entry.failed_at if on_record else now
            failed_at = failing_since if on_record or not concerns_all_visitors(error) else 0.0
            delay = max(retry_delay(error), min(now - failing_since, RETRY_AGAIN))
            self._write(replace(entry, retry_at=now + delay, failed_at=failed_at))
        self._breaker.record_failure(error, self._visitor, failing_since)

    def _log(self, error: HubSpotIdentifyError) -> None:
        if self._breaker.is_open_locally:
            return  # the breaker has logged why it opened
        suffix = self._config.log_suffix
        reason = type(error).__name__ + suffix
        log_throttled(logger, logging.WARNING, "No identification token. %s%s", error, suffix, reason=reason)

    def _send(self, signal: Signal, **arguments: object) -> None:
        signal.send_robust(type(self._visitor), visitor=self._visitor, account=self._config.account, **arguments)


def retry_delay(error: HubSpotIdentifyError) -> float:
    """Seconds until the same visitor is tried again."""
    if isinstance(error, APIError):
        if error.status in REFUSED_STATUSES:
            return RETRY_REFUSED
        if error.status in PAUSE_STATUSES:
            return pause_after(error)
    return random.uniform(*RETRY_FAILED)  # noqa: S311 - no secret
