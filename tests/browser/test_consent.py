"""The recipe of docs/consent.rst for consent managers that run in the browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from support.manual import code_blocks
from support.pages import django_template

from browser.conftest import Tab
from browser.site import ADA, INJECTED_ELEMENT, LOADER, Site

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def recipe(site: Site) -> None:
    """Pages with the manual's element and function: before an answer, with consent, and without."""
    (element,) = code_blocks("docs/consent", "html+django")
    (function,) = code_blocks("docs/consent", "javascript")
    element = django_template(element).render({}).replace("https://js.hs-scripts.com/123.js", LOADER)
    site.page("/", f"{element}<script>{function}</script>")
    site.page("/agreed/", f"{element}<script>{function} onChatConsent(true)</script>")
    site.page("/declined/", f"{element}<script>{function} onChatConsent(false)</script>")


def test_nothing_is_requested_before_consent(tab: Tab, site: Site) -> None:
    """Consent given in the page, or remembered on the next one, loads the chat."""
    tab.log_in("ada")
    tab.wait_until_idle()
    assert site.hubspot_requests == []
    tab.run("onChatConsent(true)")
    tab.expect_visitor("ada")
    tab.go("/agreed/")
    tab.expect_visitor("ada")


def test_withdrawn_consent_removes_chat_cookies_and_identity(tab: Tab, site: Site) -> None:
    """New consent in the same page loads the chat again. A page without consent requests nothing."""
    tab.log_in("ada", then="/agreed/")
    tab.expect_visitor("ada")
    tab.set_cookie("messagesUtk", "before")
    tab.run("onChatConsent(false)")
    expect(tab.container).to_have_count(0)
    assert tab.cookie("messagesUtk") is None
    assert tab.run("localStorage.length") == 0
    assert tab.run("window.hsConversationsSettings.identificationToken") is None
    tab.run("onChatConsent(true)")
    tab.expect_visitor("ada")
    tab.run("onChatConsent(false)")
    site.requests.clear()
    tab.go("/declined/")
    assert tab.status["state"] == "waiting"
    tab.wait_until_idle()
    assert site.hubspot_requests == []


def test_next_page_without_consent_deletes_what_an_earlier_page_stored(tab: Tab, site: Site) -> None:
    """Consent was withdrawn elsewhere: the next page deletes cookies and storage, and requests nothing."""
    tab.log_in("ada", then="/agreed/")
    tab.expect_visitor("ada")
    tab.set_cookie("messagesUtk", "before")
    site.requests.clear()
    tab.go("/declined/")
    tab.wait_until("localStorage.length === 0")
    assert tab.cookie("messagesUtk") is None
    assert site.hubspot_requests == []


def test_injected_element_takes_no_part_in_consent(tab: Tab, site: Site) -> None:
    """Inert elements above the tag's look the same. The answers of the consent manager reach the tag's element."""
    for page in site.pages.values():
        page.template = INJECTED_ELEMENT.format("page") + INJECTED_ELEMENT.format("never") + page.template
    tab.log_in("ada", then="/agreed/")
    tab.expect_visitor("ada")
    assert tab.emails("identity read") == [ADA]
    tab.run("window.sameDocument = true")
    tab.run("onChatConsent(false)")
    expect(tab.container).to_have_count(0)
    assert tab.run("localStorage.length") == 0
    tab.run("onChatConsent(true)")
    tab.expect_visitor("ada")
    assert tab.run("window.sameDocument")
    assert site.requested("/evil/") == []
