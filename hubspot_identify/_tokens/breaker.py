"""When to stop calling HubSpot: the circuit breaker and the pause.

Their state is in the shared cache, so all processes and hosts of a site act on it. Each account has its own.

What one visitor can cause never stops the calls for all. A failure opens the breaker only together with failures of
other visitors, unless HubSpot itself says that it concerns everyone. Failures of a visitor that began before those of
the others are no evidence: a firewall on the way may block a name, and HubSpot may refuse an address.

After a cool-down, the calls are probes, one at a time. The first success closes the breaker. It opens again, for twice
as long, after the failed probes of five visitors, or after one that no visitor can have caused.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..conf import Config
from ..exceptions import APIError, HubSpotIdentifyError
from .entries import CLOCK_SKEW
from .failures import (
    CONFIGURATION_STATUSES,
    DAILY_PAUSE,
    REFUSED_STATUSES,
    asks_to_pause,
    concerns_all_visitors,
    pause_after,
)
from .store import Store

logger = logging.getLogger(__name__)

FAILURES = 5  # open the breaker, and after a cool-down, as many failed probes open it again
FAILURE_WINDOW = 30.0  # seconds within which the failures occur
VISITORS = 3  # different ones that the failures must come from
COOL_DOWN = 15.0  # seconds, give or take 20 %, doubling …
COOL_DOWN_SPREAD = 0.2
LONGEST_COOL_DOWN = 300.0  # … up to here
RETRY_INTERVAL = 60.0  # seconds after a cool-down, and between calls, for visitors with a failure on record
KEY_COOL_DOWN = 300.0  # after HubSpot has rejected a key that is fixed text
#: Seconds for which the state is kept after a cool-down, so that the next opening can double it.
STATE_GRACE = 3600.0

#: Level and message for each kind of opening. The arguments are seconds, error and account.
OPENED: Mapping[str, tuple[int, str]] = {
    "failing": (logging.WARNING, "Circuit breaker opened after repeated failures, for %.0f s: %s%s"),
    "misconfigured": (logging.ERROR, "Identification is suspended until this is fixed (next call in %.0f s): %s%s"),
    "pause": (logging.WARNING, "No calls to HubSpot for %.0f s: %s%s"),
}


class State(NamedTuple):
    """The state that all processes share.

    Attributes:
        kind: why the breaker opened: ``failing``, ``misconfigured`` or ``pause``; ``""`` while closed.
        until: seconds since the epoch until which no call is made; after that, calls are probes. While closed, the
            time when it closed.
        cool_down: seconds of the last opening, doubled by the next.
        refused: digests of the visitors whose data HubSpot refused since the last success.
        failed: digests of the visitors whose failures count without a time limit: while closed, those with one of
            :data:`CONFIGURATION_STATUSES` since the last success; after a cool-down, those whose probe failed.
    """

    kind: str = ""
    until: float = 0.0
    cool_down: float = 0.0
    refused: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def open_for(self, now: float) -> float:
        """Return for how many seconds from ``now`` no calls are made; 0 if calls are allowed."""
        return self.until - now if self.kind and now < self.until else 0.0


CLOSED = State()


def decode_state(value: object, now: float) -> State:
    """Decode what the cache returned. Any other value means closed.

    A state that ends later than any opening of its kind also means closed: a clock has been set back, or is wrong.
    """
    match value:
        case {
            "kind": str(kind),
            "until": int() | float() as until,
            "cool_down": int() | float() as cool_down,
            "refused": list() | tuple() as refused,
            "failed": list() | tuple() as failed,
        } if 0 <= cool_down <= LONGEST_COOL_DOWN:
            longest = {"": 0.0, "pause": DAILY_PAUSE}.get(kind, cool_down * (1 + COOL_DOWN_SPREAD))
            if until <= now + longest + CLOCK_SKEW:
                return State(kind, until, cool_down, tuple(map(str, refused)), tuple(map(str, failed)))
    return CLOSED


class Breaker:
    """The circuit breaker of one account in this process.

    Args:
        config: the account's settings.
        prefix: of the cache keys.
        store: where the state is shared.
        now: seconds since the epoch.
    """

    def __init__(self, config: Config, prefix: str, store: Store, now: Callable[[], float]) -> None:
        self._log_suffix = config.log_suffix
        self._probe_ttl = config.timeout + 1
        # A callable may return a valid key at the next call.
        self._key_cool_down = COOL_DOWN if callable(config.api_key) else KEY_COOL_DOWN
        self._store = store
        self._now = now
        self._key = f"{prefix}:breaker"
        self._probe_key, self._retry_key = f"{prefix}:probe", f"{prefix}:retry"
        self._failure_keys = [f"{prefix}:failure:{number}" for number in range(FAILURES)]
        self._open_until = 0.0  # on the monotonic clock

    @property
    def is_open_locally(self) -> bool:
        """Whether it was open when this process last looked. Does not access the cache."""
        return time.monotonic() < self._open_until

    @property
    def state(self) -> State:
        """The state that all processes share. One read of the cache."""
        return decode_state(self._store.get(self._key), self._now())

    def allows_call(self, *, may_probe: bool = True) -> bool:
        """Return whether a call may be made now. After a cool-down, that is one probe for all processes.

        Args:
            may_probe: whether the visitor has no failure on record. A visitor who has one never makes the probe, whose
                failure would keep the breaker open for everyone.
        """
        state, now = self.state, self._now()
        self._remember(state)
        if state.open_for(now):
            return False
        if not state.kind:
            return True
        if may_probe:
            return self._store.add(self._probe_key, 1, self._probe_ttl)
        # A small site may have no visitor without a failure. The call of another one is no probe and does not count.
        wait = RETRY_INTERVAL if state.cool_down else 0.0
        return now >= state.until + wait and self._store.add(self._retry_key, 1, RETRY_INTERVAL)

    def record_success(self) -> None:
        """Close the breaker and forget the failures, unless HubSpot has just said to wait."""
        state = self.state
        if not (state.kind or state.refused or state.failed) or state.open_for(self._now()):
            return
        self._close(state)
        if state.kind:
            logger.info("Circuit breaker closed: HubSpot creates identification tokens again.%s", self._log_suffix)

    def record_failure(self, error: HubSpotIdentifyError, visitor: str, failing_since: float) -> None:
        """Count a failed call, and open the breaker or pause if that is due.

        Args:
            error: why the call failed.
            visitor: an opaque name of the visitor.
            failing_since: seconds since the epoch of the visitor's first failure on record.
        """
        state, now = self.state, self._now()
        status = error.status if isinstance(error, APIError) else 0
        is_recent = failing_since > now - FAILURE_WINDOW
        # A visitor who already failed before the others' last success, or before the cool-down, is no evidence.
        is_evidence = concerns_all_visitors(error) or (is_recent and failing_since > state.until)
        if asks_to_pause(error):
            seconds = pause_after(error)
            if is_recent and seconds > state.open_for(now):  # a single visitor cannot prolong the pause
                self._open(state, "pause", seconds, error)
        elif state.open_for(now):
            return  # a call that was under way when the breaker opened
        elif status in REFUSED_STATUSES:
            self._count_refused(state, error, visitor)
        elif not is_evidence:
            return
        elif isinstance(error, APIError) and error.key_rejected:
            seconds = self._key_cool_down
            self._open(state, "misconfigured", seconds, error, cool_down=seconds, failed=())
        elif state.cool_down or status in CONFIGURATION_STATUSES:
            self._count_visitor(state, error, visitor)
        elif self._threshold_reached(visitor):
            self._cool_down(state, "failing", error)

    def _cool_down(self, state: State, kind: str, error: HubSpotIdentifyError) -> None:
        """Open the breaker, for twice as long as the last time."""
        cool_down = next_cool_down(state)
        seconds = cool_down * random.uniform(1 - COOL_DOWN_SPREAD, 1 + COOL_DOWN_SPREAD)  # noqa: S311 - no secret
        self._open(state, kind, seconds, error, cool_down=cool_down, failed=())

    def _open(self, state: State, kind: str, seconds: float, error: HubSpotIdentifyError, **changes: Any) -> None:
        """Open the breaker for so many seconds, and log it unless it has been opened for the same kind of reason."""
        self._write(state._replace(kind=kind, until=self._now() + seconds, **changes))
        if kind != state.kind:
            level, message = OPENED[kind]
            logger.log(level, message, seconds, error, self._log_suffix)

    def _write(self, state: State) -> None:
        self._store.set(self._key, state._asdict(), state.open_for(self._now()) + STATE_GRACE)
        self._store.delete(self._probe_key)
        self._remember(state)

    def _remember(self, state: State) -> None:
        self._open_until = time.monotonic() + state.open_for(self._now())

    def _close(self, state: State, refused: tuple[str, ...] = ()) -> None:
        if state.kind:
            self._store.delete(*self._failure_keys)
        self._write(State(until=self._now() if state.kind else state.until, refused=refused))

    def _count_refused(self, state: State, error: HubSpotIdentifyError, visitor: str) -> None:
        """Log an error when HubSpot has refused several visitors in a row: their data is not the reason."""
        refused = _with_visitor(state.refused, visitor)
        self._close(state, refused)  # HubSpot responds, so the reason for which it was opened no longer exists
        if len(state.refused) < VISITORS == len(refused):
            message = "HubSpot refused %d visitors in a row; check VISITOR, TOKEN_PATH and the account: %s%s"
            logger.error(message, VISITORS, error, self._log_suffix)

    def _count_visitor(self, state: State, error: HubSpotIdentifyError, visitor: str) -> None:
        """Count a failure without a time limit. Of simultaneous failures one may be lost: the next one counts."""
        failed = _with_visitor(state.failed, visitor)
        if len(failed) < (FAILURES if state.cool_down else VISITORS) and not concerns_all_visitors(error):
            self._write(state._replace(failed=failed))
            return
        is_configuration = isinstance(error, APIError) and error.status in CONFIGURATION_STATUSES
        self._cool_down(state, "misconfigured" if is_configuration else "failing", error)

    def _threshold_reached(self, visitor: str) -> bool:
        """Record a failure, and return whether there are now too many, from enough visitors.

        Each failure has a key of its own, because ``add`` is atomic on every shared back end and changing a list is
        not. More than three failures of one visitor leave their places to others.
        """
        now, names, recorded = self._now(), [visitor], False
        failure = [now, visitor]
        for key in self._failure_keys:
            if not recorded and self._store.add(key, failure, FAILURE_WINDOW):
                recorded = True
                continue
            name = _recent_visitor(self._store.get(key), now)
            if name is not None and names.count(name) <= FAILURES - VISITORS:
                names.append(name)
            elif not recorded:
                self._store.set(key, failure, FAILURE_WINDOW)
                recorded = True
        return len(names) >= FAILURES and len(set(names)) >= VISITORS


def _recent_visitor(failure: object, now: float) -> str | None:
    """Return the visitor of a recorded failure that is within the window, or ``None``."""
    match failure:
        case [float(failed_at), str(name)] if -CLOCK_SKEW <= now - failed_at < FAILURE_WINDOW:
            return name
    return None


def _with_visitor(names: tuple[str, ...], visitor: str) -> tuple[str, ...]:
    """Return the last few different visitors, this one included."""
    return (*(name for name in names if name != visitor), visitor)[-FAILURES:]


def next_cool_down(state: State) -> float:
    """Return the seconds of the next opening, given the state in which a probe failed."""
    return min(2 * state.cool_down, LONGEST_COOL_DOWN) if state.cool_down else COOL_DOWN
