"""A small load generator: visitors who look at one view after another, each view a request or several in a row.

Written for this because of what it knows of a view: that a page and the endpoint's answer belong together, whether the
visitor was identified in them, and that it was nobody else.
"""

from __future__ import annotations

import base64
import gc
import itertools
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self

PAGE = "/page/"
ENDPOINT = "/hubspot/identity/"
VISITORS = 16  # who look at a view at the same time


@dataclass
class Load:
    """What came of it; loads of the same views can be added up."""

    seconds: float = 0.0
    views: int = 0
    identified: int = 0
    broken: int = 0
    #: Seconds of every view. Those that had not finished at the end count with the time they had taken by then.
    times: list[float] = field(default_factory=list)

    def __iadd__(self, other: Load) -> Self:
        self.seconds += other.seconds
        self.views += other.views
        self.identified += other.identified
        self.broken += other.broken
        self.times += other.times
        return self

    @property
    def rate(self) -> float:
        """Finished views a second."""
        return self.views / self.seconds

    def percentile(self, share: float) -> float:
        """The time in seconds within which that share of the views was finished."""
        times = sorted(self.times)
        return times[min(len(times) - 1, int(share * len(times)))]


class Visitor(NamedTuple):
    """One of those who look, and the request that is under way."""

    number: int
    began: float
    paths: tuple[str, ...]  # still to be asked for, the present one first
    identified: bool
    answer: list[bytes]


def users(first: int, last: int | None = None) -> Iterator[int]:
    """The numbers of the users who come: again and again up to ``last``, or else each one new."""
    return itertools.count(first) if last is None else itertools.cycle(range(first, last + 1))


def run_load(port: int, paths: tuple[str, ...], who: Iterator[int], seconds: float, *, drain: float = 0.5) -> Load:
    """Look at views for so many seconds, :data:`VISITORS` at a time, and count.

    Args:
        port: of the site, on 127.0.0.1.
        paths: of the requests that make up one view, each sent when the one before is answered.
        who: the user of each view.
        seconds: for which views are begun.
        drain: seconds for which those under way at the end may still finish.

    Raises:
        RuntimeError: a visitor was given somebody else's token.
    """
    load = Load()
    selector = selectors.DefaultSelector()

    def ask(visitor: Visitor) -> None:
        # A new connection each time, as proxies do it: with kept ones a thread worker may get most of them.
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        sock.sendall(request(visitor.paths[0], visitor.number))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, visitor)

    def begin() -> None:
        ask(Visitor(next(who), time.perf_counter(), paths, False, []))

    gc.collect()
    gc.disable()  # a pause here would look like one of the site
    started = time.perf_counter()
    end = started + seconds
    limit = end + drain
    for _ in range(VISITORS):
        begin()
    while selector.get_map() and (left := limit - time.perf_counter()) > 0:
        for key, _ in selector.select(left):
            sock, visitor = key.fileobj, key.data
            try:
                part = sock.recv(65536)
            except ConnectionError:
                part = b""
            if part:
                visitor.answer.append(part)
                continue
            selector.unregister(sock)
            sock.close()
            answer = b"".join(visitor.answer)
            if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")):
                load.broken += 1
                load.times.append(time.perf_counter() - visitor.began)
            elif visitor.paths[1:]:
                identified = visitor.identified or is_identified(answer, visitor.number)
                ask(Visitor(visitor.number, visitor.began, visitor.paths[1:], identified, []))
                continue
            else:
                load.views += 1
                load.identified += visitor.identified or is_identified(answer, visitor.number)
                load.times.append(time.perf_counter() - visitor.began)
            if time.perf_counter() < end:
                begin()
    finished = time.perf_counter()
    load.seconds = finished - started
    for key in list(selector.get_map().values()):
        load.times.append(finished - key.data.began)
        key.fileobj.close()
    selector.close()
    gc.enable()
    return load


def request(path: str, user: int) -> bytes:
    """A request as our script and its page send it."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nX-User: {user}\r\n"
        "X-HubSpot-Identify: 1\r\nSec-Fetch-Site: same-origin\r\n\r\n"
    ).encode()


def is_identified(answer: bytes, user: int) -> bool:
    """Whether an answer holds a token, which the stand-in makes of the address it is for."""
    if b"token" not in answer:
        return False
    address = base64.urlsafe_b64encode(f"user{user}@example.com".encode()).rstrip(b"=")
    if b"." + address not in answer:
        raise RuntimeError(f"user{user} was given somebody else's token.")
    return True
