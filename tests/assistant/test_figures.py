import random

import pytest

from assistant.figures import figures, figures_of_passage, unsupported

UNITS = {
    "day": ("{} days", "{}-day", "{}天", "{} 日"),
    "business day": ("{} business days", "{}个工作日", "{} 個工作日"),
    "hour": ("{} hours", "{}小时", "{} 个钟头"),
    "minute": ("{} minutes", "{}分钟", "{}分鐘"),
    "percent": ("{}%", "{} %", "{} percent", "百分之{}"),
    "USD": ("${}", "USD {}", "{} USD", "{}美元"),
    "CNY": ("CNY {}", "¥{}", "{} RMB", "{}元", "{} 块", "人民币{}元"),
    "alone": ("{} accounts", "{} 个账户"),
}
NUMERALS = "零一二三四五六七八九"


@pytest.mark.parametrize(
    "same",
    [
        ["1,000 CNY", "1000 CNY", "1 000 CNY", "１０００元", "一千元", "1千元", "CNY 1,000.00"],
        ["3%", "3 %", "3 percent", "百分之三", "３％", "three per cent"],
        ["$5", "5 USD", "USD 5", "5美元", "五美元", "five dollars"],
        ["15 minutes", "15分钟", "fifteen minutes", "十五分钟", "十五分鐘"],
        ["3 days", "three days", "3天", "三日", "3 calendar days", "3-day"],
        ["24小时", "24个钟头", "24 hours", "twenty-four hours", "24h"],
        ["5元", "5块", "人民币5元", "RMB 5", "CNY 5", "￥5"],
        ["1.5万元", "15000元", "一万五千元", "15k CNY", "fifteen thousand yuan"],
        ["2026-01-31", "31 January 2026", "January 31, 2026", "2026年1月31日", "二〇二六年一月三十一日", "2026/1/31"],
        ["9:30 pm", "21:30", "晚上9点半", "下午9:30", "晚上九点三十分"],
        ["3 to 5 business days", "3-5 business days", "3至5个工作日", "三到五个工作日", "3–5 個工作日"],
        ["half an hour", "半小时", "0.5 hours"],
        ["within a day", "1 day", "一天"],
        ["T+1", "T＋1", "t+1"],
    ],
)
def test_one_figure_is_the_same_however_it_is_written(same: list[str]) -> None:
    assert len({figures(text) for text in same}) == 1
    assert figures(same[0])


@pytest.mark.parametrize(
    ("answer", "source"),
    [
        ("5 days", "5%"),
        ("5 days", "5 business days"),
        ("1 day", "24 hours"),
        ("5 USD", "5 EUR"),
        ("5 USD", "50 USD"),
        ("5", "5 days"),
        ("3-5 days", "5 days"),
        ("21:30", "9:30"),
        ("31 January 2026", "31 January"),
    ],
)
def test_another_unit_or_value_is_another_figure(answer: str, source: str) -> None:
    assert unsupported(answer, figures(source)) == (answer,)


def test_figures_come_back_as_written_and_in_order() -> None:
    known = figures("A refund takes 3 to 5 business days. It is free.") | figures("I paid ¥300 on 31 January 2026")
    assert unsupported("Your ￥３００ of 31 January arrive in 3-5 business days.", known) == ()
    assert unsupported("退款 ７ 天到账，手续费百分之二，最多 300 元。", known) == ("７ 天", "百分之二")


@pytest.mark.parametrize(
    "text",
    [
        "1. Open Me\n2. Tap Bills\n - 3) Choose",
        "1.",
        "Steps: 1. Open it. 2. Tap it.",
        "① 打开 ② 点击",
        "See step 2, steps 3 to 5 and 第2步 of 3 steps.",
        "It is so [1] for <CARD_1> and <PHONE_12>.",
        "We are here 24/7, 7x24.",
        "Call 400-820-8820 or +86 139 0013 9000 or 010-12345678.",
        "Order 2026013112345678 uses 3DS and 2FA over v1.2.3.",
        "No one of them; one is enough.",
        "十分抱歉，万一不行，千万不要重试，统一处理，一直如此。",
        "请注意以下3点：",
        "After three attempts, choose one card.",
        "see https://example.com/30-days",
    ],
)
def test_numbers_that_claim_nothing_are_left_alone(text: str) -> None:
    assert unsupported(text, frozenset()) == ()


def test_a_long_number_with_separators_is_a_figure_and_an_order_is_none() -> None:
    assert unsupported("1,000,000 payments", frozenset()) == ("1,000,000",)
    assert unsupported("order 1000000", frozenset()) == ()


def test_the_next_working_day_is_no_count() -> None:
    assert unsupported("下一个工作日到账，最后一天截止，每一天都可以", frozenset()) == ()


def test_a_source_may_count_in_words() -> None:
    assert unsupported("after 3 attempts and 2 cards", figures("After three attempts. 最多两张卡。")) == ()


def test_a_date_states_its_day_and_its_year() -> None:
    assert unsupported("on 31 January, in 2026", figures("2026年1月31日")) == ()


def test_nothing_that_is_typed_breaks_the_reading() -> None:
    chance = random.Random(7)
    alphabet = [
        *"0123456789,. -%$¥月日年点半分个十百千万亿一二三零<>[]()",
        "May ",
        " to ",
        " hundred ",
        "k",
        "T+",
        "元",
        "\n",
    ]
    for _ in range(3_000):
        text = "".join(chance.choices(alphabet, k=20))
        assert unsupported(text, figures(text)) == (), text


def numeral(number: int) -> str:
    """0 to 9999 in Chinese numerals."""
    digits = [int(digit) for digit in f"{number:04}"]
    written = "".join(NUMERALS[d] + size if d else "零" for d, size in zip(digits, ["千", "百", "十", ""], strict=True))
    while "零零" in written:
        written = written.replace("零零", "零")
    return written.strip("零") or "零"


def test_any_number_in_any_unit_is_found_again_in_the_other_forms() -> None:
    chance = random.Random(7)
    for _ in range(500):
        number = chance.randrange(2, 10_000)
        unit, forms = chance.choice(list(UNITS.items()))
        written = [str(number), f"{number:,}", numeral(number)] if unit != "alone" else [str(number), f"{number:,}"]
        one, other = (f"退款 {chance.choice(forms).format(chance.choice(written))}" for _ in range(2))
        assert unsupported(one, figures(other)) == (), (one, other)
        elsewhere = chance.choice([name for name in UNITS if name != unit])
        third = UNITS[elsewhere][0].format(number)
        assert len(unsupported(one, figures(third))) == 1, (one, third)


def test_the_figures_of_a_passage_are_those_of_its_text() -> None:
    assert figures_of_passage("The fee is 2.5%.") == figures("The fee is 2.5%.") == figures("2.5%")
