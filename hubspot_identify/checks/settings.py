"""System checks of the settings, and of what the tag needs: URLs and static files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error, Info, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.template import engines

from ..conf import IDENTITY_OPTIONS, VERIFICATION_RECIPES, WIDGET_OPTIONS, AccountSettings, Config
from ..delivery import ROUTE, endpoint_url, is_inline, resolves_to_app
from ..exceptions import ConfigurationError
from ..visitors import user_email_field, user_visitor
from .accounts import account_names, enabled_configs, without_duplicates

#: ``manage.py check --tag hubspot_identify`` runs only these checks.
TAG = "hubspot_identify"
IDENTIFIED_PAGE_MIDDLEWARE = "hubspot_identify.middleware.IdentifiedPageMiddleware"


@register(TAG)
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check the settings of each account, and what the tag needs. Nothing is checked if ``ENABLED`` is ``False``."""
    source = getattr(settings, "HUBSPOT_IDENTIFY", None)
    messages: list[CheckMessage] = []
    for account in account_names(source):
        messages += _check_values(source, account)
    configs = enabled_configs(source)
    for config in configs:
        written = AccountSettings(source, config.account)
        messages += _check_delivery(config, written)
        messages += _check_auth_scheme(config, written)
        messages += _check_email_verified(config, written)
        messages += _check_portal_id(config, written)
        messages += _check_page_caches(config, written)
        messages += _check_user_model(config, written)
    if configs:
        messages += _check_static_files()
        messages += _check_jinja()
    return without_duplicates(messages)


def _check_values(source: object, account: str) -> Iterator[CheckMessage]:
    """Report all errors of an account, of which ``build_config()`` raises the first."""
    try:
        written = AccountSettings(source, account)
    except ConfigurationError as error:
        yield Error(error.problem, hint=error.hint, id="hubspot_identify.E001")
        return
    if written.is_disabled:
        return
    for each in written.parse_all()[1]:
        yield Error(each.problem, hint=each.hint, id="hubspot_identify.E001")
    for each in written.option_errors():
        yield Error(each.problem, hint=each.hint, id="hubspot_identify.E002")
    yield from _check_unknown_options(written)


def _check_unknown_options(written: AccountSettings) -> Iterator[CheckMessage]:
    options = written.values.get("WIDGET")
    known = {option.lower(): option for option in WIDGET_OPTIONS}
    for option in options if isinstance(options, Mapping) else ():
        if not isinstance(option, str) or option in WIDGET_OPTIONS or option in IDENTITY_OPTIONS:
            continue
        nearest = difflib.get_close_matches(option.lower(), known, n=1)
        advice = f"Did you mean {known[nearest[0]]!r}?" if nearest else f"Known options: {', '.join(WIDGET_OPTIONS)}."
        yield Error(
            f"{written.name_of('WIDGET')} contains the unknown option {option!r}.",
            hint=f"{advice} If HubSpot has added the option, add hubspot_identify.E003 to SILENCED_SYSTEM_CHECKS.",
            id="hubspot_identify.E003",
        )


def _check_delivery(config: Config, written: AccountSettings) -> Iterator[CheckMessage]:
    if not getattr(settings, "ROOT_URLCONF", None):
        return
    endpoint = endpoint_url(config)
    if endpoint is not None:
        if not resolves_to_app(endpoint) and not is_inline(config):
            yield Error(
                f"{endpoint} does not lead to the app, because another URL pattern precedes it. No visitor can be "
                "identified.",
                hint=f"Move {ROUTE} to the top of urlpatterns in {settings.ROOT_URLCONF}.",
                id="hubspot_identify.E007",
            )
    elif config.load_on == "interaction" or config.delivery == "deferred":
        key = "LOAD_ON" if config.load_on == "interaction" else "DELIVERY"
        yield Error(
            f"The URLconf does not include the app's URLs, but {written.name_of(key)} requires them.",
            hint=f"Add {ROUTE} to urlpatterns in {settings.ROOT_URLCONF}, or leave out {key}.",
            id="hubspot_identify.E004",
        )
    elif config.delivery is None:
        yield Warning(
            "The URLconf does not include the app's URLs, so each page contains the identity of its visitor. Pages may "
            "wait for HubSpot and must not be cached.",
            hint=f"Add {ROUTE} to urlpatterns in {settings.ROOT_URLCONF}. If the identity is to be in the pages, write "
            "HUBSPOT_IDENTIFY['DELIVERY'] = \"inline\".",
            id="hubspot_identify.W001",
        )


def _check_auth_scheme(config: Config, written: AccountSettings) -> Iterator[CheckMessage]:
    host = urlsplit(config.base_url).hostname or ""
    if config.auth_scheme == "hapikey" and re.search(r"(^|\.)(hubapi|hubspot)\.com$", host):
        yield Error(
            f'{written.name_of("AUTH_SCHEME")} is "hapikey", which HubSpot has not accepted since 30 November 2022.',
            hint="Leave out AUTH_SCHEME, and set API_KEY to the access token of a private app or to a service key.",
            id="hubspot_identify.E006",
        )


def _check_email_verified(config: Config, written: AccountSettings) -> Iterator[CheckMessage]:
    # The ID W002 is retired and must not be reused. A missing EMAIL_VERIFIED is E001.
    has_allauth = apps.is_installed("allauth.account")
    if config.email_verified is True and has_allauth:
        yield Warning(
            f"{written.name_of('EMAIL_VERIFIED')} is True, so django-allauth's record of verified addresses is "
            "ignored. A user who signs up with another person's address could read that person's conversations.",
            hint="Leave out EMAIL_VERIFIED. If all addresses in the user table have been verified, add "
            "hubspot_identify.W012 to SILENCED_SYSTEM_CHECKS.",
            id="hubspot_identify.W012",
        )
    if config.email_verified is False:
        if has_allauth:
            advice = "Leave out EMAIL_VERIFIED to use django-allauth's record."
        else:
            advice = (
                "Write True if all addresses in the user table have been verified, or a callable (user, email) -> bool "
                f"or its dotted path. {VERIFICATION_RECIPES}."
            )
        yield Warning(
            f"{written.name_of('EMAIL_VERIFIED')} is False, so the chat is shown but no visitor is identified.",
            hint=f"{advice} If no visitor is to be identified, add hubspot_identify.W014 to SILENCED_SYSTEM_CHECKS.",
            id="hubspot_identify.W014",
        )


def _check_portal_id(config: Config, written: AccountSettings) -> Iterator[CheckMessage]:
    # An environment variable that is not set may become an empty string. Config contains None for it.
    if config.loader is None and written.values.get("PORTAL_ID") == "":
        yield Warning(
            f"{written.name_of('PORTAL_ID')} is empty, so the tag does not load the chat.",
            hint='Write the number HubSpot calls "Hub ID", or None if the pages contain HubSpot\'s embed code.',
            id="hubspot_identify.W013",
        )


def _check_page_caches(config: Config, written: AccountSettings) -> Iterator[CheckMessage]:
    if not callable(config.enabled):
        return
    browser = "let the browser decide, as docs/consent.rst shows"
    if apps.is_installed("cms") and getattr(settings, "CMS_PAGE_CACHE", True):
        cache, hint = "django CMS's page cache", f"Write CMS_PAGE_CACHE = False in the settings, or {browser}."
    elif (
        apps.is_installed("wagtailcache")
        and getattr(settings, "WAGTAIL_CACHE", True)
        and [*settings.MIDDLEWARE][-1:] != [IDENTIFIED_PAGE_MIDDLEWARE]
    ):
        cache = "wagtail-cache"
        hint = (
            f'Put "{IDENTIFIED_PAGE_MIDDLEWARE}" into MIDDLEWARE twice, first and last. If ENABLED reads a cookie, '
            "also write WAGTAIL_CACHE_IGNORE_COOKIES = False, because wagtail-cache removes cookies from requests. "
            f"Alternatively, {browser}."
        )
    else:
        return
    yield Warning(
        f"{written.name_of('ENABLED')} is a callable, but {cache} may serve the page of one visitor to other visitors, "
        "who may have decided differently.",
        hint=hint,
        id="hubspot_identify.W015",
    )


def _check_user_model(config: Config, written: AccountSettings) -> Iterator[CheckMessage]:
    if (model := user_model_without_email(config)) is not None:
        yield Warning(
            f"The user model {model._meta.label} has no field {user_email_field(model)!r} for the e-mail address, so "
            "no visitor is identified.",
            hint=f"Set EMAIL_FIELD of the model to the name of the field with the address, or "
            f"{written.name_of('VISITOR')} to a callable (user, request) -> Visitor or None, or its dotted path.",
            id="hubspot_identify.W016",
        )


def user_model_without_email(config: Config) -> Any:
    """Return the user model if the app reads the address itself and the model has none, or ``None``."""
    if config.visitor is not user_visitor or not apps.is_installed("django.contrib.auth"):
        return None
    try:
        model = get_user_model()
    except (ImproperlyConfigured, AttributeError):
        return None  # the site reports it itself
    return None if hasattr(model, user_email_field(model)) else model


def _check_jinja() -> Iterator[CheckMessage]:
    for engine in engines.all():
        # Jinja backends are recognised by their environments: Jinja may be missing, and backends may be subclasses.
        functions = getattr(getattr(engine, "env", None), "globals", None)
        if functions is not None and "hubspot_identify" not in functions:
            yield Info(
                f"Templates of the backend {engine.name!r} cannot call hubspot_identify(), so they have no chat.",
                hint=f'Add "hubspot_identify.jinja2.HubSpotIdentifyExtension" to "extensions" in the OPTIONS of '
                f"{engine.name!r} in TEMPLATES. If none of its templates is a page with the chat, add "
                "hubspot_identify.I002 to SILENCED_SYSTEM_CHECKS.",
                id="hubspot_identify.I002",
            )


def _check_static_files() -> Iterator[CheckMessage]:
    if not settings.STATIC_URL:
        yield Error(
            "STATIC_URL is not set, so the tag cannot determine the URL of its script.",
            hint='Write STATIC_URL = "static/" in the settings.',
            id="hubspot_identify.E005",
        )
    if not apps.is_installed("django.contrib.staticfiles"):
        yield Warning(
            "django.contrib.staticfiles is not installed, so nothing serves or collects the app's script.",
            hint='Add "django.contrib.staticfiles" to INSTALLED_APPS. If you serve the folder hubspot_identify/static '
            "yourself, add hubspot_identify.W003 to SILENCED_SYSTEM_CHECKS.",
            id="hubspot_identify.W003",
        )
