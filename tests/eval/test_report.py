"""The evaluation's report: what it writes, what it shows, and how it looks in a real browser."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from eval.intervals import Interval
from eval.metrics import METRICS, metric
from eval.paired import Difference
from eval.report import as_text, read, wording, write
from eval.report.tables import GROUPS
from eval.report.view import in_words, view
from eval.results import Arm, Comparison, Curve, Example, People, Results, Shown, Slice
from retrieval.errors import InputError

AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))
ATTACK = "</style></script><script>hacked=1</script><img src=x onerror=hacked=1> </title>$x^2"


def difference(mean: float, low: float, high: float, p_holm: float = 0.5) -> Difference:
    return Difference(mean, low, high, 200, 40, p_holm / 2, p_holm, 0.2, 0.06)


def arm(name: str, facts: float, total_s: float) -> Arm:
    metrics = {
        "facts": Interval(facts, facts - 0.05, facts + 0.05, 200),
        "style": Interval(0.9, 0.85, 0.95, 200),
        "total": Interval(total_s, total_s - 0.1, total_s + 0.1, 200),
    }
    return Arm(name, "support", {"support": 0.7, "short": 0.6}, {"grounded": 190}, metrics)


@pytest.fixture
def results() -> Results:
    """LoRA states more of the facts, and takes longer."""
    wrong = Shown("It takes 30 days.", "grounded", {"facts": 0.0, "total": 1.8}, {"facts": 'missing "14 days"'})
    right = Shown("It takes 14 days. [1]", "grounded", {"facts": 1.0, "total": 2.1}, {})
    question = [{"role": "user", "content": "When is my account gone?"}]
    passages = [{"path": "en/close.md", "heading": "Close", "text": "After 14 days."}]
    facts = difference(0.085, 0.013, 0.155, 0.01)
    return Results(
        id="9c41e07b2f5d",
        at="2026-11-24T15:02:25Z",
        verdict="better",
        sentences={"en": "It states more of the facts.", "zh": "事实更齐全。"},
        findings={"en": ["The cases are synthetic."], "zh": ["测试题为合成数据。"]},
        primary="facts",
        baseline="rag",
        candidate="rag+lora",
        cases={"file": "cases.jsonl", "sha256": "ab" * 32, "n": 200, "groups": 40, "languages": {"en": 120, "zh": 80}},
        arms=[arm("base", 0.1, 1.1), arm("rag", 0.82, 1.8), arm("rag+lora", 0.91, 2.1), arm("lora", 0.36, 1.3)],
        comparisons=[
            Comparison(
                "rag",
                "rag+lora",
                {
                    "facts": facts,
                    "style": difference(0.0, -0.02, 0.02),
                    "total": difference(0.3, 0.2, 0.4, 0.001),
                },
            ),
            Comparison("base", "rag", {"facts": difference(0.72, 0.6, 0.8, 0.001)}),
        ],
        interaction={"facts": difference(-0.17, -0.3, -0.04, 0.02)},
        slices=[
            Slice("slice", "hit", "facts", {"rag": 0.8, "rag+lora": 0.9}, facts, 150),
            Slice("slice", "unknown", "abstention", {"rag": 0.5, "rag+lora": 0.7}, None, 30),
            Slice("language", "zh", "facts", {"rag": 0.9, "rag+lora": 0.9}, None, 5),
        ],
        best=[Example("hit/1", question, "After 14 days.", passages, {"rag": wrong, "rag+lora": right})],
        worst=[Example("hit/2", question, None, [], {"rag": right, "rag+lora": wrong})],
        training=[Curve("loss", [10, 20], [2.0, 1.0]), Curve("validation loss", [10, 20], [2.1, 1.2])],
        lineage={"adapter": "adapter-1", "seed": 7, "versions": {"torch": "2.13.0"}},
        people=People(
            3,
            40,
            120,
            {"rag+lora": 68, "rag": 31, "tie": 21},
            Interval(0.69, 0.58, 0.78, 99),
            0.46,
            {"rag": {"correctness": 9}},
        ),
        judge={"name": "judge-8b", "scored": 391, "unscored": 9},
    )


def planted(results: Results) -> Results:
    """Markup wherever a case, a passage or an answer can bring some."""
    shown = Shown(ATTACK, ATTACK, {"facts": 0.0}, {"facts": ATTACK})
    example = Example(
        ATTACK,
        [{"role": ATTACK, "content": ATTACK}],
        ATTACK,
        [{"path": ATTACK, "heading": ATTACK, "text": ATTACK}],
        {"rag": shown, "rag+lora": shown},
    )
    topic = Slice("topic", ATTACK, "facts", {"rag": 0.8, "rag+lora": 0.9}, None, 9)
    return replace(results, best=[example], slices=[*results.slices, topic], lineage={ATTACK: ATTACK})


def test_what_is_written_is_read_back_the_same(results: Results, tmp_path: Path) -> None:
    assert write(results, tmp_path / "report") == tmp_path / "report" / "report.html"
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.html", "report.json", "report.md"]
    assert read(tmp_path / "report") == results


def test_a_broken_report_is_refused_with_file_and_field(results: Results, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report .*report\.json cannot be read: No such file"):
        read(tmp_path)
    write(results, tmp_path)
    path = tmp_path / "report.json"
    broken = json.loads(path.read_text(encoding="utf-8"))
    broken["arms"][1]["metrics"]["facts"]["mean"] = "most"
    path.write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(InputError, match=r"report\.json: arms\.1\.metrics\.facts\.mean: .* valid number"):
        read(tmp_path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"report\.json: file: Invalid JSON"):
        read(tmp_path)


def test_a_card_number_in_an_answer_reaches_no_file(results: Results, tmp_path: Path) -> None:
    said = Shown("Your card 4111 1111 1111 1111 is blocked.", "adapter", {}, {"safe": "says 4111 1111 1111 1111"})
    asked = [{"role": "user", "content": "Block 4111 1111 1111 1111"}]
    write(replace(results, best=[Example("c", asked, None, [], {"rag": said})]), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if "4111" in path.read_text(encoding="utf-8")] == []
    assert read(tmp_path).best[0].answers["rag"].text == "Your card <CARD_1> is blocked."


def test_the_same_results_make_the_same_page(results: Results, tmp_path: Path) -> None:
    first, second = (write(results, tmp_path / name).read_text(encoding="utf-8") for name in ("a", "b"))
    assert first == second


def test_a_report_of_one_arm_without_anything_else_is_written(results: Results, tmp_path: Path) -> None:
    bare = replace(
        results,
        verdict="incomplete",
        arms=results.arms[1:2],
        comparisons=[],
        interaction={},
        slices=[],
        best=[],
        worst=[],
        training=[],
        people=None,
        judge=None,
    )
    write(bare, tmp_path)
    assert read(tmp_path) == bare
    assert "difference" not in as_text(bare)


def test_the_table_starts_with_the_primary_metric_and_marks_the_arm_that_is_better(results: Results) -> None:
    shown = view(results, "en")
    assert [name for name, _ in shown.columns] == ["rag", "rag+lora", "Difference", "base", "lora"]
    primary, answers, cost = shown.groups
    assert (primary.rows[0].label, answers.rows[0].label, cost.rows[0].label) == ("facts", "style", "total")
    cells = primary.rows[0].cells
    assert [cell.text for cell in cells] == ["82%", "91%", "+8.5 points", "10%", "36%"]
    assert (cells[1].fine, cells[1].title, cells[2].fine) == ("86–96%", "200 cases", "+1.3 to +15.5 points")
    marked = [[cell.won for cell in group.rows[0].cells[:2]] for group in shown.groups]
    assert marked == [[False, True], [False, False], [True, False]]


def test_a_difference_that_does_not_stand_after_correction_marks_nobody() -> None:
    assert wording.winner(difference(0.1, 0.01, 0.2, 0.01), metric("facts")) == "second"
    assert wording.winner(difference(0.1, 0.01, 0.2, 0.01), metric("total")) == "first"
    assert wording.winner(difference(0.1, 0.01, 0.2, 0.06), metric("facts")) == ""


def test_comparisons_are_told_in_words(results: Results) -> None:
    shown = view(results, "en")
    assert shown.comparisons == [
        ["rag does better than base on facts: +72.0 points (95% interval +60.0 to +80.0 points, 200 cases)."]
    ]
    assert shown.interaction == [
        "LoRA adds less with passages than without, on facts: "
        "−17.0 points (95% interval −30.0 to −4.0 points, 200 cases)."
    ]
    unclear = Comparison("base", "lora", {"facts": difference(0.02, -0.05, 0.09)})
    assert in_words(unclear, results, "en")[0].startswith("Whether lora and base differ on facts is open: +2.0 points")
    assert in_words(unclear, results, "en")[0].endswith("A difference of 6.0 points would probably have been seen.")


def test_a_difference_that_would_have_been_seen_is_never_told_to_be_nothing() -> None:
    fine = replace(difference(0.0, 0.0, 0.0), smallest_detectable=0.0002)
    assert wording.detectable(fine, metric("facts"), "en") == "0.1 points"
    assert wording.detectable(fine, metric("total"), "zh") == "0.001 秒"
    assert wording.detectable(difference(0.0, 0.0, 0.0), metric("facts"), "en") == "6.0 points"


def test_a_wrong_fact_is_shown_under_its_answer_with_the_evidence(results: Results) -> None:
    title, (case,) = view(results, "en").examples[0]
    assert title == "Where rag+lora is better"
    assert [(fault.label, fault.evidence) for fault in case.sides[0].faults] == [("facts", 'missing "14 days"')]
    assert case.sides[1].faults == []


def test_slices_name_their_metric_and_those_with_few_cases_say_so(results: Results) -> None:
    (hit, unknown), (chinese,) = (group.rows for group in view(results, "en").slices)
    assert (hit.label, [cell.text for cell in hit.cells[:3]], hit.cells[1].fine) == ("hit", ["facts", "150", "80%"], "")
    assert (unknown.label, [cell.text for cell in unknown.cells[:3]]) == ("unknown", ["abstention", "30", "50%"])
    assert (chinese.label, chinese.cells[1].text, chinese.cells[1].fine) == ("Chinese", "5", "few cases")
    text = as_text(results)
    assert re.search(r"^slice +metric +n +rag ", text, re.MULTILINE)
    assert re.search(r"^slice unknown +abstention +30 +50% +70%", text, re.MULTILINE)


def test_the_judges_agreement_with_people_is_told(results: Results) -> None:
    judged = replace(results, judge={"model": "m", "agreement": {"n": 3, "raw": 2 / 3, "kappa": None}})
    assert view(judged, "en").judge[-1] == ("agreement with people", "cases 3, chosen alike 0.667, Cohen's kappa —")


def test_the_method_says_what_is_corrected(results: Results) -> None:
    english, chinese = (
        " ".join(view(results, language).words["data"]["method_text"].split()) for language in ("en", "zh")
    )
    assert (
        "The primary metric decides by itself and is not corrected" in english
        and "主要指标单独作出结论，不作校正" in chinese
    )
    assert "left out of the comparisons with that arm." in english and "不参与涉及该方案的比较" in chinese


def test_what_people_said_is_told_in_words(results: Results) -> None:
    assert view(results, "en").people == [
        "3 people compared 40 pairs of answers blind, 120 votes in all.",
        "Of the votes that are no tie, 69% (95% interval 58–78%) went to rag+lora.",
        "The judges' agreement is moderate (Krippendorff's alpha 0.46).",
    ]


def test_figures_have_the_unit_of_their_metric() -> None:
    assert wording.value(0.876, metric("facts"), "en") == "88%"
    assert wording.value(1.834, metric("total"), "zh") == "1.83 秒"
    assert wording.change(-0.052, metric("facts"), "zh") == "−5.2 个百分点"
    assert wording.change(-0.0001, metric("facts"), "en") == "0.0 points"


def test_the_plots_say_their_figures_and_take_the_colours_of_the_page(results: Results) -> None:
    forest, latency, slices, training = view(results, "en").plots
    assert "facts +8.5 points (+1.3 to +15.5 points)" in forest.alt
    assert "rag: 82% (77–87%) in 1.80 s (1.70–1.90 s)" in latency.alt
    assert slices.alt == (
        "hit: rag 80% and rag+lora 90% (+1.3 to +15.5 points); unknown · abstention: rag 50% and rag+lora 70%; "
        "Chinese: rag 90% and rag+lora 90%"
    )
    assert training.alt.startswith("loss from 2.00 to 1.00 over 20 steps")
    assert "var(--accent)" in forest.svg and "#0000" not in forest.svg
    assert ">facts</text>" in forest.svg and ">事实齐全</text>" in view(results, "zh").plots[0].svg


def test_no_two_elements_of_the_page_have_one_id(results: Results, tmp_path: Path) -> None:
    ids = re.findall(r'\bid="([^"]+)"', write(results, tmp_path).read_text(encoding="utf-8"))
    assert sorted(ids) == sorted(set(ids))


def test_every_text_is_there_in_both_languages() -> None:
    def missing(node: Any, place: str) -> Iterator[str]:
        if not isinstance(node, dict) or any(not isinstance(child, dict) for child in node.values()):
            if not isinstance(node, dict) or set(node) != {"en", "zh"}:
                yield place
            elif set(re.findall(r"{\w+}", node["en"])) != set(re.findall(r"{\w+}", node["zh"])):
                yield f"{place} fills in other names"
        else:
            for key, child in node.items():
                yield from missing(child, f"{place}.{key}")

    assert list(missing(yaml.safe_load((wording.FOLDER / "texts.yaml").read_text(encoding="utf-8")), "texts")) == []


def test_every_metric_has_its_line_and_its_group() -> None:
    names = sorted(it.name for it in METRICS)
    assert sorted(wording.texts("zh")["metrics"]) == names
    assert sorted(name for group in GROUPS.values() for name in group) == names


def test_the_text_fits_the_terminal_and_has_every_arm(results: Results) -> None:
    wide = [replace(results.arms[0], name=f"base@a-prompt-with-a-name-{number}") for number in range(6)]
    text = as_text(replace(results, arms=[*results.arms, *wide]))
    assert max(map(len, text.splitlines())) <= 100
    assert all(it.name in text for it in wide)
    assert text.startswith("BETTER: It states more of the facts.\n- The cases are synthetic.\n")
    assert re.search(r"^facts +82% \(n=200\) +91% \(n=200\)", text, re.MULTILINE)
    assert re.search(r"^total +\+0\.30 s +\+0\.20 to \+0\.40 s +0\.001 +200 +worse$", text, re.MULTILINE)


def test_the_markdown_has_both_languages_and_no_answers(results: Results, tmp_path: Path) -> None:
    write(results, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| facts | 82% (77–87%) | **91%** (86–96%) | +8.5 points (+1.3 to +15.5 points) |" in text
    assert "**更好.** 事实更齐全。" in text and "30 days" not in text


def test_markup_in_questions_answers_and_topics_stays_text(results: Results, tmp_path: Path) -> None:
    page = write(planted(results), tmp_path).read_text(encoding="utf-8")
    assert "hacked=1" in page and "<script>hacked" not in page and "<img" not in page
    assert [page.count(tag) for tag in ("<style", "</style>", "<script", "</script>", "</title>")] == [1] * 5


@pytest.fixture
def page(browser: Browser, results: Results, tmp_path: Path) -> Iterator[Page]:
    """The page with markup planted, on a phone; whatever it logs or loads fails the test."""
    context = browser.new_context(locale="en-GB", viewport={"width": 375, "height": 800})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    page.on("request", lambda request: faults.extend([request.url] if not request.url.startswith("file:") else []))
    page.goto(write(planted(results), tmp_path).as_uri())
    yield page
    context.close()
    assert faults == []


def test_the_page_fits_a_phone_in_both_languages_and_nothing_planted_runs(page: Page) -> None:
    for language in ("English", "中文"):
        page.get_by_text(language, exact=True).first.click()
        page.evaluate("document.querySelectorAll('main details').forEach((it) => { it.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate("'hacked' in window") is False


def test_the_language_switches_by_itself_and_by_hand(page: Page, browser: Browser) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("Does rag+lora answer better than rag?")
    page.get_by_text("中文", exact=True).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("rag+lora 是否比 rag 答得更好？")
    assert page.locator("html").get_attribute("lang") == "zh"
    chinese = browser.new_page(locale="zh-CN")
    chinese.goto(page.url)
    expect(chinese.get_by_role("heading", level=1)).to_have_text("rag+lora 是否比 rag 答得更好？")
    chinese.close()


def test_the_page_reads_and_switches_without_its_script(page: Page, browser: Browser) -> None:
    plain = browser.new_page(java_script_enabled=False)
    plain.goto(page.url)
    expect(plain.get_by_role("heading", level=1)).to_have_text("Does rag+lora answer better than rag?")
    expect(plain.locator(".filter").first).to_be_hidden()
    plain.locator("label[for=zh]").click()
    expect(plain.get_by_role("heading", level=1)).to_have_text("rag+lora 是否比 rag 答得更好？")
    plain.close()


def test_cases_are_filtered_by_what_stands_in_them(page: Page) -> None:
    cases = page.locator("main[lang=en] article")
    page.get_by_label("Show cases with").fill("HIT/2")
    assert [case.is_visible() for case in cases.all()] == [False, True]
    page.get_by_label("Show cases with").fill("")
    assert [case.is_visible() for case in cases.all()] == [True, True]


@pytest.mark.parametrize(("scheme", "language"), [("light", "English"), ("dark", "中文")])
def test_axe_finds_nothing_in_the_report(
    browser: Browser, results: Results, tmp_path: Path, scheme: Any, language: str
) -> None:
    if not AXE.exists():
        pytest.skip(f"no axe-core at {AXE}: npm install --no-save axe-core, or name axe.min.js in AXE_CORE")
    page = browser.new_page(color_scheme=scheme)
    page.goto(write(results, tmp_path).as_uri())
    page.get_by_text(language, exact=True).first.click()
    page.evaluate("document.querySelectorAll('main details').forEach((it) => { it.open = true })")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    page.close()
    assert [f"{rule['id']}: {node['html']} {node['failureSummary']}" for rule in found for node in rule["nodes"]] == []
