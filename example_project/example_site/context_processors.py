from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from hubspot_identify.sandbox.state import sandbox

from .sandbox import MOODS


def mood_bar(request: HttpRequest) -> dict[str, Any]:
    """The sandbox's mood and the others to choose from; nothing where HubSpot is the real one."""
    return {"mood": sandbox.mood.value, "moods": MOODS} if settings.USES_SANDBOX else {}
