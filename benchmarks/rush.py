"""Measures a login rush: of many new users who log in within seconds, how many are identified on their first page.

Each user loads a page and then calls the endpoint as the script does: at once, and after delays of 0.4, 1 and 2 s while
the response is a 202. The site runs in two processes of two threads, and HubSpot allows 190 calls in any 10 s.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

from load import ENDPOINT, PAGE, is_identified, request
from servers import TokenServerProcess, cache_settings, gunicorn, serving

MODEL = "2 x 2 threads"
HUBSPOT_LIMIT = 190  # calls in any 10 s, for a Professional account
PREDECESSORS = 1_000_000  # the number of the first user of the warm-up
DELAYS = (0.0, 0.4, 1.0, 2.0)  # seconds before each call to the endpoint


class Rush(NamedTuple):
    """Users who log in at equal intervals.

    Attributes:
        users: their number.
        seconds: the time within which they log in.
        rate_limit: the site's ``RATE_LIMIT``.
        latency: seconds until HubSpot responds.
    """

    users: int
    seconds: float
    rate_limit: int
    latency: float


RUSHES = (Rush(100, 2, 10, 0.2), Rush(100, 2, 10, 0.8), Rush(500, 25, 17, 0.2), Rush(500, 25, 17, 0.8))
SMOKE = (Rush(10, 1, 10, 0.2),)


def measure(rushes: tuple[Rush, ...], cache: str, ports: dict[str, int]) -> list[dict[str, Any]]:
    """Return the figures for each rush."""
    return [_measure_rush(rush, cache, ports) for rush in rushes]


def _measure_rush(rush: Rush, cache: str, ports: dict[str, int]) -> dict[str, Any]:
    with TokenServerProcess() as hubspot:
        endpoint = hubspot.open()
        endpoint.set_scenario("rate_limit", calls=HUBSPOT_LIMIT, latency=rush.latency)
        prefix = f"rush-{endpoint.port}"
        site = gunicorn(
            MODEL,
            "deferred",
            endpoint.url,
            cache_settings(cache, ports, prefix),
            BENCHMARK_RATE_LIMIT=str(rush.rate_limit),
        )
        with serving(site):
            asyncio.run(_warm_up(site.port))
            before = endpoint.calls, len(endpoint.emails_by_token())
            connections = _cache_connections(cache, ports)
            identified = asyncio.run(_all_visits(site.port, rush))
            connections = _cache_connections(cache, ports) - connections - 1  # the second reading's own
            time.sleep(rush.latency + 0.5)  # until the last calls have ended
            calls, tokens = endpoint.calls - before[0], len(endpoint.emails_by_token()) - before[1]
    return {
        **rush._asdict(),
        "identified": identified,
        "calls": calls,
        "refused": calls - tokens,
        "connections": connections if cache == "Redis" else None,
    }


def _cache_connections(cache: str, ports: dict[str, int]) -> int:
    if cache != "Redis":
        return 0
    import redis

    with redis.Redis(port=ports["Redis"]) as client:
        return int(client.info("stats")["total_connections_received"])


async def _warm_up(port: int) -> None:
    """Let both processes import modules and connect, and wait until these calls do not count for the rate limit."""
    for user in range(PREDECESSORS, PREDECESSORS + 8):
        await _visit(port, user, 0.0)
    await asyncio.sleep(11)


async def _all_visits(port: int, rush: Rush) -> int:
    """Return how many users were identified."""
    visits = [_visit(port, number + 1, rush.seconds * number / rush.users) for number in range(rush.users)]
    return sum(await asyncio.gather(*visits))


async def _visit(port: int, user: int, starts_after: float) -> bool:
    await asyncio.sleep(starts_after)
    await _get(port, PAGE, user)
    for delay in DELAYS:
        await asyncio.sleep(delay)
        response = await _get(port, ENDPOINT, user)
        if not response.startswith(b"HTTP/1.1 202"):
            return is_identified(response, user)
    return False


async def _get(port: int, path: str, user: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(path, user))
        return await reader.read()
    finally:
        writer.close()
