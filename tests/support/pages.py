"""Pages with the script element: templates of both engines, visitors with a token, and the parsed attributes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import html5lib
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.template.backends.django import DjangoTemplates
from django.template.backends.jinja2 import Jinja2
from django.test import RequestFactory

from hubspot_identify._tokens.account import get_account
from hubspot_identify._tokens.entries import EXPIRE_AFTER, Entry
from hubspot_identify.visitors import Visitor

Render = Callable[..., str]

#: The value of an argument that the template passes as a variable that is not in its context.
MISSING = object()
EXTENSION = "hubspot_identify.jinja2.HubSpotIdentifyExtension"


def django_template(source: str) -> Any:
    options: dict[str, Any] = {"context_processors": [], "libraries": {}}
    return DjangoTemplates({"NAME": "d", "DIRS": [], "APP_DIRS": False, "OPTIONS": options}).from_string(source)


def jinja_template(source: str) -> Any:
    options = {"extensions": [EXTENSION]}
    return Jinja2({"NAME": "j", "DIRS": [], "APP_DIRS": False, "OPTIONS": options}).from_string(source)


def _present(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not MISSING}


def render_django(request: HttpRequest | None = None, context: dict[str, Any] | None = None, **arguments: Any) -> str:
    """The output of ``{% hubspot_identify %}`` with these arguments."""
    words = "".join(f" {name}={name}" for name in arguments)
    template = django_template(f"{{% load hubspot_identify %}}{{% hubspot_identify{words} %}}")
    return str(template.render({**(context or {}), **_present(arguments)}, request))


def render_jinja(request: HttpRequest | None = None, context: dict[str, Any] | None = None, **arguments: Any) -> str:
    """The output of ``{{ hubspot_identify() }}`` with these arguments."""
    words = ", ".join(f"{name}={name}" for name in arguments)
    template = jinja_template(f"{{{{ hubspot_identify({words}) }}}}")
    return str(template.render({**(context or {}), **_present(arguments)}, request))


ENGINES: dict[str, Render] = {"django": render_django, "jinja2": render_jinja}


def ada() -> User:
    return User(pk=1, username="ada", email="ada@example.com", first_name="Ada", last_name="Lovelace")


def grace() -> User:
    return User(pk=2, username="grace", email="grace@example.com", first_name="Grace", last_name="Hopper")


def request_by(user: object = None, path: str = "/", **extra: Any) -> HttpRequest:
    """A request with ``user``, as after Django's middleware. Without ``user``, as before it."""
    request = RequestFactory().get(path, **extra)
    if user is not None:
        vars(request)["user"] = user
    return request


def visitor_for(user: User) -> Visitor:
    return Visitor(user.email, user.first_name, user.last_name)


def keep_token(user: User, token: str | None = None, account: str | None = None) -> dict[str, Any]:
    """Store a new token in the cache, and return the identity that a page has for it."""
    resolved, visitor = get_account(account), visitor_for(user)
    token = token or f"token-of-{user.username}"
    resolved.write_entry(resolved.entry_key(visitor), Entry(token, time.time(), 0.0, resolved.profile(visitor)))
    return {"email": visitor.email, "token": token, "expires_in": int(EXPIRE_AFTER)}


def subject_for(user: User, account: str | None = None) -> str:
    return get_account(account).subject(visitor_for(user))


def elements(page: str) -> list[tuple[str, dict[str, str]]]:
    """The elements of a page as a browser parses it, with their attributes."""
    document = html5lib.parse(page, namespaceHTMLElements=False)
    return [(element.tag, dict(element.attrib)) for element in document.iter() if isinstance(element.tag, str)]


def script_attributes(page: str) -> dict[str, str]:
    """The attributes of the only script element of a page."""
    (attributes,) = [attributes for tag, attributes in elements(page) if tag == "script"]
    return attributes
