"""``{% load hubspot_identify %} … {% hubspot_identify %}</body>``"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from django import template

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
def _compile_outside_of_cache(parser: Parser, token: Token) -> Node:
    # Wagtail's {% wagtailcache %}, cacheops' {% cached_as %} and their like are meant as well.
    outer = next((command for command, _ in parser.command_stack if "cache" in command), None)
    if outer is not None:
        raise template.TemplateSyntaxError(
            f"{{% hubspot_identify %}} must not stand inside {{% {outer} %}}: one visitor's identity or nonce would be "
            "served to others. Put it outside."
        )
    return cast("Node", _compile(parser, token))
