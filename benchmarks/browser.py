"""What the chat costs the browser: size and main-thread time of the script, and the page's own time to be ready.

::

    pip install -e ".[test]"
    python benchmarks/browser.py

Needs Chromium; takes a minute. All load stays on the loopback address, with the sandbox as HubSpot.
"""

from __future__ import annotations

import gzip
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import django
from django.conf import settings

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

STATIC = ROOT / "hubspot_identify/static/hubspot_identify"
ROUNDS = 10
SLOW = 3  # seconds that HubSpot takes for its loader and for a token
ROWS = "".join(f"<tr><td>{row}<td>Article {row}<td>paid" for row in range(300))

settings.configure(
    DEBUG=True,
    SECRET_KEY="benchmark",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="__main__",
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django.contrib.staticfiles",
        "hubspot_identify",
        "hubspot_identify.sandbox",
    ],
    MIDDLEWARE=["__main__.visitors"],
    STATIC_URL="/static/",
    USE_TZ=True,
    LOGGING={"version": 1, "disable_existing_loggers": False, "root": {"level": "CRITICAL"}},
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.contrib.staticfiles.views import serve  # noqa: E402
from django.http import HttpRequest, HttpResponse, HttpResponseBase  # noqa: E402
from django.urls import include, path  # noqa: E402
from django.views.decorators.cache import cache_control  # noqa: E402
from playwright.sync_api import Browser, Page  # noqa: E402
from support.browser import running_chromium  # noqa: E402
from support.site import serving_site  # noqa: E402

from hubspot_identify.sandbox.state import sandbox  # noqa: E402
from hubspot_identify.sandbox.views import file  # noqa: E402
from hubspot_identify.widget import render_script  # noqa: E402

requested: list[str] = []


def visitors(get_response: object) -> object:
    """Logs in whoever the cookie names."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        requested.append(request.path)
        number = int(request.COOKIES.get("user", "1"))
        request.user = User(pk=number, email=f"user{number}@example.com")
        return get_response(request)  # type: ignore[operator,no-any-return]

    return handle


def page(request: HttpRequest, account: str | None = None) -> HttpResponse:
    tag = "" if account is None else render_script(request, account=account)
    return HttpResponse(f"<!doctype html><title>Orders</title><link rel=icon href=data:,><table>{ROWS}</table>{tag}")


def slow_loader(request: HttpRequest) -> HttpResponseBase:
    time.sleep(SLOW)
    return file(request, name="loader.js")


urlpatterns = [
    path("plain/", page),
    path("tagged/<slug:account>/", page),
    path("hubspot/", include("hubspot_identify.urls")),
    path("sandbox/loader/slow.js", slow_loader),
    path("sandbox/", include("hubspot_identify.sandbox.urls")),
    path("static/<path:path>", cache_control(max_age=3600)(serve)),
]


@contextmanager
def site() -> Iterator[str]:
    with serving_site() as origin:
        settings.HUBSPOT_IDENTIFY = {
            "API_KEY": "key-of-the-benchmark",
            "BASE_URL": f"{origin}/sandbox/api",
            "PORTAL_ID": "123",
            "LOADER_URL": "/sandbox/loader/123.js",
            "EMAIL_VERIFIED": True,
            "ACCOUNTS": {
                "page": {},
                "slow": {"LOADER_URL": "/sandbox/loader/slow.js"},
                "interaction": {"LOAD_ON": "interaction"},
            },
        }
        yield origin
        sandbox.set_scenario("healthy")


def say(what: str, value: str, target: str = "") -> None:
    print(f"{what:<72} {value:>16}   {target}")


def sizes() -> None:
    for name, target in (("identify.js", "under 5000"), ("launcher.js", "")):
        packed = len(gzip.compress((STATIC / name).read_bytes(), 9))
        say(f"{name}, bytes gzipped", str(packed), target)


def ready(tab: Page, url: str) -> float:
    """Milliseconds until DOMContentLoaded."""
    tab.goto(url, wait_until="domcontentloaded")
    return float(tab.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))


def pages(browser: Browser, origin: str) -> None:
    """Turns of a page without and one with the tag, each of a visitor nobody knows yet, while HubSpot is slow."""
    sandbox.set_scenario("slow")
    numbers = itertools.count(1000)
    seen: dict[str, list[float]] = {"plain/": [], "tagged/slow/": []}
    with browser.new_context() as context:  # one, so that the browser has our script in its cache after the first turn
        tab = context.new_page()
        for turn in range(ROUNDS + 1):
            for address, times in seen.items():
                context.add_cookies([{"name": "user", "value": str(next(numbers)), "url": origin}])
                took = ready(tab, f"{origin}/{address}")
                if turn:
                    times.append(took)
                tab.goto("about:blank")
    sandbox.set_scenario("healthy")
    plain, tagged = seen.values()
    difference = statistics.median(tagged) - statistics.median(plain)
    say(f"DOMContentLoaded without the tag, median of {ROUNDS}, ms", f"{statistics.median(plain):.1f}")
    say(f"… with it, user new, HubSpot {SLOW} s away", f"{statistics.median(tagged):.1f}")
    spread = max(plain) - min(plain)
    say("… difference, ms", f"{difference:+.1f}", f"less than {spread:.1f}, the spread without the tag")


def main_thread(browser: Browser, origin: str) -> None:
    """CPU time that the script's first run takes of the main thread, from the trace that Chromium's own tools draw."""
    times = []
    for _ in range(ROUNDS):
        with browser.new_context() as context:
            tab = context.new_page()
            browser.start_tracing(page=tab, categories=["devtools.timeline"])
            tab.goto(f"{origin}/tagged/page/")
            tab.wait_for_function("hubspotIdentify.status().identified")
            trace = json.loads(browser.stop_tracing())["traceEvents"]
        runs = [each for each in trace if each["name"] == "EvaluateScript"]
        (ours,) = [each for each in runs if each["args"]["data"]["url"].endswith("identify.js")]
        times.append(ours["tdur"] / 1000)
    target = f"under 5; the longest took {max(times):.2f}"
    say(f"main-thread time of identify.js, median of {ROUNDS}, ms", f"{statistics.median(times):.2f}", target)


def interaction(browser: Browser, origin: str) -> None:
    """What is asked of anybody before somebody goes for the button."""
    requested.clear()
    with browser.new_context() as context:
        tab = context.new_page()
        calls = len(sandbox.calls)
        tab.goto(f"{origin}/tagged/interaction/")
        tab.locator(".hubspot-identify-launcher button").wait_for()
        tab.evaluate("new Promise(requestIdleCallback)")
        before = [each for each in requested if each.startswith(("/sandbox/", "/hubspot/"))]
        say('LOAD_ON = "interaction": requests to HubSpot or for an identity', str(len(before)), "0")
        say("… calls of the API", str(len(sandbox.calls) - calls), "0")


def main() -> None:
    sizes()
    with site() as origin, running_chromium() as browser:
        main_thread(browser, origin)
        pages(browser, origin)
        interaction(browser, origin)


if __name__ == "__main__":
    main()
