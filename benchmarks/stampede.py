"""200 first requests of one user at the same moment, in 4 processes of 50 threads: how many calls is that?

A program of its own for each process: ``stampede.py <textbook or app>``. For each line on its standard input,
with the numbers of a user and of threads, it lets these go, and answers with a line when all that is under way is done.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

from servers import TokenServerProcess, child_environment

PROCESSES, THREADS = 4, 50
LATENCY = 0.2


def measure(caches: dict[str, dict[str, Any]], databases: dict[str, Any], repeats: int) -> list[dict[str, Any]]:
    """The calls by cache and way, of each repeat."""
    rows = []
    with TokenServerProcess() as hubspot:
        for name, cache in caches.items():
            counted: dict[str, list[int]] = {}
            for way in ("textbook", "app"):
                endpoint = hubspot.open()
                endpoint.set_scenario("healthy", latency=LATENCY)
                environment = child_environment(
                    BENCHMARK_HUBSPOT=endpoint.url,
                    BENCHMARK_CACHES={"default": {**cache, "KEY_PREFIX": f"stampede-{endpoint.port}"}},
                    BENCHMARK_DATABASES=databases if name == "database" else {},
                )
                counted[way] = _stampede(way, endpoint, environment, repeats)
            rows.append({"cache": name, **counted})
    return rows


def _stampede(way: str, endpoint: Any, environment: dict[str, str], repeats: int) -> list[int]:
    children = [
        subprocess.Popen(
            [sys.executable, __file__, way],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(PROCESSES)
    ]
    try:
        calls = []
        for number in range(1, repeats + 2):
            before = endpoint.calls
            for child in children:
                child.stdin.write(f"{number} {THREADS if number > 1 else 1}\n")  # the first is for loading the code
            for child in children:
                if child.stdout.readline() != "done\n":
                    raise RuntimeError(f"A process of the stampede ({way}) has ended early.")
            if number > 1:
                calls.append(endpoint.calls - before)
        return calls
    finally:
        for child in children:
            child.stdin.close()
            child.wait()


def run_child(way: str) -> None:
    import django

    django.setup()
    from django.core.cache import cache
    from django.db import connections
    from shop.templatetags.homemade import call
    from shop.views import user

    from hubspot_identify import services
    from hubspot_identify.testing import join_threads
    from hubspot_identify.visitors import user_visitor

    def textbook(number: int) -> None:
        key = f"hubspot-token:{number}"
        token = cache.get(key)
        if token is None:
            token = call(user(number), timeout=2)
            cache.set(key, token, 11 * 3600)

    def app(number: int) -> None:
        services.get_token(user_visitor(user(number)), wait=1.0)

    request = {"textbook": textbook, "app": app}[way]

    def run(number: int, barrier: threading.Barrier) -> None:
        barrier.wait()
        request(number)
        connections.close_all()

    for line in sys.stdin:
        number, crowd = map(int, line.split())
        barrier = threading.Barrier(crowd)
        threads = [threading.Thread(target=run, args=(number, barrier)) for _ in range(crowd)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        join_threads(10)
        print("done", flush=True)


if __name__ == "__main__":
    run_child(sys.argv[1])
