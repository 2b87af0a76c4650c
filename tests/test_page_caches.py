"""Page caches and visitors who request the same page one after another: no visitor gets the page of another."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.cache import caches
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.response import TemplateResponse
from django.test import Client
from django.urls import include, path
from django.views.decorators.cache import cache_page
from pytest_django import Settings
from rest_framework.authentication import SessionAuthentication
from rest_framework.renderers import TemplateHTMLRenderer
from rest_framework.response import Response
from rest_framework.views import APIView
from support.pages import ada, grace, keep_token, render_django, request_by, script_attributes

from hubspot_identify import delivery, services
from hubspot_identify.checks.deployment import check_deployment

SOURCE = "{% load hubspot_identify %}<p>{{ hits }}</p>{% hubspot_identify %}"
USERS = {"ada": ada, "grace": grace}
MIDDLEWARE = "django.middleware.cache"
OURS = "hubspot_identify.middleware.IdentifiedPageMiddleware"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            "loaders": [("django.template.loaders.locmem.Loader", {"page.html": SOURCE})],
            "context_processors": ["django.template.context_processors.request"],
        },
    }
]
hits = 0


def user_from_header(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Middleware that sets the user from a header of the test client.

    With Django's middleware for sessions there would be ``Vary: Cookie``, which separates visitors in page caches.
    Many sites remove it.
    """

    def middleware(request: HttpRequest) -> Any:
        request.user = USERS.get(request.headers.get("X-User", ""), AnonymousUser)()
        return get_response(request)

    return middleware


def context() -> dict[str, int]:
    global hits
    hits += 1
    return {"hits": hits}


def plain(request: HttpRequest) -> HttpResponse:
    return render(request, "page.html", context())


def template_response(request: HttpRequest) -> TemplateResponse:
    return TemplateResponse(request, "page.html", context())


class RestFramework(APIView):  # type: ignore[misc]  # the package has no types
    renderer_classes = (TemplateHTMLRenderer,)
    authentication_classes = (SessionAuthentication,)

    def get(self, request: HttpRequest) -> Response:
        return Response(context(), template_name="page.html")


PER_VIEW = {
    "cache_page": cache_page(60)(plain),
    "cache_page_of_template_response": cache_page(60)(template_response),
    "cache_page_of_rest_framework": cache_page(60)(RestFramework.as_view()),
}
SITE_WIDE = {
    "site_wide": plain,
    "site_wide_rest_framework": RestFramework.as_view(),
}


def api(request: HttpRequest) -> JsonResponse:
    return JsonResponse(services.identify(request).as_dict())


urlpatterns = [
    path("hubspot/", include("hubspot_identify.urls")),
    *(path(f"{name}/api/", cache_page(60)(api)) for name in PER_VIEW),
    *(path(f"{name}/api/", api) for name in SITE_WIDE),
    *(path(f"{name}/", view) for name, view in {**PER_VIEW, **SITE_WIDE}.items()),
]


def configure_site(settings: Settings, middleware: list[str]) -> None:
    """Serve the pages of this module with this middleware."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = middleware
    settings.TEMPLATES = TEMPLATES


@pytest.fixture(params=[*PER_VIEW, *SITE_WIDE])
def url(request: pytest.FixtureRequest, settings: Settings) -> str:
    """The URL of a page that Django caches, for each way to configure that."""
    caching = [f"{MIDDLEWARE}.UpdateCacheMiddleware"], [f"{MIDDLEWARE}.FetchFromCacheMiddleware"]
    before, after = caching if request.param in SITE_WIDE else ([], [])
    configure_site(settings, [*before, f"{__name__}.user_from_header", *after])
    return f"/{request.param}/"


#: One URL for each of Django's two page caches.
each_cache = pytest.mark.parametrize("url", ["cache_page", "site_wide"], indirect=True)


def deliver(settings: Settings, delivery: str) -> None:
    """Set the delivery. Both users have a token."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": delivery}
    keep_token(ada())
    keep_token(grace())


def page_of(user: str, url: str, client: Client) -> str:
    response = client.get(url, headers={"X-User": user})
    assert response.status_code == 200
    return response.content.decode()


def token_in(page: str) -> str | None:
    identity = script_attributes(page).get("data-identity")
    token: str | None = None if identity is None else json.loads(identity)["token"]
    return token


def test_inline_page_is_not_shared(url: str, client: Client, settings: Settings) -> None:
    """Two users and an anonymous visitor, in turns, each get a page with their own identity or none."""
    deliver(settings, "inline")
    visits = ["ada", "grace", "", "ada", "", "grace"]
    tokens = [token_in(page_of(user, url, client)) for user in visits]
    assert tokens == [f"token-of-{user}" if user else None for user in visits]


@each_cache
@pytest.mark.parametrize("delivery", ["inline", "deferred"])
def test_view_that_returns_an_identity_is_not_shared(
    url: str, client: Client, settings: Settings, delivery: str
) -> None:
    """A cached view that returns the result of ``identify()``, such as an API, returns each visitor's own."""
    deliver(settings, delivery)
    visits = ["ada", "grace", "", "ada"]
    identities = [client.get(f"{url}api/", headers={"X-User": user}).json()["identity"] for user in visits]
    tokens = [identity["token"] if identity else None for identity in identities]
    assert tokens == [f"token-of-{user}" if user else None for user in visits]


def test_inline_page_would_be_shared_without_the_flag_for_page_caches(
    url: str, client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caches of these tests share pages. Without Django's flag, Grace gets the identity of Ada."""
    deliver(settings, "inline")
    for module in (services, delivery):
        monkeypatch.setattr(module, "keep_out_of_page_caches", lambda request: None)
    page_of("ada", url, client)
    assert token_in(page_of("grace", url, client)) == "token-of-ada"


class OtherPageCache:
    """A page cache that ignores Django's flag and reads only the headers, such as that of wagtail-cache."""

    pages: ClassVar[dict[str, HttpResponse]] = {}

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path not in self.pages:
            response = self.get_response(request)
            if "private" in response.headers.get("Cache-Control", ""):
                return response
            self.pages[request.path] = response
        return self.pages[request.path]


USER, CACHE = f"{__name__}.user_from_header", f"{__name__}.OtherPageCache"


@pytest.mark.parametrize(
    "middleware",
    [[USER, CACHE], [OURS, USER, CACHE], [USER, CACHE, OURS], [OURS, USER, CACHE, OURS], [OURS, CACHE, USER, OURS]],
)
def test_identity_is_in_no_page_cache_among_the_middleware(
    client: Client, settings: Settings, middleware: list[str]
) -> None:
    """With each order of the middleware, Grace gets no identity of Ada, or the system check warns."""
    configure_site(settings, middleware)
    deliver(settings, "inline")
    OtherPageCache.pages.clear()
    tokens = [token_in(page_of(user, "/site_wide/", client)) for user in ("ada", "grace")]
    is_warned = "hubspot_identify.W009" in [message.id for message in check_deployment()]
    assert tokens == ["token-of-ada", "token-of-grace"] or is_warned
    assert is_warned is not (middleware[0] == middleware[-1] == OURS)


@each_cache
def test_deferred_page_is_cached(url: str, client: Client, settings: Settings) -> None:
    """A deferred page is rendered once for all visitors."""
    deliver(settings, "deferred")
    pages = {page_of(user, url, client) for user in ("ada", "grace", "")}
    assert len(pages) == 1
    assert token_in(pages.pop()) is None


def test_consent_is_not_shared(url: str, client: Client, settings: Settings) -> None:
    """A visitor who declined does not get the page of a visitor who agreed."""
    deliver(settings, "deferred")
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ENABLED": lambda request: request.user.username == "ada"}
    load_on = [script_attributes(page_of(user, url, client))["data-load-on"] for user in ("ada", "grace", "ada")]
    assert load_on == ["page", "never", "page"]


@pytest.mark.parametrize("middleware", [[USER, CACHE, OURS], [OURS, USER, CACHE, OURS], [OURS, CACHE, USER, OURS]])
def test_consent_is_in_no_page_cache_that_obeys_headers(
    client: Client, settings: Settings, middleware: list[str]
) -> None:
    """With ``IdentifiedPageMiddleware`` last, the page of a visitor who agreed is stored only by the browser."""
    configure_site(settings, middleware)
    OtherPageCache.pages.clear()
    test_consent_is_not_shared("/site_wide/", client, settings)


class ContentRenderer:
    """Caches the content of a placeholder like the class of this name in django CMS."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request

    def render_placeholder(self, placeholder: str, use_cache: bool = False) -> str:
        content: str | None = caches["default"].get(placeholder) if use_cache else None
        if content is None:
            content = render_django(self.request)
            if use_cache:
                caches["default"].set(placeholder, content)
        return content


@pytest.mark.parametrize("use_cache", [True, False])
def test_identity_is_in_no_placeholder_of_django_cms(settings: Settings, use_cache: bool) -> None:
    """The template of a plugin contains the tag. If the placeholder is cached, the chat has no visitor."""
    deliver(settings, "inline")
    pages = [ContentRenderer(request_by(user())).render_placeholder("footer", use_cache) for user in (ada, grace)]
    assert [token_in(page) for page in pages] == ([None, None] if use_cache else ["token-of-ada", "token-of-grace"])
