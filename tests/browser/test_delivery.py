"""How the identity gets to the widget: in the right order, once, and without errors in the page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.http import HttpResponse, JsonResponse
from playwright.sync_api import expect

from browser.conftest import ANONYMOUS, Tab
from browser.site import ADA, EMBED_CODE, IDENTITY, LOADER, TAG, Site, identity_response
from hubspot_identify.sandbox.state import sandbox

pytestmark = pytest.mark.browser


def test_visitor_is_identified_when_the_chat_loads(tab: Tab, site: Site) -> None:
    """The endpoint is asked until there is a token, then the chat is loaded. The next page finds a cached token."""
    site.page("/", TAG)
    site.waits_for_tokens = False
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    assert tab.events == ["ready", "identified"]
    assert len(tab.logged("load")) == 1
    assert tab.emails("identity read") == [ADA]
    assert tab.status == {"loaded": True, "pending": False, "state": "ready", "identified": True}
    assert site.identity_requests == 2
    site.requests.clear()
    tab.go()
    tab.expect_visitor("ada")
    assert site.identity_requests == 1
    assert site.token_calls == 1


# ---- together with other scripts of the page


def test_settings_and_callbacks_of_the_page_are_kept(tab: Tab, site: Site) -> None:
    """The script adds to the objects that the page has made. All callbacks run."""
    site.page(
        "/",
        "<script>window.original = {avoidInlineStyles: false, hideNewThreadLink: true};"
        "window.hsConversationsSettings = window.original;"
        f"window.hsConversationsOnReady = [() => {{ window.calls = (window.calls ?? 0) + 1; }}]</script>{TAG}",
    )
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert tab.run("original === hsConversationsSettings")
    assert tab.settings == {
        "avoidInlineStyles": False,
        "hideNewThreadLink": True,
        "identificationEmail": ADA,
        "identificationToken": tab.settings["identificationToken"],
    }
    assert tab.run("calls") == len(tab.logged("ready callbacks")) == 2


def test_settings_and_callbacks_that_the_page_replaces_later(tab: Tab, site: Site) -> None:
    """Scripts that run later and assign new objects lose neither their own values nor the identity."""
    site.page(
        "/",
        f"{TAG}<script>document.addEventListener('DOMContentLoaded', () => {{"
        "window.hsConversationsSettings = {disableAttachment: true};"
        "window.hsConversationsOnReady = [() => { window.ran = true; }]; })</script>",
    )
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert tab.run("ran")
    assert tab.settings["disableAttachment"] is True


@pytest.mark.parametrize("name", ["hsConversationsSettings", "HubSpotConversations"])
def test_page_that_observes_the_globals_of_hubspot(tab: Tab, site: Site, name: str) -> None:
    """Scripts of the page may replace a global variable by a getter and a setter."""
    accessors = "get: () => window.observed, set: (value) => { window.observed = value; }"
    site.page("/", f"<script>Object.defineProperty(window, '{name}', {{{accessors}}})</script>{TAG}")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert tab.run("observed") is not None


@pytest.mark.parametrize("account", ["embedded", "embedded-inline"])
def test_tag_before_the_embed_code(tab: Tab, site: Site, account: str) -> None:
    """Without ``PORTAL_ID`` and with the tag in the head, the embed code loads the chat identified, and once."""
    site.page("/", f'{{% hubspot_identify account="{account}" %}}<body>{EMBED_CODE}')
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert len(site.requested("/sandbox/loader/")) == 1
    assert tab.emails("call") == [ADA]
    assert "loadImmediately" not in tab.settings


def test_running_chat_is_identified_and_keeps_its_conversation(tab: Tab, site: Site) -> None:
    """The embed code has started the chat before the script runs."""
    site.page("/", EMBED_CODE)
    site.page("/tagged/", f"{EMBED_CODE}<template>{{% hubspot_identify account='embedded' %}}</template>")
    tab.go()
    tab.send_message("before the log-in")
    tab.log_in("ada", "/tagged/")
    tab.expect_visitor(ANONYMOUS)
    tab.insert_template()
    tab.expect_visitor("ada")
    expect(tab.chat.get_by_text("before the log-in")).to_be_visible()
    tab.wait_for_event("identified")
    assert tab.logged("reset") == []


def test_embed_code_whose_page_replaces_the_settings(tab: Tab, site: Site) -> None:
    """The chat starts without an identity, and is identified as soon as possible."""
    site.page(
        "/",
        '{% hubspot_identify account="embedded" %}'
        f"<body><script>window.hsConversationsSettings = {{disableAttachment: true}}</script>{EMBED_CODE}",
    )
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert tab.settings["disableAttachment"] is True


def test_page_that_delays_the_chat_itself(tab: Tab, site: Site) -> None:
    """The page's own ``loadImmediately: false`` has effect. When the page loads the chat, the visitor is identified."""
    site.page(
        "/",
        f"<script>window.hsConversationsSettings = {{loadImmediately: false}}</script>{EMBED_CODE}"
        '{% hubspot_identify account="embedded" %}',
    )
    tab.log_in("ada")
    tab.wait_until("hsConversationsSettings.identificationToken && window.HubSpotConversations")
    assert tab.logged("load") == []
    tab.run("HubSpotConversations.widget.load()")
    tab.expect_visitor("ada")
    assert tab.settings["loadImmediately"] is False


def test_several_tags_and_embed_code_load_one_chat(tab: Tab, site: Site) -> None:
    """A page may contain the tag twice, and embed code that was left in by mistake."""
    site.page("/", f"{EMBED_CODE}{TAG}<p>{TAG}")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert len(site.requested("/sandbox/loader/")) == 1
    assert len(tab.logged("load")) == 1
    assert tab.logged("duplicate instance") == []


# ---- the endpoint


def test_pending_token_is_requested_again_four_times(tab: Tab, site: Site) -> None:
    """A 202 is followed by requests after 0.4, 1 and 2 seconds. Then the chat is loaded once, without an identity."""
    site.page("/", TAG)
    site.responses = [identity_response("subject-of-ada", status=202) for _ in range(4)]
    tab.skip_delays(400, 1000, 2000)
    tab.go()
    tab.wait_for_event("anonymous")
    tab.expect_visitor(ANONYMOUS)
    assert tab.run("skippedDelays.slice(0, 3)") == [400, 1000, 2000]
    assert site.responses == []
    assert site.identity_requests == 4
    assert len(tab.logged("load")) == 1


FAILURES: dict[str, Callable[[], HttpResponse]] = {
    "503 with an identity response": lambda: JsonResponse({"subject": None, "identity": None}, status=503),
    "HTML": lambda: HttpResponse("<h1>Please log in</h1>"),
    "null": lambda: JsonResponse(None, safe=False),
    "another object": lambda: JsonResponse({"identity": {"email": "eve@example.com", "token": "x"}}),
    "redirect": lambda: HttpResponse(status=302, headers={"Location": f"/login/?next={IDENTITY}"}),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failing_endpoint_loads_the_chat_for_an_anonymous_visitor(tab: Tab, site: Site, failure: str) -> None:
    """If no visitor is remembered, the chat is loaded without an identity, and the browser's cookies are kept."""
    site.page("/", TAG)
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    thread = tab.cookie("messagesUtk")
    site.responses = [FAILURES[failure]()]
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_event("anonymous")
    assert tab.events == ["failed", "ready", "anonymous"]
    assert tab.cookie("messagesUtk") == thread
    assert site.identity_requests == 2


def test_unreachable_endpoint_loads_the_chat_for_an_anonymous_visitor(tab: Tab, site: Site) -> None:
    """A request without a response has the effect of a failure."""
    site.page("/", TAG)
    tab.block(f"**{IDENTITY}")
    tab.log_in("ada")
    tab.expect_visitor(ANONYMOUS)
    assert tab.events[0] == "failed"


def test_failing_token_api_loads_the_chat_for_an_anonymous_visitor(tab: Tab, site: Site) -> None:
    """HubSpot responds to the app with status 500: there is a chat, without an identity."""
    sandbox.set_scenario("500")
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor(ANONYMOUS)


def test_no_request_without_an_endpoint(tab: Tab, site: Site) -> None:
    """An inline page of a site that does not route the app's URLs requests no visitor, not even on ``update()``."""
    site.page(
        "/",
        f'<script src="/static/hubspot_identify/identify.js" defer data-subject="" data-loader="{LOADER}"></script>',
    )
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    tab.run("hubspotIdentify.update()")
    tab.wait_for_event("failed")
    assert [path for path in site.requests if not path.startswith(("/sandbox/", "/static/"))] == ["/"]


# ---- the loader


def test_blocked_loader_leaves_a_working_page(tab: Tab, site: Site) -> None:
    """An ad blocker causes one event and no uncaught error. All methods can be called."""
    site.page("/", TAG)
    tab.block("**/sandbox/loader/**")
    tab.log_in("ada")
    tab.wait_for_event("failed")
    assert tab.run("recordedEvents") == [["failed", {"reason": "loader"}]]
    tab.run("hubspotIdentify.open(); hubspotIdentify.close(); hubspotIdentify.refresh()")
    assert tab.status == {"state": "failed", "identified": False}


def test_loader_without_a_response_fails_after_15_seconds(tab: Tab, site: Site) -> None:
    """The page gets an event, also where the site's own embed code adds the loader."""
    site.page("/", f'{{% hubspot_identify account="embedded" %}}{EMBED_CODE}')
    tab.hold("**/sandbox/loader/**")
    tab.page.clock.install(time=0)
    tab.page.clock.pause_at(1000)
    site.responses = [identity_response("subject-of-ada", ADA)]
    tab.page.goto(site.url(), wait_until="commit")
    tab.wait_until("window.hsConversationsSettings?.identificationToken")
    tab.skip(14_900)
    assert tab.run("recordedEvents") == []
    tab.skip(200)
    assert tab.run("recordedEvents") == [["failed", {"reason": "loader"}]]


def test_loader_that_throws_leaves_a_working_page(tab: Tab, site: Site) -> None:
    """The only uncaught error in the page is the loader's own."""
    site.page("/", TAG, loader="loader=throw")
    with tab.page.expect_event("pageerror"):
        tab.log_in("ada")
    tab.wait_until("hsConversationsSettings.identificationToken")
    assert len(tab.errors) == 1
    tab.errors.clear()
    assert tab.status["state"] == "loading"


def test_widget_that_rejects_the_settings_of_the_page(tab: Tab, site: Site) -> None:
    """HubSpot's error about the page's own settings is the only one."""
    site.page("/", f"<script>window.hsConversationsSettings = {{disableAttachment: 'yes'}}</script>{TAG}")
    with tab.page.expect_event("pageerror"):
        tab.log_in("ada")
    assert "disableAttachment" in tab.errors.pop()
    assert tab.errors == []
