"""The bounded workers: slots, deadlines, and abandoned threads."""

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
from support.clocks import GENEROUS_TIMEOUT, SLACK, once_in_time
from support.server import TokenServer

from hubspot_identify import background
from hubspot_identify.background import MAX_ABANDONED_THREADS, SLOTS, Job, Workers, get_workers
from hubspot_identify.client import TokenClient
from hubspot_identify.conf import get_config
from hubspot_identify.exceptions import TransportError
from hubspot_identify.tokens import VisitorToken
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com")
TOKEN = VisitorToken("token", ADA, 0.0)


def quick(job: Job, client: TokenClient) -> VisitorToken:
    """A task that is done at once."""
    return TOKEN


class Gate:
    """A task that hangs until the test lets it go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, job: Job, client: TokenClient) -> VisitorToken:
        self.entered.set()
        self.opened.wait(GENEROUS_TIMEOUT)
        return TOKEN


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is open once the test is over."""
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def workers() -> Workers:
    return get_workers()


def submit(workers: Workers, key: str, task: Any = quick, seconds: float = GENEROUS_TIMEOUT, **options: Any) -> Job:
    job = workers.submit(key, task, seconds, **options)
    assert job is not None
    return job


def pass_deadlines(workers: Workers) -> None:
    """Let the time of all jobs be over, without waiting for it."""
    for job in workers._jobs.values():
        job.deadline = time.monotonic()


# Slots


def test_a_job_runs_on_a_daemon_thread_of_its_own(workers: Workers) -> None:
    """Its result comes back, the thread has a name of ours, and the interpreter may exit without it."""
    seen: list[threading.Thread] = []

    def task(job: Job, client: TokenClient) -> VisitorToken:
        seen.append(threading.current_thread())
        return TOKEN

    assert submit(workers, "key", task).wait(GENEROUS_TIMEOUT) is TOKEN
    assert (seen[0].name, seen[0].daemon, seen[0] is threading.current_thread()) == ("hubspot-identify", True, False)


def test_one_key_is_one_job(workers: Workers, gate: Gate) -> None:
    """Who comes while the job is under way joins it; afterwards it is a new one."""
    job = submit(workers, "key", gate)
    assert workers.submit("key", quick, GENEROUS_TIMEOUT) is job
    gate.opened.set()
    assert job.wait(GENEROUS_TIMEOUT) is TOKEN
    assert workers.join(GENEROUS_TIMEOUT)
    assert workers.submit("key", quick, GENEROUS_TIMEOUT) is not job


def test_without_a_free_slot_the_answer_is_not_now(workers: Workers, gate: Gate) -> None:
    """There is no queue: two jobs run, the third is refused at once, until one of them is done."""
    jobs = [submit(workers, f"key{number}", gate) for number in range(SLOTS)]

    def attempt() -> None:
        started = time.monotonic()
        assert workers.submit("one more", quick, GENEROUS_TIMEOUT) is None
        assert time.monotonic() - started < 0.1

    once_in_time(attempt)
    gate.opened.set()
    assert [job.wait(GENEROUS_TIMEOUT) for job in jobs] == [TOKEN] * SLOTS
    assert workers.join(GENEROUS_TIMEOUT)
    assert workers.submit("one more", quick, GENEROUS_TIMEOUT) is not None


def test_last_slot_is_kept_from_jobs_that_may_hang(workers: Workers, gate: Gate) -> None:
    """Jobs that may hang leave a slot to the others."""
    jobs = [workers.submit(f"key{number}", gate, GENEROUS_TIMEOUT, may_take_last_slot=False) for number in range(SLOTS)]
    assert [job is not None for job in jobs] == [True] * (SLOTS - 1) + [False]
    assert submit(workers, "another", gate).key == "another"


def test_each_job_has_a_client_of_its_own(workers: Workers) -> None:
    """No connection is passed from one visitor's call to the next."""
    clients: list[TokenClient] = []

    def task(job: Job, client: TokenClient) -> None:
        clients.append(client)

    for number in range(3):
        submit(workers, f"key{number}", task)
        assert workers.join(GENEROUS_TIMEOUT)
    assert len({id(client) for client in clients}) == 3


# Deadlines


def test_a_waiter_is_released_when_its_own_time_is_over(workers: Workers, gate: Gate) -> None:
    """Long before the job's."""

    def attempt() -> None:
        started = time.monotonic()
        with pytest.raises(TransportError, match="did not answer in time"):
            submit(workers, "key", gate).wait(0.1)
        assert 0.1 <= time.monotonic() - started < 0.1 + SLACK

    once_in_time(attempt)


def test_a_waiter_is_released_at_the_deadline(workers: Workers, gate: Gate) -> None:
    """However long it would have waited."""

    def attempt() -> None:
        started = time.monotonic()
        with pytest.raises(TransportError, match="did not answer in time"):
            submit(workers, "key", gate, 0.1).wait(GENEROUS_TIMEOUT)
        assert 0.1 <= time.monotonic() - started < 0.1 + SLACK

    once_in_time(attempt)


def test_slot_is_free_at_the_deadline(workers: Workers, gate: Gate) -> None:
    """The threads that hang are abandoned, and new jobs have threads of their own."""
    hanging = [submit(workers, f"hanging{number}", gate) for number in range(SLOTS)]
    assert workers.submit("key", quick, GENEROUS_TIMEOUT) is None
    pass_deadlines(workers)
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN
    assert all(job.overdue for job in hanging)


def test_a_key_may_be_tried_again_after_its_deadline(workers: Workers, gate: Gate) -> None:
    """The hanging job does not keep its visitor from a new one."""
    submit(workers, "key", gate)
    pass_deadlines(workers)
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN


def test_late_end_takes_nothing_from_the_next_job(workers: Workers, gate: Gate) -> None:
    """A thread that ends after its deadline neither frees another job's slot nor removes its key."""
    first = submit(workers, "key", gate)
    assert gate.entered.wait(GENEROUS_TIMEOUT)
    pass_deadlines(workers)
    other = Gate()
    second = submit(workers, "key", other)
    gate.opened.set()
    assert first._future.result(GENEROUS_TIMEOUT) is TOKEN
    assert workers.submit("key", quick, GENEROUS_TIMEOUT) is second
    other.opened.set()
    assert second.wait(GENEROUS_TIMEOUT) is TOKEN


def test_an_overdue_job_is_accounted_for_by_the_next(workers: Workers, gate: Gate) -> None:
    """On its thread and before its own task: what failed counts before HubSpot is asked again."""
    order: list[str] = []

    def task(job: Job, client: TokenClient) -> None:
        order.append(f"task on {threading.current_thread().name}")

    def account() -> None:
        order.append(f"overdue on {threading.current_thread().name}")

    submit(workers, "stuck", gate, on_overdue=account)
    assert gate.entered.wait(GENEROUS_TIMEOUT)
    pass_deadlines(workers)
    submit(workers, "key", task).wait(GENEROUS_TIMEOUT)
    assert order == ["overdue on hubspot-identify", "task on hubspot-identify"]
    assert workers.join(0) is False
    submit(workers, "another", task).wait(GENEROUS_TIMEOUT)
    assert len(order) == 3  # accounted for once


def test_a_job_on_time_is_never_overdue(workers: Workers) -> None:
    """Its ``on_overdue`` is not called, however late somebody looks."""
    called: list[bool] = []
    submit(workers, "key", quick, on_overdue=lambda: called.append(True))
    assert workers.join(GENEROUS_TIMEOUT)
    pass_deadlines(workers)
    submit(workers, "other", quick).wait(GENEROUS_TIMEOUT)
    assert called == []


def test_at_most_eight_threads_are_abandoned(workers: Workers, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond that no job is started, and one log line says so, until some of the threads have ended."""
    for number in range(MAX_ABANDONED_THREADS):
        submit(workers, f"hanging{number}", gate)
        pass_deadlines(workers)
    assert [workers.submit("refused", quick, GENEROUS_TIMEOUT) for _ in range(3)] == [None] * 3
    gate.opened.set()
    assert workers.join(GENEROUS_TIMEOUT)
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN
    assert [(record.name, record.levelno) for record in caplog.records] == [(background.__name__, logging.WARNING)]


def test_call_is_aborted_after_its_deadline(
    workers: Workers, hubspot: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call that hangs is enough, and no later job is needed: the thread ends by itself."""
    monkeypatch.setattr(background, "ABORT_AFTER", 0.2)
    hubspot.set_scenario("continue")
    submit(workers, "key", lambda job, client: client.create_token(ADA, get_config()), 0.2)
    assert hubspot.wait_for_calls(1)
    assert workers.join(GENEROUS_TIMEOUT)


def test_job_runs_without_a_thread_that_would_abort_it(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no more threads can be started, the one that has started does its work."""

    def no_more(timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", no_more)
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN


def test_call_that_ends_in_time_is_not_aborted(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing remains that would act on it later, no thread either."""
    before = set(threading.enumerate())
    monkeypatch.setattr(TokenClient, "abort", lambda client: pytest.fail("aborted"))
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN
    assert workers.join(GENEROUS_TIMEOUT)
    assert set(threading.enumerate()) == before


# Where threads fail


def test_a_thread_that_can_not_be_started_means_not_now(
    workers: Workers, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No exception, one line in the log, the slot stays free, and what was to be accounted for is not lost."""
    accounted: list[bool] = []
    submit(workers, "stuck", gate, on_overdue=lambda: accounted.append(True))
    assert gate.entered.wait(GENEROUS_TIMEOUT)
    pass_deadlines(workers)

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        assert [workers.submit("key", quick, GENEROUS_TIMEOUT) for _ in range(SLOTS + 1)] == [None] * (SLOTS + 1)
    (record,) = caplog.records
    assert (record.levelno, "No thread can be started" in record.message) == (logging.ERROR, True)
    assert accounted == []
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN
    assert accounted == [True]


def test_who_joined_a_job_without_a_thread_is_released(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the job's making and the failure of its thread, another request may have joined it."""
    joined: list[Job | None] = []

    def no_more(thread: threading.Thread) -> None:
        joined.append(workers.submit("key", quick, GENEROUS_TIMEOUT))
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    assert workers.submit("key", quick, GENEROUS_TIMEOUT) is None
    assert joined[0] is not None
    assert joined[0].wait(GENEROUS_TIMEOUT) is None


def test_a_thread_that_is_about_to_start_is_waited_for(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for the threads may come between the making of one and its start."""
    start = threading.Thread.start

    def slowly(thread: threading.Thread) -> None:
        threading.Timer(0.1, start, [thread]).start() if thread.name == "hubspot-identify" else start(thread)

    monkeypatch.setattr(threading.Thread, "start", slowly)
    job = submit(workers, "key")
    assert workers.join(GENEROUS_TIMEOUT)
    assert job.wait(GENEROUS_TIMEOUT) is TOKEN


def test_threads_that_never_run_are_noticed_once(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As under uWSGI without --enable-threads: one ERROR says what to do, and in the end nothing is started."""
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    for number in range(2 * MAX_ABANDONED_THREADS):
        workers.submit(f"key{number}", quick, GENEROUS_TIMEOUT)
        pass_deadlines(workers)
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    for hint in ("never ran", "--enable-threads", "PAGE_WAIT", "get_token(visitor, wait=…)"):
        assert hint in errors[0]
    assert len(workers._threads) == MAX_ABANDONED_THREADS
    workers._threads.clear()  # they never ran, so nobody else would


def test_a_thread_that_runs_after_its_deadline_does_nothing(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen process that wakes up does not call for a page that is long gone."""
    frozen: list[threading.Thread] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda thread: frozen.append(thread))
        job = submit(workers, "key", lambda *_: pytest.fail("called"))
        pass_deadlines(workers)
        workers.submit("other", quick, GENEROUS_TIMEOUT)
    for thread in frozen:
        thread.start()
        thread.join()
    assert job._future.result(GENEROUS_TIMEOUT) is None
    assert workers.join(0)


def test_a_mistake_is_logged_without_its_text(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw ends the job, frees its slot and its waiters, and shows where it happened, but no values."""

    def task(job: Job, client: TokenClient) -> None:
        raise LookupError("the key is s3cret")

    assert submit(workers, "key", task).wait(GENEROUS_TIMEOUT) is None
    (record,) = caplog.records
    assert (record.levelno, "LookupError" in record.message) == (logging.ERROR, True)
    assert "in task" in record.message
    assert "s3cret" not in caplog.text.replace('raise LookupError("the key is s3cret")', "")
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN


def test_an_error_of_hubspots_reaches_every_waiter(workers: Workers) -> None:
    """Without the frames of the call, which hold the key."""

    def task(job: Job, client: TokenClient) -> None:
        raise TransportError("no answer")

    job = submit(workers, "key", task)
    for _ in range(2):
        with pytest.raises(TransportError, match="no answer") as caught:
            job.wait(GENEROUS_TIMEOUT)
        assert "task" not in {entry.name for entry in caught.traceback}


def test_connections_are_closed(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those to databases and caches that the thread opened; one that can't be closed keeps nobody waiting."""
    closed: list[str] = []

    def fail() -> None:
        closed.append("databases")
        raise OSError("gone")

    monkeypatch.setattr(connections, "close_all", fail)
    monkeypatch.setattr(caches, "close_all", lambda: closed.append("caches"))
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN
    assert closed == ["databases", "caches"]
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError])
def test_exit_or_cancellation_on_the_thread_ends_its_job_alone(
    workers: Workers, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    """A callable of the site may raise either. The log says so, and no exception hook sees the local variables."""

    def task(job: Job, client: TokenClient) -> None:
        raise kind

    assert submit(workers, "key", task).wait(GENEROUS_TIMEOUT) is None
    assert kind.__name__ in caplog.text
    assert submit(workers, "key", quick).wait(GENEROUS_TIMEOUT) is TOKEN


# Event loops


def test_an_event_loop_waits_without_blocking(workers: Workers, gate: Gate) -> None:
    """Other tasks of the loop go on meanwhile."""

    async def main() -> VisitorToken | None:
        waiter = asyncio.create_task(submit(workers, "key", gate).await_(GENEROUS_TIMEOUT))
        assert await asyncio.to_thread(gate.entered.wait, GENEROUS_TIMEOUT)
        gate.opened.set()
        return await waiter

    assert asyncio.run(main()) is TOKEN


def test_a_cancelled_waiter_leaves_the_job_to_the_others(workers: Workers, gate: Gate) -> None:
    """The visitor closed the page; somebody else waits for the same token."""

    async def main() -> VisitorToken | None:
        job = submit(workers, "key", gate)
        leaving, staying = (
            asyncio.create_task(job.await_(GENEROUS_TIMEOUT)),
            asyncio.create_task(job.await_(GENEROUS_TIMEOUT)),
        )
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        gate.opened.set()
        return await staying

    assert asyncio.run(main()) is TOKEN


@pytest.mark.parametrize("fails", [False, True])
def test_a_loop_that_is_gone_when_the_job_ends(
    workers: Workers, gate: Gate, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    """Nobody waits any more, and nothing is said about it, whether the job succeeds or fails."""

    def task(job: Job, client: TokenClient) -> VisitorToken:
        gate(job, client)
        if fails:
            raise TransportError("no answer")
        return TOKEN

    async def main() -> None:
        with pytest.raises(TransportError, match="did not answer in time"):
            await submit(workers, "key", task).await_(0.01)

    asyncio.run(main())
    gate.opened.set()
    assert workers.join(GENEROUS_TIMEOUT)
    gc.collect()
    assert caplog.records == []


def test_an_error_reaches_who_awaits(workers: Workers) -> None:
    """The same one that a thread would get."""

    def task(job: Job, client: TokenClient) -> None:
        raise TransportError("no answer")

    with pytest.raises(TransportError, match="no answer"):
        asyncio.run(submit(workers, "key", task).await_(GENEROUS_TIMEOUT))


# Tests and forks


def test_workers_can_be_forgotten(workers: Workers, gate: Gate) -> None:
    """As a forked child does: all slots are free, whatever the old ones are busy with."""
    for number in range(SLOTS):
        submit(workers, f"key{number}", gate)
    background.forget_workers()
    assert get_workers() is not workers
    assert submit(get_workers(), "key").wait(GENEROUS_TIMEOUT) is TOKEN
    gate.opened.set()
    assert workers.join(GENEROUS_TIMEOUT)
