import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from retrieval.documents import Document, knowledge_files, parse
from retrieval.markup import plain
from retrieval.passages import Passage, split

ROOT = Path(__file__).parent.parent.parent
TEXT = """\
# Refunds

Most payments can be refunded.

## The time limit

- Within **180 days** by card.
- Within 90 days by [bank transfer](https://example.com/a).

### Last day

It ends at `23:59`.

## Fees

| Way | Fee |
| --- | --- |
| card | 0 |

![picture](x.png)

<!-- note to editors -->
"""


def document(text: str, title: str = "Refunds") -> Document:
    return Document("en/refunds.md", title, "en", text, "refunds")


def count_words(text: str) -> int:
    return len(text.split())


def passages(text: str, max_tokens: int = 100) -> list[Passage]:
    return split(document(text), count_words, max_tokens)


def test_each_section_is_a_passage_under_the_path_of_its_headings_without_the_title() -> None:
    assert [(passage.heading, passage.text) for passage in passages(TEXT)] == [
        ("", "Most payments can be refunded."),
        ("The time limit", "- Within 180 days by card.\n- Within 90 days by bank transfer."),
        ("The time limit > Last day", "It ends at 23:59."),
        ("Fees", "| Way | Fee |\n| --- | --- |\n| card | 0 |"),
    ]


def test_label_and_context_carry_the_title() -> None:
    passage = passages(TEXT)[2]
    assert passage.label == "Refunds > The time limit > Last day"
    assert passage.context == "Refunds > The time limit > Last day\nIt ends at 23:59."
    assert passages(TEXT)[0].label == "Refunds"


def test_spans_point_at_the_source_of_the_text() -> None:
    assert [TEXT[passage.start : passage.end] for passage in passages(TEXT)] == [
        "Most payments can be refunded.",
        "- Within **180 days** by card.\n- Within 90 days by [bank transfer](https://example.com/a).",
        "It ends at `23:59`.",
        "| Way | Fee |\n| --- | --- |\n| card | 0 |",
    ]


def test_a_passage_carries_what_its_document_says() -> None:
    (passage,) = split(replace(document("Text."), tags=("a",), language="zh"), count_words, 100)
    assert (passage.path, passage.article, passage.title) == ("en/refunds.md", "refunds", "Refunds")
    assert (passage.tags, passage.language, passage.question) == (("a",), "zh", False)


def test_the_place_is_the_line_in_the_file() -> None:
    assert [passage.place for passage in passages(TEXT)] == ["line 3", "line 7", "line 12", "line 16"]
    (passage,) = split(replace(document("Text."), first_line=4), count_words, 100)
    assert passage.place == "line 5"


def test_the_place_in_a_pdf_is_the_page() -> None:
    pages = replace(document("One page.\n\nTwo pages."), pages=(0, 11), first_line=None)
    assert [passage.place for passage in split(pages, count_words, 4)] == ["page 1", "page 2"]


def test_there_is_no_place_where_lines_are_not_those_of_the_file() -> None:
    assert split(replace(document("Text."), first_line=None), count_words, 100)[0].place == ""


def test_line_separators_that_markdown_does_not_know_do_not_shift_the_text() -> None:
    """Markdown ends lines at newlines only; counting a form feed or U+2028 as one moved every later passage."""
    found = passages("A line\u2028going\x0con.\n\n## Fees\n\nThe fee is 2 EUR.\n\nMore.\n")
    assert [(passage.heading, passage.text) for passage in found][-1] == ("Fees", "The fee is 2 EUR.\nMore.")


def test_a_table_a_list_and_code_that_fit_stay_whole() -> None:
    blocks = (
        "One two three four five six.",
        "| a | b |\n| --- | --- |\n| c | d |",
        "- one\n- two\n  - three\n\n  four",
        "```\nx = 1\n\n# comment\ny = 2\n```",
    )
    found = passages("\n\n".join(blocks), 17)
    assert [passage.text for passage in found] == [
        "One two three four five six.",
        "| a | b |\n| --- | --- |\n| c | d |",
        "- one\n- two\n  - three\n  four",
        "x = 1\n\n# comment\ny = 2",
    ]


def test_a_long_table_is_cut_between_rows_and_a_long_list_between_items() -> None:
    rows = [f"| row {n} | {n} |" for n in range(20)]
    items = [f"- item number {n} here" for n in range(20)]
    found = passages("\n".join(["| a | b |", "| --- | --- |", *rows]) + "\n\n" + "\n".join(items), 30)
    assert {line for passage in found for line in passage.text.splitlines()} >= {*rows, *items}


def test_code_that_is_cut_stays_as_it_was() -> None:
    lines = [f"    a[{n}] = **b** + `<c>`" for n in range(30)]
    found = passages("```\n" + "\n".join(lines) + "\n```\n", 20)
    assert len(found) > 1
    assert [line.strip() for passage in found for line in passage.text.splitlines()] == [x.strip() for x in lines]


def test_a_paragraph_above_the_limit_is_cut_between_sentences() -> None:
    text = "One two three. Four five six. Seven eight nine. Ten eleven twelve."
    assert [passage.text for passage in passages(text, 7)] == [
        "One two three. Four five six.",
        "Seven eight nine. Ten eleven twelve.",
    ]
    chinese = split(document("第一句话。第二句话！第三句话？"), len, 20)
    assert [passage.text for passage in chinese] == ["第一句话。第二句话！", "第三句话？"]


def test_a_giant_word_is_cut_hard() -> None:
    found = split(document("x" * 100), len, 30)
    assert "".join(passage.text for passage in found) == "x" * 100
    assert max(len(passage.context) for passage in found) <= 30


def test_a_title_and_headings_that_would_leave_no_room_are_cut_short() -> None:
    text = f"# {'heading ' * 30}\n\n{'word ' * 60}"
    found = split(document(text, "title " * 30), count_words, 40)
    assert found[0].title == "title title title title title title title title title…"
    assert all(count_words(passage.context) <= 40 for passage in found)
    assert sum(count_words(passage.text) for passage in found) == 60


def test_a_heading_without_text_is_no_passage_unless_there_is_nothing_else() -> None:
    assert [passage.text for passage in passages("# Refunds\n\n## Empty\n\n## Fees\n\nNone.")] == ["None."]
    assert [passage.text for passage in passages("# Refunds\n\n## Empty")] == ["Refunds\nEmpty"]


def test_html_comments_and_pictures_alone_are_no_passage() -> None:
    assert passages("<!-- nothing -->\n\n![x](y.png)\n") == []


def test_an_entry_of_a_question_list_is_one_passage_without_headings() -> None:
    entry = Document(
        "faq.csv#2", "How long?", "en", "# Long\n\n90 days.\n\n# Short\n\nOne day.", "faq.csv#2", question=True
    )
    (passage,) = split(entry, count_words, 100)
    assert (passage.heading, passage.text) == ("", "Long\n90 days.\nShort\nOne day.")
    assert (passage.place, passage.question) == ("", True)
    assert len(split(entry, count_words, 6)) == 2


@pytest.mark.parametrize("answer", ["![menu](menu.png)", "<br>", "<!-- todo -->", "---", "***"])
def test_an_answer_without_text_is_no_passage(answer: str) -> None:
    """It ended the index in a traceback, or an empty passage the chat."""
    assert split(Document("faq.csv#2", "Where?", "en", answer, "faq.csv#2", question=True), count_words, 100) == []


def test_the_id_stays_when_other_parts_of_the_document_change() -> None:
    before, after = passages(TEXT), passages("# Refunds\n\nNew.\n\n" + TEXT[11:].replace("23:59", "12:00"))
    assert before[1].id == after[1].id and before[3].id == after[3].id
    assert before[2].id != after[2].id


def test_the_same_text_twice_under_one_heading_has_two_ids() -> None:
    first, second, other = passages("## A\n\nSame.\n\n## A\n\nSame.\n\n## B\n\nSame.")
    assert second.id == f"{first.id}-2"
    assert other.id not in (first.id, second.id)


PIECES = [
    *(
        "word ",
        "句子。",
        "Sentence one. ",
        "**bold** ",
        "[link](https://a.b/c) ",
        "`code **x**` ",
        "<b>tag</b> ",
        "&amp; ",
    ),
    *(
        "![i](x) ",
        "<!-- c --> ",
        "<CARD_1> ",
        r"\* ",
        "\n",
        "\n\n",
        "\n\n",
        "\n- item ",
        "\n  1. nested ",
        "\n> quote ",
    ),
    *(
        "\n\n## Heading **b**\n\n",
        "\n\n```py\n# code\n\n  x = **y**\n```\n\n",
        "\n\n| a | b |\n| --- | --- |\n| c | d |\n\n",
    ),
    *("\n\n<Tab title='T'>\n    in tab\n</Tab>\n\n", "\n:::tip\n", "\n\n---\n", "长" * 30, "x" * 40 + " "),
]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_markdown_spans_ids_limits_and_text_hold(seed: int) -> None:
    draw = random.Random(seed)
    text = "".join(draw.choices(PIECES, k=60))
    limit = draw.choice([40, 80, 300])
    found = split(document(text), len, limit)
    for passage in found:
        assert plain(text, passage.start, passage.end) == passage.text != ""
        assert len(passage.context) <= limit
    assert [passage.start for passage in found] == sorted(passage.start for passage in found)
    assert len({passage.id for passage in found}) == len(found)
    kept = [line for passage in found for line in passage.text.split("\n")]
    whole = [line for line in plain(text).split("\n") if line != "Heading b"]
    # A mark of a list that is left alone is no text.
    assert re.sub(r"[\s*-]", "", "".join(kept)) == re.sub(r"[\s*-]", "", "".join(whole))


def test_the_sample_help_centre_is_cut_without_loss() -> None:
    for file in knowledge_files([ROOT / "knowledge"])[0]:
        (article,) = parse(file.name, file.read()).documents
        found = split(article, count_words, 60)
        assert found
        for passage in found:
            assert plain(article.text, passage.start, passage.end) == passage.text
            assert passage.place.startswith("line ")
