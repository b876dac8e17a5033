"""Owns one SGLang server as a backend of the programs: one-request `select`, aborts, the account of each request.

Knows nothing of steps, scores or policies. For states that run in the caller's thread (`states.fork`): an exception
inside one of the frontend's own threads would leave every later `s += ...` waiting for ever (SGLang 0.5.23).
"""

import math
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from typing import Any, Literal

from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint
from sglang.lang.chat_template import get_chat_template
from sglang.lang.choices import ChoicesDecision, ChoicesSamplingMethod
from sglang.lang.interpreter import StreamExecutor
from sglang.lang.ir import SglSamplingParams

from sgl_specreason.engines.account import Aborted
from sgl_specreason.engines.answers import Tokens, account_of, cut_at, logprob_of
from sgl_specreason.engines.flushing import flushed
from sgl_specreason.engines.keys import without_keys
from sgl_specreason.engines.transport import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, Health, Transport
from sgl_specreason.errors import ContextFull, EngineError, EngineGone, RequestError
from sgl_specreason.text.context import Contexts, Prompt
from sgl_specreason.text.steps import BLANK_LINE
from sgl_specreason.text.tokenizers import Tokenizer
from sgl_specreason.text.vocabulary import Vocabulary

INFO_TIMEOUT_S = 30.0
NUMBER_STRIDE = 1_000_003
_CONTEXT_FULL = re.compile(
    "model's (?:maximum )?context length|the maximum allowed length|exceeds the KV memory budget|even after retracting all"
)
"""In SGLang's words for a request that fits its model's context or its cache no longer (0.5.23)."""
PRIORITIES = {"ahead": 0, "needed": 1, "judge": 2}
"""A judge's short prefill goes before long texts, and these before what may not be needed. Too close to preempt each other."""


class Endpoint(RuntimeEndpoint):  # type: ignore[misc]  # sglang ships no types
    """A running SGLang server, with requests made of token ids over pooled connections.

    `role` names it in accounts and errors ("base" or "small"). `workers` are the replicas where it is a router: what a router
    has no route for is asked of each of them. Raises EngineError where no SGLang server answers.
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
        self._aborter = ThreadPoolExecutor(1, thread_name_prefix=f"abort {role}")
        self._labels = lru_cache(maxsize=64)(self.label_tokens)
        self.vocabulary = Vocabulary(tokenizer)
        self.model_info = self.transport.call("GET", "/get_model_info", timeout_s=INFO_TIMEOUT_S, patient=True).content
        if "model_path" not in self.model_info:
            raise EngineError(f"{role}: {self.base_url} answers, but not as an SGLang server")
        self.server_info = self._server_info()

    def ids(self, text: str) -> list[int]:
        """The token ids of a text of ours, made piece by piece (`steps.pieces`)."""
        return self.vocabulary.ids(text)

    def begin(self, contexts: Contexts, prompt: str, content: slice) -> None:
        """Enters the prompt that a trajectory has here, in which the user's message stands at `content`."""
        with self._failing_as_request_error():
            contexts.begin(self.role, self.vocabulary, prompt, content)

    def label_tokens(self, prompt: str, labels: Sequence[str]) -> list[int]:
        """The first token of each label after `prompt`.

        Raises EngineError where a label merges with the prompt, a digit is more than one token, or two labels begin alike.
        """
        before, found = self.ids(prompt), []
        for label in labels:
            after = self.ids(prompt + label)
            rest = after[len(before) :]
            if after[: len(before)] != before or not rest or (label.isdigit() and len(rest) != 1):
                raise EngineError(
                    f"{self.role}: {label!r} is not one token of its own after {prompt[-40:]!r}; change the prompt's ending"
                )
            found.append(rest[0])
        if len(set(found)) < len(found):
            raise EngineError(f"{self.role}: {', '.join(labels)} do not differ in their first token")
        return found

    def generate(self, s: StreamExecutor, sampling_params: SglSamplingParams) -> tuple[str, dict[str, Any]]:
        """One request for text. Raises RequestError if it failed.

        `meta_info` gains "account" (Request), "finish", with `return_logprob` "confidence" (the mean probability of what was
        written), and what the state's notes ask for: `likelihood_of`, a text at the beginning of what the fork has
        appended, gives "tokens_of" (Tokens); `number` makes another sample of the same seed; `rid` names the
        request, for `abort`; `own` is what of the text, at its end, no model wrote. Raises Aborted, with the account, where it
        was aborted.
        """
        with self._failing_as_request_error():
            params = {
                key: value for key, value in sampling_params.to_srt_kwargs().items() if value not in (None, [], ())
            }
            params |= {"no_stop_trim": True, "skip_special_tokens": False}
            seed = getattr(s.arguments.get("trajectory"), "sampling_seed", None)
            if seed is not None:
                params["sampling_seed"] = (seed + NUMBER_STRIDE * s.variables.get("number", 0)) % 2**31
            data: dict[str, Any] = {"sampling_params": params}
            if rid := s.variables.get("rid"):
                data["rid"] = rid
            if sampling_params.return_logprob:
                data["return_logprob"] = True
            meta, scored = self._generate("generate", s, data)
            text, finish = meta["text"], meta["finish_reason"]
            if finish["type"] != "abort" and not meta["account"].completion_tokens and params["max_new_tokens"]:
                raise ContextFull(f"{self.role}: no room for a token after {meta['account'].prompt_tokens}")
            if finish["type"] == "abort":
                raise Aborted(f"{self.role}: request aborted: {finish.get('message', '')}", meta["account"])
            if isinstance(finish.get("matched"), int):
                text = text.removesuffix(self.tokenizer.decode([finish["matched"]]))
            text = cut_at(text, params.get("stop", []))
            if text == meta["text"] and "\ufffd" not in text:  # else the ids are not those of the text
                _contexts(s).wrote(self.vocabulary, text, meta["output_ids"])
            found = {"account": meta["account"], "finish": finish["type"]} | scored
            if sampling_params.return_logprob:
                written = [math.exp(logprob_of(entry)) for entry in meta["output_token_logprobs"]]
                found["confidence"] = sum(written) / len(written) if written else None
            return text, found

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
            _, _, last_piece = (_own(s) or s.text_[s.fork_start_text_pos or 0 :]).rpartition(BLANK_LINE)
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

    def abort(self, rid: str) -> None:
        """Has the server end the request of this name, and returns at once. Where that fails, the request runs to its end."""
        if not self.transport.stopped.is_set():
            self._aborter.submit(self._abort, rid)

    def flush_cache(self) -> None:
        """Empties the server's radix cache, that of each replica. Raises RequestError if one stays busy or it is gone."""
        for replica in self.replicas:
            with suppress(EngineGone):  # one that is down has no cache
                flushed(replica)
        if not self.replicas:
            flushed(self.transport)

    def stop(self) -> None:
        """Refuses every further request, so that running programs end."""
        self._aborter.shutdown(wait=False, cancel_futures=True)
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
            if _CONTEXT_FULL.search(str(error)):
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
        scored = s.variables.get("likelihood_of")
        if scored:
            # from the last token before it on: what came earlier stays cached
            data |= {"return_logprob": True, "logprob_start_len": prompt.prefix.tokens - 1}
        start = time.monotonic()
        key = getattr(s.arguments.get("trajectory"), "routing_key", None)
        answer, retries = self.transport.call("POST", "/generate", data, patient=True, key=key)
        seconds = time.monotonic() - start
        meta = answer["meta_info"]
        account = account_of(meta, engine=self.role, kind=kind, start_s=start, seconds=seconds, retries=retries)
        found = {}
        if scored:
            found["tokens_of"] = self._tokens_of(s, scored, prompt.suffix, meta["input_token_logprobs"])
        return {**meta, "text": answer["text"], "output_ids": answer.get("output_ids"), "account": account}, found

    def prompt(self, s: StreamExecutor) -> Prompt:
        """The ids of a state's text: what it was forked at is its context, which only grows; else all of it is."""
        context = len(s.text_) if s.fork_start_text_pos is None else s.fork_start_text_pos
        return _contexts(s).prompt(self.role, self.vocabulary, s.text_, context, len(_own(s)))

    def _tokens_of(self, s: StreamExecutor, text: str, token_ids: list[int], entries: list[Any]) -> Tokens:
        """The tokens that make up `text`, which the prompt's last `token_ids` begin with."""
        count = min(_contexts(s).length(self.vocabulary, text), len(token_ids))
        entries = entries[len(entries) - len(token_ids) :][:count]
        if [entry[1] for entry in entries] != token_ids[:count]:
            raise RequestError(f"{self.role}: the log-probabilities are not those of the step")
        return Tokens(ids=tuple(token_ids[:count]), logprobs=tuple(map(logprob_of, entries)))


def _contexts(s: StreamExecutor) -> Contexts:
    """What its trajectory has sent so far; nothing for a program without one."""
    contexts = getattr(s.arguments.get("trajectory"), "contexts", None)
    return contexts if isinstance(contexts, Contexts) else Contexts()


def _own(s: StreamExecutor) -> str:
    """What of its text, at the end, no model wrote; of a program without a trajectory all of it."""
    return str(s.variables.get("own", "")) if "trajectory" in s.arguments else s.text_
