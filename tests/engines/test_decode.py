"""Token-level speculation of base: how it is asked for, two starts of base in one comparison, and what is recorded.

On scripted engines: SGLang's kernels for it need a GPU.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_engine import CharTokenizer, FakeEngine, Payload, Raw, answer, digits

import sgl_specreason.method.program  # noqa: F401  # third-party warnings at import must not be errors in a test
from sgl_specreason.engines import startup
from sgl_specreason.engines.decode import Decode
from sgl_specreason.engines.keeper import Engine
from sgl_specreason.engines.servers import EngineSpec
from sgl_specreason.errors import UsageError
from sgl_specreason.eval import main
from sgl_specreason.plan import gpus
from sgl_specreason.text import chat
from sgl_specreason.text.chat import ChatFormat

Start = Callable[..., FakeEngine]
BASE = EngineSpec(role="base", model="b", args=("--tp-size", "2"))


class Words(CharTokenizer):
    """A tokenizer with a vocabulary of its own."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}


def chats(base: Words, small: Words) -> dict[Any, ChatFormat]:
    return {"base": ChatFormat(tokenizer=base), "small": ChatFormat(tokenizer=small)}


def test_the_papers_five_tokens_by_the_small_model() -> None:
    words = " ".join(Decode().served(BASE, "s").args)
    assert words == (
        "--tp-size 2 --speculative-algorithm STANDALONE --speculative-draft-model-path s "
        "--speculative-num-steps 5 --speculative-eagle-topk 1 --speculative-num-draft-tokens 6"
    )


def test_by_n_grams_or_by_a_head() -> None:
    ngram = Decode(algorithm="ngram", tokens=8).served(BASE, "s").args
    assert ngram[2:] == ("--speculative-algorithm", "NGRAM", "--speculative-num-draft-tokens", "9")
    head = Decode(algorithm="eagle3", tokens=3, model="head").served(BASE, "s").args
    assert head[2:6] == ("--speculative-algorithm", "EAGLE3", "--speculative-draft-model-path", "head")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"algorithm": "medusa"}, "standalone, ngram, eagle3"),
        ({"tokens": 0}, "--decode-tokens 0"),
        ({"algorithm": "eagle3"}, "--decode-model"),
        ({"algorithm": "ngram", "model": "head"}, "takes no --decode-model"),
    ],
)
def test_what_cannot_be_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Decode(**given)


def test_small_must_have_bases_vocabulary() -> None:
    """QwQ-32B and R1-Distill-1.5B, for one, have 152064 and 151936 entries; SGLang would refuse after loading 65 GB."""
    same, other = Words("a", "b"), Words("b", "a")
    Decode().check(chats(same, same), {"base": 2, "small": 2})
    Decode().check(chats(same, same), {"base": None, "small": 2})
    with pytest.raises(UsageError, match=r"\(152064 and 151936 entries\).*ngram"):
        Decode().check(chats(same, same), {"base": 152064, "small": 151936})
    with pytest.raises(UsageError, match="different vocabularies"):
        Decode().check(chats(same, other), {"base": 2, "small": 2})
    Decode(algorithm="ngram").check(chats(same, other), {"base": 2, "small": 3})
    Decode(model="draft").check(chats(same, other), {"base": 2, "small": 3})


@pytest.mark.parametrize(
    ("algorithm", "args", "named"),
    [
        ("standalone", ["--enable-dp-attention"], "--enable-dp-attention"),
        ("ngram", ["--enable-dp-attention"], "--enable-dp-attention"),
        ("eagle3", ["--enable-dp-attention"], None),
        ("standalone", ["--lora-paths=a"], "--lora-paths"),
        ("ngram", ["--lora-paths", "a"], None),
        ("ngram", ["--enable-lmcache"], "--enable-lmcache"),
        ("eagle3", ["--pp-size", "2"], "--pipeline-parallel-size"),
        ("ngram", ["--pp", "1"], None),
        ("ngram", ["--attention-backend", "flex_attention"], "flex_attention"),
        ("standalone", ["--enable-deterministic-inference", "--enable-priority-scheduling"], None),
    ],
)
def test_arguments_with_which_sglang_does_not_speculate(algorithm: Any, args: list[str], named: str | None) -> None:
    """It says so after it has loaded base, and not at all in a dry run. What works with speculation is not refused."""
    decode = Decode(algorithm=algorithm, model="head" if algorithm == "eagle3" else None)
    if named is None:
        decode.check_args(args)
    else:
        with pytest.raises(UsageError, match=f"does not speculate with .*{named}"):
            decode.check_args(args)


def test_what_guesses_must_hold_as_much_as_base() -> None:
    """Both count positions alike, and SGLang refuses a context that is longer than the model's own. Heads hold little, often."""
    Decode().check_contexts(40960, 40960)
    Decode().check_contexts(4096, 131072)
    Decode().check_contexts(None, 2048)
    with pytest.raises(UsageError, match=r"holds 2048 tokens and base 40960.*--context-length"):
        Decode(algorithm="eagle3", model="head").check_contexts(40960, 2048)


def base(prompt: str, payload: Payload) -> Any:
    """Accepts every step; where it speculates, SGLang says how many tokens each of its decode steps gave."""
    return digits(9) if "token_ids_logprob" in payload else "The answer is \\boxed{4}.\x03"


def speculating(prompt: str, payload: Payload) -> Any:
    content = answer(base(prompt, payload), payload)
    if content["meta_info"]["completion_tokens"]:
        content["meta_info"]["spec_accept_length"] = 2.5
    return Raw(200, json.dumps(content).encode())


@pytest.fixture
def served(fake_engine: Start, monkeypatch: pytest.MonkeyPatch) -> list[EngineSpec]:
    """Scripted engines in place of started ones: which were started, in order."""
    begun: list[EngineSpec] = []

    @contextmanager
    def started(specs: list[EngineSpec], logs: Path, **options: Any) -> Iterator[dict[Any, Engine]]:
        (spec,) = specs
        begun.append(spec)
        guesses = "--speculative-algorithm" in spec.args
        engine = fake_engine(
            speculating if guesses else base if spec.role == "base" else lambda *_: "One.\n\nTwo.</think>"
        )
        engine.info = {"speculative_algorithm": "STANDALONE" if guesses else None}
        yield {spec.role: Engine(role=spec.role, url=engine.url, model=spec.model)}
        engine.close()

    monkeypatch.setattr(startup, "started", started)
    monkeypatch.setattr(gpus, "found", lambda: [gpus.Gpu(name="card", memory_gb=80)])
    tokenizer = CharTokenizer()
    monkeypatch.setattr(chat, "load_tokenizer", lambda *_, **__: tokenizer)
    return begun


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["--bench", "demo", "--limit", "2", *words], catch_exceptions=False)


METHODS = ("base", "specreason", "base+decode", "specreason+decode")
ALL = [word for method in METHODS for word in ("--method", method)]


def test_all_four_in_one_comparison_are_two_starts_of_base(served: list[EngineSpec], tmp_path: Path) -> None:
    done = run("--pair", "demo", *ALL, "--out", str(tmp_path))
    assert done.exit_code == 0, done.stderr
    assert [(spec.role, "STANDALONE" in spec.args) for spec in served] == [
        ("small", False),
        ("base", False),
        ("base", True),
    ]
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["methods"]) == list(METHODS)
    assert summary["partial"] is False
    lengths = [summary["methods"][method]["accept_length_mean"] for method in METHODS]
    assert lengths == [0, 0, 2.5, 2.5]
    assert "specreason+decode: base's decode steps gave 2.50 tokens each" in done.stdout
    runs = {json.loads(file.read_text())["settings"]["method"]: file.parent for file in folder.glob("*/config.json")}
    config = json.loads((runs["base+decode"] / "config.json").read_text())
    assert config["settings"]["decode"] == {"algorithm": "standalone", "tokens": 5, "model": None}
    assert config["server_info"]["base"]["speculative_algorithm"] == "STANDALONE"
    record = json.loads((runs["specreason+decode"] / "trajectories.jsonl").read_text().splitlines()[0])
    lengths = {request["purpose"]: request.get("accept_length") for request in record["requests"]}
    assert lengths == {"draft": None, "judge": None, "answer": 2.5}


COUNTS = (
    "thinking_tokens tokens_base tokens_small tokens_small_kept tokens_discarded tokens_dropped answer_tokens steps_kept "
    "steps_by_small tokens_salvaged drafts accepted judged prompt_tokens cached_tokens"
)


def test_the_keys_of_a_record_are_these(served: list[EngineSpec], tmp_path: Path) -> None:
    """Old folders and new ones are read together: what is not there for a trajectory is left out, not null."""
    assert run("--pair", "demo", "--method", "specreason", "--out", str(tmp_path)).exit_code == 0
    (file,) = tmp_path.glob("*/trajectories.jsonl")
    record = json.loads(file.read_text().splitlines()[0])
    assert list(record) == [
        *("problem_id", "sample", "sampling_seed", "stop_reason", "truncated", "answer_text", *COUNTS.split()),
        *("steps", "requests", "method", "start_s", "latency_s", "problem", "correct", "answer", "gold", "grader"),
    ]
    account = ["kind", "prompt_tokens", "cached_tokens", "completion_tokens", "start_s", "seconds", "engine_seconds"]
    assert {tuple(request) for request in record["requests"]} == {("purpose", "engine", *account)}
    said = ["accepted", "score", "digits", "label_mass"]
    assert {tuple(step) for step in record["steps"]} == {("by", "text", "tokens", "ending", *said)}


def test_what_is_not_begun_yet_is_missing_from_the_comparison(
    served: list[EngineSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends between base's two starts: the summary says partial, and resuming starts the second one only."""
    monkeypatch.setattr(Decode, "served", lambda self, spec, model: (_ for _ in ()).throw(KeyboardInterrupt))
    stopped = run("--pair", "demo", *ALL, "--out", str(tmp_path))
    assert stopped.exit_code == 130, stopped.stderr
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "summary.json").read_text())["partial"] is True


def test_resuming_starts_only_what_is_still_needed(served: list[EngineSpec], tmp_path: Path) -> None:
    assert run("--pair", "demo", *ALL, "--out", str(tmp_path)).exit_code == 0
    (folder,) = tmp_path.iterdir()
    (file,) = folder.glob("*-base+decode-*/trajectories.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:1]))
    served.clear()
    done = run("--pair", "demo", *ALL, "--resume", str(folder))
    assert done.exit_code == 0, done.stderr
    assert [(spec.role, "STANDALONE" in spec.args) for spec in served] == [("small", False), ("base", True)]
    assert json.loads((folder / "summary.json").read_text())["partial"] is False


@pytest.mark.parametrize(("concurrency", "order"), [("1", [0, 1, 0, 1]), ("2", [0, 0, 1, 1])])
def test_methods_take_turns_or_have_the_engines_to_themselves(
    served: list[EngineSpec], tmp_path: Path, concurrency: str, order: list[int]
) -> None:
    """Side by side they would share the engines, and the latency of each would hold the load of the others."""
    words = ["--pair", "demo", "--method", "base", "--method", "specreason", "--concurrency", concurrency]
    assert run(*words, "--out", str(tmp_path)).exit_code == 0
    records = [json.loads(line) for file in tmp_path.glob("*/*/*.jsonl") for line in file.read_text().splitlines()]
    begun = sorted(records, key=lambda record: record["start_s"])
    assert [("base", "specreason").index(record["method"]) for record in begun] == order


def test_a_judge_that_does_not_come_back_under_speculation_is_said(
    served: list[EngineSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(prompt: str, payload: Payload) -> Any:
        content = answer(base(prompt, payload), payload)
        content["meta_info"].pop("output_token_ids_logprobs", None)
        return Raw(200, json.dumps(content).encode())

    monkeypatch.setitem(globals(), "speculating", silent)
    done = run("--pair", "demo", "--method", "specreason+decode", "--out", str(tmp_path))
    assert done.exit_code == 1
    assert "base: no log-probabilities of what the judge may answer came back" in done.stderr


def test_what_sglang_would_leave_out_or_refuse_is_refused_first(
    served: list[EngineSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: str) -> str:
        done = run(*words, "--out", str(tmp_path / "runs"))
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
        return done.stderr

    def pair_with(*args: str) -> str:
        path = tmp_path / "own.toml"
        models = [f'[{role}]\nmodel = "bundled:{role}"\n' for role in ("base", "small")]
        path.write_text(f'title = "own"\n{"".join(models)}[args]\nbase = {json.dumps(args)}\n')
        return str(path)

    speculating = ("--method", "specreason+decode")
    assert "--speculative-algorithm is for methods with +decode" in refused(
        "--pair", pair_with("--speculative-algorithm", "NGRAM"), "--method", "base"
    )
    assert "does not speculate with" in refused("--pair", pair_with("--pp-size", "2"), *speculating)
    long = ("--context-length", "65536")
    assert "holds 32768 tokens and base 65536" in refused("--pair", pair_with(*long), *speculating)
    monkeypatch.setattr(gpus, "found", lambda: [gpus.Gpu(name="AMD Instinct MI300X", memory_gb=192)])
    assert "AMD's cards" in refused("--pair", "demo", "--temperature", "0.6", *speculating)
    assert served == []


def test_without_a_gpu_or_the_right_server_it_is_refused(
    served: list[EngineSpec], tmp_path: Path, fake_engine: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: str) -> str:
        done = run(*words, "--out", str(tmp_path / "runs"))
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
        return done.stderr

    assert "for methods with +decode" in refused("--pair", "demo", "--decode", "ngram")
    url = fake_engine(base).url
    attached = ("--base-url", url, "--small-url", url)
    assert "two runs" in refused(*attached, "--method", "base", "--method", "base+decode")
    assert "without token-level speculation" in refused(*attached, "--method", "base+decode", "--decode", "ngram")
    monkeypatch.setattr(gpus, "found", list)
    assert "need a GPU" in refused("--pair", "demo", "--method", "base+decode")
    assert "--min-p 0.1" in refused("--pair", "demo", "--method", "base+decode", "--min-p", "0.1")
    assert served == []
    assert list(tmp_path.iterdir()) == []
