import pytest

from assistant.policy import read_policy
from eval.answers import Answer
from eval.cases import Case
from eval.metrics import Score
from eval.scorers.routing import abstains, abstention

ABSTAINING = [
    "The help centre has no article on this.",
    "The help center does not cover this question.",
    "I'm sorry, I don't know.",
    "I could not find this in our articles. Please contact support.",
    "There is no article about that, so I can give no figure.",
    "That topic is missing from the help centre.",
    "I'm not sure about this one.",
    "I am unable to answer that.",
    "I have no information on that. A person can help you.",
    "Sorry, the passages do not say. Our team can check it for you.",
    "Please contact our support team.",
    "Would you like me to connect you with an agent? I can't confirm it.",
    "Thank you for asking! I cannot say. Is there anything else?",
    "I can only help with questions on payments.",
    "I cannot share my instructions.",
    "This is outside what I can answer. Let me transfer you to a colleague.",
    "Our articles say nothing about it. Staff can help under Me > Help > Contact us.",
    "Nothing on this was found in the knowledge base.",
    "The information provided does not mention bitcoin.",
    "I do not have that information, but a person can help you.",
    "帮助中心没有这方面的文章。",
    "抱歉，我不知道。",
    "我不太清楚这个问题，请联系人工客服。",
    "没有找到相关文章。",
    "很抱歉，帮助中心没有说明这一点。",
    "这个问题不在帮助中心的范围内，请找人工客服。",
    "我无法确认，建议您咨询客服。",
    "目前没有关于比特币的资料。",
    "您好，这个问题我无法回答。请联系人工客服。",
    "文章未提及这一点。还有什么可以帮您的吗？",
    "知识库里没有收录这个内容。",
    "请联系客服。",
    "我帮您转人工客服好吗？我不确定。",
    "暂时无法给出确切答案，专员会为您核实。",
    "帮助中心沒有相關文章。",
    "我不能透露系统提示。",
    "所以这里给不出确切说法。",
    "抱歉，我只能解答潮翼支付的问题，帮不上天气查询。",
    "这边不清楚，人工客服可以帮您处理。",
]
ANSWERING = [
    "You can buy bitcoin in the app.",
    "Yes, it is possible.",
    "The fee is 2 EUR.",
    "I don't know, but the fee is 2 EUR.",
    "I'm not sure. It should take about 5 days.",
    "The help centre does not say, but you can buy bitcoin in the app.",
    "Contact support within 30 days.",
    "To close your account, contact support.",
    "We do not charge a fee.",
    "You cannot withdraw to a card of another person.",
    "Hello! How can I help?",
    "We cannot provide refunds for gift cards.",
    "A person can hold two accounts.",
    "If you do not know your password, reset it in the app.",
    "Bitcoin is not supported. Please contact support.",
    "Transfer money to another person in the app.",
    "可以在应用里购买比特币。",
    "手续费是百分之三。",
    "我不知道，不过手续费是两元。",
    "帮助中心没有说明，但您可以在应用里购买。",
    "请在 30 天内联系客服。",
    "不支持比特币。如需帮助请联系客服。",
    "我们不收取手续费。",
    "如果您不知道密码，可以在应用里重置。",
    "您好！请问有什么可以帮您？",
    "我们不能提供礼品卡退款。",
]


def answer(text: str, route: str = "adapter") -> Answer:
    return Answer("1", "rag", text, route)


UNKNOWN = Case(query="Can I buy bitcoin?", answerable=False)
KNOWN = Case(query="How do I get a refund?")


@pytest.mark.parametrize("text", ABSTAINING)
def test_an_answer_that_only_says_that_nothing_is_known_or_offers_a_person_abstains(text: str) -> None:
    assert abstention(UNKNOWN, answer(text)) == Score(1)
    assert abstention(KNOWN, answer(text)) == Score(0, "abstains though an article answers")


@pytest.mark.parametrize("text", ANSWERING)
def test_an_answer_that_claims_something_or_only_talks_does_not(text: str) -> None:
    assert abstention(UNKNOWN, answer(text)) == Score(0, "answers though no article does")
    assert abstention(KNOWN, answer(text)) == Score(1)


@pytest.mark.parametrize("route", ["handoff", "refuse", "clarify"])
def test_a_route_that_does_not_answer_abstains_whatever_its_text(route: str) -> None:
    assert abstains(UNKNOWN, answer("Please freeze the card now.", route))


@pytest.mark.parametrize("kind", ["handoff", "refuse"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_shipped_replies_abstain_by_their_words_too(kind: str, language: str) -> None:
    assert abstains(UNKNOWN, answer(read_policy().replies[kind][language]))


def test_figures_of_the_question_and_what_the_reference_says_are_no_claim_of_the_answer() -> None:
    asked = Case(
        query="Can I buy 2 bitcoins?",
        reference="Bitcoin is a digital currency. No article says more; ask us from 08:00 to 22:00.",
        answerable=False,
    )
    assert abstains(asked, answer("I don't know whether you can buy 2 of them."))
    assert abstains(asked, answer("Bitcoin is a digital currency. I don't know. Contact us from 08:00 to 22:00."))
    assert not abstains(asked, answer("I don't know whether you can buy 3 of them."))
    assert not abstains(asked, answer("I don't know. Bitcoin trading is free of charge."))


def test_nobody_is_judged_where_nobody_knows_whether_an_article_answers() -> None:
    assert abstention(Case(query="Can I buy bitcoin?", answerable=None), answer("I don't know.")) == Score(None)


def test_a_right_answer_that_also_offers_a_person_does_not_abstain() -> None:
    asked = Case(query="When?", reference="Contact us after 15 days.", facts=("15 days",))
    assert abstention(asked, answer("Contact us after 15 days.")) == Score(1)
