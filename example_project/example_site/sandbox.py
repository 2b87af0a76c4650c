"""The simulated HubSpot of this site: its settings and its scenarios."""

from __future__ import annotations

from typing import Any

PORTAL = "123"

SCENARIOS = {
    "healthy": "healthy",
    "slow": "slow: 3 seconds per call",
    "hung": "hung: never responds",
    "refused": "down: connections dropped",
    "401": "401: invalid key",
    "403": "403: missing scope",
    "423": "423: account locked",
    "429": "429: too many calls",
    "477": "477: account is being moved",
    "500": "500: server error",
    "garbage": "garbage: HTML instead of JSON",
}


def sandbox_settings(origin: str) -> dict[str, Any]:
    """Return the keys of ``HUBSPOT_IDENTIFY`` for the sandbox of a site that is served at ``origin``."""
    return {
        "API_KEY": "any-key-will-do",
        "PORTAL_ID": PORTAL,
        "REGION": "na1",
        "BASE_URL": f"{origin}/sandbox/api",
        "LOADER_URL": f"/sandbox/loader/{PORTAL}.js",
    }
