"""When the chat is loaded: with the page, when the page is idle, at an interaction, or by a script of the page."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import CDPSession, Frame, Locator, Route, expect
from pytest_django import Settings
from support.browser import TIMEOUT
from support.manual import code_blocks
from support.programs import require

from browser.conftest import ANONYMOUS, Tab
from browser.site import ADA, EMBED_CODE, IDENTITY, LOADER, TAG, Site, identity_response, require_package

pytestmark = pytest.mark.browser

only_chromium = pytest.mark.browsers("chromium", reason="Firefox does not simulate this.")
INTERACTION = '{% hubspot_identify account="interaction" %}'
LAUNCHER = ".hubspot-identify-launcher"
INLINE = "<script>window.hsConversationsSettings = {inlineEmbedSelector: '#place'}</script><div id=place></div>"
#: What browsers before Safari 16.4 and Firefox 101 lack.
NO_STYLE_SHEETS = """
    delete Document.prototype.adoptedStyleSheets;
    window.CSSStyleSheet = class { constructor() { throw new TypeError("Illegal constructor"); } };
"""
#: The contrast between the lightest and the darkest pixel of an image. Its edge is left out.
CONTRAST = """async (image) => {
    const bytes = Uint8Array.from(atob(image), (byte) => byte.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes]));
    const [edge, width, height] = [10, bitmap.width - 20, bitmap.height - 20];
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.drawImage(bitmap, -edge, -edge);
    const {data} = context.getImageData(0, 0, width, height);
    const linear = (value) => value <= 0.03928 * 255 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
    const luminances = [];
    for (let at = 0; at < data.length; at += 4) {
        const [red, green, blue] = data.slice(at, at + 3);
        luminances.push(0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue));
    }
    luminances.sort((one, other) => one - other);
    return (luminances.at(-1) + 0.05) / (luminances[0] + 0.05);
}"""


def labels(tab: Tab) -> dict[str, str]:
    """The texts of the button, which the tag writes in the language of the page."""
    found: dict[str, str] = tab.run("JSON.parse(document.querySelector('script[data-labels]').dataset.labels)")
    return found


def contrast(tab: Tab) -> float:
    """Return the contrast of the button's text to its background, as the browser draws them."""
    measured: float = tab.run(CONTRAST, base64.b64encode(tab.button.screenshot()).decode())
    return measured


def box(element: Locator) -> dict[str, float]:
    """Return the distances of an element from the edges of the window."""
    found: dict[str, float] = element.evaluate("""(element) => {
        const {left, right, top, bottom} = element.getBoundingClientRect();
        const {clientWidth, clientHeight} = document.documentElement;
        return {left, right: clientWidth - right, top, bottom: clientHeight - bottom};
    }""")
    return found


def center(element: Locator) -> tuple[float, float]:
    rectangle = element.bounding_box()
    assert rectangle
    return rectangle["x"] + rectangle["width"] / 2, rectangle["y"] + rectangle["height"] / 2


def wait_for_focus(frame: Frame) -> None:
    """Wait until a frame has the keyboard. The chat's policy forbids ``eval()``, which Playwright's own method uses."""
    frame.evaluate(f"""() => new Promise((resolve, reject) => {{
        setTimeout(reject, {TIMEOUT}, new Error("The frame has not got the focus."));
        const check = () => document.hasFocus() ? resolve() : setTimeout(check, 20);
        check();
    }})""")


def devtools(tab: Tab) -> CDPSession:
    """Return a session of Chromium's DevTools protocol."""
    return tab.page.context.new_cdp_session(tab.page)


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


@pytest.mark.parametrize("is_loaded", [True, False], ids=["loaded", "loading"])
@pytest.mark.parametrize("inline", ["", INLINE], ids=["corner", "inline"])
def test_keyboard_opens_the_chat_and_focuses_it(tab: Tab, site: Site, inline: str, is_loaded: bool) -> None:
    """Focus loads the chat and stays on the button. Enter opens the chat, whose document then has the focus."""
    site.page("/", f"{inline}{INTERACTION}<a href=/>a link</a>")
    loader = tab.hold("**/sandbox/loader/**")
    tab.log_in("ada")
    tab.button.wait_for()
    tab.page.get_by_role("link").focus()
    tab.button.focus()
    if is_loaded:
        loader().continue_()
        tab.wait_for_event("ready")
        tab.wait_until("__hubspotSandbox.visitor === 'ada@example.com'")
        expect(tab.button).to_be_focused()
    tab.page.keyboard.press("Enter")
    if not is_loaded:
        loader().continue_()
    expect(tab.button).to_have_count(0)
    tab.wait_until("document.activeElement.id === 'hubspot-conversations-iframe'")
    tab.wait_until("__hubspotSandbox.visitor === 'ada@example.com'")
    (frame,) = tab.page.frames[1:]
    expect(frame.locator("#panel")).to_be_visible()
    wait_for_focus(frame)


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


@pytest.mark.parametrize("is_released_on_it", [True, False], ids=["released on it", "moved away"])
def test_button_stays_while_it_is_held(tab: Tab, site: Site, is_released_on_it: bool) -> None:
    """Hovering has loaded the chat, which covers the button when it is released. Moving away cancels the press."""
    site.page("/", INTERACTION)
    loader = tab.hold("**/sandbox/loader/**")
    tab.log_in("ada")
    tab.button.hover()
    tab.page.mouse.down()
    loader().continue_()
    tab.expect_visitor("ada")
    expect(tab.button).to_have_count(1)
    expect(tab.chat.locator("#panel")).to_be_hidden()
    if not is_released_on_it:
        tab.page.mouse.move(5, 5)
    tab.page.mouse.up()
    expect(tab.button).to_have_count(0)
    expect(tab.chat.locator("#panel")).to_be_visible(visible=is_released_on_it)


def test_moving_away_cancels_a_press_before_the_chat_is_ready(tab: Tab, site: Site) -> None:
    """The chat appears, and is not opened."""
    site.page("/", INTERACTION)
    loader = tab.hold("**/sandbox/loader/**")
    tab.log_in("ada")
    tab.button.hover()
    tab.page.mouse.down()
    tab.page.mouse.move(5, 5)
    tab.page.mouse.up()
    expect(tab.button).to_have_text(labels(tab)["open"])
    loader().continue_()
    tab.expect_visitor("ada")
    expect(tab.button).to_have_count(0)
    expect(tab.chat.locator("#panel")).to_be_hidden()


def test_held_button_is_not_removed_if_there_is_no_chat(tab: Tab, site: Site) -> None:
    """The release is a press: the visitor gets the message."""
    site.page("/", INTERACTION, loader="chat=none")
    tab.log_in("ada")
    tab.button.hover()
    tab.page.mouse.down()
    tab.wait_for_event("widgetHidden")
    expect(tab.button).to_have_count(1)
    tab.page.mouse.up()
    expect(tab.page.get_by_role("status")).to_have_text(labels(tab)["unavailable"])


@only_chromium
def test_long_press_opens_the_chat_when_it_ends(tab: Tab, site: Site) -> None:
    """The finger is held until the chat is ready. It selects no text, and the button stays under it."""
    site.page("/", f"<p>A text</p>{INTERACTION}")
    tab.log_in("ada")
    x, y = center(tab.button)
    touch = devtools(tab)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    tab.expect_visitor("ada")
    expect(tab.button).to_have_count(1)
    expect(tab.chat.locator("#panel")).to_be_hidden()
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(tab.chat.locator("#panel")).to_be_visible()
    expect(tab.button).to_have_count(0)


@only_chromium
def test_long_press_without_a_click_opens_the_chat(tab: Tab, site: Site) -> None:
    """Phones send no click at the end of a long press. The press selects no text."""
    site.page("/", f"<p>A text</p>{INTERACTION}", loader="latency=60000")
    tab.log_in("ada")
    x, y = center(tab.button)
    press = {"x": x, "y": y, "duration": 1500, "gestureSourceType": "touch"}
    tab.run("addEventListener('click', () => { window.isClicked = true; }, true)")
    devtools(tab).send("Input.synthesizeTapGesture", press)
    expect(tab.button).to_have_text(labels(tab)["loading"])
    assert not tab.run("window.isClicked")
    assert tab.run("getSelection().toString()") == ""


@only_chromium
def test_cancelled_touch_opens_nothing(tab: Tab, site: Site) -> None:
    """The finger has scrolled the page. The chat appears, and is not opened."""
    site.page("/", INTERACTION)
    tab.log_in("ada")
    x, y = center(tab.button)
    touch = devtools(tab)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    tab.expect_visitor("ada")
    touch.send("Input.dispatchTouchEvent", {"type": "touchCancel", "touchPoints": []})
    expect(tab.button).to_have_count(0)
    expect(tab.chat.locator("#panel")).to_be_hidden()


def test_long_press_opens_no_context_menu(tab: Tab, site: Site) -> None:
    """The mouse's context menu is still available. The text of the button cannot be selected."""
    site.page("/", INTERACTION)
    tab.go()
    opens_menu = """(button, pointerType) => button.dispatchEvent(
        new PointerEvent("contextmenu", {pointerType, bubbles: true, cancelable: true}))"""
    assert tab.button.evaluate(opens_menu, "touch") is False
    assert tab.button.evaluate(opens_menu, "mouse") is True
    expect(tab.button).to_have_css("user-select", "none")


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


@pytest.mark.browsers("chromium", reason="Playwright cannot emulate the preference in Firefox.")
def test_button_respects_reduced_motion(tab: Tab, site: Site) -> None:
    """With ``prefers-reduced-motion``, the button has neither transition nor animation."""
    site.page("/", INTERACTION, loader="latency=60000")

    def motion() -> list[str]:
        style = f"getComputedStyle(document.querySelector('{LAUNCHER} button'))"
        found: list[str] = tab.run(f"[{style}.animationName, {style}.transitionDuration]")
        return found

    tab.go()
    tab.button.click()
    assert motion() == ["hubspot-identify-launcher", "0.15s"]
    tab.page.emulate_media(reduced_motion="reduce")
    assert motion() == ["none", "0s"]


@pytest.mark.parametrize("color", ["", "#767676", "#ffd54f"], ids=["default", "dark enough", "light"])
def test_effects_keep_the_contrast_of_the_text(tab: Tab, site: Site, color: str) -> None:
    """At rest, under the mouse, and at both ends of the animation, the text has the contrast of the site's colors."""
    text = "#000" if color == "#ffd54f" else "#fff"
    variables = f"background: {color}; --hubspot-identify-color: {text}" if color else "inset: 1rem"
    shape = "--hubspot-identify-radius: 0; --hubspot-identify-font: 700 2rem sans-serif"
    site.page(
        "/", f"<style>:root {{ --hubspot-identify-{variables}; {shape} }}</style>{INTERACTION}", loader="latency=60000"
    )
    tab.go()
    assert (at_rest := contrast(tab)) >= 4.5
    tab.button.hover()
    tab.run("Promise.all(document.getAnimations().map((each) => each.finished))")
    assert contrast(tab) == pytest.approx(at_rest, abs=0.2)
    tab.button.click()
    for milliseconds in (0, 1199):
        (animation,) = tab.run(
            """(time) => document.getAnimations().map((each) => {
                each.pause();
                each.currentTime = time;
                return each.animationName;
            })""",
            milliseconds,
        )
        assert animation == LAUNCHER[1:]
        assert contrast(tab) >= 4.5


@only_chromium
def test_forced_colors_show_the_edge_and_the_focus(tab: Tab, site: Site) -> None:
    """With forced colors, the button has a border and a visible focus."""
    site.page("/", INTERACTION, loader="latency=60000")
    tab.page.emulate_media(forced_colors="active", color_scheme="dark")
    tab.go()
    assert contrast(tab) >= 4.5
    style = "(button) => [getComputedStyle(button).borderTopColor, getComputedStyle(button).backgroundColor]"
    border, background = tab.button.evaluate(style)
    assert border != background
    at_rest = tab.button.screenshot()
    tab.page.keyboard.press("Tab")
    expect(tab.button).to_be_focused()
    assert tab.button.screenshot() != at_rest


@only_chromium
def test_button_is_not_printed(tab: Tab, site: Site) -> None:
    """A fixed element would be printed on each page."""
    site.page("/", INTERACTION)
    tab.go()
    expect(tab.button).to_be_visible()
    tab.page.emulate_media(media="print")
    expect(tab.button).to_be_hidden()


# ---- the place of the button


@pytest.mark.parametrize("old", [False, True], ids=["", "without style sheets"])
def test_long_word_stays_inside_the_button(tab: Tab, site: Site, old: bool) -> None:
    """On a narrow window, the text wraps within the button and the message, which keep their distance to the edges."""
    word = "Kundenberatungsgesprächsterminvereinbarung"
    texts = json.dumps({"open": word, "loading": word, "unavailable": word})
    style = "<style>:root { --hubspot-identify-inset: 2rem }</style>"
    element = (
        f"<script src='/static/hubspot_identify/identify.js' defer data-endpoint='{IDENTITY}' data-loader='{LOADER}' "
        "data-load-on='interaction' data-launcher='/static/hubspot_identify/launcher.js' "
        f"data-labels='{texts}'></script>"
    )
    site.page("/", style + element)
    if old:
        tab.page.add_init_script(NO_STYLE_SHEETS)
    tab.page.set_viewport_size({"width": 320, "height": 480})
    loader = tab.hold("**/sandbox/loader/**")
    tab.go()

    def expect_to_fit(element: Locator) -> None:
        expect(element).to_have_text(word)
        distances = box(element)
        assert min(distances.values()) > 31.9, distances
        assert element.evaluate("(element) => element.scrollWidth <= element.clientWidth")
        assert tab.run("document.documentElement.scrollWidth <= innerWidth")

    expect_to_fit(tab.button)
    tab.button.click()
    loader().abort()
    expect(tab.button).to_have_count(0)
    expect_to_fit(tab.page.get_by_role("status"))


@pytest.mark.parametrize("old", [False, True], ids=["", "without style sheets"])
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_button_is_at_the_end_of_the_line(tab: Tab, site: Site, direction: str, old: bool) -> None:
    """That is left in a page that is written from right to left. The text has the direction of its own language."""
    site.page("/", f"<body dir={direction}>{INTERACTION}")
    if old:
        tab.page.add_init_script(NO_STYLE_SHEETS)
    tab.go()
    near, far = ("left", "right") if direction == "rtl" else ("right", "left")
    distances = box(tab.button)
    assert (distances[near], distances["bottom"]) == pytest.approx((16, 16), abs=0.1)
    assert distances[far] > 500
    expect(tab.button).to_have_css("direction", "ltr")
    # Beside the button, the page can still be clicked.
    height = tab.run("innerHeight") - 20
    assert tab.run("(y) => document.elementFromPoint(innerWidth / 2, y).tagName", height) in {"BODY", "HTML"}


@only_chromium
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
def test_button_avoids_the_bars_of_a_phone(tab: Tab, site: Site, direction: str) -> None:
    """The insets of the safe area are added to the site's own."""
    site.page("/", f"<body dir={direction}>{INTERACTION}")
    devtools(tab).send("Emulation.setSafeAreaInsetsOverride", {"insets": {"bottom": 34, "left": 44, "right": 50}})
    tab.go()
    distances = box(tab.button)
    assert distances["bottom"] == pytest.approx(16 + 34, abs=0.1)
    side, inset = ("left", 44) if direction == "rtl" else ("right", 50)
    assert distances[side] == pytest.approx(16 + inset, abs=0.1)


@pytest.mark.parametrize("old", [False, True], ids=["", "without style sheets"])
def test_style_does_not_violate_a_strict_policy(tab: Tab, site: Site, old: bool) -> None:
    """The button and its message are styled where the policy allows no style of the page."""
    site.page("/", INTERACTION, headers={"Content-Security-Policy": "style-src 'none'"})
    if old:
        tab.page.add_init_script(NO_STYLE_SHEETS)
    loader = tab.hold("**/sandbox/loader/**")
    tab.go()
    status = tab.page.get_by_role("status")
    expect(tab.button).to_have_css("background-color", "rgb(31, 95, 168)")
    tab.button.click()
    expect(status).to_have_text(labels(tab)["loading"])
    rectangle = status.bounding_box()
    assert rectangle
    assert rectangle["width"] <= 1  # only for screen readers
    loader().abort()
    expect(tab.button).to_have_count(0)
    expect(status).to_have_css("background-color", "rgb(31, 95, 168)")
    assert box(status)["right"] == pytest.approx(16, abs=0.1)
    assert tab.run("violations") == []


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


def test_visitor_is_identified_after_a_refresh_without_response(tab: Tab, site: Site) -> None:
    """HubSpot's API fails when the visitor logs in. The refresh is repeated after 15 seconds."""
    site.page("/", TAG)
    site.responses = [identity_response(None), identity_response("a", ADA)]
    tab.fake_clock()
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    tab.skip(2000)
    tab.run("__hubspotSandbox.options.api = 'fail', hubspotIdentify.update()")
    tab.skip(300)
    tab.wait_until("hsConversationsSettings.identificationToken")
    tab.skip(2000)
    tab.wait_for_log("call failed")
    tab.run("__hubspotSandbox.options.api = ''")
    tab.skip(15_000)
    tab.expect_visitor("ada")


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
