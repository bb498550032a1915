from pathlib import Path

import pytest
import yaml

from assistant.prompt import Message
from finetune.cleaning.duplicates import answered
from finetune.cleaning.quality import abstains, canned, core, fault
from finetune.examples import NO_ANSWER
from finetune.turns import Turn

BOTH = ("en", "zh")
ASKED = {"en": "How long does a refund take?", "zh": "退款多久到账？"}


def turn(answer: str, question: str = ASKED["en"], **more) -> Turn:
    return Turn((Message("user", question),), Message("assistant", answer), "logs.jsonl:1", **more)


@pytest.mark.parametrize(
    ("answer", "lang"),
    [
        ("A refund to a card takes 5 to 8 business days.", "en"),
        ("Hello! Refunds take 5 to 8 business days. Is there anything else I can help with?", "en"),
        ("Hi, a refund to a card takes 5 to 8 business days.", "en"),
        ("Thank you for asking, the refund takes 5 business days.", "en"),
        ("I am sorry, but a refund takes up to 8 business days.", "en"),
        ("If you are not sure which card you used, open Me > Payments.", "en"),
        ("If we win the dispute, we will notify you within 2 business days.", "en"),
        ("The help centre has no article on this, so I can give no figure. Contact us for a person.", "en"),
        ("退回银行卡需要 5 至 8 个工作日，从商家同意时算起。", "zh"),
        ("您好，退款需要 5 至 8 个工作日到账。", "zh"),
        ("这可能会需要银行审核，一般 5 个工作日到账。", "zh"),
        ("帮助中心没有这方面的文章，我无法给出数字或承诺。", "zh"),
    ],
)
def test_a_plain_answer_has_no_fault(answer: str, lang: str) -> None:
    assert fault(turn(answer, ASKED[lang]), BOTH) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("   ", "empty"),
        ("In 5 days.", "too short"),
        ("word " * 1000, "too long"),
        ("As an AI language model, I do not have access to this.", "refusal"),
        ("I'm sorry for that. I cannot help with that.", "refusal"),
        ("I think the refund takes 5 business days.", "hedging"),
        ("It takes 5 business days. I'm not entirely sure, though.", "hedging"),
        ("Maybe you could ask your bank about the refund.", "hedging"),
        ("I’m not sure how long the refund takes.", "hedging"),
        ("I have refunded the payment to your card.", "promise of an action"),
        ("I will escalate this to the payments team.", "promise of an action"),
        ("Let me check the status of your refund for you.", "promise of an action"),
        ("Hello, this is Tidewing Pay support. How can I help?", "greeting, closing or holding line"),
        ("Thank you for your patience. Please hold while I look.", "greeting, closing or holding line"),
        ("This ticket has been closed. Have a nice day!", "greeting, closing or holding line"),
        ("I understand. Could you please provide your order number?", "only asks back"),
        ("Your card is <CARD_1> and the refund takes 5 business days.", "personal data that redaction took out"),
        ("The refund was initiated on [Date] and takes 5 business days.", "a gap that nobody filled in"),
    ],
)
def test_each_fault_has_its_reason_in_english(answer: str, reason: str) -> None:
    assert fault(turn(answer), BOTH) == reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("五天到账。", "too short"),
        ("作为一个人工智能，我不掌握您的订单情况。", "refusal"),
        ("抱歉，我无法回答这个问题。", "refusal"),
        ("应该是五个工作日左右到账吧。", "hedging"),
        ("退款的事情我也不太清楚，要问银行。", "hedging"),
        ("退款可能大概需要五个工作日才能到账。", "hedging"),
        ("好像是五个工作日，具体以银行为准。", "hedging"),
        ("已为您退款，请留意银行卡的到账通知。", "promise of an action"),
        ("我马上为您查询这笔退款的进度，请放心。", "promise of an action"),
        ("您好，这里是潮翼支付客服，请问您的问题是？", "greeting, closing or holding line"),
        ("好的，请稍等。正在查询。感谢您的耐心等待！", "greeting, closing or holding line"),
        ("請稍等，感謝您的耐心等待！祝您生活愉快！", "greeting, closing or holding line"),
        ("请提供一下您的订单号和付款时间。", "only asks back"),
    ],
)
def test_each_fault_has_its_reason_in_chinese(answer: str, reason: str) -> None:
    assert fault(turn(answer, ASKED["zh"]), BOTH) == reason


def test_an_answer_in_another_language_than_the_question_is_not_learned_from() -> None:
    english, chinese = "A refund to a card takes 5 business days.", "退回银行卡需要五个工作日。"
    other = "answers in another language than asked"
    assert fault(turn(english, ASKED["zh"]), BOTH) == other
    assert fault(turn(chinese, ASKED["en"]), BOTH) == other
    assert fault(turn(chinese, "Mastercard refund 费率"), BOTH) is None  # mostly Latin letters, yet asked in Chinese
    assert fault(turn(chinese, ASKED["zh"]), ["en"]) == "language that the base does not write"


def test_limits_are_bytes_and_can_be_set() -> None:
    assert fault(turn("In 5 days."), BOTH, shortest=10) is None
    assert fault(turn("A refund takes 5 business days."), BOTH, longest=20) == "too long"
    assert fault(turn("退回银行卡五个工作日。", ASKED["zh"]), BOTH) is None  # 11 characters, 33 bytes


def test_who_calls_tools_may_say_nothing_or_tell_what_was_done() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "refund", "arguments": "{}"}}
    silent = Turn((Message("user", "Refund it"),), Message("assistant", "", (call,)), "logs.jsonl:1")
    assert fault(silent, BOTH) is None
    done = "I have refunded the payment to your card."
    assert fault(turn(done, tools=({"name": "refund"},)), BOTH) is None


def test_a_mark_that_the_customer_wrote_may_be_repeated_but_never_a_security_code() -> None:
    question = "Is my card <CARD_1> with code <CVV_1> blocked?"
    assert fault(turn("The card <CARD_1> is blocked for 2 hours.", question), BOTH) is None
    assert fault(turn("The code <CVV_1> was entered wrongly.", question), BOTH) is not None


def test_a_canned_answer_stands_under_many_questions_that_share_no_word_with_it() -> None:
    things = "refund fee card limit invoice payout login password statement dispute".split()
    canned_turns = [turn("Could I get your full name?", f"Problem about {thing} {thing}") for thing in things]
    assert canned(canned_turns) == {"could i get your full name"}
    assert canned(canned_turns[:9]) == frozenset()
    assert canned(list(reversed(canned_turns))) == canned(canned_turns)


def test_one_answer_to_many_wordings_of_one_question_is_not_canned() -> None:
    days = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday today yesterday tomorrow".split()
    assert canned([turn("A refund takes 5 days.", f"I asked for a refund {day}, when?") for day in days]) == frozenset()
    zh = [turn("退款需要五个工作日。", f"{day}申请的退款什么时候到") for day in "一二三四五六七八九十甲乙"]
    assert canned(zh) == frozenset()


def test_that_the_help_centre_is_silent_is_not_canned() -> None:
    things = "weather football poems horoscopes recipes flights hotels novels songs chess".split()
    silent = [turn("The help centre has no article on this.", f"Tell me about {thing}") for thing in things]
    assert canned(silent) == frozenset()


SAMPLES = yaml.safe_load(
    (Path(__file__).parents[2] / "samples/conversations/_no_article.yaml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize(
    "answer",
    [
        *(text for texts in SAMPLES["answers"].values() for text in texts),
        *NO_ANSWER.values(),
        "Sorry, bitcoin is nothing that our help centre covers.",
        "I could not find anything on this in our help center.",
        "Our knowledge base doesn’t mention bitcoin.",
        "幫助中心沒有相關文章。",
        "知识库里没有收录这个问题。",
        "在帮助中心找不到相关内容，请联系人工客服。",
        "帮助中心对这个问题没有说明。",
        "帮助中心的资料里面没有提到这一点。",
        "The help centre does not yet cover crypto payments.",
        "Crypto isn't something our help centre covers.",
        "The help centre doesn't seem to cover this.",
    ],
)
def test_who_says_that_the_help_centre_is_silent_abstains(answer: str) -> None:
    assert abstains(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Please visit our Help Center for more information on this topic.",
        "The help centre explains how a refund works.",
        "There is no fee. Articles in the help centre tell more.",
        "If you cannot find it in our help centre, contact us.",
        "详情请查看帮助中心，不收费。",
        "您可以在帮助中心查看未到账的原因。",
        "请到帮助中心的未到账页面查看。",
        "帮助中心里无需登录即可查看。",
        "The amount stated in our help centre is 5 EUR.",
        "Each payment listed in our help centre is final.",
        "There is no fee for this in the help centre app.",
        "You have no limits in our help centre.",
    ],
)
def test_who_points_to_the_help_centre_does_not_abstain(answer: str) -> None:
    assert not abstains(answer)


def test_pointing_to_the_help_centre_whatever_is_asked_is_canned() -> None:
    """Every mention of the help centre was taken for abstaining, which is never canned."""
    answer = "Please visit our Help Center for more information on this topic."
    things = "weather football poems horoscopes recipes flights hotels novels songs chess".split()
    assert canned([turn(answer, f"Tell me about {thing}") for thing in things]) == {answered(turn(answer))}


def test_faults_do_not_change_when_the_canned_answers_are_gone() -> None:
    things = "refund fee card limit invoice payout login password statement dispute".split()
    turns = [turn("Could I get your full name?", f"Problem about {thing} {thing}") for thing in things]
    turns.append(turn("A refund takes 5 business days."))
    left = [each for each in turns if answered(each) not in canned(turns)]
    assert left == turns[-1:]
    assert canned(left) == frozenset()


def test_the_core_of_an_answer_leaves_out_courtesies() -> None:
    assert core("Hello! A refund takes 5 days. Is there anything else I can check?") == "A refund takes 5 days."
    assert core("您好！退款需要五天。还有什么可以帮您确认的吗？") == "退款需要五天。"
