"""What each key of ``settings.HUBSPOT_IDENTIFY`` may hold, and what to write instead of anything else.

The table at the end has a function for each key. No message quotes a value: if two environment variables are mixed up,
the value of another setting can be the API key.
"""

from __future__ import annotations

import difflib
import inspect
import ipaddress
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string

from .exceptions import ConfigurationError

#: The options of ``window.hsConversationsSettings`` that a site may set, with the types and texts the widget accepts.
#: https://developers.hubspot.com/docs/api-reference/conversations-chat-widget-sdk/guide
WIDGET_OPTIONS: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "loadImmediately": (bool,),
        "inlineEmbedSelector": (str,),
        "enableWidgetCookieBanner": (bool, "ON_WIDGET_LOAD", "ON_EXIT_INTENT"),
        "disableAttachment": (bool,),
        "disableInitialInputFocus": (bool,),
        "avoidInlineStyles": (bool,),
        "hideNewThreadLink": (bool,),
    }
)
#: What only the app itself may put there: one visitor's identity in the settings would be everybody's.
IDENTITY_OPTIONS = frozenset({"identificationEmail", "identificationToken"})


def settings_dict(values: object, where: str) -> dict[str, Any]:
    """A copy of a dict of settings; an error for anything else."""
    if values is None:
        raise ConfigurationError(
            f"settings.{where} is missing.",
            hint=f'Write {where} = {{"API_KEY": …, "PORTAL_ID": …}}, or {{"ENABLED": False}} for a site without chat.',
        )
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where} is a {kind(values)}.", hint="Write a dict of settings.")
    return dict(values)


def check_keys(values: Mapping[str, Any], where: str) -> None:
    """An error for a key that is no setting, with the nearest one that is."""
    for key in values:
        if not isinstance(key, str):
            raise ConfigurationError(
                f"{where} has a key that is a {kind(key)}.", hint=f"Write one of {listed(VALIDATORS)}."
            )
        if key not in VALIDATORS:
            nearest = difflib.get_close_matches(key.upper(), VALIDATORS, n=1)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Write one of {listed(VALIDATORS)}."
            raise ConfigurationError(f"{where} has an unknown key {key!r}.", setting=key, hint=hint)


def listed(names: Any) -> str:
    """Names, quoted and in a row."""
    return ", ".join(repr(name) for name in names) or "none"


def kind(value: object) -> str:
    """The name of a value's type, which is all that is said of it."""
    return type(value).__name__


def wrong(key: str, problem: str, write: str) -> ConfigurationError:
    """The one shape of our errors; ``problem`` quotes no value."""
    return ConfigurationError(f"HUBSPOT_IDENTIFY[{key!r}] {problem}.", setting=key, hint=f"Write {write}.")


def _api_key(value: object) -> str | Callable[[], str]:
    advice = "the access token of a HubSpot private app or a service key, or a callable that returns it"
    if callable(value):
        if _is_async(value):
            raise wrong("API_KEY", "is asynchronous", advice)
        return value
    if value is None or value == "":
        raise wrong("API_KEY", "is missing", f"{advice}; or set HUBSPOT_IDENTIFY['ENABLED'] to False")
    if not isinstance(value, str):
        raise wrong("API_KEY", f"is a {kind(value)}", advice)
    problem = api_key_problem(value.strip())
    if problem:
        raise wrong("API_KEY", problem, advice)
    return value.strip()


def api_key_problem(key: str) -> str | None:
    """What keeps a stripped text from being sent as a credential, in words that don't quote it."""
    if not key:
        return "is empty"
    if not key.isascii():
        return "has characters that are not ASCII"
    if not key.isprintable() or " " in key:
        return "has white space or control characters inside"
    return None


def _text(key: str, value: object, pattern: str, write: str) -> str:
    if not isinstance(value, str):
        raise wrong(key, f"is a {kind(value)}", write)
    if not re.fullmatch(pattern, value):
        raise wrong(key, "is not written as it should be", write)
    return value


def _base_url(value: object) -> str:
    write = 'an address such as "https://api.hubapi.com" (http:// only for this machine itself)'
    if not isinstance(value, str):
        raise wrong("BASE_URL", f"is a {kind(value)}", write)
    problem = _url_problem(value)
    if problem:
        raise wrong("BASE_URL", problem, write)
    return value.rstrip("/")


def _loader_url(value: object) -> str | None:
    write = 'an address such as "https://js.hs-scripts.com/123.js", or a path of the site, such as "/sandbox/123.js"'
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise wrong("LOADER_URL", f"is a {kind(value)}", write)
    if not re.fullmatch(r"/(?![/\\])[!-~]*", value):
        problem = _url_problem(value)
        if problem:
            raise wrong("LOADER_URL", problem, write)
    return value


def _url_problem(value: str) -> str | None:
    """Why an address must not be used, or ``None``. Quotes nothing: an address can hold a password."""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "can't be parsed as an address"
    if parts.scheme not in ("https", "http") or not host or not re.fullmatch(r"[!-~]+", value):
        return "is not a complete address"
    if parts.username is not None or "?" in value or "#" in value:
        return "has a user name, a query or a fragment"
    if parts.scheme == "http" and not is_loopback(host):
        return "is http:// to another machine, so anybody on the way could read along and change what comes back"
    return None


def is_loopback(host: str) -> bool:
    """Whether a host name of an address is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token_path(value: object) -> str:
    write = 'a path such as "/visitor-identification/2026-09/tokens/create"'
    return _text("TOKEN_PATH", value, r"/[A-Za-z0-9._~/-]*", write)


def _choice(key: str, *choices: str | None) -> Callable[[object], Any]:
    def validate(value: object) -> object:
        if not ((isinstance(value, str) or value is None) and value in choices):
            problem = "is none of the known values" if isinstance(value, str) else f"is a {kind(value)}"
            raise wrong(key, problem, " or ".join(repr(choice) for choice in choices))
        return value

    return validate


def _portal_id(value: object) -> str | None:
    if value is None or value == "":
        return None
    write = 'the number HubSpot calls "Hub ID", such as "1234567", or None'
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if 0 <= value < 10**20 else "another number"
    return _text("PORTAL_ID", value, r"[0-9]{1,20}", write)


def _region(value: object) -> str:
    return _text("REGION", value, r"[a-z]{2}[0-9]", 'a region of HubSpot, such as "na1" or "eu1"')


def _callable(key: str, value: object, write: str) -> Callable[..., Any]:
    if isinstance(value, str):
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value):
            raise wrong(key, "is text, but no dotted path", write)
        value = _imported(key, value, write)
    if not callable(value):
        raise wrong(key, f"is a {kind(value)}", write)
    if _is_async(value):  # a coroutine is true, whatever it would return
        raise wrong(key, "is asynchronous", write)
    return value


def _imported(key: str, path: str, write: str) -> object:
    try:
        return import_string(path)
    except Exception as error:  # a module with a mistake raises anything
        if not isinstance(error, ModuleNotFoundError) or not f"{path}.".startswith(f"{error.name}."):
            raise wrong(key, f"can't be imported ({type(error).__name__}: {error})", write) from error
    # Outside of the handler: the error quotes the path, which may be no path at all, but a key with dots.
    raise wrong(key, "can't be imported (there is no such module)", write)


def truth(key: str, answer: object) -> bool:
    """What a callable in the settings answered to a question of yes or no.

    Raises:
        ConfigurationError: it answered with a coroutine or the like, which would count as "yes" whatever it held.
    """
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()  # or Python complains of it
        raise wrong(key, "returned an awaitable", "a callable that is not asynchronous")
    return bool(answer)


def _is_async(value: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__)


def _visitor(value: object) -> Callable[..., Any]:
    return _callable("VISITOR", value, "a callable (user, request) -> Visitor or None, or its dotted path")


def _email_verified(value: object) -> Callable[..., Any] | bool | None:
    if value is True or value is False:
        return value
    write = (
        "True if all addresses in the user table have been verified, a callable (user, email) -> bool or its dotted "
        "path, or False to show the chat without identifying anyone"
    )
    if value is not None:
        return _callable("EMAIL_VERIFIED", value, write)
    if not apps.is_installed("allauth.account"):
        raise wrong("EMAIL_VERIFIED", "is missing", write)
    return None  # django-allauth's record decides


def _impersonated(value: object) -> Callable[..., Any] | None:
    return (
        None if value is None else _callable("IMPERSONATED", value, "a callable (request) -> bool, or its dotted path")
    )


def _enabled(value: object) -> Callable[..., Any] | bool:
    if value is True or value is False:
        return value
    return _callable("ENABLED", value, "True, False, or a callable (request) -> bool or its dotted path")


CHOOSER = "a callable (request) -> name of an account or None, or its dotted path"


def _choose_account(value: object) -> Callable[..., Any] | None:
    return None if value is None else _callable("CHOOSE_ACCOUNT", value, CHOOSER)


def _widget(value: object) -> Mapping[str, str | bool]:
    if not isinstance(value, Mapping):
        raise wrong("WIDGET", f"is a {kind(value)}", "a dict of options of HubSpot's widget")
    for option, given in value.items():
        check_widget_option(option, given, "HUBSPOT_IDENTIFY['WIDGET']")
    return MappingProxyType({"avoidInlineStyles": True, **value})


_WORDS: Mapping[object, str] = {bool: "True or False", str: "text"}


def check_widget_option(option: object, value: object, where: str) -> None:
    """Raise a ConfigurationError for an option that the widget would refuse: a wrong type stops it at start-up.

    Options that HubSpot has not documented pass, for it may add some; the system checks report them.
    """
    if not isinstance(option, str):
        problem, hint = f"{where} has an option that is a {kind(option)}.", "Write its name as text."
        raise ConfigurationError(problem, setting="WIDGET", hint=hint)
    where = f"{where}[{option!r}]"
    if option in IDENTITY_OPTIONS:
        problem, hint = f"{where} would identify all visitors as one.", "Leave it out, the app supplies it."
        raise ConfigurationError(problem, setting="WIDGET", hint=hint)
    wanted = WIDGET_OPTIONS.get(option, (bool, str))
    if not any(isinstance(value, one) if isinstance(one, type) else value == one for one in wanted):
        hint = f"Write {' or '.join(_WORDS.get(one, repr(one)) for one in wanted)}."
        raise ConfigurationError(f"{where} is a {kind(value)}.", setting="WIDGET", hint=hint)


def _number(key: str, least: float, most: float, write: str) -> Callable[[object], float]:
    def validate(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong(key, f"is a {kind(value)}", write)
        if not least <= value <= most:  # which nan is not either
            raise wrong(key, "is too little or too much", write)
        return value

    return validate


def _rate_limit(value: object) -> int:
    write = "a whole number of calls a second from 1 to 1000 (10; for Professional accounts 17)"
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong("RATE_LIMIT", f"is a {kind(value)}", write)
    if not 1 <= value <= 1000:
        raise wrong("RATE_LIMIT", "is too little or too much", write)
    return value


def _cache(value: object) -> str:
    write = f"an alias from settings.CACHES ({listed(settings.CACHES)})"
    if not isinstance(value, str):
        raise wrong("CACHE", f"is a {kind(value)}", write)
    if value not in settings.CACHES:
        raise wrong("CACHE", "is none of the known values", write)
    return value


def _accounts(value: object) -> Mapping[str, Mapping[str, Any]]:
    """The accounts as they are. There may be thousands, so each is validated by :func:`account_overrides`."""
    if not isinstance(value, Mapping):
        raise wrong("ACCOUNTS", f"is a {kind(value)}", 'a dict such as {"eu": {"API_KEY": …, "PORTAL_ID": …}}')
    return value


def account_overrides(name: object, overrides: object) -> dict[str, Any]:
    """Validate the name of an account and the keys of its settings, and return a copy of these settings."""
    _text("ACCOUNTS", name, r"[A-Za-z0-9_-]{1,50}", "names of letters, digits, - and _, since they stand in URLs")
    where = f"HUBSPOT_IDENTIFY['ACCOUNTS'][{name!r}]"
    values = settings_dict(overrides, where)
    check_keys(values, where)
    for key in ("ACCOUNTS", "CHOOSE_ACCOUNT"):
        if key in values:
            raise ConfigurationError(f"{where} has {key}.", setting=key, hint="Write it once, outside of ACCOUNTS.")
    return values


#: The keys of ``HUBSPOT_IDENTIFY``, and what turns what a site wrote into what :class:`~.conf.Config` holds.
VALIDATORS: Mapping[str, Callable[[Any], Any]] = {
    "API_KEY": _api_key,
    "BASE_URL": _base_url,
    "TOKEN_PATH": _token_path,
    "AUTH_SCHEME": _choice("AUTH_SCHEME", "bearer", "hapikey"),
    "PORTAL_ID": _portal_id,
    "REGION": _region,
    "LOADER_URL": _loader_url,
    "VISITOR": _visitor,
    "EMAIL_VERIFIED": _email_verified,
    "IMPERSONATED": _impersonated,
    "ENABLED": _enabled,
    "WIDGET": _widget,
    "LOAD_ON": _choice("LOAD_ON", "page", "idle", "interaction"),
    "DELIVERY": _choice("DELIVERY", "deferred", "inline", None),
    "PAGE_WAIT": _number("PAGE_WAIT", 0, 10, "seconds from 0 to 10, such as 1.0"),
    "TIMEOUT": _number("TIMEOUT", 0.1, 30, "seconds from 0.1 to 30, such as 3.0"),
    "RATE_LIMIT": _rate_limit,
    "CACHE": _cache,
    "ACCOUNTS": _accounts,
    "CHOOSE_ACCOUNT": _choose_account,
}
