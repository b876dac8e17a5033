"""Owns what a user can ask of a run, as it is given to `resolve`. Knows nothing of click."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for; None means: the bench's or the preset's. Without a bench there are no problems.

    `match_acceptance` is the share of drafts that another run kept.
    """

    bench: str | None = None
    methods: tuple[str, ...] = ()
    pair: str | None = None
    base_model: str | None = None
    small_model: str | None = None
    base_url: str | None = None
    small_url: str | None = None
    base_replicas: int = 1
    small_replicas: int = 1
    gpus: str | None = None
    preset: str = "default"
    sweep: str | None = None
    match_acceptance: float | None = None
    prompts: Path | None = None
    data: Path | None = None
    samples: int | None = None
    limit: int | None = None
    seed: int = 0
    concurrency: int | str | None = None
    clients: int = 1
    decode: str | None = None
    decode_tokens: int | None = None
    decode_model: str | None = None
    policy: dict[str, Any]
