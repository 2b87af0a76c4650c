"""Strict policies by the middleware that sites have, with HubSpot on its own hosts: none is violated in Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import django
import pytest
from csp.constants import NONCE, NONE, SELF, STRICT_DYNAMIC
from playwright.sync_api import expect
from pytest_django import Settings
from support.site import serving_site

from browser.conftest import CONTAINER, HOST, Visit, pretend_hubspot, set_real_loader
from browser.site import Site
from hubspot_identify import csp

pytestmark = pytest.mark.browser

DJANGO_CSP = "csp.middleware.CSPMiddleware"
BUILT_IN = "django.middleware.csp.ContentSecurityPolicyMiddleware"
OTHERS = "hubspot_identify.middleware.IdentifiedPageMiddleware"
ORDERS = {
    "django-csp first": [DJANGO_CSP, OTHERS],
    "django-csp last": [OTHERS, DJANGO_CSP],
    "built-in first": [BUILT_IN, OTHERS],
    "built-in last": [OTHERS, BUILT_IN],
}


def policy(script_src: list[Any] | None) -> dict[str, list[Any]]:
    """Nothing but the site itself and what the app publishes; ``script_src`` in place of the hosts of scripts."""
    hosts = {directive: [SELF, *hosts] for directive, hosts in csp.sources().items()}
    return {"default-src": [NONE], "base-uri": [NONE], **hosts, **({"script-src": script_src} if script_src else {})}


POLICIES = {"hosts": None, "nonce and strict-dynamic": [NONCE, STRICT_DYNAMIC]}


def for_django(directives: dict[str, list[Any]]) -> dict[str, list[Any]]:
    from django.utils.csp import CSP

    return {name: [CSP.NONCE if value is NONCE else value for value in found] for name, found in directives.items()}


came_with_6 = pytest.mark.skipif(django.VERSION < (6, 0), reason="Django's own Content-Security-Policy came with 6.0")


@pytest.fixture(
    params=[
        pytest.param(order, id=name, marks=[came_with_6] if BUILT_IN in order else []) for name, order in ORDERS.items()
    ]
)
def order(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


@pytest.fixture(params=POLICIES)
def strict(request: pytest.FixtureRequest, site: Site, settings: Settings, order: list[str]) -> Iterator[str]:
    """The site, behind the middleware and with the policy; yields what ``script-src`` has to hold."""
    directives = policy(POLICIES[request.param])
    settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": directives}
    if BUILT_IN in order:
        settings.SECURE_CSP = for_django(directives)
    settings.MIDDLEWARE = [*order, *settings.MIDDLEWARE]
    set_real_loader(settings)
    with serving_site() as address:  # the middleware is that of the start
        site.origin = address.replace("127.0.0.1", HOST)
        yield "'self'" if request.param == "hosts" else "'nonce-"


@pytest.mark.parametrize("account", ["", "inline", "interaction"])
def test_the_chat_keeps_to_a_strict_policy(visit: Visit, site: Site, strict: str, account: str) -> None:
    """Identified, in HubSpot's frame, without a single violation; the tag is the only one to use the nonce."""
    pretend_hubspot(visit, site)
    site.page("/", f'{{% hubspot_identify account="{account}" %}}')
    with visit.page.expect_response(site.url()) as page:
        visit.log_in("ada")
    header = page.value.headers["content-security-policy"]
    (script_src,) = re.findall(r"script-src ([^;]+)", header)
    assert strict in script_src
    assert "unsafe" not in header
    if account == "interaction":
        visit.page.locator(".hubspot-identify-launcher button").click()
    expect(visit.page.locator(f"{CONTAINER} iframe")).to_have_attribute("src", re.compile("^https://app.hubspot.com/"))
    assert [(each["known"], each["email"]) for each in visit.happened("call answered")] == [(True, "ada@example.com")]
    assert visit.run("violations") == []


def test_a_script_of_somebody_else_is_seen_to_be_blocked(visit: Visit, site: Site, strict: str) -> None:
    """What the test above is measured by: an inline script in the same page does not run, and is counted."""
    site.page("/", "{% hubspot_identify %}<script>window.ran = true</script>")
    pretend_hubspot(visit, site)
    visit.go()
    visit.page.wait_for_function("violations.length")
    assert visit.run("window.ran") is None
    assert all(each.startswith("script-src") for each in visit.run("violations"))
