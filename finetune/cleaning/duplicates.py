"""Which turns say nearly the same: MinHash (Broder, 1997) finds the candidates, their shingles decide.

Two texts are as alike as their sets of shingles: what both hold over what either holds (Jaccard). Shingles are
three characters of English, two of Chinese, after NFKC, Traditional to Simplified, lower case
and without punctuation; they survive typing errors, which shingles of whole words do not.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from assistant.citations import numbers
from finetune.turns import Source, Turn
from retrieval.language import simplified

TWIN = 0.5
"""Similarity from which two questions are one question typed twice: of 1,400 sample questions a
language, each typed twice (`samples/make_logs.py`: greetings, slips, card numbers), 98% of the English and 97% of the
Chinese stay above it, and so do 5 of 2 million pairs of different ones."""
SAME = 0.8
"""Similarity from which two questions in one context teach the same."""
_STANDS_ALONE = 12
"""Characters (a Chinese one counts three) under which a question means something after the one before only."""
_PERMUTATIONS, _BANDS = 256, 64
"""Bands of 4: of pairs with similarity .5 and .6, 98.4% and 99.99% share one, 1 - (1 - s^4)^64. From `SAME` on half as
many, of 8: 99.7% of pairs with .8, and few of others."""
_AT_ONCE = 1024
_HAN = range(0x3400, 0xA000)
_RUN = re.compile(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+")
_RANK: dict[Source, int] = {"correction": 0, "confirmed": 1, "agent": 2}


def plain(text: str) -> str:
    """`text` as it is compared: NFKC, Simplified Chinese, lower case, words and runs of Chinese only."""
    return " ".join(_RUN.findall(unicodedata.normalize("NFKC", simplified(text)).lower()))


@functools.lru_cache(maxsize=30_000)
def shingles(text: str) -> frozenset[str]:
    """The shingles of `plain` text; a shorter run is one itself, and so is a word in letters beside Chinese."""
    chinese = [run for run in _RUN.findall(text) if ord(run[0]) in _HAN]
    runs, size = (_RUN.findall(text), 2) if chinese else ([text], 3)
    found: set[str] = set()
    for run in runs:
        if chinese and ord(run[0]) not in _HAN:
            found.add(run)
        else:
            found.update(run[i : i + size] for i in range(max(1, len(run) - size + 1)))
    return frozenset(found - {"", " "})


def similarity(one: str, other: str) -> float:
    """How alike two `plain` texts are, from 0 to 1; texts without letters or digits are alike only if equal."""
    mine, its = shingles(one), shingles(other)
    both = len(mine & its)
    return both / (len(mine) + len(its) - both) if mine or its else 1.0


def asked(turn: Turn) -> str:
    """The customer's question, `plain`; a short one ("and how long?") after the customer's message before."""
    said = [message.content for message in turn.conversation if message.role == "user"]
    alone = len(plain(said[-1]).encode()) >= _STANDS_ALONE
    return plain(said[-1] if alone else " ".join(said[-2:]))


def answered(turn: Turn) -> str:
    """The answer, `plain`, its tool calls included."""
    calls = [call.get("function") for call in turn.answer.tool_calls]
    return plain(turn.answer.content + (json.dumps(calls, ensure_ascii=False, sort_keys=True) if calls else ""))


def groups(turns: Sequence[Turn]) -> list[int]:
    """The number of each turn's group of near duplicates, in order of first appearance.

    Turns are joined whose questions are at least `TWIN` alike, or half that while question and answer
    together are `SAME`; and turns that both are joined to. One canned answer to different questions joins none.
    """
    questions = [asked(turn) for turn in turns]
    whole = [f"{question}\n{answered(turn)}" for question, turn in zip(questions, turns, strict=True)]
    edges = joined(questions, TWIN) + joined(whole, SAME, lambda *pair: _questions_share(pair, TWIN / 2))
    return connected(len(turns), edges)


def joined(
    texts: Sequence[str], least: float, allowed: Callable[[str, str], bool] = lambda one, other: True
) -> list[tuple[int, int]]:
    """Pairs of positions that connect all `allowed` texts, `plain` ones, that are at least `least` alike.

    Not every such pair is among them, where others connect its two. Below `TWIN`, most are missed.
    """
    from rensa import RMinHash, RMinHashLSH
    from scipy.cluster.hierarchy import DisjointSet

    first: dict[str, int] = {}
    pairs = [(earlier, i) for i, text in enumerate(texts) if (earlier := first.setdefault(text, i)) != i]
    known = list(first)
    sets = DisjointSet(range(len(known)))
    buckets = RMinHashLSH(least, _PERMUTATIONS, _BANDS if least < SAME else _BANDS // 2)
    for start in range(0, len(known), _AT_ONCE):
        batch = [sorted(shingles(text)) for text in known[start : start + _AT_ONCE]]
        sketches = RMinHash.from_token_sets(batch, _PERMUTATIONS, 1)
        buckets.insert_many(sketches, start)
        for i, candidates in enumerate(buckets.query_all(sketches), start):
            for j in candidates:
                one, other = known[i], known[j]
                if j < i and not sets.connected(i, j) and allowed(one, other) and similarity(one, other) >= least:
                    sets.merge(i, j)
                    pairs.append((first[other], first[one]))
    return pairs


def candidates(texts: Sequence[str], others: Sequence[str], least: float) -> list[list[int]]:
    """For each of `texts`, the positions of `others` that may be `least` alike, from `TWIN` to `SAME`; all `plain`.

    Only `others` are kept in mind and texts are not compared among themselves, so time grows with `texts`.
    """
    from rensa import RMinHash, RMinHashLSH

    buckets = RMinHashLSH(least, _PERMUTATIONS, _BANDS)
    buckets.insert_many(RMinHash.from_token_sets([sorted(shingles(text)) for text in others], _PERMUTATIONS, 1), 0)
    found: list[list[int]] = []
    for start in range(0, len(texts), _AT_ONCE):
        batch = [sorted(shingles(text)) for text in texts[start : start + _AT_ONCE]]
        found += buckets.query_all(RMinHash.from_token_sets(batch, _PERMUTATIONS, 1))
    return found


def _questions_share(pair: tuple[str, ...], least: float) -> bool:
    one, other = (text.partition("\n")[0] for text in pair)
    return similarity(one, other) >= least


def connected(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The component of each of `count` things that `pairs` connect, numbered in order of first appearance."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    graph = coo_array(([True] * len(pairs), (rows, columns)), shape=(count, count))
    names: dict[int, int] = {}
    return [names.setdefault(int(label), len(names)) for label in connected_components(graph, directed=False)[1]]


def preference(turn: Turn) -> tuple[Any, ...]:
    """Sorts turns by how much they are worth: corrections, confirmed answers, agents' answers; each newest first."""
    age = -turn.at.timestamp() if turn.at else 0.0
    return _RANK[turn.source], age, turn.place, turn.answer.content


Key = tuple[int, frozenset[str], int]
"""Of a set of near duplicates, among the turns of one call: its number, the figures, and the tools' replies."""


def keys(turns: Sequence[Turn]) -> list[Key]:
    """Equal for turns in which customers said nearly the same so far (`SAME`), with the same figures and as many tools'
    replies: what they teach an answer to."""
    said = [plain("\n".join(m.content for m in turn.conversation if m.role in ("user", "tool"))) for turn in turns]
    sets = connected(len(turns), joined(said, SAME))
    replies = [sum(message.role == "tool" for message in turn.conversation) for turn in turns]
    return [(of, numbers(text), count) for of, text, count in zip(sets, said, replies, strict=True)]


def distinct(turns: Sequence[Turn]) -> list[Turn]:
    """One turn of each of `keys`, the one that `preference` puts first; in the order given.

    Their answers may differ: what contradicts a correction, or a newer answer, goes. Cleaning twice changes nothing.
    """
    best: dict[Key, int] = {}
    for i, key in enumerate(keys(turns)):
        if key not in best or preference(turns[i]) < preference(turns[best[key]]):
            best[key] = i
    return [turns[i] for i in sorted(best.values())]
