"""Changes of the app's settings."""

from __future__ import annotations

from pytest_django import Settings


def configure(settings: Settings, **changes: object) -> None:
    """Change some keys of ``HUBSPOT_IDENTIFY``."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **changes}
