"""``{% load hubspot_identify %} … {% hubspot_identify %}</body>``"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from django import template

from .._fragment_caches import stores_output
from ..widget import none_if_empty, render_script

if TYPE_CHECKING:
    from django.template.base import Node, Parser, Token
    from django.template.context import Context
    from django.utils.safestring import SafeString

    from ..identification import Identification

register = template.Library()


@register.simple_tag(takes_context=True)
def hubspot_identify(
    context: Context,
    *,
    nonce: object = None,
    account: str | None = None,
    identity: Identification | None = None,
) -> SafeString:
    """Render the chat's script element, at the end of the base template's body.

    ::

        {% load hubspot_identify %}
        {% hubspot_identify %}
        {% hubspot_identify account="eu" %}
        {% hubspot_identify identity=identity %}   {# inline, in an asynchronous view: await aidentify(request) #}
    """
    request = getattr(context, "request", None) or context.get("request")
    if none_if_empty(nonce) is None:
        nonce = context.get("csp_nonce")
    return render_script(request, nonce=nonce, account=account, identity=identity)


_compile = register.tags["hubspot_identify"]


@register.tag(name="hubspot_identify")
def _compile_outside_of_caches(parser: Parser, token: Token) -> Node:
    """Compile the tag, unless a tag around it or a variable stores the output. Rendering detects other caches."""
    outer = next((command for command, _ in parser.command_stack if stores_output(command)), None)
    if outer is not None:
        raise template.TemplateSyntaxError(
            f"{{% hubspot_identify %}} must not be inside {{% {outer} %}}, which would change the element or serve one "
            "visitor's identity or nonce to other visitors. Move it out of the block."
        )
    if "as" in token.split_contents()[-2:-1]:
        raise template.TemplateSyntaxError(
            '{% hubspot_identify %} does not support "as": a cache could store the variable, and Django\'s debug page '
            "would show it, with the visitor's identity in it. Write {% hubspot_identify %} where the element belongs."
        )
    return cast("Node", _compile(parser, token))
