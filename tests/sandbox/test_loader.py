"""The stand-in's widget keeps to what was seen of HubSpot's, for it is what ``identify.js`` is judged by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect
from support.browser import TIMEOUT, running_chromium

from hubspot_identify.sandbox.state import TOKEN_LIFETIME, Sandbox

pytestmark = pytest.mark.browser

CONTAINER = "#hubspot-messages-iframe-container"
PORTAL_HOST = "www.shop.test"
LOAD = "HubSpotConversations.widget.load()"
HELD_BACK = {"loadImmediately": False}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


class Visit:
    """A browser of its own on the page with HubSpot's embed code."""

    def __init__(self, page: Page, origin: str, sandbox: Sandbox) -> None:
        self.page = page
        self.sandbox = sandbox
        self.errors: list[str] = []
        self._url = f"{origin.replace('127.0.0.1', PORTAL_HOST)}/page/"
        page.on("pageerror", lambda error: self.errors.append(error.message))

    def identity(self, email: str) -> dict[str, str]:
        return {"identificationEmail": email, "identificationToken": self.sandbox.issue(email)}

    def open(self, settings: object = None, query: str = "", before: str = "") -> None:
        """Open the page, with these settings and after running this script."""
        if settings is not None:
            before += f";window.hsConversationsSettings = {json.dumps(settings)}"
        self.page.add_init_script(f"if (window.top === window) {{ {before} }}")
        self.page.goto(f"{self._url}?{query}")
        self.page.wait_for_function("window.__hubspotSandbox")

    def run(self, script: str) -> Any:
        return self.page.evaluate(script)

    def assign(self, settings: dict[str, Any]) -> None:
        """Set some of the settings, as a script of the page would."""
        self.page.evaluate("settings => Object.assign(window.hsConversationsSettings, settings)", settings)

    def happened(self, what: str) -> list[dict[str, Any]]:
        """What of this kind has happened."""
        log: list[dict[str, Any]] = self.run("window.__hubspotSandbox.log")
        return [entry for entry in log if entry["what"] == what]

    def wait_for(self, what: str, times: int = 1) -> None:
        """Wait until it has happened so often."""
        self.page.wait_for_function(
            "([what, times]) => window.__hubspotSandbox.log.filter(each => each.what === what).length >= times",
            arg=[what, times],
        )

    def event(self, name: str, times: int = 1) -> None:
        """Wait until the widget has sent such an event so often."""
        self.page.wait_for_function(
            "([name, times]) => window.__hubspotSandbox.log.filter(each => each.event === name).length >= times",
            arg=[name, times],
        )

    def let_a_second_pass(self) -> None:
        """So that load and refresh are not throttled; needs ``page.clock.install()``."""
        self.page.clock.run_for(1001)

    @property
    def status(self) -> dict[str, bool]:
        status: dict[str, bool] = self.run("HubSpotConversations.widget.status()")
        return status

    @property
    def chat(self) -> FrameLocator:
        return self.page.frame_locator(f"{CONTAINER} iframe")

    def expect_visitor(self, email: str) -> None:
        """The chat that is drawn takes its visitor for this one; ``unknown`` for nobody."""
        expect(self.page.locator(CONTAINER)).to_have_count(1)
        expect(self.chat.locator("body")).to_have_attribute("data-visitor", email)

    def say(self, text: str) -> None:
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
def timeless(visit: Visit) -> Visit:
    """A visit whose page's clock is moved by hand."""
    visit.page.clock.install()
    return visit


def test_without_settings_the_chat_loads_at_once_for_nobody(visit: Visit) -> None:
    """The plain embed code draws one chat of an unknown visitor."""
    visit.open()
    visit.event("widgetLoaded")
    visit.expect_visitor("unknown")
    assert visit.status == {"loaded": True, "pending": False}


def test_a_visitor_with_email_and_token_is_known(visit: Visit) -> None:
    """Settings that are there before the loader identify the visitor; their message comes from a contact."""
    visit.open(visit.identity("ada@example.com"))
    visit.expect_visitor("ada@example.com")
    visit.say("Hello")
    visit.event("contactAssociated")
    (thread,) = visit.sandbox.threads()
    assert thread.contact is not None
    assert (thread.contact.email, thread.messages) == ("ada@example.com", ["Hello"])


def test_one_of_the_two_is_none(visit: Visit) -> None:
    """E-mail without a token identifies nobody."""
    visit.open({"identificationEmail": "ada@example.com"})
    visit.expect_visitor("unknown")


def test_a_token_of_somebody_else_is_not_believed(visit: Visit) -> None:
    """HubSpot decides by the token, not by the address."""
    visit.open({**visit.identity("ada@example.com"), "identificationEmail": "grace@example.com"})
    visit.expect_visitor("unknown")


def test_an_expired_token_is_not_believed(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its twelve hours a token identifies nobody."""
    known = visit.identity("ada@example.com")
    clock = visit.sandbox._clock
    monkeypatch.setattr(visit.sandbox, "_clock", lambda: clock() + TOKEN_LIFETIME)
    visit.open(known)
    visit.expect_visitor("unknown")


def test_identity_is_read_once_when_the_shell_is_built(timeless: Visit) -> None:
    """What is set before load() counts; what is set later does not, whatever refresh() is called."""
    timeless.open(HELD_BACK)
    timeless.assign(timeless.identity("ada@example.com"))
    timeless.run(LOAD)
    timeless.event("widgetLoaded")
    timeless.assign(timeless.identity("grace@example.com"))
    for number, call in enumerate(["refresh()", "refresh({setIdentification: true})"], 2):
        timeless.let_a_second_pass()
        timeless.run(f"HubSpotConversations.widget.{call}")
        timeless.wait_for("call answered", number)
    timeless.expect_visitor("ada@example.com")
    assert [each["email"] for each in timeless.happened("call")] == ["ada@example.com"] * 3
    assert len(timeless.happened("identity read")) == 1


@pytest.mark.parametrize(
    "written",
    [
        "null",
        "'text'",
        "{identificationEmail: null, identificationToken: null}",
        "{identificationEmail: 7, identificationToken: 'x'}",
        "{loadImmediately: 'false'}",
        "{avoidInlineStyles: null}",
        "{enableWidgetCookieBanner: 'SOMETIMES'}",
    ],
)
def test_null_and_wrong_types_kill(visit: Visit, written: str) -> None:
    """The widget dies at start-up and never comes to life on this page."""
    visit.open(before=f"window.hsConversationsSettings = {written}")
    visit.wait_for("invariant violation")
    assert visit.run("typeof window.HubSpotConversations") == "undefined"
    assert len(visit.errors) == 1
    assert visit.errors[0].startswith("Invariant Violation")


def test_unknown_settings_are_harmless(visit: Visit) -> None:
    """Only documented keys are looked at."""
    visit.open({"enableWidgetCookieBanner": "ON_EXIT_INTENT", "somethingNew": None})
    visit.expect_visitor("unknown")


def test_before_load_most_calls_only_warn(visit: Visit) -> None:
    """load, status, on and off work; the others warn and do nothing."""
    visit.open(HELD_BACK)
    visit.wait_for("ready callbacks")
    calls = ["clear", "resetAndReloadWidget", *(f"widget.{name}" for name in ("remove", "refresh", "open", "close"))]
    for call in calls:
        visit.run(f"HubSpotConversations.{call}({{resetWidget: true}})")
    warnings = [each["text"].split()[0] for each in visit.happened("warning")]
    assert warnings == calls
    assert visit.status == {"loaded": False, "pending": False}
    assert visit.happened("reset") == []


def test_the_first_load_drops_its_arguments_and_replaces_the_object(visit: Visit) -> None:
    """Whoever kept the object has the wrong one, and the chat stays closed."""
    visit.open(HELD_BACK)
    visit.wait_for("ready callbacks")
    assert visit.run(
        "() => { const before = HubSpotConversations; before.widget.load({widgetOpen: true});"
        " return before !== HubSpotConversations; }"
    )
    visit.expect_visitor("unknown")
    expect(visit.chat.locator("#panel")).to_be_hidden()


def test_open_works_right_after_load_on_the_new_object(visit: Visit) -> None:
    """The chat opens as soon as it is drawn."""
    visit.open(HELD_BACK)
    visit.wait_for("ready callbacks")
    visit.run(f"() => {{ {LOAD}; HubSpotConversations.widget.open(); }}")
    expect(visit.chat.locator("#panel")).to_be_visible()


def test_ready_callbacks_run_again_with_the_same_emitter_and_with_a_new_one_after_a_reset(visit: Visit) -> None:
    """A handler registered at each run is there twice after load(), and gone after a reset unless registered again."""
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


def test_load_and_refresh_are_throttled(visit: Visit) -> None:
    """A second call within a second is lost; the first load() counts, too."""
    visit.open(HELD_BACK)
    visit.wait_for("ready callbacks")
    visit.run(f"() => {{ {LOAD}; {LOAD}; }}")
    visit.event("widgetLoaded")
    visit.run("() => { for (const _ of [1, 2]) HubSpotConversations.widget.refresh(); }")
    assert [each["call"] for each in visit.happened("throttled")] == ["load", "refresh"]


def test_two_loads_make_one_iframe(timeless: Visit) -> None:
    """A load() of a widget that is loaded or about to be does nothing."""
    timeless.open()
    timeless.event("widgetLoaded")
    timeless.let_a_second_pass()
    timeless.run(LOAD)
    assert len(timeless.happened("load ignored")) == 1
    expect(timeless.page.locator(CONTAINER)).to_have_count(1)


RESETS: dict[str, str] = {
    "reset": "HubSpotConversations.resetAndReloadWidget()",
    "clear": "HubSpotConversations.clear({resetWidget: true})",
}


@pytest.mark.parametrize("reset", RESETS.values(), ids=RESETS)
def test_a_reset_while_pending_brings_the_old_visitor(timeless: Visit, reset: str) -> None:
    """It cancels nothing: the chat that appears is the former visitor's, whoever is there now."""
    timeless.open(timeless.identity("ada@example.com"), query="delay=60000")
    timeless.wait_for("call answered")
    assert timeless.status == {"loaded": False, "pending": True}
    timeless.assign(timeless.identity("grace@example.com"))
    timeless.run(reset)
    timeless.wait_for("call answered", 2)
    timeless.page.clock.run_for(60_000)
    timeless.event("widgetLoaded", 2)
    timeless.expect_visitor("ada@example.com")


def test_a_remove_while_pending_cancels_nothing(timeless: Visit) -> None:
    """The chat appears all the same."""
    timeless.open(query="delay=60000")
    timeless.wait_for("call answered")
    timeless.run("HubSpotConversations.widget.remove()")
    assert timeless.status["pending"] is False
    timeless.page.clock.run_for(60_000)
    timeless.expect_visitor("unknown")


def test_the_next_visitor_is_known_after_a_reset_that_waited(visit: Visit) -> None:
    """Keys, reset, load, when nothing is pending: that is the recipe for another visitor."""
    visit.open({**HELD_BACK, **visit.identity("ada@example.com")})
    visit.wait_for("ready callbacks")
    visit.run(LOAD)
    visit.expect_visitor("ada@example.com")
    visit.assign(visit.identity("grace@example.com"))
    visit.run(RESETS["reset"])
    expect(visit.page.locator(CONTAINER)).to_have_count(0)
    visit.run(LOAD)
    visit.expect_visitor("grace@example.com")


def test_a_failed_call_leaves_it_pending_until_removed(timeless: Visit) -> None:
    """Nothing but remove() and another load() brings it back."""
    timeless.open(query="api=fail")
    timeless.page.clock.run_for(1)
    timeless.wait_for("call failed")
    timeless.page.clock.run_for(60_000)
    assert timeless.status == {"loaded": False, "pending": True}
    timeless.run("() => { __hubspotSandbox.knobs.api = ''; HubSpotConversations.widget.refresh(); }")
    assert len(timeless.happened("refresh ignored while pending")) == 1
    timeless.run("HubSpotConversations.widget.remove()")
    assert timeless.status == {"loaded": False, "pending": False}
    timeless.run(LOAD)
    timeless.page.clock.run_for(1)
    timeless.event("widgetLoaded")


def test_a_body_swap_loses_the_iframe_and_its_identity(timeless: Visit) -> None:
    """status() still says loaded; load() and refresh() draw nothing; remove() and load() bring it back unidentified."""
    timeless.open(timeless.identity("ada@example.com"))
    timeless.expect_visitor("ada@example.com")
    timeless.run("document.body.replaceWith(document.createElement('body'))")
    assert timeless.status == {"loaded": True, "pending": False}
    timeless.let_a_second_pass()
    timeless.run(f"() => {{ {LOAD}; HubSpotConversations.widget.refresh(); }}")
    timeless.wait_for("call answered", 2)
    assert timeless.status == {"loaded": True, "pending": False}
    expect(timeless.page.locator(CONTAINER)).to_have_count(0)

    timeless.let_a_second_pass()
    timeless.run(f"() => {{ HubSpotConversations.widget.remove(); {LOAD}; }}")
    timeless.page.clock.run_for(1)
    timeless.event("widgetLoaded", 2)
    timeless.expect_visitor("unknown")
    timeless.run("HubSpotConversations.widget.refresh({setIdentification: true})")
    timeless.page.clock.run_for(1)
    timeless.expect_visitor("ada@example.com")


def test_a_clone_of_the_chat_is_dead(visit: Visit) -> None:
    """What the back button restores from a copy of the page never connects, and stays beside the living one."""
    visit.open()
    visit.expect_visitor("unknown")
    visit.run(f"() => {{ document.body.append(document.querySelector('{CONTAINER}').cloneNode(true)); }}")
    clone = visit.page.locator(CONTAINER).nth(1)
    expect(clone.frame_locator("iframe").locator("#short")).to_have_text("Connecting…")
    visit.run("HubSpotConversations.widget.remove()")
    expect(visit.page.locator(CONTAINER)).to_have_count(1)
    expect(clone).to_have_count(0)


def test_the_order_of_logging_out_matters(visit: Visit) -> None:
    """clear() before the keys are gone identifies the old visitor again; after that it doesn't."""
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


def test_an_anonymous_visitor_gets_the_cookie_and_the_next_person_the_thread(visit: Visit) -> None:
    """For 180 days, on the whole of the site's domain: the thread is whoever's who comes next."""
    visit.open()
    visit.expect_visitor("unknown")
    visit.say("my secret")
    cookie = visit.cookies()["messagesUtk"]
    assert (cookie["domain"], cookie["path"], cookie["sameSite"]) == (".shop.test", "/", "Lax")
    assert cookie["expires"] - visit.run("Date.now()") / 1000 == pytest.approx(180 * 24 * 60 * 60, abs=60)
    visit.page.reload()
    expect(visit.chat.get_by_text("my secret")).to_be_visible()
    visit.run(RESETS["clear"])
    visit.expect_visitor("unknown")
    expect(visit.chat.get_by_text("my secret")).to_have_count(0)
    assert visit.cookies()["messagesUtk"]["value"] != cookie["value"]


def test_an_identified_visitor_gets_no_cookie_and_leaves_another_ones(visit: Visit) -> None:
    """The cookie of an anonymous chat before the log-in stays in the browser, with its thread."""
    visit.open(visit.identity("ada@example.com"))
    visit.expect_visitor("ada@example.com")
    assert "messagesUtk" not in visit.cookies()
    visit.run("document.cookie = 'messagesUtk=former; domain=.shop.test; path=/'")
    visit.run(RESETS["clear"].replace("{resetWidget: true}", ""))
    assert "messagesUtk" not in visit.cookies()


def test_an_anonymous_visitor_is_identified_in_place(timeless: Visit) -> None:
    """refresh with setIdentification keeps the thread that was begun anonymously, now as the contact's."""
    timeless.open({})
    timeless.expect_visitor("unknown")
    timeless.say("Hello")
    timeless.assign(timeless.identity("ada@example.com"))
    timeless.run("HubSpotConversations.widget.refresh({setIdentification: true})")
    timeless.page.clock.run_for(1)
    timeless.expect_visitor("ada@example.com")
    expect(timeless.chat.get_by_role("listitem")).to_have_text(["Hello"])
    (thread,) = timeless.sandbox.threads()
    assert thread.contact is not None
    assert thread.contact.email == "ada@example.com"


def test_no_chat_on_this_page_is_said_in_two_ways(visit: Visit) -> None:
    """widgetHidden with a reason, and an event of the window; nothing is drawn."""
    visit.open(
        before="""
            window.said = [];
            addEventListener("hubspot:messages:initialized", ({detail}) => said.push(detail));
            window.hsConversationsOnReady = [
                () => HubSpotConversations.on("widgetHidden", (detail) => said.push(Object.keys(detail))),
            ];
        """,
        query="chat=none",
    )
    visit.event("widgetHidden")
    assert {"messageWillRender": False} in visit.run("said")
    assert ["reason", "description"] in visit.run("said")
    assert visit.status == {"loaded": False, "pending": False}
    expect(visit.page.locator(CONTAINER)).to_have_count(0)


def test_refresh_follows_the_chatflow_of_the_address(timeless: Visit) -> None:
    """On a page without a chat it goes away, on one with a chat it comes back."""
    timeless.open()
    timeless.event("widgetLoaded")
    for knob, event, times in (("none", "widgetHidden", 1), ("", "widgetLoaded", 2)):
        timeless.let_a_second_pass()
        timeless.run(f"() => {{ __hubspotSandbox.knobs.chat = '{knob}'; HubSpotConversations.widget.refresh(); }}")
        timeless.page.clock.run_for(1)
        timeless.event(event, times)
    timeless.expect_visitor("unknown")


def test_a_second_copy_refuses_to_start(visit: Visit) -> None:
    """One live chat in a window: another loader changes nothing."""
    visit.open()
    visit.expect_visitor("unknown")
    visit.page.add_script_tag(url="/sandbox/loader/123.js")
    visit.wait_for("duplicate instance")
    expect(visit.page.locator(CONTAINER)).to_have_count(1)


def test_without_its_id_the_loader_brings_a_second_copy(visit: Visit) -> None:
    """Embedding it under another id ends in a duplicate."""
    visit.open(query="id=mine")
    visit.wait_for("duplicate instance")
    expect(visit.page.locator("script#hs-script-loader")).to_have_count(1)


TRAPS: dict[str, str] = {
    "disabledHsPopups": "window.disabledHsPopups = ['LIVE_CHAT']",
    "Array.prototype.toJSON": "Array.prototype.toJSON = function () { return this; }",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_that_keep_it_from_starting(visit: Visit, trap: str) -> None:
    """Another script of the page can silence the chat."""
    visit.open(before=TRAPS[trap])
    visit.page.wait_for_function("window.__hubspotSandbox.log.length")
    assert len(visit.happened(f"disabled by {trap}")) == 1
    assert visit.run("typeof window.HubSpotConversations") == "undefined"


def test_anything_named_hsvars_diverts_email_and_token(visit: Visit) -> None:
    """Even an element with that id sends them to the page's own origin, and by its <base> elsewhere."""
    known = visit.identity("ada@example.com")
    plant = """
        addEventListener("DOMContentLoaded", () => {
            document.body.append(Object.assign(document.createElement("p"), {id: "hsVars"}));
            document.head.append(Object.assign(document.createElement("base"), {href: "http://evil.test/"}));
        });
    """
    with visit.page.expect_request("http://evil.test/livechat-public/**") as request:
        visit.open(known, before=plant)
    assert known["identificationToken"] in request.value.url


def test_the_email_is_encoded_and_the_token_is_not(visit: Visit) -> None:
    """Both travel in the URL of the widget's own call, where resource timing keeps them."""
    known = visit.identity("ada+1@example.com")
    visit.open(known)
    visit.expect_visitor("ada+1@example.com")
    urls = visit.run("performance.getEntriesByType('resource').map(({name}) => name)")
    (url,) = [each for each in urls if "/livechat/" in each]
    assert url.endswith(f"&email=ada%2B1%40example.com&identificationToken={known['identificationToken']}")


def test_a_throwing_loader_brings_no_chat(visit: Visit) -> None:
    """The knob for tests of a loader that is broken."""
    with visit.page.expect_event("pageerror"):
        visit.page.goto(f"{visit._url}?loader=throw")
    assert visit.run("typeof window.__hubspotSandbox") == "undefined"


def test_the_chat_can_be_placed_in_the_page(visit: Visit) -> None:
    """inlineEmbedSelector names the element that holds it, open."""
    visit.open({"inlineEmbedSelector": "h1"})
    expect(visit.page.locator(f"h1 > {CONTAINER}")).to_have_count(1)
    expect(visit.chat.locator("#panel")).to_be_visible()
