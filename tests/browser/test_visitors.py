"""A visitor is followed by another or by an anonymous one, who never sees the former identity or conversation."""

from __future__ import annotations

import pytest
from django.http import HttpResponse, JsonResponse
from playwright.sync_api import expect

from browser.conftest import ANONYMOUS, HOST, STORED_SUBJECT, Tab
from browser.portable import LOG_OUT_IN_THE_PAGE
from browser.site import ADA, EMBED_CODE, GRACE, IDENTITY, PORTAL, TAG, Site, identity_response
from hubspot_identify.sandbox.state import sandbox

pytestmark = pytest.mark.browser

INLINE = '{% hubspot_identify account="inline" %}'
CACHED = {"Cache-Control": "private, max-age=600"}
MESSAGE = "before the log-in"
THREAD = "utk-of-before"


def add_conversation(tab: Tab) -> None:
    """Add an anonymous conversation that was begun in this browser."""
    tab.set_cookie("messagesUtk", THREAD, sameSite="Lax")
    sandbox.add_message(MESSAGE, utk=THREAD, portal=PORTAL)


# ---- from page to page


def test_log_in_keeps_the_anonymous_conversation(tab: Tab, site: Site) -> None:
    """A visitor who logs in continues the conversation. Nothing is deleted."""
    site.page("/", TAG)
    add_conversation(tab)
    tab.go()
    expect(tab.chat.get_by_text(MESSAGE)).to_have_count(1)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert tab.cookie("messagesUtk") == THREAD
    assert "reset" not in tab.events


def test_log_out_clears_the_identity_and_the_conversation_from_before(tab: Tab, site: Site) -> None:
    """After an anonymous conversation, a log-in and a log-out, the next person sees neither conversation."""
    site.page("/", TAG)
    add_conversation(tab)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert tab.run(STORED_SUBJECT)
    tab.log_out()
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_event("anonymous")
    assert tab.events == ["reset", "ready", "anonymous"]
    expect(tab.chat.get_by_text(MESSAGE)).to_have_count(0)
    assert tab.cookie("messagesUtk") not in {None, THREAD}
    assert tab.run(STORED_SUBJECT) is None


def test_log_out_deletes_cookies_if_the_chat_is_not_loaded(tab: Tab, site: Site) -> None:
    """All six cookies of HubSpot are deleted without HubSpot, from the domain for which they were set."""
    assert HOST.startswith("www.")  # HubSpot sets its cookies for the domain without it
    site.page("/", TAG)
    add_conversation(tab)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    widget = ("position_left", "position_right", "size")
    for name in ("is-open", "hide-welcome-message", *(f"widget-{each}" for each in widget)):
        tab.set_cookie(f"hs-messages-{name}", "true")
    tab.block("**/sandbox/loader/**")
    tab.log_out()
    tab.wait_for_event("reset")
    assert tab.page.context.cookies() == []


def test_log_in_as_another_user_without_a_page_between(tab: Tab, site: Site) -> None:
    """The chat is the other user's, and contains nothing from before."""
    site.page("/", TAG)
    add_conversation(tab)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.log_in("grace")
    tab.expect_visitor("grace")
    tab.wait_for_event("identified")
    assert tab.events == ["reset", "ready", "identified"]
    assert tab.cookie("messagesUtk") is None


def test_log_out_resets_a_chat_that_is_already_running(tab: Tab, site: Site) -> None:
    """A chat that the embed code has started does not continue the former visitor's conversation."""
    site.page("/", '{% hubspot_identify account="embedded" %}' + EMBED_CODE)
    site.page("/late/", EMBED_CODE + '<template>{% hubspot_identify account="embedded" %}</template>')
    add_conversation(tab)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.log_out("/late/")
    expect(tab.chat.get_by_text(MESSAGE)).to_have_count(1)
    tab.insert_template()
    tab.wait_for_event("anonymous")
    tab.expect_visitor(ANONYMOUS)
    expect(tab.chat.get_by_text(MESSAGE)).to_have_count(0)


def test_browser_without_storage(tab: Tab, site: Site) -> None:
    """If the browser refuses localStorage, the chat works. No visitor is remembered, and no conversation is deleted."""
    site.page("/", TAG)
    tab.page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }})"
    )
    add_conversation(tab)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.log_out()
    tab.expect_visitor(ANONYMOUS)
    assert tab.cookie("messagesUtk") == THREAD
    assert "reset" not in tab.events


# ---- in the same document


def test_refresh_of_a_former_visitor_without_response_reloads_the_page(tab: Tab, site: Site) -> None:
    """After 15 seconds, the next visitor gets a chat that HubSpot's late response cannot reach."""
    site.page("/", TAG)
    tab.fake_clock()
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.skip(2000)
    wait_for_route = tab.hold("**/livechat-public/**")
    tab.run("hubspotIdentify.refresh()")
    wait_for_route()
    tab.log_out_in_the_page()
    tab.wait_for_event("reset")
    with tab.page.expect_navigation():
        tab.skip(16_000)
    wait_for_route().continue_()
    tab.expect_visitor(ANONYMOUS)


def test_page_with_a_late_chat_of_a_former_visitor_is_reloaded(tab: Tab, site: Site) -> None:
    """A load that took too long was repeated, and both will display a chat."""
    site.page("/", TAG, loader="delay=20000")
    tab.fake_clock()
    tab.log_in("ada")
    tab.wait_for_log("call answered")
    tab.skip(16_000)
    tab.wait_for_log("call answered", 2)
    tab.skip(5_000)
    tab.expect_visitor("ada")
    with tab.page.expect_navigation():
        tab.log_out_in_the_page()
        tab.skip(1000)
    tab.wait_for_log("call answered")
    tab.skip(21_000)
    tab.expect_visitor(ANONYMOUS)


def test_former_chat_that_is_still_loading_is_never_visible(tab: Tab, site: Site) -> None:
    """Nothing cancels the load. The former visitor's chat appears, hidden, and is reset."""
    site.page("/", TAG)
    wait_for_route = tab.hold("**/livechat-public/**")
    tab.page.add_init_script("""
        window.seen = [];
        requestAnimationFrame(function look() {
            const chat = document.querySelector("#hubspot-messages-iframe-container");
            const wasReset = window.__hubspotSandbox?.log.some(({what}) => what === "reset");
            if (chat && getComputedStyle(chat).visibility === "visible" && !wasReset) seen.push("former chat");
            requestAnimationFrame(look);
        });""")
    tab.log_in("ada")
    route = wait_for_route()
    tab.log_out_in_the_page()
    tab.wait_for_event("reset")
    route.continue_()
    wait_for_route().continue_()
    tab.wait_for_log("drawn", 2)
    tab.expect_visitor(ANONYMOUS)
    expect(tab.container).to_be_visible()
    assert tab.emails("drawn") == [ADA, None]
    assert tab.run("seen") == []


@pytest.mark.parametrize("how", ["log-out", "consent", "remove", "body"])
def test_page_can_be_scrolled_on_a_phone_when_the_open_chat_is_gone(tab: Tab, site: Site, how: str) -> None:
    """An open chat covers the screen, and stops the page from scrolling. HubSpot does not undo this."""
    overflow = "getComputedStyle(document.documentElement).overflowY"
    site.page("/", f'<meta name="viewport" content="width=device-width">{TAG}<p style="height: 5000px">')
    tab.page.set_viewport_size({"width": 390, "height": 800})
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.type_message("Hello")
    tab.wait_until(f"{overflow} === 'hidden'")
    actions = {
        "log-out": LOG_OUT_IN_THE_PAGE,
        "consent": "hubspotIdentify.update('never')",
        "remove": "HubSpotConversations.widget.remove()",
        "body": "document.body.replaceWith(document.createElement('body'))",
    }
    tab.run(actions[how])
    tab.wait_until(f"{overflow} !== 'hidden'")


def test_identity_is_renewed_although_the_timer_is_early(tab: Tab, site: Site) -> None:
    """Firefox fires timers up to a millisecond before their time."""
    site.page("/", TAG)
    tab.page.add_init_script(
        "const later = setTimeout; window.setTimeout = (action, delay) => later(action, Math.max(0, delay - 2))"
    )
    identity = {"email": ADA, "token": sandbox.issue(ADA), "expires_in": 0.5}
    site.responses = [JsonResponse({"subject": "a", "identity": identity}), identity_response("a", ADA)]
    tab.go()
    site.wait_for_request(IDENTITY, 2)
    is_renewed = "former => ![undefined, former].includes(hsConversationsSettings.identificationToken)"
    tab.wait_until(is_renewed, identity["token"])


def test_identity_is_removed_before_the_chat_is_cleared(tab: Tab, site: Site) -> None:
    """When the page notices a log-out, HubSpot is cleared and then reads settings without an identity."""
    site.page("/", TAG)
    add_conversation(tab)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.page.context.clear_cookies(name="user")
    tab.run("hubspotIdentify.update()")
    tab.wait_for_event("anonymous")
    tab.expect_visitor(ANONYMOUS)
    order = [each["what"] for each in tab.run("__hubspotSandbox.log") if each["what"] in {"clear", "identity read"}]
    assert order == ["identity read", "clear", "identity read"]
    assert tab.emails("identity read")[-1] is None
    expect(tab.chat.get_by_text(MESSAGE)).to_have_count(0)


def test_another_visitor_in_the_same_document(tab: Tab, site: Site) -> None:
    """The chat is rebuilt once for the other visitor, and the script continues to emit events."""
    site.page("/", TAG)
    site.responses = [identity_response("a", ADA), identity_response("g", GRACE)]
    tab.go()
    tab.expect_visitor("ada")
    tab.run("hubspotIdentify.update()")
    tab.expect_visitor("grace")
    tab.wait_for_event("identified", 2)
    assert tab.events == ["ready", "identified", "reset", "ready", "identified"]
    assert len(tab.logged("reset")) == 1
    tab.send_message("Hello")
    tab.wait_for_event("conversationStarted")


def test_reset_loads_a_chat_that_the_page_delayed(tab: Tab, site: Site) -> None:
    """With the page's own ``loadImmediately: false``, HubSpot does not load the chat after a reset."""
    site.page("/", f"<script>window.hsConversationsSettings = {{loadImmediately: false}}</script>{TAG}")
    site.responses = [identity_response("a", ADA), identity_response("g", GRACE)]
    tab.go()
    tab.wait_until("window.HubSpotConversations && hsConversationsSettings.identificationToken")
    tab.run("HubSpotConversations.widget.load()")
    tab.expect_visitor("ada")
    tab.run("hubspotIdentify.update()")
    tab.expect_visitor("grace")


def test_anonymous_visitor_who_logs_in_keeps_the_conversation(tab: Tab, site: Site) -> None:
    """A log-in in the same document makes the conversation the contact's, without a reset."""
    site.page("/", TAG)
    tab.fake_clock()
    add_conversation(tab)
    site.responses = [identity_response(None), identity_response("a", ADA)]
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    with tab.page.expect_response("**/hubspot/identity/"):
        tab.run("hubspotIdentify.update()")
    tab.skip(2000)
    tab.expect_visitor("ada")
    expect(tab.chat.get_by_text(MESSAGE)).to_have_count(1)
    assert tab.logged("reset") == []


def test_reset_by_the_page_makes_the_visitor_anonymous(tab: Tab, site: Site) -> None:
    """``hubspotIdentify.reset()`` is the log-out of a page that stays. It makes no request for the visitor."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    requests = site.identity_requests
    tab.run("hubspotIdentify.reset()")
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_event("anonymous")
    assert tab.run(STORED_SUBJECT) is None
    assert site.identity_requests == requests


def test_pending_chat_is_reset_when_it_has_loaded(tab: Tab, site: Site) -> None:
    """The visitor changes during the display delay: the reset waits, and the former chat does not stay."""
    site.page("/", TAG, loader="delay=10000")
    site.responses = [identity_response("a", ADA), identity_response(None)]
    tab.fake_clock()
    tab.go()
    tab.wait_for_log("call answered")
    tab.run("hubspotIdentify.update()")
    tab.wait_for_event("reset")
    assert "identificationToken" not in tab.settings
    assert tab.status["pending"]
    tab.run("__hubspotSandbox.options.delay = 0")
    tab.skip(10_001)
    tab.wait_for_log("reset")
    assert [entry["pending"] for entry in tab.logged("reset")] == [False]
    tab.wait_for_event("anonymous")
    tab.expect_visitor(ANONYMOUS)


def test_stuck_chat_of_a_former_visitor_reloads_the_page(tab: Tab, site: Site) -> None:
    """A pending chat cannot be reset without showing the former visitor's: after 15 seconds the page is reloaded."""
    site.page("/", TAG, loader="api=fail")
    site.responses = [identity_response("a", ADA), identity_response(None)]
    tab.fake_clock()
    tab.go()
    tab.wait_for_log("call failed")
    tab.run("hubspotIdentify.update()")
    tab.skip(300)
    tab.wait_for_event("reset")
    with tab.page.expect_navigation():
        tab.skip(16_000)
    site.wait_for_request("/sandbox/loader/", 2)


# ---- two tabs


def test_log_in_as_another_user_in_another_tab(tab: Tab, other_tab: Tab, site: Site) -> None:
    """The chat of every tab becomes the other user's. The tabs do not cause further requests in each other."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    other_tab.log_in("grace")
    other_tab.expect_visitor("grace")
    tab.expect_visitor("grace")
    tab.wait_for_event("identified", 2)
    requests = site.identity_requests
    other_tab.page.wait_for_timeout(700)  # no event says that no more requests are sent
    assert site.identity_requests == requests


def test_emptied_storage_requests_the_visitor_again(tab: Tab, other_tab: Tab, site: Site) -> None:
    """Sites that empty the storage at log-out name no key. Open tabs request the visitor again."""
    site.page("/", TAG)
    site.page("/out/", "<script>localStorage.clear()</script>")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    other_tab.log_out("/out/")
    tab.expect_visitor(ANONYMOUS)


def test_visitor_is_requested_when_the_chat_is_loaded_later(tab: Tab, site: Site) -> None:
    """The user of a single-page application changes before the chat is opened: the chat is for the new user."""
    site.page("/", '{% hubspot_identify account="interaction" %}')
    tab.log_in("grace")
    tab.run("hubspotIdentify.reset()")
    tab.set_cookie("user", "ada", HOST)
    tab.run("hubspotIdentify.update(), hubspotIdentify.open()")
    tab.expect_visitor("ada")
    assert tab.emails("identity read") == [ADA]


# ---- a page from a cache


def test_inline_page_from_the_history_is_not_trusted(tab: Tab, site: Site) -> None:
    """The back button shows a cached page that contains the former visitor. Its script requests the visitor."""
    site.page("/", INLINE, headers=CACHED)
    site.page("/out/", INLINE)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.log_out("/out/")
    tab.expect_visitor(ANONYMOUS)
    pages, requests = site.requests.count("/"), site.identity_requests
    tab.page.go_back()
    tab.expect_visitor(ANONYMOUS)
    assert site.requests.count("/") == pages
    assert site.identity_requests == requests + 1
    assert tab.emails("identity read") == [None]


def test_inline_page_from_a_cache_is_not_trusted(tab: Tab, site: Site) -> None:
    """A link leads to a page that the browser has cached for the former visitor."""
    site.page("/", INLINE, headers=CACHED)
    site.page("/out/", f'{INLINE}<a href="/">on</a>')
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.log_out("/out/")
    tab.expect_visitor(ANONYMOUS)
    pages = site.requests.count("/")
    tab.page.get_by_role("link", name="on").click()
    tab.page.wait_for_url(site.url("/"))
    tab.expect_visitor(ANONYMOUS)
    assert site.requests.count("/") == pages
    assert tab.emails("identity read") == [None]


# ---- an expired identity


def expire(tab: Tab) -> None:
    """Let an hour pass, for which the responses of these tests are valid."""
    tab.page.clock.fast_forward(3_600_000)
    tab.page.clock.resume()


def test_expired_identity_is_requested_again(tab: Tab, site: Site) -> None:
    """A page that stays open gets a new token, and the same visitor keeps the chat."""
    site.page("/", TAG)
    site.responses = [identity_response("a", ADA), identity_response("a", ADA)]
    tab.fake_clock()
    tab.go()
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    token = tab.settings["identificationToken"]
    expire(tab)
    tab.wait_until("token => ![undefined, token].includes(hsConversationsSettings.identificationToken)", token)
    tab.wait_for_log("refresh")
    tab.expect_visitor("ada")
    assert tab.logged("reset") == []
    assert tab.events == ["ready", "identified"]


def test_expired_identity_of_a_user_who_has_logged_out_is_cleared(tab: Tab, site: Site) -> None:
    """If the session has ended when the token expires, the chat is reset."""
    site.page("/", TAG)
    site.responses = [identity_response("a", ADA), identity_response(None)]
    tab.fake_clock()
    tab.go()
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    expire(tab)
    tab.expect_visitor(ANONYMOUS)
    assert tab.events[:3] == ["ready", "identified", "reset"]


def test_expired_identity_is_removed_if_the_endpoint_fails(tab: Tab, site: Site) -> None:
    """An expired token is removed from HubSpot's settings, whatever the endpoint responds."""
    site.page("/", TAG)
    site.responses = [identity_response("a", ADA), *(HttpResponse(status=500) for _ in range(9))]
    tab.fake_clock()
    tab.go()
    tab.expect_visitor("ada")
    expire(tab)
    tab.wait_for_event("failed")
    assert "identificationToken" not in tab.settings
    assert "identificationEmail" not in tab.settings
    assert tab.logged("reset") == []
