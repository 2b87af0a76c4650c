"""The sandbox in the set-ups of other sites: their test suites, their policies, and tools that change their pages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from csp.constants import NONCE, NONE, SELF, STRICT_DYNAMIC
from django.http import HttpRequest, HttpResponse
from playwright.sync_api import expect
from pytest_django import Settings
from support.manual import code_blocks
from support.site import serving_site

from browser.conftest import HOST, Tab
from browser.site import TAG, Site
from hubspot_identify import csp

pytestmark = pytest.mark.browser

PLUGIN_AND_PAGE = """
import pytest
from support.browser import running_chromium

@pytest.fixture(scope="session")
def browser():  # the fixtures of pytest-playwright, whose event loop also runs until the end of the session
    with running_chromium() as browser:
        yield browser

@pytest.fixture
def page(browser):
    with browser.new_context() as context:
        yield context.new_page()
"""
SITE = """
from django.http import HttpResponse
from django.template import Context, Engine
from django.urls import include, path

ENGINE = Engine(libraries={"hubspot_identify": "hubspot_identify.templatetags.hubspot_identify"})
PAGE = ENGINE.from_string("<!doctype html><title>Home</title>{% load hubspot_identify %}{% hubspot_identify %}")
urlpatterns = [
    path("hubspot/", include("hubspot_identify.urls")),
    path("", lambda request: HttpResponse(PAGE.render(Context({"request": request})))),
]
"""


@pytest.mark.slow
def test_complete_example_of_the_manual_passes(tmp_path: Path) -> None:
    """The browser test to copy passes without changes, in a suite whose settings disable the chat and forbid calls."""
    off, plugin, *_, example = code_blocks("docs/testing")
    (forbidden,) = code_blocks("docs/testing", "ini")
    (tmp_path / "settings_of_site.py").write_text(f"from settings import *\n{off}\nROOT_URLCONF = 'urls_of_site'")
    (tmp_path / "urls_of_site.py").write_text(SITE)
    (tmp_path / "conftest.py").write_text(plugin + PLUGIN_AND_PAGE)
    (tmp_path / "test_chat.py").write_text(example)
    paths = f"pythonpath = {tmp_path} {Path(__file__).parents[1]}"
    (tmp_path / "pytest.ini").write_text(f"{forbidden}\n{paths}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--ds=settings_of_site"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout.splitlines()[-1].startswith("1 passed in"), run.stdout + run.stderr


@pytest.fixture
def own_sandbox(site: Site, settings: Settings) -> Site:
    """The site with the sandbox as its manual installs it: the chat's iframe is on the origin of the site."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "LOADER_URL": "/sandbox/loader/456.js"}
    return site


STRICT = {
    "default-src": [NONE],
    **{directive: [SELF, *hosts] for directive, hosts in csp.sources().items()},
    "script-src": [NONCE, STRICT_DYNAMIC],
}


def test_chat_works_under_a_policy_with_a_nonce(tab: Tab, own_sandbox: Site, settings: Settings) -> None:
    """The policy of the site does not apply to the sandbox's own pages, whose scripts have no nonce."""
    settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": {**STRICT, "frame-ancestors": [NONE]}}
    settings.MIDDLEWARE = ["csp.middleware.CSPMiddleware", *settings.MIDDLEWARE]
    own_sandbox.page("/", TAG)
    with serving_site() as address:  # a server reads MIDDLEWARE when it starts
        own_sandbox.origin = address.replace("127.0.0.1", HOST)
        tab.log_in("ada")
        tab.expect_visitor("ada")
        tab.send_message("Hello")
        tab.go("/sandbox/inbox/")
        expect(tab.page.locator("article .badge")).to_have_css("display", "inline-block")  # from the style sheet
        assert tab.run("violations") == []


def toolbar(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Insert an element at the end of each page, as django-debug-toolbar does, whose toolbar covers the page."""

    def handle(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if response.headers["Content-Type"].startswith("text/html"):
            response.content = response.content.replace(b"</body>", b'<div id="toolbar"></div></body>')
        return response

    return handle


def test_tools_that_add_to_pages_do_not_change_the_sandbox(tab: Tab, own_sandbox: Site, settings: Settings) -> None:
    """A toolbar is added to the site's page, but neither to the frame of the chat nor to the inbox."""
    settings.MIDDLEWARE = [f"{__name__}.toolbar", *settings.MIDDLEWARE]
    own_sandbox.page("/", f"<body>{TAG}</body>")
    with serving_site() as address:
        own_sandbox.origin = address.replace("127.0.0.1", HOST)
        tab.log_in("ada")
        tab.send_message("Hello")
        expect(tab.page.locator("#toolbar")).to_have_count(1)
        expect(tab.chat.locator("#toolbar")).to_have_count(0)
        tab.go("/sandbox/inbox/")
        expect(tab.page.locator("#toolbar")).to_have_count(0)
