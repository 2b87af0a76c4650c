"""The sandbox, routed as in the README, and a page with HubSpot's embed code."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.utils.html import format_html


def page(request: HttpRequest) -> HttpResponse:
    """A page that passes its query to the loader.

    ``id=`` replaces the id of the script element, and ``sandbox=`` the origin of the loader.
    """
    query = request.GET.copy()
    element_id = query.pop("id", ["hs-script-loader"])[0]
    sandbox = query.pop("sandbox", [""])[0]
    return HttpResponse(
        format_html(
            '<!doctype html><meta name="viewport" content="width=device-width"><body><h1>Page</h1>'
            '<script id="{}" async defer src="{}?{}"></script></body>',
            element_id,
            request.build_absolute_uri(f"{sandbox}/sandbox/loader/123.js"),
            query.urlencode(),
        )
    )


urlpatterns = [
    path("sandbox/", include("hubspot_identify.sandbox.urls")),
    path("page/", page),
]
