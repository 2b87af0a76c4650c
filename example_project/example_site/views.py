from __future__ import annotations

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from hubspot_identify._tokens.account import reset_accounts
from hubspot_identify.sandbox.state import sandbox

from .sandbox import SCENARIOS


@require_POST
def scenario(request: HttpRequest) -> HttpResponse:
    """Switch the scenario of the sandbox, and make the effect visible at once.

    Tokens are cached for hours, and the circuit breaker stays open for a while after HubSpot has recovered. So this
    view clears the cache, and what the process remembers.
    """
    name = request.POST.get("scenario", "")
    if name not in SCENARIOS:
        return HttpResponseBadRequest("Unknown scenario.", content_type="text/plain")
    sandbox.set_scenario(name)
    cache.clear()
    reset_accounts()
    target = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(target, {request.get_host()}, request.is_secure()):
        target = resolve_url("home")
    return redirect(target)
