"""The doctor's check of the Content-Security-Policy that the site sends."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import django
from django.conf import settings

from ..conf import Config
from ..csp import sources
from ..delivery import is_inline
from .endpoint import SiteResponse
from .findings import ERROR, OK, WARNING, Finding

#: The middleware that sends the policy in a setting. The last setting is that of django-csp before version 4.
MIDDLEWARE = {
    "SECURE_CSP": "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "CONTENT_SECURITY_POLICY": "csp.middleware.CSPMiddleware",
    "CSP_DEFAULT_SRC": "csp.middleware.CSPMiddleware",
}
#: If sources of these directives are missing, there is no chat. If others are, the chat lacks pictures or styles.
ESSENTIAL = frozenset({"script-src", "connect-src", "frame-src"})
#: The directives that browsers look for in the policy, in this order. They apply the first that it has.
FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "script-src": ("script-src-elem", "script-src", "default-src"),
    "style-src": ("style-src-elem", "style-src", "default-src"),
    "frame-src": ("frame-src", "child-src", "default-src"),
}


def check_csp(config: Config, response: SiteResponse, script_url: str) -> Iterator[Finding]:
    """Check that the Content-Security-Policy of responses allows the app's script, its endpoint and the chat.

    Args:
        config: the settings of the account.
        response: of :func:`~.endpoint.request_site`.
        script_url: the URL of the app's script.
    """
    if not response.policy:
        yield from _check_unsent_policy(response)
        return
    origin = urlsplit(script_url)
    needed = sources(config.region)
    needed["script-src"].insert(0, f"{origin.scheme or 'https'}://{origin.netloc}" if origin.netloc else "'self'")
    missing = {
        directive: blocked for directive, each in needed.items() if (blocked := _blocked(directive, each, response))
    }
    if missing:
        listed = "; ".join(f"{directive} {' '.join(blocked)}" for directive, blocked in missing.items())
        text = f"The Content-Security-Policy blocks parts of the chat. Missing sources: {listed}"
        hint = f'Add them to the policy. hubspot_identify.csp.sources("{config.region}") returns those of HubSpot.'
        yield Finding("csp", ERROR if missing.keys() & ESSENTIAL else WARNING, text, hint)
    else:
        yield Finding("csp", OK, "The Content-Security-Policy allows the chat.")
    if not is_inline(config) and _blocked("connect-src", ["'self'"], response):
        text = "The Content-Security-Policy blocks the request for the identity. Missing source: connect-src 'self'"
        yield Finding("endpoint", ERROR, text, "Add it to the policy.")


def _check_unsent_policy(response: SiteResponse) -> Iterator[Finding]:
    for name, middleware in MIDDLEWARE.items():
        if getattr(settings, name, None) and middleware not in settings.MIDDLEWARE and not response.reports_only:
            text = f"{name} is set, but the site sends no Content-Security-Policy."
            hint = f'Add "{middleware}" to MIDDLEWARE.'
            if name == "SECURE_CSP" and django.VERSION < (6, 0):
                hint = "The setting requires Django 6.0 or newer. With older versions, use django-csp."
            yield Finding("csp", WARNING, text, hint)


def _blocked(directive: str, needed: list[str], response: SiteResponse) -> list[str]:
    """Return the sources that one of the response's policies does not allow."""
    blocked: list[str] = []
    for policy in response.policy.split(","):
        directives = {part.split()[0].lower(): part.split()[1:] for part in policy.split(";") if part.strip()}
        names = FALLBACKS.get(directive, (directive, "default-src"))
        allowed = next((directives[name] for name in names if name in directives), None)
        if allowed is not None:
            blocked += _not_among(allowed, needed, directive, response)
    return list(dict.fromkeys(blocked))


def _not_among(allowed: list[str], needed: list[str], directive: str, response: SiteResponse) -> list[str]:
    # The first script is the app's own, whose element has the nonce.
    has_nonce = directive == "script-src" and bool(response.nonce) and f"'nonce-{response.nonce}'" in allowed
    if directive == "script-src" and "'strict-dynamic'" in allowed:  # browsers ignore the other sources then
        return [] if has_nonce else ["'nonce-…'"]
    return [
        source
        for index, source in enumerate(needed)
        if not (has_nonce and index == 0) and not any(_covers(each, source, response.host) for each in allowed)
    ]


def _covers(allowed: str, source: str, host: str) -> bool:
    """Return whether a source of the policy allows everything that another source allows."""
    if allowed == source:
        return True
    if source == "'self'":
        source = f"https://{host}"
    if not source.startswith("https://"):
        return False
    if allowed in ("*", "https:"):
        return True
    allowed, source = re.sub(r"^https?://", "", allowed).partition("/")[0], source.removeprefix("https://")
    return allowed == source or (allowed.startswith("*.") and source.endswith(allowed[1:]))
