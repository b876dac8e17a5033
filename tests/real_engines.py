"""The bundled pair on real SGLang engines, which the session starts once and tests share (the fixture `real_pair`)."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import psutil
from msgspec import structs

from sgl_specreason.demo.problems import problems
from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.engines.transport import Answer
from sgl_specreason.method.trajectory import Trajectory
from sgl_specreason.plan.benches import Row
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.plan import Plan, Variant
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.steps import Author
from sgl_specreason.text.tokenizers import load_tokenizer

KEY = "a key of the tests"
CLIENT = """
import sys, time
from dataclasses import replace
from pathlib import Path
from sgl_specreason.engines.startup import started
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.plan.options import Options
plan = resolve(Options(bench="demo", policy={}))
specs = [replace(spec, api_key=sys.argv[2]) for spec in plan.specs]
with started(specs, Path(sys.argv[1]), say=lambda line: print(line, file=sys.stderr)) as running:
    print(running["base"].url, running["small"].url, flush=True)
    time.sleep(3600)
"""


@dataclass(frozen=True)
class Servers:
    """The two running servers and the models they serve."""

    plan: Plan
    urls: dict[Author, str]
    client: int
    tokenizers: dict[Author, Any]

    @property
    def attached(self) -> list[str]:
        """The words of a command that runs on them."""
        urls = ["--base-url", self.urls["base"], "--small-url", self.urls["small"]]
        return ["--bench", "demo", *urls, "--api-key", KEY]

    @property
    def chats(self) -> dict[Author, ChatFormat]:
        return {role: ChatFormat(tokenizer=tokenizer) for role, tokenizer in self.tokenizers.items()}

    def endpoints(self) -> dict[Author, "Watched"]:
        return {
            role: Watched(url, role=role, tokenizer=self.tokenizers[role], api_key=KEY)
            for role, url in self.urls.items()
        }

    def trajectory(self, number: int, **policy: Any) -> Trajectory:
        problem = problems("test", 40)[number]
        row = Row(id=str(number), problem=problem.text, answer=problem.answer)
        variant = next(variant for variant in self.plan.variants if variant.method == "specreason")
        trajectory = self.plan.trajectory(variant, row, 0, self.chats)
        trajectory.policy = structs.replace(variant.policy, **policy)
        if trajectory.policy.gate == "self":  # only then is there a question for small
            asking = replace(self.plan, variants=(Variant("specreason", trajectory.policy),))
            trajectory.texts = asking.texts(row, self.chats)
        return trajectory


class Watched(Endpoint):
    """An endpoint that remembers its requests for text and judgements, and the ids of each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.payloads: list[dict[str, Any]] = []
        self.sent: list[tuple[str, list[int]]] = []
        call = self.transport.call

        def watched(verb: str, path: str, data: dict[str, Any] | None = None, **options: Any) -> Answer:
            if path == "/generate" and data is not None:
                self.payloads.append(data)
                kind = "select" if "token_ids_logprob" in data else "generate"
                self.sent.append((kind, orjson.loads(orjson.dumps(data["input_ids"]))))
            return call(verb, path, data, **options)

        self.transport.call = watched  # type: ignore[method-assign]


@contextmanager
def serving(logs: Path) -> Iterator[Servers]:
    """Both engines, held by a client that is killed with SIGKILL at the end: they must be gone 10 s later."""
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(logs), KEY], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    line = client.stdout.readline().split()
    assert len(line) == 2, "the engines did not start; their words are above"
    plan = resolve(Options(bench="demo", policy={}))
    yield Servers(
        plan=plan,
        urls={"base": line[0], "small": line[1]},
        client=client.pid,
        tokenizers={role: load_tokenizer(model) for role, model in plan.models.items()},
    )
    family = psutil.Process(client.pid).children(recursive=True)
    assert len(family) >= 6
    client.kill()
    client.wait()
    client.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
