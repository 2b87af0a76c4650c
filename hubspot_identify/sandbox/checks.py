from __future__ import annotations

from typing import Any

from django.core.checks import Error, Tags, register


@register(Tags.security, deploy=True)
def not_for_production(**kwargs: Any) -> list[Error]:
    """The sandbox hands out identities to whoever asks: ``check --deploy`` refuses it."""
    return [
        Error(
            "The sandbox is installed: a stand-in for HubSpot that is for development only.",
            hint='Take "hubspot_identify.sandbox" out of INSTALLED_APPS and its URLs out of the URLconf.',
            id="hubspot_identify_sandbox.E001",
        )
    ]
