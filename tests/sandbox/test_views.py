"""The pages of the sandbox, which are available only during development."""

from __future__ import annotations

from typing import Any

import html5lib
import pytest
from django.core import checks
from django.test import Client
from django.urls import URLPattern, get_resolver
from pytest_django import Settings

from hubspot_identify.sandbox.apps import HubSpotIdentifySandboxConfig
from hubspot_identify.sandbox.checks import not_for_production
from hubspot_identify.sandbox.state import Sandbox


def inbox() -> Any:
    """The parsed page of the inbox."""
    return html5lib.parse(Client().get("/sandbox/inbox/").content.decode(), namespaceHTMLElements=False)


def all_urls() -> list[str]:
    resolver = next(each for each in get_resolver("sandbox.urls").url_patterns if not isinstance(each, URLPattern))
    assert len(resolver.url_patterns) > 10
    patterns = [str(each.pattern) for each in resolver.url_patterns]
    return [f"/sandbox/{each.replace('<slug:portal>', '123').replace('<str:name>', 'main.js')}" for each in patterns]


def test_every_url_is_a_404_without_debug(sandbox: Sandbox, settings: Settings) -> None:
    """In production the sandbox does not exist, for every method."""
    client = Client()
    urls = all_urls()
    assert {client.options(url).status_code for url in urls} == {405}  # all of them exist
    settings.DEBUG = False
    assert {client.get(url).status_code for url in urls} == {404}
    assert {client.post(url).status_code for url in urls} == {404}


def test_installed_sandbox_is_an_error_of_the_deployment_check() -> None:
    """The error is reported only by ``check --deploy``."""
    HubSpotIdentifySandboxConfig.create("hubspot_identify.sandbox").ready()
    assert not_for_production in checks.registry.registry.deployment_checks
    assert not_for_production not in checks.registry.registry.registered_checks
    (error,) = not_for_production()
    assert (error.id, error.level) == ("hubspot_identify_sandbox.E001", checks.ERROR)


def test_inbox_shows_contacts_and_claimed_addresses(sandbox: Sandbox) -> None:
    """A conversation has the name and address of a contact, or is of an unknown visitor who may claim an address."""
    token = sandbox.issue("ada@example.com", "Ada", "Lovelace")
    sandbox.add_message("Who am I?", utk="one", page="/prices/")
    sandbox.add_message("Hello", email="ada@example.com", token=token)
    sandbox.add_message("Let me in", email="grace@example.com", token="invalid")
    articles = ["".join(article.itertext()) for article in inbox().iter("article")]
    expected = [
        ["grace@example.com", "Let me in"],
        ["Ada Lovelace", "ada@example.com", "Hello"],
        ["Who am I?", "/prices/"],
    ]
    assert [all(text in article for text in texts) for article, texts in zip(articles, expected, strict=True)] == [
        True
    ] * 3
    assert [article.get("class") for article in inbox().iter("article")] == ["unknown", "known", "unknown"]
    threads = Client().get("/sandbox/inbox.json").json()["threads"]
    assert [(each["email"], each["verified"], each["claimed"]) for each in threads] == [
        (None, False, "grace@example.com"),
        ("ada@example.com", True, None),
        (None, False, None),
    ]
    assert threads[1]["visitor"] == "Ada Lovelace"
    assert threads[0]["visitor"] == threads[2]["visitor"]


def test_conversations_belong_to_the_portal_of_the_chat(sandbox: Sandbox) -> None:
    """A contact or an anonymous browser has one conversation in each portal. The inbox names the portals."""
    client = Client()
    ada = {"email": "ada@example.com", "token": sandbox.issue("ada@example.com")}
    browser = {"utk": "of the browser"}
    for portal in ("123", "456"):
        for number, visitor in enumerate((ada, browser), 1):
            body = {**visitor, "text": f"{number} in {portal}"}
            response = client.post(f"/sandbox/chat/{portal}/thread/", body, content_type="application/json")
            assert response.json()["messages"] == [f"{number} in {portal}"]
    texts = ["".join(article.itertext()) for article in inbox().iter("article")]
    assert ["456" in text and "123" not in text for text in texts] == [True, True, False, False]
    query = {"setIdentification": "true", "email": ada["email"], "identificationToken": ada["token"]}
    client.get("/sandbox/livechat-public/456/", {**query, "messagesUtk": browser["utk"]})
    threads = client.get("/sandbox/inbox.json").json()["threads"]
    assert [(thread["portal"], thread["verified"]) for thread in threads] == [
        ("456", True),
        ("456", True),
        ("123", False),
        ("123", True),
    ]


def test_inbox_escapes_messages(sandbox: Sandbox) -> None:
    """Markup in a message is shown as text."""
    sandbox.add_message("<script>alert(1)</script>")
    document = inbox()
    assert [each.attrib for each in document.iter("script")] == [{"src": "../files/inbox.js", "defer": ""}]
    assert [each.text for each in document.iter("li")] == ["<script>alert(1)</script>"]


def test_post_switches_the_scenario(sandbox: Sandbox) -> None:
    """The request needs no CSRF token. An unknown scenario is rejected with a list of all scenarios."""
    client = Client(enforce_csrf_checks=True)
    assert client.post("/sandbox/scenario/", {"scenario": "500"}).json()["scenario"] == "500"
    assert client.get("/sandbox/scenario/").json()["scenario"] == "500"
    rejected = client.post("/sandbox/scenario/", {"scenario": "unknown"})
    assert (rejected.status_code, rejected.json()["scenario"]) == (400, "500")
    assert "healthy" in rejected.json()["scenarios"]


@pytest.mark.parametrize("origin", ["https://evil.test", "http://testserver:8001", "null"])
def test_post_from_another_site_is_rejected(sandbox: Sandbox, origin: str) -> None:
    """A page of another site can neither switch the scenario, nor write messages, nor create tokens."""
    client = Client(headers={"origin": origin})
    token_api = "/sandbox/api/visitor-identification/v3/tokens/create?hapikey=key"
    body = {"email": "ada@example.com", "text": "Hello"}
    assert client.post("/sandbox/scenario/", {"scenario": "500"}).status_code == 403
    for url in ("/sandbox/chat/123/thread/", token_api):
        assert client.post(url, body, content_type="application/json").status_code == 403
    assert (sandbox.scenario, sandbox.threads(), len(sandbox.calls)) == ("healthy", [], 0)


def test_post_from_the_same_site_is_accepted(sandbox: Sandbox) -> None:
    """The chat's own frame and the pages of the site may send messages."""
    client = Client(headers={"origin": "http://testserver"})
    assert client.post("/sandbox/scenario/", {"scenario": "500"}).status_code == 200


def test_sites_policy_does_not_replace_that_of_the_sandbox(sandbox: Sandbox, settings: Settings) -> None:
    """The chat and the inbox run only the sandbox's own scripts, whatever the policy of the site allows."""
    settings.MIDDLEWARE = ["csp.middleware.CSPMiddleware"]
    settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": {"default-src": ["'none'"], "frame-ancestors": ["'none'"]}}
    for page, ancestors in (("chat/123", set()), ("inbox", {"frame-ancestors 'self'"})):
        policy = set(Client().get(f"/sandbox/{page}/").headers["Content-Security-Policy"].split("; "))
        assert "default-src 'self'" in policy
        assert {each for each in policy if "ancestors" in each} == ancestors


def test_chat_can_be_framed_by_every_page(sandbox: Sandbox, settings: Settings) -> None:
    """The iframe works with Django's clickjacking middleware, also on another origin. The inbox cannot be framed."""
    settings.MIDDLEWARE = ["django.middleware.clickjacking.XFrameOptionsMiddleware"]
    client = Client()
    assert "X-Frame-Options" not in client.get("/sandbox/chat/123/").headers
    assert client.get("/sandbox/inbox/").headers["X-Frame-Options"] == "DENY"


def test_widget_has_only_the_files_of_its_directory(sandbox: Sandbox) -> None:
    """Each file has the type that browsers require. Another name is not found."""
    client = Client()
    types = {name: client.get(f"/sandbox/embed/{name}").headers["Content-Type"] for name in ("main.js", "widget.css")}
    assert types == {"main.js": "text/javascript; charset=utf-8", "widget.css": "text/css; charset=utf-8"}
    for name in ("other.js", "..", "..%2Floader.js", "%2e%2e%2fchat.html"):
        assert client.get(f"/sandbox/embed/{name}").status_code == 404


def test_refused_call_raises_if_the_connection_is_unknown(sandbox: Sandbox) -> None:
    """If the server does not expose its connection, the view raises and sends no response."""
    sandbox.set_scenario("refused")
    with pytest.raises(ConnectionAbortedError):
        Client().post("/sandbox/api/visitor-identification/v3/tokens/create")
