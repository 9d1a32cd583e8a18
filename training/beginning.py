"""How a model begins: what retrieval needs is there before the first step, and training makes it good.

Two layers that find what followed the same words before and say it once more (induction heads, arXiv 2209.11895) form by
themselves, but late in so short a run. To begin with what training would find is mimetic initialisation's idea (arXiv
2305.09828). The residual stream is divided into parts of `head_dim`: part 0 holds what a token is, and is what the
tied output reads; part d what the token d places back is. The first layer fills the latter, the second compares them.
"""

import math

import torch
from torch import nn

from training.config import Model as ModelConfig

LOOK_BACK_SHARPNESS = 40.0  # the score at the distance that is looked for; random distances have about 0
MATCH_SHARPNESS = 8.0  # the score of each token that is the same
COMPRESSED_KEY_SIZE = 4.0  # a mean over a window has little left of the one key that matters
COPY_SIZE = 2.5  # of what is copied beside the token's own embedding
SMALL = 0.1  # of the usual size: noise from which training can go anywhere
TINY = 0.01  # of what is written to the residual stream, whose rows are √hidden shorter than what layers read
OPEN = 2.0  # a gate's bias, sigmoid 0.88; a closed one has the negative


def generated(shape, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


@torch.no_grad()
def initialise(decoder: nn.Module, generator: torch.Generator) -> None:
    """Matrices by the size of what they read. Those that write to the residual stream begin small: embeddings of tied
    outputs have length 1, which larger ones would drown."""
    config = decoder.config
    for name, parameter in decoder.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(1.0 if "norm" in name else 0.0)
            continue
        scale = parameter.shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "mlp.down_proj.weight")):
            scale *= TINY
        if name.endswith("gate.down_proj.weight"):
            scale = 0.0  # every gate begins as its bias says
        parameter.copy_(generated(parameter.shape, generator) * scale)
    for module in decoder.modules():
        if hasattr(module, "start_as_mean"):
            module.start_as_mean(generator)
    back, copying = config.previous_token_layers, config.copying_layers
    if back > 0:
        embeddings = decoder.output_matrix
        embeddings[:, : config.head_dim] *= math.sqrt(config.hidden_size / config.head_dim)
        embeddings[:, config.head_dim :] *= SMALL
    parts = Parts(config, generator)
    for layer in decoder.model.layers[:back]:
        look_back(layer.self_attn, config, parts)
    for layer in decoder.model.layers[back : back + copying]:
        copy_what_followed(layer.self_attn, config, parts, generator)


class Parts:
    """Where the residual stream holds what."""

    def __init__(self, config: ModelConfig, generator: torch.Generator):
        size, dim = config.hidden_size, config.head_dim
        self.own = torch.eye(size)[:dim]  # [dim, hidden]: reads what a token is
        self.back = []  # [dim, hidden] each: reads the token 1, 2, … back
        for head in range(config.num_q_heads):
            if (head + 2) * dim <= size:
                self.back.append(torch.eye(size)[(head + 1) * dim : (head + 2) * dim])
                continue
            # Where there is no more room, across the others.
            free = size - dim
            mixed = torch.linalg.qr(generated((max(free, dim), dim), generator))[0].T[:, :free]
            self.back.append(torch.cat([torch.zeros(dim, dim), mixed], 1))


def open_gate(attention: nn.Module, opened: str) -> None:
    if hasattr(attention, "gate"):
        branch = ("cmp", "slc", "win").index(opened)
        bias = attention.gate.down_proj.bias.view(-1, 3)
        bias.fill_(-OPEN)
        bias[:, branch] = OPEN


def gate_value(attention: nn.Module) -> float:
    return 1 / (1 + math.exp(-OPEN)) if hasattr(attention, "gate") else 1.0


def look_back(attention: nn.Module, config: ModelConfig, parts: Parts) -> None:
    """Head h begins by attending to the token h + 1 places back, through biases and RoPE alone: with q = e^{−iδω}·a
    and k = a in every rotated pair, q·k is largest at distance δ. It writes what that token is to part h + 1."""
    q_proj, k_proj = attention.local_projections()
    for projection in (q_proj, k_proj):
        projection.weight *= SMALL  # what the tokens are must not drown where they are
    half, dim = config.head_dim // 2, config.head_dim
    frequencies = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    # Slow pairs tell one distance from the next no better than nothing.
    amplitude = torch.where(frequencies > 0.05, 1.0, 0.0)
    amplitude *= math.sqrt(LOOK_BACK_SHARPNESS * math.sqrt(dim) / amplitude.sum().item())
    k_proj.bias.view(-1, 2, half)[:] = torch.stack([amplitude, torch.zeros(half)]).float()
    for head in range(config.num_q_heads):
        angle = -(head + 1) * frequencies
        pair = torch.stack([amplitude * angle.cos(), amplitude * angle.sin()])
        q_proj.bias.view(-1, 2, half)[head] = pair.float()
    open_gate(attention, "win")
    value = attention.win_v_proj if hasattr(attention, "gate") else attention.v_proj
    value.weight *= SMALL
    value.weight.view(-1, dim, config.hidden_size)[:] += parts.own
    written = 1 / (math.sqrt(config.hidden_size) * gate_value(attention))
    for head in range(config.num_q_heads):
        attention.o_proj.weight[:, head * dim : (head + 1) * dim] += written * parts.back[head].T


def copy_what_followed(attention: nn.Module, config: ModelConfig, parts: Parts, generator: torch.Generator) -> None:
    """Every head attends to tokens before which stands what stands at the query and before it, and copies them."""
    dim, size, heads = config.head_dim, config.hidden_size, config.num_q_heads
    turns = [torch.linalg.qr(generated((dim, dim), generator))[0] for _ in range(heads)]
    before_query = [parts.own, *parts.back[:-1]]
    # What is normalised holds 1 + heads vectors of the same length.
    length = math.sqrt(size / (1 + heads))
    scale = math.sqrt(MATCH_SHARPNESS * math.sqrt(dim)) / length
    key = scale * sum(turn @ part for turn, part in zip(turns, parts.back))
    attention.q_proj.weight *= SMALL
    for head in range(heads):
        counted = range(heads - head if head < heads - 1 else heads)
        query = scale * sum(turns[i] @ before_query[i] for i in counted)
        attention.q_proj.weight[head * dim : (head + 1) * dim] += query
    branches = ("slc", "cmp") if hasattr(attention, "gate") else ("",)
    for branch in branches:
        for kind, weight in (("k", key), ("v", parts.own)):
            projection = getattr(attention, f"{branch}_{kind}_proj" if branch else f"{kind}_proj")
            projection.weight *= SMALL
            projection.weight.view(-1, dim, size)[:] += weight
    if hasattr(attention, "gate"):
        attention.win_v_proj.weight *= SMALL
        # Here and not in the projection, which has more to learn: Muon's steps are of one size for all matrices.
        attention.compress_k.down_proj.weight *= COMPRESSED_KEY_SIZE
    open_gate(attention, "slc")
    written = COPY_SIZE / (heads * gate_value(attention) * length)
    for head in range(heads):
        attention.o_proj.weight[:, head * dim : (head + 1) * dim] += written * parts.own.T
