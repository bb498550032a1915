from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retrieval import vectors
from retrieval.vectors import FLAT_UP_TO, LEAST_RECALL, OpenVectors, Shape, build

Array = np.ndarray
COUNT, WIDTH = 2000, 32


def unit(rows: Array) -> Array:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def passages() -> Array:
    """Vectors around forty topics, as those of texts are; fifty to a topic, one after the other in turn."""
    chance = np.random.default_rng(0)
    topics = chance.normal(size=(40, WIDTH))
    return unit(topics[np.arange(COUNT) % 40] + 0.5 * chance.normal(size=(COUNT, WIDTH)))


@pytest.fixture(scope="module")
def questions(passages: Array) -> Array:
    """Every tenth passage, a little off."""
    return unit(passages[::10] + 0.05 * np.random.default_rng(3).normal(size=(COUNT // 10, WIDTH)))


@pytest.fixture
def opened(
    request: pytest.FixtureRequest,
    passages: Array,
    questions: Array,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> OpenVectors:
    """An index of the kind that the test names: written, and opened again."""
    import faiss

    kind = request.param
    monkeypatch.setattr(vectors, "FLAT_UP_TO", COUNT if kind.startswith("flat") else 500)
    index, shape = build(passages, questions, small=kind.endswith("sq8"))
    assert shape.kind == kind
    faiss.write_index(index, str(tmp_path / "vectors.faiss"))
    return OpenVectors(tmp_path / "vectors.faiss", shape)


every_kind = pytest.mark.parametrize("opened", ["flat", "flat-sq8", "ivf-rabitq", "ivf-rabitq-sq8"], indirect=True)


def nearest(passages: Array, question: Array, count: int, allowed: Array | None = None) -> list[int]:
    """By every inner product."""
    cosines = passages @ question
    if allowed is not None:
        cosines = np.where(allowed, cosines, -2)
    return np.argsort(-cosines, kind="stable")[:count].tolist()


def test_up_to_25_000_vectors_are_searched_exactly(passages: Array, questions: Array) -> None:
    assert FLAT_UP_TO == 25_000
    _, shape = build(passages, questions)
    assert shape == Shape("flat", lists=0, probes=0, recall=1.0, bytes=COUNT * WIDTH * 4)
    assert str(shape) == "flat, recall@10 1.000 of exact, 0.2 MiB"


def test_above_it_there_are_about_twice_the_root_lists_of_bits_and_the_recall_is_measured(
    passages: Array, questions: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "FLAT_UP_TO", 500)
    _, shape = build(passages, questions)
    assert (shape.kind, shape.lists) == ("ivf-rabitq", 89)  # 2 √2000 is 89.4
    assert LEAST_RECALL <= shape.recall <= 1
    assert 1 <= shape.probes < shape.lists
    # Each vector; its bits with two numbers that go with them, and its position; each list's centre.
    assert shape.bytes == COUNT * WIDTH * 4 + COUNT * (WIDTH // 8 + 8 + 8) + 89 * WIDTH * 4
    assert f"{shape.probes} of 89 lists searched" in str(shape)


def test_what_the_bits_find_is_ranked_again_by_the_vectors(
    passages: Array, questions: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "FLAT_UP_TO", 500)
    monkeypatch.setattr(vectors, "LEAST_RECALL", 1.0)
    assert build(passages, questions)[1].recall == 1.0
    monkeypatch.setattr(vectors, "RANKED_AGAIN", 20)
    assert build(passages, questions)[1].recall < 0.95


@pytest.mark.parametrize("opened", ["ivf-rabitq"], indirect=True)
def test_the_recall_that_is_stated_is_what_searching_gives(
    opened: OpenVectors, passages: Array, questions: Array
) -> None:
    found = [len({*opened.search(q, 10)[1].tolist()} & {*nearest(passages, q, 10)}) / 10 for q in questions]
    assert np.mean(found) == pytest.approx(opened.shape.recall, abs=1e-4)
    assert np.mean(found) >= LEAST_RECALL


@pytest.mark.parametrize("opened", ["flat-sq8", "ivf-rabitq-sq8"], indirect=True)
def test_a_small_index_takes_a_quarter_and_finds_nearly_the_same(
    opened: OpenVectors, passages: Array, questions: Array, tmp_path: Path
) -> None:
    bits = COUNT * (WIDTH // 8 + 16) + opened.shape.lists * WIDTH * 4 if opened.shape.lists else 0
    assert (tmp_path / "vectors.faiss").stat().st_size < COUNT * WIDTH + bits + 10_000
    assert opened.shape.recall >= 0.98
    assert [opened.search(q, 1)[1].tolist() for q in questions[:50]] == [
        nearest(passages, q, 1) for q in questions[:50]
    ]


@pytest.mark.parametrize("small", [False, True])
def test_the_recall_of_fewer_vectors_than_ten_is_not_lowered_by_those_that_are_not_there(small: bool) -> None:
    """With three vectors a small index said `recall@10 0.400`: FAISS fills up with -1, which was found seven times."""
    _, shape = build(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), small)
    assert shape.recall == 1.0


@every_kind
def test_cosines_come_best_first_and_are_those_of_the_positions(
    opened: OpenVectors, passages: Array, questions: Array
) -> None:
    for question in questions[:20]:
        cosines, positions = opened.search(question, 5)
        assert (np.diff(cosines) <= 0).all()
        assert cosines == pytest.approx(passages[positions] @ question, abs=0.01)


@every_kind
@pytest.mark.parametrize("share", [0.5, 0.02, 0.001])
def test_a_limited_search_finds_only_what_is_allowed_and_the_best_of_it(
    opened: OpenVectors, passages: Array, questions: Array, share: float
) -> None:
    """In an inverted index more lists are searched the fewer passages are allowed: the best may stand in any."""
    chance = np.random.default_rng(1)
    best = []
    for question in questions[:50]:
        allowed = chance.random(COUNT) < share
        allowed[chance.integers(COUNT)] = True
        _, positions = opened.search(question, 5, opened.limit(allowed))
        assert allowed[positions].all() and 1 <= len(positions) <= 5
        best.append(positions[0] in nearest(passages, question, 1, allowed))
    assert np.mean(best) >= (LEAST_RECALL if opened.shape.kind.endswith("flat") else 0.95)


@pytest.mark.parametrize("opened", ["ivf-rabitq"], indirect=True)
@pytest.mark.parametrize("topics", [2, 5, 12, 20, 30])
def test_a_search_limited_to_other_topics_still_finds_the_best(
    opened: OpenVectors, passages: Array, questions: Array, topics: int
) -> None:
    """A folder or a language stands in few lists, far from a question on something else: searching more lists in
    proportion found nothing at all for some, and the best of five topics for 91% only."""
    allowed = np.arange(COUNT) % 40 < topics
    elsewhere = [question for n, question in enumerate(questions) if not allowed[10 * n]]
    limit = opened.limit(allowed)
    found = [opened.search(question, 5, limit)[1].tolist() for question in elsewhere]
    assert all(len(positions) == 5 for positions in found)
    best = [nearest(passages, question, 1, allowed)[0] for question in elsewhere]
    assert np.mean([positions[0] == one for positions, one in zip(found, best, strict=True)]) >= 0.97


@every_kind
def test_more_than_there_are_gives_those_that_there_are(opened: OpenVectors, questions: Array) -> None:
    allowed = np.zeros(COUNT, dtype=bool)
    allowed[[3, 1999]] = True
    cosines, positions = opened.search(questions[0], 50, opened.limit(allowed))
    assert sorted(positions.tolist()) == [3, 1999] and len(cosines) == 2
    assert opened.search(questions[0], 50, opened.limit(np.zeros(COUNT, dtype=bool)))[1].tolist() == []


@every_kind
def test_vectors_are_read_back_by_position(opened: OpenVectors, passages: Array) -> None:
    assert len(opened) == COUNT
    assert opened.at(np.array([1999, 0, 7])) == pytest.approx(passages[[1999, 0, 7]], abs=0.01)


@every_kind
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_the_file_is_mapped_into_memory_not_read(opened: OpenVectors, tmp_path: Path) -> None:
    assert str(tmp_path / "vectors.faiss") in Path("/proc/self/maps").read_text()


@every_kind
def test_many_threads_search_at_once(opened: OpenVectors, questions: Array) -> None:
    limit = opened.limit(np.arange(COUNT) % 2 == 0)

    def search(question: Array) -> tuple[list[int], list[int], list[float]]:
        positions = opened.search(question, 5)[1]
        return positions.tolist(), opened.search(question, 5, limit)[1].tolist(), opened.at(positions)[0].tolist()

    alone = [search(question) for question in questions[:50]]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(search, questions[:50])) == alone


@pytest.mark.parametrize("small", [False, True])
def test_the_same_vectors_give_the_same_bytes(
    small: bool, passages: Array, questions: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    monkeypatch.setattr(vectors, "FLAT_UP_TO", 500)
    (one, shape), (other, again) = build(passages, questions, small), build(passages, questions, small)
    assert shape == again
    assert faiss.serialize_index(one).tobytes() == faiss.serialize_index(other).tobytes()
