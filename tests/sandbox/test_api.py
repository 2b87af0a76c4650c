"""The token API of the sandbox, called over a real connection and with HubSpot's own client."""

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

from hubspot_identify.sandbox.api import PATHS, SCOPE
from hubspot_identify.sandbox.state import RATE_LIMIT, Call, Sandbox, Scenario
from hubspot_identify.visitors import TOKEN

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ADA = {"email": "ada@example.com", "firstName": "Ada", "lastName": "Lovelace"}


def call(
    origin: str, body: object = ADA, *, path: str = PATHS[0], key: str = "key", **arguments: Any
) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return requests.post(f"{origin}/sandbox/api/{path}", json=body, headers=headers, timeout=10, **arguments)


def test_every_path_of_the_api_returns_tokens(origin: str, sandbox: Sandbox) -> None:
    """The oldest path, that of HubSpot's client and those with a date have the same response."""
    for number, path in enumerate(PATHS, 1):
        response = call(origin, path=path)
        assert response.status_code == 200
        assert list(response.json()) == ["token"]
        assert re.fullmatch(TOKEN, response.json()["token"])
        assert response.headers["X-HubSpot-RateLimit-Remaining"] == str(RATE_LIMIT - number)
    assert list(sandbox.calls) == [Call(f"/sandbox/api/{path}", "ada@example.com", 200) for path in PATHS]


def test_credential_is_required(origin: str) -> None:
    """``?hapikey=`` in the URL is a credential as well. A missing or empty one is INVALID_AUTHENTICATION."""
    assert call(origin, key="", params={"hapikey": "key"}).status_code == 200
    for parameters in ({}, {"hapikey": ""}):
        response = call(origin, key="", params=parameters)
        assert response.status_code == 401
        assert response.json()["category"] == "INVALID_AUTHENTICATION"


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, [("REQUIRED_FIELD", "email")]),
        ({"email": None}, [("REQUIRED_FIELD", "email")]),
        ({"email": "ada"}, [("INVALID_EMAIL", "email")]),
        ({"email": ["ada@example.com"]}, [("INVALID_EMAIL", "email")]),
        ({**ADA, "lastName": 7}, [("INVALID_TYPE", "lastName")]),
        ({**ADA, "hsCustomerAgentContext": {"plan": 1}}, [("INVALID_TYPE", "hsCustomerAgentContext")]),
        ({**ADA, "hsCustomerAgentContext": []}, [("INVALID_TYPE", "hsCustomerAgentContext")]),
        ([], []),
    ],
)
def test_invalid_body_is_a_validation_error(origin: str, body: object, errors: list[tuple[str, str]]) -> None:
    """Each error names its field, in HubSpot's format."""
    response = call(origin, body)
    content = response.json()
    assert response.status_code == 400
    assert (content["status"], content["category"]) == ("error", "VALIDATION_ERROR")
    assert re.fullmatch(UUID, content["correlationId"])
    assert [(each["code"], each["in"]) for each in content["errors"]] == errors


def test_context_of_texts_is_accepted(origin: str) -> None:
    """The context for HubSpot's customer agent maps text to text."""
    assert call(origin, {**ADA, "hsCustomerAgentContext": {"plan": "gold"}}).status_code == 200


def test_body_must_be_json(origin: str) -> None:
    """Another content type is rejected, and a body that is not JSON is a validation error."""
    url, headers = f"{origin}/sandbox/api/{PATHS[0]}", {"Authorization": "Bearer key"}
    assert requests.post(url, data=ADA, headers=headers, timeout=10).status_code == 415
    headers["Content-Type"] = "application/json"
    assert requests.post(url, data="{", headers=headers, timeout=10).json()["category"] == "VALIDATION_ERROR"
    response = requests.get(url, headers=headers, timeout=10)
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("scenario", "fields", "headers"),
    [
        ("401", {"category": "INVALID_AUTHENTICATION"}, {}),
        ("403", {"category": "MISSING_SCOPES", "context": {"missingScopes": [SCOPE]}}, {}),
        ("423", {"category": "LOCKED"}, {}),
        ("429", {"errorType": "RATE_LIMIT", "policyName": "TEN_SECONDLY_ROLLING"}, {"Retry-After": "10"}),
        ("477", {"category": "MIGRATION_IN_PROGRESS"}, {"Retry-After": "60"}),
        ("500", {"category": "INTERNAL_ERROR"}, {}),
    ],
)
def test_simulated_error_is_that_of_hubspot(
    origin: str, sandbox: Sandbox, scenario: str, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    """Status, body and headers are those of the real API."""
    sandbox.set_scenario(scenario)
    response = call(origin)
    content = response.json()
    assert response.status_code == int(scenario)
    assert {name: content.get(name) for name in fields} == fields
    assert ("category" in content) == (scenario != "429")
    assert re.fullmatch(UUID, content["correlationId"])
    assert {name: response.headers.get(name) for name in headers} == headers


def test_garbage_is_a_response_200_with_html(origin: str, sandbox: Sandbox) -> None:
    """Proxies send such responses."""
    sandbox.set_scenario("garbage")
    response = call(origin)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


def test_refused_call_ends_without_a_response(origin: str, sandbox: Sandbox) -> None:
    """The connection is closed at once, without a byte."""
    sandbox.set_scenario("refused")
    with pytest.raises(requests.ConnectionError) as caught:
        call(origin)
    assert "RemoteDisconnected" in repr(caught.value)
    assert [each.status for each in sandbox.calls] == [None]


def test_hung_call_ends_when_the_scenario_changes(
    origin: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call gets no response while the API hangs. A change of the scenario closes its connection."""
    waiting, wait_while = threading.Event(), sandbox.wait_while

    def signal_and_wait(scenario: Scenario, seconds: float) -> None:
        waiting.set()
        wait_while(scenario, seconds)

    monkeypatch.setattr(sandbox, "wait_while", signal_and_wait)
    sandbox.set_scenario("hung")
    with ThreadPoolExecutor(1) as callers:
        pending = callers.submit(call, origin)
        assert waiting.wait(5)
        assert not pending.done()
        sandbox.set_scenario("healthy")
        assert isinstance(pending.exception(5), requests.ConnectionError)


def test_slow_call_returns_a_token_after_a_delay(origin: str, sandbox: Sandbox) -> None:
    """The delay is that of ``slow_seconds``."""
    sandbox.slow_seconds = 0.1
    sandbox.set_scenario("slow")
    started = time.monotonic()
    assert call(origin).status_code == 200
    assert time.monotonic() - started >= 0.1


def test_rate_limit_is_enforced(origin: str, sandbox: Sandbox) -> None:
    """The call after the 190th gets a 429 that has the window and no ``Retry-After``."""
    for _ in range(RATE_LIMIT):
        sandbox.remaining("key")
    response = call(origin)
    assert response.status_code == 429
    assert response.json()["errorType"] == "RATE_LIMIT"
    assert "Retry-After" not in response.headers
    assert {name: value for name, value in response.headers.items() if name.startswith("X-HubSpot")} == {
        "X-HubSpot-RateLimit-Max": "190",
        "X-HubSpot-RateLimit-Remaining": "0",
        "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
    }


# HubSpot's own client confirms that the sandbox is compatible.


@pytest.fixture(autouse=True)
def reset_log_level_of_urllib3() -> Iterator[None]:
    """HubSpot's client sets the log level of urllib3 for the whole process, which other tests depend on."""
    yield
    logging.getLogger("urllib3").setLevel(logging.NOTSET)


def client_token(origin: str) -> str:
    client = HubSpot(access_token="key", host=f"{origin}/sandbox/api")
    body = IdentificationTokenGenerationRequest(email="ada@example.com", first_name="Ada", last_name="Lovelace")
    response = client.conversations.visitor_identification.generate_api.generate_token(body)
    return str(response.token)


def test_hubspots_client_gets_a_token(origin: str, sandbox: Sandbox) -> None:
    """The client accepts the response of the sandbox, and the sandbox accepts the token."""
    contact = sandbox.contact_for("ada@example.com", client_token(origin))
    assert contact is not None
    assert contact.name == "Ada Lovelace"


def test_hubspots_client_reads_an_error(origin: str, sandbox: Sandbox) -> None:
    """The client raises its own exception, which has HubSpot's fields."""
    sandbox.set_scenario(Scenario.FORBIDDEN)
    with pytest.raises(ApiException) as caught:
        client_token(origin)
    assert caught.value.status == 403
    assert {"status", "message", "correlationId", "category"} <= json.loads(caught.value.body).keys()


def test_hubspots_client_reads_the_rate_limit(origin: str, sandbox: Sandbox) -> None:
    """The body of a 429 has the policy, and the headers have the seconds to wait."""
    sandbox.set_scenario(Scenario.RATE_LIMITED)
    with pytest.raises(ApiException) as caught:
        client_token(origin)
    assert caught.value.status == 429
    assert json.loads(caught.value.body)["policyName"] == "TEN_SECONDLY_ROLLING"
    assert caught.value.headers["Retry-After"] == "10"
