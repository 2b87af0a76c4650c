"""Content-Security-Policy: the element's nonce is the header's, and the sources are what a browser is to allow.

That Chromium then runs the chat without a violation is held in the browser tests.
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
    """Have a strict policy by both systems, of which those count that are in ``MIDDLEWARE``."""
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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "middleware",
    [pytest.param(order, id=name, marks=[built_in] * (BUILT_IN in order)) for name, order in ORDERS.items()],
)
def test_nonce_of_the_header(client: Client, settings: Settings, engine: str, middleware: tuple[str, ...]) -> None:
    """The tag is the first and only one to use the lazy nonce: it stands in the header, and is new for each page."""
    protect(settings, *middleware)
    nonces = set()
    for _ in range(2):
        response = client.get(f"/{engine}/")
        attributes = script_attributes(response.content.decode())
        script_src = parsed(response.headers[HEADER])["script-src"]
        assert sorted(script_src) == sorted([f"'nonce-{attributes['nonce']}'", "'strict-dynamic'"])
        assert re.fullmatch(r"[A-Za-z0-9+/=_-]{20,}", attributes["nonce"])
        nonces.add(attributes["nonce"])
    assert len(nonces) == 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("middleware", [DJANGO_CSP, pytest.param(BUILT_IN, marks=built_in)])
def test_page_without_chat_has_no_nonce(client: Client, settings: Settings, engine: str, middleware: str) -> None:
    """Where the tag writes nothing, no nonce is made, and none weakens the header."""
    protect(settings, middleware)
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    response = client.get(f"/{engine}/")
    assert response.content == b""
    assert "nonce" not in response.headers[HEADER]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_middleware_no_nonce(client: Client, settings: Settings, engine: str) -> None:
    """A site without a policy has no nonce in its pages, which so stay the same."""
    protect(settings)
    response = client.get(f"/{engine}/")
    assert HEADER not in response.headers
    assert "nonce" not in script_attributes(response.content.decode())


# Sources


def test_sources_whole() -> None:
    """HubSpot's hosts by directive, over https only, and nothing that allows inline scripts, eval or everything."""
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


@pytest.mark.parametrize("region", ["na1", "na2", "eu1", "ap1"])
def test_sources_allow_the_regions_loader(settings: Settings, region: str) -> None:
    """The loader of a region comes from a host that the region's sources allow."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "REGION": region}
    loader = script_attributes(ENGINES["django"](None))["data-loader"]
    patterns = [re.escape(source).replace(r"\*", r"[a-z0-9.-]+") for source in csp.sources(region)["script-src"]]
    assert any(re.match(rf"{pattern}/", loader) for pattern in patterns)


@pytest.mark.parametrize("region", ["", "EU1", "eu", "eu1; script-src *", "eu1 *"])
def test_no_region(region: str) -> None:
    """What is no region is an error, and never part of a policy."""
    with pytest.raises(ValueError, match="pass a region of HubSpot, such as 'na1' or 'eu1'"):
        csp.sources(region)


def test_sources_are_the_callers_own() -> None:
    """A site may add to what it gets without changing what others get."""
    csp.sources()["script-src"].append("'unsafe-eval'")
    assert "'unsafe-eval'" not in csp.sources()["script-src"]


@pytest.mark.parametrize("middleware", [DJANGO_CSP, pytest.param(BUILT_IN, marks=built_in)])
def test_sources_in_a_policy(client: Client, settings: Settings, middleware: str) -> None:
    """The settings of the docstring make a policy with the site and HubSpot in each directive, in both systems."""
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
