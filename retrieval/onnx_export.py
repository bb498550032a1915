"""Makes the export that `onnx_encoder` opens, out of a loaded sentence-transformers model."""

import contextlib
import logging
import math
import shutil
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from retrieval.errors import SupportError
from retrieval.files import folder_hashes, new_folder
from retrieval.onnx_encoder import Export
from retrieval.torch_encoder import TorchEncoder, fast_tokenizer

_INPUTS = ("input_ids", "token_type_ids")
_OPSET = 17
"""The first with LayerNormalization as one operator."""
_MEMORY = 6.5
"""What exporting takes, in sizes of the float32 weights; measured on 0.5 and 2.2 GB."""
_DISK = 2.5
"""What it writes, in the same: the model, its int8 copy, and what the quantiser keeps meanwhile."""


class NotExportable(Exception):
    """There can be no export of this model; the message says why."""


class TooLittleRoom(NotExportable):
    """There can be none now: too little memory or disk is free."""


def export(encoder: TorchEncoder, name: str, target: Path) -> None:
    """Write the export of `encoder`, which users know as `name`, to `target`.

    Raises:
        NotExportable: It is no Transformer with mean or CLS pooling, or torch cannot export it.
        TooLittleRoom: The kernel would kill this process, or the disk would be full.
        StorageError: The disk refused.
    """
    model = encoder.model
    obstacle = _obstacle(model)
    if obstacle:
        raise NotExportable(obstacle)
    size = sum(weights.numel() * 4 for weights in model.parameters())
    for resource, needed, free in (
        ("memory", _MEMORY * size, _free_bytes()),
        (f"disk in {target.parent}", _DISK * size, shutil.disk_usage(target.parent).free),
    ):
        if needed > free:
            raise TooLittleRoom(
                f"an ONNX export takes {needed / 1e9:.1f} GB of {resource}, {free / 1e9:.1f} GB are free; free some, "
                f"and it is made at the next start"
            )
    try:
        with new_folder(target) as scratch:
            inputs = _write_fp32(model, scratch / "fp32")
            _write_int8(scratch / "fp32", scratch / "int8")
            tokenizer = fast_tokenizer(model)
            (scratch / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
            Export(
                encoder=name,
                inputs=inputs,
                pooling=model[1].pooling_mode,
                dimensions=int(model.get_embedding_dimension()),
                max_tokens=encoder.max_tokens,
                cut=model.tokenizer.truncation_side,
                query_prompt=_prompt(model, "query"),
                passage_prompt=_prompt(model, "document", "passage", "corpus"),
                files=folder_hashes(scratch),
                made_with={library: version(library) for library in ("torch", "onnx", "onnxruntime")},
            ).write(scratch)
    except SupportError:
        raise
    except Exception as error:  # exporters raise errors of every kind; torch runs the model all the same
        raise NotExportable(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from error


def _obstacle(model: Any) -> str | None:
    """Why `model` cannot be exported, or None."""
    from sentence_transformers.models import Normalize, Pooling, Transformer

    kinds = [type(module) for module in model]
    for kind in kinds:
        if kind not in (Transformer, Pooling, Normalize):
            return f"it has a module {kind.__name__}"
    if kinds not in ([Transformer, Pooling], [Transformer, Pooling, Normalize]):
        return f"its modules are {', '.join(kind.__name__ for kind in kinds)}"
    transformer, pooling = model[0], model[1]
    if pooling.pooling_mode not in ("mean", "cls"):
        return f"its pooling is {pooling.pooling_mode}"
    if not pooling.include_prompt:
        return "its pooling leaves the prompt out"
    if model.truncate_dim is not None:
        return "it shortens its vectors"
    text = transformer.modality_config.get("text", {})
    if "message" in transformer.modality_config or (text.get("method"), text.get("method_output_name")) != (
        "forward",
        "last_hidden_state",
    ):
        return "its texts pass through more than a transformer"
    lengths = (transformer.query_expansion, transformer.query_length, transformer.document_length)
    if lengths != (None, None, None) or transformer.processing_kwargs:
        return "its tokenizer has options of its own"
    if fast_tokenizer(model) is None:
        return "it has no tokenizer of the tokenizers library"
    unknown = _features(model).keys() - {*_INPUTS, "attention_mask"}
    if unknown:
        return f"its transformer takes {', '.join(sorted(unknown))}"
    return None


def _free_bytes() -> float:
    """The memory that this process may still take; infinite where the system does not say."""
    free = math.inf
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or "max"
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / file).read_text(encoding="utf-8")) for file in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    return free


def _features(model: Any) -> dict[str, Any]:
    """What the transformer gets for a text, by name; tensors of shape (1, tokens)."""
    import torch

    features = model.preprocess(["one two three four five six seven"])
    return {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}


def _prompt(model: Any, *names: str) -> str:
    """The prompt that encode_query or encode_document would use: that of the first name the model has."""
    named = next((name for name in names if name in model.prompts), model.default_prompt_name)
    return str(model.prompts.get(named) or "")


def _write_fp32(model: Any, folder: Path) -> tuple[str, ...]:
    """Export the transformer to `folder`, for one text at a time; the names of its inputs.

    One text needs no attention mask, and masking takes a tenth of the time.
    """
    import torch

    class TokenVectors(torch.nn.Module):
        def __init__(self, transformer: Any, names: tuple[str, ...]) -> None:
            super().__init__()
            self.transformer, self.names = transformer, names

        def forward(self, *tensors: Any) -> Any:
            named = dict(zip(self.names, tensors, strict=True))
            return self.transformer(**named, return_dict=True).last_hidden_state

    features = _features(model)
    names = tuple(name for name in _INPUTS if name in features)
    folder.mkdir()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about each branch; the vectors are compared afterwards
        torch.onnx.export(
            TokenVectors(model[0].auto_model, names).eval(),
            tuple(features[name] for name in names),
            str(folder / "model.onnx"),
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(names),
            output_names=["token_vectors"],
            dynamic_axes={name: {1: "tokens"} for name in (*names, "token_vectors")},
        )
    return names


def _write_int8(source: Path, folder: Path) -> None:
    """Quantise the model of `source` into `folder`: int8 matrices and embeddings, one scale for each column.

    One scale for each matrix costs four times as much cosine and is no faster.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder.mkdir()
    with _root_logger_muted():
        quantize_dynamic(source / "model.onnx", folder / "model.onnx", per_channel=True, weight_type=QuantType.QInt8)


@contextlib.contextmanager
def _root_logger_muted() -> Iterator[None]:
    """Keep quiet what the quantiser tells the root logger about each tensor; nothing of it is for users."""
    root, stand_in = logging.getLogger(), logging.NullHandler()
    root.addHandler(stand_in)  # without a handler, logging.warning would install one for good
    root.disabled = True
    try:
        yield
    finally:
        root.disabled = False
        root.removeHandler(stand_in)
