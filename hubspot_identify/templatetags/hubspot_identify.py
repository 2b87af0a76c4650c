"""``{% load hubspot_identify %} … {% hubspot_identify %}</body>``"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from django import template

from .._fragment_caches import stores_output
from ..widget import given, render_script

if TYPE_CHECKING:
    from django.template.base import Node, Parser, Token
    from django.template.context import Context
    from django.utils.safestring import SafeString

    from ..services import Identification

register = template.Library()


@register.simple_tag(takes_context=True)
def hubspot_identify(
    context: Context,
    *,
    nonce: object = None,
    account: str | None = None,
    identity: Identification | None = None,
) -> SafeString:
    """The chat's script element, for the end of the base template's body.

    ::

        {% load hubspot_identify %}
        {% hubspot_identify %}
        {% hubspot_identify account="eu" %}
        {% hubspot_identify identity=identity %}   {# in an asynchronous view, inline: await aidentify(request) #}
    """
    request = getattr(context, "request", None) or context.get("request")
    if given(nonce) is None:
        nonce = context.get("csp_nonce")
    return render_script(request, nonce=nonce, account=account, identity=identity)


_compile = register.tags["hubspot_identify"]


@register.tag(name="hubspot_identify")
def _compile_where_output_is_not_kept(parser: Parser, token: Token) -> Node:
    """Refuse to compile where a tag or a variable would keep the output. The rest shows when the tag is rendered."""
    outer = next((command for command, _ in parser.command_stack if stores_output(command)), None)
    if outer == "compress":
        raise template.TemplateSyntaxError(
            "{% hubspot_identify %} must not be inside {% compress %}, which removes the attributes that configure the "
            "script. Move it out of the block."
        )
    if outer is not None:
        raise template.TemplateSyntaxError(
            f"{{% hubspot_identify %}} must not be inside {{% {outer} %}}, which would serve one visitor's identity or "
            "nonce to other visitors. Move it out of the block."
        )
    if "as" in token.split_contents()[-2:-1]:
        raise template.TemplateSyntaxError(
            '{% hubspot_identify %} does not support "as": a cache could store the variable, and Django\'s debug page '
            "would show it, with the visitor's identity in it. Write {% hubspot_identify %} where the element belongs."
        )
    return cast("Node", _compile(parser, token))
