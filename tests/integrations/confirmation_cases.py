"""A recipe of docs/visitors.rst that verifies addresses, in a new project. ``test_recipes.py`` creates the project."""

from __future__ import annotations

import re
from typing import Any

import django
import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.core import mail
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from hubspot_identify.testing import fake_hubspot

pytestmark = pytest.mark.django_db
ADDRESS = "Ada@example.com"


@pytest.fixture(autouse=True)
def outbox(settings: Settings) -> None:
    backend = "django.core.mail.backends.locmem.EmailBackend"
    if django.VERSION >= (6, 1):
        settings.MAILERS = {"default": {"BACKEND": backend}}
    else:
        settings.EMAIL_BACKEND = backend
    mail.outbox = []


@pytest.fixture
def ada(client: Client) -> Any:
    user = get_user_model().objects.create_user("ada", ADDRESS)
    client.force_login(user)
    return user


def request_mail(client: Client) -> str:
    """Use what the recipe puts on the profile page, and return the path or the code in the mail."""
    (url,) = re.findall(r'(?:href|action)="([^"]+)"', client.get("/profile/").content.decode())
    if apps.is_installed("allauth.account"):
        assert "action_send" in client.get(url).content.decode()
    client.post(url, {"email": ADDRESS, "action_send": ""})  # the fields of django-allauth's form
    (message,) = mail.outbox
    assert [address.lower() for address in message.to] == [ADDRESS.lower()]
    found = re.search(r"https?://testserver(/\S+)|^([A-Z0-9-]+)$", str(message.body), re.MULTILINE)
    assert found, message.body
    return found[1] or found[2]


def confirm(client: Client, link_or_code: str) -> None:
    """Open a link, or enter a code in the page for it."""
    if link_or_code.startswith("/"):
        client.get(link_or_code)
    else:
        client.post(reverse("account_email_verification_sent"), {"code": link_or_code})


def identified(client: Client) -> str | None:
    with fake_hubspot() as hubspot:
        identity = hubspot.identity_of(client)
    return identity["email"] if identity else None


def test_user_is_identified_once_the_address_is_confirmed(client: Client, ada: Any) -> None:
    """If the address is changed afterwards, the user is not identified until the new one is confirmed."""
    assert identified(client) is None
    received = request_mail(client)
    assert identified(client) is None
    confirm(client, received)
    assert identified(client) == ADDRESS.lower()
    type(ada).objects.update(email="other@example.com")
    assert identified(client) is None


def test_mail_confirms_nothing_in_another_session(client: Client, ada: Any) -> None:
    """Neither a mail scanner nor the owner of an address can confirm it for another account by using the mail."""
    received = request_mail(client)
    owner, scanner = Client(), Client()
    owner.force_login(get_user_model().objects.create_user("owner", ADDRESS))
    for other in (scanner, owner):
        confirm(other, received)
    assert [identified(client), identified(owner)] == [None, None]


def test_mail_confirms_no_address_that_the_account_had_before(client: Client, ada: Any) -> None:
    """If the address was changed after the mail was sent, the new address is not verified."""
    received = request_mail(client)
    type(ada).objects.update(email="other@example.com")
    confirm(client, received)
    assert identified(client) != "other@example.com"
