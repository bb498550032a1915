import typing
from pathlib import Path

import pytest

from assistant.chat import Route
from assistant.policy import Policy, read_policy
from assistant.prompt import Message
from assistant.redaction import redact
from retrieval.errors import InputError

REASONS = ["threat", "stolen_card", "fraud", "legal", "asks_for_person", "repeated_failure"]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return read_policy(None)


def said(*texts: str) -> list[Message]:
    """A conversation in which each message of the customer but the last was answered."""
    turns = [(Message("user", text), Message("assistant", "Please see the article on refunds.")) for text in texts]
    return [message for turn in turns for message in turn][:-1]


@pytest.mark.parametrize(
    ("reason", "question"),
    [
        ("stolen_card", "I lost my card and need a new one"),
        ("stolen_card", "Someone stole my wallet"),
        ("stolen_card", "How do I report a lost card?"),
        ("stolen_card", "I can't find my Visa anywhere"),
        ("stolen_card", "我的银行卡丢了"),
        ("stolen_card", "钱包昨天被偷了"),
        ("stolen_card", "怎么挂失？"),
        ("stolen_card", "我的信用卡遺失了，怎麼辦"),
        ("fraud", "Somebody is using my account right now"),
        ("fraud", "My account has been hacked"),
        ("fraud", "There is a transfer that I did not make"),
        ("fraud", "ｍｙ　ａｃｃｏｕｎｔ　ｗａｓ　ｈａｃｋｅｄ"),
        ("fraud", "我的账户被盗了"),
        ("fraud", "这笔转账不是我本人操作的"),
        ("fraud", "有人在用我的账户付款"),
        ("fraud", "卡裡的錢被轉走了"),
        ("threat", "I just want to die"),
        ("threat", "I'm going to kill you all"),
        ("threat", "我不想活了"),
        ("threat", "再不退钱我就跳楼"),
        ("legal", "My lawyer will contact you"),
        ("legal", "I will take this to the ombudsman"),
        ("legal", "I’m going to sue you"),
        ("legal", "我要起诉你们"),
        ("legal", "我已经报警了"),
        ("legal", "我要向银保监会投诉"),
        ("asks_for_person", "I want to speak to a real person"),
        ("asks_for_person", "agent please"),
        ("asks_for_person", "Connect me with your manager"),
        ("asks_for_person", "转人工"),
        ("asks_for_person", "帮我找人工客服"),
        ("asks_for_person", "請幫我轉人工"),
    ],
)
def test_what_a_person_must_take_over_is_handed_over(policy: Policy, reason: str, question: str) -> None:
    assert policy.handoff(said(question)) == reason


@pytest.mark.parametrize(
    "question",
    [
        "What happens to my refund if my card was replaced?",
        "How do I contact support?",
        "Does a lawyer need to sign for a business account?",
        "How long does a replacement for a stolen card take?",
        "I found the card that I thought I lost, can I use it again?",
        "The ATM took my card",
        "How long do I have to report a payment I never made?",
        "Are you a human or a robot?",
        "My wife is going to kill me if this parcel is late",
        "Do I have to talk to someone to close my account?",
        "怎么联系客服？",
        "卡丢了已经补了新卡，退款能到新卡上吗？",
        "盗刷的钱你们会全赔吗？",
        "开商家账户需要律师签字吗？",
        "你是机器人还是真人？",
        "人工客服几点上班？",
    ],
)
def test_a_question_about_a_thing_is_answered(policy: Policy, question: str) -> None:
    assert policy.handoff(said(question)) is None


def test_a_stolen_card_comes_before_the_police_and_a_life_before_both(policy: Policy) -> None:
    question = "My card was stolen and I called the police."
    assert policy.handoff(said(question)) == "stolen_card"
    assert policy.handoff(said(f"{question} I want to kill myself.")) == "threat"


def test_one_sentence_about_a_thing_does_not_hide_what_another_says(policy: Policy) -> None:
    assert policy.handoff(said("My card was stolen. How long does a new one take?")) == "stolen_card"


def test_a_card_number_that_was_taken_out_is_still_a_card(policy: Policy) -> None:
    question = redact("4111 1111 1111 1111 was stolen!")
    assert question == "<CARD_1> was stolen!"
    assert policy.handoff(said(question)) == "stolen_card"


def test_what_was_handed_over_before_does_not_hold_up_the_next_question(policy: Policy) -> None:
    assert policy.handoff(said("I lost my card", "What does a withdrawal cost?")) is None


def test_messages_in_a_row_are_read_together(policy: Policy) -> None:
    assert policy.handoff([Message("user", "I lost my card"), Message("user", "hello??")]) == "stolen_card"


def test_twice_no_help_is_a_failure_and_once_is_none(policy: Policy) -> None:
    assert policy.handoff(said("Where is my refund?", "That didn't help")) is None
    assert policy.handoff(said("Where is my refund?", "That didn't help", "Your answers are useless")) == REASONS[-1]
    assert policy.handoff(said("退款呢？", "没用", "答非所问")) == REASONS[-1]


def test_a_failure_is_over_once_the_customer_asks_something_else(policy: Policy) -> None:
    assert policy.handoff(said("Hi", "That didn't help", "That didn't help", "What does a withdrawal cost?")) is None


def test_the_same_question_three_times_is_a_failure(policy: Policy) -> None:
    asked = ["When does my refund arrive?", "when will my refund arrive", "My refund, when does it arrive?!"]
    assert policy.handoff(said(*asked[:2])) is None
    assert policy.handoff(said(*asked)) == "repeated_failure"
    assert policy.handoff(said("退款多久到账？", "退款多久到账", "退款要多久到账？")) == "repeated_failure"


def test_other_forms_of_its_words_and_characters_ask_the_same_question(policy: Policy) -> None:
    assert policy.handoff(said("cancelling payments", "cancelled payment", "cancel payments")) == "repeated_failure"
    assert policy.handoff(said("dying batteries", "die battery", "batteries dying")) == "repeated_failure"
    assert policy.handoff(said("轉賬退款", "转账退款", "转账　退款")) == "repeated_failure"


def test_yes_three_times_is_no_question(policy: Policy) -> None:
    assert policy.handoff(said("yes please do that", "yes please do that", "yes please do that")) is None


@pytest.mark.parametrize(
    ("topic", "english", "chinese"),
    [
        ("fees", "What does a withdrawal cost?", "提现手续费是多少？"),
        ("limits", "What is the maximum for a payment?", "单笔限额是多少？"),
        ("deadlines", "When does my refund arrive?", "退款多久到账？"),
        ("account_actions", "How do I close my account?", "怎么注销账户？"),
        (None, "Tell me a joke about cats", "讲个关于猫的笑话"),
    ],
)
def test_money_terms_and_account_steps_need_a_passage(
    policy: Policy, topic: str | None, english: str, chinese: str
) -> None:
    assert policy.needs_passage(english) == topic
    assert policy.needs_passage(chinese) == topic


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_route_and_reason_has_a_notice_and_a_reply(policy: Policy, language: typing.Any) -> None:
    notices = [policy.notice(route, language) for route in typing.get_args(Route)]
    notices += [policy.notice("handoff", language, reason) for reason in REASONS]
    replies = [policy.reply(route, language, None) for route in ("clarify", "refuse", "handoff")]
    replies += [policy.reply("handoff", language, reason) for reason in REASONS]
    assert len(set(notices)) == 6 + 6
    assert len(set(replies)) == 3 + 6
    assert list(policy.reasons) == REASONS


def test_replies_name_no_figure_and_a_stolen_card_is_to_be_frozen_now(policy: Policy) -> None:
    assert not [text for texts in policy.replies.values() for text in texts.values() if any(map(str.isdecimal, text))]
    assert policy.reply("handoff", "en", "stolen_card").startswith("Please freeze or block the card now")
    assert policy.reply("handoff", "zh", "stolen_card").startswith("请立即冻结或挂失这张卡")


def test_a_file_of_ones_own_adds_replaces_and_switches_off(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "handoff:\n  legal: {}\n  sanctions: {en: ['\\bsanction']}\n"
        "topics:\n  interest: {zh: [年化]}\n"
        "replies:\n  refuse: {en: Ask us., zh: 请问我们。}\n",
        encoding="utf-8",
    )
    policy = read_policy(path)
    assert policy.handoff(said("My lawyer will contact you")) is None
    assert policy.handoff(said("Am I on a sanctions list?")) == "sanctions"
    assert policy.needs_passage("年化怎么算") == "interest"
    assert policy.reply("refuse", "en", "interest") == "Ask us."
    assert policy.reply("handoff", "en", "sanctions") == policy.reply("handoff", "en", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("handoff:\n  legal: {en: ['(']}\n", "entry 'handoff.legal.en.0'"),
        ("handoff:\n  legal: {fr: [avocat]}\n", "entry 'handoff.legal.fr'"),
        ("topic: {}\n", "entry 'topic'"),
        ("replies:\n  refuse: {en: No.}\n", "entry 'replies.refuse.zh'"),
        ("- a\n", "entry ''"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_entry(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as refused:
        read_policy(path)
    assert "own.yaml" in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml cannot be read"):
        read_policy(tmp_path / "none.yaml")
