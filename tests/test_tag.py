"""The script element that the template tag renders, for every setting and argument.

Both template engines call the same function. The tests that take ``render`` run with both.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.conf.urls.i18n import i18n_patterns
from django.contrib.auth.models import AnonymousUser
from django.contrib.staticfiles import urls as staticfiles_urls
from django.contrib.staticfiles.storage import ManifestFilesMixin, ManifestStaticFilesStorage, StaticFilesStorage
from django.core.cache import caches
from django.core.files.storage import Storage
from django.http import HttpRequest
from django.template import Context, Engine, Library, Template, TemplateSyntaxError
from django.templatetags.cache import do_cache
from django.test import override_settings
from django.urls import include, path, set_script_prefix, set_urlconf
from django.utils.translation import override
from django.views.generic import RedirectView
from pytest_django import Settings
from support.pages import (
    ENGINES,
    MISSING,
    Render,
    ada,
    django_template,
    grace,
    keep_token,
    render_django,
    request_by,
    script_attributes,
    subject_for,
)

from hubspot_identify._tokens.entries import EXPIRE_AFTER
from hubspot_identify.exceptions import ConfigurationError, UnknownAccountError
from hubspot_identify.services import Identification, identify
from hubspot_identify.testing import fake_hubspot

WIDGET = "{&quot;avoidInlineStyles&quot;: true}"
SRC = '<script data-cfasync="false" src="/static/hubspot_identify/identify.js"'
LOADER = 'data-loader="https://js.hs-scripts.com/123.js"'
DEFERRED = (
    f'{SRC} defer data-endpoint="/hubspot/identity/" {LOADER} data-load-on="page" data-widget="{WIDGET}"></script>'
)
EXECUTED = ["data-cfasync", "src", "defer"]  # the attributes that say how to execute the script, in this order
UNROUTED = ()  # a URLconf without the app's URLs
OTHER_HOST = "django.contrib.auth.urls"  # a URLconf without the app's URLs, for one of several hosts
WITHOUT_ENDPOINT = DEFERRED.replace(' data-endpoint="/hubspot/identity/"', "")
NOW = 1_800_000_000


@pytest.fixture(params=ENGINES)
def render(request: pytest.FixtureRequest) -> Render:
    """The tag in a Django template, and the function in a Jinja template."""
    return ENGINES[request.param]


@pytest.fixture
def stopped_clock() -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def configure(settings: Settings) -> Callable[..., None]:
    """Change ``HUBSPOT_IDENTIFY``, starting from the settings of the test suite."""

    def change(**values: object) -> None:
        settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **values}

    return change


Configure = Callable[..., None]


class Untouchable:
    """An object that fails the test when any attribute is read."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"The tag read {name}.")


def request_with(user: object = None, **attributes: Any) -> Any:
    """A request with extra attributes, such as those that other middleware sets."""
    request = request_by(user)
    vars(request).update(attributes)
    return request


# Deferred delivery


def test_deferred_element_is_the_same_for_every_visitor(render: Render) -> None:
    """Two users with tokens, an anonymous visitor and an error page get the same bytes."""
    keep_token(ada())
    keep_token(grace())
    pages = {render(request_by(user)) for user in (ada(), grace(), AnonymousUser())} | {render(None)}
    assert pages == {DEFERRED}


def test_deferred_tag_reads_no_user_session_or_cache(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    """With deferred delivery the tag uses only the settings and the URLconf."""
    request = request_with(Untouchable(), session=Untouchable())
    reads: list[object] = []
    monkeypatch.setattr(type(caches["default"]), "get", lambda *arguments, **_: reads.append(arguments))
    assert render(request) == DEFERRED
    assert reads == []


def test_deferred_page_may_be_stored_in_page_caches() -> None:
    """The tag leaves Django's flag for page caches as it is."""
    request = request_with(ada(), _cache_update_cache=True)
    render_django(request)
    assert request._cache_update_cache is True


@pytest.mark.parametrize(
    ("values", "loader"),
    [
        ({"PORTAL_ID": 4567, "REGION": "eu1"}, "https://js-eu1.hs-scripts.com/4567.js"),
        ({"LOADER_URL": "/sandbox/1.js?a=1&b=2"}, "/sandbox/1.js?a=1&amp;b=2"),
        ({"LOADER_URL": "https://chat.example.com/x.js", "PORTAL_ID": None}, "https://chat.example.com/x.js"),
    ],
)
def test_loader_url(configure: Configure, values: dict[str, object], loader: str) -> None:
    """The loader's URL comes from region and portal, or unchanged from ``LOADER_URL``."""
    configure(**values)
    assert render_django(request_by()) == DEFERRED.replace("https://js.hs-scripts.com/123.js", loader)


def test_without_portal_the_script_is_not_deferred(configure: Configure) -> None:
    """Without ``PORTAL_ID`` the script runs before HubSpot's own embed code and adds no loader."""
    configure(PORTAL_ID=None)
    assert render_django(request_by()) == DEFERRED.replace(" defer", "").replace(f" {LOADER}", "")


def test_widget_options_are_merged_and_escaped(configure: Configure) -> None:
    """Options override the defaults, are written as JSON, and cannot leave their attribute."""
    options = {"inlineEmbedSelector": "#a > b[c='\"</script>']", "avoidInlineStyles": False, "disableAttachment": True}
    configure(WIDGET=options)
    written = escape(json.dumps({"avoidInlineStyles": False, **options}), quote=True)
    assert render_django(request_by()) == DEFERRED.replace(WIDGET, written)


def test_load_on_interaction_adds_the_launcher(configure: Configure) -> None:
    """With ``LOAD_ON = "interaction"`` the element has the button's script and its three texts."""
    configure(LOAD_ON="interaction")
    element = render_django(request_by())
    attributes = script_attributes(element)
    labels = json.loads(attributes["data-labels"])
    assert list(labels) == ["open", "loading", "unavailable"]
    assert all(labels.values())
    assert attributes["data-launcher"] == "/static/hubspot_identify/launcher.js"
    rest = re.sub(r' data-(launcher|labels)="[^"]*"', "", element)
    assert rest == DEFERRED.replace('"page"', '"interaction"')


# Inline delivery


@pytest.mark.usefixtures("stopped_clock")
def test_inline_element_has_subject_identity_and_endpoint(render: Render, configure: Configure) -> None:
    """The element has the visitor's identity, and the endpoint for the time when that expires."""
    configure(DELIVERY="inline")
    keep_token(ada())
    identity = json.dumps({"email": "ada@example.com", "token": "token-of-ada", "expires_in": int(EXPIRE_AFTER)})
    personal = f' data-subject="{subject_for(ada())}" data-identity="{escape(identity)}"></script>'
    assert render(request_by(ada())) == DEFERRED.replace("></script>", personal)


def test_unrouted_urls_make_delivery_inline(settings: Settings) -> None:
    """Without the app's URLs the page has the identity, and the element has no endpoint."""
    settings.ROOT_URLCONF = UNROUTED
    keep_token(ada())
    attributes = script_attributes(render_django(request_by(ada())))
    assert json.loads(attributes.pop("data-identity"))["token"] == "token-of-ada"
    assert list(attributes) == [*EXECUTED, "data-loader", "data-load-on", "data-widget", "data-subject"]


@contextmanager
def urlconf_of_the_host(urlconf: Any) -> Iterator[None]:
    """Use a URLconf as Django does if middleware sets ``request.urlconf``, as for one of several hosts."""
    set_urlconf(urlconf)
    try:
        yield
    finally:
        set_urlconf(None)


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("values", [{}, {"DELIVERY": "deferred"}])
def test_host_without_the_apps_urls_has_an_unidentified_chat(
    render: Render,
    configure: Configure,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    values: dict[str, object],
    debug: bool,
) -> None:
    """The page has no identity, whatever the view passes, and may be cached. One ERROR names the URLconf."""
    settings.DEBUG = debug
    configure(**values)
    keep_token(ada())
    found = identify(request_by(ada()))
    request = request_with(Untouchable(), _cache_update_cache=True)
    with urlconf_of_the_host(OTHER_HOST):
        assert [render(request), render(request, identity=found), render(None)] == [WITHOUT_ENDPOINT] * 3
    assert request._cache_update_cache is True
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hubspot_identify.delivery", logging.ERROR)
    assert OTHER_HOST in record.getMessage()
    assert 'path("hubspot/", include("hubspot_identify.urls"))' in record.getMessage()


def test_launcher_works_on_a_host_without_the_apps_urls(configure: Configure) -> None:
    """The button opens an unidentified chat."""
    configure(LOAD_ON="interaction")
    complete = script_attributes(render_django(request_by()))
    with urlconf_of_the_host(OTHER_HOST):
        attributes = script_attributes(render_django(request_by()))
    assert complete == {**attributes, "data-endpoint": "/hubspot/identity/"}


def test_each_urlconf_without_the_apps_urls_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A URLconf may be given by its name, as a module, or as a list of patterns."""
    for urlconf in (OTHER_HOST, staticfiles_urls, (path("", RedirectView.as_view()),)):
        for _ in range(2):
            with urlconf_of_the_host(urlconf):
                assert render_django(request_by()) == WITHOUT_ENDPOINT
    names = (OTHER_HOST, "django.contrib.staticfiles.urls", "URLconf of the request")
    assert [name in record.getMessage() for name, record in zip(names, caplog.records, strict=True)] == [True] * 3


def test_delivery_is_the_same_for_every_host(
    configure: Configure, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Inline delivery applies to all hosts, whether ``DELIVERY`` or ``ROOT_URLCONF`` is the reason for it."""
    keep_token(ada())
    configure(DELIVERY="inline")
    with urlconf_of_the_host(OTHER_HOST):
        assert "token-of-ada" in render_django(request_by(ada()))
    configure(DELIVERY=None)
    settings.ROOT_URLCONF = UNROUTED
    with urlconf_of_the_host("urls"):
        attributes = script_attributes(render_django(request_by(ada())))
    assert "token-of-ada" in attributes["data-identity"]
    assert attributes["data-endpoint"] == "/hubspot/identity/"
    assert caplog.records == []


def test_inline_page_has_only_its_own_users_identity(render: Render, configure: Configure) -> None:
    """Each user's page has that user's identity and no data of another user."""
    configure(DELIVERY="inline")
    keep_token(ada())
    keep_token(grace())
    for user, other in ((ada(), grace()), (grace(), ada())):
        page = render(request_by(user))
        assert json.loads(script_attributes(page)["data-identity"])["token"] == f"token-of-{user.username}"
        for secret in (other.username, other.first_name, other.last_name, subject_for(other)):
            assert secret.lower() not in page.lower()


@pytest.mark.parametrize("user", [AnonymousUser(), None], ids=["anonymous", "no user"])
def test_inline_page_of_an_anonymous_visitor_has_an_empty_subject(configure: Configure, user: object) -> None:
    """The empty subject lets the script clean up after a visitor who logged out."""
    configure(DELIVERY="inline")
    assert render_django(request_by(user)) == DEFERRED.replace("></script>", ' data-subject=""></script>')


def test_inline_page_without_token_has_only_a_subject() -> None:
    """When HubSpot fails, the page names the visitor by subject and has no identity."""
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=0) as hubspot:
        hubspot.fail(503)
        page = render_django(request_by(ada()))
        assert page == DEFERRED.replace("></script>", f' data-subject="{subject_for(ada())}"></script>')


def test_inline_page_waits_for_the_first_token() -> None:
    """The first page of a visitor waits for the token for at most ``PAGE_WAIT`` seconds."""
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=10) as hubspot:
        page = render_django(request_by(ada()))
    assert json.loads(script_attributes(page)["data-identity"])["token"] in hubspot.tokens


def test_subject_is_opaque(configure: Configure) -> None:
    """The subject is a hash that differs by visitor, portal and ``SECRET_KEY``."""
    subject = subject_for(ada())
    configure(PORTAL_ID="124")
    other_portal = subject_for(ada())
    with override_settings(SECRET_KEY="another"):
        other_secret = subject_for(ada())
    assert len({subject, other_portal, other_secret, subject_for(grace())}) == 4
    assert re.fullmatch(r"[0-9a-f]{32}", subject)


@pytest.mark.usefixtures("stopped_clock")
def test_identity_argument_is_used_without_reading_the_user(render: Render, configure: Configure) -> None:
    """An identity that the view passes is rendered, and neither user nor cache is read again."""
    configure(DELIVERY="inline")
    keep_token(ada())
    expected = render(request_by(ada()))
    found = identify(request_by(ada()))
    assert render(request_by(Untouchable()), identity=found) == expected
    assert render(None, identity=found) == expected


@pytest.mark.parametrize(("delivery", "debug"), [("inline", True), ("deferred", False)])
def test_identity_argument_of_another_type_raises(
    configure: Configure, settings: Settings, delivery: str, debug: bool
) -> None:
    """A wrong ``identity`` is an error with every delivery, in production as well."""
    configure(DELIVERY=delivery)
    settings.DEBUG = debug
    with pytest.raises(TypeError, match="identity"):
        render_django(request_by(ada()), identity={"email": "ada@example.com"})


def test_deferred_tag_ignores_the_identity_argument() -> None:
    """A deferred page has no personal data, whatever the view passes."""
    found = Identification("subject", {"email": "ada@example.com", "token": "t", "expires_in": 1})
    assert render_django(request_by(ada()), identity=found) == DEFERRED


def test_missing_context_variables_count_as_not_passed(render: Render, configure: Configure) -> None:
    """A base template may pass ``identity=identity`` and others for views that do not define them."""
    configure(**EU, DELIVERY="inline", CHOOSE_ACCOUNT=lambda request: "eu")
    keep_token(ada(), "token-of-eu", account="eu")
    names = dict.fromkeys(["identity", "account", "nonce"], MISSING)
    page = render(request_with(ada(), csp_nonce="n"), **names)
    assert script_attributes(page).items() >= {"nonce": "n", "data-endpoint": "/hubspot/identity/eu/"}.items()
    assert "token-of-eu" in page


PREFETCHES = [
    {"HTTP_SEC_PURPOSE": "prefetch"},
    {"HTTP_SEC_PURPOSE": "prefetch;prerender"},
    {"HTTP_PURPOSE": "prefetch"},
    {"HTTP_PURPOSE": "preview"},
    {"HTTP_X_PURPOSE": "preview"},
    {"HTTP_X_SEC_PURPOSE": "prefetch"},
    {"HTTP_X_MOZ": "Prefetch"},
    {"HTTP_HX_PRELOADED": "true"},
]


@pytest.mark.parametrize("headers", PREFETCHES)
def test_prefetched_page_has_no_identity(configure: Configure, headers: dict[str, str]) -> None:
    """A browser may show a prefetched page after a change of user, so it has no identity and is not cached."""
    configure(DELIVERY="inline")
    keep_token(ada())
    for identity in (None, identify(request_by(ada()))):
        request: Any = request_by(Untouchable(), **headers)
        assert render_django(request, identity=identity) == DEFERRED
        assert request._cache_update_cache is False


@pytest.mark.parametrize("headers", [{"HTTP_SEC_PURPOSE": ""}, {"HTTP_SEC_PURPOSE": "navigate"}])
def test_page_that_is_not_prefetched_has_an_identity(configure: Configure, headers: dict[str, str]) -> None:
    """Other values of the purpose headers change nothing."""
    configure(DELIVERY="inline")
    keep_token(ada())
    assert "token-of-ada" in render_django(request_by(ada(), **headers))


# Disabled chat, and consent


def test_disabled_chat_renders_nothing(settings: Settings) -> None:
    """With ``ENABLED = False`` the tag renders nothing and validates no other setting."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False, "NONSENSE": object()}
    settings.ROOT_URLCONF = UNROUTED
    assert render_django(request_by(ada())) == ""


@pytest.mark.parametrize("delivery", ["deferred", "inline"])
def test_without_consent_the_page_has_only_the_clean_up_script(configure: Configure, delivery: str) -> None:
    """If ``ENABLED`` returns ``False``, the visitor is not read and no loader is rendered. The nonce remains."""
    configure(ENABLED=lambda request: False, DELIVERY=delivery, LOAD_ON="idle")
    assert render_django(request_by(Untouchable())) == f'{SRC} defer data-load-on="never"></script>'
    assert render_django(request_by(), nonce="n") == f'{SRC} defer data-load-on="never" nonce="n"></script>'


@pytest.mark.parametrize("passes_identity", [False, True])
def test_consent_withdrawn_while_an_inline_page_is_rendered(configure: Configure, passes_identity: bool) -> None:
    """``ENABLED`` is called by the tag twice, or by the view and by the tag. If one result is ``False``, it counts."""
    keep_token(ada())
    results = iter([False, True] if passes_identity else [True, False])
    configure(ENABLED=lambda request: next(results), DELIVERY="inline")
    identity: dict[str, Any] = {"identity": identify(request_by(ada()))} if passes_identity else {}
    assert render_django(request_by(ada()), **identity) == f'{SRC} defer data-load-on="never"></script>'


def test_rocket_loader_leaves_every_element_where_it_is(configure: Configure) -> None:
    """Cloudflare requires ``data-cfasync="false"`` before ``src``. It moves and delays other scripts."""
    keep_token(ada())
    for values in (
        {},
        {"DELIVERY": "inline"},
        {"PORTAL_ID": None},
        {"LOAD_ON": "interaction"},
        {"ENABLED": lambda request: False},
    ):
        configure(**{"PORTAL_ID": "123", "DELIVERY": None, **values})
        assert render_django(request_by(ada())).startswith('<script data-cfasync="false" src='), values


def test_consent_given(configure: Configure) -> None:
    """``ENABLED`` receives the request. If it returns ``True``, the element is the usual one."""
    configure(ENABLED=lambda request: request.COOKIES.get("consent") == "yes")
    assert render_django(request_by(ada(), HTTP_COOKIE="consent=yes")) == DEFERRED
    assert render_django(request_by(ada())) != DEFERRED


@pytest.mark.parametrize("consent", [True, False])
def test_page_that_depends_on_consent_is_not_stored_in_page_caches(configure: Configure, consent: bool) -> None:
    """Django's page caches must not serve one visitor's decision to others."""
    configure(ENABLED=lambda request: consent)
    request = request_with(ada(), _cache_update_cache=True)
    render_django(request)
    assert request._cache_update_cache is False


# Pages without a request


def test_without_request_settings_that_need_one_render_nothing(configure: Configure) -> None:
    """Without a request, ``ENABLED`` and ``CHOOSE_ACCOUNT`` cannot be called, so there is no chat."""
    configure(ENABLED=lambda request: True)
    assert render_django(None) == ""
    configure(ENABLED=True, ACCOUNTS={"eu": {}}, CHOOSE_ACCOUNT=lambda request: "eu")
    assert render_django(None) == ""
    assert 'data-endpoint="/hubspot/identity/eu/"' in render_django(None, account="eu")


def test_inline_page_without_request_has_no_subject(configure: Configure) -> None:
    """Without a request the page does not say who the visitor is, not even that they are anonymous."""
    configure(DELIVERY="inline")
    assert render_django(None) == DEFERRED


def test_context_variable_named_request_is_not_the_request() -> None:
    """A template variable named ``request`` that is a model instance does not hide the request."""
    keep_token(ada())
    with override_settings(ROOT_URLCONF=UNROUTED):
        assert "token-of-ada" in render_django(request_by(ada()), {"request": "a model instance"})


# Nonces


class LazyNonce:
    """A nonce that is created on first use and is false until then, as in both CSP middlewares."""

    def __init__(self) -> None:
        self.used = False

    def __bool__(self) -> bool:  # pragma: no cover - a truth test is the mistake that this class detects
        return self.used

    def __str__(self) -> str:
        self.used = True
        return "lazy"


def with_nonce(nonce: str) -> str:
    return DEFERRED.replace("></script>", f' nonce="{nonce}"></script>')


def test_nonce_argument_precedes_context_and_request(render: Render) -> None:
    """The argument is used first, then the variable of the context, then the attribute of the request."""
    request = request_with(csp_nonce="of-the-request")
    context = {"csp_nonce": "of-the-context"}
    assert render(request, context, nonce="given") == with_nonce("given")
    assert render(request, context) == with_nonce("of-the-context")
    assert render(request) == with_nonce("of-the-request")
    assert render(None, context) == with_nonce("of-the-context")


def test_lazy_nonce_is_used_although_it_is_false(render: Render) -> None:
    """A nonce that nothing has used yet is rendered, wherever it comes from."""
    nonce = LazyNonce()
    assert render(request_with(csp_nonce=nonce)) == with_nonce("lazy")
    assert nonce.used
    assert render(request_by(), nonce=LazyNonce()) == with_nonce("lazy")
    assert render(request_by(), {"csp_nonce": LazyNonce()}) == with_nonce("lazy")


def test_page_without_chat_does_not_use_a_lazy_nonce(configure: Configure) -> None:
    """If the tag renders nothing, the nonce stays out of the header."""
    configure(ENABLED=False)
    nonce = LazyNonce()
    assert render_django(request_with(csp_nonce=nonce)) == ""
    assert not nonce.used


@pytest.mark.parametrize("empty", [None, ""])
def test_empty_nonce_renders_no_attribute(empty: str | None) -> None:
    """Without a nonce the attribute is omitted."""
    assert render_django(request_with(csp_nonce=empty), nonce=empty) == DEFERRED


# Accounts

EU: dict[str, Any] = {"ACCOUNTS": {"eu": {"PORTAL_ID": "9", "REGION": "eu1"}, "us": {"PORTAL_ID": "8"}}}
IN_EU = DEFERRED.replace("/identity/", "/identity/eu/").replace("js.hs-scripts.com/123", "js-eu1.hs-scripts.com/9")


def test_account_argument_selects_loader_and_endpoint(render: Render, configure: Configure) -> None:
    """Without the argument the top-level settings are the account."""
    configure(**EU)
    assert render(request_by(), account="eu") == IN_EU
    assert render(request_by()) == DEFERRED


def test_account_argument_precedes_choose_account(configure: Configure) -> None:
    """``CHOOSE_ACCOUNT`` decides by the request, unless the template names the account."""
    configure(**EU, CHOOSE_ACCOUNT=lambda request: request.GET.get("in"))
    assert render_django(request_by(path="/?in=eu")) == IN_EU
    assert render_django(request_by(path="/")) == DEFERRED
    assert render_django(request_by(path="/?in=us"), account="eu") == IN_EU


def test_inline_identity_belongs_to_the_account(configure: Configure) -> None:
    """An account has its own tokens and subjects. ``CHOOSE_ACCOUNT`` is called once for a page."""
    requests: list[HttpRequest] = []

    def choose(request: HttpRequest) -> str:
        requests.append(request)
        return "eu"

    configure(**EU, DELIVERY="inline", CHOOSE_ACCOUNT=choose)
    keep_token(ada(), "token-of-eu", account="eu")
    attributes = script_attributes(render_django(request_by(ada())))
    assert json.loads(attributes["data-identity"])["token"] == "token-of-eu"
    assert attributes["data-subject"] == subject_for(ada(), "eu") != subject_for(ada())
    assert len(requests) == 1


def test_inline_page_is_anonymous_if_email_verified_is_false(configure: Configure) -> None:
    """The page shows the chat, and a logged-in user gets the element of an anonymous visitor."""
    configure(DELIVERY="inline")
    keep_token(ada())
    anonymous = render_django(request_by(AnonymousUser()))
    assert render_django(request_by(ada())) != anonymous
    configure(DELIVERY="inline", EMAIL_VERIFIED=False)
    assert render_django(request_by(ada())) == anonymous
    assert "data-loader" in script_attributes(anonymous)


# Wrong settings


@pytest.mark.parametrize(
    ("values", "arguments", "setting"),
    [
        ({"API_KEY": ""}, {}, "API_KEY"),
        ({"EMAIL_VERIFIED": None}, {}, "EMAIL_VERIFIED"),
        ({"PORTL_ID": "1"}, {}, "PORTL_ID"),
        ({}, {"account": "eu"}, "ACCOUNTS"),
        ({"CHOOSE_ACCOUNT": lambda request: "eu"}, {}, "ACCOUNTS"),
    ],
)
def test_wrong_settings_raise_with_debug_and_are_logged_once_without(
    configure: Configure,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    values: dict[str, object],
    arguments: dict[str, Any],
    setting: str,
) -> None:
    """With ``DEBUG`` the tag raises. In production the page has no chat, and one ERROR is logged."""
    configure(**values)
    settings.DEBUG = True
    with pytest.raises(ConfigurationError) as caught:
        render_django(request_by(ada()), **arguments)
    assert caught.value.setting == setting
    assert isinstance(caught.value, UnknownAccountError) is (setting == "ACCOUNTS")
    settings.DEBUG = False
    assert [render_django(request_by(ada()), **arguments) for _ in range(3)] == ["", "", ""]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hubspot_identify.widget", logging.ERROR)
    assert setting in caplog.text


@pytest.mark.parametrize(
    ("values", "setting"), [({"DELIVERY": "deferred"}, "DELIVERY"), ({"LOAD_ON": "interaction"}, "LOAD_ON")]
)
def test_unrouted_urls_raise_if_the_endpoint_is_needed(
    configure: Configure, settings: Settings, values: dict[str, object], setting: str
) -> None:
    """Deferred delivery and ``LOAD_ON = "interaction"`` need the app's URLs. The hint has the line to add."""
    configure(**values)
    settings.ROOT_URLCONF = UNROUTED
    settings.DEBUG = True
    with pytest.raises(ConfigurationError) as caught:
        render_django(request_by())
    assert caught.value.setting == setting
    assert 'path("hubspot/", include("hubspot_identify.urls"))' in caught.value.hint


# URLs, which are cached and must change with what they depend on

ROUTED = path("hubspot/", include("hubspot_identify.urls"))


def endpoint() -> str:
    return script_attributes(render_django(request_by()))["data-endpoint"]


def test_endpoint_follows_the_urlconf(settings: Settings) -> None:
    """The endpoint is where the URLconf of the request has it, or else that of the settings."""
    other: Any = (path("chat/", include("hubspot_identify.urls")),)
    assert endpoint() == "/hubspot/identity/"
    with urlconf_of_the_host(other):
        assert endpoint() == "/chat/identity/"
    settings.ROOT_URLCONF = other
    assert endpoint() == "/chat/identity/"


def test_endpoint_follows_the_script_prefix() -> None:
    """With another ``SCRIPT_NAME`` the endpoint is below it."""
    assert endpoint() == "/hubspot/identity/"
    set_script_prefix("/below/")
    try:
        assert endpoint() == "/below/hubspot/identity/"
    finally:
        set_script_prefix("/")


def test_endpoint_follows_the_language(settings: Settings) -> None:
    """In ``i18n_patterns`` the endpoint has the prefix of the active language."""
    settings.ROOT_URLCONF = tuple(i18n_patterns(ROUTED))
    found = []
    for language in ("de", "fr", "de"):
        with override(language):
            found.append(endpoint())
    assert found == ["/de/hubspot/identity/", "/fr/hubspot/identity/", "/de/hubspot/identity/"]


class SigningStorage(StaticFilesStorage):
    """A storage whose URLs can be used once."""

    signed = 0

    def url(self, name: str | None) -> str:
        type(self).signed += 1
        return f"{super().url(name)}?signature={self.signed}&part=1"


def src() -> str:
    return script_attributes(render_django(request_by()))["src"]


def storage(kind: type[Storage], **options: object) -> dict[str, Any]:
    return {"staticfiles": {"BACKEND": f"{kind.__module__}.{kind.__qualname__}", "OPTIONS": options}}


def test_script_follows_the_static_url(settings: Settings) -> None:
    """The script is below ``STATIC_URL``."""
    assert src() == "/static/hubspot_identify/identify.js"
    settings.STATIC_URL = "https://cdn.example.com/"
    assert src() == "https://cdn.example.com/hubspot_identify/identify.js"


def test_script_has_the_hashed_name_of_a_manifest(settings: Settings, tmp_path: Path) -> None:
    """With a manifest the name of the script contains its hash, except with ``DEBUG``."""
    manifest = {"paths": {"hubspot_identify/identify.js": "hubspot_identify/identify.0123.js"}, "version": "1.1"}
    (tmp_path / "staticfiles.json").write_text(json.dumps(manifest))
    settings.STATIC_ROOT = str(tmp_path)
    settings.STORAGES = storage(ManifestStaticFilesStorage)
    assert src() == "/static/hubspot_identify/identify.0123.js"
    settings.DEBUG = True
    assert src() == "/static/hubspot_identify/identify.js"


class AlwaysHashing(ManifestStaticFilesStorage):
    """A storage that uses the manifest with ``DEBUG`` as well."""

    def url(self, name: str | None, force: bool = False) -> str:
        return super().url(str(name), force=True)


class Lenient(ManifestStaticFilesStorage):
    """A storage that looks for files that are missing from the manifest."""

    manifest_strict = False


class Remote(Storage):
    """A storage that has no files on this machine."""

    def __init__(self, location: str, base_url: str) -> None:
        self.base_url = base_url

    def url(self, name: str | None) -> str:
        return f"{self.base_url}{name}?signature=1"


class RemoteManifest(ManifestFilesMixin, Remote):  # type: ignore[misc]
    """A remote storage with an empty manifest."""

    def read_manifest(self) -> str:
        return '{"paths": {}, "version": "1.1"}'


@pytest.mark.parametrize(
    ("kind", "query"),
    [(ManifestStaticFilesStorage, ""), (AlwaysHashing, ""), (Lenient, ""), (RemoteManifest, "?signature=1")],
)
def test_missing_manifest_entry_is_logged_once_for_each_file(
    settings: Settings, configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Any, query: str
) -> None:
    """In production the page has the plain URL. The message says what to run."""
    settings.STORAGES = storage(kind, location=str(tmp_path), base_url="/files/")
    configure(LOAD_ON="interaction")
    for _ in range(3):
        attributes = script_attributes(render_django(request_by()))
        assert attributes["src"] == f"/files/hubspot_identify/identify.js{query}"
        assert attributes["data-launcher"] == f"/files/hubspot_identify/launcher.js{query}"
    messages = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert [(level, "collectstatic" in message) for level, message in messages] == [(logging.ERROR, True)] * 2
    assert ["identify.js" in message for _, message in messages] == [True, False]


def test_missing_manifest_entry_raises_with_debug(settings: Settings, tmp_path: Path) -> None:
    """The storage's own exception is raised."""
    settings.STORAGES = storage(AlwaysHashing, location=str(tmp_path))
    settings.DEBUG = True
    with pytest.raises(ValueError, match=r"hubspot_identify/identify\.js"):
        src()


def test_other_error_of_the_storage_means_no_chat(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """If a storage cannot make any URL, the page is rendered without the chat, and the error is logged."""
    settings.STORAGES = storage(StaticFilesStorage)
    settings.STATIC_URL = None
    assert render_django(request_by()) == ""
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_signed_script_url_is_created_for_each_page(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL of a storage that signs its URLs is not cached."""
    monkeypatch.setattr(SigningStorage, "signed", 0)
    settings.STORAGES = storage(SigningStorage)
    assert [src().partition("?")[2] for _ in range(2)] == ["signature=1&part=1", "signature=2&part=1"]


def test_script_without_a_storage_for_static_files(settings: Settings) -> None:
    """A site without ``django.contrib.staticfiles`` needs no storage for static files."""
    settings.INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "hubspot_identify"]
    settings.STORAGES = {}
    assert src() == "/static/hubspot_identify/identify.js"


# Django's template language only


def test_positional_arguments_do_not_compile() -> None:
    """A template cannot pass a nonce as the account because of the order of arguments."""
    with pytest.raises(TemplateSyntaxError):
        django_template('{% load hubspot_identify %}{% hubspot_identify "eu" %}')


@pytest.mark.parametrize("words", ["as chat", "nonce=nonce as chat"])
def test_assignment_to_a_variable_does_not_compile(words: str) -> None:
    """A template that assigns the element to a variable raises an error, because a cache could store the variable."""
    with pytest.raises(TemplateSyntaxError):
        django_template(f"{{% load hubspot_identify %}}{{% hubspot_identify {words} %}}")


def test_attributes_are_escaped_without_autoescape() -> None:
    """Attributes are escaped also where a template disables escaping."""
    source = "{% load hubspot_identify %}{% autoescape off %}{% hubspot_identify nonce=nonce %}{% endautoescape %}"
    assert django_template(source).render({"nonce": '">'}, request_by()) == with_nonce("&quot;&gt;")


def test_plain_context_is_enough() -> None:
    """The tag works in a context that is not a ``RequestContext``, with or without ``request``."""
    template = Template("{% load hubspot_identify %}{% hubspot_identify %}")
    assert template.render(Context({})) == DEFERRED
    assert template.render(Context({"request": request_with(csp_nonce="n")})) == with_nonce("n")


@pytest.mark.parametrize(
    "source",
    [
        "{% cache 60 side %}{% hubspot_identify %}{% endcache %}",
        "{% cache 60 side %}{% if x %}{% block end %}{% hubspot_identify %}{% endblock %}{% endif %}{% endcache %}",
        "{% if x %}{% cache 60 side user.pk %}{% hubspot_identify nonce=nonce %}{% endcache %}{% endif %}",
    ],
)
def test_tag_inside_a_fragment_cache_does_not_compile(source: str) -> None:
    """Inside ``{% cache %}``, at any depth, the template raises an error that names that tag."""
    with pytest.raises(TemplateSyntaxError, match=r"{% cache %}"):
        django_template("{% load cache hubspot_identify %}" + source)


@pytest.mark.parametrize("other", ["wagtailcache", "cached_as", "compress"])
def test_tag_inside_a_fragment_cache_of_another_package_does_not_compile(other: str) -> None:
    """Inside the caches of Wagtail and cacheops and inside ``{% compress %}``, the template raises an error."""
    library = Library()
    library.tag(other, do_cache)
    engine = Engine(libraries={"hubspot_identify": "hubspot_identify.templatetags.hubspot_identify"})
    engine.template_builtins.append(library)
    source = f"{{% load hubspot_identify %}}{{% {other} 60 side %}}{{% hubspot_identify %}}{{% endcache %}}"
    with pytest.raises(TemplateSyntaxError, match=f"{{% {other} %}}"):
        engine.from_string(source)


def test_tag_beside_fragment_caches_compiles() -> None:
    """Before and after ``{% cache %}`` the tag renders the usual element."""
    source = "{% cache 60 side %}x{% endcache %}{% hubspot_identify %}{% cache 60 foot %}y{% endcache %}"
    assert django_template("{% load cache hubspot_identify %}" + source).render({}, request_by()) == f"x{DEFERRED}y"
