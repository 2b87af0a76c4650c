"""The two users of the example site."""

from __future__ import annotations

PASSWORD = "let-me-in"  # noqa: S105 - the site runs only on your own machine

PEOPLE = {
    "ada": {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.com"},
    "grace": {"first_name": "Grace", "last_name": "Hopper", "email": "grace@example.com"},
}
