"""The recipe of docs/consent.rst for consent managers in the browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from support.manual import code_blocks
from support.pages import django_template

from browser.conftest import Visit
from browser.site import ADA, INJECTED_ELEMENT, PORTAL, Site

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def recipe(site: Site) -> None:
    """A page with the manual's own element and function, and the stand-in's loader."""
    (element,) = code_blocks("consent", "html+django")
    (function,) = code_blocks("consent", "javascript")
    element = (
        django_template(element).render({}).replace("https://js.hs-scripts.com/123.js", f"/sandbox/loader/{PORTAL}.js")
    )
    site.page("/", f"{element}<script>{function}</script>")
    site.page("/agreed/", f"{element}<script>{function} onChatConsent(true)</script>")
    site.page("/declined/", f"{element}<script>{function} onChatConsent(false)</script>")


def told_hubspot(site: Site) -> list[str]:
    return [path for path in site.requests if path.startswith(("/sandbox/", "/hubspot/"))]


def test_without_an_answer_nothing_is_asked(visit: Visit, site: Site) -> None:
    """No loader, no identity, no call, until the manager says yes, in the living page or in the next one."""
    visit.log_in("ada")
    visit.run("new Promise(requestIdleCallback)")
    assert told_hubspot(site) == []
    visit.run("onChatConsent(true)")
    visit.expect_visitor("ada")
    visit.go("/agreed/")
    visit.expect_visitor("ada")


def test_consent_that_is_taken_back(visit: Visit, site: Site) -> None:
    """Chat, cookies and identity go from the living page; a new yes brings it back, and the next page has none."""
    visit.log_in("ada", then="/agreed/")
    visit.expect_visitor("ada")
    domain = {"domain": ".shop.test", "path": "/"}
    visit.page.context.add_cookies([{"name": "messagesUtk", "value": "before", **domain}])  # type: ignore[list-item]
    visit.run("onChatConsent(false)")
    expect(visit.container).to_have_count(0)
    assert visit.cookie("messagesUtk") is None
    assert visit.run("localStorage.length") == 0
    assert visit.run("window.hsConversationsSettings.identificationToken") is None
    visit.run("onChatConsent(true)")
    visit.expect_visitor("ada")
    visit.run("onChatConsent(false)")
    site.requests.clear()
    visit.go("/declined/")
    assert visit.status["state"] == "waiting"
    visit.run("new Promise(requestIdleCallback)")
    assert told_hubspot(site) == []


@pytest.mark.parametrize("load_on", ["page", "never"])
def test_injected_element_takes_no_part_in_consent(visit: Visit, site: Site, load_on: str) -> None:
    """An inert element above the tag's looks the same. The answers of the consent manager reach the right one."""
    for page in site.pages.values():
        page.template = INJECTED_ELEMENT.format(load_on) + page.template
    visit.log_in("ada", then="/agreed/")
    visit.expect_visitor("ada")
    assert [each["email"] for each in visit.happened("identity read")] == [ADA]
    visit.run("window.sameDocument = true")
    visit.run("onChatConsent(false)")
    expect(visit.container).to_have_count(0)
    assert visit.run("localStorage.length") == 0
    visit.run("onChatConsent(true)")
    visit.expect_visitor("ada")
    assert visit.run("window.sameDocument")
    assert site.asked("/evil/") == []


def test_the_next_page_cleans_up(visit: Visit, site: Site) -> None:
    """Declined elsewhere meanwhile, what an earlier page left is removed by the next one."""
    visit.log_in("ada", then="/agreed/")
    visit.expect_visitor("ada")
    domain = {"domain": ".shop.test", "path": "/"}
    visit.page.context.add_cookies([{"name": "messagesUtk", "value": "before", **domain}])  # type: ignore[list-item]
    site.requests.clear()
    visit.go("/declined/")
    visit.page.wait_for_function("localStorage.length === 0")
    assert visit.cookie("messagesUtk") is None
    assert told_hubspot(site) == []
