"""The server's routes as clients find them: models, errors, keys, hosts, sizes, and what is not there."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fake_engine import Held
from openai import NotFoundError, OpenAI
from served import QUESTION, ROLES, Json, Running, Story, chunks_of, joined, scripted_server, until

from sgl_specreason.server.answering import Patience
from sgl_specreason.server.refusal import draining

STORY = Story()
KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with scripted_server(settings={"most_bytes": 100_000}) as made:
        yield made


def error_of(response: httpx.Response) -> Json:
    """The error in a reply that has the shape of OpenAI's."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["content-type"] == "application/json"
    error: Json = body["error"]
    assert error["message"].endswith(".") or "\n" not in error["message"]
    return error


def test_the_models_are_the_method_and_its_baselines(running: Running) -> None:
    listing = running.get("/v1/models").json()
    assert listing["object"] == "list"
    assert [model["id"] for model in listing["data"]] == ["specreason", "base", "small", "base-direct"]
    assert [model["root"] for model in listing["data"]] == ["org/Base", "org/Base", "org/Small", "org/Base"]
    assert {model["max_model_len"] for model in listing["data"]} == {10_000}
    for model in listing["data"]:
        assert running.get(f"/v1/models/{model['id']}").json() == model
    response = running.get("/v1/models/org/Other")
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"


def test_a_model_may_have_another_name() -> None:
    with scripted_server(settings={"name": "ours"}) as running:
        assert running.get("/v1/models").json()["data"][0]["id"] == "ours"
        for asked in ({}, {"model": "ours"}, {"model": "default"}, {"model": "org/Base"}):
            assert running.ask(**asked)["model"] == "ours"
        assert running.post(model="specreason").status_code == 404


def test_an_unknown_model_is_not_found_and_those_that_there_are_are_named(running: Running) -> None:
    error = error_of(response := running.post(model="gpt-4"))
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "specreason, base, small, base-direct" in error["message"]
    with OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client, pytest.raises(NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=QUESTION)  # type: ignore[call-overload]


@pytest.mark.parametrize("fields", [{}, {"model": ""}, {"model": None}, {"model": "default"}, {"model": "org/Base"}])
def test_without_a_model_the_method_answers(running: Running, fields: Json) -> None:
    assert running.ask(**fields)["model"] == "specreason"


@pytest.mark.parametrize("fields", [{"reasoning_effort": "none"}, {"model": "base-direct"}, {"enable_thinking": False}])
def test_without_a_thought_there_is_one_request_to_base_and_none_to_small(fields: Json) -> None:
    with scripted_server() as running:
        message = running.ask(**fields)["choices"][0]["message"]
        assert message == {"role": "assistant", "content": "The answer is 3.", "reasoning_content": None}
        assert len(running.engines["base"].requests) == 1
        assert running.engines["small"].requests == []


SPELLINGS: dict[str, Json] = {
    "thinking_token_budget": {"thinking_token_budget": 10},
    "thinking_budget": {"thinking_budget": 10},
    "max_thinking_tokens": {"max_thinking_tokens": 10},
    "Anthropic's": {"thinking": {"type": "enabled", "budget_tokens": 10}},
    "OpenRouter's": {"reasoning": {"max_tokens": 10}},
    "the template's": {"chat_template_kwargs": {"thinking_budget": 10}},
    "SGLang's": {"custom_params": {"thinking_budget": 10}},
}


@pytest.mark.parametrize("fields", SPELLINGS.values(), ids=SPELLINGS)
def test_each_spelling_of_a_budget_bounds_the_thought(running: Running, fields: Json) -> None:
    for model in ("specreason", "base", "small"):
        reply = running.ask(model=model, **fields)
        assert reply["usage"]["reasoning_tokens"] <= 10
        assert reply["choices"][0]["message"]["content"] == "The answer is 3."
    assert running.post(max_thinking_tokens=10, reasoning={"max_tokens": 11}).status_code == 400


@pytest.mark.parametrize("total", [1, 2, 3, 16, 17, 40, 64])
def test_all_tokens_together_are_hard(running: Running, total: int) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        for model in ("specreason", "base", "small", "base-direct"):
            reply = running.ask(model=model, **{name: total})
            assert reply["usage"]["completion_tokens"] <= total
    stopped = running.ask(max_tokens=total, thinking_budget=total, specreason={"on_budget": "stop"})
    assert stopped["usage"]["completion_tokens"] <= total
    if total <= 17:
        assert (stopped["choices"][0]["finish_reason"], stopped["choices"][0]["message"]["content"]) == ("length", "")


def test_a_stop_ends_the_answer_only_and_is_cut_off() -> None:
    """Engines that send single characters: a stop over several of them is told neither whole nor in part."""
    story = Story(
        small=("Stop one.\n\n", "Bad.\n\n", "End.</think>"),
        base=("I.\n\n", "Stop two.\n\n", "III.</think>"),
        answer="\n\nIt is so.\n\nStop here",
    )
    with scripted_server(story) as running:
        for engine in running.engines.values():
            engine.pace = 1
        for stop, answer, matched in (
            (["Stop", "\n\n"], "It is so.", "\n\n"),
            ("Stop", "It is so.\n\n", "Stop"),
            ("here", "It is so.\n\nStop ", "here"),
            (["nothing of this"], "It is so.\n\nStop here", None),
            ("It", "", "It"),
            ([], "It is so.\n\nStop here", None),
        ):
            whole = running.ask(stop=stop)["choices"][0]
            assert whole["message"]["reasoning_content"] == "Stop one.\n\nStop two.\n\nEnd."
            assert (whole["message"]["content"], whole["matched_stop"]) == (answer, matched)
            assert whole["finish_reason"] == "stop"
            chunks = running.stream(stop=stop)
            assert joined(chunks, "content") == answer
            told = ""
            for chunk in chunks:
                told += chunk["choices"][0]["delta"].get("content") or ""
                assert answer.startswith(told)


NEUTRAL: dict[str, Any] = {
    "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {},
    "logprobs": False, "tools": [], "tool_choice": "auto", "ignore_eos": False, "response_format": {"type": "text"},
    "user": "me", "metadata": {"a": "b"}, "store": True, "parallel_tool_calls": True, "chat_template_kwargs": {"thinking": True},
}  # fmt: skip


def test_what_clients_always_send_is_taken(running: Running) -> None:
    response = running.post(**NEUTRAL)
    assert response.status_code == 200, response.text
    assert "x-specreason-ignored" not in response.headers


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0]"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "It"}]}, "messages[1]"),
        ({"messages": []}, "messages"),
        ({"n": 17}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"specreason": {"threshold": 10}}, "threshold"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(running: Running, fields: Json, param: str) -> None:
    response = running.post({"messages": QUESTION, **fields})
    error = error_of(response)
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert param in error["param"]
    assert param.partition("[")[0] in error["message"]


def test_unknown_fields_are_ignored_and_named(running: Running) -> None:
    for stream in (False, True):
        response = running.post(stream=stream, zebra=1, **{"a b\r\nx: y": 2, "ü" * 200: 3})
        assert response.status_code == 200
        names = response.headers["x-specreason-ignored"].split(", ")
        assert names[:2] == ["zebra", "a?b??x??y"]
        assert names[2] == "?" * 64
        assert "x" not in response.headers


def test_a_conversation_that_is_too_long_says_so_in_the_words_that_clients_look_for(running: Running) -> None:
    for model in ("specreason", "base", "small", "base-direct"):
        response = running.post(model=model, messages=[{"role": "user", "content": "x" * 20_000}])
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
        assert "maximum context length is 10000 tokens" in error["message"]


def test_a_prompt_that_leaves_no_room_to_judge_is_the_askers_fault_and_not_the_engines() -> None:
    with scripted_server(room=700) as running:
        lengths = [700 - number for number in range(0, 700, 20)]
        found = [running.post(messages=[{"role": "user", "content": "x" * length}]) for length in lengths]
        assert {response.status_code for response in found} == {200, 400}
        assert all(
            error_of(response)["code"] == "context_length_exceeded" for response in found if response.status_code == 400
        )


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v1/completions", 404, "POST /v1/completions"),
        ("POST", "/v1/responses", 404, "POST /v1/chat/completions"),
        ("POST", "/v1/messages", 404, "POST /v1/messages"),
        ("POST", "/api/chat", 404, "POST /api/chat"),
        ("GET", "/api/tags", 404, "GET /api/tags"),
        ("POST", "/v1/embeddings", 404, "/v1/embeddings"),
        ("GET", "/v1", 404, "GET /v1 "),
        ("POST", "/v1/chat/completions/", 404, "POST /v1/chat/completions"),
        ("POST", "/v1/v1/chat/completions", 404, "POST /v1/chat/completions"),
        ("POST", "/chat/completions", 404, "POST /v1/chat/completions"),
        ("GET", "/favicon.ico", 404, "favicon"),
        ("GET", "/" + "x" * 5000, 404, "..."),
        ("GET", "/%ff%00%0d%0a", 404, "use POST"),
        ("GET", "/../../etc/passwd", 404, "use POST"),
        ("GET", "/v1/chat/completions", 405, "GET is not allowed here; use POST"),
        ("DELETE", "/v1/models", 405, "DELETE is not allowed here; use GET, HEAD"),
        ("POST", "/", 405, "POST is not allowed"),
        ("OPTIONS", "/v1/chat/completions", 405, "OPTIONS is not allowed"),
        ("BREW", "/coffee", 404, "BREW /coffee"),
        ("PUT", "/v1/models/base", 405, "PUT is not allowed"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(
    running: Running, method: str, path: str, status: int, words: str
) -> None:
    with running.client() as client:
        response = client.request(method, path)
    assert response.status_code == status
    error = error_of(response)
    assert words in error["message"]
    assert error["code"] == ("unsupported_endpoint" if status == 404 else "method_not_allowed")
    assert ("Allow" in response.headers) == (status == 405)
    assert len(response.content) < 1000


def test_a_head_has_no_body(running: Running) -> None:
    with running.client() as client:
        for path in ("/", "/health", "/ready", "/v1/models", "/metrics"):
            response = client.head(path)
            assert (response.status_code, response.content) == (200, b"")
        assert client.head("/v1/chat/completions").status_code == 405


def test_the_page_is_there_and_is_kept_from_reaching_elsewhere(running: Running) -> None:
    response = running.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"


BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"messages": [',
    "a list": b"[]",
    "a number": b"5",
    "null": b"null",
    "not UTF-8": b'{"messages": "\xff\xfe"}',
    "another encoding": '{"messages": []}'.encode("utf-16"),
    "half a character": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "not a number": b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    "endless": b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
    "a huge seed": b'{"messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 400 + b"}",
    "deep": b'{"messages": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "less deep": b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}",
    "deep in an ignored field": b'{"x": ' + b'{"x":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    "deep in a content": b'{"messages": [{"role": "user", "content": ' + b"[" * 900 + b"]" * 900 + b"}]}",
    "deep in options": b'{"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"a": '
    + b"[" * 900 + b"]" * 900 + b"}}",
    "deep in a format": b'{"messages": [{"role": "user", "content": "x"}], "response_format": ' + b"[" * 900 + b"]" * 900 + b"}",
    "wrong messages": b'{"messages": [' + b",".join([b'{"role": 5}'] * 5000) + b"]}",
    "a form": b"messages=hello&model=specreason",
    "a long role": b'{"messages": [{"role": "' + b"r" * 50_000 + b'", "content": "x"}]}',
    "a long model": b'{"model": "' + "ü".encode() * 20_000 + b'", "messages": []}',
    "long options": b'{"messages": [{"role": "user", "content": "x"}], "specreason": {"' + b"o" * 50_000 + b'": 1}}',
}  # fmt: skip


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_body_is_the_clients_fault_in_few_words(running: Running, body: bytes) -> None:
    with running.client() as client:
        response = client.post("/v1/chat/completions", content=body)
    assert response.status_code in (400, 404)
    error_of(response)
    assert len(response.content) < 3000
    assert response.headers["x-request-id"]


def test_ignored_fields_may_be_as_deep_as_json_may_be(running: Running) -> None:
    deep: Any = 1
    for _ in range(900):
        deep = {"x": deep}
    assert running.post(metadata=deep, zebra=deep).status_code == 200


def test_a_body_that_is_too_large_is_refused_by_its_length_or_while_it_comes(running: Running) -> None:
    large = json.dumps({"messages": [{"role": "user", "content": "x" * 200_000}]}).encode()

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(large), 10_000):
            yield large[at : at + 10_000]

    with running.client() as client:
        for content in (large, pieces()):
            response = client.post("/v1/chat/completions", content=content)
            assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
        assert client.post("/v1/chat/completions", json={"messages": QUESTION}).status_code == 200
    small = json.dumps({"messages": QUESTION}).encode()
    with running.client() as client:
        assert client.post("/v1/chat/completions", content=iter([small[:9], small[9:]])).status_code == 200


def raw(running: Running, request: bytes, *, wait_s: float = 5.0) -> bytes:
    """What comes back for these very bytes."""
    where = urlsplit(running.url)
    with socket.create_connection((where.hostname, where.port), timeout=wait_s) as connection:
        connection.sendall(request)
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except TimeoutError:
            pass
        return found


def test_a_client_that_leaves_before_its_body_is_whole_is_no_fault_of_ours(running: Running) -> None:
    before = running.api.metrics.text()
    where = urlsplit(running.url)
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{")
        time.sleep(0.1)
    assert until(lambda: running.api.metrics.text() != before)
    text = running.api.metrics.text().decode()
    assert 'specreason_requests_total{model="",status="499"}' in text
    assert 'status="500"' not in text


def test_nonsense_on_the_wire_is_answered_and_the_server_lives(running: Running) -> None:
    for request in (
        b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00" * 20, b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):  # fmt: skip
        assert not raw(running, request, wait_s=0.3).startswith(b"HTTP/1.1 200")
    assert running.get("/health").status_code == 200


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with scripted_server(settings={"key": KEY}) as made:
        yield made


@pytest.mark.parametrize(
    "header",
    [None, "", KEY, "Bearer", "Bearer x", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", f"Bearer  {KEY}", "Bearer ü"],
)  # fmt: skip
def test_without_the_key_nothing_is_answered_and_nothing_is_told(locked: Running, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    with locked.client() as client:
        for method, path in (
            ("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/base"), ("GET", "/v1/x"),
            ("GET", "/nothing"), ("GET", "/health/"), ("GET", "/metrics/x"),
        ):  # fmt: skip
            response = client.request(method, path, headers=headers)  # type: ignore[arg-type]
            assert response.status_code == 401
            assert error_of(response)["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
            assert KEY not in response.text
        for path in ("/", "/health", "/ready", "/metrics"):
            response = client.get(path, headers=headers)  # type: ignore[arg-type]
            assert response.status_code == 200
            assert KEY not in response.text


def test_with_the_key_all_is_answered_and_it_is_written_nowhere(
    locked: Running, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    with caplog.at_level("DEBUG", logger="sgl_specreason"):
        assert locked.post(headers=headers, zebra=1).status_code == 200
        found = [locked.get(path, headers=headers) for path in ("/v1/models", "/v1/nothing", "/metrics", "/")]
    assert not any(KEY in response.text for response in found)
    assert KEY not in caplog.text
    assert KEY not in repr(locked.api.settings)
    foreign = locked.post(headers=headers | {"Host": "models.example.com"})
    assert foreign.status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example.com", "127.0.0.1.evil.com", "localhost.evil.com:80", "10.0.0.1:8000", ""]
)
def test_without_a_key_a_name_of_another_host_is_refused(running: Running, host: str) -> None:
    """A page of another site whose name suddenly means this machine (DNS rebinding)."""
    for path in ("/v1/models", "/", "/health", "/metrics"):
        response = raw(running, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert response.startswith(b"HTTP/1.1 403")
        assert b"foreign_host" in response


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1:9", "[::1]", "[::1]:8000", "LocalHost:8000"])
def test_local_names_are_answered(running: Running, host: str) -> None:
    response = raw(running, f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert response.startswith(b"HTTP/1.1 200")


def test_pages_of_other_sites_may_not_read_unless_they_are_named(running: Running) -> None:
    origin = "https://chat.example.com"
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    with running.client() as client:
        for response in (
            client.options("/v1/chat/completions", headers=asked), client.get("/v1/models", headers={"Origin": origin}),
        ):  # fmt: skip
            assert not any(name.startswith("access-control") for name in response.headers)
    with scripted_server(settings={"cors_origins": (origin,), "key": KEY}) as open_to:
        key = {"Authorization": f"Bearer {KEY}"}
        with open_to.client() as client:
            preflight = client.options("/v1/chat/completions", headers=asked)
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == origin
            response = client.post(
                "/v1/chat/completions", json={"messages": QUESTION, "stream": True}, headers=key | {"Origin": origin}
            )
            assert response.headers["access-control-allow-origin"] == origin
            assert joined(chunks_of(response.text), "content") == "The answer is 3."
            other = client.get("/v1/models", headers=key | {"Origin": "https://evil.example.com"})
            assert "access-control-allow-origin" not in other.headers
            assert client.post("/v1/chat/completions", json={"messages": QUESTION}, headers=asked).status_code == 401


def test_a_full_queue_says_when_to_come_again_and_openais_client_does() -> None:
    with scripted_server(places=1, queue=0) as running:
        script = running.engines["small"].script
        running.engines["small"].script = lambda prompt, payload: Held("x")
        with running.client() as client:
            first = threading.Thread(target=lambda: running.post())
            first.start()
            assert until(lambda: running.engines["small"].running)
            response = client.post("/v1/chat/completions", json={"messages": QUESTION})
            assert response.status_code == 429
            error = error_of(response)
            assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
            assert 1 <= int(response.headers["retry-after"]) <= 30
            running.engines["small"].script = script
            threading.Timer(0.3, _release, args=(running,)).start()
            with OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=3) as openai:
                reply = openai.chat.completions.create(model="specreason", messages=QUESTION)  # type: ignore[call-overload]
            assert reply.choices[0].message.content == "The answer is 3."
        first.join(10)
        assert running.settles()


def _release(running: Running) -> None:
    for engine in running.engines.values():
        with engine.aborted:
            engine.running.clear()
            engine.aborted.notify_all()


@pytest.mark.parametrize("stream", [False, True])
def test_who_waits_too_long_for_a_place_is_told(stream: bool) -> None:
    with scripted_server(places=1, settings={"patience": Patience(queue_s=0.2)}) as running:
        running.engines["small"].script = lambda prompt, payload: Held("x")
        first = threading.Thread(target=lambda: running.post())
        first.start()
        assert until(lambda: running.engines["small"].running)
        response = running.post(stream=stream)
        assert (response.status_code, error_of(response)["code"]) == (503, "queue_timeout")
        assert response.headers["retry-after"]
        assert (running.house.desk.running, running.house.desk.waiting) == (1, 0)
        _release(running)
        first.join(10)


def test_a_deadline_is_a_status_or_the_last_event_and_frees_the_place() -> None:
    with scripted_server(settings={"patience": Patience(deadline_s=0.4)}) as running:
        running.engines["base"].script = lambda prompt, payload: (
            STORY.says("base", prompt, payload) if payload["sampling_params"]["max_new_tokens"] == 0 else Held("Tw")
        )
        begin = time.monotonic()
        response = running.post(n=3)
        assert (response.status_code, error_of(response)["code"]) == (504, "deadline_exceeded")
        *chunks, error = running.stream()
        assert time.monotonic() - begin < 3
        assert joined(chunks, "reasoning_content") == "One."
        assert (error["error"]["code"], error["error"]["type"]) == ("deadline_exceeded", "server_error")
        assert running.settles(2)
        text = running.api.metrics.text().decode()
        assert 'specreason_cancelled_total{why="deadline_exceeded"} 4.0' in text
        assert "client_gone" not in text


def test_a_reply_in_time_is_not_disturbed_by_its_deadline() -> None:
    with scripted_server(settings={"patience": Patience(deadline_s=30, queue_s=30)}) as running:
        assert running.ask()["choices"][0]["message"]["content"] == "The answer is 3."
        assert joined(running.stream(), "content") == "The answer is 3."
        assert "specreason_cancelled_total{" not in running.api.metrics.text().decode()


def test_a_server_that_ends_takes_no_more_and_ends_what_is_under_way_with_a_word() -> None:
    with scripted_server() as running:
        running.engines["base"].script = lambda prompt, payload: (
            STORY.says("base", prompt, payload) if payload["sampling_params"]["max_new_tokens"] == 0 else Held("Tw")
        )
        found: list[httpx.Response] = []
        asked = [
            threading.Thread(target=lambda stream=stream: found.append(running.post(stream=stream)))  # type: ignore[misc]
            for stream in (True, False)
        ]
        for thread in asked:
            thread.start()
        assert until(lambda: len(running.engines["base"].running) == 2)
        running.api.drain()
        refused = running.post()
        assert (refused.status_code, error_of(refused)["code"]) == (503, "draining")
        assert refused.headers["retry-after"]
        assert running.get("/ready").status_code == 503
        assert running.get("/health").status_code == 200
        _in_its_loop(running)
        for thread in asked:
            thread.join(10)
        assert sorted(response.status_code for response in found) == [200, 503]
        streamed = next(response for response in found if response.status_code == 200)
        *_, error = chunks_of(streamed.text)
        assert error["error"]["code"] == "draining"
        assert running.settles()


def _in_its_loop(running: Running) -> None:
    """Ends everything, as the process does, in the loop of the server."""
    answering = next(iter(running.api.under_way))
    answering._loop.call_soon_threadsafe(running.api.end_all, draining(5))


def test_what_is_being_prepared_when_the_server_ends_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_server() as running:
        prepare = running.house.prepare
        begun, go_on = threading.Event(), threading.Event()

        def slow(question: Any) -> Any:
            begun.set()
            go_on.wait(5)
            return prepare(question)

        monkeypatch.setattr(running.house, "prepare", slow)
        found: list[httpx.Response] = []
        asked = threading.Thread(target=lambda: found.append(running.post()))
        asked.start()
        assert begun.wait(5)
        _in_its_loop(running)
        time.sleep(0.1)
        go_on.set()
        asked.join(10)
        assert (found[0].status_code, error_of(found[0])["code"]) == (503, "draining")
        assert running.engines["small"].requests == []


def test_engines_that_are_away_are_said_and_the_process_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """And when they are back, all is well without a restart."""
    monkeypatch.setattr("sgl_specreason.server.watch.EVERY_S", 0.05)
    with scripted_server(patience_s=0.3, settings={"away_s": 0.3}) as running:
        assert running.get("/ready").status_code == 200
        up = True

        def answers(*_: Any) -> bool:
            return up

        monkeypatch.setattr("sgl_specreason.engines.servers.takes_requests", answers)
        up = False
        assert until(lambda: running.get("/ready").status_code == 503)
        assert until(lambda: running.api.watch.is_away)
        response = running.post()
        assert (response.status_code, error_of(response)["code"]) == (503, "engine_unavailable")
        assert response.headers["retry-after"]
        assert running.get("/health").status_code == 200
        assert "specreason_engine_up" in running.get("/metrics").text
        up = True
        assert until(lambda: running.get("/ready").status_code == 200)
        assert running.ask()["choices"][0]["message"]["content"] == "The answer is 3."


@pytest.mark.parametrize("role", ROLES)
def test_an_engine_that_dies_before_anything_is_written_is_unavailable(role: Any) -> None:
    with scripted_server(patience_s=0.2) as running:
        running.engines[role].close()
        for stream in (False, True):
            response = running.post(stream=stream)
            assert (response.status_code, error_of(response)["code"]) == (503, "engine_unavailable")
        assert running.house.desk.wait_empty(5)


def test_choices_that_find_one_place_only_come_one_after_the_other() -> None:
    with scripted_server(places=1) as running:
        chunks = running.stream(n=3)
        for index in range(3):
            assert joined(chunks, "content", index) == "The answer is 3."
        assert len(running.ask(n=3)["choices"]) == 3
        assert running.post(n=16).status_code == 200


def test_many_streams_at_once_are_all_right_and_no_more_than_the_places() -> None:
    """First come, first served: each begins in the order of its arrival."""
    with scripted_server(places=4) as running:
        most = [0]
        script = running.engines["base"].script

        def watched(prompt: str, payload: Any) -> Any:
            most[0] = max(most[0], running.house.desk.running)
            return script(prompt, payload)

        running.engines["base"].script = watched
        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(lambda number: running.stream(model=("specreason", "base")[number % 2]), range(64)))
        assert {joined(chunks, "content") for chunks in found} == {"The answer is 3."}
        assert {joined(chunks, "reasoning_content") for chunks in found} == {STORY.thought, "I.\n\nTwo.\n\nIII."}
        assert most[0] <= 4
        assert running.settles()


def test_cached_tokens_are_those_of_the_prompt_that_is_counted() -> None:
    """Base's, of its first request, which holds a step too; small may have another tokenizer."""
    with scripted_server() as running:
        running.engines["small"].cached, running.engines["base"].cached = 7, 21
        usage = running.ask()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 21
        running.engines["base"].cached = 10**6
        usage = running.ask()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"]
        assert running.ask(model="small")["usage"]["prompt_tokens_details"]["cached_tokens"] == 7


def test_an_instruction_is_put_after_the_last_question() -> None:
    with scripted_server(settings={"instruction": "Step by step."}) as running:
        running.ask(messages=[*QUESTION, {"role": "assistant", "content": "3"}, {"role": "user", "content": "Sure?"}])
        prompt = "".join(map(chr, running.engines["small"].requests[0]["input_ids"]))
        assert "Sure?\n\nStep by step.<|end|>" in prompt
        assert prompt.count("Step by step.") == 1


def test_an_effort_may_mean_a_threshold() -> None:
    with scripted_server(settings={"thresholds": {"low": 0.0}}) as running:
        assert running.ask(reasoning_effort="low")["specreason"]["acceptance"] == 1
        assert running.ask(reasoning_effort="high")["specreason"]["acceptance"] < 1


def test_thoughts_of_earlier_turns_are_not_sent_again(running: Running) -> None:
    """However a client sends them back, the prompt is the same."""

    def prompt(**assistant: Any) -> Any:
        before = len(running.engines["small"].requests)
        turns = [*QUESTION, {"role": "assistant", **assistant}, {"role": "user", "content": "Sure?"}]
        running.ask(messages=turns)
        return running.engines["small"].requests[before]["input_ids"]

    plain = prompt(content="It is 3.")
    assert prompt(content="<think>x</think>It is 3.") == plain
    assert (
        prompt(content="\n\nIt is 3.", reasoning_content="x", reasoning="x", reasoning_details=[{}], thinking="x")
        == plain
    )
    assert prompt(content="<think>\nx\n</think>\n\nIt is 3.") == plain


def test_questions_with_different_salts_share_no_cache(running: Running) -> None:
    running.ask(cache_salt="mine")
    assert {request.get("extra_key") for request in running.engines["small"].requests[-2:]} == {"mine"}
    running.ask()
    assert running.engines["small"].requests[-1].get("extra_key") in (None, "")


def test_a_connection_is_kept_over_errors_and_replies(running: Running) -> None:
    where = urlsplit(running.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
    try:
        sockets = []
        good = {"messages": QUESTION}
        for body in (b"{", json.dumps(good), b'{"model": "no"}', json.dumps(good | {"stream": True})):
            connection.request("POST", "/v1/chat/completions", body)
            connection.getresponse().read()
            sockets.append(connection.sock)
        assert len(set(map(id, sockets))) == 1
        assert sockets[0] is not None
    finally:
        connection.close()
