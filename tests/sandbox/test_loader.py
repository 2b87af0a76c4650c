"""The sandbox's chat widget behaves like HubSpot's, because the tests of ``identify.js`` depend on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect
from support.browser import TIMEOUT, running_chromium

from hubspot_identify.sandbox.state import TOKEN_LIFETIME, Sandbox

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CONTAINER = "#hubspot-messages-iframe-container"
PORTAL_HOST = "www.shop.test"
LOAD = "HubSpotConversations.widget.load()"
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
        self._url = f"{origin.replace('127.0.0.1', PORTAL_HOST)}/page/"
        page.on("pageerror", lambda error: self.errors.append(error.message))

    def identity(self, email: str) -> dict[str, str]:
        return {"identificationEmail": email, "identificationToken": self.sandbox.issue(email)}

    def open(self, settings: object = None, query: str = "", before: str = "") -> None:
        """Open the page with these settings, after running a script in it."""
        if settings is not None:
            before += f";window.hsConversationsSettings = {json.dumps(settings)}"
        self.page.add_init_script(f"if (window.top === window) {{ {before} }}")
        self.page.goto(f"{self._url}?{query}")
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

    def expect_visitor(self, email: str) -> None:
        """Wait until the chat shows this visitor, or ``unknown``."""
        expect(self.page.locator(CONTAINER)).to_have_count(1)
        expect(self.chat.locator("body")).to_have_attribute("data-visitor", email)

    def send(self, text: str) -> None:
        self.chat.locator("#launcher").click()
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
    (url,) = [each for each in urls if "/livechat/" in each]
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


def test_load_and_refresh_are_throttled(paused: Visit) -> None:
    """A second call within a second is ignored. A later ``load()`` of a loaded widget does nothing."""
    paused.open(HELD_BACK)
    paused.wait_for("ready callbacks")
    paused.run(f"() => {{ {LOAD}; {LOAD}; }}")
    paused.event("widgetLoaded")
    paused.run("() => { for (const _ of [1, 2]) HubSpotConversations.widget.refresh(); }")
    assert [each["call"] for each in paused.logged("throttled")] == ["load", "refresh"]
    paused.skip_throttling()
    paused.run(LOAD)
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


def test_refresh_shows_or_hides_the_chat_by_url(paused: Visit) -> None:
    """The chat disappears at a URL without a chat, and appears at one with a chat."""
    paused.open()
    paused.event("widgetLoaded")
    for chat, event, times in (("none", "widgetHidden", 1), ("", "widgetLoaded", 2)):
        paused.skip_throttling()
        paused.run(f"() => {{ __hubspotSandbox.options.chat = '{chat}'; HubSpotConversations.widget.refresh(); }}")
        paused.page.clock.run_for(1)
        paused.event(event, times)
    paused.expect_visitor("unknown")


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
        visit.page.goto(f"{visit._url}?loader=throw")
    assert visit.run("typeof window.__hubspotSandbox") == "undefined"


def test_inline_embed_selector_places_the_chat(visit: Visit) -> None:
    """The chat is open in the element that the setting selects. Unknown settings are ignored."""
    visit.open({"inlineEmbedSelector": "h1", "enableWidgetCookieBanner": "ON_EXIT_INTENT", "unknown": None})
    expect(visit.page.locator(f"h1 > {CONTAINER}")).to_have_count(1)
    expect(visit.chat.locator("#panel")).to_be_visible()
