"""Kinds of adapters on a two-layer model: kept, continued, merged, and judged servable or not."""

import json
import shutil
from pathlib import Path

import pytest

from assistant.base_models import load_model, load_tokenizer, served_folder
from finetune.adapter import attach, merge, mergeable, record_of, save, started_from, unservable
from finetune.measure import measure
from finetune.recipe import Recipe
from retrieval.errors import InputError, NotReady


def recipe(**fields: object) -> Recipe:
    return Recipe.model_validate({"quantize": "none", **fields})


@pytest.fixture
def kept(tiny_base: Path, tmp_path: Path):
    """Keeps an adapter of this recipe whose weights are not what they began with; gives its name."""

    def keep(chosen: Recipe, base: str = str(tiny_base)) -> str:
        import torch

        torch.manual_seed(1)
        model = attach(load_model(base, chosen.quantize, "cpu"), chosen, None, "cpu")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        return save(model, base, base, chosen, tmp_path / "adapters", tmp_path / "scratch", {"data": {"turns": 3}})

    return keep


def logits(model):
    import torch

    with torch.no_grad():
        return model.float().eval()(input_ids=torch.tensor([[11, 12, 13, 14]])).logits


@pytest.mark.parametrize(
    ("peft", "reason"),
    [
        ({"r": 8}, None),
        ({"r": 8, "use_rslora": True}, None),
        ({"r": 8, "use_dora": True}, "vLLM does not serve DoRA"),
        ({"bias": "all", "modules_to_save": ["lm_head"]}, "vLLM does not serve modules_to_save, bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "vLLM does not serve init_lora_weights=pissa_niter_4"),
        ({"r": 1024}, "vLLM serves ranks up to 512"),
        ({"peft_type": "IA3"}, "vLLM serves LoRA, not IA3"),
        (None, "full fine-tuning makes a whole model, not an adapter"),
    ],
)
def test_what_vllm_cannot_serve_is_known_before_training(peft: dict | None, reason: str | None) -> None:
    assert unservable(recipe(peft=peft).peft_fields) == reason


def test_what_is_refused_is_what_the_installed_vllm_refuses() -> None:
    """The list is ours; vLLM's own check says whether it is still right."""
    import subprocess
    import sys

    asked = [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}, {"init_lora_weights": "pissa"}]
    script = (
        "import json, sys\n"
        "from vllm.lora.peft_helper import PEFTHelper\n"
        "plain = {'r': 8, 'lora_alpha': 16, 'target_modules': ['q_proj']}\n"
        "print(json.dumps([bool(PEFTHelper(**plain, **fields)._validate_features()) "
        "for fields in json.loads(sys.argv[1])]))"
    )
    done = subprocess.run([sys.executable, "-c", script, json.dumps(asked)], capture_output=True, text=True)
    refused = json.loads(done.stdout.strip().splitlines()[-1])
    assert refused == [unservable(recipe(peft=fields).peft_fields) is not None for fields in asked]
    assert refused == [False, False, True, True, True]


@pytest.mark.parametrize(
    "peft",
    [
        {"r": 4},
        {"r": 4, "use_rslora": True},
        {"r": 4, "use_dora": True},
        {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ],
    ids=["LoRA", "rsLoRA", "DoRA", "IA3"],
)
def test_an_adapter_that_is_kept_loads_in_peft_and_merges_into_the_same_model(kept, tiny_base, tmp_path, peft) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    name = kept(recipe(peft=peft))
    adapted = PeftModel.from_pretrained(load_model(str(tiny_base), "none", "cpu").float(), tmp_path / "adapters" / name)
    merged = AutoModelForCausalLM.from_pretrained(merge(tmp_path / "adapters", name, tmp_path / "models"))
    plain = logits(load_model(str(tiny_base), "none", "cpu"))
    assert torch.allclose(logits(merged), logits(adapted), atol=0.15)  # bf16 weights
    assert (logits(adapted) - plain).abs().max() > 0.5
    assert merge(tmp_path / "adapters", name, tmp_path / "models") == tmp_path / "models" / f"{name}-merged"


def test_an_adapter_of_an_nf4_base_is_merged_into_the_dequantised_weights(
    kept, tiny_base: Path, tmp_path: Path
) -> None:
    """Merged into the packed weights, what was learned would be quantised with them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    name = kept(recipe(quantize="nf4", peft={"r": 4}))
    trained_on = load_model(served_folder(str(tiny_base), tmp_path / "models", "nf4"), "none", "cpu").float()
    adapted = logits(PeftModel.from_pretrained(trained_on, tmp_path / "adapters" / name))
    merged = logits(AutoModelForCausalLM.from_pretrained(merge(tmp_path / "adapters", name, tmp_path / "models")))
    original = logits(
        PeftModel.from_pretrained(load_model(str(tiny_base), "none", "cpu").float(), tmp_path / "adapters" / name)
    )
    assert (merged - adapted).abs().mean() < (original - adapted).abs().mean() / 5


def test_prompt_tuning_trains_and_cannot_be_merged(kept, tmp_path: Path) -> None:
    chosen = recipe(peft={"peft_type": "prompt_tuning", "num_virtual_tokens": 4})
    name = kept(chosen)
    assert not mergeable(chosen.peft_fields)
    with pytest.raises(InputError, match="of kind PROMPT_TUNING, which changes no weights and cannot be merged"):
        merge(tmp_path / "adapters", name, tmp_path / "models")


def test_full_fine_tuning_keeps_a_whole_model(kept, tmp_path: Path) -> None:
    name = kept(recipe(peft=None))
    folder = tmp_path / "adapters" / name
    assert merge(tmp_path / "adapters", name, tmp_path / "models") == folder
    assert load_model(str(folder), "none", "cpu").config.hidden_size == 64
    assert load_tokenizer(str(folder)).chat_template


def test_the_folder_says_what_it_is_and_holds_no_pickle(kept, tmp_path: Path) -> None:
    name = kept(recipe(peft={"r": 4, "use_dora": True}))
    folder = tmp_path / "adapters" / name
    record = record_of(tmp_path / "adapters", name)
    assert (record["served"], record["data"]) == ("merged", {"turns": 3})
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nbase_model: ") and name in card and '{"turns": 3}' in card
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".md"}


def test_an_adapter_can_be_trained_on_from_another_of_its_shape(kept, tiny_base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    chosen = recipe(peft={"r": 4})
    name = kept(chosen)
    base = str(tiny_base)
    folder = started_from(recipe(peft={"r": 4}, continue_from=name), tmp_path / "adapters", None, base, base)
    model = attach(load_model(str(tiny_base), "none", "cpu"), chosen, folder, "cpu")
    first = next(iter(load_file(folder / "adapter_model.safetensors").values()))
    assert any(torch.equal(first, p) for p in model.parameters() if p.requires_grad and p.shape == first.shape)
    for other, told in [
        (recipe(peft={"r": 8}), r"has r 4, and the recipe 8; make them equal"),
        (recipe(peft={"r": 4, "target_modules": ["q_proj"]}), "has target_modules 'all-linear', and the recipe"),
        (recipe(peft={"r": 4, "lora_dropout": 0.1}), r"has lora_dropout 0.0, and the recipe 0.1"),
    ]:
        with pytest.raises(InputError, match=told):
            attach(load_model(base, "none", "cpu"), other, folder, "cpu")


def test_a_whole_model_is_no_adapter_to_continue(kept, tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapters" / kept(recipe(peft=None))
    with pytest.raises(InputError, match=f"is a whole model, not an adapter; train on it with --base {folder}"):
        attach(load_model(str(tiny_base), "none", "cpu"), recipe(peft={"r": 4}), folder, "cpu")


def test_a_base_whose_weights_or_tokenizer_changed_since_is_refused(kept, tiny_base: Path, tmp_path: Path) -> None:
    base, adapters = Path(shutil.copytree(tiny_base, tmp_path / "base")), tmp_path / "adapters"
    name = kept(recipe(peft={"r": 4}), str(base))
    continued = recipe(peft={"r": 4}, continue_from=name)
    with (base / "config.json").open("a") as file:
        file.write("\n")  # as another transformers may write it
    assert started_from(continued, adapters, None, str(base), str(base)) == adapters / name
    with (base / "tokenizer.json").open("a") as file:
        file.write("\n")
    told = f"the base in {base} is not the one that the adapter was trained on"
    with pytest.raises(InputError, match=told):
        started_from(continued, adapters, None, str(base), str(base))
    with pytest.raises(InputError, match=told):
        merge(adapters, name, tmp_path / "models")
    with pytest.raises(InputError, match=told):
        measure(adapters, name, tmp_path / "runs", tmp_path / "models")


def test_an_adapter_to_continue_must_exist_and_belong_to_the_base(kept, tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    name = kept(recipe(peft={"r": 4}))
    with pytest.raises(InputError, match=f"there is no adapter 'x'; under {adapters} are: {name}"):
        started_from(recipe(continue_from="x"), adapters, None, "b", "b")
    with pytest.raises(InputError, match=r"was trained on .*, not on b"):
        started_from(recipe(continue_from="live"), adapters, name, "b", "b")
    with pytest.raises(NotReady, match="none is live; leave out continue_from once"):
        started_from(recipe(continue_from="live"), adapters, None, "b", "b")
    assert started_from(recipe(), adapters, name, "b", "b") is None


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        ({"peft_type": "LORE"}, r"'peft.peft_type' is 'LORE'; peft knows .*LORA"),
        ({"rank": 4}, r"'peft': LORA: .*unexpected keyword argument 'rank'"),
        ({"target_modules": ["no_such_layer"]}, r"'peft': Target modules .*no_such_layer.* not found"),
    ],
)
def test_a_kind_field_or_layer_that_does_not_exist_is_named(tiny_base: Path, peft: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attach(load_model(str(tiny_base), "none", "cpu"), recipe(peft=peft), None, "cpu")


@pytest.mark.parametrize(
    ("device", "message"), [("cpu", "'liger': .* CUDA device"), ("cuda", "'liger': .* pip install liger-kernel")]
)
def test_liger_without_a_gpu_or_without_its_package_is_refused(
    tiny_base: Path, device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.utils.is_liger_kernel_available", lambda: False)
    with pytest.raises(InputError, match=message):
        attach(load_model(str(tiny_base), "none", "cpu"), recipe(liger=True), None, device)
