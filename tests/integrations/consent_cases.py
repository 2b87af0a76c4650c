"""The recipe of docs/consent.rst with the real django-cookie-consent. ``test_consent.py`` runs it."""

from __future__ import annotations

from typing import Any

import pytest
from cookie_consent.models import CookieGroup
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path
from pytest_django import Settings
from support.manual import code_blocks
from support.pages import ada, render_django, script_attributes
from support.server import TokenServer

pytestmark = pytest.mark.django_db


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(render_django(request))


urlpatterns = [
    path("", page),
    path("cookies/", include("cookie_consent.urls")),
    path("hubspot/", include("hubspot_identify.urls")),
]


@pytest.fixture(autouse=True)
def recipe(settings: Settings, hubspot: TokenServer) -> None:
    """A site whose ``ENABLED`` is the code in the manual."""
    (block,) = [block for block in code_blocks("docs/consent") if "cookie_consent" in block]
    names: dict[str, Any] = {}
    exec(block, names)
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ENABLED": names["chat_allowed"], "TIMEOUT": 10}
    CookieGroup.objects.create(varname="chat", name="Chat").cookie_set.create(name="messagesUtk")


@pytest.fixture
def logged_in_user(client: Client) -> User:
    user = ada()
    user.save()
    client.force_login(user)
    return user


def load_on(client: Client) -> str:
    return script_attributes(client.get("/").content.decode())["data-load-on"]


def decide(client: Client, decision: str) -> None:
    response = client.post(f"/cookies/{decision}/", {"cookie_groups": "chat"})
    assert response.status_code == 302, response.content


def response_of_the_endpoint(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/hubspot/identity/", headers={"X-HubSpot-Identify": "1"}).json()
    return found


@pytest.mark.usefixtures("logged_in_user")
def test_chat_is_loaded_only_with_consent(client: Client, hubspot: TokenServer) -> None:
    """Without a decision, after a refusal and after a withdrawal, the page has no loader and HubSpot is not called."""
    for decision in (None, "decline"):
        if decision:
            decide(client, decision)
        assert load_on(client) == "never"
        assert "hs-scripts" not in client.get("/").content.decode()
        assert response_of_the_endpoint(client) == {"enabled": False}
    assert hubspot.calls == 0
    decide(client, "accept")
    assert load_on(client) == "page"
    assert response_of_the_endpoint(client)["subject"] is not None
    assert hubspot.wait_for_calls(1)
    decide(client, "decline")
    assert load_on(client) == "never"
    assert response_of_the_endpoint(client) == {"enabled": False}
    assert hubspot.calls == 1
