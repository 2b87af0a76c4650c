"""The identity endpoint, from which the browser fetches who the visitor is."""

from __future__ import annotations

import logging
import math

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.views.decorators.csrf import csrf_exempt

from ._callables import CallableError
from ._compat import keep_out_of_logs
from ._tokens.account import account_for
from .exceptions import UnknownAccountError
from .identification import ANONYMOUS, FAILED, Identification, forbid_storing, identify_account
from .logs import log_throttled, raise_or_log

logger = logging.getLogger(__name__)

ONLY_SESSIONS = (
    "A request to the identity endpoint has an Authorization header and no session cookie. The endpoint does not read "
    "API tokens. For API clients and mobile apps, write a view of your own: see docs/clients.rst."
)


@login_not_required
@csrf_exempt  # Only GET is allowed. Django's middleware would log each POST before the view could respond with 405.
def identity(request: HttpRequest, account: str | None = None) -> HttpResponse:
    """Return ``{"subject": …, "identity": {"email", "token", "expires_in"} | null}`` for the session's user.

    If ``ENABLED`` is or returns ``False``, return ``{"enabled": false}``: the script then removes the chat.

    The status is 200 with or without an identity, 202 while a further request is worthwhile, 400 for a host that is not
    allowed, 403 for requests that do not come from a script of this very site, and 503 if the settings are wrong or a
    callable of the site raises. The endpoint takes no parameters and never waits for HubSpot. An account that does not
    exist looks like one whose visitor is anonymous. Django logs none of the responses, because anonymous visitors can
    request any number of them.
    """
    if "HTTP_AUTHORIZATION" in request.META and settings.SESSION_COOKIE_NAME not in request.COOKIES:
        log_throttled(logger, logging.DEBUG, ONLY_SESSIONS, every=math.inf)
    response = _respond(request, account)
    forbid_storing(response)
    keep_out_of_logs(response)
    return response


def _respond(request: HttpRequest, name: str | None) -> HttpResponse:
    try:
        request.get_host()
    except DisallowedHost:
        return HttpResponse("This host is not allowed.", status=400, content_type="text/plain")
    if request.method != "GET":
        return HttpResponseNotAllowed(["GET"])
    if not is_from_own_script(request):
        return HttpResponse("Only for scripts of this site.", status=403, content_type="text/plain")
    try:
        identification = _identify(request, name)
    except Exception as error:  # noqa: BLE001 - sessions and users raise anything
        if not isinstance(error, CallableError):
            _raise_or_log(error)
        identification = FAILED
    return identification.as_response()


def _identify(request: HttpRequest, name: str | None) -> Identification:
    try:
        account = account_for(request, name)
    except UnknownAccountError as error:
        if name is None:  # CHOOSE_ACCOUNT returned it. Other names come from the URL.
            _raise_or_log(error)
        # Reading the session makes Django treat its cookie as it does if the account exists.
        _ = getattr(getattr(request, "user", None), "is_authenticated", False)
        return ANONYMOUS
    return identify_account(request, account, wait=0.0)


def _raise_or_log(error: Exception) -> None:
    raise_or_log(logger, error, "No visitor is identified: %s", "The identity endpoint failed.")


def is_from_own_script(request: HttpRequest) -> bool:
    """Return whether a request has the script's header and, according to the browser, comes from this origin.

    A script of another site cannot send the header without a preflight request, which fails. Old browsers send no
    ``Sec-Fetch-Site``: https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site
    """
    # Not from request.headers, which takes longer to build than most of the response.
    if request.META.get("HTTP_X_HUBSPOT_IDENTIFY") != "1":
        return False
    site: str = request.META.get("HTTP_SEC_FETCH_SITE", "same-origin")
    return site == "same-origin"
