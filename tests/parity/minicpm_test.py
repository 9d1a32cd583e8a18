"""MiniCPM4 against PyTorch in float32: InfLLM-v2 written down after its authors' kernels
(infllmv2_cuda_impl: stage 1, max_pooling_1d, top-k), without their float16.

A query that sees fewer than `dense_len` tokens reads them all, as their code decodes."""

import dataclasses
import math

import pytest

from tests.parity import equations
from tests.parity.equations import (  # noqa: F401  (tests of this module too)
    test_cached_decode_and_chunks,
    test_logits,
    torch,
)
from tests.support import nsa_eval, tiny_folder

pytestmark = pytest.mark.oracle

HIDDEN, FFN, LAYERS, THETA, EPSILON = 96, 128, 2, 10000.0, 1e-5
SCALE_EMB, SCALE_DEPTH, MODEL_BASE = 12.0, 1.4, 24
CONTEXT, ORIGINAL_CONTEXT = 8192, 2048


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    q_heads: int
    kv_heads: int
    head_dim: int
    kernel: int = 32
    stride: int = 16
    block: int = 64
    init: int = 1
    window: int = 128
    topk: int = 4
    dense: int = 256
    sparse: bool = True
    long_rope: bool = False
    tied: bool = False


CASES = [
    Case("published-sizes", 16, 1, 128, window=2048, topk=12, dense=3000, long_rope=True),
    Case("small", 4, 2, 64, tied=True),
    Case("group-1", 3, 3, 32, topk=2, dense=0),
    Case("blocks-of-32", 7, 1, 80, kernel=16, stride=8, block=32, init=2, window=64, dense=100),
    Case("dense", 4, 2, 64, sparse=False, long_rope=True),
]


def long_factors(case: Case) -> list[float]:
    half = case.head_dim // 2
    return [1 + 3 * i / half for i in range(half)]


def write(case: Case, folder) -> dict:
    weights = equations.RandomWeights()
    weights.matrix("model.embed_tokens.weight", tiny_folder.VOCABULARY, HIDDEN, scale=1)
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        weights.norm(layer + "input_layernorm.weight", HIDDEN)
        for name, heads in (("q", case.q_heads), ("k", case.kv_heads), ("v", case.kv_heads)):
            weights.matrix(f"{layer}self_attn.{name}_proj.weight", heads * case.head_dim, HIDDEN)
        weights.matrix(layer + "self_attn.o_proj.weight", HIDDEN, case.q_heads * case.head_dim)
        weights.norm(layer + "post_attention_layernorm.weight", HIDDEN)
        weights.matrix(layer + "mlp.gate_proj.weight", FFN, HIDDEN)
        weights.matrix(layer + "mlp.up_proj.weight", FFN, HIDDEN)
        weights.matrix(layer + "mlp.down_proj.weight", HIDDEN, FFN)
    weights.norm("model.norm.weight", HIDDEN)
    if not case.tied:
        weights.matrix("lm_head.weight", tiny_folder.VOCABULARY, HIDDEN, scale=4)
    config = dict(
        model_type="minicpm",
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=case.q_heads,
        num_key_value_heads=case.kv_heads,
        head_dim=case.head_dim,
        rms_norm_eps=EPSILON,
        rope_theta=THETA,
        max_position_embeddings=CONTEXT,
        vocab_size=tiny_folder.VOCABULARY,
        hidden_act="silu",
        tie_word_embeddings=case.tied,
        scale_emb=SCALE_EMB,
        scale_depth=SCALE_DEPTH,
        dim_model_base=MODEL_BASE,
        eos_token_id=[2, 3],
    )
    if case.sparse:
        config["sparse_config"] = dict(
            kernel_size=case.kernel,
            kernel_stride=case.stride,
            init_blocks=case.init,
            block_size=case.block,
            window_size=case.window,
            topk=case.topk,
            use_nope=False,
            dense_len=case.dense,
        )
    if case.long_rope:
        config["rope_scaling"] = dict(
            rope_type="longrope",
            short_factor=[1.0] * (case.head_dim // 2),
            long_factor=long_factors(case),
            original_max_position_embeddings=ORIGINAL_CONTEXT,
        )
    equations.write_folder(folder, config, weights)
    return weights


def rope(case: Case):
    """Frequencies and the factor of cosines and sines."""
    inverse = equations.frequencies(THETA, case.head_dim)
    if not case.long_rope:
        return inverse, 1.0
    scale = CONTEXT / ORIGINAL_CONTEXT
    factor = (1 + math.log(scale) / math.log(ORIGINAL_CONTEXT)) ** 0.5
    return inverse / torch.tensor(long_factors(case), dtype=torch.float64), factor


def windows(k, length: int, stride: int):
    """Means of k's windows [w, kv heads, dim], and the last token of each."""
    count = max(0, (k.shape[0] - length) // stride + 1)
    first = torch.arange(count) * stride
    rows = first[:, None] + torch.arange(length)[None]
    return k[rows].mean(1), first + length - 1


def chosen_blocks(q, k, case: Case):
    """-> bool [t, kv heads, blocks]."""
    t = torch.arange(q.shape[0])
    scale = case.head_dim**-0.5
    fine, fine_last = windows(k, case.kernel, case.stride)
    coarse, coarse_last = windows(k, 4 * case.kernel, 4 * case.stride)
    scores = equations.group_scores(q, fine, scale)
    fine_seen, coarse_seen = fine_last[None] <= t[:, None], coarse_last[None] <= t[:, None]
    # Stage 1, first pass: the sum of exponentials from keys that are compressed once more.
    coarse_scores = equations.group_scores(q, coarse, scale)
    lse = coarse_scores.masked_fill(~coarse_seen[:, None, None], -torch.inf).logsumexp(-1)
    exact = scores.masked_fill(~fine_seen[:, None, None], -torch.inf).logsumexp(-1)
    lse = torch.where(lse == -torch.inf, exact, lse)
    # Second pass: probabilities so normalised, summed over the group.
    p = (scores - lse[..., None]).exp().masked_fill(~fine_seen[:, None, None], 0).sum(2)
    # max_pooling_1d: kernel block/stride + 1, stride block/stride, one column of padding.
    step = case.block // case.stride
    blocks = -(-q.shape[0] // case.block)
    padded = torch.nn.functional.pad(p, (1, step * blocks + 1), value=-torch.inf)
    pooled = padded.unfold(-1, step + 1, step)[:, :, :blocks].amax(-1)
    own, block = (t // case.block)[:, None, None], torch.arange(blocks)
    # The window's blocks: up to window/block before the query's own, and that.
    forced = (block < case.init) | ((block <= own) & (own <= block + case.window // case.block))
    pooled = torch.where(forced, torch.inf, pooled).masked_fill(block > own, -torch.inf)
    return equations.best_blocks(pooled, case.topk + case.window // case.block) & (block <= own)


def attention(q, k, v, case: Case, factor: float):
    t = torch.arange(q.shape[0])
    causal = (t[None] <= t[:, None])[:, None]
    scale = case.head_dim**-0.5
    q, k = q * factor, k * factor
    if not case.sparse:
        return equations.attend(q, k, v, causal, scale)
    chosen = chosen_blocks(q, k, case).repeat_interleave(case.block, -1)[..., : q.shape[0]]
    dense = (t + 1 < case.dense)[:, None, None]
    return equations.attend(q, k, v, causal & (chosen | dense), scale)


def reference(case: Case, weights: dict, tokens: list[int]):
    inverse, factor = rope(case)
    norm = torch.nn.functional.rms_norm
    x = weights["model.embed_tokens.weight"][torch.tensor(tokens)] * SCALE_EMB
    residual = SCALE_DEPTH / LAYERS**0.5
    for i in range(LAYERS):
        layer = f"model.layers.{i}."

        def heads(name: str, h, layer: str = layer):
            y = h @ weights[f"{layer}self_attn.{name}_proj.weight"].T
            return y.view(len(tokens), -1, case.head_dim)

        h = norm(x, (HIDDEN,), weights[layer + "input_layernorm.weight"], EPSILON)
        q, k = (equations.rotate(heads(name, h), inverse) for name in "qk")
        out = attention(q, k, heads("v", h), case, factor).reshape(len(tokens), -1)
        x = x + residual * (out @ weights[layer + "self_attn.o_proj.weight"].T)
        h = norm(x, (HIDDEN,), weights[layer + "post_attention_layernorm.weight"], EPSILON)
        x = x + residual * equations.swiglu(h, weights, layer + "mlp.")
    x = norm(x, (HIDDEN,), weights["model.norm.weight"], EPSILON) / (HIDDEN / MODEL_BASE)
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return (x @ head.T).numpy()


# Long rope has one set of factors for a server's life: the long ones where it is to serve contexts
# beyond the original.
checkpoint = equations.checkpoint_fixture(
    CASES,
    write,
    reference,
    attention=lambda case: nsa_eval.Attention(
        "auto" if case.sparse else "full", kv_cache_dtype="f32"
    ),
    max_context=lambda case: CONTEXT,
)
