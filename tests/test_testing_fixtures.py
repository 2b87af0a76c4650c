"""The fixtures of ``hubspot_identify.testing``, imported by name, as a site may do that does not want the plugin."""

from __future__ import annotations

from hubspot_identify import services
from hubspot_identify.testing import FakeHubSpot, hubspot, unmocked_hubspot_is_an_error  # noqa: F401 - fixtures
from hubspot_identify.visitors import Visitor


def test_fixture(hubspot: FakeHubSpot) -> None:  # noqa: F811 - it is the fixture
    """The fixture makes tokens, below the other that forbids calls."""
    assert services.create_token(Visitor("ada@example.com")).value in hubspot.tokens
