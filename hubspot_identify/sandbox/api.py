"""The stand-in for HubSpot's token API: its paths, credentials, answers and troubles."""

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

from .state import RATE_LIMIT, RATE_WINDOW, Mood, sandbox

PATHS = (
    "conversations/v3/visitor-identification/tokens/create",
    "visitor-identification/v3/tokens/create",
    "visitor-identification/2026-03/tokens/create",
    "visitor-identification/2026-09/tokens/create",
)
SCOPE = "conversations.visitor_identification.tokens.create"

# Status, body and headers of the moods that answer with an error.
TROUBLES: dict[Mood, tuple[int, dict[str, Any], dict[str, str]]] = {
    Mood.UNAUTHORIZED: (
        401,
        {"category": "INVALID_AUTHENTICATION", "message": "The credential is wrong or has expired."},
        {},
    ),
    Mood.FORBIDDEN: (
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
    Mood.LOCKED: (423, {"category": "LOCKED", "message": "The account is locked; wait 2 s or more."}, {}),
    Mood.RATE_LIMITED: (
        429,
        {
            "errorType": "RATE_LIMIT",
            "policyName": "TEN_SECONDLY_ROLLING",
            "message": "The ten-second limit of this app is used up.",
        },
        {"Retry-After": "10"},
    ),
    Mood.MIGRATING: (
        477,
        {"category": "MIGRATION_IN_PROGRESS", "message": "The account is moving to another data centre."},
        {"Retry-After": "60"},
    ),
    Mood.BROKEN: (500, {"category": "INTERNAL_ERROR", "message": "Something went wrong at HubSpot."}, {}),
}


def create_token(request: HttpRequest) -> HttpResponse:
    """``POST {"email", "firstName", "lastName"}`` with a credential: ``{"token": "…"}`` or an error."""
    mood = sandbox.mood
    if mood is Mood.SLOW:
        sandbox.linger(mood, sandbox.slow_seconds)
    elif mood is Mood.HUNG:
        sandbox.linger(mood, sandbox.hung_seconds)
    if mood in (Mood.HUNG, Mood.REFUSED):
        sandbox.record(request.path, "", None)
        return hang_up(request)
    response, email = answer(request, mood)
    sandbox.record(request.path, email, response.status_code)
    return response


def answer(request: HttpRequest, mood: Mood) -> tuple[HttpResponse, str]:
    """The answer to one call, and the address it was about as far as one could be read."""
    if request.method != "POST":
        refused = error(405, {"message": "Only POST is supported here."})
        refused["Allow"] = "POST"
        return refused, ""
    if mood is Mood.GARBAGE:
        return HttpResponse("<html><body><h1>Bad gateway?</h1></body></html>"), ""
    if mood in TROUBLES:
        return error(*TROUBLES[mood]), ""
    credential = read_credential(request)
    if not credential:
        return error(*TROUBLES[Mood.UNAUTHORIZED]), ""
    remaining = sandbox.remaining(credential)
    response: HttpResponse
    if remaining is None:
        status, body, _ = TROUBLES[Mood.RATE_LIMITED]
        response, email = error(status, body), ""
    else:
        response, email = token_or_complaint(request)
    response["X-HubSpot-RateLimit-Max"] = str(RATE_LIMIT)
    response["X-HubSpot-RateLimit-Remaining"] = str(remaining or 0)
    response["X-HubSpot-RateLimit-Interval-Milliseconds"] = str(int(RATE_WINDOW * 1000))
    return response, email


def token_or_complaint(request: HttpRequest) -> tuple[HttpResponse, str]:
    """Judge the body of an authorised call."""
    if request.content_type != "application/json":
        return error(415, {"message": "The body must be application/json."}), ""
    try:
        body = json.loads(request.body)
    except ValueError:
        return invalid("The body is not JSON.", []), ""
    if not isinstance(body, dict):
        return invalid("The body is not a JSON object.", []), ""
    complaints = []
    email = body.get("email") or ""
    try:
        validate_email(email)
    except (ValidationError, TypeError):
        code = "INVALID_EMAIL" if email else "REQUIRED_FIELD"
        complaints.append({"message": "an e-mail address is required", "code": code, "in": "email"})
    for name in ("firstName", "lastName"):
        if not isinstance(body.get(name, ""), str):
            complaints.append({"message": "must be text", "code": "INVALID_TYPE", "in": name})
    context = body.get("hsCustomerAgentContext", {})
    if not isinstance(context, dict) or not all(isinstance(value, str) for value in context.values()):
        complaints.append({"message": "must map text to text", "code": "INVALID_TYPE", "in": "hsCustomerAgentContext"})
    if complaints:
        return invalid("Invalid input.", complaints), str(email)
    token = sandbox.issue(email, body.get("firstName", ""), body.get("lastName", ""))
    return JsonResponse({"token": token}), email


def read_credential(request: HttpRequest) -> str:
    """The credential of either scheme; any text will do, none will not."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else request.GET.get("hapikey", "").strip()


def invalid(message: str, complaints: list[dict[str, str]]) -> JsonResponse:
    return error(400, {"category": "VALIDATION_ERROR", "message": message, "errors": complaints})


def error(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> JsonResponse:
    """An error as HubSpot words it: every one has a correlation id."""
    whole = {"status": "error", "correlationId": str(uuid.uuid4()), **body}
    return JsonResponse(whole, status=status, headers=headers or {})


def hang_up(request: HttpRequest) -> HttpResponse:
    """End the connection without a byte of answer; the response returned meets a closed door.

    WSGI has no word for this. The development server's input wraps the connection's buffered reader; where
    another server's does not, all that is left is to fail.
    """
    stream = request.META.get("wsgi.input")
    while stream is not None and not isinstance(stream, io.BufferedReader):
        stream = getattr(getattr(stream, "_read", None), "__self__", None)
    if stream is None:
        raise ConnectionAbortedError("the stand-in HubSpot hung up")
    with socket.socket(fileno=os.dup(stream.fileno())) as connection:
        connection.shutdown(socket.SHUT_RDWR)
    return HttpResponse(status=204)
