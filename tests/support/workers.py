"""The worker threads of this process."""

from __future__ import annotations

from hubspot_identify._tokens.workers import get_workers

from .clocks import GENEROUS_TIMEOUT


def wait_for_workers() -> None:
    """Wait until no worker is busy."""
    assert get_workers().join(GENEROUS_TIMEOUT)
