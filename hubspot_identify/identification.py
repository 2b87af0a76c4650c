"""What a browser may know about the visitor of a request, from the gate, the cache and a fetch if one is due."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.http import JsonResponse

from ._callables import CallableError
from ._tokens.account import Account
from ._tokens.entries import VisitorToken
from ._tokens.lookup import CacheLookup, read_cache_and_schedule
from .eligibility import is_enabled, visitor_of
from .visitors import Visitor

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

RETRY_AFTER = 1  # seconds, for clients that obey the header; the app's script retries sooner


@dataclass(frozen=True, slots=True)
class Identification:
    """What a browser may know about the visitor of a request.

    Attributes:
        subject: an opaque name of the visitor, which differs from visitor to visitor; ``None`` for an anonymous one.
        identity: ``{"email": str, "token": str, "expires_in": seconds}`` for the widget, or ``None``.
        pending: whether a request in a second may return an identity.
        enabled: whether ``ENABLED`` allows the chat for this request. If not, nothing must be loaded from HubSpot.
        failed: whether a callable in the settings failed, so the visitor could not be determined.
    """

    subject: str | None
    identity: dict[str, Any] | None = field(repr=False)
    pending: bool = False
    enabled: bool = True
    failed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return ``{"subject": …, "identity": …}`` or ``{"enabled": False}``, as the endpoint sends it."""
        return {"subject": self.subject, "identity": self.identity} if self.enabled else {"enabled": False}

    def as_response(self) -> JsonResponse:
        """Return :meth:`as_dict` as the response of a view, with the endpoint's status and headers. No cache stores it.

        The status is 202 with ``Retry-After`` if the result is pending, 503 if it has failed, and 200 otherwise.
        """
        response = JsonResponse(self.as_dict(), status=503 if self.failed else 202 if self.pending else 200)
        if self.pending:
            response.headers["Retry-After"] = str(RETRY_AFTER)
        forbid_storing(response)
        return response


ANONYMOUS = Identification(subject=None, identity=None)
DISABLED = Identification(subject=None, identity=None, enabled=False)
FAILED = Identification(subject=None, identity=None, failed=True)


def forbid_storing(response: HttpResponse) -> None:
    """Set the headers that keep a personal response out of caches and from other sites."""
    response.headers["Cache-Control"] = "private, no-store"
    response.headers["Vary"] = "*"  # Service workers store responses despite no-store, but not with this header.
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"


def identify_account(request: HttpRequest, account: Account, wait: float) -> Identification:
    """Identify the visitor of a request whose account is known, and wait so many seconds for a token."""
    found = resolve_request(request, account)
    if isinstance(found, Identification):
        return found
    visitor, lookup = found
    return identification_of(visitor, account, lookup, lookup.wait(wait))


def resolve_request(request: HttpRequest, account: Account) -> tuple[Visitor, CacheLookup] | Identification:
    """Return the visitor of a request and what the cache holds, or the result if there is nobody to identify.

    Raises:
        CallableError: a callable of the site failed.
    """
    if not is_enabled(request, account.config):
        return DISABLED
    visitor = visitor_of(request, account.config)
    return ANONYMOUS if visitor is None else (visitor, read_cache_and_schedule(visitor, account))


def unidentified(error: CallableError) -> Identification:
    """Return the safe result after a callable of the site has failed."""
    return Identification(subject=None, identity=None, enabled=not error.prevents_chat, failed=True)


def identification_of(
    visitor: Visitor, account: Account, lookup: CacheLookup, token: VisitorToken | None
) -> Identification:
    """Return what a browser may know, given the token that there is in the end."""
    if token is None:
        return Identification(account.subject(visitor), None, lookup.pending)
    identity = {"email": visitor.email, "token": token.value, "expires_in": token.expires_in(time.time())}
    return Identification(account.subject(visitor), identity)
