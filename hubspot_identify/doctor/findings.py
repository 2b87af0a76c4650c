"""The result of one check by the doctor."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"
#: The topic of an account's last finding, which says what visitors see.
VERDICT = "verdict"
GUIDE = "https://developers.hubspot.com/docs/api-reference/conversations-visitor-identification-v3/guide"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        topic: what was checked; stable, for scripts.
        level: ``ok``, ``note``, ``warning`` or ``error``.
        text: what the check found.
        hint: what to do about it.
        link: the page where to do it.
        seconds: the duration of the check, if it is informative.
        correlation_id: the ID that HubSpot's support asks for.
    """

    topic: str
    level: str
    text: str
    hint: str = ""
    link: str = ""
    seconds: float | None = None
    correlation_id: str = ""
