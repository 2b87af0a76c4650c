"""Who is at the other end, and may HubSpot be told?

:func:`visitor_of` is the one gate between a request and an identity. It is asked every time, before any cache.
"""

from __future__ import annotations

import json
import logging
import unicodedata
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from .exceptions import InvalidVisitorError
from .logs import log_seldom
from .validation import truth

if TYPE_CHECKING:
    from django.http import HttpRequest

    from .conf import Config

logger = logging.getLogger(__name__)

MAX_EMAIL_LENGTH = 254  # RFC 5321
MAX_NAME_LENGTH = 255
MAX_CONTEXT_SIZE = 4096  # characters of JSON
_LOOKED_THROUGH = 4 * MAX_NAME_LENGTH  # of a name, which may be a megabyte

_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
#: Line and paragraph separators, controls and surrogates: no part of any name, and trouble in logs and inboxes.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: Marks that turn the direction of the text around them.
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person to be identified.

    Args:
        email: the verified address. ASCII, but for the domain, which may be an IDN; kept in lower case, as an A-label.
        first_name, last_name: optional. Control characters are dropped; at most 255 characters are kept.
        context: optional pairs of text for HubSpot's customer agent, sent as ``hsCustomerAgentContext``; a mapping
            will do. Control characters other than tabs and line ends are dropped; at most 4096 characters of JSON.

    Raises:
        InvalidVisitorError: the address or the context can't be used.

    https://developers.hubspot.com/docs/api-reference/conversations-visitor-identification-v3/guide
    """

    email: str = field(repr=False)
    first_name: str = field(default="", repr=False)
    last_name: str = field(default="", repr=False)
    context: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the class is frozen for everybody else
        set_field(self, "email", normalize_email(self.email))
        set_field(self, "first_name", _clean_name(self.first_name))
        set_field(self, "last_name", _clean_name(self.last_name))
        set_field(self, "context", _clean_context(self.context))


def normalize_email(email: object) -> str:
    """The one spelling of an address that keys, requests and pages use.

    Raises:
        InvalidVisitorError: no e-mail address, or one that HubSpot and Django might read differently.
    """
    if not isinstance(email, str):
        raise InvalidVisitorError(f"The e-mail address is a {type(email).__name__}, not text.")
    if len(email) > MAX_EMAIL_LENGTH:  # asked first: what follows takes its time for a megabyte
        raise InvalidVisitorError("The e-mail address is too long.")
    local, at, domain = email.rpartition("@")
    if not local.isascii():
        # Folding other alphabets to ASCII has handed accounts to strangers before: CVE-2019-19844.
        raise InvalidVisitorError("The e-mail address has characters before the @ that are not ASCII.")
    if '"' in local or "=?" in local:
        # Quoted and encoded words may hold another address, which some programs read in place of this one.
        raise InvalidVisitorError("The e-mail address has quoted or encoded words before the @.")
    email = f"{local}{at}{_a_label(domain)}".lower()
    if len(email) > MAX_EMAIL_LENGTH or not email.isprintable():
        raise InvalidVisitorError("The e-mail address is too long or has control characters.")
    try:
        validate_email(email)
    except ValidationError:
        problem = "The e-mail address is not valid."
    else:
        return email
    raise InvalidVisitorError(problem)  # outside of the handler: Django's error quotes the address


def _a_label(domain: str) -> str:
    if domain.isascii():
        return domain
    domain = domain.translate(_ASCII_LOWER)
    try:
        encoded = domain.encode("idna")
        unchanged = encoded.decode("idna") == domain
    except UnicodeError:
        unchanged = False
    if not unchanged:
        raise InvalidVisitorError("The domain of the e-mail address has no unambiguous ASCII form.")
    return encoded.decode("ascii")


def _clean_name(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidVisitorError(f"A name is a {type(name).__name__}, not text.")
    name = name[:_LOOKED_THROUGH]
    kept = _without_controls("".join(" " if char.isspace() else char for char in name))
    return " ".join(kept.split())[:MAX_NAME_LENGTH].rstrip()


def _without_controls(text: str, *, but: str = "") -> str:
    return "".join(
        char
        for char in text
        if char in but or (unicodedata.category(char) not in _UNPRINTABLE and char not in _BIDI_CONTROLS)
    )


_CONTEXT_TOO_LONG = f"The context is longer than {MAX_CONTEXT_SIZE} characters of JSON."


def _clean_context(context: object) -> tuple[tuple[str, str], ...]:
    pairs = tuple(context.items()) if isinstance(context, Mapping) else context
    if not isinstance(pairs, (tuple, list)):
        raise InvalidVisitorError(f"The context is a {type(context).__name__}, not pairs of text.")
    for pair in pairs:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise InvalidVisitorError("The context is not made of pairs of text.")
    if sum(len(name) + len(text) for name, text in pairs) > MAX_CONTEXT_SIZE:
        raise InvalidVisitorError(_CONTEXT_TOO_LONG)
    cleaned = tuple(sorted((_without_controls(name), _without_controls(text, but="\n\t")) for name, text in pairs))
    if len({name for name, _ in cleaned}) < len(cleaned) or any(not name for name, _ in cleaned):
        raise InvalidVisitorError("The context has a name twice, or one without letters.")
    if cleaned and len(json.dumps(dict(cleaned))) > MAX_CONTEXT_SIZE:
        raise InvalidVisitorError(_CONTEXT_TOO_LONG)
    return cleaned


def user_visitor(user: Any, request: HttpRequest | None = None) -> Visitor | None:
    """The default ``VISITOR``: e-mail address and names of any user model, ``None`` for a user without address."""
    if getattr(user, "pk", None) is None:
        return None
    email_field = getattr(user, "get_email_field_name", lambda: "email")()
    email = getattr(user, email_field, None)
    if not email:
        return None
    make = _same_visitor if isinstance(email, str) and len(email) <= MAX_EMAIL_LENGTH else Visitor
    return make(email, _name_of(user, "first_name"), _name_of(user, "last_name"))


#: Cleaning takes longer than everything else in the gate, and a visitor's pages come one after another.
_same_visitor = lru_cache(maxsize=1000)(Visitor)


def _name_of(user: Any, attribute: str) -> str:
    name = getattr(user, attribute, "")
    return name[:_LOOKED_THROUGH] if isinstance(name, str) else ""  # None, a method, a list: know the address still


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
        log_seldom(logger, logging.INFO, "User %s is not identified: %s", _loggable_pk(user), error, reason="")
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
