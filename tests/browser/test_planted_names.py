"""Injected elements whose names hide properties of ``document`` and ``window``: <form name="head"> is document.head."""

from __future__ import annotations

import pytest

from browser.conftest import ANONYMOUS, STORED_SUBJECT, Tab
from browser.site import ADA, TAG, Site

pytestmark = pytest.mark.browser

#: Without these, HubSpot's widget still makes its first call.
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
#: Without any of these, there is no chat.
VITAL = ["addEventListener", "querySelector", "createElement", "getElementById", "dispatchEvent"]


def forms(*names: str) -> str:
    return "".join(f'<form name="{name}" id="{name}"></form>' for name in names)


def test_names_change_neither_visitor_nor_log_out(tab: Tab, site: Site) -> None:
    """The right visitor is identified, and everything is deleted at log-out."""
    frames = "".join(f'<iframe name="{name}" srcdoc="<script>top.hasRun = 1</script>"></iframe>' for name in FRAMES)
    site.page("/", forms(*OF_DOCUMENT, *OF_WINDOW) + frames + TAG)
    tab.log_in("ada")
    tab.wait_for_log("call answered")
    assert tab.emails("call") == [ADA]
    assert site.identity_requests
    tab.set_cookie("messagesUtk", "before")
    tab.log_out()
    tab.wait_for_event("reset")
    assert tab.cookie("messagesUtk") != "before"
    assert tab.run(STORED_SUBJECT) is None
    assert ADA not in tab.emails("call")


@pytest.mark.parametrize("names", [VITAL, ["dispatchEvent"]], ids=["all", "one"])
def test_log_out_page_without_a_chat_deletes_what_is_stored(tab: Tab, site: Site, names: list[str]) -> None:
    """The names prevent the chat. What the former visitor left in the browser is deleted nevertheless."""
    site.page("/", TAG)
    site.page("/out/", forms(*names) + TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    tab.set_cookie("messagesUtk", "before")
    tab.block("**/sandbox/loader/**")
    tab.log_out("/out/")
    tab.wait_until("localStorage.length === 0")
    assert tab.cookie("messagesUtk") is None
    tab.errors.clear()  # the scripts of the page may fail


def test_hidden_method_does_not_keep_the_former_visitors_chat(tab: Tab, other_tab: Tab, site: Site) -> None:
    """After a log-out in another tab, the chat is reset in a page in which a form hides a method of the document."""
    site.page("/", forms("dispatchEvent") + TAG)
    site.page("/plain/", TAG)
    tab.log_in("ada")
    tab.expect_visitor("ada")
    other_tab.log_out("/plain/")
    tab.expect_visitor(ANONYMOUS)
