"""The site that the browser tests visit: the app, the sandbox for HubSpot, and pages that each test writes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from django.contrib.auth.models import AnonymousUser, User
from django.contrib.staticfiles.views import serve
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.template import Context, Engine
from django.urls import include, path, re_path
from pytest_django import Settings
from support.programs import lacking
from support.site import serving_site

from hubspot_identify import client
from hubspot_identify.background import get_workers
from hubspot_identify.sandbox.state import sandbox

PORTAL = "123"
NONCE = "bm9uY2Utb2YtdGhlLXRlc3Rz"
ADA = "ada@example.com"
#: An inert element that looks like the tag's, for a value of LOAD_ON.
INJECTED_ELEMENT = (
    """<script type="text/plain" src="/static/hubspot_identify/identify.js" data-load-on="{}" data-subject="eve" """
    """data-identity='{{"email": "eve@example.com", "token": "token-of-eve", "expires_in": 3600}}' """
    """data-endpoint="/evil/identity/" data-loader="/evil/loader.js" data-launcher="/evil/launcher.js"></script>"""
)
View = Callable[[HttpRequest], HttpResponseBase]

ACCOUNTS: dict[str, dict[str, Any]] = {
    "inline": {"DELIVERY": "inline"},
    "idle": {"LOAD_ON": "idle"},
    "interaction": {"LOAD_ON": "interaction"},
    "embedded": {"PORTAL_ID": None, "LOADER_URL": None},
    "embedded-inline": {"PORTAL_ID": None, "LOADER_URL": None, "DELIVERY": "inline"},
    "embedded-interaction": {"PORTAL_ID": None, "LOADER_URL": None, "LOAD_ON": "interaction"},
    "consent": {"ENABLED": lambda request: request.COOKIES.get("consent") == "yes"},
}


@dataclass
class Page:
    """A page that a test has written, as a Django template."""

    template: str
    loader: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


class Site:
    """What the site holds for one test, and what was asked of it."""

    def __init__(self) -> None:
        self.origin = ""
        self.pages: dict[str, Page] = {}
        self.requests: list[str] = []
        self.has_request = threading.Condition()
        #: What the identity endpoint says, one after the other, before it is the app's own again.
        self.answers: list[HttpResponse | Callable[[], HttpResponse]] = []

    def url(self, path: str = "/") -> str:
        return f"{self.origin}{path}"

    def page(self, path: str, template: str, **options: Any) -> None:
        """Put a page there. ``loader`` is a query for the loader, whose knobs the stand-in describes."""
        self.pages[path] = Page(f"<!doctype html><title>{path}</title><link rel=icon href=data:,>{template}", **options)

    def asked(self, prefix: str) -> list[str]:
        """The requests under a path, in their order."""
        return [each for each in self.requests if each.startswith(prefix)]

    def wait_for_request(self, prefix: str) -> None:
        """Wait for the first request under a path. For browsers that no test controls."""
        with self.has_request:
            assert self.has_request.wait_for(lambda: self.asked(prefix), 60), self.requests

    @property
    def calls(self) -> int:
        """How often the token API was called."""
        return len(sandbox.calls)


site = Site()


def answer(
    subject: str | None, email: str | None = None, *, expires_in: float = 3600.0, status: int = 200
) -> HttpResponse:
    """What the endpoint could say."""
    identity = {"email": email, "token": sandbox.issue(email), "expires_in": expires_in} if email else None
    return JsonResponse({"subject": subject, "identity": identity}, status=status)


def middleware(get_response: View) -> View:
    """Counts, logs in by a cookie, and lets the tests speak for the endpoint."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        with site.has_request:
            site.requests.append(request.path)
            site.has_request.notify_all()
        name = request.COOKIES.get("user")
        request.user = User(pk=len(name), email=f"{name}@example.com") if name else AnonymousUser()
        page = site.pages.get(request.path)
        if page and any("{nonce}" in value for value in page.headers.values()):
            request.csp_nonce = NONCE  # type: ignore[attr-defined]  # as django-csp's middleware does
        if request.path.startswith("/hubspot/identity/") and site.answers:
            scripted = site.answers.pop(0)
            return scripted if isinstance(scripted, HttpResponse) else scripted()
        response = get_response(request)
        if response.status_code == 202:  # the browser asks again, and then it is there, on a busy machine too
            get_workers().join(3)
        return response

    return handle


LIBRARIES = {
    "hubspot_identify": "hubspot_identify.templatetags.hubspot_identify",
    "i18n": "django.templatetags.i18n",
}
ENGINE = Engine(libraries=LIBRARIES)


def show(request: HttpRequest) -> HttpResponse:
    page = site.pages.get(request.path)
    if page is None:
        return HttpResponse("There is no such page.", status=404)
    context = Context({"request": request, "user": request.user})
    html = ENGINE.from_string("{% load hubspot_identify %}" + page.template).render(context)
    if page.loader:
        html = html.replace(f"loader/{PORTAL}.js", f"loader/{PORTAL}.js?{page.loader.replace('&', '&amp;')}")
    response = HttpResponse(html, status=page.status)
    for name, value in page.headers.items():
        response.headers[name] = value.replace("{nonce}", NONCE)
    return response


def log_in(request: HttpRequest, name: str = "") -> HttpResponse:
    """Log in under this name, or out, and go on to ``next``."""
    response = redirect(request.GET.get("next", "/"))
    if name:
        response.set_cookie("user", name, httponly=True, samesite="Lax")
    else:
        response.delete_cookie("user")
    return response


urlpatterns = [
    path("hubspot/", include("hubspot_identify.urls")),
    path("sandbox/", include("hubspot_identify.sandbox.urls")),
    path("static/<path:path>", serve),
    path("login/<slug:name>/", log_in),
    path("logout/", log_in),
    re_path("", show),
]


@contextmanager
def running_site(settings: Settings, host: str) -> Iterator[Site]:
    """Serve the site, empty, under a host name whose address the browser has to know."""
    settings.DEBUG = True
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [f"{__name__}.middleware"]
    settings.INSTALLED_APPS = ["hubspot_identify.sandbox", *settings.INSTALLED_APPS]
    settings.STATICFILES_DIRS = [("npm", folder)] if (folder := node_modules()) else []
    sandbox.reset()
    site.__init__()  # type: ignore[misc]
    with serving_site() as address, mock.patch.multiple(client, CONNECT_TIMEOUT=30.0, READ_TIMEOUT=30.0):
        site.origin = address.replace("127.0.0.1", host)
        settings.HUBSPOT_IDENTIFY = {
            "API_KEY": "key-of-the-browser-tests",
            "BASE_URL": f"{address}/sandbox/api",
            "PORTAL_ID": PORTAL,
            "LOADER_URL": f"/sandbox/loader/{PORTAL}.js",
            "EMAIL_VERIFIED": True,
            "RATE_LIMIT": 1000,
            "TIMEOUT": 30,  # a busy machine's, as are the next and those of the client
            "PAGE_WAIT": 10,
            "ACCOUNTS": ACCOUNTS,
        }
        yield site
        sandbox.set_mood("healthy")  # lets go whoever hangs


def node_modules() -> Path | None:
    """Where ``npm ci`` has put the packages of ``package.json``: beside it, or where ``NODE_PATH`` says."""
    folders = [Path(__file__).parents[2] / "node_modules", *map(Path, filter(None, [os.environ.get("NODE_PATH")]))]
    return next((folder for folder in folders if folder.is_dir()), None)


def require_package(file: str) -> str:
    """Return the URL on the site of a file of an npm package. Without the file, the test is :func:`lacking`."""
    require_file(file)
    return f"/static/npm/{file}"


def require_file(file: str) -> Path:
    """Return the path of a file of an npm package. Without the file, the test is :func:`lacking`."""
    folder = node_modules()
    if folder and (folder / file).is_file():
        return folder / file
    return lacking(f"{file} is not installed: run `npm ci`")
