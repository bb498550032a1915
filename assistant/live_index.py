"""The live index, opened with the encoder that it was built with."""

from assistant import releases
from assistant.settings import Settings
from retrieval.errors import NotReady
from retrieval.index import Index


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


def open_index(settings: Settings, name: str) -> Index:
    """The index `name`; raises as `open_live` does."""
    from retrieval.encoder import Encoder
    from retrieval.index import read_manifest
    from retrieval.reranker import CrossEncoderReranker

    folder = settings.indexes / name
    built_with = read_manifest(folder)["encoder"]
    encoder = Encoder(settings.encoder, settings.models, precision=built_with["precision"])
    reranker = CrossEncoderReranker(settings.reranker) if settings.reranker else None
    return Index(folder, encoder, reranker)
