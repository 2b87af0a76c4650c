"""The example site: its command ``demo``, the pages that it serves, and the way of a user through them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
import requests
from browser.site import require_file
from playwright.sync_api import Browser, Page, expect
from support.browser import running_chromium

pytestmark = pytest.mark.slow

MODES = ("inline", "idle", "interaction", "cached", "htmx/1", "htmx/2", "turbo/1", "turbo/2")
PAGES = ["/", "/login/", *(f"/{mode}/" for mode in MODES)]
CHAT = "#hubspot-messages-iframe-container iframe"
MANAGE = Path(__file__).parent.parent / "example_project" / "manage.py"
REAL_ACCOUNT = {"HUBSPOT_API_KEY": "pat-na1-real", "HUBSPOT_PORTAL_ID": "4567", "HUBSPOT_REGION": "eu1"}


def environment(folder: Path) -> dict[str, str]:
    """A minimal environment, with a database in a folder."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV")}
    return {**kept, "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}", "PYTHONUNBUFFERED": "1"}


def demo(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, with these environment variables, until it ends."""
    command = [sys.executable, str(MANAGE), "demo", "--no-color", *arguments]
    return subprocess.run(
        command,
        check=False,
        env={**environment(folder), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )


@contextmanager
def served(folder: Path, last_line: str, **variables: str) -> Iterator[tuple[str, str]]:
    """Serve the example site on a free port. Yield its origin, and its output up to a line with this text."""
    command = [sys.executable, str(MANAGE), "demo", "--no-color", "--port", "0"]
    env = {**environment(folder), **variables}
    with subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            printed = ""
            for line in process.stdout:  # pragma: no branch - the output does not end while the site is served
                printed += line
                if last_line in line:
                    break
            found = re.search(r"http://127\.0\.0\.1:\d+", printed)
            assert found, printed
            yield found[0], printed
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def site_and_output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The origin of an example site that uses the sandbox, and the output of the command."""
    with served(tmp_path_factory.mktemp("demo"), "/sandbox/inbox/") as found:
        yield found


@pytest.fixture
def site(site_and_output: tuple[str, str]) -> Iterator[str]:
    """The origin of the example site. After the test, its sandbox works normally."""
    origin, _ = site_and_output
    yield origin
    requests.post(f"{origin}/sandbox/scenario/", data={"scenario": "healthy"}, timeout=10).raise_for_status()


# The command


def test_check_passes_with_the_sandbox_whatever_account_the_environment_names(tmp_path: Path) -> None:
    """``demo --check`` logs in, gets tokens and reads the inbox, from any folder and without a call to HubSpot."""
    done = demo(tmp_path, "--check", **REAL_ACCOUNT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ada@example.com" in done.stdout


def test_check_fails_if_the_page_has_no_script_element(tmp_path: Path) -> None:
    """With a disabled chat the exit code is 1, and the output has no traceback."""
    done = demo(tmp_path, "--check", HUBSPOT_ENABLED="false")
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: ")


def test_used_port_is_an_error_that_suggests_the_next_port(tmp_path: Path) -> None:
    """The exit code is 1, and the output has the option to use."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = demo(tmp_path, "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: ")
    assert f"demo --port {port + 1}" in done.stderr


def test_sandbox_without_debug_is_an_error(tmp_path: Path) -> None:
    """The command does not serve a site whose chat would be a 404."""
    done = demo(tmp_path, DEBUG="false")
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: ")
    assert "DEBUG" in done.stderr


# The site


def test_site_serves_all_pages_and_prints_the_users(site_and_output: tuple[str, str]) -> None:
    """The output has the user names, addresses and the password. Pages, static files and the loader exist."""
    origin, printed = site_and_output
    for name in ("ada", "grace"):
        (line,) = [line for line in printed.splitlines() if f"{name}@example.com" in line]
        assert {name, "let-me-in"} < set(line.split())
    for path in [*PAGES, "/sandbox/inbox/", "/sandbox/loader/123.js"]:
        assert requests.get(origin + path, timeout=10).status_code == 200, path
    page = requests.get(f"{origin}/htmx/1/", timeout=10).text
    for url in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
        assert requests.get(origin + url, timeout=10).status_code == 200, url


def test_cached_page_is_the_same_for_every_visitor(site: str) -> None:
    """Two visitors with different cookies get the same bytes, and no cookie is set."""
    first = requests.get(f"{site}/cached/", timeout=10)
    second = requests.get(f"{site}/cached/", timeout=10, headers={"Cookie": "sessionid=another"})
    assert first.content == second.content
    assert "Set-Cookie" not in first.headers
    assert "Vary" not in first.headers


def test_form_switches_the_scenario_of_the_sandbox(site: str) -> None:
    """The form redirects to its page, and not to another site. An unknown scenario is rejected."""
    with requests.Session() as browser:
        browser.get(f"{site}/idle/", timeout=10)
        form = {"csrfmiddlewaretoken": browser.cookies["csrftoken"], "scenario": "500"}
        for target, page in (("/idle/", "/idle/"), ("https://evil.example/", "/")):
            response = browser.post(
                f"{site}/scenario/", data={**form, "next": target}, timeout=10, allow_redirects=False
            )
            assert (response.status_code, response.headers["Location"]) == (302, page)
        assert browser.get(f"{site}/sandbox/scenario/", timeout=10).json()["scenario"] == "500"
        assert browser.post(f"{site}/scenario/", data={**form, "scenario": "unknown"}, timeout=10).status_code == 400


def test_site_of_a_real_account_uses_hubspots_loader(tmp_path: Path) -> None:
    """The site then has no form to switch scenarios."""
    with served(tmp_path, "4567", **REAL_ACCOUNT) as (origin, _):
        page = requests.get(f"{origin}/", timeout=10).text
    assert 'data-loader="https://js-eu1.hs-scripts.com/4567.js"' in page
    assert "/scenario/" not in page


# In a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


def send(page: Page, text: str) -> None:
    """Send a message in the chat, which may be open or closed."""
    chat = page.frame_locator(CHAT)
    chat.locator("#launcher, #compose").filter(visible=True).first.wait_for()
    if chat.locator("#launcher").is_visible():
        chat.locator("#launcher").click()
    chat.locator("#compose input").fill(text)
    chat.locator("#compose button").click()
    expect(chat.get_by_role("listitem").last).to_have_text(text)


def log_in(page: Page, origin: str, name: str) -> None:
    page.goto(f"{origin}/login/")
    page.get_by_role("button", name=name).click()


@pytest.mark.browser
def test_chat_and_inbox_show_who_sent_a_message(chromium: Browser, tmp_path: Path) -> None:
    """A user sends a message before and after the log-in. The chat is empty after the log-in and after the log-out."""
    with served(tmp_path, "/sandbox/inbox/") as (site, _), chromium.new_context() as context:
        page = context.new_page()
        visitor = page.frame_locator(CHAT).locator("body")

        page.goto(site)
        expect(visitor).to_have_attribute("data-visitor", "unknown")
        send(page, "Who am I?")

        log_in(page, site, "Ada Lovelace")
        expect(visitor).to_have_attribute("data-visitor", "ada@example.com")
        expect(page.frame_locator(CHAT).get_by_role("listitem")).to_have_count(0)
        send(page, "And now?")

        page.locator("form[action='/logout/'] button").click()
        expect(visitor).to_have_attribute("data-visitor", "unknown")
        expect(page.frame_locator(CHAT).get_by_role("listitem")).to_have_count(0)

        page.goto(f"{site}/sandbox/inbox/")
        expect(page.get_by_role("article")).to_contain_text(["ada@example.com", "Who am I?"])
        expect(page.get_by_role("article").first).to_contain_text("And now?")


AXE = "axe.run(document, {iframes: false}).then(({violations}) => violations.map(({id, nodes}) => [id, nodes[0].html]))"


@pytest.mark.browser
@pytest.mark.parametrize("colors", ["light", "dark"])
def test_every_page_is_accessible(chromium: Browser, site: str, colors: Literal["light", "dark"]) -> None:
    """Axe finds no violation in light and dark colours, also while a scenario fails and where a user is logged in."""
    axe = require_file("axe-core/axe.min.js").read_text("utf-8")
    backgrounds = set()
    with chromium.new_context(color_scheme=colors) as context:
        page = context.new_page()
        for path in [*PAGES, "failing", *PAGES]:
            if path == "failing":
                requests.post(f"{site}/sandbox/scenario/", data={"scenario": "500"}, timeout=10).raise_for_status()
                log_in(page, site, "Ada Lovelace")
                continue
            page.goto(site + path)
            page.evaluate(axe)
            assert page.evaluate(AXE) == [], path
            backgrounds.add(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    (background,) = backgrounds
    is_dark = sum(map(int, re.findall(r"\d+", background))) < 3 * 128
    assert is_dark == (colors == "dark")


@pytest.mark.browser
def test_pages_fit_into_a_narrow_window(chromium: Browser, site: str) -> None:
    """A window of 320 pixels is that of a small phone, and of 1,280 pixels at a zoom of 400 %. Nothing is cut off."""
    with chromium.new_context(viewport={"width": 320, "height": 640}) as context:
        page = context.new_page()
        for path in PAGES:
            page.goto(site + path)
            assert page.evaluate("document.documentElement.scrollWidth") == 320, path


@pytest.mark.browser
def test_pages_can_be_used_by_keyboard_alone(chromium: Browser, site: str) -> None:
    """The scenario is switched and a user is logged in with the tabulator, arrow and enter keys."""
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(site)

        def press_tab_until(name: str) -> None:
            for _ in range(30):
                page.keyboard.press("Tab")
                focused = page.locator("a:focus, button:focus, select:focus")
                if focused.count() and name in (focused.get_attribute("id") or focused.inner_text()):
                    assert focused.evaluate("element => getComputedStyle(element).outlineStyle") != "none"
                    return
            pytest.fail(f"The key does not reach {name}.")

        press_tab_until("scenario")
        page.keyboard.press("ArrowDown")
        press_tab_until("Switch")
        page.keyboard.press("Enter")
        expect(page.locator("#scenario option[selected]")).to_have_attribute("value", "slow")
        press_tab_until("Log in")
        page.keyboard.press("Enter")
        page.wait_for_url("**/login/")
        press_tab_until("Ada Lovelace")
        page.keyboard.press("Enter")
        expect(page.locator("form[action='/logout/']")).to_be_visible()


@pytest.mark.browser
def test_pages_and_chat_work_while_hubspot_hangs(chromium: Browser, tmp_path: Path) -> None:
    """Each page is served at once, and the chat shows an unknown visitor."""
    with served(tmp_path, "/sandbox/inbox/") as (origin, _), chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"{origin}/login/")
        page.locator("#scenario").select_option("hung")
        page.locator("form[action='/scenario/'] button").click()
        expect(page.locator("#scenario option[selected]")).to_have_attribute("value", "hung")
        log_in(page, origin, "Grace Hopper")
        expect(page.locator("form[action='/logout/']")).to_be_visible()
        expect(page.frame_locator(CHAT).locator("body")).to_have_attribute("data-visitor", "unknown")
