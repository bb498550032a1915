"""An encoder run by onnxruntime from an export; neither torch nor transformers is imported.

    <export>/export.json       how texts become inputs and outputs vectors; SHA-256 of each file below
             tokenizer.json    for the `tokenizers` library
             fp32/model.onnx   the transformer: token ids to token vectors
             int8/model.onnx   the same with int8 matrices; activations are quantised as they come

Every text is run alone, on one thread for each text: an activation's int8 range is that of its whole
tensor, so in a batch a vector would depend on its neighbours and their padding (cosine 0.998 to itself
alone, as much as int8 costs altogether), and on a CPU batches are not faster.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from retrieval.files import sha256

Precision = Literal["fp32", "int8"]
Vectors = npt.NDArray[np.float32]
FORMAT = 1
"""Changes with what an export holds and how its matrices are quantised."""
_SLICE = 64


class ExportDamaged(Exception):
    """An export is missing, unreadable or differs from its hashes; it is only a cache and can be made again."""


@dataclass(frozen=True)
class Export:
    """What `export.json` says."""

    encoder: str
    inputs: tuple[str, ...]
    """`input_ids`, and `token_type_ids` if the model takes them; each of shape (1, tokens)."""
    pooling: Literal["mean", "cls"]
    dimensions: int
    max_tokens: int
    cut: Literal["left", "right"]
    """The side that is cut off a text that is too long."""
    query_prompt: str
    passage_prompt: str
    files: dict[str, str]
    """SHA-256 by POSIX path."""
    made_with: dict[str, str]
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        (folder / "export.json").write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1), encoding="utf-8")


def read_export(folder: Path, precision: Precision) -> Export:
    """The export in `folder`, after the hashes of the files for `precision` were checked.

    Raises:
        ExportDamaged: One is missing or differs.
    """
    try:
        fields = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        export = Export(**{**fields, "inputs": tuple(fields["inputs"])})
        needed = {
            file: digest for file, digest in export.files.items() if file.startswith((f"{precision}/", "tokenizer"))
        }
        if export.format != FORMAT or not {"tokenizer.json", f"{precision}/model.onnx"} <= needed.keys():
            raise ExportDamaged(f"{folder / 'export.json'} is of another version")
        for file, digest in needed.items():
            if sha256(folder / file) != digest:
                raise ExportDamaged(f"{folder / file} does not match its hash in export.json")
    except FileNotFoundError as error:
        raise ExportDamaged(f"{error.filename} is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ExportDamaged(f"{folder / 'export.json'} cannot be read: {error}") from error
    return export


class OnnxEncoder:
    """An open export. It is thread-safe."""

    def __init__(self, folder: Path, precision: Precision, threads: int) -> None:
        """Open the export in `folder`; `threads` share the work on one text.

        Raises:
            ExportDamaged: A file is missing or differs from its hash.
        """
        import onnxruntime
        from tokenizers import Tokenizer

        export = read_export(folder, precision)
        self._export = export
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._room = export.max_tokens - self._tokenizer.num_special_tokens_to_add(False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin between two texts take the cores that FAISS and the engine need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(
            str(folder / precision / "model.onnx"),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],  # the fused kernel takes a tenth more of the whole
        )

    @property
    def max_tokens(self) -> int:
        return self._export.max_tokens

    def queries(self, texts: list[str]) -> Vectors:
        """Unit vectors of `texts`, float32 of shape (n, dimensions)."""
        return self._vectors(texts, self._export.query_prompt, progress=False)

    def passages(self, texts: list[str], progress: bool = False) -> Vectors:
        """Unit vectors of `texts`, float32 of shape (n, dimensions)."""
        return self._vectors(texts, self._export.passage_prompt, progress)

    def count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _vectors(self, texts: list[str], prompt: str, progress: bool) -> Vectors:
        from tqdm import tqdm

        vectors = np.zeros((len(texts), self._export.dimensions), np.float32)
        if len(texts) == 1:
            vectors[0] = self._vector(prompt + texts[0])
            return vectors

        def prompted(text: str) -> Vectors:
            return self._vector(prompt + text)

        workers = cores()
        step = _SLICE * workers  # few enough that an interrupt need not wait long
        with (
            ThreadPoolExecutor(workers, "encoder") as pool,
            tqdm(total=len(texts), desc="embedding", unit="text", disable=not progress) as bar,
        ):
            for start in range(0, len(texts), step):
                for at, vector in enumerate(pool.map(prompted, texts[start : start + step]), start):
                    vectors[at] = vector
                    bar.update()
        return vectors

    def _vector(self, text: str) -> Vectors:
        """The unit vector of `text`, its prompt included; float32 of shape (dimensions,)."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        encoding.truncate(self._room, direction=self._export.cut)
        encoding = self._tokenizer.post_process(encoding)
        values = {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids}
        feed = {name: np.array([values[name]], dtype=np.int64) for name in self._export.inputs}
        tokens = self._session.run(None, feed)[0][0]
        pooled = tokens[0] if self._export.pooling == "cls" else tokens.mean(axis=0)
        return np.asarray(pooled / max(float(np.linalg.norm(pooled)), 1e-12), dtype=np.float32)


def cores() -> int:
    """The physical cores that this process may use, at least 1."""
    available = sorted(os.sched_getaffinity(0))
    places = set()
    for cpu in available:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            ids = [(topology / name).read_text().strip() for name in ("physical_package_id", "core_id")]
        except OSError:
            return len(available)
        places.add(tuple(ids))
    return max(1, min(len(places), _quota()))


def _quota() -> int:
    """The cores that the container may use, rounded up; as many as there are without a limit."""
    try:
        share, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return -(-int(share) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return os.cpu_count() or 1
