"""System checks. Their ids are stable, their hints say what to type, and none shows a secret.

Here are those of the settings; advice on the server is in :mod:`.deployment`. Where ``ENABLED`` is ``False``, nothing
of all this is looked at.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from ..conf import Config, build_config, values_of
from ..delivery import endpoint_url, is_inline, resolves_to_app
from ..exceptions import ConfigurationError
from ..validation import WIDGET_OPTIONS, account_overrides, check_widget_option

#: ``manage.py check --tag hubspot_identify`` runs these checks alone.
TAG = "hubspot_identify"


@register(TAG)
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """``HUBSPOT_IDENTIFY`` itself, and what has to be there for the tag to work."""
    source = getattr(settings, "HUBSPOT_IDENTIFY", None)
    messages: list[CheckMessage] = []
    if not _is_off(source):
        messages += _problems_of_each(source, "HUBSPOT_IDENTIFY")
    for account, overrides in _accounts(source).items():
        if not _is_off(overrides):
            messages += _problems_of_each(overrides, f"HUBSPOT_IDENTIFY['ACCOUNTS'][{account!r}]")
    if not any(message.id in ("hubspot_identify.E001", "hubspot_identify.E002") for message in messages):
        messages += _problems_of_all(source)
    configs = configs_of(source)
    for config in configs:
        messages += [
            *_delivery_problems(config),
            *_credential_problems(config),
            *_verification_problems(config, source),
        ]
        messages += _chat_problems(config, source)
    if configs:
        messages += _static_problems()
    return unique(messages)


def _is_off(source: object) -> bool:
    return isinstance(source, Mapping) and source.get("ENABLED") is False


def _accounts(source: object) -> dict[str, Mapping[Any, Any]]:
    accounts = source.get("ACCOUNTS") if isinstance(source, Mapping) else None
    if not isinstance(accounts, Mapping):
        return {}
    return {name: value for name, value in accounts.items() if isinstance(name, str) and isinstance(value, Mapping)}


def account_names(source: object) -> list[str]:
    """The accounts a page can be of. ``""`` is the settings themselves, which need not be one beside the others."""
    names = list(_accounts(source))
    return names if names and isinstance(source, Mapping) and "API_KEY" not in source else ["", *names]


def configs_of(source: object) -> list[Config]:
    """The accounts whose settings are right and which are not switched off."""
    configs = []
    for account in account_names(source):
        try:
            config = build_config(source, account)
        except ConfigurationError:
            continue
        if config.enabled is not False:
            configs.append(config)
    return configs


def _problems_of_each(source: object, where: str) -> Iterator[CheckMessage]:
    """What is wrong with single settings: all of it, where ``build_config`` stops at the first."""
    required = {"API_KEY": "any", "EMAIL_VERIFIED": True}
    for key, value in source.items() if isinstance(source, Mapping) else ():
        if key == "EMAIL_VERIFIED" and value is None:
            continue  # the same as a missing one, which _problems_of_all() reports
        if key == "WIDGET" and isinstance(value, Mapping):
            yield from _option_problems(value, f"{where}['WIDGET']")
        elif key == "ACCOUNTS" and isinstance(value, Mapping):
            yield from _account_problems(value)
        else:
            yield from _setting_problem({**required, key: value}, "", where)


def _account_problems(accounts: Mapping[Any, Any]) -> Iterator[CheckMessage]:
    """What is wrong with the names of accounts and the keys of their settings."""
    for name, overrides in accounts.items():
        try:
            account_overrides(name, overrides)
        except ConfigurationError as error:
            yield _setting_error(error.problem, error.hint)


def _problems_of_all(source: object) -> Iterator[CheckMessage]:
    """What is missing, or wrong with settings that are right by themselves."""
    accounts = _accounts(source)
    for account in account_names(source):
        where = f"HUBSPOT_IDENTIFY['ACCOUNTS'][{account!r}]" if account else "HUBSPOT_IDENTIFY"
        # Accounts that inherit a missing EMAIL_VERIFIED share one error, because it is best set once for all of them.
        inherits = account and "EMAIL_VERIFIED" not in accounts[account]
        yield from _setting_problem(source, account, where, shared="EMAIL_VERIFIED" if inherits else None)


def _setting_problem(source: object, account: str, where: str, shared: str | None = None) -> Iterator[CheckMessage]:
    try:
        build_config(source, account)
    except ConfigurationError as error:
        problem = error.problem
        if error.setting != shared and not problem.startswith(where):
            problem = problem.replace("HUBSPOT_IDENTIFY", where, 1)
        yield _setting_error(problem, error.hint)


def _setting_error(problem: str, hint: str) -> CheckMessage:
    return Error(problem, hint=hint, id="hubspot_identify.E001")


def _option_problems(options: Mapping[Any, Any], where: str) -> Iterator[CheckMessage]:
    for option, value in options.items():
        try:
            check_widget_option(option, value, where)
        except ConfigurationError as error:
            yield Error(error.problem, hint=error.hint, id="hubspot_identify.E002")
            continue
        if option not in WIDGET_OPTIONS:
            right = {known.lower(): known for known in WIDGET_OPTIONS}
            nearest = difflib.get_close_matches(option.lower(), right, n=1)
            advice = f"Write {right[nearest[0]]!r}" if nearest else f"There are {', '.join(WIDGET_OPTIONS)}"
            yield Error(
                f"{where} has an option {option!r}, which HubSpot's widget does not know.",
                hint=f"{advice}; or, if HubSpot has it by now, add hubspot_identify.E003 to SILENCED_SYSTEM_CHECKS.",
                id="hubspot_identify.E003",
            )


def _delivery_problems(config: Config) -> Iterator[CheckMessage]:
    if not getattr(settings, "ROOT_URLCONF", None):
        return
    endpoint = endpoint_url(config)
    route = 'path("hubspot/", include("hubspot_identify.urls"))'
    if endpoint is not None:
        if not resolves_to_app(endpoint) and not is_inline(config, endpoint):
            yield Error(
                f"{endpoint} does not lead to the app: another URL pattern comes first, and nobody is identified.",
                hint=f"Move {route} to the top of urlpatterns in {settings.ROOT_URLCONF}.",
                id="hubspot_identify.E007",
            )
    elif config.load_on == "interaction" or config.delivery == "deferred":
        reason = "LOAD_ON" if config.load_on == "interaction" else "DELIVERY"
        yield Error(
            f"The app's URLs are not routed, and HUBSPOT_IDENTIFY[{reason!r}] needs them.",
            hint=f"Add {route} to urlpatterns in {settings.ROOT_URLCONF}, or leave out {reason}.",
            id="hubspot_identify.E004",
        )
    elif config.delivery is None:
        yield Warning(
            "The app's URLs are not routed, so each page holds the identity of its visitor: it may wait for HubSpot, "
            "and no cache may keep it.",
            hint=f"Add {route} to urlpatterns in {settings.ROOT_URLCONF}; or, if that is what you want, write "
            "HUBSPOT_IDENTIFY['DELIVERY'] = \"inline\".",
            id="hubspot_identify.W001",
        )


def _chat_problems(config: Config, source: object) -> Iterator[CheckMessage]:
    # Empty as a variable of the environment is that is not set. In the config that is None as well.
    if config.loader is None and values_of(source, config.account).get("PORTAL_ID") == "":
        yield Warning(
            "HUBSPOT_IDENTIFY['PORTAL_ID'] is empty, so the tag brings no chat.",
            hint='Write the number HubSpot calls "Hub ID"; or None, where HubSpot\'s embed code is in the pages.',
            id="hubspot_identify.W013",
        )


def _credential_problems(config: Config) -> Iterator[CheckMessage]:
    host = urlsplit(config.base_url).hostname or ""
    if config.auth_scheme == "hapikey" and re.search(r"(^|\.)(hubapi|hubspot)\.com$", host):
        yield Error(
            "HUBSPOT_IDENTIFY['AUTH_SCHEME'] is \"hapikey\", which HubSpot switched off on 30 November 2022.",
            hint="Leave out AUTH_SCHEME, and write the access token of a private app or a service key into API_KEY.",
            id="hubspot_identify.E006",
        )


def _verification_problems(config: Config, source: object) -> Iterator[CheckMessage]:
    # The id W002 is retired and must not be reused. A missing EMAIL_VERIFIED is E001.
    has_allauth = apps.is_installed("allauth.account")
    if config.email_verified is True and has_allauth:
        yield Warning(
            "HUBSPOT_IDENTIFY['EMAIL_VERIFIED'] is True, so django-allauth's record of verified addresses is ignored: "
            "a user who signs up with another person's address could read that person's conversations.",
            hint="Leave out EMAIL_VERIFIED; or, if all addresses in the user table have been verified, add "
            "hubspot_identify.W012 to SILENCED_SYSTEM_CHECKS.",
            id="hubspot_identify.W012",
        )
    if config.email_verified is False:
        advice = (
            "Leave out EMAIL_VERIFIED, so that django-allauth's record decides"
            if has_allauth
            else "Write True if all addresses in the user table have been verified, or a callable (user, email) -> "
            "bool or its dotted path"
        )
        own = "EMAIL_VERIFIED" in _accounts(source).get(config.account, {})
        where = f"HUBSPOT_IDENTIFY['ACCOUNTS'][{config.account!r}]" if own else "HUBSPOT_IDENTIFY"
        yield Warning(
            f"{where}['EMAIL_VERIFIED'] is False, so the chat is shown but no visitor is identified.",
            hint=f"{advice}; or, if no visitor is to be identified, add hubspot_identify.W014 to "
            "SILENCED_SYSTEM_CHECKS.",
            id="hubspot_identify.W014",
        )


def _static_problems() -> Iterator[CheckMessage]:
    if not settings.STATIC_URL:
        yield Error(
            "STATIC_URL is not set, so the tag can't say where its script is.",
            hint='Write STATIC_URL = "static/" into the settings.',
            id="hubspot_identify.E005",
        )
    if not apps.is_installed("django.contrib.staticfiles"):
        yield Warning(
            "django.contrib.staticfiles is not installed, so nothing serves or collects the app's script.",
            hint='Add "django.contrib.staticfiles" to INSTALLED_APPS; or serve the folder hubspot_identify/static '
            "yourself, and add hubspot_identify.W003 to SILENCED_SYSTEM_CHECKS.",
            id="hubspot_identify.W003",
        )


def unique(messages: Iterable[CheckMessage]) -> list[CheckMessage]:
    """Several accounts share most settings, and so their mistakes."""
    return list({(message.id, message.msg, message.hint): message for message in messages}.values())
