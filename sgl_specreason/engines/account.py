"""Owns the account of a request: what it cost. Knows nothing of how it was sent or what for."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sgl_specreason.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The account of one request: token counts, and seconds on the client's monotonic clock.

    `engine_seconds` are the server's own, `queue_seconds` those that it waited for its turn, where the server counts them.
    `retries` is how often it was tried again, None for never; `seconds` holds these tries and the waits between them.
    `accept_length` is how many tokens each of its decode steps gave, where its server speculates.
    """

    engine: str
    kind: Literal["generate", "select"]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    start_s: float
    seconds: float
    engine_seconds: float
    queue_seconds: float | None = None
    retries: int | None = None
    accept_length: float | None = None

    def record(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class Aborted(RequestError):
    """A request that its server ended before its time; `account` says what it had cost by then."""

    def __init__(self, message: str, account: Request) -> None:
        super().__init__(message)
        self.account = account
