"""Identification tokens and the cache entries that hold them: shape, validation, and how they age.

HubSpot's tokens are valid for 12 hours and cannot be revoked.
https://developers.hubspot.com/docs/api-reference/conversations-visitor-identification-v3/guide
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.utils.crypto import salted_hmac

from ..visitors import TOKEN, Visitor

HOUR = 3600.0
#: A token of this age (seconds) is renewed in the background, or up to 10 % sooner. A token that is due when an outage
#: of three hours begins is still valid when it ends: 8 h, 3 h, and 16 min until the next probe and page view are less
#: than EXPIRE_AFTER.
RENEW_AFTER = 8 * HOUR
RENEW_SPREAD = 0.1
#: A token of this age is not used any more: HubSpot's 12 hours, minus the time for which a page may use it. Entries are
#: kept for as long, and a time of the next attempt that is further away is invalid.
EXPIRE_AFTER = 11.5 * HOUR
#: Changed names or context renew a token at most once in this time.
CHANGE_AFTER = 600.0
#: A visitor's failure stays on record for this long (seconds) after the time of the next attempt.
FAILURE_RECORD = HOUR
#: The clocks of two hosts may differ by this much. An entry from further in the future is a miss.
CLOCK_SKEW = 30.0

#: Starts every cache key of the app. The number changes with the shape of what is stored.
PREFIX = "hubspot_identify:1:"
#: Characters of a key that its entry repeats: 128 bits of the digest at its end.
OWNER_LENGTH = 32


class KeyedDigest:
    """A function from a text to a digest that cannot be computed, or guessed from, without ``SECRET_KEY``.

    Args:
        purpose: digests for different purposes differ.
        scope: primitives that separate one account from another. The key is derived from them once.
    """

    def __init__(self, purpose: str, *scope: object) -> None:
        self._key = salted_hmac(f"hubspot_identify.{purpose}", json.dumps(scope), algorithm="sha256").digest()

    def __call__(self, text: str) -> str:
        return hashlib.blake2b(text.encode(), key=self._key, digest_size=32).hexdigest()


@dataclass(frozen=True, slots=True)
class VisitorToken:
    """An identification token and the visitor that it identifies.

    Attributes:
        value: the text for ``identificationToken``.
        visitor: the visitor.
        created_at: seconds since the epoch, read before the call.
    """

    value: str = field(repr=False)
    visitor: Visitor
    created_at: float

    def expires_in(self, now: float) -> int:
        """Return the whole seconds for which a page may still use the token."""
        return max(0, math.floor(self.created_at + EXPIRE_AFTER - now))


class Entry(NamedTuple):
    """What the cache holds for one visitor: a token, or the failure to create one, and when to try again.

    Attributes:
        token: the token's text, or ``None``.
        created_at: seconds since the epoch, read before the call. Without a token: when it was removed, or 0.
        retry_at: seconds since the epoch before which no call is made.
        profile: digest of the names and the context that the token was created with.
        failed_at: seconds since the epoch of the first failure on record; 0 without one.
    """

    token: str | None
    created_at: float
    retry_at: float
    profile: str
    failed_at: float = 0.0

    def __repr__(self) -> str:
        return f"Entry(created_at={self.created_at}, retry_at={self.retry_at})"  # without the token

    def as_primitives(self, key: str) -> dict[str, Any]:
        """Return what is stored: no class of the app, so that other versions of the app can read or ignore it.

        Args:
            key: the cache key. The entry repeats its digest, by which :func:`decode_entry` recognises that the entry
                belongs to the same visitor and account.
        """
        return {"owner": key[-OWNER_LENGTH:], **self._asdict()}

    def token_for(self, visitor: Visitor) -> VisitorToken | None:
        """Return the token, if there is one, with the visitor to whom the entry belongs."""
        return VisitorToken(self.token, visitor, self.created_at) if self.token else None

    def has_failure(self, now: float) -> bool:
        """Return whether a failure of this visitor is on record."""
        return self.failed_at > 0 and now < self.retry_at + FAILURE_RECORD

    def is_due(self, visitor: Visitor, now: float, profile: Callable[[Visitor], str]) -> bool:
        """Return whether a fetch of the visitor's token is due.

        Args:
            visitor: the visitor to whom the entry belongs.
            now: seconds since the epoch.
            profile: returns the digest of a visitor's names and context.
        """
        if now < self.retry_at:
            return False
        may_change = now - self.created_at >= CHANGE_AFTER
        return self.needs_token(now) or (may_change and self.profile != profile(visitor))

    def needs_token(self, now: float) -> bool:
        """Return whether there is no token, or one that is old."""
        return self.token is None or now - self.created_at >= renewal_age(self)

    def without_token(self, now: float) -> Entry:
        """Return the entry without its token, with the failure on record and the time of the next attempt.

        The time makes it differ from earlier entries without a token. ``Store.get()`` depends on this: a process uses
        the value that it could not store only while the cache still has the value that this was to replace.
        """
        return self._replace(token=None, created_at=now, profile="")


NO_ENTRY = Entry(token=None, created_at=0.0, retry_at=0.0, profile="")


def decode_entry(value: object, key: str, now: float) -> Entry:
    """Decode what the cache returned for a key. Anything but a valid entry for this key is :data:`NO_ENTRY`.

    A cache client whose connection is out of step returns the value of another key: another visitor's token.
    """
    match value:
        case {
            "owner": str(owner),
            "token": str() | None as token,
            "created_at": int() | float() as created_at,
            "retry_at": int() | float() as retry_at,
            "profile": str(profile),
            "failed_at": int() | float() as failed_at,
        } if owner == key[-OWNER_LENGTH:] and 0 <= retry_at <= now + EXPIRE_AFTER and failed_at >= 0:  # nan is not
            # The clock of another host may be ahead.
            entry = Entry(token, created_at, retry_at, profile, failed_at=min(failed_at, now))
        case _:
            return NO_ENTRY
    if token is None:
        is_valid = retry_at > now or entry.has_failure(now)
    else:
        is_valid = TOKEN.fullmatch(token) is not None and now - EXPIRE_AFTER < created_at <= now + CLOCK_SKEW
    return entry if is_valid else NO_ENTRY


def renewal_age(entry: Entry) -> float:
    """Return the age in seconds at which a token is renewed. Ages are spread, so that renewals do not coincide."""
    seed = zlib.crc32(f"{entry.token}{entry.created_at}".encode())
    return RENEW_AFTER * (1 - RENEW_SPREAD * seed / 0xFFFFFFFF)
