"""What the model writes as markers is never passed on, nor what looks like a card; how it is cut changes nothing."""

import random
from collections.abc import Sequence

import pytest

from assistant.citations import Citer
from assistant.figures import figures
from assistant.verification import Verifier
from retrieval.index import Found
from retrieval.passages import Passage

TEXT = "A refund takes 90 days. The fee is 2 EUR."
LIMIT = Found(Passage("1", "a.md", "a", "T", "", TEXT, "en", 0, 41, "line 1"), 0.9, 0.9, 0.0)


def judged(pieces: Sequence[str], instead: str | None = None) -> tuple[str, Verifier]:
    verifier = Verifier(Citer([LIMIT]), figures(TEXT), instead)
    return "".join([verifier.feed(piece) for piece in pieces]) + verifier.end(), verifier


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["A refund takes 90 days."], "A refund takes 90 days. [1]"),
        (["A refund takes 90 days. ", "Bye!"], "A refund takes 90 days. [1] Bye!"),
        (["A refund takes 90 days\nBye"], "A refund takes 90 days [1]\nBye"),
        (["A refund takes 90 days [7]. Bye"], "A refund takes 90 days. [1] Bye"),
        (["A refund takes 90 days [", "7", "]", ". Bye"], "A refund takes 90 days. [1] Bye"),
        (["A refund takes 90 days. [", "7] Bye"], "A refund takes 90 days. [1] Bye"),
        (["A refund takes 90 days ", "[7]."], "A refund takes 90 days. [1]"),
        (["A refund takes 90 days", "[123", "]."], "A refund takes 90 days. [1]"),
        (["The fee is 2", ".", "5 EUR."], "The fee is 2.5 EUR."),
        (["1", ". A refund takes 90 days. ", "\n2. Bye"], "1. A refund takes 90 days. [1] \n2. Bye"),
        (
            ["So:\n2. The fee is 2 EUR.\n10. ", "It takes 90 days"],
            "So:\n2. The fee is 2 EUR. [1]\n10. It takes 90 days [1]",
        ),
        (["It takes 90. Bye"], "It takes 90. [1] Bye"),
        (["Is it 90 days? A list [a"], "Is it 90 days? A list [a"),
        (["Use card 4111", " 1111 1111", " 1111 now"], "Use card <CARD_1> now"),
        (["Use card 41", "11111111111111"], "Use card <CARD_1>"),
        ([], ""),
    ],
)
def test_markers_are_ours_and_only_ours(pieces: list[str], text: str) -> None:
    assert judged(pieces)[0] == text


@pytest.mark.parametrize(
    "text",
    [
        "A refund takes 90 days [3]. The fee is 2 EUR. Is it? It is.\n\n- The fee is 2.5 EUR [x]\n- A refund [12]!",
        "A refund takes 90 days.\n[1] The fee is 2 EUR [2]\nBye [123].",
        "退款。 A refund takes 90 days！[1]The fee is 2 EUR [1][2]. [ 3] [4",
        "Card 4111 1111 1111 1111, or 4111-1111-1111-1111. 4111111111111111",
        "A refund takes 90 days.  \n",
        "Like this:\n1. A refund takes 90 days. Or 3.\n 2. The fee is 2 EUR\n3.\n4. 5. Bye",
    ],
)
@pytest.mark.parametrize("instead", [None, "(left out)"])
def test_how_the_stream_is_cut_does_not_change_the_answer(text: str, instead: str | None) -> None:
    whole = judged([text], instead)[0]
    assert "1111" not in whole
    for seed in range(200):
        chance = random.Random(seed)
        cuts = sorted(chance.sample(range(1, len(text)), chance.randrange(1, len(text) - 1)))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert judged(pieces, instead)[0] == whole, pieces


def test_a_marker_of_the_model_that_no_passage_supports_is_counted() -> None:
    assert judged(["A refund takes 90 days [1]. It takes 8 days [2]."])[1].dropped == 1


def test_text_is_passed_on_before_its_sentence_ends_unless_figures_are_withheld() -> None:
    assert Verifier(Citer([LIMIT]), frozenset()).feed("A refund takes") == "A refund takes"
    assert Verifier(Citer([LIMIT]), frozenset(), "(left out)").feed("A refund takes") == ""
