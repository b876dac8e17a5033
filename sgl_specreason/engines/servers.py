"""Owns the two SGLang servers of a run: how they are started, and which run already.

Knows nothing of problems or policies.
"""

import json
import os
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import urllib3

from sgl_specreason.engines.keeper import Engine
from sgl_specreason.engines.transport import Health
from sgl_specreason.errors import UsageError
from sgl_specreason.text.steps import Author

INFO_TIMEOUT_S, PROBE_TIMEOUT_S, TOKEN_TIMEOUT_S = 30.0, 5.0, 20.0
MODELS = "SGLANG_EXTERNAL_MODEL_PACKAGE", "sgl_specreason.engines.models"
ONE_TOKEN = {"input_ids": [0], "sampling_params": {"max_new_tokens": 1, "temperature": 0}}
ROLES: tuple[Author, ...] = ("small", "base")
"""In the order of their start on GPUs: what small leaves free, base shares out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """How one engine is started: its model (a folder or hub id) and SGLang's own arguments for it.

    It takes requests with the key `api_key` only. With several `replicas` a router stands before them (`replicas.py`): each
    sits `cards_apart` GPUs after the last one. `number` is which of them this is.
    """

    role: Author
    model: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    replicas: int = 1
    cards_apart: int = 0
    number: int | None = None

    @property
    def name(self) -> str:
        """ "base", or "base-2" for the second of several."""
        return self.role if self.number is None else f"{self.role}-{self.number}"

    @property
    def title(self) -> str:
        return f"{self.name} engine"

    def is_ready(self, url: str) -> bool:
        """Whether it computes: it takes requests, and a token comes back.

        SGLang's own /health asks the same and looks for the answer once a second. It is asked where an older server has no
        /ready, or refuses the question.
        """
        key = {"Authorization": f"Bearer {self.api_key}"}
        taking = _status("GET", f"{url}/ready", key)
        if taking == 200 and _status("POST", f"{url}/generate", key, json=ONE_TOKEN, timeout=TOKEN_TIMEOUT_S) == 200:
            return True
        return taking in (200, 404) and _status("GET", f"{url}/health", key) == 200

    @property
    def on_cpu(self) -> bool:
        """Whether it needs no GPU. What others leave free matters to it no more than what it takes matters to them."""
        return ("--device", "cpu") in pairwise(self.args)

    def command(self, port: int | str, module: str = "sgl_specreason.engines.launch") -> list[str]:
        """The command line that serves it on 127.0.0.1:`port`, with the key in $SPECREASON_ENGINE_KEY."""
        head = [sys.executable, "-m", module, "--model-path", self.model]
        return [*head, "--host", "127.0.0.1", "--port", str(port), *self.args]

    def shell(self, port: int | str = "PORT") -> str:
        """The same for a person to read, with its environment and without its key."""
        settings = [f"{key}={shlex.quote(value)}" for key, value in self.env.items()]
        return " ".join([*settings, shlex.join(self.command(port, "sglang.launch_server"))])


def _status(
    method: str, url: str, headers: dict[str, str], *, timeout: float = PROBE_TIMEOUT_S, **body: Any
) -> int | None:
    """The HTTP status that comes back; None where nothing answers."""
    try:
        return urllib3.request(method, url, headers=headers, timeout=timeout, retries=False, **body).status
    except urllib3.exceptions.HTTPError:
        return None


def number_given(args: Sequence[str], *options: str) -> int | None:
    """The last whole number that these arguments give to one of SGLang's options of these names; None where there is none."""
    words = [word for arg in args for word in arg.split("=", 1)]
    values = [value for word, value in pairwise(words) if word in options and value.isdecimal()]
    return int(values[-1]) if values else None


def cpu_args(max_total_tokens: int) -> tuple[str, ...]:
    """SGLang's arguments for a tiny model on a machine without a GPU.

    Idle schedulers would spin a core each without --sleep-on-idle; SGLang takes a request's sampling seed only with
    --enable-deterministic-inference; a fraction of free memory alone is unstable
    beside other processes, so the cache is pinned in tokens. SGLang's own warm-up waits for a second; the first question that is
    asked here (is_ready) computes a token, too.
    """
    return (
        "--device", "cpu", "--dtype", "float32", "--sleep-on-idle", "--disable-overlap-schedule",
        "--attention-backend", "torch_native", "--enable-deterministic-inference",
        "--mem-fraction-static", "0.6", "--max-total-tokens", str(max_total_tokens), "--log-level", "warning",
        "--skip-server-warmup",
    )  # fmt: skip


def cpu_env() -> dict[str, str]:
    """Half of the cores for each engine: more threads than cores make both many times slower. And few models to import."""
    threads = str(max(1, min(4, (os.cpu_count() or 2) // 2)))
    own = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return own | ({} if MODELS[0] in os.environ else dict([MODELS]))


def attached(role: Author, url: str, api_key: str | None, health: Health) -> Engine:
    """A server that runs already. Raises UsageError, with what it says, if no SGLang server answers at `url`."""
    info, trouble = _asked(url, "/get_model_info", api_key, PROBE_TIMEOUT_S)
    if "model_path" not in info:
        words = trouble or "it answers, but not as an SGLang server"
        raise UsageError(f"--{role}-url {url}: {words}")
    tokenizer = info.get("tokenizer_path")
    return Engine(
        role=role,
        url=url.rstrip("/"),
        model=str(info["model_path"]),
        tokenizer=tokenizer if isinstance(tokenizer, str) else None,
        api_key=api_key,
        health=health,
    )


def info(engine: Engine) -> dict[str, Any]:
    """What a running server, or a router's first replica, says of itself; empty where none says anything."""
    return said(next(iter(engine.workers), engine.url), "/server_info", engine.api_key, INFO_TIMEOUT_S)


def probe(url: str, api_key: str | None = None) -> dict[str, Any] | None:
    """What the SGLang server at `url` says of its model, or None where none answers."""
    info = said(url, "/get_model_info", api_key)
    return info if "model_path" in info else None


def takes_requests(engine: Engine) -> bool:
    """Whether a server takes requests now, without computing anything; of one that has no route for that (a router, an older
    server) whether it answers at all."""
    try:
        status = urllib3.request("GET", f"{engine.url}/ready", timeout=PROBE_TIMEOUT_S, retries=False).status
    except urllib3.exceptions.HTTPError:
        return False
    return status == 200 or (status != 503 and probe(engine.url, engine.api_key) is not None)


def said(url: str, path: str, api_key: str | None = None, timeout_s: float = PROBE_TIMEOUT_S) -> dict[str, Any]:
    """The JSON object at an address; empty where none comes in time."""
    return _asked(url, path, api_key, timeout_s)[0]


def _asked(url: str, path: str, api_key: str | None, timeout_s: float) -> tuple[dict[str, Any], str]:
    """The JSON object at an address; or none, and why."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        reply = urllib3.request("GET", url.rstrip("/") + path, headers=headers, timeout=timeout_s, retries=False)
    except urllib3.exceptions.HTTPError:
        return {}, "no SGLang server answers there; start one with python -m sglang.launch_server"
    if reply.status in (401, 403):
        given = "the key that was given is not its" if api_key else "it wants a key"
        return {}, f"{given} (HTTP {reply.status}); give it in $SPECREASON_API_KEY or with --api-key"
    if reply.status != 200:
        words = " ".join(reply.data[:200].decode("utf-8", "replace").split())
        return {}, f"it answers HTTP {reply.status}{f': {words}' if words else ''}"
    try:
        info = json.loads(reply.data)
    except (ValueError, RecursionError):
        info = None
    return (info, "") if isinstance(info, dict) else ({}, "it answers, but not as an SGLang server")
