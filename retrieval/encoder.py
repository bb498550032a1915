"""The text encoder: a sentence-transformers model, embedded, from a folder, or from the hub."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrieval import embedded_encoder
from retrieval.errors import ModelError
from retrieval.files import content_id, sha256

Vectors = npt.NDArray[np.float32]


class Encoder:
    """Embeds queries and passages as unit vectors, so that an inner product is a cosine."""

    def __init__(self, name: str, models: Path) -> None:
        """Open the encoder `name`, preparing the embedded one under `models` first.

        Raises:
            ModelError: `name` cannot be loaded as a sentence-transformers model.
        """
        from sentence_transformers import SentenceTransformer

        self.name = name
        source = name
        if name == embedded_encoder.NAME:
            source = str(models / name)
            embedded_encoder.prepare(Path(source))
        try:
            self._model = SentenceTransformer(source, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"encoder {name!r} cannot be loaded as a sentence-transformers model: "
                f"{str(error).splitlines()[0]}. Give a folder, a hub id, or {embedded_encoder.NAME}"
            ) from error
        weights = Path(source) / "model.safetensors"
        self.fingerprint = content_id(name, sha256(weights) if weights.is_file() else "")

    def queries(self, texts: list[str]) -> Vectors:
        """Unit vectors of `texts`, float32 of shape (n, dimensions)."""
        return self._unit(self._model.encode_query(texts, show_progress_bar=False))

    def passages(self, texts: list[str], progress: bool = False) -> Vectors:
        """Unit vectors of `texts`, float32 of shape (n, dimensions)."""
        return self._unit(self._model.encode_document(texts, batch_size=16, show_progress_bar=progress))

    @property
    def max_tokens(self) -> int:
        """Tokens that one text may have, its prefix and special tokens included."""
        return int(self._model.max_seq_length or 512)

    def count_tokens(self, text: str) -> int:
        return len(self._model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @staticmethod
    def _unit(vectors: Vectors) -> Vectors:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
