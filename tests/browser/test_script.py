"""window.hubspotIdentify, the events, and the restraint of identify.js."""

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

from browser.conftest import Visit
from browser.site import Site, answer, require_file

pytestmark = pytest.mark.browser

EVENTS = {
    "conversationStarted",
    "conversationClosed",
    "userSelectedThread",
    "unreadConversationCountChanged",
    "contactAssociated",
    "userInteractedWithWidget",
    "widgetLoaded",
    "widgetClosed",
    "quickReplyButtonClick",
}


def test_calls_before_anything_is_loaded_wait(visit: Visit, site: Site) -> None:
    """open() on a page that has not asked HubSpot for anything yet loads the chat and opens it when it is there."""
    site.page("/", '{% hubspot_identify account="interaction" %}', loader="delay=300")
    visit.log_in("ada")
    visit.run("hubspotIdentify.refresh(); hubspotIdentify.update(); hubspotIdentify.open()")
    expect(visit.chat.locator("#panel")).to_be_visible()
    visit.expect_visitor("ada")
    assert len(visit.happened("load")) == 1


def test_close_takes_an_open_back(visit: Visit, site: Site) -> None:
    """What waits is the last word, not the first."""
    site.page("/", "{% hubspot_identify %}", loader="delay=300")
    visit.log_in("ada")
    visit.run("hubspotIdentify.open(); hubspotIdentify.close()")
    visit.expect_visitor("ada")
    visit.wait_heard("identified")
    expect(visit.chat.locator("#panel")).to_be_hidden()


def test_open_and_close(visit: Visit, site: Site) -> None:
    """They do at once what they say when the chat is there."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.run("hubspotIdentify.open()")
    expect(visit.chat.locator("#panel")).to_be_visible()
    visit.run("hubspotIdentify.close()")
    expect(visit.chat.locator("#panel")).to_be_hidden()


def test_refresh_lets_hubspot_look_at_the_address_again(visit: Visit, site: Site) -> None:
    """For pages that change without changing their address; many calls make one."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.run("hubspotIdentify.refresh(); hubspotIdentify.refresh()")
    visit.wait_for("call answered", 2)
    assert len(visit.happened("refresh")) == 1
    assert visit.happened("throttled") == []


def test_the_events_of_hubspot_bubble_with_their_detail(visit: Visit, site: Site) -> None:
    """Each documented one, once, also after a reset has made a new emitter."""
    site.page("/", "{% hubspot_identify %}")
    site.answers = [answer("a", "ada@example.com"), answer("g", "grace@example.com")]
    visit.go()
    for name in ("ada", "grace"):
        visit.expect_visitor(name)
        visit.run("heard.length = 0")
        for event in EVENTS:
            visit.run("event => __hubspotSandbox.emit(event, {of: event})", event)
        told = [each for each in visit.run("heard") if each[0] in EVENTS]
        assert sorted(told) == sorted([event, {"of": event}] for event in EVENTS)
        visit.run("hubspotIdentify.update()")


def test_no_detail_of_ours_tells_who_it_is(visit: Visit, site: Site) -> None:
    """Any script of the page hears our events, so neither address nor token is in them, nor in status()."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.wait_heard("identified")
    token = visit.settings["identificationToken"]
    said = repr(visit.run("heard")) + repr(visit.status) + visit.run("Object.keys(hubspotIdentify).join()")
    assert "ada@" not in said
    assert token not in said


def test_one_global_and_hubspots_own(visit: Visit, site: Site) -> None:
    """The script leaves one name in the page, beside those by which HubSpot is spoken to."""
    site.page("/", "{% hubspot_identify %}")
    visit.page.add_init_script("if (window.top === window) window.before = new Set(Object.keys(window))")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    names = visit.run("Object.keys(window).filter(name => !before.has(name) && isNaN(name))")  # frames have numbers
    added = set(names) - {"before", "__hubspotSandbox"}
    assert added == {
        "hubspotIdentify",
        "hsConversationsSettings",
        "hsConversationsOnReady",
        "HubSpotConversations",
    }
    assert set(visit.run("Object.keys(hubspotIdentify)")) == {
        "load",
        "open",
        "close",
        "refresh",
        "update",
        "reset",
        "status",
    }


def test_nothing_of_an_identity_is_kept_or_sent_by_us(visit: Visit, site: Site) -> None:
    """No storage, cookie or address of ours has e-mail or token; what is remembered is the opaque subject."""
    site.page("/", "{% hubspot_identify %}")
    urls: list[str] = []
    visit.page.on("request", lambda request: urls.append(request.url))
    visit.log_in("ada")
    visit.expect_visitor("ada")
    token = visit.settings["identificationToken"]
    kept = repr(visit.run("[{...localStorage}, {...sessionStorage}, document.cookie, location.href]"))
    assert visit.run("Object.keys(localStorage)") == ["hubspot-identify:subject"]
    sent = " ".join(url for url in urls if "/sandbox/" not in url)
    for secret in ("ada@", "ada%40", token):
        assert secret not in kept
        assert secret not in sent


SCRIPTS = ["identify.js", "launcher.js"]


def source(name: str) -> str:
    return Path(find(f"hubspot_identify/{name}")).read_text()


#: Prints the positions of all comments of the script on standard input.
FIND_COMMENTS = """
    const comments = [];
    const onComment = (isBlock, text, start, end) => comments.push([start, end]);
    require(process.argv[1]).parse(require("fs").readFileSync(0, "utf-8"), {ecmaVersion: "latest", onComment});
    console.log(JSON.stringify(comments));
"""


def without_comments(text: str) -> str:
    command = [require("node"), "--eval", FIND_COMMENTS, str(require_file("acorn/dist/acorn.js"))]
    output = subprocess.run(command, input=text, check=True, capture_output=True, encoding="utf-8").stdout
    for start, end in reversed(json.loads(output)):
        text = text[:start] + text[end:]
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


def test_manual_documents_the_methods(visit: Visit, site: Site) -> None:
    """The page on the browser lists the methods that the script provides."""
    site.page("/", "{% hubspot_identify %}")
    visit.go()
    documented = {name for row in table_of("browser") for name in re.findall(r"(\w+)\(", row[0])}
    assert set(visit.run("Object.keys(hubspotIdentify)")) == documented


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_small(name: str) -> None:
    """A script has at most 5,000 bytes, compressed and without its comments."""
    code = without_comments(source(name))
    assert len(gzip.compress(code.encode(), 9)) <= 5000


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_make_no_code_or_markup_of_text(name: str) -> None:
    """No eval, no markup from text, nothing imported, and no line that nobody could read."""
    text = source(name)
    assert not re.findall(r"\beval\b|\bFunction\(|innerHTML|outerHTML|insertAdjacent|document\.write|\bimport\b", text)
    assert text.startswith("/**\n")
    assert max(map(len, text.splitlines())) <= 120
