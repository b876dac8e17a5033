"""Owns what running engines hold in memory, as they and this machine say. Knows nothing of what they are used for."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sgl_specreason.engines.cards import GIB, used_gb

if TYPE_CHECKING:
    from sgl_specreason.engines.endpoint import Endpoint


def measured(endpoints: "Mapping[Any, Endpoint]") -> dict[str, Any]:
    """Of each engine what it says of itself (GB), and its processes' resident size where it runs here; of each GPU what is used.

    Nothing of what cannot be known: servers elsewhere, or behind a router.
    """
    found: dict[str, Any] = {}
    for role, endpoint in endpoints.items():
        states = endpoint.server_info.get("internal_states") or [{}]
        said = states[0].get("memory_usage") or {}
        own = {f"{name}_gb": said.get(key) for name, key in (("weights", "weight"), ("cache", "kvcache"))}
        own |= {"cache_tokens": endpoint.server_info.get("max_total_num_tokens")}
        own |= {"resident_gb": _resident_gb(urlsplit(endpoint.base_url).port)}
        found[str(role)] = {name: value for name, value in own.items() if value is not None}
    if cards := used_gb():
        found["gpu_used_gb"] = cards
    return found


def _resident_gb(port: int | None) -> float | None:
    """Of the processes that this one has started to serve at `port`; pages that they share count once for each."""
    import psutil  # type: ignore[import-untyped]

    for process in psutil.Process().children():
        try:
            command = process.cmdline()
            if ["--port", str(port)] in map(list, itertools.pairwise(command)):
                family = process.children(recursive=True)
                return float(sum(member.memory_info().rss for member in family) / GIB)
        except psutil.Error:
            continue
    return None
