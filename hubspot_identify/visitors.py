"""Visitors: who is identified to HubSpot, and the default way from a user to a visitor."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from .exceptions import InvalidVisitorError

if TYPE_CHECKING:
    from django.http import HttpRequest

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
