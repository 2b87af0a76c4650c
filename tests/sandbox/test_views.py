"""The sandbox's pages, and that they are for development only."""

from __future__ import annotations

import html5lib
import pytest
from django.core import checks
from django.test import Client
from django.urls import URLPattern, get_resolver
from pytest_django import Settings

from hubspot_identify.sandbox.apps import HubSpotIdentifySandboxConfig
from hubspot_identify.sandbox.checks import not_for_production
from hubspot_identify.sandbox.state import Sandbox


def text_of(html: bytes) -> str:
    document = html5lib.parse(html.decode(), namespaceHTMLElements=False)
    return " ".join("".join(document.find("body").itertext()).split())


def all_urls() -> list[str]:
    resolver = next(each for each in get_resolver("sandbox.urls").url_patterns if not isinstance(each, URLPattern))
    assert len(resolver.url_patterns) > 10
    return [f"/sandbox/{str(each.pattern).replace('<slug:portal>', '123')}" for each in resolver.url_patterns]


def test_outside_debug_nothing_is_there(sandbox: Sandbox, settings: Settings) -> None:
    """Every address of the sandbox is a 404 in production, for every method."""
    client = Client()
    urls = all_urls()
    assert {client.options(url).status_code for url in urls} == {405}  # all of them are reached
    settings.DEBUG = False
    assert {client.get(url).status_code for url in urls} == {404}
    assert {client.post(url).status_code for url in urls} == {404}


def test_the_deployment_check_refuses_the_sandbox() -> None:
    """An installed sandbox is an error of ``check --deploy`` and of no other check."""
    HubSpotIdentifySandboxConfig.create("hubspot_identify.sandbox").ready()
    assert not_for_production in checks.registry.registry.deployment_checks
    assert not_for_production not in checks.registry.registry.registered_checks
    (error,) = not_for_production()
    assert (error.id, error.level) == ("hubspot_identify_sandbox.E001", checks.ERROR)


def test_the_inbox_shows_known_contacts_and_unknown_visitors(sandbox: Sandbox) -> None:
    """What the support agent sees: name, address and mark of a contact; else an unknown visitor, and claims."""
    token = sandbox.issue("ada@example.com", "Ada", "Lovelace")
    sandbox.say("Who am I?", utk="one", page="/prices/")
    sandbox.say("Hello", email="ada@example.com", token=token)
    sandbox.say("Let me in", email="grace@example.com", token="made up")
    client = Client()
    assert text_of(client.get("/sandbox/inbox/").content) == (
        "Support inbox What the support agent sees. A stand-in for HubSpot, kept in memory; its token API is healthy. "
        "Unknown visitor No contact record claims to be grace@example.com not verified Let me in "
        "Ada Lovelace ✓ Known contact ada@example.com verified Hello "
        "Unknown visitor No contact record Who am I? on /prices/"
    )
    threads = client.get("/sandbox/inbox.json").json()["threads"]
    assert [(each["visitor"], each["email"], each["verified"], each["claimed"]) for each in threads] == [
        ("Unknown visitor", None, False, "grace@example.com"),
        ("Ada Lovelace", "ada@example.com", True, None),
        ("Unknown visitor", None, False, None),
    ]


def test_the_inbox_shows_messages_as_text(sandbox: Sandbox) -> None:
    """What a visitor writes is never markup."""
    sandbox.say("<script>alert(1)</script>")
    document = html5lib.parse(Client().get("/sandbox/inbox/").content.decode(), namespaceHTMLElements=False)
    assert [each.attrib for each in document.iter("script")] == [{"src": "../files/inbox.js", "defer": ""}]
    assert [each.text for each in document.iter("li")] == ["<script>alert(1)</script>"]


def test_an_empty_inbox_says_what_to_do(sandbox: Sandbox) -> None:
    """Nobody is left before an empty page."""
    assert text_of(Client().get("/sandbox/inbox/").content).endswith(
        "No conversation yet. Open the chat on a page of the site and send a message."
    )


def test_the_mood_is_switched_by_a_post(sandbox: Sandbox) -> None:
    """One line of curl is enough; a mood that doesn't exist changes nothing and is told the others."""
    client = Client(enforce_csrf_checks=True)
    assert client.post("/sandbox/mood/", {"mood": "500"}).json()["mood"] == "500"
    assert client.get("/sandbox/mood/").json()["mood"] == "500"
    refused = client.post("/sandbox/mood/", {"mood": "sad"})
    assert (refused.status_code, refused.json()["mood"]) == (400, "500")
    assert "healthy" in refused.json()["moods"]


@pytest.mark.parametrize("origin", ["https://evil.test", "http://testserver:8001", "null"])
def test_post_from_another_site_is_refused(sandbox: Sandbox, origin: str) -> None:
    """A page of another site can neither switch the scenario, nor write messages, nor create tokens."""
    client = Client(headers={"origin": origin})
    token_api = "/sandbox/api/visitor-identification/v3/tokens/create?hapikey=key"
    body = {"email": "ada@example.com", "text": "Hello"}
    assert client.post("/sandbox/mood/", {"mood": "500"}).status_code == 403
    for url in ("/sandbox/chat/123/thread/", token_api):
        assert client.post(url, body, content_type="application/json").status_code == 403
    assert (sandbox.mood, sandbox.threads(), len(sandbox.calls)) == ("healthy", [], 0)


def test_post_from_the_same_site_is_accepted(sandbox: Sandbox) -> None:
    """The chat's own frame and pages of the site may write."""
    client = Client(headers={"origin": "http://testserver"})
    assert client.post("/sandbox/mood/", {"mood": "500"}).status_code == 200


def test_the_chat_may_be_framed_by_its_own_site(sandbox: Sandbox, settings: Settings) -> None:
    """The iframe works under Django's clickjacking middleware, for the site's own pages."""
    settings.MIDDLEWARE = ["django.middleware.clickjacking.XFrameOptionsMiddleware"]
    client = Client()
    assert client.get("/sandbox/chat/123/").headers["X-Frame-Options"] == "SAMEORIGIN"
    assert client.get("/sandbox/inbox/").headers["X-Frame-Options"] == "DENY"


def test_where_the_connection_is_out_of_reach_refusing_is_an_error(sandbox: Sandbox) -> None:
    """Under a server whose connection can't be found, as here under none, the view fails instead of answering."""
    sandbox.set_mood("refused")
    with pytest.raises(ConnectionAbortedError):
        Client().post("/sandbox/api/visitor-identification/v3/tokens/create")
