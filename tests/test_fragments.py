"""Fragment caches that enclose the tag only at rendering: no visitor gets the identity of another visitor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import django
import jinja2
import jinja2.ext
import jinja2.sandbox
import pytest
from django.contrib.auth.models import User
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine, Library, TemplateSyntaxError
from django.template.base import Node, NodeList, Parser, Token
from django.templatetags.cache import CacheNode, do_cache
from django.utils.functional import cached_property
from django.utils.safestring import mark_safe
from django.views.decorators.cache import never_cache
from django.views.generic import View
from pytest_django import Settings
from support.logs import logged
from support.pages import EXTENSION, ada, grace, keep_token, render_django, request_by, script_attributes

from hubspot_identify import delivery, services
from hubspot_identify.middleware import IdentifiedPageMiddleware

Render = Callable[..., str]

TAG = "{% load cache hubspot_identify %}{% hubspot_identify identity=identity %}"
CALL = "{{ hubspot_identify(identity=identity) }}"
library = Library()


# Tags that behave like those of other packages


def stored(render: Callable[[], str]) -> str:
    """Return what was rendered first, for every visitor, as the simplest cache would."""
    output = caches["default"].get("fragment")
    if output is None:
        output = render()
        caches["default"].set("fragment", output)
    return str(output)


class Plain(Node):
    """A block tag that renders what it encloses."""

    def __init__(self, nodelist: NodeList) -> None:
        self.nodelist = nodelist

    def render(self, context: Context) -> str:
        return str(self.nodelist.render(context))


class Teaser(Plain):
    """Stores its output. Its class name does not say so."""

    def render(self, context: Context) -> str:
        return stored(lambda: Plain.render(self, context))


class CachedBlock(Teaser):
    """Stores its output. Its class name says so."""


class CompressorNode(Teaser):
    """Has the class name of the node of django-compressor."""


class Neutral(CacheNode):
    """A subclass of Django's cache node with another name."""


class Delegating(Plain):
    """Calls Django's cache node directly, without the template engine."""

    def render(self, context: Context) -> str:
        parser = Parser([])
        timeout = parser.compile_filter("60")
        return str(CacheNode(self.nodelist, timeout, "side", [], None).render(context))


def block_tag(name: str, node: Callable[[NodeList], Node]) -> None:
    def compile_function(parser: Parser, token: Token) -> Node:
        nodelist = parser.parse((f"end{name}",))
        parser.delete_first_token()
        return node(nodelist)

    library.tag(name, compile_function)


block_tag("plain", Plain)
block_tag("cached_teaser", Teaser)
block_tag("teaser", CachedBlock)
block_tag("compress", CompressorNode)
block_tag("delegate", Delegating)


@library.tag
def neutral(parser: Parser, token: Token) -> Node:
    node = do_cache(parser, token)
    return Neutral(node.nodelist, node.expire_time_var, node.fragment_name, node.vary_on, node.cache_name)


@library.inclusion_tag("chat.html", takes_context=True)
def footer(context: Context) -> Context:
    return context


class FragmentCacheExtension(jinja2.ext.Extension):
    """Has the shape of the extensions of Jinja's documentation, django-jinja and django-cacheops."""

    tags = {"cache"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endcache",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Callable[[], str]) -> str:
        return stored(caller)


class AsyncFragmentCacheExtension(FragmentCacheExtension):
    """The same for environments that render asynchronously."""

    async def _render(self, caller: Callable[[], Any]) -> str:  # type: ignore[override]
        output = await caller()
        return stored(lambda: output)


class PlainExtension(jinja2.ext.Extension):
    """A block tag that renders what it encloses."""

    tags = {"plain"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endplain",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("render_uncached"), [], [], body).set_lineno(line)

    def render_uncached(self, caller: Callable[[], str]) -> str:
        return caller()


# Pages


def template(source: str, loader: str = "locmem", **others: str) -> Render:
    """Return a function that renders a Django template, with ``chat.html`` and others beside it."""
    templates = {"page.html": source, "chat.html": TAG, **{f"{name}.html": text for name, text in others.items()}}
    loaders: list[Any] = [("django.template.loaders.locmem.Loader", templates)]
    if loader == "cached":
        loaders = [("django.template.loaders.cached.Loader", loaders)]
    names = {"cache": "django.templatetags.cache", "hubspot_identify": "hubspot_identify.templatetags.hubspot_identify"}

    @cache
    def page() -> Any:
        engine = Engine(loaders=loaders, libraries=names)
        engine.template_builtins.append(library)
        return engine.get_template("page.html")

    return lambda request, **context: str(page().render(Context({"request": request, **context})))


def jinja(source: str, kind: type[jinja2.Environment] = jinja2.Environment, **others: str) -> Render:
    """Return a function that renders a Jinja template, with ``chat.html`` and others beside it."""
    templates = {"chat.html": CALL, **{f"{name}.html": text for name, text in others.items()}}
    extensions: list[Any] = [EXTENSION, FragmentCacheExtension, PlainExtension]
    environment = kind(loader=jinja2.DictLoader(templates), extensions=extensions, autoescape=True)
    page = environment.from_string(source)
    return lambda request, **context: page.render(request=request, **context)


MACRO = f"{{% macro chat() %}}{CALL}{{% endmacro %}}"
LOADED = "{% load cache hubspot_identify %}"
PARTIAL = LOADED + "{% partialdef chat %}{% hubspot_identify identity=identity %}{% endpartialdef %}"
EXTENDS = "{% extends 'base.html' %}"


def get_or_set(request: HttpRequest, **context: Any) -> str:
    return str(caches["default"].get_or_set("fragment", partial(template(TAG), request, **context)))


class OwnCache(LocMemCache):
    """A cache back end with its own ``get_or_set()``."""

    def get_or_set(self, key: str, default: Any, *arguments: Any, **options: Any) -> Any:
        return stored(default)


def own_get_or_set(request: HttpRequest, **context: Any) -> str:
    return str(OwnCache("own", {}).get_or_set("fragment", partial(template(TAG), request, **context)))


needs_partials = pytest.mark.skipif(django.VERSION < (6, 0), reason="partials came with Django 6.0")

#: Pages whose chat is stored for every visitor.
ENCLOSED = {
    "partial": template(PARTIAL + "{% cache 60 side %}{% partial chat %}{% endcache %}"),
    "include": template(LOADED + "{% cache 60 side %}{% include 'chat.html' %}{% endcache %}"),
    "include, deeper": template(
        LOADED + "{% cache 60 side %}{% for x in 'a' %}{% include 'one.html' %}{% endfor %}{% endcache %}",
        one="{% with x=1 %}{% if x %}{% plain %}{% include 'two.html' %}{% endplain %}{% endif %}{% endwith %}",
        two="{% block end %}{% include 'chat.html' %}{% endblock %}",
    ),
    "block of a child template": template(
        EXTENDS + LOADED + "{% block chat %}{% hubspot_identify identity=identity %}{% endblock %}",
        base="{% load cache %}{% cache 60 side %}{% block chat %}{% endblock %}{% endcache %}",
    ),
    "block of a parent template": template(
        EXTENDS + LOADED + "{% block chat %}{% cache 60 side %}{{ block.super }}{% endcache %}{% endblock %}",
        base=LOADED + "{% block chat %}{% hubspot_identify identity=identity %}{% endblock %}",
    ),
    "inclusion tag": template(LOADED + "{% cache 60 side %}{% footer %}{% endcache %}"),
    "name of a tag": template("{% cached_teaser %}{% include 'chat.html' %}{% endcached_teaser %}"),
    "name of a node": template("{% teaser %}{% include 'chat.html' %}{% endteaser %}"),
    "subclass of a cache": template("{% neutral 60 side %}{% include 'chat.html' %}{% endcache %}"),
    "cache within a node": template("{% delegate %}{% include 'chat.html' %}{% enddelegate %}"),
    "compress": template("{% compress %}{% include 'chat.html' %}{% endcompress %}"),
    "get_or_set": get_or_set,
    "get_or_set of a back end": own_get_or_set,
    "jinja": jinja(f"{{% cache %}}{CALL}{{% endcache %}}"),
    "jinja, sandboxed": jinja(f"{{% cache %}}{CALL}{{% endcache %}}", jinja2.sandbox.SandboxedEnvironment),
    "jinja, deeper": jinja(
        "{% cache %}{% for x in 'a' %}{% include 'one.html' %}{% endfor %}{% endcache %}",
        one="{% plain %}{% if true %}{% include 'chat.html' %}{% endif %}{% endplain %}",
    ),
    "jinja, macro": jinja(MACRO + "{% cache %}{{ chat() }}{% endcache %}"),
    "jinja, block of a child template": jinja(
        EXTENDS + f"{{% block chat %}}{CALL}{{% endblock %}}",
        base="{% cache %}{% block chat %}{% endblock %}{% endcache %}",
    ),
    "jinja, block of a parent template": jinja(
        EXTENDS + "{% block chat %}{% cache %}{{ super() }}{% endcache %}{% endblock %}",
        base=f"{{% block chat %}}{CALL}{{% endblock %}}",
    ),
}


ALL = [pytest.param(name, marks=needs_partials if name == "partial" else ()) for name in ENCLOSED]
#: One page for each way of detection: a tag, a method of a cache and an extension of Jinja.
EACH_DETECTION = ["include", "get_or_set", "jinja"]


@pytest.fixture(params=EACH_DETECTION)
def render(request: pytest.FixtureRequest) -> Render:
    """Render a page whose chat is stored for every visitor."""
    return ENCLOSED[request.param]


@pytest.fixture
def page() -> Render:
    """Render one such page."""
    return ENCLOSED["include"]


@pytest.fixture
def configure(settings: Settings) -> Callable[..., None]:
    """Change ``HUBSPOT_IDENTIFY``. Both visitors have a token."""

    def change(**values: object) -> None:
        settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **values}
        keep_token(ada())
        keep_token(grace())

    return change


Configure = Callable[..., None]


ONE_ERROR = [("hubspot_identify.delivery", logging.ERROR)]
every_page = pytest.mark.parametrize("render", ALL, indirect=True)


# Inline delivery


@every_page
def test_identity_is_omitted_inside_a_fragment_cache(
    render: Render, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """No visitor's identity is rendered. The element is that of a page without a request."""
    configure(DELIVERY="inline")
    unidentified = script_attributes(render_django(None))
    assert [script_attributes(render(request_by(user))) for user in (ada(), grace())] == [unidentified] * 2
    assert logged(caplog) == ONE_ERROR


@every_page
def test_without_detection_the_identity_is_shared(
    render: Render, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages of these tests are shared. Without detection, the second visitor gets the token of the first."""
    configure(DELIVERY="inline")
    monkeypatch.setattr(delivery, "enclosing_cache", lambda: None)
    first, second = (script_attributes(render(request_by(user))) for user in (ada(), grace()))
    assert "token-of-ada" in first["data-identity"]
    assert second == first


def test_identity_of_the_view_is_omitted_inside_a_fragment_cache(
    render: Render, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """An identity that the view passes is not rendered either, with or without a request."""
    configure(DELIVERY="inline")
    identity = services.identify(request_by(ada()))
    for request in (request_by(ada()), None):
        caches["default"].delete("fragment")
        assert script_attributes(render(request, identity=identity)) == script_attributes(render_django(None))
    assert logged(caplog) == ONE_ERROR


def test_page_without_identity_is_not_marked_as_identified(page: Render, configure: Configure) -> None:
    """``IdentifiedPageMiddleware`` does not change the headers of such a page."""
    configure(DELIVERY="inline")
    request = request_by(ada())
    response: Any = IdentifiedPageMiddleware(lambda request: HttpResponse(page(request)))(request)
    assert "Cache-Control" not in response.headers


def test_page_without_request_or_identity_logs_nothing(
    page: Render, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a request the page has no identity that a cache could store."""
    configure(DELIVERY="inline")
    assert script_attributes(page(None)) == script_attributes(render_django(None))
    assert logged(caplog) == []


# Asynchronous views


@pytest.mark.parametrize("is_identified", [True, False])
def test_identity_is_omitted_inside_a_fragment_cache_in_an_event_loop(
    page: Render, configure: Configure, caplog: pytest.LogCaptureFixture, is_identified: bool
) -> None:
    """In an asynchronous view the result is the same, whether the view passes an identity or not."""
    configure(DELIVERY="inline")
    identity = services.identify(request_by(ada())) if is_identified else None

    async def view() -> str:
        return page(request_by(ada()), identity=identity)

    assert script_attributes(asyncio.run(view())) == script_attributes(render_django(None))
    assert logged(caplog) == ONE_ERROR


def test_identity_is_omitted_inside_aget_or_set(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    """The asynchronous variant of ``get_or_set()`` is a fragment cache, too."""
    configure(DELIVERY="inline")
    identity = services.identify(request_by(ada()))
    fragment = partial(template(TAG), request_by(ada()), identity=identity)
    page = asyncio.run(caches["default"].aget_or_set("fragment", fragment))
    assert script_attributes(str(page)) == script_attributes(render_django(None))
    assert logged(caplog) == ONE_ERROR


@pytest.mark.parametrize("source", [CALL, MACRO + "{{ chat() }}"])
def test_identity_is_omitted_inside_an_asynchronous_jinja_cache(
    configure: Configure, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    """Jinja's asynchronous rendering awaits the cached part, which is still called by the extension."""
    configure(DELIVERY="inline")
    identity = services.identify(request_by(ada()))
    environment = jinja2.Environment(
        extensions=[EXTENSION, AsyncFragmentCacheExtension], autoescape=True, enable_async=True
    )
    page = environment.from_string(f"{{% cache %}}{source}{{% endcache %}}")
    rendered = asyncio.run(page.render_async(request=request_by(ada()), identity=identity))
    assert script_attributes(rendered) == script_attributes(render_django(None))
    assert logged(caplog) == ONE_ERROR


# Deferred delivery, and consent


def test_deferred_page_is_unchanged_inside_a_fragment_cache(
    render: Render, configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With deferred delivery every visitor gets the usual element, and the stack is not inspected."""
    configure(DELIVERY="deferred")
    inspected: list[object] = []
    monkeypatch.setattr(delivery, "enclosing_cache", lambda: inspected.append(None))
    usual = script_attributes(render_django(request_by()))
    assert [script_attributes(render(request_by(user))) for user in (ada(), grace())] == [usual] * 2
    assert inspected == []
    assert logged(caplog) == []


@pytest.mark.parametrize("visitors", [[ada, grace], [grace, ada]], ids=["ada first", "grace first"])
def test_consent_counts_as_withheld_inside_a_fragment_cache(
    render: Render, configure: Configure, caplog: pytest.LogCaptureFixture, visitors: list[Callable[[], User]]
) -> None:
    """The consent of one visitor is not stored for another visitor who declined."""
    configure(ENABLED=lambda request: request.user.username == "ada")
    withheld = script_attributes(render_django(request_by(grace())))
    assert withheld["data-load-on"] == "never"
    assert [script_attributes(render(request_by(user()))) for user in visitors] == [withheld] * 2
    assert logged(caplog) == ONE_ERROR


# Compressors, which remove the attributes of the element


class CompressorExtension(FragmentCacheExtension):
    """Has the same name as the extension of django-compressor."""

    tags = {"compress"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endcompress",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)


def compressed_in_jinja(request: HttpRequest, **context: Any) -> str:
    environment = jinja2.Environment(extensions=[EXTENSION, CompressorExtension], autoescape=True)
    return environment.from_string(f"{{% compress %}}{CALL}{{% endcompress %}}").render(request=request, **context)


@pytest.mark.parametrize("delivery", ["deferred", "inline"])
@pytest.mark.parametrize("page", [ENCLOSED["compress"], compressed_in_jinja])
def test_tag_inside_a_compressor_raises_with_debug(
    configure: Configure, settings: Settings, page: Render, delivery: str
) -> None:
    """If the compiler cannot detect the compressor, rendering does, so the developer sees the error at once."""
    configure(DELIVERY=delivery)
    settings.DEBUG = True
    with pytest.raises(TemplateSyntaxError, match=r"compress|Compressor"):
        page(request_by(ada()))


def test_deferred_page_is_rendered_inside_a_fragment_cache_with_debug(
    render: Render, configure: Configure, settings: Settings
) -> None:
    """Unlike a compressor, a cache does not remove the attributes of the element."""
    configure(DELIVERY="deferred")
    settings.DEBUG = True
    assert script_attributes(render(request_by(ada()))) == script_attributes(render_django(request_by()))


# Code that is not a fragment cache


class CacheDashboardView(View):
    """A view of the site whose name and methods resemble those of a cache."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.render_cached(request)

    def render_cached(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(self.get_or_set(request))

    def get_or_set(self, request: HttpRequest) -> str:
        return template(TAG)(request)


class Shop:
    """Renders the chat in a property that Django stores in the object."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request

    @cached_property
    def cached_chat(self) -> str:
        return mark_safe(template(TAG)(self.request))


def through_view(view: Callable[..., Any]) -> Render:
    return lambda request: view(request).content.decode()


def chat(request: HttpRequest) -> HttpResponse:
    return HttpResponse(template(TAG)(request))


OPEN: dict[str, Render] = {
    "beside": template(LOADED + "{% cache 60 side %}x{% endcache %}" + TAG + "{% cache 60 foot %}y{% endcache %}"),
    "another block tag": template("{% plain %}{% include 'chat.html' %}{% endplain %}"),
    "cached loader": template("{% include 'chat.html' %}", loader="cached"),
    "cached_property": lambda request: Shop(request).cached_chat,
    "cached_property in a template": lambda request: template("{{ shop.cached_chat }}")(request, shop=Shop(request)),
    "never_cache": through_view(never_cache(chat)),
    "name of a view": through_view(CacheDashboardView.as_view()),
    "jinja, beside": jinja(f"{{% cache %}}x{{% endcache %}}{CALL}{{% cache %}}y{{% endcache %}}"),
    "jinja, another block tag": jinja(f"{{% plain %}}{CALL}{{% endplain %}}"),
}


@pytest.mark.parametrize("name", OPEN)
def test_identity_is_rendered_where_no_fragment_cache_encloses_the_tag(
    configure: Configure, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Each visitor gets their own identity where only a name resembles a cache."""
    configure(DELIVERY="inline")
    for user in (ada(), grace(), ada()):
        assert f"token-of-{user.username}" in script_attributes(OPEN[name](request_by(user)))["data-identity"]
    assert logged(caplog) == []
