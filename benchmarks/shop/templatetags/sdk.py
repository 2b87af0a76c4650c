"""HubSpot's own Python client, used as its README shows."""

from __future__ import annotations

import contextlib

from django import template
from django.conf import settings
from django.utils.html import json_script
from django.utils.safestring import SafeString
from hubspot import HubSpot
from hubspot.conversations.visitor_identification import ApiException, IdentificationTokenGenerationRequest
from urllib3.exceptions import HTTPError

register = template.Library()
api_client = HubSpot(access_token=settings.API_KEY, host=settings.HUBSPOT)


@register.simple_tag(takes_context=True)
def hubspot_api_client(context: template.Context) -> SafeString:
    """Asks HubSpot for each page."""
    user = context["request"].user
    token = None
    if user.is_authenticated:
        visitor = IdentificationTokenGenerationRequest(
            email=user.email, first_name=user.first_name, last_name=user.last_name
        )
        with contextlib.suppress(ApiException, HTTPError):
            token = api_client.conversations.visitor_identification.generate_api.generate_token(visitor).token
    return json_script(token and {"email": user.email, "token": token}, "hubspot-identity")
