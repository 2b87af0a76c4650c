"""The user changes elsewhere: in another tab, on a sibling host, or while the endpoint does not respond."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.http import HttpResponse
from playwright.sync_api import Route, expect

from browser.conftest import Visit
from browser.site import ADA, Site, answer

pytestmark = pytest.mark.browser

REMEMBERED = "localStorage.getItem('hubspot-identify:subject')"
LOGIN_PAGE = "<h1>Log in</h1>"


def unavailable() -> HttpResponse:
    """What a load balancer sends during a deployment."""
    return HttpResponse(LOGIN_PAGE, status=503)


def redirect_to_login() -> HttpResponse:
    """What a middleware sends that lets anonymous visitors see no other page."""
    return HttpResponse(status=302, headers={"Location": "/login/?next=/hubspot/identity/"})


def login_page() -> HttpResponse:
    """What a middleware sends that renders the login page at every URL."""
    return HttpResponse(LOGIN_PAGE)


ANSWERED_BY_ANOTHER = [redirect_to_login, login_page, lambda: HttpResponse(status=403)]
UNKNOWN = pytest.mark.parametrize("response", [*ANSWERED_BY_ANOTHER, unavailable], ids=["302", "200", "403", "503"])
Response = Callable[[], HttpResponse]


def fail(site: Site, response: Response) -> None:
    """Let the endpoint fail, until :func:`recover`."""
    site.answers = [response] * 100  # type: ignore[list-item]


def recover(visit: Visit, site: Site) -> None:
    site.answers = []
    visit.run("dispatchEvent(new Event('online'))")


def show_tab(visit: Visit) -> None:
    """Do what a browser does when the tab comes to the front. Headless, a tab is always visible."""
    visit.run("document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))")


# ---- another tab


def test_response_from_before_the_user_switch_is_not_used(visit: Visit, other_tab: Visit, site: Site) -> None:
    """The first request of a page is slow, and a log-in in another tab overtakes it: both tabs show the new user."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    subject = visit.run(REMEMBERED)
    switched = threading.Event()

    def slow() -> HttpResponse:
        response = answer(subject, ADA)
        switched.wait(60)
        return response

    site.answers = [slow]
    with visit.page.expect_request("**/hubspot/identity/"):
        visit.go()
    other_tab.log_in("grace")
    other_tab.expect_visitor("grace")
    switched.set()
    visit.expect_visitor("grace")
    other_tab.expect_visitor("grace")
    assert visit.run(REMEMBERED) not in {None, subject}
    assert ADA not in [each["email"] for each in visit.happened("call")]


def test_stored_subject_is_corrected_by_a_response_for_the_same_visitor(visit: Visit, site: Site) -> None:
    """A tab that stored a former visitor too late does not decide what later pages remember."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    subject = visit.run(REMEMBERED)
    visit.run("localStorage.setItem('hubspot-identify:subject', 'subject-of-grace'), hubspotIdentify.update()")
    visit.page.wait_for_function(f"subject => {REMEMBERED} === subject", arg=subject)
    visit.expect_visitor("ada")
    assert visit.happened("reset") == []


def test_two_tabs_with_different_accounts_do_not_send_requests_forever(
    visit: Visit, other_tab: Visit, site: Site
) -> None:
    """One session has another subject in each account. The tabs correct each other once, and then stop."""
    site.page("/", "{% hubspot_identify %}")
    requests: list[str] = []

    def serve(name: str) -> Callable[[Route], None]:
        def handle(route: Route) -> None:
            requests.append(name)
            route.fulfill(json={"subject": f"subject-of-{name}", "identity": None})

        return handle

    for tab, name in ((visit, "one"), (other_tab, "two")):
        tab.page.route("**/hubspot/identity/", serve(name))
        tab.go()
        tab.wait_heard("ready")
    visit.page.wait_for_timeout(3000)  # there is no event for requests that are not sent
    assert len(requests) <= 8


# ---- a visitor who is unknown


@UNKNOWN
def test_chat_is_not_loaded_for_a_remembered_visitor_until_the_endpoint_responds(
    visit: Visit, site: Site, response: Response
) -> None:
    """After log-out, something else responds in place of the endpoint. Nobody sees the former chat or its thread."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    fail(site, response)
    visit.log_out()
    visit.wait_heard("failed")
    visit.page.wait_for_function("window.HubSpotConversations?.widget")
    visit.run("hubspotIdentify.open()")
    assert visit.happened("load") == []
    assert "identificationToken" not in visit.settings
    recover(visit, site)
    visit.expect_visitor("unknown")
    assert visit.run(REMEMBERED) is None
    assert visit.heard == ["failed", "reset", "ready", "anonymous"]


@UNKNOWN
def test_chat_is_hidden_after_a_user_switch_until_the_endpoint_responds(
    visit: Visit, other_tab: Visit, site: Site, response: Response
) -> None:
    """Another tab has stored another visitor, and this tab cannot find out which."""
    site.page("/", "{% hubspot_identify %}")
    site.page("/other/", "Another page.")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    other_tab.log_in("grace", "/other/")
    fail(site, response)
    other_tab.run("localStorage.setItem('hubspot-identify:subject', 'subject-of-grace')")
    expect(visit.container).to_be_hidden()
    assert visit.happened("remove") == visit.happened("reset") == []
    recover(visit, site)
    visit.expect_visitor("grace")
    expect(visit.container).to_be_visible()


@pytest.mark.parametrize("response", ANSWERED_BY_ANOTHER, ids=["302", "200", "403"])
def test_chat_is_hidden_if_another_page_responds(visit: Visit, site: Site, response: Response) -> None:
    """The session has ended on the server. No event says so, but the login page responds to the next request."""
    site.page("/", "{% hubspot_identify %}")
    visit.page.clock.install()
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.page.context.clear_cookies(name="user")
    fail(site, response)
    show_tab(visit)
    visit.page.clock.run_for(6000)
    expect(visit.container).to_be_hidden()
    visit.page.clock.resume()
    recover(visit, site)
    visit.expect_visitor("unknown")
    expect(visit.container).to_be_visible()


def test_failed_request_alone_does_not_hide_the_chat(visit: Visit, site: Site) -> None:
    """The endpoint fails while the same visitor goes on: the chat stays, with what has been typed."""
    site.page("/", "{% hubspot_identify %}")
    visit.page.clock.install()
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.chat.locator("#launcher").click()
    visit.chat.get_by_label("Message").fill("half a sen")
    fail(site, unavailable)
    show_tab(visit)
    visit.page.clock.run_for(6000)
    visit.wait_heard("failed")
    visit.page.clock.run_for(10_000)
    expect(visit.container).to_be_visible()
    expect(visit.chat.get_by_label("Message")).to_have_value("half a sen")
    assert visit.happened("remove") == visit.happened("reset") == []


def test_update_by_the_page_hides_the_chat_until_the_endpoint_responds(visit: Visit, site: Site) -> None:
    """The page says that the visitor may have changed, and the endpoint cannot say who it is."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    fail(site, unavailable)
    visit.run("hubspotIdentify.update()")
    expect(visit.container).to_be_hidden()
    recover(visit, site)
    expect(visit.container).to_be_visible()
    visit.expect_visitor("ada")
    assert visit.happened("reset") == []


RETRY_DELAYS = [2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000, 300000, 300000]  # milliseconds
NO_DELAY = """{
    const later = window.setTimeout;
    window.retries = [];
    window.setTimeout = (action, delay, ...rest) => {
        const isRetry = %s.includes(delay);
        if (isRetry) retries.push(delay);
        return later(action, isRetry ? 0 : delay, ...rest);
    };
}"""


def test_requests_are_repeated_with_growing_delays(visit: Visit, site: Site) -> None:
    """After 2 s, then after twice as long each time, at most after 5 min: few requests, and the chat comes back."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    fail(site, unavailable)
    site.answers = site.answers[: len(RETRY_DELAYS)]
    requests = len(site.asked("/hubspot/identity/"))
    visit.page.add_init_script(NO_DELAY % RETRY_DELAYS)
    visit.go()
    visit.expect_visitor("ada")
    visit.wait_heard("identified")
    assert visit.run("retries") == RETRY_DELAYS
    assert len(site.asked("/hubspot/identity/")) == requests + 1 + len(RETRY_DELAYS)
    assert visit.heard == ["failed", "ready", "identified"]


def test_running_embed_is_hidden_until_the_remembered_visitor_is_known(visit: Visit, site: Site) -> None:
    """A chat that has started without the script may show the former visitor's thread."""
    embed = '<script id="hs-script-loader" async src="/sandbox/loader/123.js"></script>'
    site.page("/", '{% hubspot_identify account="embedded" %}' + embed)
    site.page("/late/", embed + '<template>{% hubspot_identify account="embedded" %}</template>')
    visit.log_in("ada")
    visit.expect_visitor("ada")
    fail(site, unavailable)
    visit.log_out("/late/")
    expect(visit.container).to_be_visible()
    visit.run("document.body.append(document.querySelector('template').content.cloneNode(true))")
    expect(visit.container).to_be_hidden()
    recover(visit, site)
    visit.expect_visitor("unknown")
    expect(visit.container).to_be_visible()


def test_inline_page_without_endpoint_loads_no_chat_for_a_remembered_visitor(visit: Visit, site: Site) -> None:
    """A page that does not contain its visitor, and cannot request one, shows no chat if it remembers a visitor."""
    element = (
        '<script src="/static/hubspot_identify/identify.js" defer data-loader="/sandbox/loader/123.js"{}></script>'
    )
    site.page("/", element.format(' data-subject="subject-of-ada"'))
    site.page("/unknown/", element.format(""))
    visit.go("/unknown/")
    visit.expect_visitor("unknown")
    visit.go()
    visit.expect_visitor("unknown")
    visit.go("/unknown/")
    visit.page.wait_for_function("window.HubSpotConversations?.widget")
    visit.wait_heard("failed")
    assert visit.happened("load") == []
    assert [path for path in site.requests if path.startswith("/hubspot/")] == []


# ---- a visible tab


def test_visible_tab_requests_the_visitor_again(visit: Visit, site: Site) -> None:
    """A log-in on a sibling host with the same session cookie: no event in this tab until it is visible again."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.page.context.clear_cookies(name="user")
    sibling = {"name": "user", "value": "grace", "domain": ".shop.test", "path": "/"}
    visit.page.context.add_cookies([sibling])  # type: ignore[list-item]
    show_tab(visit)
    visit.expect_visitor("grace")
    assert visit.heard[-3:] == ["reset", "ready", "identified"]


def test_visible_tab_requests_the_visitor_at_most_every_five_seconds(visit: Visit, site: Site) -> None:
    """Going back and forth between tabs makes one request, which is late rather than left out."""
    site.page("/", "{% hubspot_identify %}")
    visit.page.clock.install()
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.page.clock.run_for(10_000)
    requests = len(site.asked("/hubspot/identity/"))
    with visit.page.expect_response("**/hubspot/identity/"):
        show_tab(visit)
        visit.page.clock.run_for(1000)
    for _ in range(5):
        show_tab(visit)
        visit.page.clock.run_for(500)
    assert len(site.asked("/hubspot/identity/")) == requests + 1
    with visit.page.expect_response("**/hubspot/identity/"):
        visit.page.clock.run_for(5000)
    assert len(site.asked("/hubspot/identity/")) == requests + 2


def test_hidden_tab_requests_nothing(visit: Visit, site: Site) -> None:
    """A tab that goes to the background has no reason to request the visitor."""
    site.page("/", "{% hubspot_identify %}")
    visit.page.add_init_script("Object.defineProperty(Document.prototype, 'hidden', {get: () => window.isHidden})")
    visit.page.clock.install()
    visit.log_in("ada")
    visit.expect_visitor("ada")
    requests = len(site.asked("/hubspot/identity/"))
    visit.run("window.isHidden = true")
    show_tab(visit)
    visit.page.clock.run_for(60_000)
    assert len(site.asked("/hubspot/identity/")) == requests
