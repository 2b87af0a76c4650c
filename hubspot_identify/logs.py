"""Log lines that are not repeated more often than necessary."""

from __future__ import annotations

import logging
import time
import traceback

from django.conf import settings

from .exceptions import ConfigurationError, UnknownAccountError

MINUTE = 60.0

_last_logged: dict[tuple[str, ...], float] = {}


def log_throttled(
    logger: logging.Logger,
    level: int,
    message: str,
    *args: object,
    reason: str = "",
    every: float = MINUTE,
) -> None:
    """Log a line, unless this process logged it for the same reason less than ``every`` seconds ago."""
    now = time.monotonic()
    key = (logger.name, message, reason)
    if now - _last_logged.get(key, -every) >= every:
        _last_logged[key] = now
        logger.log(level, message, *args)


def location_of(error: BaseException) -> str:
    """Return where an exception was raised, without its text and without variables, which may contain anything."""
    return "".join(traceback.format_tb(error.__traceback__))


def raise_or_log(logger: logging.Logger, error: Exception, misconfigured: str, unexpected: str) -> None:
    """Raise an exception under ``DEBUG``. Otherwise log it: wrong settings once in a process, others once a minute.

    Others are logged with their location and without their text, which may contain personal data. All unknown accounts
    count as one reason, and all unexpected exceptions of one type. Names may depend on what the client sent, and no
    client may fill log and memory with them.

    Args:
        logger: of the module that caught the exception.
        error: the exception.
        misconfigured: the message for wrong settings, with ``%s`` for their error.
        unexpected: the message for everything else.
    """
    if settings.DEBUG:
        raise error
    if isinstance(error, ConfigurationError):
        reason = "account" if isinstance(error, UnknownAccountError) else str(error)
        log_throttled(logger, logging.ERROR, misconfigured, error, reason=reason, every=float("inf"))
    else:
        name = type(error).__name__
        log_throttled(logger, logging.ERROR, f"{unexpected} %s\n%s", name, location_of(error), reason=name)


def reset_log_throttle() -> None:
    """Forget which lines have been logged; for tests."""
    _last_logged.clear()
