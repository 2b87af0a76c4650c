"""The gate between a request and an identity: may there be a chat, who is the visitor, and may they be identified?

It is evaluated for every request, before any cache.
"""

from __future__ import annotations

import logging
import uuid
from types import NoneType
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings

from ._callables import call_setting, checked
from .exceptions import InvalidVisitorError
from .logs import log_throttled
from .visitors import Visitor, normalize_email

if TYPE_CHECKING:
    from django.http import HttpRequest

    from .conf import Config

logger = logging.getLogger(__name__)


def visitor_of(request: HttpRequest, config: Config) -> Visitor | None:
    """Return the visitor whom the request identifies, or ``None`` for an anonymous visitor.

    Evaluates, in this order: whether the user is logged in, whether they are impersonated, whether a second factor is
    outstanding, ``VISITOR``, and whether the address is verified. Reads nothing else of the request. Call this only if
    :func:`is_enabled` returns ``True``.

    ``VISITOR`` is called without a user only if ``django.contrib.auth`` is not installed.

    Raises:
        CallableError: a callable of the site failed, so the visitor must not be identified.
    """
    user = _user_of(request)
    is_logged_in = _is_logged_in(user)
    has_own_users = user is None and not apps.is_installed("django.contrib.auth")
    if not (is_logged_in or has_own_users) or is_impersonated(request, config):
        return None
    if has_outstanding_second_factor(user):
        return None
    visitor: Visitor | None = call_setting(
        "VISITOR", _visitor_or_none, user, request, config, returns=(Visitor, NoneType)
    )
    if visitor is None or not call_setting("EMAIL_VERIFIED", is_verified, user, visitor, config):
        return None
    return visitor


def _user_of(request: HttpRequest) -> Any:
    """Return the user whom the credentials of the request identify, or else the session's.

    Django Ninja sets ``request.auth`` to what the site's authenticator returns, and leaves ``request.user`` unchanged.
    """
    auth = getattr(request, "auth", None)
    return auth if _is_logged_in(auth) else getattr(request, "user", None)


def _is_logged_in(user: Any) -> bool:
    return getattr(user, "is_authenticated", False) is True


def _visitor_or_none(user: Any, request: HttpRequest, config: Config) -> object:
    """Call ``VISITOR``. A user whose data it cannot use is an anonymous visitor."""
    try:
        return config.visitor(user, request)
    except InvalidVisitorError as error:
        key = getattr(user, "pk", None)
        if not isinstance(key, (int, uuid.UUID)):
            key = "(with a text key)"  # It may be the address, or break the log line.
        log_throttled(logger, logging.INFO, "User %s is not identified: %s", key, error)
        return None


def is_enabled(request: HttpRequest, config: Config) -> bool:
    """Return whether the chat is enabled for a request, according to ``ENABLED``."""
    if isinstance(config.enabled, bool):
        return config.enabled
    enabled: bool = call_setting("ENABLED", config.enabled, request)
    return enabled


def is_impersonated(request: HttpRequest, config: Config) -> bool:
    """Return whether another person acts as the user, according to ``IMPERSONATED`` or a package for that."""
    user = getattr(request, "user", None)
    if getattr(user, "is_hijacked", False) or getattr(user, "is_impersonate", False):
        return True
    # The session keys of django-hijack, django-impersonate, django-su and django-loginas.
    loginas = getattr(settings, "LOGINAS_FROM_USER_SESSION_FLAG", "loginas_from_user")
    keys = {"hijack_history", "_impersonate", "exit_users_pk", loginas}
    session = getattr(request, "session", None)
    if session is not None and any(session[key] not in (None, []) for key in keys & session.keys()):
        return True
    return config.impersonated is not None and call_setting("IMPERSONATED", config.impersonated, request)


def has_outstanding_second_factor(user: Any) -> bool:
    """Return whether the user has a confirmed device of django-otp, and has not used it in this session.

    Returns ``False`` if ``OTPMiddleware`` has not set the user's attributes, for example for clients with an API token.
    """
    if not apps.is_installed("django_otp") or getattr(user, "otp_device", user) is not None:
        return False
    if not callable(getattr(user, "is_verified", None)):  # a user of simplejwt, all of whose other attributes are None
        return False
    from django_otp import user_has_device  # a dependency of the site

    return bool(user_has_device(user))


def is_verified(user: Any, visitor: Visitor, config: Config) -> bool:
    """Return whether the address is verified, according to ``EMAIL_VERIFIED`` or django-allauth."""
    if callable(config.email_verified):
        verified: bool = checked("EMAIL_VERIFIED", config.email_verified(user, visitor.email))
        return verified
    if config.email_verified is None:  # allowed only if django-allauth is installed
        return _is_verified_by_allauth(user, visitor)
    return config.email_verified


def _is_verified_by_allauth(user: Any, visitor: Visitor) -> bool:
    if getattr(user, "pk", None) is None:
        return False
    from allauth.account.models import EmailAddress  # a dependency of the site

    # Compared in Python, because databases fold case by their own rules, and those of normalize_email count.
    verified = EmailAddress.objects.filter(user_id=user.pk, verified=True).values_list("email", flat=True)
    return any(_is_spelling_of(address, visitor) for address in verified)


def _is_spelling_of(address: str, visitor: Visitor) -> bool:
    try:
        return normalize_email(address) == visitor.email
    except InvalidVisitorError:
        return False
