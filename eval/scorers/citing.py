"""Whether an answer cites the articles that answer."""

from eval.answers import Answer
from eval.cases import Case
from eval.metrics import Score


def citation_precision(case: Case, answer: Answer) -> Score:
    """Share of the citations that lead to a relevant article; None without either."""
    if not case.relevant or not answer.citations:
        return Score(None)
    paths = [str(citation["path"]) for citation in answer.citations]
    others = [path for path in paths if not _is_relevant(path, case)]
    return Score((len(paths) - len(others)) / len(paths), f"cites {', '.join(others)}" if others else "")


def citation_recall(case: Case, answer: Answer) -> Score:
    """1 if a relevant article is cited, else 0; None without relevant ones."""
    if not case.relevant:
        return Score(None)
    cited = any(_is_relevant(str(citation["path"]), case) for citation in answer.citations)
    return Score(float(cited), "" if cited else f"does not cite {' or '.join(case.relevant)}")


def _is_relevant(path: str, case: Case) -> bool:
    """The entry `cards.csv#12` of a list counts also where its file is relevant."""
    return path in case.relevant or path.partition("#")[0] in case.relevant
