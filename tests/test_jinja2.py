"""What is Jinja's own about ``hubspot_identify()``. That it writes what the tag writes is held in ``test_tag.py``."""

from __future__ import annotations

import jinja2
import pytest
from support.pages import EXTENSION, ada, jinja_template, keep_token, render_django, request_by

from hubspot_identify.jinja2 import hubspot_identify


def test_extension_is_known_to_every_template() -> None:
    """The extension brings the function, whatever the template, and its output is not escaped again."""
    environment = jinja2.Environment(extensions=[EXTENSION], autoescape=True)
    written = environment.from_string("{{ hubspot_identify() }}").render(request=request_by())
    assert written == render_django(request_by())


def test_plain_function() -> None:
    """Without the extension the function can be handed to an environment by itself."""
    environment = jinja2.Environment(autoescape=True)
    environment.globals["chat"] = hubspot_identify
    assert environment.from_string("{{ chat() }}").render(request=request_by()) == render_django(request_by())


def test_variable() -> None:
    """The element can be kept in a variable, unharmed."""
    template = jinja_template("{% set chat = hubspot_identify() %}[{{ chat }}]")
    assert template.render({}, request_by()) == f"[{render_django(request_by())}]"


def test_macro() -> None:
    """In a macro of the same template the request is there; one that is imported without context has none."""
    keep_token(ada())
    macro = "{% macro chat() %}{{ hubspot_identify() }}{% endmacro %}"
    request = request_by(ada())
    request.csp_nonce = "n"  # type: ignore[attr-defined]
    assert jinja_template(macro + "{{ chat() }}").render({}, request) == render_django(request)
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"macros": macro}), extensions=[EXTENSION], autoescape=True
    )
    source = "{% from 'macros' import chat with context %}{{ chat() }}"
    assert environment.from_string(source).render(request=request) == render_django(request)
    source = "{% from 'macros' import chat %}{{ chat() }}"
    assert environment.from_string(source).render(request=request) == render_django(None)


def test_strict_environment() -> None:
    """An environment that is strict about variables that are not there is so with ours."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, extensions=[EXTENSION])
    with pytest.raises(jinja2.UndefinedError, match="'identity' is undefined"):
        environment.from_string("{{ hubspot_identify(identity=identity) }}").render(request=request_by())


@pytest.mark.parametrize("call", ["hubspot_identify('eu')", "hubspot_identify(acount='eu')"])
def test_wrong_arguments(call: str) -> None:
    """Arguments go by their names, and a misspelt one is an error."""
    with pytest.raises(TypeError, match="hubspot_identify"):
        jinja_template(f"{{{{ {call} }}}}").render({}, request_by())
