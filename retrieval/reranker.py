"""An optional second look: a cross-encoder reads the query together with each of the best passages."""

import threading
from collections.abc import Sequence

from retrieval.errors import ModelError


class CrossEncoderReranker:
    """A cross-encoder of sentence-transformers, such as BAAI/bge-reranker-v2-m3."""

    def __init__(self, name: str) -> None:
        """Load the cross-encoder `name`, a folder or a hub id.

        Raises:
            ModelError: `name` cannot be loaded as a cross-encoder.
        """
        from sentence_transformers import CrossEncoder

        self._lock = threading.Lock()  # predicting changes the tokenizer's padding and cutting
        try:
            self._model = CrossEncoder(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"reranker {name!r} cannot be loaded as a cross-encoder: {str(error).splitlines()[0].rstrip('.')}. "
                "Give a folder or a hub id, or none"
            ) from error
        if self._model.num_labels != 1:
            raise ModelError(
                f"reranker {name!r} gives {self._model.num_labels} figures for a pair of texts, not one score; "
                "give a cross-encoder that ranks, such as BAAI/bge-reranker-v2-m3"
            )

    def scores(self, query: str, passages: Sequence[str]) -> list[float]:
        """How well each passage answers `query`, higher is better."""
        pairs = [(query, passage) for passage in passages]
        with self._lock:
            return [float(score) for score in self._model.predict(pairs, show_progress_bar=False)]
