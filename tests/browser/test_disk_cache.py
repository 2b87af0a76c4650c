"""Pages from WebKit's disk cache, which WebKit does not have while a test controls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_django import Settings
from support.browser import running_minibrowser

from browser.site import ADA, SECURE_HOST, running_site

pytestmark = [pytest.mark.browser, pytest.mark.webkit]

#: Reports each visitor whom the chat shows, by a request, and then opens another page.
REPORT = """{%% hubspot_identify account="inline" %%}<script>
    let reported;
    setInterval(() => {
        const visitor = window.__hubspotSandbox?.visitor;
        if (!visitor || visitor === reported) return;
        reported = visitor;
        fetch(`/%(page)s/${visitor}/`).then(() => {
            if (visitor === "%(visitor)s") location.href = "%(next)s";
        });
    }, 20);
</script>"""


def test_page_from_the_disk_cache_is_not_trusted(settings: Settings, display: str, tmp_path: Path) -> None:
    """A user logs out, and opens a page again that the site lets browsers store."""
    with running_site(settings, SECURE_HOST) as site:
        first = REPORT % {"page": "stored", "visitor": ADA, "next": "/logout/?next=/out/"}
        site.page("/", first, headers={"Cache-Control": "max-age=600"})
        site.page("/out/", REPORT % {"page": "out", "visitor": "unknown", "next": "/"})
        with running_minibrowser(display, tmp_path, site.url("/login/ada/")):
            site.wait_for_request("/stored/unknown/")
        assert site.requested("/stored/", "/out/") == [
            f"/stored/{ADA}/",
            "/out/",
            "/out/unknown/",
            "/stored/unknown/",
        ]
        assert site.requested("/").count("/") == 1
