import io
import json
import zipfile

import pytest

from retrieval.documents import Document, Parsed, Skipped, Unreadable, parse

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
SHEET = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def csv(text: str, encoding: str = "utf-8") -> Parsed:
    return parse("faq.csv", text.encode(encoding))


def jsonl(*lines: object) -> Parsed:
    return parse("faq.jsonl", "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines).encode())


def xlsx(**sheets: dict[str, str | float]) -> bytes:
    """A workbook: of each sheet, its cells by their references."""
    numbered = list(enumerate(sheets.items(), 1))

    def relations(kind: str, *targets: str) -> str:
        entries = "".join(
            f'<Relationship Id="r{n}" Type="{OFFICE}/{kind}" Target="{target}"/>' for n, target in enumerate(targets, 1)
        )
        return f'<Relationships xmlns="{PACKAGE}">{entries}</Relationships>'

    def sheet(cells: dict[str, str | float]) -> str:
        rows: dict[str, str] = {}
        for place, value in cells.items():
            row = place.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
            text = f't="inlineStr"><is><t>{value}</t></is>' if isinstance(value, str) else f"><v>{value}</v>"
            rows[row] = f'{rows.get(row, "")}<c r="{place}" {text}</c>'
        body = "".join(f'<row r="{row}">{content}</row>' for row, content in rows.items())
        return f"<worksheet {SHEET}><sheetData>{body}</sheetData></worksheet>"

    entries = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, (name, _) in numbered)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("_rels/.rels", relations("officeDocument", "xl/workbook.xml"))
        file.writestr("xl/workbook.xml", f'<workbook {SHEET} xmlns:r="{OFFICE}"><sheets>{entries}</sheets></workbook>')
        file.writestr(
            "xl/_rels/workbook.xml.rels", relations("worksheet", *(f"worksheets/sheet{n}.xml" for n, _ in numbered))
        )
        for n, (_, cells) in numbered:
            file.writestr(f"xl/worksheets/sheet{n}.xml", sheet(cells))
    return data.getvalue()


def test_each_row_is_a_document_whose_title_is_the_question() -> None:
    parsed = csv('id,question,answer,category,language,tags\nr1,How long?,90 days,refunds,en-US,"a, b"\n')
    assert parsed == Parsed(
        (
            Document(
                path="faq.csv#r1",
                title="How long?",
                language="en",
                text="90 days",
                article="faq.csv#r1",
                tags=("a", "b", "refunds"),
                question=True,
                first_line=None,
            ),
        )
    )


def test_a_chinese_header_in_gb18030_with_semicolons_is_read() -> None:
    (document,) = csv("编号;问题;答案;分类;语言;标签\n7;多久到账？;九十天;退款;zh;甲、乙\n", "gb18030").documents
    assert document.path == "faq.csv#7" and document.article == "faq.csv#7"
    assert (document.title, document.text, document.language) == ("多久到账？", "九十天", "zh")
    assert document.tags == ("甲", "乙", "退款")


@pytest.mark.parametrize(
    "header",
    [
        "question,answer",
        "Q,A",
        "title,text",
        "title,content",
        "title,body",
        "问题,回答",
        "标题,内容",
        " Question ,ANSWER",
    ],
)
def test_question_and_answer_may_have_several_names(header: str) -> None:
    (document,) = csv(f"{header}\nHow?,So.\n").documents
    assert (document.title, document.text) == ("How?", "So.")


def test_rows_are_numbered_as_in_a_spreadsheet_and_empty_ones_ignored() -> None:
    parsed = csv('question,answer\nOne?,"two\nlines"\n,\n\nTwo?,b\n')
    assert [document.path for document in parsed.documents] == ["faq.csv#2", "faq.csv#5"]
    assert parsed.documents[0].text == "two\nlines"
    assert parsed.skipped == ()


def test_a_row_without_a_question_is_reported_and_the_others_are_read() -> None:
    parsed = csv("question,answer\nOne?,a\n,b\n")
    assert len(parsed.documents) == 1
    assert parsed.skipped == (Skipped("faq.csv:3", "no question in this row"),)


def test_without_an_answer_the_question_is_the_text() -> None:
    first, second = csv("question,answer\nOne?,\nTwo?\n").documents
    assert (first.text, second.text) == ("One?", "Two?")
    assert csv("question\nOne?\n").documents[0].text == "One?"


def test_without_answers_the_questions_of_a_category_or_of_the_file_are_one_article() -> None:
    assert [entry.article for entry in csv("question,category\nOne?,a\nTwo?,b\nThree?,a\n").documents] == [
        "faq.csv#a",
        "faq.csv#b",
        "faq.csv#a",
    ]
    assert {entry.article for entry in csv("question\nOne?\nTwo?\n").documents} == {"faq.csv"}


def test_questions_with_one_answer_are_one_article() -> None:
    one, two, three = csv("question,answer\nHow long?,90 days\nWhen?,90 days\nWhat fee?,None\n").documents
    assert one.article == two.article == "faq.csv#2"
    assert three.article == "faq.csv#4"


def test_an_id_that_translations_share_stays_apart_by_its_row() -> None:
    english, chinese = csv("id,question,language\nfee,What fee?,en\nfee,手续费多少？,zh\n").documents
    assert (english.path, chinese.path) == ("faq.csv#fee", "faq.csv#fee-3")


def test_a_header_without_questions_names_its_columns_and_the_accepted_ones() -> None:
    with pytest.raises(Unreadable) as error:
        csv("frage,antwort\nWie?,So.\n")
    assert str(error.value) == (
        "no column of questions among frage, antwort; name one of question, q, 问题, title, 标题 in the first row, "
        "and one of answer, a, text, body, content, 回答, 答案, 内容"
    )


def test_a_workbook_is_read_like_a_table_from_where_it_starts() -> None:
    data = xlsx(Sheet1={"B3": "id", "C3": "问题", "D3": "回答", "B4": 12, "C4": "多久？", "D4": "九十天", "C5": 42.5})
    parsed = parse("faq.xlsx", data)
    assert [(document.path, document.title, document.text) for document in parsed.documents] == [
        ("faq.xlsx#12", "多久？", "九十天"),
        ("faq.xlsx#5", "42.5", "42.5"),
    ]


def test_of_several_sheets_each_with_questions_is_read_and_named_in_the_path() -> None:
    data = xlsx(Fees={"A1": "q", "A2": "Fee?"}, Refunds={"A1": "q", "A2": "Long?"}, Notes={"A1": "remark"}, Empty={})
    parsed = parse("faq.xlsx", data)
    assert [document.path for document in parsed.documents] == ["faq.xlsx#Fees#2", "faq.xlsx#Refunds#2"]
    (skip,) = parsed.skipped
    assert skip.path == "faq.xlsx#Notes" and "no column of questions among remark" in skip.reason


def test_a_workbook_with_a_stray_cell_far_away_is_unreadable() -> None:
    """The reader allocated 17 billion cells up to it, which ended the process."""
    data = xlsx(Sheet1={"A1": "question", "A2": "How?", "XFD1048576": " "})
    with pytest.raises(Unreadable, match="reaches to column XFD and row 1048576; delete what stands outside the table"):
        parse("faq.xlsx", data)


def test_a_workbook_with_a_password_says_so() -> None:
    with pytest.raises(Unreadable, match="needs a password or is in the format before Excel 2007"):
        parse("faq.xlsx", b"\xd0\xcf\x11\xe0" + b"\0" * 600)


def test_lines_are_questions_or_articles() -> None:
    question, article, named = jsonl(
        {"q": "How long?", "a": "90 days", "id": 5, "tags": ["x"]},
        {"title": "手续费", "body": "# 手续费\n\n免费。", "lang": "zh-CN"},
        {"title": "Fees", "content": "None.", "path": "en/fees.md"},
    ).documents
    assert (question.path, question.title, question.text, question.tags) == (
        "faq.jsonl#5",
        "How long?",
        "90 days",
        ("x",),
    )
    assert question.question and not article.question
    assert (article.path, article.text, article.language) == ("faq.jsonl#2", "# 手续费\n\n免费。", "zh")
    assert (named.path, named.article) == ("en/fees.md", "en/fees.md")


def test_bad_lines_are_reported_by_number_and_the_rest_is_read() -> None:
    parsed = jsonl({"q": "How?", "a": "So."}, "", "{broken", ["list"], {"title": "T"}, {}, {"q": "Why?", "a": "So."})
    assert [document.path for document in parsed.documents] == ["faq.jsonl#1", "faq.jsonl#7"]
    assert [skip.path for skip in parsed.skipped] == ["faq.jsonl:3", "faq.jsonl:4", "faq.jsonl:5", "faq.jsonl:6"]
    assert parsed.skipped[0].reason.startswith("not JSON: Expecting property name")
    assert [skip.reason for skip in parsed.skipped[1:]] == [
        "not an object with question and answer, or title and text",
        "no question or q, nor title with text, body or content; it has title",
        "no question or q, nor title with text, body or content; it has nothing",
    ]
