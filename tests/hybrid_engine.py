"""SGLang's server for a tiny hybrid on a CPU: torch computes its layers of Gated DeltaNet, Triton's interpreter the rest.

Scheduler, prefix cache and pool of states are SGLang's own. Run as a program, with the arguments of `sglang.launch_server`.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

from typing import Any

import torch
from sglang.kernels.ops.attention.fla import chunk, fused_recurrent, layernorm_gated
from sglang.kernels.ops.attention.linear import fused_gdn_gating
from sglang.kernels.ops.mamba import causal_conv1d_triton
from torch.nn.functional import conv1d, normalize, silu, softplus

from sgl_specreason.engines import launch
from sgl_specreason.engines.pure_torch import PureTorchPlatform

CHUNK = 64
"""Tokens between the states that SGLang's own kernel returns."""
Tensor = torch.Tensor


def convolved(new: Tensor, before: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """A causal convolution of (channels, tokens) after what came `before`; and what comes before the next tokens."""
    whole = torch.cat([before.to(new.dtype), new], dim=1)
    found = conv1d(whole[None].float(), weight[:, None].float(), groups=len(weight))[0]
    return silu(found).to(new.dtype), whole[:, 1 - weight.shape[1] :]


def causal_conv1d_fn(x: Tensor, weight: Tensor, *_: Any, conv_states: Tensor, **options: Any) -> Tensor:
    out, starts = torch.empty_like(x), options["query_start_loc"].tolist()
    for number, slot in enumerate(options["cache_indices"].tolist()):
        own = slice(starts[number], starts[number + 1])
        before = conv_states[slot] * options["has_initial_state"][number]
        out[:, own], conv_states[slot] = convolved(x[:, own], before, weight)
    return out


def causal_conv1d_update(
    x: Tensor, conv_states: Tensor, weight: Tensor, *_: Any, conv_state_indices: Tensor, **_options: Any
) -> Tensor:
    out = torch.empty_like(x)
    for number, slot in enumerate(conv_state_indices.tolist()):
        found, conv_states[slot] = convolved(x[number][:, None], conv_states[slot], weight)
        out[number] = found[:, 0]
    return out


def gates(a_log: Tensor, a: Tensor, b: Tensor, dt_bias: Tensor, *_: Any, **_options: Any) -> tuple[Tensor, Tensor]:
    return (-a_log.float().exp() * softplus(a.float() + dt_bias.float()))[None], torch.sigmoid(b.float())[None]


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one request: what its tokens get, its last state, and the states before each chunk.

    q, k and v are (tokens, heads, size), g and beta (tokens, heads), a state is (heads, values, keys).
    """
    q, k = (normalize(each.float(), dim=-1).repeat_interleave(v.shape[1] // k.shape[1], 1) for each in (q, k))
    out, before = [], []
    for token in range(len(v)):
        if token % CHUNK == 0:
            before.append(state)
        state = state * g[token].exp()[:, None, None]
        missed = (v[token].float() - torch.einsum("hvk,hk->hv", state, k[token])) * beta[token][:, None]
        state = state + missed[:, :, None] * k[token][:, None, :]
        out.append(torch.einsum("hvk,hk->hv", state, q[token]) * q.shape[-1] ** -0.5)
    return torch.stack(out), state, torch.stack(before)


def chunk_gated_delta_rule(
    *, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, initial_state: Tensor, **options: Any
) -> tuple[Tensor, None, Tensor]:
    outs, states, starts = [], [], options["cu_seqlens"].tolist()
    for number, slot in enumerate(options["initial_state_indices"].tolist()):
        own = slice(starts[number], starts[number + 1])
        parts = (each[0, own] for each in (q, k, v, g, beta))
        out, initial_state[slot], before = delta_rule(*parts, initial_state[slot].float())
        outs.append(out)
        states.append(before)
    # as SGLang's kernel does, it rounds the states before each chunk, and not the last one
    return torch.cat(outs)[None].to(v.dtype), None, torch.cat(states)[None].to(v.dtype)


def packed_decode(
    *, mixed_qkv: Tensor, a: Tensor, b: Tensor, dt_bias: Tensor, initial_state: Tensor, **options: Any
) -> None:
    heads, values, keys = initial_state.shape[1:]
    width = (mixed_qkv.shape[1] - heads * values) // 2
    g, beta = gates(options["A_log"], a, b, dt_bias)
    for number, slot in enumerate(options["ssm_state_indices"].tolist()):
        q, k, v = mixed_qkv[number].split([width, width, heads * values])
        parts = (q.view(1, -1, keys), k.view(1, -1, keys), v.view(1, heads, values), g[0, [number]], beta[0, [number]])
        options["out"][number], initial_state[slot], _ = delta_rule(*parts, initial_state[slot].float())


def gated_norm(self: Any, x: Tensor, z: Tensor) -> Tensor:
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight.float()
    return (scaled * silu(z.float())).to(x.dtype)


if __name__ == "__main__":
    causal_conv1d_triton.causal_conv1d_fn = causal_conv1d_fn
    causal_conv1d_triton.causal_conv1d_update = causal_conv1d_update
    fused_gdn_gating.fused_gdn_gating = gates
    chunk.chunk_gated_delta_rule = chunk_gated_delta_rule
    fused_recurrent.fused_recurrent_gated_delta_rule_packed_decode = packed_decode
    layernorm_gated.RMSNorm.forward = gated_norm
    PureTorchPlatform.support_mamba_cache_extra_buffer = lambda self: True
    # SGLang takes torch's first accelerator for the one in use, which on this machine is one that it has not
    torch.get_device_module = lambda *_: torch.cpu
    torch.cpu.current_device = lambda: torch.device("cpu")
    torch.Tensor.pin_memory = lambda self, *_: self
    launch.main()
