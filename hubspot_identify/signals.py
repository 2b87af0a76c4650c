"""Signals of the calls that fetch tokens in the background. Calls of ``create_token`` send none.

They are sent on a background thread: after the response, or at the deadline if there is none yet. A late token is
reported as well. If a receiver raises an exception, Django logs it.

``token_created``: a token was created. Arguments: ``visitor``, ``account`` (``""`` for the top-level settings).
``token_failed``: no token was created. Arguments: ``visitor``, ``account``, ``error`` (a ``HubSpotIdentifyError``).

The sender is :class:`~hubspot_identify.visitors.Visitor`. The token itself is never sent.
"""

from __future__ import annotations

from django.dispatch import Signal

token_created = Signal()
token_failed = Signal()
