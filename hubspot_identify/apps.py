from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class HubSpotIdentifyConfig(AppConfig):
    """The app. It has no models and no signal handlers, and registers its checks at start-up."""

    name = "hubspot_identify"
    verbose_name = _("HubSpot visitor identification")

    def ready(self) -> None:
        from . import checks  # noqa: F401 - importing registers them
