"""The live index, opened with the encoder that it was built with."""

from typing import TYPE_CHECKING

from assistant import releases
from assistant.settings import Settings
from retrieval.errors import NotReady
from retrieval.index import Index

if TYPE_CHECKING:
    from retrieval.encoder import Encoder


def open_live(settings: Settings) -> Index:
    """The index of the live release, with the reranker if one is set.

    Raises:
        NotReady: There is no index yet.
        IndexDamaged: It does not match its manifest, or was built with another encoder.
        ModelError: The encoder or the reranker cannot be loaded.
    """
    index = releases.live(settings.releases).index
    if index is None:
        raise NotReady("there is no index yet; run: assistant index --knowledge DIR")
    return open_index(settings, index)


def open_index(settings: Settings, name: str, loaded: "Encoder | None" = None) -> Index:
    """The index `name`, with the encoder that is `loaded` if it fits; raises as `open_live` does."""
    from retrieval.encoder import Encoder
    from retrieval.index import read_manifest
    from retrieval.reranker import CrossEncoderReranker

    folder = settings.indexes / name
    precision = read_manifest(folder)["encoder"]["precision"]
    encoder = loaded
    if encoder is None or encoder.precision != precision:
        encoder = Encoder(settings.encoder, settings.models, precision=precision)
    reranker = CrossEncoderReranker(settings.reranker) if settings.reranker else None
    return Index(folder, encoder, reranker)
