"""The stand-in HubSpot of this site: how to reach it, and the moods it may be in."""

from __future__ import annotations

from typing import Any

PORTAL = "123"

MOODS = {
    "healthy": "healthy",
    "slow": "slow: 3 seconds a call",
    "hung": "hung: never answers",
    "refused": "down: connections dropped",
    "401": "401: key is wrong",
    "403": "403: scope is missing",
    "423": "423: account is locked",
    "429": "429: too many calls",
    "477": "477: account is moving",
    "500": "500: out of order",
    "garbage": "garbage: HTML for JSON",
}


def sandbox_settings(origin: str) -> dict[str, Any]:
    """What ``HUBSPOT_IDENTIFY`` needs in order to talk to the sandbox of a site served at ``origin``."""
    return {
        "API_KEY": "any-key-will-do",
        "PORTAL_ID": PORTAL,
        "REGION": "na1",
        "BASE_URL": f"{origin}/sandbox/api",
        "LOADER_URL": f"/sandbox/loader/{PORTAL}.js",
    }
