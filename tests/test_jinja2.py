"""``hubspot_identify()`` in Jinja templates. ``test_tag.py`` proves that its output is that of the template tag."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
from support.pages import EXTENSION, ada, jinja_template, keep_token, render_django, request_by

from hubspot_identify.jinja2 import hubspot_identify


@pytest.fixture
def environment() -> jinja2.Environment:
    return jinja2.Environment(extensions=[EXTENSION], autoescape=True)


def test_extension_adds_the_function_to_every_template(environment: jinja2.Environment) -> None:
    """The output of the function is not escaped again."""
    written = environment.from_string("{{ hubspot_identify() }}").render(request=request_by())
    assert written == render_django(request_by())


def test_function_without_the_extension() -> None:
    """The function can be added to an environment without the extension."""
    environment = jinja2.Environment(autoescape=True)
    environment.globals["chat"] = hubspot_identify
    assert environment.from_string("{{ chat() }}").render(request=request_by()) == render_django(request_by())


def test_output_in_a_variable_is_not_escaped() -> None:
    """The element can be assigned to a variable and rendered later."""
    template = jinja_template("{% set chat = hubspot_identify() %}[{{ chat }}]")
    assert template.render({}, request_by()) == f"[{render_django(request_by())}]"


def test_macro_has_the_request_if_its_context_has(environment: jinja2.Environment) -> None:
    """In a macro of the same template the request is available. A macro imported without context has none."""
    keep_token(ada())
    macro = "{% macro chat() %}{{ hubspot_identify() }}{% endmacro %}"
    request: Any = request_by(ada())
    request.csp_nonce = "n"
    assert jinja_template(macro + "{{ chat() }}").render({}, request) == render_django(request)
    environment.loader = jinja2.DictLoader({"macros": macro})
    source = "{% from 'macros' import chat with context %}{{ chat() }}"
    assert environment.from_string(source).render(request=request) == render_django(request)
    source = "{% from 'macros' import chat %}{{ chat() }}"
    assert environment.from_string(source).render(request=request) == render_django(None)


def test_strict_environment_raises_for_undefined_arguments() -> None:
    """With ``StrictUndefined`` an argument that is not defined raises Jinja's error."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, extensions=[EXTENSION])
    with pytest.raises(jinja2.UndefinedError, match="identity"):
        environment.from_string("{{ hubspot_identify(identity=identity) }}").render(request=request_by())


def test_positional_and_misspelt_arguments_raise() -> None:
    """Arguments are accepted by name only."""
    for call in ("hubspot_identify('eu')", "hubspot_identify(acount='eu')"):
        with pytest.raises(TypeError, match="hubspot_identify"):
            jinja_template(f"{{{{ {call} }}}}").render({}, request_by())
