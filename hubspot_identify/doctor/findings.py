"""What the doctor says of one thing."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"
GUIDE = "https://developers.hubspot.com/docs/api-reference/conversations-visitor-identification-v3/guide"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the doctor looked at.

    Attributes:
        topic: what was looked at; stable, for scripts.
        level: ``ok``, ``note``, ``warning`` or ``error``.
        text: what was found.
        hint: what to do about it.
        link: where to do it.
        seconds: how long it took, where that says something.
        correlation_id: what HubSpot's support asks for.
    """

    topic: str
    level: str
    text: str
    hint: str = ""
    link: str = ""
    seconds: float | None = None
    correlation_id: str = ""
