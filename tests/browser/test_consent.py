"""Visitors who have not consented to the chat, or who withdraw their consent."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from support.manual import code_blocks
from support.pages import django_template

from browser.conftest import ANONYMOUS, Tab
from browser.site import ADA, INJECTED_ELEMENT, LOADER, Site

pytestmark = pytest.mark.browser


# ---- the recipe of docs/consent.rst for consent managers that run in the browser


@pytest.fixture
def recipe(site: Site) -> None:
    """Pages with the manual's element and function: before an answer, with consent, and without."""
    (element,) = code_blocks("docs/consent", "html+django")
    (function,) = code_blocks("docs/consent", "javascript")
    element = django_template(element).render({}).replace("https://js.hs-scripts.com/123.js", LOADER)
    site.page("/", f"{element}<script>{function}</script>")
    site.page("/agreed/", f"{element}<script>{function} onChatConsent(true)</script>")
    site.page("/declined/", f"{element}<script>{function} onChatConsent(false)</script>")


@pytest.mark.usefixtures("recipe")
def test_nothing_is_requested_before_consent(tab: Tab, site: Site) -> None:
    """Consent given in the page, or remembered on the next one, loads the chat."""
    tab.log_in("ada")
    tab.wait_until_idle()
    assert site.hubspot_requests == []
    tab.run("onChatConsent(true)")
    tab.expect_visitor("ada")
    tab.go("/agreed/")
    tab.expect_visitor("ada")


@pytest.mark.usefixtures("recipe")
def test_withdrawn_consent_removes_chat_cookies_and_identity(tab: Tab, site: Site) -> None:
    """New consent in the same page loads the chat again. A page without consent requests nothing."""
    tab.log_in("ada", then="/agreed/")
    tab.expect_visitor("ada")
    tab.set_cookie("messagesUtk", "before")
    tab.wait_for_event("identified")
    assert tab.status["identified"]
    tab.run("onChatConsent(false)")
    expect(tab.container).to_have_count(0)
    assert not tab.status["identified"]
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


@pytest.mark.usefixtures("recipe")
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


@pytest.mark.usefixtures("recipe")
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


# ---- ENABLED decides for each request, and pages that are still open ask the endpoint


CHAT = '{% hubspot_identify account="consent" %}'
BUTTON = '{% hubspot_identify account="consent-interaction" %}'


@pytest.fixture
def consenting(tab: Tab) -> None:
    tab.set_cookie("consent", "yes")


def withdraw_consent(tab: Tab) -> None:
    tab.set_cookie("consent", "no")


def expect_no_chat(tab: Tab, site: Site) -> None:
    """Wait until the chat is gone, and check that nothing in the page requests anything from HubSpot again."""
    tab.wait_until("recordedEvents.some(([name, detail]) => name === 'failed' && detail.reason === 'consent')")
    expect(tab.container).to_have_count(0)
    assert tab.cookie("messagesUtk") is None
    assert tab.run("localStorage.length") == 0
    assert "identificationToken" not in tab.settings
    site.requests.clear()
    tab.run("hubspotIdentify.open(), hubspotIdentify.load(), hubspotIdentify.refresh()")
    tab.run("history.pushState(null, '', '/elsewhere/'), hubspotIdentify.update()")
    tab.wait_until_idle()
    tab.page.wait_for_timeout(1500)  # no event says that nothing is requested
    assert site.requested("/sandbox/") == []


@pytest.mark.usefixtures("consenting")
@pytest.mark.parametrize("name", ["ada", ANONYMOUS])
def test_consent_withdrawn_in_another_tab(tab: Tab, other_tab: Tab, site: Site, name: str) -> None:
    """The chat of a page that is still open is removed."""
    site.page("/", CHAT)
    if name == ANONYMOUS:
        tab.go()
    else:
        tab.log_in(name)
    tab.expect_visitor(name)
    withdraw_consent(tab)
    other_tab.go()
    tab.run("document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))")  # the tab comes to the front
    expect_no_chat(tab, site)


@pytest.mark.usefixtures("consenting")
def test_consent_withdrawn_before_the_chat_is_loaded(tab: Tab, site: Site) -> None:
    """The page was rendered with consent. Opening the chat requests the endpoint, and nothing from HubSpot."""
    site.page("/", BUTTON)
    tab.log_in("ada")
    tab.button.wait_for()
    withdraw_consent(tab)
    tab.run("hubspotIdentify.open()")
    expect_no_chat(tab, site)


@pytest.mark.usefixtures("consenting")
def test_consent_withdrawn_while_the_chat_is_loading(tab: Tab, site: Site) -> None:
    """Nothing cancels what HubSpot has begun to load, so the page is reloaded, without the chat."""
    site.page("/", CHAT)
    wait_for_route = tab.hold("**/livechat-public/**")
    tab.log_in("ada")
    wait_for_route()
    withdraw_consent(tab)
    with tab.page.expect_navigation():
        tab.run("hubspotIdentify.update()")
    expect_no_chat(tab, site)


@pytest.mark.usefixtures("consenting")
def test_consent_withdrawn_while_the_chat_is_loading_in_a_reloaded_page(tab: Tab, site: Site) -> None:
    """The page is not reloaded a second time, which might have no end. The chat is removed when it has loaded."""
    site.page("/", CHAT)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    wait_for_route = tab.hold("**/livechat-public/**")
    tab.page.reload()
    route = wait_for_route()
    tab.run("hubspotIdentify.update('never')")
    route.continue_()
    tab.wait_for_log("remove")
    expect(tab.container).to_have_count(0)
    assert "ready" not in tab.events


@pytest.mark.usefixtures("consenting")
def test_consent_given_again_in_the_same_page(tab: Tab, site: Site) -> None:
    """The visitor gets a chat without the conversation from before."""
    site.page("/", CHAT)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    withdraw_consent(tab)
    tab.run("hubspotIdentify.update()")
    expect(tab.container).to_have_count(0)
    tab.set_cookie("consent", "yes")
    tab.run("hubspotIdentify.update('page')")
    tab.expect_visitor("ada")
    expect(tab.container).to_be_visible()
