"""Strict policies, by the middleware that sites use and with HubSpot's own hosts: the chat does not violate them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import django
import pytest
from csp.constants import NONCE, NONE, SELF, STRICT_DYNAMIC
from playwright.sync_api import Route, expect
from pytest_django import Settings
from support.site import serving_site

from browser.conftest import CONTAINER, HOST, Tab
from browser.site import ADA, LOADER, PORTAL, TAG, Site
from browser.site import NONCE as SITE_NONCE
from hubspot_identify import csp

pytestmark = pytest.mark.browser

DJANGO_CSP = "csp.middleware.CSPMiddleware"
BUILT_IN = "django.middleware.csp.ContentSecurityPolicyMiddleware"
APP = "hubspot_identify.middleware.IdentifiedPageMiddleware"
STRICT: dict[str, list[Any] | None] = {"hosts": None, "nonce": [NONCE, STRICT_DYNAMIC]}
came_with_6 = pytest.mark.skipif(django.VERSION < (6, 0), reason="Django's own Content-Security-Policy came with 6.0")

#: HubSpot's loader adds scripts from other hosts. The last one is the sandbox's widget, unchanged.
HUBSPOT_SCRIPTS = {
    f"https://js.hs-scripts.com/{PORTAL}.js": "https://js.usemessages.com/conversations-embed.js",
    "https://js.usemessages.com/conversations-embed.js": f"https://app.hubspot.com/embed/main.js?portal={PORTAL}",
}
ADD_SCRIPT = """document.head.append(
    Object.assign(document.createElement("script"), {id: "hubspot-messages-loader", type: "%s", src: "%s"})
)"""


def serve_hubspot_hosts(tab: Tab, site: Site) -> None:
    """Serve HubSpot's hosts: its scripts, and the sandbox for the widget, the API and the frame of the chat."""

    def serve(route: Route) -> None:
        url = route.request.url
        if added := HUBSPOT_SCRIPTS.get(url):
            kind = "module" if "/embed/" in added else ""
            route.fulfill(content_type="text/javascript", body=ADD_SCRIPT % (kind, added))
        elif url.endswith("/thread/"):  # Playwright does not see the body of this request in Firefox
            route.fulfill(json={"contact": {"email": ADA}, "messages": []})
        else:
            path = url.removeprefix("https://app.hubspot.com")
            response = route.fetch(url=site.url(f"/sandbox{path}").replace(HOST, "127.0.0.1"))
            route.fulfill(response=response, headers={**response.headers, "Access-Control-Allow-Origin": "*"})

    tab.page.route(re.compile(r"^https://(js\.hs-scripts\.com|js\.usemessages\.com|app\.hubspot\.com)/"), serve)


def use_default_loader(settings: Settings) -> None:
    settings.HUBSPOT_IDENTIFY = {
        name: value for name, value in settings.HUBSPOT_IDENTIFY.items() if name != "LOADER_URL"
    }


def policy(script_src: list[Any] | None) -> dict[str, list[Any]]:
    """Allow the site itself and what the app publishes; ``script_src`` replaces the hosts of scripts."""
    hosts = {directive: [SELF, *hosts] for directive, hosts in csp.sources().items()}
    hosts["style-src"].append("https://app.hubspot.com")  # where the sandbox's style sheet is, unlike HubSpot's
    return {"default-src": [NONE], "base-uri": [NONE], **hosts, **({"script-src": script_src} if script_src else {})}


def for_django(directives: dict[str, list[Any]]) -> dict[str, list[Any]]:
    from django.utils.csp import CSP

    return {name: [CSP.NONCE if value is NONCE else value for value in values] for name, values in directives.items()}


@pytest.fixture
def strict(request: pytest.FixtureRequest, site: Site, settings: Settings) -> Iterator[str]:
    """Serve the site with this middleware and policy. Yield what ``script-src`` must contain."""
    order, kind = request.param
    directives = policy(STRICT[kind])
    settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": directives}
    if BUILT_IN in order:
        settings.SECURE_CSP = for_django(directives)
    settings.MIDDLEWARE = [*order, *settings.MIDDLEWARE]
    use_default_loader(settings)
    with serving_site() as address:  # a server reads MIDDLEWARE when it starts
        site.origin = address.replace("127.0.0.1", HOST)
        yield "'self'" if kind == "hosts" else "'nonce-"


@pytest.mark.parametrize(
    ("strict", "account"),
    [
        pytest.param(([DJANGO_CSP, APP], "hosts"), "", id="django-csp first, hosts"),
        pytest.param(([DJANGO_CSP, APP], "nonce"), "inline", id="django-csp first, nonce"),
        pytest.param(([APP, DJANGO_CSP], "nonce"), "interaction", id="django-csp last, nonce"),
        pytest.param(([BUILT_IN, APP], "hosts"), "interaction", id="built-in first, hosts", marks=came_with_6),
        pytest.param(([APP, BUILT_IN], "nonce"), "inline", id="built-in last, nonce", marks=came_with_6),
    ],
    indirect=["strict"],
)
def test_chat_complies_with_a_strict_policy(tab: Tab, site: Site, strict: str, account: str) -> None:
    """The visitor is identified in HubSpot's frame without a violation. The policy contains no unsafe source."""
    serve_hubspot_hosts(tab, site)
    site.page("/", f'{{% hubspot_identify account="{account}" %}}')
    with tab.page.expect_response(site.url()) as page:
        tab.log_in("ada")
    header = page.value.headers["content-security-policy"]
    (script_src,) = re.findall(r"script-src ([^;]+)", header)
    assert strict in script_src
    assert "unsafe" not in header
    if account == "interaction":
        tab.button.click()
    expect(tab.page.locator(f"{CONTAINER} iframe")).to_have_attribute("src", re.compile("^https://app.hubspot.com/"))
    tab.expect_visitor("ada")
    assert tab.run("violations") == []


@pytest.mark.parametrize("strict", [([DJANGO_CSP, APP], "hosts"), ([DJANGO_CSP, APP], "nonce")], indirect=True)
def test_strict_policy_blocks_other_scripts(tab: Tab, site: Site, strict: str) -> None:
    """The previous test can fail: an inline script in the same page does not run, and is recorded as a violation."""
    site.page("/", f"{TAG}<script>window.ran = true</script>")
    serve_hubspot_hosts(tab, site)
    tab.go()
    tab.wait_until("violations.length")
    assert tab.run("window.ran") is None
    assert all(each.startswith("script-src") for each in tab.run("violations"))


TRUSTED_TYPES_ONLY = {
    "Content-Security-Policy": "script-src 'self' 'nonce-{nonce}'; require-trusted-types-for 'script'; "
    "trusted-types default"
}
#: Allows the page to add scripts by their URLs, and to do nothing else with text: any other use throws an error.
TRUSTED_TYPES = f"""<script nonce="{SITE_NONCE}">
    window.scripts = [];
    trustedTypes.createPolicy("default", {{createScriptURL: (url) => {{ scripts.push(url); return url; }}}});
</script>"""


def test_text_never_becomes_code_or_markup(tab: Tab, site: Site) -> None:
    """With Trusted Types and without ``unsafe-eval``, button and chat work. The scripts only add scripts by URL."""
    tag = '{% hubspot_identify account="interaction" %}'
    site.page("/", TRUSTED_TYPES + tag, headers=TRUSTED_TYPES_ONLY)
    tab.log_in("ada")
    tab.button.click()
    tab.chat.locator(f"body[data-visitor='{ADA}']").wait_for()
    expect(tab.chat.locator("#panel")).to_be_visible()
    own = ["/static/hubspot_identify/launcher.js", LOADER]
    assert [url.partition("?")[0] for url in tab.run("scripts")[:2]] == [site.url(path) for path in own]
    assert tab.run("violations") == []


def test_trusted_types_reject_code_and_markup_from_text(tab: Tab, site: Site) -> None:
    """The previous test can fail: under its policy, the page cannot make code or markup of text."""
    uses = ["document.body.innerHTML = text", "document.body.insertAdjacentHTML('beforeend', text)", "eval(text)"]
    tries = "".join(f"try {{ {use}; ran.push({use!r}); }} catch {{}}" for use in uses)
    script = f"<body><script nonce='{SITE_NONCE}'>window.ran = []; const text = 'ran.push(1)'; {tries}</script>"
    site.page("/", TRUSTED_TYPES + script, headers=TRUSTED_TYPES_ONLY)
    tab.go()
    tab.wait_until("violations.length")
    assert tab.run("ran") == []
