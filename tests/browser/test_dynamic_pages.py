"""Pages that change without a new document: htmx, Turbo and the history API."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from browser.conftest import ANONYMOUS, CONTAINER, INJECTED_CONTAINER, INLINE_CONTAINER, Tab
from browser.site import ADA, TAG, Site, identity_response, require_package

pytestmark = pytest.mark.browser

PACKAGES = {
    "htmx 1": "htmx1/dist/htmx.min.js",
    "htmx 2": "htmx.org/dist/htmx.min.js",
    "Turbo": "@hotwired/turbo/dist/turbo.es2017-umd.js",
}
LINKS = (
    '<a href="/">home</a> <a href="/two/">two</a> <a href="/logout/?next=/two/">out</a> '
    '<a href="/login/grace/?next=/two/">in</a>'
)


@pytest.fixture
def tab(tab: Tab) -> Tab:
    """The script calls HubSpot every 1.2 seconds at most. With this clock, the tests skip that time."""
    tab.fake_clock()
    return tab


def script(library: str) -> str:
    return f'<script src="{require_package(PACKAGES[library])}"></script>'


def write_pages(site: Site, library: str, tag: str = TAG, place: str = "body") -> None:
    """Write two pages. The library replaces the body instead of loading the other one."""
    head, foot = (tag, "") if place == "head" else ("", tag)
    for path in ("/", "/two/"):
        site.page(path, f"{script(library)}{head}<body hx-boost=true><h1>{path}</h1>{LINKS}{foot}</body>")


def follow(tab: Tab, link: str, heading: str) -> None:
    """Click a link, and check that the document is still the same."""
    tab.run("window.sameDocument = true")
    tab.skip(2000)
    tab.page.get_by_role("link", name=link, exact=True).click()
    expect_page(tab, heading)


def go_back(tab: Tab, heading: str) -> None:
    tab.skip(2000)
    tab.run("history.back()")
    expect_page(tab, heading)


def expect_page(tab: Tab, heading: str) -> None:
    tab.page.get_by_role("heading", name=heading, exact=True).wait_for()
    assert tab.run("window.sameDocument")


def expect_rebuilt_chat(tab: Tab, visitor: str, times: int) -> None:
    """Wait until the widget has drawn the chat so often, and then for the visitor."""
    tab.wait_for_log("drawn", times)
    tab.skip(2000)
    tab.expect_visitor(visitor)


def stored(tab: Tab) -> str:
    """Everything that scripts have stored in this browser."""
    return json.dumps(tab.run("[{...sessionStorage}, {...localStorage}]"))


@pytest.mark.parametrize(
    ("library", "place"), [("htmx 2", "body"), ("htmx 2", "head"), ("htmx 1", "body"), ("Turbo", "body")]
)
def test_each_swap_rebuilds_one_identified_chat(tab: Tab, site: Site, library: str, place: str) -> None:
    """After a swap of the body and after going back, there is one working chat and no copy. The loader runs once."""
    write_pages(site, library, place=place)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    follow(tab, "two", "/two/")
    expect_rebuilt_chat(tab, "ada", 2)
    go_back(tab, "/")
    expect_rebuilt_chat(tab, "ada", 3)
    assert len(site.requested("/sandbox/loader/")) == 1
    assert tab.logged("duplicate instance") == []
    assert tab.logged("reset") == []


def test_log_in_as_another_user_by_a_swap(tab: Tab, site: Site) -> None:
    """The chat becomes the other user's."""
    write_pages(site, "htmx 2")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    follow(tab, "in", "/two/")
    tab.skip(2000)
    tab.expect_visitor("grace")
    tab.wait_for_event("identified", 2)


def test_log_in_of_an_anonymous_visitor_by_a_swap(tab: Tab, site: Site) -> None:
    """The visitor is identified without a reset."""
    write_pages(site, "htmx 2")
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    follow(tab, "in", "/two/")
    expect_rebuilt_chat(tab, "grace", 2)
    assert tab.logged("reset") == []


@pytest.mark.parametrize("library", ["htmx 1", "htmx 2"])
def test_htmx_stores_no_identity_with_the_page(tab: Tab, site: Site, library: str) -> None:
    """The pages that htmx stores for the back button contain no e-mail address, no token and no chat."""
    write_pages(site, library, '{% hubspot_identify account="inline" %}')
    tab.log_in("ada")
    tab.expect_visitor("ada")
    token = tab.settings["identificationToken"]
    follow(tab, "two", "/two/")
    expect_rebuilt_chat(tab, "ada", 2)
    go_back(tab, "/")
    expect_rebuilt_chat(tab, "ada", 3)
    assert "/two/</h1>" in stored(tab)
    for secret in (ADA, token, "data-subject", CONTAINER.strip("#")):
        assert secret not in stored(tab)


def test_injected_container_is_not_stored_in_place_of_the_chat(tab: Tab, site: Site) -> None:
    """htmx stores the page without the chat, although markup that looks like HubSpot's container is above it."""
    write_pages(site, "htmx 2", INJECTED_CONTAINER + TAG)
    tab.log_in("ada")
    body = tab.page.locator(f"{CONTAINER} iframe").last.content_frame.locator("body")
    expect(body).to_have_attribute("data-visitor", ADA)
    tab.wait_for_event("identified")
    follow(tab, "two", "/two/")
    assert "/</h1>" in stored(tab)
    assert "/sandbox/chat/" not in stored(tab)
    tab.wait_for_log("drawn", 2)
    tab.skip(2000)
    expect(body).to_have_attribute("data-visitor", ADA)


def write_page_with_part(site: Site, part: str) -> None:
    """Write a page in which a button swaps a part, and changes the address."""
    button = "<button hx-get=/part/ hx-target=main hx-push-url=/pushed/>more</button>"
    site.page("/", f"{script('htmx 2')}<h1>/</h1>{button}<main></main>{TAG}")
    site.page("/part/", f"<h2>part</h2>{part}")


def test_swap_of_a_part_with_a_new_address_keeps_one_chat(tab: Tab, site: Site) -> None:
    """The part contains the tag again. htmx stores the page without the chat, which is then rebuilt."""
    write_page_with_part(site, TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.skip(2000)
    tab.page.get_by_role("button", name="more").click()
    tab.page.get_by_role("heading", name="part").wait_for()
    expect_rebuilt_chat(tab, "ada", 2)
    assert CONTAINER.strip("#") not in stored(tab)
    assert len(site.requested("/sandbox/loader/")) == 1


def test_chat_in_use_is_kept_during_a_swap(tab: Tab, site: Site) -> None:
    """A message that is being typed is still there after a swap of a part. htmx does not store the page."""
    write_page_with_part(site, "")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.type_message("half a sen")
    tab.wait_for_event("userInteractedWithWidget")
    tab.skip(2000)
    tab.page.get_by_role("button", name="more").click()
    tab.page.get_by_role("heading", name="part").wait_for()
    tab.skip(2000)
    expect(tab.chat.get_by_label("Message")).to_have_value("half a sen")
    assert len(tab.logged("drawn")) == 1
    assert CONTAINER.strip("#") not in stored(tab)


def test_turbo_frame_keeps_the_chat(tab: Tab, site: Site) -> None:
    """A frame with the tag in it is swapped: the visitor is requested again, and the chat is not rebuilt."""
    frame = "<turbo-frame id=f>{}</turbo-frame>"
    site.page("/", f"{script('Turbo')}{frame.format('<a href=/part/>more</a>')}{TAG}")
    site.page("/part/", frame.format(f"<h2>part</h2>{TAG}"))
    tab.log_in("ada")
    tab.expect_visitor("ada")
    requests = len(site.requested("/hubspot/"))
    with tab.page.expect_response("**/hubspot/identity/"):
        tab.page.get_by_role("link", name="more").click()
    tab.page.get_by_role("heading", name="part").wait_for()
    tab.skip(2000)
    tab.expect_visitor("ada")
    assert len(site.requested("/hubspot/")) == requests + 1
    assert len(tab.logged("drawn")) == 1


def test_turbo_morph_keeps_one_chat(tab: Tab, site: Site) -> None:
    """A page refreshed by morphing has one working chat afterwards."""
    site.page("/", f'<meta name="turbo-refresh-method" content="morph">{script("Turbo")}<body><h1>/</h1>{TAG}</body>')
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.run("window.morphs = 0; addEventListener('turbo:morph', () => { morphs++; })")
    tab.skip(2000)
    tab.run("Turbo.visit(location.href, {action: 'replace'})")
    tab.wait_until("morphs === 1")
    expect_rebuilt_chat(tab, "ada", 2)
    assert tab.logged("reset") == []


@pytest.mark.parametrize("library", ["htmx 2", "Turbo"])
def test_inline_chat_is_rebuilt_after_a_swap(tab: Tab, site: Site, library: str) -> None:
    """With HubSpot's inlineEmbedSelector, the chat has another container."""
    place = "<div id=chat></div><script>window.hsConversationsSettings = {inlineEmbedSelector: '#chat'}</script>"
    write_pages(site, library, place + TAG)
    tab.log_in("ada")
    tab.wait_for_event("identified")
    follow(tab, "two", "/two/")
    tab.wait_for_log("drawn", 2)
    tab.skip(2000)
    tab.wait_until("email => __hubspotSandbox.visitor === email", ADA)
    expect(tab.page.locator(INLINE_CONTAINER)).to_be_visible()
    expect(tab.page.locator(INLINE_CONTAINER)).to_have_count(1)


def test_turbo_does_not_store_a_chat_in_use(tab: Tab, site: Site) -> None:
    """After a log-out, going back requests no former visitor's chat from HubSpot."""
    write_pages(site, "Turbo")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.type_message("half a sen")
    tab.wait_for_event("userInteractedWithWidget")
    follow(tab, "out", "/two/")
    tab.skip(2000)
    tab.expect_visitor(ANONYMOUS)
    go_back(tab, "/")
    tab.skip(2000)
    tab.expect_visitor(ANONYMOUS)
    chats = [path for path in site.requested("/sandbox/chat/") if not path.endswith("/thread/")]
    assert len(chats) == len(tab.logged("drawn"))


# ---- the address


def test_new_addresses_refresh_the_chat_once(tab: Tab, site: Site) -> None:
    """Several new addresses make one refresh, with the last address, which HubSpot does not drop."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    with tab.page.expect_response("**/hubspot/identity/"):
        tab.run("for (const n of [1, 2, 3]) history.pushState(null, '', `/page/${n}/`)")
    tab.skip(2000)
    tab.wait_for_log("call answered", 2)
    assert [re.sub("^.*?//[^/]+", "", entry["url"]) for entry in tab.logged("call")] == ["/", "/page/3/"]
    assert tab.logged("throttled") == []


def test_only_a_new_path_or_query_is_a_new_address(tab: Tab, site: Site) -> None:
    """A replaced state and a new fragment cause no request. A new query causes one request and one refresh."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    requests = len(site.requested("/hubspot/"))
    changes = "history.replaceState({key: true}, ''); location.hash = 'below'; history.pushState(null, '', '?query')"
    with tab.page.expect_response("**/hubspot/identity/"):
        tab.run(changes)
    tab.skip(2000)
    tab.wait_for_log("call answered", 2)
    assert len(tab.logged("refresh")) == 1
    assert len(site.requested("/hubspot/")) == requests + 1


def test_chat_in_use_is_refreshed_when_it_is_closed(tab: Tab, site: Site) -> None:
    """Neither a new address nor a log-in changes an open chat with a message that is being typed."""
    site.page("/", TAG)
    site.responses = [identity_response(None), identity_response("a", ADA)]
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    tab.type_message("half a sen")
    tab.wait_for_event("userInteractedWithWidget")
    with tab.page.expect_response("**/hubspot/identity/"):
        tab.run("history.pushState(null, '', '/elsewhere/')")
    tab.wait_until("hsConversationsSettings.identificationToken")
    tab.skip(3000)
    assert tab.logged("refresh") == []
    expect(tab.chat.get_by_label("Message")).to_have_value("half a sen")
    tab.run("hubspotIdentify.close()")
    tab.expect_visitor("ada")
    assert [entry["setIdentification"] for entry in tab.logged("refresh")] == [True]


@pytest.mark.parametrize("how", ["new address", "open"])
def test_chat_returns_after_an_address_without_one(tab: Tab, site: Site, how: str) -> None:
    """HubSpot removes the chat where it has no chatflow, without an event. The next address may have one."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.skip(2000)
    tab.run("__hubspotSandbox.options.chat = 'none'; history.pushState(null, '', '/without/')")
    tab.skip(2000)
    tab.wait_until("hubspotIdentify.status().state === 'hidden'")
    expect(tab.container).to_have_count(0)
    tab.skip(2000)
    tab.run("__hubspotSandbox.options.chat = ''")
    tab.run("hubspotIdentify.open()" if how == "open" else "history.pushState(null, '', '/with/')")
    tab.skip(2000)
    tab.expect_visitor("ada")
    tab.skip(1000)
    tab.wait_until("hubspotIdentify.status().state === 'ready'")
    expect(tab.chat.locator("#panel")).to_be_visible(visible=how == "open")


def test_chat_that_returns_is_not_loaded_again(tab: Tab, site: Site) -> None:
    """HubSpot has removed it at an address without a chatflow, and displays it for the visitor at the next one."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.skip(2000)
    for chat, calls in (("none", 2), ("", 3)):
        tab.run("chat => { __hubspotSandbox.options.chat = chat; hubspotIdentify.refresh(); }", chat)
        tab.skip(100)
        tab.wait_for_log("call answered", calls)
        tab.skip(2000)
    tab.expect_visitor("ada")
    tab.skip(3000)
    assert tab.emails("drawn") == [ADA, ADA]
    assert tab.logged("remove") == []


def test_chat_is_identified_if_the_body_is_replaced_when_it_has_been_opened(tab: Tab, site: Site) -> None:
    """The chat that replaces it is closed, although HubSpot's cookie says that the former one was open."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.skip(2000)
    tab.type_message("half a sen")
    tab.wait_for_event("userInteractedWithWidget")
    tab.run("document.body.replaceWith(document.createElement('body'))")
    expect_rebuilt_chat(tab, "ada", 2)


def test_chat_that_the_page_removed_can_be_opened(tab: Tab, site: Site) -> None:
    """The page removes HubSpot's widget. It stays away until the page calls open()."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.skip(2000)
    tab.run("HubSpotConversations.widget.remove()")
    tab.skip(3000)
    expect(tab.container).to_have_count(0)
    tab.run("hubspotIdentify.open()")
    tab.wait_for_log("drawn", 2)
    tab.skip(2000)
    tab.expect_visitor("ada")
    expect(tab.chat.locator("#panel")).to_be_visible()


def test_page_without_a_chat_followed_by_one_with_a_chat(tab: Tab, site: Site) -> None:
    """If HubSpot has no chat for an address, the next address may have one."""
    site.page("/", TAG, loader="chat=none")
    tab.log_in("ada")
    tab.wait_for_event("widgetHidden")
    assert tab.status["state"] == "hidden"
    with tab.page.expect_response("**/hubspot/identity/"):
        tab.run("__hubspotSandbox.options.chat = ''; history.pushState(null, '', '/with/')")
    tab.skip(2000)
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    assert tab.events == ["ready", "identified"]
