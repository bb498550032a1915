from retrieval.documents import Document
from retrieval.passages import Passage, split

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


def test_line_spans_point_at_the_text_in_the_document() -> None:
    lines = TEXT.splitlines()
    spans = ["\n".join(lines[passage.start_line : passage.end_line]).strip() for passage in passages(TEXT)]
    assert spans == [
        "Most payments can be refunded.",
        "- Within **180 days** by card.\n- Within 90 days by [bank transfer](https://example.com/a).",
        "It ends at `23:59`.",
        "| Way | Fee |\n| --- | --- |\n| card | 0 |",
    ]


def test_line_separators_that_markdown_does_not_know_do_not_shift_the_text() -> None:
    """Markdown ends lines at newlines only; counting a form feed or U+2028 as one moved every later passage."""
    found = passages("A line\u2028going on.\n\n## Fees\n\nThe fee is 2 EUR.\n\nMore.\n")
    assert [(passage.heading, passage.text) for passage in found][-1] == ("Fees", "The fee is 2 EUR.\nMore.")


def test_whole_blocks_share_a_passage_until_the_limit() -> None:
    text = "one two three\n\nfour five six\n\nseven eight nine\n"
    # The title takes 1 of 8 words, so two blocks of three fit and the third does not.
    assert [passage.text for passage in passages(text, 8)] == ["one two three\nfour five six", "seven eight nine"]


def test_a_block_above_the_limit_is_cut_between_sentences() -> None:
    text = "One two three. Four five six. Seven eight nine. Ten eleven twelve."
    # The title takes 1 of 9 words and a cut block half of the rest: one sentence of three, and not two.
    found = passages(text, 9)
    assert " ".join(" ".join(passage.text.split()) for passage in found) == text
    assert [passage.text for passage in found] == [
        "One two three.\nFour five six.",
        "Seven eight nine.\nTen eleven twelve.",
    ]
    assert {(passage.start_line, passage.end_line) for passage in found} == {(0, 1)}


def test_no_passage_is_above_the_limit_unless_it_is_one_sentence() -> None:
    sentence = "This sentence has exactly six words. "
    monster = "word " * 40 + "end."
    text = f"# Refunds\n\n## Part\n\n{sentence * 30}\n\n{monster}\n\n{sentence * 3}\n"
    for passage in passages(text, 25):
        size = count_words(f"{passage.title} {passage.heading} {passage.text}")
        assert size <= 25 or passage.text == monster


def test_nothing_of_a_long_document_is_lost_by_cutting() -> None:
    words = [f"word{i}" for i in range(500)]
    text = ". ".join(" ".join(words[i : i + 7]) for i in range(0, 500, 7)) + "."
    found = " ".join(passage.text for passage in passages(text, 30)).replace(".", "").split()
    assert found == words


def test_the_same_text_gets_the_same_id_and_another_text_another() -> None:
    first, second = passages("Same.")[0], passages("Other.")[0]
    assert first.id == passages("Same.")[0].id != second.id


def test_html_comments_and_pictures_alone_are_no_passage() -> None:
    assert passages("<!-- nothing -->\n\n![x](y.png)\n") == []
