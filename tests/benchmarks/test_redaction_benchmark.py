import random

import pytest
from scipy.stats import binomtest
from stdnum import iban, luhn
from stdnum.cn import ric

from benchmarks import redaction
from benchmarks.redaction import DISGUISES, KINDS, Sample, generate, run, squeezed


def test_squeezed_text_is_letters_and_digits_whatever_they_were_typed_as() -> None:
    assert squeezed("４１ 1\u200b1-٤ 四〇幺") == "4111" + "4401"
    assert squeezed("<CARD_1> 12") == "¤12"


def test_the_same_seed_gives_the_same_strings() -> None:
    assert list(generate(50, seed=1)) == list(generate(50, seed=1))
    assert list(generate(50, seed=1)) != list(generate(50, seed=2))


def test_secrets_are_what_they_are_called() -> None:
    chance = random.Random(1)
    for _ in range(200):
        assert luhn.is_valid(redaction.card_number(chance))
        number = redaction.identity_number(chance)
        assert ric.calc_check_digit(number) == number[-1]
        assert iban.is_valid(redaction.bank_account(chance).secrets[0], check_country=False)


def test_every_disguise_still_holds_the_number() -> None:
    for name, write in DISGUISES.items():
        assert squeezed("".join(write(random.Random(1), "4111111111111111"))) == "4" + "1" * 15, name


def test_what_is_left_or_changed_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless:
        """Leaves cards, and takes the digits of an order."""

        def conversation(self, texts: list[str]) -> list[str]:
            return [text.replace("20261124", "<CARD_1>") for text in texts]

    monkeypatch.setattr(redaction, "Redactor", Careless)
    samples = [
        Sample("card", "spaces", ("4111 1111 1111 1111",), ("4111111111111111",)),
        Sample("card", "none", ("20261124",), ("20261124",)),
        Sample("security code", "bare", ("it is 123",), ("123",)),
        Sample("date-led order number", "", ("order 20261124",), ()),
        Sample("date-led order number", "", ("order 1",), ()),
    ]
    results = run(samples)
    assert {kind: len(wrong) for kind, wrong in results.wrong.items()} == {
        "card": 1,
        "security code": 1,
        "date-led order number": 1,
    }
    assert results.leaks == 1
    assert not results.are_met()
    figures = {row.task: (row.n, row.figure.split(" ")[0], row.met) for row in results.rows()}
    assert figures["card: recall"] == (2, "50.000%", False)
    assert figures["  spaces"] == (1, "0.000%", None)
    assert figures["date-led order number: false positives"] == (2, "50.00%", False)
    assert figures["raw values left, of any kind"] == (5, "1", False)


def test_two_thousand_strings_contradict_no_target() -> None:
    """The whole benchmark draws 100,000; here an interval of 95% must reach the target, and no card may be left."""
    results = run(generate(2000, seed=20))
    for kind, it in KINDS.items():
        n = sum(count for (of, _), count in results.n.items() if of == kind)
        wrong = len(results.wrong.get(kind, []))
        low = binomtest(wrong, n).proportion_ci(method="wilson").low
        assert low <= ((1 - (it.target or 1)) if it.is_secret else (it.target or 0)), results.wrong[kind][:3]
    assert len(results.wrong.get("card", [])) == 0
    assert results.leaks == 0
