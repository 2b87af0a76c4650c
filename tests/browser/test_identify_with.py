"""``hubspotIdentify.identifyWith()``: a function of the page provides the visitor, in place of the endpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from support.manual import code_blocks

from browser.conftest import Tab
from browser.portable import ANONYMOUS, PortableTab
from browser.site import ADA, IDENTITY, LOADER, TAG, Site
from hubspot_identify.sandbox.state import sandbox

pytestmark = [pytest.mark.browser, pytest.mark.secure_host]
every_browser = pytest.mark.browsers("chromium", "firefox", "webkit", reason="the endpoint's own tests run in each")

ELEMENT = f"""<script src="/static/hubspot_identify/identify.js" defer data-loader="{LOADER}"
    data-load-on="manual"></script>"""
API = "/api/chat-identity/"
#: A page whose function returns the value of an expression, and counts its calls.
PAGE = (
    ELEMENT
    + """<script type="module">
    window.calls = 0;
    hubspotIdentify.identifyWith(({{ signal }}) => {{
        window.calls += 1;
        window.signal = signal;
        return window.result?.() ?? ({result});
    }});
    hubspotIdentify.load();
</script>"""
)


@pytest.fixture
def portable_tab(open_tab: Callable[[], PortableTab]) -> PortableTab:
    return open_tab()


def add_application(site: Site) -> None:
    """Add the application of the manual, whose API is on the site itself."""
    (code,) = [block for block in code_blocks("docs/clients", "javascript") if "identifyWith" in block]
    code = code.replace("https://api.example.com/api/chat-identity/", API)
    assert API in code
    site.page("/", f'{ELEMENT}<script type="module">{code}</script>')


def add_page(site: Site, result: str) -> None:
    site.page("/", PAGE.format(result=result))


def ada(subject: object = "ada", **identity: float) -> str:
    """Return a result that identifies her, with a token that the sandbox accepts."""
    return json.dumps({"subject": subject, "identity": {"email": ADA, "token": sandbox.issue(ADA), **identity}})


def set_token(tab: PortableTab, name: str | None) -> None:
    """Log in or out as the application does."""
    if name:
        tab.run("name => localStorage.setItem('api-token', name)", name)
        tab.run("hubspotIdentify.update()")
    else:
        tab.run("hubspotIdentify.reset()")
        tab.run("localStorage.clear()")


# ---- the application of the manual


@every_browser
def test_user_of_an_api_token_is_identified(portable_tab: PortableTab, site: Site) -> None:
    """The chat is loaded once, with the identity from the API. The endpoint is not requested."""
    tab = portable_tab
    site.page("/empty/", "")
    add_application(site)
    tab.go("/empty/")
    tab.run("localStorage.setItem('api-token', 'ada')")
    tab.go()
    tab.expect_visitor("ada")
    tab.wait_for_event("identified")
    assert tab.events == ["ready", "identified"]
    assert tab.emails("call") == [ADA]
    assert site.requested(IDENTITY, API) == [API]


@every_browser
def test_log_in_switch_and_log_out(portable_tab: PortableTab, site: Site) -> None:
    """The function is called after each, and the former conversation is removed when the visitor changes."""
    tab = portable_tab
    add_application(site)
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    set_token(tab, "ada")
    tab.expect_visitor("ada")
    tab.send_message("from ada")
    set_token(tab, "grace")
    tab.expect_visitor("grace")
    set_token(tab, None)
    tab.expect_visitor(ANONYMOUS)
    assert [name for name in tab.events if name == "reset"] == ["reset", "reset"]
    assert "from ada" not in tab.run_in_chat("() => document.body.textContent")
    assert site.requested(IDENTITY) == []


@every_browser
def test_page_restored_after_log_out_shows_no_identity(portable_tab: PortableTab, site: Site) -> None:
    """The function is called again, so the application decides who has come back."""
    tab = portable_tab
    add_application(site)
    site.page("/next/", "")
    tab.go()
    set_token(tab, "ada")
    tab.expect_visitor("ada")
    tab.go("/next/")
    tab.run("localStorage.removeItem('api-token')")
    tab.go_back()
    tab.expect_visitor(ANONYMOUS)


@every_browser
def test_expired_api_token_leaves_an_anonymous_chat(portable_tab: PortableTab, site: Site) -> None:
    """The API responds with 401, for which the application returns an anonymous visitor."""
    tab = portable_tab
    add_application(site)
    tab.go()
    set_token(tab, "ada")
    tab.expect_visitor("ada")
    set_token(tab, "expired")
    tab.expect_visitor(ANONYMOUS)
    assert "failed" not in tab.events


# ---- the rules for its result


def test_expired_token_is_renewed(tab: Tab, site: Site) -> None:
    """The function is called again when the token expires, and the chat gets the new one."""
    add_page(
        site,
        "{subject: 'ada', identity: "
        "{email: 'ada@example.com', token: `token-${calls}`, expires_in: calls > 1 ? 9 : 1}}",
    )
    tab.go()
    tab.wait_until("hsConversationsSettings.identificationToken === 'token-2'")
    assert tab.run("calls") == 2


@pytest.mark.parametrize("expires_in", ["undefined", "null", "'soon'", "1e9"])
def test_lifetime_that_cannot_be_used_causes_no_repeated_calls(tab: Tab, site: Site, expires_in: str) -> None:
    """The token is used for 40,000 s, which is less than its lifetime at HubSpot."""
    identity = f"{{email: 'ada@example.com', token: 'token', expires_in: {expires_in}}}"
    tab.fake_clock()
    add_page(site, f"{{subject: 'ada', identity: {identity}}}")
    tab.go()
    for _ in range(20):
        tab.skip(500)
        tab.wait_until_idle()
    assert tab.run("calls") == 1


def test_response_with_status_202_is_requested_again(tab: Tab, site: Site) -> None:
    """The function may return a response. Its status means the same as that of the endpoint's."""
    pending = 'new Response(\'{"subject": "ada", "identity": null}\', {status: 202})'
    add_page(site, f"calls === 1 ? {pending} : new Response(JSON.stringify({ada()}))")
    tab.go()
    tab.expect_visitor("ada")
    assert tab.run("calls") == 2
    assert tab.emails("call") == [ADA]


@pytest.mark.parametrize(
    "result",
    [
        "{subject: null, identity: {email: 'ada@example.com', token: 'token'}}",
        "{subject: ''}",
        "Promise.resolve({subject: null})",
    ],
    ids=["identity without subject", "empty", "promise"],
)
def test_visitor_without_subject_is_anonymous(tab: Tab, site: Site, result: str) -> None:
    """An identity without a subject is not used."""
    add_page(site, result)
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_event("anonymous")
    assert tab.events == ["ready", "anonymous"]


def test_chat_that_is_disabled_is_not_loaded(tab: Tab, site: Site) -> None:
    """After ``{enabled: false}`` nothing is requested from HubSpot."""
    add_page(site, "{enabled: false}")
    tab.go()
    tab.wait_for_event("failed")
    tab.wait_until_idle()
    assert site.requested("/sandbox/") == []


@pytest.mark.parametrize(
    "result",
    [
        "undefined",
        "null",
        "{}",
        "Promise.reject(new Error('no network'))",
        "(() => { throw new Error('a mistake'); })()",
        "new Response('', {status: 500})",
        "new Response('<h1>Please log in</h1>')",
        "Response.error()",
    ],
)
def test_failure_loads_an_anonymous_chat(tab: Tab, site: Site, result: str) -> None:
    """One event reports the failure, and there is no error in the page."""
    add_page(site, result)
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    tab.wait_for_event("anonymous")
    assert tab.events == ["failed", "ready", "anonymous"]


def test_function_that_never_returns_does_not_prevent_the_chat(tab: Tab, site: Site) -> None:
    """After five seconds the chat is loaded, and the function's signal is aborted."""
    tab.fake_clock()
    tab.page.clock.pause_at(time.time() + 60)  # so that only skip() lets time pass
    add_page(site, "new Promise(() => {})")
    tab.go()
    tab.skip(4900)
    assert site.requested("/sandbox/") == []
    tab.skip(200)
    tab.wait_until("window.HubSpotConversations")
    tab.page.clock.resume()
    tab.expect_visitor(ANONYMOUS)
    assert tab.run("signal.aborted") is True


@pytest.mark.parametrize(
    ("failure", "is_visible"),
    [("Promise.reject(new Error('no network'))", True), ("new Response('', {status: 401})", False)],
)
def test_failed_renewal(tab: Tab, site: Site, failure: str, is_visible: bool) -> None:
    """The chat stays, unless the status says that the visitor may be a different one. Then it is hidden for now."""
    add_page(site, ada(expires_in=3))
    tab.go()
    tab.expect_visitor("ada")
    tab.run(f"() => {{ window.result = () => {failure}; }}")
    tab.wait_for_event("failed")
    tab.wait_for_visibility(is_visible)
    tab.run("() => { delete window.result; }")
    tab.wait_until("hsConversationsSettings.identificationToken")
    tab.wait_for_visibility(True)
    assert "reset" not in tab.events


def test_number_as_subject_keeps_the_conversation_on_the_next_page(tab: Tab, site: Site) -> None:
    """A subject is compared with the stored one as text."""
    add_page(site, ada(subject=7))
    for _ in range(2):
        tab.go()
        tab.expect_visitor("ada")
        tab.wait_for_event("identified")
        assert tab.events == ["ready", "identified"]


def test_function_replaces_the_endpoint_of_the_tag(tab: Tab, site: Site) -> None:
    """On a page with the tag, the visitor of the function counts from then on."""
    site.page("/", TAG)
    tab.go()
    tab.expect_visitor(ANONYMOUS)
    requests = site.identity_requests
    tab.run(f"window.calls = 0; hubspotIdentify.identifyWith(() => {{ calls += 1; return {ada()}; }})")
    tab.expect_visitor("ada")
    tab.run("hubspotIdentify.update()")
    tab.wait_until("calls === 2")
    assert site.identity_requests == requests
