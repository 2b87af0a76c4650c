"""Pages that the browser fetches or renders ahead of the navigation to them, by speculation rules."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings
from support.browser import launch_options

from browser.conftest import ANONYMOUS, Tab
from browser.site import ADA, GRACE, Site, running_site

pytestmark = pytest.mark.browser

HOST = "127.0.0.1"  # browsers prerender only pages of secure origins


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    with running_site(settings, HOST) as site:
        yield site


def speculation_rules(action: str) -> str:
    rules = {action: [{"urls": ["/next/"], "eagerness": "immediate"}]}
    return f'<script type="speculationrules">{json.dumps(rules)}</script>'


@pytest.mark.browsers("chromium", reason="Firefox does not know speculation rules.")
@pytest.mark.parametrize("following", ["grace", ANONYMOUS])
def test_prefetched_inline_page_is_not_trusted(tab: Tab, site: Site, following: str) -> None:
    """The user changes between the prefetch and the navigation: the page contains the former one."""
    site.page("/", speculation_rules("prefetch") + "<a href=/next/>next</a>")
    site.page("/next/", '{% hubspot_identify account="inline" %}')
    tab.log_in("ada")
    site.wait_for_request("/next/")
    tab.page.context.clear_cookies(name="user")
    if following != ANONYMOUS:
        tab.set_cookie("user", following, HOST)
    tab.page.get_by_role("link").click()
    tab.page.wait_for_url("**/next/")
    tab.expect_visitor(following)
    assert tab.run("performance.getEntriesByType('navigation')[0].deliveryType") == "navigational-prefetch"
    assert site.requests.count("/next/") == 1
    assert ADA not in tab.emails("call")


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
    options = launch_options()
    command = [options["executable_path"], "--headless=new", *options["args"], f"--user-data-dir={tmp_path}"]
    with subprocess.Popen([*command, site.url("/login/ada/?next=/")], stderr=subprocess.DEVNULL) as browser:
        try:
            site.wait_for_request("/prerendering/")
            assert site.requested("/prerendering/") == ["/prerendering/true/"]
            assert site.requested("/hubspot/", "/sandbox/loader/") == []
            site.page("/switch/", "The user changes now.")
            site.wait_for_request("/identified/")
            assert site.requested("/identified/") == [f"/identified/{GRACE}/"]
            assert site.requests.count("/next/") == 1
        finally:
            browser.terminate()
