"""The user changes elsewhere: in another tab, on a sibling host, or while the endpoint does not respond."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.http import HttpResponse
from playwright.sync_api import Route, expect

from browser.conftest import ANONYMOUS, STORED_SUBJECT, Tab
from browser.portable import IS_VISIBLE
from browser.site import ADA, EMBED_CODE, GRACE, IDENTITY, LOADER, TAG, Site, identity_response

pytestmark = pytest.mark.browser

Response = Callable[[], HttpResponse]


def unavailable() -> HttpResponse:
    """What a load balancer sends during a deployment."""
    return HttpResponse("<h1>Please wait</h1>", status=503)


def redirect_to_login() -> HttpResponse:
    """What a middleware sends that requires a log-in for every page."""
    return HttpResponse(status=302, headers={"Location": f"/login/?next={IDENTITY}"})


def login_page() -> HttpResponse:
    """What a middleware sends that renders the login page at every URL."""
    return HttpResponse("<h1>Log in</h1>")


def fail(site: Site, response: Response) -> None:
    """Let the endpoint fail, until :func:`recover`."""
    site.responses = [response] * 100


def recover(tab: Tab, site: Site) -> None:
    site.responses = []
    tab.run("dispatchEvent(new Event('online'))")


def show_tab(tab: Tab) -> None:
    """Do what a browser does when the tab comes to the front. A headless browser's tabs are always visible."""
    tab.run("document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))")


# ---- another tab


def test_response_from_before_the_user_switch_is_not_used(tab: Tab, other_tab: Tab, site: Site) -> None:
    """During the slow first request of a page, the user logs in in another tab. Both tabs show the new user."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    subject = tab.run(STORED_SUBJECT)
    switched = threading.Event()

    def slow() -> HttpResponse:
        response = identity_response(subject, ADA)
        switched.wait(60)
        return response

    site.responses = [slow]
    with tab.page.expect_request("**/hubspot/identity/"):
        tab.go()
    other_tab.log_in("grace")
    other_tab.expect_visitor("grace")
    switched.set()
    tab.expect_visitor("grace")
    other_tab.expect_visitor("grace")
    assert tab.run(STORED_SUBJECT) not in {None, subject}
    assert ADA not in tab.emails("call")


def test_stored_subject_is_corrected_by_a_response_for_the_same_visitor(tab: Tab, site: Site) -> None:
    """A tab that stores a former visitor too late does not decide which visitor later pages remember."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    subject = tab.run(STORED_SUBJECT)
    tab.run("localStorage.setItem('hubspot-identify:subject', 'subject-of-grace'), hubspotIdentify.update()")
    tab.wait_until(f"subject => {STORED_SUBJECT} === subject", subject)
    tab.expect_visitor("ada")
    assert tab.logged("reset") == []


def test_tabs_with_different_accounts_stop_sending_requests(tab: Tab, other_tab: Tab, site: Site) -> None:
    """One session has another subject in each account. The tabs correct each other once."""
    site.page("/", TAG)
    requests: list[str] = []

    def serve(name: str) -> Callable[[Route], None]:
        def handle(route: Route) -> None:
            requests.append(name)
            route.fulfill(json={"subject": f"subject-of-{name}", "identity": None})

        return handle

    for each, name in ((tab, "one"), (other_tab, "two")):
        each.page.route("**/hubspot/identity/", serve(name))
        each.go()
        each.wait_for_event("ready")
    tab.page.wait_for_timeout(2000)  # no event says that no more requests are sent
    assert len(requests) <= 8


# ---- an endpoint that fails


@pytest.mark.parametrize("response", [redirect_to_login, unavailable])
def test_chat_is_not_loaded_for_a_remembered_visitor_until_the_endpoint_responds(
    tab: Tab, site: Site, response: Response
) -> None:
    """After log-out, the endpoint fails. The former visitor's chat and conversation are not shown."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    fail(site, response)
    tab.log_out()
    tab.wait_for_event("failed")
    tab.run("hubspotIdentify.open()")
    tab.wait_until_idle()
    assert tab.logged("load") == []
    assert "identificationToken" not in tab.settings
    recover(tab, site)
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_event("anonymous")
    assert tab.run(STORED_SUBJECT) is None
    assert tab.events == ["failed", "reset", "ready", "anonymous"]


def test_chat_stays_hidden_if_the_widget_changes_the_style_of_its_container(tab: Tab, site: Site) -> None:
    """The endpoint does not say who the visitor is."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    fail(site, login_page)
    tab.run("hubspotIdentify.update()")
    tab.wait_for_visibility(False)
    tab.run("HubSpotConversations.widget.open()")
    tab.wait_until("document.cookie.includes('hs-messages-is-open=true')")
    assert not tab.run(IS_VISIBLE)


def test_response_without_a_token_is_not_used_if_the_next_request_fails(tab: Tab, site: Site) -> None:
    """The session has ended while the browser waited for the token."""
    site.page("/", TAG)
    site.responses = [identity_response("a", status=202), redirect_to_login()]
    tab.go()
    tab.wait_for_event("failed")
    assert tab.run(STORED_SUBJECT) is None


def test_former_visitors_chat_is_hidden_while_the_next_visitor_has_no_token(tab: Tab, site: Site) -> None:
    """The endpoint has named another visitor, whose token it has to request from HubSpot."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    site.responses = [*[identity_response("g", status=202) for _ in range(3)], identity_response("g", GRACE)]
    tab.run("hubspotIdentify.update()")
    tab.wait_for_visibility(False)
    assert site.responses
    tab.expect_visitor("grace")
    tab.wait_for_visibility(True)


@pytest.mark.parametrize("response", [login_page, unavailable])
def test_chat_is_hidden_after_a_user_switch_until_the_endpoint_responds(
    tab: Tab, other_tab: Tab, site: Site, response: Response
) -> None:
    """Another tab has stored another visitor, and this tab cannot find out which."""
    site.page("/", TAG)
    site.page("/other/", "Another page.")
    tab.log_in("ada")
    tab.expect_visitor("ada")
    other_tab.log_in("grace", "/other/")
    fail(site, response)
    other_tab.run("localStorage.setItem('hubspot-identify:subject', 'subject-of-grace')")
    expect(tab.container).to_be_hidden()
    assert tab.logged("remove") == tab.logged("reset") == []
    recover(tab, site)
    tab.expect_visitor("grace")
    expect(tab.container).to_be_visible()


@pytest.mark.parametrize(
    "response", [redirect_to_login, login_page, lambda: HttpResponse(status=403)], ids=["302", "200", "403"]
)
def test_chat_is_hidden_if_another_page_responds(tab: Tab, site: Site, response: Response) -> None:
    """The session has ended on the server. The browser gets no event, but a login page for its next request."""
    site.page("/", TAG)
    tab.fake_clock()
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.page.context.clear_cookies(name="user")
    fail(site, response)
    show_tab(tab)
    tab.skip(6000)
    expect(tab.container).to_be_hidden()
    recover(tab, site)
    tab.expect_visitor(ANONYMOUS)
    expect(tab.container).to_be_visible()


def test_failed_request_alone_does_not_hide_the_chat(tab: Tab, site: Site) -> None:
    """The endpoint fails while the same visitor continues: the chat stays, with the text that has been typed."""
    site.page("/", TAG)
    tab.fake_clock()
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.type_message("half a sen")
    fail(site, unavailable)
    show_tab(tab)
    tab.skip(6000)
    tab.wait_for_event("failed")
    tab.skip(10_000)
    expect(tab.container).to_be_visible()
    expect(tab.chat.get_by_label("Message")).to_have_value("half a sen")
    assert tab.logged("remove") == tab.logged("reset") == []


def test_update_by_the_page_hides_the_chat_until_the_endpoint_responds(tab: Tab, site: Site) -> None:
    """The page says that the visitor may have changed, and the endpoint cannot say who it is."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    fail(site, unavailable)
    tab.run("hubspotIdentify.update()")
    expect(tab.container).to_be_hidden()
    recover(tab, site)
    expect(tab.container).to_be_visible()
    tab.expect_visitor("ada")
    assert tab.logged("reset") == []


RETRY_DELAYS = [2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000, 300000, 300000]  # milliseconds


def test_requests_are_repeated_with_growing_delays(tab: Tab, site: Site) -> None:
    """After 2 s, then after twice as long each time, at most after 5 min: few requests, and the chat is loaded."""
    site.page("/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    fail(site, unavailable)
    site.responses = site.responses[: len(RETRY_DELAYS)]
    requests = site.identity_requests
    tab.skip_delays(*RETRY_DELAYS)
    tab.go()
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    assert tab.run("skippedDelays") == RETRY_DELAYS
    assert site.identity_requests == requests + 1 + len(RETRY_DELAYS)
    assert tab.events == ["failed", "ready", "identified"]


def test_running_chat_is_hidden_until_the_remembered_visitor_is_known(tab: Tab, site: Site) -> None:
    """A chat that the embed code has started before the script runs may show the former visitor's conversation."""
    site.page("/", '{% hubspot_identify account="embedded" %}' + EMBED_CODE)
    site.page("/late/", EMBED_CODE + '<template>{% hubspot_identify account="embedded" %}</template>')
    tab.log_in("ada")
    tab.expect_visitor("ada")
    fail(site, unavailable)
    tab.log_out("/late/")
    tab.container.wait_for()
    tab.insert_template()
    expect(tab.container).to_be_hidden()
    recover(tab, site)
    tab.expect_visitor(ANONYMOUS)
    expect(tab.container).to_be_visible()


def test_page_without_endpoint_loads_no_chat_for_a_remembered_visitor(tab: Tab, site: Site) -> None:
    """A page that neither contains nor requests its visitor shows no chat if the browser remembers a visitor."""
    element = f'<script src="/static/hubspot_identify/identify.js" defer data-loader="{LOADER}"{{}}></script>'
    site.page("/", element.format(' data-subject="subject-of-ada"'))
    site.page("/without/", element.format(""))
    tab.go("/without/")
    tab.expect_visitor(ANONYMOUS)
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    tab.go("/without/")
    tab.wait_for_event("failed")
    assert tab.logged("load") == []
    assert site.requested("/hubspot/") == []


# ---- a visible tab


def test_visible_tab_requests_the_visitor_again(tab: Tab, site: Site) -> None:
    """After a log-in on a sibling host with the same session cookie, the browser gets no event until it is visible."""
    site.page("/", TAG)
    tab.fake_clock()
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.page.context.clear_cookies(name="user")
    tab.set_cookie("user", "grace")
    show_tab(tab)
    tab.skip(6000)
    tab.expect_visitor("grace")
    tab.wait_for_event("identified", 2)
    assert tab.events[-3:] == ["reset", "ready", "identified"]


def test_visible_tab_requests_the_visitor_at_most_every_five_seconds(tab: Tab, site: Site) -> None:
    """Switching between tabs makes one request, which is delayed and not omitted."""
    site.page("/", TAG)
    tab.fake_clock()
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.skip(10_000)
    requests = site.identity_requests
    with tab.page.expect_response("**/hubspot/identity/"):
        show_tab(tab)
        tab.skip(1000)
    for _ in range(5):
        show_tab(tab)
        tab.skip(500)
    assert site.identity_requests == requests + 1
    with tab.page.expect_response("**/hubspot/identity/"):
        tab.skip(5000)
    assert site.identity_requests == requests + 2


def test_hidden_tab_requests_nothing(tab: Tab, site: Site) -> None:
    """A tab that goes to the background does not request the visitor."""
    site.page("/", TAG)
    tab.page.add_init_script("Object.defineProperty(Document.prototype, 'hidden', {get: () => window.isHidden})")
    tab.fake_clock()
    tab.log_in("ada")
    tab.expect_visitor("ada")
    requests = site.identity_requests
    tab.run("window.isHidden = true")
    show_tab(tab)
    tab.skip(60_000)
    assert site.identity_requests == requests
