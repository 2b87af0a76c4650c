"""The worker threads of this process, and jobs for them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hubspot_identify._hubspot.client import TokenClient
from hubspot_identify._tokens.entries import VisitorToken
from hubspot_identify._tokens.workers import Job
from hubspot_identify.exceptions import HubSpotIdentifyError
from hubspot_identify.testing import join_threads

from .clocks import GENEROUS_TIMEOUT

Task = Callable[[Job, TokenClient], "VisitorToken | None"]


def wait_for_workers() -> None:
    """Wait until no worker is busy."""
    assert join_threads(GENEROUS_TIMEOUT)


class TaskJob(Job):
    """A job that runs a function, and notes when its deadline passes."""

    def __init__(self, key: str, task: Task, seconds: float = GENEROUS_TIMEOUT) -> None:
        super().__init__(key, seconds)
        self.task = task
        self.overdue = threading.Event()

    def run(self, client: TokenClient) -> None:
        try:
            self.finish(self.task(self, client))
        except HubSpotIdentifyError as error:
            self.finish(error=error)

    def on_deadline(self) -> None:
        self.overdue.set()
