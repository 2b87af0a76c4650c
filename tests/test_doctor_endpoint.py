"""The doctor's request for the endpoint: which middleware it names, and on which sites it finds no problem."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import include, path, re_path, set_script_prefix
from django.utils.decorators import async_only_middleware
from pytest_django import Settings
from support.site import urlconf

from hubspot_identify.conf import get_config
from hubspot_identify.doctor.endpoint import allowed_host, check_endpoint, request_site
from hubspot_identify.doctor.findings import Finding

GetResponse = Callable[[HttpRequest], HttpResponseBase]


def examine(host: str = "", account: str = "") -> Finding:
    """Return the doctor's finding about the endpoint."""
    config = get_config(account)
    (finding,) = check_endpoint(config, request_site(config, host))
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


def replaces_the_response(get_response: GetResponse) -> GetResponse:
    def middleware(request: HttpRequest) -> HttpResponse:
        get_response(request)
        return HttpResponse("<html>")

    return middleware


def responds_with_a_list(get_response: GetResponse) -> GetResponse:
    return lambda request: JsonResponse(["subject"], safe=False)


def responds_with_a_stream(get_response: GetResponse) -> GetResponse:
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
    """Fails after the view has responded, unless a later middleware has set the tenant."""

    def middleware(request: Any) -> HttpResponseBase:
        response = get_response(request)
        assert request.tenant
        return response

    return middleware


def sets_tenant(get_response: GetResponse) -> GetResponse:
    def middleware(request: Any) -> HttpResponseBase:
        request.tenant = "eu"
        return get_response(request)

    return middleware


def redirects_one_host(get_response: GetResponse) -> GetResponse:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        return HttpResponseRedirect("/login/") if request.get_host() == "b.example" else get_response(request)

    return middleware


HERE = __name__


@pytest.mark.parametrize(
    ("name", "position", "response"),
    [
        ("redirects", 0, "(HTTP 302, /login/?next=/)"),
        ("RedirectsBeforeTheView", 1, "(HTTP 302, /login/)"),
        ("redirects_asynchronously", 4, "(HTTP 302, /login/)"),
        ("replaces_the_response", 1, "(HTTP 200)"),
        ("responds_with_a_list", 1, "(HTTP 200)"),
        ("responds_with_a_stream", 1, "(HTTP 200)"),
        ("raises", 4, "(HTTP 500, ZeroDivisionError)"),
        ("cannot_be_loaded", 0, "(ZeroDivisionError)"),
    ],
)
def test_middleware_that_responds_in_place_of_the_endpoint_is_named(
    settings: Settings, name: str, position: int, response: str
) -> None:
    """The finding shows its response or exception, wherever it is in ``MIDDLEWARE``."""
    others = [f"{HERE}.passes", *settings.MIDDLEWARE, f"{HERE}.is_not_used"]
    settings.MIDDLEWARE = [*others[:position], f"{HERE}.{name}", *others[position:]]
    finding = examine()
    assert finding.level == "error"
    assert f"{HERE}.{name} " in finding.text
    assert response in finding.text
    assert "/hubspot/identity/" in finding.text


@pytest.mark.parametrize(
    ("middleware", "named"),
    [
        (["needs_tenant", "sets_tenant", "redirects"], "redirects"),
        (["redirects", "sets_tenant"], "redirects"),
        (["redirects", "raises"], "redirects"),
    ],
)
def test_middleware_that_depends_on_others_is_not_named(settings: Settings, middleware: list[str], named: str) -> None:
    """Middleware and CHOOSE_ACCOUNT may fail only because the middleware they depend on was left out."""
    accounts = {"ACCOUNTS": {"eu": {}}, "CHOOSE_ACCOUNT": lambda request: request.tenant}
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **accounts}
    settings.MIDDLEWARE = [f"{HERE}.{name}" for name in middleware]
    assert f"{HERE}.{named} " in examine().text


DJANGO = "django.middleware"


def test_usual_middleware_is_no_problem(settings: Settings) -> None:
    """Redirects to HTTPS and ``www``, a check of the host, and required logins do not prevent the request.

    No database is needed.
    """
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
def test_site_without_allowed_hosts_is_reachable_only_with_debug(settings: Settings, debug: bool, level: str) -> None:
    """Without ``ALLOWED_HOSTS``, Django allows ``localhost`` with ``DEBUG`` and no host otherwise."""
    settings.DEBUG = debug
    settings.ALLOWED_HOSTS = []
    assert examine().level == level


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ([".shop.example", "other.example"], "shop.example"),
        (["*", "shop.example"], "shop.example"),
        (["*"], "localhost"),
    ],
)
def test_default_host_is_the_first_without_a_wildcard(settings: Settings, hosts: list[str], expected: str) -> None:
    """If the site redirects to ``www.``, that is added."""
    settings.ALLOWED_HOSTS = hosts
    assert allowed_host() == expected
    settings.PREPEND_WWW = True
    assert allowed_host() == f"www.{expected}"
    settings.ALLOWED_HOSTS = ["www.shop.example"]
    assert allowed_host() == "www.shop.example"


def test_endpoint_is_requested_at_the_given_host(settings: Settings) -> None:
    """A site's middleware may respond differently at each host."""
    settings.MIDDLEWARE = [f"{HERE}.redirects_one_host"]
    settings.ALLOWED_HOSTS = ["a.example", "b.example"]
    assert examine().level == "ok"
    assert "b.example" in examine("b.example").text


def other_urlconf(get_response: GetResponse) -> GetResponse:
    """Middleware that chooses the URLconf by the host, like that of django-hosts."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        name = request.get_host().partition(".")[0]
        request.urlconf = {"a": f"{HERE}_a", "b": f"{HERE}_b"}[name]
        return get_response(request)

    return middleware


def test_urlconf_of_the_host_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the host's URLconf lacks the app's URLs, the error names the URLconf and no middleware."""
    monkeypatch.setitem(sys.modules, f"{HERE}_a", urlconf(path("hubspot/", include("hubspot_identify.urls"))))
    monkeypatch.setitem(sys.modules, f"{HERE}_b", urlconf())
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{HERE}.other_urlconf"]
    found = examine("a.example")
    assert (found.level, f"{HERE}_a" in found.text) == ("ok", True)
    found = examine("b.example")
    assert (found.level, f"{HERE}_b" in found.text, "middleware" in found.text) == ("error", True, False)


def fails(request: HttpRequest) -> bool:
    raise LookupError


def test_failing_endpoint_is_an_error_without_a_middleware(settings: Settings) -> None:
    """If a callable of the site raises, no middleware is named. ``DEBUG`` makes no difference."""
    settings.DEBUG = True
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ENABLED": fails}
    finding = examine()
    assert (finding.topic, finding.level) == ("enabled", "error")
    assert "HTTP 503" in finding.text
    assert not any(name in finding.text for name in settings.MIDDLEWARE)


catch_all = [re_path("", lambda request: HttpResponse("A page"))]
hidden = (*catch_all, path("hubspot/", include("hubspot_identify.urls")))


def test_other_view_that_responds_is_an_error_without_a_middleware(settings: Settings) -> None:
    """If another URL pattern matches first, no middleware is named."""
    settings.ROOT_URLCONF = hidden
    finding = examine()
    assert finding.level == "error"
    assert not any(name in finding.text for name in settings.MIDDLEWARE)


def test_site_without_the_apps_urls_has_no_finding(settings: Settings) -> None:
    """Inline delivery needs no endpoint."""
    settings.ROOT_URLCONF = ()
    assert list(check_endpoint(get_config(), request_site(get_config(), ""))) == []


def test_endpoint_of_an_account_below_a_prefix_is_reachable(settings: Settings) -> None:
    """The URL contains the name of the account and the prefix of the site."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ACCOUNTS": {"eu": {}}}
    settings.FORCE_SCRIPT_NAME = "/shop"
    set_script_prefix("/shop/")
    try:
        finding = examine(account="eu")
    finally:
        set_script_prefix("/")
    assert (finding.level, "/shop/hubspot/identity/eu/" in finding.text) == ("ok", True)


def test_requests_of_the_doctor_are_not_logged(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise the search for the middleware would fill log and mailbox. Afterwards, logging works again."""
    settings.MIDDLEWARE = [f"{HERE}.raises"]
    assert examine().level == "error"
    assert caplog.records == []
    logging.getLogger("hubspot_identify").error("Afterwards")
    assert [record.message for record in caplog.records] == ["Afterwards"]
