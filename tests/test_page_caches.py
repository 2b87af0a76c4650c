"""Django's page caches, and one user after another: nobody ever receives the page of somebody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.response import TemplateResponse
from django.test import Client
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_page
from django.views.generic import TemplateView
from pytest_django import Settings
from rest_framework.authentication import SessionAuthentication
from rest_framework.renderers import TemplateHTMLRenderer
from rest_framework.response import Response
from rest_framework.views import APIView
from support.pages import ada, grace, keep_token, script_attributes

from hubspot_identify import services, widget
from hubspot_identify.deployment import check_deployment

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


def somebody(get_response):  # type: ignore[no-untyped-def]
    """Middleware in place of Django's for the session: the test client says who it is by a header.

    Without the session there is no ``Vary: Cookie``, which would keep the two apart in its own way: many a
    site's pages reach the cache without it.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
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


class ClassBased(TemplateView):
    template_name = "page.html"

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        return super().get_context_data(**context(), **kwargs)


class RestFramework(APIView):
    renderer_classes = (TemplateHTMLRenderer,)
    authentication_classes = (SessionAuthentication,)

    def get(self, request: HttpRequest) -> Response:
        return Response(context(), template_name="page.html")


PER_VIEW = {
    "cache_page": cache_page(60)(plain),
    "cache_page_of_template_response": cache_page(60)(template_response),
    "method_decorator": method_decorator(cache_page(60), name="dispatch")(ClassBased).as_view(),
    "cache_page_of_rest_framework": cache_page(60)(RestFramework.as_view()),
}
SITE_WIDE = {
    "site_wide": plain,
    "site_wide_template_response": template_response,
    "site_wide_class_based": ClassBased.as_view(),
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


@pytest.fixture(params=[*PER_VIEW, *SITE_WIDE])
def url(request: pytest.FixtureRequest, settings: Settings) -> Iterator[str]:
    """A page that Django caches, in each of the ways to have that."""
    caching = [f"{MIDDLEWARE}.UpdateCacheMiddleware"], [f"{MIDDLEWARE}.FetchFromCacheMiddleware"]
    before, after = caching if request.param in SITE_WIDE else ([], [])
    settings.MIDDLEWARE = [*before, f"{__name__}.somebody", *after]
    settings.ROOT_URLCONF = __name__
    settings.TEMPLATES = TEMPLATES
    return f"/{request.param}/"


def deliver(settings: Settings, delivery: str) -> None:
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": delivery}
    keep_token(ada())
    keep_token(grace())


def page_of(user: str, url: str, client: Client) -> str:
    response = client.get(url, headers={"X-User": user})
    assert response.status_code == 200
    return response.content.decode()


def token_in(page: str) -> str | None:
    identity = script_attributes(page).get("data-identity")
    return None if identity is None else json.loads(identity)["token"]


def test_inline_pages_are_never_shared(url: str, client: Client, settings: Settings) -> None:
    """Ada, Grace, nobody, and Ada again: each gets a page of their own, with their own identity or none."""
    deliver(settings, "inline")
    visits = ["ada", "grace", "", "ada", "", "grace"]
    tokens = [token_in(page_of(user, url, client)) for user in visits]
    assert tokens == [f"token-of-{user}" if user else None for user in visits]


@pytest.mark.parametrize("delivery", ["inline", "deferred"])
def test_what_a_view_of_the_sites_own_says_is_never_shared(
    url: str, client: Client, settings: Settings, delivery: str
) -> None:
    """A cached view that answers with what ``identify()`` says: an API, or a page of another template engine."""
    deliver(settings, delivery)
    visits = ["ada", "grace", "", "ada"]
    answers = [client.get(f"{url}api/", headers={"X-User": user}).json()["identity"] for user in visits]
    tokens = [answer["token"] if answer else None for answer in answers]
    assert tokens == [f"token-of-{user}" if user else None for user in visits]


def test_without_our_care_they_would_be(
    url: str, client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caches of these tests do share pages: without the switch, Grace receives the identity of Ada."""
    deliver(settings, "inline")
    for module in (services, widget):
        monkeypatch.setattr(module, "keep_out_of_page_caches", lambda request: None)
    page_of("ada", url, client)
    assert token_in(page_of("grace", url, client)) == "token-of-ada"


class OtherPageCache:
    """A page cache that knows nothing of Django's flag, and goes by the headers alone."""

    pages: ClassVar[dict[str, HttpResponse]] = {}

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path not in self.pages:
            response = self.get_response(request)
            if "no-store" in response.headers.get("Cache-Control", ""):
                return response
            self.pages[request.path] = response
        return self.pages[request.path]


USER, CACHE = f"{__name__}.somebody", f"{__name__}.OtherPageCache"


@pytest.mark.parametrize(
    "middleware",
    [[USER, CACHE], [OURS, USER, CACHE], [USER, CACHE, OURS], [OURS, USER, CACHE, OURS], [OURS, CACHE, USER, OURS]],
)
def test_identity_is_in_no_page_cache_among_the_middleware(
    client: Client, settings: Settings, middleware: list[str]
) -> None:
    """Wherever the system check finds nothing wrong, Grace does not receive the identity of Ada."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = middleware
    settings.TEMPLATES = TEMPLATES
    deliver(settings, "inline")
    OtherPageCache.pages.clear()
    tokens = [token_in(page_of(user, "/site_wide/", client)) for user in ("ada", "grace")]
    is_warned = "hubspot_identify.W009" in [message.id for message in check_deployment()]
    assert tokens == ["token-of-ada", "token-of-grace"] or is_warned
    assert is_warned is not (middleware[0] == middleware[-1] == OURS)


def test_deferred_pages_are_cached(url: str, client: Client, settings: Settings) -> None:
    """A deferred page is rendered once, for all."""
    deliver(settings, "deferred")
    pages = {page_of(user, url, client) for user in ("ada", "grace", "")}
    assert len(pages) == 1
    assert token_in(pages.pop()) is None


def test_consent_is_not_shared(url: str, client: Client, settings: Settings) -> None:
    """Who declined is not served the chat of somebody who agreed."""
    deliver(settings, "deferred")
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ENABLED": lambda request: request.user.username == "ada"}
    load_on = [script_attributes(page_of(user, url, client))["data-load-on"] for user in ("ada", "grace", "ada")]
    assert load_on == ["page", "never", "page"]
