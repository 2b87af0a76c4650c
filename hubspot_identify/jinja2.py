"""The tag for Jinja templates, as an extension or as a plain function.

::

    TEMPLATES = [{"BACKEND": "django.template.backends.jinja2.Jinja2",
                  "OPTIONS": {"extensions": ["hubspot_identify.jinja2.HubSpotIdentifyExtension"]}}]

    {{ hubspot_identify() }}</body>
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import Environment, Undefined, pass_context
from jinja2.ext import Extension

from .widget import render_script

if TYPE_CHECKING:
    from django.utils.safestring import SafeString
    from jinja2.runtime import Context

    from .identification import Identification


@pass_context
def hubspot_identify(
    context: Context,
    *,
    nonce: object = None,
    account: str | None = None,
    identity: Identification | None = None,
) -> SafeString:
    """Return the chat's script element, as the template tag of the same name does.

    With inline delivery, write the call where the element belongs. The app cannot detect that a cache stores a variable
    set with ``{% set chat = hubspot_identify() %}``.
    """
    nonce, account, identity = (_none_if_undefined(argument) for argument in (nonce, account, identity))
    if nonce is None:
        nonce = context.get("csp_nonce")
    return render_script(context.get("request"), nonce=nonce, account=account, identity=identity)


def _none_if_undefined(argument: Any) -> Any:
    """Return ``None`` for an undefined variable. With ``StrictUndefined``, testing its truth raises Jinja's error."""
    return None if isinstance(argument, Undefined) and not argument else argument


class HubSpotIdentifyExtension(Extension):
    """Adds ``hubspot_identify()`` to every template of an environment."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals["hubspot_identify"] = hubspot_identify
