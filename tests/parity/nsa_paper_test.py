"""NSA as published (`nsa_paper`) against PyTorch in float32: equations 5 to 12 of arXiv 2502.11089
written down for whole sequences, nothing cached, nothing shared with ours."""

import dataclasses
import functools

import pytest

from tests.parity import equations
from tests.parity.equations import (  # noqa: F401  (tests of this module too)
    test_cached_decode_and_chunks,
    test_logits,
    torch,
)
from tests.support import tiny_folder

pytestmark = pytest.mark.oracle

HIDDEN, FFN, LAYERS, THETA, EPSILON = 64, 96, 2, 10000.0, 1e-5
GATE_HIDDEN, PHI_HIDDEN = 48, 40
BRANCHES = ("cmp", "slc", "win")


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    q_heads: int
    kv_heads: int
    dim_k: int
    dim_v: int
    length: int = 32
    stride: int = 16
    block: int = 64
    selected: int = 5
    initial: int = 1
    local: int = 2
    window: int = 100
    rope: tuple[bool, bool, bool] = (True, True, True)
    activation: str = "silu"
    biases: bool = True


CASES = [
    Case("paper-192-128", 4, 1, 192, 128, selected=16, window=512),
    Case("group-2-window-rope-alone", 4, 2, 32, 32, rope=(False, False, True)),
    Case("group-1", 3, 3, 64, 64, rope=(False, True, True), activation="gelu_pytorch_tanh"),
    Case("group-16-blocks-32", 16, 1, 32, 48, length=16, stride=8, block=32, biases=False),
    Case("group-7-long-windows", 7, 1, 80, 96, length=128, stride=64, block=128, selected=4),
    Case("group-3-one-size", 3, 1, 256, 64, length=64, stride=64, rope=(True, False, False)),
]


def write_attention(case: Case, weights: equations.RandomWeights, name: str) -> None:
    def linear(part: str, rows: int, columns: int, bias: bool = False) -> None:
        weights.matrix(f"{name}{part}.weight", rows, columns)
        if bias:
            weights.bias(f"{name}{part}.bias", rows)

    linear("q_proj", case.q_heads * case.dim_k, HIDDEN)
    for branch in BRANCHES:
        linear(f"{branch}_k_proj", case.kv_heads * case.dim_k, HIDDEN)
        linear(f"{branch}_v_proj", case.kv_heads * case.dim_v, HIDDEN)
    for part, dim in (("compress_k", case.dim_k), ("compress_v", case.dim_v)):
        weights.matrix(f"{name}{part}.position", case.length, dim, scale=dim**0.5)
        linear(f"{part}.up_proj", PHI_HIDDEN, case.length * dim, case.biases)
        linear(f"{part}.down_proj", dim, PHI_HIDDEN, case.biases)
    linear("gate.up_proj", GATE_HIDDEN, HIDDEN, case.biases)
    linear("gate.down_proj", 3 * case.q_heads, GATE_HIDDEN, case.biases)
    linear("o_proj", HIDDEN, case.q_heads * case.dim_v)


def write(case: Case, folder) -> dict:
    weights = equations.RandomWeights()
    weights.matrix("model.embed_tokens.weight", tiny_folder.VOCABULARY, HIDDEN, scale=HIDDEN**0.5)
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        weights.norm(layer + "input_layernorm.weight", HIDDEN)
        write_attention(case, weights, layer + "self_attn.")
        weights.norm(layer + "post_attention_layernorm.weight", HIDDEN)
        weights.matrix(layer + "mlp.gate_proj.weight", FFN, HIDDEN)
        weights.matrix(layer + "mlp.up_proj.weight", FFN, HIDDEN)
        weights.matrix(layer + "mlp.down_proj.weight", HIDDEN, FFN)
    weights.norm("model.norm.weight", HIDDEN)
    config = dict(
        model_type="nsa_paper",
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=case.q_heads,
        num_key_value_heads=case.kv_heads,
        head_dim=case.dim_k,
        v_head_dim=case.dim_v,
        hidden_act=case.activation,
        rms_norm_eps=EPSILON,
        rope_theta=THETA,
        max_position_embeddings=8192,
        vocab_size=tiny_folder.VOCABULARY,
        tie_word_embeddings=True,
        eos_token_id=2,
        nsa=dict(
            compression_length=case.length,
            compression_stride=case.stride,
            compression_hidden_size=PHI_HIDDEN,
            selection_block_size=case.block,
            num_selected_blocks=case.selected,
            num_initial_blocks=case.initial,
            num_local_blocks=case.local,
            window_size=case.window,
            gate_hidden_size=GATE_HIDDEN,
            rope_cmp=case.rope[0],
            rope_slc=case.rope[1],
            rope_win=case.rope[2],
        ),
    )
    equations.write_folder(folder, config, weights)
    return weights


def activation(case: Case):
    if case.activation == "silu":
        return torch.nn.functional.silu
    return functools.partial(torch.nn.functional.gelu, approximate="tanh")


class Attention:
    """One layer's attention over a whole sequence."""

    def __init__(self, case: Case, weights: dict, name: str):
        self.case, self.weights, self.name = case, weights, name
        self.act = activation(case)
        self.scale = case.dim_k**-0.5
        self.frequencies = equations.frequencies(THETA, case.dim_k)

    def linear(self, part: str, x):
        y = x @ self.weights[f"{self.name}{part}.weight"].T
        bias = self.weights.get(f"{self.name}{part}.bias")
        return y if bias is None else y + bias

    def compress(self, part: str, x):
        """Eq. 7: φ of each whole window; x [t, kv heads, dim] -> [w, kv heads, dim]."""
        case = self.case
        count = max(0, (x.shape[0] - case.length) // case.stride + 1)
        rows = torch.arange(count)[:, None] * case.stride + torch.arange(case.length)[None]
        window = x[rows].transpose(1, 2) + self.weights[f"{self.name}{part}.position"]
        hidden = self.act(self.linear(part + ".up_proj", window.flatten(2)))
        return self.linear(part + ".down_proj", hidden)

    def block_scores(self, p, blocks: int):
        """Eq. 9: each window's probability counts in a block as often as it covers a stride of it."""
        case = self.case
        scores = torch.zeros(*p.shape[:-1], blocks)
        for step in range(case.length // case.stride):
            stride = torch.arange(p.shape[-1]) + step
            block = stride * case.stride // case.block
            scores.index_add_(-1, block, p)
        return scores

    def chosen(self, p, tokens: int):
        """Eq. 10 to 12. -> bool [t, kv heads, blocks]."""
        case = self.case
        t, blocks = torch.arange(tokens)[:, None, None], -(-tokens // case.block)
        scores = self.block_scores(p.sum(2), blocks)
        block, own = torch.arange(blocks), t // case.block
        forced = (block < case.initial) | (block > own - case.local)
        scores = torch.where(forced, torch.inf, scores).masked_fill(block > own, -torch.inf)
        return equations.best_blocks(scores, case.selected) & (block <= own)

    def __call__(self, x):
        case, tokens = self.case, x.shape[0]
        t = torch.arange(tokens)
        causal = (t[None] <= t[:, None])[:, None]

        def heads(part: str, dim: int, rotated: bool = False):
            y = self.linear(part, x).view(tokens, -1, dim)
            return equations.rotate(y, self.frequencies) if rotated else y

        rope_cmp, rope_slc, rope_win = case.rope
        q = {rotated: heads("q_proj", case.dim_k, rotated) for rotated in (False, True)}
        # Compression sees keys as they are; a row is turned to its window's first position.
        k_cmp = self.compress("compress_k", heads("cmp_k_proj", case.dim_k))
        v_cmp = self.compress("compress_v", heads("cmp_v_proj", case.dim_v))
        first = torch.arange(k_cmp.shape[0]) * case.stride
        if rope_cmp:
            k_cmp = equations.rotate(k_cmp, self.frequencies, first)
        seen = (first + case.length - 1 <= t[:, None])[:, None]
        scores = equations.group_scores(q[rope_cmp], k_cmp, self.scale)
        p = torch.nan_to_num(scores.masked_fill(~seen[:, :, None], -torch.inf).softmax(-1))
        chosen = self.chosen(p, tokens).repeat_interleave(case.block, -1)[..., :tokens]
        near = causal & (t[:, None] - t[None] < case.window)[:, None]
        branches = [equations.attend(q[rope_cmp], k_cmp, v_cmp, seen, self.scale)]
        for branch, rotated, mask in (("slc", rope_slc, causal & chosen), ("win", rope_win, near)):
            k = heads(f"{branch}_k_proj", case.dim_k, rotated)
            v = heads(f"{branch}_v_proj", case.dim_v)
            branches.append(equations.attend(q[rotated], k, v, mask, self.scale))
        gates = self.linear("gate.down_proj", self.act(self.linear("gate.up_proj", x)))
        gates = gates.view(tokens, case.q_heads, 3).sigmoid()
        out = sum(gates[..., i : i + 1] * branch for i, branch in enumerate(branches))
        return self.linear("o_proj", out.reshape(tokens, -1))


def reference(case: Case, weights: dict, tokens: list[int]):
    norm = torch.nn.functional.rms_norm
    x = weights["model.embed_tokens.weight"][torch.tensor(tokens)]
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        h = norm(x, (HIDDEN,), weights[layer + "input_layernorm.weight"], EPSILON)
        x = x + Attention(case, weights, layer + "self_attn.")(h)
        h = norm(x, (HIDDEN,), weights[layer + "post_attention_layernorm.weight"], EPSILON)
        x = x + equations.swiglu(h, weights, layer + "mlp.", activation(case))
    x = norm(x, (HIDDEN,), weights["model.norm.weight"], EPSILON)
    return (x @ weights["model.embed_tokens.weight"].T).numpy()


checkpoint = equations.checkpoint_fixture(CASES, write, reference)
