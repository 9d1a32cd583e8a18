"""Checkpoints trained with Native Sparse Attention: our logits beside fla's naive code, in float32.

fla's own entry asks for groups of 16 heads, flash-attn for the window and Triton for its means: the test
calls its naive parts and does these three in PyTorch. llama-nsa's authors publish Triton code alone; what
differs from fla there (the query's own block alone is forced) is written out here.
"""

import dataclasses

import pytest

from tests.parity import equations
from tests.parity.equations import (  # noqa: F401  (tests of this module too)
    test_cached_decode_and_chunks,
    test_logits,
    torch,
)
from tests.support import tiny_folder

pytestmark = pytest.mark.oracle

HIDDEN, FFN, LAYERS, THETA, EPSILON = 96, 128, 2, 10000.0, 1e-5


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    family: str  # "nsa" or "llama-nsa"
    q_heads: int
    kv_heads: int
    head_dim: int
    block_size: int
    block_counts: int
    window_size: int


CASES = [
    Case("fla", "nsa", 4, 2, 64, 64, 4, 128),
    Case("fla-group-16", "nsa", 16, 1, 64, 64, 8, 512),
    Case("fla-group-1", "nsa", 3, 3, 32, 32, 4, 100),
    Case("fla-group-7", "nsa", 7, 1, 80, 16, 16, 33),
    Case("llama-nsa", "llama-nsa", 8, 2, 64, 16, 16, 128),
    Case("llama-nsa-group-16", "llama-nsa", 32, 2, 32, 16, 4, 17),
]


def names(family: str) -> dict[str, str]:
    if family == "nsa":
        return dict(
            embedding="model.embeddings",
            attention_norm="attn_norm",
            attention="attn",
            ffn_norm="mlp_norm",
        )
    return dict(
        embedding="model.embed_tokens",
        attention_norm="input_layernorm",
        attention="self_attn",
        ffn_norm="post_attention_layernorm",
    )


def write(case: Case, folder) -> dict:
    """Random weights in the family's names; returns them."""
    name = names(case.family)
    weights = equations.RandomWeights()

    def matrix(key: str, rows: int, columns: int, scale: float = 1.2) -> None:
        weights.matrix(key + ".weight", rows, columns, scale)

    def norm(key: str) -> None:
        weights.norm(key + ".weight", HIDDEN)

    matrix(name["embedding"], tiny_folder.VOCABULARY, HIDDEN, scale=HIDDEN**0.5)
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        attention = layer + name["attention"]
        norm(layer + name["attention_norm"])
        matrix(attention + ".q_proj", case.q_heads * case.head_dim, HIDDEN)
        matrix(attention + ".k_proj", case.kv_heads * case.head_dim, HIDDEN)
        matrix(attention + ".v_proj", case.kv_heads * case.head_dim, HIDDEN)
        matrix(attention + ".g_proj", case.q_heads * 3, HIDDEN)
        matrix(attention + ".o_proj", HIDDEN, case.q_heads * case.head_dim)
        norm(layer + name["ffn_norm"])
        matrix(layer + "mlp.gate_proj", FFN, HIDDEN)
        matrix(layer + "mlp.up_proj", FFN, HIDDEN)
        matrix(layer + "mlp.down_proj", HIDDEN, FFN)
    norm("model.norm")
    tied = case.family == "llama-nsa"
    if not tied:
        matrix("lm_head", tiny_folder.VOCABULARY, HIDDEN)
    common = dict(
        model_type=case.family,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        block_size=case.block_size,
        block_counts=case.block_counts,
        window_size=case.window_size,
        rope_theta=THETA,
        max_position_embeddings=8192,
        vocab_size=tiny_folder.VOCABULARY,
        tie_word_embeddings=tied,
        eos_token_id=2,
    )
    if case.family == "nsa":
        # As fla writes it: head_dim is what its model ignores, intermediate_size is null.
        common |= dict(
            num_heads=case.q_heads,
            num_kv_heads=case.kv_heads,
            head_dim=17,
            norm_eps=EPSILON,
            hidden_act="swish",
            intermediate_size=None,
        )
    else:
        common |= dict(
            num_attention_heads=case.q_heads,
            num_key_value_heads=case.kv_heads,
            head_dim=case.head_dim,
            intermediate_size=FFN,
            rms_norm_eps=EPSILON,
            hidden_act="silu",
        )
    equations.write_folder(folder, common, weights)
    return weights


def topk_own_forced(q, k_cmp, case: Case):
    """llama-nsa: probabilities over complete blocks, summed over the group; the own block first."""
    tokens, group = q.shape[1], case.q_heads // case.kv_heads
    keys = k_cmp[0].repeat_interleave(group, 1)
    scores = torch.einsum("thd,chd->thc", q[0], keys) * case.head_dim**-0.5
    t, c = torch.arange(tokens)[:, None], torch.arange(keys.shape[0])[None]
    visible = (c + 1) * case.block_size - 1 <= t
    scores = scores.masked_fill(~visible[:, None], float("-inf"))
    p = torch.nan_to_num(scores.softmax(-1))
    p = p.view(tokens, case.kv_heads, group, -1).sum(2)
    own = c == t // case.block_size
    allowed = (c < t // case.block_size) | own
    p = torch.where(own[:, None], torch.inf, torch.where(allowed[:, None], p, -torch.inf))
    top = p.topk(min(case.block_counts, keys.shape[0]), -1)
    return torch.where(top.values == -torch.inf, -1, top.indices)[None]


def attention(q, k, v, gates, case: Case):
    from fla.ops.nsa import naive

    scale = case.head_dim**-0.5
    blocks = -(-k.shape[1] // case.block_size)

    def means(x):
        padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, blocks * case.block_size - x.shape[1]))
        return padded.view(1, blocks, case.block_size, *x.shape[2:]).mean(2)

    k_cmp, v_cmp = means(k), means(v)
    compressed, _ = naive.naive_nsa_compression(q, k_cmp, v_cmp, case.block_size, scale)
    if case.family == "nsa":
        chosen = naive.naive_nsa_topk(q, k_cmp, case.block_counts, case.block_size, scale)
    else:
        chosen = topk_own_forced(q, k_cmp, case)
    selected = naive.naive_nsa_selection(q, k, v, chosen, case.block_size, scale)
    t = torch.arange(q.shape[1])
    near = (t[None] <= t[:, None]) & (t[None] > t[:, None] - case.window_size)
    window = equations.attend(q[0], k[0], v[0], near[:, None], scale)[None]
    g = gates.sigmoid()[None]
    return compressed * g[..., :1] + selected * g[..., 1:2] + window * g[..., 2:]


def reference(case: Case, weights: dict, tokens: list[int]) :
    name = names(case.family)
    norm = torch.nn.functional.rms_norm
    x = weights[name["embedding"] + ".weight"][torch.tensor(tokens)]
    for i in range(LAYERS):
        layer = f"model.layers.{i}."

        def w(key: str, layer: str = layer):
            return weights[f"{layer}{key}.weight"]

        h = norm(x, (HIDDEN,), w(name["attention_norm"]), EPSILON)
        a = name["attention"]
        q = (h @ w(a + ".q_proj").T).view(len(tokens), case.q_heads, case.head_dim)
        k = (h @ w(a + ".k_proj").T).view(len(tokens), case.kv_heads, case.head_dim)
        v = (h @ w(a + ".v_proj").T).view(len(tokens), case.kv_heads, case.head_dim)
        gates = (h @ w(a + ".g_proj").T).view(len(tokens), case.q_heads, 3)
        q, k = (equations.rotate(x, equations.frequencies(THETA, case.head_dim)) for x in (q, k))
        out = attention(q[None], k[None], v[None], gates, case)[0]
        x = x + out.reshape(len(tokens), -1) @ w(a + ".o_proj").T
        h = norm(x, (HIDDEN,), w(name["ffn_norm"]), EPSILON)
        x = x + equations.swiglu(h, weights, layer + "mlp.")
    x = norm(x, (HIDDEN,), weights["model.norm.weight"], EPSILON)
    head = weights.get("lm_head.weight", weights[name["embedding"] + ".weight"])
    return (x @ head.T).numpy()


checkpoint = equations.checkpoint_fixture(CASES, write, reference)
