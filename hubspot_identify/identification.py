"""What a browser may know about the visitor of a request, from the gate, the cache and a fetch if one is due."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._tokens.account import Account
from ._tokens.entries import VisitorToken
from ._tokens.lookup import CacheLookup, read_cache_and_schedule
from .eligibility import visitor_of
from .visitors import Visitor

if TYPE_CHECKING:
    from django.http import HttpRequest


@dataclass(frozen=True, slots=True)
class Identification:
    """What a browser may know about the visitor of a request.

    Attributes:
        subject: an opaque name of the visitor, which differs from visitor to visitor; ``None`` for an anonymous one.
        identity: ``{"email": str, "token": str, "expires_in": seconds}`` for the widget, or ``None``.
        pending: whether a request in a second may return an identity.
    """

    subject: str | None
    identity: dict[str, Any] | None = field(repr=False)
    pending: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return ``{"subject": …, "identity": …}``, as the endpoint sends it."""
        return {"subject": self.subject, "identity": self.identity}


ANONYMOUS = Identification(subject=None, identity=None)


def identify_account(request: HttpRequest, account: Account, wait: float) -> Identification:
    """Identify the visitor of a request whose account is known, and wait so many seconds for a token."""
    visitor, lookup = resolve_request(request, account)
    if visitor is None:
        return ANONYMOUS
    return identification_of(visitor, account, lookup, lookup.wait(wait))


def resolve_request(request: HttpRequest, account: Account) -> tuple[Visitor | None, CacheLookup]:
    """Return the visitor of a request, and what the cache holds for a visitor who may be identified."""
    visitor = visitor_of(request, account.config)
    return visitor, CacheLookup() if visitor is None else read_cache_and_schedule(visitor, account)


def identification_of(
    visitor: Visitor, account: Account, lookup: CacheLookup, token: VisitorToken | None
) -> Identification:
    """Return what a browser may know, given the token that there is in the end."""
    if token is None:
        return Identification(account.subject(visitor), None, lookup.pending)
    identity = {"email": visitor.email, "token": token.value, "expires_in": token.expires_in(time.time())}
    return Identification(account.subject(visitor), identity)
