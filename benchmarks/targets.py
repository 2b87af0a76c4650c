"""What the project set out to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any, NamedTuple

import pages


class Target(NamedTuple):
    """One line of the table; ``met`` is ``None`` where nothing was measured."""

    what: str
    target: str
    seen: str
    met: bool | None


def judge(results: dict[str, Any]) -> list[Target]:
    """All targets against what was measured. Where there are several figures, the worst one counts."""
    found = {(row["model"], row["mood"], row["way"]): row for row in results.get("pages", [])}
    models = list(dict.fromkeys(model for model, _, _ in found))

    def rows(way: pages.Way, mood: str | None = None) -> list[dict[str, Any]]:
        return [row for (_, its_mood, name), row in found.items() if name == way.name and mood in (None, its_mood)]

    alone = [row["ratio"] for row in rows(pages.DEFERRED_PAGE)]
    kept, slower = [], []
    for model in models:
        warm, hang = (found.get((model, mood, pages.DEFERRED.name)) for mood in (pages.WARM, "hang"))
        if warm and hang:
            # Both against the page without tag of their own minute, so that the machine's moods cancel out.
            kept.append(hang["ratio"] / warm["ratio"])
            slower.append(hang["p99_ratio"] / warm["p99_ratio"])
    hanging = rows(pages.INLINE, "hang")
    news = [
        row["rate"] / found[row["model"], row["mood"], pages.PER_PAGE.name]["rate"]
        for row in rows(pages.DEFERRED, "healthy, every user new")
        if row["model"] == "2 sync workers"
    ]
    storms = [storm["ratio"] for storm in results.get("storm", [])]
    rushes = [row for row in results.get("rush", []) if row["latency"] == 0.2]
    identified = {row["users"]: [row["identified"]] for row in rushes}
    connections = [row["connections"] / row["calls"] for row in rushes if row["connections"] is not None]
    tags = results.get("tags", {})
    by_cache = tags.get("caches", {})
    ratios = [by_cache[name]["inline"] / by_cache[name]["bare"] for name in ("Redis", "memcached") if name in by_cache]
    locmem = [by_cache["LocMem"]["inline"]] if by_cache else []
    deferred = [tags["deferred"]] if tags else []
    imports = results.get("imports", {})
    milliseconds = [imports["milliseconds"]["hubspot_identify"]] if imports else []
    requests = [float(imports["app_loads_requests"])] if imports else []
    calls = results.get("calls") or {}
    call = [calls["TokenClient.create_token"] / calls["hubspot-api-client 12, as documented"]] if calls else []
    return [
        _at_least("deferred, the page alone ÷ no tag, whatever HubSpot does", 0.95, alone),
        _at_least("deferred, page + endpoint: HubSpot hanging ÷ healthy and warm", 0.9, kept),
        _at_most("… its p99", 3, slower),
        _at_least("inline, PAGE_WAIT 0, HubSpot hanging ÷ no tag", 0.75, [row["ratio"] for row in hanging]),
        _at_most("… its p99", 3, [row["p99_ratio"] for row in hanging]),
        _at_least("inline, warm LocMem ÷ no tag", 0.85, [row["ratio"] for row in rows(pages.INLINE_LOCMEM)]),
        _at_most("inline tag, Redis and memcached ÷ (cache.get + json_script)", 1.3, ratios),
        _at_most("inline tag, LocMem, µs", 40, locmem),
        _at_most("deferred tag, µs", 20, deferred),
        _at_least("every user new, page + endpoint ÷ call per page, sync workers", 60, news),
        _at_least("login rush: identified on the first page, of 100 users in 2 s", 95, identified.get(100, [])),
        _at_least("… of 500 users in 25 s, RATE_LIMIT 17", 430, identified.get(500, [])),
        _at_most("… cache connections ÷ calls", 1.1, connections),
        _at_most("… responses of 429", 0, [float(row["refused"]) for row in rushes]),
        _at_most("calls in a storm of 429s ÷ textbook cache", 0.02, storms),
        _at_most("import of the app on top of Django, ms", 5, milliseconds),
        _at_most("… of which requests (1: loaded)", 0, requests),
        _at_most("one call, TokenClient.create_token ÷ hubspot-api-client as documented", 0.25, call),
    ]


def _at_least(what: str, target: float, seen: list[float]) -> Target:
    return _judge(what, f"≥ {target:g}", seen, min, lambda worst: worst >= target)


def _at_most(what: str, target: float, seen: list[float]) -> Target:
    return _judge(what, f"≤ {target:g}", seen, max, lambda worst: worst <= target)


def _judge(
    what: str,
    target: str,
    seen: list[float],
    worst_of: Callable[[Iterable[float]], float],
    is_met: Callable[[float], bool],
) -> Target:
    if not seen:
        return Target(what, target, "not measured", None)
    worst = worst_of(seen)
    several = f" (median of {len(seen)}: {median(seen):.3g})" if len(seen) > 1 else ""
    return Target(what, target, f"{worst:.3g}{several}", is_met(worst))
