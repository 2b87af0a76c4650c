"""The sandbox's chat widget behaves like HubSpot's, because the tests of ``identify.js`` depend on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect
from support.browser import TIMEOUT, running_chromium

from hubspot_identify.sandbox.state import TOKEN_LIFETIME, Sandbox

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CONTAINER = "#hubspot-messages-iframe-container"
INLINE_CONTAINER = "#hubspot-conversations-inline-parent"
SITE_HOST = "www.shop.test"
LOAD = "HubSpotConversations.widget.load()"
REFRESH = "HubSpotConversations.widget.refresh()"
REMOVE = "HubSpotConversations.widget.remove()"
HELD_BACK = {"loadImmediately": False}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


class Visit:
    """A browser context with the page that has HubSpot's embed code."""

    def __init__(self, page: Page, origin: str, sandbox: Sandbox) -> None:
        self.page = page
        self.sandbox = sandbox
        self.errors: list[str] = []
        self._origin = origin
        page.on("pageerror", lambda error: self.errors.append(error.message))

    def identity(self, email: str) -> dict[str, str]:
        return {"identificationEmail": email, "identificationToken": self.sandbox.issue(email)}

    def origin(self, host: str = SITE_HOST) -> str:
        """The origin of the site at one of its hosts."""
        return self._origin.replace("127.0.0.1", host)

    def open(self, settings: object = None, query: str = "", before: str = "", host: str = SITE_HOST) -> None:
        """Open the page with these settings, after running a script in it."""
        if settings is not None:
            before += f";window.hsConversationsSettings = {json.dumps(settings)}"
        self.page.add_init_script(f"if (window.top === window) {{ {before} }}")
        self.page.goto(f"{self.origin(host)}/page/?{query}")
        self.page.wait_for_function("window.__hubspotSandbox")

    def run(self, script: str) -> Any:
        return self.page.evaluate(script)

    def assign(self, settings: dict[str, Any]) -> None:
        """Set some of the settings, like a script of the page."""
        self.page.evaluate("settings => Object.assign(window.hsConversationsSettings, settings)", settings)

    def logged(self, what: str) -> list[dict[str, Any]]:
        """The entries of the widget's log that are of a kind."""
        log: list[dict[str, Any]] = self.run("window.__hubspotSandbox.log")
        return [entry for entry in log if entry["what"] == what]

    def wait_for(self, what: str, times: int = 1) -> None:
        """Wait until the log has so many entries of a kind."""
        self.page.wait_for_function(
            "([what, times]) => window.__hubspotSandbox.log.filter(each => each.what === what).length >= times",
            arg=[what, times],
        )

    def event(self, name: str, times: int = 1) -> None:
        """Wait until the widget has sent an event so many times."""
        self.page.wait_for_function(
            "([name, times]) => window.__hubspotSandbox.log.filter(each => each.event === name).length >= times",
            arg=[name, times],
        )

    def skip_throttling(self) -> None:
        """Advance the page's clock by a second, so that the next call is not throttled."""
        self.page.clock.run_for(1001)

    @property
    def status(self) -> dict[str, bool]:
        status: dict[str, bool] = self.run("HubSpotConversations.widget.status()")
        return status

    @property
    def chat(self) -> FrameLocator:
        return self.page.frame_locator(f"{CONTAINER} iframe")

    @property
    def visitor(self) -> str | None:
        """Whom the chat shows, according to the widget."""
        visitor: str | None = self.run("window.__hubspotSandbox.visitor")
        return visitor

    def expect_visitor(self, email: str) -> None:
        """Wait until the chat shows this visitor, or ``unknown``."""
        expect(self.page.locator(CONTAINER)).to_have_count(1)
        expect(self.chat.locator("body")).to_have_attribute("data-visitor", email)
        self.page.wait_for_function("email => window.__hubspotSandbox.visitor === email", arg=email)

    def requests(self) -> list[dict[str, list[str]]]:
        """The queries of the widget's requests to HubSpot."""
        urls = self.run("performance.getEntriesByType('resource').map(({name}) => name)")
        return [parse_qs(urlsplit(url).query) for url in urls if "/livechat-public/" in url]

    def open_chat(self) -> None:
        self.chat.locator("#launcher").click()
        expect(self.chat.locator("#panel")).to_be_visible()

    def send(self, text: str) -> None:
        self.open_chat()
        self.chat.get_by_label("Message").fill(text)
        self.chat.get_by_role("button", name="Send").click()
        expect(self.chat.get_by_role("listitem").last).to_have_text(text)

    def cookies(self) -> dict[str, Any]:
        return {cookie["name"]: cookie for cookie in self.page.context.cookies()}


@pytest.fixture
def visit(chromium: Browser, origin: str, sandbox: Sandbox) -> Iterator[Visit]:
    with chromium.new_context() as context:
        context.set_default_timeout(TIMEOUT)
        yield Visit(context.new_page(), origin, sandbox)


@pytest.fixture
def paused(visit: Visit) -> Visit:
    """A visit with a clock that the test advances."""
    visit.page.clock.install()
    return visit


def test_chat_without_settings_loads_at_once_for_an_unknown_visitor(visit: Visit) -> None:
    """The embed code alone loads one chat."""
    visit.open()
    visit.event("widgetLoaded")
    visit.expect_visitor("unknown")
    assert visit.status == {"loaded": True, "pending": False}


def test_visitor_with_address_and_token_is_a_contact(visit: Visit) -> None:
    """Both are sent in the URL of a request, in which the address is encoded and the token is not."""
    identity = visit.identity("ada+1@example.com")
    visit.open(identity)
    visit.expect_visitor("ada+1@example.com")
    visit.send("Hello")
    visit.event("contactAssociated")
    (thread,) = visit.sandbox.threads()
    assert thread.contact is not None
    assert (thread.contact.email, thread.messages) == ("ada+1@example.com", ["Hello"])
    urls = visit.run("performance.getEntriesByType('resource').map(({name}) => name)")
    (url,) = [each for each in urls if "/livechat-public/" in each]
    assert url.endswith(f"&email=ada%2B1%40example.com&identificationToken={identity['identificationToken']}")


def test_invalid_identity_is_an_unknown_visitor(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing token, the token of another address and an expired token identify no contact."""
    identity = visit.identity("ada@example.com")
    for invalid in (
        {"identificationEmail": "ada@example.com"},
        {**identity, "identificationEmail": "grace@example.com"},
    ):
        visit.open(invalid)
        visit.expect_visitor("unknown")
    clock = visit.sandbox._clock
    monkeypatch.setattr(visit.sandbox, "_clock", lambda: clock() + TOKEN_LIFETIME)
    visit.open(identity)
    visit.expect_visitor("unknown")


def test_identity_is_read_once_when_the_widget_loads(paused: Visit) -> None:
    """Settings that change after ``load()`` are ignored, also by ``refresh()``."""
    paused.open(HELD_BACK)
    paused.assign(paused.identity("ada@example.com"))
    paused.run(LOAD)
    paused.event("widgetLoaded")
    paused.assign(paused.identity("grace@example.com"))
    for number, call in enumerate(["refresh()", "refresh({setIdentification: true})"], 2):
        paused.skip_throttling()
        paused.run(f"HubSpotConversations.widget.{call}")
        paused.wait_for("call answered", number)
    paused.expect_visitor("ada@example.com")
    assert [each["email"] for each in paused.logged("call")] == ["ada@example.com"] * 3
    assert len(paused.logged("identity read")) == 1


def test_settings_of_a_wrong_type_stop_the_widget(visit: Visit) -> None:
    """The widget raises at start-up and is not available on this page."""
    for number, settings in enumerate(
        [
            "null",
            "{identificationEmail: null, identificationToken: null}",
            "{loadImmediately: 'false'}",
            "{enableWidgetCookieBanner: 'SOMETIMES'}",
        ],
        1,
    ):
        visit.open(before=f"window.hsConversationsSettings = {settings}")
        visit.wait_for("invariant violation")
        assert visit.run("typeof window.HubSpotConversations") == "undefined"
        assert len(visit.errors) == number
        assert visit.errors[-1].startswith("Invariant Violation")


def test_most_calls_before_load_only_log_a_warning(visit: Visit) -> None:
    """Only ``load()``, ``status()``, ``on()`` and ``off()`` work."""
    visit.open(HELD_BACK)
    visit.wait_for("ready callbacks")
    calls = ["clear", "resetAndReloadWidget", *(f"widget.{name}" for name in ("remove", "refresh", "open", "close"))]
    for call in calls:
        visit.run(f"HubSpotConversations.{call}({{resetWidget: true}})")
    warnings = [each["text"].split()[0] for each in visit.logged("warning")]
    assert warnings == calls
    assert visit.status == {"loaded": False, "pending": False}
    assert visit.logged("reset") == []


def test_first_load_ignores_its_arguments_and_replaces_the_object(visit: Visit) -> None:
    """A reference to the former object is useless, and the chat stays closed."""
    visit.open(HELD_BACK)
    visit.wait_for("ready callbacks")
    assert visit.run(
        "() => { const before = HubSpotConversations; before.widget.load({widgetOpen: true});"
        " return before !== HubSpotConversations; }"
    )
    visit.expect_visitor("unknown")
    expect(visit.chat.locator("#panel")).to_be_hidden()


def test_open_immediately_after_load_opens_the_chat(visit: Visit) -> None:
    """The call has to use the new object. The chat opens as soon as it is shown."""
    visit.open(HELD_BACK)
    visit.wait_for("ready callbacks")
    visit.run(f"() => {{ {LOAD}; HubSpotConversations.widget.open(); }}")
    expect(visit.chat.locator("#panel")).to_be_visible()


def test_ready_callbacks_run_again_after_load_and_after_a_reset(visit: Visit) -> None:
    """The event emitter is the same after ``load()`` and a new one after a reset. Later callbacks are not called."""
    visit.open(
        HELD_BACK,
        before="""
            window.emitters = [];
            window.hsConversationsOnReady = [() => emitters.push(HubSpotConversations.on)];
        """,
    )
    visit.wait_for("ready callbacks")
    visit.run("() => { hsConversationsOnReady.push(() => { window.late = true; }) }")
    visit.run(LOAD)
    visit.event("widgetLoaded")
    assert visit.run("emitters.length === 2 && emitters[0] === emitters[1]")
    visit.run("HubSpotConversations.resetAndReloadWidget()")
    assert visit.run("emitters.length === 3 && emitters[2] !== emitters[0]")
    assert visit.run("window.late") is None


def test_last_of_several_calls_within_a_second_is_made_afterwards(paused: Visit) -> None:
    """The others are lost. A later ``load()`` of a loaded widget does nothing."""
    paused.open(HELD_BACK)
    paused.wait_for("ready callbacks")
    paused.run(f"() => {{ {LOAD}; {LOAD}; }}")
    paused.event("widgetLoaded")
    options = ["", "{setIdentification: true}", "{openToNewThread: true}"]
    paused.run(f"() => {{ {';'.join(REFRESH.replace('()', f'({each})') for each in options)} }}")
    assert [each["call"] for each in paused.logged("throttled")] == ["load", "refresh", "refresh"]
    assert len(paused.logged("refresh")) == 1
    paused.skip_throttling()
    expect(paused.chat.locator("#panel")).to_be_visible()
    assert [each["setIdentification"] for each in paused.logged("refresh")] == [False, False]
    assert len(paused.logged("load ignored")) == 1
    expect(paused.page.locator(CONTAINER)).to_have_count(1)


RESETS: dict[str, str] = {
    "reset": "HubSpotConversations.resetAndReloadWidget()",
    "clear": "HubSpotConversations.clear({resetWidget: true})",
}


@pytest.mark.parametrize("reset", RESETS.values(), ids=RESETS)
def test_reset_during_a_load_does_not_cancel_it(paused: Visit, reset: str) -> None:
    """The chat that appears is that of the former visitor."""
    paused.open(paused.identity("ada@example.com"), query="delay=60000")
    paused.wait_for("call answered")
    assert paused.status == {"loaded": False, "pending": True}
    paused.assign(paused.identity("grace@example.com"))
    paused.run(reset)
    paused.wait_for("call answered", 2)
    paused.page.clock.run_for(60_000)
    paused.event("widgetLoaded", 2)
    paused.expect_visitor("ada@example.com")


def test_remove_during_a_load_does_not_cancel_it(paused: Visit) -> None:
    """The chat appears, although the status is no longer pending."""
    paused.open(query="delay=60000")
    paused.wait_for("call answered")
    paused.run("HubSpotConversations.widget.remove()")
    assert paused.status["pending"] is False
    paused.page.clock.run_for(60_000)
    paused.expect_visitor("unknown")


def test_next_visitor_is_identified_after_a_reset_without_pending_load(visit: Visit) -> None:
    """A change of visitor needs new settings, a reset and ``load()``, in this order."""
    visit.open({**HELD_BACK, **visit.identity("ada@example.com")})
    visit.wait_for("ready callbacks")
    visit.run(LOAD)
    visit.expect_visitor("ada@example.com")
    visit.assign(visit.identity("grace@example.com"))
    visit.run(RESETS["reset"])
    expect(visit.page.locator(CONTAINER)).to_have_count(0)
    visit.run(LOAD)
    visit.expect_visitor("grace@example.com")


def test_failed_load_stays_pending_until_it_is_removed(paused: Visit) -> None:
    """Only ``remove()`` and another ``load()`` load the chat."""
    paused.open(query="api=fail")
    paused.page.clock.run_for(1)
    paused.wait_for("call failed")
    paused.page.clock.run_for(60_000)
    assert paused.status == {"loaded": False, "pending": True}
    paused.run("() => { __hubspotSandbox.options.api = ''; HubSpotConversations.widget.refresh(); }")
    assert len(paused.logged("refresh ignored while pending")) == 1
    paused.run("HubSpotConversations.widget.remove()")
    assert paused.status == {"loaded": False, "pending": False}
    paused.run(LOAD)
    paused.page.clock.run_for(1)
    paused.event("widgetLoaded")


def test_replaced_body_loses_the_chat_and_its_identity(paused: Visit) -> None:
    """The status is still loaded. ``remove()`` and ``load()`` show the chat of an unknown visitor."""
    paused.open(paused.identity("ada@example.com"))
    paused.expect_visitor("ada@example.com")
    paused.run("document.body.replaceWith(document.createElement('body'))")
    assert paused.status == {"loaded": True, "pending": False}
    paused.skip_throttling()
    paused.run(f"() => {{ {LOAD}; HubSpotConversations.widget.refresh(); }}")
    paused.wait_for("call answered", 2)
    assert paused.status == {"loaded": True, "pending": False}
    expect(paused.page.locator(CONTAINER)).to_have_count(0)

    paused.skip_throttling()
    paused.run(f"() => {{ HubSpotConversations.widget.remove(); {LOAD}; }}")
    paused.page.clock.run_for(1)
    paused.event("widgetLoaded", 2)
    paused.expect_visitor("unknown")
    paused.run("HubSpotConversations.widget.refresh({setIdentification: true})")
    paused.page.clock.run_for(1)
    paused.expect_visitor("ada@example.com")


def test_cloned_chat_does_not_connect(visit: Visit) -> None:
    """A chat that the back button restores from a copy of the page stays until ``remove()``."""
    visit.open()
    visit.expect_visitor("unknown")
    visit.run(f"() => {{ document.body.append(document.querySelector('{CONTAINER}').cloneNode(true)); }}")
    clone = visit.page.locator(CONTAINER).nth(1)
    expect(clone.frame_locator("iframe").locator("#short")).to_have_text("Connecting…")
    visit.run("HubSpotConversations.widget.remove()")
    expect(visit.page.locator(CONTAINER)).to_have_count(1)
    expect(clone).to_have_count(0)


def test_clear_identifies_the_visitor_in_the_settings(visit: Visit) -> None:
    """On log-out the settings have to be removed before ``clear()``."""
    visit.open(visit.identity("ada@example.com"))
    visit.expect_visitor("ada@example.com")
    visit.run(RESETS["clear"])
    visit.event("widgetLoaded", 2)
    visit.expect_visitor("ada@example.com")
    for key in ("Email", "Token"):
        visit.run(f"delete hsConversationsSettings.identification{key}")
    visit.run(RESETS["clear"])
    visit.event("widgetLoaded", 3)
    visit.expect_visitor("unknown")


def test_cookie_of_an_anonymous_visitor_restores_the_conversation(visit: Visit) -> None:
    """The cookie is valid for 180 days and all subdomains, until ``clear()``."""
    visit.open()
    visit.expect_visitor("unknown")
    visit.send("my secret")
    cookie = visit.cookies()["messagesUtk"]
    assert (cookie["domain"], cookie["path"], cookie["sameSite"]) == (".shop.test", "/", "Lax")
    assert cookie["expires"] - visit.run("Date.now()") / 1000 == pytest.approx(180 * 24 * 60 * 60, abs=60)
    visit.page.reload()
    expect(visit.chat.get_by_text("my secret")).to_be_visible()
    visit.run(RESETS["clear"])
    visit.expect_visitor("unknown")
    expect(visit.chat.get_by_text("my secret")).to_have_count(0)
    assert visit.cookies()["messagesUtk"]["value"] != cookie["value"]


def test_identified_visitor_gets_no_cookie(visit: Visit) -> None:
    """``clear()`` removes the cookie of an earlier anonymous chat."""
    visit.open(visit.identity("ada@example.com"))
    visit.expect_visitor("ada@example.com")
    assert "messagesUtk" not in visit.cookies()
    visit.run("document.cookie = 'messagesUtk=former; domain=.shop.test; path=/'")
    visit.run(RESETS["clear"].replace("{resetWidget: true}", ""))
    assert "messagesUtk" not in visit.cookies()


def test_refresh_with_set_identification_identifies_the_anonymous_visitor(paused: Visit) -> None:
    """The conversation continues as that of the contact."""
    paused.open({})
    paused.expect_visitor("unknown")
    paused.send("Hello")
    paused.assign(paused.identity("ada@example.com"))
    paused.run("HubSpotConversations.widget.refresh({setIdentification: true})")
    paused.page.clock.run_for(1)
    paused.expect_visitor("ada@example.com")
    expect(paused.chat.get_by_role("listitem")).to_have_text(["Hello"])
    (thread,) = paused.sandbox.threads()
    assert thread.contact is not None
    assert thread.contact.email == "ada@example.com"


def test_page_without_chat_gets_two_events(visit: Visit) -> None:
    """The widget sends ``widgetHidden`` with a reason, and the window gets an event. No chat is shown."""
    visit.open(
        before="""
            window.events = [];
            addEventListener("hubspot:messages:initialized", ({detail}) => events.push(detail));
            window.hsConversationsOnReady = [
                () => HubSpotConversations.on("widgetHidden", (detail) => events.push(Object.keys(detail))),
            ];
        """,
        query="chat=none",
    )
    visit.event("widgetHidden")
    assert {"messageWillRender": False} in visit.run("events")
    assert ["reason", "description"] in visit.run("events")
    assert visit.status == {"loaded": False, "pending": False}
    expect(visit.page.locator(CONTAINER)).to_have_count(0)


def test_refresh_hides_the_chat_without_an_event_and_shows_it_again(paused: Visit) -> None:
    """At an address without a chat, ``refresh()`` unloads the widget. At one with a chat, it loads the widget."""
    paused.open()
    paused.expect_visitor("unknown")
    paused.run(f"() => {{ __hubspotSandbox.options.chat = 'none'; {REFRESH}; }}")
    paused.page.wait_for_function("!HubSpotConversations.widget.status().loaded")
    expect(paused.page.locator(CONTAINER)).to_have_count(0)
    assert paused.status == {"loaded": False, "pending": False}
    assert paused.visitor is None
    paused.skip_throttling()
    status = "HubSpotConversations.widget.status()"
    refreshed = paused.run(f"() => {{ __hubspotSandbox.options.chat = ''; {REFRESH}; return {status}; }}")
    assert refreshed == {"loaded": False, "pending": True}
    paused.event("widgetLoaded", 2)
    paused.expect_visitor("unknown")
    assert [each["event"] for each in paused.logged("event")] == ["widgetLoaded", "widgetLoaded"]


def begin_refresh_then_change_visitor(paused: Visit) -> None:
    """Let the response to a ``refresh()`` for Ada take a minute, and show the chat of Grace meanwhile."""
    paused.open(paused.identity("ada@example.com"))
    paused.expect_visitor("ada@example.com")
    paused.run(f"() => {{ __hubspotSandbox.options.latency = 60000; {REFRESH}; }}")
    assert paused.status == {"loaded": True, "pending": False}
    paused.run("() => { __hubspotSandbox.options.latency = 0; }")
    paused.assign(paused.identity("grace@example.com"))
    paused.run(RESETS["reset"])
    paused.event("widgetLoaded", 2)
    paused.expect_visitor("grace@example.com")


def test_late_response_to_refresh_goes_into_the_chat_of_the_next_visitor(paused: Visit) -> None:
    """The widget is not pending meanwhile. The response contains the session of the visitor it was requested for."""
    begin_refresh_then_change_visitor(paused)
    paused.page.clock.run_for(60_000)
    paused.expect_visitor("ada@example.com")


def test_refresh_without_response_changes_nothing(paused: Visit) -> None:
    """If the request fails, neither this chat nor that of the next visitor gets a message."""
    begin_refresh_then_change_visitor(paused)
    posted = paused.logged("posted")
    paused.run("() => { __hubspotSandbox.options.api = 'fail'; }")
    paused.page.clock.run_for(60_000)
    paused.wait_for("call failed")
    paused.run(REFRESH)
    paused.page.clock.run_for(1)
    paused.wait_for("call failed", 2)
    assert paused.logged("posted") == posted
    assert paused.status == {"loaded": True, "pending": False}
    paused.expect_visitor("grace@example.com")


def test_widget_is_loaded_one_task_before_its_event(visit: Visit) -> None:
    """Between ``status().loaded`` and ``widgetLoaded``, other tasks and events of the page run."""
    visit.open(
        HELD_BACK,
        before="""
            window.order = [];
            window.hsConversationsOnReady = [
                () => HubSpotConversations.on("widgetLoaded", () => order.push("event")),
            ];
            new MutationObserver(() => {
                if (document.querySelector("#hubspot-messages-iframe-container"))
                    order.push(HubSpotConversations.widget.status().loaded);
            }).observe(document, {childList: true, subtree: true});
        """,
    )
    visit.wait_for("ready callbacks")
    visit.run(LOAD)
    visit.event("widgetLoaded")
    assert visit.run("order.slice(0, 2)") == [True, "event"]


def test_open_chat_on_a_phone_locks_the_page_until_the_visitor_closes_it(visit: Visit) -> None:
    """HubSpot does not unlock the page when it removes an open chat, even if the next chat is closed."""
    visit.page.set_viewport_size({"width": 390, "height": 800})
    visit.open()
    visit.event("widgetLoaded")

    def expect_locked(is_locked: bool) -> None:
        root = visit.page.locator("html")
        expect(root).to_have_class("hs-messages-mobile hs-messages-widget-open" if is_locked else "")
        expect(root).to_have_css("overflow-y", "hidden" if is_locked else "visible")

    expect_locked(False)
    visit.open_chat()
    expect_locked(True)
    visit.chat.locator("#close").click()
    visit.event("widgetClosed")
    expect_locked(False)
    visit.open_chat()
    expect_locked(True)
    visit.run(RESETS["clear"])
    visit.event("widgetLoaded", 2)
    visit.expect_visitor("unknown")
    expect(visit.chat.locator("#panel")).to_be_hidden()
    expect_locked(True)
    visit.run(REMOVE)
    expect_locked(True)


def test_requests_of_an_identified_visitor_contain_the_cookie_that_is_there(visit: Visit) -> None:
    """A conversation from before the log-in is in each request."""
    visit.page.context.add_cookies([{"name": "messagesUtk", "value": "former", "domain": ".shop.test", "path": "/"}])
    visit.open(visit.identity("ada@example.com"))
    visit.expect_visitor("ada@example.com")
    (query,) = visit.requests()
    assert (query["messagesUtk"], query["email"]) == (["former"], ["ada@example.com"])


def test_page_cannot_read_a_chat_on_another_origin(visit: Visit) -> None:
    """``frame=`` moves the iframe to another origin. Only the widget's own property then names the visitor."""
    visit.open(visit.identity("ada@example.com"), query=f"frame={visit.origin('chat.test')}/")
    visit.expect_visitor("ada@example.com")
    assert visit.run(f"document.querySelector('{CONTAINER} iframe').contentDocument") is None
    visit.send("Hello")
    visit.event("contactAssociated")
    (thread,) = visit.sandbox.threads()
    assert thread.messages == ["Hello"]


def test_sandbox_can_be_on_another_origin_than_the_page(visit: Visit) -> None:
    """A site can use the sandbox of another development server."""
    visit.open(visit.identity("ada@example.com"), query=f"sandbox={visit.origin('hubspot.test')}")
    visit.expect_visitor("ada@example.com")
    visit.send("Hello")
    visit.event("contactAssociated")


def test_page_can_read_the_chat_of_its_own_sandbox(visit: Visit) -> None:
    """Without the option, the iframe is on the origin of the sandbox."""
    visit.open()
    visit.expect_visitor("unknown")
    assert visit.run(f"document.querySelector('{CONTAINER} iframe').contentDocument.body.dataset.visitor") == "unknown"


@pytest.mark.parametrize("reset", RESETS.values(), ids=RESETS)
def test_reset_raises_if_the_script_element_is_gone(visit: Visit, reset: str) -> None:
    """A page can have removed the element when it replaced the content of ``<head>``. The chat remains."""
    visit.open(visit.identity("ada@example.com"))
    visit.expect_visitor("ada@example.com")
    visit.run("document.getElementById('hubspot-messages-loader').remove()")
    assert visit.run(f"() => {{ try {{ {reset}; }} catch (error) {{ return String(error); }} }}").startswith("Error")
    visit.expect_visitor("ada@example.com")


def test_each_reset_fetches_the_style_sheet_again(visit: Visit) -> None:
    """A reset requests a file, also if the next visitor's chat is not loaded."""
    fetched: list[str] = []
    visit.page.on("request", lambda request: fetched.append(urlsplit(request.url).path))
    visit.open(HELD_BACK)
    visit.run(LOAD)
    visit.event("widgetLoaded")
    assert fetched.count("/sandbox/embed/widget.css") == 1
    with visit.page.expect_response("**/widget.css"):
        visit.run(RESETS["clear"])
    assert fetched.count("/sandbox/embed/widget.css") == 2


def test_conversation_of_the_parent_domain_is_copied_to_each_host(visit: Visit) -> None:
    """``clear()`` deletes only the cookie of the host, so that the next chat continues the same conversation."""
    visit.open(host="shop.test")
    visit.expect_visitor("unknown")
    visit.send("my secret")
    key = visit.cookies()["messagesUtk"]["value"]

    def domains() -> set[str]:
        cookies = [each for each in visit.page.context.cookies() if each["name"] == "messagesUtk"]
        assert {each["value"] for each in cookies} == {key}
        return {each["domain"] for each in cookies}

    assert domains() == {".shop.test"}
    visit.open(host="app.shop.test")
    visit.expect_visitor("unknown")
    assert domains() == {".shop.test", ".app.shop.test"}
    visit.run(RESETS["clear"].replace("{resetWidget: true}", ""))
    assert domains() == {".shop.test"}
    visit.run(RESETS["clear"])
    visit.event("widgetLoaded", 2)
    visit.expect_visitor("unknown")
    expect(visit.chat.locator("#messages")).to_have_text("my secret")
    assert domains() == {".shop.test", ".app.shop.test"}


def test_closed_welcome_message_is_an_interaction_without_an_end(visit: Visit) -> None:
    """``widgetClosed`` follows only if the chat was open. The message is not shown again."""
    visit.open(query="welcome")
    visit.chat.locator("#dismiss").click()
    visit.event("userInteractedWithWidget")
    expect(visit.chat.locator("#welcome")).to_be_hidden()
    visit.open_chat()
    visit.event("userInteractedWithWidget", 2)
    assert [each["event"] for each in visit.logged("event")] == ["widgetLoaded", *["userInteractedWithWidget"] * 2]
    visit.chat.locator("#close").click()
    visit.event("widgetClosed")
    visit.page.reload()
    visit.expect_visitor("unknown")
    expect(visit.chat.locator("#welcome")).to_be_hidden()


def test_visitor_of_the_chat_is_undefined_while_there_is_no_chat(visit: Visit) -> None:
    """A removed widget and a replaced body show nobody."""
    visit.open(HELD_BACK)
    visit.wait_for("ready callbacks")
    assert visit.visitor is None
    visit.run(LOAD)
    visit.expect_visitor("unknown")
    visit.run("document.body.replaceWith(document.createElement('body'))")
    assert visit.visitor is None
    visit.run(f"() => {{ {REMOVE}; {LOAD}; }}")
    visit.expect_visitor("unknown")
    visit.run(REMOVE)
    assert visit.visitor is None


def test_second_copy_of_the_loader_does_not_start(visit: Visit) -> None:
    """A page with two loaders, or with a loader whose element has another id, has one chat."""
    visit.open()
    visit.expect_visitor("unknown")
    visit.page.add_script_tag(url="/sandbox/loader/123.js")
    visit.wait_for("duplicate instance")
    expect(visit.page.locator(CONTAINER)).to_have_count(1)
    visit.open(query="id=other")
    visit.wait_for("duplicate instance")
    expect(visit.page.locator("script#hs-script-loader")).to_have_count(1)


TRAPS: dict[str, str] = {
    "disabledHsPopups": "window.disabledHsPopups = ['LIVE_CHAT']",
    "Array.prototype.toJSON": "Array.prototype.toJSON = function () { return this; }",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_other_script_can_keep_the_widget_from_starting(visit: Visit, trap: str) -> None:
    """Two globals that other scripts define disable the chat."""
    visit.open(before=TRAPS[trap])
    visit.page.wait_for_function("window.__hubspotSandbox.log.length")
    assert len(visit.logged(f"disabled by {trap}")) == 1
    assert visit.run("typeof window.HubSpotConversations") == "undefined"


def test_element_named_hsvars_diverts_address_and_token(visit: Visit) -> None:
    """With an element of that id, the widget sends both to the page's base URL, which ``<base>`` can change."""
    identity = visit.identity("ada@example.com")
    plant = """
        addEventListener("DOMContentLoaded", () => {
            document.body.append(Object.assign(document.createElement("p"), {id: "hsVars"}));
            document.head.append(Object.assign(document.createElement("base"), {href: "http://evil.test/"}));
        });
    """
    with visit.page.expect_request("http://evil.test/livechat-public/**") as request:
        visit.open(identity, before=plant)
    assert identity["identificationToken"] in request.value.url


def test_broken_loader_loads_no_chat(visit: Visit) -> None:
    """``loader=throw`` simulates a loader that raises an error."""
    with visit.page.expect_event("pageerror"):
        visit.page.goto(f"{visit.origin()}/page/?loader=throw")
    assert visit.run("typeof window.__hubspotSandbox") == "undefined"


def test_inline_embed_selector_places_the_chat(visit: Visit) -> None:
    """The chat is open in the element that the setting selects. Its container has another id."""
    visit.open({"inlineEmbedSelector": "h1", "enableWidgetCookieBanner": "ON_EXIT_INTENT", "unknown": None})
    expect(visit.page.locator(f"h1 > {INLINE_CONTAINER}")).to_have_count(1)
    expect(visit.page.locator(CONTAINER)).to_have_count(0)
    expect(visit.page.frame_locator(f"{INLINE_CONTAINER} iframe").locator("#panel")).to_be_visible()
