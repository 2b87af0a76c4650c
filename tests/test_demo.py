"""The example site: its one walk from log-in to inbox, and what it says when it can't serve."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Page, expect
from support.browser import running_chromium

CHAT = "#hubspot-messages-iframe-container iframe"
MANAGE = Path(__file__).parent.parent / "example_project" / "manage.py"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a newcomer's shell, with a database of this test's own."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV")}
    return {**kept, "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}", "PYTHONUNBUFFERED": "1"}


def demo(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(MANAGE), "demo", "--no-color", *arguments]
    return subprocess.run(command, check=False, env=env, cwd=cwd, capture_output=True, text=True, timeout=600)


def test_the_walk_sees_a_known_contact_and_an_unknown_visitor(environment: dict[str, str], tmp_path: Path) -> None:
    """``demo --check`` goes all the way without a browser, from any folder, says what it saw, and exits 0."""
    done = demo("--check", env=environment, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "✓ page: one script element, identity from /hubspot/identity/",
        "✓ endpoint, not logged in: nobody",
        "✓ inbox: unknown visitor",
        "✓ logged in as ada",
        "✓ endpoint: token for ada@example.com",
        "✓ inbox: known contact ada@example.com, verified",
        "✓ inline page: token for ada@example.com in its script element",
        "✓ logged out",
        "✓ endpoint: nobody",
        "✓ inbox: unknown visitor",
        "All is well.",
    ]
    assert done.returncode == 0


def test_the_walk_never_goes_to_the_real_hubspot(environment: dict[str, str], tmp_path: Path) -> None:
    """Also where the environment names a real account, ``--check`` keeps to the sandbox."""
    real = {"HUBSPOT_API_KEY": "pat-na1-real", "HUBSPOT_PORTAL_ID": "4567"}
    done = demo("--check", env={**environment, **real}, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "All is well.")


def test_the_walk_says_what_is_wrong(environment: dict[str, str], tmp_path: Path) -> None:
    """With the app switched off there is no script element: exit code 1, and the reason in words."""
    done = demo("--check", env={**environment, "HUBSPOT_ENABLED": "false"}, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "CommandError: saw 0 script elements of the app in /, expected one\n"


def test_a_taken_port_is_said_clearly(environment: dict[str, str], tmp_path: Path) -> None:
    """Exit code 1, and what to type instead; no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = demo("--port", str(port), env=environment, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"CommandError: Port {port} is taken by another program. Choose another one: demo --port {port + 1}\n"
    )


def test_without_debug_there_is_no_sandbox_to_show(environment: dict[str, str], tmp_path: Path) -> None:
    """The demo says so instead of serving a site whose chat is a 404."""
    done = demo(env={**environment, "DEBUG": "false"}, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: The sandbox needs DEBUG")


@contextmanager
def served(env: dict[str, str], cwd: Path) -> Iterator[tuple[str, str]]:
    """Serve the demo on a free port; yield its origin and what it printed until then."""
    command = [sys.executable, str(MANAGE), "demo", "--no-color", "--port", "0"]
    with subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            printed = ""
            for line in process.stdout:  # pragma: no branch - it goes on until it is stopped
                printed += line
                if line.startswith("Stop with"):
                    break
            found = re.search(r"The example site is at (http://127\.0\.0\.1:\d+)/", printed)
            assert found, printed
            yield found[1], printed
        finally:
            process.terminate()


def test_the_demo_prints_where_it_is_and_serves_it(environment: dict[str, str], tmp_path: Path) -> None:
    """Address, log-ins and inbox are printed; the pages, their static files and the loader are there."""
    with served(environment, tmp_path) as (origin, printed):
        assert [line.split() for line in printed.splitlines() if "log in as" in line] == [
            ["log", "in", "as", "ada", "password", "let-me-in", "(ada@example.com)"],
            ["log", "in", "as", "grace", "password", "let-me-in", "(grace@example.com)"],
        ]
        assert f"{origin}/sandbox/inbox/" in printed
        pages = ["inline", "idle", "interaction", "cached", "htmx/1", "htmx/2", "turbo/1", "turbo/2", "login"]
        for path in ["/", *(f"/{page}/" for page in pages), "/sandbox/inbox/", "/sandbox/loader/123.js"]:
            assert requests.get(origin + path, timeout=10).status_code == 200, path
        page = requests.get(f"{origin}/htmx/1/", timeout=10).text
        for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
            assert requests.get(origin + address, timeout=10).status_code == 200, address


def test_the_cached_page_is_the_same_for_everybody(environment: dict[str, str], tmp_path: Path) -> None:
    """Byte for byte, for two visitors with different cookies, and without setting one."""
    with served(environment, tmp_path) as (origin, _):
        first = requests.get(f"{origin}/cached/", timeout=10)
        second = requests.get(f"{origin}/cached/", timeout=10, headers={"Cookie": "sessionid=another"})
    assert first.content == second.content
    assert "Set-Cookie" not in first.headers
    assert "Vary" not in first.headers


def test_the_mood_bar_switches_the_sandbox(environment: dict[str, str], tmp_path: Path) -> None:
    """The bar's form changes HubSpot's mood and comes back to its page, and to no other site."""
    with served(environment, tmp_path) as (origin, _), requests.Session() as browser:
        browser.get(f"{origin}/idle/", timeout=10)
        form = {"csrfmiddlewaretoken": browser.cookies["csrftoken"], "mood": "500"}
        for target, page in (("/idle/", "/idle/"), ("https://evil.example/", "/")):
            answer = browser.post(f"{origin}/mood/", data={**form, "next": target}, timeout=10, allow_redirects=False)
            assert (answer.status_code, answer.headers["Location"]) == (302, page)
        assert browser.get(f"{origin}/sandbox/mood/", timeout=10).json()["mood"] == "500"
        assert browser.post(f"{origin}/mood/", data={**form, "mood": "sad"}, timeout=10).status_code == 400


def test_with_a_key_and_a_portal_the_demo_is_of_the_real_hubspot(environment: dict[str, str], tmp_path: Path) -> None:
    """Then there is no mood to switch, and the script element names HubSpot's own loader."""
    real = {"HUBSPOT_API_KEY": "pat-na1-real", "HUBSPOT_PORTAL_ID": "4567", "HUBSPOT_REGION": "eu1"}
    with served({**environment, **real}, tmp_path) as (origin, printed):
        page = requests.get(f"{origin}/", timeout=10).text
    assert "HubSpot is the real one, portal 4567." in printed
    assert 'data-loader="https://js-eu1.hs-scripts.com/4567.js"' in page
    assert "/mood/" not in page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


def say(page: Page, text: str) -> None:
    """Send a message in the chat, which is open or not."""
    chat = page.frame_locator(CHAT)
    chat.locator("#launcher, #say").filter(visible=True).first.wait_for()
    if chat.locator("#launcher").is_visible():
        chat.locator("#launcher").click()
    chat.get_by_label("Message").fill(text)
    chat.get_by_role("button", name="Send").click()
    expect(chat.get_by_role("listitem").last).to_have_text(text)


@pytest.mark.browser
def test_a_newcomers_way_through_the_demo(chromium: Browser, environment: dict[str, str], tmp_path: Path) -> None:
    """Anonymous, logged in, logged out: what the chat says in the page is what support sees in the inbox."""
    with served(environment, tmp_path) as (origin, _), chromium.new_context() as context:
        page, inbox = context.new_page(), context.new_page()
        visitor = page.frame_locator(CHAT).locator("body")

        page.goto(origin)
        expect(visitor).to_have_attribute("data-visitor", "unknown")
        say(page, "Who am I?")

        page.get_by_role("banner").get_by_role("link", name="Log in").click()
        page.get_by_role("button", name="Ada Lovelace").click()
        expect(visitor).to_have_attribute("data-visitor", "ada@example.com")
        expect(page.frame_locator(CHAT).get_by_text("Who am I?")).to_have_count(0)
        say(page, "And now?")

        page.get_by_role("button", name="Log out").click()
        expect(visitor).to_have_attribute("data-visitor", "unknown")
        expect(page.frame_locator(CHAT).get_by_role("listitem")).to_have_count(0)

        inbox.goto(f"{origin}/sandbox/inbox/")
        expect(inbox.get_by_role("article")).to_have_text(
            [
                re.compile(r"Ada Lovelace\s+✓ Known contact\s+ada@example.com verified\s+And now\?\s+on /"),
                re.compile(r"Unknown visitor\s+No contact record\s+Who am I\?\s+on /"),
            ]
        )


@pytest.mark.browser
def test_hubspot_may_hang_and_the_demo_goes_on(chromium: Browser, environment: dict[str, str], tmp_path: Path) -> None:
    """Each page is there at once, and the chat in it, only without knowing its visitor."""
    with served(environment, tmp_path) as (origin, _), chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"{origin}/login/")
        page.get_by_label(re.compile("API is")).select_option("hung")
        page.get_by_role("button", name="Switch").click()
        expect(page.locator(".mood.faulty_cache")).to_be_visible()
        page.get_by_role("button", name="Grace Hopper").click()
        expect(page.get_by_role("button", name="Log out")).to_be_visible()
        expect(page.frame_locator(CHAT).locator("body")).to_have_attribute("data-visitor", "unknown")
