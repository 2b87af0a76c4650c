"""Injected markup, addresses that must not be used, and consent."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from browser.conftest import ANONYMOUS, CONTAINER, Tab
from browser.site import ADA, EMBED_CODE, IDENTITY, INJECTED_ELEMENT, LOADER, NONCE, TAG, Site

pytestmark = [
    pytest.mark.browser,
    pytest.mark.browsers("chromium", reason="The rules of the language decide, not the browser."),
]

EVIL = "http://evil.test/**"
SCRIPT = "/static/hubspot_identify/identify.js"
INTERACTION = '{% hubspot_identify account="interaction" %}'
CONSENT = '{% hubspot_identify account="consent" %}'
INJECTED = {
    "base and hsVars": '<base href="http://evil.test/"><p id="hsVars"></p>',
    "names of globals": (
        '<form id="hubspotIdentify" name="hubspotIdentify"><input name="update"></form>'
        '<form id="hsConversationsSettings"><input name="identificationEmail" value="eve@example.com"></form>'
        '<a id="hsConversationsOnReady"></a><a id="hsConversationsOnReady"></a>'
        '<form id="HubSpotConversations"><input name="widget"></form>'
        '<form id="navigation"></form><form id="requestIdleCallback"></form><img name="cookie">'
    ),
    "collection": '<a id="HubSpotConversations"></a><video id="HubSpotConversations" name="widget"></video>',
    "data attributes": (
        f'<script type="text/plain" src="{SCRIPT}" data-identity="{{}}" data-subject="eve" '
        'data-endpoint="http://evil.test/" data-loader="http://evil.test/l.js"></script>'
    ),
}


def element(site: Site, **attributes: str) -> str:
    """Return an element as a site writes it whose static files have another address, such as that of a CDN."""
    attributes = {"endpoint": IDENTITY, "loader": LOADER} | attributes
    data = " ".join(f'data-{name}="{value}"' for name, value in attributes.items())
    return f'<script src="{site.url(SCRIPT)}" defer {data}></script>'


# ---- injected markup


@pytest.mark.parametrize(
    ("injected", "place"),
    [*((name, "before") for name in INJECTED), ("base and hsVars", "after"), ("data attributes", "after")],
)
def test_injected_markup_changes_nothing(tab: Tab, site: Site, injected: str, place: str) -> None:
    """With elements before or after the app's own, loader, endpoint and visitor are the same."""
    # A <base> before an element would redirect the script itself, if its address was relative.
    tag = element(site) if injected == "base and hsVars" else TAG
    site.page("/", INJECTED[injected] + tag if place == "before" else tag + INJECTED[injected])
    evil = tab.block(EVIL)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert tab.emails("call") == [ADA]
    assert site.identity_requests
    assert evil == []


def test_injected_image_is_not_the_current_script(tab: Tab, site: Site) -> None:
    """<img name="currentScript"> hides document.currentScript, on which HubSpot's own files rely."""
    image = '<img name="currentScript" data-endpoint="http://evil.test/" data-loader="http://evil.test/l.js">'
    site.page("/", image + TAG)
    evil = tab.block(EVIL)
    tab.page.route("**/sandbox/loader/**", lambda route: route.fulfill(content_type="text/javascript", body=""))
    with tab.page.expect_request("**/sandbox/loader/**"):
        tab.log_in("ada")
    tab.wait_until("hsConversationsSettings.identificationToken")
    assert tab.settings["identificationEmail"] == ADA
    assert evil == []


def test_injected_image_does_not_keep_the_former_conversation(tab: Tab, site: Site) -> None:
    """<img name="cookie"> hides document.cookie, but HubSpot's cookie is deleted at log-out."""
    site.page("/", TAG)
    site.page("/out/", f'<img name="cookie">{TAG}')
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.set_cookie("messagesUtk", "before")
    tab.block("**/sandbox/loader/**")
    tab.log_out("/out/")
    tab.wait_for_event("reset")
    assert tab.cookie("messagesUtk") is None


@pytest.mark.parametrize("hides", ["", '<img name="currentScript">'], ids=["", "hidden currentScript"])
def test_update_does_not_trust_an_injected_element(tab: Tab, site: Site, hides: str) -> None:
    """The page finds inert elements that look like the tag's. They only cause a request for the visitor."""
    injected = "".join(map(INJECTED_ELEMENT.format, ("page", "never", "interaction")))
    site.page("/", hides + injected + INTERACTION)
    tab.log_in("ada")
    update = "document.querySelectorAll('script[data-load-on][type]').forEach(each => hubspotIdentify.update(each))"
    tab.run(update)
    tab.run("text => document.body.append(Object.assign(document.createElement('script'), {text}))", update)
    tab.wait_until_idle()
    assert site.requested("/sandbox/loader/") == []
    tab.run("document.querySelector('img')?.remove()")  # HubSpot's loader relies on document.currentScript
    tab.run("hubspotIdentify.load()")
    tab.expect_visitor("ada")
    tab.run(update)
    tab.wait_for_event("identified")
    tab.expect_visitor("ada")
    assert tab.emails("identity read") == [ADA]
    assert site.requested("/evil/") == []


def test_injected_script_does_not_get_the_nonce_of_the_page(tab: Tab, site: Site) -> None:
    """If the policy allows the site's own files, an injected element can run the app's script, but no other one."""
    policy = {"Content-Security-Policy": "default-src 'self' data:; script-src 'self' 'nonce-{nonce}'"}
    tab.page.route("https://evil.test/**", lambda route: route.fulfill(body="window.isEvil = true"))
    injected = (
        f'<script src="{SCRIPT}" defer data-load-on="interaction" '
        'data-launcher="https://evil.test/launcher.js"></script>'
    )
    site.page("/", INTERACTION + injected, headers=policy)
    tab.go()
    tab.wait_until("violations.length")
    assert not tab.run("window.isEvil")
    assert ["https://evil.test/launcher.js" in each for each in tab.run("violations")] == [True]


def test_injected_container_does_not_end_the_chat(tab: Tab, site: Site) -> None:
    """The page renders a part again that contains an element with the id of HubSpot's container."""
    site.page("/", f'<div id="list"><div id="{CONTAINER[1:]}">A comment</div></div>{TAG}')
    tab.fake_clock()
    tab.log_in("ada")
    tab.wait_for_event("identified")
    requests = site.identity_requests
    tab.run("document.querySelector('#list').innerHTML = ''")
    tab.skip(2000)
    tab.run("hubspotIdentify.refresh()")
    tab.skip(2000)
    tab.wait_for_log("refresh")
    assert tab.logged("remove") == []
    assert site.identity_requests == requests


# ---- the attributes of the app's element


def test_loader_must_have_a_safe_address(tab: Tab, site: Site) -> None:
    """Even the app's own element cannot name a loader that is neither HTTPS, nor of this machine, nor of this site."""
    evil = tab.block(EVIL)
    for loader in ("javascript:window.ran=1", "data:text/javascript,window.ran=1", "http://evil.test/l.js"):
        site.page("/", element(site, loader=loader))
        tab.go()
        tab.wait_for_event("failed")
        assert tab.run("window.ran") is None
    assert evil == []


def test_endpoint_must_have_the_origin_of_the_page(tab: Tab, site: Site) -> None:
    """Even if the app's own element names another origin, no request is sent there."""
    site.page("/", element(site, endpoint="http://evil.test/identity/"))
    evil = tab.block(EVIL)
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    assert evil == []


def test_launcher_gets_the_nonce_of_the_element(tab: Tab, site: Site) -> None:
    """A policy that contains only a nonce allows the second script, too."""
    policy = {"Content-Security-Policy": "default-src 'self' data:; script-src 'nonce-{nonce}'"}
    site.page("/", INTERACTION, headers=policy)
    tab.go()
    expect(tab.button).to_be_visible()
    assert tab.run("document.querySelector('script[src*=launcher]').nonce") == NONCE
    assert tab.run("violations") == []


# ---- consent


def give_consent(tab: Tab) -> None:
    tab.set_cookie("consent", "yes")


def withdraw_consent(tab: Tab) -> None:
    tab.page.context.clear_cookies(name="consent")


ADD_ELEMENT = """(agreed) => {
    const element = document.createElement("script");
    for (const { name, value } of document.querySelector("script[data-loader]").attributes) {
        element.setAttribute(name, value);
    }
    if (!agreed) {
        element.dataset.loadOn = "never";
        element.removeAttribute("data-loader");
    }
    document.body.append(element);
}"""


def test_without_consent_the_script_only_deletes_data(tab: Tab, site: Site) -> None:
    """While ``ENABLED`` returns ``False``, nothing is requested. Data from an earlier page is deleted."""
    site.page("/", CONSENT)
    give_consent(tab)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.set_cookie("messagesUtk", "before")
    withdraw_consent(tab)
    site.requests.clear()
    tab.go()
    assert set(site.requests) <= {"/", SCRIPT}
    assert tab.cookie("messagesUtk") is None
    assert tab.run("localStorage.length") == 0
    assert tab.run("hubspotIdentify.load(), hubspotIdentify.open(), hubspotIdentify.update()") is None
    assert tab.status == {"state": "waiting", "identified": False}
    assert site.hubspot_requests == []


@pytest.mark.parametrize("loader", ["", "delay=60000"], ids=["loaded", "pending"])
def test_withdrawn_consent_removes_the_chat_of_the_page(tab: Tab, site: Site, loader: str) -> None:
    """A swap adds an element without consent: the chat is removed, also if it was about to be shown."""
    site.page("/", CONSENT, loader=loader)
    give_consent(tab)
    tab.log_in("ada")
    tab.wait_for_log("call answered")
    withdraw_consent(tab)
    tab.run(ADD_ELEMENT, False)
    expect(tab.container).to_have_count(0)
    tab.wait_until("localStorage.length === 0")
    tab.wait_until("!window.HubSpotConversations?.widget.status().pending")
    assert tab.run("window.hsConversationsSettings?.identificationToken") is None


def test_consent_can_be_withdrawn_and_given_again(tab: Tab, site: Site) -> None:
    """The chat is loaded again in the same page. Between the two, nothing calls HubSpot."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.run("window.sameDocument = true")
    tab.run(ADD_ELEMENT, False)
    expect(tab.container).to_have_count(0)
    assert tab.status["state"] == "waiting"
    calls = len(tab.logged("call"))
    tab.run("hubspotIdentify.open()")
    assert len(tab.logged("call")) == calls
    tab.run(ADD_ELEMENT, True)
    tab.expect_visitor("ada")
    assert tab.run("window.sameDocument")


def test_button_is_removed_and_added_with_consent(tab: Tab, site: Site) -> None:
    """Consent is withdrawn before and after the button is used, and given again: there is one button, which works."""
    site.page("/", INTERACTION)
    tab.fake_clock()
    tab.log_in("ada")
    for _ in range(2):
        expect(tab.button).to_have_count(1)
        tab.run(ADD_ELEMENT, False)
        expect(tab.button).to_have_count(0)
        tab.run(ADD_ELEMENT, True)
        expect(tab.button).to_have_count(1)
        tab.skip(2000)
        tab.button.click()
        tab.expect_visitor("ada")
        expect(tab.button).to_have_count(0)
        tab.run(ADD_ELEMENT, False)
        expect(tab.container).to_have_count(0)
        tab.page.mouse.move(0, 0)
        tab.run(ADD_ELEMENT, True)


def test_page_with_a_pending_chat_of_its_own_is_not_reloaded(tab: Tab, site: Site) -> None:
    """HubSpot's embed code is pending when the script runs without consent. A reload would never end."""
    embed = EMBED_CODE.replace(LOADER, f"{LOADER}?delay=60000")
    site.page("/", f"{embed}<template>{CONSENT}</template>")
    tab.go()
    tab.wait_for_log("call answered")
    tab.insert_template()
    tab.wait_for_event("failed")
    tab.wait_until_idle()
    assert site.requests.count("/") == 1


def test_consent_given_in_the_page_loads_the_chat(tab: Tab, site: Site) -> None:
    """An element with consent is added to a page that was loaded without."""
    site.page("/", CONSENT)
    site.page("/agreed/", f"<template>{TAG}</template>")
    tab.log_in("ada")
    tab.run("""async () => {
        const text = await (await fetch("/agreed/")).text();
        const page = new DOMParser().parseFromString(text, "text/html");
        const { attributes } = page.querySelector("template").content.querySelector("script");
        const element = document.createElement("script");
        for (const { name, value } of attributes) element.setAttribute(name, value);
        document.body.append(element);
    }""")
    tab.expect_visitor("ada")
