"""Signals, sent from the worker that called HubSpot, after the answer. A receiver that raises is logged by Django.
They tell of the tokens made for pages; whoever calls ``create_token`` hears of it by its result.

``token_created``: a token was made. Arguments: ``visitor``, ``account`` (``""`` for the settings themselves).
``token_failed``: none could be made. Arguments: ``visitor``, ``account``, ``error`` (a ``HubSpotIdentifyError``).

The sender is :class:`~hubspot_identify.visitors.Visitor`. The token itself is never sent.
"""

from __future__ import annotations

from django.dispatch import Signal

token_created = Signal()
token_failed = Signal()
