"""The meaning of HubSpot's responses: a token, or an exception with HubSpot's details and without secrets.

https://developers.hubspot.com/docs/api-reference/error-handling
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from typing import Any
from urllib.parse import quote, quote_plus

from .. import exceptions
from ..visitors import TOKEN, Visitor

MAX_BODY = 64 * 1024  # bytes, after decompression
MAX_TEXT = 500  # characters kept of a text of HubSpot's
MAX_TEXTS = 20  # kept of HubSpot's links, of its context, and of each list in the context
#: Replacing takes time for each secret, so HubSpot's texts are dropped for a visitor with more of them.
MAX_SECRETS = 200


class Redactor:
    """Removes secrets from HubSpot's texts, which may quote the request.

    Args:
        secrets: the texts to remove, in any case and encoding: the key, and what :func:`personal_data` returns.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest come first, because one may be a part of another.
        longest_first = sorted({*secrets} - {""}, key=len, reverse=True)
        self._in_texts = _pattern_of(longest_first, whole_words_below=3)
        # Identifiers are not prose: "Ali" is a name, and three letters of ``VALIDATION_ERROR``.
        self._in_identifiers = _pattern_of(longest_first, whole_words_below=8)

    def text(self, value: object) -> str:
        """Return a text of HubSpot's as one short, printable line, or an empty string if it is no text."""
        if not isinstance(value, str):
            return ""
        text = "".join(char if char.isprintable() else " " for char in _replace(self._in_texts, value))
        return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"

    def identifier(self, value: object) -> str:
        """Return a word of HubSpot's that may appear in a log line, or an empty string."""
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", value):
            return ""
        return value if value == _replace(self._in_identifiers, value) else ""


def _pattern_of(secrets: list[str], whole_words_below: int) -> re.Pattern[str]:
    """Return a pattern for the secrets. Those with fewer characters than the number given must be whole words."""
    if len(secrets) > MAX_SECRETS:
        return re.compile(r"(?s).+")
    patterns = [r"(?!)"]  # matches nothing
    for secret in secrets:
        for spelling in {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}:
            pattern = re.escape(spelling)
            patterns.append(rf"(?<![^\W_]){pattern}(?![^\W_])" if len(secret) < whole_words_below else pattern)
    return re.compile("|".join(patterns), re.IGNORECASE)


def _replace(pattern: re.Pattern[str], text: str) -> str:
    """Replace the secrets, and each word that looks like an e-mail address, which may be that of any person."""
    words = re.split(r"(\s+)", pattern.sub("***", text))
    return "".join("***" if re.search(r"@|%(?:25)*40", word) else word for word in words)


def personal_data(visitor: Visitor) -> list[str]:
    """Return the texts of a request that say who the visitor is. Names also word by word: HubSpot may quote a part."""
    names = (visitor.first_name, visitor.last_name)
    words = [word for name in names for word in re.findall(r"[^\W_]{2,}", name)]
    return [visitor.email, *names, *words, *(value for _, value in visitor.context)]


@dataclass(frozen=True, repr=False)
class Response:
    """A response to a token request.

    Args:
        status: the HTTP status.
        headers: by names in any case.
        body: decompressed; empty if it could not be read.
        secrets: the texts of the request that HubSpot may quote, and that no exception must contain.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    secrets: Iterable[str] = ()

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """The JSON object in the body. Empty if there is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            value = None
        return value if isinstance(value, dict) else {}

    @cached_property
    def redactor(self) -> Redactor:
        """Removes the secrets from texts of the response."""
        return Redactor(self.secrets)

    @property
    def correlation_id(self) -> str:
        """The ID that HubSpot's support needs, or an empty string."""
        header = self.headers.get("X-HubSpot-Correlation-Id")
        return self.redactor.identifier(self.fields.get("correlationId") or header)

    @property
    def retry_after(self) -> float | None:
        """The seconds to wait, if HubSpot says so."""
        return parse_retry_after(self.headers.get("Retry-After", ""), now=time.time())


def read_token(response: Response) -> str:
    """Return the token in a response, or raise the exception that the response means."""
    status, token = response.status, response.fields.get("token")
    if 200 <= status < 300 and isinstance(token, str) and TOKEN.fullmatch(token):
        return token
    if 400 <= status < 600:
        raise error_from_response(response)
    if status < 200:
        # http.client skips only 100. The final response would follow on this connection, which is closed.
        raise exceptions.TransportError(f"HubSpot sent an interim response ({status}) in place of a final one.")
    expected = f"a status of 2xx with a valid token in a complete JSON object of at most {MAX_BODY} bytes"
    raise exceptions.UnexpectedResponseError(f"HubSpot answered {status}; expected {expected}.", status=status)


#: What statuses mean. Others up to 499 mean that HubSpot refused the request, and those from 500 on a server error.
_MEANINGS: Mapping[int, str] = {
    **dict.fromkeys((400, 422), "it does not accept the visitor's data"),
    401: "the key in HUBSPOT_IDENTIFY['API_KEY'] is wrong, expired or deactivated",
    403: "the key lacks the scope conversations.visitor_identification.tokens.create, "
    "or the account is below Professional",
    **dict.fromkeys((404, 405, 410, 415), "it does not serve such requests: check BASE_URL and TOKEN_PATH"),
    423: "the account is temporarily locked",
    429: "too many calls",
    477: "the account is being moved between data centres",
    488: "the account is in another data centre: set BASE_URL to that data centre's host, or create a new key",
}

#: The exceptions for statuses. Others up to 499 are an ``InvalidRequestError``.
_ERRORS: Mapping[int, type[exceptions.APIError]] = {
    401: exceptions.AuthenticationError,
    403: exceptions.PermissionDeniedError,
    429: exceptions.RateLimitError,
    **dict.fromkeys((423, 477, *range(500, 600)), exceptions.UnavailableError),
}

#: The categories with which HubSpot says that it rejects the site's key, for all visitors.
_KEY_REJECTED: Mapping[int, frozenset[str]] = {
    401: frozenset({"INVALID_AUTHENTICATION", "EXPIRED_AUTHENTICATION"}),
    403: frozenset({"MISSING_SCOPES"}),
}


def error_from_response(response: Response) -> exceptions.APIError | exceptions.UnexpectedResponseError:
    """Return the exception for a response with a status of 400 or above. Every field of the body is optional.

    A 401 or 403 without a category or correlation ID of HubSpot's comes from a proxy or firewall on the way. It may
    concern a single visitor, such as one with ``<script>`` in the name, and says nothing about the key.
    """
    status, fields, redactor = response.status, response.fields, response.redactor
    category = redactor.identifier(fields.get("category")) or redactor.identifier(fields.get("errorType"))
    correlation_id = response.correlation_id
    if status in _KEY_REJECTED and not (category or correlation_id):
        text = f"A proxy or firewall between the site and HubSpot answered {status}: the response is not HubSpot's."
        return exceptions.UnexpectedResponseError(text, status=status)
    details = {"category": category, "correlation id": correlation_id}
    listed = ", ".join(f"{name} {value}" for name, value in details.items() if value)
    return _ERRORS.get(status, exceptions.InvalidRequestError)(
        f"HubSpot answered {status}: {_meaning(response)}" + (f" ({listed})" if listed else ""),
        status=status,
        category=category,
        hubspot_message=redactor.text(fields.get("message")),
        correlation_id=correlation_id,
        context={
            redactor.text(name): [redactor.text(text) for text in texts[:MAX_TEXTS] if isinstance(text, str)]
            for name, texts in _first_items(fields.get("context"))
            if isinstance(texts, list)
        },
        links={
            redactor.text(name): redactor.text(link)
            for name, link in _first_items(fields.get("links"))
            if isinstance(link, str) and link.startswith("https://")
        },
        retry_after=response.retry_after,
        policy=redactor.identifier(fields.get("policyName")),
        key_rejected=category in _KEY_REJECTED.get(status, ()) or bool(_data_centre(response)),
    )


def _meaning(response: Response) -> str:
    """Return what a response means, and which settings to change."""
    status, data_centre = response.status, _data_centre(response)
    if data_centre:
        host = "api.hubapi.com" if data_centre == "na1" else f"api-{data_centre}.hubapi.com"
        return f'the account is in the data centre {data_centre}: set BASE_URL to "https://{host}", or create a new key'
    if status in (400, 422) and b"hsCustomerAgentContext" in response.body:
        advice = "let VISITOR return a Visitor with context, or use another TOKEN_PATH"
        return f"this TOKEN_PATH requires a valid hsCustomerAgentContext: {advice}"
    return _MEANINGS.get(status, "server error" if status >= 500 else "it refused the request")


def _data_centre(response: Response) -> str:
    """Return the data centre that HubSpot names in a 488, such as ``eu1``, or an empty string."""
    name = response.fields.get("correctHublet") if response.status == 488 else None
    return name if isinstance(name, str) and re.fullmatch(r"[a-z]{2}[0-9]", name) else ""


def parse_retry_after(value: str, *, now: float) -> float | None:
    """Return the seconds in a ``Retry-After`` header, which may contain seconds or a date (RFC 9110, 10.2.3).

    They are never negative. A header with something else is ignored.

    Args:
        value: the header, or an empty string.
        now: seconds since the epoch.
    """
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value).replace(tzinfo=UTC)  # the only time zone of HTTP
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, moment.timestamp() - now)


def _first_items(value: object) -> list[tuple[str, Any]]:
    return list(value.items())[:MAX_TEXTS] if isinstance(value, dict) else []
