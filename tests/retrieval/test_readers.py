import io
import zipfile

import pypdf
import pytest

from retrieval import readers
from retrieval.documents import Document, Unreadable, parse
from retrieval.markup import plain

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def read(name: str, text: str | bytes) -> Document:
    (document,) = parse(name, text if isinstance(text, bytes) else text.encode()).documents
    return document


def docx(*paragraphs: tuple[str, str]) -> bytes:
    """A Word document: style, as Word names it, and text of each paragraph."""
    styles = {"heading 1": "H1", "heading 2": "H2", "Title": "T", "": "N"}
    body = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="{styles[style]}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'
        for style, text in paragraphs
    )
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" '
        f'Type="{OFFICE}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" '
        f'Type="{OFFICE}/styles" Target="styles.xml"/></Relationships>',
        "word/styles.xml": f"<w:styles {W}>"
        + "".join(
            f'<w:style w:type="paragraph" w:styleId="{key}"><w:name w:val="{name or "Normal"}"/></w:style>'
            for name, key in styles.items()
        )
        + "</w:styles>",
        "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, xml in parts.items():
            file.writestr(name, xml)
    return data.getvalue()


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF whose pages show these lines."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(f'{5 + 2 * n} 0 R' for n in range(len(pages)))}] >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Title ({title}) >>",
    ]
    for n, page in enumerate(pages):
        lines = " ".join(f"({line}) Tj 0 -14 Td" for line in page.splitlines())
        stream = f"BT /F1 12 Tf 72 720 Td {lines} ET"
        font = "/Resources << /Font << /F1 3 0 R >> >>"
        box = "/MediaBox [0 0 612 792]"
        objects.append(f"<< /Type /Page /Parent 2 0 R {box} {font} /Contents {6 + 2 * n} 0 R >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    data, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(data))
        content = content if isinstance(content, bytes) else content.encode()
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Size %d /Root 1 0 R /Info 4 0 R >>\nstartxref\n%d\n%%%%EOF"
    size = len(objects) + 1
    return data + b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table) + trailer % (size, len(data))


# Markdown and text


def test_front_matter_names_the_article_title_language_and_tags() -> None:
    text = "---\nid: refunds\ntitle: Refunds\nlanguage: zh-CN\ntags: [a, b]\ntag: c\n---\n\nOnly English words\n"
    assert read("a.md", text) == Document(
        path="a.md",
        title="Refunds",
        language="zh",
        text="Only English words",
        article="refunds",
        tags=("a", "b", "c"),
        first_line=8,
    )


def test_tags_may_be_one_line() -> None:
    assert read("a.md", "---\ntags: refunds, 退款；fees\n---\ntext").tags == ("refunds", "退款", "fees")


def test_without_front_matter_the_first_heading_is_the_title_and_the_path_the_article() -> None:
    document = read("zh/a.md", "text first\n\n## 退款**期限**\n\n九十天\n")
    assert (document.title, document.article, document.language) == ("退款期限", "zh/a.md", "zh")


def test_without_any_heading_the_file_name_is_the_title() -> None:
    assert read("faq/late-refunds.txt", "They come later.").title == "late refunds"


def test_a_comment_in_code_is_no_title() -> None:
    assert read("a.md", "```sh\n# comment\n```\n\n# Title\n").title == "Title"


def test_a_rule_on_the_first_line_is_no_front_matter() -> None:
    assert read("a.md", "---\nwords\n---\nmore words").text == "---\nwords\n---\nmore words"


def test_broken_front_matter_is_unreadable_and_says_so() -> None:
    with pytest.raises(Unreadable, match=r"^front matter is not YAML: [^\n]*$"):
        read("a.md", "---\ntitle: [unclosed\n---\nbody")


def test_code_and_links_do_not_count_for_the_language() -> None:
    """One in twelve Chinese articles of a real help centre counted as English for the addresses in it."""
    text = "请参阅[账单](https://docs.example.com/commerce/billing-and-payments/change-your-billing-addresses)。"
    assert read("a.md", text).language == "zh"
    assert read("a.md", "运行：\n\n```sh\ncurl -fsSL deploy.example | bash -s -- --force\n```\n").language == "zh"


def test_mdx_is_read_without_imports_exports_and_tags_and_keeps_its_lines() -> None:
    document = read(
        "a.mdx",
        "---\ntitle: T\n---\n"
        "import {\n  Tabs\n} from 'x'\nimport 'y'\n\n"
        "export const meta = {\n  a: 1,\n\n  b: 2,\n}\n\n"
        '<Tabs items={["a", "b>c"]}>\n  <Tab title="Card">\n    Wait:\n    ```js\n    import z from "z"\n    ```\n'
        "  </Tab>\n</Tabs>\n\n{/* note */}\n<Icon />\nexport your data here\n",
    )
    assert plain(document.text) == 'Card\nWait:\nimport z from "z"\nexport your data here'
    assert (document.first_line, document.text.split("\n").index("Wait:")) == (3, 13)


def test_a_byte_order_mark_and_foreign_line_ends_are_no_text() -> None:
    document = read("a.md", b"\xef\xbb\xbf---\r\ntitle: T\r\n---\r\nbody\r\nmore\rlast")
    assert (document.title, document.text) == ("T", "body\nmore\nlast")


def test_chinese_text_in_gb18030_is_read() -> None:
    document = read("a.txt", "退款需要九十天，请耐心等待。".encode("gb18030"))
    assert (document.text, document.language) == ("退款需要九十天，请耐心等待。", "zh")


@pytest.mark.parametrize("text", ["Don’t wait, it’s “fine”", "Größe, Straße, Füße", "détail, été, naïveté"])
def test_western_text_that_would_pass_for_gb18030_is_unreadable(text: str) -> None:
    """An accent and the letter after it are one Chinese character in GB18030."""
    with pytest.raises(Unreadable, match="text in neither UTF-8 nor GB18030; save it as UTF-8"):
        read("a.md", text.encode("cp1252"))


# Web pages

PAGE = """<html lang="zh-CN"><head><title>Refunds | Acme</title><style>p {}</style></head>
<body><header><h1>Acme</h1></header><nav>Home</nav>
<main><h1>Refunds <a href="#r">¶</a></h1><p>Within <strong>90 days</strong>, see <a href="/fees">fees</a>.</p>
<h2>Fees</h2><table><tr><td>Way</td><td>Fee</td></tr><tr><td>card</td><td>0</td></tr></table>
<script>x()</script></main><footer>Imprint</footer></body></html>"""


def test_of_a_web_page_its_main_part_is_read_as_markdown() -> None:
    document = read("a.html", PAGE)
    assert document == Document(
        path="a.html",
        title="Refunds",
        language="zh",
        text="# Refunds\n\nWithin **90 days**, see [fees](/fees).\n\n## Fees\n\n"
        "| Way | Fee |\n| --- | --- |\n| card | 0 |",
        article="a.html",
        first_line=None,
    )


def test_without_main_the_only_article_and_without_one_the_body_is_read() -> None:
    assert read("a.htm", "<body>menu<article>One.</article></body>").text == "One."
    assert read("a.htm", "<body><article>One.</article> <article>Two.</article></body>").text == "One.\n\nTwo."
    assert read("a.htm", "<header>Menu</header><p>Text.</p>").text == "Text."


def test_a_web_page_without_heading_is_called_by_its_title_element() -> None:
    assert read("a.html", "<title>Late  refunds</title><p>They come later.").title == "Late refunds"


def test_text_that_looks_like_markup_on_a_web_page_reads_as_it_was_seen() -> None:
    page = "<p>Type &lt;b&gt; or **x** or [1](2) as a_b+c@example.com</p><pre>&lt;i&gt; `**`</pre>"
    assert plain(read("a.html", page).text) == "Type <b> or **x** or [1](2) as a_b+c@example.com\n<i> `**`"


def test_what_unfolds_is_a_paragraph_of_its_own() -> None:
    page = "<details><summary>How long?</summary>A day.</details>"
    assert plain(read("a.html", page).text) == "How long?\nA day."


def test_a_web_page_in_a_declared_encoding_is_read() -> None:
    page = '<meta charset="big5"><p>退款需要九十天。</p>'.encode("big5")
    assert read("a.html", page).text == "退款需要九十天。"


# Word


def test_a_word_document_is_read_with_its_headings() -> None:
    data = docx(("Title", "Refunds"), ("heading 1", "The time limit"), ("", "90 days &lt; 100."), ("heading 2", "Fees"))
    document = read("a.docx", data)
    assert document.text == "# Refunds\n\n# The time limit\n\n90 days \\< 100.\n\n## Fees"
    assert (document.title, document.first_line) == ("Refunds", None)


def test_a_word_document_with_a_password_or_before_2007_says_so() -> None:
    with pytest.raises(Unreadable, match="needs a password or is in the format before Word 2007; save a new copy"):
        read("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600)


def test_an_office_file_that_unpacks_to_too_much_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_FILE_BYTES", 2**20)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("word/document.xml", b"0" * 2**21)
    with pytest.raises(Unreadable, match="unpacks to 2 MB, more than 1; split it"):
        read("a.docx", data.getvalue())


# PDF


def test_a_pdf_is_read_with_the_start_of_each_page() -> None:
    document = read("refund-policy.pdf", pdf("Refunds take 90 days.", "Fees: none."))
    assert document.text == "Refunds take 90 days.\n\nFees: none."
    assert [document.text[start:][:4] for start in document.pages] == ["Refu", "Fees"]
    assert document.title == "refund policy"


def test_the_title_of_a_pdf_is_its_own_unless_a_program_made_it_up() -> None:
    assert read("a.pdf", pdf("Text.", title="Refund policy")).title == "Refund policy"
    assert read("a.pdf", pdf("Text.", title="Microsoft Word - draft.docx")).title == "a"


def test_lines_that_the_page_broke_are_joined_and_others_are_not() -> None:
    lines = "A refund takes up to ninety days from\nthe day of the payment.\nWays:\n"
    assert read("a.pdf", pdf(lines + "- by card to the same card as it was\n- cash")).text.split("\n") == [
        "A refund takes up to ninety days from the day of the payment.",
        "Ways:",
        "- by card to the same card as it was",
        "- cash",
    ]


def test_text_that_looks_like_markup_in_a_pdf_reads_as_it_was_seen() -> None:
    assert (
        plain(read("a.pdf", pdf("# 3 of <b> and [x]\\(y\\) **z** &amp;")).text) == "# 3 of <b> and [x](y) **z** &amp;"
    )


def test_a_pdf_without_text_needs_text_recognition() -> None:
    with pytest.raises(Unreadable, match=r"no text, only pictures of it; run text recognition \(OCR\)"):
        read("a.pdf", pdf(""))


def test_a_pdf_with_a_password_says_so() -> None:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf("Secret.")))
    writer.encrypt("password", algorithm="RC4-128")
    data = io.BytesIO()
    writer.write(data)
    with pytest.raises(Unreadable, match="needs a password; save a copy without one"):
        read("a.pdf", data.getvalue())


def test_a_pdf_that_forbids_only_printing_is_read() -> None:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf("Open.")))
    writer.encrypt("", owner_password="owner", algorithm="RC4-128")
    data = io.BytesIO()
    writer.write(data)
    assert read("a.pdf", data.getvalue()).text == "Open."
