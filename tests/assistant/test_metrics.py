from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from assistant.metrics import Metrics


def samples(exposition: bytes) -> dict[str, float]:
    """Values by `name{label=value,…}` as Prometheus reads them, labels sorted."""
    found = {}
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            labels = ",".join(f"{label}={value}" for label, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def engine_text() -> str:
    """What an engine's `/metrics` says: two metrics of vLLM's and one of Python's."""
    registry = CollectorRegistry()
    labels = {"model_name": "base"}
    Gauge("vllm:num_requests_running", "Running.", list(labels), registry=registry).labels(**labels).set(3)
    Counter("vllm:prompt_tokens", "Prompt tokens.", list(labels), registry=registry).labels(**labels).inc(7)
    Histogram("vllm:e2e_request_latency_seconds", "Latency.", registry=registry, buckets=(1, 2)).observe(1.5)
    Gauge("python_info", "Mentions vllm: the engine.", registry=registry).set(1)
    return generate_latest(registry).decode()


def test_a_chat_request_is_counted_by_route_arm_and_status() -> None:
    metrics = Metrics()
    metrics.requests.labels("grounded", "assistant", "200").inc()
    metrics.requests.labels("grounded", "assistant", "200").inc()
    found = samples(metrics.render())
    assert found["assistant_requests_total{arm=assistant,route=grounded,status=200}"] == 2


@pytest.mark.parametrize(
    "name",
    [
        *(f"assistant_retrieval_total{{decision={decision}}}" for decision in ("hit", "ambiguous", "miss", "failed")),
        *("assistant_tokens_total{kind=prompt}", "assistant_tokens_total{kind=completion}"),
        *("assistant_citations_total{outcome=kept}", "assistant_citations_total{outcome=dropped}"),
        *("assistant_feedback_total{thumb=up}", "assistant_feedback_total{thumb=down}"),
        *(f"assistant_rejected_total{{reason={reason}}}" for reason in ("limit", "overload", "denied")),
        *("assistant_unsupported_figures_total", "assistant_engine_restarts_total"),
        *(f"assistant_{step}_seconds_count" for step in ("retrieval", "queue", "time_to_first_token")),
        *("assistant_inter_token_seconds_count", "assistant_request_seconds_count"),
        *("assistant_running", "assistant_waiting", "assistant_ready", "assistant_engine_paused"),
        "assistant_transcripts_dropped",
    ],
)
def test_before_the_first_request_every_series_is_there_and_zero(name: str) -> None:
    assert samples(Metrics().render())[name] == 0


def test_a_time_falls_into_the_buckets_at_or_above_it() -> None:
    metrics = Metrics()
    metrics.time_to_first_token_seconds.observe(0.3)
    found = samples(metrics.render())
    name = "assistant_time_to_first_token_seconds"
    assert (found[f"{name}_bucket{{le=0.25}}"], found[f"{name}_bucket{{le=0.5}}"]) == (0, 1)
    assert found[f"{name}_sum"] == 0.3


def test_a_new_release_takes_the_place_of_the_old_one() -> None:
    metrics = Metrics()
    metrics.release.info({"release": "r1", "adapter": "a1", "index": "i1"})
    metrics.release.info({"release": "r2", "adapter": "a1", "index": "i2"})
    names = [name for name in samples(metrics.render()) if name.startswith("assistant_release")]
    assert names == ["assistant_release_info{adapter=a1,index=i2,release=r2}"]


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.engine_restarts.inc()
    assert samples(other.render())["assistant_engine_restarts_total"] == 0


def test_of_the_engine_only_its_own_metrics_are_passed_on_help_and_type_included() -> None:
    families = {
        family.name: (family.type, family.documentation)
        for family in text_string_to_metric_families(Metrics().render(engine_text()).decode())
    }
    assert families["vllm:num_requests_running"] == ("gauge", "Running.")
    assert families["vllm:prompt_tokens"] == ("counter", "Prompt tokens.")
    assert families["vllm:e2e_request_latency_seconds"] == ("histogram", "Latency.")
    assert "python_info" not in families and "assistant_requests" in families
    assert samples(Metrics().render(engine_text()))["vllm:prompt_tokens_total{model_name=base}"] == 7


@pytest.mark.parametrize("cut", [lambda text: text.rstrip("\n"), lambda text: text.replace("\n", "\r\n"), lambda _: ""])
def test_lines_of_the_engine_end_as_ours_do(cut: Callable[[str], str]) -> None:
    rendered = Metrics().render(cut(engine_text()))
    assert rendered.endswith(b"\n") and b"\r" not in rendered
    assert samples(rendered)["assistant_ready"] == 0
