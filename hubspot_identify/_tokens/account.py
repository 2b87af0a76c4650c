"""One account in this process: its settings, and everything that is created from them once and passed down."""

from __future__ import annotations

import json
import operator
import time
from collections.abc import Callable
from functools import cache, cached_property
from types import NoneType
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections

from .._callables import call_setting
from ..conf import Config, get_account_chooser, get_config
from .breaker import Breaker
from .entries import EXPIRE_AFTER, PREFIX, Entry, KeyedDigest, decode_entry
from .per_process import PerProcess
from .rate_limit import RateLimit
from .store import Store

if TYPE_CHECKING:
    from django.http import HttpRequest

    from ..visitors import Visitor


class Account:
    """The settings of one account and the parts of the app that depend on them.

    Args:
        config: the settings.
        store: the cache. Accounts with the same cache alias share it.
        now: seconds since the epoch; another clock in tests.
    """

    def __init__(self, config: Config, store: Store, now: Callable[[], float] = time.time) -> None:
        self.config = config
        self.store = store
        scope = account_key(config)
        self._entry_digest = KeyedDigest("token", *scope)
        self._subject_digest = KeyedDigest("subject", config.portal_id)
        self._profile_digest = KeyedDigest("profile")
        prefix = PREFIX + KeyedDigest("account", *scope)("")
        self.breaker = Breaker(config, prefix, store, now)
        self.rate_limit = RateLimit(config.rate_limit, prefix, store, now)

    def entry_key(self, visitor: Visitor) -> str:
        """Return the cache key of a visitor's entry. It depends on everything that a token depends on."""
        return PREFIX + self._entry_digest(visitor.email)

    def subject(self, visitor: Visitor) -> str:
        """Return an opaque name of a visitor of the portal, by which a browser notices a change of visitor."""
        return self._subject_digest(visitor.email)[:32]

    def profile(self, visitor: Visitor) -> str:
        """Return a digest of what may change about a visitor while the token stays valid."""
        return self._profile_digest(json.dumps([visitor.email, visitor.first_name, visitor.last_name, visitor.context]))

    def read_entry(self, key: str) -> Entry:
        """Return the entry of a key. One read of the cache."""
        return decode_entry(self.store.get(key), key, time.time())

    def write_entry(self, key: str, entry: Entry) -> None:
        """Store an entry for as long as a token is used.

        This also applies to an entry without a token, because it has to outlive copies of an older entry that other
        processes keep while the cache is unavailable.
        """
        self.store.set(key, entry.as_primitives(key), EXPIRE_AFTER)

    def allows_call(self, *, may_probe: bool, for_changes: bool) -> bool:
        """Return whether circuit breaker and rate limit allow a call now.

        Args:
            may_probe: whether the visitor has no failure on record.
            for_changes: whether the call only refreshes a valid token because of changed names or context.
        """
        return self.breaker.allows_call(may_probe=may_probe) and self.rate_limit.allows_call(for_changes=for_changes)


def account_key(config: Config) -> tuple[str | None, ...]:
    """Return what separates the tokens, circuit breaker and rate limit of one account from those of another.

    Accounts of two sites may agree in everything but the key. A callable is only called on a worker, and its key may
    change, so it is represented by what identifies the site.
    """
    credential = (config.api_key,) if isinstance(config.api_key, str) else _site_of(config.api_key)
    return (config.account, config.base_url, config.token_path, config.portal_id, *credential)


def _site_of(function: Callable[..., object]) -> tuple[str, ...]:
    """Return what a site's processes have in common, and two sites do not. Contains no address of an object."""
    # A functools.partial and an instance with __call__ have no name of their own.
    named = function if isinstance(getattr(function, "__qualname__", None), str) else type(function)
    database = connections.settings[DEFAULT_DB_ALIAS]
    return (
        f"{named.__module__}.{named.__qualname__}",
        str(settings.SETTINGS_MODULE),  # None after settings.configure()
        str(getattr(settings, "ROOT_URLCONF", None)),
        *(str(database[part]) for part in ("ENGINE", "HOST", "PORT", "NAME")),
    )


class _Accounts:
    """The accounts that were created from one set of Django's settings, each when it was first used."""

    def __init__(self, *created_from: object) -> None:
        self.created_from = created_from
        self._by_name: dict[str, Account] = {}

    def get(self, name: str) -> Account:
        account = self._by_name.get(name)
        if account is None:
            config = get_config(name)
            account = Account(config, _stores.get()(config.cache))
            # Where the chat is disabled, any name in a URL is an account.
            if config.enabled is not False or not name:
                account = self._by_name.setdefault(name, account)
        return account

    @cached_property
    def chooser(self) -> Callable[[HttpRequest], str | None] | None:
        return get_account_chooser()


_accounts = PerProcess(lambda: _Accounts(None, None, None, None))
_stores = PerProcess(lambda: cache(Store))  # by the alias of the cache


def _current() -> _Accounts:
    """Return the accounts of the live settings, which are compared by identity: a change takes effect at once."""
    accounts = _accounts.get()
    live = (
        getattr(settings, "HUBSPOT_IDENTIFY", None),
        settings.CACHES,
        settings.INSTALLED_APPS,
        settings.SECRET_KEY,
    )
    if any(map(operator.is_not, accounts.created_from, live)):
        accounts = _Accounts(*live)
        _accounts.set(accounts)
    return accounts


def get_account(name: str | None = None) -> Account:
    """Return this process's account of a name from ``ACCOUNTS``; ``None`` or ``""`` for the settings around them.

    Raises:
        ConfigurationError: a setting is missing or wrong.
        UnknownAccountError: there is no such account.
    """
    return _current().get(name or "")


def account_for(request: HttpRequest | None, name: str | None = None) -> Account:
    """Return an account by name, or else the one that ``CHOOSE_ACCOUNT`` returns for the request.

    Raises:
        CallableError: ``CHOOSE_ACCOUNT`` failed, so the right portal is unknown.
        ConfigurationError: as :func:`get_account`.
    """
    accounts = _current()
    if name is None and request is not None and accounts.chooser is not None:
        name = call_setting("CHOOSE_ACCOUNT", accounts.chooser, request, returns=(str, NoneType))
    return accounts.get(name or "")


def requires_request() -> bool:
    """Return whether the account depends on the request. The settings around the accounts need not be complete."""
    return _current().chooser is not None


def reset_accounts() -> None:
    """Forget what this process knows about all accounts; for tests. What is shared stays in the cache."""
    _accounts.renew()
    _stores.renew()
