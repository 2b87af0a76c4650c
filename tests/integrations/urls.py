"""The packages' own URLs, as their manuals route them, and a page with the identity inline."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from hubspot_identify import services


def page(request: HttpRequest) -> HttpResponse:
    """Whom a page would identify: the address, or nothing."""
    identity = services.identify(request, wait=10.0).identity
    return HttpResponse(identity["email"] if identity else "", content_type="text/plain")


urlpatterns = [
    path("", page),
    path("accounts/", include("allauth.urls")),
    path("hijack/", include("hijack.urls")),
    path("hubspot/", include("hubspot_identify.urls")),
    path("impersonate/", include("impersonate.urls")),
    path("loginas/", include("loginas.urls")),
    path("su/", include("django_su.urls")),
]
