"""Owns one SGLang server as a backend of the programs: one-request `select`, aborts, the account of each request.

Knows nothing of steps, scores or policies. For states that run in the caller's thread (`states.fork`): an exception
inside one of the frontend's own threads would leave every later `s += ...` waiting for ever (SGLang 0.5.23).
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property, lru_cache
from typing import Any, Literal

from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint
from sglang.lang.chat_template import get_chat_template
from sglang.lang.choices import ChoicesDecision, ChoicesSamplingMethod
from sglang.lang.interpreter import StreamExecutor
from sglang.lang.ir import SglSamplingParams

from sgl_specreason.engines.aborts import Aborts
from sgl_specreason.engines.account import Aborted
from sgl_specreason.engines.answers import CONTEXT_FULL, account_of, heard, likelihoods, logprob_of, tokens_of, written
from sgl_specreason.engines.control import Control
from sgl_specreason.engines.flushing import flushed
from sgl_specreason.engines.keys import without_keys
from sgl_specreason.engines.streamed import Streamed
from sgl_specreason.engines.transport import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, Health, Transport
from sgl_specreason.errors import ContextFull, EngineError, EngineGone, RequestError
from sgl_specreason.text.context import Contexts, Prefix, Prompt
from sgl_specreason.text.steps import BLANK_LINE
from sgl_specreason.text.tokenizers import Tokenizer
from sgl_specreason.text.vocabulary import Vocabulary

INFO_TIMEOUT_S = 30.0
PRIORITIES = {"ahead": 0, "needed": 1, "judge": 2}
"""A judge's short prefill goes before long texts, and these before what may not be needed. Too close to preempt each other."""


class Endpoint(RuntimeEndpoint):  # type: ignore[misc]  # sglang ships no types
    """A running SGLang server, with requests made of token ids over pooled connections.

    `role` names it in accounts and errors ("base" or "small"). `workers` are the replicas where it is a router: what a router
    has no route for is asked of each of them. `vocabulary` is the tokenizer's, where that is made already. Raises EngineError
    where no SGLang server answers.
    """

    def __init__(
        self,
        url: str,
        *,
        role: str,
        tokenizer: Tokenizer,
        api_key: str | None = None,
        connections: int = 64,
        timeout_s: float = REQUEST_TIMEOUT_S,
        health: Health | None = None,
        workers: Sequence[str] = (),
        vocabulary: Vocabulary | None = None,
    ) -> None:
        BaseBackend.__init__(self)
        self.role = role
        self.tokenizer = tokenizer
        self.base_url = url.rstrip("/")
        self._api_key = api_key
        self.chat_template = get_chat_template("default")
        self.transport = Transport(
            self.base_url, role=role, api_key=api_key, connections=connections, timeout_s=timeout_s, health=health
        )
        self.replicas = [
            Transport(
                url, role=role, api_key=api_key, connections=2, timeout_s=INFO_TIMEOUT_S, health=Health(patience_s=0)
            )
            for url in workers
        ]
        self._aborts = Aborts(self._abort, f"abort {role}")
        self._labels = lru_cache(maxsize=64)(self.label_tokens)
        self.vocabulary = vocabulary or Vocabulary(tokenizer)
        self.model_info = self.transport.call("GET", "/get_model_info", timeout_s=INFO_TIMEOUT_S, patient=True).content
        if "model_path" not in self.model_info:
            raise EngineError(f"{role}: {self.base_url} answers, but not as an SGLang server")
        self.server_info = self._server_info()

    @property
    def takes_min_p(self) -> bool:
        """SGLang 0.5.23 draws by seed or with min_p, and dies of a request for both; our CPU platform can do both."""
        return not self.server_info.get("enable_deterministic_inference") or self.server_info.get("device") == "cpu"

    def ids(self, text: str) -> list[int]:
        """The token ids of a text of ours, made piece by piece (`steps.pieces`)."""
        return self.vocabulary.ids(text)

    def begin(self, contexts: Contexts, prompt: str, contents: Sequence[slice]) -> None:
        """Enters the prompt that a trajectory has here, in which what others wrote stands at `contents`."""
        with self._failing_as_request_error():
            contexts.begin(self.role, self.vocabulary, prompt, contents)

    def label_tokens(self, text: str, labels: tuple[str, ...]) -> list[int]:
        """The first token of each label after `text`. Raises EngineError where these are not tokens of their own."""
        found = self.vocabulary.first_tokens(text, labels)
        if found is None:
            raise EngineError(f"{self.role}: {', '.join(labels)} are not tokens of their own after {text[-40:]!r}")
        return found

    def generate(self, s: StreamExecutor, sampling_params: SglSamplingParams) -> tuple[str, dict[str, Any]]:
        """One request for text. Raises RequestError if it failed.

        `meta_info` gains "account" (Request), "finish" and "matched" (what ended it), "written" (Written), with
        `return_logprob` what `likelihoods` finds. A state's notes (`states.fork`): `kept` and `parts` are what its text is made
        of (Contexts.prompt), `seed` is the request's, `rid` names one that is made ahead for `abort`, `hear` is told the text as
        it grows, and `scored`, a number of the first parts, gives "tokens_of" (Tokens). Raises Aborted, with the account, where
        it was aborted.
        """
        with self._failing_as_request_error():
            params = {
                key: value for key, value in sampling_params.to_srt_kwargs().items() if value not in (None, [], ())
            }
            params |= {"no_stop_trim": True, "skip_special_tokens": False}
            if "seed" in s.variables:
                params["sampling_seed"] = s.variables["seed"]
            data: dict[str, Any] = {"sampling_params": params}
            if rid := s.variables.get("rid"):
                data["rid"] = rid
            if sampling_params.return_logprob:
                data |= {"return_logprob": True, "top_logprobs_num": sampling_params.top_logprobs_num or 0}
            meta, scored = self._generate("generate", s, data)
            finish = meta["finish_reason"]
            if finish["type"] != "abort" and not meta["account"].completion_tokens and params["max_new_tokens"]:
                raise ContextFull(f"{self.role}: no room for a token after {meta['account'].prompt_tokens}")
            if finish["type"] == "abort":
                raise Aborted(f"{self.role}: request aborted: {finish.get('message', '')}", meta["account"])
            done = written(meta, params.get("stop", []), self.tokenizer, self.vocabulary)
            found = {
                "account": meta["account"], "finish": finish["type"], "matched": finish.get("matched"), "written": done,
            } | scored  # fmt: skip
            if sampling_params.return_logprob:
                found |= likelihoods(meta)
            return done.text, found

    def select(
        self,
        s: StreamExecutor,
        choices: list[str],
        temperature: float,
        choices_method: ChoicesSamplingMethod | None = None,
    ) -> ChoicesDecision:
        """One request that decides among choices by the first token of each; generates nothing.

        `meta_info` holds "logprobs" (natural logs over the whole vocabulary, one per choice, in order), "account", and
        "tokens_of" as in `generate`. Raises RequestError if it failed. The decision is the likeliest choice; `temperature` and
        `choices_method` do not apply.
        """
        with self._failing_as_request_error():
            own = s.variables["parts"][-1] if "parts" in s.variables else s.text_
            _, _, last_piece = own.rpartition(BLANK_LINE)
            data = {
                "sampling_params": {"max_new_tokens": 0, "temperature": 0},
                "return_logprob": True,
                "token_ids_logprob": self._labels(last_piece, tuple(choices)),
            }
            meta, scored = self._generate("select", s, data)
            if not meta.get("output_token_ids_logprobs"):
                raise RequestError(f"{self.role}: no log-probabilities of what the judge may answer came back")
            entries = meta["output_token_ids_logprobs"][0]
            logprobs = [logprob_of(entry) for entry, _ in zip(entries, choices, strict=True)]
            best = max(range(len(choices)), key=logprobs.__getitem__)
            found = {"account": meta["account"], "logprobs": logprobs} | scored
            return ChoicesDecision(decision=choices[best], meta_info=found)

    def commit_lazy_operations(self, s: StreamExecutor) -> None:
        """Nothing: a fork's prefix is shared through the radix cache without a request of its own."""

    def cache_prefix(self, prefix_str: str) -> None:
        """Nothing: the first request of a trajectory caches its prompt."""

    def abort(self, rid: str, over: Callable[[], bool]) -> None:
        """Has the server end the request of this name, and returns at once; `over` says when there is nothing to end."""
        self._aborts.add(rid, over)

    def break_off(self, thread: int) -> None:
        """Breaks off the request that a thread has under way."""
        self.transport.break_off(thread)

    def flush_cache(self) -> None:
        """Empties the server's radix cache, that of each replica. Raises RequestError if one stays busy or it is gone."""
        for replica in self.replicas:
            with suppress(EngineGone):  # one that is down has no cache
                flushed(replica)
        if not self.replicas:
            flushed(self.transport)

    def stop(self) -> None:
        """Refuses every further request, so that running programs end."""
        self._aborts.close()
        for transport in (self.transport, *self.replicas):
            transport.stop()

    def _server_info(self) -> dict[str, Any]:
        """What the server or its first replica says about itself, secrets left out; nothing where none says."""
        silent: list[type[Exception]] = [RequestError, EngineGone] if self.replicas else [RequestError]
        for transport in self.replicas or [self.transport]:
            with suppress(*silent):
                info = transport.call("GET", "/server_info", timeout_s=INFO_TIMEOUT_S, patient=True).content
                known: dict[str, Any] = without_keys(info, self._api_key)
                return known
        return {}

    @cached_property
    def _priority_sign(self) -> int:
        """1 where the server serves higher numbers first, -1 where lower ones, 0 where it has no priorities."""
        if not self.server_info.get("enable_priority_scheduling"):
            return 0
        return -1 if self.server_info.get("schedule_low_priority_values_first") else 1

    def _abort(self, rid: str) -> None:
        name = self.transport.name_of(rid)
        for transport in self.replicas or [self.transport]:  # nobody says which of them has it
            with suppress(EngineError):
                transport.call("POST", "/abort_request", {"rid": name}, timeout_s=CONNECT_TIMEOUT_S, parse=False)

    @contextmanager
    def _failing_as_request_error(self) -> Iterator[None]:
        """Whatever is wrong with an answer, it ends one trajectory and not the run."""
        try:
            yield
        except RequestError as error:
            if CONTEXT_FULL.search(str(error)):
                raise ContextFull(str(error)) from None
            raise
        except EngineError:
            raise
        except Exception as error:
            raise RequestError(f"{self.role}: {type(error).__name__}: {error}") from error

    def _generate(
        self, kind: Literal["generate", "select"], s: StreamExecutor, data: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The request `data` over the text of `s`: its meta_info with "text" and "account", and {"tokens_of": ...} if noted."""
        prompt = self.prompt(s)
        if not len(prompt):
            raise RequestError(f"{self.role}: an empty prompt")
        data["input_ids"] = prompt.json
        if key := getattr(s.arguments.get("trajectory"), "cache_key", ""):
            data["extra_key"] = key
        if sign := self._priority_sign:
            judging = data["sampling_params"]["max_new_tokens"] == 0
            data["priority"] = sign * PRIORITIES["ahead" if "rid" in data else "judge" if judging else "needed"]
        scored = s.variables.get("scored")
        if scored:
            # from the last token before it on: what came earlier stays cached
            data |= {"return_logprob": True, "logprob_start_len": prompt.prefix.tokens - 1}
        trajectory = s.arguments.get("trajectory")
        start = time.monotonic()
        answer, retries = self._sent(
            data,
            getattr(trajectory, "routing_key", None),
            self._listening(s, data),
            getattr(trajectory, "control", None),
        )
        seconds = time.monotonic() - start
        meta = answer["meta_info"]
        account = account_of(meta, engine=self.role, kind=kind, start_s=start, seconds=seconds, retries=retries)
        found = {}
        if scored:
            found["tokens_of"] = tokens_of(prompt, scored, meta["input_token_logprobs"], self.role)
        return {**meta, "text": answer["text"], "output_ids": answer.get("output_ids"), "account": account}, found

    def _listening(self, s: StreamExecutor, data: dict[str, Any]) -> Streamed | None:
        """What reads the answer of a request whose text is wanted as it grows; no half character and nothing after a stop."""
        hear = s.variables.get("hear")
        if hear is None:
            return None
        data["stream"] = True
        stop = data["sampling_params"].get("stop", [])
        incremental = bool(self.server_info.get("incremental_streaming_output"))
        return Streamed(lambda text: hear(heard(text, stop)), incremental=incremental)

    def _sent(
        self, data: dict[str, Any], key: str | None, streamed: Streamed | None, control: Control | None
    ) -> tuple[dict[str, Any], int]:
        """The answer to a request, and how often it was tried again. What a `control` may end has a name."""
        if control is not None:
            data.setdefault("rid", uuid.uuid4().hex)
        with control.sending(self, data["rid"]) if control else nullcontext():
            return self.transport.call(
                "POST", "/generate", data, patient=True, key=key, streamed=streamed, control=control
            )

    def prompt(self, s: StreamExecutor) -> Prompt:
        """The ids of a state's text: of a trajectory's, by its parts; of another program's, as a text of ours."""
        trajectory = s.arguments.get("trajectory")
        if trajectory is None:
            return Prompt(Prefix(), (self.ids(s.text_),))
        contexts: Contexts = trajectory.contexts
        return contexts.prompt(self.role, self.vocabulary, s.variables["kept"], s.variables["parts"])
