"""What sites write themselves: a call for each page, and the textbook's cache around it."""

from __future__ import annotations

from typing import Any

import requests
from django import template
from django.conf import settings
from django.core.cache import cache
from django.utils.html import json_script
from django.utils.safestring import SafeString

register = template.Library()


def call(user: Any, timeout: float | None) -> str | None:
    """One call of HubSpot's API."""
    try:
        response = requests.post(
            f"{settings.HUBSPOT}{settings.TOKEN_PATH}",
            json={"email": user.email, "firstName": user.first_name, "lastName": user.last_name},
            headers={"Authorization": f"Bearer {settings.API_KEY}"},
            timeout=timeout,
        )
        response.raise_for_status()
        return response.json()["token"]
    except requests.RequestException:
        return None


@register.simple_tag(takes_context=True)
def call_per_page(context: template.Context) -> SafeString:
    """Asks HubSpot for each page, and forgets the timeout."""
    user = context["request"].user
    token = call(user, timeout=None) if user.is_authenticated else None
    return json_script(token and {"email": user.email, "token": token}, "hubspot-identity")


@register.simple_tag(takes_context=True)
def textbook_cache(context: template.Context) -> SafeString:
    """Asks the cache, and HubSpot where that has nothing."""
    user = context["request"].user
    token = None
    if user.is_authenticated:
        key = f"hubspot-token:{user.email}"
        token = cache.get(key)
        if token is None and (token := call(user, timeout=2)):
            cache.set(key, token, 11 * 3600)
    return json_script(token and {"email": user.email, "token": token}, "hubspot-identity")


@register.simple_tag(takes_context=True)
def cached_value(context: template.Context, key: str, alias: str) -> SafeString:
    """The least that a tag with a cached identity can do, to compare with. For ``tags.py``."""
    from django.core.cache import caches

    return json_script(caches[alias].get(key), "hubspot-identity")
