"""The bounded worker threads: slots, deadlines, and abandoned threads."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.db import connections
from support.clocks import GENEROUS_TIMEOUT, SLACK, once_in_time, wait_until
from support.logs import logged
from support.server import TokenServer
from support.workers import TaskJob

from hubspot_identify._hubspot.client import TokenClient
from hubspot_identify._tokens import workers as workers_module
from hubspot_identify._tokens.entries import VisitorToken
from hubspot_identify._tokens.workers import MAX_ABANDONED_THREADS, SLOTS, Job, Workers, get_workers
from hubspot_identify.conf import get_config
from hubspot_identify.exceptions import TransportError
from hubspot_identify.testing import join_threads
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com")
TOKEN = VisitorToken("token", ADA, 0.0)


def quick(job: Job, client: TokenClient) -> VisitorToken:
    """Return a token at once; a task."""
    return TOKEN


class Gate:
    """A task that waits until the test opens it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, job: Job, client: TokenClient) -> VisitorToken:
        self.entered.set()
        self.opened.wait(GENEROUS_TIMEOUT)
        return TOKEN


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that opens at the end of the test at the latest."""
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def workers() -> Workers:
    return get_workers()


def try_submit(
    workers: Workers, key: str, task: Any = quick, seconds: float = GENEROUS_TIMEOUT, **options: Any
) -> Job | None:
    return workers.submit(TaskJob(key, task, seconds), **options)


def submit(workers: Workers, key: str, task: Any = quick, seconds: float = GENEROUS_TIMEOUT, **options: Any) -> Job:
    job = try_submit(workers, key, task, seconds, **options)
    assert job is not None
    return job


def pass_deadlines(workers: Workers) -> None:
    """Let the deadlines of all jobs pass at once."""
    for job in workers._jobs:
        job.deadline = time.monotonic()


# Slots


def test_jobs_run_on_daemon_threads_and_each_has_its_own_client(workers: Workers) -> None:
    """The interpreter can exit without the threads, and no connection is used for the calls of two visitors."""
    threads: list[tuple[str, bool]] = []
    clients: list[TokenClient] = []

    def task(job: Job, client: TokenClient) -> VisitorToken:
        threads.append((threading.current_thread().name, threading.current_thread().daemon))
        clients.append(client)
        return TOKEN

    for number in range(3):
        assert submit(workers, f"key{number}", task).wait(GENEROUS_TIMEOUT) is TOKEN
        assert join_threads(GENEROUS_TIMEOUT)
    assert threads == [("hubspot-identify", True)] * 3
    assert len({id(client) for client in clients}) == 3


def test_idle_thread_runs_the_next_job_with_the_same_cache_connection(workers: Workers) -> None:
    """During a login rush, the number of connections depends on the number of threads and not on that of calls."""
    used: set[tuple[int, int]] = set()

    def task(job: Job, client: TokenClient) -> VisitorToken:
        used.add((threading.get_ident(), id(caches["default"])))
        return TOKEN

    for number in range(5):
        assert submit(workers, f"key{number}", task).wait(GENEROUS_TIMEOUT) is TOKEN
        assert join_threads(GENEROUS_TIMEOUT)
    assert len(used) == 1


def test_number_of_threads_is_bounded_by_the_slots(workers: Workers) -> None:
    """However many jobs there are, no more threads are started than can run at the same time."""
    threads: set[threading.Thread] = set()

    def task(job: Job, client: TokenClient) -> VisitorToken:
        threads.add(threading.current_thread())
        return TOKEN

    jobs: list[Job] = []
    while len(jobs) < 20 * SLOTS:
        job = try_submit(workers, f"key{len(jobs)}", task)
        if job:
            jobs.append(job)
    assert [job.wait(GENEROUS_TIMEOUT) for job in jobs] == [TOKEN] * len(jobs)
    assert len(threads) <= SLOTS


def test_jobs_with_the_same_key_are_one_job(workers: Workers, gate: Gate) -> None:
    """A second caller joins the job while it runs. After its end, the key starts a new job."""
    job = submit(workers, "key", gate)
    assert try_submit(workers, "key") is job
    gate.opened.set()
    assert job.wait(GENEROUS_TIMEOUT) is TOKEN
    assert join_threads(GENEROUS_TIMEOUT)
    assert try_submit(workers, "key") is not job


def test_job_without_a_free_slot_is_refused_at_once(workers: Workers, gate: Gate) -> None:
    """There is no queue: two jobs run, and the third is refused until one of them has ended."""
    jobs = [submit(workers, f"key{number}", gate) for number in range(SLOTS)]

    def attempt() -> None:
        started = time.monotonic()
        assert try_submit(workers, "one more") is None
        assert time.monotonic() - started < 0.1

    once_in_time(attempt)
    gate.opened.set()
    assert [job.wait(GENEROUS_TIMEOUT) for job in jobs] == [TOKEN] * SLOTS
    assert join_threads(GENEROUS_TIMEOUT)
    assert try_submit(workers, "one more") is not None


def test_last_slot_is_kept_from_jobs_that_may_hang(workers: Workers, gate: Gate) -> None:
    """Jobs that may hang leave one slot to the others."""
    jobs = [try_submit(workers, f"key{number}", gate, may_take_last_slot=False) for number in range(SLOTS)]
    assert [job is not None for job in jobs] == [True] * (SLOTS - 1) + [False]
    assert submit(workers, "another", gate).key == "another"


# Deadlines


@pytest.mark.parametrize(("deadline", "wait"), [(GENEROUS_TIMEOUT, 0.1), (0.1, GENEROUS_TIMEOUT)])
def test_caller_waits_until_its_limit_or_the_deadline(
    workers: Workers, gate: Gate, deadline: float, wait: float
) -> None:
    """The earlier of the two times ends the wait with an error."""

    def attempt() -> None:
        started = time.monotonic()
        with pytest.raises(TransportError):
            submit(workers, "key", gate, deadline).wait(wait)
        assert 0.1 <= time.monotonic() - started < 0.1 + SLACK

    once_in_time(attempt)


def test_slot_and_key_are_free_after_the_deadline(workers: Workers, gate: Gate) -> None:
    """The threads that hang are abandoned, and new jobs of any key get new threads."""
    hanging = [submit(workers, f"key{number}", gate) for number in range(SLOTS)]
    assert try_submit(workers, "another") is None
    pass_deadlines(workers)
    for key in ("another", "key0"):
        assert submit(workers, key, quick).wait(GENEROUS_TIMEOUT) is TOKEN
    assert not any(job._future.done() for job in hanging)


def test_late_end_of_a_job_does_not_affect_the_next_job_of_its_key(workers: Workers, gate: Gate) -> None:
    """A thread that ends after its deadline neither releases the slot of another job nor removes its key."""
    first = submit(workers, "key", gate)
    assert gate.entered.wait(GENEROUS_TIMEOUT)
    pass_deadlines(workers)
    other = Gate()
    second = submit(workers, "key", other)
    gate.opened.set()
    assert first._future.result(GENEROUS_TIMEOUT) is TOKEN
    assert try_submit(workers, "key") is second
    other.opened.set()
    assert second.wait(GENEROUS_TIMEOUT) is TOKEN


def test_deadline_is_reported_on_a_thread_of_its_own(workers: Workers, gate: Gate) -> None:
    """A job that is still running at its deadline reacts to it at that moment, although its own thread is blocked."""
    job = TaskJob("key", gate, 0.1)
    assert workers.submit(job) is job
    assert job.overdue.wait(GENEROUS_TIMEOUT)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "hubspot-identify-deadline"]
    assert (thread.name, thread.daemon) == ("hubspot-identify-deadline", True)
    assert not gate.opened.is_set()


def test_number_of_abandoned_threads_is_limited(workers: Workers, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond eight, no job starts until some of the threads have ended, which is logged once."""
    for number in range(MAX_ABANDONED_THREADS):
        submit(workers, f"hanging{number}", gate)
        pass_deadlines(workers)
    assert [try_submit(workers, "refused") for _ in range(3)] == [None] * 3
    gate.opened.set()
    assert join_threads(GENEROUS_TIMEOUT)
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN
    assert logged(caplog) == [(workers_module.__name__, logging.WARNING)]


def test_call_is_aborted_after_its_deadline(
    workers: Workers, hubspot: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of a call that never ends is released even if no later job starts."""
    monkeypatch.setattr(workers_module, "ABORT_AFTER", 0.2)
    hubspot.set_scenario("continue")
    submit(workers, "key", lambda job, client: client.create_token(ADA, get_config()), 0.2)
    assert hubspot.wait_for_calls(1)
    assert join_threads(GENEROUS_TIMEOUT)


def test_job_runs_if_no_thread_can_watch_its_deadline(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of threads may be limited."""
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_once(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) > 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_once)
    assert submit(workers, "key").wait(GENEROUS_TIMEOUT) is TOKEN
    assert join_threads(GENEROUS_TIMEOUT)
    assert len(started) == 2


def test_job_that_ends_in_time_is_neither_aborted_nor_overdue(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread waits for its deadline any more, and the deadline is not reported."""
    monkeypatch.setattr(TokenClient, "abort", lambda client: pytest.fail("aborted"))
    job = TaskJob("key", quick, GENEROUS_TIMEOUT)
    assert workers.submit(job) is job
    assert job.wait(GENEROUS_TIMEOUT) is TOKEN
    assert join_threads(GENEROUS_TIMEOUT)
    assert not job.overdue.is_set()


# Threads that fail


def test_job_whose_thread_cannot_start_is_refused(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no exception and one log record, and the slot stays free."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert [try_submit(workers, "key") for _ in range(SLOTS + 1)] == [None] * (SLOTS + 1)
    assert logged(caplog) == [(workers_module.__name__, logging.ERROR)]
    assert submit(workers, "key").wait(GENEROUS_TIMEOUT) is TOKEN


def test_threads_that_never_run_are_logged_once(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As under uWSGI without --enable-threads: one ERROR names the alternatives, and no more threads are created."""
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    for number in range(2 * MAX_ABANDONED_THREADS):
        try_submit(workers, f"key{number}")
        pass_deadlines(workers)
    created = len(workers._jobs)
    assert created == MAX_ABANDONED_THREADS
    (message,) = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    for part in ("--enable-threads", "PAGE_WAIT", "wait=…"):
        assert part in message


def test_thread_that_runs_after_its_deadline_does_nothing(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was frozen makes no call for a page that is no longer there."""
    frozen: list[threading.Thread] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda thread: frozen.append(thread))
        job = submit(workers, "key", lambda *_: pytest.fail("called"))
        pass_deadlines(workers)
        try_submit(workers, "another")
    for thread in frozen:
        thread.start()
    assert job._future.result(GENEROUS_TIMEOUT) is None
    assert join_threads(GENEROUS_TIMEOUT)


def test_unexpected_exception_is_logged_without_its_text(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    """The job ends without a token, its slot is free, and the log shows where the exception was raised."""

    def failing_task(job: Job, client: TokenClient) -> None:
        raise LookupError("the key is s3cret")

    assert submit(workers, "key", failing_task).wait(GENEROUS_TIMEOUT) is None
    assert join_threads(GENEROUS_TIMEOUT)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "LookupError" in record.message
    assert "in failing_task" in record.message
    assert "s3cret" not in caplog.text.replace('raise LookupError("the key is s3cret")', "")
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN


@pytest.mark.parametrize("exception", [SystemExit, asyncio.CancelledError])
def test_exit_or_cancellation_ends_only_its_job(
    workers: Workers, caplog: pytest.LogCaptureFixture, exception: type[BaseException]
) -> None:
    """A callable of the site may raise either. It is logged, and no exception hook gets the local variables."""

    def task(job: Job, client: TokenClient) -> None:
        raise exception

    assert submit(workers, "key", task).wait(GENEROUS_TIMEOUT) is None
    assert join_threads(GENEROUS_TIMEOUT)
    assert exception.__name__ in caplog.text
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN


def test_error_of_a_call_reaches_every_caller(workers: Workers) -> None:
    """Callers in threads and in event loops get it, without the frames of the call, which hold the key."""
    error = TransportError("no response")

    def task(job: Job, client: TokenClient) -> None:
        raise error

    job = submit(workers, "key", task)
    for _ in range(2):
        with pytest.raises(TransportError) as caught:
            job.wait(GENEROUS_TIMEOUT)
        assert caught.value is error
        assert "task" not in {entry.name for entry in caught.traceback}
    with pytest.raises(TransportError) as caught:
        asyncio.run(job.await_(GENEROUS_TIMEOUT))
    assert caught.value is error


def test_connections_of_the_thread_are_closed(workers: Workers, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """This applies to databases and caches. A connection that cannot be closed does not stop the job."""
    closed: dict[str, int] = {}  # to the number of jobs that hold a slot or are abandoned at that time

    def fail() -> None:
        closed["databases"] = len(workers._jobs)
        raise OSError("gone")

    monkeypatch.setattr(connections, "close_all", fail)
    monkeypatch.setattr(caches, "close_all", lambda: closed.update(caches=len(workers._jobs)))
    job = submit(workers, "key", gate)
    gate.opened.set()
    assert job.wait(GENEROUS_TIMEOUT) is TOKEN
    assert join_threads(GENEROUS_TIMEOUT)
    assert closed == {"databases": 1, "caches": 1}
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN


@pytest.mark.parametrize("exception", [LookupError, SystemExit])
def test_log_handler_that_raises_costs_no_slot(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, exception: type[BaseException]
) -> None:
    """However often an error cannot be logged, its job ends, and the process goes on."""

    def raise_from_handler(*args: object) -> None:
        raise OSError("The disk is full.")

    def failing_task(job: Job, client: TokenClient) -> None:
        raise exception

    monkeypatch.setattr(workers_module.logger, "error", raise_from_handler)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    for number in range(MAX_ABANDONED_THREADS + 1):
        assert submit(workers, f"key{number}", failing_task).wait(GENEROUS_TIMEOUT) is None
        assert join_threads(GENEROUS_TIMEOUT)
    assert workers._jobs == set()


def test_log_handler_may_submit_a_job(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For example, an error report that renders a page with the tag."""
    submitted: list[Job | None] = []

    class SubmittingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            submitted.append(try_submit(workers, "another"))

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    handler = SubmittingHandler()
    workers_module.logger.addHandler(handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            assert try_submit(workers, "key") is None
    finally:
        workers_module.logger.removeHandler(handler)
    assert submitted == [None]


def test_slow_reaction_to_the_deadline_does_not_delay_the_abort(
    workers: Workers, hubspot: TokenServer, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    """A signal receiver or a cache may block for long. The call is aborted meanwhile, and its job ends."""
    monkeypatch.setattr(workers_module, "ABORT_AFTER", 0.2)
    hubspot.set_scenario("continue")

    def call(job: Job, client: TokenClient) -> None:
        client.create_token(ADA, get_config())

    job = TaskJob("key", call, 0.2)
    monkeypatch.setattr(job, "on_deadline", lambda: gate.opened.wait(GENEROUS_TIMEOUT))
    assert workers.submit(job) is job
    assert wait_until(lambda: job not in workers._jobs)
    assert not gate.opened.is_set()


# Event loops


def test_cancelled_caller_does_not_cancel_the_job(workers: Workers, gate: Gate) -> None:
    """If one visitor closes the page, another caller in the same event loop still gets the token."""

    async def main() -> VisitorToken | None:
        job = submit(workers, "key", gate)
        leaving, staying = (asyncio.create_task(job.await_(GENEROUS_TIMEOUT)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        gate.opened.set()
        return await staying

    assert asyncio.run(main()) is TOKEN


@pytest.mark.parametrize("ends_by", ["timeout", "cancellation"])
def test_failure_after_the_caller_has_left_is_not_logged(
    workers: Workers, gate: Gate, caplog: pytest.LogCaptureFixture, ends_by: str
) -> None:
    """asyncio logs an ERROR for a failed future that no task awaits."""

    def task(job: Job, client: TokenClient) -> VisitorToken:
        gate(job, client)
        raise TransportError("no response")

    async def main() -> None:
        job = submit(workers, "key", task)
        caller = asyncio.create_task(job.await_(0.01 if ends_by == "timeout" else GENEROUS_TIMEOUT))
        await asyncio.sleep(0)
        if ends_by == "cancellation":
            caller.cancel()
        with pytest.raises((TransportError, asyncio.CancelledError)):
            await caller
        gate.opened.set()
        with pytest.raises(TransportError):
            await job.await_(GENEROUS_TIMEOUT)
        gc.collect()

    asyncio.run(main())
    assert join_threads(GENEROUS_TIMEOUT)
    gc.collect()
    assert caplog.records == []


@pytest.mark.parametrize("fails", [False, True])
def test_job_may_end_after_its_event_loop_is_closed(
    workers: Workers, gate: Gate, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    """Nothing is logged, whether the job succeeds or fails."""

    def task(job: Job, client: TokenClient) -> VisitorToken:
        gate(job, client)
        if fails:
            raise TransportError("no response")
        return TOKEN

    async def main() -> None:
        with pytest.raises(TransportError):
            await submit(workers, "key", task).await_(0.01)

    asyncio.run(main())
    gate.opened.set()
    assert join_threads(GENEROUS_TIMEOUT)
    gc.collect()
    assert caplog.records == []


# Tests and forks


def test_new_workers_have_free_slots(workers: Workers, gate: Gate) -> None:
    """A forked child replaces the workers, whatever the old ones are doing."""
    for number in range(SLOTS):
        submit(workers, f"key{number}", gate)
    workers_module.reset_workers()
    assert get_workers() is not workers
    assert submit(get_workers(), "key").wait(GENEROUS_TIMEOUT) is TOKEN
    gate.opened.set()
    assert join_threads(GENEROUS_TIMEOUT)
    workers.end_idle_threads()
