"""The bounded worker threads that call HubSpot, so that no request thread ever does.

Each process has a few worker slots and no queue: if none is free, :meth:`Workers.submit` returns ``None``. At a job's
deadline its slot is released, and its thread is abandoned. A late response is still used. A few seconds later the call
is aborted: no timeout of an HTTP library ends a response that arrives byte by byte.

Each job has a daemon thread. A ``ThreadPoolExecutor`` would delay the exit of the interpreter, and lose its threads to
calls that never end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from django.core.cache import caches
from django.db import connections

from ..exceptions import HubSpotIdentifyError, TransportError
from ..logs import log_throttled
from .entries import VisitorToken
from .per_process import PerProcess

if TYPE_CHECKING:
    from .._hubspot.client import TokenClient

logger = logging.getLogger(__name__)

SLOTS = 2
MAX_ABANDONED_THREADS = 8  # no job is started beyond that
ABORT_AFTER = 3.0  # seconds from a job's deadline until its call is aborted


class Job(ABC):
    """A token that is being created on a thread. Several callers may wait for it; none of them can cancel it.

    Args:
        key: jobs with the same key are one job.
        timeout: seconds until the deadline.

    Attributes:
        deadline: on the monotonic clock.
    """

    def __init__(self, key: str, timeout: float) -> None:
        self.key = key
        self.deadline = time.monotonic() + timeout
        self.started = False
        self._future: Future[VisitorToken | None] = Future()
        self._future.set_running_or_notify_cancel()

    @abstractmethod
    def run(self, client: TokenClient) -> None:
        """Create the token and call :meth:`finish`, on the job's own thread."""

    def on_deadline(self) -> None:  # noqa: B027 - a hook
        """React to the deadline, on a second thread, if the job is still running then."""

    def finish(self, token: VisitorToken | None = None, error: HubSpotIdentifyError | None = None) -> None:
        """Give all callers that wait the result. Only the first one counts."""
        if self._future.done():
            return
        if error is None:
            self._future.set_result(token)
        else:
            self._future.set_exception(error.with_traceback(None))  # the frames of the call hold the key

    def wait(self, seconds: float) -> VisitorToken | None:
        """Return the token as soon as there is one, within so many seconds and the deadline.

        Raises:
            HubSpotIdentifyError: the job failed, or there is no response yet.
        """
        try:
            return self._future.result(self._at_most(seconds))
        except FutureTimeoutError:
            pass
        raise TransportError("HubSpot did not respond in time.")

    async def await_(self, seconds: float) -> VisitorToken | None:
        """Do the same as :meth:`wait` without blocking the event loop. Other callers survive a cancellation."""
        future = asyncio.shield(asyncio.wrap_future(self._future))
        try:
            return await asyncio.wait_for(future, self._at_most(seconds))
        except (TimeoutError, FutureTimeoutError):
            pass
        raise TransportError("HubSpot did not respond in time.")

    def _at_most(self, seconds: float) -> float:
        return max(0.0, min(seconds, self.deadline - time.monotonic()))


class Workers:
    """The jobs of this process. Until its deadline a job holds a slot; after that it is abandoned."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: set[Job] = set()

    def submit(self, job: Job, *, may_take_last_slot: bool = True) -> Job | None:
        """Start a job, or return the job that runs with the same key. Does not wait and opens no socket.

        Args:
            job: the job to start.
            may_take_last_slot: ``False`` if the job is likely to block until its deadline.

        Returns:
            the job, or ``None`` if no slot is free or no thread can be started.
        """
        with self._lock:
            now = time.monotonic()
            active = [other for other in self._jobs if now < other.deadline]
            for other in active:
                if other.key == job.key:
                    return other
            if len(active) >= (SLOTS if may_take_last_slot else SLOTS - 1):
                return None
            if not self._can_start(abandoned=self._jobs.difference(active)):
                return None
            try:
                _start_thread("hubspot-identify", self._run, job)
            except RuntimeError:  # no more threads, or the interpreter is shutting down
                log_throttled(logger, logging.ERROR, "No thread can be started to fetch a token.")
                return None
            self._jobs.add(job)
        return job

    def _can_start(self, abandoned: set[Job]) -> bool:
        if not all(job.started for job in abandoned):
            log_throttled(
                logger,
                logging.ERROR,
                "A thread that was to fetch a token never ran. Threads do not run in this process (uWSGI needs "
                "--enable-threads; some serverless platforms freeze them): let pages wait with PAGE_WAIT, or use "
                "get_token(visitor, wait=…).",
                every=float("inf"),
            )
        if len(abandoned) < MAX_ABANDONED_THREADS:
            return True
        log_throttled(
            logger,
            logging.WARNING,
            "Token fetch not scheduled: %d worker threads are still blocked.",
            len(abandoned),
        )
        return False

    def _run(self, job: Job) -> None:
        job.started = True
        ended = threading.Event()
        with _errors_logged():
            if time.monotonic() < job.deadline:
                client = _new_client()
                with suppress(RuntimeError):  # without a second thread, only the timeouts of sockets limit the call
                    _start_thread("hubspot-identify-deadline", _watch_deadline, job, client, ended)
                job.run(client)
        job.finish()
        ended.set()
        with self._lock:
            self._jobs.discard(job)


def _watch_deadline(job: Job, client: TokenClient, ended: threading.Event) -> None:
    if not ended.wait(max(0.0, job.deadline - time.monotonic())):
        with _errors_logged():
            job.on_deadline()
        if not ended.wait(ABORT_AFTER):
            client.abort()


def _start_thread(name: str, function: Callable[..., None], *args: object) -> None:
    threading.Thread(target=_on_thread, args=(function, *args), name=name, daemon=True).start()


def _on_thread(function: Callable[..., None], *args: object) -> None:
    try:
        function(*args)
    finally:
        for handler in (connections, caches):  # what Django opened for this thread, which ends here
            with _errors_logged():
                handler.close_all()


@contextmanager
def _errors_logged() -> Iterator[None]:
    """Log where the block raised an unexpected exception, without its text, which may contain anything."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001 - no caller waits for it on this thread
        trace = "".join(traceback.format_tb(error.__traceback__))
        logger.error("Fetching a token failed with %s:\n%s", type(error).__name__, trace)


#: Held during an import here and while the process forks. A module lock that a thread holds at a fork is never released
#: in the child.
_importing = PerProcess(threading.RLock)

if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(
        before=lambda: _importing.get().acquire(),
        after_in_parent=lambda: _importing.get().release(),
    )


def _new_client() -> TokenClient:
    with _importing.get():
        from .._hubspot.client import TokenClient  # imports requests, for which no page should wait
    return TokenClient()


_workers = PerProcess(Workers)


def get_workers() -> Workers:
    """Return the workers of this process."""
    return _workers.get()


def reset_workers() -> None:
    """Start with no jobs; for tests."""
    _workers.renew()
