"""What the service counts and measures, for Prometheus; no label takes its value from what a user writes."""

import contextlib
import math
from typing import TYPE_CHECKING

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from assistant import pause

if TYPE_CHECKING:
    from assistant.chat import Outcome
    from assistant.exchange import Seconds, Service

_ENGINE = ("vllm:", "# HELP vllm:", "# TYPE vllm:")
_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LONG_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300)


class Metrics:
    """The metrics of one service, in a registry of its own; every name starts with `assistant_`."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, label: str | None = None, values: tuple[str, ...] = ()) -> Counter:
            made = Counter(f"assistant_{name}", text, (label,) if label else (), registry=registry)
            for value in values:
                made.labels(value)  # a series that is there from the start shows its first event as an increase
            return made

        def seconds(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"assistant_{name}_seconds", text, registry=registry, buckets=buckets)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"assistant_{name}", text, registry=registry)

        by = ("route", "arm", "status")
        self.requests = Counter("assistant_requests", "Chat requests that were answered.", by, registry=registry)
        decisions = ("hit", "ambiguous", "miss", "failed")
        self.retrieval = counter("retrieval", "Searches, by how they came out.", "decision", decisions)
        self.tokens = counter("tokens", "Tokens of prompts and answers.", "kind", ("prompt", "completion"))
        self.citations = counter("citations", "Citations of sentences.", "outcome", ("kept", "dropped"))
        self.unsupported_figures = counter("unsupported_figures", "Figures in answers that no passage has.")
        self.feedback = counter("feedback", "Opinions of customers on answers.", "thumb", ("up", "down"))
        self.experiment_requests = counter("experiment_requests", "Chat requests of an experiment.", "arm")
        self.experiment_feedback = Counter(
            "assistant_experiment_feedback", "Opinions on its answers.", ("arm", "thumb"), registry=registry
        )
        reasons = ("limit", "overload", "denied")
        self.rejected = counter("rejected", "Requests that were turned away.", "reason", reasons)
        self.engine_restarts = counter("engine_restarts", "Times that the engine was started again.")

        self.retrieval_seconds = seconds("retrieval", "Time of a search.", _SHORT_S)
        self.queue_seconds = seconds("queue", "Wait for a turn.", _LONG_S)
        self.time_to_first_token_seconds = seconds(
            "time_to_first_token", "From the request to the first piece.", _LONG_S
        )
        self.inter_token_seconds = seconds("inter_token", "Mean time between two pieces of an answer.", _SHORT_S)
        self.request_seconds = seconds("request", "From the request to the end of the answer.", _LONG_S)

        self.running = gauge("running", "Requests being answered.")
        self.waiting = gauge("waiting", "Requests waiting for their turn.")
        self.ready = gauge("ready", "1 if the release serves, 0 if not.")
        self.engine_paused = gauge("engine_paused", "1 while a night keeps the engine stopped, 0 if none does.")
        self.cpu_seconds = gauge("processes_cpu_seconds", "CPU time of service and engine; NaN if that is not ours.")
        self.memory_bytes = gauge("processes_memory_bytes", "Memory that they hold.")
        self.transcripts_dropped = gauge("transcripts_dropped", "Transcripts that could not be stored.")
        self.release = Info("assistant_release", "What serves: release, adapter, index.", registry=registry)

    def answered(self, outcome: "Outcome", arm: str, status: str, seconds: "Seconds", pieces: int) -> None:
        """Count one request of the chat endpoint, however it ended, and the pieces that it was sent in."""
        self.requests.labels(outcome.route, arm, status).inc()
        if "retrieval" in outcome.degraded:
            self.retrieval.labels("failed").inc()
        elif outcome.search:
            self.retrieval.labels(outcome.search.decision).inc()
            self.retrieval_seconds.observe(seconds.search)
        self.tokens.labels("prompt").inc(outcome.usage.prompt_tokens)
        self.tokens.labels("completion").inc(outcome.usage.completion_tokens)
        self.citations.labels("kept").inc(len(outcome.citations))
        self.citations.labels("dropped").inc(outcome.dropped_citations)
        self.unsupported_figures.inc(len(outcome.unsupported))
        self.queue_seconds.observe(seconds.queue)
        self.request_seconds.observe(seconds.total)
        if pieces:
            self.time_to_first_token_seconds.observe(seconds.first)
        if pieces > 1:
            self.inter_token_seconds.observe((seconds.total - seconds.first) / (pieces - 1))

    def show(self, service: "Service", ready: bool) -> None:
        """Set what is read off when the metrics are asked for."""
        self.ready.set(ready)
        self.running.set(service.admission.running)
        self.waiting.set(service.admission.waiting)
        self.transcripts_dropped.set(service.state.dropped)
        assistant = service.live.assistant
        self.engine_paused.set(pause.asked(assistant.settings.home))
        cpu_s, memory_bytes = _used() if assistant.settings.engine_url is None else (math.nan, math.nan)
        self.cpu_seconds.set(cpu_s)
        self.memory_bytes.set(memory_bytes)
        parts = {"release": assistant.release, "adapter": assistant.adapter, "index": assistant.index.id}
        self.release.info(parts)

    def render(self, engine_text: str = "") -> bytes:
        """All metrics as Prometheus reads them, then vLLM's own out of `engine_text`, what its `/metrics` says."""
        engine = [f"{line}\n" for line in engine_text.splitlines() if line.startswith(_ENGINE)]
        return generate_latest(self._registry) + "".join(engine).encode()


def _used() -> tuple[float, int]:
    """CPU seconds and bytes of memory of this process and its children."""
    cpu_s, memory_bytes = 0.0, 0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it may have ended by now
            times = process.cpu_times()
            cpu_s += times.user + times.system
            memory_bytes += process.memory_info().rss
    return cpu_s, memory_bytes
