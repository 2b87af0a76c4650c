"""The stand-in's token API, asked over a real connection, and by HubSpot's own client."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from hubspot import HubSpot
from hubspot.conversations.visitor_identification import IdentificationTokenGenerationRequest
from hubspot.conversations.visitor_identification.exceptions import ApiException

from hubspot_identify.conf import TOKEN
from hubspot_identify.sandbox.api import PATHS, SCOPE
from hubspot_identify.sandbox.state import RATE_LIMIT, Call, Mood, Sandbox

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ADA = {"email": "ada@example.com", "firstName": "Ada", "lastName": "Lovelace"}


def ask(
    origin: str, body: object = ADA, *, path: str = PATHS[0], key: str = "key", **arguments: Any
) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return requests.post(f"{origin}/sandbox/api/{path}", json=body, headers=headers, timeout=10, **arguments)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_of_the_api_makes_tokens(origin: str, sandbox: Sandbox, path: str) -> None:
    """The oldest path, HubSpot's clients' and both date versions answer alike."""
    response = ask(origin, path=path)
    assert response.status_code == 200
    assert list(response.json()) == ["token"]
    assert re.fullmatch(TOKEN, response.json()["token"])
    assert response.headers["X-HubSpot-RateLimit-Remaining"] == str(RATE_LIMIT - 1)
    assert list(sandbox.calls) == [Call(f"/sandbox/api/{path}", "ada@example.com", 200)]


def test_the_older_scheme_is_understood(origin: str) -> None:
    """``?hapikey=`` in the URL is a credential, too."""
    assert ask(origin, key="", params={"hapikey": "key"}).status_code == 200


@pytest.mark.parametrize("arguments", [{"key": ""}, {"key": "", "params": {"hapikey": ""}}])
def test_without_a_credential_nothing_is_made(origin: str, arguments: dict[str, Any]) -> None:
    """No credential, or an empty one, is an INVALID_AUTHENTICATION."""
    response = ask(origin, **arguments)
    assert response.status_code == 401
    assert response.json()["category"] == "INVALID_AUTHENTICATION"


@pytest.mark.parametrize(
    ("body", "complaints"),
    [
        ({}, [("REQUIRED_FIELD", "email")]),
        ({"email": None}, [("REQUIRED_FIELD", "email")]),
        ({"email": "ada"}, [("INVALID_EMAIL", "email")]),
        ({"email": ["ada@example.com"]}, [("INVALID_EMAIL", "email")]),
        ({**ADA, "firstName": None}, [("INVALID_TYPE", "firstName")]),
        ({**ADA, "lastName": 7}, [("INVALID_TYPE", "lastName")]),
        ({**ADA, "hsCustomerAgentContext": {"plan": 1}}, [("INVALID_TYPE", "hsCustomerAgentContext")]),
        ({**ADA, "hsCustomerAgentContext": []}, [("INVALID_TYPE", "hsCustomerAgentContext")]),
        ([], []),
    ],
)
def test_bad_input_is_a_validation_error(origin: str, body: object, complaints: list[tuple[str, str]]) -> None:
    """Each complaint names its field, in HubSpot's shape."""
    response = ask(origin, body)
    answer = response.json()
    assert response.status_code == 400
    assert (answer["status"], answer["category"]) == ("error", "VALIDATION_ERROR")
    assert re.fullmatch(UUID, answer["correlationId"])
    assert [(each["code"], each["in"]) for each in answer["errors"]] == complaints


def test_context_for_the_customer_agent_is_accepted(origin: str) -> None:
    """Text mapped to text is what HubSpot takes."""
    assert ask(origin, {**ADA, "hsCustomerAgentContext": {"plan": "gold"}}).status_code == 200


def test_only_json_is_read(origin: str) -> None:
    """Another content type is refused, and a body that only claims to be JSON is a validation error."""
    url, headers = f"{origin}/sandbox/api/{PATHS[0]}", {"Authorization": "Bearer key"}
    assert requests.post(url, data=ADA, headers=headers, timeout=10).status_code == 415
    headers["Content-Type"] = "application/json"
    assert requests.post(url, data="{", headers=headers, timeout=10).json()["category"] == "VALIDATION_ERROR"
    answer = requests.get(url, headers=headers, timeout=10)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("mood", "fields", "headers"),
    [
        ("401", {"category": "INVALID_AUTHENTICATION"}, {}),
        ("403", {"category": "MISSING_SCOPES", "context": {"missingScopes": [SCOPE]}}, {}),
        ("423", {"category": "LOCKED"}, {}),
        ("429", {"errorType": "RATE_LIMIT", "policyName": "TEN_SECONDLY_ROLLING"}, {"Retry-After": "10"}),
        ("477", {"category": "MIGRATION_IN_PROGRESS"}, {"Retry-After": "60"}),
        ("500", {"category": "INTERNAL_ERROR"}, {}),
    ],
)
def test_moods_answer_with_hubspots_errors(
    origin: str, sandbox: Sandbox, mood: str, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    """Status, body and headers of each trouble are what the real API sends."""
    sandbox.set_mood(mood)
    response = ask(origin)
    answer = response.json()
    assert response.status_code == int(mood)
    assert {name: answer.get(name) for name in fields} == fields
    assert ("category" in answer) == (mood != "429")
    assert re.fullmatch(UUID, answer["correlationId"])
    assert {name: response.headers.get(name) for name in headers} == headers


def test_garbage_is_a_success_without_json(origin: str, sandbox: Sandbox) -> None:
    """A 200 with HTML, as a proxy in between might send it."""
    sandbox.set_mood("garbage")
    response = ask(origin)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


def test_refused_ends_the_connection_without_an_answer(origin: str, sandbox: Sandbox) -> None:
    """Not a byte comes back, and the caller learns it at once."""
    sandbox.set_mood("refused")
    with pytest.raises(requests.ConnectionError) as caught:
        ask(origin)
    assert "RemoteDisconnected" in repr(caught.value)
    assert [call.status for call in sandbox.calls] == [None]


def test_hung_says_nothing(origin: str, sandbox: Sandbox) -> None:
    """The caller waits in vain."""
    sandbox.set_mood("hung")
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{origin}/sandbox/api/{PATHS[0]}", json=ADA, timeout=0.2)


def test_a_hung_call_ends_with_the_mood(origin: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switching to another mood lets the hung connections go, so that nothing waits for them."""
    hanging, linger = threading.Event(), sandbox.linger

    def note_and_linger(mood: Mood, seconds: float) -> None:
        hanging.set()
        linger(mood, seconds)

    monkeypatch.setattr(sandbox, "linger", note_and_linger)
    sandbox.set_mood("hung")
    with ThreadPoolExecutor(1) as callers:
        call = callers.submit(ask, origin)
        assert hanging.wait(5)
        sandbox.set_mood("healthy")
        assert isinstance(call.exception(5), requests.ConnectionError)


def test_slow_is_healthy_but_late(origin: str, sandbox: Sandbox) -> None:
    """The token comes, after the seconds that were asked for."""
    sandbox.slow_seconds = 0.2
    sandbox.set_mood("slow")
    started = time.monotonic()
    assert ask(origin).status_code == 200
    assert time.monotonic() - started >= 0.2


def test_the_limit_is_enforced(origin: str, sandbox: Sandbox) -> None:
    """The call after the 190th is a 429 that says its window and has no Retry-After."""
    for _ in range(RATE_LIMIT):
        sandbox.remaining("key")
    response = ask(origin)
    assert response.status_code == 429
    assert response.json()["errorType"] == "RATE_LIMIT"
    assert "Retry-After" not in response.headers
    assert {name: value for name, value in response.headers.items() if name.startswith("X-HubSpot")} == {
        "X-HubSpot-RateLimit-Max": "190",
        "X-HubSpot-RateLimit-Remaining": "0",
        "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
    }


# HubSpot's own client vouches for the stand-in.


@pytest.fixture(autouse=True)
def urllib3_stays_loud() -> Iterator[None]:
    """HubSpot's client quietens urllib3 for the whole process, which other tests listen to."""
    yield
    logging.getLogger("urllib3").setLevel(logging.NOTSET)


def client_token(origin: str) -> str:
    client = HubSpot(access_token="key", host=f"{origin}/sandbox/api")
    asked = IdentificationTokenGenerationRequest(email="ada@example.com", first_name="Ada", last_name="Lovelace")
    answer = client.conversations.visitor_identification.generate_api.generate_token(asked)
    return str(answer.token)


def test_hubspots_own_client_gets_a_token(origin: str, sandbox: Sandbox) -> None:
    """A client that others wrote, pointed here by its host option, finds what it expects."""
    contact = sandbox.believe("ada@example.com", client_token(origin))
    assert contact is not None
    assert contact.name == "Ada Lovelace"


@pytest.mark.parametrize("mood", [Mood.UNAUTHORIZED, Mood.FORBIDDEN, Mood.LOCKED, Mood.MIGRATING, Mood.BROKEN])
def test_hubspots_own_client_reads_the_errors(origin: str, sandbox: Sandbox, mood: Mood) -> None:
    """The stand-in's errors arrive as the client's own exception, with HubSpot's fields in the body."""
    sandbox.set_mood(mood)
    with pytest.raises(ApiException) as caught:
        client_token(origin)
    body = json.loads(caught.value.body)
    assert caught.value.status == int(mood)
    assert {"status", "message", "correlationId", "category"} <= body.keys()


def test_hubspots_own_client_reads_the_rate_limit(origin: str, sandbox: Sandbox) -> None:
    """A 429 has its policy in the body and the seconds to wait in the headers."""
    sandbox.set_mood(Mood.RATE_LIMITED)
    with pytest.raises(ApiException) as caught:
        client_token(origin)
    assert caught.value.status == 429
    assert json.loads(caught.value.body)["policyName"] == "TEN_SECONDLY_ROLLING"
    assert caught.value.headers["Retry-After"] == "10"
