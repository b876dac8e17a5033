"""Owns how each client is run against a server, and what its own words say of accuracy and errors.

Knows no engines: a server is a URL and a key.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accounts import Say
from client_environments import ROOT, Missing, environment

from sgl_specreason.plan import catalog
from sgl_specreason.plan.benches import load_rows
from sgl_specreason.text.prompts import load_prompts

HARNESSES = ROOT / "tools" / "harnesses"
TOKENIZER = ROOT / "sgl_specreason" / "demo" / "models" / "base"
MAX_TOKENS, THREADS = 576, 16
LONGEST_S = 1800.0
Command = list[str | Path]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The server that is looked at, one that is always full (or none), and a folder with data for results."""

    url: str
    key: str
    model: str
    busy_url: str | None
    out: Path
    problems: int
    say: Say


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one client saw of so many different problems.

    `accuracy` in percent, None where it has none; `notes` says what failed, or why it was skipped.
    """

    client: str
    version: str
    problems: int = 0
    accuracy: float | None = None
    errors: int = 0
    seconds: float = 0.0
    skipped: bool = False
    notes: list[str] = field(default_factory=list)


class Failed(Exception):
    """A client that ended with an error."""


def write_data(out: Path, count: int) -> None:
    """The demo problems, with prompts/math.txt around them, in the shape of each client."""
    bench = catalog.load_bench("demo")
    prompt = load_prompts(None)[bench.prompt]
    rows = [(row.id, prompt.fill(**row.values()), row.answer) for row in load_rows(bench, None).rows[:count]]
    shapes: dict[str, list[dict[str, Any]]] = {
        "sgl": [{"id": key, "problem": text, "expected_answer": answer} for key, text, answer in rows],
        "lm": [{"question": text, "answer": answer} for _, text, answer in rows],
        "inspect": [{"id": key, "input": text, "target": answer} for key, text, answer in rows],
        "bench": [
            {"conversations": [{"role": "user", "content": text}, {"role": "assistant", "content": "the answer"}]}
            for _, text, _ in rows
        ],
    }
    for name, shaped in shapes.items():
        (out / f"demo-{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shaped))


def run(target: Target, name: str, command: Command, cwd: Path | None = None, **env: str) -> tuple[str, float]:
    """What a command said, and how long it took. Its words are in OUT/NAME.log. Raises Failed."""
    target.say(f"{name}: {' '.join(map(str, command))}")
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(target.out / "hf"), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    log = target.out / f"{name}.log"
    begin = time.monotonic()
    with log.open("wb") as file:
        try:
            code = subprocess.run(
                list(map(str, command)),
                cwd=cwd or target.out,
                env=inherited | offline | env,
                stdout=file,
                stderr=file,
                timeout=LONGEST_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise Failed(f"no end after {LONGEST_S:.0f} s; {log}") from None
    words = log.read_text(errors="replace")
    if code:
        raise Failed(f"exit code {code}: {' '.join(words[-300:].split())}; {log}")
    return words, time.monotonic() - begin


def newest(folder: Path, pattern: str) -> Any:
    """The JSON file of a folder that was written last."""
    return json.loads(max(folder.glob(pattern), key=lambda path: path.stat().st_mtime).read_text())


def openai(name: str, of: str, target: Target) -> Row:
    busy: Command = ["--busy-url", target.busy_url] if target.busy_url else []
    return checked(name, of, "openai_checks.py", target, 20, busy)


def litellm(name: str, of: str, target: Target) -> Row:
    return checked(name, of, "litellm_checks.py", target, 10, [])


def checked(name: str, of: str, script: str, target: Target, most: int, more: Command) -> Row:
    """A script of ours in the client's environment, which asks one after the other: `most` problems are enough."""
    command: Command = [environment(of, target.say) / "python", HARNESSES / script, "--base-url", target.url]
    command += ["--data", target.out / "demo-sgl.jsonl", "--problems", str(min(most, target.problems)), *more]
    words, _ = run(target, name, [*command, "--key", target.key])
    found = json.loads(words.splitlines()[-1])
    return Row(
        client=f"{name}, {found['checks']} checks",
        version=found["version"],
        problems=found["problems"],
        accuracy=100 * found["correct"] / found["problems"],
        errors=len(found["failed"]),
        seconds=found["seconds"],
        notes=found["failed"],
    )


def sgl(name: str, of: str, target: Target) -> Row:
    program = environment(of, target.say) / "sgl-eval"
    run(target, f"{name}-ping", [program, "ping", "--base-url", target.url, "--api-key", target.key])
    command: Command = [
        program,
        "run",
        "aime24",
        "--base-url",
        target.url,
        "--model",
        target.model,
        "--api-key",
        target.key,
    ]
    command += ["--from-dataset", "demo-sgl.jsonl", "--prompt", HARNESSES / "sgl_prompt.yaml", "--n-repeats", "1"]
    command += ["--num-threads", str(THREADS), "--temperature", "0", "--max-tokens", str(MAX_TOKENS), "--out-dir", name]
    words, seconds = run(target, name, command)
    found = newest(target.out / name, "*/metrics.json")
    retried = words.count("Sampler exception")
    return Row(
        client=name,
        version=found["sgl_eval_version"],
        problems=found["num_examples"],
        accuracy=100 * found["aggregate"]["score"],
        errors=round(found["aggregate"]["error_rate"] * found["num_examples"]) + retried,
        seconds=seconds,
        notes=[f"{retried} requests tried again"] if retried else [],
    )


def lm(name: str, of: str, target: Target) -> Row:
    """Two tasks: without a stop, and with the one that lm-eval sends of itself. The lower accuracy counts."""
    program = environment(of, target.say) / "lm_eval"
    tasks = ("specreason_demo", "specreason_demo_stop")
    model = f"model={target.model},base_url={target.url}/chat/completions,num_concurrent=8"
    command: Command = [
        program,
        "run",
        "--model",
        "local-chat-completions",
        "--model_args",
        model,
        "--tasks",
        ",".join(tasks),
    ]
    command += ["--include_path", HARNESSES / "lm_tasks", "--apply_chat_template", "--output_path", name]
    words, seconds = run(target, name, command, OPENAI_API_KEY=target.key)
    found = newest(target.out / name, "**/results_*.json")
    values = [found["results"][task]["exact_match,boxed"] for task in tasks]
    retried = sum("retry" in line.lower() for line in words.splitlines())
    return Row(
        client=name,
        version=found["lm_eval_version"],
        problems=found["n-samples"][tasks[0]]["effective"],
        accuracy=100 * min(values),
        errors=retried,
        seconds=seconds,
        notes=[f"{retried} lines about retries"] if retried else [],
    )


def inspect(name: str, of: str, target: Target) -> Row:
    """Streamed where its name says so. Every sample must have a thought, and usage that is filled."""
    program = environment(of, target.say) / "inspect"
    command: Command = [program, "eval", "inspect_demo.py", "-T", f"data={target.out / 'demo-inspect.jsonl'}"]
    command += ["--model", f"openai-api/local/{target.model}", "--log-dir", target.out / name, "--log-format", "json"]
    command += [
        "--max-connections",
        str(THREADS),
        "--display",
        "plain",
        *(["-M", "stream=true"] if "stream" in name else []),
    ]
    words, seconds = run(target, name, command, HARNESSES, LOCAL_BASE_URL=target.url, LOCAL_API_KEY=target.key)
    found = newest(target.out / name, "*.json")
    notes = [line for line in words.splitlines() if "warning" in line.lower()]
    for sample in found["samples"]:
        message = sample["output"]["choices"][0]["message"] if sample["output"]["choices"] else {"content": []}
        parts = [part["type"] for part in message["content"] if isinstance(part, dict)]
        usage = sample["output"].get("usage") or {}
        if sample.get("error") or "reasoning" not in parts or not usage.get("reasoning_tokens"):
            notes.append(f"{sample['id']}: {sample.get('error')} {parts} {usage}"[:300])
    return Row(
        client=name,
        version=found["eval"]["packages"]["inspect_ai"],
        problems=len(found["samples"]),
        accuracy=100 * found["results"]["scores"][0]["metrics"]["accuracy"]["value"],
        errors=len(notes),
        seconds=seconds,
        notes=notes,
    )


def bench(name: str, of: str, target: Target) -> Row:
    """SGLang's own load generator, from the project's environment: no accuracy, but TTFT and ITL."""
    count = min(128, target.problems)
    command: Command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "sglang.benchmark.serving",
        "--backend",
        "sglang-oai-chat",
    ]
    command += ["--base-url", target.url.removesuffix("/v1"), "--model", target.model, "--tokenizer", TOKENIZER]
    command += ["--dataset-name", "custom", "--dataset-path", "demo-bench.jsonl", "--num-prompts", str(count)]
    command += ["--sharegpt-output-len", str(MAX_TOKENS), "--max-concurrency", "64", "--disable-ignore-eos"]
    report = target.out / f"{name}.jsonl"
    report.unlink(missing_ok=True)
    _, seconds = run(target, name, [*command, "--output-file", report], OPENAI_API_KEY=target.key)
    found = json.loads(report.read_text().splitlines()[-1])
    return Row(
        client=name,
        version=version("sglang"),
        problems=count,
        errors=count - found["completed"],
        seconds=seconds,
        notes=[
            f"TTFT p50 {found['median_ttft_ms']:.0f} ms, ITL p50 {found['median_itl_ms']:.0f} ms, "
            f"{found['request_throughput']:.1f} requests/s"
        ],
    )


CLIENTS: dict[str, tuple[Callable[[str, str, Target], Row], str]] = {
    "openai2": (openai, "sgl"),
    "openai3": (openai, "inspect"),
    "litellm": (litellm, "inspect"),
    "sgl": (sgl, "sgl"),
    "lm": (lm, "lm"),
    "inspect": (inspect, "inspect"),
    "inspect-stream": (inspect, "inspect"),
    "bench": (bench, ""),
}
"""Each client with the function that runs it and the environment that it lives in."""


def row_of(name: str, target: Target) -> Row:
    """What a client saw; a row in any case."""
    function, of = CLIENTS[name]
    try:
        return function(name, of, target)
    except Missing as missing:
        return Row(client=name, version="", skipped=True, notes=[str(missing)])
    except Failed as failed:
        return Row(client=name, version="", errors=1, notes=[str(failed)])
