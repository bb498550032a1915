"""Retrieval by two other projects, at their defaults, on our knowledge, cases and encoder.

    python -m benchmarks.peers --peer PEER --knowledge DIR --cases FILE --encoder FOLDER

prints one JSON object. PEER is llama-index, llama-index-hybrid, txtai or txtai-paragraphs. This project depends on
none of them, and the script on nothing else; make a virtual environment for each, and there

    pip install torch==2.13.0 llama-index-core==0.14.25 llama-index-embeddings-huggingface==0.8.0 \\
        llama-index-retrievers-bm25==0.8.0
    pip install torch==2.13.0 txtai==9.14.0

benchmarks/datasets.py writes knowledge and cases; FOLDER is a sentence-transformers model of the E5 family, such as
the embedded encoder under the data folder's models/. Our figures are those of eval/retrieval.py on the same cases.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

CHUNKS, WARM_UP = 50, 5
"""Searched for a case, and searches before the clock counts; as for ours."""
QUERY, PASSAGE = "query: ", "passage: "
"""What E5 models are trained to see before a text."""


@dataclass(frozen=True)
class Peer:
    """An index of another project, ready to be searched."""

    package: str
    chunks: int
    search: Callable[[str], list[str]]
    """The documents of the best chunks for a query, best first; a document may come up more than once."""


@dataclass(frozen=True)
class Question:
    query: str
    relevant: frozenset[str]


@dataclass(frozen=True)
class Result:
    """Means over the questions; time per query, one at a time, embedding included."""

    recall_1: float
    recall_5: float
    mrr_10: float
    p50_ms: float
    p99_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=list(PEERS), required=True)
    for name in ("knowledge", "cases", "encoder"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    texts, questions = read_texts(options.knowledge), read_questions(options.cases)
    if not texts or not questions:
        sys.exit(f"benchmarks.peers: {options.knowledge} has no files, or {options.cases} no cases in scope")
    started = time.perf_counter()
    peer = PEERS[options.peer](texts, str(options.encoder))
    build = {"chunks": peer.chunks, "build_s": round(time.perf_counter() - started, 1), "n": len(questions)}
    about = {"peer": options.peer, "version": version(peer.package)}
    print(json.dumps(about | build | asdict(measure(peer, questions)), indent=1))


def read_texts(folder: Path) -> dict[str, str]:
    """The text of each file by its path under `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def read_questions(cases: Path) -> list[Question]:
    """The cases of one query that some document answers."""
    rows = map(json.loads, cases.read_text(encoding="utf-8").splitlines())
    return [Question(q, frozenset(row["relevant"])) for row in rows if (q := row.get("query")) and row.get("relevant")]


def measure(peer: Peer, questions: list[Question]) -> Result:
    """Recall and reciprocal rank as trec_eval has them, over documents in the order in which they first come up."""
    for question in questions[:WARM_UP]:
        peer.search(question.query)
    scores, ms = [], []
    for question in questions:
        started = time.perf_counter()
        found = peer.search(question.query)
        ms.append((time.perf_counter() - started) * 1000)
        documents = list(dict.fromkeys(found))[:10]
        ranks = [rank for rank, path in enumerate(documents, 1) if path in question.relevant]
        recall_1, recall_5 = (sum(rank <= k for rank in ranks) / len(question.relevant) for k in (1, 5))
        scores.append((recall_1, recall_5, 1 / ranks[0] if ranks else 0.0))
    means = map(statistics.fmean, zip(*scores, strict=True))
    p99_ms = statistics.quantiles(ms, n=100, method="inclusive")[98]
    return Result(*(round(value, 4) for value in (*means, statistics.median(ms), p99_ms)))


def llama_index(texts: dict[str, str], encoder: str, hybrid: bool = False) -> Peer:
    """LlamaIndex: SentenceSplitter's chunks of 1,024 tokens in a VectorStoreIndex in memory.

    `hybrid` fuses its ranking with BM25Retriever's by reciprocal rank, as its guide to hybrid search does; only the
    question itself is asked, since the default asks a language model for three more.
    """
    from llama_index.core import Document, VectorStoreIndex  # type: ignore[import-not-found]
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding  # type: ignore[import-not-found]

    model = HuggingFaceEmbedding(encoder, query_instruction=QUERY, text_instruction=PASSAGE)
    documents = [Document(text=text, id_=path) for path, text in texts.items()]
    index = VectorStoreIndex.from_documents(documents, embed_model=model)
    retriever = index.as_retriever(similarity_top_k=CHUNKS)
    if hybrid:
        from llama_index.core.llms import MockLLM  # type: ignore[import-not-found]
        from llama_index.core.retrievers import QueryFusionRetriever  # type: ignore[import-not-found]
        from llama_index.retrievers.bm25 import BM25Retriever  # type: ignore[import-not-found]

        both = [retriever, BM25Retriever.from_defaults(docstore=index.docstore, similarity_top_k=CHUNKS)]
        fusion = {"mode": "reciprocal_rerank", "num_queries": 1, "similarity_top_k": CHUNKS}
        retriever = QueryFusionRetriever(both, MockLLM(), **fusion)
    count = len(index.docstore.docs)
    return Peer("llama-index-core", count, lambda query: [found.node.ref_doc_id for found in retriever.retrieve(query)])


def txtai(texts: dict[str, str], encoder: str, paragraphs: bool = False) -> Peer:
    """txtai: whole files, or what its Segmentation calls paragraphs, in Embeddings with hybrid search."""
    from txtai import Embeddings  # type: ignore[import-not-found]
    from txtai.pipeline import Segmentation  # type: ignore[import-not-found]

    split = Segmentation(paragraphs=True) if paragraphs else lambda text: [text]
    chunks = [(path, chunk) for path, text in texts.items() for chunk in split(text)]
    embeddings = Embeddings(path=encoder, hybrid=True, instructions={"query": QUERY, "data": PASSAGE})
    embeddings.index((n, chunk, None) for n, (_, chunk) in enumerate(chunks))
    return Peer("txtai", len(chunks), lambda query: [chunks[n][0] for n, _ in embeddings.search(query, CHUNKS)])


PEERS: dict[str, Callable[[dict[str, str], str], Peer]] = {
    "llama-index": llama_index,
    "llama-index-hybrid": lambda texts, encoder: llama_index(texts, encoder, hybrid=True),
    "txtai": txtai,
    "txtai-paragraphs": lambda texts, encoder: txtai(texts, encoder, paragraphs=True),
}

if __name__ == "__main__":
    main()
