"""The gate between a request and an identity: who is the visitor, and may they be identified?

It is evaluated for every request, before any cache.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings

from .exceptions import InvalidVisitorError
from .logs import log_throttled
from .validation import truth
from .visitors import Visitor, normalize_email

if TYPE_CHECKING:
    from django.http import HttpRequest

    from .conf import Config

logger = logging.getLogger(__name__)


def visitor_of(request: HttpRequest, config: Config) -> Visitor | None:
    """The visitor whom this request's session speaks for, or ``None`` where HubSpot must be told nobody.

    Asks, in this order: ``ENABLED``, whether the user is logged in, whether somebody impersonates them, ``VISITOR``,
    and whether the address was verified. Nothing else of the request is looked at.

    Only where ``django.contrib.auth`` is not installed is ``VISITOR`` asked without a user.
    """
    if not is_enabled(request, config):
        return None
    user = getattr(request, "user", None)
    if user is None and not apps.is_installed("django.contrib.auth"):
        pass  # a site with visitors of another kind: VISITOR knows them
    elif getattr(user, "is_authenticated", False) is not True:
        return None
    if is_impersonated(request, config):
        return None
    try:
        visitor = config.visitor(user, request)  # type: ignore[operator]  # the config imported it
    except InvalidVisitorError as error:
        log_throttled(logger, logging.INFO, "User %s is not identified: %s", _loggable_pk(user), error, reason="")
        return None
    if visitor is not None and not isinstance(visitor, Visitor):
        raise TypeError(f"HUBSPOT_IDENTIFY['VISITOR'] returned a {type(visitor).__name__}, not a Visitor or None.")
    if visitor is None or not is_verified(user, visitor, config):
        return None
    return visitor


def _loggable_pk(user: Any) -> object:
    """The primary key, unless it is text: that may be the address itself, or break the log line."""
    pk = getattr(user, "pk", None)
    return pk if isinstance(pk, (int, uuid.UUID)) else "(with a key of text)"


def is_enabled(request: HttpRequest, config: Config) -> bool:
    """What ``ENABLED`` says of a request."""
    return config.enabled if isinstance(config.enabled, bool) else truth("ENABLED", config.enabled(request))


def is_impersonated(request: HttpRequest, config: Config) -> bool:
    """Whether somebody else acts as the user: by the marks of the packages known to us, or by ``IMPERSONATED``."""
    user = getattr(request, "user", None)
    if getattr(user, "is_hijacked", False) or getattr(user, "is_impersonate", False):
        return True
    session = getattr(request, "session", None)
    if session is not None and any(session.get(mark) not in (None, []) for mark in _impersonation_marks()):
        return True
    return config.impersonated is not None and truth("IMPERSONATED", config.impersonated(request))


def _impersonation_marks() -> tuple[str, ...]:
    """The session keys of django-hijack, django-impersonate, django-su and django-loginas."""
    return (
        "hijack_history",
        "_impersonate",
        "exit_users_pk",
        getattr(settings, "LOGINAS_FROM_USER_SESSION_FLAG", "loginas_from_user"),
    )


def is_verified(user: Any, visitor: Visitor, config: Config) -> bool:
    """Return whether the address has been verified, according to ``EMAIL_VERIFIED`` or django-allauth."""
    if callable(config.email_verified):
        return truth("EMAIL_VERIFIED", config.email_verified(user, visitor.email))
    if config.email_verified is None:  # which the settings allow only if django-allauth is installed
        return _verified_by_allauth(user, visitor)
    return config.email_verified


def _verified_by_allauth(user: Any, visitor: Visitor) -> bool:
    if getattr(user, "pk", None) is None:
        return False
    from allauth.account.models import EmailAddress  # where the site installed it

    # Compared in Python: databases fold case by rules of their own, and normalize_email is the one that counts.
    verified = EmailAddress.objects.filter(user_id=user.pk, verified=True).values_list("email", flat=True)
    return any(_is_spelling_of(address, visitor) for address in verified)


def _is_spelling_of(address: str, visitor: Visitor) -> bool:
    try:
        return normalize_email(address) == visitor.email
    except InvalidVisitorError:
        return False
