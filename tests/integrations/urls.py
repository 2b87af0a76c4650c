"""The URLs of the packages, as their manuals route them, and a page that shows the identified address."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from hubspot_identify import services


def page(request: HttpRequest) -> HttpResponse:
    """Respond with the address of the identified visitor, or nothing."""
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
