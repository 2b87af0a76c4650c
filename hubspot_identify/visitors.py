"""Visitors: who is identified to HubSpot, and the default way from a user to a visitor."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from .exceptions import InvalidVisitorError

if TYPE_CHECKING:
    from django.http import HttpRequest

#: The characters of an identification token. The widget puts it into a URL without encoding it.
TOKEN = re.compile(r"[A-Za-z0-9._~=/-]{1,4096}")

MAX_EMAIL_LENGTH = 254  # RFC 5321
MAX_NAME_LENGTH = 255
MAX_CONTEXT_SIZE = 4096  # characters of JSON
_READ_OF_NAME = 4 * MAX_NAME_LENGTH  # A name may be a megabyte.

_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
#: Controls, line and paragraph separators, marks that change the direction of text, and surrogates. They are part of no
#: name, and unsafe in logs and inboxes.
_CONTROLS = r"[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_CONTROLS_EXCEPT_BREAKS = rf"(?![\n\t]){_CONTROLS}"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person to identify.

    Args:
        email: the verified address. Only the domain may contain other characters than ASCII. The address is converted
            to lower case, and the domain to its ASCII form.
        first_name, last_name: optional. Control characters are removed, and 255 characters are kept.
        context: optional pairs of text for HubSpot's customer agent, sent as ``hsCustomerAgentContext``, or a mapping.
            Control characters except tabs and line ends are removed. At most 4096 characters of JSON.

    Raises:
        InvalidVisitorError: the address, a name or the context is invalid.

    https://developers.hubspot.com/docs/api-reference/conversations-visitor-identification-v3/guide
    """

    email: str = field(repr=False)
    first_name: str = field(default="", repr=False)
    last_name: str = field(default="", repr=False)
    context: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # The class is frozen.
        set_field(self, "email", normalize_email(self.email))
        set_field(self, "first_name", _clean_name(self.first_name))
        set_field(self, "last_name", _clean_name(self.last_name))
        set_field(self, "context", _clean_context(self.context))


def normalize_email(email: object) -> str:
    """Return the spelling of an address that keys, requests and pages use.

    Raises:
        InvalidVisitorError: it is not an e-mail address, or HubSpot and Django might read it differently.
    """
    if not isinstance(email, str):
        raise InvalidVisitorError(f"The e-mail address is a {type(email).__name__}, not text.")
    if len(email) > MAX_EMAIL_LENGTH:  # checked first, because the rest is slow for a megabyte
        raise InvalidVisitorError("The e-mail address is too long.")
    local, at, domain = email.rpartition("@")
    # Case folding of other alphabets to ASCII has given strangers access to accounts: CVE-2019-19844. Quoted and
    # encoded words may contain another address, which some programs read instead of this one.
    if not local.isascii() or '"' in local or "=?" in local:
        raise InvalidVisitorError("The e-mail address is not plain ASCII before the @.")
    email = f"{local}{at}{_a_label(domain)}".lower()
    try:
        validate_email(email)
        is_valid = len(email) <= MAX_EMAIL_LENGTH
    except ValidationError:
        is_valid = False
    if not is_valid:  # outside of the handler, because Django's error quotes the address
        raise InvalidVisitorError("The e-mail address is not valid.")
    return email


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
    name = name[:_READ_OF_NAME]
    if not (name.isascii() and name.isprintable()):  # nearly all names are, and this is fast
        name = re.sub(_CONTROLS, "", re.sub(r"\s", " ", name))
    return " ".join(name.split())[:MAX_NAME_LENGTH].rstrip()


_CONTEXT_TOO_LONG = f"The context is longer than {MAX_CONTEXT_SIZE} characters of JSON."


def _clean_context(context: object) -> tuple[tuple[str, str], ...]:
    if context == ():
        return ()
    pairs = tuple(context.items()) if isinstance(context, Mapping) else context
    if not isinstance(pairs, (tuple, list)) or not all(_is_pair_of_text(pair) for pair in pairs):
        raise InvalidVisitorError("The context does not consist of pairs of text.")
    # The lengths are checked first, because the rest is slow for megabytes.
    if sum(len(name) + len(text) for name, text in pairs) > MAX_CONTEXT_SIZE:
        raise InvalidVisitorError(_CONTEXT_TOO_LONG)
    cleaned = tuple(
        sorted((re.sub(_CONTROLS, "", name), re.sub(_CONTROLS_EXCEPT_BREAKS, "", text)) for name, text in pairs)
    )
    names = {name for name, _ in cleaned}
    if len(names) < len(cleaned) or "" in names:
        raise InvalidVisitorError("The context has two equal names, or an empty one.")
    if len(json.dumps(dict(cleaned))) > MAX_CONTEXT_SIZE:
        raise InvalidVisitorError(_CONTEXT_TOO_LONG)
    return cleaned


def _is_pair_of_text(pair: object) -> bool:
    return isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def user_visitor(user: Any, request: HttpRequest | None = None) -> Visitor | None:
    """Return the visitor of a user, or ``None`` for a user without an address: the default ``VISITOR``.

    Any user model is supported.
    """
    if getattr(user, "pk", None) is None:
        return None
    email = getattr(user, user_email_field(user), None)
    return Visitor(email, *_names_of(user)) if email else None


def user_email_field(user: Any) -> str:
    """Return the name of the field with the address of a user or a user model, whether or not it exists."""
    get_name = getattr(user, "get_email_field_name", None)  # None in simplejwt's users, which have every attribute
    return (get_name() if callable(get_name) else None) or "email"


def _names_of(user: Any) -> tuple[str, str]:
    first, last = _text_of(user, "first_name"), _text_of(user, "last_name")
    if first is None and last is None:  # many models have one field for the whole name
        first, _, last = (_text_of(user, "name") or "").strip().partition(" ")
    return first or "", last or ""


def _text_of(user: Any, attribute: str) -> str | None:
    value = getattr(user, attribute, None)
    return value if isinstance(value, str) else None  # None, a method or a list: the address still identifies the user
