"""Pages that the browser restores from its back/forward cache, which Playwright disables elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.http import HttpResponse
from playwright.sync_api import Browser, Playwright, expect
from support.browser import launched_chromium

from browser.conftest import ANONYMOUS, CONTAINER, INJECTED_CONTAINER, Tab
from browser.site import ADA, TAG, Site

pytestmark = pytest.mark.browser

COUNT_RETURNS = f"""addEventListener("pageshow", ({{persisted}}) => {{
    if (!persisted || window.top !== window) return;
    window.returns = (window.returns ?? 0) + 1;
    window.visibilityAtReturn = getComputedStyle(document.querySelector("{CONTAINER}")).visibility;
}})"""


@pytest.fixture(scope="module")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    with launched_chromium(playwright, ignore_default_args=["--disable-back-forward-cache"]) as browser:
        yield browser


@pytest.fixture
def tab(tab: Tab) -> Tab:
    tab.page.add_init_script(COUNT_RETURNS)
    return tab


def go_back(tab: Tab, pages: int = 1) -> None:
    """Go back without the ``load`` event that Playwright's own method waits for."""
    tab.run("pages => history.go(-pages)", pages)
    tab.wait_until("window.returns === 1")


@pytest.mark.parametrize("following", ["grace", ANONYMOUS])
def test_restored_page_hides_the_former_visitors_chat(tab: Tab, site: Site, following: str) -> None:
    """The page is restored with the former visitor's chat, which is hidden until it is replaced."""
    site.page("/", TAG)
    site.page("/between/", "Another page.")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    if following == ANONYMOUS:
        tab.log_out("/between/")
    else:
        tab.log_in(following, "/between/")
    go_back(tab)
    assert tab.run("visibilityAtReturn") == "hidden"
    tab.expect_visitor(following)
    expect(tab.container).to_be_visible()


def test_restored_page_keeps_the_chat_of_the_same_visitor(tab: Tab, site: Site) -> None:
    """After one request for the visitor, the chat is visible again, without a reset."""
    site.page("/", TAG)
    site.page("/between/", "Another page.")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.go("/between/")
    requests = len(site.requested("/hubspot/"))
    go_back(tab)
    expect(tab.container).to_be_visible()
    assert tab.run("document.querySelector('iframe').contentDocument.body.dataset.visitor") == ADA
    assert len(site.requested("/hubspot/")) == requests + 1
    assert tab.logged("reset") == []


def test_injected_container_does_not_keep_the_chat_visible(tab: Tab, site: Site) -> None:
    """The former visitor's chat is hidden, although markup that looks like HubSpot's container is above it."""
    site.page("/", INJECTED_CONTAINER + TAG)
    site.page("/between/", "Another page.")
    tab.page.add_init_script(COUNT_RETURNS.replace(CONTAINER, f"body > {CONTAINER}:last-of-type"))
    tab.log_in("ada")
    chat = tab.page.locator(CONTAINER).last
    expect(chat.locator("iframe").content_frame.locator("body")).to_have_attribute("data-visitor", ADA)
    tab.log_out("/between/")
    tab.run("history.back()")
    tab.wait_until("window.returns === 2")  # two scripts count
    assert tab.run("visibilityAtReturn") == "hidden"
    expect(chat.locator("iframe").content_frame.locator("body")).to_have_attribute("data-visitor", ANONYMOUS)
    expect(chat).to_be_visible()


@pytest.mark.parametrize("log_out_page", ["Logged out.", TAG], ids=["without the tag", "with the tag"])
def test_restored_page_does_not_show_a_conversation_from_before_a_log_in(
    tab: Tab, site: Site, log_out_page: str
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
    go_back(tab, 2)
    assert tab.run("visibilityAtReturn") == "hidden"
    tab.wait_for_log("reset")
    tab.expect_visitor(ANONYMOUS)
    expect(tab.container).to_be_visible()
    assert "from before" not in tab.run("document.querySelector('iframe').contentDocument.body.textContent")


def test_restored_chat_stays_hidden_while_the_endpoint_fails(tab: Tab, site: Site) -> None:
    """The former visitor's chat is not shown until the endpoint has said who the visitor is."""
    site.page("/", TAG)
    site.page("/between/", "Another page.")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.go("/between/")
    site.responses = [HttpResponse(status=500) for _ in range(9)]
    go_back(tab)
    tab.wait_for_event("failed")
    expect(tab.container).to_be_hidden()
    site.responses = []
    tab.page.context.clear_cookies(name="user")
    tab.run("dispatchEvent(new Event('online'))")
    tab.wait_for_log("reset")
    tab.expect_visitor(ANONYMOUS)
    expect(tab.container).to_be_visible()
