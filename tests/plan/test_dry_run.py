"""What --dry-run says is what a run would do, and what a run would refuse it refuses."""

import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import ROOT
from click.testing import CliRunner
from command_line import invoke
from fake_engine import FakeEngine

from sgl_specreason import replay
from sgl_specreason.plan import limits
from sgl_specreason.plan.catalog import BUNDLED, load_pair
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.text import hub

NOWHERE = "http://127.0.0.1:9"
ALL = [word for method in ("base", "specreason", "base+decode", "specreason+decode") for word in ("--method", method)]


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"problem": f"{n} + 1?", "answer": str(n + 1), "unique_id": str(n)}) for n in range(500)]
    (tmp_path / "math500.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("SPECREASON_DATA", str(tmp_path))


def planned(*words: str) -> str:
    done = invoke("eval", "--bench", "math500", "--dry-run", *words)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*words: str) -> str:
    done = invoke("eval", "--bench", "math500", "--dry-run", *words)
    assert (done.exit_code, done.stderr.count("\n"), done.stdout) == (2, 1, ""), done.output
    return done.stderr


def starts(text: str) -> list[str]:
    return [line for line in text.splitlines() if "sglang.launch_server" in line]


def cache(text: str) -> int:
    (found,) = set(re.findall(r"--max-total-tokens (\d+)", text))
    return int(found)


def test_the_plan_comes_first_and_settings_only_when_asked_for() -> None:
    text = planned("--pair", "demo")
    assert [line[3:].split(",")[0] for line in text.splitlines() if line.startswith("== ")][:3] == [
        "run",
        "pair and memory",
        "engines",
    ]
    assert "salvage_floor" not in text
    assert len(text.splitlines()) < 60
    assert '"salvage_floor"' in planned("--pair", "demo", "--verbose")
    assert "for --dry-run" in invoke("eval", "--bench", "demo", "--verbose").stderr


def test_both_starts_of_base_are_shown_with_what_they_are_started_with() -> None:
    small, base, speculating = starts(planned("--gpus", "1xH100", *ALL))
    assert "--speculative" not in small + base
    assert speculating.startswith(base)
    assert speculating.removeprefix(base).split() == [
        *("--speculative-algorithm", "STANDALONE", "--speculative-draft-model-path", "Qwen/Qwen3-0.6B"),
        *("--speculative-num-steps", "5", "--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", "6"),
    ]
    (_, only) = starts(planned("--gpus", "1xH100", "--method", "base+decode"))
    assert "--speculative" in only


def test_the_commands_shown_are_those_that_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = resolve(Options(bench="math500", methods=("base", "base+decode"), gpus="1xH100", policy={}))
    shown = starts(planned("--gpus", "1xH100", "--method", "base", "--method", "base+decode"))
    assert shown == [
        plan.engine("small").shell(),
        plan.engine("base").shell(),
        plan.engine("base", speculating=True).shell(),
    ]


def test_bases_draft_model_has_room_in_the_plan() -> None:
    """Its weights, and its cache: of each token as much more as it has layers (SGLang takes them to be like base's own)."""
    pair = ("--pair", "qwen3-8b+qwen3-0.6b", "--gpus", "1xH100")
    without, ngram, drafting = (
        planned(*pair, *methods)
        for methods in (("--method", "base"), ("--method", "base+decode", "--decode", "ngram"), ALL)
    )
    assert cache(drafting) < 0.75 * cache(without)
    assert 0.98 * cache(without) <= cache(ngram) <= cache(without)
    assert "loads Qwen/Qwen3-0.6B in its own process, too: 1.1 GB" in drafting
    weights = [re.search(r"base +0 +([\d.]+)", text) for text in (without, drafting)]
    assert [found and found[1] for found in weights] == ["15.3", "16.4"]
    assert "not reckoned: a/head has no config.json" in planned(
        *pair, "--method", "base+decode", "--decode", "eagle3", "--decode-model", "a/head"
    )


def test_two_vocabularies_are_refused_without_a_tokenizer_and_never_chosen() -> None:
    """Shapes tell it: QwQ-32B and R1-Distill-1.5B are not here."""
    decode = ("--gpus", "1x141", "--method", "base+decode")
    assert "152064 and 151936 entries" in refused(*decode, "--pair", "qwq-32b+r1-1.5b")
    assert "pair auto: qwen3-8b" in planned(*decode)
    assert "pair auto: qwq-32b" in planned(*decode, "--decode", "ngram")


def test_two_tokenizers_are_compared_where_they_are_here(tmp_path: Path) -> None:
    """Of one size and not the same: a dry run said nothing."""
    other = tmp_path / "other"
    other.mkdir()
    for file in (BUNDLED / "small").iterdir():
        other.joinpath(file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    models = ("--base-model", str(BUNDLED / "base"), "--small-model", str(other))
    assert "different vocabularies" in refused(*models, "--gpus", "1x80", "--method", "base+decode")


def test_replicas_are_chosen_and_planned_for_on_the_same_cards() -> None:
    """One line said 246,784 tokens, which were of all eight cards, and the next 29,696."""
    text = planned("--gpus", "8x80", "--base-replicas", "4")
    (chosen,) = re.findall(r"pair auto: .* on (2 x GPU \(80 GB\)).*\(([\d,]+) tokens in each cache", text)
    assert chosen[1] == f"{cache(text):,}"
    assert "one replica's part of 8 x GPU" in refused(
        "--gpus", "8x16", "--base-replicas", "8", "--pair", "r1-70b+r1-1.5b"
    )


def test_more_at_once_than_the_clients_keep_up_with_gets_a_word() -> None:
    many = ("--gpus", "8x80", "--concurrency", "600")
    words = "--concurrency 600: one client process keeps up with about 256; give --clients 3"
    assert words in planned(*many, "--samples", "4")
    assert words in planned(*many, "--samples", "4", "--clients", "2")
    enough = planned(*many, "--samples", "4", "--clients", "3")
    assert "one client" not in enough
    assert "clients: 3 processes" in enough
    assert "client" not in planned(*many, "--limit", "200")


def test_more_at_once_than_the_caches_hold_gets_a_word() -> None:
    card = ("--gpus", "1x24")
    text = planned(*card, "--concurrency", "16")
    assert "room for 4 trajectories at the budget" in text
    assert "Warning: --concurrency 16: the caches have room for 4 trajectories" in text
    assert "Warning" not in planned(*card, "--concurrency", "4")
    assert "Warning" not in planned(*card, "--concurrency", "16", "--limit", "3")
    assert "Warning" not in planned(*card, "--concurrency", "auto")
    assert "room for 1 trajectory at" in planned("--gpus", "1x16", "--concurrency", "1")
    assert "states a context of 40,960 tokens" in planned(
        "--gpus", "1xH100", "--pair", "qwen3-8b+qwen3-0.6b", "--budget-tokens", "50000"
    )


def test_what_does_not_fit_the_caches_is_said_of_a_run_too() -> None:
    """On the bundled pair, whose caches are pinned; the run itself says it before its engines start."""
    plan = resolve(Options(bench="demo", concurrency=200, policy={}))
    assert "room for 113 trajectories" in limits.crowding(plan, limits.caches(plan.specs))[0]
    assert limits.held({"base": {"max_total_num_tokens": 1000}, "small": {}}) == {"base": 1000}
    assert limits.crowding(plan, {"base": 1000})


def test_a_budget_over_the_cache_is_refused_without_a_tokenizer() -> None:
    said = refused("--gpus", "1x24", "--budget-tokens", "65536")
    assert re.search(r"cache holds \d+ tokens, and a trajectory may need \d+ besides its prompt", said)
    assert "--budget-tokens" in said


def test_who_does_not_answer_needs_no_room_for_it() -> None:
    """Of specreason base writes the answer, unless small is asked to."""
    words = ("--method", "specreason", "--gpus", "1x16", "--budget-tokens", "13000", "--answer-tokens", "400")
    assert "base's cache holds 13312 tokens" in refused(*words)
    assert "small's cache holds 13312 tokens" in refused(*words, "--answer-by", "small")
    assert planned("--method", "specreason", "--gpus", "1x16", "--budget-tokens", "13000", "--answer-tokens", "300")


PAIR = 'title = "mine"\nbase = "bundled:base"\nsmall = "bundled:small"\nargs.base = {}\n'


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--nosuch", "3"], "has no --nosuch"),
        (["--enable-determinstic-inference"], "did you mean --enable-deterministic-inference"),
        (["--tp-size", "two"], "--tp-size/--tensor-parallel-size: invalid int value: 'two'"),
        (["--kv-cache-dtype", "fp5"], "invalid choice: 'fp5'"),
        (["--tp-size"], "expected one argument"),
        (["2"], "2: a value without an argument"),
        (["--model-p", "x"], "--model-path is not for a pair to set"),
        (["--help"], "has no --help"),
    ],
)
@pytest.mark.parametrize("cards", [[], ["--gpus", "1x80"]], ids=["cpu", "gpu"])
def test_a_pairs_arguments_are_checked_by_sglangs_own_parser(
    args: list[str], said: str, cards: list[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text(PAIR.format(json.dumps(args)))
    words = refused("--pair", str(tmp_path / "mine.toml"), *cards)
    assert words.startswith("error: pair mine: args.base: ")
    assert said in words


def test_good_arguments_of_a_pair_reach_the_engine_on_a_cpu_too(tmp_path: Path) -> None:
    """They were left out there without a word."""
    (tmp_path / "mine.toml").write_text(PAIR.format('["--log-level", "info"]'))
    small, base = starts(planned("--pair", str(tmp_path / "mine.toml")))
    assert base.endswith("--log-level info --enable-priority-scheduling")
    assert "--log-level info" not in small


def test_offline_the_hub_is_asked_once_and_not_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its libraries try again for a minute; a port where nothing listens refuses at once."""
    from huggingface_hub import constants

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.trouble.cache_clear()
    begin = time.monotonic()
    try:
        text = planned("--gpus", "1xH100", "--pair", "qwen3-8b+qwen3-0.6b")
    finally:
        hub.trouble.cache_clear()
    assert f"it is not on this machine, and the hub ({endpoint}) cannot be reached" in text
    assert time.monotonic() - begin < 10


def test_a_misspelt_folder_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for cards in ([], ["--gpus", "2x80"]):
        said = refused("--base-model", str(tmp_path / "modle"), "--small-model", str(BUNDLED / "small"), *cards)
        assert (
            said
            == f"error: base model {tmp_path / 'modle'}: there is no such folder; did you mean the folder {tmp_path / 'model'}?\n"
        )
    said = refused("--base-model", str(ROOT / "README.md"), "--small-model", str(BUNDLED / "small"))
    assert "it is a file" in said


def test_a_pair_that_ships_has_no_arguments_that_must_be_checked() -> None:
    """The parser costs seconds: only who writes arguments pays for it."""
    assert not load_pair("qwen3-8b+qwen3-0.6b").args


def test_running_servers_are_asked_what_they_are(fake_engine: Callable[..., FakeEngine]) -> None:
    """A dry run took any address for good, and showed no prompt."""
    assert "no SGLang server answers there" in refused("--base-url", NOWHERE, "--small-url", NOWHERE)
    engine = fake_engine(lambda *_: "")
    urls = ("--base-url", engine.url, "--small-url", engine.url)
    models = ("--base-model", str(BUNDLED / "base"), "--small-model", str(BUNDLED / "small"))
    text = planned(*urls, *models)
    assert "none is started: " in text
    assert "0 + 1?" in text
    engine.info = {"max_req_input_len": 1000, "max_total_num_tokens": 1000}
    assert "which holds 1000" in refused(*urls, *models)
    engine.info = {"max_req_input_len": 20000, "max_total_num_tokens": 20000}
    done = invoke("eval", "--bench", "math500", "--dry-run", *urls, *models)
    assert "--concurrency 16: the caches have room for 2 trajectories" in done.stderr


def test_a_replay_shows_its_plan_and_refuses_what_does_not_fit() -> None:
    words = ("--synthetic", "--acceptance", "0.6", "--dry-run")
    text = CliRunner().invoke(replay.main, words, catch_exceptions=False).stdout
    assert "room for 192 trajectories" in text
    assert len(starts(text)) == 2
    done = CliRunner().invoke(replay.main, [*words, "--thinking-tokens", "200000"], catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "may need 202273 tokens" in done.stderr
