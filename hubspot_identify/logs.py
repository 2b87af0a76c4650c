"""Log lines that are said once and not a thousand times."""

from __future__ import annotations

import logging
import time

from .exceptions import ConfigurationError, UnknownAccountError

MINUTE = 60.0

_said: dict[tuple[str, ...], float] = {}


def log_seldom(
    logger: logging.Logger, level: int, message: str, *args: object, reason: str, every: float = MINUTE
) -> None:
    """Log a line, unless this process said it for the same reason less than ``every`` seconds ago."""
    now = time.monotonic()
    key = (logger.name, message, reason)
    if now - _said.get(key, -every) >= every:
        _said[key] = now
        logger.log(level, message, *args)


def log_misconfiguration(logger: logging.Logger, message: str, error: ConfigurationError) -> None:
    """Log once in a process what is wrong with the settings.

    Accounts that aren't there are one reason, however they are called: ``CHOOSE_ACCOUNT`` may go by what the client
    sent, and no client may fill log and memory with names.
    """
    reason = "account" if isinstance(error, UnknownAccountError) else str(error)
    log_seldom(logger, logging.ERROR, message, error, reason=reason, every=float("inf"))


def forget_said() -> None:
    """Forget which lines were logged; for tests."""
    _said.clear()
