"""What every visitor relies on, in Chromium, Firefox and WebKit, with the methods that all of them have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from browser.portable import ANONYMOUS, CONTAINER, LAUNCHER, PortableTab
from browser.site import ADA, CHAT_HOST, TAG, Site, require_package

pytestmark = [
    pytest.mark.browser,
    pytest.mark.browsers("chromium", "firefox", "webkit", reason="each is different"),
    pytest.mark.secure_host,
]

INLINE = '{% hubspot_identify account="inline" %}'
INTERACTION = '{% hubspot_identify account="interaction" %}'
CONSENT = '{% hubspot_identify account="consent" %}'
MESSAGE = "from before the log-in"
#: The values of HubSpot's cookie, of which there is one for each domain.
THREADS = "() => Array.from(document.cookie.matchAll(/messagesUtk=([^;]*)/g), ([, value]) => value)"
LIBRARIES = {"htmx": "htmx.org/dist/htmx.min.js", "Turbo": "@hotwired/turbo/dist/turbo.es2017-umd.js"}


@pytest.fixture
def tab(open_tab: Callable[[], PortableTab]) -> PortableTab:
    return open_tab()


def chat_text(tab: PortableTab) -> str:
    text: str = tab.run_in_chat("() => document.body.textContent")
    return text


def is_open(tab: PortableTab) -> bool:
    """Whether the chat in the page is open."""
    result: bool = tab.run_in_chat("() => !document.getElementById('panel').hidden")
    return result


# ---- visitors


def test_user_is_identified(tab: PortableTab, site: Site) -> None:
    """The chat of a user who is logged in is loaded once, with the user's identity."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    assert tab.events == ["ready", "identified"]
    assert tab.emails("call") == [ADA]
    assert tab.status["identified"] is True


def test_anonymous_visitor_gets_the_chat(tab: PortableTab, site: Site) -> None:
    """The chat is loaded once, without an identity."""
    site.page("/", TAG)
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_event("anonymous")
    assert tab.events == ["ready", "anonymous"]
    assert tab.emails("call") == [None]
    assert len(tab.logged("load")) == 1


def test_inline_page_makes_no_request(tab: PortableTab, site: Site) -> None:
    """The page contains the identity, until the script has read it."""
    site.page("/", INLINE)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert site.requested("/hubspot/") == []
    assert ADA not in tab.run("document.documentElement.outerHTML")


@pytest.mark.parametrize("tag", [TAG, INLINE], ids=["deferred", "inline"])
def test_log_out_ends_identity_and_conversation(tab: PortableTab, site: Site, tag: str) -> None:
    """A visitor writes a message, logs in and logs out. The next person sees neither the message nor the user."""
    site.page("/", tag)
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    tab.send_message(MESSAGE)
    assert MESSAGE in chat_text(tab)
    thread = tab.cookie("messagesUtk")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.log_out()
    tab.expect_visitor(ANONYMOUS)
    assert MESSAGE not in chat_text(tab)
    assert tab.cookie("messagesUtk") not in {None, thread}
    assert ADA not in tab.emails("call")


@pytest.mark.parametrize("tag", [TAG, INLINE], ids=["deferred", "inline"])
def test_another_user_gets_another_chat(tab: PortableTab, site: Site, tag: str) -> None:
    """A user logs in after another one, without a page between."""
    site.page("/", tag)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.log_in("grace")
    tab.expect_visitor("grace")
    tab.wait_for_event("identified")
    assert ADA not in tab.emails("call")


@pytest.mark.parametrize("following", ["grace", ANONYMOUS])
@pytest.mark.parametrize("tag", [TAG, INLINE], ids=["deferred", "inline"])
def test_back_button_does_not_show_the_former_visitor(tab: PortableTab, site: Site, tag: str, following: str) -> None:
    """The browser restores the page, or loads it again: the chat is that of the visitor who goes back."""
    site.page("/", tag, headers={"Cache-Control": "private, max-age=600"})
    site.page("/out/", "Another page")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    if following == ANONYMOUS:
        tab.log_out("/out/")
    else:
        tab.log_in(following, "/out/")
    tab.go_back()
    tab.wait_until("location.pathname === '/'")
    tab.expect_visitor(following)


@pytest.mark.parametrize("following", ["grace", ANONYMOUS])
def test_second_tab_notices_the_change(
    tab: PortableTab, open_tab: Callable[[], PortableTab], site: Site, following: str
) -> None:
    """A log-out, or a log-in as another user, changes the chat in the tabs that are open."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    other = open_tab()
    if following == ANONYMOUS:
        other.log_out()
    else:
        other.log_in(following)
    other.expect_visitor(following)
    tab.expect_visitor(following)
    assert (tab.settings.get("identificationEmail") is None) == (following == ANONYMOUS)


@pytest.mark.parametrize("place", ["next page", "same page"])
def test_log_out_ends_a_conversation_of_the_parent_domain(tab: PortableTab, site: Site, place: str) -> None:
    """HubSpot continues it on subdomains, with a cookie for each host. Its clear() deletes only that of one host."""
    site.page("/", TAG)
    tab.go()
    tab.send_message(MESSAGE)
    thread = tab.cookie("messagesUtk")
    site.origin = site.origin.replace("www.", "app.")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    assert tab.run(THREADS) == [thread, thread]
    if place == "next page":
        tab.log_out()
    else:
        tab.log_out_in_the_page()
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_event("anonymous")
    assert len(set(tab.run(THREADS)) - {thread}) == len(tab.run(THREADS)) == 1
    assert MESSAGE not in chat_text(tab)


def log_out_during_a_refresh(tab: PortableTab, site: Site) -> None:
    """Log out in the page while HubSpot responds to refresh(), until the page has noticed it."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    tab.run("__hubspotSandbox.options.latency = 1000, hubspotIdentify.refresh()")
    tab.wait_for_log("call", 2)
    tab.log_out_in_the_page()
    tab.wait_for_event("reset")


def test_refresh_in_progress_does_not_identify_the_next_visitor(tab: PortableTab, site: Site) -> None:
    """HubSpot passes its response to whichever chat is in the page. The reset waits for the response."""
    log_out_during_a_refresh(tab, site)
    tab.wait_for_visibility(False)
    tab.wait_for_event("anonymous")
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_visibility(True)
    shown = tab.logged("shown")
    (reset,) = tab.logged("reset")
    assert tab.logged("call answered")[1]["at"] <= reset["at"]
    assert {entry["visitor"] for entry in shown if entry["at"] > reset["at"]} == {ANONYMOUS}


def test_chat_opened_before_a_reset_is_that_of_the_next_visitor(tab: PortableTab, site: Site) -> None:
    """The chat of the former visitor is still there, and hidden."""
    log_out_during_a_refresh(tab, site)
    tab.run("hubspotIdentify.open()")
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_visibility(True)
    assert is_open(tab)


# ---- interaction


def test_mouse_loads_and_opens_the_chat(tab: PortableTab, site: Site) -> None:
    """Nothing is requested before. The pointer loads the chat, and a click opens it."""
    site.page("/", INTERACTION)
    tab.log_in("ada")
    tab.wait_until(f"document.querySelector('{LAUNCHER}')")
    assert site.hubspot_requests == []
    tab.hover(LAUNCHER)
    tab.expect_visitor("ada")
    assert not is_open(tab)
    tab.go()
    tab.click(LAUNCHER)
    tab.expect_visitor("ada")
    assert is_open(tab)
    assert not tab.run(f"document.querySelector('{LAUNCHER}')")


def test_keyboard_loads_and_opens_the_chat(tab: PortableTab, site: Site) -> None:
    """The focus loads the chat and stays on the button. Enter opens the chat, which then has the focus."""
    site.page("/", INTERACTION)
    tab.log_in("ada")
    tab.wait_until(f"document.querySelector('{LAUNCHER}')")
    tab.press("Tab")
    tab.wait_for_event("ready")
    assert tab.run(f"document.activeElement === document.querySelector('{LAUNCHER}')")
    tab.press("Enter")
    tab.wait_until(f"document.activeElement === document.querySelector('{CONTAINER} iframe')")
    tab.expect_visitor("ada")
    assert is_open(tab)


# ---- pages that change without a new document


@pytest.fixture(params=LIBRARIES)
def swapped(request: pytest.FixtureRequest, site: Site) -> None:
    """Two pages, whose links swap the body."""
    script = f'<script src="{require_package(LIBRARIES[request.param])}"></script>'
    links = '<a id=two href="/two/">two</a> <a id=out href="/logout/?next=/two/">out</a>'
    for path in ("/", "/two/"):
        site.page(path, f"{script}<body hx-boost=true><h1>{path}</h1>{links}{TAG}</body>")


def follow(tab: PortableTab, link: str) -> None:
    tab.run("window.isSameDocument = true")
    tab.click(link)
    tab.wait_until("document.querySelector('h1')?.textContent === '/two/'")


@pytest.mark.usefixtures("swapped")
def test_swapped_body_has_one_identified_chat(tab: PortableTab) -> None:
    """The chat is rebuilt after a swap and after going back, without a reset."""
    tab.log_in("ada")
    tab.expect_visitor("ada")
    follow(tab, "#two")
    tab.wait_for_log("drawn", 2)
    tab.expect_visitor("ada")
    tab.go_back()
    tab.wait_for_log("drawn", 3)
    tab.expect_visitor("ada")
    assert tab.run("window.isSameDocument")
    assert tab.logged("reset") == []


@pytest.mark.usefixtures("swapped")
def test_log_out_by_a_swap_removes_the_former_visitors_chat(tab: PortableTab) -> None:
    """The chat becomes anonymous, and stays so after going back."""
    tab.log_in("ada")
    tab.expect_visitor("ada")
    follow(tab, "#out")
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_event("anonymous")
    assert "identificationToken" not in tab.settings
    drawn = len(tab.logged("drawn"))
    tab.go_back()
    tab.wait_for_log("drawn", drawn + 1)
    tab.expect_visitor(ANONYMOUS)
    assert tab.run("window.isSameDocument")
    assert tab.emails("drawn")[1:] == [None] * drawn


# ---- policies and consent


@pytest.mark.parametrize("tag", [TAG, INTERACTION], ids=["page", "interaction"])
def test_strict_policy_is_not_violated(tab: PortableTab, site: Site, tag: str) -> None:
    """The scripts need no more than the page's nonce, and the style sheets and frames that the site allows."""
    chat = f"http://{CHAT_HOST}:*"
    policy = (
        "default-src 'none'; base-uri 'none'; script-src 'nonce-{nonce}' 'strict-dynamic'; "
        f"style-src 'self'; img-src data:; connect-src 'self'; frame-src {chat}"
    )
    site.page("/", tag, headers={"Content-Security-Policy": policy})
    tab.log_in("ada")
    if tag == INTERACTION:
        tab.click(LAUNCHER)
    tab.expect_visitor("ada")
    assert tab.run("violations") == []


def test_policy_violation_is_recorded(tab: PortableTab, site: Site) -> None:
    """The previous test can fail: an inline script without the nonce does not run, and is a violation."""
    site.page(
        "/", "<script>window.hasRun = true</script>", headers={"Content-Security-Policy": "script-src 'nonce-{nonce}'"}
    )
    tab.go()
    tab.wait_until("violations.length")
    assert tab.run("window.hasRun") is None


def test_consent_decides_about_the_chat(tab: PortableTab, site: Site) -> None:
    """Without consent, nothing is requested. After it is withdrawn, the page that is open has no chat any more."""
    site.page("/", CONSENT)
    tab.log_in("ada")
    assert site.hubspot_requests == []
    tab.set_cookie("consent", "yes")
    tab.go()
    tab.expect_visitor("ada")
    tab.delete_cookie("consent")
    tab.run("hubspotIdentify.update()")
    tab.wait_until(f"!document.querySelector('{CONTAINER}')")
    tab.wait_until("localStorage.length === 0")
    assert tab.cookie("messagesUtk") is None
    site.requests.clear()
    tab.go()
    assert tab.run("hubspotIdentify.load(), hubspotIdentify.open()") is None
    assert site.hubspot_requests == []
