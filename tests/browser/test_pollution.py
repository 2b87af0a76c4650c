"""Pages in which injected JSON or a query string has polluted Object.prototype, without running a script."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Request, expect

from browser.conftest import Visit
from browser.site import ADA, PORTAL, Site

pytestmark = pytest.mark.browser

EVE = {"email": "eve@example.com", "token": "token-of-eve", "expires_in": 3600}
#: What an attacker would like the script to read.
CONFIGURATION = {
    "subject": "subject-of-eve",
    "identity": json.dumps(EVE),
    **EVE,
    "identificationEmail": EVE["email"],
    "identificationToken": EVE["token"],
    "setIdentification": True,
    "endpoint": "/evil/identity/",
    "loader": "/evil/loader.js",
    "launcher": "/evil/launcher.js",
    "labels": json.dumps({"open": "Call 555-0100"}),
    "loadOn": "page",
    "widget": json.dumps({"inlineEmbedSelector": "h1"}),
    "nonce": "nonce-of-eve",
    "loaded": True,
    "alive": True,
}
ELEMENT = (
    '<script src="/static/hubspot_identify/identify.js" defer data-endpoint="/hubspot/identity/" '
    f'data-loader="/sandbox/loader/{PORTAL}.js" data-load-on="interaction" '
    'data-launcher="/static/hubspot_identify/launcher.js"></script>'
)


def polluted(properties: dict[str, Any], tag: str) -> str:
    """A page whose first script does what a vulnerable function does with the attacker's JSON."""
    return f"<script>Object.assign(Object.prototype, {json.dumps(properties)})</script>{tag}"


def record_calls(visit: Visit) -> list[str | None]:
    """Record the addresses that the widget sends to HubSpot. The page itself is not a reliable witness."""
    calls: list[str | None] = []

    def record(request: Request) -> None:
        url = urlsplit(request.url)
        if "/livechat" in url.path:
            calls.append(parse_qs(url.query).get("email", [None])[0])  # type: ignore[list-item]

    visit.page.on("request", record)
    return calls


@pytest.mark.parametrize("name", ["ada", "unknown"])
@pytest.mark.parametrize("account", ["", "inline", "embedded-inline"])
def test_prototype_supplies_no_identity_and_no_script(visit: Visit, site: Site, account: str, name: str) -> None:
    """The visitor is the one of the session, or anonymous, and only the site's own files are loaded."""
    tag = f'{{% hubspot_identify account="{account}" %}}'
    embed = f'<script id="hs-script-loader" async src="/sandbox/loader/{PORTAL}.js"></script>'
    site.page("/", polluted(CONFIGURATION, tag + (embed if account == "embedded-inline" else "")))
    calls = record_calls(visit)
    if name == "unknown":
        visit.go()
    else:
        visit.log_in(name)
    visit.expect_visitor(name)
    visit.wait_heard("anonymous" if name == "unknown" else "identified")
    assert calls == [None if name == "unknown" else ADA]
    assert site.asked("/evil/") == []


def test_prototype_does_not_change_the_launcher(visit: Visit, site: Site) -> None:
    """The button has its own text, and loads the chat of the visitor."""
    site.page("/", polluted(CONFIGURATION, ELEMENT))
    visit.log_in("ada")
    button = visit.page.locator(".hubspot-identify-launcher button")
    expect(button).to_have_text("Chat with us")
    button.click()
    visit.expect_visitor("ada")
    assert site.asked("/evil/") == []


@pytest.mark.parametrize(
    "properties",
    [
        {"method": "POST"},
        {"body": "from-eve"},
        {"credentials": "omit"},
        {"integrity": "sha256-eve"},
        {"keepalive": "yes", "priority": "low", "referrer": "about:client"},
    ],
    ids=lambda properties: next(iter(properties)),
)
def test_prototype_does_not_change_the_request(visit: Visit, site: Site, properties: dict[str, Any]) -> None:
    """The endpoint receives the same request, with the cookies of the visitor, and its response is used."""
    site.page("/", polluted(properties, "{% hubspot_identify %}"))
    visit.page.route("**/sandbox/loader/**", lambda route: route.fulfill(content_type="text/javascript", body=""))
    with visit.page.expect_response("**/hubspot/identity/") as response:
        visit.log_in("ada")
    assert response.value.request.method == "GET"
    assert response.value.json()["subject"]
    visit.page.wait_for_function("window.hsConversationsSettings?.identificationEmail")
    assert visit.settings["identificationEmail"] == ADA


@pytest.mark.parametrize("name", ["get", "set", "value", "subtree", "attributeFilter", "bubbles", "undefined"])
def test_prototype_does_not_change_other_options(visit: Visit, site: Site, name: str) -> None:
    """Property descriptors, observers and events have their own options only: the chat works, and calls HubSpot."""
    site.page("/", polluted({name: "from-eve"}, "{% hubspot_identify %}"))
    calls = record_calls(visit)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert calls == [ADA]
    assert site.asked("/livechat-public/") == []
