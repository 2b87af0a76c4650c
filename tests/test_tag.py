"""The script element, whole, in every mode and from both template engines."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.conf.urls.i18n import i18n_patterns
from django.contrib.auth.models import AnonymousUser
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage, StaticFilesStorage
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.template import Context, Engine, Library, Template, TemplateSyntaxError
from django.templatetags.cache import do_cache
from django.test import override_settings
from django.urls import include, path, set_script_prefix, set_urlconf
from django.utils.translation import override
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

from hubspot_identify.exceptions import ConfigurationError
from hubspot_identify.services import Identification, identify
from hubspot_identify.testing import fake_hubspot

WIDGET = "{&quot;avoidInlineStyles&quot;: true}"
SRC = '<script src="/static/hubspot_identify/identify.js"'
LOADER = 'data-loader="https://js.hs-scripts.com/123.js"'
DEFERRED = (
    f'{SRC} defer data-endpoint="/hubspot/identity/" {LOADER} data-load-on="page" data-widget="{WIDGET}"></script>'
)
UNROUTED = ()  # a URLconf without us
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
    """Change ``HUBSPOT_IDENTIFY``, on top of the settings of the suite."""

    def change(**values: object) -> None:
        settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **values}

    return change


Configure = Callable[..., None]


class Untouchable:
    """Fails the test whatever is done with it."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"The tag asked for {name}.")


# Deferred


def test_deferred_element_whole(render: Render) -> None:
    """With the quick start's settings the tag writes this and nothing else."""
    assert render(request_by(ada())) == DEFERRED


def test_deferred_is_the_same_for_everybody(render: Render) -> None:
    """Two users, whose tokens are there, an anonymous visitor and an error page get the same bytes."""
    keep_token(ada())
    keep_token(grace())
    pages = {render(request_by(user)) for user in (ada(), grace(), AnonymousUser())} | {render(None)}
    assert pages == {DEFERRED}


def test_deferred_touches_nothing_personal(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deferred tag looks at neither user nor session, and asks no cache."""
    request = request_by(Untouchable())
    request.session = Untouchable()  # type: ignore[assignment]
    asked: list[object] = []
    monkeypatch.setattr(type(caches["default"]), "get", lambda *arguments, **_: asked.append(arguments))
    assert render(request) == DEFERRED
    assert asked == []


def test_deferred_page_may_be_stored(render: Render) -> None:
    """A deferred page is left to Django's page caches, which it doesn't burden."""
    request = request_by(ada())
    request._cache_update_cache = True  # type: ignore[attr-defined]
    render(request)
    assert request._cache_update_cache is True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "loader"),
    [
        ({"REGION": "eu1"}, "https://js-eu1.hs-scripts.com/123.js"),
        ({"PORTAL_ID": 4567}, "https://js.hs-scripts.com/4567.js"),
        ({"LOADER_URL": "/sandbox/1.js?a=1&b=2"}, "/sandbox/1.js?a=1&amp;b=2"),
        ({"LOADER_URL": "https://chat.example.com/x.js", "PORTAL_ID": None}, "https://chat.example.com/x.js"),
    ],
)
def test_loader(render: Render, configure: Configure, values: dict[str, object], loader: str) -> None:
    """The loader's address comes from region and portal, or from ``LOADER_URL`` as it is."""
    configure(**values)
    assert render(request_by()) == DEFERRED.replace("https://js.hs-scripts.com/123.js", loader)


def test_without_portal(render: Render, configure: Configure) -> None:
    """Without ``PORTAL_ID`` the script runs at once, before HubSpot's own embed code, and brings no loader."""
    configure(PORTAL_ID=None)
    assert render(request_by()) == DEFERRED.replace(" defer", "").replace(f" {LOADER}", "")


def test_idle(render: Render, configure: Configure) -> None:
    """``LOAD_ON`` goes to the script."""
    configure(LOAD_ON="idle")
    assert render(request_by()) == DEFERRED.replace('"page"', '"idle"')


def test_widget_options(render: Render, configure: Configure) -> None:
    """Options are merged over ours, as JSON of real booleans and text, and can't leave their attribute."""
    options = {"inlineEmbedSelector": "#a > b[c='\"</script>']", "avoidInlineStyles": False, "disableAttachment": True}
    configure(WIDGET=options)
    written = escape(json.dumps({"avoidInlineStyles": False, **options}), quote=True)
    assert render(request_by()) == DEFERRED.replace(WIDGET, written)


def test_interaction(render: Render, configure: Configure) -> None:
    """For the button there are its script and its three texts too."""
    configure(LOAD_ON="interaction")
    element = render(request_by())
    attributes = script_attributes(element)
    labels = json.loads(attributes["data-labels"])
    assert list(labels) == ["open", "loading", "unavailable"]
    assert all(labels.values())
    assert attributes["data-launcher"] == "/static/hubspot_identify/launcher.js"
    rest = re.sub(r' data-(launcher|labels)="[^"]*"', "", element)
    assert rest == DEFERRED.replace('"page"', '"interaction"')


# Inline


@pytest.mark.usefixtures("stopped_clock")
def test_inline_element_whole(render: Render, configure: Configure) -> None:
    """Inline, the element says who the visitor is, and has the endpoint for when the identity expires."""
    configure(DELIVERY="inline")
    keep_token(ada())
    identity = '{"email": "ada@example.com", "token": "token-of-ada", "expires_in": 41400}'
    personal = f' data-subject="{subject_for(ada())}" data-identity="{escape(identity)}"></script>'
    assert render(request_by(ada())) == DEFERRED.replace("></script>", personal)


def test_inline_where_our_urls_are_not_routed(render: Render, settings: Settings) -> None:
    """Without our URLs the identity stands in the page by itself, and there is no endpoint."""
    settings.ROOT_URLCONF = UNROUTED
    keep_token(ada())
    attributes = script_attributes(render(request_by(ada())))
    assert json.loads(attributes.pop("data-identity"))["token"] == "token-of-ada"
    assert list(attributes) == ["src", "defer", "data-loader", "data-load-on", "data-widget", "data-subject"]


def test_inline_is_this_users_and_nobody_elses(render: Render, configure: Configure) -> None:
    """Each user's page holds that user's identity, and nothing of the other's."""
    configure(DELIVERY="inline")
    keep_token(ada())
    keep_token(grace())
    for me, other in ((ada(), grace()), (grace(), ada())):
        page = render(request_by(me))
        assert json.loads(script_attributes(page)["data-identity"])["token"] == f"token-of-{me.username}"
        for secret in (other.username, other.first_name, other.last_name, subject_for(other)):
            assert secret.lower() not in page.lower()


@pytest.mark.parametrize("user", [AnonymousUser(), None], ids=["anonymous", "no user"])
def test_inline_of_nobody(render: Render, configure: Configure, user: object) -> None:
    """Nobody is told as nobody, so that the script can clean up after a former visitor."""
    configure(DELIVERY="inline")
    assert render(request_by(user)) == DEFERRED.replace("></script>", ' data-subject=""></script>')


def test_inline_without_token(render: Render) -> None:
    """With HubSpot in trouble the page says which visitor it is, and no identity."""
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=0) as hubspot:
        hubspot.fail(503)
        page = render(request_by(ada()))
        assert page == DEFERRED.replace("></script>", f' data-subject="{subject_for(ada())}"></script>')


def test_inline_waits_for_a_new_visitor(render: Render) -> None:
    """The first page of a visitor waits for the token, up to ``PAGE_WAIT``."""
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=10) as hubspot:
        page = render(request_by(ada()))
    assert json.loads(script_attributes(page)["data-identity"])["token"] in hubspot.tokens


def test_subject_is_opaque(configure: Configure) -> None:
    """The subject tells nothing, and is another one for another visitor, portal or ``SECRET_KEY``."""
    one = subject_for(ada())
    configure(PORTAL_ID="124")
    other_portal = subject_for(ada())
    with override_settings(SECRET_KEY="another"):
        other_secret = subject_for(ada())
    assert len({one, other_portal, other_secret, subject_for(grace())}) == 4
    assert re.fullmatch(r"[0-9a-f]{32}", one)


@pytest.mark.usefixtures("stopped_clock")
def test_identity_given(render: Render, configure: Configure) -> None:
    """The identity that a view found itself is used, and nobody is asked again."""
    configure(DELIVERY="inline")
    keep_token(ada())
    expected = render(request_by(ada()))
    found = identify(request_by(ada()))
    assert render(request_by(Untouchable()), identity=found) == expected
    assert render(None, identity=found) == expected


@pytest.mark.parametrize("delivery", ["inline", "deferred"])
@pytest.mark.parametrize("debug", [True, False])
def test_identity_of_a_wrong_type(
    render: Render, configure: Configure, settings: Settings, delivery: str, debug: bool
) -> None:
    """What is no identification is an error everywhere: a page must not quietly be somebody else's."""
    configure(DELIVERY=delivery)
    settings.DEBUG = debug
    with pytest.raises(TypeError, match=r"identity is a dict: pass what services\.identify\(request\) returned\."):
        render(request_by(ada()), identity={"email": "ada@example.com"})


def test_identity_given_to_a_deferred_tag(render: Render) -> None:
    """A deferred page stays without anything personal, whatever the view passes."""
    found = Identification("subject", {"email": "ada@example.com", "token": "t", "expires_in": 1})
    assert render(request_by(ada()), identity=found) == DEFERRED


@pytest.mark.parametrize("delivery", ["inline", "deferred"])
def test_variables_that_are_not_there(render: Render, configure: Configure, delivery: str) -> None:
    """A base template may pass ``identity=identity`` for all views: where there is none, it is as if it did not."""
    configure(**EU, DELIVERY=delivery, CHOOSE_ACCOUNT=lambda request: "eu")
    keep_token(ada(), "token-of-eu", account="eu")
    request = request_by(ada())
    request.csp_nonce = "n"  # type: ignore[attr-defined]
    names = dict.fromkeys(["identity", "account", "nonce"], MISSING)
    page = render(request, **names)
    assert script_attributes(page).items() >= {"nonce": "n", "data-endpoint": "/hubspot/identity/eu/"}.items()
    assert ("token-of-eu" in page) is (delivery == "inline")


PREFETCHES = [
    {"HTTP_SEC_PURPOSE": "prefetch"},
    {"HTTP_SEC_PURPOSE": "prefetch;prerender"},
    {"HTTP_SEC_PURPOSE": "prefetch;anonymous-client-ip"},
    {"HTTP_PURPOSE": "prefetch"},
    {"HTTP_PURPOSE": "preview"},
    {"HTTP_X_PURPOSE": "preview"},
    {"HTTP_X_SEC_PURPOSE": "prefetch"},
    {"HTTP_X_MOZ": "Prefetch"},
    {"HTTP_HX_PRELOADED": "true"},
]


@pytest.mark.parametrize("headers", PREFETCHES)
@pytest.mark.parametrize("given", [False, True])
def test_prefetched_page_has_no_identity(
    render: Render, configure: Configure, headers: dict[str, str], given: bool
) -> None:
    """A browser may show the page after a change of user, so it does not say who the visitor is."""
    configure(DELIVERY="inline")
    keep_token(ada())
    arguments = {"identity": identify(request_by(ada()))} if given else {}
    request = request_by(Untouchable(), **headers)
    assert render(request, **arguments) == DEFERRED
    assert request._cache_update_cache is False  # type: ignore[attr-defined]  # nor is it served to those who navigate


@pytest.mark.parametrize("headers", [{"HTTP_SEC_PURPOSE": ""}, {"HTTP_SEC_PURPOSE": "navigate"}, {"HTTP_PURPOSE": "x"}])
def test_page_fetched_for_another_purpose_has_its_identity(
    render: Render, configure: Configure, headers: dict[str, str]
) -> None:
    """Only prefetches go without."""
    configure(DELIVERY="inline")
    keep_token(ada())
    assert "token-of-ada" in render(request_by(ada(), **headers))


# Switched off, or no consent


def test_switched_off(render: Render, settings: Settings) -> None:
    """``ENABLED = False`` writes nothing, and looks at no other setting."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False, "NONSENSE": object()}
    settings.ROOT_URLCONF = UNROUTED
    assert render(request_by(ada())) == ""


@pytest.mark.parametrize("delivery", ["deferred", "inline"])
def test_consent_withheld(render: Render, configure: Configure, delivery: str) -> None:
    """Where ``ENABLED`` says no there is our script alone, and nobody is asked who the visitor is."""
    configure(ENABLED=lambda request: False, DELIVERY=delivery, LOAD_ON="idle")
    assert render(request_by(Untouchable())) == f'{SRC} defer data-load-on="never"></script>'


def test_consent_given(render: Render, configure: Configure) -> None:
    """``ENABLED`` sees the request, and where it says yes the element is the usual one."""
    configure(ENABLED=lambda request: request.COOKIES.get("consent") == "yes")
    assert render(request_by(ada(), HTTP_COOKIE="consent=yes")) == DEFERRED
    assert render(request_by(ada())) != DEFERRED


@pytest.mark.parametrize("answer", [True, False])
def test_consent_is_not_cached(render: Render, configure: Configure, answer: bool) -> None:
    """A page that depends on this visitor's consent is kept out of Django's page caches."""
    configure(ENABLED=lambda request: answer)
    request = request_by(ada())
    request._cache_update_cache = True  # type: ignore[attr-defined]
    render(request)
    assert request._cache_update_cache is False  # type: ignore[attr-defined]


# No request


def test_no_request_but_a_question_about_it(render: Render, configure: Configure) -> None:
    """Without a request nobody can say whether there is consent, or which account it is: no chat."""
    configure(ENABLED=lambda request: True)
    assert render(None) == ""
    configure(ENABLED=True, ACCOUNTS={"eu": {}}, CHOOSE_ACCOUNT=lambda request: "eu")
    assert render(None) == ""
    assert 'data-endpoint="/hubspot/identity/eu/"' in render(None, account="eu")


def test_no_request_inline(render: Render, configure: Configure) -> None:
    """Without a request an inline page doesn't say who the visitor is, not even that it is nobody."""
    configure(DELIVERY="inline")
    assert render(None) == DEFERRED


def test_other_things_named_request() -> None:
    """A page about a model named Request shows the chat for its visitor all the same."""
    keep_token(ada())
    with override_settings(ROOT_URLCONF=UNROUTED):
        assert "token-of-ada" in render_django(request_by(ada()), {"request": "of somebody for something"})


# Nonce


class LazyNonce:
    """Made on first use and false until then, as both CSP middlewares have it."""

    def __init__(self) -> None:
        self.used = False

    def __bool__(self) -> bool:  # pragma: no cover - the trap that is not stepped into
        return self.used

    def __str__(self) -> str:
        self.used = True
        return "lazy"


def with_nonce(nonce: str) -> str:
    return DEFERRED.replace(" defer", f' defer nonce="{nonce}"')


def test_nonce_order(render: Render) -> None:
    """The nonce given goes before the context's, and that before the request's."""
    request = request_by()
    request.csp_nonce = "of-the-request"  # type: ignore[attr-defined]
    context = {"csp_nonce": "of-the-context"}
    assert render(request, context, nonce="given") == with_nonce("given")
    assert render(request, context) == with_nonce("of-the-context")
    assert render(request) == with_nonce("of-the-request")
    assert render(None, context) == with_nonce("of-the-context")


def test_tag_is_the_first_to_use_a_lazy_nonce(render: Render) -> None:
    """A nonce that is false as long as nobody used it is used."""
    request = request_by()
    request.csp_nonce = nonce = LazyNonce()  # type: ignore[attr-defined]
    assert render(request) == with_nonce("lazy")
    assert nonce.used
    assert render(request_by(), nonce=LazyNonce()) == with_nonce("lazy")
    assert render(request_by(), {"csp_nonce": LazyNonce()}) == with_nonce("lazy")


def test_page_without_chat_uses_no_nonce(render: Render, configure: Configure) -> None:
    """A lazy nonce stays unused, and out of the header, where the tag writes nothing."""
    configure(ENABLED=False)
    request = request_by()
    request.csp_nonce = nonce = LazyNonce()  # type: ignore[attr-defined]
    assert render(request) == ""
    assert not nonce.used


def test_script_that_only_cleans_up_needs_its_nonce(render: Render, configure: Configure) -> None:
    """Without consent the script runs under a strict policy too."""
    configure(ENABLED=lambda request: False)
    assert render(request_by(), nonce="n") == f'{SRC} defer nonce="n" data-load-on="never"></script>'


@pytest.mark.parametrize("empty", [None, ""])
def test_no_nonce(render: Render, empty: str | None) -> None:
    """Without a nonce there is no attribute, and not the word None."""
    request = request_by()
    request.csp_nonce = empty  # type: ignore[attr-defined]
    assert render(request, nonce=empty) == DEFERRED


def test_nonce_is_escaped(render: Render) -> None:
    """A nonce can't leave its attribute."""
    assert render(None, nonce='"><script>') == with_nonce("&quot;&gt;&lt;script&gt;")


# Accounts

EU = {"ACCOUNTS": {"eu": {"PORTAL_ID": "9", "REGION": "eu1"}, "us": {"PORTAL_ID": "8"}}}
IN_EU = DEFERRED.replace("/identity/", "/identity/eu/").replace("js.hs-scripts.com/123", "js-eu1.hs-scripts.com/9")


def test_account_by_argument(render: Render, configure: Configure) -> None:
    """``account`` chooses loader and endpoint; without it the settings themselves are the account."""
    configure(**EU)
    assert render(request_by(), account="eu") == IN_EU
    assert render(request_by()) == DEFERRED


def test_account_by_request(render: Render, configure: Configure) -> None:
    """``CHOOSE_ACCOUNT`` decides by the request, unless the template says which."""
    configure(**EU, CHOOSE_ACCOUNT=lambda request: request.GET.get("in"))
    assert render(request_by(path="/?in=eu")) == IN_EU
    assert render(request_by(path="/")) == DEFERRED
    assert render(request_by(path="/?in=us"), account="eu") == IN_EU


def test_account_inline(render: Render, configure: Configure) -> None:
    """Inline, an account has tokens and subjects of its own, and ``CHOOSE_ACCOUNT`` is asked once a page."""
    asked: list[HttpRequest] = []
    configure(**EU, DELIVERY="inline", CHOOSE_ACCOUNT=lambda request: asked.append(request) or "eu")
    keep_token(ada(), "token-of-eu", account="eu")
    attributes = script_attributes(render(request_by(ada())))
    assert json.loads(attributes["data-identity"])["token"] == "token-of-eu"
    assert attributes["data-subject"] == subject_for(ada(), "eu") != subject_for(ada())
    assert len(asked) == 1


def test_inline_page_is_anonymous_if_email_verified_is_false(render: Render, configure: Configure) -> None:
    """The page shows the chat, and a logged-in user gets the element of an anonymous visitor."""
    configure(DELIVERY="inline")
    keep_token(ada())
    anonymous = render(request_by(AnonymousUser()))
    assert render(request_by(ada())) != anonymous
    configure(DELIVERY="inline", EMAIL_VERIFIED=False)
    assert render(request_by(ada())) == anonymous
    assert "data-loader" in script_attributes(anonymous)


# Mistakes


@pytest.mark.parametrize(
    ("values", "arguments", "complaint"),
    [
        ({"API_KEY": ""}, {}, r"HUBSPOT_IDENTIFY\['API_KEY'\] is missing"),
        ({"EMAIL_VERIFIED": None}, {}, r"HUBSPOT_IDENTIFY\['EMAIL_VERIFIED'\]"),
        ({"PORTL_ID": "1"}, {}, r"has an unknown key 'PORTL_ID'"),
        ({}, {"account": "eu"}, r"has no account 'eu'; it has none"),
        ({"CHOOSE_ACCOUNT": lambda request: "eu"}, {}, r"has no account 'eu'; it has none"),
    ],
)
def test_wrong_settings(
    render: Render,
    configure: Configure,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    values: dict[str, object],
    arguments: dict[str, str],
    complaint: str,
) -> None:
    """Under ``DEBUG`` the developer sees what is wrong; in production the log says it, once, and there is no chat."""
    configure(**values)
    settings.DEBUG = True
    with pytest.raises(ConfigurationError, match=complaint):
        render(request_by(ada()), **arguments)
    settings.DEBUG = False
    assert [render(request_by(ada()), **arguments) for _ in range(3)] == ["", "", ""]
    ((_, level, message),) = caplog.record_tuples
    assert level == logging.ERROR
    assert re.search(complaint, message)


@pytest.mark.parametrize("values", [{"DELIVERY": "deferred"}, {"LOAD_ON": "interaction"}])
def test_endpoint_needed(render: Render, configure: Configure, settings: Settings, values: dict[str, object]) -> None:
    """Deferred delivery and the button need our URLs, and the error says what to type."""
    configure(**values)
    settings.ROOT_URLCONF = UNROUTED
    settings.DEBUG = True
    with pytest.raises(ImproperlyConfigured, match=r'add path\("hubspot/", include\("hubspot_identify\.urls"\)\)'):
        render(request_by())


# Addresses, which are remembered and must follow what they depend on

HERE = path("hubspot/", include("hubspot_identify.urls"))


def endpoint(render: Render) -> str:
    return script_attributes(render(request_by()))["data-endpoint"]


def test_endpoint_follows_the_urlconf(render: Render, settings: Settings) -> None:
    """The endpoint is where the URLconf of the settings, or of this very request, has it."""
    elsewhere = (path("chat/", include("hubspot_identify.urls")),)
    assert endpoint(render) == "/hubspot/identity/"
    set_urlconf(elsewhere)  # type: ignore[arg-type]
    try:
        assert endpoint(render) == "/chat/identity/"
    finally:
        set_urlconf(None)
    settings.ROOT_URLCONF = elsewhere
    assert endpoint(render) == "/chat/identity/"


def test_endpoint_follows_the_script_prefix(render: Render) -> None:
    """Under another ``SCRIPT_NAME`` the endpoint is below that."""
    assert endpoint(render) == "/hubspot/identity/"
    set_script_prefix("/below/")
    try:
        assert endpoint(render) == "/below/hubspot/identity/"
    finally:
        set_script_prefix("/")


def test_endpoint_follows_the_language(render: Render, settings: Settings) -> None:
    """In ``i18n_patterns`` the endpoint is the language's."""
    settings.ROOT_URLCONF = tuple(i18n_patterns(HERE))
    found = []
    for language in ("de", "fr", "de"):
        with override(language):
            found.append(endpoint(render))
    assert found == ["/de/hubspot/identity/", "/fr/hubspot/identity/", "/de/hubspot/identity/"]


class SigningStorage(StaticFilesStorage):
    """A storage whose addresses are good once."""

    signed = 0

    def url(self, name: str | None) -> str:
        type(self).signed += 1
        return f"{super().url(name)}?signature={self.signed}&part=1"


def src(render: Render) -> str:
    return script_attributes(render(request_by()))["src"]


def storage(kind: type[StaticFilesStorage]) -> dict[str, Any]:
    return {"staticfiles": {"BACKEND": f"{kind.__module__}.{kind.__qualname__}"}}


def test_script_follows_the_static_url(render: Render, settings: Settings) -> None:
    """The script is where ``STATIC_URL`` says."""
    assert src(render) == "/static/hubspot_identify/identify.js"
    settings.STATIC_URL = "https://cdn.example.com/"
    assert src(render) == "https://cdn.example.com/hubspot_identify/identify.js"


def test_script_by_hash(render: Render, settings: Settings, tmp_path: Path) -> None:
    """With a manifest the script's name holds its hash, but under ``DEBUG``."""
    manifest = {"paths": {"hubspot_identify/identify.js": "hubspot_identify/identify.0123.js"}, "version": "1.1"}
    (tmp_path / "staticfiles.json").write_text(json.dumps(manifest))
    settings.STATIC_ROOT = str(tmp_path)
    settings.STORAGES = storage(ManifestStaticFilesStorage)
    assert src(render) == "/static/hubspot_identify/identify.0123.js"
    settings.DEBUG = True
    assert src(render) == "/static/hubspot_identify/identify.js"


def test_script_with_a_signed_address(render: Render, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that signs its addresses is asked for each page."""
    monkeypatch.setattr(SigningStorage, "signed", 0)
    settings.STORAGES = storage(SigningStorage)
    assert [src(render).partition("?")[2] for _ in range(2)] == ["signature=1&part=1", "signature=2&part=1"]


def test_script_without_a_storage_for_static_files(render: Render, settings: Settings) -> None:
    """A site that serves static files by other means than Django's app needs no storage for them."""
    settings.INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "hubspot_identify"]
    settings.STORAGES = {}
    assert src(render) == "/static/hubspot_identify/identify.js"


# Django's template language alone


def test_no_positional_arguments() -> None:
    """A template can't pass a nonce for an account by the order of words."""
    with pytest.raises(TemplateSyntaxError, match="received too many positional arguments"):
        django_template('{% load hubspot_identify %}{% hubspot_identify "eu" %}')


@pytest.mark.parametrize("words", ["as chat", "nonce=nonce as chat"])
def test_refuses_to_be_kept_in_a_variable(words: str) -> None:
    """A template that assigns the element to a variable does not compile."""
    with pytest.raises(TemplateSyntaxError):
        django_template(f"{{% load hubspot_identify %}}{{% hubspot_identify {words} %}}")


def test_without_autoescape() -> None:
    """Attributes are escaped also where a template switches that off."""
    source = "{% load hubspot_identify %}{% autoescape off %}{% hubspot_identify nonce=nonce %}{% endautoescape %}"
    assert django_template(source).render({"nonce": '">'}, request_by()) == with_nonce("&quot;&gt;")


def test_plain_context() -> None:
    """A context that isn't a request's will do, with or without ``request`` in it."""
    template = Template("{% load hubspot_identify %}{% hubspot_identify %}")
    request = request_by()
    request.csp_nonce = "n"  # type: ignore[attr-defined]
    assert template.render(Context({})) == DEFERRED
    assert template.render(Context({"request": request})) == with_nonce("n")


@pytest.mark.parametrize(
    "source",
    [
        "{% cache 60 side %}{% hubspot_identify %}{% endcache %}",
        "{% cache 60 side %}{% if x %}{% with y=1 %}{% hubspot_identify %}{% endwith %}{% endif %}{% endcache %}",
        "{% cache 60 side %}{% block end %}{% hubspot_identify %}{% endblock %}{% endcache %}",
        "{% if x %}{% cache 60 side user.pk %}{% hubspot_identify nonce=nonce %}{% endcache %}{% endif %}",
    ],
)
def test_refuses_fragment_caches(source: str) -> None:
    """Inside ``{% cache %}``, however deep, the template doesn't compile."""
    with pytest.raises(TemplateSyntaxError, match=r"{% cache %}"):
        django_template("{% load cache hubspot_identify %}" + source)


@pytest.mark.parametrize("other", ["wagtailcache", "cached_as", "compress"])
def test_refuses_the_fragment_caches_of_others(other: str) -> None:
    """Inside the caches of Wagtail and cacheops, and inside ``{% compress %}``, the template does not compile."""
    library = Library()
    library.tag(other, do_cache)
    engine = Engine(libraries={"hubspot_identify": "hubspot_identify.templatetags.hubspot_identify"})
    engine.template_builtins.append(library)
    source = f"{{% load hubspot_identify %}}{{% {other} 60 side %}}{{% hubspot_identify %}}{{% endcache %}}"
    with pytest.raises(TemplateSyntaxError, match=f"{{% {other} %}}"):
        engine.from_string(source)


def test_beside_fragment_caches() -> None:
    """Before and after ``{% cache %}`` there is nothing to refuse."""
    source = "{% cache 60 side %}x{% endcache %}{% hubspot_identify %}{% cache 60 foot %}y{% endcache %}"
    assert django_template("{% load cache hubspot_identify %}" + source).render({}, request_by()) == f"x{DEFERRED}y"
