import itertools
import re

from test_readers import pdf

from assistant.redaction import redact
from retrieval.documents import Document, parse
from retrieval.redaction import redacted


def without_cards(text: str) -> str:
    """Sees no number through markup."""
    return re.sub(r"\d{4}( \d{4}){3}", "<CARD_1>", text)


def test_what_markup_hides_is_redacted_and_headings_lists_and_quotes_stay() -> None:
    text = "# Cards\n\n## A\n\n- **4111** 1111 1111 1111 *here*\n> 4111 `1111` 1111 1111\n\n## B\n\nEnd *of* it."
    document = redacted(Document("card.md", "Cards", "en", text, "card.md"), without_cards)
    assert document.text == "# Cards\n\n## A\n\n- <CARD_1> *here*\n> <CARD_1>\n\n## B\n\nEnd *of* it."


def test_pages_start_where_they_did_after_a_number_before_them_was_removed() -> None:
    data = pdf("Pay with 4111 1111 1111 1111 today.", "Or call +86 138 0013 8000 now.", "The fee is 2 EUR.")
    (document,) = parse("a.pdf", data).documents
    document = redacted(document, redact)
    starts = [*document.pages, len(document.text)]
    pages = [document.text[start:end].strip() for start, end in itertools.pairwise(starts)]
    assert pages == ["Pay with <CARD_1> today.", "Or call <PHONE_1> now.", "The fee is 2 EUR."]


def test_a_card_number_over_the_end_of_a_page_is_redacted_and_the_pages_are_given_up() -> None:
    document = Document("a.pdf", "A", "en", "Pay with 4111 1111\n\n1111 1111 today.", "a.pdf", pages=(0, 20))
    document = redacted(document, redact)
    assert "1111" not in document.text
    assert document.pages == ()


def test_the_path_stays_since_citations_lead_there() -> None:
    path = "4111111111111111.md"
    document = redacted(Document(path, path, "en", path, path, tags=(path,)), redact)
    redacted_path = "<CARD_1>.md"
    assert document == Document(path, redacted_path, "en", redacted_path, redacted_path, tags=(redacted_path,))
