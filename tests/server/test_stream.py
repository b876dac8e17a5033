"""A streamed reply: which chunks, in which order, and that joined they are the reply that is not streamed."""

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fake_engine import Held, Raw
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from served import QUESTION, ROLES, Json, Running, Story, chunks_of, joined, scripted_server, until

STORY = Story()
USAGE = {"stream_options": {"include_usage": True}}
STEPS = {"specreason": {"steps": True}}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with scripted_server(settings={"interval_s": 0.001}) as made:
        yield made


def kinds(chunks: list[Json]) -> list[str]:
    """What each chunk is, in a word; runs of the same word are one."""

    def kind(chunk: Json) -> str:
        if not chunk["choices"]:
            return "usage"
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        if choice["finish_reason"]:
            assert not any(delta.values())
            return f"finish {choice['index']}"
        assert not (delta.get("content") and delta.get("reasoning_content"))
        if "role" in delta:
            assert (delta["role"], delta["content"]) == ("assistant", "")
            return "role"
        return next((key for key in ("content", "reasoning_content") if delta.get(key)), "empty")

    return [word for word, _ in itertools.groupby(map(kind, chunks))]


def test_the_order_is_role_thought_answer_finish_usage(running: Running) -> None:
    """A finish chunk has no text and is the last of its choice; the usage comes last of all, and only if it was asked for."""
    expected = ["role", "reasoning_content", "content", "finish 0"]
    assert kinds(running.stream()) == expected
    chunks = running.stream(**USAGE)
    assert kinds(chunks) == [*expected, "usage"]
    assert all(("usage" in chunk) == (not chunk["choices"]) for chunk in chunks)


def test_all_chunks_of_a_reply_have_its_id_and_its_model(running: Running) -> None:
    response = running.post(stream=True)
    chunks = chunks_of(response.text)
    heads = {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks}
    assert len(heads) == 1
    id, kind, _, model = heads.pop()
    assert (id, kind, model) == (response.headers["x-request-id"], "chat.completion.chunk", "specreason")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"


MODES: dict[str, Json] = {
    "as it is": {},
    "in the content": {"separate_reasoning": False},
    "in one piece": {"stream_reasoning": False},
    "in the content in one piece": {"separate_reasoning": False, "stream_reasoning": False},
    "unseen": {"include_reasoning": False},
    "excluded": {"reasoning": {"exclude": True}},
    "excluded, in the content": {"reasoning": {"exclude": True}, "separate_reasoning": False},
    "no answer": {"thinking_budget": 10, "specreason": {"on_budget": "stop"}},
    "no answer, in the content": {
        "thinking_budget": 10, "specreason": {"on_budget": "stop"}, "separate_reasoning": False,
    },
    "no thought": {"reasoning_effort": "none"},
    "base": {"model": "base"},
    "base in the content": {"model": "base", "separate_reasoning": False},
    "small": {"model": "small"},
    "direct": {"model": "base-direct"},
    "steps": STEPS,
    "steps, unseen": {**STEPS, "include_reasoning": False},
    "a stop": {"stop": ["answer"]},
    "a stop of blank lines": {"stop": ["\n\n", " is"]},
    "short": {"max_tokens": 20},
    "one token": {"max_tokens": 1},
}  # fmt: skip


@pytest.mark.parametrize("fields", MODES.values(), ids=MODES)
def test_the_pieces_joined_are_the_reply_that_is_not_streamed(running: Running, fields: Json) -> None:
    whole = running.ask(**fields)
    choice = whole["choices"][0]
    chunks = running.stream(**USAGE, **fields)
    assert joined(chunks, "content") == choice["message"]["content"]
    assert joined(chunks, "reasoning_content") == (choice["message"].get("reasoning_content") or "")
    assert chunks[-1]["usage"] == whole["usage"]
    finish = [chunk["choices"][0] for chunk in chunks[:-1] if chunk["choices"][0]["finish_reason"]]
    assert [(one["finish_reason"], one["matched_stop"]) for one in finish] == [
        (choice["finish_reason"], choice["matched_stop"])
    ]
    said, also = chunks[-1]["specreason"], whole["specreason"]
    same = (
        "method",
        "steps",
        "steps_by_small",
        "acceptance",
        "tokens_base",
        "judge_requests",
        "thought_ended_by",
        "policy",
    )
    assert {name: said[name] for name in same} == {name: also[name] for name in same}


def test_a_thought_may_stand_in_the_content(running: Running) -> None:
    chunks = running.stream(separate_reasoning=False)
    assert joined(chunks, "content") == f"<think>\n{STORY.thought}\n</think>\n\nThe answer is 3."
    assert joined(chunks, "reasoning_content") == ""


def test_a_thought_may_come_in_one_piece_before_the_answer(running: Running) -> None:
    chunks = running.stream(stream_reasoning=False)
    thoughts = [
        text for chunk in chunks if chunk["choices"] and (text := chunk["choices"][0]["delta"].get("reasoning_content"))
    ]
    assert thoughts == [STORY.thought]
    assert kinds(chunks) == ["role", "reasoning_content", "content", "finish 0"]


def test_a_thought_that_is_not_wanted_is_nowhere(running: Running) -> None:
    for fields in ({"include_reasoning": False}, {"reasoning": {"exclude": True}}):
        response = running.post(stream=True, **fields)
        assert "Two" not in response.text
        assert "reasoning_content" not in response.text
        assert "reasoning_content" not in running.ask(**fields)["choices"][0]["message"]


def test_who_wrote_what_is_said_with_the_last_text_of_each_step_if_it_is_asked_for(running: Running) -> None:
    steps: list[Json] = []
    text = ""
    for chunk in running.stream(**STEPS):
        if chunk["choices"]:
            text += chunk["choices"][0]["delta"].get("reasoning_content") or ""
        if "step" in chunk.get("specreason", {}):
            steps.append({**chunk["specreason"]["step"], "so far": text})
    assert steps == [
        {"n": 1, "by": "small", "score": 9, "accepted": True, "tokens": 6, "draft_tokens": 6, "so far": "One."},
        {
            "n": 2,
            "by": "base",
            "score": 2,
            "accepted": False,
            "tokens": 6,
            "draft_tokens": 10,
            "so far": "One.\n\nTwo.",
        },
        {
            "n": 3,
            "by": "small",
            "score": 9,
            "accepted": True,
            "tokens": 14,
            "draft_tokens": 14,
            "so far": STORY.thought,
        },
    ]
    header = running.post(stream=True, headers={"X-Specreason-Steps": "1"})
    assert '"step":' in header.text
    assert '"step":' not in running.post(stream=True).text


def test_what_was_rejected_is_told_only_if_it_is_asked_for(running: Running) -> None:
    assert "Bad" not in running.post(stream=True, **STEPS).text
    drafts = {"specreason": {"steps": True, "drafts": True}}
    assert '"draft":"Bad two.\\n\\n"' in running.post(stream=True, **drafts).text
    steps = running.ask(**drafts)["specreason"]["choices"][0]["steps"]
    assert [step.get("draft") for step in steps] == [None, "Bad two.\n\n", None]
    assert [step["text"] for step in steps] == ["One.\n\n", "Two.\n\n", "Three.</think>"]
    assert "choices" not in running.ask()["specreason"]


def test_the_account_is_with_the_usage_or_with_the_finish(running: Running) -> None:
    last = running.stream()[-1]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["specreason"]["steps"] == 3
    chunks = running.stream(**USAGE)
    assert [bool(chunk.get("specreason")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_usage_adds_up(running: Running) -> None:
    usage = running.stream(**USAGE)[-1]["usage"]
    assert usage["completion_tokens"] == 26 + 19
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["reasoning_tokens"] == usage["completion_tokens_details"]["reasoning_tokens"] == 26
    assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]


def test_usage_may_be_had_with_each_chunk_and_only_grows(running: Running) -> None:
    """In the end it is what the usage chunk says."""
    both = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    chunks = running.stream(n=2, **both)
    so_far = [chunk["usage"]["completion_tokens"] for chunk in chunks if "usage" in chunk]
    assert len(so_far) >= len(chunks) - 2
    assert so_far == sorted(so_far)
    assert so_far[-2] == so_far[-1] == 2 * 45
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks if "usage" in chunk} == {50}


def test_several_choices_come_side_by_side_and_each_ends_once(running: Running) -> None:
    whole = running.ask(n=3, **STEPS)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert whole["usage"]["completion_tokens"] == 3 * 45
    assert whole["usage"]["prompt_tokens"] == 50
    assert whole["specreason"]["steps"] == 9
    chunks = running.stream(n=3, **USAGE)
    assert [chunk["choices"][0]["index"] for chunk in chunks[:3]] == [0, 1, 2]
    for index in range(3):
        own = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["index"] == index]
        assert kinds(own) == ["role", "reasoning_content", "content", f"finish {index}"]
        assert joined(chunks, "reasoning_content", index) == STORY.thought
        assert joined(chunks, "content", index) == "The answer is 3."
    assert chunks[-1]["usage"] == whole["usage"]


def test_choices_have_seeds_of_their_own_that_repeat() -> None:
    with scripted_server() as running:

        def seeds(**fields: Any) -> set[int]:
            before = len(running.engines["small"].requests)
            running.ask(**fields)
            found = running.engines["small"].requests[before:]
            return {request["sampling_params"]["sampling_seed"] for request in found}

        assert seeds(n=3, seed=7) == seeds(seed=7) | seeds(seed=8) | seeds(seed=9)
        assert len(seeds(n=3, seed=7)) == 3
        assert seeds() != seeds()


def test_every_chunk_and_reply_is_what_openais_and_sglangs_types_say(running: Running) -> None:
    """SGLang's own models and the SDK's are the oracles."""
    from sglang.srt.entrypoints.openai import protocol

    for fields in ({}, {"n": 2}, STEPS, {"model": "base-direct"}, {"separate_reasoning": False}, {"max_tokens": 5}):
        whole = running.ask(**fields)
        ChatCompletion.model_validate(whole, strict=True)
        protocol.ChatCompletionResponse.model_validate(whole)
        chunks = running.stream(**USAGE, **fields)
        for chunk in chunks:
            ChatCompletionChunk.model_validate(chunk, strict=True)
            protocol.ChatCompletionStreamResponse.model_validate(chunk)
    for model in running.get("/v1/models").json()["data"]:
        protocol.ModelCard.model_validate(model)


def test_openais_client_reads_it_whole_streamed_and_by_its_helper(running: Running) -> None:
    with OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client:
        asked: Any = {"model": "specreason", "messages": QUESTION}
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].message.content == "The answer is 3."
        assert whole.choices[0].message.reasoning_content == STORY.thought  # type: ignore[attr-defined]
        assert whole._request_id == whole.id
        pieces = list(client.chat.completions.create(stream=True, **asked))
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "The answer is 3."
        with client.chat.completions.stream(stream_options={"include_usage": True}, **asked) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        assert final.choices[0].message.content == "The answer is 3."
        assert final.usage is not None
        assert final.usage.completion_tokens_details is not None
        assert final.usage.completion_tokens_details.reasoning_tokens == 26
        assert [model.id for model in client.models.list()] == ["specreason", "base", "small", "base-direct"]


@pytest.mark.parametrize(("name", "keys"), [("reasoning", {"reasoning"}), ("both", {"reasoning", "reasoning_content"})])
def test_a_thought_may_be_called_as_vllm_calls_it(name: str, keys: set[str]) -> None:
    """Never null beside a name that has a text: LiteLLM would take the null."""
    from sgl_specreason.server.reply import FIELDS

    with scripted_server(settings={"thought_names": FIELDS[name]}) as running:
        message = running.ask()["choices"][0]["message"]
        assert {key: value for key, value in message.items() if key.startswith("reasoning")} == dict.fromkeys(
            keys, STORY.thought
        )
        chunks = running.stream()
        for key in keys:
            assert joined(chunks, key) == STORY.thought
        for chunk in chunks:
            delta = chunk["choices"][0]["delta"]
            assert not ("reasoning" in delta and delta["reasoning"] is None)


def held_by_base(running: Running, text: str = "Tw") -> None:
    """Has base's next text stand still until it is aborted."""
    script = running.engines["base"].script
    running.engines["base"].script = lambda prompt, payload: (
        script(prompt, payload) if payload["sampling_params"]["max_new_tokens"] == 0 else Held(text)
    )


def test_a_silence_is_filled_with_empty_chunks_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No comments: clients take them for the end, or break."""
    monkeypatch.setattr("sgl_specreason.server.completions.FIRST_WORD_S", 0.05)
    slow = threading.Event()
    with scripted_server(settings={"keep_alive_s": 0.05}) as running:
        script = running.engines["base"].script

        def waits(prompt: str, payload: Any) -> Any:
            slow.wait(5)
            return script(prompt, payload)

        running.engines["base"].script = waits
        threading.Timer(0.5, slow.set).start()
        response = running.post(stream=True, n=2, **USAGE)
        assert "\n:" not in response.text
        chunks = chunks_of(response.text)
        assert sum(chunk["choices"] != [] and not any(chunk["choices"][0]["delta"].values()) for chunk in chunks) >= 4
        for index in range(2):
            assert joined(chunks, "reasoning_content", index) == STORY.thought
            assert joined(chunks, "content", index) == "The answer is 3."


@pytest.mark.parametrize("slow", [True, False])
def test_a_keep_alive_never_follows_the_end_of_its_choice(monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    """Clients take the reason of the end from the last chunk of a choice."""
    monkeypatch.setattr("sgl_specreason.server.completions.FIRST_WORD_S", 0.05)
    with scripted_server(settings={"keep_alive_s": 0.05}) as running:
        first = running.engines["small"].script
        seen: list[int] = []

        def waits(prompt: str, payload: Any) -> Any:
            seed = payload["sampling_params"]["sampling_seed"]
            seen.append(seed)
            if (seed == seen[0]) == slow:
                time.sleep(0.15)
            return first(prompt, payload)

        running.engines["small"].script = waits
        chunks = running.stream(n=2)
        over: set[int] = set()
        empty = 0
        for chunk in chunks:
            (choice,) = chunk["choices"]
            assert choice["index"] not in over
            if choice["finish_reason"]:
                over.add(choice["index"])
            empty += not any(choice["delta"].values()) and not choice["finish_reason"]
        assert empty >= 2


def test_a_head_is_sent_though_nothing_has_been_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client waits for headers less long than for a reply."""
    monkeypatch.setattr("sgl_specreason.server.completions.FIRST_WORD_S", 0.05)
    with scripted_server() as running:
        running.engines["small"].script = lambda prompt, payload: Held("x")
        with (
            running.client() as client,
            client.stream("POST", "/v1/chat/completions", json={"messages": QUESTION, "stream": True}) as response,
        ):
            assert response.status_code == 200
            assert '"role":"assistant"' in next(response.iter_lines())
            assert running.house.desk.running == 1
        assert running.settles(2)


@pytest.mark.parametrize("role", ROLES)
def test_a_failure_before_the_first_text_is_a_status(role: Any) -> None:
    with scripted_server() as running:
        running.engines[role].script = lambda prompt, payload: Raw(400, b"No such thing.")
        for stream in (False, True):
            response = running.post(stream=stream)
            assert response.status_code == 502
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("server_error", "engine_failed")
            assert "No such thing." in error["message"]
            assert response.headers["x-request-id"].startswith("chatcmpl-")
        assert running.settles()


@pytest.mark.parametrize("n", [1, 2])
def test_a_failure_in_mid_stream_is_its_last_event(n: int) -> None:
    with scripted_server() as running:
        running.engines["base"].script = lambda prompt, payload: (
            STORY.says("base", prompt, payload)
            if payload["sampling_params"]["max_new_tokens"] == 0
            else Raw(400, b"No such thing.")
        )
        *chunks, error = running.stream(n=n)
        assert joined(chunks, "reasoning_content") in ("One.", "")
        assert not any(chunk["choices"][0]["finish_reason"] for chunk in chunks)
        assert (error["error"]["type"], error["error"]["code"]) == ("server_error", "engine_failed")
        assert running.settles()


def test_a_fault_of_ours_is_a_status_or_an_event_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("a secret word")

    with scripted_server() as running:
        with monkeypatch.context() as patch:
            patch.setattr("sgl_specreason.server.stream.Stream._merged", broken)
            *_, error = running.stream()
        assert error["error"]["code"] == "internal_error"
        assert "secret" not in error["error"]["message"]
        with monkeypatch.context() as patch:
            patch.setattr("sgl_specreason.server.reply.Format.whole", broken)
            response = running.post()
        assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
        assert "secret" not in response.text
        assert caplog.text.count("a secret word") >= 2
        assert running.settles()
        assert running.ask()["choices"][0]["message"]["content"] == "The answer is 3."


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_requests_within_a_second(stream: bool) -> None:
    with scripted_server() as running:
        held_by_base(running)
        client = running.client()
        body = {"messages": QUESTION, "stream": stream, "n": 2}
        if stream:
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                assert "data" in next(lines)
                assert until(lambda: len(running.engines["base"].running) == 2)
                names = set(running.engines["base"].running)
        else:
            asked = threading.Thread(target=_left, args=(client, body))
            asked.start()
            assert until(lambda: len(running.engines["base"].running) == 2)
            names = set(running.engines["base"].running)
            asked.join()
        begin = time.monotonic()
        client.close()
        assert running.settles(2)
        assert time.monotonic() - begin < 1
        assert names <= set(running.engines["base"].aborts)
        assert until(lambda: not running.api.under_way)


def _left(client: Any, body: Json) -> None:
    """Asks, and leaves without the reply."""
    import httpx

    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=body, timeout=1.0)


def test_clients_that_leave_at_any_moment_leak_nothing() -> None:
    """A storm in small: places are free, no name is alive on an engine, and the next one is answered."""
    with scripted_server(places=8) as running:
        for role in ROLES:
            running.engines[role].pause_s = 0.005

        def come(number: int) -> None:
            with (
                running.client() as client,
                client.stream("POST", "/v1/chat/completions", json={"messages": QUESTION, "stream": True}) as response,
            ):
                for seen, _ in enumerate(response.iter_lines()):
                    if seen >= number % 7:
                        return

        threads = [threading.Thread(target=come, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert running.settles(10)
        assert until(lambda: not running.api.under_way)
        assert running.ask()["choices"][0]["message"]["content"] == "The answer is 3."
