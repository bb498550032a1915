import shutil
from pathlib import Path

import pytest

from eval.answers import Answer, Shown
from eval.cases import Case
from eval.metrics import Score
from eval.scorers import entailments
from eval.scorers.claims import claims
from eval.scorers.groundedness import grounded
from retrieval.errors import ModelError

REFUNDS = Shown("en/refunds.md", "Refunds", "You can request a refund within 180 days. Tap **Request refund** in Me.")
REFUNDS_ZH = Shown("zh/refunds.md", "退款", "付款后 180 天内可以申请退款，在“我的 > 账单”里点“申请退款”。")


def case(query: str = "How long do I have?") -> Case:
    return Case(query=query)


def answer(text: str, *passages: Shown) -> Answer:
    return Answer("1", "rag", text, "grounded", passages=passages)


@pytest.mark.parametrize(
    ("text", "claimed"),
    [
        ("Hello! You can pay by card [1]. Is there anything else?", ["You can pay by card."]),
        ("您好！可以用银行卡付款。还有什么可以帮您的吗？", ["可以用银行卡付款。"]),
        ("Thank you for asking. I'm sorry to hear that.", []),
        ("The help centre does not say, but cards work.", ["cards work."]),
        ("帮助中心没有说明，不过可以用银行卡。", ["可以用银行卡。"]),
        ("I don't know. Please contact support.", []),
        ("I don't know, maybe 5 days.", ["I don't know, maybe 5 days."]),
        ("Sorry, the card is blocked.", ["Sorry, the card is blocked."]),
        ("From our help centre:\n- Cards work.", ["Cards work."]),
    ],
)
def test_claims_are_the_sentences_that_say_something(text: str, claimed: list[str]) -> None:
    assert claims(text) == claimed


@pytest.mark.parametrize(
    "text",
    [
        "You can request a refund within 180 days. [1]",
        "Within 180 days, you can request a refund.",
        "180 days.",
        "That works. You can request a refund within 180 days.",
        'Tap "Request refund" to request it.',
        "Hello! You can request a refund within 180 days. Anything else?",
    ],
)
def test_what_a_passage_says_is_grounded(text: str) -> None:
    assert grounded(case(), answer(text, REFUNDS)) == Score(1)


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        ("You can request a refund within 90 days.", "states 90 days, which no passage does"),
        ("You can request a refund within ninety days.", "states ninety days, which no passage does"),
        ("You can request a refund within 180 hours.", "states 180 hours, which no passage does"),
        ('Tap "Send money" to request a refund.', "names Send money, which no passage does"),
        ("You can request a refund in Alipay.", "names Alipay, which no passage does"),
        ("Our shops sell plastic flowers.", "shares only 0% of its words with a passage"),
    ],
)
def test_what_no_passage_says_is_not(text: str, evidence: str) -> None:
    assert grounded(case(), answer(text, REFUNDS)) == Score(0, f'"{text}" {evidence}')


def test_chinese_claims_are_judged_alike() -> None:
    assert grounded(case(), answer("一百八十天内可以申请退款。", REFUNDS_ZH)) == Score(1)
    assert grounded(case(), answer("在“我的 > 账单”里点“申请退款”。", REFUNDS_ZH)) == Score(1)
    assert grounded(case(), answer("90 天内可以申请退款。", REFUNDS_ZH)).value == 0
    assert grounded(case(), answer("可以申请微信退款，点“转账”。", REFUNDS_ZH)).value == 0


def test_what_the_customer_said_needs_no_passage() -> None:
    asked = case("I paid 42 EUR to Amazon, can I get it back?")
    text = "You can request a refund of the 42 EUR from Amazon within 180 days."
    assert grounded(asked, answer(text, REFUNDS)) == Score(1)
    assert grounded(case(), answer(text, REFUNDS)).value == 0


def test_each_claim_counts_and_the_first_wrong_one_is_the_evidence() -> None:
    text = "You can request a refund within 180 days. It costs 3 EUR. It costs 4 EUR."
    found = grounded(case(), answer(text, REFUNDS))
    assert found == Score(1 / 3, '"It costs 3 EUR." states 3 EUR, which no passage does')


def test_figures_and_names_are_compared_where_words_cannot_be_since_the_passage_is_in_the_other_language() -> None:
    assert grounded(case(), answer("付款后 180 天内可以退。", REFUNDS)) == Score(1)
    assert grounded(case(), answer("付款后 90 天内可以退。", REFUNDS)).value == 0


def test_without_passages_or_claims_nothing_is_judged() -> None:
    assert grounded(case(), answer("Within 180 days.")) == Score(None)
    assert grounded(case(), answer("I don't know.", REFUNDS)) == Score(None)


def test_the_evidence_holds_no_card_number() -> None:
    found = grounded(case(), answer("Your card 4111 1111 1111 1111 is blocked.", REFUNDS))
    assert found.value == 0
    assert "4111" not in found.evidence


def make_nli_model(folder: Path, labels: tuple[str, ...], always: int) -> str:
    """A random BERT of two layers and width 32, whose bias makes it say `always`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "refund", "fee"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        id2label=dict(enumerate(labels)),
        label2id={label: n for n, label in enumerate(labels)},
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.bias[always] = 100.0
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    return str(folder)


def test_entailment_is_read_from_the_model_s_own_labels(tmp_path: Path) -> None:
    labels = ("contradiction", "entailment", "neutral")
    asked = [case(), case(), case()]
    answers = [answer("A refund is due. A fee is due.", REFUNDS, REFUNDS), answer("A fee is due."), answer("", REFUNDS)]
    agrees, denies = (make_nli_model(tmp_path / labels[n], labels, always=n) for n in (1, 0))
    assert entailments(asked, answers, agrees) == [Score(1), Score(None), Score(None)]
    assert entailments(asked, answers, denies) == [
        Score(0, '"A refund is due." follows from no passage'),
        Score(None),
        Score(None),
    ]


def test_the_model_is_loaded_once_and_shows_its_progress_only_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each arm loaded it again, and its bar was drawn into what should have been JSON."""
    model = make_nli_model(tmp_path / "nli", ("contradiction", "entailment", "neutral"), always=1)
    claimed = [answer("A fee is due.", REFUNDS)]
    assert entailments([case()], claimed, model) == [Score(1)]
    assert "Batches" not in capsys.readouterr().err
    shutil.rmtree(model)
    assert entailments([case()], claimed, model, progress=True) == [Score(1)]
    assert "Batches" in capsys.readouterr().err


def test_no_model_is_loaded_where_nothing_is_claimed() -> None:
    assert entailments([case()], [answer("I don't know.", REFUNDS)], "no-body/no-model") == [Score(None)]


def test_a_model_that_is_none_or_knows_no_entailment_is_a_model_error(tmp_path: Path) -> None:
    claimed = [answer("A fee is due.", REFUNDS)]
    with pytest.raises(
        ModelError, match=r"^NLI model 'no-body/no-model' cannot be loaded as a cross-encoder: .* none$"
    ):
        entailments([case()], claimed, "no-body/no-model")
    ranks = make_nli_model(tmp_path / "ranks", ("good", "bad"), always=0)
    with pytest.raises(ModelError, match="has the labels good, bad and no 'entailment'; give a cross-encoder"):
        entailments([case()], claimed, ranks)
