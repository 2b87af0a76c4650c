"""``HUBSPOT_IDENTIFY``: the settings are read when they are needed, validated, and turned into a ``Config``."""

from __future__ import annotations

import functools
import string
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import AppConfig
from django.http import HttpRequest
from django.test import RequestFactory, override_settings
from django.views.debug import ExceptionReporter
from hypothesis import example, given
from hypothesis import strategies as st
from pytest_django import Settings

from hubspot_identify._tokens import account as account_module
from hubspot_identify._tokens.account import account_for, get_account
from hubspot_identify.checks.settings import check_settings
from hubspot_identify.conf import KEYS, Config, build_config, get_account_chooser, get_config
from hubspot_identify.exceptions import ConfigurationError, HubSpotIdentifyError, UnknownAccountError
from hubspot_identify.visitors import user_visitor

KEY = "pat-na1-1b2c3d4e"
OTHER_KEY = "pat-eu1-5f6a7b8c"
#: The required settings.
MINIMUM = {"API_KEY": KEY, "EMAIL_VERIFIED": True}


def chooser(request: HttpRequest) -> str | None:
    return request.headers.get("X-Account")


def sync_callable(*args: object) -> bool:
    raise AssertionError("Reading the settings must not call the callables in them.")


async def async_callable(*args: object) -> bool:
    raise AssertionError("Reading the settings must not call the callables in them.")


class AsyncCallable:
    async def __call__(self, *args: object) -> bool:
        raise AssertionError("Reading the settings must not call the callables in them.")


def configuration_error(source: object, account: str = "") -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        build_config(source, account)
    return caught.value


def test_defaults_are_the_documented_ones() -> None:
    """With the required settings only, all others have the defaults of the manual's table."""
    assert build_config(MINIMUM) == Config(
        api_key=KEY,
        base_url="https://api.hubapi.com",
        token_path="/conversations/v3/visitor-identification/tokens/create",
        auth_scheme="bearer",
        portal_id=None,
        region="na1",
        loader_url=None,
        visitor=user_visitor,
        email_verified=True,
        impersonated=None,
        enabled=True,
        widget={"avoidInlineStyles": True},
        load_on="page",
        delivery=None,
        page_wait=1.0,
        timeout=3.0,
        rate_limit=10,
        cache="default",
        accounts={},
        choose_account=None,
        account="",
    )


def test_every_setting_reaches_the_config() -> None:
    """Each setting has one normalised form in the config."""
    source = {
        "API_KEY": f" \t{KEY}\r\n",
        "BASE_URL": "https://proxy.example/hub//",
        "TOKEN_PATH": "/visitor-identification/2026-09/tokens/create",
        "AUTH_SCHEME": "hapikey",
        "PORTAL_ID": 123,
        "REGION": "eu1",
        "LOADER_URL": "https://proxy.example/123.js",
        "VISITOR": "hubspot_identify.visitors.user_visitor",
        "EMAIL_VERIFIED": sync_callable,
        "IMPERSONATED": f"{__name__}.sync_callable",
        "ENABLED": sync_callable,
        "WIDGET": {"avoidInlineStyles": False, "enableWidgetCookieBanner": "ON_EXIT_INTENT", "notYetKnown": "text"},
        "LOAD_ON": "idle",
        "DELIVERY": "inline",
        "PAGE_WAIT": 0,
        "TIMEOUT": 30,
        "RATE_LIMIT": 1000,
        "CACHE": "default",
        "ACCOUNTS": {"eu": {}},
        "CHOOSE_ACCOUNT": chooser,
    }
    assert tuple(sorted(source)) == tuple(sorted(KEYS))
    assert build_config(source) == Config(
        api_key=KEY,
        base_url="https://proxy.example/hub",
        token_path="/visitor-identification/2026-09/tokens/create",
        auth_scheme="hapikey",
        portal_id="123",
        region="eu1",
        loader_url="https://proxy.example/123.js",
        visitor=user_visitor,
        email_verified=sync_callable,
        impersonated=sync_callable,
        enabled=sync_callable,
        widget={"avoidInlineStyles": False, "enableWidgetCookieBanner": "ON_EXIT_INTENT", "notYetKnown": "text"},
        load_on="idle",
        delivery="inline",
        page_wait=0,
        timeout=30,
        rate_limit=1000,
        cache="default",
        accounts={"eu": {}},
        choose_account=chooser,
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("API_KEY", sync_callable, sync_callable),
        ("BASE_URL", "http://[::1]:8000", "http://[::1]:8000"),
        ("BASE_URL", "http://localhost/", "http://localhost"),
        ("PORTAL_ID", "", None),
        ("LOADER_URL", "", None),
        ("LOADER_URL", "\n", None),
        (
            "LOADER_URL",
            "https://js.hs-scripts.com/1.js?businessUnitId=2",
            "https://js.hs-scripts.com/1.js?businessUnitId=2",
        ),
        ("WIDGET", {"disableAttachment": True}, {"avoidInlineStyles": True, "disableAttachment": True}),
    ],
)
def test_valid_value_is_normalised(key: str, value: object, expected: object) -> None:
    """Plain HTTP is allowed for this machine, an empty string counts as ``None``, and widget options have a default."""
    assert getattr(build_config({**MINIMUM, key: value}), key.lower()) == expected


#: A valid value for each setting that can be a text.
TEXT_VALUES = {
    "API_KEY": KEY,
    "BASE_URL": "https://api-eu1.hubapi.com",
    "TOKEN_PATH": "/visitor-identification/2026-09/tokens/create",
    "AUTH_SCHEME": "hapikey",
    "PORTAL_ID": "123",
    "REGION": "eu1",
    "LOADER_URL": "https://js.hs-scripts.com/123.js?businessUnitId=456",
    "VISITOR": "hubspot_identify.visitors.user_visitor",
    "EMAIL_VERIFIED": f"{__name__}.sync_callable",
    "IMPERSONATED": f"{__name__}.sync_callable",
    "ENABLED": f"{__name__}.sync_callable",
    "LOAD_ON": "idle",
    "DELIVERY": "inline",
    "CACHE": "default",
    "CHOOSE_ACCOUNT": f"{__name__}.chooser",
}


@pytest.mark.parametrize("key", TEXT_VALUES)
@pytest.mark.parametrize("account", ["", "eu"])
def test_white_space_around_a_text_is_removed(key: str, account: str) -> None:
    """Values are often copied from web pages, or read from files with other line endings."""
    overrides = {key: f" \t\xa0{TEXT_VALUES[key]} \r\n"}
    if account and key != "CHOOSE_ACCOUNT":
        config = build_config({**MINIMUM, "ACCOUNTS": {account: overrides}}, account)
    else:
        config = build_config({**MINIMUM, **overrides})
    assert getattr(config, key.lower()) == getattr(build_config({**MINIMUM, key: TEXT_VALUES[key]}), key.lower())


@pytest.mark.parametrize("key", TEXT_VALUES)
def test_text_with_quotation_marks_or_invisible_characters_is_a_configuration_error(key: str) -> None:
    """Tools may keep the quotation marks of an environment file. The error says so, and what to write."""
    text = TEXT_VALUES[key]
    for value in (f'"{text}"', f"'{text}'\n", f'{text}"', f"\u201c{text}\u201d", f"`{text}`", '""'):
        error = configuration_error({**MINIMUM, key: value})
        assert error.setting == key
        assert "quotation mark" in error.problem
        assert IN_HINT[key] in error.hint
    for value in (f"\ufeff{text}", f"{text}\u200b", f"{text}\n{text}"):
        error = configuration_error({**MINIMUM, key: value})
        assert (error.setting, "invisible" in error.problem) == (key, True)


#: What the hint for each setting contains: a sample, a signature, a limit, or another setting.
IN_HINT = {
    "API_KEY": "",
    "BASE_URL": '"https://api.hubapi.com"',
    "TOKEN_PATH": '"/visitor-identification/2026-09/tokens/create"',
    "AUTH_SCHEME": "'bearer'",
    "PORTAL_ID": "None",
    "REGION": '"eu1"',
    "LOADER_URL": '"https://js.hs-scripts.com/123.js?businessUnitId=456"',
    "VISITOR": "(user, request)",
    "EMAIL_VERIFIED": "(user, email)",
    "IMPERSONATED": "(request)",
    "ENABLED": "(request)",
    "WIDGET": "",
    "LOAD_ON": "'interaction'",
    "DELIVERY": "'inline'",
    "PAGE_WAIT": "1.0",
    "TIMEOUT": "3.0",
    "RATE_LIMIT": "1000",
    "CACHE": "'default'",
    "ACCOUNTS": '{"eu": ',
    "CHOOSE_ACCOUNT": "(request)",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("API_KEY", None),
        ("API_KEY", " \n"),
        ("API_KEY", KEY.encode()),
        ("API_KEY", "pat-nä1"),
        ("API_KEY", "pat\r\nX-Injected: 1"),
        ("API_KEY", "two words"),
        ("BASE_URL", None),
        ("BASE_URL", "api.hubapi.com"),
        ("BASE_URL", "ftp://api.hubapi.com"),
        ("BASE_URL", "https://:443"),
        ("BASE_URL", "https://api.hubapi.com /"),
        ("BASE_URL", "https://bücher.example"),
        ("BASE_URL", "https://[::1"),
        ("BASE_URL", "https://api.hubapi.com:99999"),
        ("BASE_URL", "https://user:secret@api.hubapi.com"),
        ("BASE_URL", "https://@api.hubapi.com"),
        ("BASE_URL", "https://api.hubapi.com/?"),
        ("BASE_URL", "https://api.hubapi.com#"),
        ("BASE_URL", "http://localhost.example.com"),
        ("BASE_URL", "http://192.168.0.1"),
        ("TOKEN_PATH", "tokens/create"),
        ("TOKEN_PATH", "/tokens?x=1"),
        ("TOKEN_PATH", "/to\nkens"),
        ("AUTH_SCHEME", "Bearer"),
        ("AUTH_SCHEME", None),
        ("AUTH_SCHEME", ["bearer"]),
        ("PORTAL_ID", "١٢٣"),
        ("PORTAL_ID", True),
        ("PORTAL_ID", -1),
        pytest.param("PORTAL_ID", 10**5000, id="PORTAL_ID-huge"),
        ("REGION", "EU"),
        ("REGION", None),
        ("LOADER_URL", 5),
        ("LOADER_URL", "//elsewhere.example/123.js"),
        ("LOADER_URL", "https://js.hs-scripts.com/123.js#1"),
        ("LOADER_URL", "https://user@js.hs-scripts.com/123.js?x=1"),
        ("LOADER_URL", "/\\elsewhere.example/123.js"),
        ("LOADER_URL", "javascript:alert(1)"),
        ("LOADER_URL", "http://elsewhere.example/123.js"),
        ("VISITOR", None),
        ("VISITOR", "user_visitor"),
        ("VISITOR", "hubspot_identify.visitors.user_vistor"),
        ("VISITOR", "there_is_no.such_module"),
        ("VISITOR", "hubspot_identify.conf.KEYS"),
        ("EMAIL_VERIFIED", 1),
        ("IMPERSONATED", True),
        ("ENABLED", "False"),
        ("ENABLED", 0),
        ("WIDGET", ["avoidInlineStyles"]),
        ("LOAD_ON", "scroll"),
        ("DELIVERY", "defer"),
        ("PAGE_WAIT", "1"),
        ("PAGE_WAIT", True),
        ("PAGE_WAIT", -0.1),
        ("PAGE_WAIT", float("nan")),
        ("TIMEOUT", 0),
        pytest.param("TIMEOUT", 10**400, id="TIMEOUT-huge"),
        ("RATE_LIMIT", 0),
        pytest.param("RATE_LIMIT", 10**5000, id="RATE_LIMIT-huge"),
        ("RATE_LIMIT", 10.0),
        ("RATE_LIMIT", True),
        ("CACHE", None),
        ("CACHE", "redis"),
        ("ACCOUNTS", ["eu"]),
        ("CHOOSE_ACCOUNT", "eu"),
    ],
)
def test_invalid_value_is_a_configuration_error(key: str, value: object) -> None:
    """The error names the setting, and its hint shows what to write."""
    error = configuration_error({**MINIMUM, key: value})
    assert error.setting == key
    assert f"HUBSPOT_IDENTIFY[{key!r}]" in error.problem
    assert error.hint
    assert IN_HINT[key] in error.hint


@pytest.mark.parametrize("key", ["API_KEY", "VISITOR", "EMAIL_VERIFIED", "IMPERSONATED", "ENABLED", "CHOOSE_ACCOUNT"])
def test_asynchronous_callable_is_a_configuration_error(key: str) -> None:
    """A coroutine is true whatever it would return, so no setting accepts a function that returns one."""
    for value in (async_callable, AsyncCallable(), f"{__name__}.async_callable"):
        if key != "API_KEY" or callable(value):
            assert configuration_error({**MINIMUM, key: value}).setting == key


@pytest.mark.parametrize("secret", [KEY, "secret.with.dots"])
def test_error_does_not_quote_a_key_that_is_in_another_setting(secret: str) -> None:
    """If two environment variables are mixed up, no error contains the key, nor any exception chained to it."""
    for key in KEYS[1:]:
        error: BaseException | None = configuration_error({**MINIMUM, key: secret})
        while error is not None:
            assert secret.partition(".")[0] not in f"{error!r} {vars(error)}", key
            error = error.__cause__ or error.__context__


def test_exception_of_an_imported_module_is_chained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dotted path to a module that raises is a wrong setting. The error names the exception and chains it."""
    (tmp_path / "module_that_raises.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    error = configuration_error({**MINIMUM, "VISITOR": "module_that_raises.visitor"})
    assert error.setting == "VISITOR"
    assert "ZeroDivisionError" in error.problem
    assert isinstance(error.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(("key", "nearest"), [("api_key", "API_KEY"), ("RATELIMIT", "RATE_LIMIT")])
def test_hint_for_an_unknown_key_shows_the_nearest_key(key: str, nearest: str) -> None:
    """A misspelled key is an error that shows the correct spelling."""
    error = configuration_error({**MINIMUM, key: 1})
    assert error.setting == key
    assert repr(key) in error.problem
    assert repr(nearest) in error.hint
    assert "'TIMEOUT'" not in error.hint


@pytest.mark.parametrize("key", ["XYZ", 5])
def test_hint_for_an_unknown_key_lists_all_keys_if_none_is_near(key: Any) -> None:
    """The hint for a key that is not a string, or unlike any setting, lists the settings."""
    error = configuration_error({**MINIMUM, key: 1})
    assert [known for known in KEYS if known not in error.hint] == []


def test_settings_that_are_not_a_dict_are_a_configuration_error() -> None:
    """The hint for missing settings shows the smallest useful ones."""
    assert 'HUBSPOT_IDENTIFY = {"API_KEY": …, "PORTAL_ID": …}' in configuration_error(None).hint
    assert "HUBSPOT_IDENTIFY" in configuration_error("key").problem


@pytest.mark.parametrize(
    ("option", "value", "in_hint"),
    [
        ("avoidInlineStyles", "yes", ["True", "False"]),
        ("avoidInlineStyles", 1, ["True", "False"]),
        ("inlineEmbedSelector", True, []),
        ("enableWidgetCookieBanner", "on", ["True", "False", "'ON_WIDGET_LOAD'", "'ON_EXIT_INTENT'"]),
        ("notYetKnown", None, ["True", "False"]),
        ("identificationEmail", "a@example.com", []),
        ("identificationToken", "t", []),
        (5, True, []),
    ],
)
def test_invalid_widget_option_is_a_configuration_error(option: object, value: object, in_hint: list[str]) -> None:
    """A value of a wrong type stops HubSpot's widget, and an identity in the settings would be every visitor's."""
    error = configuration_error({**MINIMUM, "WIDGET": {option: value}})
    assert error.setting == "WIDGET"
    assert "HUBSPOT_IDENTIFY['WIDGET']" in error.problem
    assert option == 5 or repr(option) in error.problem
    assert error.hint
    assert [text for text in in_hint if text not in error.hint] == []


def test_loading_on_interaction_excludes_inline_delivery() -> None:
    """A chat that requests its token on the first click cannot have one in the page."""
    error = configuration_error({**MINIMUM, "LOAD_ON": "interaction", "DELIVERY": "inline"})
    assert error.setting == "LOAD_ON"
    assert "DELIVERY" in error.hint


@pytest.mark.parametrize(
    ("source", "loader"),
    [
        ({}, None),
        ({"PORTAL_ID": "123"}, "https://js.hs-scripts.com/123.js"),
        ({"PORTAL_ID": "123", "REGION": "eu1"}, "https://js-eu1.hs-scripts.com/123.js"),
        ({"PORTAL_ID": "123", "LOADER_URL": "/sandbox/1.js"}, "/sandbox/1.js"),
        ({"PORTAL_ID": "123\r\n", "REGION": "eu1\n"}, "https://js-eu1.hs-scripts.com/123.js"),
    ],
)
def test_loader_depends_on_portal_and_region(source: dict[str, Any], loader: str | None) -> None:
    """The loader of HubSpot's widget is on the host of the region. ``LOADER_URL`` replaces it."""
    assert build_config({**MINIMUM, **source}).loader == loader


def test_other_settings_are_not_read_if_the_chat_is_disabled(settings: Settings) -> None:
    """``ENABLED = False`` is enough, with wrong settings beside it and for any account."""
    source: dict[str, Any]
    for source in ({"ENABLED": False}, {"ENABLED": False, "API_KEY": 5, "RUBBISH": 1, "ACCOUNTS": 5}):
        settings.HUBSPOT_IDENTIFY = source
        assert get_config() == Config(enabled=False)
        assert get_config("eu") == Config(enabled=False, account="eu")
        assert get_account_chooser() is None


def test_names_of_accounts_are_not_stored_if_the_chat_is_disabled(settings: Settings) -> None:
    """Account names that a client invents do not use memory."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    assert get_account("invented-1") is not get_account("invented-1")


def test_account_overrides_the_settings_around_it(settings: Settings) -> None:
    """An account inherits what it does not override, ``ENABLED`` included."""
    settings.HUBSPOT_IDENTIFY = {
        **MINIMUM,
        "ENABLED": False,
        "PORTAL_ID": "1",
        "TIMEOUT": 2,
        "ACCOUNTS": {"eu": {"ENABLED": True, "PORTAL_ID": "2", "REGION": "eu1"}},
    }
    config = get_config("eu")
    assert (config.account, config.enabled, config.portal_id, config.region) == ("eu", True, "2", "eu1")
    assert (config.api_key, config.timeout) == (KEY, 2)
    assert get_config().enabled is False


def test_account_is_reused_until_the_settings_are_replaced(settings: Settings) -> None:
    """The same dict is validated once. Another dict, such as that of ``override_settings``, takes effect at once."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "PORTAL_ID": "1"}
    account = get_account()
    assert get_account() is account
    with override_settings(HUBSPOT_IDENTIFY={**MINIMUM, "PORTAL_ID": "2"}):
        assert get_account().config.portal_id == "2"
    assert get_account().config == account.config


def test_new_cache_alias_is_accepted_at_once(settings: Settings) -> None:
    """``CACHE`` is compared with the current ``CACHES``."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "CACHE": "chat"}
    with pytest.raises(ConfigurationError, match="'CACHE'"):
        get_account()
    settings.CACHES = {**settings.CACHES, "chat": settings.CACHES["default"]}
    assert get_account().config.cache == "chat"


@pytest.mark.parametrize(
    ("overrides", "setting", "in_hint"),
    [({"PORTAL": "1"}, "PORTAL", "'PORTAL_ID'"), ({"ACCOUNTS": {}}, "ACCOUNTS", "ACCOUNTS"), (5, "", "")],
)
def test_invalid_account_is_an_error_for_that_account_only(
    settings: Settings, overrides: object, setting: str, in_hint: str
) -> None:
    """The other accounts work. The system checks report the same error."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {"eu": overrides, "us": {}}}
    assert get_config("us").account == "us"
    with pytest.raises(ConfigurationError) as caught:
        get_config("eu")
    error = caught.value
    assert error.setting == setting
    assert "HUBSPOT_IDENTIFY['ACCOUNTS']['eu']" in error.problem
    assert in_hint in error.hint
    (message,) = check_settings()
    assert (message.id, message.msg, message.hint) == ("hubspot_identify.E001", error.problem, error.hint)


def test_error_names_the_place_of_the_value() -> None:
    """It is the dict of the account, unless the account inherits the value."""
    source = {**MINIMUM, "TIMEOUT": 0, "ACCOUNTS": {"eu": {"TIMEOUT": 0}, "us": {}}}
    assert "HUBSPOT_IDENTIFY['ACCOUNTS']['eu']['TIMEOUT']" in configuration_error(source, "eu").problem
    assert "HUBSPOT_IDENTIFY['TIMEOUT']" in configuration_error(source, "us").problem


@pytest.mark.parametrize("name", ["e u", 1])
def test_invalid_name_of_an_account_is_an_error(settings: Settings, name: object) -> None:
    """A name that cannot be part of a URL is an error of the system checks, and its account is unusable."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {name: {}}}
    with pytest.raises(ConfigurationError):
        get_config(str(name))
    found = [message.msg for message in check_settings() if message.id == "hubspot_identify.E001"]
    assert "HUBSPOT_IDENTIFY['ACCOUNTS']" in " ".join(found)


def test_only_the_requested_account_is_validated(settings: Settings) -> None:
    """Neither an unknown nor a known account makes the app read the settings of a thousand others."""
    read: list[str] = []

    class Overrides(UserDict[str, Any]):
        def __iter__(self) -> Iterator[str]:
            read.append(self.data["REGION"])
            return super().__iter__()

    accounts = {f"account{number}": Overrides(REGION=f"eu{number % 10}") for number in range(1000)}
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": accounts}
    with pytest.raises(UnknownAccountError):
        get_config("nowhere")
    assert read == []
    assert get_config("account7").region == "eu7"
    assert 1 <= len(read) <= 3
    assert sorted(set(read)) == ["eu7"]


def test_names_of_unknown_accounts_are_not_stored(settings: Settings) -> None:
    """Account names that a client invents do not use memory."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {"eu": {}}}
    get_account("eu")
    for number in range(100):
        with pytest.raises(UnknownAccountError):
            get_account(f"invented-{number}")
    assert list(account_module._accounts.get()._by_name) == ["eu"]


def test_error_of_an_unknown_account_lists_some_known_ones(settings: Settings) -> None:
    """A site with a thousand accounts does not get all of them in a log line."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {"eu": {}, "us": {}}}
    with pytest.raises(UnknownAccountError) as caught:
        get_config("uk")
    assert caught.value.setting == "ACCOUNTS"
    assert "'uk'" in caught.value.problem
    assert "'eu', 'us'" in caught.value.hint
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {f"account{number}": {} for number in range(1000)}}
    with pytest.raises(UnknownAccountError, match="'account1'") as caught:
        get_config("nowhere")
    assert len(str(caught.value)) < 500
    settings.HUBSPOT_IDENTIFY = MINIMUM
    with pytest.raises(UnknownAccountError, match="'uk'"):
        get_config("uk")


def test_request_selects_the_account_unless_it_is_named(settings: Settings) -> None:
    """``CHOOSE_ACCOUNT`` is called with the request. If it returns ``None`` or ``""``, no account's overrides apply."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {"eu": {}, "us": {}}, "CHOOSE_ACCOUNT": f"{__name__}.chooser"}
    request = RequestFactory().get("/", headers={"X-Account": "eu"})
    assert account_for(request).config.account == "eu"
    assert account_for(request, "us").config.account == "us"
    assert account_for(request, "").config.account == ""
    assert account_for(None).config.account == ""
    assert account_for(RequestFactory().get("/")).config.account == ""
    assert account_for(RequestFactory().get("/", headers={"X-Account": ""})).config.account == ""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {"eu": {}}}
    assert account_for(request).config.account == ""


def test_account_can_be_selected_if_the_settings_around_it_are_incomplete(settings: Settings) -> None:
    """All accounts may have their own keys, without one outside of ``ACCOUNTS``."""
    settings.HUBSPOT_IDENTIFY = {"ACCOUNTS": {"eu": MINIMUM}, "CHOOSE_ACCOUNT": chooser}
    assert get_account_chooser() is chooser
    assert account_for(RequestFactory().get("/", headers={"X-Account": "eu"})).config.api_key == KEY


def test_selected_account_must_be_a_string(settings: Settings) -> None:
    """If ``CHOOSE_ACCOUNT`` returns anything else, that is a configuration error under ``DEBUG``."""
    settings.DEBUG = True
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "CHOOSE_ACCOUNT": lambda request: ["eu"]}
    with pytest.raises(ConfigurationError) as caught:
        account_for(RequestFactory().get("/"))
    assert caught.value.setting == "CHOOSE_ACCOUNT"
    assert "(request)" in caught.value.hint


@pytest.mark.parametrize(
    "source",
    [{"API_KEY": KEY}, {"API_KEY": KEY, "EMAIL_VERIFIED": None}, {"API_KEY": KEY, "ENABLED": sync_callable}],
    ids=["missing", "None", "callable ENABLED"],
)
def test_missing_email_verified_is_a_configuration_error(settings: Settings, source: dict[str, object]) -> None:
    """Without django-allauth the setting is required, and ``None`` counts as missing."""
    settings.HUBSPOT_IDENTIFY = source
    with pytest.raises(ConfigurationError) as caught:
        get_config()
    assert caught.value.setting == "EMAIL_VERIFIED"


def test_email_verified_is_inherited_by_accounts() -> None:
    """An account can override the setting, also with ``None``, which counts as missing."""
    accounts = {"eu": {}, "us": {"EMAIL_VERIFIED": sync_callable}, "uk": {"EMAIL_VERIFIED": None}}
    source = {**MINIMUM, "ACCOUNTS": accounts}
    assert build_config(source, "eu").email_verified is True
    assert build_config(source, "us").email_verified is sync_callable
    assert configuration_error(source, "uk").setting == "EMAIL_VERIFIED"
    assert configuration_error({**source, "EMAIL_VERIFIED": None}, "eu").setting == "EMAIL_VERIFIED"


class Allauth(AppConfig):
    """django-allauth's app without its models, whose tables the test database does not have."""

    name = "allauth.account"

    def import_models(self) -> None:
        self.models = {}


def test_installed_apps_decide_whether_email_verified_may_be_missing(settings: Settings) -> None:
    """A change of ``INSTALLED_APPS`` takes effect at once, although accounts are kept."""
    settings.HUBSPOT_IDENTIFY = {"API_KEY": KEY}
    with_allauth = [*settings.INSTALLED_APPS, f"{__name__}.Allauth"]
    for _ in range(2):
        with pytest.raises(ConfigurationError):
            get_account()
        with override_settings(INSTALLED_APPS=with_allauth):
            assert get_account().config.email_verified is None
            with override_settings(INSTALLED_APPS=settings.INSTALLED_APPS[:-1]), pytest.raises(ConfigurationError):
                get_account()


def test_repr_of_a_config_shows_no_key() -> None:
    """It contains neither its own key nor those of the accounts."""
    config = build_config({**MINIMUM, "ACCOUNTS": {"eu": {"API_KEY": OTHER_KEY}}})
    assert KEY not in repr(config)
    assert OTHER_KEY not in repr(config)


@pytest.mark.parametrize("read", [get_config, get_account, get_account_chooser])
def test_debug_page_of_a_wrong_setting_shows_no_key(settings: Settings, read: Callable[[], object]) -> None:
    """Django's debug page and its e-mail to the admins show no stack frame that contains the settings."""
    settings.HUBSPOT_IDENTIFY = {
        **MINIMUM,
        "ACCOUNTS": {"eu": {"API_KEY": OTHER_KEY}},
        "CHOOSE_ACCOUNT": "missing",
    }
    with pytest.raises(ConfigurationError) as caught:
        read()
    error = caught.value
    for debug in (True, False):
        settings.DEBUG = debug
        reporter = ExceptionReporter(RequestFactory().get("/"), type(error), error, error.__traceback__)
        for report in (reporter.get_traceback_html(), reporter.get_traceback_text()):
            assert "ConfigurationError" in report
            assert KEY not in report
            assert OTHER_KEY not in report


def test_configuration_error_is_not_a_hubspot_error() -> None:
    """An ``except`` clause for failures of HubSpot does not hide mistakes in the settings."""
    assert not issubclass(ConfigurationError, HubSpotIdentifyError)


TEXTS = st.text() | st.text(string.printable) | st.sampled_from(["", "\0", "\ud800", "https://", "a.b", "..", "/"])
VALUES = st.recursive(
    TEXTS
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.binary()
    | st.dates()
    | st.just(functools.partial(sync_callable)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXTS | st.integers() | st.tuples(st.integers()), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    source=VALUES
    | st.dictionaries(st.sampled_from(KEYS) | TEXTS, VALUES, max_size=4).map(lambda given: {**MINIMUM, **given}),
    account=st.sampled_from(["", "eu"]),
)
@example(source={**MINIMUM, "ACCOUNTS": {"eu": {"ENABLED": False}}}, account="eu")
def test_any_settings_are_a_config_or_a_configuration_error(source: object, account: str) -> None:
    """No value of ``HUBSPOT_IDENTIFY`` causes any other exception."""
    result = config_or_error(source, account)
    assert isinstance(result, Config) or "HUBSPOT_IDENTIFY" in result.problem


@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_of_a_setting_is_accepted_or_an_error_of_that_setting(key: str, value: object) -> None:
    """No value of a single setting causes any other exception."""
    result = config_or_error({**MINIMUM, key: value})
    assert isinstance(result, Config) or result.setting == key


def config_or_error(source: object, account: str = "") -> Config | ConfigurationError:
    try:
        return build_config(source, account)
    except ConfigurationError as error:
        return error
