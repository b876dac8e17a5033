"""The page: what it holds and how it fits, and in a real browser that it filters, folds, and obeys no text of a model."""

import base64
import io
import json
import random
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import HOSTILE, chromium, show_on, until
from command_line import invoke
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from run_folders import record, run_folder, settings
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from sgl_specreason.results.page.build import page
from sgl_specreason.results.page.trajectories import _cut, fitted, packed, told
from sgl_specreason.results.records import record_of, trajectories
from sgl_specreason.results.summary import load_runs

Record = dict[str, Any]
SAID: Record = {"score": 2.0, "digits": [0, 0, 0.9, 0.1, 0, 0, 0, 0, 0, 0], "label_mass": 1.0}


def request(engine: str, purpose: str, start_s: float, seconds: float, **more: Any) -> Record:
    return {"engine": engine, "purpose": purpose, "start_s": 50 + start_s, "seconds": seconds, **more}


def steps(*texts: str) -> list[Record]:
    """One by small for each text, and one by base in place of a rejected draft."""
    kept = [{"by": "small", "text": text, "tokens": 7, **SAID, "score": 9.0} for text in texts]
    return [
        *kept,
        {
            "by": "base",
            "text": "Base's own.</think>",
            "tokens": 5,
            **SAID,
            "draft": {"text": "Its draft.", "tokens": 6},
        },
    ]


def compared(top: Path, **more: Any) -> Path:
    """Base right on three of four problems; specreason on two of these, on the fourth too, and failed on the last."""
    base = [record(number, correct=number != 3) for number in range(4)]
    requests = [
        request("small", "draft", 0.0, 1.0),
        request("base", "judge", 0.5, 1.0),
        request("small", "draft", 1.0, 1.0, dropped=True),
        request("base", "regenerate", 2.0, 2.0),
    ]
    texts = steps(r"So \(\frac{1}{2}\) and $x^2$ cost $5 or $6, thus \boxed{4}.")
    about = {"steps": texts, "requests": requests, "stop_reason": "think_end", "tokens_discarded": 6, **more}
    judged = [record(number, correct=number != 1, truncated=number == 1, drafts=2, **about) for number in range(4)]
    failed = record(4, correct=False, error="the engine <b>died</b>")
    run_folder(top / "base", base, method="base")
    run_folder(top / "specreason", [*judged, failed])
    return top


def data(html: str) -> Record:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def opened(text: str) -> Record:
    return dict(json.loads(zlib.decompress(base64.b64decode(text), -zlib.MAX_WBITS)))


def test_the_page_is_one_file_with_table_figures_and_problems(tmp_path: Path) -> None:
    done = invoke("report", "--html", compared(tmp_path / "runs"), "-o", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    html = (tmp_path / "page.html").read_text()
    assert set(re.findall(r'<[^>]+\s(?:src|href)="([^":]*:|#)', html)) == {"data:", "#"}
    assert html.count("<figure>") == 3
    assert "concurrency 1, budget" in html
    content = data(html)
    assert [run["name"] for run in content["runs"]] == ["base", "specreason"]
    tries = {problem["id"]: problem["tries"] for problem in content["problems"]}
    assert [(run, state, differs) for run, _, state, _, differs, *_ in tries["p1"]] == [
        (0, "right", False),
        (1, "wrong", True),
    ]
    assert [state for _, _, state, *_ in tries["p4"]] == ["failed"]
    assert opened(content["texts"][tries["p0"][1][-1]])["steps"][1]["draft"]["text"] == "Its draft."


def test_a_question_that_is_too_long_for_the_page_is_cut_in_the_middle(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", [record(1, correct=True) | {"problem": f"Begin. {'word ' * 100} End."}])
    (told_of,) = (told(each) for each in trajectories(run))
    short = _cut(told_of, 100)["question"]
    assert short.startswith("Begin. word")
    assert short.endswith("word  End.")
    assert "characters left out" in short


def test_the_page_changes_nothing_in_the_run_folders(tmp_path: Path) -> None:
    runs = compared(tmp_path / "runs")
    before = {file: file.read_bytes() for file in runs.rglob("*") if file.is_file()}
    assert invoke("report", "--html", runs, "-o", tmp_path / "page.html").exit_code == 0
    assert {file: file.read_bytes() for file in runs.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("words", [[], ["-o", "missing/page.html"]])
def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path, words: list[str]) -> None:
    done = invoke("report", "--html", compared(tmp_path / "runs"), *words)
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)


def test_runs_of_other_conditions_make_no_page(tmp_path: Path) -> None:
    compared(tmp_path / "runs")
    run_folder(tmp_path / "runs" / "other", [record(1, correct=True)], seed=1)
    done = invoke("report", "--html", tmp_path / "runs", "-o", tmp_path / "page.html")
    assert (done.exit_code, "seed" in done.stderr) == (2, True)
    assert not (tmp_path / "page.html").exists()
    done = invoke("report", "--html", "--force", tmp_path / "runs", "-o", tmp_path / "page.html")
    assert "Differs: seed" in (tmp_path / "page.html").read_text()


def test_a_sweep_has_a_figure_for_each_setting(tmp_path: Path) -> None:
    for threshold in (3.0, 7.0):
        policy = settings()["policy"] | {"threshold": threshold}
        run_folder(tmp_path / "runs" / str(threshold), [record(1, correct=True)], policy=policy)
    assert "Over threshold" in page(load_runs(tmp_path / "runs"))


def test_runs_without_anything_finished_make_a_page(tmp_path: Path) -> None:
    html = page(load_runs(run_folder(tmp_path / "run", [])))
    assert "not drawn" in html
    assert data(html)["problems"] == []


def long_runs(top: Path) -> Path:
    """500 trajectories with about 30,000 characters each, of words that compress as badly as prose."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfw", k=rng.randint(2, 9))) for _ in range(4000)]
    weights = [1 / rank for rank in range(1, 4001)]
    for method in ("base", "specreason"):
        records = []
        for number in range(250):
            texts = [" ".join(rng.choices(words, weights, k=80)) + ".\n\n" for _ in range(70)]
            requests = [request("base", "judge", 0.1 * i, 0.1 * rng.random()) for i in range(200)]
            ends = {"steps": steps("The first.", *texts), "answer_text": "The last.", "requests": requests}
            records.append(record(number, correct=True, stop_reason="think_end", **ends))
        run_folder(top / method, records, method=method)
    return top


@pytest.mark.slow
def test_500_long_trajectories_fit_in_5_mb_and_the_page_says_what_is_left_out(tmp_path: Path) -> None:
    html = page(load_runs(long_runs(tmp_path / "runs")))
    assert 4_500_000 < len(html.encode()) <= 5_000_000
    content = data(html)
    assert content["shortened"] > 400
    shown = opened(content["texts"][7])
    assert shown["shortened"]
    assert (shown["steps"][0]["text"], shown["answer_text"]) == ("The first.", "The last.")
    assert re.fullmatch(r"\[\.\.\. \d+ characters left out \.\.\.\] ", shown["steps"][36]["text"])


@given(st.lists(st.integers(0, 3000), max_size=8), st.integers(0, 20_000))
def test_texts_are_cut_only_where_they_must_be_and_then_fit(sizes: list[int], spare: int) -> None:
    rng = random.Random(1)
    thoughts = [[{"by": "base", "tokens": 1, "text": rng.randbytes(n).hex()}] for n in sizes]
    records = [told(record_of(record(1, correct=True, steps=thought))) for thought in thoughts]
    whole, shortened = fitted([*map(packed, records)], 10**9)
    assert shortened == 0
    assert [opened(text) for text in whole] == records
    room = 300 * len(sizes) + spare
    texts, shortened = fitted([*map(packed, records)], room)
    assert sum(map(len, texts)) <= room
    assert shortened == sum(text != other for text, other in zip(texts, whole, strict=True))
    assert (shortened == 0) == (sum(map(len, whole)) <= room)


def test_more_trajectories_than_a_page_lists_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgl_specreason.results.page.build.MOST", 5)
    content = data(page(load_runs(compared(tmp_path / "runs"))))
    assert ([problem["id"] for problem in content["problems"]], content["left_out"]) == (["p0", "p1"], 3)


def test_a_problem_whose_first_record_failed_has_its_gold_answer(tmp_path: Path) -> None:
    failed = {"problem_id": "p1", "sample": 0, "latency_s": 1.0, "error": "gone"}
    html = page(load_runs(run_folder(tmp_path / "run", [failed, record(1, correct=True, sample=1)], samples=2)))
    assert [problem["gold"] for problem in data(html)["problems"]] == ["4"]


def test_no_text_of_a_private_bench_is_on_the_page(tmp_path: Path) -> None:
    """A folder of an older version may still hold the texts of drafts that were judged lower."""
    private = steps("SECRET")
    private[0]["others"] = [{"text": "SECRET", "tokens": 3}]
    private[1]["draft"]["text"] = "SECRET"
    kept = record(1, correct=True, steps=private, texts="withheld", answer="C", answer_text="SECRET, so C")
    content = data(page(load_runs(run_folder(tmp_path / "run", [kept]))))
    shown = opened(content["texts"][0])
    assert "SECRET" not in json.dumps(shown)
    assert (len(shown["steps"]), shown["texts"]) == (2, "withheld")


@pytest.mark.parametrize("ends", [{}, {"error": "gone"}])
def test_what_is_withheld_may_have_no_steps(tmp_path: Path, ends: dict[str, str]) -> None:
    kept = record(1, correct=True, texts="withheld", answer_text="SECRET") | ends
    assert "SECRET" not in str(opened(data(page(load_runs(run_folder(tmp_path / "run", [kept]))))["texts"][0]))


def test_no_text_can_end_the_element_that_it_stands_in(tmp_path: Path) -> None:
    rude = "</script><script>alert(1)</script><!--"
    records = [record(1, correct=True, problem_id=rude, gold=rude)]
    html = page(load_runs(run_folder(tmp_path / "run", records, bench=rude, pair=rude)))
    assert "<script>alert" not in html
    assert html.count("</script>") == 3
    assert data(html)["problems"][0]["id"] == rude


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.fixture
def look(browser: webdriver.Chrome, tmp_path: Path) -> Callable[..., webdriver.Chrome]:
    """Opens the page of a run folder; nothing may have been logged by the time that the next one is opened."""

    def opens(
        folder: Path, route: str = "", *, width: int = 1300, height: int = 900, scheme: str = "light"
    ) -> webdriver.Chrome:
        file = tmp_path / "page.html"
        file.write_text(page(load_runs(folder)), encoding="utf-8")
        show_on(browser, width=width, height=height, scheme=scheme)
        browser.get("about:blank")
        browser.get(f"{file.as_uri()}{route}")
        if route:
            until(browser, "return document.querySelector('#trajectory h3') !== null")
        return browser

    return opens


def links(browser: webdriver.Chrome) -> list[str]:
    """The trajectories that the list shows, as "problem run"."""
    return [
        f"{item.find_element(By.CLASS_NAME, 'id').text} {link.text.split()[0]}"
        for item in browser.find_elements(By.CSS_SELECTOR, "#found li")
        if item.is_displayed()
        for link in item.find_elements(By.TAG_NAME, "a")
        if link.is_displayed()
    ]


def test_filters_show_what_they_name(look: Callable[..., webdriver.Chrome], tmp_path: Path) -> None:
    chrome = look(compared(tmp_path / "runs"))
    assert len(links(chrome)) == 9
    outcome, run = Select(chrome.find_element(By.ID, "outcome")), Select(chrome.find_element(By.ID, "run"))
    expected = {
        "wrong": ["p1 specreason", "p3 base"],
        "differs from base": ["p1 specreason", "p3 specreason"],
        "truncated": ["p1 specreason"],
        "failed": ["p4 specreason"],
    }
    for shown, names in expected.items():
        outcome.select_by_visible_text(shown)
        assert links(chrome) == names
    assert chrome.find_element(By.ID, "count").text == "1 of 5 problems, 1 of 9 trajectories"
    outcome.select_by_visible_text("right")
    run.select_by_visible_text("specreason")
    assert links(chrome) == ["p0 specreason", "p2 specreason", "p3 specreason"]
    chrome.find_element(By.ID, "find").send_keys("P3")
    assert links(chrome) == ["p3 specreason"]


def test_a_trajectory_shows_authors_scores_mathematics_and_overlap(
    look: Callable[..., webdriver.Chrome], tmp_path: Path
) -> None:
    chrome = look(compared(tmp_path / "runs"), "#1")
    until(chrome, "return document.querySelectorAll('#trajectory math').length === 4")  # the answer's box, too
    shown = chrome.find_element(By.ID, "trajectory").text
    assert "1 small" in shown
    assert "2 base" in shown
    assert "score 9" in shown
    assert "$5 or $6" in shown
    words = "4.00 s from the first request to the last: base busy 3.00 s (75 %), small 2.00 s (50 %), both at once 1.00 s (25 %)"
    assert words in shown
    bars = chrome.find_element(By.CSS_SELECTOR, ".step svg")
    assert bars.get_attribute("aria-label") == "digits 2: 90 %, 3: 10 %"
    authors = chrome.find_elements(By.CSS_SELECTOR, ".step > .box")
    assert len({box.value_of_css_property("background-color") for box in authors}) == 2


def test_a_rejected_draft_is_folded_until_it_is_opened(look: Callable[..., webdriver.Chrome], tmp_path: Path) -> None:
    chrome = look(compared(tmp_path / "runs"), "#1")
    summary = chrome.find_element(By.CSS_SELECTOR, "details summary")
    draft = chrome.find_element(By.CSS_SELECTOR, "details .text")
    assert "rejected draft" in summary.text
    assert not draft.is_displayed()
    summary.send_keys(Keys.ENTER)
    assert draft.is_displayed()
    assert draft.text == "Its draft."
    summary.click()
    assert not draft.is_displayed()


def test_it_can_be_used_by_keyboard(look: Callable[..., webdriver.Chrome], tmp_path: Path) -> None:
    chrome = look(compared(tmp_path / "runs"))
    chrome.find_element(By.CSS_SELECTOR, "#found a").send_keys(Keys.ENTER)
    for title, key in [("p0, base", Keys.RIGHT), ("p0, specreason", Keys.RIGHT), ("p1, base", Keys.LEFT)]:
        until(chrome, f"return document.querySelector('#trajectory h3')?.textContent === '{title}'")
        chrome.switch_to.active_element.send_keys(key)
    until(chrome, "return document.querySelector('#trajectory h3').textContent === 'p0, specreason'")
    chrome.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(chrome, "return !document.querySelector('#trajectory h3')")
    assert chrome.switch_to.active_element.get_attribute("aria-label") == "specreason, right"


def test_a_failed_and_a_withheld_trajectory_say_so(look: Callable[..., webdriver.Chrome], tmp_path: Path) -> None:
    chrome = look(compared(tmp_path / "runs", texts="withheld"), "#8")
    assert "! failed: the engine <b>died</b>" in chrome.find_element(By.ID, "trajectory").text
    chrome = look(tmp_path / "runs", "#1")
    assert "[withheld]" in chrome.find_element(By.CSS_SELECTOR, ".step").text


def test_the_question_stands_above_the_steps(look: Callable[..., webdriver.Chrome], tmp_path: Path) -> None:
    """Issue 18: it was nowhere. Its formulas are set as those of steps; older folders have none."""
    asked = record(1, correct=True, steps=steps("So.")) | {"problem": "What is $x^2$?", "choices": "A. <b>4</b>"}
    chrome = look(run_folder(tmp_path / "runs", [record(0, correct=True), asked]), "#1")
    question = chrome.find_element(By.CSS_SELECTOR, ".question")
    until(chrome, "return document.querySelector('.question math')")
    assert question.text.startswith("What is")
    assert question.text.endswith("A. <b>4</b>")
    assert question.location["y"] < chrome.find_element(By.CSS_SELECTOR, ".steps").location["y"]
    assert not look(tmp_path / "runs", "#0").find_elements(By.CSS_SELECTOR, ".question")


def test_a_hostile_trajectory_does_nothing(look: Callable[..., webdriver.Chrome], tmp_path: Path) -> None:
    """Every text stands there as it was written, and nothing that it says happens."""
    rude = [record(n, correct=False, problem_id=text, gold=text, answer=text) for n, text in enumerate(HOSTILE)]
    texts = steps(*HOSTILE)
    for step, text in zip(texts, reversed(HOSTILE), strict=False):
        step["draft"] = {"text": text, "tokens": 1}
    whole = record(99, correct=True, steps=texts, answer_text="".join(HOSTILE), error="\n".join(HOSTILE))
    chrome = look(run_folder(tmp_path / "run", [whole, *rude], bench=HOSTILE[0], pair=HOSTILE[1]), "#0")
    chrome.execute_script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    for box in chrome.find_elements(By.CSS_SELECTOR, "#trajectory .text"):
        chrome.execute_script("arguments[0].scrollIntoView()", box)
        box.click()
    assert chrome.execute_script("return window.obeyed") is None
    links = '[href]:not([href^="#"])'
    for made in ("script", "img", "iframe", "style", "base", "[src]", "[onerror]", "[onload]", ".small.mord", links):
        assert not chrome.find_elements(By.CSS_SELECTOR, f"#problems {made}"), made
    shown = chrome.find_element(By.ID, "trajectory").get_attribute("textContent")
    assert all(text in shown for text in HOSTILE[:8])
    assert chrome.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    assert [entry["message"] for entry in chrome.get_log("browser")] == []


@pytest.mark.parametrize(
    "piece", ["$", "$$", r"\[", r"\(", r"\boxed{", "{", "}", r"\begin{align}", r"\frac{", "<b>", "\u202e"]
)
def test_no_text_keeps_the_page_from_opening(look: Callable[..., webdriver.Chrome], tmp_path: Path, piece: str) -> None:
    text = piece * (100_000 // len(piece))
    folder = run_folder(tmp_path / "run", [record(1, correct=True, steps=steps(text, f"$x {text[:3000]}$"))])
    chrome = look(folder, "#0")
    until(chrome, "return document.querySelectorAll('.step').length === 3")
    assert chrome.execute_script("return 1 + 1") == 2


@pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (1300, "dark"), (360, "light"), (360, "dark")])
def test_it_fits_the_width_and_the_colour_scheme_and_is_not_blank(
    look: Callable[..., webdriver.Chrome], tmp_path: Path, width: int, scheme: str
) -> None:
    chrome = look(compared(tmp_path / "runs"), "#1", width=width, scheme=scheme)
    until(chrome, "return document.querySelectorAll('#trajectory math').length === 4")  # the answer's box, too
    page_width = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert chrome.execute_script(f"return {page_width}")
    assert chrome.find_element(By.ID, "list").is_displayed() == (width > 1000)
    image = Image.open(io.BytesIO(chrome.get_screenshot_as_png())).convert("RGB")
    colours = sorted(image.getcolors(image.width * image.height), reverse=True)
    (most, ground) = colours[0]
    assert (sum(ground) > 600) == (scheme == "light")
    assert most < 0.97 * image.width * image.height
    assert len(colours) > 100
