"""What HubSpot's answers mean: a token, or an error with all that HubSpot says of it and none of the secrets.

https://developers.hubspot.com/docs/api-reference/error-handling
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from ..conf import TOKEN
from ..exceptions import (
    APIError,
    AuthenticationError,
    InvalidRequestError,
    PermissionDeniedError,
    RateLimitError,
    TransportError,
    UnavailableError,
    UnexpectedResponseError,
)

if TYPE_CHECKING:
    from ..visitors import Visitor

MAX_BODY = 64 * 1024  # bytes, after decompression
MAX_TEXT = 500  # characters kept of a text of HubSpot's
#: Shorter secrets, such as a name of two letters, are replaced only where they are whole words.
REPLACED_ANYWHERE = 3  # characters
#: The same for identifiers, which are no prose: "Ali" is a name, and three letters of ``VALIDATION_ERROR``.
REPLACED_ANYWHERE_IN_IDENTIFIERS = 8
#: Replacing takes time for each secret and text, so HubSpot's texts are dropped for a visitor with more of them.
MAX_SECRETS = 200
MAX_TEXTS = 20  # kept of HubSpot's context, and of its links


class Answer:
    """Status, headers and body of an answer; ``complete`` is false where the body broke off."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, complete: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.complete = complete


def read_token(answer: Answer, *, secrets: Sequence[str]) -> str:
    """The token in an answer, or the error that the answer means."""
    if 200 <= answer.status < 300:
        problem = _body_error(answer)
        if problem:
            raise UnexpectedResponseError(f"HubSpot answered {answer.status} {problem}.", status=answer.status)
        token = _json_object(answer.body).get("token")
        if not isinstance(token, str):
            raise UnexpectedResponseError(f"HubSpot answered {answer.status} without a token.", status=answer.status)
        if not TOKEN.fullmatch(token):
            raise UnexpectedResponseError(
                f"HubSpot answered {answer.status} with a token that can't stand in an address.",
                status=answer.status,
            )
        return token
    if answer.status < 200:
        # http.client skips only 100. The final response would follow on this connection, which is closed.
        raise TransportError(f"HubSpot sent an interim response ({answer.status}) in place of a final one.")
    if 400 <= answer.status < 600:
        raise error_from_response(answer.status, answer.headers, answer.body, secrets=secrets)
    kind = "a redirect, which is not followed" if 300 <= answer.status < 400 else "a status without meaning here"
    raise UnexpectedResponseError(f"HubSpot answered {answer.status}, {kind}.", status=answer.status)


def _body_error(answer: Answer) -> str | None:
    if len(answer.body) > MAX_BODY:
        return f"with more than {MAX_BODY} bytes"
    if not answer.complete:
        return "with a body that broke off or can't be unpacked"
    if not answer.body:
        return "with an empty body"
    return None


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


_MEANINGS: Mapping[int, str] = {
    400: "it does not accept the visitor's data",
    401: "the key in HUBSPOT_IDENTIFY['API_KEY'] is wrong, expired or was deactivated",
    403: "the key lacks the scope conversations.visitor_identification.tokens.create, "
    "or the account is below Professional",
    404: "there is no such path: look at BASE_URL and TOKEN_PATH",
    405: "this path takes no POST: look at BASE_URL and TOKEN_PATH",
    410: "this version of the API is no more: look at TOKEN_PATH",
    415: "it does not accept JSON here: look at BASE_URL and TOKEN_PATH",
    422: "it does not accept the visitor's data",
    423: "the account is locked for a moment",
    429: "too many calls",
    477: "the account is being moved between data centres",
    488: "the account is in another data centre: create a new key, or set BASE_URL to that data centre's host",
}

#: The categories with which HubSpot says that it rejects the site's key, whoever the visitor is.
_KEY_REJECTED: Mapping[int, frozenset[str]] = {
    401: frozenset({"INVALID_AUTHENTICATION", "EXPIRED_AUTHENTICATION"}),
    403: frozenset({"MISSING_SCOPES"}),
}


def error_from_response(
    status: int, headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str] = ()
) -> APIError | UnexpectedResponseError:
    """Return the error for a response with a status of 400 or above. Every field of the body is optional.

    A 401 or 403 without a category or correlation id of HubSpot's comes from a proxy or firewall on the way. It may
    concern one visitor alone, such as one with ``<script>`` in the name, and says nothing about the key.

    Args:
        status: the HTTP status.
        headers: with ``Retry-After`` and ``X-HubSpot-RateLimit-Interval-Milliseconds``, where HubSpot sent them.
        body: JSON with ``category``, ``correlationId``, ``message``, …; or anything else.
        secrets: texts to replace in what HubSpot says, which may quote the request: the key, and what
            :func:`personal_data` returns.
    """
    fields = _json_object(body)
    category = identifier(fields.get("category"), secrets) or identifier(fields.get("errorType"), secrets)
    correlation_id = identifier(fields.get("correlationId") or headers.get("X-HubSpot-Correlation-Id"), secrets)
    if status in _KEY_REJECTED and not (category or correlation_id):
        return UnexpectedResponseError(
            f"A proxy or firewall between the site and HubSpot answered {status}: the response is not HubSpot's.",
            status=status,
        )
    text = f"HubSpot answered {status}: {_MEANINGS.get(status, 'it is in trouble' if status >= 500 else 'it refused')}"
    details = [f"category {category}"] * bool(category) + [f"correlation id {correlation_id}"] * bool(correlation_id)
    retry_after = parse_retry_after(headers.get("Retry-After"), now=time.time())
    if retry_after is None and status == 429:
        retry_after = _milliseconds(headers.get("X-HubSpot-RateLimit-Interval-Milliseconds"))
    return _error_class(status)(
        f"{text} ({', '.join(details)})" if details else text,
        status=status,
        category=category,
        hubspot_message=_sanitize(fields.get("message"), secrets),
        correlation_id=correlation_id,
        context=_context(fields.get("context"), secrets),
        links=_links(fields.get("links"), secrets),
        retry_after=retry_after,
        policy=identifier(fields.get("policyName"), secrets),
        key_rejected=category in _KEY_REJECTED.get(status, ()) or (status == 488 and "correctHublet" in fields),
    )


def _error_class(status: int) -> type[APIError]:
    special = {401: AuthenticationError, 403: PermissionDeniedError, 429: RateLimitError}
    if status in special:
        return special[status]
    return UnavailableError if status in (423, 477) or status >= 500 else InvalidRequestError


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds from a ``Retry-After`` header, which may hold seconds or a date (RFC 9110, 10.2.3); never negative.

    Args:
        value: the header, or ``None``.
        now: seconds since the epoch.
    """
    value = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value).replace(tzinfo=UTC)  # the only zone of HTTP
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, moment.timestamp() - now)


def _milliseconds(value: str | None) -> float | None:
    return int(value) / 1000 if value and re.fullmatch(r"[0-9]{1,9}", value) else None


def personal_data(visitor: Visitor) -> list[str]:
    """Return the texts of a request that say who the visitor is. Names also word by word: HubSpot may quote a part."""
    names = (visitor.first_name, visitor.last_name)
    words = [word for name in names for word in re.findall(r"[^\W_]{2,}", name)]
    return [visitor.email, *names, *words, *(value for _, value in visitor.context)]


def identifier(value: object, secrets: Sequence[str]) -> str:
    """Return a word of HubSpot's that may appear in a log line, or an empty string."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", value):
        return ""
    return value if value == _redacted(value, secrets, REPLACED_ANYWHERE_IN_IDENTIFIERS) else ""


def _sanitize(value: object, secrets: Sequence[str]) -> str:
    """A text of HubSpot's in one printable line, cut, and with the secrets replaced."""
    if not isinstance(value, str):
        return ""
    value = _redacted(value, secrets, REPLACED_ANYWHERE)
    value = "".join(char if char.isprintable() else " " for char in value)
    return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}…"


def _redacted(text: str, secrets: Sequence[str], anywhere: int) -> str:
    """Replace the secrets, in any case and encoding, and everything that looks like an e-mail address.

    Args:
        text: what HubSpot says.
        secrets: what to replace. The longest come first, because one may be a part of another.
        anywhere: characters from which a secret is replaced inside of words, too.
    """
    distinct = sorted({*secrets} - {""}, key=len, reverse=True)
    if len(distinct) > MAX_SECRETS:
        return "***"
    patterns = []
    for secret in distinct:
        for spelling in {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}:
            pattern = re.escape(spelling)
            patterns.append(pattern if len(secret) >= anywhere else rf"(?<![^\W_]){pattern}(?![^\W_])")
    if patterns:
        text = re.sub("|".join(patterns), "***", text, flags=re.IGNORECASE)
    return re.sub(r"\S+", lambda word: "***" if _AT_SIGN.search(word[0]) else word[0], text)


_AT_SIGN = re.compile(r"@|%(?:25)*40")


def _context(value: object, secrets: Sequence[str]) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        return {}
    pairs = [
        (name, text)
        for name, texts in value.items()
        if isinstance(texts, list)
        for text in texts
        if isinstance(text, str)
    ]
    context: dict[str, list[str]] = {}
    for name, text in pairs[:MAX_TEXTS]:
        context.setdefault(_sanitize(name, secrets), []).append(_sanitize(text, secrets))
    return context


def _links(value: object, secrets: Sequence[str]) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    links = [(name, link) for name, link in value.items() if isinstance(link, str) and link.startswith("https://")]
    return {_sanitize(name, secrets): _sanitize(link, secrets) for name, link in links[:MAX_TEXTS]}
