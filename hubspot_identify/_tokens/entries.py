"""Identification tokens: what the cache holds of them, under which key, and how they age.

HubSpot's tokens live 12 hours and can't be revoked.
https://developers.hubspot.com/docs/api-reference/conversations-visitor-identification-v3/guide
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.crypto import salted_hmac

from ..conf import TOKEN, Config
from ..visitors import Visitor

HOUR = 3600.0
#: A token this old (seconds) is renewed behind the page, or up to 10 % sooner: later, and the tokens that fall due as
#: an outage of three hours begins would be dead before it ends.
RENEW_AFTER = 8 * HOUR
RENEW_SPREAD = 0.1
#: A token this old is never handed out: HubSpot's 12 hours, less what a page needs to use it.
DEAD_AFTER = 11.5 * HOUR
#: Changed names or context renew a token no sooner than this after it was made.
CHANGE_AFTER = 600.0
#: A visitor's failure stays on record for this long (seconds) after the time of the next try.
FAILURE_RECORD = HOUR
#: The clocks of two hosts may differ by this much; an entry from further ahead is not believed.
CLOCK_SKEW = 30.0

#: Stands at the front of every key of ours; the number changes with the shape of what is stored.
PREFIX = "hubspot_identify:1:"
#: Characters of a key that its entry repeats: 128 bits of the digest at its end.
OWNER_LENGTH = 32


@dataclass(frozen=True, slots=True)
class VisitorToken:
    """An identification token and whose it is.

    Attributes:
        value: what goes into ``identificationToken``.
        visitor: whom it identifies.
        created_at: seconds since the epoch, read before HubSpot was asked.
    """

    value: str = field(repr=False)
    visitor: Visitor
    created_at: float

    def expires_in(self, now: float) -> int:
        """Whole seconds for which a page may still use the token."""
        return max(0, math.floor(self.created_at + DEAD_AFTER - now))


@dataclass(frozen=True, slots=True)
class Entry:
    """What the cache holds for one visitor: a token, or that none could be made, and when to try again.

    Attributes:
        token: the token's text, or ``None``.
        created_at: seconds since the epoch of the moment before HubSpot was asked; 0 without a token.
        retry_at: seconds since the epoch before which HubSpot is not asked again.
        digest: of the names and the context the token was made with.
        failed_at: seconds since the epoch of the first failure on record; 0 without one.
    """

    token: str | None = field(repr=False)
    created_at: float
    retry_at: float
    digest: str
    failed_at: float = 0.0

    def as_primitives(self, key: str) -> dict[str, Any]:
        """Return what is stored: no class of the app, so that other versions of the app can read or ignore it.

        Args:
            key: the cache key. The entry repeats its digest, by which :func:`decode_entry` recognises that the entry
                belongs to the same visitor and account.
        """
        return {
            "owner": key[-OWNER_LENGTH:],
            "token": self.token,
            "created_at": self.created_at,
            "retry_at": self.retry_at,
            "digest": self.digest,
            "failed_at": self.failed_at,
        }

    def has_failure(self, now: float) -> bool:
        """Whether a failure of this visitor is on record."""
        return self.failed_at > 0 and now < self.retry_at + FAILURE_RECORD

    def is_due(self, visitor: Visitor, now: float) -> bool:
        """Whether the token should be made anew, be it behind the page."""
        if now < self.retry_at:
            return False
        if self.token is None or self.is_old(now):
            return True
        return now - self.created_at >= CHANGE_AFTER and self.digest != profile_digest(visitor)

    def is_old(self, now: float) -> bool:
        """Return whether the age of the token alone is a reason to renew it."""
        age = now - self.created_at
        return age >= RENEW_AFTER * (1 - RENEW_SPREAD) and age >= renewal_age(self)

    def without_token(self) -> Entry:
        """Return the entry without its token, with the failure on record and the time of the next try."""
        return replace(self, token=None, created_at=0.0, digest="")


NO_ENTRY = Entry(token=None, created_at=0.0, retry_at=0.0, digest="")


def decode_entry(value: object, key: str, now: float) -> Entry:
    """Decode what the cache returned for a key. Anything but a valid entry for this key is :data:`NO_ENTRY`.

    A cache client whose connection is out of step returns the value of another key: another visitor's token.
    """
    match value:
        case {
            "owner": str(owner),
            "token": token,
            "created_at": int() | float() as created_at,
            "retry_at": int() | float() as retry_at,
            "digest": str(digest),
            "failed_at": int() | float() as failed_at,
        } if owner == key[-OWNER_LENGTH:] and 0 <= retry_at <= now + DEAD_AFTER and failed_at >= 0:  # nan is not
            failed_at = min(failed_at, now)  # of a host whose clock is ahead
        case _:
            return NO_ENTRY
    if token is None:
        entry = Entry(None, 0.0, retry_at, digest, failed_at)
        return entry if retry_at > now or entry.has_failure(now) else NO_ENTRY
    if not (isinstance(token, str) and TOKEN.fullmatch(token)):
        return NO_ENTRY
    if not now - DEAD_AFTER < created_at <= now + CLOCK_SKEW:  # compared as they are: a huge int is no float
        return NO_ENTRY
    return Entry(token, created_at, retry_at, digest, failed_at)


def renewal_age(entry: Entry) -> float:
    """The age in seconds at which this very token is renewed: spread, so that a morning's tokens don't end at once."""
    seed = hashlib.sha256(f"{entry.token}{entry.created_at}".encode()).digest()
    return RENEW_AFTER * (1 - RENEW_SPREAD * int.from_bytes(seed[:4], "big") / 0xFFFFFFFF)


def profile_digest(visitor: Visitor) -> str:
    """A digest of what may change about a visitor while their token stays right."""
    return digest("profile", visitor.email, visitor.first_name, visitor.last_name, visitor.context)


def entry_key(visitor: Visitor, config: Config) -> str:
    """The cache key of a visitor's entry. Holds everything that makes a token another one, and nothing readable."""
    return PREFIX + digest("token", *scope(config), visitor.email)


def subject(visitor: Visitor, config: Config) -> str:
    """An opaque name for a visitor of a portal, by which a browser notices that it is another one."""
    return digest("subject", config.portal_id, visitor.email)[:32]


def scope(config: Config) -> tuple[str | None, ...]:
    """Return what separates the tokens, circuit breaker and rate limit of one account from those of another.

    Accounts of two sites may agree in everything but the key. A callable is only called on a worker, and its key may
    change, so it is represented by what identifies the site.
    """
    credential = (config.api_key,) if isinstance(config.api_key, str) else _site_of(config.api_key)
    return (config.account, config.base_url, config.token_path, config.portal_id, *credential)


def _site_of(function: Callable[..., object]) -> tuple[str, ...]:
    """Return what a site's processes have in common, and two sites do not. Contains no address of an object."""
    # A functools.partial and an instance with __call__ have no name of their own.
    named = function if isinstance(getattr(function, "__qualname__", None), str) else type(function)
    database = connections.settings[DEFAULT_DB_ALIAS]
    return (
        f"{named.__module__}.{named.__qualname__}",
        str(settings.SETTINGS_MODULE),  # None after settings.configure()
        str(getattr(settings, "ROOT_URLCONF", None)),
        *(str(database[part]) for part in ("ENGINE", "HOST", "PORT", "NAME")),
    )


def digest(purpose: str, *parts: object) -> str:
    """A digest of primitives, keyed with ``SECRET_KEY`` and its purpose, so that nobody can guess what went in."""
    return _digest(settings.SECRET_KEY, purpose, parts)


@lru_cache(maxsize=4096)  # a page needs three, the same as the visitor's last page
def _digest(secret: str | bytes, purpose: str, parts: tuple[object, ...]) -> str:
    return salted_hmac(f"hubspot_identify.{purpose}", json.dumps(parts), secret=secret, algorithm="sha256").hexdigest()
