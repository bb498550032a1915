import pytest

from retrieval.backends import PASSAGES, QUERIES, Backend, Measured, Run


def run(backend: Backend, threads: int, speed: float) -> Run:
    """A run `speed` times as fast as the yardstick, which takes 10 ms."""
    return Run(backend, threads, 10 / speed, 10, mean_cosine=1.0, least_cosine=1.0, agreement=1.0)


def test_each_built_in_query_has_its_passage() -> None:
    assert len(QUERIES) == len(PASSAGES) == len({*QUERIES}) == len({*PASSAGES}) == 16


def test_int8_is_taken_only_where_it_is_really_faster() -> None:
    torch, onnx = run("torch", 1, 0.4), run("onnx", 1, 1)
    assert Measured((torch, onnx, run("onnx-int8", 1, 1.09))).best() is onnx
    faster = run("onnx-int8", 1, 1.11)
    assert Measured((torch, onnx, faster)).best() is faster
    assert Measured((torch, onnx, faster)).best("fp32") is onnx


def test_torch_is_taken_where_it_is_fastest() -> None:
    measured = Measured((run("torch", 1, 1.2), run("onnx", 1, 1), run("onnx-int8", 1, 1.3)))
    assert measured.best() is None
    assert measured.best("fp32") is None
    assert Measured(obstacle="it has a module Dense").best() is None


def test_one_thread_is_taken_unless_more_are_faster_by_a_fifth() -> None:
    one = run("onnx-int8", 1, 2)
    assert Measured((run("onnx-int8", 8, 2.3), one)).fastest("onnx-int8") is one
    many = run("onnx-int8", 8, 2.5)
    assert Measured((one, many)).fastest("onnx-int8") is many


@pytest.mark.parametrize(
    ("mean", "least", "agreement", "verified"),
    [(0.99, 0.98, 0.9, True), (0.989, 0.98, 1.0, False), (0.999, 0.979, 1.0, False), (0.999, 0.99, 0.8, False)],
)
def test_a_run_counts_only_if_it_agrees_with_torch(mean: float, least: float, agreement: float, verified: bool) -> None:
    found = Run("onnx-int8", 1, 4, 10, mean, least, agreement)
    assert found.speed == 2.5
    assert found.verified == verified
    assert (Measured((found,)).best() is found) == verified


def test_fp32_must_be_that_of_torch_since_they_share_indexes() -> None:
    assert not Run("onnx", 1, 10, 10, 0.9995, 0.9995, 1.0).verified
    assert Run("onnx", 1, 10, 10, 0.9999, 0.9999, 1.0).verified
