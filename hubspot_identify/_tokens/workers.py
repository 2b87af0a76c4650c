"""The bounded worker threads that call HubSpot, so that no request thread ever does.

Each process has a few worker slots and no queue: if none is free, :meth:`Workers.submit` returns ``None``. At a job's
deadline its slot is released, and its thread is abandoned. A late response is still used. A few seconds later the call
is aborted: no timeout of an HTTP library ends a response that arrives byte by byte.

The threads are daemons. A ``ThreadPoolExecutor`` would delay the exit of the interpreter until the last call ends, and
lose its threads to calls that never end. A process that exits waits for its calls for a second at most. A thread waits
for its next job, so that the process opens a connection to the cache for each thread and not for each call.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

from django.core.cache import caches
from django.db import connections

from ..exceptions import HubSpotIdentifyError, TransportError
from ..logs import location_of, log_throttled
from .entries import VisitorToken
from .per_process import PerProcess

if TYPE_CHECKING:
    from .._hubspot.client import TokenClient

logger = logging.getLogger(__name__)

SLOTS = 6
MAX_ABANDONED_THREADS = 8  # no job is started beyond that
ABORT_AFTER = 3.0  # seconds from a job's deadline until its call is aborted
EXIT_WAIT = 1.0  # seconds for which a process that exits waits for its calls

#: The names of the threads. An idle thread has a different name from one that runs a job.
BUSY_NAME, IDLE_NAME = "hubspot-identify", "idle-hubspot-identify"

THREADS_DO_NOT_RUN = (
    "A thread that was to fetch a token never ran. Threads do not run in this process (uWSGI needs --enable-threads; "
    "some serverless platforms freeze them): let pages wait with PAGE_WAIT, or use get_token(visitor, wait=…)."
)


class Job(ABC):
    """A token that is being created on a thread. Several callers may wait for it; none of them can cancel it.

    Args:
        key: jobs with the same key are one job.
        timeout: seconds until the deadline.

    Attributes:
        deadline: on the monotonic clock.
        started: whether a thread has begun to run it.
    """

    def __init__(self, key: str, timeout: float) -> None:
        self.key = key
        self.deadline = time.monotonic() + timeout
        self.started = False
        self._future: Future[VisitorToken | None] = Future()
        self._future.set_running_or_notify_cancel()

    @abstractmethod
    def run(self, client: TokenClient) -> None:
        """Create the token and call :meth:`finish`, on a worker thread."""

    def on_deadline(self) -> None:  # noqa: B027 - a hook
        """React to the deadline, on a thread of its own, if the job is still running then."""

    def finish(self, token: VisitorToken | None = None, error: HubSpotIdentifyError | None = None) -> None:
        """Give all callers that wait the result. Only the first one counts."""
        with suppress(InvalidStateError):  # there is a result already
            if error is None:
                self._future.set_result(token)
            else:
                self._future.set_exception(error.with_traceback(None))  # the frames of the call hold the key

    def wait(self, seconds: float = math.inf) -> VisitorToken | None:
        """Return the token as soon as there is one, within so many seconds and the deadline.

        Raises:
            HubSpotIdentifyError: the job failed, or there is no response yet.
        """
        try:
            return self._future.result(self._at_most(seconds))
        except TimeoutError:
            raise self._no_response() from None

    async def await_(self, seconds: float = math.inf) -> VisitorToken | None:
        """Do the same as :meth:`wait` without blocking the event loop. A cancellation affects no other caller."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._future), self._at_most(seconds))
        except TimeoutError:
            raise self._no_response() from None

    def _at_most(self, seconds: float) -> float:
        return min(seconds, self.deadline - time.monotonic())

    def _no_response(self) -> TransportError:
        return TransportError(
            "HubSpot did not respond in time." if self.started else "No worker available: all are waiting for HubSpot."
        )


class Workers:
    """The jobs of this process. Until its deadline a job holds a slot; after that it is abandoned."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a log handler may submit a job as well
        self._jobs: set[Job] = set()
        self._idle: list[WorkerThread] = []

    def submit(self, job: Job, *, may_take_last_slot: bool = True) -> Job | None:
        """Start a job, or return the job that runs with the same key. Does not wait and opens no socket.

        Args:
            job: the job to start.
            may_take_last_slot: ``False`` if the job is likely to block until its deadline.

        Returns:
            the job, or ``None`` if no slot is free or no thread can be started.
        """
        with self._lock:
            if running := self.running(job):
                return running
            now = time.monotonic()
            active = {other for other in self._jobs if now < other.deadline}
            slots = SLOTS if may_take_last_slot else SLOTS - 1
            if len(active) >= slots or not _can_start_thread(self._jobs - active):
                return None
            try:
                self._start(job)
            except RuntimeError:  # no more threads, or the interpreter is shutting down
                log_throttled(logger, logging.ERROR, "No thread can be started to fetch a token.")
                return None
            self._jobs.add(job)
        return job

    def running(self, job: Job) -> Job | None:
        """Return the job that runs with the same key, unless it is past its deadline."""
        with self._lock:
            now = time.monotonic()
            return next((other for other in self._jobs if other.key == job.key and now < other.deadline), None)

    def finish_jobs(self) -> None:
        """Wait for the running jobs, for at most a second, because the process exits.

        Otherwise a reload would lose their tokens, and their locks would keep other processes from fetching them again.
        """
        end = time.monotonic() + EXIT_WAIT
        for job in tuple(self._jobs):  # without the lock, which a thread that the server has ended may hold
            with suppress(HubSpotIdentifyError):
                job.wait(end - time.monotonic())

    def _start(self, job: Job) -> None:
        if self._idle:
            thread = self._idle.pop()
            thread.name = BUSY_NAME
            thread.next_job.put(job)
        else:
            WorkerThread(self, job).start()

    def end_job(self, job: Job, idle: WorkerThread | None = None) -> None:
        """Release the slot of a job. If its thread is given, the next job runs on it, so no new thread is started."""
        with self._lock:
            self._jobs.discard(job)
            if idle:
                idle.name = IDLE_NAME
                self._idle.append(idle)

    def end_idle_threads(self) -> None:
        """End the threads that wait for a job."""
        with self._lock:
            while self._idle:
                self._idle.pop().next_job.put(None)


class WorkerThread(threading.Thread):
    """A thread that runs one job after another."""

    def __init__(self, workers: Workers, job: Job) -> None:
        super().__init__(name=BUSY_NAME, daemon=True)
        self._workers = workers
        self.next_job: SimpleQueue[Job | None] = SimpleQueue()
        self.next_job.put(job)

    def run(self) -> None:
        """Run the jobs."""
        job = self.next_job.get()
        while job is not None:
            try:
                _run(job)
            except BaseException:  # raised by a log handler; this thread ends
                self._workers.end_job(job)
                raise
            self._workers.end_job(job, idle=self)
            job = self.next_job.get()


def _run(job: Job) -> None:
    job.started = True
    ended = threading.Event()
    try:
        with _errors_logged():
            if time.monotonic() < job.deadline:
                client = _new_client()
                with suppress(RuntimeError):  # without a second thread, only sockets' timeouts limit the call
                    _start_thread("hubspot-identify-deadline", _watch_deadline, job, client, ended)
                job.run(client)
    finally:
        job.finish()
        ended.set()
        _close_connections()


def _can_start_thread(abandoned: set[Job]) -> bool:
    if not all(job.started for job in abandoned):
        log_throttled(logger, logging.ERROR, THREADS_DO_NOT_RUN, every=math.inf)
    if len(abandoned) < MAX_ABANDONED_THREADS:
        return True
    log_throttled(logger, logging.WARNING, "Token fetch not scheduled: %d threads are still blocked.", len(abandoned))
    return False


def _watch_deadline(job: Job, client: TokenClient, ended: threading.Event) -> None:
    if ended.wait(job.deadline - time.monotonic()):
        return
    with suppress(RuntimeError):  # on a third thread, because a slow cache or receiver must not delay the abort
        _start_thread("hubspot-identify-overdue", _report_deadline, job)
    if not ended.wait(ABORT_AFTER):
        client.abort()


def _report_deadline(job: Job) -> None:
    try:
        with _errors_logged():
            job.on_deadline()
    finally:
        _close_connections()


def _start_thread(name: str, function: Callable[..., None], *args: object) -> None:
    threading.Thread(target=function, args=args, name=name, daemon=True).start()


def _close_connections() -> None:
    """Close what Django opened for this thread, as Django does after each request. Redis connections stay open."""
    for handler in (connections, caches):
        with _errors_logged():
            handler.close_all()
    for connection in connections.all(initialized_only=True):
        del connections[connection.alias]  # with what the site has set on it, such as django-tenants' tenant


@contextmanager
def _errors_logged() -> Iterator[None]:
    """Log where the block raised an unexpected exception, without its text, which may contain anything."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001 - no caller waits for it on this thread
        logger.error("Fetching a token failed with %s:\n%s", type(error).__name__, location_of(error))


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
atexit.register(lambda: get_workers().finish_jobs())


def get_workers() -> Workers:
    """Return the workers of this process."""
    return _workers.get()


def reset_workers() -> None:
    """Start with no jobs; for tests."""
    get_workers().end_idle_threads()
    _workers.renew()
