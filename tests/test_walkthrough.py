"""The report in a real browser: walking through searches by mouse and keyboard, on narrow screens."""

import json

import pytest
from browser import opened, overflows
from conftest import ROOT
from finished import finished_run, searches

from psr_ray.config.file import load_config
from psr_ray.inference.search_rows import SEARCH_SCHEMA
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.report.html import write_report
from psr_ray.report.summary import write_summary
from psr_ray.report.walkthrough import as_script, in_turn, searches_of
from psr_ray.storage.shards import write_shard

HOSTILE = '<img src=x onerror="document.title=1"></script><script>alert(1)</script> & \\u003c'


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with flips, a search that went back, a failed one, and hostile text."""
    run = finished_run(tmp_path_factory.mktemp("runs"))
    row = dict.fromkeys(SEARCH_SCHEMA.names) | {
        "id": "hostile", "problem": HOSTILE, "end": "max_steps", "steps": [], "num_rollbacks": 0,
        "correct": False, "answer": "7", "predicted": HOSTILE,
    }  # fmt: skip
    write_shard(run.path / "search-1" / "search", [row], SEARCH_SCHEMA)
    return write_report(run.path, write_summary(run)).as_uri()


@pytest.mark.slow
def test_a_reader_walks_through_a_search(report, tmp_path):
    with opened(report) as (page, trouble):
        page.locator("#list button").first.wait_for()
        assert page.locator("#found").inner_text() == "11 of 11 searches"
        page.get_by_label("ties (no preference)").check()
        assert page.locator("#list button").count() == 2  # one in each iteration
        steps = page.locator("#search .step")
        notes = [text.split("\n")[0] for text in steps.all_inner_texts()]
        assert "went back to step 1" in notes[1]
        assert page.locator("#search .step.gone").count() == 1
        chosen = page.locator("#search tr.chosen").first.inner_text()
        assert "chosen" in chosen
        assert "right" in chosen
        assert page.locator("#search tr.rejected").count() == steps.count() - 1
        page.get_by_label("ties (no preference)").uncheck()
        page.get_by_label("order flips").check()
        flipped = page.locator("#search button.flip")
        assert flipped.count() > 0
        flipped.first.click()
        said = page.locator("#search pre.said:visible")
        assert "as A" in said.inner_text()
        assert "[[A]]" in said.inner_text()
        flipped.first.click()
        assert page.locator("#search pre.said:visible").count() == 0
        page.get_by_label("not finished").check()
        assert page.locator("#list button").count() > 3  # either of both
        page.get_by_label("order flips").uncheck()
        page.locator("#list button", has_text="train-1/1").click()
        assert "ProblemTooLong" in page.locator("#search").inner_text()
        page.get_by_label("model").select_option("M2")
        assert page.locator("#list button").count() == 1
        page.get_by_label("find").fill("no such problem")
        assert "No search fits" in page.locator("#search").inner_text()
        page.screenshot(path=tmp_path / "wide.png", full_page=True)
        assert trouble == []
        assert not overflows(page)


@pytest.mark.slow
def test_the_keyboard_alone_will_do(report):
    with opened(report) as (page, trouble):
        first = page.locator("#list button[aria-current]").inner_text()
        page.keyboard.press("j")
        second = page.locator("#list button[aria-current]").inner_text()
        assert second != first
        assert page.evaluate("document.activeElement.innerText") == second
        page.keyboard.press("ArrowUp")
        assert page.locator("#list button[aria-current]").inner_text() == first
        page.keyboard.press("k")  # there is none before the first
        assert page.locator("#list button[aria-current]").inner_text() == first
        page.get_by_label("find").focus()
        page.keyboard.type("jk")  # letters of a field are no commands
        assert page.get_by_label("find").input_value() == "jk"
        page.get_by_label("find").fill("")
        page.locator("#search .matrix button").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("#search pre.said:visible").count() == 1
        assert trouble == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_screen_shows_all_of_it(report, tmp_path, dark):
    with opened(report, width=360, height=700, dark=dark) as (page, trouble):
        assert not overflows(page)
        assert page.locator("#search .step").first.bounding_box()["width"] > 250
        page.screenshot(path=tmp_path / "narrow.png", full_page=True)
        assert trouble == []


@pytest.mark.slow
def test_texts_are_shown_as_they_are(report):
    with opened(report) as (page, trouble):
        page.get_by_label("find").fill("hostile")
        assert HOSTILE in page.locator("#search").inner_text()
        assert page.locator("#search img").count() == 0
        assert page.title() == "smoke – psr-ray report"
        assert trouble == []


def test_a_report_has_as_many_searches_as_fit_and_of_every_kind(tmp_path):
    config = load_config(ROOT / "configs" / "smoke.yaml")
    prompts = PromptBuilder(load_tokenizer(config.model.base), config.prompts)
    for k in (1, 2):
        write_shard(tmp_path / f"search-{k}" / "search", searches(prompts, 30, k), SEARCH_SCHEMA)
    stages = [(f"M{k}", tmp_path / f"search-{k}") for k in (1, 2)]
    everything = searches_of(stages)
    assert everything["num"] == len(everything["searches"]) == 60
    some = searches_of(stages, most=len(json.dumps(everything)) // 5)
    assert some["num"] == 60
    assert 8 < len(some["searches"]) < 20
    for model in ("M1", "M2"):
        shown = [search for search in some["searches"] if search["model"] == model]
        assert any(search["ties"] for search in shown)
        assert any(search["failed"] for search in shown)
        assert any(search["flips"] for search in shown)


def test_json_in_a_page_ends_no_script():
    text = as_script({"a": HOSTILE})
    assert "<" not in text
    assert json.loads(text) == {"a": HOSTILE}
    assert list(in_turn(["abc", "d", "ef"])) == list("adebfc")
