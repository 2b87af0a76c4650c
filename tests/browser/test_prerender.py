"""Pages that the browser fetches or renders ahead of the navigation to them, by speculation rules."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings
from support.programs import require

from browser.conftest import Visit
from browser.site import Site, running_site

pytestmark = pytest.mark.browser


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    """The site on a loopback address, because browsers prerender only pages of secure origins."""
    with running_site(settings, "127.0.0.1") as site:
        yield site


def speculation_rules(action: str) -> str:
    rules = {action: [{"urls": ["/next/"], "eagerness": "immediate"}]}
    return f'<script type="speculationrules">{json.dumps(rules)}</script>'


@pytest.mark.parametrize("following", ["grace", "unknown"])
def test_prefetched_inline_page_is_not_trusted(visit: Visit, site: Site, following: str) -> None:
    """The user changes between the prefetch and the navigation: the page contains the former one."""
    site.page("/", speculation_rules("prefetch") + "<a href=/next/>next</a>")
    site.page("/next/", '{% hubspot_identify account="inline" %}')
    visit.log_in("ada")
    site.wait_for_request("/next/")
    visit.page.context.clear_cookies(name="user")
    if following != "unknown":
        visit.page.context.add_cookies([{"name": "user", "value": following, "domain": "127.0.0.1", "path": "/"}])
    visit.page.get_by_role("link").click()
    visit.page.wait_for_url("**/next/")
    visit.expect_visitor(following)
    assert visit.run("performance.getEntriesByType('navigation')[0].deliveryType") == "navigational-prefetch"
    assert site.requests.count("/next/") == 1
    assert "ada@example.com" not in [each["email"] for each in visit.happened("call")]


@pytest.mark.parametrize("account", ["", "inline"])
def test_prerendered_page_waits_for_its_activation(site: Site, tmp_path: Path, account: str) -> None:
    """A page that is not shown requests neither identity nor chat. Once it is shown, it requests its visitor.

    No test library controls this browser, because developer tools disable prerendering. The pages report to the site.
    """
    site.page(
        "/",
        speculation_rules("prerender") + "<script>setInterval(async () => {"
        'if (!(await fetch("/switch/")).ok) return; await fetch("/login/grace/?next=/switched/");'
        'location.href = "/next/"; }, 100)</script>',
    )
    site.page(
        "/next/",
        "<script>"
        'addEventListener("load", () => hubspotIdentify.load() || fetch(`/prerendering/${document.prerendering}/`));'
        'document.addEventListener("hubspot-identify:identified",'
        " () => fetch(`/identified/${hsConversationsSettings.identificationEmail}/`));"
        f'</script>{{% hubspot_identify account="{account}" %}}',
    )
    command = [require("chromium", "chromium-browser", "google-chrome"), "--headless=new", "--no-sandbox"]
    profile = f"--user-data-dir={tmp_path}"
    with subprocess.Popen([*command, profile, site.url("/login/ada/?next=/")], stderr=subprocess.DEVNULL) as browser:
        try:
            site.wait_for_request("/prerendering/")
            assert site.asked("/prerendering/") == ["/prerendering/true/"]
            assert site.asked("/hubspot/") == site.asked("/sandbox/loader/") == []
            site.page("/switch/", "The user changes now.")
            site.wait_for_request("/identified/")
            assert site.asked("/identified/") == ["/identified/grace@example.com/"]
            assert site.requests.count("/next/") == 1
        finally:
            browser.terminate()
