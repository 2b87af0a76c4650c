"""The sources that a Content-Security-Policy must allow for HubSpot's chat. Settings files can import this module."""

from __future__ import annotations

import re

#: The hosts, in the notation of the header.
_HOSTS = {
    "script-src": "*.hs-scripts.com *.usemessages.com *.hs-analytics.net *.hs-banner.com *.hscollectedforms.net "
    "*.hsadspixel.net *.hubspot.com",
    "connect-src": "*.hubspot.com *.hubapi.com *.hs-banner.com *.hscollectedforms.net *.hsforms.com",
    "frame-src": "*.hubspot.com",
    "img-src": "*.hubspot.com *.hsforms.com",
    "style-src": "static.hsappstatic.net",
}


def sources(region: str = "na1") -> dict[str, list[str]]:
    """Return the sources of HubSpot's chat by directive. Add them to the site's own, which the app's script needs.

    With Django 6, in the settings::

        from django.utils.csp import CSP
        from hubspot_identify import csp

        SECURE_CSP = {
            "default-src": [CSP.SELF],
            "base-uri": [CSP.NONE],
            "form-action": [CSP.SELF],
            **{directive: [CSP.SELF, *hosts] for directive, hosts in csp.sources("eu1").items()},
        }

    With django-csp, use ``CONTENT_SECURITY_POLICY = {"DIRECTIVES": {...}}`` and ``csp.constants.SELF`` instead.
    ``default-src`` does not cover ``base-uri`` and ``form-action``. Without them, injected markup in a page with inline
    delivery could send the identity to another site.

    If ``script-src`` has a nonce and ``'strict-dynamic'``, it needs no hosts. The other directives still need theirs.

    The chat complies with ``style-src`` because of the option ``avoidInlineStyles``, which the app sets unless
    ``WIDGET`` disables it. No directive needs ``'unsafe-inline'``.

    Args:
        region: as in ``REGION``. All regions currently have the same sources, because the files of each region come
            from hosts of the same domains.

    Raises:
        ValueError: the region has another format.
    """
    if not re.fullmatch(r"[a-z]{2}[0-9]", region):
        raise ValueError(f"region must be a region of HubSpot such as 'na1' or 'eu1', not {region!r}.")
    by_directive = {directive: [f"https://{host}" for host in hosts.split()] for directive, hosts in _HOSTS.items()}
    by_directive["img-src"].append("data:")
    return by_directive
