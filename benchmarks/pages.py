"""Pages a second, their percentiles and calls to HubSpot: ways of doing it x moods of HubSpot x models of server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from load import ENDPOINT, PAGE, Load, run_load, users
from servers import Process, TokenServer, TokenServerProcess, cache_settings, gunicorn, serving

MODELS = ("2 sync workers", "2 x 4 threads")
LATENCY = 0.2  # seconds that HubSpot takes for an answer of any kind

#: What a mood is to the stand-in, and the users who come in it: few and known; each one new; or a thousand who have no
#: token yet when the trouble begins.
MOODS: dict[str, tuple[dict[str, Any], tuple[int, int | None]]] = {
    "healthy, warm": ({"name": "healthy"}, (1, 16)),
    "healthy, every user new": ({"name": "healthy"}, (1, None)),
    "hang": ({"name": "hang"}, (1, 1000)),
    "refused": ({"name": "refused"}, (1, 1000)),
    "429": ({"name": "answer", "status": 429, "body": {"policyName": "TEN_SECONDLY_ROLLING"}}, (1, 1000)),
    "500": ({"name": "answer", "status": 500}, (1, 1000)),
    "drip": ({"name": "drip_body"}, (1, 1000)),
}
WARM = "healthy, warm"
PREDECESSORS = 1_000_000  # the first of the users who were there before anything is measured


@dataclass(frozen=True)
class Way:
    """A way of doing it: a name for the tables, the site's ``BENCHMARK_WAY``, the requests of a view.

    ``waits``: whether its pages wait for HubSpot, always or only for users without a token. Such a site would still be
    at work on what it was asked for while another is measured, so it is measured in one piece and ended after it.
    """

    name: str
    site: str
    paths: tuple[str, ...] = (PAGE,)
    waits: str = "never"
    cache: str | None = None
    only: str | None = None

    def is_in_one_piece(self, mood: str) -> bool:
        return self.waits == "always" or (self.waits == "unknown users" and mood != WARM)


NO_TAG = Way("no tag", "no_tag")
PER_PAGE = Way("call per page", "call_per_page", waits="always")
TEXTBOOK = Way("textbook cache", "textbook", waits="unknown users")
SDK = Way("hubspot-api-client 12", "sdk", waits="always")
INLINE_WAIT = Way("inline, PAGE_WAIT 1", "inline_wait", waits="unknown users")
INLINE = Way("inline, PAGE_WAIT 0", "inline")
INLINE_LOCMEM = Way("inline, PAGE_WAIT 0, LocMem", "inline", cache="LocMem", only=WARM)
DEFERRED = Way("deferred, page + endpoint", "deferred", (PAGE, ENDPOINT))
DEFERRED_PAGE = Way("deferred, the page alone", "deferred")  # of the same site as the one before, and after it
WAYS = (NO_TAG, PER_PAGE, TEXTBOOK, SDK, INLINE_WAIT, INLINE, INLINE_LOCMEM, DEFERRED, DEFERRED_PAGE)


@dataclass
class Times:
    """Seconds of measuring."""

    slices: int  # for each way that never waits, in turns with the others …
    slice: float  # … each so long
    piece: float  # for each of the others
    storm: float  # for the calls in a storm of 429s


@contextlib.contextmanager
def running(
    ways: list[Way], model: str, mood: str, cache: str, ports: dict[str, int]
) -> Iterator[tuple[dict[Way, Process], dict[Way, TokenServer]]]:
    """The site of each way, and the HubSpot that it calls, whose mood has just begun.

    It finds a site that has been running for a while, with everything imported and HubSpot called before.
    """
    with TokenServerProcess() as hubspot:
        endpoints = {way: hubspot.open() for way in ways}
        sites = {
            way: gunicorn(model, way.site, endpoint.url, cache_settings(way.cache or cache, ports, str(endpoint.port)))
            for way, endpoint in endpoints.items()
        }
        with serving(*sites.values()):
            for way, endpoint in endpoints.items():
                run_load(sites[way].port, way.paths, users(PREDECESSORS), 0.5, drain=30)
                endpoint.set_scenario(**MOODS[mood][0], latency=LATENCY)
            yield sites, endpoints


def measure(model: str, mood: str, times: Times, cache: str, ports: dict[str, int]) -> list[dict[str, Any]]:
    """All ways side by side, with HubSpot in one mood."""
    who = MOODS[mood][1]
    ways = [way for way in WAYS if way.only in (None, mood)]
    with running([way for way in ways if way is not DEFERRED_PAGE], model, mood, cache, ports) as (sites, endpoints):
        if mood == WARM:
            for way, site in sites.items():
                if way is not NO_TAG and way.waits != "always":
                    warm_up(site.port, way, who)
        sites[DEFERRED_PAGE], endpoints[DEFERRED_PAGE] = sites[DEFERRED], endpoints[DEFERRED]
        before = {way: endpoints[way].calls for way in ways}
        visitors = {way: users(*who) for way in ways}
        loads = {way: Load() for way in ways}
        in_slices = [way for way in ways if not way.is_in_one_piece(mood)]
        for number in range(times.slices):
            # DEFERRED comes first once, so that HubSpot's trouble is there when its page is looked at alone.
            for way in in_slices if number % 2 == 0 else reversed(in_slices):
                loads[way] += run_load(sites[way].port, way.paths, visitors[way], times.slice)
        calls = {way: endpoints[way].calls - before[way] for way in in_slices}
        for way in ways:
            if way not in in_slices:
                loads[way] += run_load(sites[way].port, way.paths, visitors[way], times.piece, drain=0)
                calls[way] = endpoints[way].calls - before[way]
                sites[way].kill()
    return [row(model, mood, way, loads[way], calls[way], loads[NO_TAG]) for way in ways]


def warm_up(port: int, way: Way, who: tuple[int, int | None]) -> None:
    """Let everybody come until all are identified, in each process of the site."""
    end = time.monotonic() + 60
    in_a_row = 0
    while in_a_row < 3:
        if time.monotonic() > end:
            raise RuntimeError(f"{way.name}: not everybody was identified within a minute.")
        load = run_load(port, way.paths, users(*who), 0.2)
        in_a_row = in_a_row + 1 if load.views and load.identified == load.views else 0


def row(model: str, mood: str, way: Way, load: Load, calls: int, no_tag: Load) -> dict[str, Any]:
    """One line of the table."""
    if load.broken:
        raise RuntimeError(f"{way.name}, {mood}, {model}: {load.broken} views ended with an error.")
    return {
        "model": model,
        "mood": mood,
        "way": way.name,
        "rate": load.rate,
        "ratio": load.rate / no_tag.rate,
        "p50": load.percentile(0.50) * 1000,
        "p99": load.percentile(0.99) * 1000,
        "p99_ratio": load.percentile(0.99) / no_tag.percentile(0.99),
        "identified": load.identified / load.views if load.views else 0.0,
        "calls": None if way is DEFERRED_PAGE else calls,
        "seconds": load.seconds,
    }


def storm(model: str, seconds: float, cache: str, ports: dict[str, int]) -> dict[str, Any]:
    """The calls of the textbook's cache and of ours in the same time, while HubSpot answers 429 to every one."""
    ways = [TEXTBOOK, DEFERRED]
    with running(ways, model, "429", cache, ports) as (sites, endpoints):
        before = {way: endpoints[way].calls for way in ways}
        with ThreadPoolExecutor(len(ways)) as pool:
            for load in [
                pool.submit(run_load, sites[way].port, way.paths, users(*MOODS["429"][1]), seconds, drain=0)
                for way in ways
            ]:
                load.result()
        calls = {way: endpoints[way].calls - before[way] for way in ways}
    if not all(calls.values()):
        raise RuntimeError(f"Not everybody called HubSpot in the storm: {list(calls.values())}.")
    return {
        "model": model,
        "seconds": seconds,
        "textbook": calls[TEXTBOOK],
        "deferred": calls[DEFERRED],
        "ratio": calls[DEFERRED] / calls[TEXTBOOK],
    }
