"""Accounts with settings of their own, as further processes and sites have them."""

from __future__ import annotations

import time
from collections.abc import Callable

from hubspot_identify._tokens.account import Account
from hubspot_identify._tokens.store import Store
from hubspot_identify.conf import build_config

SETTINGS = {"API_KEY": "key", "PORTAL_ID": "123", "EMAIL_VERIFIED": True}


def new_account(now: Callable[[], float] = time.time, name: str = "", **changes: object) -> Account:
    """Create an account that shares only the default cache with others of the same settings.

    Args:
        now: the clock.
        name: a name from ``ACCOUNTS``.
        changes: keys of ``HUBSPOT_IDENTIFY`` in addition to :data:`SETTINGS`.
    """
    return Account(build_config({**SETTINGS, **changes}, name), Store("default"), now)
