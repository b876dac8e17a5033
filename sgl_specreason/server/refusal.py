"""Owns what a client is told where it gets no reply: each kind with its status, type and code. Knows no requests.

Errors have the shape of OpenAI's: {"error": {"message", "type", "param", "code"}}. However long what a client has sent, they
are short.
"""

from collections.abc import Iterable, Sequence

import orjson

from sgl_specreason.errors import SpecReasonError

LONGEST_MESSAGE, LONGEST_PARAM = 2000, 200
"""In bytes, as JSON."""
WRONG, LIMIT, SERVER = "invalid_request_error", "rate_limit_error", "server_error"


class Refusal(SpecReasonError):
    """A request that gets no reply, or a reply that ends here. `retry_after` is in seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.status, self.type, self.code, self.retry_after = status, type, code, retry_after
        self.message = shortened(message, LONGEST_MESSAGE)
        self.param = None if param is None else shortened(param, LONGEST_PARAM)
        self._headers = tuple(headers)
        super().__init__(self.message)

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """What is sent, as JSON or as the last event of a stream."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """What is sent beside it."""
        again = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return dict(self._headers) | again


def shortened(text: str, most: int) -> str:
    """The beginning of a text, in at most so many bytes as JSON; halves of characters are replaced."""
    whole = text[:most].encode("utf-8", "replace").decode()
    short = whole
    while len(orjson.dumps(short)) > most:
        short = short[: len(short) * 7 // 8]
    return short if len(short) == len(text) else f"{short[:-3]}..."


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> Refusal:
    """What was asked cannot be done as it was asked; `param` is the field."""
    return Refusal(400, message, type=WRONG, param=param, code=code)


def unsupported_parameter(param: str, why: str) -> Refusal:
    """A known field that cannot be honoured at this value."""
    return invalid(f"{param} is not supported: {why}", param=param, code="unsupported_parameter")


def unsupported_content(param: str, why: str) -> Refusal:
    """A message of a kind that these models do not read."""
    return invalid(f"{param}: {why}", param=param, code="unsupported_content")


def context_length_exceeded(prompt: int, longest: int) -> Refusal:
    """A conversation that is too long; clients look for these words and this code."""
    return invalid(
        f"This model's maximum context length is {longest} tokens. However, your messages have {prompt} tokens, which leaves no "
        "room for a reply. Please shorten them.",
        param="messages",
        code="context_length_exceeded",
    )


def invalid_api_key() -> Refusal:
    """No key, or a wrong one; which it was is not said."""
    return Refusal(
        401,
        "This server wants its key: Authorization: Bearer KEY.",
        type=WRONG,
        code="invalid_api_key",
        headers=[("WWW-Authenticate", "Bearer")],
    )


def foreign_host() -> Refusal:
    """A page of another site that reaches for a server on this machine."""
    return Refusal(
        403, "Without a key this server answers to local names and pages only.", type=WRONG, code="foreign_host"
    )


def model_not_found(model: str, known: Sequence[str]) -> Refusal:
    return Refusal(
        404,
        f"The model {shortened(model, LONGEST_PARAM)!r} does not exist. There are: {', '.join(known)}.",
        type=WRONG,
        param="model",
        code="model_not_found",
    )


def unsupported_endpoint(path: str, instead: str = "POST /v1/chat/completions") -> Refusal:
    message = f"There is no {shortened(path, LONGEST_PARAM)} here; use {instead}."
    return Refusal(404, message, type=WRONG, code="unsupported_endpoint")


def method_not_allowed(method: str, allowed: Sequence[str]) -> Refusal:
    words = ", ".join(allowed)
    message = f"{shortened(method, LONGEST_PARAM)} is not allowed here; use {words}."
    return Refusal(405, message, type=WRONG, code="method_not_allowed", headers=[("Allow", words)])


def too_large(most: int) -> Refusal:
    return Refusal(413, f"A request has at most {most} bytes here.", type=WRONG, code="request_too_large")


def queue_full(retry_after: int) -> Refusal:
    message = f"Too many requests are waiting. Try again in {retry_after} s."
    return Refusal(429, message, type=LIMIT, code="queue_full", retry_after=retry_after)


def internal(request_id: str = "") -> Refusal:
    """A fault of ours; its words are in the log and not for everyone."""
    where = f" The log has it under {request_id}." if request_id else ""
    return Refusal(500, f"The server has failed.{where}", type=SERVER, code="internal_error")


def engine_failed(message: str) -> Refusal:
    """An engine that answers, but not with what was asked for."""
    return Refusal(502, f"A request to an engine has failed: {message}", type=SERVER, code="engine_failed")


def engine_unavailable(retry_after: int) -> Refusal:
    message = f"The engines cannot be reached. Try again in {retry_after} s."
    return Refusal(503, message, type=SERVER, code="engine_unavailable", retry_after=retry_after)


def draining(retry_after: int) -> Refusal:
    message = "The server is about to stop and takes no more requests."
    return Refusal(503, message, type=SERVER, code="draining", retry_after=retry_after)


def queue_timeout(seconds: float, retry_after: int) -> Refusal:
    message = f"The request has waited for {seconds:g} s without a place."
    return Refusal(503, message, type=SERVER, code="queue_timeout", retry_after=retry_after)


def deadline_exceeded(seconds: float) -> Refusal:
    message = f"The request has not been done within {seconds:g} s."
    return Refusal(504, message, type=SERVER, code="deadline_exceeded")
