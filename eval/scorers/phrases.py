"""The phrases by which answers are told apart: `phrases.yaml`."""

import functools
import re
import unicodedata
from pathlib import Path
from typing import Literal

import yaml

from retrieval.language import simplified

Kind = Literal["unknown", "offer", "courtesy", "banned"]


@functools.cache
def phrases(kind: Kind) -> re.Pattern[str]:
    """All phrases of a kind, of both languages, as one expression for `even` text."""
    lists = yaml.safe_load((Path(__file__).parent / "phrases.yaml").read_text(encoding="utf-8"))
    listed = [*lists[kind]["en"], *lists[kind]["zh"]]
    return re.compile("|".join(f"(?:{phrase})" for phrase in listed), re.IGNORECASE | re.MULTILINE)


def even(text: str) -> str:
    """`text` in Simplified Chinese, half-width, with straight apostrophes."""
    return unicodedata.normalize("NFKC", simplified(text)).replace("’", "'")
