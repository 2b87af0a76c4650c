"""``python benchmarks/run.py``: every figure of the manual, in one run. See README.rst beside this file."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import calls
import chart
import imports
import pages
import rush
import servers
import stampede
from targets import judge

HERE = Path(__file__).parent
NEEDED = ("gunicorn", "hubspot", "redis", "pymemcache")
SQLITE = "django.db.backends.sqlite3"


class Run:
    """The parts, in the order in which they are measured."""

    def __init__(self, directory: str, ports: dict[str, int], *, smoke: bool, moods: list[str], models: list[str]):
        self.directory = directory
        self.ports = ports
        self.smoke = smoke
        self.moods = moods
        self.models = models
        self.cache = "Redis" if "Redis" in ports else "LocMem"
        self.times = pages.Times(1, 0.3, 0.6, 3.0) if smoke else pages.Times(6, 0.5, 4.5, 20.0)
        self.caches = {name: servers.cache_settings(name, ports) for name in ("LocMem", *ports, "database")}
        database = {"ENGINE": SQLITE, "NAME": f"{directory}/db.sqlite3", "OPTIONS": {"transaction_mode": "IMMEDIATE"}}
        self.databases = {"default": database}
        self.environment = servers.child_environment(
            BENCHMARK_CACHES={"default": self.caches["LocMem"], **self.caches}, BENCHMARK_DATABASES=self.databases
        )
        subprocess.run([sys.executable, "-m", "django", "createcachetable"], env=self.environment, check=True)

    def imports(self) -> Any:
        return imports.measure(3 if self.smoke else 21)

    def calls(self) -> Any:
        return calls.measure(self.directory, 2 if self.smoke else 15)

    def tags(self) -> Any:
        rounds, renders = (20, 40) if self.smoke else (80, 100)
        with servers.TokenServerProcess() as hubspot:
            command = [sys.executable, HERE / "tags.py", hubspot.open().url, str(rounds), str(renders)]
            child = subprocess.run(command, env=self.environment, check=True, stdout=subprocess.PIPE)
        return json.loads(child.stdout)

    def stampede(self) -> Any:
        return stampede.measure(self.caches, self.databases, 1 if self.smoke else 3)

    def rush(self) -> Any:
        return rush.measure(rush.SMOKE if self.smoke else rush.RUSHES, self.cache, self.ports)

    def storm(self) -> Any:
        return [pages.storm(model, self.times.storm, self.cache, self.ports) for model in self.models]

    def pages(self) -> Any:
        rows = []
        for model in self.models:
            for mood in self.moods:
                print(f"  {model}; {mood}", file=sys.stderr)
                rows += pages.measure(model, mood, self.times, self.cache, self.ports)
        return rows


PARTS = ("imports", "calls", "tags", "stampede", "rush", "storm", "pages")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="only see whether it runs: a minute, sync workers alone")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these parts")
    parser.add_argument("--moods", nargs="+", choices=pages.MOODS, default=list(pages.MOODS), help="of HubSpot")
    parser.add_argument("--models", nargs="+", choices=pages.MODELS, default=None, help="of gunicorn (default: all)")
    parser.add_argument("--out", type=Path, help="directory for figures and chart (default: see README.rst)")
    arguments = parser.parse_args()
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        parser.error(f"Not installed: {', '.join(missing)}. Run: pip install -e '.[bench]'")
    models = arguments.models or list(pages.MODELS)[: 1 if arguments.smoke else None]

    results: dict[str, Any] = {}
    failed = []
    with tempfile.TemporaryDirectory() as directory:
        caches = servers.cache_servers(directory)
        with servers.serving(*caches.values()):
            ports = {name: process.port for name, process in caches.items()}
            run = Run(directory, ports, smoke=arguments.smoke, moods=arguments.moods, models=models)
            results["about"] = about(run)
            for part in PARTS:
                if part in arguments.only:
                    started = time.monotonic()
                    print(f"{part} …", file=sys.stderr)
                    try:
                        results[part] = getattr(run, part)()
                    except Exception:  # noqa: BLE001 - the others have taken minutes, and are of use without it
                        traceback.print_exc()
                        failed.append(part)
                    print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr)
    report = write_report(results)
    print(report)
    whole = not arguments.smoke and not failed and len(arguments.only) == len(PARTS)
    save(results, report, arguments.out or (None if whole else HERE.parent / "build" / "benchmark"))
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def about(run: Run) -> dict[str, Any]:
    """What one has to know to read the figures."""
    versions = ("Django", "requests", "gunicorn", "hubspot-api-client", "redis", "pymemcache")
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in versions},
        "cache of the site": run.cache,
        "smoke": run.smoke,
    }


def save(results: dict[str, Any], report: str, directory: Path | None) -> None:
    """Write figures, tables and chart; into the repository where no directory is given."""
    picture = (directory or HERE.parent / "docs" / "images") / "benchmark.svg"
    figures = directory or HERE
    for place in (picture.parent, figures):
        place.mkdir(parents=True, exist_ok=True)
    (figures / "results.json").write_text(json.dumps(_rounded(results), indent=1) + "\n", encoding="utf-8")
    (figures / "results.rst").write_text(report, encoding="utf-8")
    if "pages" in results:
        picture.write_text(chart.draw(results["pages"]), encoding="utf-8")
    print(f"Written: results.json and results.rst in {figures}, and {picture}.", file=sys.stderr)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def write_report(results: dict[str, Any]) -> str:
    """All tables, as reStructuredText that reads well in a terminal too."""
    facts = "; ".join(f"{name}: {value}" for name, value in results["about"].items())
    sections = [
        _title("Figures", "="),
        f"Written by ``benchmarks/run.py``. Compare ratios, not machines.\n\n{facts}.\n",
    ]
    answers = {True: "yes", False: "**no**", None: "-"}
    rows = [[one.what, one.target, one.seen, answers[one.met]] for one in judge(results)]
    sections += [_title("Targets"), _table(["what", "target", "seen", "met"], rows)]
    for part, write in WRITERS.items():
        if results.get(part):
            sections += write(results[part])
    return "\n".join(sections)


def _write_pages(rows: list[dict[str, Any]]) -> list[str]:
    headings = ["way", "views/s", "÷ no tag", "p50 ms", "p99 ms", "identified", "API calls"]
    sections = []
    for model, mood in dict.fromkeys((row["model"], row["mood"]) for row in rows):
        cells = [
            [
                row["way"],
                chart.number(row["rate"]),
                f"{row['ratio']:.3f}",
                f"{row['p50']:.0f}",
                f"{row['p99']:.0f}",
                f"{row['identified']:.0%}",
                "-" if row["calls"] is None else str(row["calls"]),
            ]
            for row in rows
            if (row["model"], row["mood"]) == (model, mood)
        ]
        sections += [_title(f"{model}: {mood}"), _table(headings, cells)]
    return sections


def _write_storm(rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        [row["model"], f"{row['seconds']:.0f}", str(row["textbook"]), str(row["deferred"]), f"{row['ratio']:.3f}"]
        for row in rows
    ]
    headings = ["server", "seconds", "textbook cache", "hubspot_identify", "ratio"]
    return [_title("Calls to HubSpot while it answers 429 to each"), _table(headings, cells)]


def _write_tags(figures: dict[str, Any]) -> list[str]:
    cells = [["none (deferred)", "-", f"{figures['deferred']:.0f}", "-", "-"]]
    for name, one in figures["caches"].items():
        more, ratio = one["inline"] - one["bare"], one["inline"] / one["bare"]
        cells.append([name, f"{one['bare']:.0f}", f"{one['inline']:.0f}", f"{more:+.0f}", f"{ratio:.2f}"])
    headings = ["cache", "get + json_script, µs", "hubspot_identify, µs", "more", "ratio"]
    return [_title("The tag on a warm page, above plain text"), _table(headings, cells)]


def _write_stampede(rows: list[dict[str, Any]]) -> list[str]:
    cells = [[row["cache"], *(", ".join(map(str, row[way])) for way in ("textbook", "app"))] for row in rows]
    headings = ["cache", "textbook cache", "hubspot_identify"]
    return [_title("Calls for 200 first requests of one user at once, 4 processes"), _table(headings, cells)]


def _write_rush(rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        [
            f"{row['users']} in {row['seconds']:g} s",
            str(row["rate_limit"]),
            f"{row['latency'] * 1000:.0f}",
            str(row["identified"]),
            str(row["calls"]),
            str(row["refused"]),
            "-" if row["connections"] is None else str(row["connections"]),
        ]
        for row in rows
    ]
    headings = ["new users", "RATE_LIMIT", "HubSpot, ms", "identified", "API calls", "429", "cache connections"]
    return [
        _title("Login rush: identified on the first page, 2 processes of 2 threads"),
        _table(headings, cells),
    ]


def _write_imports(figures: dict[str, Any]) -> list[str]:
    cells = [[name, f"{milliseconds:.1f}"] for name, milliseconds in figures["milliseconds"].items()]
    return [_title("Imports on top of Django"), _table(["module", "ms"], cells)]


def _write_calls(figures: dict[str, float]) -> list[str]:
    whole = next(iter(figures.values()))
    cells = [[name, f"{seen:.0f}", f"{seen / whole:.3f}"] for name, seen in figures.items()]
    return [_title("One call over TLS, answered at once"), _table(["client", "µs", "ratio"], cells)]


WRITERS: dict[str, Callable[[Any], list[str]]] = {
    "pages": _write_pages,
    "storm": _write_storm,
    "tags": _write_tags,
    "stampede": _write_stampede,
    "rush": _write_rush,
    "imports": _write_imports,
    "calls": _write_calls,
}


def _title(text: str, line: str = "-") -> str:
    return f"{text}\n{line * len(text)}\n"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in [headings, *rows]) for column in range(len(headings))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [headings, *rows]]
    return "\n".join([rule, lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:]), rule, ""])


if __name__ == "__main__":
    sys.exit(main())
