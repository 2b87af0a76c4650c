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

from browser.conftest import Tab
from browser.site import ADA, GRACE, TAG, Site, identity_response, require_file

pytestmark = pytest.mark.browser

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


def test_hubspot_events_are_passed_on_with_their_detail(tab: Tab, site: Site) -> None:
    """Each documented event is emitted once, also after a reset, which replaces HubSpot's event emitter."""
    site.page("/", TAG)
    site.responses = [identity_response("a", ADA), identity_response("g", GRACE)]
    tab.go()
    for name in ("ada", "grace"):
        tab.expect_visitor(name)
        tab.run("recordedEvents.length = 0")
        tab.run("names => names.forEach(name => __hubspotSandbox.emit(name, {of: name}))", HUBSPOT_EVENTS)
        events = [event for event in tab.run("recordedEvents") if event[0] in HUBSPOT_EVENTS]
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
    assert set(names) - {"before", "__hubspotSandbox"} == {
        "hubspotIdentify",
        "hsConversationsSettings",
        "hsConversationsOnReady",
        "HubSpotConversations",
    }
    documented = {name for row in table_of("docs/browser") for name in re.findall(r"(\w+)\(", row[0])}
    assert set(tab.run("Object.keys(hubspotIdentify)")) == documented
    assert documented == {"load", "open", "close", "refresh", "update", "reset", "status"}


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
