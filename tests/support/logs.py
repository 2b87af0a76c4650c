"""What has been logged during a test."""

from __future__ import annotations

import pytest


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    """Return the logger and the level of each record."""
    return [(name, level) for name, level, _ in caplog.record_tuples]
