"""Pages that change without being loaded anew: htmx, Turbo, and the history API."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from browser.conftest import CONTAINER, Visit
from browser.site import ADA, Site, answer, require_package

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
FRAMEWORKS = pytest.mark.parametrize("framework", PACKAGES)
HTMX = pytest.mark.parametrize("framework", ["htmx 1", "htmx 2"])


def write_pages(site: Site, framework: str, tag: str = "{% hubspot_identify %}", place: str = "body") -> None:
    """Two pages that the framework goes between without loading anything but their HTML."""
    script = f'<script src="{require_package(PACKAGES[framework])}"></script>'
    head, foot = (tag, "") if place == "head" else ("", tag)
    for path in ("/", "/two/"):
        site.page(path, f"{script}{head}<body hx-boost=true><h1>{path}</h1>{LINKS}{foot}</body>")


def follow(visit: Visit, link: str, heading: str) -> None:
    """Go there as a visitor would; in the same document, or the test is about nothing."""
    visit.run("window.sameDocument = true")
    visit.page.get_by_role("link", name=link, exact=True).click()
    expect(visit.page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    assert visit.run("window.sameDocument")


def go_back(visit: Visit, heading: str) -> None:
    visit.run("history.back()")
    expect(visit.page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    assert visit.run("window.sameDocument")


def stored(visit: Visit) -> str:
    """Everything that scripts have put into this browser's storages."""
    return json.dumps(visit.run("[{...sessionStorage}, {...localStorage}]"))


@FRAMEWORKS
@pytest.mark.parametrize("place", ["head", "body"])
def test_one_living_chat_after_every_swap_and_after_back(visit: Visit, site: Site, framework: str, place: str) -> None:
    """The chat that went with the old body is brought back, identified; one loader, and no dead copies."""
    write_pages(site, framework, place=place)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    follow(visit, "two", "/two/")
    visit.expect_visitor("ada")
    go_back(visit, "/")
    visit.expect_visitor("ada")
    assert len(site.asked("/sandbox/loader/")) == 1
    assert visit.happened("duplicate instance") == []
    assert visit.happened("reset") == []


@FRAMEWORKS
def test_a_log_out_without_a_new_document(visit: Visit, site: Site, framework: str) -> None:
    """The former visitor's chat is not brought back, neither now nor by the back button."""
    write_pages(site, framework)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    follow(visit, "out", "/two/")
    visit.expect_visitor("unknown")
    visit.wait_heard("anonymous")
    assert "identificationToken" not in visit.settings
    go_back(visit, "/")
    visit.expect_visitor("unknown")
    drawn = visit.happened("drawn")
    assert [each["email"] for each in drawn] == [ADA] + [None] * (len(drawn) - 1)


@FRAMEWORKS
def test_another_user_without_a_new_document(visit: Visit, site: Site, framework: str) -> None:
    """A log-in as somebody else ends in the other one's chat."""
    write_pages(site, framework)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    follow(visit, "in", "/two/")
    visit.expect_visitor("grace")
    visit.wait_heard("identified", 2)


@FRAMEWORKS
def test_an_anonymous_visitor_logs_in_without_a_new_document(visit: Visit, site: Site, framework: str) -> None:
    """Nobody becomes somebody: identified without a reset."""
    write_pages(site, framework)
    visit.go()
    visit.expect_visitor("unknown")
    follow(visit, "in", "/two/")
    visit.expect_visitor("grace")
    assert visit.happened("reset") == []


@FRAMEWORKS
def test_inline_identities_are_not_stored_with_the_page(visit: Visit, site: Site, framework: str) -> None:
    """What htmx keeps of pages holds no e-mail, no token and no chat; nor does anything else in the storages."""
    write_pages(site, framework, '{% hubspot_identify account="inline" %}')
    visit.log_in("ada")
    visit.expect_visitor("ada")
    token = visit.settings["identificationToken"]
    follow(visit, "two", "/two/")
    visit.expect_visitor("ada")
    go_back(visit, "/")
    visit.expect_visitor("ada")
    if framework != "Turbo":
        assert "/two/</h1>" in stored(visit)
    for secret in (ADA, token, "data-subject", CONTAINER.strip("#")):
        assert secret not in stored(visit)


@HTMX
def test_a_swap_that_changes_the_address_keeps_one_chat(visit: Visit, site: Site, framework: str) -> None:
    """A part of the page is swapped and pushed: htmx stores the page, without the chat."""
    script = f'<script src="{require_package(PACKAGES[framework])}"></script>'
    site.page(
        "/",
        f"{script}<h1>/</h1><button hx-get=/part/ hx-target=main hx-push-url=/pushed/>more</button><main></main>"
        "{% hubspot_identify %}",
    )
    site.page("/part/", "<h2>part</h2>{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.page.get_by_role("button", name="more").click()
    expect(visit.page.get_by_role("heading", name="part")).to_be_visible()
    visit.wait_for("drawn", 2)
    visit.expect_visitor("ada")
    assert CONTAINER.strip("#") not in stored(visit)
    assert len(site.asked("/sandbox/loader/")) == 1


@HTMX
def test_injected_container_is_not_stored_in_place_of_the_chat(visit: Visit, site: Site, framework: str) -> None:
    """Markup that looks like HubSpot's container stands above it. htmx stores the page without the chat."""
    tag = f'<div id="{CONTAINER[1:]}"><iframe srcdoc="a picture"></iframe></div>{{% hubspot_identify %}}'
    write_pages(site, framework, tag)
    visit.log_in("ada")
    body = visit.page.locator(f"{CONTAINER} iframe").last.content_frame.locator("body")
    expect(body).to_have_attribute("data-visitor", ADA)
    visit.wait_heard("identified")
    follow(visit, "two", "/two/")
    assert "/</h1>" in stored(visit)
    assert "/sandbox/chat/" not in stored(visit)
    expect(body).to_have_attribute("data-visitor", ADA)


@HTMX
def test_a_chat_in_use_survives_a_swap_beside_it(visit: Visit, site: Site, framework: str) -> None:
    """A half typed message is still there after a part of the page was swapped and pushed; nothing is stored."""
    script = f'<script src="{require_package(PACKAGES[framework])}"></script>'
    site.page(
        "/",
        f"{script}<button hx-get=/part/ hx-target=main hx-push-url=/pushed/>more</button><main></main>"
        "{% hubspot_identify %}",
    )
    site.page("/part/", "<h2>part</h2>")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.chat.locator("#launcher").click()
    visit.chat.get_by_label("Message").fill("half a sen")
    visit.wait_heard("userInteractedWithWidget")
    visit.page.get_by_role("button", name="more").click()
    expect(visit.page.get_by_role("heading", name="part")).to_be_visible()
    expect(visit.chat.get_by_label("Message")).to_have_value("half a sen")
    assert len(visit.happened("drawn")) == 1
    assert CONTAINER.strip("#") not in stored(visit)


def test_a_turbo_frame_leaves_the_chat_alone(visit: Visit, site: Site) -> None:
    """A frame is swapped, with a script element of ours in it: the same chat goes on."""
    script = f'<script src="{require_package(PACKAGES["Turbo"])}"></script>'
    frame = "<turbo-frame id=f>{}</turbo-frame>"
    site.page("/", f"{script}{frame.format('<a href=/part/>more</a>')}{{% hubspot_identify %}}")
    site.page("/part/", frame.format("<h2>part</h2>{% hubspot_identify %}"))
    visit.log_in("ada")
    visit.expect_visitor("ada")
    asked = len(site.asked("/hubspot/"))
    with visit.page.expect_response("**/hubspot/identity/"):
        visit.page.get_by_role("link", name="more").click()
    expect(visit.page.get_by_role("heading", name="part")).to_be_visible()
    visit.expect_visitor("ada")
    assert len(site.asked("/hubspot/")) == asked + 1
    assert len(visit.happened("drawn")) == 1


def test_a_turbo_morph_keeps_one_living_chat(visit: Visit, site: Site) -> None:
    """A page refreshed by morphing ends with the chat that it began with, or a new one; never with two or none."""
    script = f'<script src="{require_package(PACKAGES["Turbo"])}"></script>'
    morphs = '<meta name="turbo-refresh-method" content="morph">'
    site.page("/", f"{morphs}{script}<body><h1>/</h1>{{% hubspot_identify %}}</body>")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.run("window.morphs = 0; addEventListener('turbo:morph', () => { morphs++; })")
    visit.run("Turbo.visit(location.href, {action: 'replace'})")
    visit.page.wait_for_function("morphs === 1")
    visit.wait_for("drawn", 2)
    visit.expect_visitor("ada")
    assert visit.happened("reset") == []


# ---- the address


def test_the_chat_follows_the_address_once_a_second(visit: Visit, site: Site) -> None:
    """Many changes make one refresh, which HubSpot does not drop and which knows the last address."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.run("for (const n of [1, 2, 3]) history.pushState(null, '', `/page/${n}/`)")
    visit.wait_for("refresh")
    visit.wait_for("call answered", 2)
    assert [re.sub("^.*?//[^/]+", "", each["url"]) for each in visit.happened("call")] == ["/", "/page/3/"]
    assert visit.happened("throttled") == []


def test_the_same_address_is_no_news(visit: Visit, site: Site) -> None:
    """A replaced state or another fragment asks nobody anything."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.wait_heard("identified")
    asked = len(site.asked("/hubspot/"))
    visit.run("history.replaceState({mine: true}, ''); location.hash = 'below'; history.pushState(null, '', '?query')")
    visit.wait_for("refresh")
    visit.wait_for("call answered", 2)
    assert len(visit.happened("refresh")) == 1
    assert len(site.asked("/hubspot/")) == asked + 1


def test_a_chat_in_use_is_refreshed_when_it_closes(visit: Visit, site: Site) -> None:
    """Neither a new address nor a log-in touches an open, half typed chat; both count at its close."""
    site.page("/", "{% hubspot_identify %}")
    site.answers = [answer(None), answer("a", ADA)]
    visit.go()
    visit.expect_visitor("unknown")
    visit.chat.locator("#launcher").click()
    visit.chat.get_by_label("Message").fill("half a sen")
    visit.wait_heard("userInteractedWithWidget")
    with visit.page.expect_response("**/hubspot/identity/"):
        visit.run("history.pushState(null, '', '/elsewhere/')")
    visit.page.wait_for_function("hsConversationsSettings.identificationToken")
    visit.page.wait_for_timeout(1500)  # longer than the throttle: nothing happens
    assert visit.happened("refresh") == []
    expect(visit.chat.get_by_label("Message")).to_have_value("half a sen")
    visit.run("hubspotIdentify.close()")
    visit.expect_visitor("ada")
    assert [each["setIdentification"] for each in visit.happened("refresh")] == [True]


def test_a_page_without_a_chat_and_one_with_it(visit: Visit, site: Site) -> None:
    """Where HubSpot shows no chat, the next address may have one."""
    site.page("/", "{% hubspot_identify %}", loader="chat=none")
    visit.log_in("ada")
    visit.wait_heard("widgetHidden")
    assert visit.status["state"] == "hidden"
    visit.run("__hubspotSandbox.knobs.chat = ''; history.pushState(null, '', '/with/')")
    visit.expect_visitor("ada")
    assert visit.heard == ["ready", "identified"]
