from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django import Settings
from support.site import serving_site

from hubspot_identify.sandbox.state import Sandbox
from hubspot_identify.sandbox.state import sandbox as the_sandbox


@pytest.fixture
def sandbox(settings: Settings) -> Iterator[Sandbox]:
    """The sandbox of this process, empty and healthy, routed in a site with ``DEBUG``."""
    settings.DEBUG = True
    settings.ROOT_URLCONF = "sandbox.urls"
    the_sandbox.reset()
    yield the_sandbox
    the_sandbox.reset()


@pytest.fixture
def origin(sandbox: Sandbox) -> Iterator[str]:
    """The origin of a site with the sandbox, on a real port."""
    with serving_site() as origin:
        yield origin
        sandbox.set_scenario("healthy")  # releases held calls
