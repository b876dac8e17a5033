"""What every wrong use of a command or a file gets: exit code 2, one line that names it, and nothing left behind."""

import json
import os
import runpy
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from click.testing import Result
from command_line import COMMANDS, invoke
from run_folders import answers, record, run_folder, settings
from user_files import BENCH, PAIR, PRESET, ROW, SWEEP, Content, run, with_file, written

from sgl_specreason.engines import keeper
from sgl_specreason.plan import gpus
from sgl_specreason.text.prompts import PLACEHOLDERS, load_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A wrong use: words on a command line, files that are there before, and what the error must name."""

    command: str
    words: list[str]
    named: tuple[str, ...]
    files: dict[str, Content] = field(default_factory=dict)


def wrong(command: str, line: str, *named: str, files: dict[str, Content] | None = None) -> Wrong:
    return Wrong(command=command, words=shlex.split(line), named=named, files=files or {})


def folder(path: Path) -> None:
    path.mkdir(parents=True)


def link(to: str) -> Callable[[Path], Any]:
    return lambda path: path.symlink_to(path.parent / to)


def several(**runs: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def make(path: Path) -> None:
        for name, content in runs.items():
            written(path / name, content)

    return make


BINARY = b"\xff\xfe\x00"
DEEP = "[" * 100_000


def bench(text: Content, *named: str, row: Content = ROW) -> Wrong:
    files = {"mine.toml": text, "rows.jsonl": row}
    return wrong("eval", "--bench mine.toml --pair demo --data rows.jsonl", "mine", *named, files=files)


def data(row: Content, *named: str, text: str = BENCH) -> Wrong:
    files: dict[str, Content] = {"mine.toml": text, "rows.jsonl": row}
    return wrong("eval", "--bench mine.toml --pair demo --data rows.jsonl", "rows.jsonl", *named, files=files)


def pair(text: Content, *named: str) -> Wrong:
    return wrong("eval", "--bench demo --pair mine.toml", "mine.toml", *named, files={"mine.toml": text})


def preset(text: Content, *named: str) -> Wrong:
    return wrong("eval", "--bench demo --preset mine.toml", *named, files={"mine.toml": text})


def sweep(text: Content, *named: str) -> Wrong:
    return wrong("eval", "--bench demo --sweep mine.toml", *named, files={"mine.toml": text})


def prompt(name: str, text: Content | None, *named: str) -> Wrong:
    """The shipped templates with this one in place of its own, or without it."""
    shipped: dict[str, Content] = {f"p/{other}.txt": load_prompts()[other].text + "\n" for other in PLACEHOLDERS}
    files = {key: value for key, value in (shipped | {f"p/{name}.txt": text}).items() if value is not None}
    return wrong("eval", "--bench demo --prompts p", f"p/{name}.txt", *named, files=files)


def resumed(content: Content, *named: str, more: str = "") -> Wrong:
    return wrong("eval", f"--bench demo --pair demo --resume run {more}", *named, files={"run": content})


def reported(content: Content, *named: str, more: str = "") -> Wrong:
    return wrong("report", f"run {more}", *named, files={"run": content})


OPTIONS = {
    "no bench": wrong("eval", "", "--bench"),
    "unknown option": wrong("eval", "--benhc demo", "--benhc"),
    "an argument": wrong("eval", "demo", "demo"),
    "option without value": wrong("eval", "--bench", "--bench"),
    "unknown bench": wrong("eval", "--bench math50", "math500"),
    "empty bench": wrong("eval", "--bench ''", "--bench"),
    "bench outside the folder": wrong("eval", "--bench ../pairs/demo", "no bench named"),
    "bench by an absolute path": wrong("eval", "--bench /eval/benches/demo", "no bench named"),
    "unknown pair": wrong("eval", "--bench demo --pair dmo", "demo"),
    "pair outside the folder": wrong("eval", "--bench demo --pair ../benches/demo", "no pair named"),
    "unknown method": wrong("eval", "--bench demo --method specreson", "specreason"),
    "unknown preset": wrong("eval", "--bench demo --preset papr", "paper"),
    "preset outside the folder": wrong("eval", "--bench demo --preset ../presets/paper", "no preset named"),
    "unknown sweep": wrong("eval", "--bench demo --sweep threshhold", "threshold"),
    "sweep outside the folder": wrong("eval", "--bench demo --sweep ../sweeps/threshold", "no sweep named"),
    "missing bench file": wrong("eval", "--bench nowhere.toml", "nowhere.toml"),
    "threshold too high": wrong("eval", "--bench demo --threshold 10", "threshold = 10"),
    "threshold below 0": wrong("eval", "--bench demo --threshold -1", "threshold = -1"),
    "threshold not a number": wrong("eval", "--bench demo --threshold nan", "threshold"),
    "threshold infinite": wrong("eval", "--bench demo --judge likelihood --threshold=-inf", "threshold"),
    "threshold in words": wrong("eval", "--bench demo --threshold high", "--threshold"),
    "unknown score rule": wrong("eval", "--bench demo --score-rule best", "greedy, expected, p_ge"),
    "unknown gate": wrong("eval", "--bench demo --gate open", "gate = 'open'"),
    "gate without p": wrong("eval", "--bench demo --gate random", "--gate-p"),
    "gate p too high": wrong("eval", "--bench demo --gate random --gate-p 1.5", "gate_p = 1.5"),
    "a gate's threshold as a coin's": wrong("eval", "--bench demo --gate confident --gate-p 0.9", "--gate-threshold"),
    "a coin's p for no coin": wrong("eval", "--bench demo --gate-p 0.9", "give --method random"),
    "gate threshold of the judge": wrong("eval", "--bench demo --gate-threshold 0.9", "gate judge has none"),
    "gate threshold out of range": wrong("eval", "--bench demo --gate self --gate-threshold 0.2", "wants 0.5 to 1"),
    "gate self without labels": wrong("eval", "--bench demo --gate self --judge likelihood", "gate self"),
    "no audit": wrong("eval", "--bench demo --gate entropy --audit 0", "audit = 0"),
    "two gate ps": wrong("eval", "--bench demo --gate-p 0.5 --match-acceptance run", "not both", files={"run": run()}),
    "acceptance of no run": wrong("eval", "--bench demo --method random --match-acceptance nowhere", "nowhere"),
    "unknown judge": wrong("eval", "--bench demo --judge me", "judge = 'me'"),
    "rule of another judge": wrong("eval", "--bench demo --judge binary --score-rule greedy", "score_rule = 'greedy'"),
    "no drafts": wrong("eval", "--bench demo --drafts 0", "drafts = 0"),
    "half a draft": wrong("eval", "--bench demo --drafts 1.5", "--drafts"),
    "several greedy drafts": wrong("eval", "--bench demo --drafts 2", "--temperature"),
    "negative lookahead": wrong("eval", "--bench demo --lookahead -1", "lookahead = -1"),
    "eager and salvage": wrong("eval", "--bench demo --eager-regenerate --salvage", "eager_regenerate and salvage"),
    "positive floor": wrong("eval", "--bench demo --salvage --salvage-floor 1", "salvage_floor = 1"),
    "negative first-n": wrong("eval", "--bench demo --first-n -1", "first_n = -1"),
    "no budget": wrong("eval", "--bench demo --budget-tokens 0", "budget_tokens = 0"),
    "a budget of too many digits": wrong("eval", f"--bench demo --budget-tokens {'9' * 30}", "budget_tokens"),
    "on-budget": wrong("eval", "--bench demo --on-budget cry", "answer, stop"),
    "no step": wrong("eval", "--bench demo --step-tokens 0", "step_tokens = 0"),
    "negative merging": wrong("eval", "--bench demo --min-step-tokens -1", "min_step_tokens = -1"),
    "no answer": wrong("eval", "--bench demo --answer-tokens 0", "answer_tokens = 0"),
    "answer-by": wrong("eval", "--bench demo --answer-by me", "base, small"),
    "temperature": wrong("eval", "--bench demo --temperature 3", "temperature = 3"),
    "top-p": wrong("eval", "--bench demo --top-p 0", "top_p = 0"),
    "top-k 0": wrong("eval", "--bench demo --top-k 0", "top_k = 0"),
    "top-k -2": wrong("eval", "--bench demo --top-k -2", "top_k = -2"),
    "min-p": wrong("eval", "--bench demo --min-p 1.5", "min_p = 1.5"),
    "drafts that are all the same": wrong("eval", "--bench demo --temperature 1 --drafts 2 --top-k 1", "top_k = 1"),
    "no samples": wrong("eval", "--bench demo --samples 0", "--samples 0"),
    "negative samples": wrong("eval", "--bench demo --samples -3", "--samples -3"),
    "limit 0": wrong("eval", "--bench demo --limit 0", "--limit 0"),
    "limit in words": wrong("eval", "--bench demo --limit many", "--limit"),
    "seed in words": wrong("eval", "--bench demo --seed lucky", "--seed"),
    "no concurrency": wrong("eval", "--bench demo --concurrency 0", "--concurrency 0"),
    "no client": wrong("eval", "--bench demo --clients 0", "--clients 0", "from 1 to 64"),
    "too many clients": wrong("eval", "--bench demo --clients 65", "--clients 65", "from 1 to 64"),
    "more clients than trajectories": wrong("eval", "--bench demo --concurrency 2 --clients 3", "--clients 3", "2"),
    "clients of a bench with one at a time": wrong(
        "eval", "--bench demo --clients 2", "--clients 2", "--concurrency 1"
    ),
    "clients, measured": wrong("eval", "--bench demo --concurrency auto --clients 2", "--clients 2", "auto"),
    "concurrency in words": wrong("eval", "--bench demo --concurrency many", "neither a whole number nor auto"),
    "a million at once": wrong("eval", "--bench demo --concurrency 1000000", "at most"),
    "no request timeout": wrong("eval", "--bench demo --request-timeout 0", "--request-timeout"),
    "negative patience": wrong("eval", "--bench demo --retry-for -1", "--retry-for"),
    "base-url alone": wrong("eval", "--bench demo --base-url http://127.0.0.1:1", "--small-url"),
    "small-url alone": wrong("eval", "--bench demo --small-url http://127.0.0.1:1", "--base-url"),
    "base-model alone": wrong("eval", "--bench demo --base-model x", "--small-model"),
    "small-model alone": wrong("eval", "--bench demo --small-model x", "--base-model"),
    "pair and models": wrong("eval", "--bench demo --pair demo --base-model x --small-model x", "not both"),
    "models that are nowhere": wrong("eval", "--bench demo --base-model ./a --small-model ./b", "no such folder"),
    "a model with a broken tokenizer": wrong(
        "eval",
        "--bench demo --base-model m --small-model m",
        "no tokenizer for model m",
        files={"m/tokenizer.json": "{", "m/config.json": '{"model_type": "qwen2"}', "m/tokenizer_config.json": "{}"},
    ),
    "a model with a broken chat template": wrong(
        "eval",
        "--bench demo --base-model m --small-model m",
        "chat template",
        files={
            "m/tokenizer.json": (ROOT / "sgl_specreason/demo/models/base/tokenizer.json").read_bytes(),
            "m/tokenizer_config.json": '{"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{% for %}"}',
            "m/config.json": '{"model_type": "qwen2"}',
        },
    ),
    "pair that needs a GPU": wrong("eval", "--bench demo --pair qwq-32b+r1-1.5b", "80 GB", "no GPU", "--pair demo"),
    "bench that needs a GPU": wrong("eval", "--bench math500", "no GPU", "--pair demo", "--base-url"),
    "decode without its methods": wrong("eval", "--bench demo --pair demo --decode ngram", "--decode", "+decode"),
    "decode without a GPU": wrong("eval", "--bench demo --pair demo --method base+decode", "GPU"),
    "gpus in words": wrong("eval", "--bench demo --dry-run --gpus many", "--gpus many", "2x80"),
    "no gpus": wrong("eval", "--bench demo --dry-run --gpus 0x80", "--gpus 0x80"),
    "gpus for a run": wrong("eval", "--bench demo --gpus 1x80", "--gpus", "--dry-run"),
    "a key with a line break": wrong("eval", "--bench demo --api-key 'se\ncret'", "--api-key"),
    "a key of other letters": wrong("eval", "--bench demo --api-key 'schlüssel'", "--api-key"),
}
URLS = {
    f"url {url!r}": wrong(
        "eval", f"--bench demo --base-url '{url}' --small-url http://127.0.0.1:1", "--base-url", "http://"
    )
    for url in (
        "127.0.0.1:30000",
        "ftp://127.0.0.1:1",
        "http://",
        "http://[::1",
        "http://h:99999",
        "http://a\nb",
        "file:///x",
        "",
    )
}
PATHS = {
    "missing data": wrong("eval", "--bench demo --pair demo --data nowhere.jsonl", "nowhere.jsonl"),
    "data is a folder": wrong("eval", "--bench demo --pair demo --data d", "d: cannot be read", files={"d": folder}),
    "data of a long name": wrong("eval", f"--bench demo --pair demo --data {'x' * 300}", "cannot be read"),
    "missing prompts": wrong("eval", "--bench demo --pair demo --prompts nowhere", "nowhere"),
    "prompts are a file": wrong("eval", "--bench demo --pair demo --prompts p", "--prompts p", files={"p": "x"}),
    "prompts of a long name": wrong("eval", f"--bench demo --pair demo --prompts {'x' * 300}", "no such folder"),
    "out is a file": wrong("eval", "--bench demo --pair demo --out f", "--out f", files={"f": "x"}),
    "out under a file": wrong("eval", "--bench demo --pair demo --out f/runs", "f cannot be written", files={"f": "x"}),
    "out of a long name": wrong("eval", f"--bench demo --pair demo --out {'x' * 300}", "--out", "File name too long"),
    "out nowhere": wrong("eval", "--bench demo --pair demo --out /proc/runs", "--out /proc/runs"),
    "missing run": wrong("eval", "--bench demo --pair demo --resume nowhere", "nowhere"),
    "run of a long name": wrong("eval", f"--bench demo --pair demo --resume {'x' * 300}", "no such run folder"),
}
BENCHES = {
    "bench: not TOML": bench("title = ", "mine.toml"),
    "bench: not text": bench(BINARY, "mine.toml"),
    "bench: nested too deep": bench(f"x = {DEEP}", "too deep"),
    "bench: a folder": bench(folder, "mine.toml"),
    "bench: empty": bench("", "title is missing"),
    "bench: no grader": bench('title = "Mine"\nprompt = "math"\n', "grader is missing"),
    "bench: unknown key": bench(BENCH + "promt = 1\n", "'promt'", "did you mean prompt"),
    "bench: unknown key of source": bench(BENCH + "[source]\nhubb = 'x'\n", "'source.hubb'", "did you mean hub"),
    "bench: unknown field": bench(BENCH + "[fields]\nquestion = 'q'\n", "'fields.question'"),
    "bench: unknown setting": bench(BENCH + "[policy]\nbudget = 1\n", "'policy.budget'"),
    "bench: title": bench('title = 1\nprompt = "math"\ngrader = "math"\n', "title = 1", "text"),
    "bench: prompt": bench('title = "x"\nprompt = []\ngrader = "math"\n', "prompt = []", "text"),
    "bench: unknown prompt": bench(BENCH.replace('"math"', '"maths"'), "prompt = 'maths'", "math"),
    "bench: prompt of a judge": bench(BENCH.replace('"math"', '"judge_answer"'), "prompt = 'judge_answer'"),
    "bench: prompt with choices, none given": bench(BENCH.replace('"math"', '"choice"'), "prompt = 'choice'", "math"),
    "bench: choices without their prompt": bench(BENCH + "[fields]\nwrong = ['a', 'b']\n", "prompt = 'math'", "choice"),
    "bench: prompt outside the folder": bench(BENCH.replace('"math"', '"../p/math"'), "prompt = '../p/math'"),
    "bench: unknown grader": bench(BENCH.replace('"integer"', '"python"'), "grader = 'python'", "math, integer"),
    "bench: grader is a list": bench('title = "x"\nprompt = "math"\ngrader = ["math"]\n', "grader = ['math']"),
    "bench: samples": bench(BENCH + "samples = 0\n", "samples = 0", "at least 1"),
    "bench: samples of a type": bench(BENCH + "samples = 1.5\n", "samples = 1.5", "whole number"),
    "bench: concurrency": bench(BENCH + "concurrency = true\n", "concurrency = True", "whole number"),
    "bench: private": bench(BENCH + "private = 1\n", "private = 1", "true or false"),
    "bench: fields": bench(BENCH + "fields = 1\n", "fields = 1"),
    "bench: columns": bench(BENCH + "[fields]\nanswer = [1]\n", "fields.answer[0] = 1"),
    "bench: no column": bench(BENCH + "[fields]\nanswer = []\n", "fields.answer", "not 0"),
    "bench: too many choices": bench(BENCH + f"[fields]\nwrong = {list('abcdefghij')}\n", "fields.wrong", "9 columns"),
    "bench: policy": bench(BENCH + "policy = [1]\n", "policy = [1]"),
    "bench: setting of a type": bench(BENCH + "[policy]\nstep_tokens = '9'\n".replace("'", '"'), "step_tokens = '9'"),
    "bench: setting out of range": wrong(
        "eval", "--bench mine.toml", "top_p = 2", files={"mine.toml": BENCH + "[policy]\ntop_p = 2\n"}
    ),
    "bench: source": bench(BENCH + "source = 'hub'\n", "source = 'hub'"),
    "bench: rows": bench(BENCH + "[source]\nrows = -1\n", "source.rows = -1"),
    "bench: too many rows": bench(BENCH + "[source]\nrows = 99999999\n", "source.rows = 99999999"),
    "bench: gated": bench(BENCH + "[source]\ngated = 'yes'\n", "source.gated = 'yes'"),
    "bench: configurations": bench(BENCH + "[source]\nconfigs = 'main'\n", "source.configs = 'main'", "a list"),
    "bench: unknown generator": wrong(
        "eval",
        "--bench mine.toml --pair demo",
        "no generator 'dmo'",
        files={"mine.toml": BENCH + '[source]\ngenerator = "dmo"\n'},
    ),
    "bench: no source": wrong("eval", "--bench mine.toml --pair demo", "--data", files={"mine.toml": BENCH}),
}
NAMES = {
    f"{kind}: name = {name[:20]!r}": make(f"name = {json.dumps(name)}\n{text}", "name = ")
    for kind, make, text in (
        ("bench", bench, BENCH),
        ("pair", pair, PAIR),
        ("preset", preset, PRESET),
        ("sweep", sweep, SWEEP),
    )
    for name in ("../x", "a/b", "/tmp/x", "..", "", "a\nb", "a\x00b", "-x", ".hidden", "a b", "é" * 33, "x" * 300)
} | {
    "a file's own name": wrong("eval", "--bench '.x y.toml'", "name = '.x y'", files={".x y.toml": BENCH}),
    "a name that is no text": bench(f"name = 3\n{BENCH}", "name = 3"),
}
DATA = {
    "rows: not JSON": data(f"{ROW}{{oops\n", "rows.jsonl:2"),
    "rows: not JSON after a blank line": data(f"{ROW}\n{{oops\n", "rows.jsonl:3"),
    "rows: not an object": data('"text"\n', "rows.jsonl:1"),
    "rows: nested too deep": data(f"{DEEP}\n", "rows.jsonl:1", "too deep"),
    "rows: empty": data("", "no rows"),
    "rows: blank lines": data("\n\n", "no rows"),
    "rows: not text": data(BINARY, "cannot be read"),
    "rows: no answer": data(f'{ROW}\n{{"problem": "x"}}\n', "rows.jsonl:3", "'answer'"),
    "rows: blank answer": data('{"problem": "x", "answer": " "}\n', "rows.jsonl:1", "'answer'"),
    "rows: answer is a list": data('{"problem": "x", "answer": [4]}\n', "rows.jsonl:1", "answer = [4]"),
    "rows: answer is a truth": data('{"problem": "x", "answer": true}\n', "rows.jsonl:1", "answer = True"),
    "rows: problem is a number": data('{"problem": 1.5, "answer": 1}\n', "rows.jsonl:1", "problem = 1.5"),
    "rows: half of a surrogate pair": data('{"problem": "\\ud800", "answer": 1}\n', "rows.jsonl:1", "is no text"),
    "rows: no choice": data(
        '{"problem": "x", "answer": "4"}\n',
        "'bad' (the bench's wrong choice)",
        text=BENCH.replace('"math"', '"choice"') + "[fields]\nwrong = 'bad'\n",
    ),
    "rows: twice": data(ROW * 2, "rows.jsonl:2", "'q'"),
    "rows: of the variable": wrong("eval", "--bench demo --data rows.jsonl", ":1", files={"rows.jsonl": "{\n"}),
}
PAIRS = {
    "pair: not TOML": pair("[", "mine.toml"),
    "pair: no small": pair('title = "x"\nbase = "b"\n', "small is missing"),
    "pair: unknown key": pair(PAIR + "trust = 1\n", "'trust'"),
    "pair: base": pair('title = "x"\nbase = 1\nsmall = "x"\n', "base = 1"),
    "pair: trust": pair(PAIR + 'trust_remote_code = "no"\n', "trust_remote_code = 'no'"),
    "pair: tokens": pair(PAIR + "max_total_tokens = { base = 0 }\n", "max_total_tokens.base = 0"),
    "pair: tokens of another": pair(PAIR + "max_total_tokens = { big = 9 }\n", "'max_total_tokens.big'"),
    "pair: think tags": pair(PAIR + "think_tags = ['<t>']\n", "think_tags", "an opening and a closing tag"),
    "pair: the same think tags": pair(PAIR + "think_tags = ['<t>', '<t>']\n", "think_tags"),
    "pair: shape": pair(PAIR + "[base.shape]\nlayers = 'many'\n", "mine.toml"),
    "pair: quantization": pair(
        'title = "x"\nsmall = "s"\nbase = {model = "b", quantization = "int1"}\n', "base.quantization"
    ),
    "pair: setting": pair(PAIR + "policy.treshold = 1\n", "'policy.treshold'"),
    "pair: args": pair(PAIR + 'args.base = "--x"\n', "args.base = '--x'", "a list"),
    "pair: args of a type": pair(PAIR + "args.base = [1]\n", "args.base[0] = 1"),
    "pair: args of another": pair(PAIR + "args.bsae = []\n", "'args.bsae'", "base"),
    "pair: args that are ours": pair(PAIR + 'args.base = ["--port=1"]\n', "args.base", "--port=1"),
    "pair: bundled model": pair(PAIR.replace("bundled:base", "bundled:../models/base"), "bundled:base"),
    "pair: bundled model by a path": pair(PAIR.replace("bundled:base", "bundled:/etc"), "bundled:/etc"),
    "pair: NUL in a model's name": wrong(
        "eval",
        "--bench demo --pair mine.toml",
        "no such folder",
        files={"mine.toml": PAIR.replace("bundled:base", "a\\u0000b")},
    ),
}
PRESETS = {
    "preset: no policy": preset('title = "x"\n', "policy is missing"),
    "preset: unknown setting": preset(PRESET + "treshold = 1\n", "'policy.treshold'", "threshold"),
    "preset: setting of a type": preset(PRESET + 'threshold = "7"\n', "threshold = '7'", "a number"),
    "preset: judge of a type": preset(PRESET + 'judge = ["score"]\n', "judge = ['score']"),
    "preset: flag of a type": preset(PRESET + "salvage = 1\n", "salvage = 1"),
    "preset: count of a type": preset(PRESET + "drafts = 1.0\n", "drafts = 1.0", "whole number"),
    "preset: no number": preset(PRESET + "threshold = nan\n", "threshold = nan"),
    "preset: out of range": preset(PRESET + "first_n = -1\n", "first_n = -1"),
    "preset: policy": preset('title = "x"\npolicy = "fast"\n', "policy = 'fast'"),
}
SWEEPS = {
    "sweep: no grid": sweep('title = "x"\n', "neither [grid] nor [[points]] has settings"),
    "sweep: empty grid": sweep(SWEEP, "neither [grid] nor [[points]] has settings"),
    "sweep: unknown setting": sweep(SWEEP + "treshold = [1]\n", "'grid.treshold'", "threshold"),
    "sweep: not a list": sweep(SWEEP + "threshold = 7\n", "grid.threshold = 7", "a list"),
    "sweep: no value": sweep(SWEEP + "threshold = []\n", "grid.threshold"),
    "sweep: out of range": sweep(SWEEP + "threshold = [7, 70]\n", "threshold = 70"),
    "sweep: of a type": sweep(SWEEP + "threshold = [[7]]\n", "threshold = [7]"),
    "sweep: judge of a type": sweep(SWEEP + "judge = [{}]\n", "judge = {}"),
    "sweep: too many points": sweep(
        SWEEP + f"threshold = {list(range(10))}\nfirst_n = {list(range(200))}\n", "2000 points"
    ),
    "sweep: methods": sweep('title = "x"\nmethods = "base"\n[grid]\nthreshold = [7]\n', "methods = 'base'"),
    "sweep: unknown method": sweep('title = "x"\nmethods = ["bsae"]\n[grid]\nthreshold = [7]\n', "'bsae'", "base"),
}
PROMPTS = {
    "prompt: missing": prompt("math", None, "missing"),
    "prompt: not text": prompt("math", BINARY, "UTF-8"),
    "prompt: a folder": prompt("math", folder, "cannot be read"),
    "prompt: empty": prompt("math", "", "{{problem}} is missing"),
    "prompt: misspelt": prompt("math", "Solve {{problm}}", "{{problm}}"),
    "prompt: not its own": prompt("judge", "Is {{problem}} right?", "{{problem}}"),
    "prompt: an attribute": prompt("math", "{{problem.__class__.__mro__}}", "{{problem.__class__.__mro__}}"),
    "prompt: arithmetic": prompt("math", "{{problem}} {{ 7*7 }}", "{{7*7}}"),
    "prompt: a filter": prompt("math", "{{ problem | upper }}", "{{problem | upper}}"),
    "prompt: a call": prompt("close", "{{think_end}}{{ __import__('os').system('id') }}", "__import__"),
    "prompt: an index": prompt("math", "{{problem[0]}}", "{{problem[0]}}"),
    "prompt: format's own": prompt("math", "{problem!r}", "{{problem}} is missing"),
    "prompt: nested": prompt("math", "{{{{problem}}}}", "unknown placeholder"),
    "prompt: score not last": prompt("judge_answer", "{{score}}!", "{{score}}"),
    "prompt: braces last": prompt("judge_answer", "{{score}} and }}", "{{score}}"),
}
RESUMED = {
    "resume: a file": resumed("x", "--resume run"),
    "resume: empty": resumed(folder, "not a run folder"),
    "resume: torn config": resumed(with_file("config.json", '{"settings": {"be'), "config.json"),
    "resume: config without settings": resumed(with_file("config.json", "{}"), "config.json"),
    "resume: config lacks a setting": resumed(
        run(config={"settings": {"method": "base"}}), "config.json", "settings.bench"
    ),
    "resume: other method": resumed(
        run(settings={"method": "base"}), "method: base then, specreason now", more="--method specreason"
    ),
    "resume: other settings": resumed(run(settings={"seed": 5}), "seed: 5 then, 0 now", more="--seed 0"),
    "resume: at a measured concurrency": resumed(
        with_file("config.json", "[]"), "config.json", more="--concurrency auto"
    ),
    "resume: one of several": resumed(several(a=run()), "bench: 'math500' then"),
}
REPORTS = {
    "report: no run": wrong("report", "", "RUN"),
    "report: unknown option": wrong("report", "run --jsn", "--jsn"),
    "report: missing run": wrong("report", "nowhere", "nowhere"),
    "report: a file": reported("x", "run"),
    "report: no run folder": reported(folder, "run: not a run folder"),
    "report: a long name": wrong("report", "x" * 300, "not a run folder"),
    "report: config is a folder": reported(several(**{"config.json": folder}), "config.json"),
    "report: config is not JSON": reported(with_file("config.json", "{"), "config.json"),
    "report: config is not text": reported(with_file("config.json", BINARY), "config.json"),
    "report: config is nested too deep": reported(with_file("config.json", DEEP), "config.json"),
    "report: config is a list": reported(with_file("config.json", "[]"), "config.json"),
    "report: no policy": reported(run(settings={"policy": None}), "settings.policy"),
    "report: no budget": reported(
        run(settings={"policy": {"threshold": 7, "score_rule": "greedy"}}), "budget_tokens is missing"
    ),
    "report: concurrency 0": reported(run(settings={"concurrency": 0}), "settings.concurrency = 0"),
    "report: unknown rule": reported(
        run(settings={"policy": settings()["policy"] | {"score_rule": "x"}}), "score_rule = 'x'"
    ),
    "report: no versions": reported(run(config={"versions": None}), "versions is missing"),
    "report: expected in words": reported(run(config={"expected": "4"}), "expected = '4'"),
    "report: unknown grader": reported(run(config={"grader": "os.system"}), "grader = 'os.system'", more="--rescore"),
    "report: records are a folder": reported(
        lambda path: (run()(path), (path / "trajectories.jsonl").unlink(), folder(path / "trajectories.jsonl")),
        "trajectories.jsonl",
    ),
    "report: a malformed line": reported(with_file("trajectories.jsonl", "{oops\n"), "trajectories.jsonl:1"),
    "report: a line that is nested too deep": reported(
        with_file("trajectories.jsonl", f"{DEEP}\n"), "trajectories.jsonl:1"
    ),
    "report: a line that is no object": reported(with_file("trajectories.jsonl", "3\n"), "trajectories.jsonl:1"),
    "report: a line that is not text": reported(
        with_file("trajectories.jsonl", BINARY + b"\n"), "trajectories.jsonl:1"
    ),
    "report: a line without a key": reported(
        run(record={"latency_s": None}), "trajectories.jsonl:4", "latency_s is missing"
    ),
    "report: a line with a count in words": reported(run(record={"drafts": "10"}), ":4", "drafts = '10'"),
    "report: a line with a huge number": reported(run(record={"latency_s": 10**400}), "trajectories.jsonl:4"),
    "report: a line with no number": reported(run(record={"latency_s": float("nan")}), ":4", "latency_s = nan"),
    "report: a step without a text": reported(
        run(record={"steps": [{"by": "base"}]}), ":4", "steps[0].text is missing"
    ),
    "report: nine digits": reported(
        run(record={"steps": [{"by": "base", "text": "", "tokens": 1, "digits": [0.1] * 9}]}), ":4", "steps[0].digits"
    ),
    "report: a request by nobody": reported(run(record={"requests": [{"engine": "gpt"}]}), ":4", "requests[0].engine"),
    "report: twice": reported(
        with_file("trajectories.jsonl", (json.dumps(record(1, correct=True)) + "\n") * 2), "p1", "occurs twice"
    ),
    "report: a damaged sweep": reported(several(a=run(), **{"sweep.json": "{"}), "sweep.json"),
    "report: a sweep without a grid": reported(
        several(a=run(), **{"sweep.json": '{"grid": 3}'}), "sweep.json", "grid = 3"
    ),
    "report: a run somewhere else": wrong(
        "report", "top", "top/a", files={"b": run(), "top": folder, "top/a": link("../b")}
    ),
    "report: records somewhere else": wrong(
        "report",
        "run",
        "run/trajectories.jsonl",
        files={
            "run": lambda path: (
                run_folder(path, answers(True)) and (path / "trajectories.jsonl").rename(path.parent / "t")
            ),
            "run/trajectories.jsonl": link("../t"),
        },
    ),
    "report: other conditions": wrong(
        "report", "a b", "concurrency: 1 | 8", "--force", files={"a": run(), "b": run(settings={"concurrency": 8})}
    ),
    "report: risk 0": reported(run(), "--risk", more="--calibrate --risk 0"),
    "report: risk 100": reported(run(), "--risk", more="--calibrate --risk 100"),
    "report: risk in words": reported(run(), "--risk", more="--calibrate --risk low"),
    "report: confidence": reported(run(), "--confidence", more="--calibrate --confidence 100"),
    "report: two forms": reported(run(), "--show and --json", more="p1 --show --json"),
    "report: page and table": reported(run(), "--html and --calibrate", more="--html --calibrate -o x.html"),
    "report: show nothing": reported(run(), "--show RUN PROBLEM", more="--show"),
    "report: show three": reported(run(), "--show RUN PROBLEM", more="p1 p2 --show"),
    "report: show an unknown problem": reported(run(), "p9", "p0, p1, p2", more="p9 --show"),
    "report: show an unknown sample": reported(run(), "p1:7", more="p1:7 --show"),
    "report: show a sample in words": reported(run(), "p1:x", more="p1:x --show"),
    "report: show a sample of odd digits": reported(run(), "p1:²", more="p1:² --show"),
    "report: show of no run": wrong("report", "nowhere p1 --show", "nowhere"),
    "report: page without a file": reported(run(), "-o page.html", more="--html"),
    "report: page in a missing folder": reported(run(), "no/page.html", more="--html -o no/page.html"),
    "report: table in a missing folder": reported(run(), "no/table.md", more="-o no/table.md"),
    "report: table is a folder": reported(run(), "-o run", "is a folder", more="-o run"),
    "report: table of a long name": reported(run(), "File name too long", more=f"-o {'x' * 300}"),
    "report: table over the records": reported(run(), "trajectories.jsonl", more="-o run/trajectories.jsonl"),
}
PUBLISHED = {
    "not TOML": "[",
    "not text": BINARY,
    "nested too deep": f"x = {DEEP}",
    "no source": "[[points]]\nlabel = 'x'\nx = 1\naccuracy = 1\n",
    "points in words": "source = 'x'\npoints = 'many'\n",
    "a point without a label": "source = 'x'\n[[points]]\nx = 1\naccuracy = 1\n",
    "a point in words": "source = 'x'\n[[points]]\nlabel = 'x'\nx = 'fast'\naccuracy = 1\n",
    "a point at infinity": "source = 'x'\n[[points]]\nlabel = 'x'\nx = inf\naccuracy = 1\n",
}
SCRIPTS = ("pareto", "knobs", "steps", "judge", "load")
PLOTS = (
    {f"{name}: no run": wrong(name, "-o x.svg", "RUN") for name in SCRIPTS}
    | {f"{name}: no file": wrong(name, "run", "-o", files={"run": run()}) for name in SCRIPTS}
    | {f"{name}: missing run": wrong(name, "no -o x", "no: not a run") for name in SCRIPTS}
    | {f"{name}: damaged run": wrong(name, "r -o x", ":4", files={"r": run(record={"steps": 3})}) for name in SCRIPTS}
    | {
        f"{name}: nothing ended": wrong(name, "r -o x", "these runs", files={"r": lambda path: run_folder(path, [])})
        for name in SCRIPTS
    }
    | {
        f"pareto: -o {out!r}": wrong("pareto", f"run -o '{out}'", "-o", files={"run": run(), "f": "x"})
        for out in ("x.gif", "threshold-0.6", "", ".", "..", "no/x.svg", "f/x.svg", "/proc/x", "x" * 300)
    }
    | {
        f"pareto: published {name}": wrong(
            "pareto", "run -o x.svg --published p.toml", "--published p.toml", files={"run": run(), "p.toml": content}
        )
        for name, content in PUBLISHED.items()
    }
    | {
        "pareto: published nowhere": wrong("pareto", "run -o x --published no.toml", "no.toml", files={"run": run()}),
        "pareto: unknown axis": wrong("pareto", "run -o x --x money", "money", files={"run": run()}),
        "pareto: png is a folder": wrong("pareto", "run -o x", "-o x", files={"run": run(), "x.png": folder}),
        "pareto: other conditions": wrong(
            "pareto",
            "a b -o x",
            "concurrency differ",
            "--force",
            files={"a": run(), "b": run(settings={"concurrency": 8})},
        ),
        "knobs: unknown knob": wrong("knobs", "run -o x --knob speed", "--knob speed", files={"run": run()}),
        "knobs: no knob": wrong("knobs", "run -o x", "no one setting", files={"run": run()}),
        "judge: no judgement": wrong("judge", "run -o x", "no judgement", files={"run": run()}),
        "load: one concurrency": wrong("load", "run -o x", "all of one concurrency", files={"run": run()}),
        "load: a table nowhere": wrong(
            "load",
            "a b -o x --table no/t.md",
            "no/t.md",
            files={"a": run(), "b": run(settings={"concurrency": 8})},
        ),
        "steps: unknown option": wrong("steps", "run -o x --knob y", "--knob", files={"run": run()}),
    }
)
TABLE = OPTIONS | URLS | PATHS | BENCHES | NAMES | DATA | PAIRS | PRESETS | SWEEPS | PROMPTS | RESUMED | REPORTS | PLOTS


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def start(keeper: keeper.Keeper) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(keeper.Keeper, "start", start)
    monkeypatch.setattr(gpus, "found", list)
    monkeypatch.delenv("SPECREASON_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def refused(result: Result, *named: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("\n")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stdout == ""
    for word in named:
        assert word in result.stderr


def tree(path: Path) -> dict[str, bytes | None]:
    return {
        str(file.relative_to(path)): file.read_bytes() if file.is_file() else None for file in sorted(path.rglob("*"))
    }


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_a_wrong_use_is_one_line_and_leaves_nothing(case: Wrong, tmp_path: Path) -> None:
    for name, content in case.files.items():
        written(tmp_path / name, content)
    before = tree(tmp_path)
    refused(invoke(case.command, *case.words), *case.named)
    assert tree(tmp_path) == before


def test_the_table_is_long_enough_and_has_every_command() -> None:
    assert len(TABLE) >= 80
    assert {case.command for case in TABLE.values()} == set(COMMANDS)


PROCESSES = {
    "eval": ["-m", "sgl_specreason.eval", "--bench", "math50"],
    "an option of eval": ["-m", "sgl_specreason.eval", "--limit", "many"],
    "report": ["-m", "sgl_specreason.report", "nowhere"],
    "an option of report": ["-m", "sgl_specreason.report", "--jsn"],
    "pareto": [str(ROOT / "plots" / "pareto.py"), "nowhere", "-o", "x.svg"],
    "an option of judge": [str(ROOT / "plots" / "judge.py"), "nowhere"],
}


@pytest.mark.parametrize("words", PROCESSES.values(), ids=PROCESSES)
def test_a_process_ends_in_the_same_way(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


TOOLS = {
    "bench.py": ["--problems", "0"],
    "clients.py": ["--problems", "0"],
    "clients.py, client": ["--only", "telnet"],
    "load.py": ["--streams", "64,0"],
    "faults.py": ["--kinds", "earthquake"],
    "faults.py, no faults": ["--faults", "0"],
    "soak.py": ["--minutes", "-1"],
    "soak.py, concurrency": ["--concurrency", "0"],
    "stub_engine.py": ["--step-tokens", "0"],
    "demo_figures.py": ["nowhere"],
    "growth_figure.py": ["nowhere.json", "-o", "x.svg"],
    "growth_figure.py, no file": [],
    "train_demo.py": ["--stage", "nosuch"],
}


@pytest.mark.parametrize(("script", "words"), TOOLS.items(), ids=TOOLS)
def test_tools_refuse_in_the_same_way(
    script: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has imported what they import."""
    path = str(ROOT / "tools" / script.partition(",")[0])
    monkeypatch.setattr(sys, "argv", [path, *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(path, run_name="__main__")
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_not_in_the_error_about_it() -> None:
    assert "cret" not in invoke("eval", "--bench", "demo", "--pair", "demo", "--api-key", "se\ncret").stderr


@contextmanager
def server(status: int, body: bytes) -> Iterator[str]:
    """Something that is not SGLang and answers everything like this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        listener.server_close()


OTHERS = {
    "a page": (200, b"<html>hello</html>"),
    "a list": (200, b"[1, 2]"),
    "no model": (200, b'{"status": "ok"}'),
    "not text": (200, b"\xff\xfe"),
}
ERRORS = {
    "not found": (404, b"{}", "it answers HTTP 404: {}"),
    "an error": (500, b'{"model_path": "x"}', "it answers HTTP 500"),
    "a proxy": (502, b"<html>\nno\x1b upstream", "it answers HTTP 502: <html> no"),
    "no key": (401, b"Unauthorized", "it wants a key (HTTP 401); give it in $SPECREASON_API_KEY"),
    "not allowed": (403, b"", "it wants a key (HTTP 403)"),
}


@pytest.mark.parametrize(("status", "body"), OTHERS.values(), ids=OTHERS)
def test_a_server_that_is_not_sglang(status: int, body: bytes, tmp_path: Path) -> None:
    with server(status, body) as url:
        refused(
            invoke("eval", "--bench", "demo", "--base-url", url, "--small-url", url), url, "not as an SGLang server"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "body", "words"), ERRORS.values(), ids=ERRORS)
def test_a_server_that_refuses_says_what_it_said(status: int, body: bytes, words: str, tmp_path: Path) -> None:
    with server(status, body) as url:
        refused(invoke("eval", "--bench", "demo", "--base-url", url, "--small-url", url), url, words)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_key_is_told_from_none(tmp_path: Path) -> None:
    with server(401, b"Unauthorized") as url:
        words = ("--bench", "demo", "--base-url", url, "--small-url", url, "--api-key", "wrong")
        refused(invoke("eval", *words), "the key that was given is not its (HTTP 401)")


def test_a_user_and_a_password_in_a_url_are_not_dropped_silently() -> None:
    url = "http://me:secret@127.0.0.1:9"
    result = invoke("eval", "--bench", "demo", "--base-url", url, "--small-url", url)
    refused(result, "--base-url", "are not sent")
    assert "secret" not in result.stderr


def test_a_url_where_nothing_answers(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        refused(
            invoke("eval", "--bench", "demo", "--base-url", url, "--small-url", url), url, "no SGLang server answers"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "a b/c\n", "/etc/passwd", "x" * 300, "日" * 100])
def test_a_models_name_cannot_lead_out_of_the_folder_of_runs(name: str, tmp_path: Path) -> None:
    """What stands in a run folder's name of a model given by name is one part of a path, and not too long for one."""
    from sgl_specreason.plan.options import Options
    from sgl_specreason.plan.resolve import resolve

    urls = {"base_url": "http://127.0.0.1:9", "small_url": "http://127.0.0.1:9"}
    plan = resolve(Options(bench="demo", base_model=name, small_model=name, policy={}, **urls))
    made = tmp_path / "runs" / plan.name(plan.variants)
    assert made.parent == tmp_path / "runs"
    assert made.name.isprintable()
    made.mkdir(parents=True)
    assert made.resolve().parent == (tmp_path / "runs").resolve()


def test_a_good_name_of_a_file_may_be_anything_with_letters() -> None:
    from sgl_specreason.plan.catalog import load_preset

    Path("Größe_1+x.2.toml").write_text(PRESET)
    assert load_preset("Größe_1+x.2.toml").name == "Größe_1+x.2"


def test_the_variables_file_is_found_by_a_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$SPECREASON_DATA/<bench>.jsonl: a bench whose name is a path never gets that far."""
    written(tmp_path / "secret.jsonl", ROW)
    written(tmp_path / "mine.toml", f'name = "../secret"\n{BENCH}')
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SPECREASON_DATA", str(tmp_path / "data"))
    refused(invoke("eval", "--bench", "mine.toml", "--pair", "demo"), "name = '../secret'")


@pytest.mark.parametrize(
    "text", ["{% for x in y %}", "{problem!r}", "}}", "${HOME} $(id) `id`", "%(problem)s %s", "{0.__class__}"]
)
def test_what_looks_like_code_in_a_template_is_text(text: str) -> None:
    """Only {{problem}} is filled in; everything else, also in the problem, is sent as it stands."""
    for other in PLACEHOLDERS:
        written(Path(f"p/{other}.txt"), load_prompts()[other].text + "\n")
    Path("p/math.txt").write_text(f"{text} {{{{problem}}}} {text}\n")
    Path("rows.jsonl").write_text(json.dumps({"id": "q", "problem": f"{text} 7*7 {{{{ 7*7 }}}}", "answer": "4"}))
    Path("mine.toml").write_text(BENCH)
    done = invoke("eval", *shlex.split("--bench mine.toml --pair demo --prompts p --data rows.jsonl --dry-run"))
    assert done.exit_code == 0, done.stderr
    assert f"{text} {text} 7*7 {{{{ 7*7 }}}} {text}" in done.stdout
    assert "49" not in done.stdout.partition("== prompt")[2].partition("== engines")[0]


def test_a_sweep_beside_the_given_folder_is_not_read(tmp_path: Path) -> None:
    """Reports read inside the folders that they are given only."""
    several(**{"run": run(), "sweep.json": "{"})(tmp_path / "top")
    assert invoke("report", "top/run").exit_code == 0
    refused(invoke("report", "top"), "sweep.json")


def test_a_link_to_a_run_is_a_run() -> None:
    run()(Path("a"))
    Path("b").symlink_to("a")
    assert invoke("report", "b").exit_code == 0


def test_a_link_in_a_run_folder_is_not_written_through() -> None:
    run()(Path("run"))
    Path("precious").write_text("mine")
    Path("run/summary.json.tmp").symlink_to("../precious")
    Path("run/summary.md").symlink_to("../precious")
    assert invoke("report", "run").exit_code == 0
    assert Path("precious").read_text() == "mine"


def test_a_folder_of_benches_alone_can_be_listed(tmp_path: Path) -> None:
    written(tmp_path / "eval" / "benches" / "mine.toml", BENCH)
    done = invoke("eval", "--list")
    assert done.exit_code == 0
    assert "mine" in done.stdout


def test_names_of_bytes_that_are_no_text_can_be_printed(tmp_path: Path) -> None:
    """Also to an output that knows ASCII only."""
    odd = os.fsencode(tmp_path) + b"/run-\xff"
    run()(Path(os.fsdecode(odd)))
    for words in ([b"-m", b"sgl_specreason.report", odd], [b"-m", b"sgl_specreason.eval", b"--list", b"--out", odd]):
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        done = subprocess.run([sys.executable, *words], capture_output=True, timeout=60, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_words_of_a_run_folder_do_not_reach_the_terminal_as_commands() -> None:
    run(settings={"bench": "x\x1b[2J"})(Path("run"))
    assert "\x1b" not in invoke("report", "run").stdout
    Path("twice").mkdir()
    run(record={"problem_id": "\x1b[2Jp"})(Path("twice/run"))
    file = Path("twice/run/trajectories.jsonl")
    file.write_text(file.read_text() + file.read_text().splitlines()[-1] + "\n")
    done = invoke("report", "twice")
    refused(done, "occurs twice")
    assert "\x1b" not in done.stderr


def test_a_problems_name_may_have_a_colon() -> None:
    run(record={"problem_id": "set:7"})(Path("run"))
    assert "problem set:7, sample 0" in invoke("report", "--show", "run", "set:7").stdout
    assert "problem set:7, sample 0" in invoke("report", "--show", "run", "set:7:0").stdout
