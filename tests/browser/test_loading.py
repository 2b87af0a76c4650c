"""When the chat is loaded: with the page, when the page is idle, at an interaction, or by a script of the page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect
from pytest_django import Settings
from support.manual import code_blocks
from support.programs import require

from browser.conftest import ANONYMOUS, CONTAINER, Tab
from browser.site import ADA, EMBED_CODE, IDENTITY, LOADER, TAG, Site, identity_response, require_package

pytestmark = pytest.mark.browser

INTERACTION = '{% hubspot_identify account="interaction" %}'
LAUNCHER = ".hubspot-identify-launcher"


def labels(tab: Tab) -> dict[str, str]:
    """The texts of the button, which the tag writes in the language of the page."""
    found: dict[str, str] = tab.run("JSON.parse(document.querySelector('script[data-labels]').dataset.labels)")
    return found


# ---- idle


def test_idle_loads_after_the_page(tab: Tab, site: Site) -> None:
    """Nothing is requested before the page has loaded with its images. Then the chat loads without an interaction."""
    site.page("/", '<img src="/picture/">{% hubspot_identify account="idle" %}')
    early: list[str] = []

    def serve_picture(route: Route) -> None:
        early.extend(site.hubspot_requests)
        route.fulfill(status=204)

    tab.page.route("**/picture/", serve_picture)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert early == []
    assert tab.run(
        "performance.getEntriesByType('resource').find(each => each.name.includes('/loader/')).startTime"
        " >= performance.getEntriesByType('navigation')[0].loadEventStart"
    )


def test_idle_element_added_to_a_loaded_page(tab: Tab, site: Site) -> None:
    """An element that is added later does not wait for the page's load event, which is over."""
    site.page("/", '<template>{% hubspot_identify account="idle" %}</template>')
    tab.log_in("ada")
    tab.insert_template()
    tab.expect_visitor("ada")


# ---- interaction


def test_hovering_the_button_loads_the_chat(tab: Tab, site: Site) -> None:
    """Before, the page requests only the app's two scripts. The chat replaces the button, and is not opened."""
    site.page("/", INTERACTION)
    tab.log_in("ada")
    expect(tab.button).to_have_text(labels(tab)["open"])
    tab.wait_until_idle()
    assert site.hubspot_requests == []
    assert site.token_calls == 0
    assert site.requested("/static/") == [f"/static/hubspot_identify/{name}.js" for name in ("identify", "launcher")]
    assert tab.status == {"state": "waiting", "identified": False}
    tab.button.hover()
    tab.expect_visitor("ada")
    expect(tab.button).to_have_count(0)
    expect(tab.chat.locator("#panel")).to_be_hidden()


def test_keyboard_focuses_and_opens_the_chat(tab: Tab, site: Site) -> None:
    """Focus loads the chat and stays on the button. Enter opens the chat, which then has the focus."""
    site.page("/", INTERACTION)
    tab.log_in("ada")
    tab.button.wait_for()
    tab.page.keyboard.press("Tab")
    tab.wait_for_event("ready")
    expect(tab.button).to_be_focused()
    tab.page.keyboard.press("Enter")
    expect(tab.chat.locator("#panel")).to_be_visible()
    tab.expect_visitor("ada")
    expect(tab.page.locator(f"{CONTAINER} iframe")).to_be_focused()


def test_button_is_removed_when_it_loses_the_focus(tab: Tab, site: Site) -> None:
    """A visitor who passes the button with the keyboard goes on, and HubSpot's own button replaces it."""
    site.page("/", f"{INTERACTION}<a href=/>a link</a>")
    tab.log_in("ada")
    tab.button.focus()
    tab.wait_for_event("ready")
    expect(tab.button).to_be_focused()
    tab.page.get_by_role("link").focus()
    expect(tab.button).to_have_count(0)
    expect(tab.page.get_by_role("link")).to_be_focused()
    expect(tab.chat.locator("#panel")).to_be_hidden()


def test_tag_in_the_head_waits_for_the_body(tab: Tab, site: Site) -> None:
    """The script of the button may run before the page has a body."""
    tag = '{% hubspot_identify account="embedded-interaction" %}'
    site.page("/", f"<head>{tag}<script src=/slow/></script></head><body>{EMBED_CODE}</body>")
    has_run = "({target}) => { window.launcherHasRun ||= /launcher/.test(target.src); }"
    tab.page.add_init_script(f'document.addEventListener("load", {has_run}, true)')
    slow = tab.hold("**/slow/")
    tab.page.goto(site.url("/"), wait_until="commit")
    tab.page.wait_for_function("window.launcherHasRun", polling=20)  # no frame is rendered yet
    assert not tab.run("document.body")
    slow().fulfill(body="")
    tab.button.click()
    expect(tab.chat.locator("#panel")).to_be_visible()


def test_press_during_which_the_chat_appears_is_a_click(tab: Tab, site: Site) -> None:
    """Hovering has loaded the chat, which covers the button when it is released."""
    site.page("/", INTERACTION)
    loader = tab.hold("**/sandbox/loader/**")
    tab.log_in("ada")
    tab.button.hover()
    tab.page.mouse.down()
    loader().continue_()
    tab.wait_for_event("ready")
    expect(tab.button).to_have_count(0)
    tab.page.mouse.up()
    expect(tab.chat.locator("#panel")).to_be_visible()


def test_click_opens_the_chat_and_announces_the_loading(tab: Tab, site: Site) -> None:
    """Until the chat is there, the button and a status message say that it is loading."""
    site.page("/", INTERACTION)
    loader = tab.hold("**/sandbox/loader/**")
    tab.log_in("ada")
    tab.button.click()
    expect(tab.button).to_have_text(labels(tab)["loading"])
    expect(tab.page.get_by_role("status")).to_have_text(labels(tab)["loading"])
    loader().continue_()
    expect(tab.chat.locator("#panel")).to_be_visible()
    expect(tab.button).to_have_count(0)
    assert len(tab.logged("load")) == 1


@pytest.mark.parametrize("reason", ["no chat on this page", "blocked loader"])
def test_click_without_an_available_chat_shows_a_message(tab: Tab, site: Site, reason: str) -> None:
    """The message replaces the button, and is removed after six seconds."""
    site.page("/", INTERACTION, loader="chat=none")
    if reason == "blocked loader":
        tab.block("**/sandbox/loader/**")
    tab.fake_clock()
    tab.log_in("ada")
    tab.button.click()
    tab.skip(2000)
    expect(tab.page.get_by_role("status")).to_have_text(labels(tab)["unavailable"])
    expect(tab.button).to_have_count(0)
    tab.skip(6100)
    expect(tab.page.locator(LAUNCHER)).to_have_count(0)


def test_hovering_without_an_available_chat_removes_the_button(tab: Tab, site: Site) -> None:
    """A visitor who has not clicked gets no message."""
    site.page("/", INTERACTION, loader="chat=none")
    tab.log_in("ada")
    tab.button.hover()
    expect(tab.page.locator(LAUNCHER)).to_have_count(0)


def test_button_opens_an_anonymous_chat_if_the_endpoint_fails(tab: Tab, site: Site) -> None:
    """The chat is available without an identity."""
    site.page("/", INTERACTION)
    tab.block(f"**{IDENTITY}**")
    tab.log_in("ada")
    tab.button.click()
    expect(tab.chat.locator("#panel")).to_be_visible()
    tab.expect_visitor(ANONYMOUS)


def test_button_is_translated(tab: Tab, site: Site, settings: Settings, tmp_path: Path) -> None:
    """The button has the language that Django has chosen for the page. The site may translate its texts itself."""
    site.page("/en/", INTERACTION)
    site.page("/de/", "{% load i18n %}{% language 'de' %}" + INTERACTION + "{% endlanguage %}")
    tab.go("/en/")
    english = labels(tab)["open"]
    expect(tab.button).to_have_text(english)
    folder = tmp_path / "de" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    header = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    (folder / "django.po").write_text(f'{header}msgid "{english}"\nmsgstr "Fragen Sie uns"\n')
    subprocess.run([require("msgfmt"), "-o", folder / "django.mo", folder / "django.po"], check=True)
    settings.LOCALE_PATHS = [str(tmp_path)]
    tab.go("/de/")
    expect(tab.button).to_have_text("Fragen Sie uns")
    expect(tab.page.get_by_role("complementary", name="Fragen Sie uns")).to_be_visible()


def test_axe_finds_no_accessibility_violation(tab: Tab, site: Site) -> None:
    """The button is checked in each state, and in a light and a dark color scheme."""
    axe = require_package("axe-core/axe.min.js")
    site.page(
        "/",
        f'<script src="{axe}"></script><script>document.documentElement.lang = "en"</script>'
        f"<main><h1>A page</h1></main>{INTERACTION}",
    )
    loader = tab.hold("**/sandbox/loader/**")
    # The message that there is no chat is removed after six seconds, which is too soon on a busy machine.
    tab.page.add_init_script("""{
        const later = window.setTimeout;
        window.setTimeout = (action, delay, ...rest) => later(action, delay >= 6000 ? 600_000 : delay, ...rest);
    }""")
    tab.page.emulate_media(reduced_motion="reduce")
    tab.go()

    def violations() -> list[str]:
        found: list[str] = []
        for dark in (True, False):
            tab.page.emulate_media(color_scheme="dark" if dark else "light")
            found += tab.run("axe.run().then(found => found.violations.map(({id, nodes}) => `${id} ${nodes[0].html}`))")
        return found

    tab.button.wait_for()
    assert violations() == []
    tab.button.focus()
    assert violations() == []
    tab.button.click()
    assert violations() == []
    loader().abort()
    expect(tab.page.get_by_role("status")).to_have_text(labels(tab)["unavailable"])
    expect(tab.page.get_by_role("status")).to_be_focused()
    assert violations() == []


def test_button_respects_reduced_motion(tab: Tab, site: Site) -> None:
    """With ``prefers-reduced-motion``, the button has neither transition nor animation."""
    site.page("/", INTERACTION, loader="latency=60000")

    def motion() -> list[str]:
        style = f"getComputedStyle(document.querySelector('{LAUNCHER} button'))"
        found: list[str] = tab.run(f"[{style}.animationName, {style}.transitionDuration]")
        return found

    tab.go()
    tab.button.click()
    assert motion() == ["hubspot-identify-launcher", "0.15s, 0.15s"]
    tab.page.emulate_media(reduced_motion="reduce")
    assert motion() == ["none", "0s"]


def test_documented_css_variables_change_the_button(tab: Tab, site: Site) -> None:
    """The manual's example is applied: each variable changes what its name says."""
    (css,) = code_blocks("docs/browser", "css")
    site.page("/", f"<style>{css}</style>{INTERACTION}")
    tab.go()
    variables: dict[str, str] = dict(re.findall(r"--hubspot-identify-([a-z-]+): (.+);", css))
    assert variables.keys() == {"background", "color", "inset", "radius", "font", "z-index"}
    properties = {"background": "background-color", "inset": "bottom", "radius": "border-radius"}
    region = tab.page.locator(LAUNCHER)
    for variable, value in variables.items():
        name = properties.get(variable, variable)
        element = region if variable in {"inset", "z-index"} else tab.button
        expected = tab.run(
            "([name, value]) => { const element = document.createElement('p'); document.body.append(element);"
            " element.style.position = 'fixed'; element.style.setProperty(name, value);"
            " return getComputedStyle(element).getPropertyValue(name); }",
            [name, value],
        )
        expect(element).to_have_css(name, expected)


@pytest.mark.parametrize("package", ["htmx.org/dist/htmx.min.js", "@hotwired/turbo/dist/turbo.es2017-umd.js"])
def test_button_survives_a_swap_of_the_body(tab: Tab, site: Site, package: str) -> None:
    """After a swap and after going back there is one button, which works. After its use, none comes back."""
    script = f'<script src="{require_package(package)}"></script>'
    for path, other in (("/", "/two/"), ("/two/", "/")):
        links = f'<body hx-boost=true><h1>{path}</h1><a href="{other}">on</a>'
        site.page(path, f"{script}{links}{INTERACTION}</body>")
    tab.fake_clock()
    tab.log_in("ada")
    expect(tab.button).to_have_count(1)
    tab.page.get_by_role("link", name="on").click()
    tab.page.get_by_role("heading", name="/two/").wait_for()
    expect(tab.button).to_have_count(1)
    tab.run("history.back()")
    tab.page.get_by_role("heading", name="/", exact=True).wait_for()
    expect(tab.button).to_have_count(1)
    assert site.hubspot_requests == []
    tab.button.click()
    expect(tab.chat.locator("#panel")).to_be_visible()
    tab.run("hubspotIdentify.close()")
    tab.skip(2000)
    tab.run("history.forward()")
    tab.page.get_by_role("heading", name="/two/").wait_for()
    tab.wait_for_log("drawn", 2)
    tab.skip(2000)
    tab.expect_visitor("ada")
    expect(tab.button).to_have_count(0)


# ---- by a script of the page


def test_manual_loads_nothing_before_load(tab: Tab, site: Site) -> None:
    """With ``data-load-on="manual"``, nothing is requested until ``hubspotIdentify.load()`` is called."""
    site.page(
        "/",
        f'<script src="/static/hubspot_identify/identify.js" defer data-endpoint="{IDENTITY}" '
        f'data-loader="{LOADER}" data-load-on="manual"></script>',
    )
    tab.log_in("ada")
    tab.wait_until_idle()
    assert site.hubspot_requests == []
    tab.run("hubspotIdentify.load()")
    tab.expect_visitor("ada")


def test_load_overrides_a_delay_by_the_page(tab: Tab, site: Site) -> None:
    """If the page sets ``loadImmediately: false``, ``hubspotIdentify.load()`` loads the chat."""
    site.page("/", f"<script>window.hsConversationsSettings = {{loadImmediately: false}}</script>{TAG}")
    tab.log_in("ada")
    tab.wait_until("window.HubSpotConversations && hsConversationsSettings.identificationToken")
    assert tab.logged("load") == []
    tab.run("hubspotIdentify.load()")
    tab.expect_visitor("ada")


# ---- a widget that stays pending


def test_stuck_chat_is_restarted_after_15_seconds(tab: Tab, site: Site) -> None:
    """The pending chat is removed, loaded again, and identified."""
    site.page("/", TAG, loader="api=fail")
    site.responses = [identity_response("a", ADA)]
    tab.fake_clock()
    tab.go()
    tab.wait_for_log("call failed")
    tab.run("__hubspotSandbox.options.api = ''")
    tab.skip(17_000)
    tab.wait_for_log("event")
    tab.skip(2000)
    tab.expect_visitor("ada")
    assert [entry["pending"] for entry in tab.logged("remove")] == [True]
    assert tab.logged("reset") == []


def test_chat_that_is_stuck_twice_fails(tab: Tab, site: Site) -> None:
    """The chat is restarted once. Then the page gets one event."""
    site.page("/", TAG, loader="api=fail")
    site.responses = [identity_response("a", ADA)]
    tab.fake_clock()
    tab.go()
    for failures in (1, 2):
        tab.wait_for_log("call failed", failures)
        tab.skip(17_000)
    tab.skip(60_000)
    assert len(tab.logged("load")) == 2
    assert tab.run("recordedEvents") == [["failed", {"reason": "widget"}]]


def test_stuck_chat_in_use_is_not_restarted(tab: Tab, site: Site) -> None:
    """A visitor who is typing keeps the chat, although HubSpot has not responded to a refresh."""
    site.page("/", TAG)
    site.responses = [identity_response("a", ADA)]
    tab.fake_clock()
    tab.go()
    tab.expect_visitor("ada")
    tab.run("__hubspotSandbox.options.api = 'fail'")
    tab.skip(2000)
    tab.run("hubspotIdentify.refresh()")
    tab.skip(100)
    tab.wait_for_log("call failed")
    tab.type_message("half a sen")
    tab.wait_for_event("userInteractedWithWidget")
    tab.skip(60_000)
    assert tab.logged("remove") == []
    expect(tab.chat.get_by_label("Message")).to_have_value("half a sen")


def test_display_delay_causes_no_restart(tab: Tab, site: Site) -> None:
    """A chat that HubSpot shows after five seconds is pending until then."""
    site.page("/", TAG, loader="delay=5000")
    site.responses = [identity_response("a", ADA)]
    tab.fake_clock()
    tab.go()
    tab.wait_for_log("call answered")
    tab.skip(5001)
    tab.expect_visitor("ada")
    assert tab.logged("remove") == tab.logged("reset") == []
    assert len(tab.logged("load")) == 1
