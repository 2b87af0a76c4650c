"""Which way an identity goes to the browser: asked for by our script (deferred), or written into the page (inline)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote

from django.urls import NoReverseMatch, get_resolver, get_script_prefix, get_urlconf, resolve, reverse
from django.utils.translation import get_language

if TYPE_CHECKING:
    from django.urls import URLResolver

    from .conf import Config


def endpoint_url(config: Config) -> str | None:
    """Where the browser asks for an account's identity, or ``None`` where our URLs are not routed."""
    return _endpoint_url(config.account, get_resolver(get_urlconf()), get_script_prefix(), get_language())


@lru_cache(maxsize=256)
def _endpoint_url(account: str, _resolver: URLResolver, _prefix: str, _language: str | None) -> str | None:
    """The answer of ``reverse()``, which takes longer than all else that the tag does, by what it depends on."""
    try:
        return reverse("hubspot_identify:identity", kwargs={"account": account} if account else None)
    except NoReverseMatch:
        return None


def resolves_to_app(endpoint: str) -> bool:
    """Whether an address leads to the app, and not to a pattern that stands before it in the URLconf."""
    path = unquote(path_of(endpoint))  # reverse() quotes, and resolve() wants it as it came
    return "hubspot_identify" in resolve(path).app_names


def path_of(endpoint: str) -> str:
    """The path of an address below the prefix under which the site is served."""
    return f"/{endpoint.removeprefix(get_script_prefix())}"


def is_inline(config: Config, endpoint: str | None) -> bool:
    """Whether the identity stands in the page: by ``DELIVERY``, or because there is no endpoint to ask."""
    if config.delivery is None:
        return endpoint is None
    return config.delivery == "inline"
