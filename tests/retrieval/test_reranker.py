"""A real cross-encoder, made here: a random BERT of two layers of width 32 that knows two words."""

from pathlib import Path

import pytest

from retrieval.errors import ModelError
from retrieval.reranker import CrossEncoderReranker


def make_cross_encoder(folder: Path, labels: int) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "refund", "fee"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=labels,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoderReranker:
    return CrossEncoderReranker(str(make_cross_encoder(tmp_path_factory.mktemp("reranker"), labels=1)))


def test_each_passage_has_a_score_of_its_own_whatever_stands_beside_it(reranker: CrossEncoderReranker) -> None:
    passages = ["a refund", "fee fee fee", "no word that is known " * 50]  # longer than the model reads
    together = reranker.scores("refund", passages)
    alone = [reranker.scores("refund", [passage])[0] for passage in passages]
    assert all(isinstance(score, float) for score in together)
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 3


def test_the_query_counts(reranker: CrossEncoderReranker) -> None:
    assert reranker.scores("refund", ["a refund"]) != reranker.scores("fee fee", ["a refund"])


def test_no_passages_have_no_scores(reranker: CrossEncoderReranker) -> None:
    assert reranker.scores("refund", []) == []


@pytest.mark.parametrize("name", ["no-body/no-model", "/nowhere", "a folder without a model"])
def test_what_is_no_model_is_a_model_error_in_one_line_that_names_it(name: str, tmp_path: Path) -> None:
    if name == "a folder without a model":
        name = str(tmp_path)
    with pytest.raises(ModelError, match=f"^reranker {name!r} cannot be loaded as a cross-encoder: .*, or none$"):
        CrossEncoderReranker(name)


def test_a_model_of_three_classes_is_a_model_error(tmp_path: Path) -> None:
    """It loaded, and the first search ended with a TypeError."""
    with pytest.raises(ModelError, match="gives 3 figures for a pair of texts, not one score"):
        CrossEncoderReranker(str(make_cross_encoder(tmp_path / "three", labels=3)))
