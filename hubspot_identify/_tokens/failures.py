"""What the failure of a call says about the other visitors, and how long to wait after it."""

from __future__ import annotations

from typing import TypeGuard

from ..exceptions import APIError, CredentialError, HubSpotIdentifyError, TransportError

SHORTEST_PAUSE, USUAL_PAUSE, LONGEST_PAUSE, DAILY_PAUSE = 1.0, 10.0, 60.0, 900.0  # seconds, after 429 and 477

#: Statuses for the data of one visitor. They never open the breaker.
REFUSED_STATUSES = frozenset({400, 422})
#: Statuses that say to wait.
PAUSE_STATUSES = frozenset({429, 477})
#: Statuses that mean that the settings are wrong, once several visitors have got them.
CONFIGURATION_STATUSES = frozenset({401, 403, 404, 405, 410, 415, 488})


def concerns_all_visitors(error: HubSpotIdentifyError) -> bool:
    """Return whether no visitor can have caused an error. Any proxy or firewall on the way may send a status."""
    if isinstance(error, TransportError):
        return not error.request_sent
    if isinstance(error, APIError):
        return error.key_rejected
    return isinstance(error, CredentialError)


def asks_to_pause(error: HubSpotIdentifyError) -> TypeGuard[APIError]:
    """Return whether HubSpot says to wait. A 429 or 477 without a word of HubSpot's is that of a proxy or firewall."""
    if not isinstance(error, APIError) or error.status not in PAUSE_STATUSES:
        return False
    return bool(error.category or error.policy or error.correlation_id)


def pause_after(error: APIError) -> float:
    """Return the seconds without calls after a 429 or 477."""
    if error.policy == "DAILY":
        return DAILY_PAUSE
    if error.retry_after is None:
        return USUAL_PAUSE
    return min(max(error.retry_after, SHORTEST_PAUSE), LONGEST_PAUSE)
