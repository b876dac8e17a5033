"""Engines with a small context: what we hold to be their limits is so."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sglang as sgl
from command_line import invoke
from real_engines import KEY, Servers

from sgl_specreason.engines import startup
from sgl_specreason.errors import ContextFull
from sgl_specreason.method.program import run_trajectory
from sgl_specreason.method.score import DIGITS
from sgl_specreason.plan import limits
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.text.tokenizers import load_tokenizer


@pytest.mark.engines
def test_a_small_context_is_found_before_the_run_and_truncates_what_outgrows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines with a context of 200 tokens: what we hold to be their limits is so to the token."""
    monkeypatch.setenv("SPECREASON_API_KEY", KEY)
    plan = resolve(Options(bench="demo", policy={}))
    specs = [replace(spec, args=(*spec.args, "--context-length", "200"), api_key=KEY) for spec in plan.specs]
    with startup.started(specs, tmp_path / "logs", say=lambda line: None) as running:
        urls = {role: engine.url for role, engine in running.items()}
        words = ["--bench", "demo", "--limit", "3", "--method", "specreason", "--answer-tokens", "20"]
        words += ["--base-url", urls["base"], "--small-url", urls["small"], "--out", str(tmp_path / "runs")]
        refused = invoke("eval", *words)
        assert refused.exit_code == 2
        assert refused.stderr.startswith("error: problem demo-00")
        assert "which holds 200" in refused.stderr
        assert "a larger --context-length of" in refused.stderr
        assert not (tmp_path / "runs").exists()
        fitting = refused.stderr.split("; --budget-tokens ")[1].split()[0]
        done = invoke("eval", *words, "--budget-tokens", fitting)
        assert done.exit_code == 0, done.stderr
        (folder,) = (tmp_path / "runs").iterdir()
        lines = [json.loads(line) for line in (folder / "trajectories.jsonl").read_text().splitlines()]
        assert len(lines) == 3
        assert "context" not in [line["stop_reason"] for line in lines]

        served = Servers(
            plan=plan,
            urls=urls,
            client=0,
            tokenizers={role: load_tokenizer(model) for role, model in plan.models.items()},
        )
        engines = served.endpoints()
        grown = served.trajectory(3, answer_tokens=20)
        run_trajectory("specreason", grown, engines)  # type: ignore[arg-type]
        assert (grown.stop_reason, grown.truncated) == ("context", True)
        assert 0 < grown.tokens_kept < 200
        with pytest.raises(ContextFull, match="HTTP 400"):
            run_trajectory("base", served.trajectory(3), engines)  # type: ignore[arg-type]

        holds = limits.served({"base": engines["base"].server_info})["base"].tokens
        assert holds == 200

        @sgl.function  # type: ignore[untyped-decorator]
        def text(s: Any, prompt: str, tokens: int) -> None:
            s += prompt + sgl.gen("text", max_tokens=tokens, temperature=0, ignore_eos=True)

        @sgl.function  # type: ignore[untyped-decorator]
        def judgement(s: Any, prompt: str) -> None:
            s += prompt + sgl.select("digit", choices=list(DIGITS))

        def prompt(tokens: int) -> str:
            words = "Start from 7"
            while len(engines["base"].ids(words)) < tokens:
                words += "7"
            assert len(engines["base"].ids(words)) == tokens
            return words

        def written(tokens: int) -> int:
            state = text.run(prompt=prompt(100), tokens=tokens, backend=engines["base"], use_thread=False)
            return int(state.get_meta_info("text")["account"].completion_tokens)

        most = holds - 100 - limits.TOTAL_SPARE
        assert (written(most), written(most + 1)) == (most, most)
        judgement.run(prompt=prompt(holds - limits.INPUT_SPARE), backend=engines["base"], use_thread=False)
        with pytest.raises(ContextFull):
            judgement.run(prompt=prompt(holds - limits.INPUT_SPARE + 1), backend=engines["base"], use_thread=False)
