import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retrieval.lexical import Lexical, terms

TEXTS = ["The refund takes five days.", "A transfer takes a day.", "申请退款需要五天。", "转账手续费"]


@pytest.fixture(scope="module")
def bm25() -> Lexical:
    return Lexical.of([terms(text) for text in TEXTS])


def best(bm25: Lexical, query: str) -> int:
    shares = bm25.shares(query)
    assert shares.max() > 0
    return int(shares.argmax())


def test_english_words_are_stems_without_the_common_ones() -> None:
    assert terms("The refunds of refunding, REFUNDED!") == ["refund", "refund", "refund"]
    assert terms("It costs 1.5 of them") == ["cost", "1.5"]


def test_chinese_is_characters_and_pairs_of_them() -> None:
    assert terms("退款吧") == ["退", "款", "吧", "退款", "款吧"]
    assert terms("Visa卡") == ["visa", "卡"]


def test_traditional_chinese_has_the_terms_of_simplified() -> None:
    assert terms("申請退費") == terms("申请退费")


def test_full_width_digits_and_letters_are_the_usual_ones() -> None:
    assert terms("１８０ ＥＵＲ") == ["180", "eur"]


@pytest.mark.parametrize("text", ["", "  ", "？！", "the of and"])
def test_a_text_without_words_has_no_terms(text: str) -> None:
    assert terms(text) == []


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("Refunding?", TEXTS[0]),  # a form of the word
        ("transferred", TEXTS[1]),
        ("怎么退款", TEXTS[2]),
        ("退費要退款", TEXTS[2]),  # Traditional finds Simplified
        ("手續費", TEXTS[3]),
    ],
)
def test_the_text_with_the_querys_words_holds_most_of_it(bm25: Lexical, query: str, text: str) -> None:
    assert best(bm25, query) == TEXTS.index(text)


def test_a_share_is_the_score_over_the_highest_that_any_text_could_reach() -> None:
    """One of two texts holds the word: its weight is ln(1 + 1.5 / 1.5); both are of average length 1, so that a word
    that stands once scores 1 / (1 + k1) of its weight, k1 being 1.2."""
    bm25 = Lexical.of([["refund"], ["fee"]])
    shares = bm25.shares("refund")
    assert shares == pytest.approx([1 / 2.2, 0])
    # Two words of equal weight: half of it.
    assert bm25.shares("refund fee") == pytest.approx([0.5 / 2.2, 0.5 / 2.2])
    # A word that no text has weighs ln(1 + 2.5 / 0.5), more than the one found.
    found, unseen = math.log(2), math.log(6)
    assert bm25.shares("refund bitcoin") == pytest.approx([found / (found + unseen) / 2.2, 0])


def test_words_that_no_text_has_lower_every_share(bm25: Lexical) -> None:
    assert bm25.shares("refund bitcoin").max() < bm25.shares("refund").max()


def test_shares_are_from_zero_to_under_one() -> None:
    bm25 = Lexical.of([["fee"] * 1000, ["fee", "card"], ["refund"]])
    for query in ("fee", "fee fee card", "refund", "fee card refund bitcoin"):
        shares = bm25.shares(query)
        assert shares.dtype == np.float32 and shares.shape == (3,)
        assert (shares >= 0).all() and (shares < 1).all()


@pytest.mark.parametrize("query", ["", "？", "the", "bitcoin", "比特币"])
def test_without_a_known_word_nothing_is_shared(bm25: Lexical, query: str) -> None:
    shares = bm25.shares(query)
    assert shares.tolist() == [0, 0, 0, 0]


def test_a_term_counts_once_however_often_it_is_asked(bm25: Lexical) -> None:
    assert bm25.shares("refund refunds the").tolist() == bm25.shares("refund").tolist()


@pytest.mark.parametrize("texts", [[[]], [[], ["fee"]], [[], [], []]])
def test_texts_without_any_words_can_be_indexed(texts: list[list[str]], tmp_path: Path) -> None:
    bm25 = Lexical.of(texts)
    assert len(bm25) == len(texts)
    assert bm25.shares("fee")[0] == 0
    bm25.save(tmp_path / "lexical")
    assert len(Lexical.open(tmp_path / "lexical")) == len(texts)


def test_what_was_saved_opens_the_same_from_mapped_memory(bm25: Lexical, tmp_path: Path) -> None:
    bm25.save(tmp_path / "lexical")
    opened = Lexical.open(tmp_path / "lexical")
    assert len(opened) == 4
    for query in ("refund", "怎么退款", "a transfer fee", ""):
        assert opened.shares(query).tolist() == bm25.shares(query).tolist()
    assert isinstance(opened._bm25.scores["data"], np.memmap)


def test_a_pickle_is_refused(bm25: Lexical, tmp_path: Path) -> None:
    bm25.save(tmp_path / "lexical")
    path = tmp_path / "lexical" / "data.csc.index.npy"
    np.save(path, np.array([{"any": "object"}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"(?i)pickle|object"):
        Lexical.open(tmp_path / "lexical")


def test_the_same_texts_give_the_same_bytes_and_shares_in_every_process(tmp_path: Path) -> None:
    """Query words were a set, whose order Python draws anew in each process: their weights added up to other bits."""
    code = (
        "import sys; from pathlib import Path; from retrieval.lexical import Lexical, terms\n"
        "texts = [' '.join(f'word{(n * k) % 97}' for k in range(1, 40)) for n in range(1, 200)]\n"
        "bm25 = Lexical.of([terms(text) for text in texts]); bm25.save(Path(sys.argv[1]))\n"
        "print(bm25.shares(' '.join(texts[7:9]))[0].tobytes().hex())"
    )
    said = []
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        said.append(run.stdout)
    assert said[0] == said[1]
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


def test_many_threads_ask_at_once(bm25: Lexical) -> None:
    queries = ["refund", "怎么退款", "手續費", "transfer days", "bitcoin"] * 40
    alone = [bm25.shares(query).tolist() for query in queries]
    with ThreadPoolExecutor(8) as threads:
        together = [shares.tolist() for shares in threads.map(bm25.shares, queries)]
    assert together == alone
