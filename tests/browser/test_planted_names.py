"""Elements whose names hide parts of ``document`` and ``window`` from scripts: <form name="head"> is document.head."""

from __future__ import annotations

import pytest

from browser.conftest import Visit
from browser.site import ADA, PORTAL, Site

pytestmark = pytest.mark.browser

#: Names without which the chat can do, if not as well.
OF_DOCUMENT = [
    "head",
    "body",
    "documentElement",
    "readyState",
    "prerendering",
    "adoptedStyleSheets",
    "visibilityState",
    "hidden",
    "defaultView",
    "location",
    "activeElement",
    "querySelectorAll",
    "removeEventListener",
    "cookie",
]
OF_WINDOW = [
    "localStorage",
    "performance",
    "fetch",
    "history",
    "navigation",
    "setTimeout",
    "AbortSignal",
    "Reflect",
    "hsVars",
]
FRAMES = ["hubspotIdentify", "HubSpotConversations", "hsConversationsSettings", "hsConversationsOnReady"]
#: Names without which there is no chat.
VITAL = ["addEventListener", "querySelector", "createElement", "getElementById", "dispatchEvent"]


def planted(*names: str) -> str:
    return "".join(f'<form name="{name}" id="{name}"></form>' for name in names)


def test_names_steer_nothing(visit: Visit, site: Site) -> None:
    """All that the chat can do without at once: the right visitor is known, and everything is cleared at log-out."""
    frames = "".join(f'<iframe name="{name}" srcdoc="<script>top.planted = 1</script>"></iframe>' for name in FRAMES)
    page = planted(*OF_DOCUMENT, *OF_WINDOW) + frames + "{% hubspot_identify %}"
    site.page("/", page)
    visit.log_in("ada")
    visit.wait_for("call answered")
    assert [each["email"] for each in visit.happened("call")] == [ADA]
    assert site.asked("/hubspot/identity/")
    leave_something(visit)
    visit.log_out()
    visit.wait_heard("reset")
    assert visit.cookie("messagesUtk") is None
    assert visit.run("localStorage.getItem('hubspot-identify:subject')") is None
    assert ADA not in [each["email"] for each in visit.happened("call")]


@pytest.mark.parametrize("name", VITAL)
def test_names_do_not_keep_the_former_visitor(visit: Visit, site: Site, name: str) -> None:
    """Even where they take the chat from the page: what the last visitor left goes at log-out all the same."""
    site.page("/", "{% hubspot_identify %}")
    site.page("/out/", planted(name) + "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    leave_something(visit)
    visit.page.route(f"**/loader/{PORTAL}.js", lambda route: route.abort())
    visit.log_out("/out/")
    visit.page.wait_for_function("localStorage.length === 0")
    assert visit.cookie("messagesUtk") is None
    visit.errors.clear()  # the page is broken, and may say so


def test_planted_name_does_not_keep_the_former_visitors_chat(visit: Visit, other_tab: Visit, site: Site) -> None:
    """A log-out in another tab reaches a page in which a form hides a method of the document."""
    site.page("/", '<form name="dispatchEvent"></form>{% hubspot_identify %}')
    site.page("/plain/", "{% hubspot_identify %}")
    visit.log_in("ada")
    visit.expect_visitor("ada")
    other_tab.log_out("/plain/")
    visit.expect_visitor("unknown")


def leave_something(visit: Visit) -> None:
    domain = {"domain": ".shop.test", "path": "/"}
    visit.page.context.add_cookies([{"name": "messagesUtk", "value": "before", **domain}])  # type: ignore[list-item]
