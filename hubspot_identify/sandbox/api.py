"""The simulated token API: its paths, credentials, responses and errors."""

from __future__ import annotations

import io
import json
import os
import socket
import uuid
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.http import HttpRequest, HttpResponse, JsonResponse

from .state import RATE_LIMIT, RATE_WINDOW, Scenario, sandbox

PATHS = (
    "conversations/v3/visitor-identification/tokens/create",
    "visitor-identification/v3/tokens/create",
    "visitor-identification/2026-03/tokens/create",
    "visitor-identification/2026-09/tokens/create",
)
SCOPE = "conversations.visitor_identification.tokens.create"

#: Status, body and headers of the scenarios in which every call gets an error.
ERRORS: dict[Scenario, tuple[int, dict[str, Any], dict[str, str]]] = {
    Scenario.UNAUTHORIZED: (
        401,
        {"category": "INVALID_AUTHENTICATION", "message": "The credential is wrong or has expired."},
        {},
    ),
    Scenario.FORBIDDEN: (
        403,
        {
            "category": "MISSING_SCOPES",
            "message": "The app has not been granted the scopes this call needs.",
            "context": {"missingScopes": [SCOPE]},
            "links": {"scopes": "https://developers.hubspot.com/scopes"},
            "errors": [{"message": "A scope is missing.", "context": {"requiredGranularScopes": [SCOPE]}}],
        },
        {},
    ),
    Scenario.LOCKED: (423, {"category": "LOCKED", "message": "The account is locked; wait 2 s or more."}, {}),
    Scenario.RATE_LIMITED: (
        429,
        {
            "errorType": "RATE_LIMIT",
            "policyName": "TEN_SECONDLY_ROLLING",
            "message": "The ten-second limit of this app is used up.",
        },
        {"Retry-After": "10"},
    ),
    Scenario.MIGRATING: (
        477,
        {"category": "MIGRATION_IN_PROGRESS", "message": "The account is moving to another data centre."},
        {"Retry-After": "60"},
    ),
    Scenario.BROKEN: (500, {"category": "INTERNAL_ERROR", "message": "Something went wrong at HubSpot."}, {}),
}


def create_token(request: HttpRequest) -> HttpResponse:
    """Respond to ``POST {"email", "firstName", "lastName"}`` with ``{"token": "…"}`` or an error.

    The request needs a credential.
    """
    scenario = sandbox.scenario
    if scenario is Scenario.SLOW:
        sandbox.wait_while(scenario, sandbox.slow_seconds)
    elif scenario is Scenario.HUNG:
        sandbox.wait_while(scenario, sandbox.hung_seconds)
    if scenario in (Scenario.HUNG, Scenario.REFUSED):
        sandbox.record(request.path, "", None)
        return close_connection(request)
    response, email = respond(request, scenario)
    sandbox.record(request.path, email, response.status_code)
    return response


def respond(request: HttpRequest, scenario: Scenario) -> tuple[HttpResponse, str]:
    """Return the response to a call, and the e-mail address in its body, or ``""``."""
    if request.method != "POST":
        return error(405, {"message": "Only POST is allowed."}, {"Allow": "POST"}), ""
    if scenario is Scenario.GARBAGE:
        return HttpResponse("<html><body><h1>Bad gateway?</h1></body></html>"), ""
    if scenario in ERRORS:
        return error(*ERRORS[scenario]), ""
    credential = read_credential(request)
    if not credential:
        return error(*ERRORS[Scenario.UNAUTHORIZED]), ""
    remaining = sandbox.remaining(credential)
    response: HttpResponse
    if remaining is None:
        status, body, _ = ERRORS[Scenario.RATE_LIMITED]
        response, email = error(status, body), ""
    else:
        response, email = respond_to_body(request)
    response["X-HubSpot-RateLimit-Max"] = str(RATE_LIMIT)
    response["X-HubSpot-RateLimit-Remaining"] = str(remaining or 0)
    response["X-HubSpot-RateLimit-Interval-Milliseconds"] = str(int(RATE_WINDOW * 1000))
    return response, email


def respond_to_body(request: HttpRequest) -> tuple[HttpResponse, str]:
    """Return a token for the visitor in the body of an authorised call, or an error if the body is not valid."""
    if request.content_type != "application/json":
        return error(415, {"message": "The body must be application/json."}), ""
    try:
        body = json.loads(request.body)
    except ValueError:
        return invalid("The body is not JSON.", []), ""
    if not isinstance(body, dict):
        return invalid("The body is not a JSON object.", []), ""
    errors = []
    email = body.get("email") or ""
    try:
        validate_email(email)
    except (ValidationError, TypeError):
        code = "INVALID_EMAIL" if email else "REQUIRED_FIELD"
        errors.append({"message": "a valid e-mail address is required", "code": code, "in": "email"})
    for name in ("firstName", "lastName"):
        if not isinstance(body.get(name, ""), str):
            errors.append({"message": "must be text", "code": "INVALID_TYPE", "in": name})
    context = body.get("hsCustomerAgentContext", {})
    if not isinstance(context, dict) or not all(isinstance(value, str) for value in context.values()):
        errors.append({"message": "must map text to text", "code": "INVALID_TYPE", "in": "hsCustomerAgentContext"})
    if errors:
        return invalid("Invalid input.", errors), str(email)
    token = sandbox.issue(email, body.get("firstName", ""), body.get("lastName", ""))
    return JsonResponse({"token": token}), email


def read_credential(request: HttpRequest) -> str:
    """Return the credential of either scheme. Any non-empty text is accepted."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else request.GET.get("hapikey", "").strip()


def invalid(message: str, errors: list[dict[str, str]]) -> JsonResponse:
    """Return the response to a body that is not valid."""
    return error(400, {"category": "VALIDATION_ERROR", "message": message, "errors": errors})


def error(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> JsonResponse:
    """Return an error in HubSpot's format, which has a correlation ID."""
    content = {"status": "error", "correlationId": str(uuid.uuid4()), **body}
    return JsonResponse(content, status=status, headers=headers or {})


def close_connection(request: HttpRequest) -> HttpResponse:
    """Close the connection without sending a response. The returned response cannot be sent any more.

    WSGI has no function for this. The input of Django's development server contains the connection's buffered reader.
    If another server's does not, the view raises.
    """
    stream = request.META.get("wsgi.input")
    while stream is not None and not isinstance(stream, io.BufferedReader):
        stream = getattr(getattr(stream, "_read", None), "__self__", None)
    if stream is None:
        raise ConnectionAbortedError("The sandbox closed the connection.")
    with socket.socket(fileno=os.dup(stream.fileno())) as connection:
        connection.shutdown(socket.SHUT_RDWR)
    return HttpResponse(status=204)
