"""The bounded workers that call HubSpot, so that no request ever does.

Two slots a process, no queue: without a free slot the answer is "not now". A job has until its deadline; then its
slot is free again, and its thread is left to its fate together with its connection. (Timeouts of HTTP libraries can be
held open by dripping bytes; only a deadline enforced from outside the call holds.)

The threads are daemons of our own, one a job: a ``ThreadPoolExecutor`` would hold up the interpreter's exit, and lose
its threads to hung calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING

from django.core.cache import caches
from django.db import connections

from .exceptions import HubSpotIdentifyError, TransportError
from .logs import log_seldom
from .per_process import PerProcess
from .tokens import VisitorToken

if TYPE_CHECKING:
    from .client import TokenClient

logger = logging.getLogger(__name__)

SLOTS = 2
MOST_STUCK = 8  # threads that may outlive their deadline; beyond that, they are cut off, and "not now"

#: What a job does, on its thread: given the job and a client of its own, make a token, or say that there is none.
Task = Callable[["Job", "TokenClient"], VisitorToken | None]


class Job:
    """A token being made. Several may wait for it; none of them can cancel it.

    Attributes:
        key: two jobs of one key are one job.
        deadline: on the monotonic clock.
        started: whether its thread ever ran.
        overdue: whether the deadline passed and the slot was given away.
        client: what the call goes through, once there is one.
    """

    def __init__(self, key: str, task: Task, seconds: float, on_overdue: Callable[[], None] | None) -> None:
        self.key = key
        self.task = task
        self.deadline = time.monotonic() + seconds
        self.on_overdue = on_overdue
        self.started = False
        self.overdue = False
        self.client: TokenClient | None = None
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


class Slot:
    """A place for one job at a time, with a client that lives on to the next."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.client: TokenClient | None = None


class Workers:
    """The slots of this process, and the jobs in them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots = [Slot() for _ in range(SLOTS)]
        self._jobs: dict[str, Job] = {}
        self._threads: set[threading.Thread] = set()
        self._stuck: set[Job] = set()
        self._after_overdue: list[Callable[[], None]] = []

    def submit(self, key: str, task: Task, seconds: float, on_overdue: Callable[[], None] | None = None) -> Job | None:
        """Start a job, or join the one that is under way for the same key. Never waits, opens no socket.

        Args:
            key: what the job is for.
            task: what to do.
            seconds: until the deadline.
            on_overdue: called on the thread of a later job if the deadline passed without a result.

        Returns:
            the job, or ``None`` for "not now".
        """
        with self._lock:
            self._give_up_overdue()
            job = self._jobs.get(key)
            if job is not None:
                return job
            slot = next((slot for slot in self._slots if slot.job is None), None)
            if slot is None:
                return None
            if len(self._stuck) >= MOST_STUCK:
                self._cut_stuck()
                return None
            job = slot.job = self._jobs[key] = Job(key, task, seconds, on_overdue)
            job.client = slot.client
            chores, self._after_overdue = self._after_overdue, []
            thread = threading.Thread(target=self._run, args=(slot, job, chores), name="hubspot-identify", daemon=True)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is shutting down
            with self._lock:
                self._threads.discard(thread)
                self._free(slot, job)
                self._after_overdue = chores + self._after_overdue
            job.finish(None)
            log_seldom(logger, logging.ERROR, "No thread can be started to make identification tokens.", reason="")
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
        for slot in self._slots:
            job = slot.job
            if job is None or now < job.deadline:
                continue
            job.overdue = True
            self._stuck.add(job)
            slot.client = None
            self._free(slot, job)
            if job.on_overdue is not None:
                self._after_overdue.append(job.on_overdue)
            if not job.started:
                log_seldom(
                    logger,
                    logging.ERROR,
                    "A thread that was to make an identification token never ran. Threads don't seem to run here "
                    "(uWSGI needs --enable-threads; some serverless platforms freeze them): let pages wait with "
                    "PAGE_WAIT, or use get_token(visitor, wait=…).",
                    reason="",
                    every=float("inf"),
                )

    def _free(self, slot: Slot, job: Job) -> None:
        slot.job = None
        self._jobs.pop(job.key, None)

    def _cut_stuck(self) -> None:
        """Break off the calls that hang: they have had their chance to land late, and their threads are needed."""
        log_seldom(
            logger,
            logging.WARNING,
            "%d calls of HubSpot hang far beyond TIMEOUT; they are broken off.",
            len(self._stuck),
            reason="",
        )
        for job in self._stuck:
            if job.client is not None:
                job.client.cut()

    def _run(self, slot: Slot, job: Job, chores: list[Callable[[], None]]) -> None:
        job.started = True
        token, error = None, None
        try:
            if not job.overdue:
                client = job.client = job.client or _new_client()
                for chore in chores:
                    chore()
                token = job.task(job, client)
        except HubSpotIdentifyError as problem:
            error = problem
        except (Exception, SystemExit) as problem:  # noqa: BLE001 - a mistake, and nobody waits here to be told
            _log_mistake(problem)
        finally:
            _close_connections()
            with self._lock:
                if job.overdue:
                    self._stuck.discard(job)
                    if job.client is not None:
                        job.client.close()
                else:
                    slot.client = job.client
                    self._free(slot, job)
            job.finish(token, error)
            self._threads.discard(threading.current_thread())


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
        from .client import TokenClient  # with requests, which a page should not wait for
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


def forget_workers() -> None:
    """Start anew; for tests."""
    _workers.renew()
