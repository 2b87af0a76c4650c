"""When HubSpot is better left alone: the circuit breaker, the pause, and the rate window.

All of it stands in the shared cache, so that the processes and hosts of a site act as one. Each account has its own.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from .conf import Config
from .exceptions import APIError, HubSpotIdentifyError
from .per_process import PerProcess
from .store import Store, get_store
from .tokens import CLOCK_SKEW, PREFIX, digest, scope
from .visitors import Visitor

logger = logging.getLogger(__name__)

FAILURES = 5  # open the breaker …
FAILURE_WINDOW = 30.0  # … within so many seconds
COOL_DOWN = 15.0  # seconds, give or take 20 %, doubling …
COOL_DOWN_SPREAD = 0.2
LONGEST_COOL_DOWN = 300.0  # … up to here
REFUSED_VISITORS = 3  # different ones, by a 400, without a success between, open it …
LONG_COOL_DOWN = 300.0  # … for so long, and so does an answer that means that the set-up is wrong
SHORTEST_PAUSE, USUAL_PAUSE, LONGEST_PAUSE, DAILY_PAUSE = 1.0, 10.0, 60.0, 900.0  # after 429 and 477

#: Statuses that mean that the set-up is wrong, for every visitor alike.
MISCONFIGURED = frozenset({401, 403, 404, 405, 410, 415})

#: The state outlives the opening by so many seconds, so that the next opening knows of it.
MEMORY = 600.0

#: The rate window's number is ``second * SECOND + calls in it``; one number, for only that is counted up atomically.
SECOND = 1_000_000
WINDOW_TTL = 60.0


@dataclass(frozen=True, slots=True)
class State:
    """What all processes know.

    Attributes:
        kind: why the breaker opened: ``failing``, ``misconfigured``, ``refused`` or ``pause``; ``""`` while closed.
        until: seconds since the epoch until which nobody calls; after that, one probe.
        cool_down: seconds of the last opening, doubled by the next.
        refused: digests of the visitors whose data HubSpot refused since the last success.
    """

    kind: str = ""
    until: float = 0.0
    cool_down: float = 0.0
    refused: tuple[str, ...] = ()


CLOSED = State()


def decode_state(value: object, now: float) -> State:
    """Read what the cache returned; anything strange means closed."""
    match value:
        case {
            "kind": str(kind),
            "until": int() | float() as until,
            "cool_down": int() | float() as cool_down,
            "refused": list() | tuple() as refused,
        } if until <= now + DAILY_PAUSE + CLOCK_SKEW and 0 <= cool_down <= LONGEST_COOL_DOWN:
            return State(kind, until, cool_down, tuple(str(visitor) for visitor in refused))
    return CLOSED


def pause_after(error: APIError) -> float:
    """Seconds without calls after a 429 or 477."""
    if error.policy == "DAILY":
        return DAILY_PAUSE
    if error.retry_after is None:
        return USUAL_PAUSE
    return min(max(error.retry_after, SHORTEST_PAUSE), LONGEST_PAUSE)


class Breaker:
    """The breaker of one account, as this process sees it.

    Args:
        config: the account.
        store: where the state is shared.
        now: seconds since the epoch; another clock for tests.
    """

    def __init__(self, config: Config, store: Store, now: Callable[[], float] = time.time) -> None:
        self._rate_limit = config.rate_limit
        self._log_suffix = config.log_suffix
        self._patience = config.timeout + 1
        self._store = store
        self._now = now
        self._key = PREFIX + digest("breaker", *scope(config))
        self._open_until = 0.0

    @property
    def is_known_open(self) -> bool:
        """Whether it was open when this process last looked. Asks no cache."""
        return self._now() < self._open_until

    @property
    def state(self) -> State:
        """What all processes know at the moment. One read of the cache."""
        return decode_state(self._store.get(self._key), self._now())

    def allows_call(self) -> bool:
        """Whether a call may be made now. After a cool-down that is one probe of all processes."""
        state = self.state
        self._open_until = state.until
        if self._now() < state.until or not self._rate_allows_call():
            return False
        # A probe whose host died is waited for no longer than a call can take.
        return not state.kind or self._store.add(self._probe_key, 1, self._patience)

    def record_success(self) -> None:
        """HubSpot made a token: what was held against it is forgotten, unless others were just told to wait."""
        state = self.state
        if state == CLOSED or self._now() < state.until:
            return
        self._close(state)
        if state.kind:
            logger.info("HubSpot makes identification tokens again.%s", self._log_suffix)

    def record_failure(self, error: HubSpotIdentifyError, visitor: Visitor) -> None:
        """A call failed: count it, and open the breaker or pause where that is due."""
        state = self.state
        status = error.status if isinstance(error, APIError) else 0
        if isinstance(error, APIError) and status in (429, 477):
            self._pause(state, error)
        elif self._now() < state.until:
            return  # a call that was under way when the breaker opened
        elif status in MISCONFIGURED:
            if self._open(state, "misconfigured", LONG_COOL_DOWN):
                logger.error("No visitor can be identified until this is mended. %s%s", error, self._log_suffix)
        elif status in (400, 422):
            self._count_refused(state, error, visitor)
        elif state.cool_down or self._is_failure_too_many():  # a probe after an opening, or one failure of several
            self._open_failing(state, error)

    @property
    def _probe_key(self) -> str:
        return f"{self._key}:probe"

    @property
    def _failure_keys(self) -> list[str]:
        return [f"{self._key}:failure:{number}" for number in range(FAILURES)]

    def _open_failing(self, state: State, error: HubSpotIdentifyError) -> None:
        if self._open(state, "failing", next_cool_down(state), COOL_DOWN_SPREAD):
            logger.warning("HubSpot is left alone for a while, since it fails. %s%s", error, self._log_suffix)

    def _open(self, state: State, kind: str, cool_down: float, spread: float = 0.0) -> bool:
        """Open, and say whether that is news to an operator."""
        seconds = cool_down * random.uniform(1 - spread, 1 + spread)  # noqa: S311 - no secret
        self._write(replace(state, kind=kind, until=self._now() + seconds, cool_down=cool_down))
        return state.kind != kind

    def _pause(self, state: State, error: APIError) -> None:
        seconds = pause_after(error)
        until = self._now() + seconds
        if until <= state.until:
            return
        self._write(replace(state, kind="pause", until=until))
        if state.kind != "pause":
            logger.warning("HubSpot is not called for %.0f s. %s%s", seconds, error, self._log_suffix)

    def _write(self, state: State) -> None:
        self._store.set(self._key, asdict(state), state.until - self._now() + MEMORY)
        self._store.delete(self._probe_key)
        self._open_until = state.until

    def _close(self, state: State) -> None:
        self._store.delete(self._key, *((self._probe_key, *self._failure_keys) if state.kind else ()))
        self._open_until = 0.0

    def _count_refused(self, state: State, error: HubSpotIdentifyError, visitor: Visitor) -> None:
        name = digest("refused", visitor.email)[:16]
        refused = (*(other for other in state.refused if other != name), name)[-REFUSED_VISITORS:]
        state = replace(state, refused=refused)
        if len(refused) < REFUSED_VISITORS:
            # HubSpot answers, so whatever else it was opened for is over.
            self._close(state)
            self._store.set(self._key, asdict(State(refused=refused)), MEMORY)
        elif self._open(state, "refused", LONG_COOL_DOWN):
            logger.error(
                "HubSpot refused %d different visitors in a row, so their data can't be the reason: look at VISITOR, "
                "TOKEN_PATH and the account. %s%s",
                REFUSED_VISITORS,
                error,
                self._log_suffix,
            )

    def _is_failure_too_many(self) -> bool:
        """Note a failure, and say whether there are now too many at once.

        Each failure has a key of its own, because ``add`` is atomic on every shared back end and a list is not.
        """
        now, noted, recent = self._now(), False, 0
        for key in self._failure_keys:
            if not noted and self._store.add(key, now, FAILURE_WINDOW):
                noted = True
            elif not _is_recent(self._store.get(key), now):
                if noted:
                    continue
                self._store.set(key, now, FAILURE_WINDOW)
                noted = True
            recent += 1
        return recent >= FAILURES

    def _rate_allows_call(self) -> bool:
        """Take a call out of this second's, for all processes together."""
        second = int(self._now())
        key = f"{self._key}:rate"
        for _ in range(2):
            number = self._store.increase(key)
            if self._store.is_down:  # nothing is shared: one call a second of each process
                return self._store.add(f"{self._key}:alone", 1, 1.0)
            if number is None:
                if self._store.add(key, second * SECOND + 1, WINDOW_TTL):
                    return True
                continue
            window, calls = divmod(number, SECOND)
            if second <= window <= second + CLOCK_SKEW:  # of this second, or of a host whose clock is ahead
                return calls <= self._rate_limit
            if not self._begin_window(key, second):
                return False
        return False

    def _begin_window(self, key: str, second: int) -> bool:
        """Let one process turn an old window into this second's. False where another is at it."""
        if not self._store.add(f"{key}:turn", 1, 2):
            return False
        number = self._store.get(key)
        if not isinstance(number, int) or not second <= number // SECOND <= second + CLOCK_SKEW:
            self._store.set(key, second * SECOND, WINDOW_TTL)
        self._store.delete(f"{key}:turn")
        return True


def _is_recent(failed_at: object, now: float) -> bool:
    return isinstance(failed_at, float) and -CLOCK_SKEW <= now - failed_at < FAILURE_WINDOW


def next_cool_down(state: State) -> float:
    """Seconds without calls, given the state in which the last probe failed."""
    return min(2 * state.cool_down, LONGEST_COOL_DOWN) if state.cool_down else COOL_DOWN


_breakers: PerProcess[dict[tuple[object, ...], Breaker]] = PerProcess(dict)


def get_breaker(config: Config) -> Breaker:
    """This process's view of an account's breaker."""
    key = (config.cache, config.rate_limit, config.timeout, *scope(config))
    breakers = _breakers.get()
    breaker = breakers.get(key)
    if breaker is None:
        breaker = breakers.setdefault(key, Breaker(config, get_store(config.cache)))
    return breaker


def forget_breakers() -> None:
    """Start anew; for tests. What is shared stays in the cache."""
    _breakers.renew()
