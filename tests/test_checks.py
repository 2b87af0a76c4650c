"""The system checks: which problems they report, with which IDs, and what their hints contain."""

from __future__ import annotations

import re
import sys
import types
from io import StringIO
from pathlib import Path
from typing import Any

import jinja2
import pytest
from django.core.cache.backends.base import BaseCache
from django.core.checks import ERROR, CheckMessage, run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection
from django.http import HttpResponse
from django.urls import clear_script_prefix, include, path, re_path, set_script_prefix
from pytest_django import Settings
from support.manual import code_blocks
from support.pages import EXTENSION
from support.site import urlconf

from hubspot_identify.checks.deployment import check_deployment
from hubspot_identify.checks.settings import TAG, check_settings
from hubspot_identify.conf import get_config
from hubspot_identify.exceptions import ConfigurationError
from hubspot_identify.jinja2 import hubspot_identify

KEY = "pat-na1-secret-of-the-site"
GOOD: dict[str, Any] = {
    "API_KEY": KEY,
    "PORTAL_ID": "123",
    "EMAIL_VERIFIED": True,
    "WIDGET": {"hideNewThreadLink": True},
}
EU = "HUBSPOT_IDENTIFY['ACCOUNTS']['eu']"
INVALID_SETTING = "hubspot_identify.E001"
SHARED = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1"}
WITH_TIMEOUT = {**SHARED, "OPTIONS": {"socket_timeout": 0.5}}
IDENTIFIED_PAGE = "hubspot_identify.middleware.IdentifiedPageMiddleware"
SECURITY = "django.middleware.security.SecurityMiddleware"
INSTALLED = ("django.contrib.auth", "django.contrib.staticfiles")
UPDATE_CACHE = "django.middleware.cache.UpdateCacheMiddleware"


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id).removeprefix("hubspot_identify.") for message in messages]


@pytest.fixture(autouse=True)
def correct_site(settings: Settings) -> None:
    """A site without problems, in which each test introduces one."""
    settings.HUBSPOT_IDENTIFY = GOOD
    settings.CACHES = {"default": WITH_TIMEOUT}
    settings.SECURE_REFERRER_POLICY = "strict-origin-when-cross-origin"
    settings.MIDDLEWARE = [SECURITY, *settings.MIDDLEWARE]


def test_correct_site_has_no_messages() -> None:
    """Neither check reports anything for a site that follows the README."""
    assert check_settings() + check_deployment() == []


def test_commands_run_the_checks(settings: Settings) -> None:
    """``check`` fails for a missing key. It checks the server with ``--deploy`` only."""
    settings.HUBSPOT_IDENTIFY = {"PORTAL_ID": "123"}
    with pytest.raises(SystemCheckError, match=INVALID_SETTING):
        call_command("check", stderr=StringIO())
    settings.HUBSPOT_IDENTIFY = GOOD
    settings.CACHES = {"default": SHARED}
    assert ids(run_checks(tags=[TAG])) == []
    assert ids(run_checks(tags=[TAG], include_deployment_checks=True)) == ["W008"]
    output = StringIO()
    call_command("check", tags=[TAG], deploy=True, stderr=output)
    assert "(hubspot_identify.W008)" in output.getvalue()


@pytest.mark.parametrize(
    ("source", "place", "in_hint"),
    [
        (None, "HUBSPOT_IDENTIFY", '"API_KEY"'),
        ({"EMAIL_VERIFIED": True}, "HUBSPOT_IDENTIFY['API_KEY']", "HUBSPOT_IDENTIFY['ENABLED']"),
        ({**GOOD, "PORTAL_ID": KEY}, "HUBSPOT_IDENTIFY['PORTAL_ID']", "None"),
        ({**GOOD, "TIMEOUTS": 2}, "HUBSPOT_IDENTIFY", "'TIMEOUT'"),
        ({**GOOD, "LOAD_ON": "interaction", "DELIVERY": "inline"}, "HUBSPOT_IDENTIFY['LOAD_ON']", "DELIVERY"),
        ({**GOOD, "ACCOUNTS": {"eu": {"PORTAL": 1}}}, EU, "'PORTAL_ID'"),
        ({**GOOD, "ACCOUNTS": {"eu": {"REGION": "EU"}}}, f"{EU}['REGION']", '"eu1"'),
        ({"EMAIL_VERIFIED": True, "ACCOUNTS": {"eu": {"PORTAL_ID": 1}}}, f"{EU}['API_KEY']", ""),
    ],
)
def test_invalid_settings_are_errors_with_their_place(
    settings: Settings, source: object, place: str, in_hint: str
) -> None:
    """A missing or invalid setting is one error of plain ``check``, with its place, a hint and no value."""
    settings.HUBSPOT_IDENTIFY = source
    (message,) = check_settings()
    assert (message.id, message.level) == (INVALID_SETTING, ERROR)
    assert place in message.msg
    assert message.hint
    assert in_hint in message.hint
    assert KEY not in str(message)


def test_all_invalid_settings_are_reported_at_once(settings: Settings) -> None:
    """Each is reported once, although an account inherits them."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "TIMEOUT": "3", "REGION": 1, "ACCOUNTS": {"eu": {"LOAD_ON": "never"}}}
    messages = check_settings()
    assert ids(messages) == ["E001"] * 3
    for place in ("HUBSPOT_IDENTIFY['TIMEOUT']", "HUBSPOT_IDENTIFY['REGION']", f"{EU}['LOAD_ON']"):
        assert [place in message.msg for message in messages].count(True) == 1


def test_accounts_make_the_settings_around_them_optional(settings: Settings) -> None:
    """With accounts, the settings around them need no key. Those that exist are checked."""
    settings.HUBSPOT_IDENTIFY = {"EMAIL_VERIFIED": True, "ACCOUNTS": {"eu": {"API_KEY": KEY, "PORTAL_ID": 1}}}
    assert check_settings() == []
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "TIMEOUT": 0}
    assert ids(check_settings()) == ["E001"]


@pytest.mark.parametrize(
    ("options", "expected", "in_hint"),
    [
        ({"enableWidgetCookieBanner": "ALWAYS"}, "E002", "'ON_EXIT_INTENT'"),
        ({1: True}, "E002", ""),
        ({"avoidinlinestyle": True}, "E003", "'avoidInlineStyles'"),
        ({"colour": "red"}, "E003", "loadImmediately, inlineEmbedSelector, "),
    ],
)
def test_invalid_widget_option_is_an_error(
    settings: Settings, options: dict[Any, Any], expected: str, in_hint: str
) -> None:
    """Options of a wrong type and unknown options have different IDs. The hint shows the nearest option."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "WIDGET": options}
    (message,) = check_settings()
    assert ids([message]) == [expected]
    assert "HUBSPOT_IDENTIFY['WIDGET']" in message.msg
    assert message.hint
    assert in_hint in message.hint


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"PORTAL_ID": ""}, ["W013"]),
        ({"PORTAL_ID": None}, []),
        ({"PORTAL_ID": "", "LOADER_URL": "/loader.js"}, []),
        ({"ACCOUNTS": {"eu": {"PORTAL_ID": ""}}}, ["W013"]),
    ],
)
def test_empty_portal_id_is_a_warning(settings: Settings, extra: dict[str, Any], expected: list[str]) -> None:
    """An empty string is an environment variable that is not set. ``None`` is intended."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, **extra}
    assert ids(check_settings()) == expected


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, ["W001"]),
        ({"DELIVERY": "inline"}, []),
        ({"DELIVERY": "deferred"}, ["E004"]),
        ({"LOAD_ON": "interaction"}, ["E004"]),
    ],
)
def test_missing_urls_are_reported(settings: Settings, extra: dict[str, Any], expected: list[str]) -> None:
    """Without the app's URLs, a setting that needs them is an error, and the fallback to inline a warning."""
    settings.ROOT_URLCONF = urlconf()
    settings.HUBSPOT_IDENTIFY = {**GOOD, **extra}
    assert ids(check_settings()) == expected


APP_URLS = path("hubspot/", include("hubspot_identify.urls"))
ANYTHING = re_path("", lambda request: HttpResponse())


@pytest.mark.parametrize(
    ("patterns", "extra", "expected"),
    [
        ([APP_URLS, ANYTHING], {}, []),
        ([path("live chat/año/", include("hubspot_identify.urls")), ANYTHING], {}, []),
        ([ANYTHING, APP_URLS], {}, ["E007"]),
        ([ANYTHING, APP_URLS], {"DELIVERY": "inline"}, []),
    ],
    ids=["first", "quoted", "after a CMS", "inline"],
)
def test_url_pattern_that_hides_the_app_is_an_error(
    settings: Settings, patterns: list[Any], extra: dict[str, Any], expected: list[str]
) -> None:
    """The app's URLs must come before a catch-all pattern, unless delivery is inline."""
    settings.ROOT_URLCONF = urlconf(*patterns)
    settings.HUBSPOT_IDENTIFY = {**GOOD, **extra}
    assert ids(check_settings()) == expected


def test_urls_below_a_script_name_are_found() -> None:
    """A site need not be at the root of its host."""
    set_script_prefix("/shop/")
    try:
        assert check_settings() == []
    finally:
        clear_script_prefix()


def test_project_without_a_urlconf_needs_no_urls(settings: Settings) -> None:
    """It serves no pages."""
    settings.ROOT_URLCONF = None
    assert check_settings() == []


def test_hapikey_is_an_error_for_hubspot_only(settings: Settings) -> None:
    """HubSpot does not accept the query parameter any more. A proxy may."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "AUTH_SCHEME": "hapikey"}
    assert ids(check_settings()) == ["E006"]
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": "https://nothubapi.com"}
    assert check_settings() == []


UNDECIDED = {key: value for key, value in GOOD.items() if key != "EMAIL_VERIFIED"}
DECIDED = {"EMAIL_VERIFIED": lambda user, email: True}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (UNDECIDED, ["E001"]),
        ({**GOOD, "EMAIL_VERIFIED": None}, ["E001"]),
        ({**UNDECIDED, "ENABLED": False}, []),
        ({**UNDECIDED, "ACCOUNTS": {"eu": {"REGION": "eu1"}, "us": {}}}, ["E001"]),
        ({"ACCOUNTS": {"eu": {"API_KEY": KEY}, "us": {"API_KEY": KEY}}}, ["E001"]),
        ({"EMAIL_VERIFIED": None, "ACCOUNTS": {"eu": {"API_KEY": KEY, **DECIDED}}}, []),
        ({**GOOD, "ACCOUNTS": {"eu": {"EMAIL_VERIFIED": None}, "us": {}}}, ["E001"]),
        ({"ENABLED": False, "ACCOUNTS": {"eu": {"API_KEY": KEY, "ENABLED": True}}}, ["E001"]),
    ],
    ids=["missing", "None", "disabled", "inherited", "accounts only", "by account", "one account", "one enabled"],
)
def test_missing_email_verified_is_one_error(settings: Settings, source: dict[str, Any], expected: list[str]) -> None:
    """The error is reported once, however many settings and accounts there are."""
    settings.HUBSPOT_IDENTIFY = source
    assert ids(check_settings()) == expected


def test_missing_email_verified_has_the_same_text_in_check_and_exception(settings: Settings) -> None:
    """The message of the check is the problem of the exception, and the hints are equal."""
    settings.HUBSPOT_IDENTIFY = UNDECIDED
    (message,) = check_settings()
    with pytest.raises(ConfigurationError) as caught:
        get_config()
    assert (message.msg, message.hint) == (caught.value.problem, caught.value.hint)


def test_missing_email_verified_error_names_the_place_of_the_setting(settings: Settings) -> None:
    """Accounts that inherit the setting share an error; one that overrides it with ``None`` has its own."""
    settings.HUBSPOT_IDENTIFY = {**UNDECIDED, "ACCOUNTS": {"eu": {}}}
    (shared,) = check_settings()
    assert "HUBSPOT_IDENTIFY['EMAIL_VERIFIED']" in shared.msg
    settings.HUBSPOT_IDENTIFY = {**GOOD, "ACCOUNTS": {"eu": {"EMAIL_VERIFIED": None}}}
    (own,) = check_settings()
    assert f"{EU}['EMAIL_VERIFIED']" in own.msg


def test_missing_email_verified_is_accepted_with_allauth(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """django-allauth's record decides, so nothing is reported."""
    monkeypatch.setattr("hubspot_identify.checks.settings.apps.is_installed", lambda name: True)
    settings.HUBSPOT_IDENTIFY = UNDECIDED
    assert check_settings() == []


def test_email_verified_false_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint depends on whether django-allauth is installed."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "EMAIL_VERIFIED": False}
    (alone,) = check_settings()
    monkeypatch.setattr("hubspot_identify.checks.settings.apps.is_installed", lambda name: True)
    (with_allauth,) = check_settings()
    assert ids([alone, with_allauth]) == ["W014", "W014"]
    assert alone.hint is not None
    assert with_allauth.hint is not None
    assert ("(user, email)" in alone.hint, "(user, email)" in with_allauth.hint) == (True, False)


@pytest.mark.parametrize("value", [None, False])
def test_hint_about_email_verified_leads_to_both_recipes(settings: Settings, value: object) -> None:
    """The hint says what to do if the site does not verify addresses, whether the setting is missing or ``False``."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "EMAIL_VERIFIED": value}
    (message,) = check_settings()
    assert {"docs/visitors.rst", "django.core.signing", "django-allauth"} <= {
        *re.findall(r"[\w./-]+\w", str(message.hint))
    }


def test_email_verified_true_is_a_warning_with_allauth(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ignores django-allauth's record of verified addresses. A callable does not cause the warning."""
    monkeypatch.setattr("hubspot_identify.checks.settings.apps.is_installed", lambda name: True)
    assert ids(check_settings()) == ["W012"]
    settings.HUBSPOT_IDENTIFY = {**GOOD, "EMAIL_VERIFIED": lambda user, email: True}
    assert check_settings() == []


CMS, WAGTAIL = {"cms"}, {"wagtailcache"}


@pytest.mark.parametrize(
    ("installed", "values", "expected"),
    [
        (CMS, {}, ["W015"]),
        (CMS, {"CMS_PAGE_CACHE": True}, ["W015"]),
        (CMS, {"CMS_PAGE_CACHE": False}, []),
        (CMS, {"MIDDLEWARE": [IDENTIFIED_PAGE]}, ["W015"]),
        (WAGTAIL, {}, ["W015"]),
        (WAGTAIL, {"MIDDLEWARE": []}, ["W015"]),
        (WAGTAIL, {"MIDDLEWARE": [IDENTIFIED_PAGE, SECURITY]}, ["W015"]),
        (WAGTAIL, {"MIDDLEWARE": (SECURITY, IDENTIFIED_PAGE)}, []),
        (WAGTAIL, {"WAGTAIL_CACHE": False}, []),
        (set(), {}, []),
    ],
)
def test_page_cache_that_would_serve_the_decision_of_another_visitor_is_a_warning(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    installed: set[str],
    values: dict[str, Any],
    expected: list[str],
) -> None:
    """django CMS's cache ignores headers. wagtail-cache obeys the one that the app's middleware has set before."""
    monkeypatch.setattr("hubspot_identify.checks.settings.apps.is_installed", {*INSTALLED, *installed}.__contains__)
    for name, value in values.items():
        setattr(settings, name, value)
    assert check_settings() == []
    settings.HUBSPOT_IDENTIFY = {**GOOD, "ENABLED": lambda request: True}
    messages = check_settings()
    assert ids(messages) == expected
    assert all("docs/consent.rst" in str(message.hint) for message in messages)


@pytest.mark.parametrize(
    ("model", "extra", "expected"),
    [
        ("auth.User", {}, []),
        ("users.OtherField", {}, []),
        ("users.NoEmail", {}, ["W016"]),
        ("users.NoEmail", {"VISITOR": lambda user, request: None}, []),
        ("users.NoEmail", {"ACCOUNTS": {"eu": {}}}, ["W016"]),
        ("users.Missing", {}, []),
    ],
)
def test_user_model_without_an_address_is_a_warning(
    settings: Settings, model: str, extra: dict[str, Any], expected: list[str]
) -> None:
    """The default ``VISITOR`` would identify no visitor. Django itself reports a model that does not exist."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "users"]
    settings.AUTH_USER_MODEL = model
    settings.HUBSPOT_IDENTIFY = {**GOOD, **extra}
    assert ids(check_settings()) == expected
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django.contrib.auth"]
    assert check_settings() == []


def test_jinja_backend_without_the_function_is_reported(settings: Settings) -> None:
    """Each backend is named. The function may come from the extension or from the environment of the site."""
    jinja = {"BACKEND": "django.template.backends.jinja2.Jinja2"}
    own = {**jinja, "NAME": "own", "OPTIONS": {"environment": f"{__name__}.environment_with_the_function"}}
    settings.TEMPLATES = [
        *settings.TEMPLATES,
        {**jinja, "NAME": "pages", "OPTIONS": {"extensions": [EXTENSION]}},
        {**jinja, "NAME": "letters"},
        own,
    ]
    (message,) = check_settings()
    assert ids([message]) == ["I002"]
    assert "'letters'" in message.msg
    assert EXTENSION in str(message.hint)


def environment_with_the_function(**options: Any) -> jinja2.Environment:
    environment = jinja2.Environment(**options)
    environment.globals["hubspot_identify"] = hubspot_identify
    return environment


def test_missing_static_files_are_reported(settings: Settings) -> None:
    """A missing ``STATIC_URL`` is an error, and a missing ``staticfiles`` app a warning."""
    settings.STATIC_URL = None
    settings.INSTALLED_APPS = ["hubspot_identify"]
    assert ids(check_settings()) == ["E005", "W003"]


def test_same_problem_of_two_accounts_is_reported_once(settings: Settings) -> None:
    """Accounts share most of their settings."""
    eu = {"PORTAL_ID": "456", "REGION": "eu1"}
    settings.HUBSPOT_IDENTIFY = {**GOOD, "EMAIL_VERIFIED": False, "ACCOUNTS": {"eu": eu}}
    settings.CACHES = {"default": SHARED}
    assert ids(check_settings() + check_deployment()) == ["W014", "W008"]


def test_warning_about_email_verified_names_the_account(settings: Settings) -> None:
    """If an account overrides the setting, the warning names the account's setting."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "ACCOUNTS": {"eu": {"EMAIL_VERIFIED": False}}}
    (message,) = check_settings()
    assert message.id == "hubspot_identify.W014"
    assert f"{EU}['EMAIL_VERIFIED']" in message.msg


def _cache(name: str, **options: Any) -> dict[str, Any]:
    return {"BACKEND": f"django.core.cache.backends.{name}", **options}


DUMMY = _cache("dummy.DummyCache")


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (_cache("locmem.LocMemCache"), ["W004", "W005"]),
        (_cache("locmem.LocMemCache", OPTIONS={"MAX_ENTRIES": 9999}), ["W004"]),
        (DUMMY, ["W004"]),
        (_cache("filebased.FileBasedCache"), ["W004", "W005"]),
        (_cache("db.DatabaseCache"), ["W005", "W006"]),
        (SHARED, ["W008"]),
        ({**SHARED, "LOCATION": "redis://127.0.0.1:1/0?socket_timeout=1"}, []),
        ({**SHARED, "LOCATION": ["redis://127.0.0.1:1?socket_connect_timeout=1"]}, ["W008"]),
        (_cache("memcached.PyMemcacheCache", LOCATION="127.0.0.1:1", OPTIONS={"timeout": 1}), []),
        ({**SHARED, "OPTIONS": {"behaviors": {"_poll_timeout": 500}}}, []),
        ({**SHARED, "OPTIONS": {"behaviors": {"receive_timeout": 500_000}}}, ["W008"]),
        ({**SHARED, "OPTIONS": {"behaviors": {"dead_timeout": 60}}}, ["W008"]),
        ({"BACKEND": "nowhere.Cache"}, []),
    ],
)
def test_unsuitable_cache_is_a_warning(
    settings: Settings, tmp_path: Path, cache: dict[str, Any], expected: list[str]
) -> None:
    """A cache must be shared, large enough, keep all writes, and have a read timeout."""
    settings.CACHES = {"default": {"LOCATION": str(tmp_path), **cache}}
    assert ids(check_deployment()) == expected
    assert check_settings() == []


def test_only_the_cache_of_the_app_is_checked(settings: Settings) -> None:
    """The default cache does not matter if ``CACHE`` names another one."""
    settings.CACHES = {"default": DUMMY, "chat": WITH_TIMEOUT}
    settings.HUBSPOT_IDENTIFY = {**GOOD, "CACHE": "chat"}
    assert check_deployment() == []


@pytest.mark.parametrize(
    ("module", "name", "options"),
    [
        (
            "django.core.cache.backends.memcached",
            "PyLibMCCache",
            '{"behaviors": {"connect_timeout": 500, "_poll_timeout": 500}}',
        ),
        ("django.core.cache.backends.memcached", "PyMemcacheCache", '{"connect_timeout": 0.5, "timeout": 0.5}'),
        ("django_redis.cache", "RedisCache", '{"SOCKET_CONNECT_TIMEOUT": 0.5, "SOCKET_TIMEOUT": 0.5}'),
        ("django_valkey.cache", "ValkeyCache", '{"SOCKET_CONNECT_TIMEOUT": 0.5, "SOCKET_TIMEOUT": 0.5}'),
        (
            "django.core.cache.backends.redis",
            "RedisCache",
            '{"socket_connect_timeout": 0.5, "socket_timeout": 0.5}',
        ),
    ],
)
def test_hint_for_a_cache_shows_the_timeout_options_of_its_library(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, module: str, name: str, options: str
) -> None:
    """The options can be pasted. The libraries need not be installed."""
    settings.CACHES = {"default": SHARED}
    cache = type(name, (BaseCache,), {"__module__": module})({})
    monkeypatch.setattr("hubspot_identify.checks.deployment.caches", {"default": cache})
    (message,) = check_deployment()
    assert message.hint is not None
    assert f'Add {options} to "OPTIONS"' in message.hint
    assert "CACHES['default']" in message.hint


def test_database_cache_needs_immediate_transactions_outside_of_requests(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite must use immediate transactions, and no database may have ``ATOMIC_REQUESTS``."""
    settings.CACHES = {"default": _cache("db.DatabaseCache", OPTIONS={"MAX_ENTRIES": 10_000})}
    (message,) = check_deployment()
    assert ids([message]) == ["W006"]
    assert message.hint is not None
    assert '"transaction_mode": "IMMEDIATE"' in message.hint
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "transaction_mode", "IMMEDIATE")
    assert check_deployment() == []
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    assert ids(check_deployment()) == ["W007"]


@pytest.mark.parametrize(
    ("middleware", "expected"),
    [
        ([], ["W009"]),
        ([UPDATE_CACHE, IDENTIFIED_PAGE], ["W009"]),
        ([IDENTIFIED_PAGE, UPDATE_CACHE], ["W009"]),
        ([IDENTIFIED_PAGE, UPDATE_CACHE, IDENTIFIED_PAGE, SECURITY], ["W009"]),
        ([SECURITY, IDENTIFIED_PAGE, UPDATE_CACHE, IDENTIFIED_PAGE], ["W009"]),
        ([IDENTIFIED_PAGE, UPDATE_CACHE, IDENTIFIED_PAGE], []),
        ([IDENTIFIED_PAGE], []),
    ],
)
def test_inline_delivery_needs_the_middleware_first_and_last(
    settings: Settings, middleware: list[str], expected: list[str]
) -> None:
    """The first one comes before all that change headers, the last one after all that cache pages."""
    settings.MIDDLEWARE = middleware
    assert check_deployment() == []
    settings.HUBSPOT_IDENTIFY = {**GOOD, "DELIVERY": "inline"}
    assert ids(check_deployment()) == expected


@pytest.mark.parametrize(
    ("policy", "middleware", "expected"),
    [
        ("same-origin", [SECURITY], ["W010"]),
        (["strict-origin", "no-referrer"], [SECURITY], ["W010"]),
        ("no-referrer, strict-origin", [SECURITY], []),
        (None, [SECURITY], []),
        ("same-origin", [], []),
    ],
)
def test_referrer_policy_that_hides_the_site_is_a_warning(
    settings: Settings, policy: Any, middleware: list[str], expected: list[str]
) -> None:
    """Browsers apply the last policy they know. HubSpot's iframe needs the site's address."""
    settings.SECURE_REFERRER_POLICY = policy
    settings.MIDDLEWARE = middleware
    assert ids(check_deployment()) == expected


def test_uwsgi_without_threads_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """uWSGI has a module of this name, with its options as str or bytes."""
    uwsgi: Any = types.ModuleType("uwsgi")
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    uwsgi.opt = {b"http": b":80"}
    assert ids(check_deployment()) == ["W011"]
    for uwsgi.opt in ({b"enable-threads": True}, {"threads": "4"}):
        assert check_deployment() == []


def test_readme_settings_without_the_variables_are_reported(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If ``HUBSPOT_API_KEY`` is not set, the settings disable the chat. ``check --deploy`` reports it and succeeds."""
    for name in ("HUBSPOT_API_KEY", "HUBSPOT_PORTAL_ID"):
        monkeypatch.delenv(name, raising=False)
    names: dict[str, Any] = {}
    exec(next(block for block in code_blocks("README") if "HUBSPOT_PORTAL_ID" in block), names)
    settings.HUBSPOT_IDENTIFY = names["HUBSPOT_IDENTIFY"]
    output = StringIO()
    call_command("check", tags=[TAG], stderr=output)
    assert output.getvalue() == ""
    call_command("check", tags=[TAG], deploy=True, stderr=output)
    assert "(hubspot_identify.I001)" in output.getvalue()


def test_disabled_chat_has_one_message_with_deploy(settings: Settings) -> None:
    """``ENABLED = False`` disables all checks, for the site or for one account. ``--deploy`` reports the former."""
    settings.CACHES = {"default": DUMMY}
    settings.STATIC_URL = None
    settings.ROOT_URLCONF = urlconf()
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False, "API_KEY": 1, "WIDGET": {"x": 1}, "NO_SUCH": 1}
    assert check_settings() == []
    assert ids(check_deployment()) == ["I001"]
    settings.HUBSPOT_IDENTIFY = None
    assert check_deployment() == []
    off = {"ENABLED": False, "TIMEOUT": "x", "CACHE": "none"}
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False, "ACCOUNTS": {"eu": off}}
    assert check_settings() == []
    assert ids(check_deployment()) == ["I001"]
    settings.HUBSPOT_IDENTIFY = {**GOOD, "ACCOUNTS": {"eu": off}}
    settings.CACHES, settings.STATIC_URL, settings.ROOT_URLCONF = {"default": WITH_TIMEOUT}, "static/", "urls"
    assert check_settings() + check_deployment() == []
