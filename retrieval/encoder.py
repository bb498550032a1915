"""The text encoder: a sentence-transformers model, embedded, from a folder, or from the hub."""

from pathlib import Path
from typing import cast

from retrieval import backends, embedded_encoder, encoder_files
from retrieval.backends import PRECISIONS, Backend, Opened
from retrieval.errors import ModelError
from retrieval.files import content_id
from retrieval.onnx_encoder import FORMAT, Precision
from retrieval.torch_encoder import TorchEncoder, Vectors, on_gpu

__all__ = ["Encoder", "Vectors"]
_BACKENDS = tuple(PRECISIONS)
_PRECISIONS = ("fp32", "int8")


class Encoder:
    """Embeds queries and passages as unit vectors, so that an inner product is a cosine."""

    name: str
    backend: Backend
    precision: Precision
    fingerprint: str
    """Names the weights and the precision: vectors of one fingerprint can be compared."""

    def __init__(self, name: str, models: Path, backend: str | None = None, *, precision: str | None = None) -> None:
        """Open the encoder `name`, preparing the embedded one under `models` first.

        By default it runs as was fastest on this machine, which is measured once and recorded under `models`,
        or on the GPU where there is one. `precision`, fp32 or int8, takes the fastest way to compute vectors of
        an index that was built so; `backend` is torch, onnx or onnx-int8.

        Raises:
            ModelError: `name` cannot be loaded as a sentence-transformers model, or cannot run as asked for.
            StorageError: The disk refused.
        """
        for what, value, known in (("backend", backend, _BACKENDS), ("precision", precision, _PRECISIONS)):
            if value is not None and value not in known:
                raise ModelError(f"encoder {what} {value!r} is not one of {', '.join(known)}")
        if name == embedded_encoder.NAME:
            embedded_encoder.prepare(models / name)
        opened = _open(
            encoder_files.find(name, models), cast("Backend | None", backend), cast("Precision | None", precision)
        )
        self.name = name
        self.backend = opened.backend
        self.precision = PRECISIONS[opened.backend]
        self.fingerprint = content_id(
            opened.identity, self.precision if self.precision == "fp32" else f"int8 of export {FORMAT}"
        )
        self._model = opened.model

    @property
    def max_tokens(self) -> int:
        """Tokens that one text may have, its prefix and special tokens included."""
        return self._model.max_tokens

    def queries(self, texts: list[str]) -> Vectors:
        """Unit vectors of `texts`, float32 of shape (n, dimensions)."""
        return self._model.queries(texts)

    def passages(self, texts: list[str], progress: bool = False) -> Vectors:
        """Unit vectors of `texts`, float32 of shape (n, dimensions)."""
        return self._model.passages(texts, progress)

    def count_tokens(self, text: str) -> int:
        """The tokens of `text` alone, without its prefix and special tokens."""
        return self._model.count_tokens(text)


def _open(source: encoder_files.Source, backend: Backend | None, precision: Precision | None) -> Opened:
    if backend == "torch" or (backend is None and precision != "int8" and on_gpu()):
        model = TorchEncoder(source.name, source.location)
        return Opened(model, "torch", source.identity())
    return backends.open_best(source, backend, precision)
