"""Spans: what OpenTelemetry's instrumentation of requests makes of our calls, without our doing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pytest_django import Settings
from support.server import Scenario, TokenServer

from hubspot_identify import services
from hubspot_identify.exceptions import AuthenticationError, TransportError
from hubspot_identify.visitors import Visitor

pytest.importorskip("opentelemetry.instrumentation.requests", reason="OpenTelemetry is not installed")

from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

ADA = Visitor("ada@example.com", "Ada")


@contextmanager
def spans(**options: Any) -> Iterator[InMemorySpanExporter]:
    """Instrument requests as a site does, and yield where the spans end up."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = RequestsInstrumentor()
    instrumentor.instrument(tracer_provider=provider, **options)
    try:
        yield exporter
    finally:
        instrumentor.uninstrument()
        provider.shutdown()


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Where the spans of the test end up."""
    with spans() as exporter:
        yield exporter


@pytest.fixture(autouse=True)
def base_url(settings: Settings, token_server: TokenServer) -> None:
    """The stand-in for HubSpot."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": token_server.url}


def everything_in(span: ReadableSpan) -> str:
    """All that goes to the collector."""
    return span.to_json()


def test_each_call_is_a_span(exporter: InMemorySpanExporter, token_server: TokenServer) -> None:
    """A call has a span by itself, with method, address and status, and neither key, token nor address of anybody."""
    token = services.get_token(ADA, wait=5.0)
    assert token is not None
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert (span.attributes["http.method"], span.attributes["http.status_code"]) == ("POST", 200)
    assert str(span.attributes["http.url"]).startswith(f"{token_server.url}/conversations/v3/")
    for secret in ("key-of-the-tests", token.value, ADA.email):
        assert secret not in everything_in(span)


def test_a_failed_call_is_a_failed_span(exporter: InMemorySpanExporter, token_server: TokenServer) -> None:
    """A refusal is seen on the span."""
    token_server.reject_key()
    with pytest.raises(AuthenticationError):
        services.create_token(ADA)
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok


def test_a_token_from_the_cache_is_no_span(exporter: InMemorySpanExporter) -> None:
    """What the cache answers makes no span."""
    services.get_token(ADA, wait=5.0)
    exporter.clear()
    services.get_token(ADA)
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize("opt_in", ["", "http/dup"])
@pytest.mark.parametrize("scenario", ["healthy", "refused"])
def test_the_recipe_for_keys_in_addresses(
    settings: Settings, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, opt_in: str, scenario: Scenario
) -> None:
    """With ``hapikey`` address and exceptions hold the key; ``docs/observability.rst`` shows how to leave them out."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "AUTH_SCHEME": "hapikey"}
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
    token_server.set_scenario(scenario)
    with spans(excluded_urls="hapikey=") as exporter, contextlib.suppress(TransportError):
        services.create_token(ADA)
    assert exporter.get_finished_spans() == ()
