"""How the identity gets to the widget: in the right order, once, and never at the page's expense."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
from django.http import HttpResponse, JsonResponse
from playwright.sync_api import Route, expect

from browser.conftest import Visit
from browser.site import Site, answer

pytestmark = pytest.mark.browser

EMBED = '<script id="hs-script-loader" async defer src="/sandbox/loader/123.js"></script>'
LOADER = re.compile(r"/sandbox/loader/")


def test_a_logged_in_visitor_is_known(visit: Visit, site: Site) -> None:
    """Deferred and cold: the endpoint is asked until the token is there, then the chat loads identified, once."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.wait_heard("identified")
    assert visit.heard == ["ready", "identified"]
    assert len(visit.happened("load")) == 1
    assert [each["email"] for each in visit.happened("identity read")] == ["ada@example.com"]
    assert visit.status == {"loaded": True, "pending": False, "state": "ready", "identified": True}


def test_a_warm_visitor_is_known_after_one_question(visit: Visit, site: Site) -> None:
    """Once the token is cached, one request of ours does, and no call."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    site.requests.clear()
    visit.go()
    visit.expect_visitor("ada")
    assert len(site.asked("/hubspot/identity/")) == 1
    assert site.calls == 1


def test_an_anonymous_visitor_gets_the_chat_too(visit: Visit, site: Site) -> None:
    """Nobody is logged in: one load, unidentified."""
    site.page("/", "{% hubspot_identify %}")
    visit.go()
    visit.expect_visitor("unknown")
    visit.wait_heard("anonymous")
    assert visit.heard == ["ready", "anonymous"]
    assert len(visit.happened("load")) == 1


def test_inline_needs_no_question(visit: Visit, site: Site) -> None:
    """The identity stands in the page, and nowhere any more once the script has read it."""
    site.page("/", '{% hubspot_identify account="inline" %}')
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert site.asked("/hubspot/") == []
    assert "ada@" not in visit.page.content()
    assert len(visit.happened("load")) == 1


# ---- order


def test_the_settings_of_the_page_are_kept_and_win(visit: Visit, site: Site) -> None:
    """What a page has set stays, in the very object it has made; ours are added."""
    site.page(
        "/",
        "<script>window.mine = window.hsConversationsSettings = {avoidInlineStyles: false, hideNewThreadLink: true}"
        "</script>{% hubspot_identify %}",
    )
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert visit.run("mine === hsConversationsSettings")
    token = visit.settings["identificationToken"]
    assert visit.settings == {
        "avoidInlineStyles": False,
        "hideNewThreadLink": True,
        "identificationEmail": "ada@example.com",
        "identificationToken": token,
    }


def test_the_ready_callbacks_of_the_page_are_kept(visit: Visit, site: Site) -> None:
    """A list that is there is added to, and its functions run."""
    site.page(
        "/",
        "<script>window.hsConversationsOnReady = [() => { window.ran = (window.ran ?? 0) + 1; }]</script>"
        "{% hubspot_identify %}",
    )
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert visit.run("ran") == len(visit.happened("ready callbacks")) == 2


def test_a_page_that_replaces_settings_and_list_afterwards(visit: Visit, site: Site) -> None:
    """Scripts that run behind ours and assign both anew lose nothing of their own, nor the identity."""
    site.page(
        "/",
        "{% hubspot_identify %}<script>document.addEventListener('DOMContentLoaded', () => {"
        "window.hsConversationsSettings = {disableAttachment: true};"
        "window.hsConversationsOnReady = [() => { window.ran = true; }]; })</script>",
    )
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert visit.run("ran")
    assert visit.settings["disableAttachment"] is True


@pytest.mark.parametrize("account", ["embedded", "embedded-inline"])
def test_before_the_embed_code_of_the_page(visit: Visit, site: Site, account: str) -> None:
    """Without PORTAL_ID, with the tag in head: no second loader, one load, identified from the start."""
    site.page("/", f'{{% hubspot_identify account="{account}" %}}<body>{EMBED}')
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert len(site.asked("/sandbox/loader/")) == 1
    assert [each["email"] for each in visit.happened("call")] == ["ada@example.com"]
    assert "loadImmediately" not in visit.settings


@pytest.mark.parametrize("account", ["embedded", "embedded-inline"])
def test_after_an_embed_that_is_running(visit: Visit, site: Site, account: str) -> None:
    """A chat that has started without us is identified in place, and keeps its thread."""
    site.page("/", EMBED)
    site.page("/tagged/", f"{EMBED}<template>{{% hubspot_identify account='{account}' %}}</template>")
    visit.go()
    visit.say("before the log-in")
    visit.log_in("ada", "/tagged/")
    visit.expect_visitor("unknown")
    visit.run("document.body.append(document.querySelector('template').content.cloneNode(true))")
    visit.expect_visitor("ada")
    expect(visit.chat.get_by_text("before the log-in")).to_be_visible()
    visit.wait_heard("identified")
    assert visit.happened("reset") == []


def test_an_embed_whose_page_replaces_our_settings(visit: Visit, site: Site) -> None:
    """The chat then starts for nobody, and is identified as soon as that is possible."""
    site.page(
        "/",
        '{% hubspot_identify account="embedded" %}'
        f"<body><script>window.hsConversationsSettings = {{disableAttachment: true}}</script>{EMBED}",
    )
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert visit.settings["disableAttachment"] is True


def test_a_page_that_holds_the_chat_back_itself(visit: Visit, site: Site) -> None:
    """Its own loadImmediately: false is respected; when it loads the chat, the visitor is known."""
    site.page(
        "/",
        f"<script>window.hsConversationsSettings = {{loadImmediately: false}}</script>{EMBED}"
        '{% hubspot_identify account="embedded" %}',
    )
    visit.log_in("ada")
    visit.page.wait_for_function("hsConversationsSettings.identificationToken && window.HubSpotConversations")
    assert visit.happened("load") == []
    visit.run("HubSpotConversations.widget.load()")
    visit.expect_visitor("ada")
    assert visit.settings["loadImmediately"] is False


def test_a_page_with_both_gets_one_loader(visit: Visit, site: Site) -> None:
    """Embed code that somebody forgot to take out does not bring the chat twice."""
    site.page("/", f"{EMBED}{{% hubspot_identify %}}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert len(site.asked("/sandbox/loader/")) == 1
    assert visit.happened("duplicate instance") == []


def test_two_tags_are_harmless(visit: Visit, site: Site) -> None:
    """One loader, one load, one identity."""
    site.page("/", "{% hubspot_identify %}<p>{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert len(site.asked("/sandbox/loader/")) == 1
    assert len(visit.happened("load")) == 1


# ---- waiting for the endpoint


def test_it_asks_again_after_growing_delays(visit: Visit, site: Site) -> None:
    """A 202 is asked again after 0.4, 1 and 2 seconds, and what comes then counts."""
    site.page("/", "{% hubspot_identify %}")
    not_yet = answer("subject-of-ada", status=202)
    site.answers = [not_yet, not_yet, not_yet, answer("subject-of-ada", "ada@example.com")]
    visit.go()
    visit.expect_visitor("ada")
    timing = visit.run(
        "performance.getEntriesByType('resource').filter(each => each.name.endsWith('/identity/'))"
        ".map(each => [each.startTime, each.responseEnd])"
    )
    delays = [start - end for (_, end), (start, _) in itertools.pairwise(timing)]
    assert len(delays) == 3
    assert all(delay >= least for delay, least in zip(delays, (390, 990, 1990), strict=True))
    assert len(visit.happened("load")) == 1


def test_it_gives_up_asking_and_loads_once(visit: Visit, site: Site) -> None:
    """After the fourth "not yet" the chat loads unidentified, and what comes later does not load it again."""
    site.page("/", "{% hubspot_identify %}")
    site.answers = [answer("subject-of-ada", status=202) for _ in range(4)]
    visit.go()
    visit.wait_heard("anonymous")
    visit.expect_visitor("unknown")
    assert site.answers == []
    assert len(site.asked("/hubspot/identity/")) == 4
    assert len(visit.happened("load")) == 1


FAILURES: dict[str, Callable[[], HttpResponse]] = {
    "403": lambda: HttpResponse("no", status=403),
    "404": lambda: HttpResponse("<h1>Not found</h1>", status=404),
    "500": lambda: HttpResponse("<h1>Server error</h1>", status=500),
    "503 with our shape": lambda: JsonResponse({"subject": None, "identity": None}, status=503),
    "HTML": lambda: HttpResponse("<h1>Please log in</h1>"),
    "a list": lambda: JsonResponse([], safe=False),
    "null": lambda: JsonResponse(None, safe=False),
    "another shape": lambda: JsonResponse({"identity": {"email": "eve@example.com", "token": "x"}}),
    "a redirect": lambda: HttpResponse(status=302, headers={"Location": "/login/?next=/hubspot/identity/"}),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_an_endpoint_in_trouble_means_unidentified(visit: Visit, site: Site, failure: str) -> None:
    """If no visitor is remembered, the chat loads for an anonymous one. Nothing that the browser keeps is cleared."""
    site.page("/", "{% hubspot_identify %}")
    visit.go()
    visit.expect_visitor("unknown")
    thread = visit.cookie("messagesUtk")
    site.answers = [FAILURES[failure]()]
    visit.go()
    visit.expect_visitor("unknown")
    visit.wait_heard("anonymous")
    assert visit.heard == ["failed", "ready", "anonymous"]
    assert visit.cookie("messagesUtk") == thread
    assert len(site.asked("/hubspot/identity/")) == 2


def test_offline_for_the_endpoint_means_unidentified(visit: Visit, site: Site) -> None:
    """A request that fails is like an endpoint in trouble."""
    site.page("/", "{% hubspot_identify %}")
    visit.page.route("**/hubspot/identity/", lambda route: route.abort("internetdisconnected"))
    visit.log_in("ada")
    visit.expect_visitor("unknown")
    assert visit.heard[0] == "failed"


def test_a_broken_hubspot_api_means_unidentified(visit: Visit, site: Site) -> None:
    """With the real endpoint and an API that answers 500: the chat is there, for an unknown visitor."""
    from hubspot_identify.sandbox.state import sandbox

    sandbox.set_mood("500")
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("unknown")


def test_without_an_endpoint_nothing_is_asked(visit: Visit, site: Site) -> None:
    """Inline, where the URLs are not routed: a question to nobody would be one more 404 in the site's log."""
    site.page(
        "/",
        '<script src="/static/hubspot_identify/identify.js" defer data-subject="" data-loader="/sandbox/loader/123.js">'
        "</script>",
    )
    visit.go()
    visit.expect_visitor("unknown")
    visit.run("hubspotIdentify.update()")
    visit.wait_heard("failed")
    assert [path for path in site.requests if "undefined" in path] == []


# ---- trouble with the loader


def blocked(route: Route) -> None:
    route.abort("blockedbyclient")


def missing(route: Route) -> None:
    route.fulfill(status=404, body="gone")


@pytest.mark.parametrize("trouble", [blocked, missing])
def test_a_loader_that_fails_leaves_a_working_page(visit: Visit, site: Site, trouble: Callable[[Route], None]) -> None:
    """No uncaught error, and the page is told."""
    site.page("/", "{% hubspot_identify %}")
    visit.page.route(LOADER, trouble)
    visit.log_in("ada")
    visit.wait_heard("failed")
    assert visit.run("heard") == [["failed", {"reason": "loader"}]]
    visit.run("hubspotIdentify.open(); hubspotIdentify.close(); hubspotIdentify.refresh()")
    assert visit.status == {"state": "failed", "identified": False}


def test_a_loader_that_never_arrives_is_given_up(visit: Visit, site: Site) -> None:
    """After 15 seconds the page is told that there is no chat."""
    site.page("/", "{% hubspot_identify %}")
    visit.page.route(LOADER, lambda route: None)
    visit.page.clock.install(time=0)
    visit.page.clock.pause_at(1000)
    site.answers = [answer("subject-of-ada", "ada@example.com")]
    visit.page.goto(site.url(), wait_until="domcontentloaded")
    visit.page.wait_for_function("hsConversationsSettings.identificationToken", polling="raf")
    visit.page.clock.run_for(14_900)
    assert visit.run("heard") == []
    visit.page.clock.run_for(200)
    assert visit.run("heard") == [["failed", {"reason": "loader"}]]


def test_an_embed_that_never_arrives_is_given_up(visit: Visit, site: Site) -> None:
    """The same where the page has HubSpot's embed code itself."""
    site.page("/", f'{{% hubspot_identify account="embedded" %}}{EMBED}')
    visit.page.route(LOADER, lambda route: None)
    visit.page.clock.install(time=0)
    visit.page.clock.pause_at(1000)
    site.answers = [answer("subject-of-ada", "ada@example.com")]
    visit.page.goto(site.url(), wait_until="commit")
    visit.page.wait_for_function("window.hsConversationsSettings?.identificationToken", polling="raf")
    visit.page.clock.run_for(15_100)
    assert visit.run("heard") == [["failed", {"reason": "loader"}]]


def test_a_loader_that_throws_leaves_a_working_page(visit: Visit, site: Site) -> None:
    """The only error in the page is the loader's own."""
    site.page("/", "{% hubspot_identify %}", loader="loader=throw")
    with visit.page.expect_event("pageerror"):
        visit.log_in("ada")
    visit.page.wait_for_function("hsConversationsSettings.identificationToken")
    assert len(visit.errors) == 1
    assert "told to throw" in visit.errors.pop()
    assert visit.status["state"] == "loading"


def test_a_widget_that_gets_wrong_settings_from_the_page_dies_alone(visit: Visit, site: Site) -> None:
    """HubSpot's own objection to the page's settings is the only error; ours stays calm."""
    site.page("/", "<script>window.hsConversationsSettings = {disableAttachment: 'yes'}</script>{% hubspot_identify %}")
    with visit.page.expect_event("pageerror"):
        visit.log_in("ada")
    assert "Invariant Violation" in visit.errors.pop()
    assert visit.errors == []
