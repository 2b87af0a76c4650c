"""Content-Security-Policy: the nonce of the element is that of the header, and the sources are those of HubSpot.

The browser tests prove that Chromium then runs the chat without a violation.
"""

from __future__ import annotations

import re
from typing import Any

import django
import pytest
from csp.constants import NONCE, SELF, STRICT_DYNAMIC
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path
from pytest_django import Settings
from support.pages import ENGINES, script_attributes

from hubspot_identify import csp

DJANGO_CSP = "csp.middleware.CSPMiddleware"
BUILT_IN = "django.middleware.csp.ContentSecurityPolicyMiddleware"
HEADER = "Content-Security-Policy"
built_in = pytest.mark.skipif(django.VERSION < (6, 0), reason="came with Django 6.0")


def page(request: HttpRequest, engine: str) -> HttpResponse:
    return HttpResponse(ENGINES[engine](request))


urlpatterns = [path("hubspot/", include("hubspot_identify.urls")), path("<str:engine>/", page)]


def protect(settings: Settings, *middleware: str) -> None:
    """Configure a strict policy for django-csp and for Django's own middleware, and install some of them."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = middleware
    settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": {"script-src": [NONCE, STRICT_DYNAMIC]}}
    if django.VERSION >= (6, 0):
        from django.utils.csp import CSP

        settings.SECURE_CSP = {"script-src": [CSP.NONCE, CSP.STRICT_DYNAMIC]}


def parsed(header: str) -> dict[str, list[str]]:
    return {words[0]: words[1:] for words in (directive.split() for directive in header.split(";"))}


OTHERS = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "hubspot_identify.middleware.IdentifiedPageMiddleware",
)
ORDERS = {
    "django-csp first": (DJANGO_CSP, *OTHERS),
    "django-csp last": (*OTHERS, DJANGO_CSP),
    "built-in first": (BUILT_IN, *OTHERS),
    "built-in last": (*OTHERS, BUILT_IN),
    "built-in over django-csp": (BUILT_IN, DJANGO_CSP),
    "django-csp over built-in": (DJANGO_CSP, BUILT_IN),
}


@pytest.mark.parametrize(
    ("engine", "order"),
    [
        *(pytest.param("django", name, marks=[built_in] * (BUILT_IN in order)) for name, order in ORDERS.items()),
        ("jinja2", "django-csp first"),
    ],
)
def test_element_has_the_nonce_of_the_header(client: Client, settings: Settings, engine: str, order: str) -> None:
    """The nonce is in the header although only the tag uses it, and differs for each page."""
    protect(settings, *ORDERS[order])
    nonces = set()
    for _ in range(2):
        response = client.get(f"/{engine}/")
        attributes = script_attributes(response.content.decode())
        script_src = parsed(response.headers[HEADER])["script-src"]
        assert sorted(script_src) == sorted([f"'nonce-{attributes['nonce']}'", "'strict-dynamic'"])
        assert re.fullmatch(r"[A-Za-z0-9+/=_-]{20,}", attributes["nonce"])
        nonces.add(attributes["nonce"])
    assert len(nonces) == 2


@pytest.mark.parametrize("middleware", [DJANGO_CSP, pytest.param(BUILT_IN, marks=built_in)])
def test_page_without_chat_has_no_nonce(client: Client, settings: Settings, middleware: str) -> None:
    """If the tag renders nothing, no nonce is created that would weaken the header."""
    protect(settings, middleware)
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    response = client.get("/django/")
    assert response.content == b""
    assert "nonce" not in response.headers[HEADER]


def test_page_without_policy_has_no_nonce(client: Client, settings: Settings) -> None:
    """The pages of a site without a policy have no nonce, so that they are the same for every request."""
    protect(settings)
    response = client.get("/django/")
    assert HEADER not in response.headers
    assert "nonce" not in script_attributes(response.content.decode())


# Sources


def test_sources_are_hubspots_hosts() -> None:
    """The sources are HubSpot's hosts over HTTPS. None allows inline scripts, ``eval`` or every host."""
    assert csp.sources() == {
        "script-src": [
            "https://*.hs-scripts.com",
            "https://*.usemessages.com",
            "https://*.hs-analytics.net",
            "https://*.hs-banner.com",
            "https://*.hscollectedforms.net",
            "https://*.hsadspixel.net",
            "https://*.hubspot.com",
        ],
        "connect-src": [
            "https://*.hubspot.com",
            "https://*.hubapi.com",
            "https://*.hs-banner.com",
            "https://*.hscollectedforms.net",
            "https://*.hsforms.com",
        ],
        "frame-src": ["https://*.hubspot.com"],
        "img-src": ["https://*.hubspot.com", "https://*.hsforms.com", "data:"],
        "style-src": ["https://static.hsappstatic.net"],
    }


@pytest.mark.parametrize("region", ["na1", "eu1"])
def test_sources_of_a_region_allow_its_loader(settings: Settings, region: str) -> None:
    """The host of a region's loader matches a source of the region."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "REGION": region}
    loader = script_attributes(ENGINES["django"](None))["data-loader"]
    patterns = [re.escape(source).replace(r"\*", r"[a-z0-9.-]+") for source in csp.sources(region)["script-src"]]
    assert any(re.match(rf"{pattern}/", loader) for pattern in patterns)


@pytest.mark.parametrize("region", ["", "EU1", "eu1; script-src *"])
def test_invalid_region_raises(region: str) -> None:
    """A text that is not a region cannot become part of a policy."""
    with pytest.raises(ValueError, match="region"):
        csp.sources(region)


def test_sources_can_be_changed_by_the_caller() -> None:
    """A change of the returned lists does not change those of the next call."""
    csp.sources()["script-src"].append("'unsafe-eval'")
    assert "'unsafe-eval'" not in csp.sources()["script-src"]


@pytest.mark.parametrize("middleware", [DJANGO_CSP, pytest.param(BUILT_IN, marks=built_in)])
def test_sources_in_the_policy_of_each_middleware(client: Client, settings: Settings, middleware: str) -> None:
    """The settings of the docstring make a policy with the site and HubSpot in each directive."""
    protect(settings, middleware)
    directives: dict[str, Any] = {
        "default-src": [SELF],
        **{directive: [SELF, *hosts] for directive, hosts in csp.sources("eu1").items()},
    }
    settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": directives}
    settings.SECURE_CSP = directives
    response = client.get("/django/")
    expected = {directive: [SELF, *hosts] for directive, hosts in csp.sources("eu1").items()}
    assert parsed(response.headers[HEADER]) == {"default-src": [SELF], **expected}
