from __future__ import annotations

from typing import Any

from django.core.checks import Error, Tags, register


@register(Tags.security, deploy=True)
def not_for_production(**kwargs: Any) -> list[Error]:
    """Report the installed sandbox, because it issues tokens for any address to anyone."""
    return [
        Error(
            "The HubSpot sandbox is installed, which is for development only.",
            hint='Remove "hubspot_identify.sandbox" from INSTALLED_APPS, and its URLs from the URLconf.',
            id="hubspot_identify_sandbox.E001",
        )
    ]
