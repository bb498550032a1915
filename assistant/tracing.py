"""Traces of requests for OpenTelemetry, named by its conventions for generative AI; never the text of a message.

    chat assistant          the request
    ├── retrieval           the search
    └── chat <model>        the engine

An answer is streamed by generators that several tasks may drive, so a span gets its parent as an argument, never from
the context. https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from assistant.engine import Sampling, Usage
from retrieval.errors import InputError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer as OtelTracer
    from opentelemetry.util.types import AttributeValue

_EXPORT_S = 5


class Tracer:
    """Where spans go; nowhere without a provider."""

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("assistant") if provider else None

    def request(self, release: str, traceparent: str | None = None) -> "Span":
        """The span of a request; `traceparent` is the W3C header by which it joins the trace of its sender."""
        if self._tracer is None:
            return Span()
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {"traceparent": traceparent} if traceparent else {}
        context = TraceContextTextMapPropagator().extract(carrier, Context())
        attributes = {"gen_ai.operation.name": "chat", "assistant.release": release}
        span = self._tracer.start_span("chat assistant", context, SpanKind.SERVER, attributes)
        return Span(self._tracer, span)

    def shutdown(self) -> None:
        """Send what waits to be sent, for a few seconds at most."""
        if self._provider:
            self._provider.shutdown()


class Span:
    """One step of a request, which ends with the `with` block; records nothing without a tracer."""

    def __init__(self, tracer: "OtelTracer | None" = None, span: "OtelSpan | None" = None) -> None:
        self._tracer = tracer
        self._span = span

    def retrieval(self) -> "Span":
        """The search, as a part of this request."""
        if self._tracer is None:
            return self
        return self._child("retrieval", {"gen_ai.operation.name": "retrieval"}, remote=False)

    def generation(self, model: str, sampling: Sampling) -> "Span":
        """What the engine writes, as a part of this request."""
        if self._tracer is None:
            return self
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
        }
        return self._child(f"chat {model}", attributes, remote=True)

    def routed(self, route: str) -> None:
        """Tell the request how it was answered."""
        if self._span is not None:
            self._span.set_attribute("assistant.route", route)

    def used(self, usage: Usage, finish_reasons: Sequence[str]) -> None:
        """Tell the generation how each of its answers ended, and how many tokens they took."""
        if self._span is None:
            return
        self._span.set_attribute("gen_ai.response.finish_reasons", tuple(finish_reasons))
        self._span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
        self._span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
        if usage.cached_tokens is not None:
            self._span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens)

    def end(self, error: BaseException | None = None) -> None:
        """End it, for where a `with` block cannot; of an error only its class is kept, for its message may quote."""
        if self._span is None:
            return
        # A customer who leaves (CancelledError, GeneratorExit) is no failure.
        if isinstance(error, Exception):
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", type(error).__name__)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)

    def _child(self, name: str, attributes: "dict[str, AttributeValue]", remote: bool) -> "Span":
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        assert self._tracer is not None and self._span is not None
        kind = SpanKind.CLIENT if remote else SpanKind.INTERNAL
        span = self._tracer.start_span(name, set_span_in_context(self._span, Context()), kind, attributes)
        return Span(self._tracer, span)


def tracer(endpoint: str | None) -> Tracer:
    """A tracer that sends OTLP over HTTP to the collector at `endpoint`, such as http://10.0.0.5:4318.

    Headers and certificates come from the environment, as OpenTelemetry names them (`OTEL_EXPORTER_OTLP_HEADERS`).
    Without an endpoint it records nothing, and OpenTelemetry is not imported.

    Raises:
        InputError: The endpoint is no http or https address.
    """
    if endpoint is None:
        return Tracer()
    if not endpoint.startswith(("http://", "https://")):
        raise InputError(f"otlp_endpoint is {endpoint!r}: give a collector's address such as http://10.0.0.5:4318")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    url = endpoint.rstrip("/").removesuffix("/v1/traces") + "/v1/traces"
    provider = TracerProvider(resource=Resource.create({"service.name": "payment-support-assistant"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=_EXPORT_S)))
    return Tracer(provider)
