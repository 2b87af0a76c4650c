"""Pages that come back alive from the browser's back/forward cache, which Playwright switches off elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.http import HttpResponse
from playwright.sync_api import Browser, expect
from support.browser import running_chromium

from browser.conftest import CONTAINER, Visit
from browser.site import Site

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium(ignore_default_args=["--disable-back-forward-cache"]) as browser:
        yield browser


def go_back(visit: Visit) -> None:
    """Back, without the ``load`` event that Playwright's own method waits for."""
    visit.run("history.back()")
    visit.page.wait_for_function("window.returns === 1")


COUNT_RETURNS = f"""addEventListener("pageshow", ({{persisted}}) => {{
    if (!persisted || window.top !== window) return;
    window.returns = (window.returns ?? 0) + 1;
    window.atReturn = getComputedStyle(document.querySelector("{CONTAINER}")).visibility;
}})"""


@pytest.mark.parametrize("following", ["grace", "unknown"])
def test_a_page_from_the_back_forward_cache_is_not_believed(visit: Visit, site: Site, following: str) -> None:
    """It comes back alive, with the former visitor's chat in it, which is hidden until it is the right one's."""
    site.page("/", "{% hubspot_identify %}")
    site.page("/between/", "Logged out.")
    visit.page.add_init_script(COUNT_RETURNS)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    if following == "unknown":
        visit.log_out("/between/")
    else:
        visit.log_in(following, "/between/")
    go_back(visit)
    assert visit.run("atReturn") == "hidden"
    visit.expect_visitor(following)
    expect(visit.container).to_be_visible()


def test_the_same_visitors_page_from_that_cache_goes_on(visit: Visit, site: Site) -> None:
    """One question, no reset, and the chat is visible again."""
    site.page("/", "{% hubspot_identify %}")
    site.page("/between/", "Another page.")
    visit.page.add_init_script(COUNT_RETURNS)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.go("/between/")
    asked = len(site.asked("/hubspot/"))
    go_back(visit)
    expect(visit.container).to_be_visible()
    visitor = visit.run("document.querySelector('iframe').contentDocument.body.dataset.visitor")
    assert visitor == "ada@example.com"
    assert len(site.asked("/hubspot/")) == asked + 1
    assert visit.happened("reset") == []


def test_injected_container_does_not_keep_the_chat_visible(visit: Visit, site: Site) -> None:
    """Markup that looks like HubSpot's container stands above it. The former visitor's chat is hidden nevertheless."""
    site.page("/", f'<div id="{CONTAINER[1:]}"><iframe srcdoc="a picture"></iframe></div>{{% hubspot_identify %}}')
    site.page("/between/", "Logged out.")
    visit.page.add_init_script(COUNT_RETURNS.replace(CONTAINER, f"body > {CONTAINER}:last-of-type"))
    visit.log_in("ada")
    chat = visit.page.locator(CONTAINER).last
    expect(chat.locator("iframe").content_frame.locator("body")).to_have_attribute("data-visitor", "ada@example.com")
    visit.log_out("/between/")
    go_back(visit)
    assert visit.run("atReturn") == "hidden"
    expect(chat.locator("iframe").content_frame.locator("body")).to_have_attribute("data-visitor", "unknown")
    expect(chat).to_be_visible()


@pytest.mark.parametrize("log_out_page", ["Logged out.", "{% hubspot_identify %}"], ids=["without the tag", "with it"])
def test_a_conversation_of_before_the_log_in_does_not_come_back(visit: Visit, site: Site, log_out_page: str) -> None:
    """Chatted as nobody, logged in on another page, logged out: the next person goes back to the first page."""
    site.page("/", "{% hubspot_identify %}")
    site.page("/in/", "{% hubspot_identify %}")
    site.page("/out/", log_out_page)
    visit.page.add_init_script(COUNT_RETURNS)
    visit.go()
    visit.say("of before")
    visit.log_in("ada", "/in/")
    visit.expect_visitor("ada")
    visit.log_out("/out/")
    if "hubspot" in log_out_page:
        visit.expect_visitor("unknown")
    visit.run("history.go(-2)")
    visit.page.wait_for_function("window.returns === 1")
    assert visit.run("atReturn") == "hidden"
    visit.wait_for("reset")
    visit.expect_visitor("unknown")
    expect(visit.container).to_be_visible()
    assert "of before" not in visit.run("document.querySelector('iframe').contentDocument.body.textContent")


def test_chat_stays_hidden_until_the_endpoint_says_who_came_back(visit: Visit, site: Site) -> None:
    """While the endpoint fails, the former visitor's chat is not shown. Afterwards there is a chat again."""
    site.page("/", "{% hubspot_identify %}")
    site.page("/between/", "Another page.")
    visit.page.add_init_script(COUNT_RETURNS)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.go("/between/")
    site.answers = [HttpResponse(status=500) for _ in range(9)]
    go_back(visit)
    visit.wait_heard("failed")
    expect(visit.container).to_be_hidden()
    site.answers = []
    visit.page.context.clear_cookies(name="user")
    visit.run("dispatchEvent(new Event('online'))")
    visit.wait_for("reset")
    visit.expect_visitor("unknown")
    expect(visit.container).to_be_visible()
