"""The checks of ``manage.py hubspot_doctor``. Each produces :class:`~.findings.Finding` objects.

The doctor calls HubSpot once, and bypasses the app's cache entries, circuit breaker and rate limit.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._tokens.account import get_account
from ..exceptions import ConfigurationError, UnknownAccountError
from ..visitors import Visitor
from .endpoint import check_endpoint
from .findings import ERROR, NOTE, Finding
from .network import ShowProgress, check_loader, check_token
from .site import (
    check_api_version,
    check_breaker,
    check_cache,
    check_csp,
    check_delivery,
    check_region,
    check_users,
)

#: The address of the token's visitor by default. HubSpot creates a contact only when a chat begins, so none for it.
DEFAULT_EMAIL = "hubspot-doctor@example.com"


def examine(name: str, visitor: Visitor, show_progress: ShowProgress, host: str = "") -> Iterator[Finding]:
    """Check one account, and request one token from HubSpot.

    Args:
        name: a name from ``ACCOUNTS``, or ``""``.
        visitor: the visitor to request a token for.
        show_progress: called repeatedly while the doctor waits.
        host: the host at which to request the endpoint; ``""`` for the first of ``ALLOWED_HOSTS``.
    """
    try:
        account = get_account(name)
    except ConfigurationError as error:
        yield Finding("account" if isinstance(error, UnknownAccountError) else "settings", ERROR, str(error))
        return
    config = account.config
    if config.enabled is False:
        yield Finding("settings", NOTE, "ENABLED is False, so there is no chat. No further checks were made.")
        return
    yield check_api_version(config)
    yield from check_region(config)
    yield check_delivery(config)
    yield from check_endpoint(config, host)
    yield check_cache(config.cache)
    yield from check_breaker(account)
    yield from check_csp(config)
    yield from check_loader(config, show_progress)
    if visitor.email != DEFAULT_EMAIL:
        yield from check_users(visitor, config)
    yield from check_token(visitor, config, show_progress)
