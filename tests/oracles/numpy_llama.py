"""A llama forward pass in float32 numpy, written from the architecture's definition alone.

Reads a GGUF file through the PyPI package `gguf`, dequantises its weights to float32 and runs causal
full attention over one sequence. An oracle: slow and plain, with nothing of ours in it.
"""

import dataclasses
import pathlib

import gguf
import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    rope_base: float
    norm_epsilon: float


class NumpyLlama:
    """The weights of one file as float32 arrays [rows (outputs), columns (inputs)]."""

    def __init__(self, path: pathlib.Path):
        reader = gguf.GGUFReader(path)

        def field(name: str, default=None):
            entry = reader.fields.get(f"llama.{name}")
            if entry is None and default is None:
                raise KeyError(f"{path} has no llama.{name}")
            return default if entry is None else entry.contents()

        num_q_heads = field("attention.head_count")
        self.shape = Shape(
            num_layers=field("block_count"),
            num_q_heads=num_q_heads,
            num_kv_heads=field("attention.head_count_kv", num_q_heads),
            head_dim=field("rope.dimension_count", field("embedding_length") // num_q_heads),
            rope_base=field("rope.freq_base", 10000.0),
            norm_epsilon=field("attention.layer_norm_rms_epsilon"),
        )
        self.weights = {
            t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors
        }
        # A file without an output matrix ties it to the embedding.
        self.output = self.weights.get("output.weight", self.weights["token_embd.weight"])

    def hidden_states(self, tokens: list[int]) -> np.ndarray:
        """float32 [tokens, hidden]: what the output matrix is applied to."""
        num_tokens = len(tokens)
        rotation = self._rotation(num_tokens)
        future = np.triu(np.full((num_tokens, num_tokens), -np.inf, np.float32), 1)
        x = self.weights["token_embd.weight"][np.asarray(tokens)]
        for layer in range(self.shape.num_layers):
            weight = lambda name: self.weights[f"blk.{layer}.{name}.weight"]
            x = x + self._attention(self._norm(x, weight("attn_norm")), weight, rotation, future)
            h = self._norm(x, weight("ffn_norm"))
            gate = h @ weight("ffn_gate").T
            gate *= 1 / (1 + np.exp(-gate))
            x = x + (gate * (h @ weight("ffn_up").T)) @ weight("ffn_down").T
        return self._norm(x, self.weights["output_norm.weight"])

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """float32 [rows, vocabulary] of rows of hidden_states; a few rows at a time spare memory."""
        return hidden @ self.output.T

    def _attention(self, h, weight, rotation, future) -> np.ndarray:
        shape, num_tokens = self.shape, len(h)
        q = (h @ weight("attn_q").T).reshape(num_tokens, shape.num_q_heads, shape.head_dim)
        k = (h @ weight("attn_k").T).reshape(num_tokens, shape.num_kv_heads, shape.head_dim)
        v = (h @ weight("attn_v").T).reshape(num_tokens, shape.num_kv_heads, shape.head_dim)
        q, k = rotate(q, rotation), rotate(k, rotation)
        heads_per_group = shape.num_q_heads // shape.num_kv_heads
        out = np.empty_like(q)
        for head in range(shape.num_q_heads):
            group = head // heads_per_group
            scores = q[:, head] @ k[:, group].T / np.float32(np.sqrt(shape.head_dim)) + future
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = scores @ v[:, group] / scores.sum(axis=1, keepdims=True)
        return out.reshape(num_tokens, -1) @ weight("attn_output").T

    def _norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean_square + np.float32(self.shape.norm_epsilon)) * weight

    def _rotation(self, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and sine, float32 [tokens, 1, head_dim / 2]; angles in double precision."""
        pairs = np.arange(0, self.shape.head_dim, 2) / self.shape.head_dim
        angles = np.arange(num_tokens)[:, None] * self.shape.rope_base**-pairs
        return (
            np.cos(angles).astype(np.float32)[:, None],
            np.sin(angles).astype(np.float32)[:, None],
        )


def rotate(x: np.ndarray, rotation: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """RoPE over neighbours (0, 1), (2, 3), …: GGUF's llama files have Q and K rows in that order."""
    cosine, sine = rotation
    even, odd = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = even * cosine - odd * sine
    out[..., 1::2] = even * sine + odd * cosine
    return out
