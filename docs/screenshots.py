"""Create the images of the manual in ``docs/images/``, from the example site and the sandbox::

    pip install -e ".[demo,docs,test]"
    python docs/screenshots.py

This requires Chromium. Look at the images before you commit them.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import django
import requests
from django.conf import settings
from django.core.management import call_command
from django.test import override_settings
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
ANONYMOUS = json.dumps({"subject": None, "identity": None})
CHAT = "#hubspot-messages-iframe-container iframe"
PAGE = {"width": 720, "height": 460}


def main() -> None:
    sys.path[:0] = [str(ROOT / "example_project")]
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "example_site.settings",
            "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
            "HUBSPOT_API_KEY": "",  # uses the sandbox, even if .env contains a key
        }
        django.setup()
        from example_site.management.commands.demo import create_people, serving

        call_command("migrate", verbosity=0)
        create_people()
        with serving() as origin:
            html = run_doctor(origin)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox", "--hide-scrollbars"]
                )
                picture_chat(browser, origin)
                picture_inbox(browser, origin)
                picture_button(browser, origin)
                picture_doctor(browser, html)
                browser.close()


def run_doctor(origin: str) -> str:
    """Return the output of the doctor in the scenario of a missing scope, as HTML."""
    output = io.StringIO()
    requests.post(f"{origin}/sandbox/scenario/", {"scenario": "403"}, timeout=5).raise_for_status()
    try:
        with override_settings(HUBSPOT_IDENTIFY={**settings.HUBSPOT_IDENTIFY, "ACCOUNTS": {}}):
            call_command(
                "hubspot_doctor", email="ada@example.com", stdout=output, stderr=io.StringIO(), force_color=True
            )
    except SystemExit:
        pass  # It exits with 1, because it finds an error.
    finally:
        requests.post(f"{origin}/sandbox/scenario/", {"scenario": "healthy"}, timeout=5).raise_for_status()
    console = Console(record=True, file=io.StringIO(), width=100, force_terminal=True)
    console.print(Text("$ python manage.py hubspot_doctor --email ada@example.com", style="bold"))
    console.print(Text.from_ansi(output.getvalue()))
    return console.export_html(theme=DEFAULT_TERMINAL_THEME, inline_styles=True)


def picture_chat(browser: Browser, origin: str) -> None:
    """Show the same page and user with HubSpot's embed code alone and with the app."""
    panes = []
    for caption, identified in [
        ("HubSpot&rsquo;s embed code alone", False),
        ("With django-hubspot-identify", True),
    ]:
        page = new_page(browser)
        if not identified:  # The embed code alone gives no identity to the widget.
            page.route("**/hubspot/identity/", lambda route: route.fulfill(body=ANONYMOUS, content_type="text/json"))
        page.goto(f"{origin}/login/")
        page.get_by_role("button", name="ada@example.com").click()
        page.wait_for_url(f"{origin}/")
        page.add_style_tag(content=".scenario {display: none}")
        send(page, "Where is my order?", "ada@example.com" if identified else "unknown")
        data = base64.b64encode(page.screenshot()).decode()
        panes.append(f'<figure><figcaption>{caption}</figcaption><img src="data:image/png;base64,{data}"></figure>')
        page.context.close()
    page = new_page(browser, width=2 * PAGE["width"] + 64, height=200, scale=1)
    page.set_content(
        "<style>body{margin:16px;display:flex;gap:32px;font:600 19px system-ui,sans-serif;color:#24292f;"
        "background:#fff} figure{margin:0} figcaption{margin-bottom:10px}"
        f"img{{display:block;width:{PAGE['width']}px;border:1px solid #d0d7de;border-radius:8px}}</style>"
        + "".join(panes)
    )
    save(page, "chat.png")


def picture_inbox(browser: Browser, origin: str) -> None:
    page = new_page(browser, width=760, height=200)
    page.goto(f"{origin}/sandbox/inbox/")
    assert page.locator("article.known").count() == page.locator("article.unknown").count() == 1
    save(page, "inbox.png")


def picture_button(browser: Browser, origin: str) -> None:
    page = new_page(browser)
    page.goto(f"{origin}/interaction/")
    page.add_style_tag(content=".scenario {display: none}")
    page.locator(".hubspot-identify-launcher button").wait_for()
    save(page, "button.png", full_page=False)


def picture_doctor(browser: Browser, html: str) -> None:
    page = new_page(browser, width=720, height=100, scale=1.1)
    page.set_content(html)
    page.add_style_tag(content="body{margin:16px} pre{font-size:14px;line-height:1.35;white-space:pre}")
    save(page, "doctor.png")


def send(page: Page, text: str, visitor: str) -> None:
    """Wait until the chat shows this visitor, open it, and send a message."""
    chat = page.frame_locator(CHAT)
    chat.locator(f'body[data-visitor="{visitor}"]').wait_for()
    chat.locator("#launcher").click()
    chat.locator("input[name=text]").fill(text)
    chat.locator("form button").click()
    chat.locator("#messages li").wait_for()


def new_page(browser: Browser, width: int = PAGE["width"], height: int = PAGE["height"], scale: float = 1.5) -> Page:
    page = browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=scale, reduced_motion="reduce", locale="en"
    ).new_page()
    page.set_default_timeout(30_000)
    return page


def save(page: Page, name: str, *, full_page: bool = True) -> None:
    path = IMAGES / name
    path.parent.mkdir(exist_ok=True)
    page.screenshot(path=path, full_page=full_page)
    page.context.close()
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
