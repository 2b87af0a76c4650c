"""Log lines that are said once and not a thousand times."""

from __future__ import annotations

import logging
import time

from .exceptions import ConfigurationError, UnknownAccountError

MINUTE = 60.0

_said: dict[tuple[str, ...], float] = {}


def log_seldom(
    logger: logging.Logger,
    level: int,
    message: str,
    *args: object,
    reason: str,
    every: float = MINUTE,
    exc_info: BaseException | None = None,
) -> None:
    """Log a line, unless this process said it for the same reason less than ``every`` seconds ago."""
    now = time.monotonic()
    key = (logger.name, message, reason)
    if now - _said.get(key, -every) >= every:
        _said[key] = now
        logger.log(level, message, *args, exc_info=exc_info)


def log_misconfiguration(logger: logging.Logger, message: str, error: ConfigurationError) -> None:
    """Log once in a process what is wrong with the settings.

    Accounts that aren't there are one reason, however they are called: ``CHOOSE_ACCOUNT`` may go by what the client
    sent, and no client may fill log and memory with names.
    """
    reason = "account" if isinstance(error, UnknownAccountError) else str(error)
    log_seldom(logger, logging.ERROR, message, error, reason=reason, every=float("inf"))


def log_exception(logger: logging.Logger, message: str, error: Exception) -> None:
    """Log an unexpected exception with its traceback, once a minute for each type of exception.

    The text of the exception is no part of the reason: it may depend on what the client sent.
    """
    log_seldom(logger, logging.ERROR, message, reason=type(error).__name__, exc_info=error)


def forget_said() -> None:
    """Forget which lines were logged; for tests."""
    _said.clear()
