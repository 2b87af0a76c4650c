"""The accounts of a site, as both kinds of checks need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from django.core.checks import CheckMessage

from ..conf import AccountSettings, Config, build_config
from ..exceptions import ConfigurationError


def account_names(source: object) -> list[str]:
    """Return the names of the accounts in ``HUBSPOT_IDENTIFY``; ``""`` for the settings outside of ``ACCOUNTS``.

    Beside accounts that have keys of their own, the settings outside need no key, and then they are no account.
    """
    values = source if isinstance(source, Mapping) else {}
    accounts = values.get("ACCOUNTS")
    names = list(accounts) if isinstance(accounts, Mapping) else []
    return names if names and "API_KEY" not in values else ["", *names]


def enabled_configs(source: object) -> list[Config]:
    """Return the configs of the accounts that are valid and not disabled."""
    configs = []
    for account in account_names(source):
        try:
            config = build_config(source, account)
        except ConfigurationError:
            continue
        if config.enabled is not False:
            configs.append(config)
    return configs


def is_disabled(source: object) -> bool:
    """Return whether all accounts are disabled, so that no page has the chat."""
    try:
        return all(AccountSettings(source, account).is_disabled for account in account_names(source))
    except ConfigurationError:
        return False


def without_duplicates(messages: Iterable[CheckMessage]) -> list[CheckMessage]:
    """Return each message once. Accounts share most of their settings, and so the problems of these."""
    return list({(message.id, message.msg, message.hint): message for message in messages}.values())
