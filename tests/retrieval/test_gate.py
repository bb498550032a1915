"""The gate on made-up searches, where one number tells hits from misses."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter

from retrieval.gate import FEATURES, FEWEST, Asked, Evidence, Gate, fit

NEAR, FAR = 0.9, 0.3
"""Cosines of the best passage of answered and of unanswered questions, about."""


def evidence(best: float, words: float = 0.0) -> Evidence:
    """Two passages of two articles: the best, and one at cosine 0.2."""
    cosines = np.array([best, 0.2], dtype=np.float32)
    return Evidence(cosines, [1, 2], np.eye(2, dtype=np.float32), 0.1, words, 1 if words else -1)


def asked(best: float, answered: bool, group: int, language: str = "en", **more: bool) -> Asked:
    return Asked(evidence(best).features(), answered, language, str(group), **more)


def questions(count: int, language: str = "en", shift: float = 0.0, **more: bool) -> list[Asked]:
    """`count` answered questions around `NEAR` and as many unanswered around `FAR`, each of a group of its own."""
    chance = np.random.default_rng(7)
    return [
        asked(mean + shift + 0.1 * float(chance.standard_normal()), mean == NEAR, group, language, **more)
        for group in range(count)
        for mean in (NEAR, FAR)
    ]


def test_features_are_what_their_names_say() -> None:
    found = Evidence(
        cosines=np.array([0.9, 0.8, 0.6], dtype=np.float32),
        articles=[7, 7, 3],
        vectors=np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32),
        background=0.5,
        words=0.25,
        words_article=3,
    )
    values = dict(zip(FEATURES, found.features().tolist(), strict=True))
    assert values == pytest.approx(
        {
            "cosine of the best passage": 0.9,
            "cosine of the tenth": 0.6,  # there are three; the last stands in
            "best passage above the average one": 0.9 - 0.5,
            "neighbours from one article": 2 / 3,
            "lead over other articles": 0.9 - 0.6,
            "neighbours close to each other": (0.9 + 0.8 + 0.6) / 3 - (1 + 0 + 0) / 3,
            "words found": 0.25,
            "words and meaning agree on the article": 0.0,
        }
    )


def test_a_near_passage_is_a_hit_and_a_far_one_a_miss() -> None:
    gate = fit(questions(100), 0.05)
    assert gate.decide(evidence(0.95), "en", cross=False).decision == "hit"
    assert gate.decide(evidence(0.30), "en", cross=False).decision == "miss"


def test_the_reason_names_the_bound_and_what_spoke_for_the_decision() -> None:
    gate = fit(questions(100), 0.05)
    verdict = gate.decide(evidence(0.30), "en", cross=False)
    bound = gate.thresholds["en"].miss
    assert verdict.why.startswith(f"{verdict.probability:.2f} is below {bound:.2f}; ")
    assert "cosine of the best passage -" in verdict.why


@pytest.mark.parametrize("target", [0.02, 0.05, 0.2])
def test_of_new_questions_about_the_target_share_is_missed(target: float) -> None:
    """Conformal: over draws of questions to fit on and of new ones, the share of misses is at most the target."""
    chance = np.random.default_rng(1)
    rates = []
    for _ in range(10):
        known = [
            asked(mean + 0.25 * float(chance.standard_normal()), mean == NEAR, group)
            for group in range(200)
            for mean in (NEAR, FAR)
        ]
        gate = fit(known, target)
        new = [evidence(NEAR + 0.25 * float(chance.standard_normal())) for _ in range(300)]
        rates.append(np.mean([gate.decide(entry, "en", cross=False).decision == "miss" for entry in new]))
    assert np.mean(rates) == pytest.approx(target, abs=0.015)


def test_each_language_has_its_own_threshold() -> None:
    gate = fit([*questions(100), *questions(100, "zh", shift=-0.1)], 0.05)
    assert gate.thresholds["zh"].miss < gate.thresholds["en"].miss


def test_a_language_with_few_questions_takes_the_threshold_of_all() -> None:
    gate = fit([*questions(100), *questions(FEWEST - 1, "zh")], 0.05)
    assert sorted(gate.thresholds) == ["all", "cross", "en"]
    assert gate.decide(evidence(0.95), "zh", cross=False).decision == "hit"


def test_a_hundred_questions_of_customers_set_the_threshold_alone() -> None:
    own, real = questions(200), questions(100, shift=-0.1, real=True)
    gate = fit([*own, *real], 0.05)
    assert gate.thresholds["en"].questions == 100
    assert gate.thresholds["en"].miss < fit(own, 0.05).thresholds["en"].miss
    assert fit([*own, *real[:-2]], 0.05).thresholds["en"].questions == 200 + 99


def test_too_few_questions_fit_nothing_and_miss_nothing() -> None:
    gate = fit(questions(FEWEST - 1), 0.05)
    assert gate == Gate(0.05)
    assert gate.decide(evidence(0.0), "en", cross=False).decision == "ambiguous"
    assert "not fitted" in gate.summary()


def test_nothing_to_search_is_a_miss() -> None:
    assert fit(questions(100), 0.05).decide(None, "en", cross=False).decision == "miss"


def test_words_do_not_count_between_languages() -> None:
    gate = fit([*questions(100), *questions(100, cross=True)], 0.05)
    with_words = gate.decide(evidence(0.6, words=0.9), "zh", cross=True)
    without = gate.decide(evidence(0.6), "zh", cross=True)
    assert with_words.probability == without.probability
    assert with_words.why.endswith("the passages are in another language")


def test_the_curve_holds_every_question_once_and_rises() -> None:
    gate = fit(questions(100), 0.05)
    assert sum(part["n"] for part in gate.curve) == gate.questions + gate.without_answer == 200
    assert gate.curve[0]["answered"] < 0.1
    assert gate.curve[-1]["answered"] > 0.9


def test_the_same_questions_give_the_same_gate_and_json_keeps_it() -> None:
    gate = fit(questions(100), 0.05)
    assert fit(questions(100), 0.05) == gate
    assert TypeAdapter(Gate).validate_python(json.loads(json.dumps(asdict(gate)))) == gate
