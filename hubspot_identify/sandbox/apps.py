from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class HubSpotIdentifySandboxConfig(AppConfig):
    """The simulated HubSpot. It has no models, and ``check --deploy`` reports it, because it is for development."""

    name = "hubspot_identify.sandbox"
    label = "hubspot_identify_sandbox"
    verbose_name = _("HubSpot sandbox (development only)")

    def ready(self) -> None:
        from . import checks  # noqa: F401 - importing registers them
