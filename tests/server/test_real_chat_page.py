"""The page to talk to, in a real browser, over the bundled pair on real engines."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import chromium, show_on, until
from client_runs import write_data
from clients import POLICY
from own_server import SERVE_KEY, server
from real_engines import KEY, Servers
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def url(real_pair: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    attached = ["--base-url", real_pair.urls["base"], "--small-url", real_pair.urls["small"]]
    log = tmp_path_factory.mktemp("server") / "server.log"
    with server([*attached, *POLICY], log, engine_key=KEY) as served:
        yield f"{served.url}/"


@pytest.fixture
def chrome(url: str, tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """The page, with the server's key in it."""
    with chromium(tmp_path / "profile") as browser:
        show_on(browser, width=1100, height=900, scheme="light")
        browser.get(url)
        until(browser, "return document.querySelector('#server .problem') !== null")
        browser.find_element(By.ID, "key").send_keys(SERVE_KEY, Keys.ENTER)
        until(browser, "return document.querySelectorAll('#model option').length === 4")
        yield browser


def asks(chrome: webdriver.Chrome, question: str) -> None:
    message = chrome.find_element(By.ID, "message")
    chrome.execute_script("arguments[0].value = arguments[1]", message, question)
    message.send_keys(Keys.ENTER)


def ended(chrome: webdriver.Chrome) -> None:
    until(chrome, "return document.getElementById('status').textContent === 'Done'")


def test_a_problem_is_solved_in_sight(chrome: webdriver.Chrome, tmp_path: Path) -> None:
    """Thought, authors, scores, answer and account; the same problem by each of the models."""
    write_data(tmp_path, 6)
    row = json.loads((tmp_path / "demo-sgl.jsonl").read_text().splitlines()[5])
    for model in ("specreason", "base", "small", "base-direct"):
        Select(chrome.find_element(By.ID, "model")).select_by_visible_text(model)
        asks(chrome, row["problem"])
        ended(chrome)
        boxes = chrome.find_elements(By.CSS_SELECTOR, ".steps > li > div.box")
        authors = {(box.get_attribute("class") or "").split()[-1] for box in boxes}
        expected = {"specreason": {"small", "base"}, "base": {"base"}, "small": {"small"}, "base-direct": set()}
        assert authors == expected[model]
        facts = chrome.find_element(By.CSS_SELECTOR, ".facts").text
        assert "s in all" in facts
        if model == "specreason":
            assert all("score" in box.find_element(By.CLASS_NAME, "head").text for box in boxes)
            assert chrome.find_elements(By.CSS_SELECTOR, "details.draft")
            assert "judgements" in facts
        if model in ("specreason", "base"):
            until(chrome, "return document.querySelectorAll('.answer math').length === 1")
            assert row["expected_answer"] in chrome.find_element(By.CSS_SELECTOR, ".answer math").text
        chrome.find_element(By.ID, "new").click()
    logged = [entry["message"] for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
    assert [message for message in logged if "401" not in message] == []  # it was asked for a key first


def test_stop_frees_the_place(chrome: webdriver.Chrome, url: str) -> None:
    def running() -> str:
        with urllib.request.urlopen(f"{url}metrics") as reply:
            lines: list[str] = reply.read().decode().splitlines()
        return next(line.split()[-1] for line in lines if line.startswith("specreason_requests_running "))

    Select(chrome.find_element(By.ID, "model")).select_by_visible_text("base")
    asks(chrome, "Tell me all that you know. " * 20)
    until(chrome, "return document.querySelector('.writing')?.textContent.length > 20")
    assert running() == "1.0"
    chrome.find_element(By.ID, "stop").click()
    WebDriverWait(chrome, 5).until(lambda _: running() == "0.0")
    assert "Stopped." in chrome.find_element(By.CSS_SELECTOR, ".turn .problem").text
