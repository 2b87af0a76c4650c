"""Pages in which injected JSON or a query string has polluted Object.prototype, without running a script."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import Request, expect

from browser.conftest import ANONYMOUS, Tab
from browser.site import ADA, EMBED_CODE, IDENTITY, LOADER, TAG, Site

pytestmark = [
    pytest.mark.browser,
    pytest.mark.browsers("chromium", reason="The rules of the language decide, not the browser."),
]

EVE = {"email": "eve@example.com", "token": "token-of-eve", "expires_in": 3600}
#: Properties with which an attacker could configure the script.
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
    "isLive": True,
}
ELEMENT = (
    f'<script src="/static/hubspot_identify/identify.js" defer data-endpoint="{IDENTITY}" '
    f'data-loader="{LOADER}" data-load-on="interaction" '
    'data-launcher="/static/hubspot_identify/launcher.js"></script>'
)


def polluted(properties: dict[str, Any], tag: str) -> str:
    """Return a page whose first script does what a vulnerable function does with the attacker's JSON."""
    return f"<script>Object.assign(Object.prototype, {json.dumps(properties)})</script>{tag}"


def record_calls(tab: Tab) -> list[str | None]:
    """Record the addresses that the widget sends to HubSpot. The log in the page may be polluted."""
    calls: list[str | None] = []

    def record(request: Request) -> None:
        url = urlsplit(request.url)
        if "/livechat" in url.path:
            calls.append(dict(parse_qsl(url.query)).get("email"))

    tab.page.on("request", record)
    return calls


def expect_visitor(tab: Tab, email: str) -> None:
    """Wait for the visitor in Playwright's own world, whose prototype is not polluted."""
    expect(tab.chat.locator("body")).to_have_attribute("data-visitor", email)


@pytest.mark.parametrize(
    ("account", "name"),
    [("", "ada"), ("", ANONYMOUS), ("inline", ANONYMOUS), ("embedded-inline", ANONYMOUS)],
)
def test_prototype_supplies_no_identity_and_no_script(tab: Tab, site: Site, account: str, name: str) -> None:
    """The visitor is the one of the session, or anonymous, and only the site's own files are loaded."""
    tag = f'{{% hubspot_identify account="{account}" %}}'
    site.page("/", polluted(CONFIGURATION, tag + (EMBED_CODE if account == "embedded-inline" else "")))
    calls = record_calls(tab)
    if name == ANONYMOUS:
        tab.go()
    else:
        tab.log_in(name)
    tab.expect_visitor(name)
    tab.wait_for_event("anonymous" if name == ANONYMOUS else "identified")
    assert calls == [None if name == ANONYMOUS else ADA]
    assert site.requested("/evil/") == []


def test_prototype_does_not_change_the_launcher(tab: Tab, site: Site) -> None:
    """The button has its own text, and loads the chat of the visitor."""
    site.page("/", polluted(CONFIGURATION, ELEMENT))
    tab.log_in("ada")
    expect(tab.button).to_have_text(re.compile(r"\w"))
    expect(tab.button).not_to_contain_text("555-0100")
    tab.button.click()
    tab.expect_visitor("ada")
    assert site.requested("/evil/") == []


@pytest.mark.parametrize(
    "properties",
    [
        {"method": "POST", "body": "from-eve"},
        {"credentials": "omit", "integrity": "sha256-eve", "keepalive": "yes", "referrer": "about:client"},
    ],
    ids=["method and body", "other options"],
)
def test_prototype_does_not_change_the_request(tab: Tab, site: Site, properties: dict[str, Any]) -> None:
    """The endpoint receives the same request, with the cookies of the visitor, and its response is used."""
    site.page("/", polluted(properties, TAG))
    tab.page.route("**/sandbox/loader/**", lambda route: route.fulfill(content_type="text/javascript", body=""))
    with tab.page.expect_response("**/hubspot/identity/") as response:
        tab.log_in("ada")
    assert response.value.request.method == "GET"
    assert response.value.json()["subject"]
    tab.page.wait_for_function("window.hsConversationsSettings?.identificationEmail")
    assert tab.settings["identificationEmail"] == ADA


@pytest.mark.parametrize("names", [["get"], ["set"], ["value", "subtree", "attributeFilter", "bubbles", "undefined"]])
def test_prototype_does_not_change_other_options(tab: Tab, site: Site, names: list[str]) -> None:
    """Property descriptors, observers and events have their own options only: the chat works, and calls HubSpot."""
    site.page("/", polluted(dict.fromkeys(names, "from-eve"), TAG))
    calls = record_calls(tab)
    tab.log_in("ada")
    expect_visitor(tab, ADA)
    assert calls == [ADA]
    assert site.requested("/livechat-public/") == []
