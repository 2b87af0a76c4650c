from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from hubspot_identify.sandbox.state import sandbox

from .sandbox import SCENARIOS


def scenarios(request: HttpRequest) -> dict[str, Any]:
    """Return the current and the available scenarios of the sandbox, or nothing if the site uses the real HubSpot."""
    return {"scenario": sandbox.scenario.value, "scenarios": SCENARIOS} if settings.USES_SANDBOX else {}
