from __future__ import annotations

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from hubspot_identify._tokens.breaker import reset_breakers
from hubspot_identify.sandbox.state import sandbox

from .sandbox import MOODS


@require_POST
def mood(request: HttpRequest) -> HttpResponse:
    """Switch the sandbox's mood, and show the effect at once.

    Otherwise nobody would notice it: a visitor's token is good for hours, and a HubSpot that has just failed is left
    alone for a while after it has recovered.
    """
    wanted = request.POST.get("mood", "")
    if wanted not in MOODS:
        return HttpResponseBadRequest("There is no such mood.", content_type="text/plain")
    sandbox.set_mood(wanted)
    cache.clear()
    reset_breakers()
    back = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(back, {request.get_host()}, request.is_secure()):
        back = resolve_url("home")
    return redirect(back)
