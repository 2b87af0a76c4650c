"""The settings in ``HUBSPOT_IDENTIFY``. The fields of :class:`Config` declare them, with default, parser and hint.

Parsers return what ``Config`` holds. Defaults are parsed as well: a setting is required if its parser rejects its
default. No error quotes a value: if two environment variables are mixed up, any value can be the API key.
"""

# ruff: noqa: RUF009 - setting() returns a dataclass field
from __future__ import annotations

import difflib
import inspect
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string

from .exceptions import ConfigurationError, UnknownAccountError

if TYPE_CHECKING:
    from django.http import HttpRequest

    from .visitors import Visitor

#: The options of ``window.hsConversationsSettings`` that a site may set, with the types and strings the widget accepts.
#: https://developers.hubspot.com/docs/api-reference/conversations-chat-widget-sdk/guide
WIDGET_OPTIONS: Mapping[str, tuple[object, ...]] = {
    "loadImmediately": (bool,),
    "inlineEmbedSelector": (str,),
    "enableWidgetCookieBanner": (bool, "ON_WIDGET_LOAD", "ON_EXIT_INTENT"),
    "disableAttachment": (bool,),
    "disableInitialInputFocus": (bool,),
    "avoidInlineStyles": (bool,),
    "hideNewThreadLink": (bool,),
}
#: The options that only the app may set. In the settings, they would identify all visitors as the same contact.
IDENTITY_OPTIONS = frozenset({"identificationEmail", "identificationToken"})
OPTION_TYPES: Mapping[object, str] = {bool: "True or False", str: "a string"}
DEFAULT_WIDGET: Mapping[str, str | bool] = MappingProxyType({"avoidInlineStyles": True})
#: For hints about ``EMAIL_VERIFIED``.
VERIFICATION_RECIPES = (
    "If your site does not verify addresses yet, follow one of the two recipes in docs/visitors.rst, with "
    "django.core.signing or with django-allauth"
)
#: Some tools keep the quotation marks of an environment file in the value. Word processors insert typographic ones.
QUOTES = "\"'`\u2018\u2019\u201c\u201d"


class _InvalidError(Exception):
    """A value is invalid. The text continues a sentence that begins with the name of the setting."""


def _of_type(value: Any, types: type | tuple[type, ...], expected: str) -> Any:
    if not isinstance(value, types):
        raise _InvalidError(f"must be {expected}, not {type(value).__name__}")
    return value


def _api_key(value: Any) -> Any:
    if callable(value):
        return _callable(value)
    key = _of_type("" if value is None else value, str, "a string or a callable")
    if problem := api_key_problem(key):
        raise _InvalidError(problem)
    return key


def api_key_problem(key: str) -> str | None:
    """Return why a stripped key cannot be sent to HubSpot, or ``None``. Does not quote the key."""
    if not key:
        return "is missing or empty"
    if problem := _text_problem(key):
        return problem
    if not key.isascii():
        return "contains characters that are not ASCII"
    return "contains white space" if " " in key else None


def _text_problem(text: str) -> str | None:
    """Return why no setting may have this text, or ``None``. Such texts are copied from web pages and env files."""
    if not text.isprintable():
        return "contains an invisible character, such as a line ending"
    if text.strip(QUOTES) != text:
        return "begins or ends with a quotation mark, which must not be part of the value"
    return None


def _string(value: str, pattern: str) -> str:
    if not re.fullmatch(pattern, _of_type(value, str, "a string")):
        raise _InvalidError("has an invalid format")
    return value


def _portal_id(value: Any) -> str | None:
    if value is None or value == "":
        return None
    is_number = type(value) is int and 0 <= value < 10**20
    return _string(str(value) if is_number else value, r"[0-9]{1,20}")


def _base_url(value: str) -> str:
    if "?" in _url(value):
        raise _InvalidError("must not contain a query string")
    return value.rstrip("/")


def _url(value: str) -> str:
    try:
        parts = urlsplit(_of_type(value, str, "a string"))
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("https", "http") or not re.fullmatch(r"[!-~]+", value):
        raise _InvalidError("must be a complete URL")
    if parts.username is not None or "#" in value:
        raise _InvalidError("must not contain a user name or a fragment")
    if parts.scheme == "http" and not is_loopback(host):
        raise _InvalidError("must begin with https://, since others could read and change what is sent over http://")
    return value


def _loader_url(value: str | None) -> str | None:
    if value is None or value == "":
        return None
    if not (isinstance(value, str) and re.fullmatch(r"/(?![/\\])[!-~]*", value)):
        _url(value)
    return value


def is_loopback(host: str) -> bool:
    """Return whether the host name of a URL is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _choice(value: object, choices: Sequence[str | None]) -> object:
    if value not in choices:
        raise _InvalidError("has an unknown value")
    return value


def _number(value: Any, least: float, most: float, types: tuple[type[float], ...] = (int, float)) -> float:
    if isinstance(value, bool) or not isinstance(value, types):
        raise _InvalidError(f"must be a number, not {type(value).__name__}")
    if not least <= value <= most:  # NaN is not between them either
        raise _InvalidError(f"must be between {least} and {most}")
    return value


def _callable(value: Any, constants: tuple[bool | None, ...] = ()) -> Any:
    if any(value is constant for constant in constants):
        return value
    if isinstance(value, str):
        value = _import(value)
    if not callable(value):
        raise _InvalidError(f"must be a callable or a dotted path, not {type(value).__name__}")
    # A coroutine counts as true, whatever it would return.
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__):
        raise _InvalidError("must not be asynchronous")
    return value


def _import(path: str) -> object:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", path):
        raise _InvalidError("must be a dotted path")
    try:
        return import_string(path)
    except Exception as error:  # a module can raise anything
        if not isinstance(error, ModuleNotFoundError) or not f"{path}.".startswith(f"{error.name}."):
            raise _InvalidError(f"cannot be imported ({type(error).__name__}: {error})") from error
    # Raised outside of the handler, because the caught error quotes the path, which may be a key that contains dots.
    raise _InvalidError("cannot be imported, because there is no such module")


def _email_verified(value: Any) -> Any:
    if value is None and not apps.is_installed("allauth.account"):
        raise _InvalidError("is missing")
    return _callable(value, (True, False, None))


def _widget(value: Mapping[str, Any]) -> Mapping[str, str | bool]:
    return MappingProxyType({**DEFAULT_WIDGET, **_of_type(value, Mapping, "a dict")})


def _cache(value: object) -> object:
    return _choice(value, [*settings.CACHES])


def setting(default: object, parser: Callable[..., Any], hint: str, *, repr: bool = True, **arguments: object) -> Any:
    """Declare a setting by its default, its parser with arguments, and what the hint of an error says after "Write"."""
    metadata = {"default": default, "parse": lambda value: parser(value, **arguments), "hint": hint}
    return field(default_factory=lambda: default, repr=repr, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one account, parsed: callables that are written as dotted paths are imported."""

    api_key: str | Callable[[], str] = setting(
        "",
        _api_key,
        "the access token of a HubSpot private app or a service key, or a callable that returns it; or disable the "
        "chat with HUBSPOT_IDENTIFY['ENABLED'] = False",
        repr=False,
    )
    base_url: str = setting("https://api.hubapi.com", _base_url, 'a URL such as "https://api.hubapi.com"')
    token_path: str = setting(
        "/conversations/v3/visitor-identification/tokens/create",
        _string,
        'a path such as "/visitor-identification/2026-09/tokens/create"',
        pattern=r"/[A-Za-z0-9._~/-]*",
    )
    auth_scheme: str = setting("bearer", _choice, "'bearer' or 'hapikey'", choices=("bearer", "hapikey"))
    portal_id: str | None = setting(None, _portal_id, 'the number HubSpot calls "Hub ID", such as "1234567", or None')
    region: str = setting("na1", _string, 'a region of HubSpot, such as "na1" or "eu1"', pattern=r"[a-z]{2}[0-9]")
    loader_url: str | None = setting(
        None, _loader_url, 'a URL or path, such as "https://js.hs-scripts.com/123.js?businessUnitId=456"'
    )
    visitor: Callable[[Any, HttpRequest | None], Visitor | None] = setting(
        "hubspot_identify.visitors.user_visitor",
        _callable,
        "a callable (user, request) -> Visitor or None, or its dotted path",
    )
    email_verified: Callable[[Any, str], bool] | bool | None = setting(
        None,
        _email_verified,
        "True if all addresses in the user table have been verified, a callable (user, email) -> bool or its dotted "
        f"path, or False to show the chat without identifying anyone. {VERIFICATION_RECIPES}",
    )
    impersonated: Callable[[HttpRequest], bool] | None = setting(
        None, _callable, "a callable (request) -> bool or its dotted path", constants=(None,)
    )
    enabled: Callable[[HttpRequest], bool] | bool = setting(
        True, _callable, "True, False, or a callable (request) -> bool or its dotted path", constants=(True, False)
    )
    widget: Mapping[str, str | bool] = setting(DEFAULT_WIDGET, _widget, "a dict of options of HubSpot's widget")
    load_on: str = setting("page", _choice, "'page', 'idle' or 'interaction'", choices=("page", "idle", "interaction"))
    delivery: str | None = setting(None, _choice, "'deferred', 'inline' or None", choices=("deferred", "inline", None))
    page_wait: float = setting(1.0, _number, "seconds from 0 to 10, such as 1.0", least=0, most=10)
    timeout: float = setting(3.0, _number, "seconds from 0.1 to 30, such as 3.0", least=0.1, most=30)
    rate_limit: int = setting(10, _number, "a whole number from 1 to 1000", least=1, most=1000, types=(int,))
    cache: str = setting("default", _cache, "the alias of a cache in settings.CACHES, such as 'default'")
    accounts: Mapping[str, Mapping[str, Any]] = setting(
        MappingProxyType({}), _of_type, 'a dict such as {"eu": {…}}', types=Mapping, expected="a dict", repr=False
    )
    choose_account: Callable[[HttpRequest], str | None] | None = setting(
        None, _callable, "a callable (request) -> name of an account or None, or its dotted path", constants=(None,)
    )
    #: The name of the account in ``ACCOUNTS``, or ``""`` for the settings outside of it.
    account: str = ""

    @property
    def log_suffix(self) -> str:
        """The end of a log message, which names the account if there is one."""
        return f" [account {self.account}]" if self.account else ""

    @property
    def loader(self) -> str | None:
        """The URL of HubSpot's script, or ``None`` if the page contains HubSpot's embed code itself."""
        if self.loader_url or not self.portal_id:
            return self.loader_url
        infix = "" if self.region == "na1" else f"-{self.region}"
        return f"https://js{infix}.hs-scripts.com/{self.portal_id}.js"


_DECLARED = {declared.name.upper(): declared.metadata for declared in fields(Config) if declared.metadata}
#: The keys of ``HUBSPOT_IDENTIFY``.
KEYS = tuple(_DECLARED)


class AccountSettings:
    """What a site wrote for one account, and what the account inherits. Other accounts are not validated."""

    def __init__(self, source: object, account: str = "") -> None:
        self.account = account
        self.own: Mapping[str, Any] = {}
        self.values = _copy_dict(source, "HUBSPOT_IDENTIFY")
        if account != "":
            self.own = self._own_settings()
            self.values |= self.own
        self.is_disabled = self.values.get("ENABLED") is False

    def _own_settings(self) -> dict[str, Any]:
        accounts = self.values.get("ACCOUNTS", {})
        if self.values.get("ENABLED") is False and not (isinstance(accounts, Mapping) and self.account in accounts):
            return {}  # a site that disables the chat needs no other settings
        if self.account not in self.parse("ACCOUNTS"):
            known = ", ".join(map(repr, islice(accounts, 10))) + (", …" if len(accounts) > 10 else "")
            problem = f"HUBSPOT_IDENTIFY['ACCOUNTS'] has no account {self.account!r}."
            raise UnknownAccountError("ACCOUNTS", problem, f"Known accounts: {known or 'none'}.")
        if not (isinstance(self.account, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,50}", self.account)):
            raise setting_error("ACCOUNTS", "must have names of 1 to 50 ASCII letters, digits, - and _")
        return _copy_dict(accounts[self.account], f"HUBSPOT_IDENTIFY['ACCOUNTS'][{self.account!r}]")

    def name_of(self, key: str) -> str:
        """Return the full name of a setting, which shows where its value is written or missing."""
        # Accounts usually have keys of their own. Other missing settings are best written once for all accounts.
        if key in self.own or (self.account and key == "API_KEY" and key not in self.values):
            return f"HUBSPOT_IDENTIFY['ACCOUNTS'][{self.account!r}][{key!r}]"
        return f"HUBSPOT_IDENTIFY[{key!r}]"

    def parse(self, key: str) -> Any:
        """Return the parsed value of one setting, or raise its error."""
        declared = _DECLARED[key]
        value = self.values.get(key, declared["default"])
        try:
            if isinstance(value, str) and (text_problem := _text_problem(value)):
                raise _InvalidError(text_problem)
            return declared["parse"](value)
        except _InvalidError as invalid:
            problem, cause = str(invalid), invalid.__cause__
        # Raised outside of the handler, because the traceback of the caught error leads to the value.
        raise setting_error(key, problem, self.name_of(key)) from cause

    def parse_all(self) -> tuple[dict[str, Any], list[ConfigurationError]]:
        """Return the parsed settings by field of :class:`Config`, and the errors of all that are invalid."""
        parsed: dict[str, Any] = {}
        errors: list[ConfigurationError] = []
        for key in self.values:
            if key not in KEYS:
                nearest = difflib.get_close_matches(str(key).upper(), KEYS, n=1)
                hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Write one of {', '.join(KEYS)}."
                errors.append(ConfigurationError(str(key), f"{self.name_of(key)} is not a setting.", hint))
        for key in KEYS:
            try:
                parsed[key.lower()] = self.parse(key)
            except ConfigurationError as error:
                errors.append(error)
        for key in self.own.keys() & {"ACCOUNTS", "CHOOSE_ACCOUNT"}:
            problem = f"{self.name_of(key)} is not a setting of an account."
            errors.append(ConfigurationError(key, problem, f"Write HUBSPOT_IDENTIFY[{key!r}] instead."))
        if parsed.get("load_on") == "interaction" and parsed.get("delivery") == "inline":
            problem = f'{self.name_of("LOAD_ON")} must not be "interaction" if {self.name_of("DELIVERY")} is "inline".'
            errors.append(ConfigurationError("LOAD_ON", problem, "Leave out DELIVERY, or choose another LOAD_ON."))
        return parsed, errors

    def option_errors(self) -> Iterator[ConfigurationError]:
        """Return the errors of the options in ``WIDGET``. HubSpot may have added some: unknown ones are valid."""
        widget, name = self.values.get("WIDGET"), self.name_of("WIDGET")
        for option, value in widget.items() if isinstance(widget, Mapping) else ():
            accepted = WIDGET_OPTIONS.get(option, (bool, str))
            if not isinstance(option, str) or option in IDENTITY_OPTIONS:
                problem, hint = "must not be set", "Leave it out. Names are strings, and the app sets the identity."
            elif not any(isinstance(value, each) if isinstance(each, type) else value == each for each in accepted):
                problem = "has an invalid value"
                hint = f"Write {' or '.join(OPTION_TYPES.get(each) or repr(each) for each in accepted)}."
            else:
                continue
            yield ConfigurationError("WIDGET", f"{name}[{option!r}] {problem}.", hint)


def _copy_dict(values: object, name: str) -> dict[str, Any]:
    """Return a copy of the settings, with white space and line endings removed from both ends of text values."""
    if not isinstance(values, Mapping):
        problem = "is missing" if values is None else f"must be a dict, not {type(values).__name__}"
        hint = f'Write {name} = {{"API_KEY": …, "PORTAL_ID": …}}, or {{"ENABLED": False}} to disable the chat.'
        raise ConfigurationError("", f"{name} {problem}.", hint)
    return {key: value.strip() if isinstance(value, str) else value for key, value in values.items()}


def build_config(source: object, account: str = "") -> Config:
    """Validate the settings of one account. See :class:`AccountSettings` for arguments and errors."""
    written = AccountSettings(source, account)
    if written.is_disabled:
        return Config(enabled=False, account=account)
    parsed, errors = written.parse_all()
    for error in [*errors, *written.option_errors()]:
        raise error
    return Config(**parsed, account=account)


def get_config(account: str | None = None) -> Config:
    """Return the settings of an account in the live ``settings.HUBSPOT_IDENTIFY``; ``None`` for those outside of it.

    Raises:
        ConfigurationError: a setting is missing or invalid, or the account is unknown (``UnknownAccountError``).
    """
    try:
        return build_config(getattr(settings, "HUBSPOT_IDENTIFY", None), account or "")
    except ConfigurationError as error:
        # Debug pages and error reporters show the local variables of frames, and those of the parsers contain the key.
        raise error.with_traceback(None)  # noqa: B904 - it is the same error


def get_account_chooser() -> Callable[[HttpRequest], str | None] | None:
    """Return ``CHOOSE_ACCOUNT``, or ``None`` if the chat is disabled. Other settings may be invalid or incomplete."""
    try:
        written = AccountSettings(getattr(settings, "HUBSPOT_IDENTIFY", None))
        return None if written.is_disabled else written.parse("CHOOSE_ACCOUNT")
    except ConfigurationError as error:
        raise error.with_traceback(None)  # noqa: B904 - as in get_config()


def setting_error(key: str, problem: str, name: str = "") -> ConfigurationError:
    """Return an error with the declared hint. The problem continues a sentence that begins with the name."""
    name = name or f"HUBSPOT_IDENTIFY[{key!r}]"
    return ConfigurationError(key, f"{name} {problem}.", f"Write {_DECLARED[key]['hint']}.")
