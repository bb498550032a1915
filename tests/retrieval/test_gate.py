import numpy as np

from retrieval.gate import Gate, fit
from retrieval.language import Language
from retrieval.passages import Passage


def passage(n: int, article: str, language: Language = "en") -> Passage:
    return Passage(str(n), f"{article}.md", article, f"Title {n}", f"Heading {n}", "text", language, 0, 1)


def on_circle(cosines: list[float]) -> np.ndarray:
    """Unit vectors with these cosines to (1, 0)."""
    return np.array([[cosine, (1 - cosine**2) ** 0.5] for cosine in cosines], dtype=np.float32)


def test_the_threshold_is_the_twentieth_part_quantile_of_what_headings_score_elsewhere() -> None:
    """Every passage is (1, 0); of 21 headings with cosines 0, 0.04, …, 0.8 the second lowest is the 5% quantile."""
    passages = [passage(n, f"article-{n}") for n in range(21)]
    labels = on_circle([n / 25 for n in range(21)])
    assert fit(passages, on_circle([1.0] * 21), labels).thresholds == {"en": 0.04}


def test_a_heading_is_not_asked_against_its_own_article() -> None:
    """Each heading is its own passage's vector; without the article left out the threshold would be 1."""
    passages = [passage(n, f"article-{n}") for n in range(20)]
    vectors = np.eye(20, dtype=np.float32)
    assert fit(passages, vectors, vectors).thresholds == {"en": 0.0}


def test_translations_share_an_article_but_each_language_has_its_own_threshold() -> None:
    english = [passage(n, f"article-{n}") for n in range(10)]
    chinese = [passage(n, f"article-{n}", "zh") for n in range(10)]
    labels = on_circle([0.5] * 10 + [0.25] * 10)
    assert fit(english + chinese, on_circle([1.0] * 20), labels).thresholds == {"en": 0.5, "zh": 0.25}


def test_a_language_with_fewer_than_ten_headings_lets_everything_pass() -> None:
    passages = [passage(n, f"article-{n}") for n in range(9)]
    assert fit(passages, on_circle([1.0] * 9), on_circle([0.5] * 9)).threshold("en") == -1.0


def test_a_language_that_the_articles_lack_takes_the_lowest_threshold() -> None:
    assert Gate({"en": 0.8}).threshold("zh") == 0.8
    assert Gate({}).threshold("zh") == -1.0
