"""The identity endpoint, which the browser asks who the visitor is."""

from __future__ import annotations

import logging

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import DisallowedHost
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseForbidden,
    HttpResponseNotAllowed,
    JsonResponse,
)
from django.views.decorators.csrf import csrf_exempt

from ._compat import keep_out_of_logs
from .exceptions import UnknownAccountError
from .logs import log_exception
from .services import ANONYMOUS, Identification, identify

logger = logging.getLogger(__name__)

RETRY_AFTER = 1  # seconds, for those who go by the header; our script asks again sooner


@login_not_required
@csrf_exempt  # Only GET is allowed. Django's middleware would log each POST before the view could respond with 405.
def identity(request: HttpRequest, account: str | None = None) -> HttpResponse:
    """``{"subject": …, "identity": {"email", "token", "expires_in"} | null}`` for the session's user.

    The status is 200 with or without an identity, 202 while a further request is worthwhile, 400 for a host that is not
    allowed, 403 for requests that do not come from a script of this very site, and 503 if the settings are wrong or a
    callable of the site raises. The endpoint takes no parameters and never waits for HubSpot. An account that does not
    exist looks like one whose visitor is anonymous. Django logs none of the responses, because anonymous visitors can
    request any number of them.
    """
    response = _respond(request, account)
    response.headers["Cache-Control"] = "private, no-store"
    response.headers["Vary"] = "*"  # Service workers store responses despite no-store, but not with this header.
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    keep_out_of_logs(response)
    return response


def _respond(request: HttpRequest, account: str | None) -> HttpResponse:
    try:
        request.get_host()
    except DisallowedHost:
        return HttpResponseBadRequest("This host is not allowed.", content_type="text/plain")
    if request.method != "GET":
        return HttpResponseNotAllowed(["GET"])
    if not is_from_own_script(request):
        return HttpResponseForbidden("Only for scripts of this site.", content_type="text/plain")
    try:
        found = _identify(request, account)
    except Exception as error:
        if settings.DEBUG:
            raise
        _log(error)
        return JsonResponse(ANONYMOUS.as_dict(), status=503)
    response = JsonResponse(found.as_dict(), status=202 if found.pending else 200)
    if found.pending:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _identify(request: HttpRequest, account: str | None) -> Identification:
    try:
        return identify(request, wait=0.0, account=account)
    except UnknownAccountError as error:
        if account is None:  # CHOOSE_ACCOUNT returned the name, not the URL.
            if settings.DEBUG:
                raise
            _log(error)
        # Reading the session makes Django treat its cookie as it does if the account exists.
        _ = getattr(getattr(request, "user", None), "is_authenticated", False)
        return ANONYMOUS


def _log(error: Exception) -> None:
    log_exception(logger, error, "Nobody is identified: %s", "The endpoint failed.")


def is_from_own_script(request: HttpRequest) -> bool:
    """Whether a request has our header, which no other site can send without being asked first, and whether the
    browser, if it says where the request comes from, says that it comes from here.

    https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site
    """
    if request.headers.get("X-HubSpot-Identify") != "1":
        return False
    return request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
