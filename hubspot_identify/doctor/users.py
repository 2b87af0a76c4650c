"""The doctor's check whether users would be identified."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import FieldError, ImproperlyConfigured, ValidationError
from django.db import DatabaseError
from django.test import RequestFactory

from ..checks.settings import user_model_without_email
from ..conf import Config
from ..eligibility import is_verified
from ..exceptions import InvalidVisitorError
from ..visitors import Visitor, user_email_field, user_visitor
from .findings import ERROR, NOTE, OK, WARNING, Finding

#: At most this many users with the same address are checked.
MAX_USERS = 5
ADDRESS_HINT = "Set EMAIL_FIELD on the user model, or let VISITOR return a Visitor with the user's address."
#: Errors of a query for users, on sites without Django's users or with an unusual user model.
LOOKUP_ERRORS = (ImproperlyConfigured, AttributeError, FieldError, DatabaseError)


def user_with_name(name: str) -> Any:
    """Return the user with a user name or primary key, or ``None``.

    Raises:
        LookupError: the site's users cannot be queried. The text gives the reason.
    """
    try:
        manager = get_user_model()._default_manager
        user = manager.filter(**{get_user_model().USERNAME_FIELD: name}).first()
        return user or manager.filter(pk=name).first()
    except (ValueError, ValidationError):  # the text cannot be a primary key, such as a UUID
        return None
    except LOOKUP_ERRORS as error:
        # Not chained, because the error may quote the name.
        raise LookupError(f"The users cannot be queried ({type(error).__name__}).") from None


def check_user_model(config: Config) -> Iterator[Finding]:
    """Check that users have an address, if the app reads it itself."""
    if (model := user_model_without_email(config)) is not None:
        yield Finding("model", ERROR, f"{_without_field(model)} No visitor is identified.", ADDRESS_HINT)


def check_address(visitor: Visitor, config: Config, host: str) -> Iterator[Finding]:
    """Check the users with the visitor's address."""
    try:
        field = get_user_model().get_email_field_name()
        users = list(get_user_model()._default_manager.filter(**{f"{field}__iexact": visitor.email})[:MAX_USERS])
    except LOOKUP_ERRORS as error:
        text = f"The users cannot be queried by their address ({type(error).__name__})."
        yield Finding("user", NOTE, text, "Name a user with --user.")
        return
    if not users:
        yield Finding("user", NOTE, "No user has this address.")
    findings = [check_user(user, config, host)[0] for user in users]
    # django-allauth permits several users with an address, of whom only one has verified it.
    is_one_identified = any(finding.level == OK for finding in findings)
    for user, finding in zip(users, findings, strict=True):
        level = WARNING if finding.level == ERROR and is_one_identified else finding.level
        text = finding.text if len(users) == 1 else f"{finding.text} [{user.pk}]"
        yield Finding("user", level, text, finding.hint)


def check_user(user: Any, config: Config, host: str) -> tuple[Finding, Visitor | None]:
    """Check that a user would be identified, as far as possible without a request from their browser.

    Returns:
        The finding, and the user's visitor if there is one.
    """
    visitor = None
    try:
        visitor = _visitor_of(user, config, host)
        if not getattr(user, "is_active", True):
            raise _NotIdentifiedError("The user is not active and cannot log in.")
        _require_verified(user, visitor, config)
    except _NotIdentifiedError as error:
        return Finding("user", error.level, f"This user is not identified: {error}", error.hint), visitor
    text, hint = "This user is identified when logged in", ""
    if not (visitor.first_name or visitor.last_name):
        text += ", without a name"
        if not hasattr(user, "first_name"):
            hint = "Let VISITOR return a Visitor with first_name and last_name."
    return Finding("user", OK, f"{text}.", hint), visitor


class _NotIdentifiedError(Exception):
    """A user would not be identified. The text is the reason."""

    def __init__(self, reason: str, hint: str = "", level: str = ERROR) -> None:
        super().__init__(reason)
        self.hint = hint
        self.level = level


def _visitor_of(user: Any, config: Config, host: str) -> Visitor:
    request: Any = RequestFactory().get("/", secure=True, headers={"Host": host})
    request.user, request.session = user, SessionBase()
    try:
        visitor: object = config.visitor(user, request)
    except InvalidVisitorError as error:
        raise _NotIdentifiedError(str(error)) from None
    except Exception as error:  # noqa: BLE001 - the site's callable may raise anything
        raise _undecided(f"raised {type(error).__name__}") from None
    if isinstance(visitor, Visitor):
        return visitor
    if visitor is not None:
        raise _NotIdentifiedError(f"VISITOR returned a {type(visitor).__name__}.")
    if config.visitor is not user_visitor:
        raise _undecided("returned None")
    if hasattr(user, user_email_field(user)):
        raise _NotIdentifiedError("The user has no e-mail address.")
    raise _NotIdentifiedError(_without_field(user), ADDRESS_HINT)


def _without_field(user: Any) -> str:
    return f"The user model has no field {user_email_field(user)!r} for the e-mail address."


def _undecided(result: str) -> _NotIdentifiedError:
    return _NotIdentifiedError(
        f"VISITOR {result} for the doctor's request, which has this user, an empty session and no cookies.",
        "If VISITOR needs more, log in as the user, and run hubspotIdentify.status() in the browser's console.",
        WARNING,
    )


def _require_verified(user: Any, visitor: Visitor, config: Config) -> None:
    try:
        if is_verified(user, visitor, config):
            return
    except Exception as error:  # noqa: BLE001 - the site's callable may raise anything
        source = "EMAIL_VERIFIED" if callable(config.email_verified) else "Reading django-allauth's record"
        raise _NotIdentifiedError(f"{source} raised {type(error).__name__}.") from None
    if config.email_verified is False:
        raise _NotIdentifiedError("EMAIL_VERIFIED is False.", level=WARNING)
    if config.email_verified is not None:
        raise _NotIdentifiedError("EMAIL_VERIFIED returned False.")
    from allauth.account.models import EmailAddress  # a dependency of the site

    text = "django-allauth has no verified EmailAddress with this address."
    if not EmailAddress.objects.filter(user_id=user.pk).exists():
        text = "django-allauth has no EmailAddress for the user. createsuperuser and imports do not create one."
    raise _NotIdentifiedError(
        text,
        "Let the user confirm the address. If it was confirmed elsewhere, record this as docs/visitors.rst shows.",
    )
