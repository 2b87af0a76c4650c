"""Pages that the browser restores from its back/forward cache, which the other tests disable where they can."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.http import HttpResponse
from playwright.sync_api import Browser, Playwright
from support.browser import launched_browser

from browser.conftest import INJECTED_CONTAINER
from browser.portable import ANONYMOUS, IS_VISIBLE, PortableTab
from browser.site import ADA, TAG, Site

pytestmark = [
    pytest.mark.browser,
    pytest.mark.browsers("chromium", "firefox", "webkit", reason="Each has its own."),
    pytest.mark.secure_host,
]

RECORD_RETURN = f"""<script>addEventListener("pageshow", ({{persisted}}) => {{
    const isReturn = persisted || performance.getEntriesByType("navigation")[0].type === "back_forward";
    if (!isReturn) return;
    window.wasRestored = persisted;
    window.wasVisible = {IS_VISIBLE};
    fetch("/returned/");
}})</script>"""


@pytest.fixture(scope="module")
def browser(browser_name: str, playwright: Playwright) -> Iterator[Browser]:
    with launched_browser(playwright, browser_name, has_page_cache=True) as browser:
        yield browser


@pytest.fixture
def tab(open_tab: Callable[[], PortableTab], site: Site) -> PortableTab:
    tab = open_tab()
    site.head += RECORD_RETURN
    return tab


def go_back(tab: PortableTab, pages: int = 1) -> bool:
    """Go back to a page that the browser restores, and return whether the chat was visible when it did."""
    tab.go_back(pages)
    # A script that waits in the page that is left may be stored with that page, and never return.
    tab.site.wait_for_request("/returned/")
    tab.wait_until("window.wasVisible !== undefined")
    assert tab.run("wasRestored") or pages > 1  # Firefox does not always store more than the last page
    was_visible: bool = tab.run("wasVisible")
    return was_visible


@pytest.mark.parametrize("following", ["grace", ANONYMOUS])
def test_restored_page_hides_the_former_visitors_chat(tab: PortableTab, site: Site, following: str) -> None:
    """The page is restored with the former visitor's chat, which is hidden until it is replaced."""
    site.page("/", TAG)
    site.page("/between/", "Another page.")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    if following == ANONYMOUS:
        tab.log_out("/between/")
    else:
        tab.log_in(following, "/between/")
    assert not go_back(tab)
    tab.expect_visitor(following)
    tab.wait_for_visibility(True)


def test_restored_page_hides_the_former_visitors_inline_chat(tab: PortableTab, site: Site) -> None:
    """With HubSpot's inlineEmbedSelector, the chat has another container."""
    place = "<div id=chat></div><script>window.hsConversationsSettings = {inlineEmbedSelector: '#chat'}</script>"
    site.page("/", place + TAG)
    site.page("/between/", "Another page.")
    tab.log_in("ada")
    tab.wait_until("email => window.__hubspotSandbox?.visitor === email", ADA)
    tab.log_out("/between/")
    assert not go_back(tab)
    tab.wait_until("visitor => __hubspotSandbox.visitor === visitor", ANONYMOUS)
    tab.wait_for_visibility(True)


def test_restored_page_without_consent_removes_the_chat(tab: PortableTab, site: Site) -> None:
    """Consent was withdrawn on a later page. The restored page requests nothing from HubSpot."""
    site.page("/", '{% hubspot_identify account="consent" %}')
    site.page("/between/", "Another page.")
    tab.set_cookie("consent", "yes")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.go("/between/")
    tab.set_cookie("consent", "no")
    site.requests.clear()
    assert not go_back(tab)
    tab.wait_until("!document.getElementById('hubspot-conversations-iframe')")
    assert site.requested("/sandbox/") == []


def test_restored_page_keeps_the_chat_of_the_same_visitor(tab: PortableTab, site: Site) -> None:
    """After one request for the visitor, the chat is visible again, without a reset."""
    site.page("/", TAG)
    site.page("/between/", "Another page.")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.go("/between/")
    requests = len(site.requested("/hubspot/"))
    go_back(tab)
    tab.wait_for_visibility(True)
    tab.expect_visitor("ada")
    assert len(site.requested("/hubspot/")) == requests + 1
    assert tab.logged("reset") == []


def test_injected_container_does_not_keep_the_chat_visible(tab: PortableTab, site: Site) -> None:
    """The former visitor's chat is hidden, although markup that looks like HubSpot's container is above it."""
    site.page("/", INJECTED_CONTAINER + TAG)
    site.page("/between/", "Another page.")
    tab.log_in("ada")
    tab.wait_until("email => window.__hubspotSandbox?.visitor === email", ADA)
    tab.log_out("/between/")
    assert not go_back(tab)
    tab.wait_until("visitor => __hubspotSandbox.visitor === visitor", ANONYMOUS)
    tab.wait_for_visibility(True)


@pytest.mark.parametrize("log_out_page", ["Logged out.", TAG], ids=["without the tag", "with the tag"])
def test_restored_page_does_not_show_a_conversation_from_before_a_log_in(
    tab: PortableTab, site: Site, log_out_page: str
) -> None:
    """A visitor chats, logs in on another page and logs out. The next person goes back to the first page."""
    site.page("/", TAG)
    site.page("/in/", TAG)
    site.page("/out/", log_out_page)
    tab.go()
    tab.send_message("from before")
    tab.log_in("ada", "/in/")
    tab.expect_visitor("ada")
    tab.log_out("/out/")
    if log_out_page == TAG:
        tab.expect_visitor(ANONYMOUS)
    assert not go_back(tab, 2)
    tab.wait_until("!wasRestored || __hubspotSandbox.log.some(({ what }) => what === 'reset')")
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_visibility(True)
    assert "from before" not in tab.run_in_chat("() => document.body.textContent")


def test_restored_chat_stays_hidden_while_the_endpoint_fails(tab: PortableTab, site: Site) -> None:
    """The former visitor's chat is not shown until the endpoint has said who the visitor is."""
    site.page("/", TAG)
    site.page("/between/", "Another page.")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.go("/between/")
    site.responses = [HttpResponse(status=500) for _ in range(9)]
    assert not go_back(tab)
    tab.wait_for_event("failed")
    assert not tab.run(IS_VISIBLE)
    site.responses = []
    tab.delete_cookie("user")
    tab.run("dispatchEvent(new Event('online'))")
    tab.wait_for_log("reset")
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_visibility(True)
