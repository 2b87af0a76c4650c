"""What a Content-Security-Policy has to let HubSpot's chat do. Can be imported by settings files."""

from __future__ import annotations

import re

_HOSTS = {
    "script-src": (
        "*.hs-scripts.com",
        "*.usemessages.com",
        "*.hs-analytics.net",
        "*.hs-banner.com",
        "*.hscollectedforms.net",
        "*.hsadspixel.net",
        "*.hubspot.com",
    ),
    "connect-src": (
        "*.hubspot.com",
        "*.hubapi.com",
        "*.hs-banner.com",
        "*.hscollectedforms.net",
        "*.hsforms.com",
    ),
    "frame-src": ("*.hubspot.com",),
    "img-src": ("*.hubspot.com", "*.hsforms.com"),
    "style-src": ("static.hsappstatic.net",),
}


def sources(region: str = "na1") -> dict[str, list[str]]:
    """The sources of HubSpot's chat, by directive. They stand beside the site's own, which the app's script needs.

    With Django 6, in the settings::

        from django.utils.csp import CSP
        from hubspot_identify import csp

        SECURE_CSP = {
            "default-src": [CSP.SELF],
            "base-uri": [CSP.NONE],
            "form-action": [CSP.SELF],
            **{directive: [CSP.SELF, *hosts] for directive, hosts in csp.sources("eu1").items()},
        }

    With django-csp the same, as ``CONTENT_SECURITY_POLICY = {"DIRECTIVES": {...}}`` and with ``csp.constants.SELF``.
    ``default-src`` does not cover ``base-uri`` and ``form-action``. Without them, markup that somebody plants in a page
    with inline delivery could send the identity to another site.

    Where ``script-src`` has a nonce and ``'strict-dynamic'`` in place of hosts, browsers need none of those; the other
    directives they need still.

    The chat keeps to ``style-src`` with the option ``avoidInlineStyles``, which the app sets unless ``WIDGET`` says
    otherwise. No directive needs ``'unsafe-inline'``.

    Args:
        region: as in ``REGION``. The files of every region come from hosts of the same domains, its own and those of
            others, so all regions have the same sources for now.

    Raises:
        ValueError: the region is none.
    """
    if not re.fullmatch(r"[a-z]{2}[0-9]", region):
        raise ValueError(f"region is {region!r}: pass a region of HubSpot, such as 'na1' or 'eu1'.")
    found = {directive: [f"https://{host}" for host in hosts] for directive, hosts in _HOSTS.items()}
    found["img-src"].append("data:")
    return found
