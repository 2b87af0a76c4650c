"""What a tag costs on a warm page, by cache: ours beside the least that a tag with a cached identity can do.

A program of its own: ``tags.py <url of a healthy stand-in> <rounds> <renders a round>``; prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import django
from django.conf import settings
from django.core.cache import caches
from django.http import HttpRequest
from django.template import Context, engines
from django.test import override_settings

RENDERS = {
    "nothing": "text",
    "deferred": "{% load hubspot_identify %}{% hubspot_identify %}",
    "inline": "{% load hubspot_identify %}{% hubspot_identify %}",
    "bare": '{% load homemade %}{% cached_value "benchmark" alias %}',
}


def main(hubspot: str, rounds: int, renders: int) -> None:
    django.setup()
    from shop.views import log_in, user

    from hubspot_identify import services
    from hubspot_identify.visitors import user_visitor

    engine = engines["django"].engine
    templates = {name: engine.from_string(source) for name, source in RENDERS.items()}

    def fresh_request() -> HttpRequest:
        request = HttpRequest()
        log_in(request, 1)
        assert request.user.is_authenticated  # who it is, the page knows anyway
        return request

    def time_once(name: str, alias: str) -> float:
        """Microseconds of one rendering, with a request as fresh as each page has it."""
        template = templates[name]
        template.render(Context({"request": fresh_request(), "alias": alias}))  # for what is made once per settings
        started = time.perf_counter()
        for _ in range(renders):
            template.render(Context({"request": fresh_request(), "alias": alias}))
        return (time.perf_counter() - started) / renders * 1e6

    def compare(names: tuple[str, ...], alias: str, configure: Callable[[str], object]) -> dict[str, float]:
        """The best of the rounds, the names in turns, above that of a text."""
        times: dict[str, list[float]] = {name: [] for name in ("nothing", *names)}
        for number in range(rounds + 1):
            for name, seen in times.items():
                with override_settings(HUBSPOT_IDENTIFY=configure(name)):
                    if number == 0 and name == "inline":
                        token = services.get_token(user_visitor(user(1)), wait=3)
                        assert token is not None, "The stand-in made no token."
                        caches[alias].set("benchmark", {"email": token.visitor.email, "token": token.value}, 3600)
                        assert "token" in templates[name].render(Context({"request": fresh_request()}))
                    one = time_once(name, alias)
                    if number:  # the first one warms up
                        seen.append(one)
        return {name: min(times[name]) - min(times["nothing"]) for name in names}

    def configuration(alias: str) -> Callable[[str], dict[str, object]]:
        made = {
            delivery: {**settings.HUBSPOT_IDENTIFY, "BASE_URL": hubspot, "DELIVERY": delivery, "CACHE": alias}
            for delivery in ("deferred", "inline")
        }
        return lambda name: made["deferred" if name == "deferred" else "inline"]

    figures = {"deferred": compare(("deferred",), "LocMem", configuration("LocMem"))["deferred"], "caches": {}}
    for alias in settings.CACHES:
        if alias != "default":
            figures["caches"][alias] = compare(("bare", "inline"), alias, configuration(alias))
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
