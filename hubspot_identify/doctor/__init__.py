"""What ``manage.py hubspot_doctor`` finds out, one :class:`~.findings.Finding` after the other.

Nothing here goes through the app's cache entries, breaker or rate window: the doctor asks HubSpot itself, once.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.translation import gettext as _

from ..conf import get_config
from ..exceptions import ConfigurationError, UnknownAccountError
from ..visitors import Visitor
from .endpoint import check_endpoint
from .findings import ERROR, NOTE, Finding
from .network import Progress, ask_hubspot, check_loader
from .site import (
    check_breaker,
    check_cache,
    check_csp,
    check_delivery,
    check_path,
    check_region,
    check_users,
)

#: For whom the token is made if nobody is named. HubSpot makes a contact only once a chat begins.
DEFAULT_EMAIL = "hubspot-doctor@example.com"


def examine(account: str, visitor: Visitor, progress: Progress, host: str = "") -> Iterator[Finding]:
    """Look at one account, and have HubSpot make one token.

    Args:
        account: a name from ``ACCOUNTS``, or ``""``.
        visitor: whom the token is for.
        progress: told while something is waited for.
        host: at which the endpoint is requested; ``""`` for the first of ``ALLOWED_HOSTS``.
    """
    try:
        config = get_config(account)
    except ConfigurationError as error:
        yield Finding("account" if isinstance(error, UnknownAccountError) else "settings", ERROR, str(error))
        return
    if config.enabled is False:
        yield Finding("settings", NOTE, _("ENABLED is False: there is no chat, and nothing to examine."))
        return
    yield check_path(config)
    yield from check_region(config)
    yield check_delivery(config)
    yield from check_endpoint(config, host)
    yield check_cache(config.cache)
    yield from check_breaker(config)
    yield from check_csp(config)
    yield from check_loader(config, progress)
    if visitor.email != DEFAULT_EMAIL:
        yield from check_users(visitor, config)
    yield from ask_hubspot(visitor, config, progress)
