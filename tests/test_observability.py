"""The spans that OpenTelemetry's instrumentation of requests creates for the app's calls."""

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
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

ADA = Visitor("ada@example.com", "Ada")


@contextmanager
def spans(**options: Any) -> Iterator[InMemorySpanExporter]:
    """Instrument requests as a site does, and yield the exporter that collects the spans."""
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
    """The exporter that collects the spans of the test."""
    with spans() as exporter:
        yield exporter


@pytest.fixture(autouse=True)
def base_url(settings: Settings, token_server: TokenServer) -> None:
    """Send the app's calls to the token server."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": token_server.url}


def test_each_call_has_a_span_without_secrets(exporter: InMemorySpanExporter, token_server: TokenServer) -> None:
    """The span has method, URL and status, and no key, token or e-mail address. A cached token causes no span."""
    token = services.get_token(ADA, wait=5.0)
    assert token is not None
    assert services.get_token(ADA) == token
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert (span.attributes["http.method"], span.attributes["http.status_code"]) == ("POST", 200)
    assert str(span.attributes["http.url"]).startswith(f"{token_server.url}/conversations/v3/")
    for secret in ("key-of-the-tests", token.value, ADA.email):
        assert secret not in span.to_json()


def test_failed_call_has_a_failed_span(exporter: InMemorySpanExporter, token_server: TokenServer) -> None:
    """The span of a call that HubSpot refuses has an error status."""
    token_server.reject_key()
    with pytest.raises(AuthenticationError):
        services.create_token(ADA)
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok


@pytest.mark.parametrize(("opt_in", "scenario"), [("", "healthy"), ("http/dup", "refused")])
def test_span_contains_no_key_of_the_query(
    settings: Settings, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch, opt_in: str, scenario: Scenario
) -> None:
    """With ``hapikey``, the URL that HubSpot receives contains the key. Neither URL nor exception in the span does."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "AUTH_SCHEME": "hapikey"}
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
    token_server.set_scenario(scenario)
    with spans() as exporter, contextlib.suppress(TransportError):
        services.create_token(ADA)
    (span,) = exporter.get_finished_spans()
    assert "key-of-the-tests" not in span.to_json()
