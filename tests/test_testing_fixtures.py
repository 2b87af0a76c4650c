"""The fixtures of ``hubspot_identify.testing``, imported by name instead of through the plugin."""

from __future__ import annotations

import pytest

from hubspot_identify import services
from hubspot_identify.testing import FakeHubSpot, hubspot, unmocked_hubspot_is_an_error  # noqa: F401 - fixtures
from hubspot_identify.visitors import Visitor


@pytest.mark.usefixtures("unmocked_hubspot_is_an_error")
def test_imported_fixture_creates_tokens(hubspot: FakeHubSpot) -> None:  # noqa: F811 - it is the fixture
    """The fixture takes precedence over the one that forbids calls."""
    assert services.create_token(Visitor("ada@example.com")).value in hubspot.tokens
