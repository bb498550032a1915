"""The adapter: put on a base, judged servable or not, kept under its content's name, merged."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from assistant import prompt
from assistant.base_models import fingerprint, load_model, load_tokenizer, prepare, served_folder
from finetune.recipe import Recipe
from retrieval.errors import InputError, NotReady
from retrieval.files import content_id, folder_hashes, new_folder, storage_errors

RECORD = "training.json"
"""File of an adapter's folder that says what it was trained on and with."""
_WEIGHTS = (".safetensors", "tokenizer.json")
_PROMPT_LEARNING = {"PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE"}
"""Kinds that put learned positions before the prompt; they change no weight and cannot be merged."""
_OWN_BASE = ("pissa", "olora", "corda", "loftq")
"""Initialisations that change the base's weights; an engine that does not know them serves something else."""
_REFUSED = {
    "use_dora": "DoRA",
    "lora_bias": "a LoRA bias",
    "modules_to_save": "modules_to_save",
    "alora_invocation_tokens": "aLoRA",
    "layer_replication": "layer_replication",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QALoRA",
    "trainable_token_indices": "trainable tokens",
}
"""Fields of LoRA that vLLM's `PEFTHelper` refuses, or leaves out without a word."""
_SHAPE = {*_REFUSED, "peft_type", "r", "lora_alpha", "use_rslora", "bias", "target_modules", "rank_pattern"}
_SHAPE |= {"exclude_modules", "layers_to_transform", "alpha_pattern", "lora_dropout"}
"""Fields of peft's config in which an adapter and the recipe that continues it must agree."""


def unservable(fields: Mapping[str, Any] | None) -> str | None:
    """Why vLLM cannot serve what these fields of peft's config make as an adapter; None if it can."""
    if fields is None:
        return "full fine-tuning makes a whole model, not an adapter"
    if fields["peft_type"] != "LORA":
        return f"vLLM serves LoRA, not {fields['peft_type']}"
    refused = [name for field, name in _REFUSED.items() if fields.get(field)]
    if fields.get("bias", "none") != "none":
        refused.append("bias")
    initial = str(fields.get("init_lora_weights", True)).lower()
    if initial.startswith(_OWN_BASE):
        refused.append(f"init_lora_weights={initial}")
    if refused:
        return f"vLLM does not serve {', '.join(refused)}"
    rank = max([fields["r"], *(fields.get("rank_pattern") or {}).values()])
    return "vLLM serves ranks up to 512" if rank > 512 else None


def mergeable(fields: Mapping[str, Any] | None) -> bool:
    """Whether what was learned can be put into the base's weights."""
    return fields is None or fields["peft_type"] not in _PROMPT_LEARNING


def attach(model: Any, recipe: Recipe, start: Path | None, device: str) -> Any:
    """The model with what the recipe trains, in fp32, and the rest frozen; to be called under autocast.

    `start` is the folder of an adapter whose weights it begins with.

    Raises:
        InputError: `peft:` names a kind or field that peft does not know, `start` is of another shape, or Liger's
            kernels are asked for and cannot be had.
    """
    import torch
    from peft import PeftModel, get_peft_model
    from peft.tuners.lora import LoraLayer

    if recipe.liger:
        _use_liger(model, device)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    fields = recipe.peft_fields
    if fields is None:
        return model.float()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    config = _config(fields)
    if start is not None:
        _check_same_shape(start, recipe)
        adapted = PeftModel.from_pretrained(model, str(start), is_trainable=True, torch_device=device)
    else:
        try:
            adapted = get_peft_model(model, config)
        except (ValueError, TypeError) as error:
            raise InputError(f"recipe field 'peft': {error}") from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    for module in adapted.modules():
        if isinstance(module, LoraLayer) and not module.lora_variant:
            module.cast_input_dtype_enabled = False  # it would cast to fp32 what autocast casts back to bf16
    return adapted


def _use_liger(model: Any, device: str) -> None:
    """Hsu et al., "Liger Kernel", arXiv 2410.10989; without its loss, since ours scores the answers alone."""
    from transformers.integrations.liger import apply_liger_kernel
    from transformers.utils import is_liger_kernel_available

    if device != "cuda":
        raise InputError("recipe field 'liger': Liger's kernels run on a CUDA device, and there is none; leave it out")
    if not is_liger_kernel_available():
        raise InputError("recipe field 'liger': Liger is not installed: pip install liger-kernel")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise InputError(f"recipe field 'liger': Liger has no kernels for the base's kind, {kind}; leave it out")
    apply_liger_kernel(model, {"fused_linear_cross_entropy": False})


def _config(fields: Mapping[str, Any]) -> Any:
    """peft's own config object.

    Raises:
        InputError: The kind or a field is unknown.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    kind = fields["peft_type"]
    if kind not in kinds:
        raise InputError(f"recipe field 'peft.peft_type' is {kind!r}; peft knows {', '.join(sorted(kinds))}")
    given = {name: value for name, value in fields.items() if name != "peft_type"}
    try:
        return kinds[kind](task_type="CAUSAL_LM", **given)
    except (TypeError, ValueError) as error:
        raise InputError(f"recipe field 'peft': {kind}: {error}") from error


def _check_same_shape(start: Path, recipe: Recipe) -> None:
    """Compare the recipe with that of the adapter, whose own config names the layers that peft found by it."""
    before = Recipe.model_validate(record_of(start.parent, start.name)["recipe"])
    if before.peft is None:
        raise InputError(
            f"recipe field 'continue_from': {start.name} is a whole model, not an adapter; "
            f"train on it with --base {start}"
        )
    kept, wanted = ({"quantize": one.quantize} | _config(one.peft_fields or {}).to_dict() for one in (before, recipe))
    for name in sorted((_SHAPE | {"quantize"}) & wanted.keys()):
        if kept.get(name) != wanted[name]:
            raise InputError(
                f"recipe field 'continue_from': the adapter {start.name} has {name} {kept.get(name)!r}, and the recipe "
                f"{wanted[name]!r}; make them equal, or start anew"
            )


def save(
    model: Any, base: str, source: str, recipe: Recipe, adapters: Path, scratch: Path, facts: Mapping[str, Any]
) -> str:
    """Write what was trained under a name made of its content; return the name.

    The folder holds weights and config as peft writes them (of full fine-tuning: a model folder), the record
    `training.json`, and a model card. `facts` is what the record shall say about data and metrics.
    """
    fields = recipe.peft_fields
    record = {
        "base": base,
        "base_fingerprint": fingerprint(source),
        "base_weights": _weights(source),
        "tokenizer_fingerprint": _tokenizer_fingerprint(source),
        "prompt": prompt.ID,
        "recipe": recipe.model_dump(),
        "served": "adapter" if not unservable(fields) else "merged" if mergeable(fields) else "nowhere",
        **facts,
    }
    with storage_errors(scratch):
        if fields is not None:
            model.peft_config["default"].base_model_name_or_path = base
            model.save_pretrained(scratch, save_embedding_layers=False)
        else:
            import torch

            model.to(torch.bfloat16).save_pretrained(scratch)
            load_tokenizer(source).save_pretrained(scratch)
    weights = {name: digest for name, digest in folder_hashes(scratch).items() if name.endswith(".safetensors")}
    slug = "".join(char if char.isalnum() else "-" for char in base.rstrip("/").split("/")[-1].lower())
    name = f"{slug}-{content_id(json.dumps(weights), record['base_fingerprint'], prompt.ID)}"
    with new_folder(adapters / name) as folder:
        shutil.copytree(scratch, folder, dirs_exist_ok=True)
        (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(_card(name, record), encoding="utf-8")
    shutil.rmtree(scratch)
    return name


def _weights(source: str) -> str | None:
    """The content id of a base's weights and tokenizer; None of a hub's, which its id names."""
    if not Path(source).is_dir():
        return None
    kept = {file: digest for file, digest in folder_hashes(Path(source)).items() if file.endswith(_WEIGHTS)}
    return content_id(json.dumps(kept))


def _tokenizer_fingerprint(source: str) -> str:
    return content_id(load_tokenizer(source).backend_tokenizer.to_str())


def _card(name: str, record: Mapping[str, Any]) -> str:
    """The model card, in the form that model hubs read."""
    head = {"base_model": record["base"], "tags": ["customer-support"]}
    lines = [
        *("---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# {name}", ""),
        "A customer-support adapter, trained on support logs in the prompt that serves it. Use it with retrieved "
        "passages in that prompt; it knows no policy by itself, and what it says without passages is not to be "
        "trusted.",
        "",
        f"- Base: `{record['base']}` ({record['base_fingerprint']}), tokenizer {record['tokenizer_fingerprint']}",
        f"- Prompt: {record['prompt']}",
        f"- Served as: {record['served']}",
    ]
    lines += [
        f"- {field.capitalize()}: {json.dumps(record[field])}" for field in ("metrics", "data") if field in record
    ]
    lines += ["", "The recipe and the hashes of the logs are in `training.json`.", ""]
    return "\n".join(lines)


def record_of(adapters: Path, name: str) -> dict[str, Any]:
    """What the adapter's folder says about its training.

    Raises:
        InputError: There is no such adapter.
    """
    path = adapters / name / RECORD
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = sorted(folder.name for folder in adapters.glob("*") if (folder / RECORD).exists())
        raise InputError(f"there is no adapter {name!r}; under {adapters} are: {', '.join(known) or 'none'}") from None


def check_base(record: Mapping[str, Any], source: str) -> None:
    """Refuse a base whose weights or tokenizer have changed since the adapter of this record was trained on it.

    Records of before 0.10.0 do not say.

    Raises:
        InputError: They have.
    """
    known = record.get("base_weights")
    if known and known != _weights(source):
        raise InputError(
            f"the base in {source} is not the one that the adapter was trained on: its weights or its tokenizer have "
            "changed since; restore them, or train anew"
        )


def merge(adapters: Path, name: str, models: Path) -> Path:
    """Write the base with the adapter merged into its weights, in bf16; return the folder.

    The base is the one that the adapter is served on: of an NF4 base its dequantised weights. Merging into packed NF4
    weights would quantise what was learned, and ruins it.

    Raises:
        InputError: There is no such adapter, its kind changes no weights, or its base has changed.
        ModelError: The base is missing.
    """
    record = record_of(adapters, name)
    recipe = Recipe.model_validate(record["recipe"])
    if recipe.peft_fields is None:
        return adapters / name
    if not mergeable(recipe.peft_fields):
        kind = recipe.peft_fields["peft_type"]
        raise InputError(f"the adapter {name} is of kind {kind}, which changes no weights and cannot be merged")
    target = models / f"{name}-merged"
    if target.exists():
        return target
    import torch
    from peft import PeftModel

    check_base(record, prepare(record["base"], models))
    base = served_folder(record["base"], models, recipe.quantize)
    model = load_model(base, "none", "cpu").float()
    merged = PeftModel.from_pretrained(model, str(adapters / name)).merge_and_unload(safe_merge=True)
    with new_folder(target) as folder:
        merged.to(torch.bfloat16).save_pretrained(folder)
        load_tokenizer(base).save_pretrained(folder)
    return target


def started_from(recipe: Recipe, adapters: Path, live: str | None, base: str, source: str) -> Path | None:
    """The folder of the adapter that the run continues; None if it starts anew. `source` is the folder of the base.

    Raises:
        NotReady: The recipe continues the live adapter, and none is live.
        InputError: The adapter does not exist, or belongs to another base, or to other files of this one.
    """
    if recipe.continue_from is None:
        return None
    name = live if recipe.continue_from == "live" else recipe.continue_from
    if name is None:
        raise NotReady("the recipe continues the live adapter, and none is live; leave out continue_from once")
    record = record_of(adapters, name)
    if record["base"] != base:
        raise InputError(
            f"recipe field 'continue_from': the adapter {name} was trained on {record['base']}, not on {base}"
        )
    check_base(record, source)
    return adapters / name
