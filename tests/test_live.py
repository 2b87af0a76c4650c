"""One call to HubSpot itself. Runs only if ``HUBSPOT_IDENTIFY_LIVE_API_KEY`` contains the key of an account."""

from __future__ import annotations

import json
import os
from io import StringIO

import pytest
from django.core.management import call_command
from pytest_django import Settings

KEY = os.environ.get("HUBSPOT_IDENTIFY_LIVE_API_KEY", "")

pytestmark = pytest.mark.skipif(not KEY, reason="HUBSPOT_IDENTIFY_LIVE_API_KEY is not set")


@pytest.fixture
def stay_on_this_machine() -> None:
    """Allow connections to other machines in this module."""


def test_the_doctor_gets_a_token(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """HubSpot creates a token within ``TIMEOUT``, and the output contains no key."""
    settings.HUBSPOT_IDENTIFY = {
        "API_KEY": KEY,
        "PORTAL_ID": os.environ.get("HUBSPOT_IDENTIFY_LIVE_PORTAL_ID"),
        "REGION": os.environ.get("HUBSPOT_IDENTIFY_LIVE_REGION", "na1"),
        "EMAIL_VERIFIED": True,
    }
    out = StringIO()
    try:
        call_command("hubspot_doctor", json=True, stdout=out, stderr=StringIO())
    except SystemExit:
        pytest.fail(out.getvalue(), pytrace=False)
    found = {finding["topic"]: finding for finding in json.loads(out.getvalue())["findings"]}
    assert found["token"]["level"] == "ok"
    assert KEY not in out.getvalue()
