"""The system checks: which mistakes they find, what they tell to type, and when they hold their tongue."""

from __future__ import annotations

import sys
import types
from io import StringIO
from typing import Any

import pytest
from django.core.cache.backends.base import BaseCache
from django.core.checks import ERROR, CheckMessage, run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection
from django.urls import clear_script_prefix, include, path, re_path, set_script_prefix
from pytest_django import Settings

from hubspot_identify.checks import TAG, check_settings
from hubspot_identify.conf import get_config
from hubspot_identify.deployment import check_deployment
from hubspot_identify.exceptions import ConfigurationError

KEY = "pat-na1-secret-of-the-site"
GOOD: dict[str, Any] = {
    "API_KEY": KEY,
    "PORTAL_ID": "123",
    "EMAIL_VERIFIED": True,
    "WIDGET": {"hideNewThreadLink": True},
}
EU = "HUBSPOT_IDENTIFY['ACCOUNTS']['eu']"
FIELDS = "hubspot_identify.E001"
SHARED = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1"}
WITH_TIMEOUT = {**SHARED, "OPTIONS": {"socket_timeout": 0.5}}
OURS = "hubspot_identify.middleware.IdentifiedPageMiddleware"
SECURITY = "django.middleware.security.SecurityMiddleware"
UPDATE_CACHE = "django.middleware.cache.UpdateCacheMiddleware"
NO_URLS = types.ModuleType("no_urls")
NO_URLS.urlpatterns = []  # type: ignore[attr-defined]


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id).removeprefix("hubspot_identify.") for message in messages]


@pytest.fixture(autouse=True)
def production(settings: Settings) -> None:
    """A site that is well set up, so that each test breaks one thing."""
    settings.HUBSPOT_IDENTIFY = GOOD
    settings.CACHES = {"default": WITH_TIMEOUT}
    settings.SECURE_REFERRER_POLICY = "strict-origin-when-cross-origin"
    settings.MIDDLEWARE = [SECURITY, *settings.MIDDLEWARE]


def test_a_good_site_hears_nothing() -> None:
    """Neither check has anything to say to a site that followed the README."""
    assert check_settings() + check_deployment() == []


def test_commands_run_the_checks(settings: Settings) -> None:
    """``check`` fails for a missing key, and shows advice on the server with ``--deploy`` only."""
    settings.HUBSPOT_IDENTIFY = {"PORTAL_ID": "123"}
    with pytest.raises(SystemCheckError, match=FIELDS):
        call_command("check", stderr=StringIO())
    settings.HUBSPOT_IDENTIFY = GOOD
    settings.CACHES = {"default": SHARED}
    assert ids(run_checks(tags=[TAG])) == []
    assert ids(run_checks(tags=[TAG], include_deployment_checks=True)) == ["W008"]
    output = StringIO()
    call_command("check", tags=[TAG], deploy=True, stderr=output)
    assert "(hubspot_identify.W008)" in output.getvalue()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "settings.HUBSPOT_IDENTIFY is missing."),
        ([], "HUBSPOT_IDENTIFY is a list."),
        ({}, "HUBSPOT_IDENTIFY['API_KEY'] is missing."),
        ({**GOOD, "API_KEY": f"{KEY} x"}, "HUBSPOT_IDENTIFY['API_KEY'] has white space or control characters inside."),
        ({**GOOD, "PORTAL_ID": KEY}, "HUBSPOT_IDENTIFY['PORTAL_ID'] is not written as it should be."),
        (
            {**GOOD, "BASE_URL": f"https://x/?{KEY}"},
            "HUBSPOT_IDENTIFY['BASE_URL'] has a user name, a query or a fragment.",
        ),
        ({**GOOD, "TIMEOUTS": 2}, "HUBSPOT_IDENTIFY has an unknown key 'TIMEOUTS'."),
        ({**GOOD, "WIDGET": "x"}, "HUBSPOT_IDENTIFY['WIDGET'] is a str."),
        ({**GOOD, "ACCOUNTS": {"eu": {"PORTAL": 1}}}, f"{EU} has an unknown key 'PORTAL'."),
        ({**GOOD, "ACCOUNTS": {"eu": {"REGION": "EU"}}}, f"{EU}['REGION'] is not written as it should be."),
        ({"ACCOUNTS": {"eu": {"PORTAL_ID": 1}}}, f"{EU}['API_KEY'] is missing."),
    ],
)
def test_settings_are_errors_that_say_where(settings: Settings, source: object, expected: str) -> None:
    """A missing or malformed setting is one error of plain ``check``, with its place, a hint and no value."""
    settings.HUBSPOT_IDENTIFY = source
    (message,) = check_settings()
    assert (message.id, message.level, message.msg) == (FIELDS, ERROR, expected)
    assert message.hint
    assert message.hint.partition(" ")[0] in {"Write", "Did", "Leave"}
    assert KEY not in str(message)


def test_a_combination_that_cannot_be_is_an_error(settings: Settings) -> None:
    """Settings that are right by themselves and wrong together are found, and the hint says which to leave out."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "LOAD_ON": "interaction", "DELIVERY": "inline"}
    (message,) = check_settings()
    assert message.id == FIELDS
    assert message.hint == "Leave out DELIVERY, or choose another LOAD_ON."


def test_all_mistakes_at_once(settings: Settings) -> None:
    """Whoever made three mistakes is told of three, each once, also where an account shares them."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "TIMEOUT": "3", "REGION": 1, "ACCOUNTS": {"eu": {"LOAD_ON": "never"}}}
    texts = [message.msg for message in check_settings()]
    assert texts == [
        "HUBSPOT_IDENTIFY['TIMEOUT'] is a str.",
        "HUBSPOT_IDENTIFY['REGION'] is a int.",
        "HUBSPOT_IDENTIFY['ACCOUNTS']['eu']['LOAD_ON'] is none of the known values.",
    ]


def test_accounts_make_the_settings_around_them_optional(settings: Settings) -> None:
    """With named accounts the settings around them need no key; those that are there are looked at all the same."""
    settings.HUBSPOT_IDENTIFY = {"EMAIL_VERIFIED": True, "ACCOUNTS": {"eu": {"API_KEY": KEY, "PORTAL_ID": 1}}}
    assert check_settings() == []
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "TIMEOUT": 0}
    assert ids(check_settings()) == ["E001"]


@pytest.mark.parametrize(
    ("options", "expected", "hint"),
    [
        ({"loadImmediately": "yes"}, "E002", "Write True or False."),
        (
            {"enableWidgetCookieBanner": "ALWAYS"},
            "E002",
            "Write True or False or 'ON_WIDGET_LOAD' or 'ON_EXIT_INTENT'.",
        ),
        ({"identificationToken": "x"}, "E002", "Leave it out, the app supplies it."),
        ({1: True}, "E002", "Write its name as text."),
        ({"avoidinlinestyle": True}, "E003", "Write 'avoidInlineStyles'; or, "),
        ({"colour": "red"}, "E003", "There are loadImmediately, inlineEmbedSelector, "),
    ],
)
def test_widget_options(settings: Settings, options: dict[Any, Any], expected: str, hint: str) -> None:
    """A widget option of a wrong type or an unknown name is an error, with the nearest right name."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "WIDGET": options}
    (message,) = check_settings()
    assert ids([message]) == [expected]
    assert message.hint is not None
    assert message.hint.startswith(hint)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"PORTAL_ID": ""}, ["W013"]),
        ({"PORTAL_ID": None}, []),
        ({"PORTAL_ID": "", "LOADER_URL": "/loader.js"}, []),
        ({"PORTAL_ID": "", "ENABLED": False}, []),
        ({"ACCOUNTS": {"eu": {"PORTAL_ID": ""}}}, ["W013"]),
        ({"PORTAL_ID": "", "ACCOUNTS": {"eu": {"PORTAL_ID": "1"}}}, ["W013"]),
    ],
)
def test_an_empty_portal_id(settings: Settings, extra: dict[str, Any], expected: list[str]) -> None:
    """Text without a number is a variable that somebody forgot to set; ``None`` is meant so."""
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
def test_urls_that_are_not_routed(settings: Settings, extra: dict[str, Any], expected: list[str]) -> None:
    """Without our URLs, what needs them is an error, falling back to inline a warning, and choosing inline fine."""
    settings.ROOT_URLCONF = NO_URLS
    settings.HUBSPOT_IDENTIFY = {**GOOD, **extra}
    assert ids(check_settings()) == expected


def urlconf(*patterns: Any) -> types.ModuleType:
    module = types.ModuleType("urls_of_a_site")
    module.urlpatterns = list(patterns)  # type: ignore[attr-defined]
    return module


OUR_URLS = path("hubspot/", include("hubspot_identify.urls"))
ANYTHING = re_path("", lambda request: None)


@pytest.mark.parametrize(
    ("patterns", "extra", "expected"),
    [
        ([OUR_URLS, ANYTHING], {}, []),
        ([path("live chat/año/", include("hubspot_identify.urls")), ANYTHING], {}, []),
        ([path("live chat/año/", include("hubspot_identify.urls"))], {}, []),
        ([ANYTHING, OUR_URLS], {}, ["E007"]),
        ([ANYTHING, OUR_URLS], {"DELIVERY": "inline"}, []),
    ],
    ids=["first", "quoted, first", "quoted", "after a CMS", "inline"],
)
def test_urls_that_others_take(
    settings: Settings, patterns: list[Any], extra: dict[str, Any], expected: list[str]
) -> None:
    """An address of ours at which somebody else answers is an error, unless the pages hold the identity."""
    settings.ROOT_URLCONF = urlconf(*patterns)
    settings.HUBSPOT_IDENTIFY = {**GOOD, **extra}
    assert ids(check_settings()) == expected


def test_urls_below_a_script_name(settings: Settings) -> None:
    """A site that doesn't live at the root of its host has its URLs all the same."""
    set_script_prefix("/shop/")
    try:
        assert check_settings() == []
    finally:
        clear_script_prefix()


def test_without_any_urls_nobody_speaks_of_ours(settings: Settings) -> None:
    """A project without a URLconf serves no pages."""
    settings.ROOT_URLCONF = None
    assert check_settings() == []


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [("https://api.hubapi.com", ["E006"]), ("https://proxy.example.com", []), ("https://nothubapi.com", [])],
)
def test_hapikey_against_hubspot(settings: Settings, base_url: str, expected: list[str]) -> None:
    """The old query parameter is an error against HubSpot itself only."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "AUTH_SCHEME": "hapikey", "BASE_URL": base_url}
    assert ids(check_settings()) == expected


UNDECIDED = {key: value for key, value in GOOD.items() if key != "EMAIL_VERIFIED"}
DECIDED = {"EMAIL_VERIFIED": lambda user, email: True}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (UNDECIDED, ["E001"]),
        ({**GOOD, "EMAIL_VERIFIED": None}, ["E001"]),
        ({**UNDECIDED, "ENABLED": lambda request: True}, ["E001"]),
        ({**UNDECIDED, "ENABLED": False}, []),
        ({**UNDECIDED, "ACCOUNTS": {"eu": {"REGION": "eu1"}, "us": {}}}, ["E001"]),
        ({"ACCOUNTS": {"eu": {"API_KEY": KEY}, "us": {"API_KEY": KEY}}}, ["E001"]),
        ({"EMAIL_VERIFIED": None, "ACCOUNTS": {"eu": {"API_KEY": KEY, **DECIDED}}}, []),
        ({**GOOD, "ACCOUNTS": {"eu": {"EMAIL_VERIFIED": None}, "us": {}}}, ["E001"]),
        ({"ENABLED": False, "ACCOUNTS": {"eu": {"API_KEY": KEY, "ENABLED": True}}}, ["E001"]),
    ],
    ids=["missing", "None", "by request", "off", "inherited", "tenants", "by account", "one account", "one is on"],
)
def test_missing_email_verified_is_one_error(settings: Settings, source: dict[str, Any], expected: list[str]) -> None:
    """The error is reported once, however many settings and accounts there are."""
    settings.HUBSPOT_IDENTIFY = source
    assert ids(check_settings()) == expected


def test_missing_email_verified_has_the_same_text_in_check_and_exception(settings: Settings) -> None:
    """The check divides the exception's text into its message and its hint."""
    settings.HUBSPOT_IDENTIFY = UNDECIDED
    (message,) = check_settings()
    with pytest.raises(ConfigurationError) as caught:
        get_config()
    assert message.hint is not None
    assert str(caught.value) == f"{message.msg[:-1]}: {message.hint[0].lower()}{message.hint[1:]}"


def test_missing_email_verified_error_names_the_place_of_the_setting(settings: Settings) -> None:
    """Accounts that inherit the setting share an error; one that overrides it with ``None`` has its own."""
    settings.HUBSPOT_IDENTIFY = {**UNDECIDED, "ACCOUNTS": {"eu": {}}}
    (shared,) = check_settings()
    assert shared.msg.startswith("HUBSPOT_IDENTIFY['EMAIL_VERIFIED']")
    settings.HUBSPOT_IDENTIFY = {**GOOD, "ACCOUNTS": {"eu": {"EMAIL_VERIFIED": None}}}
    (own,) = check_settings()
    assert own.msg.startswith(f"{EU}['EMAIL_VERIFIED']")


def test_missing_email_verified_is_accepted_with_allauth(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """django-allauth's record decides, so nothing is reported."""
    monkeypatch.setattr("hubspot_identify.checks.apps.is_installed", lambda name: True)
    settings.HUBSPOT_IDENTIFY = UNDECIDED
    assert check_settings() == []


def test_email_verified_false_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint depends on whether django-allauth is installed."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "EMAIL_VERIFIED": False}
    (alone,) = check_settings()
    monkeypatch.setattr("hubspot_identify.checks.apps.is_installed", lambda name: True)
    (with_allauth,) = check_settings()
    assert ids([alone, with_allauth]) == ["W014", "W014"]
    assert alone.hint != with_allauth.hint


def test_overruling_allauth(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trusting every address where django-allauth knows which were verified is a warning; asking oneself is none."""
    monkeypatch.setattr("hubspot_identify.checks.apps.is_installed", lambda name: True)
    assert ids(check_settings()) == ["W012"]
    settings.HUBSPOT_IDENTIFY = {**GOOD, "EMAIL_VERIFIED": lambda user, email: True}
    assert check_settings() == []


def test_static_files(settings: Settings) -> None:
    """No STATIC_URL is an error; without the static files app the site has to serve the script by itself."""
    settings.STATIC_URL = None
    settings.INSTALLED_APPS = ["hubspot_identify"]
    assert ids(check_settings()) == ["E005", "W003"]


def test_accounts_share_their_advice(settings: Settings) -> None:
    """What is so for two accounts is said once."""
    eu = {"PORTAL_ID": "456", "REGION": "eu1"}
    settings.HUBSPOT_IDENTIFY = {**GOOD, "EMAIL_VERIFIED": False, "ACCOUNTS": {"eu": eu}}
    settings.CACHES = {"default": SHARED}
    assert ids(check_settings() + check_deployment()) == ["W014", "W008"]


def test_account_that_identifies_no_visitor_is_named(settings: Settings) -> None:
    """The warning is about the account's own setting, not about the one around it."""
    settings.HUBSPOT_IDENTIFY = {**GOOD, "ACCOUNTS": {"eu": {"EMAIL_VERIFIED": False}}}
    (message,) = check_settings()
    assert message.id == "hubspot_identify.W014"
    assert message.msg.startswith("HUBSPOT_IDENTIFY['ACCOUNTS']['eu']['EMAIL_VERIFIED']")


def _cache(name: str, **options: Any) -> dict[str, Any]:
    return {"BACKEND": f"django.core.cache.backends.{name}", "LOCATION": "127.0.0.1:1", **options}


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (_cache("locmem.LocMemCache"), ["W004", "W005"]),
        (_cache("locmem.LocMemCache", OPTIONS={"MAX_ENTRIES": 9999}), ["W004"]),
        (_cache("dummy.DummyCache"), ["W004"]),
        (_cache("filebased.FileBasedCache"), ["W004", "W005"]),
        (_cache("db.DatabaseCache"), ["W005", "W006"]),
        (SHARED, ["W008"]),
        ({**SHARED, "LOCATION": "redis://127.0.0.1:1/0?socket_timeout=1"}, []),
        ({**SHARED, "LOCATION": ["redis://127.0.0.1:1?socket_connect_timeout=1"]}, ["W008"]),
        (_cache("memcached.PyMemcacheCache"), ["W008"]),
        (_cache("memcached.PyMemcacheCache", OPTIONS={"connect_timeout": 1}), ["W008"]),
        (_cache("memcached.PyMemcacheCache", OPTIONS={"timeout": 1}), []),
        ({**SHARED, "OPTIONS": {"behaviors": {"receive_timeout": 1}}}, []),
        ({**SHARED, "OPTIONS": {"behaviors": {"_receive_timeout": 1}}}, []),
        ({**SHARED, "OPTIONS": {"behaviors": {"dead_timeout": 60}}}, ["W008"]),
        ({**SHARED, "OPTIONS": {"CONNECTION_POOL_KWARGS": {"retry_on_timeout": True}}}, ["W008"]),
        ({**SHARED, "OPTIONS": {"CONNECTION_POOL_KWARGS": {"socket_timeout": 1}}}, []),
        ({"BACKEND": "nowhere.Cache"}, []),
    ],
)
def test_caches(settings: Settings, cache: dict[str, Any], expected: list[str]) -> None:
    """A cache that is not shared, is too small, loses writes or may hang is advised against before deployment."""
    settings.CACHES = {"default": cache}
    assert ids(check_deployment()) == expected
    assert check_settings() == []


def test_the_cache_of_the_account_is_the_one_looked_at(settings: Settings) -> None:
    """A bad default cache is nobody's business where the app uses another."""
    settings.CACHES = {"default": _cache("dummy.DummyCache"), "chat": WITH_TIMEOUT}
    settings.HUBSPOT_IDENTIFY = {**GOOD, "CACHE": "chat"}
    assert check_deployment() == []


@pytest.mark.parametrize(
    ("module", "name", "options"),
    [
        (
            "django.core.cache.backends.memcached",
            "PyLibMCCache",
            '{"behaviors": {"connect_timeout": 500, "receive_timeout": 500_000}}',
        ),
        ("django.core.cache.backends.memcached", "PyMemcacheCache", '{"connect_timeout": 0.5, "timeout": 0.5}'),
        ("django_redis.cache", "RedisCache", '{"SOCKET_CONNECT_TIMEOUT": 0.5, "SOCKET_TIMEOUT": 0.5}'),
        (
            "django.core.cache.backends.redis",
            "RedisCache",
            '{"socket_connect_timeout": 0.5, "socket_timeout": 0.5}',
        ),
    ],
)
def test_timeouts_are_spelt_as_the_library_does(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, module: str, name: str, options: str
) -> None:
    """The hint can be pasted, whichever library the cache back end rests on, be it installed here or not."""
    settings.CACHES = {"default": SHARED}
    cache = type(name, (BaseCache,), {"__module__": module})({})
    monkeypatch.setattr("hubspot_identify.deployment.caches", {"default": cache})
    (message,) = check_deployment()
    assert message.hint == f"Write \"OPTIONS\": {options} into CACHES['default']."


def test_database_caches(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite is fine with immediate transactions, and a database whose requests are transactions is not."""
    settings.CACHES = {"default": _cache("db.DatabaseCache", OPTIONS={"MAX_ENTRIES": 10_000})}
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "transaction_mode", "IMMEDIATE")
    assert check_deployment() == []
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    assert ids(check_deployment()) == ["W007"]


@pytest.mark.parametrize(
    ("middleware", "expected"),
    [
        ([], ["W009"]),
        ([UPDATE_CACHE], ["W009"]),
        ([UPDATE_CACHE, OURS], ["W009"]),
        ([OURS, UPDATE_CACHE], ["W009"]),
        ([OURS, UPDATE_CACHE, SECURITY], ["W009"]),
        ([OURS, UPDATE_CACHE, OURS, SECURITY], ["W009"]),
        ([SECURITY, OURS, UPDATE_CACHE, OURS], ["W009"]),
        ([OURS, UPDATE_CACHE, OURS], []),
        ([OURS], []),
    ],
)
def test_inline_pages_need_our_middleware_first_and_last(
    settings: Settings, middleware: list[str], expected: list[str]
) -> None:
    """The first one is above everything that changes the headers, the last one below every cache."""
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
def test_referrer_policy(settings: Settings, policy: Any, middleware: list[str], expected: list[str]) -> None:
    """The policy that browsers end up with must leave HubSpot's iframe the site's address."""
    settings.SECURE_REFERRER_POLICY = policy
    settings.MIDDLEWARE = middleware
    assert ids(check_deployment()) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [({b"http": b":80"}, ["W011"]), ({b"enable-threads": True}, []), ({"threads": "4"}, [])],
)
def test_uwsgi(monkeypatch: pytest.MonkeyPatch, options: dict[Any, Any], expected: list[str]) -> None:
    """Inside uWSGI, the lack of threads is seen."""
    monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(opt=options))
    assert ids(check_deployment()) == expected


def test_switched_off_means_silent(settings: Settings) -> None:
    """``ENABLED = False`` silences all checks, whatever else is wrong, for the site or for one account."""
    settings.CACHES = {"default": _cache("dummy.DummyCache")}
    settings.STATIC_URL = None
    settings.ROOT_URLCONF = NO_URLS
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False, "API_KEY": 1, "WIDGET": {"x": 1}, "NO_SUCH": 1}
    assert check_settings() + check_deployment() == []
    off = {"ENABLED": False, "TIMEOUT": "x", "CACHE": "none"}
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False, "ACCOUNTS": {"eu": off}}
    assert check_settings() + check_deployment() == []
    settings.HUBSPOT_IDENTIFY = {**GOOD, "ACCOUNTS": {"eu": off}}
    settings.CACHES, settings.STATIC_URL, settings.ROOT_URLCONF = {"default": WITH_TIMEOUT}, "static/", "urls"
    assert check_settings() + check_deployment() == []
