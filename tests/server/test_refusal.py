"""What a client is told in place of a reply: short, in OpenAI's shape, whatever it has sent."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_specreason.server import refusal
from sgl_specreason.server.refusal import Refusal

KINDS: dict[str, tuple[Refusal, int, str, str | None]] = {
    "a wrong value": (refusal.invalid("n = 0: wants 1", param="n"), 400, "invalid_request_error", None),
    "a field": (refusal.unsupported_parameter("tools", "no"), 400, "invalid_request_error", "unsupported_parameter"),
    "a message": (refusal.unsupported_content("messages[0]", "no"), 400, "invalid_request_error", "unsupported_content"),
    "too long": (
        refusal.context_length_exceeded(9000, 4096), 400, "invalid_request_error", "context_length_exceeded"
    ),
    "no key": (refusal.invalid_api_key(), 401, "invalid_request_error", "invalid_api_key"),
    "another site": (refusal.foreign_host(), 403, "invalid_request_error", "foreign_host"),
    "another model": (refusal.model_not_found("x", ["a", "b"]), 404, "invalid_request_error", "model_not_found"),
    "another route": (refusal.unsupported_endpoint("/v1/x"), 404, "invalid_request_error", "unsupported_endpoint"),
    "another verb": (refusal.method_not_allowed("PUT", ["POST"]), 405, "invalid_request_error", "method_not_allowed"),
    "a large body": (refusal.too_large(8_000_000), 413, "invalid_request_error", "request_too_large"),
    "a long queue": (refusal.queue_full(7), 429, "rate_limit_error", "queue_full"),
    "a fault": (refusal.internal("chatcmpl-1"), 500, "server_error", "internal_error"),
    "a bad answer": (refusal.engine_failed("base: 500"), 502, "server_error", "engine_failed"),
    "no engine": (refusal.engine_unavailable(5), 503, "server_error", "engine_unavailable"),
    "the end": (refusal.draining(5), 503, "server_error", "draining"),
    "a long wait": (refusal.queue_timeout(60, 5), 503, "server_error", "queue_timeout"),
    "too late": (refusal.deadline_exceeded(1.5), 504, "server_error", "deadline_exceeded"),
}  # fmt: skip


@pytest.mark.parametrize(("found", "status", "kind", "code"), KINDS.values(), ids=KINDS)
def test_each_kind_has_its_status_type_and_code(found: Refusal, status: int, kind: str, code: str | None) -> None:
    assert (found.status, found.type, found.code) == (status, kind, code)
    assert found.body == {"error": {"message": str(found), "type": kind, "param": found.param, "code": code}}
    assert str(found)


def test_what_clients_look_for_is_there() -> None:
    """Retry-After where it is worth trying again, the way to give a key, the verbs, and the words for a full context."""
    assert refusal.queue_full(7).headers == {"Retry-After": "7"}
    assert refusal.engine_unavailable(5).headers == refusal.draining(5).headers == {"Retry-After": "5"}
    assert refusal.invalid_api_key().headers == {"WWW-Authenticate": "Bearer"}
    assert refusal.method_not_allowed("PUT", ["GET", "HEAD"]).headers == {"Allow": "GET, HEAD"}
    assert refusal.internal().headers == {}
    assert "maximum context length is 4096 tokens" in refusal.context_length_exceeded(9000, 4096).message
    assert "a, b" in refusal.model_not_found("x", ["a", "b"]).message


LONG = st.one_of(st.text(), st.sampled_from(["\x00", "é", "\ud800", '"', "🙂", "\\"]).map(lambda part: part * 100_000))


@given(LONG, LONG)
def test_no_error_is_long(words: str, param: str) -> None:
    made = [
        refusal.invalid(words, param=param),
        refusal.model_not_found(words, ["a"]),
        refusal.unsupported_endpoint(words),
        refusal.method_not_allowed(words, ["POST"]),
        refusal.engine_failed(words),
    ]
    assert all(len(orjson.dumps(found.body)) < 4000 for found in made)


def test_a_message_is_cut_where_it_is_too_long_and_only_there() -> None:
    assert refusal.invalid("x" * 1998).message == "x" * 1998
    cut = refusal.invalid("x" * 3000).message
    assert cut.endswith("...")
    assert cut.startswith("x" * 1000)
