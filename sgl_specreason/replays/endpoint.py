"""Owns requests of forced length: an engine writes as many tokens as a trace says, and the program gets a text that ends there.

Judgements are real requests; what they say is not looked at (`trajectory.Replayed.decides`).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from sglang.lang.interpreter import StreamExecutor

from sgl_specreason.engines.endpoint import Endpoint
from sgl_specreason.errors import RequestError
from sgl_specreason.replays.trajectory import Regular, ReplayContexts, Replayed
from sgl_specreason.text.context import Contexts


class ReplayEndpoint(Endpoint):
    """An endpoint for trajectories that follow a trace."""

    def begin(self, contexts: Contexts, prompt: str, contents: Sequence[slice]) -> None:
        assert isinstance(contexts, ReplayContexts)
        contexts.open(self.role, self.vocabulary, self._regular)

    @cached_property
    def _regular(self) -> Regular:
        return Regular.of(self.tokenizer)

    def _generate(
        self, kind: Literal["generate", "select"], s: StreamExecutor, data: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A request for text is made one for exactly as many tokens as the trace says, whatever they are."""
        params, trajectory = data["sampling_params"], s.arguments["trajectory"]
        if not params["max_new_tokens"]:
            return super()._generate(kind, s, data)
        assert isinstance(trajectory, Replayed)
        tokens, ending = trajectory.wanted(self.role, s.text_, params.pop("stop", []))
        params |= {"ignore_eos": True, "max_new_tokens": min(tokens, params["max_new_tokens"])}
        meta, found = super()._generate(kind, s, data)
        if meta["finish_reason"]["type"] == "abort":
            return meta, found
        ids = meta["output_ids"] or ()
        if not len(ids) == meta["account"].completion_tokens == params["max_new_tokens"]:
            raise RequestError(f"{self.role}: wrote {len(ids)} tokens instead of {params['max_new_tokens']}")
        assert isinstance(trajectory.contexts, ReplayContexts)
        text = trajectory.contexts.mark(self.role, self.vocabulary, len(ids), ending)
        return meta | {"text": text, "finish_reason": {"type": "stop"}}, found
