"""Logged-in Django users as known contacts in HubSpot's chat."""

from __future__ import annotations

__version__ = "0.1.0"
