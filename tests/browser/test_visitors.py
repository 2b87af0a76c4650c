"""Another visitor, or none any more: the next person never sees the former identity or thread."""

from __future__ import annotations

import pytest
from django.http import HttpResponse
from playwright.sync_api import expect

from browser.conftest import HOST, Visit
from browser.site import ADA, Site, answer
from hubspot_identify.sandbox.state import sandbox

pytestmark = pytest.mark.browser

REMEMBERED = "localStorage.getItem('hubspot-identify:subject')"
GRACE = "grace@example.com"
SECRET = "before the log-in"


def plant_thread(visit: Visit) -> str:
    """An anonymous conversation in this browser; its name."""
    visit.page.context.add_cookies(
        [{"name": "messagesUtk", "value": "utk-of-before", "domain": ".shop.test", "path": "/", "sameSite": "Lax"}]
    )
    sandbox.say(SECRET, utk="utk-of-before")
    return "utk-of-before"


# ---- from page to page


def test_log_in_keeps_the_anonymous_thread(visit: Visit, site: Site) -> None:
    """Whoever logs in goes on where they were; nothing is cleared."""
    site.page("/", "{% hubspot_identify %}")
    thread = plant_thread(visit)
    visit.go()
    expect(visit.chat.get_by_text(SECRET)).to_have_count(1)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert visit.cookie("messagesUtk") == thread
    assert "reset" not in visit.heard


def test_log_out_clears_the_identity_and_the_thread_from_before(visit: Visit, site: Site) -> None:
    """An anonymous conversation, a log-in, a log-out: the next person sees neither conversation."""
    site.page("/", "{% hubspot_identify %}")
    thread = plant_thread(visit)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert visit.run(REMEMBERED)
    visit.log_out()
    visit.expect_visitor("unknown")
    visit.wait_heard("anonymous")
    assert visit.heard == ["reset", "ready", "anonymous"]
    expect(visit.chat.get_by_text(SECRET)).to_have_count(0)
    assert visit.cookie("messagesUtk") not in {None, thread}
    assert visit.run(REMEMBERED) is None


def test_log_out_clears_where_the_chat_never_loads(visit: Visit, site: Site) -> None:
    """HubSpot's cookies go without HubSpot: all six, from the domain that they were set on."""
    site.page("/", "{% hubspot_identify %}")
    plant_thread(visit)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    widget = ("position_left", "position_right", "size")
    names = ["is-open", "hide-welcome-message", *(f"widget-{each}" for each in widget)]
    visit.page.context.add_cookies(
        [{"name": f"hs-messages-{name}", "value": "true", "domain": ".shop.test", "path": "/"} for name in names]
    )
    visit.page.route("**/sandbox/loader/**", lambda route: route.abort())
    visit.log_out()
    visit.wait_heard("reset")
    assert visit.page.context.cookies() == []


def test_another_user_after_a_redirect(visit: Visit, site: Site) -> None:
    """Log-out and log-in as somebody else without a page between: the other one, and nothing of before."""
    site.page("/", "{% hubspot_identify %}")
    plant_thread(visit)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.log_in("grace")
    visit.expect_visitor("grace")
    visit.wait_heard("identified")
    assert visit.heard == ["reset", "ready", "identified"]
    assert visit.cookie("messagesUtk") is None


def test_inline_pages_clear_as_well(visit: Visit, site: Site) -> None:
    """A page that carries its visitor is no less careful with the one before."""
    site.page("/", '{% hubspot_identify account="inline" %}')
    plant_thread(visit)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.log_out()
    visit.expect_visitor("unknown")
    expect(visit.chat.get_by_text(SECRET)).to_have_count(0)


def test_an_embed_that_is_running_is_reset(visit: Visit, site: Site) -> None:
    """Also a chat that has started without us must not go on with a former visitor's thread."""
    embed = '<script id="hs-script-loader" async src="/sandbox/loader/123.js"></script>'
    site.page("/", '{% hubspot_identify account="embedded" %}' + embed)
    site.page("/late/", embed + '<template>{% hubspot_identify account="embedded" %}</template>')
    plant_thread(visit)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.log_out("/late/")
    expect(visit.chat.get_by_text(SECRET)).to_have_count(1)
    visit.run("document.body.append(document.querySelector('template').content.cloneNode(true))")
    visit.wait_heard("anonymous")
    visit.expect_visitor("unknown")
    expect(visit.chat.get_by_text(SECRET)).to_have_count(0)


def test_without_storage_nothing_is_known_and_nothing_cleared(visit: Visit, site: Site) -> None:
    """A browser that refuses localStorage: the chat works, and no anonymous visitor loses a thread."""
    site.page("/", "{% hubspot_identify %}")
    visit.page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }})"
    )
    thread = plant_thread(visit)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.log_out()
    visit.expect_visitor("unknown")
    assert visit.cookie("messagesUtk") == thread
    assert "reset" not in visit.heard


# ---- in a living page


def test_the_keys_go_before_the_clear(visit: Visit, site: Site) -> None:
    """A log-out that the page notices: HubSpot, cleared, reads settings without an identity."""
    site.page("/", "{% hubspot_identify %}")
    plant_thread(visit)
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.page.context.clear_cookies(name="user")
    visit.run("hubspotIdentify.update()")
    visit.wait_heard("anonymous")
    visit.expect_visitor("unknown")
    order = [each["what"] for each in visit.run("__hubspotSandbox.log") if each["what"] in {"clear", "identity read"}]
    assert order == ["identity read", "clear", "identity read"]
    assert visit.happened("identity read")[-1]["email"] is None
    expect(visit.chat.get_by_text(SECRET)).to_have_count(0)


def test_another_visitor_in_a_living_page(visit: Visit, site: Site) -> None:
    """The chat is rebuilt for the other one, once, and events go on being told."""
    site.page("/", "{% hubspot_identify %}")
    site.answers = [answer("a", ADA), answer("g", GRACE)]
    visit.go()
    visit.expect_visitor("ada")
    visit.run("hubspotIdentify.update()")
    visit.expect_visitor("grace")
    visit.wait_heard("identified", 2)
    assert visit.heard == ["ready", "identified", "reset", "ready", "identified"]
    assert len(visit.happened("reset")) == 1
    visit.say("Hello")
    visit.wait_heard("conversationStarted")


def test_a_page_that_holds_the_chat_back_gets_it_back_after_a_reset(visit: Visit, site: Site) -> None:
    """With the page's own loadImmediately: false the reset chat has to be loaded again."""
    site.page("/", "<script>window.hsConversationsSettings = {loadImmediately: false}</script>{% hubspot_identify %}")
    site.answers = [answer("a", ADA), answer("g", GRACE)]
    visit.go()
    visit.page.wait_for_function("window.HubSpotConversations && hsConversationsSettings.identificationToken")
    visit.run("HubSpotConversations.widget.load()")
    visit.expect_visitor("ada")
    visit.run("hubspotIdentify.update()")
    visit.expect_visitor("grace")


def test_an_anonymous_visitor_is_identified_in_place(visit: Visit, site: Site) -> None:
    """A log-in without a new page keeps the conversation, now as the contact's."""
    site.page("/", "{% hubspot_identify %}")
    plant_thread(visit)
    site.answers = [answer(None), answer("a", ADA)]
    visit.go()
    visit.expect_visitor("unknown")
    visit.run("hubspotIdentify.update()")
    visit.expect_visitor("ada")
    expect(visit.chat.get_by_text(SECRET)).to_have_count(1)
    assert visit.happened("reset") == []


def test_reset_forgets_at_once(visit: Visit, site: Site) -> None:
    """hubspotIdentify.reset() is the log-out of a page that stays; it asks nobody."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    asked = len(site.asked("/hubspot/"))
    visit.run("hubspotIdentify.reset()")
    visit.expect_visitor("unknown")
    visit.wait_heard("anonymous")
    assert visit.run(REMEMBERED) is None
    assert len(site.asked("/hubspot/")) == asked


def test_a_pending_chat_is_not_reset(visit: Visit, site: Site) -> None:
    """A visitor who changes during the display delay: the reset waits, and the former chat does not stay."""
    site.page("/", "{% hubspot_identify %}", loader="delay=10000")
    site.answers = [answer("a", ADA), answer(None)]
    visit.page.clock.install()
    visit.go()
    visit.wait_for("call answered")
    visit.run("hubspotIdentify.update()")
    visit.wait_heard("reset")
    assert "identificationToken" not in visit.settings
    assert visit.status["pending"]
    visit.run("__hubspotSandbox.knobs.delay = 0")
    visit.page.clock.run_for(10_001)
    visit.page.clock.resume()
    visit.wait_for("reset")
    assert [each["pending"] for each in visit.happened("reset")] == [False]
    visit.wait_heard("anonymous")
    visit.expect_visitor("unknown")


def test_a_former_visitors_chat_that_never_settles_ends_with_the_page(visit: Visit, site: Site) -> None:
    """Stuck, it can't be reset without bringing the former visitor back: after 15 seconds the page is loaded anew."""
    site.page("/", "{% hubspot_identify %}", loader="api=fail")
    site.answers = [answer("a", ADA), answer(None)]
    visit.page.clock.install()
    visit.go()
    visit.wait_for("call failed")
    visit.run("hubspotIdentify.update()")
    visit.page.clock.run_for(300)
    visit.page.wait_for_function("heard.some(each => each[0] === 'reset')", polling="raf")
    with visit.page.expect_navigation():
        visit.page.clock.run_for(16_000)
    assert len(site.asked("/sandbox/loader/")) == 2
    assert visit.run("heard.length") == 0


# ---- two tabs


def test_a_log_out_in_another_tab(visit: Visit, other_tab: Visit, site: Site) -> None:
    """Every tab notices, and clears its own chat."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    other_tab.log_out()
    other_tab.expect_visitor("unknown")
    visit.expect_visitor("unknown")
    assert "identificationToken" not in visit.settings


def test_another_user_in_another_tab(visit: Visit, other_tab: Visit, site: Site) -> None:
    """Every tab becomes the other one's; the tabs do not keep each other busy."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    other_tab.log_in("grace")
    other_tab.expect_visitor("grace")
    visit.expect_visitor("grace")
    visit.wait_heard("identified", 2)
    asked = len(site.asked("/hubspot/identity/"))
    other_tab.page.wait_for_timeout(700)  # nothing to wait for: that nothing happens is the point
    assert len(site.asked("/hubspot/identity/")) == asked


def test_a_storage_that_is_emptied_is_a_doubt(visit: Visit, other_tab: Visit, site: Site) -> None:
    """Sites that empty it at log-out name no key; the open tabs ask who is there now."""
    site.page("/", "{% hubspot_identify %}")
    site.page("/out/", "<script>localStorage.clear()</script>")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    other_tab.log_out("/out/")
    visit.expect_visitor("unknown")


def test_a_page_that_asks_for_the_chat_later_asks_who_is_there_then(visit: Visit, site: Site) -> None:
    """Log-out and log-in of an application that stays in its page, before anybody wanted the chat."""
    site.page("/", '{% hubspot_identify account="interaction" %}')
    visit.log_in("grace")
    visit.run("hubspotIdentify.reset()")
    visit.page.context.add_cookies([{"name": "user", "value": "ada", "domain": HOST, "path": "/"}])
    visit.run("hubspotIdentify.update(), hubspotIdentify.open()")
    visit.expect_visitor("ada")
    assert [each["email"] for each in visit.happened("identity read")] == [ADA]


# ---- an old page


def test_an_inline_page_from_the_browsers_cache_is_not_believed(visit: Visit, site: Site) -> None:
    """The back button shows a stored page of the former visitor: its script asks instead of believing it."""
    site.page("/", '{% hubspot_identify account="inline" %}', headers={"Cache-Control": "private, max-age=600"})
    site.page("/out/", '{% hubspot_identify account="inline" %}')
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.log_out("/out/")
    visit.expect_visitor("unknown")
    pages = site.requests.count("/")
    visit.page.go_back()
    visit.expect_visitor("unknown")
    assert site.requests.count("/") == pages
    assert len(site.asked("/hubspot/identity/inline/")) == 1
    assert [each["email"] for each in visit.happened("identity read")] == [None]


def test_an_inline_page_that_any_cache_held_is_not_believed(visit: Visit, site: Site) -> None:
    """A link leads to a page that the browser still has from the former visitor."""
    site.page("/", '{% hubspot_identify account="inline" %}', headers={"Cache-Control": "private, max-age=600"})
    site.page("/out/", '{% hubspot_identify account="inline" %}<a href="/">on</a>')
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.log_out("/out/")
    visit.expect_visitor("unknown")
    pages = site.requests.count("/")
    visit.page.get_by_role("link", name="on").click()
    visit.page.wait_for_url(site.url("/"))
    visit.expect_visitor("unknown")
    assert site.requests.count("/") == pages
    assert [each["email"] for each in visit.happened("identity read")] == [None]


# ---- an expired identity


def an_hour_passes(visit: Visit) -> None:
    """Which is how long the answers of these tests hold."""
    visit.page.clock.fast_forward(3_600_000)
    visit.page.clock.resume()


def test_an_expired_identity_is_asked_for_again(visit: Visit, site: Site) -> None:
    """A page that was left open gets a fresh token, and the same visitor keeps the chat."""
    site.page("/", "{% hubspot_identify %}")
    site.answers = [answer("a", ADA), answer("a", ADA)]
    visit.page.clock.install()
    visit.go()
    visit.expect_visitor("ada")
    visit.wait_heard("identified")
    token = visit.settings["identificationToken"]
    an_hour_passes(visit)
    visit.page.wait_for_function(
        "token => ![undefined, token].includes(hsConversationsSettings.identificationToken)", arg=token
    )
    visit.wait_for("refresh")
    visit.expect_visitor("ada")
    assert visit.happened("reset") == []
    assert visit.heard == ["ready", "identified"]


def test_whoever_has_gone_when_the_identity_expires_is_cleared(visit: Visit, site: Site) -> None:
    """A session that ended meanwhile ends the chat's identity with it."""
    site.page("/", "{% hubspot_identify %}")
    site.answers = [answer("a", ADA), answer(None)]
    visit.page.clock.install()
    visit.go()
    visit.expect_visitor("ada")
    visit.wait_heard("identified")
    an_hour_passes(visit)
    visit.expect_visitor("unknown")
    assert visit.heard[:3] == ["ready", "identified", "reset"]


def test_an_endpoint_in_trouble_does_not_bring_an_expired_identity_back(visit: Visit, site: Site) -> None:
    """An expired token is taken out of the settings, whatever the endpoint says."""
    site.page("/", "{% hubspot_identify %}")
    site.answers = [answer("a", ADA), *(HttpResponse(status=500) for _ in range(9))]
    visit.page.clock.install()
    visit.go()
    visit.expect_visitor("ada")
    an_hour_passes(visit)
    visit.wait_heard("failed")
    assert "identificationToken" not in visit.settings
    assert "identificationEmail" not in visit.settings
    assert visit.happened("reset") == []


def test_the_host_of_these_tests_is_one_with_www() -> None:
    """HubSpot's cookies are set for the domain without it, which is what the tests above are about."""
    assert HOST.startswith("www.")
