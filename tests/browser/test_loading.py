"""When HubSpot is loaded: with the page, when that is idle, when somebody wants it, or when a script says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.staticfiles.finders import find
from django.utils import translation
from playwright.sync_api import Locator, Route, expect

from browser.conftest import CONTAINER, Visit
from browser.site import Site, answer, require_package

pytestmark = pytest.mark.browser

EMBED = '<script id="hs-script-loader" async src="/sandbox/loader/123.js"></script>'
INTERACTION = '{% hubspot_identify account="interaction" %}'


def button(visit: Visit) -> Locator:
    return visit.page.locator(".hubspot-identify-launcher button")


#: What gives up or goes after some seconds takes ten minutes, so that it is still there when it is looked at.
NO_HURRY = """{
    const later = window.setTimeout;
    window.setTimeout = (action, delay, ...rest) => later(action, delay >= 6000 ? 600_000 : delay, ...rest);
}"""


def hold(visit: Visit, address: str) -> Callable[[], Route]:
    """Hold a request back. What is returned gives it, once it has come that far."""
    held: list[Route] = []
    visit.page.route(address, lambda route: held.append(route))

    def take() -> Route:
        assert any(held or visit.page.wait_for_timeout(50) for _ in range(600))
        return held.pop()

    return take


def hubspot(site: Site) -> list[str]:
    """Everything that was asked of HubSpot, or of us on its behalf."""
    return site.asked("/sandbox/") + site.asked("/hubspot/")


# ---- idle


def test_idle_waits_for_the_page(visit: Visit, site: Site) -> None:
    """Nothing is asked before the page and all that belongs to it has loaded; then the chat comes by itself."""
    site.page("/", '<img src="/picture/">{% hubspot_identify account="idle" %}')
    held: list[str] = []

    def hold(route: object) -> None:
        held.extend(hubspot(site))
        route.fulfill(status=204)  # type: ignore[attr-defined]

    visit.page.route("**/picture/", hold)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert held == []
    assert visit.run(
        "performance.getEntriesByType('resource').find(each => each.name.includes('/loader/')).startTime"
        " >= performance.getEntriesByType('navigation')[0].loadEventStart"
    )


def test_idle_in_a_page_that_has_loaded(visit: Visit, site: Site) -> None:
    """An element that arrives later is not waiting for a load event that has been."""
    site.page("/", '<template>{% hubspot_identify account="idle" %}</template>')
    visit.log_in("ada")
    visit.run("document.body.append(document.querySelector('template').content.cloneNode(true))")
    visit.expect_visitor("ada")


# ---- interaction


def test_until_somebody_wants_it_there_is_no_request(visit: Visit, site: Site) -> None:
    """No HubSpot, no question, no call; only our two scripts."""
    site.page("/", INTERACTION)
    visit.log_in("ada")
    expect(button(visit)).to_have_text("Chat with us")
    visit.run("new Promise(requestIdleCallback)")
    assert hubspot(site) == []
    assert site.calls == 0
    assert site.asked("/static/") == [f"/static/hubspot_identify/{name}.js" for name in ("identify", "launcher")]
    assert visit.status == {"state": "waiting", "identified": False}


def test_hovering_loads_the_chat_without_opening_it(visit: Visit, site: Site) -> None:
    """Going near is enough to load; the button makes way for HubSpot's own."""
    site.page("/", INTERACTION)
    visit.log_in("ada")
    button(visit).hover()
    visit.expect_visitor("ada")
    expect(button(visit)).to_have_count(0)
    expect(visit.chat.locator("#panel")).to_be_hidden()


def test_the_keyboard_reaches_loads_and_opens(visit: Visit, site: Site) -> None:
    """Tab loads the chat and takes no focus away; Enter opens it, and who had the button has the chat afterwards."""
    site.page("/", INTERACTION)
    visit.log_in("ada")
    expect(button(visit)).to_be_visible()
    visit.page.keyboard.press("Tab")
    visit.wait_heard("ready")
    expect(button(visit)).to_be_focused()
    visit.page.keyboard.press("Enter")
    expect(visit.chat.locator("#panel")).to_be_visible()
    visit.expect_visitor("ada")
    expect(visit.page.locator(f"{CONTAINER} iframe")).to_be_focused()


def test_the_button_goes_when_the_focus_does(visit: Visit, site: Site) -> None:
    """Who only came by with the keyboard goes on, and HubSpot's own button is there."""
    site.page("/", f"{INTERACTION}<a href=/>a link</a>")
    visit.log_in("ada")
    button(visit).focus()
    visit.wait_heard("ready")
    expect(button(visit)).to_be_focused()
    visit.page.get_by_role("link").focus()
    expect(button(visit)).to_have_count(0)
    expect(visit.page.get_by_role("link")).to_be_focused()
    expect(visit.chat.locator("#panel")).to_be_hidden()


def test_a_button_in_the_head_waits_for_the_body(visit: Visit, site: Site) -> None:
    """Without PORTAL_ID the tag stands in <head>, and its script may be there before there is a body."""
    tag = '{% hubspot_identify account="embedded-interaction" %}'
    site.page("/", f"<head>{tag}<script src=/slow/></script></head><body>{EMBED}</body>")
    injected = "document.querySelector('script[src*=launcher]') && new Promise(done => setTimeout(done, 300))"
    slow = hold(visit, "**/slow/")
    visit.page.goto(site.url("/"), wait_until="commit")
    visit.page.wait_for_function(injected, polling=50)  # nothing is drawn yet
    slow().fulfill(body="")
    button(visit).click()
    expect(visit.chat.locator("#panel")).to_be_visible()


def test_a_press_that_the_chat_comes_over_is_a_click(visit: Visit, site: Site) -> None:
    """Going near has brought the chat, which is over the button by the time that it is released."""
    site.page("/", INTERACTION)
    loader = hold(visit, "**/sandbox/loader/**")
    visit.log_in("ada")
    button(visit).hover()
    visit.page.mouse.down()
    loader().continue_()
    visit.wait_heard("ready")
    expect(button(visit)).to_have_count(0)
    visit.page.mouse.up()
    expect(visit.chat.locator("#panel")).to_be_visible()


def test_a_click_opens_the_chat_and_says_that_it_is_loading(visit: Visit, site: Site) -> None:
    """Until the chat is there the button says so, also to those who can't see it."""
    site.page("/", INTERACTION)
    loader = hold(visit, "**/sandbox/loader/**")
    visit.log_in("ada")
    button(visit).click()
    expect(button(visit)).to_have_text("The chat is loading…")
    expect(visit.page.get_by_role("status")).to_have_text("The chat is loading…")
    loader().continue_()
    expect(visit.chat.locator("#panel")).to_be_visible()
    expect(button(visit)).to_have_count(0)
    assert len(visit.happened("load")) == 1


@pytest.mark.parametrize("trouble", ["hidden", "blocked"])
def test_without_a_chat_it_says_so_and_goes(visit: Visit, site: Site, trouble: str) -> None:
    """Whoever pressed the button is told; then it is out of the way."""
    site.page("/", INTERACTION, loader="chat=none")
    if trouble == "blocked":
        visit.page.route("**/sandbox/loader/**", lambda route: route.abort())
    visit.page.clock.install()
    visit.log_in("ada")
    button(visit).click()
    visit.page.clock.run_for(2000)
    expect(visit.page.get_by_role("status")).to_have_text("The chat is not available right now.")
    expect(button(visit)).to_have_count(0)
    visit.page.clock.run_for(6100)
    expect(visit.page.locator(".hubspot-identify-launcher")).to_have_count(0)


def test_without_a_chat_nobody_is_told_who_did_not_ask(visit: Visit, site: Site) -> None:
    """A pointer that only passed by makes the button go without a word."""
    site.page("/", INTERACTION, loader="chat=none")
    visit.log_in("ada")
    button(visit).hover()
    expect(visit.page.locator(".hubspot-identify-launcher")).to_have_count(0)


def test_an_endpoint_in_trouble_is_no_reason_to_give_up(visit: Visit, site: Site) -> None:
    """Without an identity there is a chat all the same."""
    site.page("/", INTERACTION)
    visit.page.route("**/hubspot/identity/**", lambda route: route.abort())
    visit.log_in("ada")
    button(visit).click()
    expect(visit.chat.locator("#panel")).to_be_visible()
    visit.expect_visitor("unknown")


def test_the_texts_are_translated(visit: Visit, site: Site) -> None:
    """The button speaks the language that Django has chosen for the page."""
    with translation.override("de"):
        expected = translation.gettext("Chat with us")
    assert expected != "Chat with us"
    site.page("/", "{% load i18n %}{% language 'de' %}" + INTERACTION + "{% endlanguage %}")
    visit.go()
    expect(button(visit)).to_have_text(expected)
    expect(visit.page.get_by_role("complementary", name=expected)).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_of(visit: Visit, site: Site, scheme: str) -> None:
    """In every state: waiting, focused, loading, unavailable."""
    axe = require_package("axe-core/axe.min.js")
    site.page(
        "/",
        f'<script src="{axe}"></script><script>document.documentElement.lang = "en"</script>'
        f"<main><h1>A page</h1></main>{INTERACTION}",
    )
    loader = hold(visit, "**/sandbox/loader/**")
    visit.page.add_init_script(NO_HURRY)
    visit.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    visit.go()

    def complaints() -> list[str]:
        found: list[str] = visit.run(
            "axe.run().then(found => found.violations.map(each => each.id + ': ' + each.nodes.map(n => n.html)))"
        )
        return found

    expect(button(visit)).to_be_visible()
    assert complaints() == []
    button(visit).focus()
    assert complaints() == []
    button(visit).click()
    assert complaints() == []
    loader().abort()
    expect(visit.page.get_by_role("status")).to_have_text("The chat is not available right now.")
    expect(visit.page.get_by_role("status")).to_be_focused()
    assert complaints() == []


def test_the_button_moves_only_for_those_who_like_it(visit: Visit, site: Site) -> None:
    """prefers-reduced-motion: neither transition nor animation."""
    site.page("/", INTERACTION, loader="latency=60000")

    def motion() -> list[str]:
        style = "getComputedStyle(document.querySelector('.hubspot-identify-launcher button'))"
        found: list[str] = visit.run(f"[{style}.animationName, {style}.transitionDuration]")
        return found

    visit.go()
    button(visit).click()
    assert motion() == ["hubspot-identify-launcher", "0.15s, 0.15s"]
    visit.page.emulate_media(reduced_motion="reduce")
    assert motion() == ["none", "0s"]


def test_the_looks_are_css_variables(visit: Visit, site: Site) -> None:
    """A site gives the button its colours and place without selectors of ours."""
    site.page(
        "/",
        "<style>:root { --hubspot-identify-background: rgb(1, 2, 3); --hubspot-identify-color: rgb(250, 251, 252);"
        f" --hubspot-identify-inset: 40px; --hubspot-identify-radius: 5px; }}</style>{INTERACTION}",
    )
    visit.go()
    expect(button(visit)).to_have_css("background-color", "rgb(1, 2, 3)")
    expect(button(visit)).to_have_css("color", "rgb(250, 251, 252)")
    expect(button(visit)).to_have_css("border-radius", "5px")
    expect(visit.page.locator(".hubspot-identify-launcher")).to_have_css("bottom", "40px")


@pytest.mark.parametrize("framework", ["htmx.org/dist/htmx.min.js", "@hotwired/turbo/dist/turbo.es2017-umd.js"])
@pytest.mark.parametrize("place", ["head", "body"])
def test_the_button_outlives_a_swapped_body(visit: Visit, site: Site, framework: str, place: str) -> None:
    """There is one button after every swap and after back, it works, and afterwards none comes back."""
    script = f'<script src="{require_package(framework)}"></script>'
    head, foot = (INTERACTION, "") if place == "head" else ("", INTERACTION)
    for path, other in (("/", "/two/"), ("/two/", "/")):
        body = f'<body hx-boost=true><h1>{path}</h1><a href="{other}">on</a>{foot}</body>'
        site.page(path, f"{script}{head}{body}")
    visit.log_in("ada")
    expect(button(visit)).to_have_count(1)
    visit.page.get_by_role("link", name="on").click()
    expect(visit.page.get_by_role("heading", name="/two/")).to_be_visible()
    expect(button(visit)).to_have_count(1)
    visit.run("history.back()")
    expect(visit.page.get_by_role("heading", name="/", exact=True)).to_be_visible()
    expect(button(visit)).to_have_count(1)
    assert hubspot(site) == []
    button(visit).click()
    expect(visit.chat.locator("#panel")).to_be_visible()
    visit.run("hubspotIdentify.close()")
    visit.run("history.forward()")
    expect(visit.page.get_by_role("heading", name="/two/")).to_be_visible()
    visit.expect_visitor("ada")
    expect(button(visit)).to_have_count(0)


# ---- by a script


def test_manual_waits_for_the_sites_own_consent_manager(visit: Visit, site: Site) -> None:
    """data-load-on="manual": nothing is asked or loaded until hubspotIdentify.load()."""
    site.page(
        "/",
        '<script src="/static/hubspot_identify/identify.js" defer data-endpoint="/hubspot/identity/" '
        'data-loader="/sandbox/loader/123.js" data-load-on="manual"></script>',
    )
    visit.log_in("ada")
    visit.run("new Promise(requestIdleCallback)")
    assert hubspot(site) == []
    visit.run("hubspotIdentify.load()")
    visit.expect_visitor("ada")


def test_a_page_without_templates_needs_two_attributes(visit: Visit, site: Site) -> None:
    """A single-page application of the same origin writes the element by hand."""
    site.page(
        "/",
        '<script src="/static/hubspot_identify/identify.js" defer data-endpoint="/hubspot/identity/" '
        'data-loader="/sandbox/loader/123.js"></script>',
    )
    visit.log_in("ada")
    visit.expect_visitor("ada")


def test_load_is_the_pages_own_word(visit: Visit, site: Site) -> None:
    """Where the page holds the chat back, hubspotIdentify.load() lets it go."""
    site.page("/", "<script>window.hsConversationsSettings = {loadImmediately: false}</script>{% hubspot_identify %}")
    visit.log_in("ada")
    visit.page.wait_for_function("window.HubSpotConversations && hsConversationsSettings.identificationToken")
    assert visit.happened("load") == []
    visit.run("hubspotIdentify.load()")
    visit.expect_visitor("ada")


# ---- a widget that is stuck


def test_a_stuck_chat_is_brought_back_once(visit: Visit, site: Site) -> None:
    """After 15 seconds of pending: removed and loaded again, and identified."""
    site.page("/", "{% hubspot_identify %}", loader="api=fail")
    site.answers = [answer("a", "ada@example.com")]
    visit.page.clock.install()
    visit.go()
    visit.wait_for("call failed")
    visit.run("__hubspotSandbox.knobs.api = ''")
    visit.page.clock.run_for(17_000)
    visit.wait_for("event")
    visit.page.clock.run_for(2_000)
    visit.page.clock.resume()
    visit.expect_visitor("ada")
    assert [each["pending"] for each in visit.happened("remove")] == [True]
    assert visit.happened("reset") == []


def test_a_chat_that_stays_stuck_is_given_up(visit: Visit, site: Site) -> None:
    """Not brought back a second time; the page is told, once."""
    site.page("/", "{% hubspot_identify %}", loader="api=fail")
    site.answers = [answer("a", "ada@example.com")]
    visit.page.clock.install()
    visit.go()
    for failures in (1, 2):
        visit.wait_for("call failed", failures)
        visit.page.clock.run_for(17_000)
    visit.page.clock.run_for(60_000)
    assert len(visit.happened("load")) == 2
    assert visit.run("heard") == [["failed", {"reason": "widget"}]]


def test_a_stuck_chat_in_use_is_left_alone(visit: Visit, site: Site) -> None:
    """Whoever is typing keeps the chat, though HubSpot never answered what was asked in between."""
    site.page("/", "{% hubspot_identify %}")
    site.answers = [answer("a", "ada@example.com")]
    visit.page.clock.install()
    visit.go()
    visit.expect_visitor("ada")
    visit.run("__hubspotSandbox.knobs.api = 'fail'")
    visit.page.clock.run_for(2_000)
    visit.run("hubspotIdentify.refresh()")
    visit.wait_for("call failed")
    visit.chat.locator("#launcher").click()
    visit.chat.get_by_label("Message").fill("half a sen")
    visit.wait_heard("userInteractedWithWidget")
    visit.page.clock.run_for(60_000)
    assert visit.happened("remove") == []
    expect(visit.chat.get_by_label("Message")).to_have_value("half a sen")


def test_a_display_delay_is_no_reason_to_hurry(visit: Visit, site: Site) -> None:
    """A pending chat is left alone as long as it may yet come."""
    site.page("/", "{% hubspot_identify %}", loader="delay=5000")
    site.answers = [answer("a", "ada@example.com")]
    visit.page.clock.install()
    visit.go()
    visit.wait_for("call answered")
    visit.page.clock.run_for(5_001)
    visit.page.clock.resume()
    visit.expect_visitor("ada")
    assert visit.happened("remove") == visit.happened("reset") == []
    assert len(visit.happened("load")) == 1


def test_the_launcher_is_readable_and_its_variables_are_told() -> None:
    """Each CSS variable that the first comment promises is used, and no other."""
    text = Path(find("hubspot_identify/launcher.js")).read_text()
    comment, code = text.split("*/", 1)
    used = set(re.findall(r"--hubspot-identify-([a-z-]+)", code))
    named = comment.split("CSS variables:")[1].replace("--hubspot-identify", "")
    promised = set(re.findall(r"(?<= -)[a-z]+(?:-[a-z]+)*", named))
    assert used == promised
