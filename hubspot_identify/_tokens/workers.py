"""The bounded workers that call HubSpot, so that no request thread ever does.

Each process has two worker slots and no queue: if none is free, ``submit()`` returns ``None``. At a job's deadline its
slot is released and its thread is abandoned. A late response is still used. A few seconds later the call is aborted:
no timeout of an HTTP library ends a response that arrives byte by byte, or an endless stream of ``100 Continue``.

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
MAX_ABANDONED_THREADS = 8  # beyond that, no job is started
ABORT_AFTER = 3.0  # seconds from a job's deadline until its call is aborted

#: What a job does on its thread, given the job and a client of its own: return a token, or ``None``.
Task = Callable[["Job", "TokenClient"], VisitorToken | None]


class Job:
    """A token being made. Several may wait for it; none of them can cancel it.

    Attributes:
        key: two jobs of one key are one job.
        deadline: on the monotonic clock.
        started: whether its thread ever ran.
        overdue: whether the deadline passed and the slot was given away.
    """

    def __init__(self, key: str, task: Task, seconds: float, on_overdue: Callable[[], None] | None) -> None:
        self.key = key
        self.task = task
        self.deadline = time.monotonic() + seconds
        self.on_overdue = on_overdue
        self.started = False
        self.overdue = False
        self._future: Future[VisitorToken | None] = Future()
        self._future.set_running_or_notify_cancel()

    def wait(self, seconds: float) -> VisitorToken | None:
        """The token, if the job has one within so many seconds and its own deadline.

        Raises:
            HubSpotIdentifyError: the job failed, or had no answer yet.
        """
        try:
            return self._future.result(self._at_most(seconds))
        except FutureTimeoutError:
            pass
        raise self._too_late()

    async def await_(self, seconds: float) -> VisitorToken | None:
        """:meth:`wait`, without blocking the event loop. A cancelled waiter leaves the job to the others."""
        future = asyncio.shield(asyncio.wrap_future(self._future))
        try:
            return await asyncio.wait_for(future, self._at_most(seconds))
        except (TimeoutError, FutureTimeoutError):
            pass
        raise self._too_late()

    def finish(self, token: VisitorToken | None, error: HubSpotIdentifyError | None = None) -> None:
        """Release everybody who waits. The first result counts."""
        if self._future.done():
            return
        if error is None:
            self._future.set_result(token)
        else:
            # Without its traceback: the frames of the call hold the key.
            self._future.set_exception(error.with_traceback(None))

    def _at_most(self, seconds: float) -> float:
        return max(0.0, min(seconds, self.deadline - time.monotonic()))

    def _too_late(self) -> TransportError:
        return TransportError("HubSpot did not answer in time.")


class Workers:
    """The jobs of this process: those that hold a slot, and those that are abandoned."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}  # each holds a slot
        self._abandoned: set[Job] = set()
        self._threads: set[threading.Thread] = set()
        self._deferred_callbacks: list[Callable[[], None]] = []

    def submit(
        self,
        key: str,
        task: Task,
        seconds: float,
        on_overdue: Callable[[], None] | None = None,
        *,
        may_take_last_slot: bool = True,
    ) -> Job | None:
        """Start a job, or join the one that is under way for the same key. Never waits, opens no socket.

        Args:
            key: what the job is for.
            task: what to do.
            seconds: until the deadline.
            on_overdue: called on the thread of a later job if the deadline passed without a result.
            may_take_last_slot: ``False`` if the job is likely to hang until its deadline.

        Returns:
            the job, or ``None`` for "not now".
        """
        with self._lock:
            self._give_up_overdue()
            job = self._jobs.get(key)
            if job is not None:
                return job
            if len(self._jobs) >= (SLOTS if may_take_last_slot else SLOTS - 1):
                return None
            if len(self._abandoned) >= MAX_ABANDONED_THREADS:
                log_throttled(
                    logger,
                    logging.WARNING,
                    "Token fetch not scheduled: %d worker threads are still blocked.",
                    len(self._abandoned),
                    reason="",
                )
                return None
            job = self._jobs[key] = Job(key, task, seconds, on_overdue)
            callbacks, self._deferred_callbacks = self._deferred_callbacks, []
            thread = threading.Thread(target=self._run, args=(job, callbacks), name="hubspot-identify", daemon=True)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is shutting down
            with self._lock:
                self._threads.discard(thread)
                self._jobs.pop(key, None)
                self._deferred_callbacks = callbacks + self._deferred_callbacks
            job.finish(None)
            log_throttled(logger, logging.ERROR, "No thread can be started to make identification tokens.", reason="")
            return None
        return job

    def join(self, seconds: float) -> bool:
        """Wait until no thread is left, at most so many seconds, and say whether that was so. For tests."""
        end = time.monotonic() + seconds
        while self._threads and time.monotonic() < end:
            for thread in list(self._threads):
                if thread.ident is None:  # somebody is just about to start it
                    time.sleep(0.001)
                else:
                    thread.join(max(0.0, end - time.monotonic()))
        return not self._threads

    def _give_up_overdue(self) -> None:
        now = time.monotonic()
        for job in [job for job in self._jobs.values() if now >= job.deadline]:
            job.overdue = True
            self._abandoned.add(self._jobs.pop(job.key))
            if job.on_overdue is not None:
                self._deferred_callbacks.append(job.on_overdue)
            if not job.started:
                log_throttled(
                    logger,
                    logging.ERROR,
                    "A thread that was to make an identification token never ran. Threads don't seem to run here "
                    "(uWSGI needs --enable-threads; some serverless platforms freeze them): let pages wait with "
                    "PAGE_WAIT, or use get_token(visitor, wait=…).",
                    reason="",
                    every=float("inf"),
                )

    def _run(self, job: Job, deferred_callbacks: list[Callable[[], None]]) -> None:
        job.started = True
        token, error = None, None
        try:
            if not job.overdue:
                client = _new_client()
                with _aborted_at(job.deadline + ABORT_AFTER, client):
                    for callback in deferred_callbacks:
                        callback()
                    token = job.task(job, client)
        except HubSpotIdentifyError as problem:
            error = problem
        except BaseException as problem:  # noqa: BLE001 - a mistake, and no caller waits for it here
            _log_mistake(problem)
        finally:
            _close_connections()
            with self._lock:
                if job.overdue:
                    self._abandoned.discard(job)
                else:
                    self._jobs.pop(job.key, None)
            job.finish(token, error)
            self._threads.discard(threading.current_thread())


@contextmanager
def _aborted_at(moment: float, client: TokenClient) -> Iterator[None]:
    """Abort a client's call if the block has not ended at that moment of the monotonic clock."""
    timer = threading.Timer(moment - time.monotonic(), client.abort)
    timer.name, timer.daemon = "hubspot-identify-abort", True
    with suppress(RuntimeError):  # no more threads, or the interpreter is shutting down: the call runs without it
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()


#: Held while something is imported here, and while the process forks: a module's own lock that a thread holds at a
#: fork stays locked in the child for ever.
_importing = PerProcess(threading.RLock)

if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(
        before=lambda: _importing.get().acquire(),
        after_in_parent=lambda: _importing.get().release(),
    )


def _new_client() -> TokenClient:
    with _importing.get():
        from .._hubspot.client import TokenClient  # with requests, which a page should not wait for
    return TokenClient()


def _close_connections() -> None:
    """Close what Django opened for this thread, which ends here."""
    for handler in (connections, caches):
        try:
            handler.close_all()
        except Exception as problem:  # noqa: BLE001 - back ends raise what their libraries raise
            _log_mistake(problem)


def _log_mistake(problem: BaseException) -> None:
    """Log where something unforeseen was raised, without its text, which may hold anything."""
    logger.error(
        "Making an identification token failed with %s:\n%s",
        type(problem).__name__,
        "".join(traceback.format_tb(problem.__traceback__)),
    )


_workers = PerProcess(Workers)


def get_workers() -> Workers:
    """The workers of this process."""
    return _workers.get()


def reset_workers() -> None:
    """Start anew; for tests."""
    _workers.renew()
