"""The site that the browser tests visit: the app, the sandbox in place of HubSpot, and pages that each test writes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from django.contrib.auth.models import AnonymousUser, User
from django.contrib.staticfiles.views import serve
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.template import Context, Engine
from django.urls import include, path, re_path
from pytest_django import Settings
from support.programs import lacking
from support.site import serving_site

from hubspot_identify import services
from hubspot_identify._hubspot import client
from hubspot_identify.sandbox.state import sandbox
from hubspot_identify.testing import join_threads

#: Browsers resolve all names below localhost to this machine, and treat them as secure. WebKit resolves no others.
SECURE_HOST = "www.shop.localhost"
CHAT_HOST = "hubspot.localhost"
PORTAL = "123"
DOCTYPE = "<!doctype html>"
NONCE = "bm9uY2Utb2YtdGhlLXRlc3Rz"
ADA = "ada@example.com"
GRACE = "grace@example.com"
IDENTITY = "/hubspot/identity/"
LOADER = f"/sandbox/loader/{PORTAL}.js"
TAG = "{% hubspot_identify %}"
#: HubSpot's embed code, as a site has it that used HubSpot's chat before this app.
EMBED_CODE = f'<script id="hs-script-loader" async src="{LOADER}"></script>'
#: An inert element that looks like the tag's, for a value of LOAD_ON.
INJECTED_ELEMENT = (
    """<script type="text/plain" src="/static/hubspot_identify/identify.js" data-load-on="{}" data-subject="eve" """
    """data-identity='{{"email": "eve@example.com", "token": "token-of-eve", "expires_in": 3600}}' """
    """data-endpoint="/evil/identity/" data-loader="/evil/loader.js" data-launcher="/evil/launcher.js"></script>"""
)
#: Runs before the page's own scripts. Records the events of the app and the violations of the page's policy.
RECORDER = """
if (window.top === window) {
  window.recordedEvents = [];
  const dispatch = EventTarget.prototype.dispatchEvent;
  EventTarget.prototype.dispatchEvent = function (event) {
    if (event.type.startsWith("hubspot-identify:")) {
      recordedEvents.push([event.type.slice("hubspot-identify:".length), event.detail]);
    }
    return dispatch.call(this, event);
  };
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (event) => {
    violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`);
  });
}
"""
RECORDER_ELEMENT = f'<script src="/recorder.js" nonce="{NONCE}"></script>'
View = Callable[[HttpRequest], HttpResponseBase]


def has_consent(request: HttpRequest) -> bool:
    return request.COOKIES.get("consent") == "yes"


ACCOUNTS: dict[str, dict[str, Any]] = {
    "inline": {"DELIVERY": "inline"},
    "idle": {"LOAD_ON": "idle"},
    "interaction": {"LOAD_ON": "interaction"},
    "embedded": {"PORTAL_ID": None, "LOADER_URL": None},
    "embedded-inline": {"PORTAL_ID": None, "LOADER_URL": None, "DELIVERY": "inline"},
    "embedded-interaction": {"PORTAL_ID": None, "LOADER_URL": None, "LOAD_ON": "interaction"},
    "consent": {"ENABLED": has_consent},
    "consent-interaction": {"ENABLED": has_consent, "LOAD_ON": "interaction"},
}


@dataclass
class Page:
    """A page that a test has written, as a Django template."""

    template: str
    loader: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class Site:
    """The pages and responses of one test, and the requests that the site has received."""

    def __init__(self) -> None:
        self.origin = ""
        #: Markup at the beginning of each page.
        self.head = ""
        self.pages: dict[str, Page] = {}
        self.requests: list[str] = []
        self.has_request = threading.Condition()
        #: The next responses of the identity endpoint. After these it responds itself.
        self.responses: list[Any] = []
        #: Whether the endpoint waits for a token that it has requested, so that the browser does not ask twice.
        self.waits_for_tokens = True

    @property
    def host(self) -> str:
        return str(urlsplit(self.origin).hostname)

    def url(self, path: str = "/") -> str:
        return f"{self.origin}{path}"

    def page(self, path: str, template: str, **options: Any) -> None:
        """Write a page. ``loader`` is a query for the sandbox's loader, which describes its options."""
        self.pages[path] = Page(f"{DOCTYPE}<title>{path}</title><link rel=icon href=data:,>{template}", **options)

    def requested(self, *prefixes: str) -> list[str]:
        """The paths that were requested and begin with one of these, in order."""
        return [path for path in self.requests if path.startswith(prefixes)]

    @property
    def hubspot_requests(self) -> list[str]:
        """The paths that were requested from the sandbox or from the app's endpoint."""
        return self.requested("/sandbox/", "/hubspot/")

    @property
    def identity_requests(self) -> int:
        """How often the browser has requested the visitor."""
        return len(self.requested(IDENTITY))

    def wait_for_request(self, prefix: str, times: int = 1) -> None:
        """Wait until the browser has requested such a path so often."""
        with self.has_request:
            assert self.has_request.wait_for(lambda: len(self.requested(prefix)) >= times, 60), self.requests

    @property
    def token_calls(self) -> int:
        """How often the site has called HubSpot's token API."""
        return len(sandbox.calls)


site = Site()


def identity_response(subject: str | None, email: str | None = None, *, status: int = 200) -> HttpResponse:
    """A response of the identity endpoint, whose identity is valid for an hour."""
    identity = {"email": email, "token": sandbox.issue(email), "expires_in": 3600.0} if email else None
    return JsonResponse({"subject": subject, "identity": identity}, status=status)


def middleware(get_response: View) -> View:
    """Record the requests, log users in by a cookie, and send the responses of the tests for the endpoint."""

    def handle(request: HttpRequest) -> HttpResponseBase:
        with site.has_request:
            site.requests.append(request.path)
            site.has_request.notify_all()
        name = request.COOKIES.get("user")
        request.user = User(pk=len(name), email=f"{name}@example.com") if name else AnonymousUser()
        page = site.pages.get(request.path)
        if page and any("{nonce}" in value for value in page.headers.values()):
            vars(request)["csp_nonce"] = NONCE  # as django-csp's middleware does
        if request.path.startswith(IDENTITY) and site.responses:
            response: HttpResponseBase | Callable[[], HttpResponse] = site.responses.pop(0)
            return response if isinstance(response, HttpResponseBase) else response()
        response = get_response(request)
        if response.status_code == 202:
            join_threads(3)
            if site.waits_for_tokens:
                response = get_response(request)
        return response

    return handle


LIBRARIES = {
    "hubspot_identify": "hubspot_identify.templatetags.hubspot_identify",
    "i18n": "django.templatetags.i18n",
}
ENGINE = Engine(libraries=LIBRARIES)


def show_page(request: HttpRequest) -> HttpResponse:
    page = site.pages.get(request.path)
    if page is None:
        return HttpResponse("There is no such page.", status=404)
    context = Context({"request": request, "user": request.user})
    template = page.template.replace(DOCTYPE, DOCTYPE + site.head)
    html = str(ENGINE.from_string("{% load hubspot_identify %}" + template).render(context))
    # The chat's iframe is on another origin than the page, as HubSpot's is.
    options = f"frame=http://{CHAT_HOST}:{request.get_port()}&{page.loader}".rstrip("&").replace("&", "&amp;")
    html = html.replace(f"loader/{PORTAL}.js", f"loader/{PORTAL}.js?{options}")
    response = HttpResponse(html)
    for name, value in page.headers.items():
        response.headers[name] = value.replace("{nonce}", NONCE)
    return response


def recorder(request: HttpRequest) -> HttpResponse:
    return HttpResponse(RECORDER, content_type="text/javascript")


def api_identity(request: HttpRequest) -> HttpResponse:
    """Identify the user whose name is the token, as docs/clients.rst shows."""
    scheme, _, name = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer" or name == "expired":
        return JsonResponse({"detail": "The token is invalid."}, status=401)
    request.user = User(pk=len(name), email=f"{name}@example.com")
    return services.identify(request, wait=10).as_response()


def log_in(request: HttpRequest, name: str = "") -> HttpResponse:
    """Log in as this user, or log out without one, and redirect to ``next``."""
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
    path("recorder.js", recorder),
    path("api/chat-identity/", api_identity),
    path("login/<slug:name>/", log_in),
    path("logout/", log_in),
    re_path("", show_page),
]


@contextmanager
def running_site(settings: Settings, host: str, *outer_middleware: str) -> Iterator[Site]:
    """Serve the site, without pages, under a host name that the browser must resolve to this machine."""
    settings.DEBUG = True
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [*outer_middleware, f"{__name__}.middleware"]
    settings.INSTALLED_APPS = ["hubspot_identify.sandbox", *settings.INSTALLED_APPS]
    settings.STATICFILES_DIRS = [("npm", folder)] if (folder := node_modules()) else []
    sandbox.reset()
    vars(site).update(vars(Site()))
    with serving_site() as address, mock.patch.multiple(client, CONNECT_TIMEOUT=30.0, READ_TIMEOUT=30.0):
        site.origin = address.replace("127.0.0.1", host)
        settings.HUBSPOT_IDENTIFY = {
            "API_KEY": "key-of-the-browser-tests",
            "BASE_URL": f"{address}/sandbox/api",
            "PORTAL_ID": PORTAL,
            "LOADER_URL": LOADER,
            "EMAIL_VERIFIED": True,
            "RATE_LIMIT": 1000,
            "TIMEOUT": 30,  # long enough for a busy machine, as are the next one and those of the client
            "PAGE_WAIT": 10,
            "ACCOUNTS": ACCOUNTS,
        }
        yield site
        sandbox.set_scenario("healthy")  # ends the calls that are still waiting


def node_modules() -> Path | None:
    """Return the folder of the packages of ``package.json``: beside that file, or the one that ``NODE_PATH`` names."""
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
