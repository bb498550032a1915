from pathlib import Path

import pytest

from assistant.redaction import Redactor, redact

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    "card",
    [
        "4111111111111111",
        "4111 1111 1111 1111",
        "5555-5555-5555-4444",
        "4111.1111.1111.1111",
        "４１１１１１１１１１１１１１１１",
        "４１１１　１１１１　１１１１　１１１１",
        "4111\u200b1111\u200b1111\u200b1111",
        "4111\n1111\n1111\n1111",
        "378282246310005",
    ],
)
def test_a_card_number_becomes_a_placeholder_however_it_is_typed(card: str) -> None:
    assert redact(f"my card {card} was refused") == "my card <CARD_1> was refused"
    assert redact(f"我的卡{card}被拒了") == "我的卡<CARD_1>被拒了"


def test_a_security_code_goes_with_its_card() -> None:
    assert redact("4111 1111 1111 1111, cvv 123") == "<CARD_1>, cvv <CVV_1>"
    assert redact("卡4111111111111111，安全码123") == "卡<CARD_1>，安全码<CVV_1>"
    assert "4111" not in redact("4111 1111 1111 1111 123")


def test_two_cards_in_a_row_are_two_placeholders() -> None:
    assert redact("4111111111111111 5555555555554444") == "<CARD_1> <CARD_2>"


@pytest.mark.parametrize(
    "text",
    [
        "order 4111111111111112",  # its Luhn digit is wrong
        "order 1234567812345670",  # Luhn holds, but no card starts with 1
        "within 180 days, at 23:59, for 2.5% or 1,000.00 EUR",
        "2026-09-14 2026-09-15",
        "reference 110105194912310021",  # the check digit of the identity number is wrong
    ],
)
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    assert redact(text) == text


def test_a_chinese_identity_number_needs_its_check_digit() -> None:
    assert redact("身份证11010519491231002X。") == "身份证<ID_1>。"
    assert redact("身份证11010519491231002ｘ。") == "身份证<ID_1>。"


@pytest.mark.parametrize("phone", ["13800138000", "+86 139 0013 9000", "+44 20 7946 0018", "１３８００１３８０００"])
def test_a_phone_number_becomes_a_placeholder(phone: str) -> None:
    assert redact(f"call {phone} please") == "call <PHONE_1> please"


def test_an_email_address_becomes_a_placeholder() -> None:
    assert redact("write to a.b+c@example.co.uk, or A.B+C@example.co.uk") == "write to <EMAIL_1>, or <EMAIL_1>"
    assert redact("write to a＠example.com now") == "write to <EMAIL_1> now"


def test_chinese_text_around_an_email_address_stays() -> None:
    assert redact("邮箱是abc@qq.com谢谢") == "邮箱是<EMAIL_1>谢谢"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN <IBAN_1>."),
        ("pay to DE89370400440532013000 today", "pay to <IBAN_1> today"),
        ("账号DE89370400440532013000是我的", "账号<IBAN_1>是我的"),
        ("PAY TO DE89 3704 0044 0532 0130 00 TODAY", "PAY TO <IBAN_1> TODAY"),
        ("wrong check digits: DE88370400440532013000", "wrong check digits: DE88370400440532013000"),
    ],
)
def test_an_iban_with_right_check_digits_becomes_a_placeholder(text: str, redacted: str) -> None:
    assert redact(text) == redacted


def test_one_redactor_gives_the_same_value_the_same_placeholder_and_counts() -> None:
    redactor = Redactor()
    assert redactor("4111 1111 1111 1111 or 5555 5555 5555 4444") == "<CARD_1> or <CARD_2>"
    assert redactor("5555-5555-5555-4444, then 4111111111111111") == "<CARD_2>, then <CARD_1>"
    assert redactor.counts == {"CARD": 4}


def test_redacting_twice_changes_nothing_more() -> None:
    once = redact("4111 1111 1111 1111, cvv 123, a@b.com, +44 20 7946 0018, 11010519491231002X")
    assert once == "<CARD_1>, cvv <CVV_1>, <EMAIL_1>, <PHONE_1>, <ID_1>"
    assert redact(once) == once


def test_the_articles_of_the_sample_company_are_left_unchanged() -> None:
    for path in sorted((ROOT / "knowledge").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        assert redact(text) == text, path


def test_twice_as_long_a_row_of_numbers_is_twice_the_work() -> None:
    """A card has at most 19 digits, yet every pair of ends was a window: 4,000 characters of digits took minutes."""
    from assistant.redaction import _windows

    short, long = (sum(1 for _ in _windows("1 " * length)) for length in (200, 400))
    assert long < 2.5 * short
