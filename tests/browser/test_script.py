"""The methods and events of window.hubspotIdentify, and what identify.js keeps to itself."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest
from django.contrib.staticfiles.finders import find
from playwright.sync_api import expect
from support.manual import table_of
from support.programs import require

from browser.conftest import ANONYMOUS, Tab
from browser.site import ADA, GRACE, IDENTITY, LOADER, TAG, Site, identity_response, require_file

pytestmark = pytest.mark.browser

SCRIPT = "/static/hubspot_identify/identify.js"
KINDS = {"warning", "error"}
HUBSPOT_EVENTS = [
    "conversationStarted",
    "conversationClosed",
    "userSelectedThread",
    "unreadConversationCountChanged",
    "contactAssociated",
    "userInteractedWithWidget",
    "widgetLoaded",
    "widgetClosed",
    "quickReplyButtonClick",
]
#: Prints the positions of all comments of the script on standard input.
FIND_COMMENTS = """
    const comments = [];
    const onComment = (isBlock, text, start, end) => comments.push([start, end]);
    require(process.argv[1]).parse(require("fs").readFileSync(0, "utf-8"), {ecmaVersion: "latest", onComment});
    console.log(JSON.stringify(comments));
"""


def test_open_before_loading_loads_and_opens_the_chat(tab: Tab, site: Site) -> None:
    """Methods can be called on a page that has not requested anything yet. The chat is loaded once, and opens."""
    site.page("/", '{% hubspot_identify account="interaction" %}', loader="delay=300")
    tab.log_in("ada")
    tab.run("hubspotIdentify.refresh(); hubspotIdentify.update(); hubspotIdentify.open()")
    expect(tab.chat.locator("#panel")).to_be_visible()
    tab.expect_visitor("ada")
    assert len(tab.logged("load")) == 1


def test_open_and_close(tab: Tab, site: Site) -> None:
    """While the chat is loading, the last call counts. Afterwards, each call takes effect at once."""
    site.page("/", TAG, loader="delay=300")
    tab.log_in("ada")
    tab.run("hubspotIdentify.open(); hubspotIdentify.close()")
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    panel = tab.chat.locator("#panel")
    expect(panel).to_be_hidden()
    tab.run("hubspotIdentify.open()")
    expect(panel).to_be_visible()
    tab.run("hubspotIdentify.close()")
    expect(panel).to_be_hidden()


def test_several_calls_of_refresh_make_one_refresh(tab: Tab, site: Site) -> None:
    """A page that changes without a new address has HubSpot select the chatflow again."""
    site.page("/", TAG)
    tab.fake_clock()
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.run("hubspotIdentify.refresh(); hubspotIdentify.refresh()")
    tab.skip(2000)
    tab.wait_for_log("call answered", 2)
    assert len(tab.logged("refresh")) == 1
    assert tab.logged("throttled") == []


def test_hubspot_that_arrives_late(tab: Tab, site: Site) -> None:
    """After 15 seconds the page is notified of the failure. If HubSpot's script arrives later, there is a chat."""
    site.page("/", TAG)
    tab.fake_clock()
    wait_for_route = tab.hold("**/sandbox/loader/**")
    tab.log_in("ada")
    route = wait_for_route()
    tab.skip(16_000)
    assert tab.events == ["failed"]
    route.continue_()
    tab.wait_until("window.HubSpotConversations")
    tab.skip(6000)
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")


def test_visitor_who_dismissed_the_welcome_message_is_identified(tab: Tab, site: Site) -> None:
    """HubSpot reports this as an interaction, and nothing afterwards. The chat is not in use: a log-in reaches it."""
    site.page("/", TAG, loader="welcome")
    site.responses = [identity_response(None), identity_response("a", ADA)]
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    tab.click_in_chat(tab.chat.locator("#dismiss"))
    tab.wait_for_event("userInteractedWithWidget")
    tab.run("hubspotIdentify.update()")
    tab.expect_visitor("ada")


def test_hubspot_events_are_passed_on_with_their_detail(tab: Tab, site: Site) -> None:
    """Each documented event is emitted once, also after a reset, which replaces HubSpot's event emitter."""
    site.page("/", TAG)
    site.responses = [identity_response("a", ADA), identity_response("g", GRACE)]
    tab.go()
    for name in ("ada", "grace"):
        tab.expect_visitor(name)
        tab.wait_for_event("identified")
        tab.run("recordedEvents.length = 0")
        tab.run("names => names.forEach(name => __hubspotSandbox.emit(name, {of: name}))", HUBSPOT_EVENTS)
        events = [event for event in tab.run("recordedEvents") if event[1] == {"of": event[0]}]
        assert events == [[name, {"of": name}] for name in HUBSPOT_EVENTS]
        tab.run("hubspotIdentify.update()")


def test_other_scripts_see_no_identity(tab: Tab, site: Site) -> None:
    """Events, status, storage and URLs contain neither address nor token. Only the opaque subject is stored."""
    site.page("/", TAG)
    urls: list[str] = []
    tab.page.on("request", lambda request: urls.append(request.url))
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    token = tab.settings["identificationToken"]
    visible = repr([tab.run("recordedEvents"), tab.status, tab.run("Object.keys(hubspotIdentify)")])
    stored = repr(tab.run("[{...localStorage}, {...sessionStorage}, document.cookie, location.href]"))
    sent = " ".join(url for url in urls if "/sandbox/" not in url)
    for secret in ("ada@", "ada%40", token):
        assert secret not in visible + stored + sent
    assert tab.run("Object.keys(localStorage)") == ["hubspot-identify:subject"]


def test_script_defines_one_global_with_the_documented_methods(tab: Tab, site: Site) -> None:
    """Besides window.hubspotIdentify, only HubSpot's own names are added to the page."""
    site.page("/", TAG)
    tab.page.add_init_script("if (window.top === window) window.before = new Set(Object.keys(window))")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    names = tab.run("Object.keys(window).filter(name => !before.has(name) && isNaN(name))")  # frames have numbers
    assert set(names) - {"before", "__hubspotSandbox", "__pw_bidiInsertText"} == {
        "hubspotIdentify",
        "hsConversationsSettings",
        "hsVars",
        "HubSpotConversations",
    }
    documented = {name for row in table_of("docs/browser") for name in re.findall(r"(\w+)\(", row[0])}
    assert set(tab.run("Object.keys(hubspotIdentify)")) == documented
    assert documented == {"load", "open", "close", "refresh", "update", "identifyWith", "reset", "status"}


# ---- other ways to run the script


def warnings_of(tab: Tab) -> list[str]:
    """Return a list to which the console's warnings and errors are added."""
    warnings: list[str] = []
    tab.page.on("console", lambda message: warnings.append(message.text) if message.type in KINDS else None)
    return warnings


@pytest.mark.parametrize(
    "html",
    [
        f'<script type="module" src="{SCRIPT}" data-endpoint="{IDENTITY}" data-loader="{LOADER}"></script>',
        f"<script>document.head.append(Object.assign(document.createElement('script'), {{src: '{SCRIPT}'}}))</script>",
        f'<script src="{SCRIPT}" defer></script>',
    ],
    ids=["module", "copy", "bundle"],
)
def test_console_says_why_a_script_without_its_element_does_nothing(tab: Tab, site: Site, html: str) -> None:
    """Some tools move scripts, or bundle them. The page works, and the console contains one line."""
    site.page("/", html)
    warnings = warnings_of(tab)
    tab.log_in("ada")
    tab.wait_until_idle()
    assert [text for text in warnings if "identify.js" in text] == warnings
    assert len(warnings) == 1
    assert site.hubspot_requests == []


def test_element_inserted_by_a_script(tab: Tab, site: Site) -> None:
    """A copy with all attributes works, as it does in a tag manager."""
    site.page("/", f"<template>{TAG}</template>")
    tab.log_in("ada")
    tab.run("""() => {
        const script = document.createElement("script");
        for (const {name, value} of document.querySelector("template").content.firstElementChild.attributes) {
            script.setAttribute(name, value);
        }
        document.head.append(script);
    }""")
    tab.expect_visitor("ada")


def test_older_browser(tab: Tab, site: Site) -> None:
    """The oldest supported browsers lack these. The visitor is identified, and a new address is noticed by "back"."""
    site.page("/", TAG)
    tab.page.add_init_script("""
        delete Object.hasOwn;
        delete AbortSignal.timeout;
        delete window.CSSStyleSheet;
        delete Document.prototype.adoptedStyleSheets;
        delete window.navigation;
        delete window.requestIdleCallback;
    """)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    tab.run("history.pushState(null, '', '/elsewhere/'), hubspotIdentify.refresh()")
    tab.wait_for_log("call", 2)
    tab.run("history.back()")
    tab.wait_for_log("call", 3)


def without_comments(text: str) -> str:
    command = [require("node"), "--eval", FIND_COMMENTS, str(require_file("acorn/dist/acorn.js"))]
    output = subprocess.run(command, input=text, check=True, capture_output=True, encoding="utf-8").stdout
    for start, end in reversed(json.loads(output)):
        text = text[:start] + text[end:]
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


@pytest.mark.parametrize("name", ["identify.js", "launcher.js"])
def test_script_is_small(name: str) -> None:
    """A script has at most 5,000 bytes, compressed and without its comments."""
    path = find(f"hubspot_identify/{name}")
    assert path
    assert len(gzip.compress(without_comments(Path(path).read_text()).encode(), 9)) <= 5000
