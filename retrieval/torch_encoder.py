"""An encoder run by sentence-transformers: every model that it knows, on a GPU where there is one."""

import threading
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval import embedded_encoder
from retrieval.errors import ModelError

Vectors = npt.NDArray[np.float32]
_NO_LIMIT = 2**31 - 1
"""For encoders that take texts of any length: static embeddings say infinity, some tokenizers 10**30."""
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


class TorchEncoder:
    """A sentence-transformers model: float32 on a CPU, the numbers it was saved in on a GPU."""

    def __init__(self, name: str, location: str, device: str | None = None) -> None:
        """Load the model at `location`, a folder or a hub id, which messages call `name`.

        `device` is cpu or cuda; None takes the GPU where there is one.

        Raises:
            ModelError: It cannot be loaded as a sentence-transformers model.
        """
        from sentence_transformers import SentenceTransformer

        self._lock = threading.Lock()  # encoding changes the tokenizer's padding and cutting
        device = device or ("cuda" if on_gpu() else "cpu")
        try:
            self.model: Any = SentenceTransformer(location, trust_remote_code=False, device=device)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"encoder {name!r} cannot be loaded as a sentence-transformers model: "
                f"{str(error).splitlines()[0]}. Give a folder, a hub id, or {embedded_encoder.NAME}"
            ) from error
        if device == "cpu":
            self.model.float()

    @property
    def max_tokens(self) -> int:
        return int(min(self.model.max_seq_length or 512, _NO_LIMIT))

    def queries(self, texts: list[str]) -> Vectors:
        """Unit vectors of `texts`, float32 of shape (n, dimensions)."""
        with self._lock:
            return self._unit(self.model.encode_query(texts, show_progress_bar=False))

    def passages(self, texts: list[str], progress: bool = False) -> Vectors:
        """Unit vectors of `texts`, float32 of shape (n, dimensions)."""
        with self._lock:
            return self._unit(self.model.encode_document(texts, batch_size=16, show_progress_bar=progress))

    def count_tokens(self, text: str) -> int:
        if self._fast is None:
            return len(self.model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        return len(self._fast.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _fast(self) -> Any:
        return fast_tokenizer(self.model)

    def _unit(self, vectors: Any) -> Vectors:
        if not len(vectors):
            return np.zeros((0, self.model.get_embedding_dimension()), np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def fast_tokenizer(model: Any) -> Any:
    """A copy of the model's `tokenizers.Tokenizer` that neither cuts nor pads; None if it has another kind.

    A copy, because transformers changes the original's cutting and padding with every call.
    """
    from tokenizers import Tokenizer

    original = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
    if not isinstance(original, Tokenizer):
        return None
    tokenizer = Tokenizer.from_str(original.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def on_gpu() -> bool:
    """Whether torch computes on a GPU here. torch, slow to import, is asked only where there may be one."""
    if version("torch").endswith("+cpu") or not any(Path(device).exists() for device in _GPU_DEVICES):
        return False
    import torch

    return bool(torch.cuda.is_available())
