import asyncio
import gzip
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from assistant.engine import Sampling, Usage
from assistant.tracing import Span, Tracer, tracer
from retrieval.errors import EngineError, InputError

SAMPLING = Sampling(max_tokens=200, temperature=0.5)


class Recorded:
    """A tracer, and the spans that ended, by name."""

    def __init__(self) -> None:
        provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = Tracer(provider)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}


def ask(tracer: Tracer) -> None:
    """One request as the service makes it."""
    with tracer.request("r1") as request:
        with request.retrieval():
            pass
        request.routed("grounded")
        with request.generation("a1", SAMPLING) as generation:
            generation.used(Usage(prompt_tokens=300, completion_tokens=40, cached_tokens=256), ["length"])


def test_a_request_has_a_search_and_a_generation_below_it() -> None:
    recorded = Recorded()
    ask(recorded.tracer)
    request = recorded.spans["chat assistant"]
    assert request.parent is None and request.context
    assert [(name, span.kind) for name, span in recorded.spans.items()] == [
        ("retrieval", SpanKind.INTERNAL),
        ("chat a1", SpanKind.CLIENT),
        ("chat assistant", SpanKind.SERVER),
    ]
    for name in ("retrieval", "chat a1"):
        parent = recorded.spans[name].parent
        assert parent and parent.span_id == request.context.span_id


def test_attributes_are_those_of_the_conventions_and_route_and_release_and_nothing_else() -> None:
    recorded = Recorded()
    ask(recorded.tracer)
    assert {name: dict(span.attributes or {}) for name, span in recorded.spans.items()} == {
        "retrieval": {"gen_ai.operation.name": "retrieval"},
        "chat a1": {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": "a1",
            "gen_ai.request.max_tokens": 200,
            "gen_ai.request.temperature": 0.5,
            "gen_ai.response.finish_reasons": ("length",),
            "gen_ai.usage.input_tokens": 300,
            "gen_ai.usage.output_tokens": 40,
            "gen_ai.usage.cache_read.input_tokens": 256,
        },
        "chat assistant": {
            "gen_ai.operation.name": "chat",
            "assistant.route": "grounded",
            "assistant.release": "r1",
        },
    }


def test_a_request_joins_the_trace_of_its_sender() -> None:
    recorded = Recorded()
    recorded.tracer.request("r1", f"00-{'a' * 32}-{'b' * 16}-01").end()
    span = recorded.spans["chat assistant"]
    assert span.context and f"{span.context.trace_id:x}" == "a" * 32
    assert span.parent and f"{span.parent.span_id:x}" == "b" * 16


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{'0' * 16}-01"])
def test_a_header_that_is_none_starts_a_trace(header: str) -> None:
    recorded = Recorded()
    recorded.tracer.request("r1", header).end()
    assert recorded.spans["chat assistant"].parent is None


def test_of_an_error_the_class_is_kept_and_never_the_message() -> None:
    recorded = Recorded()
    with pytest.raises(EngineError), recorded.tracer.request("r1"):
        raise EngineError("cannot read 'my card is 4111 1111 1111 1111'")
    span = recorded.spans["chat assistant"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes and span.attributes["error.type"] == "EngineError"
    assert "4111" not in span.to_json()


def test_answers_streamed_side_by_side_by_changing_tasks_keep_their_own_parents() -> None:
    recorded = Recorded()

    async def pieces(request: Span, model: str) -> AsyncIterator[str]:
        with request.generation(model, SAMPLING):
            for piece in "abc":
                await asyncio.sleep(0)
                yield piece

    async def answers() -> dict[str, Span]:
        requests = {model: recorded.tracer.request(model) for model in ("a1", "a2")}
        streams = [pieces(request, model) for model, request in requests.items()]
        for _ in "abc":  # each piece is drawn by a task of its own
            await asyncio.gather(*(asyncio.create_task(anext(stream)) for stream in streams))  # type: ignore[arg-type]
        for stream in streams:
            assert [piece async for piece in stream] == []
        return requests

    for model, request in asyncio.run(answers()).items():
        parent = recorded.spans[f"chat {model}"].parent
        request.end()
        assert parent and recorded.spans["chat assistant"].context
        assert parent.span_id == recorded.spans["chat assistant"].context.span_id


def test_a_customer_who_leaves_ends_the_span_and_is_no_failure() -> None:
    recorded = Recorded()

    async def pieces(request: Span) -> AsyncIterator[str]:
        with request.generation("a1", SAMPLING):
            yield "a"
            yield "b"

    async def leave() -> None:
        stream = pieces(recorded.tracer.request("r1"))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert recorded.spans["chat a1"].status.status_code is StatusCode.UNSET


def test_without_an_endpoint_nothing_is_recorded_and_opentelemetry_is_not_imported() -> None:
    code = """
import sys
from assistant.engine import Sampling, Usage
from assistant.tracing import tracer
idle = tracer(None)
with idle.request("r1") as request:
    with request.retrieval(): pass
    request.routed("grounded")
    with request.generation("a1", Sampling(max_tokens=1)) as generation:
        generation.used(Usage(), ["stop"])
idle.shutdown()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://collector:4317", ""])
def test_an_endpoint_that_is_no_http_address_is_an_input_error(endpoint: str) -> None:
    with pytest.raises(InputError, match=f"otlp_endpoint is '{endpoint}'.*http://10.0.0.5:4318"):
        tracer(endpoint)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """The address of an HTTP server, and the (path, body) of what it was sent."""
    received: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            received.append((self.path, gzip.decompress(body) if packed else body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["", "/", "/v1/traces"])
def test_a_collector_receives_the_spans_as_otlp_at_shutdown(
    collector: tuple[str, list[tuple[str, bytes]]], path: str
) -> None:
    address, received = collector
    sending = tracer(address + path)
    ask(sending)
    sending.shutdown()
    [(where, body)] = received
    [resource] = ExportTraceServiceRequest.FromString(body).resource_spans
    names = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert where == "/v1/traces"
    assert names["service.name"] == "payment-support-assistant"
    assert [span.name for span in resource.scope_spans[0].spans] == ["retrieval", "chat a1", "chat assistant"]


def test_a_collector_that_is_down_neither_fails_a_request_nor_holds_up_the_end() -> None:
    sending = tracer("http://127.0.0.1:9")
    ask(sending)
    started = time.monotonic()
    sending.shutdown()
    assert time.monotonic() - started < 10
