"""What the stand-in HubSpot knows: its mood, the tokens it gave out, its contacts and their chats.

One object, :data:`sandbox`, in one process's memory; every method may be called from any thread.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

TOKEN_LIFETIME = 12 * 60 * 60.0
"""Seconds."""

RATE_LIMIT = 190
RATE_WINDOW = 10.0
"""At most RATE_LIMIT calls in any RATE_WINDOW seconds, for each credential."""

MAX_TOKENS = 10_000
MAX_CONTACTS = 1000
MAX_THREADS = 1000
MAX_MESSAGES = 200
MAX_TEXT = 2000
"""Limits of what is kept. Beyond the limits the oldest is dropped; a text is cut after MAX_TEXT characters."""


class Mood(StrEnum):
    """How the token API is doing."""

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
    """A person HubSpot knows."""

    email: str
    first_name: str = ""
    last_name: str = ""

    @property
    def name(self) -> str:
        """First and last name, or the address where there is neither."""
        return f"{self.first_name} {self.last_name}".strip() or self.email


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """What was asked for when a token was made."""

    email: str
    first_name: str
    last_name: str
    expires_at: float


@dataclass(slots=True)
class Thread:
    """One conversation: of a contact, or of whoever holds the browser's ``messagesUtk`` cookie."""

    id: int
    utk: str
    contact: Contact | None = None
    claimed: str = ""
    """An address that came with a token nobody issued for it; shown to the agent as not verified."""
    page: str = ""
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the token API, for tests to count."""

    path: str
    email: str
    status: int | None
    """``None`` where the caller got no answer."""


class Sandbox:
    """The stand-in's memory. ``clock`` returns seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._changed = threading.Condition(threading.RLock())
        self.reset()

    def reset(self) -> None:
        """Forget everything and be healthy."""
        with self._changed:
            self.slow_seconds = 3.0
            self.hung_seconds = 60.0
            self.calls: deque[Call] = deque(maxlen=10_000)
            self._mood = Mood.HEALTHY
            self._tokens: dict[str, IssuedToken] = {}
            self._contacts: dict[str, Contact] = {}
            self._threads: deque[Thread] = deque(maxlen=MAX_THREADS)
            self._thread_ids = itertools.count(1)
            self._windows: dict[str, deque[float]] = {}
            self._changed.notify_all()

    # -- the mood

    @property
    def mood(self) -> Mood:
        """How the token API is doing now."""
        return self._mood

    def set_mood(self, mood: Mood | str) -> None:
        """Switch to another mood; calls that hang in the former one end at once."""
        with self._changed:
            self._mood = Mood(mood)
            self._changed.notify_all()

    def linger(self, mood: Mood, seconds: float) -> None:
        """Wait so long, or until the mood is another one."""
        with self._changed:
            self._changed.wait_for(lambda: self._mood is not mood, timeout=seconds)

    # -- the token API

    def record(self, path: str, email: str, status: int | None) -> None:
        """Note one call of the token API."""
        self.calls.append(Call(path, email[:MAX_TEXT], status))

    def remaining(self, credential: str) -> int | None:
        """Count a call against the rolling limit; calls still allowed, or ``None`` if this one is not."""
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
        """Make a token for an address: another one each time, good for twelve hours."""
        now = self._clock()
        # Every character a token may have, so that whoever encodes or cuts it is found out.
        token = f"sandbox.{secrets.token_urlsafe(48)}/~{secrets.token_hex(4)}=="
        with self._changed:
            self._tokens = {text: made for text, made in self._tokens.items() if made.expires_at > now}
            self._tokens[token] = IssuedToken(email, first_name[:MAX_TEXT], last_name[:MAX_TEXT], now + TOKEN_LIFETIME)
            _drop_oldest(self._tokens, MAX_TOKENS)
        return token

    # -- the chat

    def believe(self, email: str, token: str) -> Contact | None:
        """Who a chat belongs to: a contact if the token was issued for this address and still lives."""
        with self._changed:
            made = self._tokens.get(token)
            if not made or made.expires_at <= self._clock() or made.email.lower() != email.lower():
                return None
            known = self._contacts.get(made.email.lower())
            if known:
                return known
            return Contact(made.email, made.first_name, made.last_name)

    def thread(self, email: str, token: str, utk: str) -> Thread | None:
        """The conversation of this visitor so far: a contact's own, else the browser's."""
        with self._changed:
            contact = self.believe(email, token)
            for thread in reversed(self._threads):
                if contact:
                    if thread.contact and thread.contact.email.lower() == contact.email.lower():
                        return thread
                elif utk and thread.utk == utk:
                    return thread
            return None

    def adopt(self, email: str, token: str, utk: str) -> None:
        """Give the browser's anonymous conversation to the contact it turned out to be."""
        with self._changed:
            contact = self.believe(email, token)
            for thread in self._threads:
                if contact and utk and thread.utk == utk and thread.contact is None:
                    thread.contact = self._remember(email, token)

    def say(self, text: str, *, email: str = "", token: str = "", utk: str = "", page: str = "") -> Thread:
        """Add a visitor's message to their conversation, starting one where there is none."""
        with self._changed:
            thread = self.thread(email, token, utk)
            if thread is None:
                thread = Thread(id=next(self._thread_ids), utk=utk[:MAX_TEXT])
                self._threads.append(thread)
            if contact := self._remember(email, token):
                thread.contact = contact
            elif email:
                thread.claimed = email[:MAX_TEXT]
            thread.page = page[:MAX_TEXT] or thread.page
            thread.messages.append(text[:MAX_TEXT])
            del thread.messages[:-MAX_MESSAGES]
            return thread

    def _remember(self, email: str, token: str) -> Contact | None:
        """Keep a believed visitor as a contact; names are only written where there were none."""
        contact = self.believe(email, token)
        made = self._tokens.get(token)
        if contact and made:
            contact.first_name = contact.first_name or made.first_name
            contact.last_name = contact.last_name or made.last_name
            self._contacts[contact.email.lower()] = contact
            _drop_oldest(self._contacts, MAX_CONTACTS)
        return contact

    def threads(self) -> list[Thread]:
        """All conversations, newest first."""
        with self._changed:
            return list(reversed(self._threads))


def _drop_oldest(values: dict[str, Any], limit: int) -> None:
    while len(values) > limit:
        del values[next(iter(values))]


sandbox = Sandbox()
