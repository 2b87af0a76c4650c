"""The state of the simulated HubSpot: its scenario, the issued tokens, the contacts and their conversations.

It is one object, :data:`sandbox`, in the memory of one process. All of its methods are thread-safe.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..logs import log_throttled

logger = logging.getLogger(__name__)

TOKEN_LIFETIME = 12 * 60 * 60.0
"""Seconds."""

PREFIX = "sandbox."

RATE_LIMIT = 190
RATE_WINDOW = 10.0
"""At most RATE_LIMIT calls in any RATE_WINDOW seconds, for each credential."""

MAX_TOKENS = 10_000
MAX_CONTACTS = 1000
MAX_THREADS = 1000
MAX_MESSAGES = 200
MAX_TEXT = 2000
"""Limits of the memory. Beyond them, the oldest item is removed. A text is truncated to MAX_TEXT characters."""

NOT_ISSUED = (
    "The sandbox shows an unknown visitor, because this process did not issue the visitor's token. Processes do not "
    "share the sandbox's tokens, and a restart deletes them: serve the site with one process, such as runserver, and "
    "clear the cache after a restart."
)


class Scenario(StrEnum):
    """How the simulated token API behaves."""

    HEALTHY = "healthy"
    SLOW = "slow"
    HUNG = "hung"
    REFUSED = "refused"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    LOCKED = "423"
    RATE_LIMITED = "429"
    MIGRATING = "477"
    BROKEN = "500"
    GARBAGE = "garbage"


@dataclass(slots=True)
class Contact:
    """A contact in HubSpot."""

    email: str
    first_name: str = ""
    last_name: str = ""

    @property
    def name(self) -> str:
        """Return the first and last name, or the address if both are empty."""
        return f"{self.first_name} {self.last_name}".strip() or self.email


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """The visitor that a token was issued for."""

    email: str
    first_name: str
    last_name: str
    expires_at: float


@dataclass(slots=True)
class Thread:
    """One conversation in a portal: of a contact, or of a browser with its ``messagesUtk`` cookie."""

    id: int
    portal: str
    utk: str
    contact: Contact | None = None
    claimed: str = ""
    """An address without a valid token; shown to the agent as not verified."""
    page: str = ""
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the token API, recorded for tests."""

    path: str
    email: str
    status: int | None
    """``None`` if the caller got no response."""


class Sandbox:
    """The state of the simulated HubSpot. ``clock`` returns seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._changed = threading.Condition(threading.RLock())
        self.reset()

    def reset(self) -> None:
        """Delete everything, and return to the scenario ``healthy``."""
        with self._changed:
            self.slow_seconds = 3.0
            self.hung_seconds = 60.0
            self.calls: deque[Call] = deque(maxlen=10_000)
            self._scenario = Scenario.HEALTHY
            self._tokens: dict[str, IssuedToken] = {}
            self._contacts: dict[str, Contact] = {}
            self._threads: deque[Thread] = deque(maxlen=MAX_THREADS)
            self._thread_ids = itertools.count(1)
            self._windows: dict[str, deque[float]] = {}
            self._changed.notify_all()

    # -- the scenario

    @property
    def scenario(self) -> Scenario:
        """Return the current scenario of the token API."""
        return self._scenario

    def set_scenario(self, scenario: Scenario | str) -> None:
        """Switch to another scenario. Calls that wait because of the previous one end at once."""
        with self._changed:
            self._scenario = Scenario(scenario)
            self._changed.notify_all()

    def wait_while(self, scenario: Scenario, seconds: float) -> None:
        """Wait for some seconds, or until the scenario changes."""
        with self._changed:
            self._changed.wait_for(lambda: self._scenario is not scenario, timeout=seconds)

    # -- the token API

    def record(self, path: str, email: str, status: int | None) -> None:
        """Record one call of the token API."""
        self.calls.append(Call(path, email[:MAX_TEXT], status))

    def remaining(self, credential: str) -> int | None:
        """Count a call. Return how many more the rate limit allows, or ``None`` if it forbids this one."""
        now = self._clock()
        with self._changed:
            self._windows = {key: times for key, times in self._windows.items() if times[-1] > now - RATE_WINDOW}
            window = self._windows.setdefault(credential, deque())
            while window and window[0] <= now - RATE_WINDOW:
                window.popleft()
            if len(window) >= RATE_LIMIT:
                return None
            window.append(now)
            return RATE_LIMIT - len(window)

    def issue(self, email: str, first_name: str = "", last_name: str = "") -> str:
        """Issue a new token for an address, which is valid for twelve hours."""
        now = self._clock()
        # The token contains every special character that tokens may contain, so that an encoded token is noticed.
        token = f"{PREFIX}{secrets.token_urlsafe(48)}/~{secrets.token_hex(4)}=="
        with self._changed:
            self._tokens = {text: issued for text, issued in self._tokens.items() if issued.expires_at > now}
            self._tokens[token] = IssuedToken(email, first_name[:MAX_TEXT], last_name[:MAX_TEXT], now + TOKEN_LIFETIME)
            _drop_oldest(self._tokens, MAX_TOKENS)
        return token

    # -- the chat

    def contact_for(self, email: str, token: str) -> Contact | None:
        """Return the contact with an address, or ``None`` without a valid token that was issued for this address."""
        with self._changed:
            issued = self._tokens.get(token)
            if not issued and token.startswith(PREFIX):
                log_throttled(logger, logging.WARNING, NOT_ISSUED)
            if not issued or issued.expires_at <= self._clock() or issued.email.lower() != email.lower():
                return None
            contact = self._contacts.get(issued.email.lower())
            return contact or Contact(issued.email, issued.first_name, issued.last_name)

    def thread(self, email: str, token: str, utk: str, portal: str = "") -> Thread | None:
        """Return the latest conversation of a visitor: that of the contact, or else that of the browser."""
        with self._changed:
            contact = self.contact_for(email, token)
            for thread in (each for each in reversed(self._threads) if each.portal == portal):
                if contact:
                    if thread.contact and thread.contact.email.lower() == contact.email.lower():
                        return thread
                elif utk and thread.utk == utk:
                    return thread
            return None

    def link_to_contact(self, email: str, token: str, utk: str, portal: str = "") -> None:
        """Link the anonymous conversations of a browser to the contact that its visitor was identified as."""
        with self._changed:
            contact = self.contact_for(email, token)
            for thread in self._threads:
                if contact and utk and (thread.portal, thread.utk, thread.contact) == (portal, utk, None):
                    thread.contact = self._save_contact(email, token)

    def add_message(
        self, text: str, *, email: str = "", token: str = "", utk: str = "", portal: str = "", page: str = ""
    ) -> Thread:
        """Add a message of a visitor to the visitor's conversation, or to a new one."""
        with self._changed:
            thread = self.thread(email, token, utk, portal)
            if thread is None:
                thread = Thread(id=next(self._thread_ids), portal=portal, utk=utk[:MAX_TEXT])
                self._threads.append(thread)
            if contact := self._save_contact(email, token):
                thread.contact = contact
            elif email:
                thread.claimed = email[:MAX_TEXT]
            thread.page = page[:MAX_TEXT] or thread.page
            thread.messages.append(text[:MAX_TEXT])
            del thread.messages[:-MAX_MESSAGES]
            return thread

    def _save_contact(self, email: str, token: str) -> Contact | None:
        """Save an identified visitor as a contact. The token's names do not replace existing ones."""
        contact = self.contact_for(email, token)
        if contact:
            issued = self._tokens[token]
            contact.first_name = contact.first_name or issued.first_name
            contact.last_name = contact.last_name or issued.last_name
            self._contacts[contact.email.lower()] = contact
            _drop_oldest(self._contacts, MAX_CONTACTS)
        return contact

    def threads(self) -> list[Thread]:
        """Return all conversations, the newest first."""
        with self._changed:
            return list(reversed(self._threads))


def _drop_oldest(values: dict[str, Any], limit: int) -> None:
    while len(values) > limit:
        del values[next(iter(values))]


sandbox = Sandbox()
