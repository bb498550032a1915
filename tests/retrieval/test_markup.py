import pytest

from retrieval.markup import Heading, escaped, headings, mdx_as_markdown, plain, prose, read


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("Within **90 days** and `x`.", "Within 90 days and x."),
        ("See [the *fees*](https://a.b/c_(d) 'Fees').", "See the *fees*."),
        ("[![icon](x.png) Fees](/fees) and ![picture [1]](y.png)", "Fees and"),
        ("See [fees][1] or a[0][2].\n\n[1]: https://a.b", "See fees or a[0][2]."),
        ("<https://a.b> and <help@a.b>", "https://a.b and help@a.b"),
        ("a<!-- note -->b <!-- two\nlines -->", "ab"),
        ('<p class="x>y">one<br>two</p><b>th</b>ree', "one two three"),
        ("<style>p {}</style><script>x()</script>text", "text"),
        ("A&nbsp;B &lt;b&gt; &euro;5 AT&T", "A B <b> €5 AT&T"),
        (r"\*no\* \$5 C:\dir \\", r"*no* $5 C:\dir" + " \\"),
        ("> [!NOTE]\n> Mind **this**.\n> > deeper", "Mind this.\ndeeper"),
        (":::warning Careful\nText\n:::", "Careful\nText"),
        ("One.\n\n---\n\n* * *\n\nTwo.", "One.\nTwo."),
        ("- [ ] open\n- [x] done", "- [ ] open\n- [x] done"),
        ('<Card title="Why > how?" icon={x => y}>\nBecause.\n</Card>', "Why > how?\nBecause."),
        ("{/* note */}text", "text"),
    ],
)
def test_inline_markup_is_no_text(markdown: str, text: str) -> None:
    assert plain(markdown) == text


@pytest.mark.parametrize("text", ["<CARD_1> and <PHONE_2>", "a < b and c > d", "2 * 3 * 4", "snake_case_name", "1 <3"])
def test_placeholders_and_signs_are_text(text: str) -> None:
    assert plain(text) == text


def test_a_placeholder_in_the_target_of_a_link_is_no_text() -> None:
    assert plain("[Write](mailto:<EMAIL_1>) to <EMAIL_1>") == "Write to <EMAIL_1>"


CODE = "# comment\n\n\ndef f(**k):\n    return `<b>` + [a](b)  \n"


@pytest.mark.parametrize("fence", ["```", "~~~~", "    ```", "> ```"])
def test_code_stays_as_it_was(fence: str) -> None:
    assert plain(f"Text:\n\n{fence} python\n{CODE}{fence}\n\n**After**") == f"Text:\n{CODE.rstrip()}\nAfter"


def test_code_within_a_line_stays_as_it_was() -> None:
    assert plain("`<b> **x** &lt;` and ``a`b``") == "<b> **x** &lt; and a`b"


def test_a_part_is_read_with_the_markup_around_it_in_mind() -> None:
    source = "```\na **b** c\n```\n"
    assert plain(source, 4, 11) == "a **b**"
    assert plain("a **b** c", 0, 7) == "a b"


def test_spans_lead_back_to_the_source() -> None:
    source = "One **two** &amp; [three](x) four."
    text = read(source)
    assert text.markdown == "One two & three four."
    assert source[slice(*text.source_span(4, 7))] == "**two**"
    assert source[slice(*text.source_span(8, 15))] == "&amp; [three](x)"


def test_headings_have_a_level_and_plain_text() -> None:
    text = read("# One **1** {#anchor}\ntext\nTwo\n---\n### [Three](x) ###\n")
    assert [(heading.level, heading.text) for heading in headings(text)] == [(1, "One 1"), (3, "Three")]
    assert list(headings(read("Two\n---\nx"))) == [Heading(2, "Two", 0, 8)]


def test_comments_in_code_lists_and_paragraphs_above_a_rule_are_no_headings() -> None:
    text = "```\n# code\n```\n- # item\n\n> # quote\n\nlong\nparagraph\n---\n"
    in_tabs = "    text\n    ```\n\n    # code\n    ```\n"
    assert list(headings(read(text + in_tabs))) == []


def test_escaped_text_reads_as_itself() -> None:
    text = "# a **b** [c](d) <e> `f` &amp; {#g}\n> h\n::: i\n~~~\n![j](k) \\ l_m *n*\n[o]: p"
    assert plain(escaped(text)) == text


def test_what_components_indent_is_no_code() -> None:
    mdx = '<Steps>\n    <Step title="Pay">\n        Choose:\n\n        - card\n    </Step>\n</Steps>\n'
    assert plain(mdx_as_markdown(mdx)) == "Pay\nChoose:\n- card"
    assert mdx_as_markdown(mdx).count("\n") == mdx.count("\n")


def test_what_follows_an_import_is_text() -> None:
    assert plain(mdx_as_markdown("import x from 'x'\n# Fees\n")) == "Fees"
    assert plain(mdx_as_markdown("import x from 'x'\n\n  <Note>\n  None.\n  </Note>")) == "None."
    assert plain(mdx_as_markdown("You may\nimport your data\n")) == "You may\nimport your data"


def test_an_unclosed_component_loses_nothing() -> None:
    assert plain(mdx_as_markdown("<Note>\n  One.\n\nTwo.</Tip></Tip>")) == "  One.\nTwo."


def test_prose_is_without_code_and_addresses() -> None:
    assert prose(read("看 `code` [这里](https://a.b) https://c.d\n\n```\nx = 1\n```\n")).split() == ["看", "这里"]


@pytest.mark.parametrize(
    "piece", ["<!-- ", "<script ", "<a ", "![", "](a", "`", "```\n", "<A {", "\\", "[a]: b\n", "&a"]
)
def test_unclosed_markup_is_read_however_much_there_is(piece: str) -> None:
    """Each of 20,000 comments without an end searched the rest of the text for it, which took 7 seconds."""
    assert read(piece * 20_000).source == piece * 20_000
