"""Fetching a token from HubSpot into the cache: one fetch at a time for each visitor, in all processes together."""

from __future__ import annotations

import contextvars
import logging
import math
import random
import threading
import time
from typing import TYPE_CHECKING

from .. import signals
from ..exceptions import APIError, CredentialError, HubSpotIdentifyError, TransportError
from ..logs import log_throttled
from ..visitors import Visitor
from .account import Account
from .entries import OWNER_LENGTH, Entry, VisitorToken
from .failures import PAUSE_STATUSES, REFUSED_STATUSES, concerns_all_visitors, pause_after
from .workers import Job, get_workers

if TYPE_CHECKING:
    from django.dispatch import Signal

    from .._hubspot.client import TokenClient

logger = logging.getLogger(__name__)

#: The states of a fetch. It is overdue if there was no response by the deadline.
SCHEDULED, REQUESTED, ANSWERED, OVERDUE = "scheduled", "requested", "answered", "overdue"

RETRY_REFUSED = 3600.0  # seconds until the next attempt for a visitor whose data HubSpot refuses
RETRY_FAILED = (5.0, 30.0)  # seconds, drawn at random, after other failures
RETRY_AGAIN = 300.0  # seconds at most for a visitor who keeps failing; until then, as long as the failures have lasted
RETRY_CHANGES = 60.0  # seconds until the next attempt for changed names that the rate limit has delayed


def start_fetch(account: Account, visitor: Visitor, key: str, *, has_failure: bool = False) -> Job | None:
    """Schedule the fetch of a token in the background. Opens no socket and does not access the cache.

    Args:
        account: the account.
        visitor: whom the token is for.
        key: the cache key of the visitor's entry.
        has_failure: whether a failure of the visitor is on record. The calls of such visitors may block, so one worker
            slot is kept for the others.

    Returns:
        the fetch, or the one that is running for the same entry; ``None`` if no worker slot is free.
    """
    fetch = TokenFetch(account, visitor, key)
    return get_workers().submit(fetch, may_take_last_slot=not has_failure)


class UncachedCall(Job):
    """One call that bypasses cache, circuit breaker and rate limit, for a caller that waits for it."""

    def __init__(self, account: Account, visitor: Visitor) -> None:
        super().__init__(f"call {id(self)}", account.config.timeout)
        self._account = account
        self._visitor = visitor

    def start(self) -> bool:
        """Start the call if a worker slot is free, and return whether there was one."""
        return get_workers().submit(self) is not None

    def run(self, client: TokenClient) -> None:
        """Call HubSpot."""
        created_at = time.time()
        try:
            value = client.create_token(self._visitor, self._account.config)
        except HubSpotIdentifyError as error:
            self.finish(error=error)
        else:
            self.finish(VisitorToken(value, self._visitor, created_at))


class TokenFetch(Job):
    """The fetch of one visitor's token. It is created on the request's thread, and runs on worker threads.

    Two fetches for the same entry are one job. Tenants may have separate entries, for which the cache makes other keys.

    Args:
        account: the account.
        visitor: whom the token is for.
        key: the cache key of the visitor's entry.
    """

    def __init__(self, account: Account, visitor: Visitor, key: str) -> None:
        self._account = account
        self._visitor = visitor
        self._key, self._lock_key = key, f"{key}:lock"
        self._made_keys = account.store.made_keys(self._key, self._lock_key)
        self._state = SCHEDULED
        self._state_lock = threading.Lock()  # a late response may arrive while the deadline is being recorded
        super().__init__(f"{self._made_keys[key]} {key}", account.config.timeout)

    def run(self, client: TokenClient) -> None:
        """Create and store the token, unless another process is doing so or no call is allowed now."""
        with self._account.store.using_keys(self._made_keys):
            entry, may_call = self._prepare()
            if may_call and self._start_request(client):
                self._request(client, entry)
            else:
                self.finish(entry.token_for(self._visitor))

    def on_deadline(self) -> None:
        """Record that there was no response by the deadline. A late response is still used.

        A fetch has not failed if a slow cache has used up the time before the call.
        """
        with self._account.store.using_keys(self._made_keys), self._state_lock:
            if self._state != REQUESTED:
                return
            self._state = OVERDUE
            text = f"HubSpot did not respond within {self._account.config.timeout:g} s."
            error = TransportError(text, request_sent=self._client.request_sent)
            self._record_failure(error)
        self._report(error)

    def _prepare(self) -> tuple[Entry, bool]:
        """Lock and read the visitor's entry, and return it and whether this process may call HubSpot."""
        account = self._account
        locked = account.store.add(self._lock_key, 1, math.ceil(account.config.timeout) + 1)
        entry = account.read_entry(self._key)  # another process may have stored a token since the first look
        now = time.time()
        if not locked or not entry.is_due(self._visitor, now, account.profile):
            return entry, False
        for_changes = not entry.needs_token(now)
        if account.allows_call(may_probe=not entry.has_failure(now), for_changes=for_changes):
            return entry, True
        if for_changes:
            account.write_entry(self._key, account.read_entry(self._key)._replace(retry_at=now + RETRY_CHANGES))
        account.store.delete(self._lock_key)  # there is no call, so the visitor may be tried again at once
        return entry, False

    def _start_request(self, client: TokenClient) -> bool:
        """Return whether there is time left for the call. From now on, the deadline counts as its failure."""
        with self._state_lock:
            if time.monotonic() >= self.deadline:  # a slow cache has used up the time
                return False
            self._client = client
            self._state = REQUESTED
            return True

    def _request(self, client: TokenClient, entry: Entry) -> None:
        created_at = time.time()
        try:
            value = client.create_token(self._visitor, self._account.config)
        except HubSpotIdentifyError as problem:
            error = problem.with_traceback(None)  # the frames of the call hold the key
            with self._state_lock:
                if self._state == OVERDUE:
                    return  # this fetch has been recorded as failed
                self._state = ANSWERED
                self._record_failure(error)
            self._report(error)
        else:
            # A failure stays on record: names that a firewall blocks may alternate with names that it lets through.
            entry = entry._replace(token=value, created_at=created_at, profile=self._account.profile(self._visitor))
            with self._state_lock:
                self._state = ANSWERED
                self._account.write_entry(self._key, entry)
            self._account.breaker.record_success()
            self.finish(entry.token_for(self._visitor))
            self._send(signals.token_created)

    def _record_failure(self, error: HubSpotIdentifyError) -> None:
        """Record a failure in the visitor's entry and in the circuit breaker. A valid token remains in the entry."""
        now = time.time()
        entry = self._account.read_entry(self._key)
        on_record = entry.has_failure(now)
        failing_since = entry.failed_at if on_record else now
        failed_at = failing_since if on_record or not concerns_all_visitors(error) else 0.0
        delay = max(retry_delay(error), min(now - failing_since, RETRY_AGAIN))
        self._account.write_entry(self._key, entry._replace(retry_at=now + delay, failed_at=failed_at))
        self._account.breaker.record_failure(error, self._key[-OWNER_LENGTH:], failing_since)

    def _report(self, error: HubSpotIdentifyError) -> None:
        """Log the error, finish the fetch with it, and send the signal."""
        if not self._account.breaker.is_open_locally:  # the breaker logs why it opens
            suffix = self._account.config.log_suffix
            reason = type(error).__name__ + suffix
            level = logging.ERROR if isinstance(error, CredentialError) else logging.WARNING
            log_throttled(logger, level, "No identification token. %s%s", error, suffix, reason=reason)
        self.finish(error=error)
        self._send(signals.token_failed, error=error)

    def _send(self, signal: Signal, **arguments: object) -> None:
        account = self._account.config.account
        # In a context of its own: a receiver may leave the visitor's data there, for example for the log, and the
        # thread fetches the tokens of other visitors as well.
        send = contextvars.copy_context().run
        send(signal.send_robust, Visitor, visitor=self._visitor, account=account, **arguments)


def retry_delay(error: HubSpotIdentifyError) -> float:
    """Return the seconds until the next attempt for the same visitor."""
    if isinstance(error, APIError):
        if error.status in REFUSED_STATUSES:
            return RETRY_REFUSED
        if error.status in PAUSE_STATUSES:
            return pause_after(error)
    return random.uniform(*RETRY_FAILED)  # noqa: S311 - no secret
