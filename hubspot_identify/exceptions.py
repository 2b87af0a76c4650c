"""What can go wrong, named by what the caller would do about it.

The texts of these errors contain the status, HubSpot's category and correlation id, and the app's own words. HubSpot's
message is a separate attribute (:attr:`APIError.hubspot_message`), because it often quotes the request. It is not named
``message``: error reporters use an attribute of that name as the text of an exception.

Errors of HubSpot: https://developers.hubspot.com/docs/api-reference/error-handling
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.core.exceptions import ImproperlyConfigured


class ConfigurationError(ImproperlyConfigured):
    """A setting in ``HUBSPOT_IDENTIFY`` is missing or wrong. The text names it and says what to write.

    Attributes:
        problem: what is wrong, in one sentence.
        setting: the key, such as ``"API_KEY"``; ``""`` if no single key is wrong.
        hint: what to write instead, in one sentence.
    """

    def __init__(self, problem: str, *, setting: str = "", hint: str = "") -> None:
        super().__init__(f"{problem} {hint}".rstrip())
        self.problem = problem
        self.setting = setting
        self.hint = hint


class UnknownAccountError(ConfigurationError):
    """There is no account of that name in ``ACCOUNTS``."""


class InvalidVisitorError(ValueError):
    """A visitor that can't be identified: unusable e-mail address, names or context. The text quotes none of it."""


class HubSpotIdentifyError(Exception):
    """HubSpot gave no identification token."""


class CredentialError(HubSpotIdentifyError):
    """The callable in ``API_KEY`` failed or returned something that is no key. Its own exception is not chained."""


class TransportError(HubSpotIdentifyError):
    """No usable response: name resolution, connection, TLS, a reset, an interim status, or none within ``TIMEOUT``.

    Attributes:
        request_sent: whether the request may have been sent. If not, no visitor's data can be the reason.
    """

    def __init__(self, text: str, *, request_sent: bool = True) -> None:
        super().__init__(text)
        self.request_sent = request_sent


class UnexpectedResponseError(HubSpotIdentifyError):
    """A response that is not ``{"token": "<text>"}``: a redirect, HTML, an empty or too long body, an invalid token.

    A 401 or 403 that is not HubSpot's own is unexpected as well: it comes from a proxy or firewall on the way.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, text: str, *, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class APIError(HubSpotIdentifyError):
    """HubSpot refused. Every attribute but ``status`` is optional in HubSpot's response.

    In the texts of all attributes, the key and the visitor's e-mail address, names and context values are replaced by
    ``***``, in any case and however encoded. Those of one or two characters are replaced only as whole words.

    Attributes:
        status: the HTTP status.
        category: HubSpot's category, such as ``VALIDATION_ERROR``; for 429 ``RATE_LIMIT``.
        hubspot_message: HubSpot's message.
        correlation_id: what HubSpot's support asks for.
        context: lists of texts by name, such as ``{"missingScopes": […]}``.
        links: addresses by name.
        retry_after: seconds to wait, where HubSpot said so.
        policy: the name of the rate limit that was hit, such as ``DAILY``.
        key_rejected: whether HubSpot says that it rejects the site's key: invalid, expired, without the scope, or of
            another data centre. No visitor can be identified until that is fixed.
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
    """HubSpot does not accept the visitor's data, or the address of the request: 400, 422 and other 4xx."""


class AuthenticationError(APIError):
    """The credential is wrong, expired or was deactivated: 401."""


class PermissionDeniedError(APIError):
    """The credential lacks the scope, or the account the subscription: 403."""


class RateLimitError(APIError):
    """Too many calls: 429."""


class UnavailableError(APIError):
    """HubSpot is locked, moving or in trouble: 423, 477, 5xx."""
