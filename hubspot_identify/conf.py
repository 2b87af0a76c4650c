"""``settings.HUBSPOT_IDENTIFY`` as a frozen, typed :class:`Config`.

Settings are read when they are needed and validated then. The result is kept for as long as the setting is the same
object, so ``override_settings`` works by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from django.conf import settings

from .exceptions import ConfigurationError, UnknownAccountError
from .validation import CHOOSER, VALIDATORS, account_overrides, check_keys, kind, listed, settings_dict, wrong

if TYPE_CHECKING:
    from django.http import HttpRequest

    from .visitors import Visitor

T = TypeVar("T")

#: What an identification token may be made of: the widget puts it into an address without encoding it.
TOKEN = re.compile(r"[A-Za-z0-9._~=/-]{1,4096}")
#: How many names of accounts the error of an unknown one lists.
MAX_LISTED = 10
DEFAULT_VISITOR = "hubspot_identify.visitors.user_visitor"


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one account, checked. The defaults of all settings stand here.

    Callables take and return what the comment beside them says; those given as dotted paths are already imported.
    """

    api_key: str | Callable[[], str] = field(default="", repr=False)
    base_url: str = "https://api.hubapi.com"
    token_path: str = "/conversations/v3/visitor-identification/tokens/create"  # noqa: S105 - a path, not a secret
    auth_scheme: str = "bearer"
    portal_id: str | None = None
    region: str = "na1"
    loader_url: str | None = None
    visitor: Callable[[Any, HttpRequest | None], Visitor | None] | str = DEFAULT_VISITOR
    email_verified: Callable[[Any, str], bool] | bool | None = None  # (user, e-mail) -> verified; None: ask allauth
    impersonated: Callable[[HttpRequest], bool] | None = None
    enabled: Callable[[HttpRequest], bool] | bool = True
    widget: Mapping[str, str | bool] = field(default_factory=lambda: MappingProxyType({"avoidInlineStyles": True}))
    load_on: str = "page"
    delivery: str | None = None
    page_wait: float = 1.0  # seconds
    timeout: float = 3.0  # seconds
    rate_limit: int = 10  # calls a second
    cache: str = "default"
    accounts: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    choose_account: Callable[[HttpRequest], str | None] | None = None
    #: The name of the account in ``ACCOUNTS``, or ``""`` for the settings themselves.
    account: str = ""

    @property
    def log_suffix(self) -> str:
        """What tells a log line of one account from another's."""
        return f" [account {self.account}]" if self.account else ""

    @property
    def loader(self) -> str | None:
        """The address of HubSpot's script, or ``None`` where the page has HubSpot's embed code itself."""
        if self.loader_url or not self.portal_id:
            return self.loader_url
        infix = "" if self.region == "na1" else f"-{self.region}"
        return f"https://js{infix}.hs-scripts.com/{self.portal_id}.js"


#: The keys of ``HUBSPOT_IDENTIFY``.
KEYS = tuple(VALIDATORS)


def get_config(account: str | None = None) -> Config:
    """The settings of an account, from the live ``settings.HUBSPOT_IDENTIFY``.

    Args:
        account: a name from ``ACCOUNTS``; ``None`` or ``""`` for the settings without any account's overrides.

    Raises:
        ConfigurationError: a setting is missing or wrong.
        UnknownAccountError: there is no such account.
    """
    memory = _remembered()
    name = account or ""
    config = memory.configs.get(name)
    if config is None:
        config = _strip_traceback(build_config, memory, name)
        if config.enabled is not False:  # switched off, any name of a URL is an account; they are not collected
            memory.configs[name] = config
    return config


def config_for(request: HttpRequest | None, account: str | None = None) -> Config:
    """The settings of an account, or else of the one that ``CHOOSE_ACCOUNT`` chooses for the request.

    Raises as :func:`get_config` does.
    """
    if account is None and request is not None:
        chooser = account_chooser()
        if chooser is not None:
            account = chooser(request)
            if not (account is None or isinstance(account, str)):
                raise wrong("CHOOSE_ACCOUNT", f"returned a {kind(account)}", CHOOSER)
    return get_config(account)


def account_chooser() -> Callable[[HttpRequest], str | None] | None:
    """``CHOOSE_ACCOUNT``, by itself: the settings around the accounts need not be complete."""
    memory = _remembered()
    if memory.chooser is UNSET:
        memory.chooser = _strip_traceback(_read_chooser, memory)
    return memory.chooser  # type: ignore[return-value]  # read above


UNSET = object()


def _read_chooser(source: object) -> Callable[[HttpRequest], str | None] | None:
    values = settings_dict(source, "HUBSPOT_IDENTIFY")
    return None if values.get("ENABLED") is False else VALIDATORS["CHOOSE_ACCOUNT"](values.get("CHOOSE_ACCOUNT"))


def _strip_traceback(read: Callable[..., T], memory: _Memory, *args: str) -> T:
    """Read settings. The frames that do so hold the key in the clear, and Django's debug page, like every collector
    of errors, shows what frames hold: the error goes on without them.
    """
    try:
        return read(memory.source, *args)
    except ConfigurationError as error:
        raise error.with_traceback(None)  # noqa: B904 - it is the same error


class _Memory:
    """The configurations built from one ``HUBSPOT_IDENTIFY``, and the settings they depend on.

    The settings are compared by identity. Keeping references to them prevents their ids from being reused.
    """

    def __init__(self, source: object, caches: object, installed_apps: object) -> None:
        self.source = source
        self.caches = caches
        self.installed_apps = installed_apps
        self.configs: dict[str, Config] = {}
        self.chooser: object = UNSET


_memory = _Memory(None, None, None)


def _remembered() -> _Memory:
    global _memory
    source = getattr(settings, "HUBSPOT_IDENTIFY", None)
    memory = _memory
    if (
        memory.source is not source
        or memory.caches is not settings.CACHES
        or memory.installed_apps is not settings.INSTALLED_APPS
    ):
        memory = _memory = _Memory(source, settings.CACHES, settings.INSTALLED_APPS)
    return memory


def build_config(source: object, account: str = "") -> Config:
    """Validate the settings of one account and make its config. See :func:`get_config`.

    The other accounts are not validated. The system checks validate all of them.
    """
    values = values_of(source, account)
    enabled = VALIDATORS["ENABLED"](values.get("ENABLED", True))
    if enabled is False:
        # Nothing else is looked at: a developer's machine without any of the other settings has to work.
        return Config(enabled=False, account=account)
    check_keys(values, "HUBSPOT_IDENTIFY")
    # Settings that are validated even if they are missing: two are required, one is a dotted path, one must exist.
    values = {"API_KEY": None, "EMAIL_VERIFIED": None, "VISITOR": DEFAULT_VISITOR, "CACHE": "default", **values}
    arguments = {key.lower(): VALIDATORS[key](value) for key, value in values.items()}
    config = Config(**{**arguments, "enabled": enabled, "account": account})
    if config.load_on == "interaction" and config.delivery == "inline":
        raise ConfigurationError(
            "HUBSPOT_IDENTIFY['LOAD_ON'] = \"interaction\" asks for no token until the visitor wants to chat, "
            "which inline delivery can't do.",
            setting="LOAD_ON",
            hint="Leave out DELIVERY, or choose another LOAD_ON.",
        )
    return config


def values_of(source: object, account: str) -> dict[str, Any]:
    """The settings of an account as they were written, those around it included."""
    values = settings_dict(source, "HUBSPOT_IDENTIFY")
    if account:
        values.update(_overrides(values, account))
    return values


def _overrides(values: Mapping[str, Any], account: str) -> Mapping[str, Any]:
    accounts: Any = values.get("ACCOUNTS", {})
    off = values.get("ENABLED") is False
    if off and not (isinstance(accounts, Mapping) and account in accounts):
        return {}  # as with the other settings: where the chat is off, it need not be there
    accounts = VALIDATORS["ACCOUNTS"](accounts)
    if account not in accounts:
        known = listed(islice(accounts, MAX_LISTED)) + (", …" if len(accounts) > MAX_LISTED else "")
        raise UnknownAccountError(
            f"HUBSPOT_IDENTIFY['ACCOUNTS'] has no account {account!r}.", setting="ACCOUNTS", hint=f"It has {known}."
        )
    return account_overrides(account, accounts[account])
