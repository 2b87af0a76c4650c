"""The picture for the manual: views a second, by way and by what HubSpot is doing."""

from __future__ import annotations

from html import escape
from typing import Any

import pages

MODEL = "2 sync workers"
PANELS = {
    pages.WARM: "HubSpot is well",
    "healthy, every user new": "every user is new",
    "hang": "HubSpot hangs",
    "429": "HubSpot answers 429",
}
ROWS = {
    pages.NO_TAG: "no chat at all",
    pages.DEFERRED: "this app: deferred",
    pages.INLINE: "this app: inline",
    pages.TEXTBOOK: "cache.get/set, timeout=2",
    pages.PER_PAGE: "requests.post for each page",
    pages.SDK: "hubspot-api-client",
}
OURS = (pages.DEFERRED, pages.INLINE)

LABELS, PANEL, GAP, BAR = 205, 150, 20, 26  # widths and a height in pixels
NUMBER = 44  # kept free right of the longest bar
TOP, EDGE = 86, 24


def draw(rows: list[dict[str, Any]]) -> str:
    """The picture as SVG. On a card of its own, since it can't know the colours of the page around it."""
    rates = {(row["mood"], row["way"]): row["rate"] for row in rows if row["model"] == MODEL}
    most = max(rates.values(), default=1.0)
    width = EDGE + LABELS + len(PANELS) * (PANEL + GAP) - GAP + EDGE
    height = TOP + len(ROWS) * BAR + EDGE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"',
        '  role="img" aria-labelledby="title" font-family="system-ui, sans-serif" font-size="13" fill="#24292f">',
        f'<title id="title">{escape(_in_words(rates))}</title>',
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8" fill="#fff" stroke="#d0d7de"/>',
        _text(EDGE, 32, f"Views a second, gunicorn with {MODEL}, 200 ms to HubSpot and back", weight=600, size=15),
    ]
    for row, (way, label) in enumerate(ROWS.items()):
        parts.append(_text(EDGE, TOP + row * BAR + 17, label, weight=600 if way in OURS else 400))
    for column, (mood, heading) in enumerate(PANELS.items()):
        left = EDGE + LABELS + column * (PANEL + GAP)
        parts.append(_text(left, TOP - 12, heading, weight=600))
        parts.append(f'<line x1="{left}" x2="{left}" y1="{TOP}" y2="{TOP + len(ROWS) * BAR}" stroke="#8c959f"/>')
        for row, way in enumerate(ROWS):
            rate = rates.get((mood, way.name))
            if rate is None:
                continue
            length = rate / most * (PANEL - NUMBER)
            colour = "#0f766e" if way in OURS else "#afb8c1"
            top = TOP + row * BAR
            parts.append(f'<rect x="{left}" y="{top + 4}" width="{length:.1f}" height="{BAR - 8}" fill="{colour}"/>')
            bad = rate < 100
            parts.append(
                _text(left + length + 5, top + 17, number(rate), weight=600 if bad else 400, colour="#b42318" * bad)
            )
    return "\n".join([*parts, "</svg>", ""])


def number(rate: float) -> str:
    """A rate with as many digits as it has meaning."""
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


def _in_words(rates: dict[tuple[str, str], float]) -> str:
    panels = []
    for mood, heading in PANELS.items():
        bars = [f"{label} {number(rates[mood, way.name])}" for way, label in ROWS.items() if (mood, way.name) in rates]
        panels.append(f"{heading}: {', '.join(bars)}.")
    return f"Views a second. {' '.join(panels)}"


def _text(x: float, y: float, text: str, *, weight: int = 400, size: int = 13, colour: str = "") -> str:
    fill = f' fill="{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}" font-size="{size}"{fill}>{escape(text)}</text>'
