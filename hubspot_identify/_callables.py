"""Calls the site's callables in the settings, except ``API_KEY``. In production, their failures break no page."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from django.conf import settings

from .conf import setting_error
from .exceptions import ConfigurationError
from .logs import location_of, log_throttled

logger = logging.getLogger(__name__)


class CallableError(Exception):
    """A callable of the site failed, and this has been logged. Not raised under ``DEBUG``.

    Attributes:
        prevents_chat: whether the request must not have a chat. Otherwise, its visitor is anonymous.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"HUBSPOT_IDENTIFY[{key!r}] failed. The log contains the location.")
        self.prevents_chat = key in ("ENABLED", "CHOOSE_ACCOUNT")


def call_setting(
    key: str,
    function: Callable[..., object],
    *arguments: object,
    returns: type | tuple[type, ...] = bool,
) -> Any:
    """Call a callable of the site, and return its result.

    Under ``DEBUG``, its exceptions are raised. Otherwise, they are logged at most once a minute for each setting,
    without their text, which may contain personal data. A result of the wrong type is handled in the same way.

    Args:
        key: the setting.
        function: its callable.
        arguments: of the callable.
        returns: the type of the result, as in :func:`checked`.

    Raises:
        CallableError: the callable failed.
    """
    try:
        return checked(key, function(*arguments), returns)
    except Exception as error:
        if settings.DEBUG:
            raise
        is_own = isinstance(error, ConfigurationError)
        cause = str(error) if is_own else f"{type(error).__name__}\n{location_of(error)}"
    failure = CallableError(key)
    consequence = "has no chat" if failure.prevents_chat else "is not identified"
    message = "HUBSPOT_IDENTIFY[%r] failed, so the visitor %s: %s"
    log_throttled(logger, logging.ERROR, message, key, consequence, cause, reason=key)
    # Raised outside of the handler, because the caught error may contain personal data.
    raise failure


def checked(key: str, result: object, returns: type | tuple[type, ...] = bool) -> Any:
    """Return the result of a setting's callable, or raise an error if it has another type.

    ``bool`` accepts every object except an awaitable, which would count as true.
    """
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # prevents Python's warning about a coroutine that is never awaited
        raise setting_error(key, "must not return an awaitable")
    if returns is bool:
        return bool(result)
    if not isinstance(result, returns):
        raise setting_error(key, f"must not return {type(result).__name__}")
    return result
