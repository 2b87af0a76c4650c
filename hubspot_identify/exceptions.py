"""The exceptions of the app, one for each way in which a caller may want to react.

The texts of these exceptions contain only the status, HubSpot's category and correlation ID, and the app's own words.
HubSpot's message often quotes the request, so it is a separate attribute, :attr:`APIError.hubspot_message`. It is not
named ``message``, because error reporters use an attribute of that name as the text of an exception.

HubSpot's errors: https://developers.hubspot.com/docs/api-reference/error-handling
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.core.exceptions import ImproperlyConfigured


class ConfigurationError(ImproperlyConfigured):
    """A setting in ``HUBSPOT_IDENTIFY`` is missing or invalid. The text is the problem, followed by the hint.

    Attributes:
        setting: the key, such as ``"API_KEY"``; ``""`` if the error is about no single key.
        problem: a sentence that names the setting and says what is wrong. It does not quote the value.
        hint: a sentence that says what to write instead, or ``""``.
    """

    def __init__(self, setting: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{problem} {hint}".rstrip())
        self.setting = setting
        self.problem = problem
        self.hint = hint


class UnknownAccountError(ConfigurationError):
    """``ACCOUNTS`` has no account of this name."""


class InvalidVisitorError(ValueError):
    """A visitor cannot be identified, because the e-mail address, a name or the context is invalid. Quotes no value."""


class HubSpotIdentifyError(Exception):
    """HubSpot did not create an identification token. Base class of the exceptions below."""


class CredentialError(HubSpotIdentifyError):
    """The callable in ``API_KEY`` failed, or did not return a valid key.

    Its own exception is not chained, because it may contain the key. The text has its type, module and line.
    """


class TransportError(HubSpotIdentifyError):
    """There is no valid response: name resolution, connection or TLS failed, or ``TIMEOUT`` expired.

    Connections that are reset and interim responses are included.

    Attributes:
        request_sent: whether the request may have been sent. If not, the visitor's data cannot be the cause.
    """

    def __init__(self, text: str, *, request_sent: bool = True) -> None:
        super().__init__(text)
        self.request_sent = request_sent


class UnexpectedResponseError(HubSpotIdentifyError):
    """The response is not ``{"token": "<token>"}``, but a redirect, HTML, too long, or contains an invalid token.

    A response 401 or 403 that is not in HubSpot's format is unexpected as well. It comes from a proxy or a firewall.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, text: str, *, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class APIError(HubSpotIdentifyError):
    """HubSpot refused the request. All attributes except ``status`` are optional in HubSpot's response.

    In all attributes, the key and the visitor's e-mail address, names and context values are replaced by ``***``,
    regardless of case and encoding. Values of one or two characters are replaced only if they are whole words.

    Attributes:
        status: the HTTP status.
        category: HubSpot's category, such as ``VALIDATION_ERROR``; for 429 ``RATE_LIMIT``.
        hubspot_message: HubSpot's message.
        correlation_id: the ID that HubSpot's support needs to find the request.
        context: lists of strings by name, such as ``{"missingScopes": […]}``.
        links: URLs by name.
        retry_after: the seconds after which HubSpot accepts the next request, if the response contains them.
        policy: the name of the rate limit that was exceeded, such as ``DAILY``.
        key_rejected: whether HubSpot rejects the site's key, because it is invalid or expired, lacks the scope, or
            belongs to another data centre. No visitor can be identified until this is fixed.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int = 0,
        category: str = "",
        hubspot_message: str = "",
        correlation_id: str = "",
        context: Mapping[str, Sequence[str]] | None = None,
        links: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        policy: str = "",
        key_rejected: bool = False,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.category = category
        self.hubspot_message = hubspot_message
        self.correlation_id = correlation_id
        self.context = context or {}
        self.links = links or {}
        self.retry_after = retry_after
        self.policy = policy
        self.key_rejected = key_rejected


class InvalidRequestError(APIError):
    """HubSpot does not accept the visitor's data or the URL: 400, 422 and other 4xx."""


class AuthenticationError(APIError):
    """The key is invalid, expired or deactivated: 401."""


class PermissionDeniedError(APIError):
    """The key lacks the scope, or the HubSpot account lacks the subscription: 403."""


class RateLimitError(APIError):
    """The rate limit is exceeded: 429."""


class UnavailableError(APIError):
    """HubSpot is locked, migrating or failing: 423, 477, 5xx."""
