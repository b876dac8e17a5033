"""Owns what running engines hold in memory, as they and this machine say. Knows nothing of what they are used for."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sgl_specreason.engines.cards import GIB, used_gb

if TYPE_CHECKING:
    from sgl_specreason.engines.endpoint import Endpoint


def measured(endpoints: "Mapping[Any, Endpoint]") -> dict[str, Any]:
    """Of each engine what it holds, and of each GPU what is used. Nothing of what cannot be known."""
    found: dict[str, Any] = {
        str(role): held(endpoint.server_info, endpoint.base_url) for role, endpoint in endpoints.items()
    }
    if cards := used_gb():
        found["gpu_used_gb"] = cards
    return found


def held(info: dict[str, Any], url: str) -> dict[str, Any]:
    """What an engine says of itself (GB), and its processes' resident size where this process has started it.

    Nothing of what it does not say: a server elsewhere, or behind a router. Graphs are a number or, since some version, several.
    """
    states = info.get("internal_states") or [{}]
    said = states[0].get("memory_usage") or {}
    graphs = said.get("graph")
    found = {
        "weights_gb": said.get("weight"),
        "cache_gb": said.get("kvcache"),
        "cache_tokens": info.get("max_total_num_tokens"),
        "graphs_gb": sum(graphs.values()) if isinstance(graphs, dict) else graphs,
        "resident_gb": _resident_gb(urlsplit(url).port),
    }
    return {name: value for name, value in found.items() if value is not None}


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
