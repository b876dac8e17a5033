"""What real clients see of the server, on the bundled pair: the official openai package of `.venv`, and lm-eval.

The types of openai and of SGLang are the oracles of every chunk. `make clients` does the same with more clients.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import urllib3
from checkout import ROOT
from client_environments import ENVIRONMENTS
from client_runs import write_data
from clients import POLICY
from openai import OpenAI
from own_server import SERVE_KEY, server
from real_engines import KEY, Servers
from stream_readers import READERS, Shown

pytestmark = pytest.mark.engines

MODELS = ("specreason", "base", "small", "base-direct")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Problems of the demo bench, in the shape of each client."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, 40)
    return folder


@pytest.fixture(scope="module")
def url(real_pair: Servers, data: Path) -> Iterator[str]:
    """A server over the shared engines that is alive in between all the time."""
    attached = ["--base-url", real_pair.urls["base"], "--small-url", real_pair.urls["small"]]
    words = [*attached, *POLICY, "--concurrency", "8", "--keep-alive", "0.02"]
    with server(words, data / "server.log", engine_key=KEY) as served:
        yield f"{served.url}/v1"


@pytest.fixture(scope="module")
def busy_url(real_pair: Servers, data: Path) -> Iterator[str]:
    """A server with one place and no queue."""
    attached = ["--base-url", real_pair.urls["base"], "--small-url", real_pair.urls["small"]]
    words = [*attached, *POLICY, "--concurrency", "1", "--max-queue", "0"]
    with server(words, data / "busy.log", engine_key=KEY) as served:
        yield f"{served.url}/v1"


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key=SERVE_KEY, max_retries=0) as made:
        yield made


def problem(data: Path, number: int = 0) -> list[Any]:
    row = json.loads((data / "demo-sgl.jsonl").read_text().splitlines()[number])
    return [{"role": "user", "content": row["problem"]}]


def posted(url: str, body: dict[str, Any]) -> bytes:
    """The bytes of a reply."""
    headers = {"Authorization": f"Bearer {SERVE_KEY}", "Content-Type": "application/json"}
    reply = urllib3.request("POST", f"{url}/chat/completions", body=json.dumps(body), headers=headers, timeout=120.0)
    assert reply.status == 200, reply.data
    return reply.data


def events(data: bytes) -> list[dict[str, Any]]:
    parts = [part.removeprefix(b"data: ") for part in data.split(b"\n\n") if part]
    assert parts.pop() == b"[DONE]"
    return [json.loads(part) for part in parts]


def test_the_official_client_finds_nothing_wrong(url: str, busy_url: str, data: Path) -> None:
    """Streams equal whole replies; errors have their types and fields; a full server is waited for as it says."""
    words = ["--base-url", url, "--busy-url", busy_url, "--key", SERVE_KEY, "--data", str(data / "demo-sgl.jsonl")]
    script = ROOT / "tools" / "harnesses" / "openai_checks.py"
    done = subprocess.run(
        [sys.executable, str(script), *words, "--problems", "10"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == []
    assert found["checks"] > 100
    assert found["correct"] >= 9
    assert found["version"] == openai.__version__


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("steps", [False, True], ids=["plain", "with steps"])
def test_every_chunk_and_reply_is_of_their_types(url: str, data: Path, model: str, steps: bool) -> None:
    """openai's types, strictly, and SGLang's."""
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionResponse, ChatCompletionStreamResponse

    body: dict[str, Any] = {"model": model, "messages": problem(data), "temperature": 0}
    body |= {"specreason": {"steps": True}} if steps else {}
    whole = posted(url, body)
    ChatCompletion.model_validate_json(whole)
    ChatCompletionResponse.model_validate_json(whole)
    for event in events(posted(url, body | {"stream": True, "stream_options": {"include_usage": True}})):
        ChatCompletionChunk.model_validate(event)
        ChatCompletionStreamResponse.model_validate(event)


@pytest.mark.parametrize("choices", [1, 3])
def test_the_order_of_chunks(url: str, data: Path, choices: int) -> None:
    """Role, thought, answer, end for each choice; then usage; no delta has both texts, and keep-alives have none."""
    body = {"messages": problem(data), "temperature": 0, "n": choices, "stream": True}
    *chunks, last = events(posted(url, body | {"stream_options": {"include_usage": True}}))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    assert all(chunk.get("usage") is None for chunk in chunks)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in [*chunks, last]}) == 1
    for index in range(choices):
        mine = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert not mine[0]["delta"].get("reasoning_content")
        texts = [(bool(each["delta"].get("reasoning_content")), bool(each["delta"].get("content"))) for each in mine]
        assert (True, True) not in texts
        assert texts.index((False, True)) > max(n for n, kind in enumerate(texts) if kind == (True, False))
        assert [each["finish_reason"] for each in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1]["finish_reason"] == "stop"
        assert texts[-1] == (False, False)


def test_usage_comes_only_where_it_is_asked_for(client: OpenAI, data: Path) -> None:
    request: dict[str, Any] = {"model": "specreason", "messages": problem(data), "temperature": 0}
    assert all(chunk.usage is None for chunk in client.chat.completions.create(**request, stream=True))
    with client.chat.completions.stream(**request, stream_options={"include_usage": True}) as stream:
        usage = stream.get_final_completion().usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens
    assert usage.completion_tokens > usage.completion_tokens_details.reasoning_tokens


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("number", range(3))
def test_streamed_is_what_is_not_streamed(url: str, data: Path, model: str, number: int) -> None:
    """For every model, and for chat interfaces whose parsers have rules of their own."""
    body = {"model": model, "messages": problem(data, number), "temperature": 0}
    message = json.loads(posted(url, body))["choices"][0]["message"]
    shown = Shown(message["reasoning_content"] or "", message["content"])
    assert bool(shown.thought) == (model != "base-direct")
    data_read = posted(url, body | {"stream": True})
    for reader in READERS.values():
        assert reader([data_read]) == shown


@pytest.mark.skipif(
    os.environ.get("CI") != "true" and not (ROOT / ".venv-lm" / ".ready").exists(),
    reason=f"no .venv-lm ({', '.join(ENVIRONMENTS['lm'])}); tools/clients.py --only lm makes it",
)
def test_lm_eval_measures_what_eval_does(url: str, data: Path) -> None:
    """With and without the stop that lm-eval sends of itself; no request is tried again."""
    words = ["--only", "lm", "--base-url", url, "--problems", "40", "--accuracy", "100", "--out", str(data / "lm")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "clients.py"), *words],
        env=os.environ | {"SPECREASON_SERVE_KEY": SERVE_KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
