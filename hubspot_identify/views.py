"""The identity endpoint, which the browser asks who the visitor is."""

from __future__ import annotations

import logging

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseForbidden, JsonResponse
from django.views.decorators.http import require_http_methods

from .exceptions import ConfigurationError, UnknownAccountError
from .logs import log_misconfiguration
from .services import NOBODY, identify

logger = logging.getLogger(__name__)

RETRY_AFTER = 1  # seconds, for those who go by the header; our script asks again sooner


@login_not_required
@require_http_methods(["GET"])
def identity(request: HttpRequest, account: str | None = None) -> HttpResponse:
    """``{"subject": …, "identity": {"email", "token", "expires_in"} | null}`` for the session's user.

    200 with or without an identity; 202 while it's worth asking again; 403 for requests that don't come from a
    script of this very site. Takes no parameters, and never waits for HubSpot.
    """
    if not is_from_own_script(request):
        return _private(HttpResponseForbidden("Only for scripts of this site.", content_type="text/plain"))
    try:
        found = identify(request, wait=0.0, account=account)
    except ConfigurationError as error:
        if account is not None and isinstance(error, UnknownAccountError):
            raise Http404 from error
        if settings.DEBUG:
            raise
        log_misconfiguration(logger, "Nobody is identified: %s", error)
        return _private(JsonResponse(NOBODY.as_dict(), status=503))
    response = JsonResponse(found.as_dict(), status=202 if found.pending else 200)
    if found.pending:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return _private(response)


def is_from_own_script(request: HttpRequest) -> bool:
    """Whether a request has our header, which no other site can send without being asked first, and whether the
    browser, if it says where the request comes from, says that it comes from here.

    https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site
    """
    if request.headers.get("X-HubSpot-Identify") != "1":
        return False
    return request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"


def _private(response: HttpResponse) -> HttpResponse:
    response.headers["Cache-Control"] = "private, no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return response
