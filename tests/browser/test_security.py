"""Planted markup, addresses that may not be used, and consent."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from browser.conftest import CONTAINER, Visit
from browser.site import ADA, INJECTED_ELEMENT, NONCE, PORTAL, Site

pytestmark = pytest.mark.browser

PLANTED = {
    "base": '<base href="http://evil.test/">',
    "hsVars": '<base href="http://evil.test/"><p id="hsVars"></p>',
    "our global": '<form id="hubspotIdentify" name="hubspotIdentify"><input name="update"></form>',
    "settings": '<form id="hsConversationsSettings"><input name="identificationEmail" value="eve@example.com"></form>',
    "ready list": '<a id="hsConversationsOnReady"></a><a id="hsConversationsOnReady"></a>',
    "HubSpot": '<form id="HubSpotConversations"><input name="widget"></form>',
    "HubSpot twice": '<a id="HubSpotConversations"></a><video id="HubSpotConversations" name="widget"></video>',
    "navigation": '<form id="navigation"></form><form id="requestIdleCallback"></form>',
    "data": '<script type="text/plain" src="/static/hubspot_identify/identify.js" data-identity="{}" '
    'data-subject="eve" data-endpoint="//evil.test/" data-loader="//evil.test/l.js"></script>',
    "cookie": '<img name="cookie">',
}


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("planted", PLANTED)
def test_planted_markup_steers_nothing(visit: Visit, site: Site, planted: str, where: str) -> None:
    """Elements that somebody got into the page, before ours or behind it: same loader, same endpoint, same visitor."""
    tag = "{% hubspot_identify %}"
    body = PLANTED[planted] + tag if where == "before" else tag + PLANTED[planted]
    # A <base> before our element redirects the script itself, as it would any: ours has to be absolute then.
    site.page("/", body.replace('="//evil', '="http://evil').replace(tag, "[tag]"))
    site.pages["/"].template = site.pages["/"].template.replace("[tag]", tag)
    evil: list[str] = []
    visit.page.route("http://evil.test/**", lambda route: (evil.append(route.request.url), route.abort()))
    if "<base" in PLANTED[planted] and where == "before":
        site.pages["/"].template = site.pages["/"].template.replace(tag, absolute(site))
    visit.log_in("ada")
    visit.expect_visitor("ada")
    assert [each["email"] for each in visit.happened("call")] == [ADA]
    assert site.asked("/hubspot/identity/")
    assert evil == []


def test_an_image_is_not_taken_for_our_element(visit: Visit, site: Site) -> None:
    """<img name="currentScript"> hides document.currentScript, which HubSpot's own files may stumble over."""
    image = '<img name="currentScript" data-endpoint="http://evil.test/" data-loader="http://evil.test/l.js">'
    site.page("/", image + "{% hubspot_identify %}")
    evil: list[str] = []
    visit.page.route("http://evil.test/**", lambda route: (evil.append(route.request.url), route.abort()))
    visit.page.route("**/sandbox/loader/**", lambda route: route.fulfill(content_type="text/javascript", body=""))
    with visit.page.expect_request("**/sandbox/loader/**"):
        visit.log_in("ada")
    visit.page.wait_for_function("hsConversationsSettings.identificationToken")
    assert visit.settings["identificationEmail"] == ADA
    assert evil == []


def absolute(site: Site) -> str:
    """The tag of a site whose static files have an address of their own, as with a CDN."""
    return (
        f'<script src="{site.url("/static/hubspot_identify/identify.js")}" defer data-endpoint="/hubspot/identity/" '
        f'data-loader="/sandbox/loader/{PORTAL}.js" data-load-on="page" data-widget="{{}}"></script>'
    )


def test_a_planted_cookie_name_does_not_keep_a_thread(visit: Visit, site: Site) -> None:
    """<img name="cookie"> hides document.cookie from scripts, but not from the cleaning at log-out."""
    site.page("/", "{% hubspot_identify %}")
    site.page("/out/", '<img name="cookie">{% hubspot_identify %}')
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.page.context.add_cookies([{"name": "messagesUtk", "value": "before", "domain": ".shop.test", "path": "/"}])
    visit.page.route("**/sandbox/loader/**", lambda route: route.abort())
    visit.log_out("/out/")
    visit.wait_heard("reset")
    assert visit.cookie("messagesUtk") is None


@pytest.mark.parametrize(
    "loader", ["javascript:window.ran=1", "data:text/javascript,window.ran=1", "http://evil.test/l.js"]
)
def test_a_loader_has_to_be_a_safe_address(visit: Visit, site: Site, loader: str) -> None:
    """Not even our own element can name a loader that is neither https, nor of this machine, nor of this site."""
    site.page(
        "/",
        '<script src="/static/hubspot_identify/identify.js" defer data-endpoint="/hubspot/identity/" '
        f'data-loader="{loader}"></script>',
    )
    evil: list[str] = []
    visit.page.route("http://evil.test/**", lambda route: (evil.append(route.request.url), route.abort()))
    visit.go()
    visit.wait_heard("failed")
    assert visit.run("window.ran") is None
    assert evil == []


def test_an_endpoint_has_to_be_of_this_origin(visit: Visit, site: Site) -> None:
    """Whatever the element says, another origin is not asked."""
    site.page(
        "/",
        '<script src="/static/hubspot_identify/identify.js" defer data-endpoint="http://evil.test/identity/" '
        f'data-loader="/sandbox/loader/{PORTAL}.js"></script>',
    )
    evil: list[str] = []
    visit.page.route("http://evil.test/**", lambda route: (evil.append(route.request.url), route.abort()))
    visit.go()
    visit.expect_visitor("unknown")
    assert evil == []


def test_the_nonce_of_the_element_is_handed_on(visit: Visit, site: Site) -> None:
    """A policy of nonces alone lets in our second script, too."""
    policy = {"Content-Security-Policy": "default-src 'self' data:; script-src 'nonce-{nonce}'"}
    site.page("/", '{% hubspot_identify account="interaction" %}', headers=policy)
    visit.go()
    expect(visit.page.locator(".hubspot-identify-launcher button")).to_be_visible()
    assert visit.run("document.querySelector('script[src*=launcher]').nonce") == NONCE
    assert visit.run("violations") == []


@pytest.mark.parametrize("load_on", ["page", "never", "interaction"])
@pytest.mark.parametrize("hides", ["", '<img name="currentScript">'])
def test_update_does_not_trust_an_injected_element(visit: Visit, site: Site, load_on: str, hides: str) -> None:
    """A selector finds an inert element that looks like the tag's. It has no effect but a request for the visitor."""
    site.page("/", hides + INJECTED_ELEMENT.format(load_on) + '{% hubspot_identify account="interaction" %}')
    visit.log_in("ada")
    update = "hubspotIdentify.update(document.querySelector('script[data-load-on]'))"
    visit.run(update)
    visit.run("text => document.body.append(Object.assign(document.createElement('script'), {text}))", update)
    visit.run("new Promise(requestIdleCallback)")
    assert site.asked("/sandbox/loader/") == []
    visit.run("document.querySelector('img')?.remove()")  # HubSpot's loader relies on document.currentScript
    visit.run("hubspotIdentify.load()")
    visit.expect_visitor("ada")
    visit.run(update)
    visit.wait_heard("identified")
    visit.expect_visitor("ada")
    assert [each["email"] for each in visit.happened("identity read")] == [ADA]
    assert site.asked("/evil/") == []


def test_planted_script_does_not_get_the_nonce_of_the_page(visit: Visit, site: Site) -> None:
    """A policy that allows the site's own files lets a planted element run the app's script again, and no other one."""
    policy = {"Content-Security-Policy": "default-src 'self' data:; script-src 'self' 'nonce-{nonce}'"}
    visit.page.route("https://evil.test/**", lambda route: route.fulfill(body="window.isEvil = true"))
    planted = (
        '<script src="/static/hubspot_identify/identify.js" defer data-load-on="interaction" '
        'data-launcher="https://evil.test/launcher.js"></script>'
    )
    site.page("/", '{% hubspot_identify account="interaction" %}' + planted, headers=policy)
    with visit.page.expect_event("console", lambda message: "evil.test" in message.text):
        visit.go()  # the browser says that the policy blocks the script
    assert not visit.run("window.isEvil")
    visit.errors.clear()


def test_planted_container_does_not_end_the_chat(visit: Visit, site: Site) -> None:
    """A part of the page is rendered again that contains an element with the id of HubSpot's container."""
    site.page("/", f'<div id="list"><div id="{CONTAINER[1:]}">A comment</div></div>{{% hubspot_identify %}}')
    visit.log_in("ada")
    visit.wait_heard("identified")
    requests = len(site.asked("/hubspot/identity/"))
    visit.run("document.querySelector('#list').innerHTML = ''")
    visit.run("new Promise(requestIdleCallback)")
    visit.run("hubspotIdentify.refresh()")
    visit.wait_for("refresh")
    assert visit.happened("remove") == []
    assert len(site.asked("/hubspot/identity/")) == requests


# ---- consent


def test_without_consent_the_script_only_cleans_up(visit: Visit, site: Site) -> None:
    """ENABLED says no: no loader, no question, no call; what an earlier visit left is removed."""
    site.page("/", '{% hubspot_identify account="consent" %}')
    cookies = visit.page.context
    cookies.add_cookies([{"name": "consent", "value": "yes", "url": site.url()}])
    visit.log_in("ada")
    visit.expect_visitor("ada")
    cookies.add_cookies([{"name": "messagesUtk", "value": "before", "domain": ".shop.test", "path": "/"}])
    cookies.clear_cookies(name="consent")
    site.requests.clear()
    visit.go()
    assert set(site.requests) <= {"/", "/static/hubspot_identify/identify.js"}
    assert visit.cookie("messagesUtk") is None
    assert visit.run("localStorage.length") == 0
    assert visit.run("hubspotIdentify.load(), hubspotIdentify.open(), hubspotIdentify.update()") is None
    assert visit.status == {"state": "waiting", "identified": False}
    assert site.asked("/sandbox/") == site.asked("/hubspot/") == []


@pytest.mark.parametrize("loader", ["", "delay=60000"])
def test_consent_taken_back_in_a_living_page(visit: Visit, site: Site, loader: str) -> None:
    """An element that says no arrives by a swap: the chat goes, also one that is only about to come."""
    site.page("/", '{% hubspot_identify account="consent" %}<template></template>', loader=loader)
    visit.page.context.add_cookies([{"name": "consent", "value": "yes", "url": site.url()}])
    visit.log_in("ada")
    visit.wait_for("call answered")
    visit.page.context.clear_cookies(name="consent")
    visit.run("""() => {
        const element = document.createElement("script");
        element.src = "/static/hubspot_identify/identify.js";
        element.dataset.loadOn = "never";
        document.body.append(element);
    }""")
    expect(visit.container).to_have_count(0)
    visit.page.wait_for_function("localStorage.length === 0")
    visit.page.wait_for_function("!window.HubSpotConversations?.widget.status().pending")
    assert visit.run("window.hsConversationsSettings?.identificationToken") is None


SWAP = """(agreed) => {
    const element = document.createElement("script");
    for (const { name, value } of document.querySelector("script[data-loader]").attributes) {
        element.setAttribute(name, value);
    }
    if (!agreed) {
        element.dataset.loadOn = "never";
        element.removeAttribute("data-loader");
    }
    document.body.append(element);
}"""


def test_consent_taken_back_and_given_again_in_a_living_page(visit: Visit, site: Site) -> None:
    """The chat comes back without a new page, and between the two nothing calls HubSpot."""
    site.page("/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    visit.run("window.same = true")
    visit.run(SWAP, False)
    expect(visit.container).to_have_count(0)
    assert visit.status["state"] == "waiting"
    calls = len(visit.happened("call"))
    visit.run("hubspotIdentify.open()")
    assert len(visit.happened("call")) == calls
    visit.run(SWAP, True)
    visit.expect_visitor("ada")
    assert visit.run("window.same")


def test_the_button_goes_and_comes_with_consent(visit: Visit, site: Site) -> None:
    """Taken back before and after it was used, and given again: one button, and it works."""
    site.page("/", '{% hubspot_identify account="interaction" %}')
    button = visit.page.locator(".hubspot-identify-launcher button")
    visit.log_in("ada")
    for _ in range(2):
        expect(button).to_have_count(1)
        visit.run(SWAP, False)
        expect(button).to_have_count(0)
        visit.run(SWAP, True)
        expect(button).to_have_count(1)
        button.click()
        visit.expect_visitor("ada")
        expect(button).to_have_count(0)
        visit.run(SWAP, False)
        expect(visit.container).to_have_count(0)
        visit.page.mouse.move(0, 0)
        visit.run(SWAP, True)


def test_without_consent_a_chat_of_the_pages_own_is_no_reason_to_reload(visit: Visit, site: Site) -> None:
    """HubSpot's embed code is pending when our script says that it is not wanted here: no page without end."""
    embed = '<script id="hs-script-loader" async src="/sandbox/loader/123.js?delay=60000"></script>'
    site.page("/", f"{embed}<template>{{% hubspot_identify account='consent' %}}</template>")
    visit.go()
    visit.wait_for("call answered")
    visit.run("document.body.append(document.querySelector('template').content.cloneNode(true))")
    visit.wait_heard("failed")
    visit.run("new Promise(requestIdleCallback)")
    assert site.requests.count("/") == 1


def test_consent_given_in_a_living_page(visit: Visit, site: Site) -> None:
    """The element that says yes, arriving later, brings the chat."""
    site.page("/", '{% hubspot_identify account="consent" %}')
    site.page("/agreed/", "<template>{% hubspot_identify %}</template>")
    visit.log_in("ada")
    visit.run("""async () => {
        const text = await (await fetch("/agreed/")).text();
        const page = new DOMParser().parseFromString(text, "text/html");
        const { attributes } = page.querySelector("template").content.querySelector("script");
        const element = document.createElement("script");
        for (const { name, value } of attributes) element.setAttribute(name, value);
        document.body.append(element);
    }""")
    visit.expect_visitor("ada")
