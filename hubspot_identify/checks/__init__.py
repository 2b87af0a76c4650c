"""System checks. Their IDs are stable, their hints say what to write, and no message contains a secret."""

from . import deployment, settings  # noqa: F401 - importing registers them
