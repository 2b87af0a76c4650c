"""The checks of ``manage.py hubspot_doctor``. Each produces :class:`~.findings.Finding` objects.

The doctor calls HubSpot once, and bypasses the app's cache entries, circuit breaker and rate limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings

from .._tokens.account import Account, get_account
from ..conf import AccountSettings, Config
from ..exceptions import ConfigurationError, UnknownAccountError
from ..visitors import Visitor
from .endpoint import allowed_host, check_endpoint, request_site
from .findings import ERROR, NOTE, OK, VERDICT, WARNING, Finding
from .network import ShowProgress, check_loader, check_token
from .policy import check_csp
from .site import (
    check_api_version,
    check_breaker,
    check_cache,
    check_delivery,
    check_rate_limit,
    check_region,
    check_script,
)
from .users import check_address, check_user, check_user_model

#: The address of the token's visitor by default. HubSpot creates a contact only when a chat begins, so none for it.
DEFAULT_EMAIL = "hubspot-doctor@example.com"
#: If there is an error with one of these topics, there is no chat.
NO_CHAT_TOPICS = frozenset({"csp", "delivery", "enabled", "loader", "static"})
#: If there is an error with one of these topics, no visitor is identified.
NO_IDENTITY_TOPICS = frozenset({"endpoint", "model", "token"})


def examine(
    name: str, visitor: Visitor, show_progress: ShowProgress, host: str = "", user: Any = None
) -> Iterator[Finding]:
    """Check one account, and request one token from HubSpot. The last finding says what visitors see.

    Args:
        name: a name from ``ACCOUNTS``, or ``""``.
        visitor: the visitor to request a token for.
        show_progress: called repeatedly while the doctor waits.
        host: the host at which to request the endpoint; ``""`` for the first of ``ALLOWED_HOSTS``.
        user: the user to check, whose visitor replaces the given one; ``None`` to check those with its address.
    """
    try:
        account = get_account(name)
    except ConfigurationError as error:
        is_unknown = isinstance(error, UnknownAccountError)
        yield Finding("account" if is_unknown else "settings", ERROR, str(error))
        if not is_unknown:
            yield Finding(VERDICT, ERROR, "Visitors see no chat.")
        return
    values = AccountSettings(getattr(settings, "HUBSPOT_IDENTIFY", None), name).values
    empty = [key for key in ("API_KEY", "PORTAL_ID") if values.get(key) == ""]
    if account.config.enabled is False:
        yield from _disabled(empty)
        return
    found = set()
    for finding in _examine_enabled(account, visitor, show_progress, host or allowed_host(), user, empty):
        found.add((finding.topic, finding.level))
        yield finding
    yield _verdict(account.config, found)


def _disabled(empty: list[str]) -> Iterator[Finding]:
    """Report that the chat is disabled. An empty setting suggests that an environment variable is missing."""
    text = "ENABLED is False, so there is no chat. No further checks were made."
    if empty:
        text += f" Empty settings: {', '.join(empty)}."
        hint = (
            "Set the environment variables that these settings are read from. To disable the chat on purpose, write "
            'HUBSPOT_IDENTIFY = {"ENABLED": False}.'
        )
        yield Finding("settings", ERROR, text, hint)
    else:
        yield Finding("settings", NOTE, text)
    yield Finding(VERDICT, ERROR if empty else NOTE, "Visitors see no chat, because ENABLED is False.")


def _examine_enabled(
    account: Account, visitor: Visitor, show_progress: ShowProgress, host: str, user: Any, empty: list[str]
) -> Iterator[Finding]:
    config = account.config
    yield check_api_version(config)
    yield from check_region(config)
    script_url, findings = check_script()
    yield from findings
    response = request_site(config, host)
    endpoint = list(check_endpoint(config, response))
    if all(finding.level == OK for finding in endpoint):
        yield check_delivery(config)
    yield from endpoint
    yield from check_csp(config, response, script_url)
    cache = check_cache(config.cache)
    yield cache
    if cache.level != ERROR:
        yield from check_breaker(account)
    yield from check_rate_limit(config)
    yield from check_loader(config, show_progress, is_portal_empty="PORTAL_ID" in empty)
    if user is None:
        yield from check_user_model(config)
        if visitor.email != DEFAULT_EMAIL:
            yield from check_address(visitor, config, host)
    else:
        finding, own = check_user(user, config, host)
        yield finding
        visitor = own or visitor
    yield from check_token(visitor, config, show_progress)


def _verdict(config: Config, found: set[tuple[str, str]]) -> Finding:
    """Return what visitors see, according to the topics and levels of the findings."""
    errors = {topic for topic, level in found if level == ERROR}
    if errors & NO_CHAT_TOPICS:
        return Finding(VERDICT, ERROR, "Visitors see no chat.")
    conditions = {
        "ENABLED returns True for them": callable(config.enabled),
        "the page contains HubSpot's embed code": config.loader is None,
        "the app's script is served": ("static", WARNING) in found,
    }
    if_ = " and ".join(condition for condition, applies in conditions.items() if applies)
    chat = f"Visitors see the chat if {if_}." if if_ else "Visitors see the chat."
    level = ERROR if errors else OK
    if errors & NO_IDENTITY_TOPICS:
        identity = "None of them is identified."
    elif config.email_verified is False:
        level, identity = level if errors else NOTE, "None of them is identified, because EMAIL_VERIFIED is False."
    elif "user" in errors:
        identity = "The user whom you named is not identified."
    elif errors:
        identity = "Not all users are identified."
    elif ("user", WARNING) in found and ("user", OK) not in found:
        level, identity = NOTE, "The user whom you named may not be identified."
    else:
        identity = "Logged-in users with a verified address are identified."
    return Finding(VERDICT, level, f"{chat} {identity}")
