"""``HUBSPOT_IDENTIFY``: read live, checked whole, and wrong in words that say what to write."""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable
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

from hubspot_identify import conf, validation
from hubspot_identify.checks import check_settings
from hubspot_identify.conf import KEYS, Config, account_chooser, build_config, config_for, get_config
from hubspot_identify.exceptions import ConfigurationError, HubSpotIdentifyError, UnknownAccountError
from hubspot_identify.visitors import user_visitor

KEY = "pat-na1-1b2c3d4e"
OTHER_KEY = "pat-eu1-5f6a7b8c"
#: As little as there has to be.
MINIMUM = {"API_KEY": KEY, "EMAIL_VERIFIED": True}


def chooser(request: HttpRequest) -> str | None:
    return request.headers.get("X-Account")


def yes(*args: object) -> bool:
    raise AssertionError("Settings are read, not tried.")


async def asynchronous(*args: object) -> bool:
    raise AssertionError("Settings are read, not tried.")


class Asynchronous:
    async def __call__(self, *args: object) -> bool:
        raise AssertionError("Settings are read, not tried.")


def test_the_defaults_are_the_documented_ones() -> None:
    """With a key alone, everything else is what the manual's table says."""
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


@pytest.mark.parametrize(
    ("key", "given_", "kept"),
    [
        ("API_KEY", f" \t{KEY}\r\n", KEY),
        ("API_KEY", yes, yes),
        ("BASE_URL", "https://proxy.example/hub//", "https://proxy.example/hub"),
        ("BASE_URL", "http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("BASE_URL", "http://[::1]:8000", "http://[::1]:8000"),
        ("BASE_URL", "http://localhost", "http://localhost"),
        ("TOKEN_PATH", "/visitor-identification/2026-09/tokens/create", None),
        ("AUTH_SCHEME", "hapikey", None),
        ("PORTAL_ID", "123", None),
        ("PORTAL_ID", 123, "123"),
        ("PORTAL_ID", "", None),
        ("REGION", "eu1", None),
        ("LOADER_URL", "/sandbox/123.js", None),
        ("LOADER_URL", "https://proxy.example/123.js", None),
        ("LOADER_URL", "", None),
        ("VISITOR", "hubspot_identify.visitors.user_visitor", user_visitor),
        ("EMAIL_VERIFIED", True, None),
        ("EMAIL_VERIFIED", False, None),
        ("EMAIL_VERIFIED", yes, None),
        ("IMPERSONATED", f"{__name__}.yes", yes),
        ("ENABLED", yes, None),
        ("WIDGET", {"disableAttachment": True}, {"avoidInlineStyles": True, "disableAttachment": True}),
        ("WIDGET", {"avoidInlineStyles": False}, None),
        ("WIDGET", {"avoidInlineStyles": True, "enableWidgetCookieBanner": "ON_EXIT_INTENT"}, None),
        ("WIDGET", {"announcedTomorrow": "text"}, {"avoidInlineStyles": True, "announcedTomorrow": "text"}),
        ("LOAD_ON", "interaction", None),
        ("DELIVERY", "inline", None),
        ("PAGE_WAIT", 0, None),
        ("TIMEOUT", 30, None),
        ("RATE_LIMIT", 17, None),
        ("CHOOSE_ACCOUNT", chooser, None),
    ],
)
def test_what_may_be_written(key: str, given_: object, kept: object) -> None:
    """Each of these values is taken, in the one form the rest of the app relies on."""
    config = build_config({**MINIMUM, key: given_})
    wanted = given_ if kept is None and given_ != "" else kept
    assert getattr(config, key.lower()) == wanted


WRONG: list[tuple[str, object, str]] = [
    ("API_KEY", None, "is missing"),
    ("API_KEY", "", "is missing"),
    ("API_KEY", " \n", "is empty"),
    ("API_KEY", KEY.encode(), "is a bytes"),
    ("API_KEY", "pat-nä1", "has characters that are not ASCII"),
    ("API_KEY", "pat\r\nX-Injected: 1", "has white space or control characters inside"),
    ("API_KEY", "two words", "has white space or control characters inside"),
    ("API_KEY", "pat\x7f", "has white space or control characters inside"),
    ("API_KEY", asynchronous, "is asynchronous"),
    ("BASE_URL", None, "is a NoneType"),
    ("BASE_URL", "", "is not a complete address"),
    ("BASE_URL", "api.hubapi.com", "is not a complete address"),
    ("BASE_URL", "//api.hubapi.com", "is not a complete address"),
    ("BASE_URL", "ftp://api.hubapi.com", "is not a complete address"),
    ("BASE_URL", "https://", "is not a complete address"),
    ("BASE_URL", "https://:443", "is not a complete address"),
    ("BASE_URL", "https://api.hubapi.com /", "is not a complete address"),
    ("BASE_URL", "https://bücher.example", "is not a complete address"),
    ("BASE_URL", "https://[::1", "can't be parsed as an address"),
    ("BASE_URL", "https://api.hubapi.com:99999", "can't be parsed as an address"),
    ("BASE_URL", "https://user:secret@api.hubapi.com", "has a user name, a query or a fragment"),
    ("BASE_URL", "https://@api.hubapi.com", "has a user name, a query or a fragment"),
    ("BASE_URL", "https://api.hubapi.com?a=b", "has a user name, a query or a fragment"),
    ("BASE_URL", "https://api.hubapi.com/?", "has a user name, a query or a fragment"),
    ("BASE_URL", "https://api.hubapi.com#", "has a user name, a query or a fragment"),
    ("BASE_URL", "http://api.hubapi.com", "is http:// to another machine"),
    ("BASE_URL", "http://localhost.example.com", "is http:// to another machine"),
    ("BASE_URL", "http://192.168.0.1", "is http:// to another machine"),
    ("TOKEN_PATH", 1, "is a int"),
    ("TOKEN_PATH", "tokens/create", "is not written as it should be"),
    ("TOKEN_PATH", "/tokens?x=1", "is not written as it should be"),
    ("TOKEN_PATH", "/tokens\n", "is not written as it should be"),
    ("AUTH_SCHEME", "Bearer", "is none of the known values"),
    ("AUTH_SCHEME", None, "is a NoneType"),
    ("AUTH_SCHEME", ["bearer"], "is a list"),
    ("PORTAL_ID", "12 34", "is not written as it should be"),
    ("PORTAL_ID", "١٢٣", "is not written as it should be"),
    ("PORTAL_ID", True, "is a bool"),
    ("PORTAL_ID", -1, "is not written as it should be"),
    pytest.param("PORTAL_ID", 10**5000, "is not written as it should be", id="PORTAL_ID-huge"),
    ("REGION", "EU", "is not written as it should be"),
    ("REGION", None, "is a NoneType"),
    ("LOADER_URL", 5, "is a int"),
    ("LOADER_URL", "//elsewhere.example/123.js", "is not a complete address"),
    ("LOADER_URL", "/\\elsewhere.example/123.js", "is not a complete address"),
    ("LOADER_URL", "javascript:alert(1)", "is not a complete address"),
    ("LOADER_URL", "http://elsewhere.example/123.js", "is http:// to another machine"),
    ("VISITOR", None, "is a NoneType"),
    ("VISITOR", "user_visitor", "is text, but no dotted path"),
    ("VISITOR", "..user_visitor", "is text, but no dotted path"),
    ("VISITOR", "hubspot_identify.visitors.user_vistor", "can't be imported (ImportError: "),
    ("VISITOR", "there_is_no.such_module", "can't be imported (there is no such module)"),
    ("VISITOR", "hubspot_identify.conf.KEYS", "is a tuple"),
    ("VISITOR", asynchronous, "is asynchronous"),
    ("EMAIL_VERIFIED", None, "is missing"),
    ("EMAIL_VERIFIED", 1, "is a int"),
    ("EMAIL_VERIFIED", "yes", "is text, but no dotted path"),
    ("EMAIL_VERIFIED", asynchronous, "is asynchronous"),
    ("EMAIL_VERIFIED", Asynchronous(), "is asynchronous"),
    ("IMPERSONATED", True, "is a bool"),
    ("IMPERSONATED", asynchronous, "is asynchronous"),
    ("ENABLED", None, "is a NoneType"),
    ("ENABLED", "False", "is text, but no dotted path"),
    ("ENABLED", 0, "is a int"),
    ("ENABLED", f"{__name__}.asynchronous", "is asynchronous"),
    ("WIDGET", ["avoidInlineStyles"], "is a list"),
    ("LOAD_ON", "scroll", "is none of the known values"),
    ("DELIVERY", "defer", "is none of the known values"),
    ("PAGE_WAIT", "1", "is a str"),
    ("PAGE_WAIT", True, "is a bool"),
    ("PAGE_WAIT", -0.1, "is too little or too much"),
    ("PAGE_WAIT", float("nan"), "is too little or too much"),
    ("TIMEOUT", 0, "is too little or too much"),
    ("TIMEOUT", float("inf"), "is too little or too much"),
    ("TIMEOUT", 10**400, "is too little or too much"),
    ("RATE_LIMIT", 0, "is too little or too much"),
    pytest.param("RATE_LIMIT", 10**5000, "is too little or too much", id="RATE_LIMIT-huge"),
    ("RATE_LIMIT", 10.0, "is a float"),
    ("RATE_LIMIT", True, "is a bool"),
    ("CACHE", None, "is a NoneType"),
    ("CACHE", "redis", "is none of the known values"),
    ("ACCOUNTS", ["eu"], "is a list"),
    ("CHOOSE_ACCOUNT", "eu", "is text, but no dotted path"),
    ("CHOOSE_ACCOUNT", asynchronous, "is asynchronous"),
]


@pytest.mark.parametrize(("key", "value", "problem"), WRONG)
def test_what_may_not_be_written(key: str, value: object, problem: str) -> None:
    """The error of a wrong value names the setting, says what is wrong, and says what to write."""
    with pytest.raises(ConfigurationError) as caught:
        build_config({**MINIMUM, key: value})
    text = str(caught.value)
    assert text.startswith(f"HUBSPOT_IDENTIFY[{key!r}] {problem}")
    assert re.search(r": write .{10,}\.$", text)


@pytest.mark.parametrize("secret", [KEY, "secret.with.dots"])
@pytest.mark.parametrize("key", sorted(set(KEYS) - {"API_KEY"}))
def test_a_key_in_the_place_of_another_setting_is_not_quoted(key: str, secret: str) -> None:
    """Two mixed up variables of the environment put no key into an error, nor into a chained one."""
    with pytest.raises(ConfigurationError) as caught:
        build_config({**MINIMUM, key: secret})
    error: BaseException | None = caught.value
    while error is not None:
        assert secret.partition(".")[0] not in repr(error)
        error = error.__cause__ or error.__context__


def test_a_module_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dotted path into a module with a mistake is a wrong setting, and the mistake is chained to it."""
    (tmp_path / "module_with_a_mistake.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"'VISITOR'\] can't be imported \(ZeroDivisionError: ") as caught:
        build_config({**MINIMUM, "VISITOR": "module_with_a_mistake.visitor"})
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("API_KEYS", "API_KEY"), ("api_key", "API_KEY"), ("PORTAL", "PORTAL_ID"), ("RATELIMIT", "RATE_LIMIT")],
)
def test_an_unknown_key_is_answered_with_the_nearest(key: str, nearest: str) -> None:
    """A slip of the pen is named together with what was probably meant."""
    with pytest.raises(ConfigurationError) as caught:
        build_config({**MINIMUM, key: 1})
    assert str(caught.value) == f"HUBSPOT_IDENTIFY has an unknown key {key!r}: did you mean {nearest!r}?"


@pytest.mark.parametrize("key", ["XYZ", 5])
def test_a_key_unlike_all_others_is_answered_with_all(key: object) -> None:
    """Where nothing is near, the error lists what there is."""
    with pytest.raises(ConfigurationError) as caught:
        build_config({**MINIMUM, key: 1})
    assert str(caught.value).endswith(f"write one of {', '.join(map(repr, KEYS))}.")


def test_missing_settings_are_written_out() -> None:
    """Without the dict, the error shows the two that one can start with."""
    with pytest.raises(ConfigurationError, match=r'^settings\.HUBSPOT_IDENTIFY is missing: write .*"API_KEY": …'):
        build_config(None)
    with pytest.raises(ConfigurationError, match=r"^HUBSPOT_IDENTIFY is a str: write a dict of settings\.$"):
        build_config("key")


EVERYBODYS = "would give one visitor's identity to everybody: leave it out, the app supplies it"
BANNER = "write True or False or 'ON_WIDGET_LOAD' or 'ON_EXIT_INTENT'"


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("avoidInlineStyles", "yes", "['avoidInlineStyles'] is a str: write True or False"),
        ("avoidInlineStyles", None, "['avoidInlineStyles'] is a NoneType: write True or False"),
        ("inlineEmbedSelector", True, "['inlineEmbedSelector'] is a bool: write text"),
        ("enableWidgetCookieBanner", "on", f"['enableWidgetCookieBanner'] is a str: {BANNER}"),
        ("enableWidgetCookieBanner", 1, f"['enableWidgetCookieBanner'] is a int: {BANNER}"),
        ("announcedTomorrow", None, "['announcedTomorrow'] is a NoneType: write True or False or text"),
        ("identificationEmail", "a@example.com", f"['identificationEmail'] {EVERYBODYS}"),
        ("identificationToken", "t", f"['identificationToken'] {EVERYBODYS}"),
        (5, True, " has an option that is a int: write its name as text"),
    ],
)
def test_what_the_widget_would_choke_on_is_an_error(option: object, value: object, problem: str) -> None:
    """A wrong type stops HubSpot's widget at start-up, and an identity in the settings would be everybody's."""
    with pytest.raises(ConfigurationError) as caught:
        build_config({**MINIMUM, "WIDGET": {option: value}})
    assert str(caught.value) == f"HUBSPOT_IDENTIFY['WIDGET']{problem}."


def test_loading_on_interaction_and_inline_delivery_exclude_each_other() -> None:
    """A chat that asks for no token before the first click can't have one in the page."""
    with pytest.raises(ConfigurationError, match=r"LOAD_ON.*leave out DELIVERY"):
        build_config({**MINIMUM, "LOAD_ON": "interaction", "DELIVERY": "inline"})


@pytest.mark.parametrize(
    ("settings_", "loader"),
    [
        ({}, None),
        ({"PORTAL_ID": "123"}, "https://js.hs-scripts.com/123.js"),
        ({"PORTAL_ID": "123", "REGION": "eu1"}, "https://js-eu1.hs-scripts.com/123.js"),
        ({"LOADER_URL": "/sandbox/1.js"}, "/sandbox/1.js"),
        ({"PORTAL_ID": "123", "LOADER_URL": "/sandbox/1.js"}, "/sandbox/1.js"),
    ],
)
def test_the_loader_is_that_of_the_region_unless_it_is_named(settings_: dict[str, Any], loader: str | None) -> None:
    """na1 has the plain host, the others their own; without a portal there is none."""
    assert build_config({**MINIMUM, **settings_}).loader == loader


def test_switched_off_nothing_else_is_looked_at(settings: Settings) -> None:
    """A developer's machine with ENABLED off works without a key, with wrong ones, and without the accounts."""
    for source in ({"ENABLED": False}, {"ENABLED": False, "API_KEY": 5, "RUBBISH": 1, "ACCOUNTS": 5}):
        settings.HUBSPOT_IDENTIFY = source
        assert get_config() == Config(enabled=False)
        assert get_config("eu") == Config(enabled=False, account="eu")
        assert account_chooser() is None


def test_names_from_urls_are_not_collected_where_the_chat_is_off(settings: Settings) -> None:
    """Each made up account of a request leaves nothing behind in the process."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    assert get_config("made-up-1") is not get_config("made-up-1")


def test_an_account_can_be_on_while_the_rest_is_off(settings: Settings) -> None:
    """ENABLED is overridden like everything else."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False, "ACCOUNTS": {"eu": {**MINIMUM, "ENABLED": True}}}
    assert get_config("eu").enabled is True
    assert get_config().enabled is False


def test_settings_are_live_and_remembered(settings: Settings) -> None:
    """The same dict is checked once; another one, also by override_settings, is another config at once."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "PORTAL_ID": "1"}
    config = get_config()
    assert get_config() is config
    with override_settings(HUBSPOT_IDENTIFY={**MINIMUM, "PORTAL_ID": "2"}):
        assert get_config().portal_id == "2"
    assert get_config() == config


def test_a_new_cache_alias_is_seen(settings: Settings) -> None:
    """CACHE is checked against the caches of the moment."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "CACHE": "chat"}
    with pytest.raises(ConfigurationError, match="'default'"):
        get_config()
    settings.CACHES = {**settings.CACHES, "chat": settings.CACHES["default"]}
    assert get_config().cache == "chat"


def test_an_account_overrides_what_it_names(settings: Settings) -> None:
    """Everything else is as outside, and the config knows its name."""
    settings.HUBSPOT_IDENTIFY = {
        **MINIMUM,
        "PORTAL_ID": "1",
        "TIMEOUT": 2,
        "ACCOUNTS": {"eu": {"PORTAL_ID": "2", "REGION": "eu1"}},
    }
    config = get_config("eu")
    assert (config.account, config.portal_id, config.region) == ("eu", "2", "eu1")
    assert (config.api_key, config.timeout) == (KEY, 2)
    assert get_config().portal_id == "1"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"PORTAL": "1"}, "has an unknown key 'PORTAL': did you mean 'PORTAL_ID'?"),
        ({"ACCOUNTS": {}}, "has ACCOUNTS: write it once, outside."),
        ({"CHOOSE_ACCOUNT": yes}, "has CHOOSE_ACCOUNT: write it once, outside."),
        (5, "is a int: write a dict of settings."),
    ],
)
def test_wrong_account_is_an_error_where_it_is_asked_for(settings: Settings, overrides: object, problem: str) -> None:
    """The other accounts work without it. The system checks report it."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {"eu": overrides, "us": {}}}
    assert get_config("us").account == "us"
    with pytest.raises(ConfigurationError) as caught:
        get_config("eu")
    assert str(caught.value) == f"HUBSPOT_IDENTIFY['ACCOUNTS']['eu'] {problem}"
    (message,) = check_settings()
    assert (message.id, message.msg.split(": ")[0].rstrip(".")) == (
        "hubspot_identify.E001",
        str(caught.value).split(": ")[0].rstrip("."),
    )


@pytest.mark.parametrize(("name", "problem"), [("e u", "is not written as it should be"), (1, "is a int")])
def test_wrong_name_of_an_account_is_found_by_the_checks(settings: Settings, name: object, problem: str) -> None:
    """A name that cannot be part of a URL is an error, and no page works for it."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {name: {}}}
    with pytest.raises(ConfigurationError):
        get_config(str(name))
    assert problem in " ".join(message.msg for message in check_settings() if message.id == "hubspot_identify.E001")


def test_only_the_account_asked_for_is_validated(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an unknown nor a known account costs a look at each of a thousand others."""
    looked_at: list[Any] = []
    monkeypatch.setattr(conf, "check_keys", lambda values, where: looked_at.append(where))
    monkeypatch.setattr(validation, "check_keys", lambda values, where: looked_at.append(where))
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {f"account{number}": {} for number in range(1000)}}
    with pytest.raises(UnknownAccountError):
        get_config("nowhere")
    assert looked_at == []
    assert get_config("account7").account == "account7"
    assert len(looked_at) == 2  # its own settings, and those together with the settings around them


def test_names_of_unknown_accounts_are_not_kept(settings: Settings) -> None:
    """Names that a client makes up leave nothing in the process."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {"eu": {}}}
    get_config("eu")
    for number in range(100):
        with pytest.raises(UnknownAccountError):
            get_config(f"made-up-{number}")
    assert list(conf._remembered().configs) == ["eu"]


def test_error_of_an_unknown_account_is_short(settings: Settings) -> None:
    """A site with many accounts does not have all of them in one log line."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {f"account{number}": {} for number in range(1000)}}
    with pytest.raises(UnknownAccountError) as caught:
        get_config("nowhere")
    assert len(str(caught.value)) < 500


def test_an_unknown_account_is_told_the_known_ones(settings: Settings) -> None:
    """The error, one of its own kind, lists the names."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {"eu": {}, "us": {}}}
    with pytest.raises(UnknownAccountError, match=r"has no account 'uk'; it has 'eu', 'us'\.$"):
        get_config("uk")
    settings.HUBSPOT_IDENTIFY = MINIMUM
    with pytest.raises(UnknownAccountError, match=r"it has none\.$"):
        get_config("uk")


def test_the_request_chooses_the_account_unless_it_is_named(settings: Settings) -> None:
    """CHOOSE_ACCOUNT is asked where there is a request and no name; None and "" are the settings themselves."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {"eu": {}, "us": {}}, "CHOOSE_ACCOUNT": f"{__name__}.chooser"}
    request = RequestFactory().get("/", headers={"X-Account": "eu"})
    assert config_for(request).account == "eu"
    assert config_for(request, "us").account == "us"
    assert config_for(request, "").account == ""
    assert config_for(None).account == ""
    assert config_for(RequestFactory().get("/")).account == ""
    assert config_for(RequestFactory().get("/", headers={"X-Account": ""})).account == ""


def test_without_a_chooser_no_request_changes_the_account(settings: Settings) -> None:
    """Naming accounts is not yet choosing among them."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "ACCOUNTS": {"eu": {}}}
    assert config_for(RequestFactory().get("/", headers={"X-Account": "eu"})).account == ""


def test_the_chooser_is_read_without_the_settings_around_it(settings: Settings) -> None:
    """All accounts may have keys of their own, and the settings outside none."""
    settings.HUBSPOT_IDENTIFY = {"ACCOUNTS": {"eu": MINIMUM}, "CHOOSE_ACCOUNT": chooser}
    assert account_chooser() is chooser
    assert config_for(RequestFactory().get("/", headers={"X-Account": "eu"})).api_key == KEY


def test_a_chosen_account_has_to_be_text(settings: Settings) -> None:
    """Anything else is a wrong setting, and no crash."""
    settings.HUBSPOT_IDENTIFY = {**MINIMUM, "CHOOSE_ACCOUNT": lambda request: ["eu"]}
    with pytest.raises(ConfigurationError, match=r"'CHOOSE_ACCOUNT'.* returned a list: write "):
        config_for(RequestFactory().get("/"))


@pytest.mark.parametrize("source", [{"API_KEY": KEY}, {"API_KEY": KEY, "EMAIL_VERIFIED": None}])
def test_missing_email_verified_is_a_configuration_error(settings: Settings, source: dict[str, object]) -> None:
    """Without django-allauth the setting is required, and ``None`` counts as missing."""
    settings.HUBSPOT_IDENTIFY = source
    with pytest.raises(ConfigurationError, match="EMAIL_VERIFIED"):
        get_config()


def test_missing_email_verified_is_accepted_if_the_chat_is_disabled() -> None:
    """``ENABLED = False`` disables the validation of the other settings; a callable does not."""
    assert build_config({"ENABLED": False}).enabled is False
    with pytest.raises(ConfigurationError):
        build_config({"API_KEY": KEY, "ENABLED": yes})


def test_email_verified_is_inherited_by_accounts() -> None:
    """An account can override the setting, also with ``None``, which counts as missing."""
    source = {**MINIMUM, "ACCOUNTS": {"eu": {}, "us": {"EMAIL_VERIFIED": yes}, "uk": {"EMAIL_VERIFIED": None}}}
    assert build_config(source, "eu").email_verified is True
    assert build_config(source, "us").email_verified is yes
    for wrong in ("uk", "eu"):
        with pytest.raises(ConfigurationError):
            build_config(source if wrong == "uk" else {**source, "EMAIL_VERIFIED": None}, wrong)


class Allauth(AppConfig):
    """django-allauth's app without its models, whose tables the test database does not have."""

    name = "allauth.account"

    def import_models(self) -> None:
        self.models = {}


def test_installed_apps_decide_whether_email_verified_may_be_missing(settings: Settings) -> None:
    """A change of ``INSTALLED_APPS`` takes effect at once, although validated settings are kept."""
    settings.HUBSPOT_IDENTIFY = {"API_KEY": KEY}
    with_allauth = [*settings.INSTALLED_APPS, f"{__name__}.Allauth"]
    for _ in range(2):
        with pytest.raises(ConfigurationError):
            get_config()
        with override_settings(INSTALLED_APPS=with_allauth):
            assert get_config().email_verified is None
            with override_settings(INSTALLED_APPS=settings.INSTALLED_APPS[:-1]), pytest.raises(ConfigurationError):
                get_config()


def test_no_repr_of_a_config_shows_a_key() -> None:
    """Neither its own nor those of the accounts."""
    config = build_config({**MINIMUM, "ACCOUNTS": {"eu": {"API_KEY": OTHER_KEY}}})
    assert KEY not in repr(config)
    assert OTHER_KEY not in repr(config)


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("read", [get_config, account_chooser])
def test_the_debug_page_of_a_wrong_setting_shows_no_key(
    settings: Settings, read: Callable[[], object], debug: bool
) -> None:
    """Django's page for the developer, and the mail for the admins, show no frame that holds the settings."""
    settings.DEBUG = debug
    settings.HUBSPOT_IDENTIFY = {
        **MINIMUM,
        "ACCOUNTS": {"eu": {"API_KEY": OTHER_KEY}},
        "CHOOSE_ACCOUNT": "missing",
    }
    request = RequestFactory().get("/")
    try:
        read()
    except ConfigurationError as error:
        reporter = ExceptionReporter(request, type(error), error, error.__traceback__)
        report = reporter.get_traceback_html() + reporter.get_traceback_text()
    assert "ConfigurationError" in report
    assert KEY not in report
    assert OTHER_KEY not in report


def test_configuration_errors_stand_outside_of_the_tree() -> None:
    """Who catches HubSpot's trouble doesn't swallow mistakes in the settings."""
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
    | st.just(functools.partial(yes)),
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
def test_no_settings_break_anything_but_themselves(source: object, account: str) -> None:
    """Whatever stands there is a config or a ConfigurationError."""
    result = config_or_text(source, account)
    assert isinstance(result, Config) or "HUBSPOT_IDENTIFY" in result


@pytest.mark.parametrize("key", KEYS)
@given(value=VALUES)
def test_no_value_breaks_anything_but_its_setting(key: str, value: object) -> None:
    """The same for each setting by itself; the error names it."""
    result = config_or_text({**MINIMUM, key: value})
    assert isinstance(result, Config) or f"HUBSPOT_IDENTIFY[{key!r}]" in result


def config_or_text(source: object, account: str = "") -> Config | str:
    try:
        return build_config(source, account)
    except ConfigurationError as error:
        return str(error)
