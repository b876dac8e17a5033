"""The page to talk to, in a real browser on a scripted server: what it shows and sends, how it goes on after errors."""

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browsers import HOSTILE, chromium, show_on, until
from PIL import Image
from scripted_chat import (
    CUT,
    END,
    FOREVER,
    ScriptedChat,
    answer,
    by_base,
    by_small,
    chunk,
    over,
    refusal,
    reply,
    thought,
)
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select
from starlette.responses import JSONResponse, Response

from sgl_specreason.server.page import chat_page, chat_policy

Opens = Callable[..., webdriver.Chrome]
THOUGHT = [
    by_small(1, r"The half of \(x^2\) is \(\frac{x^2}{2}\)." + "\n\n"),
    chunk({}),
    *by_base(2, "So ", "with $x=2$ ", "it is $2$.\n\n", draft="So it is $5$.\n\n"),
    by_small(3, "It costs $5 or $6.", score=9),
]
ANSWER = [answer("\nThe answer is\n\n"), answer(r"\[\boxed{2}"), answer(r"\]" + "\n\nand no other.")]
ENDED = "return document.getElementById('stop').hidden && document.querySelector('.turn') !== null"


@pytest.fixture
def server() -> Iterator[ScriptedChat]:
    with ScriptedChat() as chat:
        yield chat


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.fixture
def opens(browser: webdriver.Chrome, server: ScriptedChat) -> Opens:
    """Opens the page of the scripted server."""

    def look(*, width: int = 1100, height: int = 900, scheme: str = "light") -> webdriver.Chrome:
        show_on(browser, width=width, height=height, scheme=scheme)
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(server.url)
        until(browser, "return document.querySelector('#model option, #server .problem') !== null")
        return browser

    return look


def says(chrome: webdriver.Chrome, text: str, *, ends: bool = True) -> None:
    chrome.find_element(By.ID, "message").send_keys(text, Keys.ENTER)
    if ends:
        until(chrome, ENDED)


def one(chrome: webdriver.Chrome, css: str) -> WebElement:
    return chrome.find_element(By.CSS_SELECTOR, css)


def texts(chrome: webdriver.Chrome, css: str) -> list[str]:
    return [found.text for found in chrome.find_elements(By.CSS_SELECTOR, css)]


def button(chrome: webdriver.Chrome, label: str) -> WebElement:
    return next(found for found in chrome.find_elements(By.TAG_NAME, "button") if found.text.startswith(label))


def logged(chrome: webdriver.Chrome) -> list[str]:
    """Warnings and errors."""
    return [entry["message"] for entry in chrome.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]


def slide(chrome: webdriver.Chrome, name: str, value: float) -> None:
    chrome.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', { bubbles: true }))",
        chrome.find_element(By.ID, name),
        value,
    )


# ---- the file ----


def test_it_is_one_file_that_names_no_other_place() -> None:
    html = chat_page()
    markup = re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.DOTALL)
    assert re.findall(r'\s(?:src|href|action)="([^"]*)"', markup) == ["data:,"]
    own = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[-1]
    assert set(re.findall(r"https?:[^\s\"']*", own)) == set()
    assert "{{" not in markup


def test_its_policy_names_its_scripts_and_style_and_nothing_else() -> None:
    rules = dict(rule.split(" ", 1) for rule in chat_policy().split("; "))
    kinds = {kind: re.findall(f"<{kind}>(.*?)</{kind}>", chat_page(), re.DOTALL) for kind in ("script", "style")}
    for kind, found in kinds.items():
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
        assert rules[f"{kind}-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert (rules["default-src"], rules["connect-src"], rules["form-action"]) == ("'none'", "'self'", "'none'")
    assert "unsafe" not in chat_policy()


# ---- a conversation ----


def test_a_reply_shows_who_wrote_what_and_what_it_cost(opens: Opens, server: ScriptedChat) -> None:
    server.replies = [reply(*THOUGHT, *ANSWER)]
    chrome = opens()
    says(chrome, "What is half of $x^2$?")
    until(chrome, "return document.querySelectorAll('.reply math').length === 5")
    assert texts(chrome, ".steps > li > div.box > .head > *") == [
        *("1 small", "12 tokens", "score 8.25"),
        *("2 base", "20 tokens", "its draft: score 3"),
        *("3 small", "12 tokens", "score 9"),
    ]
    authors = chrome.find_elements(By.CSS_SELECTOR, ".steps > li > div.box")
    assert len({box.value_of_css_property("background-color") for box in authors}) == 2
    assert "It costs $5 or $6." in authors[2].text
    assert one(chrome, ".thought summary").text == "Thought: 3 steps, 2 by small, 1 by base"
    said = one(chrome, ".answer .text").get_attribute("textContent") or ""
    assert said.startswith("The answer is")
    assert said.endswith("and no other.")
    assert "\n" not in said  # around a formula that has lines of its own
    facts = (
        "base 51 tokens of thought, 1.40 s · small 1,204 tokens of thought, 0.62 s · 31 tokens discarded · "
        "2 judgements, 50 % accepted · prompt 120 (96 cached), thought 215, answer 40 tokens · 12.3 s in all · "
        "the thought was closed at its budget"
    )
    assert one(chrome, ".facts").text == facts
    assert one(chrome, "#status").text == "Done"
    assert one(chrome, ".you").text.startswith("You:")
    assert set(server.paths) == {"/v1/models", "/v1/chat/completions"}
    assert logged(chrome) == []


def test_steps_and_scores_are_there_while_the_rest_is_still_written(opens: Opens, server: ScriptedChat) -> None:
    server.replies = [[*THOUGHT[:2], thought("Base is still at it"), FOREVER]]
    chrome = opens()
    says(chrome, "Go", ends=False)
    until(chrome, "return document.querySelectorAll('.steps > li').length === 2")
    assert "score 8.25" in one(chrome, ".steps > li").text
    writing = one(chrome, ".box.base.writing")
    assert "base writes" in writing.text
    assert "Base is still at it" in writing.text
    assert one(chrome, "#status").text == "Thinking"
    assert one(chrome, "#conversation").get_attribute("aria-busy") == "true"


def test_drafts_and_thoughts_are_folded_and_opened(opens: Opens, server: ScriptedChat) -> None:
    server.replies = [reply(*THOUGHT, *ANSWER)]
    chrome = opens()
    says(chrome, "Go")
    draft = one(chrome, "details.draft .text")
    assert not draft.is_displayed()
    one(chrome, "details.draft summary").send_keys(Keys.ENTER)
    assert draft.is_displayed()
    until(chrome, "return document.querySelectorAll('details.draft math').length === 1")
    one(chrome, "#thoughts").click()
    assert not one(chrome, ".steps").is_displayed()
    says(chrome, "Again")
    assert [found.is_displayed() for found in chrome.find_elements(By.CSS_SELECTOR, ".steps")] == [False, False]
    one(chrome, "#thoughts").click()
    one(chrome, "#drafts").click()
    assert all(found.is_displayed() for found in chrome.find_elements(By.CSS_SELECTOR, "details.draft .text"))


def test_the_next_question_takes_answers_along_and_no_thoughts(opens: Opens, server: ScriptedChat) -> None:
    server.replies = [reply(*THOUGHT, answer("Two.")), reply(*THOUGHT, *over("length")), reply(answer("Four."))]
    chrome = opens()
    says(chrome, "First")
    says(chrome, "Second")
    words = "The reply ended before an answer. The next question is sent without this one."
    assert words in one(chrome, ".turn .problem").text
    says(chrome, "Third")
    assert one(chrome, "#status").text == "Done"
    assert server.asked[2]["messages"] == [
        {"role": "user", "content": "First"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Third"},
    ]
    button(chrome, "New conversation").click()
    assert chrome.find_elements(By.CSS_SELECTOR, ".turn") == []
    says(chrome, "Fourth")
    assert server.asked[3]["messages"] == [{"role": "user", "content": "Fourth"}]


def test_it_asks_with_the_settings_of_the_server_until_they_are_moved(opens: Opens, server: ScriptedChat) -> None:
    chrome = opens()
    says(chrome, "Go")
    assert server.asked[0] == {
        "model": "specreason",
        "messages": [{"role": "user", "content": "Go"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "thinking_token_budget": 512,
        "specreason": {"steps": True, "drafts": True, "threshold": 7},
    }
    slide(chrome, "threshold", 8.5)
    slide(chrome, "budget", 0)
    assert (one(chrome, "#threshold-value").text, one(chrome, "#budget-value").text) == ("8.5", "16")
    says(chrome, "Go")
    assert (server.asked[1]["specreason"]["threshold"], server.asked[1]["thinking_token_budget"]) == (8.5, 16)
    slide(chrome, "budget", 99)
    assert one(chrome, "#budget-value").text == "960"


@pytest.mark.parametrize(("model", "budget"), [("base", 512), ("small", 512), ("base-direct", None)])
def test_other_models_get_only_what_concerns_them(
    opens: Opens, server: ScriptedChat, model: str, budget: int | None
) -> None:
    server.replies = [reply(thought("Hm. "), thought("So."), answer("Yes."))]
    chrome = opens()
    Select(one(chrome, "#model")).select_by_visible_text(model)
    assert not one(chrome, "#threshold").is_displayed()
    assert one(chrome, "#budget").is_displayed() == (budget is not None)
    says(chrome, "Go")
    asked = server.asked[0]
    assert (asked["model"], asked.get("thinking_token_budget")) == (model, budget)
    assert "threshold" not in asked["specreason"]
    box = one(chrome, ".steps .box")
    assert ("small" if model == "small" else "base") in (box.get_attribute("class") or "").split()
    assert "Hm. So." in box.text


@pytest.mark.parametrize(
    ("rule", "value", "step"), [("greedy", 6, "1"), ("expected", 6.5, "0.1"), ("p_yes", 0.5, "0.01")]
)
def test_the_threshold_has_the_range_of_its_rule(
    opens: Opens, server: ScriptedChat, rule: str, value: float, step: str
) -> None:
    low, high = (0, 1) if rule == "p_yes" else (0, 9)
    server.settings = server.settings | {"score_rule": rule, "threshold": value, "threshold_range": [low, high]}
    slider = one(opens(), "#threshold")
    assert [slider.get_attribute(name) for name in ("min", "max", "step", "value")] == [
        str(low),
        str(high),
        step,
        str(value),
    ]


def test_it_follows_what_is_written_unless_one_scrolls_up(opens: Opens, server: ScriptedChat) -> None:
    long = [by_small(n, f"Step {n}, which is long. " * 20) for n in range(1, 31)]
    server.replies = [[*long, FOREVER]]
    chrome = opens(height=600)
    says(chrome, "Go", ends=False)
    until(chrome, "return document.querySelectorAll('.steps > li').length === 30")
    until(chrome, "return document.documentElement.scrollHeight - innerHeight - scrollY < 5")
    button(chrome, "Stop").click()
    until(chrome, ENDED)
    server.replies, server.pause_s = [[*long, FOREVER]], 0.1
    says(chrome, "Go", ends=False)
    until(chrome, "return document.querySelectorAll('.steps > li').length >= 35")
    chrome.execute_script("scrollBy(0, -400)")
    until(chrome, "return document.querySelectorAll('.steps > li').length >= 40")
    assert chrome.execute_script("return document.documentElement.scrollHeight - innerHeight - scrollY") > 500


# ---- the keyboard ----


def test_it_can_be_used_by_keyboard(opens: Opens, server: ScriptedChat) -> None:
    server.replies = [[*THOUGHT, FOREVER]]
    chrome = opens()
    message = chrome.switch_to.active_element
    assert message.get_attribute("id") == "message"
    message.send_keys("One", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two")
    assert message.get_attribute("value") == "One\ntwo"
    message.send_keys(Keys.ENTER)
    until(chrome, "return document.querySelectorAll('.steps > li').length === 3")
    assert server.asked[0]["messages"][0]["content"] == "One\ntwo"
    message.send_keys("later", Keys.ENTER)  # not while it runs, but the words stay
    assert message.get_attribute("value") == "later"
    message.send_keys(Keys.ESCAPE)
    until(chrome, ENDED)
    assert server.left.wait(5)
    assert len(server.asked) == 1
    assert "Stopped." in one(chrome, ".turn .problem").text


def test_what_has_the_focus_is_seen_and_everything_has_a_name(opens: Opens, server: ScriptedChat) -> None:
    server.replies = [reply(*THOUGHT, *ANSWER)]
    chrome = opens()
    says(chrome, "Go")
    reached = []
    one(chrome, "h1").click()
    for _ in range(14):
        chrome.switch_to.active_element.send_keys(Keys.TAB)
        focused = chrome.switch_to.active_element
        if focused.tag_name == "body":
            break
        reached.append(
            (focused.tag_name, focused.accessible_name.strip(), focused.value_of_css_property("outline-style"))
        )
    names = [name for _, name, _ in reached]
    assert {outline for *_, outline in reached} == {"solid"}
    assert names[:8] == [
        "Model",
        "New conversation",
        "Settings",
        "Threshold",
        "Thinking budget",
        "Key",
        "Thoughts open",
        "Rejected drafts open",
    ]
    assert names[8].startswith("Thought: 3 steps")
    assert names[9].startswith("rejected draft")
    assert names[10:] == ["Message", "Send"]
    nodes = chrome.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {node["role"]["value"]: node.get("name", {}).get("value") for node in nodes if not node["ignored"]}
    assert (roles["main"], roles["region"], roles["status"] is not None) == ("Conversation", "Turn 1", True)


# ---- the stop button ----


def test_stop_ends_the_request_and_keeps_what_came(opens: Opens, server: ScriptedChat) -> None:
    server.replies = [[*THOUGHT, answer("It is a"), FOREVER], reply(answer("Well."))]
    chrome = opens()
    assert not one(chrome, "#stop").is_displayed()
    says(chrome, "Go", ends=False)
    until(chrome, "return document.querySelector('.answer .text')?.textContent === 'It is a'")
    assert not server.left.is_set()
    button(chrome, "Stop").click()
    assert server.left.wait(5)
    until(chrome, ENDED)
    assert one(chrome, ".turn .problem").text.startswith("Stopped. What came is kept.")
    assert one(chrome, ".answer .text").text == "It is a"
    assert len(chrome.find_elements(By.CSS_SELECTOR, ".steps > li")) == 3
    says(chrome, "And?")
    assert [message["content"] for message in server.asked[1]["messages"]] == ["Go", "It is a", "And?"]
    assert chrome.find_elements(By.CSS_SELECTOR, ".turn .problem") == []


def test_a_new_conversation_ends_the_request_of_the_old_one(opens: Opens, server: ScriptedChat) -> None:
    server.replies = [[*THOUGHT, FOREVER], reply(answer("Well."))]
    chrome = opens()
    says(chrome, "Go", ends=False)
    until(chrome, "return document.querySelectorAll('.steps > li').length === 3")
    button(chrome, "New conversation").click()
    assert server.left.wait(5)
    says(chrome, "And?")
    assert texts(chrome, ".answer .text") == ["Well."]
    assert one(chrome, "#status").text == "Done"


# ---- errors ----


def test_a_key_is_asked_for_kept_for_this_tab_only_and_sent(opens: Opens, server: ScriptedChat) -> None:
    server.key = "open sesame"
    chrome = opens(width=360)
    assert "The server asks for its key" in one(chrome, "#server .problem").text
    field = chrome.switch_to.active_element
    assert field.get_attribute("id") == "key"
    field.send_keys("Schlüssel", Keys.ENTER)
    until(chrome, "return document.querySelector('#server').textContent.includes('no key has')")
    field.send_keys(Keys.CONTROL, "a", Keys.NULL, "open sesame", Keys.ENTER)
    until(chrome, "return document.querySelector('#model option') !== null")
    assert chrome.find_elements(By.CSS_SELECTOR, "#server .problem") == []
    says(chrome, "Go")
    assert texts(chrome, ".answer .text") == ["Yes."]
    assert chrome.execute_script("return [sessionStorage.getItem('key'), localStorage.length, document.cookie]") == [
        "open sesame",
        0,
        "",
    ]
    server.key = "another"
    says(chrome, "Go")
    assert "The server asks for its key" in one(chrome, ".turn .problem").text
    assert chrome.switch_to.active_element.get_attribute("id") == "key"
    chrome.execute_script("sessionStorage.clear()")


@pytest.mark.parametrize(
    ("refused", "words", "wait"),
    [
        (refusal(429, "Full.", code="queue_full", Retry_After="1"), "as many questions as it can take. Full.", 1),
        (
            refusal(503, "Small is out.", code="x", Retry_After="2"),
            "The models are away at the moment. Small is out.",
            2,
        ),
        (refusal(400, "This model's maximum context length is 9.", code="x"), "maximum context length is 9", 0),
        (refusal(504, "Deadline.", code="deadline_exceeded"), "this took too long", 0),
        (JSONResponse({"error": "Unauthorized"}, 403), "Unauthorized", 0),
        (Response("<h1>Bad gateway</h1>", 502), "The server refused this (502).", 0),
    ],
)
def test_what_is_refused_is_said_and_can_be_tried_again(
    opens: Opens, server: ScriptedChat, refused: Response, words: str, wait: int
) -> None:
    server.replies = [refused, reply(answer("Yes."))]
    chrome = opens()
    says(chrome, "Go")
    assert words in one(chrome, ".turn .problem").text
    assert one(chrome, ".turn .problem").get_attribute("role") == "alert"
    again = button(chrome, "Try again")
    assert ("best in" in again.text) == (wait > 0)
    until(chrome, "return document.querySelector('.problem button').textContent === 'Try again'")
    again.click()
    until(chrome, "return document.querySelector('.answer .text')?.textContent === 'Yes.'")
    assert chrome.find_elements(By.CSS_SELECTOR, ".problem") == []
    assert server.asked[0] == server.asked[1]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"error": {"message": "Base died.", "type": "server_error", "code": "engine_unavailable"}}, "Base died."),
        (CUT, "The connection broke before the end of the reply."),
        (END, "The connection broke before the end of the reply."),
        ("data: {not json\n\n", "The connection broke before the end of the reply."),
    ],
)
def test_a_broken_stream_keeps_what_came(opens: Opens, server: ScriptedChat, end: Any, words: str) -> None:
    server.replies = [[*THOUGHT, answer(r"It is \(2\)"), end], reply(answer("Whole."))]
    server.pause_s = 0.05
    chrome = opens()
    says(chrome, "Go")
    assert f"{words} What came is kept." in one(chrome, ".turn .problem").text
    assert len(chrome.find_elements(By.CSS_SELECTOR, ".steps > li")) == 3
    until(chrome, "return document.querySelectorAll('.answer math').length === 1")
    button(chrome, "Try again").click()
    until(chrome, "return document.querySelector('.answer .text')?.textContent === 'Whole.'")
    assert len(chrome.find_elements(By.CSS_SELECTOR, ".reply")) == 1


def test_a_server_that_is_gone_is_said(opens: Opens, server: ScriptedChat) -> None:
    chrome = opens()
    server.__exit__()
    says(chrome, "Go")
    assert "The server cannot be reached." in one(chrome, ".turn .problem").text


def test_models_that_cannot_be_listed_can_be_asked_for_again(opens: Opens, server: ScriptedChat) -> None:
    server.models = refusal(503, "Draining.", code="draining", Retry_After="30")
    chrome = opens()
    assert "Draining." in one(chrome, "#server").text
    one(chrome, "#message").send_keys("Go", Keys.ENTER)
    assert one(chrome, "#message").get_attribute("value") == "Go"
    server.models = None
    button(chrome, "Try again").click()
    until(chrome, "return document.querySelectorAll('#model option').length === 4")
    assert one(chrome, "#server").text == ""


# ---- texts that want to do something ----


def test_hostile_text_does_nothing(opens: Opens, server: ScriptedChat) -> None:
    """In thoughts, drafts, answers, scores, errors and the user's own words: it stands there as it was written."""
    steps = [piece for n, text in enumerate(HOSTILE) for piece in (by_small(n, text), *by_base(n, text, draft=text))]
    rude = thought("", n=HOSTILE[1], by=HOSTILE[2], score=HOSTILE[0], tokens=HOSTILE[3], draft_tokens=HOSTILE[4])
    account = over(HOSTILE[0], thought_ended_by=HOSTILE[1], tokens_base=HOSTILE[2], seconds=HOSTILE[3])
    failed = {"error": {"message": "\n".join(HOSTILE), "code": HOSTILE[0]}}
    server.replies = [
        [*steps, rude, *map(answer, HOSTILE), *account, failed],
        refusal(400, HOSTILE[1], code=HOSTILE[0]),
    ]
    chrome = opens()
    until(chrome, "return document.querySelector('#model option') !== null")
    chrome.execute_script("arguments[0].value = arguments[1]", one(chrome, "#message"), "\n\n".join(HOSTILE[:9]))
    says(chrome, "")
    one(chrome, "#drafts").click()
    for box in chrome.find_elements(By.CSS_SELECTOR, ".text"):
        chrome.execute_script("arguments[0].scrollIntoView()", box)
    shown = one(chrome, "#conversation").get_attribute("textContent") or ""
    assert all(shown.count(text) >= 5 for text in HOSTILE[:8])
    says(chrome, "Go")
    assert HOSTILE[1] in one(chrome, ".turn .problem").text
    assert chrome.execute_script("return window.obeyed") is None
    for made in (
        "script",
        "img",
        "iframe",
        "style",
        "base",
        "meta",
        "a",
        "[href]",
        "[src]",
        "[onerror]",
        "[onload]",
        ".small.mord",
    ):
        assert not chrome.find_elements(By.CSS_SELECTOR, f"#conversation {made}"), made
    entries = chrome.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => new URL(entry.name).pathname)"
    )
    assert set(entries) == {"/v1/models", "/v1/chat/completions"}
    assert ["400 (Bad Request)" in message for message in logged(chrome)] == [True]


def test_the_policy_forbids_markup_from_text_and_scripts_and_requests(opens: Opens, server: ScriptedChat) -> None:
    chrome = opens()
    forbidden = """
        const done = arguments[arguments.length - 1], script = document.createElement("script"), image = new Image();
        const tried = [];
        try { document.body.innerHTML = "<b>x</b>"; tried.push("markup"); } catch {}
        try { script.textContent = "window.obeyed = 1"; document.body.append(script); } catch {}
        image.onload = image.onerror = () => {};
        image.src = "/image";
        fetch("http://localhost:1/").then(() => tried.push("request"), () => {}).then(() => done([window.obeyed ?? null, tried]));
    """
    assert chrome.execute_async_script(forbidden) == [None, []]
    told = "\n".join(logged(chrome))
    for words in ("TrustedHTML", "TrustedScript", "img-src", "connect-src"):
        assert words in told, words
    assert "/image" not in server.paths


@pytest.mark.parametrize(
    "piece", ["$", r"\[", r"\boxed{", "{", "}", r"\begin{align}", r"\frac{", "<b>", "\u202e", "\n\n", "a\n\n$b$ "]
)
def test_no_text_makes_it_hang(opens: Opens, server: ScriptedChat, piece: str) -> None:
    text = piece * (40_000 // len(piece))
    pieces = [text[i : i + 400] for i in range(0, len(text), 400)]
    server.replies = [reply(*by_base(1, *pieces, draft=text), *map(answer, pieces), answer(f"$x {text[:3000]}$"))]
    chrome = opens()
    says(chrome, "Go")
    assert one(chrome, "#status").text == "Done"


# ---- looks ----


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (1100, "dark"), (360, "light"), (360, "dark")])
def test_it_fits_the_width_and_the_colour_scheme_and_is_not_blank(
    opens: Opens, server: ScriptedChat, width: int, scheme: str
) -> None:
    wide = r"\[" + "+".join(f"x_{{{n}}}" for n in range(60)) + r"\]" + "m" * 300
    server.replies = [reply(*THOUGHT, by_small(4, wide), *ANSWER, answer(wide))]
    chrome = opens(width=width, scheme=scheme, height=760)
    says(chrome, "What is half of $x^2$? " + "m" * 100)
    assert one(chrome, "#settings").get_attribute("open") == ("true" if width > 1000 else None)
    if width < 1000:
        one(chrome, "#settings summary").click()
    one(chrome, "#drafts").click()
    chrome.execute_script("scrollTo(0, document.body.scrollHeight)")
    until(chrome, "return document.querySelectorAll('.answer math').length === 2")
    assert chrome.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert one(chrome, "#send").is_displayed()
    image = Image.open(io.BytesIO(chrome.get_screenshot_as_png())).convert("RGB")
    most, ground = max(image.getcolors(image.width * image.height) or [])
    assert (sum(ground) > 600) == (scheme == "light")
    assert most < 0.97 * image.width * image.height
