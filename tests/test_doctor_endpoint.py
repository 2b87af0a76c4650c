"""The doctor's request for the endpoint: which middleware it names, and on which sites it finds nothing wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import include, path, re_path, set_script_prefix
from django.utils.decorators import async_only_middleware
from django.utils.translation import get_language, override
from pytest_django import Settings

from hubspot_identify.conf import get_config
from hubspot_identify.doctor.endpoint import allowed_host, look_at_endpoint
from hubspot_identify.doctor.findings import Finding

GetResponse = Callable[[HttpRequest], HttpResponseBase]


def examine(host: str = "", account: str = "") -> Finding:
    (finding,) = look_at_endpoint(get_config(account), host)
    return finding


# Middleware of a site


def passes(get_response: GetResponse) -> GetResponse:
    return get_response


def redirects(get_response: GetResponse) -> GetResponse:
    return lambda request: HttpResponseRedirect("/login/?next=/")


class RedirectsBeforeTheView:
    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *args: object) -> HttpResponse:
        return HttpResponseRedirect("/login/")


def maintains(get_response: GetResponse) -> GetResponse:
    return lambda request: HttpResponse("<h1>Back soon</h1>", status=503)


def wraps(get_response: GetResponse) -> GetResponse:
    def middleware(request: HttpRequest) -> HttpResponse:
        get_response(request)
        return HttpResponse("<html>")

    return middleware


def speaks_json(get_response: GetResponse) -> GetResponse:
    return lambda request: JsonResponse({"detail": "Log in."}, status=401)


def lists(get_response: GetResponse) -> GetResponse:
    return lambda request: JsonResponse(["subject"], safe=False)


def streams(get_response: GetResponse) -> GetResponse:
    return lambda request: StreamingHttpResponse(["Back soon"])


def raises(get_response: GetResponse) -> GetResponse:
    def middleware(request: HttpRequest) -> HttpResponse:
        raise ZeroDivisionError

    return middleware


def cannot_be_loaded(get_response: GetResponse) -> GetResponse:
    raise ZeroDivisionError


@async_only_middleware
def redirects_asynchronously(get_response: Any) -> Any:
    async def middleware(request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect("/login/")

    return middleware


def is_not_used(get_response: GetResponse) -> GetResponse:
    raise MiddlewareNotUsed


def needs_tenant(get_response: GetResponse) -> GetResponse:
    """Fails on the way back unless a middleware behind it has set the tenant."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        assert request.tenant  # type: ignore[attr-defined]
        return response

    return middleware


def sets_tenant(get_response: GetResponse) -> GetResponse:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        request.tenant = "eu"  # type: ignore[attr-defined]
        return get_response(request)

    return middleware


def redirects_one_host(get_response: GetResponse) -> GetResponse:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        return HttpResponseRedirect("/login/") if request.get_host() == "b.example" else get_response(request)

    return middleware


HERE = __name__


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("redirects", "(HTTP 302, /login/?next=/)"),
        ("RedirectsBeforeTheView", "(HTTP 302, /login/)"),
        ("redirects_asynchronously", "(HTTP 302, /login/)"),
        ("maintains", "(HTTP 503)"),
        ("wraps", "(HTTP 200)"),
        ("speaks_json", "(HTTP 401)"),
        ("lists", "(HTTP 200)"),
        ("streams", "(HTTP 200)"),
        ("raises", "(HTTP 500, ZeroDivisionError)"),
        ("cannot_be_loaded", "(ZeroDivisionError)"),
    ],
)
@pytest.mark.parametrize("position", [0, 1, 4])
def test_culprit_is_named(settings: Settings, name: str, said: str, position: int) -> None:
    """Wherever it is among the others, and however it responds, also by an exception."""
    others = [f"{HERE}.passes", *settings.MIDDLEWARE, f"{HERE}.is_not_used"]
    settings.MIDDLEWARE = [*others[:position], f"{HERE}.{name}", *others[position:]]
    finding = examine()
    assert finding.level == "error"
    assert f"{HERE}.{name} " in finding.text
    assert said in finding.text
    assert "/hubspot/identity/" in finding.text


@pytest.mark.parametrize(
    ("middleware", "culprit"),
    [
        (["needs_tenant", "sets_tenant", "redirects"], "redirects"),
        (["redirects", "sets_tenant"], "redirects"),
        (["redirects", "raises"], "redirects"),
    ],
)
def test_middleware_that_depends_on_others_is_not_blamed(
    settings: Settings, middleware: list[str], culprit: str
) -> None:
    """A part of the middleware may fail because it is incomplete, and so may CHOOSE_ACCOUNT."""
    accounts = {"ACCOUNTS": {"eu": {}}, "CHOOSE_ACCOUNT": lambda request: request.tenant}
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **accounts}
    settings.MIDDLEWARE = [f"{HERE}.{name}" for name in middleware]
    assert f"{HERE}.{culprit} " in examine().text


DJANGO = "django.middleware"


@pytest.mark.parametrize("debug", [False, True])
def test_healthy_site(settings: Settings, debug: bool) -> None:
    """HTTPS, www, the host and closed pages are no obstacles, and no database is needed."""
    settings.DEBUG = debug
    settings.SECURE_SSL_REDIRECT = settings.PREPEND_WWW = True
    settings.ALLOWED_HOSTS = [".shop.example", "*"]
    settings.MIDDLEWARE = [
        f"{DJANGO}.security.SecurityMiddleware",
        *settings.MIDDLEWARE,
        f"{DJANGO}.common.CommonMiddleware",
        f"{DJANGO}.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
        f"{DJANGO}.gzip.GZipMiddleware",
    ]
    assert examine().level == "ok"


@pytest.mark.parametrize(("debug", "level"), [(True, "ok"), (False, "error")])
def test_without_allowed_hosts(settings: Settings, debug: bool, level: str) -> None:
    """Django allows ``localhost`` under ``DEBUG``, and nothing otherwise."""
    settings.DEBUG = debug
    settings.ALLOWED_HOSTS = []
    assert examine().level == level


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["shop.example", "other.example"], "shop.example"),
        ([".shop.example"], "shop.example"),
        (["*", "shop.example"], "shop.example"),
        (["*"], "localhost"),
        ([], "localhost"),
        (["[::1]"], "[::1]"),
    ],
)
def test_host(settings: Settings, hosts: list[str], expected: str) -> None:
    """The first host that is one, with ``www.`` where the site redirects to that."""
    settings.ALLOWED_HOSTS = hosts
    assert allowed_host() == expected
    settings.PREPEND_WWW = True
    assert allowed_host() == f"www.{expected}"
    settings.ALLOWED_HOSTS = ["www.shop.example"]
    assert allowed_host() == "www.shop.example"


def test_host_may_be_named(settings: Settings) -> None:
    """A site may differ from host to host."""
    settings.MIDDLEWARE = [f"{HERE}.redirects_one_host"]
    settings.ALLOWED_HOSTS = ["a.example", "b.example"]
    assert examine().level == "ok"
    assert "b.example" in examine("b.example").text


def fails(request: HttpRequest) -> bool:
    raise LookupError


@pytest.mark.parametrize("debug", [False, True])
def test_endpoint_that_fails(settings: Settings, debug: bool) -> None:
    """If a callable of the site raises, no middleware is named."""
    settings.DEBUG = debug
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ENABLED": fails}
    finding = examine()
    assert finding.level == "error"
    assert "HTTP 503" in finding.text
    assert "middleware" not in finding.text


catch_all = [re_path("", lambda request: HttpResponse("A page"))]
hidden = (*catch_all, path("hubspot/", include("hubspot_identify.urls")))


def test_other_pattern_comes_first(settings: Settings) -> None:
    """If something else responds without any middleware, none is named."""
    settings.ROOT_URLCONF = hidden
    finding = examine()
    assert (finding.level, HERE in finding.text) == ("error", False)


def test_site_without_the_urls(settings: Settings) -> None:
    """Inline delivery needs no endpoint, so there is nothing to say."""
    settings.ROOT_URLCONF = ()
    assert list(look_at_endpoint(get_config(), "")) == []


def test_account_and_prefix(settings: Settings) -> None:
    """The endpoint of an account, on a site below a prefix."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ACCOUNTS": {"eu": {}}}
    settings.FORCE_SCRIPT_NAME = "/shop"
    set_script_prefix("/shop/")
    try:
        finding = examine(account="eu")
    finally:
        set_script_prefix("/")
    assert (finding.level, "/shop/hubspot/identity/eu/" in finding.text) == ("ok", True)


def test_nothing_is_logged(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Trying many middleware one after the other fills neither log nor mailbox, and the log works afterwards."""
    settings.MIDDLEWARE = [f"{HERE}.raises"]
    assert examine().level == "error"
    assert caplog.records == []
    logging.getLogger("hubspot_identify").error("Afterwards")
    assert [record.message for record in caplog.records] == ["Afterwards"]


def test_language_is_restored(settings: Settings) -> None:
    """A middleware that activates a language does not change that of the findings."""
    settings.MIDDLEWARE = [f"{DJANGO}.locale.LocaleMiddleware"]
    with override("de"):
        finding = examine()
        assert get_language() == "de"
    assert "erreichen" in finding.text
