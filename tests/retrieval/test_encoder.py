import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from retrieval import backends, onnx_export
from retrieval.backends import PASSAGES, QUERIES
from retrieval.embedded_encoder import NAME
from retrieval.encoder import Encoder
from retrieval.encoder_files import find
from retrieval.errors import ModelError, StorageError
from retrieval.files import folder_hashes

LONG = "How do I get my money back? 怎么退款？ " * 100
TEXTS = ["Where is my refund?", "退款什么时候到账？", "", "fee " * 60, LONG]


def make_encoder(folder: Path, pooling: str = "cls", dense: bool = False, seed: int = 0) -> Path:
    """A random BERT of two layers of width 64 as a sentence-transformers folder; a token is a character."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = sorted({letter for text in (*QUERIES, *PASSAGES) for letter in text if not letter.isspace()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]
    tokenizer = Tokenizer(models.WordLevel({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(seed)
    bert = BertModel(
        BertConfig(
            vocab_size=len(pieces),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=128,
            initializer_range=0.2,
        )
    )
    parts = folder.parent / f"{folder.name}-parts"
    bert.save_pretrained(parts)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(parts)
    modules = [Transformer(str(parts)), Pooling(64, pooling_mode=pooling)]
    modules += [Dense(64, 32)] if dense else [Normalize()]
    prompts = {"query": "Q ", "document": "P "}
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder), create_model_card=False)
    shutil.rmtree(parts)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Torch's threads wait for each other at every operation, which takes long where other programs run."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny encoder's folder, and the models folder with its export."""
    root = tmp_path_factory.mktemp("tiny")
    folder = make_encoder(root / "encoder")
    Encoder(str(folder), root / "models")
    return folder, root / "models"


@pytest.fixture
def own(tiny: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same for one test that changes them."""
    folder, models = tiny
    shutil.copytree(folder, tmp_path / "encoder", copy_function=shutil.copy2)
    (made,) = models.iterdir()
    target = tmp_path / "models"
    shutil.copytree(made, find(str(tmp_path / "encoder"), target).exports)
    return tmp_path / "encoder", target


def exports(models: Path) -> list[Path]:
    """The folders of exports under `models`."""
    return sorted(path.parent for path in models.glob("*/*/export.json"))


def no_measuring(*args: object) -> None:
    raise AssertionError("measured again")


# The embedded encoder


def test_a_recorded_onnx_encoder_opens_without_torch(encoder, models: Path) -> None:
    """Importing torch, transformers and sentence-transformers takes some ten seconds."""
    code = (
        "import sys; from pathlib import Path; from retrieval.encoder import Encoder\n"
        "encoder = Encoder(sys.argv[1], Path(sys.argv[2]), 'onnx-int8')\n"
        "encoder.queries(['退款']); encoder.passages(['a', 'b']); encoder.count_tokens('a')\n"
        "print({'torch', 'transformers', 'sentence_transformers', 'onnx', 'huggingface_hub'} & set(sys.modules))"
    )
    Encoder(NAME, models, "onnx-int8")
    run = subprocess.run([sys.executable, "-c", code, NAME, str(models)], capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr


def test_int8_vectors_are_nearly_those_of_torch(encoder, models: Path) -> None:
    torch, int8 = (Encoder(NAME, models, backend) for backend in ("torch", "onnx-int8"))
    expected = np.concatenate([torch.queries(TEXTS), torch.passages(TEXTS)])
    found = np.concatenate([int8.queries(TEXTS), int8.passages(TEXTS)])
    assert found.dtype == np.float32 and found.shape == (10, 384)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert ((expected * found).sum(axis=1) > 0.99).all()
    assert not np.allclose(expected, found, atol=1e-4)


def test_a_vector_does_not_depend_on_the_texts_around_it(encoder, models: Path) -> None:
    """An int8 range is that of a whole batch; in one, a passage would have another vector than alone."""
    int8 = Encoder(NAME, models, "onnx-int8")
    together = int8.passages(TEXTS)
    assert np.array_equal(together, np.concatenate([int8.passages([text]) for text in TEXTS]))


# Backends


def test_onnx_computes_what_torch_computes(tiny: tuple[Path, Path]) -> None:
    """CLS pooling, token types, both prompts, and texts that are cut."""
    folder, models = tiny
    torch, onnx = Encoder(str(folder), models, "torch"), Encoder(str(folder), models, "onnx")
    assert np.allclose(torch.queries(TEXTS), onnx.queries(TEXTS), atol=1e-5)
    assert np.allclose(torch.passages(TEXTS), onnx.passages(TEXTS), atol=1e-5)
    assert not np.allclose(onnx.queries(TEXTS), onnx.passages(TEXTS), atol=1e-2)
    export = json.loads((exports(models)[0] / "export.json").read_text(encoding="utf-8"))
    assert export["inputs"] == ["input_ids", "token_type_ids"]
    assert (export["pooling"], export["query_prompt"], export["passage_prompt"]) == ("cls", "Q ", "P ")


def test_mean_pooling_is_exported_too(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "encoder", pooling="mean")
    onnx = Encoder(str(folder), tmp_path / "models", "onnx")
    assert np.allclose(
        Encoder(str(folder), tmp_path / "models", "torch").passages(TEXTS), onnx.passages(TEXTS), atol=1e-5
    )


@pytest.mark.parametrize("backend", ["torch", "onnx", "onnx-int8"])
def test_every_backend_counts_the_same_tokens_and_says_what_it_is(tiny: tuple[Path, Path], backend: str) -> None:
    encoder = Encoder(str(tiny[0]), tiny[1], backend)
    assert encoder.count_tokens("退款 fee") == 5
    assert encoder.count_tokens("fee " * 1000) == 3000  # counting cuts nothing
    assert encoder.max_tokens == 128
    assert encoder.name == str(tiny[0])
    assert (encoder.backend, encoder.precision) == (backend, "int8" if backend == "onnx-int8" else "fp32")
    assert encoder.queries([]).shape == encoder.passages([]).shape == (0, 64)


def test_a_fingerprint_names_weights_and_precision(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    torch, onnx, int8 = (Encoder(str(tiny[0]), tiny[1], backend).fingerprint for backend in backends.PRECISIONS)
    assert torch == onnx != int8
    shutil.copytree(tiny[0], tmp_path / "copy")
    assert Encoder(str(tmp_path / "copy"), tmp_path, "torch").fingerprint == torch
    other = make_encoder(tmp_path / "other", seed=1)
    assert Encoder(str(other), tmp_path, "torch").fingerprint not in (torch, int8)


def test_an_index_is_served_by_the_fastest_backend_of_its_precision(tiny: tuple[Path, Path]) -> None:
    assert Encoder(str(tiny[0]), tiny[1], precision="int8").backend == "onnx-int8"
    assert Encoder(str(tiny[0]), tiny[1], precision="fp32").precision == "fp32"


def test_an_unknown_backend_or_precision_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="backend 'tensorrt' is not one of torch, onnx, onnx-int8"):
        Encoder(NAME, tmp_path, "tensorrt")
    with pytest.raises(ModelError, match="precision 'fp16' is not one of fp32, int8"):
        Encoder(NAME, tmp_path, precision="fp16")


def test_a_model_with_more_than_pooling_stays_with_torch_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, models = make_encoder(tmp_path / "encoder", dense=True), tmp_path / "models"
    with caplog.at_level(logging.INFO, "retrieval"):
        first = Encoder(str(folder), models)
    assert (first.backend, first.passages(["a"]).shape) == ("torch", (1, 32))
    reasons = [record.getMessage() for record in caplog.records if "Dense" in record.getMessage()]
    assert reasons == [f"the encoder {folder} runs on torch: it has a module Dense"]
    assert exports(models) == []

    monkeypatch.setattr(backends, "_measure", no_measuring)
    assert Encoder(str(folder), models).backend == "torch"
    with pytest.raises(ModelError, match=f"{folder}' cannot run as onnx-int8 .* it has a module Dense"):
        Encoder(str(folder), models, "onnx-int8")


def test_static_embeddings_which_have_no_limit_stay_with_torch(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "fee": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    static = StaticEmbedding(tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "encoder"), create_model_card=False)
    encoder = Encoder(str(tmp_path / "encoder"), tmp_path / "models")
    assert encoder.backend == "torch"
    assert encoder.passages(["fee fee", "card"]).shape == (2, 8)
    assert encoder.count_tokens("fee fee") == 2
    assert encoder.max_tokens > 10**9


def test_a_gpu_runs_torch_and_nothing_is_exported(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval import encoder

    monkeypatch.setattr(encoder, "on_gpu", lambda: True)
    monkeypatch.setattr(backends, "_measure", no_measuring)
    assert Encoder(str(tiny[0]), tmp_path / "models").backend == "torch"
    assert Encoder(str(tiny[0]), tmp_path / "models", precision="fp32").backend == "torch"
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("resource", ["memory", "disk"])
def test_too_little_room_for_an_export_is_no_lasting_obstacle(
    tiny: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    resource: str,
) -> None:
    """It takes several times the model's size: the kernel would end the process, torch leave half a file, both mute."""
    little: dict[str, tuple[Any, str, Any]] = {
        "memory": (onnx_export, "_free_bytes", lambda: 1e4),
        "disk": (shutil, "disk_usage", lambda _: SimpleNamespace(free=1e4)),
    }
    with caplog.at_level(logging.INFO, "retrieval"), monkeypatch.context() as patch:
        patch.setattr(*little[resource])
        assert Encoder(str(tiny[0]), tmp_path / "models").backend == "torch"
    assert f"an ONNX export takes 0.0 GB of {resource}" in caplog.text
    assert "0.0 GB are free; free some" in caplog.text
    assert Encoder(str(tiny[0]), tmp_path / "models", "onnx").backend == "onnx"


def test_a_name_that_is_no_model_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'no/such-model' cannot be loaded as a sentence-transformers model"):
        Encoder("no/such-model", tmp_path / "models")
    assert not (tmp_path / "models").exists()


# What is made once


def test_a_users_folder_is_only_read(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(tiny[0], tmp_path / "encoder")
    before = folder_hashes(tmp_path / "encoder")
    Encoder(str(tmp_path / "encoder"), tmp_path / "models")
    assert folder_hashes(tmp_path / "encoder") == before
    assert len(exports(tmp_path / "models")) == 1


def test_nothing_is_measured_twice_on_a_machine(tiny: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = Encoder(str(tiny[0]), tiny[1])
    monkeypatch.setattr(backends, "_measure", no_measuring)
    again = Encoder(str(tiny[0]), tiny[1])
    assert (again.backend, again.fingerprint) == (first.backend, first.fingerprint)


def test_another_machine_measures_the_export_that_is_there(
    own: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, models = own
    made = {path: path.stat().st_mtime_ns for path in exports(models)[0].rglob("*")}
    monkeypatch.setattr(backends, "_machine", lambda: "another machine")
    Encoder(str(folder), models, "onnx")
    assert {path: path.stat().st_mtime_ns for path in exports(models)[0].rglob("*")} == made
    (measured,) = models.glob("*/measured.json")
    assert len(json.loads(measured.read_text(encoding="utf-8"))["machines"]) == 2


def test_touched_files_with_the_same_content_are_the_same_model(
    own: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, models = own
    fingerprint = Encoder(str(folder), models, "onnx").fingerprint
    os.utime(folder / "model.safetensors", (1, 1))
    monkeypatch.setattr(backends, "_measure", no_measuring)
    assert Encoder(str(folder), models, "onnx").fingerprint == fingerprint


def test_changed_weights_are_exported_again(own: tuple[Path, Path], tmp_path: Path) -> None:
    folder, models = own
    before, old = Encoder(str(folder), models, "onnx"), exports(models)
    other = make_encoder(tmp_path / "other", seed=1)
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    after = Encoder(str(folder), models, "onnx")
    assert after.fingerprint != before.fingerprint
    assert np.allclose(after.queries(TEXTS), Encoder(str(folder), models, "torch").queries(TEXTS), atol=1e-5)
    assert len(exports(models)) == 1 and exports(models) != old  # the old one, of no use any more, is gone


def test_changed_prompts_are_another_encoder(own: tuple[Path, Path]) -> None:
    folder, models = own
    before = Encoder(str(folder), models, "onnx")
    config = folder / "config_sentence_transformers.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"Q "', '"fee "'), encoding="utf-8")
    after = Encoder(str(folder), models, "onnx")
    assert after.fingerprint != before.fingerprint
    assert not np.allclose(after.queries(["a"]), before.queries(["a"]), atol=1e-2)


@pytest.mark.parametrize("file", ["fp32/model.onnx", "tokenizer.json", "export.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_export_is_made_again_with_one_line_that_says_so(
    own: tuple[Path, Path], file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, models = own
    before = Encoder(str(folder), models, "onnx").queries(TEXTS)
    (export,) = exports(models)
    if damage == "missing":
        (export / file).unlink()
    else:
        data = (export / file).read_bytes()
        (export / file).write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING, "retrieval"):
        after = Encoder(str(folder), models, "onnx").queries(TEXTS)
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(export / file) in line and line.endswith("the export is made again")
    assert np.allclose(before, after, atol=1e-6)


def test_a_damaged_record_is_measured_again(own: tuple[Path, Path]) -> None:
    (measured,) = own[1].glob("*/measured.json")
    measured.write_text('{"format": 1', encoding="utf-8")
    assert Encoder(str(own[0]), own[1], "onnx").backend == "onnx"
    assert json.loads(measured.read_text(encoding="utf-8"))["machines"]


def test_what_a_killed_process_left_is_removed_with_the_next_export(own: tuple[Path, Path]) -> None:
    (export,) = exports(own[1])
    left = export.parent / f".{export.name}.abc"
    export.rename(left)
    Encoder(str(own[0]), own[1], "onnx")
    assert export.is_dir() and not left.exists()


def test_a_full_disk_is_a_storage_error_and_leaves_no_export(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        Encoder(str(tiny[0]), tmp_path / "models")
    assert exports(tmp_path / "models") == []


def test_a_backend_whose_vectors_differ_from_torch_is_not_used(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backends, "LEAST_MEAN_COSINE", 1.1)
    assert Encoder(str(tiny[0]), tmp_path / "models").backend == "torch"
    assert "onnx-int8 is not used, its vectors differ from torch's" in caplog.text
    with pytest.raises(
        ModelError, match=r"cannot run as onnx-int8 .* its vectors differ from torch's \(mean cosine 0\.9"
    ):
        Encoder(str(tiny[0]), tmp_path / "models", "onnx-int8")


def test_a_model_of_the_hub_stays_at_the_commit_that_was_exported_until_the_cache_has_another(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(cache))

    def publish(folder: Path, commit: str) -> None:
        repository = cache / "models--acme--encoder"
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)

    publish(tiny[0], "a" * 40)
    first = Encoder("acme/encoder", tmp_path / "models", "onnx")
    assert np.allclose(first.queries(TEXTS), Encoder(str(tiny[0]), tiny[1], "onnx").queries(TEXTS), atol=1e-5)

    publish(make_encoder(tmp_path / "newer", seed=1), "b" * 40)
    second = Encoder("acme/encoder", tmp_path / "models", "onnx")
    assert second.fingerprint != first.fingerprint

    shutil.rmtree(cache)  # the export is all that serving needs
    assert Encoder("acme/encoder", tmp_path / "models", "onnx").fingerprint == second.fingerprint


def test_embedding_many_passages_shows_progress(tiny: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    encoder = Encoder(str(tiny[0]), tiny[1], "onnx-int8")
    texts = [f"fee {n}" for n in range(300)]
    vectors = encoder.passages(texts, progress=True)
    assert "300/300" in capsys.readouterr().err
    assert np.array_equal(vectors[[0, 299]], encoder.passages([texts[0], texts[299]]))
    encoder.passages(texts)
    assert capsys.readouterr().err == ""
