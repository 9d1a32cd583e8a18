"""The decoder that is trained, as engine/models loads it: `nsa_paper`, or its full-attention twin `llama`.

Parameters have the names of the checkpoint's tensors, so that an export is the state as it is. Sequences are packed one
after another; `cu_seqlens` int64 [sequences + 1] holds their offsets.
"""

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional

from training import beginning, ops
from training.config import Model as ModelConfig
from training.selection import SelectionLoss

BRANCHES = ("cmp", "slc", "win")


def positions(cu_seqlens: torch.Tensor) -> torch.Tensor:
    """int64 [tokens]: each token's place in its sequence."""
    lengths = cu_seqlens.diff()
    return torch.arange(int(cu_seqlens[-1])) - torch.repeat_interleave(cu_seqlens[:-1], lengths)


class Rotation:
    """RoPE over pairs (i, i + dim/2), for the tokens of one batch."""

    def __init__(self, positions: torch.Tensor, head_dim: int, theta: float):
        # float64, as positions reach 2^17 and angles are taken modulo 2π.
        frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angles = positions.double()[:, None] * frequencies
        self.cos, self.sin = angles.cos()[:, None].float(), angles.sin()[:, None].float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [tokens, heads, dim]."""
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1)


class RmsNorm(nn.Module):
    def __init__(self, size: int, epsilon: float):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(size)), epsilon

    def forward(self, x):
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)


class WindowMlp(nn.Module):
    """φ of Eq. 7: down · act(up · vec(x + position)), the mean at the start: act(x) − act(−x) = x for SiLU, so
    that with up = (M; −M) and down = (I, −I), M the mean over tokens, φ is M. Further rows meet a down of 0."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.length, self.stride, dim = config.compression_length, config.compression_stride, config.head_dim
        self.position = nn.Parameter(torch.zeros(self.length, dim))
        self.up_proj = nn.Linear(self.length * dim, config.compression_hidden_size, bias=False)
        self.down_proj = nn.Linear(config.compression_hidden_size, dim, bias=False)

    @torch.no_grad()
    def start_as_mean(self, generator: torch.Generator) -> None:
        dim = self.position.shape[1]
        mean = torch.eye(dim).repeat(1, self.length) / self.length
        noise = torch.randn(self.up_proj.weight.shape, generator=generator)
        self.up_proj.weight.copy_(noise / math.sqrt(self.up_proj.in_features))
        self.up_proj.weight[: 2 * dim] = torch.cat([mean, -mean])
        self.down_proj.weight.zero_()
        self.down_proj.weight[:, :dim] = torch.eye(dim)
        self.down_proj.weight[:, dim : 2 * dim] = -torch.eye(dim)
        self.position.zero_()

    def forward(self, x, cu_seqlens):
        """x [tokens, KV heads, dim] -> [windows, KV heads, dim]."""
        windows = ops.gather_windows(x, self.position, cu_seqlens, self.length, self.stride)
        return self.down_proj(functional.silu(self.up_proj(windows)))


class Gate(nn.Module):
    """sigmoid(MLP(x)) for each head and branch; 1/2 at the start."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.gate_hidden_size)
        self.down_proj = nn.Linear(config.gate_hidden_size, 3 * config.num_q_heads)

    def forward(self, x):
        """[tokens, hidden] -> [tokens, heads, 3]."""
        gates = self.down_proj(functional.silu(self.up_proj(x))).sigmoid()
        return gates.view(len(x), -1, 3)


class NsaAttention(nn.Module):
    """Eq. 5: three branches with K and V of their own, one query, RoPE in the window branch alone. Without positions,
    what compression and selection have learned at 1k tokens holds at 64k."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.spec = ops.Spec(
            compression_length=config.compression_length,
            compression_stride=config.compression_stride,
            sel_block_size=config.sel_block_size,
            num_selected_blocks=config.num_selected_blocks,
            num_initial_blocks=config.num_initial_blocks,
            num_local_blocks=config.num_local_blocks,
            window_size=config.window_size,
            scale=config.head_dim**-0.5,
        )
        size, dim = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(size, config.num_q_heads * dim, config.qkv_bias)
        for branch in BRANCHES:
            for kind in "kv":
                projection = nn.Linear(size, config.num_kv_heads * dim, config.qkv_bias)
                self.add_module(f"{branch}_{kind}_proj", projection)
        self.compress_k, self.compress_v = WindowMlp(config), WindowMlp(config)
        self.gate = Gate(config)
        self.o_proj = nn.Linear(config.num_q_heads * dim, size, bias=False)

    def local_projections(self):
        """(of queries, of keys) of the branch that knows positions."""
        return self.q_proj, self.win_k_proj

    def forward(self, x, cu_seqlens, rotation: Rotation, judged: SelectionLoss | None):
        dim, spec = self.config.head_dim, self.spec

        def heads(name: str):
            return getattr(self, name)(x).view(len(x), -1, dim).float()

        q = heads("q_proj")
        k_hat = self.compress_k(heads("cmp_k_proj"), cu_seqlens).float()
        v_hat = self.compress_v(heads("cmp_v_proj"), cu_seqlens).float()
        compressed, _, selected = ops.cmp_attention(q, k_hat, v_hat, cu_seqlens, spec)
        k = heads("slc_k_proj")
        chosen = ops.selected_attention(q, k, heads("slc_v_proj"), selected, cu_seqlens, spec)
        if judged is not None:
            judged.add(q, k, k_hat, cu_seqlens, spec)
        near_k = rotation(heads("win_k_proj"))
        near = ops.window_attention(
            rotation(q), near_k, heads("win_v_proj"), cu_seqlens, spec.window_size, spec.scale
        )
        gates = self.gate(x)[..., None]
        mixed = gates[:, :, 0] * compressed + gates[:, :, 1] * chosen + gates[:, :, 2] * near
        return self.o_proj(mixed.flatten(1))


class FullAttention(nn.Module):
    """Causal attention over everything, as Llama has it."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        size, dim = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(size, config.num_q_heads * dim, config.qkv_bias)
        self.k_proj = nn.Linear(size, config.num_kv_heads * dim, config.qkv_bias)
        self.v_proj = nn.Linear(size, config.num_kv_heads * dim, config.qkv_bias)
        # The family's attention_bias speaks of the output's too.
        self.o_proj = nn.Linear(config.num_q_heads * dim, size, config.qkv_bias)

    def local_projections(self):
        return self.q_proj, self.k_proj

    def forward(self, x, cu_seqlens, rotation: Rotation, judged: SelectionLoss | None):
        dim = self.config.head_dim
        q, k, v = (p(x).view(len(x), -1, dim).float() for p in (self.q_proj, self.k_proj, self.v_proj))
        out = ops.window_attention(rotation(q), rotation(k), v, cu_seqlens, len(x), dim**-0.5)
        return self.o_proj(out.flatten(1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.ffn_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.ffn_size, bias=False)
        self.down_proj = nn.Linear(config.ffn_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = NsaAttention(config) if config.attention == "nsa" else FullAttention(config)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x, cu_seqlens, rotation, judged: SelectionLoss | None = None):
        x = x + self.self_attn(self.input_layernorm(x), cu_seqlens, rotation, judged)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, config: ModelConfig, vocabulary_size: int):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """Token ids to the last layer's normalised rows; logits are their products with the embeddings (tied)."""

    def __init__(self, config: ModelConfig, vocabulary_size: int, seed: int):
        super().__init__()
        self.config = config
        self.model = Body(config, vocabulary_size)
        beginning.initialise(self, torch.Generator().manual_seed(seed))

    @property
    def output_matrix(self) -> torch.Tensor:
        return self.model.embed_tokens.weight

    def forward(self, ids, cu_seqlens, judged: SelectionLoss | None = None):
        """int64 [tokens] -> float32 [tokens, hidden]. `judged` is added to by the layers behind those that look back."""
        config = self.config
        rotation = Rotation(positions(cu_seqlens), config.head_dim, config.rope_theta)
        x = self.model.embed_tokens(ids)
        for i, layer in enumerate(self.model.layers):
            x = layer(x, cu_seqlens, rotation, judged if i >= config.previous_token_layers else None)
        return self.model.norm(x).float()

    def select_blocks(self, count: int) -> None:
        """From now on `count` for each query, forced ones included. A full-attention model has none."""
        for layer in self.model.layers:
            if isinstance(layer.self_attn, NsaAttention):
                layer.self_attn.spec = dataclasses.replace(layer.self_attn.spec, num_selected_blocks=count)

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
